#include "verify/rules.h"

#include <inttypes.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/nearest.h"

/* Generated from rules/: the profiles that are part of the program. */
typedef struct bd_rules_builtin {
    const char *name;
    const unsigned char *text;
    size_t size;
} bd_rules_builtin;
extern const bd_rules_builtin bd_rules_builtins[];

static const char *const policy_names[BD_N_POLICIES] = {
#define BD_X(symbol, name, choices) name,
    BD_POLICY_LIST(BD_X)
#undef BD_X
};
static const char *const policy_choices[BD_N_POLICIES] = {
#define BD_X(symbol, name, choices) choices,
    BD_POLICY_LIST(BD_X)
#undef BD_X
};

enum { MAX_CHOICES = 4 };

/* The choices of a policy as separate strings; returns how many. */
static int split_choices(bd_policy p, char out[MAX_CHOICES][32]) {
    int n = 0;
    for (const char *s = policy_choices[p]; *s && n < MAX_CHOICES; n++) {
        size_t k = strcspn(s, " ");
        snprintf(out[n], 32, "%.*s", (int)k, s);
        s += k + (s[k] == ' ');
    }
    return n;
}

const char *bd_policy_name(bd_policy p) { return policy_names[p]; }

const char *bd_policy_choice(const bd_rules *r, bd_policy p, char out[32]) {
    char all[MAX_CHOICES][32];
    int n = split_choices(p, all);
    BD_ASSERT(r->policy[p] < n);
    memcpy(out, all[r->policy[p]], 32);
    return out;
}

bool bd_policy_is(const bd_rules *r, bd_policy p, const char *choice) {
    char all[MAX_CHOICES][32];
    int n = split_choices(p, all), i = 0;
    while (i < n && strcmp(all[i], choice) != 0) i++;
    BD_ASSERT(i < n);
    return r->policy[p] == i;
}

/* --- values ------------------------------------------------------------------ */

