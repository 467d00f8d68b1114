/* Recipes: jansson does the JSON, a table of fields per object does the rest. */
#include "trainer/recipe.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "base/sha256.h"

typedef enum field_kind { F_I64, F_F64, F_BOOL, F_STR, F_ENUM, F_OTHER } field_kind;

/* One known key: how to read it, where it goes, what is legal. */
typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset;
    double lo, hi;
    const char *const *names; /* F_ENUM: NULL-terminated */
} field;

static const char *const optimizer_names[] = {"muon", "adamw", NULL};
static const char *const coefficient_names[] = {"fixed", "polar", NULL};
static const char *const loader_names[] = {"sequential", "shuffled", NULL};
static const char *const schedule_names[] = {"steps", "time", NULL};
static const char *const mode_names[] = {"exact", "fast", NULL};
static const char *const qat_names[] = {"none", NULL};

#define TOP(m)   offsetof(bd_recipe, m)
#define GROUP(m) offsetof(bd_opt_group, m)
#define NOWHERE  SIZE_MAX

static const field top_fields[] = {
    {"model", F_STR, TOP(model), 0, 0, NULL},
    {"constants", F_OTHER, NOWHERE, 0, 0, NULL},
    {"seed", F_I64, TOP(seed), 0, 0x1p62, NULL},
    {"steps", F_I64, TOP(steps), 1, 1e9, NULL},
    {"stop_step", F_I64, TOP(stop_step), 0, 1e9, NULL},
    {"time_s", F_F64, TOP(time_s), 0, 1e7, NULL},
    {"seq_len", F_I64, TOP(seq_len), 1, 65536, NULL},
    {"batch_tokens", F_I64, TOP(batch_tokens), 1, 1 << 28, NULL},
    {"loader", F_ENUM, TOP(loader), 0, 0, loader_names},
    {"schedule", F_OTHER, NOWHERE, 0, 0, NULL},
    {"optimizers", F_OTHER, NOWHERE, 0, 0, NULL},
    {"clip", F_F64, TOP(clip), 0, 1e9, NULL},
    {"ema", F_F64, TOP(ema), 0, 0.9999999, NULL},
    {"qat", F_ENUM, NOWHERE, 0, 0, qat_names},
    {"val_every", F_I64, TOP(val_every), 0, 1e9, NULL},
    {"val_tokens", F_I64, TOP(val_tokens), 1, 1e12, NULL},
    {"mode", F_OTHER, NOWHERE, 0, 0, NULL},
};
static const field schedule_fields[] = {
    {"kind", F_ENUM, TOP(schedule), 0, 0, schedule_names},
    {"warmup_steps", F_I64, TOP(warmup_steps), 0, 1e9, NULL},
    {"warmdown", F_F64, TOP(warmdown), 0, 1, NULL},
    {"min_lr", F_F64, TOP(min_lr), 0, 1, NULL},
};
static const field group_fields[] = {
    {"kind", F_ENUM, GROUP(kind), 0, 0, optimizer_names},
    {"match", F_OTHER, NOWHERE, 0, 0, NULL},
    {"lr", F_F64, GROUP(lr), 0, 1e6, NULL},
    {"decay", F_F64, GROUP(decay), 0, 1e6, NULL},
    {"momentum", F_F64, GROUP(momentum), 0, 0.99999, NULL},
    {"momentum_start", F_F64, GROUP(momentum_start), 0, 0.99999, NULL},
    {"momentum_warmup", F_I64, GROUP(momentum_warmup), 0, 1e9, NULL},
    {"nesterov", F_BOOL, GROUP(nesterov), 0, 0, NULL},
    {"row_norm", F_BOOL, GROUP(row_norm), 0, 0, NULL},
    {"ns_steps", F_I64, NOWHERE, 1, 20, NULL},
    {"coefficients", F_ENUM, GROUP(coefficients), 0, 0, coefficient_names},
    {"beta1", F_F64, GROUP(beta1), 0, 0.9999999, NULL},
    {"beta2", F_F64, GROUP(beta2), 0, 0.9999999, NULL},
    {"eps", F_F64, GROUP(eps), 1e-30, 1, NULL},
};
#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

