#include "compiler/recipe_compile.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"

/* Numbers here come from the sweeps in docs/QUALITY.md. */
static const bd_step_rule default_steps[] = {{"*", 1.0}};
enum { N_DEFAULT_STEPS = sizeof default_steps / sizeof default_steps[0] };

static const struct {
    const char *name;
    bd_qmethod matrix;
    int bits_min, bits_max;
} builtins[] = {
    {"gptq", BD_Q_ROW, 5, 8}, /* the default: steps by what the loss feels */
    {"int8", BD_Q_ROW, 8, 8}, /* the field's pipeline: SDClip, one k for all matrices */
    {"int7", BD_Q_ROW, 7, 7}, {"int6", BD_Q_ROW, 6, 6}, {"int5", BD_Q_ROW, 5, 5}, {"ternary", BD_Q_TERNARY, 5, 8},
};
enum { N_BUILTINS = sizeof builtins / sizeof builtins[0] };

static bd_compile_recipe *new_recipe(int builtin) {
    bd_arena *a = bd_arena_create(1 << 22);
    bd_compile_recipe *r = a ? bd_arena_alloc(a, 1, sizeof *r) : NULL;
    bd_step_rule *steps = r ? bd_arena_alloc(a, N_DEFAULT_STEPS, sizeof *steps) : NULL;
    if (!steps) {
        bd_arena_destroy(a);
        return NULL;
    }
    memcpy(steps, default_steps, sizeof default_steps);
    *r = (bd_compile_recipe){.arena = a,
                             .name = builtins[builtin].name,
                             .matrix = builtins[builtin].matrix,
                             .bits_min = builtins[builtin].bits_min,
                             .bits_max = builtins[builtin].bits_max,
                             .group = 128,
                             .damp = builtin == 0 ? 0.03 : 0.01,
                             .feedback = true,
                             .act_order = true,
                             .tensors_by_loss = builtin == 0,
                             .rows_by_loss = builtin == 0,
                             .rho = 0.1,
                             .calib_tokens = 65536,
                             .small = BD_Q_F16,
                             .steps = steps,
                             .n_steps = N_DEFAULT_STEPS};
    return r;
}

static bd_status read_number(const json_t *v, const char *key, double lo, double hi, double *out, bd_err *err) {
    if (!json_is_number(v) || !(json_number_value(v) >= lo && json_number_value(v) <= hi))
        return BD_FAIL(err, BD_E_RANGE, "%s must be a number from %g to %g", key, lo, hi);
    *out = json_number_value(v);
    return BD_OK;
}

static bd_status read_steps(bd_compile_recipe *r, const json_t *v, bd_err *err) {
    size_t n = json_object_size(v), i = 0;
    if (!json_is_object(v) || n == 0 || n > 1024)
        return BD_FAIL(err, BD_E_FIELD, "steps must be an object of name pattern: factor");
    r->steps = bd_arena_alloc(r->arena, n, sizeof *r->steps);
    if (!r->steps) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    const char *key;
    json_t *f;
    json_object_foreach((json_t *)(uintptr_t)v, key, f) {
        r->steps[i].pattern = bd_arena_strdup(r->arena, key, strlen(key));
        if (!r->steps[i].pattern) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        BD_TRY(read_number(f, key, 1e-4, 1e4, &r->steps[i].factor, err));
        i++;
    }
    r->n_steps = (int)n;
    return BD_OK;
}

static bd_status read_method(const json_t *v, const char *key, const char *a, bd_qmethod ma, const char *b,
                             bd_qmethod mb, bd_qmethod *out, bd_err *err) {
    const char *s = json_string_value(v);
    if (s && !strcmp(s, a)) *out = ma;
    else if (s && !strcmp(s, b)) *out = mb;
    else return BD_FAIL(err, BD_E_FIELD, "%s must be \"%s\" or \"%s\"", key, a, b);
    return BD_OK;
}

/* One of two words. */
static bd_status read_choice(const json_t *v, const char *key, const char *no, const char *yes, bool *out,
                             bd_err *err) {
    const char *s = json_string_value(v);
    if (!s || (strcmp(s, no) != 0 && strcmp(s, yes) != 0))
        return BD_FAIL(err, BD_E_FIELD, "%s must be \"%s\" or \"%s\"", key, no, yes);
    *out = !strcmp(s, yes);
    return BD_OK;
}