/* "unknown WHAT "word" in where; did you mean "x"?" */
static bd_status unknown(const char *what, const char *word, const char *where, const char *const *names, int n,
                         bd_err *err) {
    const char *near = bd_nearest(word, names, n);
    return BD_FAIL(err, BD_E_UNKNOWN, "unknown %s \"%.80s\" in %s%s%s%s", what, word, where,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static bd_status check_keys(const json_t *o, const char *where, const char *const *names, int n, bd_err *err) {
    if (!json_is_object(o)) return BD_FAIL(err, BD_E_FIELD, "%s must be an object", where);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        int i = 0;
        while (i < n && strcmp(names[i], key) != 0) i++;
        if (i == n) return unknown("key", key, where, names, n, err);
    }
    return BD_OK;
}

/* Strings are printed: no control characters. min 0 allows "". */
static bd_status get_text(const json_t *v, const char *name, size_t min, char *out, size_t size, bd_err *err) {
    const char *s = json_string_value(v);
    bool ok = s && strlen(s) >= min && strlen(s) < size;
    for (const char *c = s; ok && *c; c++) ok = *c >= 0x20 && *c < 0x7f;
    if (!ok)
        return BD_FAIL(err, BD_E_FIELD, "%s must be %zu to %zu printable ASCII characters", name, min, size - 1);
    snprintf(out, size, "%s", s);
    return BD_OK;
}

/* One key of a section: null and absence leave 0. Counts are integers from 1, numbers are from 0. */
typedef struct field {
    const char *section, *key;
    enum { COUNT, INT, NUMBER, TEXT } kind;
    double max;   /* of a COUNT, an INT or a NUMBER */
    size_t at;    /* in bd_rules: uint64_t, int, double or char[] */
    size_t width; /* of a TEXT */
} field;

#define AT(member) offsetof(bd_rules, member)
static const double BYTES_MAX = 0x1p50;
static const field fields[] = {
    {"size", "cap", COUNT, 0x1p50, AT(size_cap), 0},
    {"time", "eval_s", NUMBER, 1e9, AT(eval_s), 0},
    {"time", "train_s", NUMBER, 1e9, AT(train_s), 0},
    {"time", "tolerance_steps", NUMBER, 1e6, AT(tolerance_steps), 0},
    {"time", "tolerance_s", NUMBER, 1e9, AT(tolerance_s), 0},
    {"time.hardware", "processors", INT, 1 << 20, AT(processors), 0},
    {"time.hardware", "devices", INT, 1 << 20, AT(devices), 0},
    {"time.hardware", "device", TEXT, 0, AT(device), 32},
    {"canonical", "tokens", COUNT, 0x1p50, AT(canonical_tokens), 0},
    {"canonical", "bytes", COUNT, 0x1p50, AT(canonical_bytes), 0},
    {"canonical", "tolerance", NUMBER, 1, AT(tolerance), 0},
    {"canonical", "tail", NUMBER, 1, AT(tail), 0},
    {"canonical", "documents", COUNT, 0x1p50, AT(documents), 0},
    {"canonical", "train_shards_bad", COUNT, 0x1p50, AT(train_shards_bad), 0},
    {"significance", "nats_per_token", NUMBER, 100, AT(bar_nats), 0},
    {"significance", "p", NUMBER, 1, AT(bar_p), 0},
    {"significance", "seeds", INT, 1000, AT(seeds), 0},
    {"significance", "decimals", INT, 15, AT(decimals), 0},
    {"probes", "norm_positions", COUNT, 0x1p50, AT(norm_positions), 0},
    {"probes", "norm_tolerance", NUMBER, 1, AT(norm_tolerance), 0},
    {"probes", "data_match_tokens", COUNT, 0x1p50, AT(data_match_tokens), 0},
    {"probes", "document_overlap", NUMBER, 1, AT(document_overlap), 0},
    {"probes", "random_alpha", NUMBER, 1, AT(random_alpha), 0},
    {"folder", "script", TEXT, 0, AT(script), 48},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

static bd_status get_field(bd_rules *r, const field *f, const json_t *o, bd_err *err) {
    const json_t *v = json_object_get(o, f->key);
    char name[80];
    void *at = (char *)r + f->at;
    snprintf(name, sizeof name, "%s.%s", f->section, f->key);
    if (!v || json_is_null(v)) return BD_OK;
    if (f->kind == TEXT) return get_text(v, name, 1, at, f->width, err);
    if (f->kind == NUMBER) {
        if (!json_is_number(v) || !(json_number_value(v) >= 0 && json_number_value(v) <= f->max))
            return BD_FAIL(err, BD_E_FIELD, "%s must be null or a number from 0 to %g", name, f->max);
        double x = json_number_value(v);
        memcpy(at, &x, sizeof x);
        return BD_OK;
    }
    if (!json_is_integer(v) || json_integer_value(v) < 1 || (double)json_integer_value(v) > f->max)
        return BD_FAIL(err, BD_E_FIELD, "%s must be null or an integer from 1 to %.0f", name, f->max);
    uint64_t u = (uint64_t)json_integer_value(v);
    int i = (int)u;
    if (f->kind == INT) memcpy(at, &i, sizeof i);
    else memcpy(at, &u, sizeof u);
    return BD_OK;
}

/* A section that has fields of the table; `extra` are keys that others read. */
static bd_status get_section(bd_rules *r, const char *section, const json_t *o, const char *const *extra,
                             int n_extra, bd_err *err) {
    if (!o || (json_is_null(o) && strchr(section, '.'))) return BD_OK;
    const char *names[N_FIELDS + 8];
    int n = 0;
    for (int i = 0; i < N_FIELDS; i++)
        if (!strcmp(fields[i].section, section)) names[n++] = fields[i].key;
    for (int i = 0; i < n_extra; i++) names[n++] = extra[i];
    BD_TRY(check_keys(o, section, names, n, err));
    for (int i = 0; i < N_FIELDS; i++)
        if (!strcmp(fields[i].section, section)) BD_TRY(get_field(r, &fields[i], o, err));
    return BD_OK;
}

/* A list of short strings; known NULL: any. */
static bd_status get_names(const json_t *list, const char *name, const char *const *known, int n_known, char *out,
                           size_t width, int max, int *n, bd_err *err) {
    if (!list) return BD_OK;
    if (!json_is_array(list) || json_array_size(list) > (size_t)max)
        return BD_FAIL(err, BD_E_FIELD, "%s must be a list of at most %d names", name, max);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char item[96];
        const char *s = json_string_value(json_array_get(list, i));
        snprintf(item, sizeof item, "%s[%zu]", name, i);
        if (known && s) {
            int k = 0;
            while (k < n_known && strcmp(known[k], s) != 0) k++;
            if (k == n_known) return unknown("check", s, name, known, n_known, err);
        }
        BD_TRY(get_text(json_array_get(list, i), item, 1, out + width * (size_t)*n, width, err));
        ++*n;
    }
    return BD_OK;
}

/* --- sections ---------------------------------------------------------------- */

static bd_status read_counts(bd_rules *r, const json_t *list, bd_err *err) {
    static const char *const keys[] = {"tokenizer", "tokens"};
    if (!list) return BD_OK;
    if (!json_is_array(list) || json_array_size(list) > BD_RULES_MAX_COUNTS)
        return BD_FAIL(err, BD_E_FIELD, "canonical.by_tokenizer must be a list of at most %d counts",
                       BD_RULES_MAX_COUNTS);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        char name[64], item[96];
        snprintf(name, sizeof name, "canonical.by_tokenizer[%zu]", i);
        BD_TRY(check_keys(o, name, keys, 2, err));
        bd_token_count *c = &r->counts[r->n_counts++];
        snprintf(item, sizeof item, "%s.tokenizer", name);
        BD_TRY(get_text(json_object_get(o, "tokenizer"), item, 1, c->tokenizer, sizeof c->tokenizer, err));
        const json_t *v = json_object_get(o, "tokens");
        if (!json_is_integer(v) || json_integer_value(v) < 1 || (double)json_integer_value(v) > BYTES_MAX)
            return BD_FAIL(err, BD_E_FIELD, "%s.tokens must be an integer from 1 to %.0f", name, BYTES_MAX);
        c->tokens = (uint64_t)json_integer_value(v);
    }
    return BD_OK;
}

