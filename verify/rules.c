#include "verify/rules.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"

extern const char bd_rules_default_text[]; /* generated from rules/default.json */

typedef struct keys {
    const char *where;
    const char *const *names;
    int n;
} keys;

static bd_status check_keys(const json_t *o, const keys *k, bd_err *err) {
    if (!json_is_object(o)) return BD_FAIL(err, BD_E_FIELD, "%s must be an object", k->where);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        int i = 0;
        while (i < k->n && strcmp(k->names[i], key) != 0) i++;
        if (i < k->n) continue;
        const char *near = bd_nearest(key, k->names, k->n);
        return BD_FAIL(err, BD_E_UNKNOWN, "unknown key \"%.80s\" in %s%s%s%s", key, k->where,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return BD_OK;
}

/* null and absence leave 0. */
static bd_status get_number(const json_t *o, const char *key, const char *name, double max, double *out,
                            bd_err *err) {
    const json_t *v = json_object_get(o, key);
    *out = 0;
    if (!v || json_is_null(v)) return BD_OK;
    if (!json_is_number(v) || !(json_number_value(v) >= 0 && json_number_value(v) <= max))
        return BD_FAIL(err, BD_E_FIELD, "%s must be null or a number from 0 to %g", name, max);
    *out = json_number_value(v);
    return BD_OK;
}

static bd_status get_count(const json_t *o, const char *key, const char *name, uint64_t max, uint64_t *out,
                           bd_err *err) {
    const json_t *v = json_object_get(o, key);
    *out = 0;
    if (!v || json_is_null(v)) return BD_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 1 || (uint64_t)json_integer_value(v) > max)
        return BD_FAIL(err, BD_E_FIELD, "%s must be null or an integer from 1 to %" PRIu64, name, max);
    *out = (uint64_t)json_integer_value(v);
    return BD_OK;
}

/* Names are printed: no control characters. */
static bd_status get_name(bd_rules *r, const json_t *root, bd_err *err) {
    const json_t *v = json_object_get(root, "name");
    const char *s = json_string_value(v);
    if (!v) return BD_FAIL(err, BD_E_MISSING, "the rules have no name");
    bool ok = s && *s && strlen(s) < sizeof r->name;
    for (const char *c = s; ok && *c; c++) ok = *c >= 0x20 && *c < 0x7f;
    if (!ok)
        return BD_FAIL(err, BD_E_FIELD, "name must be 1 to %zu printable ASCII characters", sizeof r->name - 1);
    snprintf(r->name, sizeof r->name, "%s", s);
    return BD_OK;
}

static bd_status read_required(bd_rules *r, const json_t *list, bd_err *err) {
    static const char *const known[] = {"STRUCTURE", "SIZE", "COVER", "BYTES", "SCORE", "TIME"};
    enum { N_KNOWN = sizeof known / sizeof *known };
    if (!list) return BD_OK;
    if (!json_is_array(list) || json_array_size(list) > BD_RULES_MAX_REQUIRED)
        return BD_FAIL(err, BD_E_FIELD, "required must be a list of at most %d check names", BD_RULES_MAX_REQUIRED);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s) return BD_FAIL(err, BD_E_FIELD, "required[%zu] must be the name of a check", i);
        int k = 0;
        while (k < N_KNOWN && strcmp(known[k], s) != 0) k++;
        if (k == N_KNOWN) {
            const char *near = bd_nearest(s, known, N_KNOWN);
            return BD_FAIL(err, BD_E_UNKNOWN, "unknown check \"%.80s\" in required%s%s%s", s,
                           near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        }
        snprintf(r->required[r->n_required++], sizeof r->required[0], "%s", s);
    }
    return BD_OK;
}

static bd_status read_rules(bd_rules *r, const json_t *root, bd_err *err) {
    static const char *const top[] = {"name", "about", "size", "time", "canonical", "required"};
    static const char *const size[] = {"cap"}, *const time[] = {"eval_s", "hardware"},
                             *const hardware[] = {"processors"},
                             *const canonical[] = {"tokens", "bytes", "tolerance"};
    BD_TRY(check_keys(root, &(keys){"the rules", top, 6}, err));
    BD_TRY(get_name(r, root, err));
    const json_t *s = json_object_get(root, "size"), *t = json_object_get(root, "time"),
                 *c = json_object_get(root, "canonical");
    const uint64_t max = (uint64_t)1 << 50;
    if (!s) return BD_FAIL(err, BD_E_MISSING, "the rules have no size");
    BD_TRY(check_keys(s, &(keys){"size", size, 1}, err));
    BD_TRY(get_count(s, "cap", "size.cap", max, &r->size_cap, err));
    if (!r->size_cap) return BD_FAIL(err, BD_E_MISSING, "size.cap must be a number of bytes");
    if (t) {
        BD_TRY(check_keys(t, &(keys){"time", time, 2}, err));
        BD_TRY(get_number(t, "eval_s", "time.eval_s", 1e9, &r->eval_s, err));
        const json_t *h = json_object_get(t, "hardware");
        if (h && !json_is_null(h)) {
            uint64_t n;
            BD_TRY(check_keys(h, &(keys){"time.hardware", hardware, 1}, err));
            BD_TRY(get_count(h, "processors", "time.hardware.processors", 1 << 20, &n, err));
            r->processors = (int)n;
        }
    }
    if (c) {
        BD_TRY(check_keys(c, &(keys){"canonical", canonical, 3}, err));
        BD_TRY(get_count(c, "tokens", "canonical.tokens", max, &r->canonical_tokens, err));
        BD_TRY(get_count(c, "bytes", "canonical.bytes", max, &r->canonical_bytes, err));
        BD_TRY(get_number(c, "tolerance", "canonical.tolerance", 1, &r->tolerance, err));
    }
    return read_required(r, json_object_get(root, "required"), err);
}

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

bd_status bd_rules_open(bd_rules *r, const char *path, bd_err *err) {
    if (!path) return bd_rules_parse(r, bd_rules_default_text, strlen(bd_rules_default_text), err);
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_rules_parse(r, (const char *)m.data, m.size, err);
    bd_map_close(&m);
    if (st) bd_err_file(err, path);
    return st;
}

bool bd_rules_requires(const bd_rules *r, const char *check) {
    for (int i = 0; i < r->n_required; i++)
        if (!strcmp(r->required[i], check)) return true;
    return false;
}
