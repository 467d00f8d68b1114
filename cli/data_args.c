#include "cli/data_args.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/protocol_json.h"

/* ---- bytes per target ---- */

/* Append a sidecar's counts at out[at ...]; it must have exactly n. */
static bd_status read_sidecar(const char *path, uint64_t n, uint16_t *out, bd_err *err) {
    bd_shard *s = calloc(1, sizeof *s);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = bd_shard_open(s, path, err);
    if (st == BD_OK) {
        if (s->n == n) {
            memcpy(out, s->tokens, n * sizeof *out);
        } else {
            st = BD_FAIL(err, BD_E_FIELD, "the byte sidecar has %" PRIu64 " entries, the tokens are %" PRIu64, s->n,
                         n);
            bd_err_file(err, path);
        }
        bd_shard_close(s);
    }
    free(s);
    return st;
}

static bd_status find_sidecars(bd_data *d, const bd_data_args *a, bd_err *err) {
    int have = 0;
    char side[1024];
    if (a->bytes) {
        d->sidecar = true;
        return read_sidecar(a->bytes, d->shards.total, d->bytes, err);
    }
    for (int i = 0; i < d->shards.n; i++) have += bd_shard_sidecar(d->shards.shards[i].path, side);
    if (!have) return BD_OK;
    uint64_t at = 0;
    for (int i = 0; i < d->shards.n; i++) {
        const bd_shard *s = &d->shards.shards[i];
        if (!bd_shard_sidecar(s->path, side)) {
            bd_status st = BD_FAIL(err, BD_E_MISSING, "no byte sidecar beside this shard, but beside others");
            bd_err_file(err, s->path);
            return st;
        }
        BD_TRY(read_sidecar(side, s->n, d->bytes + at, err));
        at += s->n;
    }
    d->sidecar = true;
    return BD_OK;
}

static bd_status tokenizer_bytes(bd_data *d, bd_err *err) {
    const bd_tokenizer *t = d->tokenizer;
    if (!t) return BD_FAIL(err, BD_E_USAGE, "no byte sidecar found: give the tokenizer with --tokenizer");
    for (int i = 0; i < d->shards.n; i++) {
        bd_status st = bd_shard_check_vocab(&d->shards.shards[i], t->n, err);
        if (st != BD_OK) {
            bd_err_prefix(err, "not a piece of the tokenizer: ");
            return st;
        }
    }
    bd_tokenizer_stream_bytes(t, d->shards.tokens, d->shards.total, d->bytes);
    return BD_OK;
}

bd_status bd_data_open(bd_data *d, const bd_data_args *a, bd_err *err) {
    bd_status st = BD_OK;
    memset(d, 0, sizeof *d);
    BD_TRY_DONE(bd_shard_expand(a->shards, a->n_shards, a->split ? a->split : "val", &d->paths, &d->n_paths, err));
    BD_TRY_DONE(bd_shards_open(&d->shards, (const char *const *)d->paths, (int)d->n_paths, err));
    if (a->tokenizer) BD_TRY_DONE(bd_tokenizer_open(&d->tokenizer, a->tokenizer, err));
    d->bytes = malloc(d->shards.total * sizeof *d->bytes + 1);
    if (!d->bytes) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    BD_TRY_DONE(find_sidecars(d, a, err));
    if (!d->sidecar) BD_TRY_DONE(tokenizer_bytes(d, err));
    d->stream = (bd_stream){d->shards.tokens, d->bytes, d->shards.total};
done:
    if (st != BD_OK) bd_data_close(d);
    return st;
}

void bd_data_close(bd_data *d) {
    bd_shards_close(&d->shards);
    bd_tokenizer_close(d->tokenizer);
    bd_names_free(d->paths, d->n_paths);
    free(d->bytes);
    memset(d, 0, sizeof *d);
}

