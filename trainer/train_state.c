#include "trainer/train_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sha256.h"
#include "format/checkpoint.h"
#include "runtime/model.h"

enum { MAX_ARRAYS = 8 };

typedef struct named_array {
    char name[32];
    float *mem; /* backend memory */
} named_array;

static int list_arrays(bd_train_state *s, named_array out[MAX_ARRAYS]) {
    int n = 0;
    out[n++] = (named_array){"params", s->params};
    if (s->ema) out[n++] = (named_array){"ema", s->ema};
    const char *name;
    float *mem;
    for (int i = 0; n < MAX_ARRAYS && (mem = bd_optimizer_state(s->optimizer, i, &name)) != NULL; i++) {
        snprintf(out[n].name, sizeof out[n].name, "optimizer.%s", name);
        out[n++].mem = mem;
    }
    return n;
}

static bd_status graph_hash(const bd_graph *g, char hex[65], bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_graph_print(g, &text, err);
    if (!st) {
        uint8_t h[32];
        bd_sha256_of(text.data, text.size, h);
        bd_sha256_hex(h, hex);
    }
    bd_buf_free(&text);
    return st;
}

bd_status bd_train_state_save(bd_train_state *s, const bd_graph *g, bd_backend *be, const char *path, bd_err *err) {
    named_array arrays[MAX_ARRAYS];
    int n = list_arrays(s, arrays);
    char hash[65], number[64];
    float *copy[MAX_ARRAYS] = {0};
    bool on_host = bd_backend_is_host(be); /* then the arrays can be written where they lie */
    bd_st_writer *w = NULL;
    bd_status st = BD_OK;
    BD_TRY_DONE(graph_hash(g, hash, err));
    BD_TRY_DONE(bd_st_create(&w, path, err));
    BD_TRY_DONE(bd_st_meta(w, "birdie_state", "1", err));
    BD_TRY_DONE(bd_st_meta(w, "graph_sha256", hash, err));
    snprintf(number, sizeof number, "%lld", (long long)s->step);
    BD_TRY_DONE(bd_st_meta(w, "step", number, err));
    snprintf(number, sizeof number, "%a", s->elapsed);
    BD_TRY_DONE(bd_st_meta(w, "elapsed", number, err));
    int64_t dim[1] = {(int64_t)g->param_floats};
    for (int i = 0; i < n; i++) {
        if (!on_host) {
            copy[i] = bd_alloc_aligned(g->param_floats, sizeof(float));
            if (!copy[i]) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory saving the state"));
            BD_TRY_DONE(be->vt->download(be, copy[i], arrays[i].mem, g->param_floats * sizeof(float), err));
        }
        BD_TRY_DONE(bd_st_tensor(w, arrays[i].name, BD_CK_F32, 1, dim, on_host ? arrays[i].mem : copy[i], err));
    }
    st = bd_st_finish(w, err);
    w = NULL;
done:
    if (w) bd_st_abort(w);
    for (int i = 0; i < n; i++) free(copy[i]);
    return st;
}

static const char *meta(const bd_ckpt *c, const char *key) {
    const char *value = bd_ckpt_meta(c, key);
    return value ? value : "";
}

