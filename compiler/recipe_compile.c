#include "compiler/recipe_compile.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "compiler/qsetting.h"
#include "compiler/recipe_builtin.h"
#include "format/plan_text.h"

enum { MAX_RULES = 256, MAX_SORT = 64 };

/* --- making one of data --- */

static bd_status no_memory(bd_err *err) { return BD_FAIL(err, BD_E_NOMEM, "out of memory"); }

static bd_status copy_rule(bd_recipe_rule *out, const bd_builtin_rule *b, bd_err *err) {
    *out = (bd_recipe_rule){.pattern = b->pattern ? b->pattern : "*",
                            .role = b->role,
                            .min_elements = b->min_elements > 0 ? b->min_elements : -1,
                            .factor = b->factor > 0 ? b->factor : 1};
    BD_TRY(bd_qsetting_init(&out->setting, b->quantizer, err));
    return b->settings ? bd_qsetting_read(&out->setting, b->settings, err) : BD_OK;
}

static bd_status new_recipe(bd_compile_recipe **out, const bd_builtin_recipe *b, bd_err *err) {
    const bd_compile_recipe *first = &bd_builtin_recipes[0].r;
    bd_arena *a = bd_arena_create(1 << 22);
    bd_compile_recipe *r = a ? bd_arena_alloc(a, 1, sizeof *r) : NULL;
    bd_recipe_rule *rules = r ? bd_arena_alloc(a, MAX_RULES, sizeof *rules) : NULL;
    if (!rules) {
        bd_arena_destroy(a);
        return no_memory(err);
    }
    *r = b->r;
    r->arena = a;
    r->rules = rules;
    r->n_rules = b->n_rules;
    if (!(r->damp > 0)) r->damp = first->damp;
    if (!(r->rho > 0)) r->rho = first->rho;
    if (!(r->holdout > 0)) r->holdout = first->holdout;
    if (!r->calib_tokens) r->calib_tokens = first->calib_tokens;
    bd_status st = BD_OK;
    for (int i = 0; !st && i < b->n_rules; i++) st = copy_rule(&rules[i], &b->rules[i], err);
    if (!st && r->lqer_top > 0) {
        st = bd_qsetting_init(&r->lqer, "lqer", err);
        if (!st && b->lqer) st = bd_qsetting_read(&r->lqer, b->lqer, err);
    }
    if (st) {
        bd_err_prefix(err, "recipe %s: ", b->r.name);
        bd_arena_destroy(a);
        return st;
    }
    *out = r;
    return BD_OK;
}

/* --- values --- */

static bd_status read_number(const json_t *v, const char *key, double lo, double hi, double *out, bd_err *err) {
    if (!json_is_number(v) || !(json_number_value(v) >= lo && json_number_value(v) <= hi))
        return BD_FAIL(err, BD_E_RANGE, "%s must be a number from %g to %g", key, lo, hi);
    *out = json_number_value(v);
    return BD_OK;
}

static bd_status read_bool(const json_t *v, const char *key, bool *out, bd_err *err) {
    if (!json_is_boolean(v)) return BD_FAIL(err, BD_E_FIELD, "%s must be true or false", key);
    *out = json_is_true(v);
    return BD_OK;
}

/* The place of a word in a list. */
static bd_status read_word(const json_t *v, const char *key, const char *const *words, int n, int *out,
                           bd_err *err) {
    const char *s = json_string_value(v);
    char all[160] = "";
    for (int i = 0; i < n; i++) {
        if (s && !strcmp(s, words[i])) {
            *out = i;
            return BD_OK;
        }
        size_t len = strlen(all);
        snprintf(all + len, sizeof all - len, "%s\"%s\"", i ? ", " : "", words[i]);
    }
    return BD_FAIL(err, BD_E_FIELD, "%s must be one of %s", key, all);
}

/* A number, or a list of candidates. */
static bd_status read_candidates(const json_t *v, const char *key, double lo, double hi, double *list, int *n,
                                 bd_err *err) {
    if (!json_is_array(v)) {
        *n = 1;
        return read_number(v, key, lo, hi, &list[0], err);
    }
    if (json_array_size(v) < 1 || json_array_size(v) > BD_TUNE_MAX)
        return BD_FAIL(err, BD_E_FIELD, "%s lists 1 to %d candidates", key, BD_TUNE_MAX);
    *n = (int)json_array_size(v);
    for (int i = 0; i < *n; i++) BD_TRY(read_number(json_array_get(v, (size_t)i), key, lo, hi, &list[i], err));
    return BD_OK;
}