bd_status bd_data_check_model(const bd_data *d, const bd_model *m, bd_err *err) {
    for (int i = 0; i < d->shards.n; i++)
        BD_TRY(bd_shard_check_vocab(&d->shards.shards[i], (uint32_t)m->graph->vocab, err));
    if (m->has_tokenizer_hash && d->tokenizer && memcmp(m->tokenizer_hash, d->tokenizer->tables_hash, 32) != 0)
        return BD_FAIL(
            err, BD_E_CHECKSUM,
            "the artifact was made for another tokenizer: the byte tables of --tokenizer have another hash");
    return BD_OK;
}

/* ---- models ---- */

typedef struct settings {
    bd_setting *list;
    int n;
    char **owned; /* (n_owned) */
    int n_owned;
} settings;

static void settings_free(settings *s) {
    for (int i = 0; i < s->n_owned; i++) free(s->owned[i]);
    free(s->owned);
    free(s->list);
}

static bd_status settings_init(settings *s, int cap, bd_err *err) {
    memset(s, 0, sizeof *s);
    s->list = calloc((size_t)cap + 1, sizeof *s->list);
    s->owned = calloc(2 * (size_t)cap + 2, sizeof *s->owned);
    return s->list && s->owned ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
}

static bd_status settings_add(settings *s, const char *name, size_t name_len, const char *value, bd_err *err) {
    char *n = strndup(name, name_len), *v = strdup(value);
    s->owned[s->n_owned++] = n;
    s->owned[s->n_owned++] = v;
    if (!n || !v) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    s->list[s->n++] = (bd_setting){n, v};
    return BD_OK;
}

static bd_status from_sets(settings *s, const bd_model_args *a, bd_err *err) {
    BD_TRY(settings_init(s, a->n_sets, err));
    for (int i = 0; i < a->n_sets; i++) {
        const char *eq = strchr(a->sets[i], '=');
        if (!eq || eq == a->sets[i] || !eq[1])
            return BD_FAIL(err, BD_E_USAGE, "--set %s: write constant=value", a->sets[i]);
        BD_TRY(settings_add(s, a->sets[i], (size_t)(eq - a->sets[i]), eq + 1, err));
    }
    return BD_OK;
}

static bd_status from_recipe(settings *s, const char *path, bd_err *err) {
    json_t *recipe;
    BD_TRY(bd_json_load_object(&recipe, path, err));
    json_t *constants = json_object_get(recipe, "constants"), *value;
    const char *key;
    bd_status st = settings_init(s, (int)json_object_size(constants), err);
    if (st == BD_OK && constants && !json_is_object(constants))
        st = BD_FAIL(err, BD_E_FIELD, "\"constants\" must be an object");
    json_object_foreach(constants, key, value) {
        char text[64];
        if (st != BD_OK) break;
        if (json_is_integer(value)) {
            snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        } else if (json_is_real(value)) {
            snprintf(text, sizeof text, "%.17g", json_real_value(value));
        } else {
            st = BD_FAIL(err, BD_E_FIELD, "constant \"%.80s\" must be a number", key);
            break;
        }
        st = settings_add(s, key, strlen(key), text, err);
    }
    json_decref(recipe);
    if (st != BD_OK) bd_err_file(err, path);
    return st;
}

bd_status bd_model_args_open(bd_model **out, const bd_model_args *a, bd_err *err) {
    settings sets = {0}, constants = {0};
    char recipe[1024];
    *out = NULL;
    bd_status st = BD_OK;
    BD_TRY_DONE(from_sets(&sets, a, err));
    if (bd_path_is_dir(a->path)) {
        int n = snprintf(recipe, sizeof recipe, "%s/recipe.json", a->path);
        if (n > 0 && (size_t)n < sizeof recipe && access(recipe, R_OK) == 0)
            BD_TRY_DONE(from_recipe(&constants, recipe, err));
    }
    bd_model_opts opts = {
        .model_file = a->model_file,
        .settings = sets.list,
        .n_settings = sets.n,
        .defaults = constants.list,
        .n_defaults = constants.n,
        .allow_external = a->allow_external,
        .max_memory = a->max_memory,
    };
    st = bd_model_open(out, a->path, &opts, err);
done:
    settings_free(&sets);
    settings_free(&constants);
    return st;
}