static int enum_find(const char *const *names, const char *s) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], s)) return i;
    return -1;
}

static bd_status enum_error(const char *where, const char *key, const char *const *names, bd_err *err) {
    char list[256] = "";
    for (int i = 0; names[i]; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    return BD_FAIL(err, BD_E_FIELD, "%s%s must be one of %s", where, key, list);
}

/* Read one value of the table into its struct. */
static bd_status read_field(void *base, const field *f, const json_t *v, const char *where, bd_arena *arena,
                            bd_err *err) {
    char *at = f->offset == NOWHERE ? NULL : (char *)base + f->offset;
    switch (f->kind) {
        case F_I64: {
            if (!json_is_integer(v)) return BD_FAIL(err, BD_E_FIELD, "%s%s must be an integer", where, f->key);
            json_int_t n = json_integer_value(v);
            if ((double)n < f->lo || (double)n > f->hi)
                return BD_FAIL(err, BD_E_RANGE, "%s%s is %lld, must be %.0f to %.0f", where, f->key, (long long)n,
                               f->lo, f->hi);
            if (at) *(int64_t *)(void *)at = (int64_t)n;
            return BD_OK;
        }
        case F_F64: {
            if (!json_is_number(v)) return BD_FAIL(err, BD_E_FIELD, "%s%s must be a number", where, f->key);
            double x = json_number_value(v);
            if (!(x >= f->lo && x <= f->hi))
                return BD_FAIL(err, BD_E_RANGE, "%s%s is %g, must be %g to %g", where, f->key, x, f->lo, f->hi);
            *(double *)(void *)at = x;
            return BD_OK;
        }
        case F_BOOL:
            if (!json_is_boolean(v)) return BD_FAIL(err, BD_E_FIELD, "%s%s must be true or false", where, f->key);
            *(bool *)at = json_is_true(v);
            return BD_OK;
        case F_STR: {
            if (!json_is_string(v)) return BD_FAIL(err, BD_E_FIELD, "%s%s must be a string", where, f->key);
            char *s = bd_arena_strdup(arena, json_string_value(v), json_string_length(v));
            if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
            *(const char **)(void *)at = s;
            return BD_OK;
        }
        case F_ENUM: {
            int i = json_is_string(v) ? enum_find(f->names, json_string_value(v)) : -1;
            if (i < 0) return enum_error(where, f->key, f->names, err);
            if (at) *(int *)(void *)at = i; /* enums of this project are int sized */
            return BD_OK;
        }
        case F_OTHER: return BD_OK; /* its own reader */
    }
    return BD_OK;
}

static bd_status read_object(void *base, const field *fields, int n, const json_t *obj, const char *where,
                             bd_arena *arena, bd_err *err) {
    if (!json_is_object(obj)) {
        int n_where = (int)strlen(where); /* ends in a dot */
        return BD_FAIL(err, BD_E_FIELD, "%.*s must be an object", n_where ? n_where - 1 : 10,
                       n_where ? where : "the recipe");
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
        int i = 0;
        while (i < n && strcmp(fields[i].key, key) != 0) i++;
        if (i == n) {
            const char *names[32];
            for (int k = 0; k < n; k++) names[k] = fields[k].key;
            const char *near = bd_nearest(key, names, n);
            if (near) return BD_FAIL(err, BD_E_UNKNOWN, "unknown key %s%s; did you mean \"%s\"?", where, key, near);
            return BD_FAIL(err, BD_E_UNKNOWN, "unknown key %s%s", where, key);
        }
        BD_TRY(read_field(base, &fields[i], v, where, arena, err));
    }
    return BD_OK;
}

static bd_status read_group(bd_recipe *r, int index, const json_t *obj, bd_err *err) {
    bd_opt_group *g = &r->groups[index];
    char where[64];
    snprintf(where, sizeof where, "optimizers[%d].", index);
    if (!json_is_object(obj)) return BD_FAIL(err, BD_E_FIELD, "optimizers[%d] must be an object", index);
    const char *kind = json_string_value(json_object_get(obj, "kind"));
    int k = kind ? enum_find(optimizer_names, kind) : -1;
    if (k < 0) return enum_error(where, "kind", optimizer_names, err);
    *g = (bd_opt_group){.kind = (bd_optimizer_kind)k,
                        .lr = -1,
                        .momentum = 0.95,
                        .momentum_start = -1,
                        .nesterov = true,
                        .ns_steps = 5,
                        .beta1 = 0.9,
                        .beta2 = 0.95,
                        .eps = 1e-8};
    BD_TRY(read_object(g, group_fields, COUNT(group_fields), obj, where, r->arena, err));
    if (g->lr < 0) return BD_FAIL(err, BD_E_MISSING, "%slr is missing", where);
    if (g->momentum_start < 0) g->momentum_start = g->momentum;
    json_t *steps = json_object_get(obj, "ns_steps");
    if (steps) g->ns_steps = (int)json_integer_value(steps);
    static const char *const muon_only[] = {"momentum", "momentum_start", "momentum_warmup", "nesterov",
                                            "row_norm", "ns_steps",       "coefficients",    NULL};
    static const char *const adamw_only[] = {"beta1", "beta2", "eps", NULL};
    const char *const *foreign = g->kind == BD_OPTIMIZER_MUON ? adamw_only : muon_only;
    for (int i = 0; foreign[i]; i++)
        if (json_object_get(obj, foreign[i]))
            return BD_FAIL(err, BD_E_FIELD, "%s%s has no meaning for %s", where, foreign[i], kind);
    json_t *match = json_object_get(obj, "match");
    size_t n = json_array_size(match);
    if (!json_is_array(match) || n == 0)
        return BD_FAIL(err, BD_E_MISSING, "%smatch must be a list of parameter name patterns", where);
    g->match = bd_arena_alloc(r->arena, n, sizeof *g->match);
    if (!g->match) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(match, i);
        if (!json_is_string(s)) return BD_FAIL(err, BD_E_FIELD, "%smatch[%zu] must be a string", where, i);
        g->match[i] = bd_arena_strdup(r->arena, json_string_value(s), json_string_length(s));
        if (!g->match[i]) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    g->n_match = (int)n;
    return BD_OK;
}

static bd_status read_constants(bd_recipe *r, const json_t *obj, bd_err *err) {
    if (!obj) return BD_OK;
    if (!json_is_object(obj)) return BD_FAIL(err, BD_E_FIELD, "constants must be an object");
    r->constants = bd_arena_alloc(r->arena, json_object_size(obj) + 1, sizeof *r->constants);
    if (!r->constants) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
        char num[64];
        if (json_is_integer(v)) snprintf(num, sizeof num, "%lld", (long long)json_integer_value(v));
        else if (json_is_real(v)) snprintf(num, sizeof num, "%.17g", json_real_value(v));
        else return BD_FAIL(err, BD_E_FIELD, "constants.%s must be a number", key);
        bd_setting *s = &r->constants[r->n_constants++];
        s->name = bd_arena_strdup(r->arena, key, strlen(key));
        s->value = bd_arena_strdup(r->arena, num, strlen(num));
        if (!s->name || !s->value) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    return BD_OK;
}

/* "a.b.0.c=value": walk, making objects on the way, and set. */
static bd_status apply_override(json_t *root, const char *text, bd_err *err) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text || eq - text > 200) return BD_FAIL(err, BD_E_USAGE, "--set %s: expected key=value", text);
    char path[201];
    snprintf(path, sizeof path, "%.*s", (int)(eq - text), text);
    json_t *value = json_loads(eq + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value) value = json_string(eq + 1);
    if (!value) return BD_FAIL(err, BD_E_USAGE, "--set %s: the value is not valid text", text);
    json_t *at = root;
    char *part = path;
    for (;;) {
        char *dot = strchr(part, '.');
        if (dot) *dot = 0;
        if (json_is_array(at)) {
            char *end;
            unsigned long i = strtoul(part, &end, 10);
            if (*end || !*part || i >= json_array_size(at)) {
                json_decref(value);
                return BD_FAIL(err, BD_E_USAGE, "--set %s: there is no element \"%s\"", text, part);
            }
            if (!dot) {
                json_array_set_new(at, i, value);
                return BD_OK;
            }
            at = json_array_get(at, i);
        } else if (json_is_object(at)) {
            if (!dot) {
                if (json_object_set_new(at, part, value) == 0) return BD_OK; /* else it has released value */
                return BD_FAIL(err, BD_E_USAGE, "--set %s: the key is not valid text", text);
            }
            json_t *next = json_object_get(at, part);
            if (!next && json_object_set_new(at, part, json_object()) == 0) next = json_object_get(at, part);
            if (!next) {
                json_decref(value);
                return BD_FAIL(err, BD_E_USAGE, "--set %s: \"%s\" is not a usable key", text, part);
            }
            at = next;
        } else {
            json_decref(value);
            return BD_FAIL(err, BD_E_USAGE, "--set %s: \"%s\" is inside a plain value", text, part);
        }
        part = dot + 1;
    }
}