static bd_status read_policy(bd_rules *r, const json_t *o, bd_err *err) {
    static const char *const keys[] = {"choice", "source"};
    if (!o) return BD_OK;
    BD_TRY(check_keys(o, "policy", policy_names, BD_N_POLICIES, err));
    for (int p = 0; p < BD_N_POLICIES; p++) {
        const json_t *v = json_object_get(o, policy_names[p]);
        if (!v) continue;
        char where[64], all[MAX_CHOICES][32];
        const char *names[MAX_CHOICES];
        int n = split_choices((bd_policy)p, all), i = 0;
        for (int k = 0; k < n; k++) names[k] = all[k];
        snprintf(where, sizeof where, "policy.%s", policy_names[p]);
        BD_TRY(check_keys(v, where, keys, 2, err));
        const char *choice = json_string_value(json_object_get(v, "choice"));
        if (!choice) return BD_FAIL(err, BD_E_FIELD, "%s.choice must be one of: %s", where, policy_choices[p]);
        while (i < n && strcmp(names[i], choice) != 0) i++;
        if (i == n) return unknown("choice", choice, where, names, n, err);
        r->policy[p] = (uint8_t)i;
        if (json_object_get(v, "source"))
            BD_TRY(get_text(json_object_get(v, "source"), where, 0, r->source[p], sizeof r->source[p], err));
    }
    return BD_OK;
}