static bd_status copy_text(bd_compile_recipe *r, const char *s, const char **out, bd_err *err) {
    *out = bd_arena_strdup(r->arena, s, strlen(s));
    return *out ? BD_OK : no_memory(err);
}

/* --- settings of rules --- */

static bool of_vectors(const bd_recipe_rule *rule) { return rule->role && !strcmp(rule->role, "vector"); }

static double setting_value(const json_t *v) { return json_is_number(v) ? json_number_value(v) : NAN; }

static bd_status set_field(bd_qsetting *s, const char *key, const json_t *v, bd_err *err) {
    if (!json_is_number(v)) return BD_FAIL(err, BD_E_RANGE, "%s must be a number", key);
    return bd_qsetting_set(s, key, setting_value(v), err);
}

/* All rules for matrices whose quantizer has the setting. */
static bd_status set_everywhere(bd_compile_recipe *r, const char *key, const json_t *v, bd_err *err) {
    unsigned bit = bd_qsetting_field(key);
    int found = 0;
    for (int i = 0; i < r->n_rules; i++) {
        bd_qsetting *s = &r->rules[i].setting;
        if (of_vectors(&r->rules[i]) || !(s->by->fields & bit)) continue;
        BD_TRY(set_field(s, key, v, err));
        found++;
    }
    /* Bits and k of a corrected tensor stay its own. */
    if (r->lqer.by && r->lqer.by->fields & bit && !(bit & (BD_QF_BITS | BD_QF_K))) {
        BD_TRY(set_field(&r->lqer, key, v, err));
        found++;
    }
    if (!found) return BD_FAIL(err, BD_E_FIELD, "no rule of recipe %s has a quantizer with %s", r->name, key);
    return BD_OK;
}

static bd_status insert_rule(bd_compile_recipe *r, int at, const bd_recipe_rule *rule, bd_err *err) {
    if (r->n_rules == MAX_RULES) return BD_FAIL(err, BD_E_LIMIT, "more than %d rules", MAX_RULES);
    memmove(r->rules + at + 1, r->rules + at, (size_t)(r->n_rules - at) * sizeof *r->rules);
    r->rules[at] = *rule;
    r->n_rules++;
    return BD_OK;
}

/* k_mlp and the like: which tensors. */
static const struct {
    const char *suffix, *pattern, *role;
} kinds[] = {{"_embedding", "*", "embedding"},
             {"_head", "*", "head"},
             {"_mlp", "*.mlp.*", "matrix"},
             {"_attention", "*.attn.*", "matrix"}};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* The setting that `key` names for a kind of tensors, or false. */
static bool kind_key(const char *key, char name[32], int *kind) {
    size_t n = strlen(key);
    for (int i = 0; i < N_KINDS; i++) {
        size_t m = strlen(kinds[i].suffix);
        if (n <= m || n - m >= 32 || strcmp(key + n - m, kinds[i].suffix) != 0) continue;
        memcpy(name, key, n - m);
        name[n - m] = 0;
        *kind = i;
        return bd_qsetting_field(name) != 0;
    }
    return false;
}

/* A rule that is for these tensors alone is changed; where they share one with others, theirs goes before it. */
static bd_status set_for_kind(bd_compile_recipe *r, const char *key, int kind, const json_t *v, bd_err *err) {
    unsigned bit = bd_qsetting_field(key);
    const char *pattern = kinds[kind].pattern, *role = kinds[kind].role;
    for (int i = 0; i < r->n_rules; i++) {
        bd_recipe_rule *rule = &r->rules[i];
        bool any_role = !rule->role, same_role = !any_role && !strcmp(rule->role, role);
        bool any_name = !strcmp(rule->pattern, "*"), same_name = !strcmp(rule->pattern, pattern);
        if (!(same_name || any_name) || !(same_role || any_role) || !(rule->setting.by->fields & bit)) continue;
        if (same_name && (same_role || strcmp(pattern, "*") != 0)) {
            BD_TRY(set_field(&rule->setting, key, v, err));
            if (rule->min_elements < 0) return BD_OK;
            continue;
        }
        bd_recipe_rule own = *rule;
        own.pattern = pattern;
        own.role = role;
        BD_TRY(set_field(&own.setting, key, v, err));
        return insert_rule(r, i, &own, err);
    }
    return BD_FAIL(err, BD_E_FIELD, "no rule of recipe %s has a quantizer with %s for these tensors", r->name, key);
}