static bd_status check_recipe(const bd_recipe *r, bd_err *err) {
    if (!r->model)
        return BD_FAIL(err, BD_E_MISSING, "model is missing (a name such as \"baseline\", or a .model file)");
    if (!r->n_groups) return BD_FAIL(err, BD_E_MISSING, "optimizers is missing or empty");
    if (r->batch_tokens % r->seq_len)
        return BD_FAIL(err, BD_E_RANGE, "batch_tokens (%lld) must be a multiple of seq_len (%lld)",
                       (long long)r->batch_tokens, (long long)r->seq_len);
    if (r->schedule == BD_SCHEDULE_TIME && r->time_s <= 0)
        return BD_FAIL(err, BD_E_MISSING, "schedule kind \"time\" needs time_s");
    if (r->stop_step > r->steps)
        return BD_FAIL(err, BD_E_RANGE, "stop_step (%lld) is beyond steps (%lld)", (long long)r->stop_step,
                       (long long)r->steps);
    return BD_OK;
}

static bd_status fill_recipe(bd_recipe *r, json_t *root, bd_err *err) {
    BD_TRY(read_object(r, top_fields, COUNT(top_fields), root, "", r->arena, err));
    BD_TRY(read_constants(r, json_object_get(root, "constants"), err));
    json_t *schedule = json_object_get(root, "schedule");
    if (schedule)
        BD_TRY(read_object(r, schedule_fields, COUNT(schedule_fields), schedule, "schedule.", r->arena, err));
    json_t *mode = json_object_get(root, "mode");
    if (mode) {
        int m = json_is_string(mode) ? enum_find(mode_names, json_string_value(mode)) : -1;
        if (m < 0) return enum_error("", "mode", mode_names, err);
        r->fast = m == 1;
    }
    json_t *groups = json_object_get(root, "optimizers");
    if (groups && !json_is_array(groups)) return BD_FAIL(err, BD_E_FIELD, "optimizers must be a list");
    size_t n = json_array_size(groups);
    if (n > 64) return BD_FAIL(err, BD_E_LIMIT, "more than 64 optimizer groups");
    r->groups = bd_arena_alloc(r->arena, n + 1, sizeof *r->groups);
    if (!r->groups) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        BD_TRY(read_group(r, (int)i, json_array_get(groups, i), err));
        r->n_groups++;
    }
    return check_recipe(r, err);
}