bd_status bd_train_state_load(bd_train_state *s, const bd_graph *g, bd_backend *be, const char *path, bd_err *err) {
    bd_ckpt *c = NULL;
    float *host = NULL;
    char hash[65];
    bd_status st = graph_hash(g, hash, err);
    if (!st) st = bd_ckpt_open(&c, path, err);
    if (st) goto done;
    if (strcmp(meta(c, "birdie_state"), "1") != 0) {
        st = BD_FAIL(err, BD_E_MAGIC, "not a training state (its metadata lacks birdie_state)");
        goto done;
    }
    if (strcmp(meta(c, "graph_sha256"), hash) != 0) {
        st =
            BD_FAIL(err, BD_E_SHAPE, "the state belongs to another model; resume with the recipe it was made with");
        goto done;
    }
    char *end_step, *end_time;
    const char *step = meta(c, "step"), *elapsed = meta(c, "elapsed");
    s->step = strtoll(step, &end_step, 10);
    s->elapsed = strtod(elapsed, &end_time);
    if (!*step || *end_step || s->step < 0 || s->step > 1000000000 || !*elapsed || *end_time ||
        !(s->elapsed >= 0) || !(s->elapsed < 1e12))
        BD_TRY_DONE(BD_FAIL(err, BD_E_FIELD, "the state's step or elapsed time is not a number in range"));
    host = bd_alloc_aligned(g->param_floats, sizeof(float));
    if (!host) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory loading the state"));
    named_array arrays[MAX_ARRAYS];
    int n = list_arrays(s, arrays);
    for (int i = 0; i < n; i++) {
        int t = bd_ckpt_find(c, arrays[i].name);
        if (t < 0 || c->tensors[t].count != (int64_t)g->param_floats) {
            st = BD_FAIL(err, BD_E_MISSING, "the state has no array \"%s\" of %llu floats", arrays[i].name,
                         (unsigned long long)g->param_floats);
            goto done;
        }
        BD_TRY_DONE(bd_ckpt_read_f32(c, t, host, err));
        for (uint64_t k = 0; k < g->param_floats; k++)
            if (!isfinite(host[k]))
                BD_TRY_DONE(BD_FAIL(err, BD_E_NONFINITE, "array \"%s\" of the state is not finite at %llu",
                                    arrays[i].name, (unsigned long long)k));
        BD_TRY_DONE(be->vt->upload(be, arrays[i].mem, host, g->param_floats * sizeof(float), err));
    }
done:
    free(host);
    bd_ckpt_close(c);
    if (st) bd_err_file(err, path);
    return st;
}

/* Host copy of backend memory; free() it. */
static bd_status host_copy(float **out, const float *params, const bd_graph *g, bd_backend *be, bd_err *err) {
    *out = bd_alloc_aligned(g->param_floats, sizeof(float));
    if (!*out) return BD_FAIL(err, BD_E_NOMEM, "out of memory copying the weights");
    bd_status st = be->vt->download(be, *out, params, g->param_floats * sizeof(float), err);
    if (st) {
        free(*out);
        *out = NULL;
    }
    return st;
}

bd_status bd_train_model_save(const float *params, const bd_graph *g, bd_backend *be, const char *path,
                              const char *recipe_json, bd_err *err) {
    float *host = NULL;
    bd_st_writer *w = NULL;
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = host_copy(&host, params, g, be, err);
    if (st) return st;
    BD_TRY_DONE(bd_graph_print(g, &text, err));
    bd_buf_u8(&text, 0);
    BD_TRY_DONE(bd_buf_check(&text, err));
    BD_TRY_DONE(bd_st_create(&w, path, err));
    BD_TRY_DONE(bd_st_meta(w, BD_META_MODEL, g->name, err));
    BD_TRY_DONE(bd_st_meta(w, BD_META_GRAPH, (const char *)text.data, err));
    if (recipe_json) BD_TRY_DONE(bd_st_meta(w, "birdie.recipe", recipe_json, err));
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        int64_t dim[2] = {p->rows, p->cols};
        if (p->ndim == 1) dim[0] = p->cols;
        BD_TRY_DONE(bd_st_tensor(w, p->name, BD_CK_F32, p->ndim, dim, host + p->offset, err));
    }
    st = bd_st_finish(w, err);
    w = NULL;
done:
    if (w) bd_st_abort(w);
    bd_buf_free(&text);
    free(host);
    return st;
}

bd_status bd_train_weights_hash(const float *params, const bd_graph *g, bd_backend *be, uint8_t out[32],
                                bd_err *err) {
    float *host = NULL;
    BD_TRY(host_copy(&host, params, g, be, err));
    for (int i = 0; i < g->n_params; i++)
        for (int64_t k = 0; k < g->params[i].rows * g->params[i].cols; k++)
            if (!isfinite(host[g->params[i].offset + (uint64_t)k])) {
                free(host);
                return BD_FAIL(err, BD_E_NONFINITE,
                               "training made %s[%lld] infinite or NaN; lower the learning rates or clip",
                               g->params[i].name, (long long)k);
            }
    bd_sha256 h;
    bd_sha256_init(&h);
    for (int i = 0; i < g->n_params; i++)
        bd_sha256_add(&h, host + g->params[i].offset,
                      (size_t)(g->params[i].rows * g->params[i].cols) * sizeof(float));
    bd_sha256_end(&h, out);
    free(host);
    return BD_OK;
}