static bd_status set_quantizer(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    const char *name = json_string_value(v);
    if (!name) return BD_FAIL(err, BD_E_FIELD, "quantizer must be a name");
    for (int i = 0; i < r->n_rules; i++)
        if (!of_vectors(&r->rules[i])) BD_TRY(bd_qsetting_init(&r->rules[i].setting, name, err));
    return BD_OK;
}

static bd_status set_steps(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    size_t n = json_object_size(v);
    if (!json_is_object(v) || n == 0 || n > 1024)
        return BD_FAIL(err, BD_E_FIELD, "steps must be an object of name pattern: factor");
    r->steps = bd_arena_alloc(r->arena, n, sizeof *r->steps);
    if (!r->steps) return no_memory(err);
    r->n_steps = 0;
    const char *pattern;
    json_t *f;
    json_object_foreach((json_t *)(uintptr_t)v, pattern, f) {
        bd_step_factor *s = &r->steps[r->n_steps++];
        BD_TRY(read_number(f, pattern, 1e-4, 1e4, &s->factor, err));
        BD_TRY(copy_text(r, pattern, &s->pattern, err));
    }
    return BD_OK;
}

/* --- rules of a file --- */

static bd_status read_rule(bd_compile_recipe *r, bd_recipe_rule *rule, const json_t *o, bd_err *err) {
    static const char *const roles[] = {"matrix", "embedding", "head", "vector"};
    const char *quantizer = json_string_value(json_object_get(o, "quantizer")), *key;
    json_t *v;
    int role = 0;
    double d = 0;
    if (!json_is_object(o) || !quantizer)
        return BD_FAIL(err, BD_E_FIELD, "a rule is an object with a \"quantizer\"");
    *rule = (bd_recipe_rule){.pattern = "*", .min_elements = -1, .factor = 1};
    BD_TRY(bd_qsetting_init(&rule->setting, quantizer, err));
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        if (!strcmp(key, "quantizer")) continue;
        if (!strcmp(key, "tensors")) {
            if (!json_is_string(v)) return BD_FAIL(err, BD_E_FIELD, "tensors must be a name pattern");
            BD_TRY(copy_text(r, json_string_value(v), &rule->pattern, err));
        } else if (!strcmp(key, "role")) {
            BD_TRY(read_word(v, key, roles, 4, &role, err));
            rule->role = roles[role];
        } else if (!strcmp(key, "min_elements")) {
            BD_TRY(read_number(v, key, 0, 1e15, &d, err));
            rule->min_elements = (int64_t)d;
        } else if (!strcmp(key, "factor")) {
            BD_TRY(read_number(v, key, 1e-4, 1e4, &rule->factor, err));
        } else {
            BD_TRY(set_field(&rule->setting, key, v, err));
        }
    }
    return BD_OK;
}

/* They go before those of the base. */
static bd_status read_rules(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    if (!json_is_array(v)) return BD_FAIL(err, BD_E_FIELD, "rules must be a list of objects");
    for (size_t i = 0; i < json_array_size(v); i++) {
        bd_recipe_rule rule;
        bd_status st = read_rule(r, &rule, json_array_get(v, i), err);
        if (!st) st = insert_rule(r, (int)i, &rule, err);
        if (st) {
            bd_err_prefix(err, "rule %d: ", (int)i + 1);
            return st;
        }
    }
    return BD_OK;
}

static bd_status read_sort(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n > MAX_SORT)
        return BD_FAIL(err, BD_E_FIELD, "sort must be a list of kinds of tensors, for example [\"attn.c_q\"]");
    const char **list = bd_arena_alloc(r->arena, n + 1, sizeof *list);
    if (!list) return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(v, i));
        if (!s) return BD_FAIL(err, BD_E_FIELD, "sort must be a list of kinds of tensors");
        BD_TRY(copy_text(r, s, &list[i], err));
    }
    r->sort = list;
    return BD_OK;
}