bd_status bd_recipe_parse(bd_recipe **out, const char *text, uint64_t size, const char *const *overrides,
                          int n_overrides, bd_err *err) {
    *out = NULL;
    bd_status st = BD_OK;
    json_error_t je;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return BD_FAIL_AT(err, BD_E_SYNTAX, je.position > 0 ? (uint64_t)je.position : 0, "line %d column %d: %s",
                          je.line, je.column, je.text);
    bd_arena *arena = bd_arena_create(1 << 24);
    bd_recipe *r = arena ? bd_arena_alloc(arena, 1, sizeof *r) : NULL;
    if (!r) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    r->arena = arena;
    r->seed = 1;
    r->steps = 1000;
    r->seq_len = 1024;
    r->batch_tokens = 16384;
    r->warmdown = 0.3;
    r->val_tokens = 65536;
    if (!json_is_object(root)) {
        st = BD_FAIL(err, BD_E_FIELD, "a recipe is a JSON object");
        goto done;
    }
    for (int i = 0; i < n_overrides; i++) BD_TRY_DONE(apply_override(root, overrides[i], err));
    BD_TRY_DONE(fill_recipe(r, root, err));
    char *json = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    r->json = json ? bd_arena_strdup(arena, json, strlen(json)) : NULL;
    free(json);
    if (!r->json) st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
done:
    json_decref(root);
    if (st == BD_OK) *out = r;
    else bd_arena_destroy(arena);
    return st;
}