static bd_status read_rules(bd_rules *r, const json_t *root, bd_err *err) {
    static const char *const top[] = {"name",   "about",  "size",   "time",     "canonical",     "significance",
                                      "probes", "folder", "policy", "required", "audit_required"};
    static const char *const checks[] = {"STRUCTURE", "SIZE",   "CAUSAL", "NORM",  "ORDER", "COVER", "BYTES",
                                         "DATA",      "MEMORY", "RANDOM", "SCORE", "TIME",  "STATS", "POLICY"};
    static const char *const audit_checks[] = {"FILES", "SIZE", "TIME", "HARDWARE", "SCORE", "STATS", "POLICY"};
    static const char *const hardware[] = {"hardware"}, *const counts[] = {"by_tokenizer"},
                             *const folder[] = {"files", "keys"};
    enum { N_CHECKS = sizeof checks / sizeof *checks, N_AUDIT = sizeof audit_checks / sizeof *audit_checks };
    BD_TRY(check_keys(root, "the rules", top, sizeof top / sizeof *top, err));
    if (!json_object_get(root, "name")) return BD_FAIL(err, BD_E_MISSING, "the rules have no name");
    BD_TRY(get_text(json_object_get(root, "name"), "name", 1, r->name, sizeof r->name, err));
    const json_t *size = json_object_get(root, "size"), *time = json_object_get(root, "time"),
                 *canonical = json_object_get(root, "canonical"), *f = json_object_get(root, "folder");
    if (!size) return BD_FAIL(err, BD_E_MISSING, "the rules have no size");
    BD_TRY(get_section(r, "size", size, NULL, 0, err));
    if (!r->size_cap) return BD_FAIL(err, BD_E_MISSING, "size.cap must be a number of bytes");
    BD_TRY(get_section(r, "time", time, hardware, 1, err));
    BD_TRY(get_section(r, "time.hardware", json_object_get(time, "hardware"), NULL, 0, err));
    BD_TRY(get_section(r, "canonical", canonical, counts, 1, err));
    BD_TRY(read_counts(r, json_object_get(canonical, "by_tokenizer"), err));
    BD_TRY(get_section(r, "significance", json_object_get(root, "significance"), NULL, 0, err));
    BD_TRY(get_section(r, "probes", json_object_get(root, "probes"), NULL, 0, err));
    BD_TRY(get_section(r, "folder", f, folder, 2, err));
    BD_TRY(get_names(json_object_get(f, "files"), "folder.files", NULL, 0, r->files[0], sizeof r->files[0],
                     BD_RULES_MAX_NAMES, &r->n_files, err));
    BD_TRY(get_names(json_object_get(f, "keys"), "folder.keys", NULL, 0, r->keys[0], sizeof r->keys[0],
                     BD_RULES_MAX_NAMES, &r->n_keys, err));
    BD_TRY(read_policy(r, json_object_get(root, "policy"), err));
    BD_TRY(get_names(json_object_get(root, "required"), "required", checks, N_CHECKS, r->required[0],
                     sizeof r->required[0], BD_RULES_MAX_REQUIRED, &r->n_required, err));
    return get_names(json_object_get(root, "audit_required"), "audit_required", audit_checks, N_AUDIT,
                     r->audit_required[0], sizeof r->audit_required[0], BD_RULES_MAX_REQUIRED, &r->n_audit_required,
                     err);
}

/* --- all --------------------------------------------------------------------- */

bd_status bd_rules_parse(bd_rules *r, const char *text, uint64_t size, bd_err *err) {
    memset(r, 0, sizeof *r);
    if (size > 1 << 20) return BD_FAIL(err, BD_E_LIMIT, "a rules file is at most 1 MiB");
    json_error_t je;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return BD_FAIL_AT(err, BD_E_SYNTAX, je.position > 0 ? (uint64_t)je.position : 0, "line %d column %d: %s",
                          je.line, je.column, je.text);
    bd_status st = read_rules(r, root, err);
    json_decref(root);
    return st;
}

bd_status bd_rules_open(bd_rules *r, const char *which, bd_err *err) {
    const char *names[16];
    int n = 0;
    for (const bd_rules_builtin *b = bd_rules_builtins; b->name; b++) {
        if (!strcmp(b->name, which ? which : "default"))
            return bd_rules_parse(r, (const char *)b->text, b->size, err);
        if (n < 16) names[n++] = b->name;
    }
    if (which && !strpbrk(which, "/.") && access(which, F_OK) != 0) {
        const char *near = bd_nearest(which, names, n);
        return BD_FAIL(err, BD_E_USAGE, "no rules profile \"%.80s\"%s%s%s", which, near ? "; did you mean \"" : "",
                       near ? near : "", near ? "\"?" : " and no such file");
    }
    bd_map m;
    BD_TRY(bd_map_open(&m, which, err));
    bd_status st = bd_rules_parse(r, (const char *)m.data, m.size, err);
    bd_map_close(&m);
    if (st) bd_err_file(err, which);
    return st;
}

bool bd_rules_requires(const bd_rules *r, const char *check) {
    for (int i = 0; i < r->n_required; i++)
        if (!strcmp(r->required[i], check)) return true;
    return false;
}