static bd_status read_lqer(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    const char *key;
    json_t *x;
    if (!json_is_object(v)) return BD_FAIL(err, BD_E_FIELD, "lqer must be an object of settings");
    if (!r->lqer.by) BD_TRY(bd_qsetting_init(&r->lqer, "lqer", err));
    json_object_foreach((json_t *)(uintptr_t)v, key, x) BD_TRY(set_field(&r->lqer, key, x, err));
    return BD_OK;
}

/* --- keys --- */

static bd_status key_metric(bd_compile_recipe *r, const char *key, const json_t *v, bool *mine, bd_err *err) {
    static const char *const orders[] = {"natural", "activation", "rising"};
    int order = 0;
    double d = 0;
    if (!strcmp(key, "damp")) return read_number(v, key, 1e-9, 10, &r->damp, err);
    if (!strcmp(key, "feedback")) return read_bool(v, key, &r->feedback, err);
    if (!strcmp(key, "plain_h")) return read_bool(v, key, &r->plain_h, err);
    if (!strcmp(key, "row_steps")) return read_bool(v, key, &r->row_steps, err);
    if (!strcmp(key, "col_steps")) return read_bool(v, key, &r->col_steps, err);
    if (!strcmp(key, "couple_rows")) return read_bool(v, key, &r->couple_rows, err);
    if (!strcmp(key, "order")) {
        BD_TRY(read_word(v, key, orders, BD_ORDER_COUNT, &order, err));
        r->order = (bd_column_order)order;
        return BD_OK;
    }
    if (!strcmp(key, "calib_tokens")) {
        BD_TRY(read_number(v, key, 1, 1e12, &d, err));
        r->calib_tokens = (uint64_t)d;
        return BD_OK;
    }
    *mine = false;
    return BD_OK;
}

static bd_status key_packing(bd_compile_recipe *r, const char *key, const json_t *v, bool *mine, bd_err *err) {
    static const char *const groupings[] = {"one", "kind", "single"};
    int word = 0;
    double d = 0;
    if (!strcmp(key, "grouping")) {
        BD_TRY(read_word(v, key, groupings, 3, &word, err));
        r->grouping = (bd_grouping)word;
        return BD_OK;
    }
    if (!strcmp(key, "codec")) {
        const char *words[BD_CODEC_COUNT + 1];
        for (int i = 0; i < BD_CODEC_COUNT; i++) words[i] = bd_codec_name((bd_codec)i);
        words[BD_CODEC_COUNT] = "smallest";
        BD_TRY(read_word(v, key, words, BD_CODEC_COUNT + 1, &word, err));
        r->codec = (bd_codec)word;
        return BD_OK;
    }
    if (!strcmp(key, "sort")) return read_sort(r, v, err);
    if (!strcmp(key, "lqer_top")) {
        BD_TRY(read_number(v, key, 0, 4096, &d, err));
        r->lqer_top = (int)d;
        return r->lqer_top && !r->lqer.by ? bd_qsetting_init(&r->lqer, "lqer", err) : BD_OK;
    }
    if (!strcmp(key, "lqer")) return read_lqer(r, v, err);
    *mine = false;
    return BD_OK;
}

/* lambda, rho and states may be lists: candidates for the trial. */
static bd_status key_tuned(bd_compile_recipe *r, const char *key, const json_t *v, bool *mine, bd_err *err) {
    double list[BD_TUNE_MAX];
    int n;
    if (!strcmp(key, "rho")) {
        BD_TRY(read_candidates(v, key, 1e-6, 1e6, list, &n, err));
        r->rho = list[0];
        memcpy(r->tune_rho, list, sizeof list);
        r->n_tune_rho = n > 1 ? n : 0;
        return BD_OK;
    }
    if (!strcmp(key, "lambda") && json_is_array(v)) {
        BD_TRY(read_candidates(v, key, 0, 1, list, &n, err));
        memcpy(r->tune_lambda, list, sizeof list);
        r->n_tune_lambda = n > 1 ? n : 0;
        return set_everywhere(r, key, json_array_get(v, 0), err);
    }
    if (!strcmp(key, "states") && json_is_array(v)) {
        BD_TRY(read_candidates(v, key, 1, 256, list, &n, err));
        for (int i = 0; i < n; i++) r->tune_states[i] = (int)list[i];
        r->n_tune_states = n > 1 ? n : 0;
        return set_everywhere(r, key, json_array_get(v, 0), err);
    }
    if (!strcmp(key, "lambda")) r->n_tune_lambda = 0;
    if (!strcmp(key, "states")) r->n_tune_states = 0;
    *mine = false;
    return BD_OK;
}