bd_status bd_recipe_open(bd_recipe **out, const char *path, const char *const *overrides, int n_overrides,
                         bd_err *err) {
    *out = NULL;
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st;
    if (m.size > 1 << 20) st = BD_FAIL(err, BD_E_LIMIT, "a recipe is at most 1 MiB");
    else st = bd_recipe_parse(out, (const char *)m.data, m.size, overrides, n_overrides, err);
    bd_map_close(&m);
    if (st) bd_err_file(err, path);
    return st;
}

bd_status bd_recipe_graph(bd_graph **g, const bd_recipe *r, bd_err *err) {
    *g = NULL;
    bd_limits lim = bd_limits_default();
    size_t n = strlen(r->model);
    if (n > 6 && !strcmp(r->model + n - 6, ".model")) {
        bd_map m;
        BD_TRY(bd_map_open(&m, r->model, err));
        bd_status st = bd_model_elaborate(g, (const char *)m.data, m.size, r->model, r->constants, r->n_constants,
                                          NULL, &lim, err);
        bd_map_close(&m);
        return st;
    }
    const char *names[64];
    int n_names = 0;
    for (int i = 0; i < bd_n_builtin_models && i < 64; i++) {
        const bd_builtin_model *b = &bd_builtin_models[i];
        if (!strcmp(b->name, r->model))
            return bd_model_elaborate(g, b->text, b->size, b->name, r->constants, r->n_constants, NULL, &lim, err);
        names[n_names++] = b->name;
    }
    const char *near = bd_nearest(r->model, names, n_names);
    return BD_FAIL(err, BD_E_UNKNOWN, "no built-in model \"%s\"%s%s%s; a model file of your own ends in .model",
                   r->model, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* What may change without changing the steps: where the run ends, and how it is watched. */
static const char *const free_keys[] = {"stop_step", "time_s", "val_every", "val_tokens"};

bd_status bd_recipe_identity(const char *json, uint64_t size, uint8_t hash[32], bd_err *err) {
    json_t *root = json_loadb(json, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return BD_FAIL(err, BD_E_SYNTAX, "not a recipe");
    }
    for (size_t i = 0; i < sizeof free_keys / sizeof free_keys[0]; i++) json_object_del(root, free_keys[i]);
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    json_decref(root);
    if (!text) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_sha256_of(text, strlen(text), hash);
    free(text);
    return BD_OK;
}

void bd_recipe_close(bd_recipe *r) {
    if (r) bd_arena_destroy(r->arena);
}

int bd_recipe_group(const bd_recipe *r, const char *param_name) {
    for (int g = 0; g < r->n_groups; g++)
        for (int i = 0; i < r->groups[g].n_match; i++)
            if (bd_glob(r->groups[g].match[i], param_name)) return g;
    return -1;
}