static bd_status read_recipe(bd_compile_recipe *r, const json_t *root, bd_err *err) {
    static const char *const keys[] = {"matrix",  "bits", "group", "damp",         "feedback", "order",
                                       "tensors", "rows", "rho",   "calib_tokens", "small",    "steps"};
    enum { N_KEYS = sizeof keys / sizeof keys[0] };
    if (!json_is_object(root)) return BD_FAIL(err, BD_E_FIELD, "a compile recipe is a JSON object");
    const char *key;
    json_t *v;
    double d = 0;
    json_object_foreach((json_t *)(uintptr_t)root, key, v) {
        if (!strcmp(key, "matrix")) {
            BD_TRY(read_method(v, key, "row", BD_Q_ROW, "ternary", BD_Q_TERNARY, &r->matrix, err));
        } else if (!strcmp(key, "small")) {
            BD_TRY(read_method(v, key, "f16", BD_Q_F16, "int8", BD_Q_ROW, &r->small, err));
        } else if (!strcmp(key, "bits")) {
            if (json_array_size(v) != 2) return BD_FAIL(err, BD_E_FIELD, "bits must be [fewest, most]");
            BD_TRY(read_number(json_array_get(v, 0), key, 2, 8, &d, err));
            r->bits_min = (int)d;
            BD_TRY(read_number(json_array_get(v, 1), key, d, 8, &d, err));
            r->bits_max = (int)d;
        } else if (!strcmp(key, "group")) {
            BD_TRY(read_number(v, key, 1, 65536, &d, err));
            r->group = (uint32_t)d;
        } else if (!strcmp(key, "damp")) {
            BD_TRY(read_number(v, key, 1e-9, 10, &r->damp, err));
        } else if (!strcmp(key, "calib_tokens")) {
            BD_TRY(read_number(v, key, 1, 1e12, &d, err));
            r->calib_tokens = (uint64_t)d;
        } else if (!strcmp(key, "feedback")) {
            if (!json_is_boolean(v)) return BD_FAIL(err, BD_E_FIELD, "feedback must be true or false");
            r->feedback = json_is_true(v);
        } else if (!strcmp(key, "order")) {
            BD_TRY(read_choice(v, key, "natural", "activation", &r->act_order, err));
        } else if (!strcmp(key, "tensors")) {
            BD_TRY(read_choice(v, key, "equal", "loss", &r->tensors_by_loss, err));
        } else if (!strcmp(key, "rows")) {
            BD_TRY(read_choice(v, key, "deviation", "loss", &r->rows_by_loss, err));
        } else if (!strcmp(key, "rho")) {
            BD_TRY(read_number(v, key, 1e-6, 1e6, &r->rho, err));
        } else if (!strcmp(key, "steps")) {
            BD_TRY(read_steps(r, v, err));
        } else {
            const char *near = bd_nearest(key, keys, N_KEYS);
            return BD_FAIL(err, BD_E_UNKNOWN, "unknown key %s%s%s%s", key, near ? "; did you mean \"" : "",
                           near ? near : "", near ? "\"?" : "");
        }
    }
    return BD_OK;
}

bd_status bd_compile_recipe_open(bd_compile_recipe **out, const char *name, bd_err *err) {
    *out = NULL;
    if (!name) name = builtins[0].name;
    int b = 0;
    while (b < N_BUILTINS && strcmp(builtins[b].name, name) != 0) b++;
    bd_compile_recipe *r = new_recipe(b < N_BUILTINS ? b : 0);
    if (!r) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (b < N_BUILTINS) {
        *out = r;
        return BD_OK;
    }
    bd_map m;
    bd_status st = bd_map_open(&m, name, NULL);
    if (st) {
        char names[128] = "";
        for (int i = 0; i < N_BUILTINS; i++) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", builtins[i].name);
        }
        bd_compile_recipe_close(r);
        return BD_FAIL(err, BD_E_UNKNOWN, "no recipe \"%s\": neither a readable file nor one of %s", name, names);
    }
    json_error_t je;
    json_t *root = m.size <= 1 << 20 ? json_loadb((const char *)m.data, m.size, JSON_REJECT_DUPLICATES, &je) : NULL;
    if (!root) st = BD_FAIL(err, BD_E_SYNTAX, "line %d column %d: %s", je.line, je.column, je.text);
    else st = read_recipe(r, root, err);
    r->name = bd_arena_strdup(r->arena, name, strlen(name));
    json_decref(root);
    bd_map_close(&m);
    if (st) {
        bd_err_file(err, name);
        bd_compile_recipe_close(r);
        return st;
    }
    *out = r;
    return BD_OK;
}

void bd_compile_recipe_close(bd_compile_recipe *r) {
    if (r) bd_arena_destroy(r->arena);
}