static bd_status unknown_key(const char *key, bd_err *err) {
    static const char *const keys[] = {"fill",
                                       "damp",
                                       "feedback",
                                       "order",
                                       "rho",
                                       "row_steps",
                                       "col_steps",
                                       "couple_rows",
                                       "calib_tokens",
                                       "plain_h",
                                       "small_by_sensitivity",
                                       "holdout",
                                       "lqer_top",
                                       "lqer",
                                       "grouping",
                                       "codec",
                                       "sort",
                                       "steps",
                                       "rules",
                                       "quantizer",
                                       "base",
                                       "bits",
                                       "k",
                                       "group",
                                       "states",
                                       "step",
                                       "lambda",
                                       "levels",
                                       "rank",
                                       "quantile",
                                       "floor",
                                       "multiple",
                                       "threshold",
                                       "mult",
                                       "k_embedding",
                                       "k_head",
                                       "k_mlp",
                                       "k_attention",
                                       "bits_embedding",
                                       "bits_head",
                                       "bits_mlp",
                                       "bits_attention"};
    const char *near = bd_nearest(key, keys, sizeof keys / sizeof keys[0]);
    return BD_FAIL(err, BD_E_UNKNOWN, "unknown key %.60s%s%s%s", key, near ? "; did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "");
}

static bd_status set_key(bd_compile_recipe *r, const char *key, const json_t *v, bd_err *err) {
    static bd_status (*const parts[])(bd_compile_recipe *, const char *, const json_t *, bool *, bd_err *) = {
        key_metric, key_packing, key_tuned};
    for (int i = 0; i < 3; i++) {
        bool mine = true;
        BD_TRY(parts[i](r, key, v, &mine, err));
        if (mine) return BD_OK;
    }
    char name[32];
    int kind;
    if (!strcmp(key, "fill")) return read_bool(v, key, &r->fill, err);
    if (!strcmp(key, "small_by_sensitivity")) return read_bool(v, key, &r->small_by_sensitivity, err);
    if (!strcmp(key, "holdout")) return read_number(v, key, 0.001, 0.9, &r->holdout, err);
    if (!strcmp(key, "steps")) return set_steps(r, v, err);
    if (!strcmp(key, "quantizer")) return set_quantizer(r, v, err);
    if (bd_qsetting_field(key)) return set_everywhere(r, key, v, err);
    if (kind_key(key, name, &kind)) return set_for_kind(r, name, kind, v, err);
    return unknown_key(key, err);
}

/* Rules and quantizer first: other keys change their settings. */
static bd_status read_keys(bd_compile_recipe *r, const json_t *root, bd_err *err) {
    const char *key;
    json_t *v, *rules = json_object_get(root, "rules"), *quantizer = json_object_get(root, "quantizer");
    if (quantizer) BD_TRY(set_key(r, "quantizer", quantizer, err));
    if (rules) BD_TRY(read_rules(r, rules, err));
    json_object_foreach((json_t *)(uintptr_t)root, key, v) {
        if (!strcmp(key, "base") || !strcmp(key, "rules") || !strcmp(key, "quantizer")) continue;
        BD_TRY(set_key(r, key, v, err));
    }
    return BD_OK;
}

/* "key=value": the value as in JSON, or a bare word. */
static bd_status read_knob(bd_compile_recipe *r, const char *knob, bd_err *err) {
    const char *eq = strchr(knob, '=');
    if (!eq || eq == knob || eq - knob > 40)
        return BD_FAIL(err, BD_E_USAGE, "knob \"%.60s\" is not key=value", knob);
    char key[48];
    memcpy(key, knob, (size_t)(eq - knob));
    key[eq - knob] = 0;
    if (!strcmp(key, "base")) return BD_FAIL(err, BD_E_USAGE, "base stands in a recipe file; --recipe names it");
    json_t *v = json_loadb(eq + 1, strlen(eq + 1), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!v) v = json_string(eq + 1);
    if (!v) return BD_FAIL(err, BD_E_USAGE, "knob %s: the value is not text", key);
    bd_status st = !strcmp(key, "rules") ? read_rules(r, v, err) : set_key(r, key, v, err);
    json_decref(v);
    if (st) bd_err_prefix(err, "knob %s: ", key);
    return st;
}

static bd_status check_candidates(const bd_compile_recipe *r, bd_qsetting s, bd_err *err) {
    for (int i = 0; s.by->fields & BD_QF_STATES && i < r->n_tune_states; i++) {
        s.states = r->tune_states[i];
        BD_TRY(s.by->check(&s, err));
    }
    for (int i = 0; s.by->fields & BD_QF_LAMBDA && i < r->n_tune_lambda; i++) {
        s.lambda = (float)r->tune_lambda[i];
        BD_TRY(s.by->check(&s, err));
    }
    return BD_OK;
}

static bd_status check_rules(const bd_compile_recipe *r, bd_err *err) {
    for (int i = 0; i <= r->n_rules; i++) {
        const bd_qsetting *s = i < r->n_rules ? &r->rules[i].setting : &r->lqer;
        bd_status st = s->by && s->by->check ? s->by->check(s, err) : BD_OK;
        if (st) {
            bd_err_prefix(err, "quantizer %s: ", s->by->name);
            return st;
        }
    }
    for (int i = 0; i < r->n_rules; i++) BD_TRY(check_candidates(r, r->rules[i].setting, err));
    return BD_OK;
}

/* --- opening --- */

static const bd_builtin_recipe *find_builtin(const char *name) {
    for (int i = 0; i < bd_n_builtin_recipes; i++)
        if (!strcmp(bd_builtin_recipes[i].r.name, name)) return &bd_builtin_recipes[i];
    return NULL;
}

static void list_names(char *out, size_t size) {
    out[0] = 0;
    for (int i = 0; i < bd_n_builtin_recipes; i++) {
        size_t n = strlen(out);
        snprintf(out + n, size - n, "%s%s", i ? ", " : "", bd_builtin_recipes[i].r.name);
    }
}

static bd_status open_file(bd_compile_recipe **out, const char *path, const bd_map *m, bd_err *err) {
    char names[256];
    list_names(names, sizeof names);
    if (m->size > 1 << 20) return BD_FAIL(err, BD_E_LIMIT, "a compile recipe has at most 1 MiB");
    json_error_t je;
    json_t *root = json_loadb((const char *)m->data, m->size, JSON_REJECT_DUPLICATES, &je);
    if (!root) return BD_FAIL(err, BD_E_SYNTAX, "line %d column %d: %s", je.line, je.column, je.text);
    const json_t *base = json_object_get(root, "base");
    const bd_builtin_recipe *b =
        base ? json_is_string(base) ? find_builtin(json_string_value(base)) : NULL : &bd_builtin_recipes[0];
    bd_status st = BD_OK;
    if (!json_is_object(root)) st = BD_FAIL(err, BD_E_FIELD, "a compile recipe is a JSON object");
    else if (!b) st = BD_FAIL(err, BD_E_UNKNOWN, "base must be one of %s", names);
    if (!st) st = new_recipe(out, b, err);
    if (!st) st = read_keys(*out, root, err);
    json_decref(root);
    return st ? st : copy_text(*out, path, &(*out)->name, err);
}

bd_status bd_compile_recipe_open(bd_compile_recipe **out, const char *name, const char *const *knobs, int n_knobs,
                                 bd_err *err) {
    *out = NULL;
    const bd_builtin_recipe *b = name ? find_builtin(name) : &bd_builtin_recipes[0];
    bd_compile_recipe *r = NULL;
    bd_status st;
    if (b) {
        st = new_recipe(&r, b, err);
    } else {
        bd_map m;
        if (bd_map_open(&m, name, NULL) != BD_OK) {
            char names[256];
            list_names(names, sizeof names);
            return BD_FAIL(err, BD_E_UNKNOWN, "no recipe \"%s\": neither a readable file nor one of %s", name,
                           names);
        }
        st = open_file(&r, name, &m, err);
        if (!st) st = check_rules(r, err);
        bd_map_close(&m);
        if (st) bd_err_file(err, name);
    }
    for (int i = 0; !st && i < n_knobs; i++) st = read_knob(r, knobs[i], err);
    if (!st) st = check_rules(r, err);
    if (st) bd_compile_recipe_close(r);
    else *out = r;
    return st;
}

void bd_compile_recipe_close(bd_compile_recipe *r) {
    if (r) bd_arena_destroy(r->arena);
}
