#include "compiler/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sha256.h"
#include "format/checkpoint.h"
#include "runtime/exec.h"

enum { CALL_ROWS = 2048 };

static int slot_of_value(const bd_calibration *c, int32_t value) {
    for (int i = 0; i < c->n_slots; i++)
        if (c->slots[i].value == value) return i;
    return -1;
}

/* A slot per distinct input value of a linear with a parameter as weight. */
static bd_status make_slots(bd_calibration *c, const bd_graph *g, bd_err *err) {
    c->slots = calloc((size_t)g->n_nodes + 1, sizeof *c->slots);
    c->param_slot = malloc(((size_t)g->n_params + 1) * sizeof *c->param_slot);
    if (!c->slots || !c->param_slot) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the Hessians");
    for (int i = 0; i < g->n_params; i++) c->param_slot[i] = -1;
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *nd = &g->nodes[i];
        if (nd->op != BD_OP_linear || nd->in[1].kind != BD_OPD_PARAM || nd->in[0].kind != BD_OPD_VALUE) continue;
        int s = slot_of_value(c, nd->in[0].id);
        if (s < 0) {
            s = c->n_slots++;
            int64_t n = g->values[nd->in[0].id].width;
            c->slots[s] = (bd_hessian){bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof(double)), n, nd->in[0].id};
            if (!c->slots[s].h) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a %lld x %lld Hessian",
                                               (long long)n, (long long)n);
        }
        if (c->param_slot[nd->in[1].id] < 0) c->param_slot[nd->in[1].id] = s;
    }
    return BD_OK;
}

typedef struct tap_state {
    bd_calibration *c;
    const bd_graph *g;
    bd_backend *be;
} tap_state;

static bd_status collect(void *user, const bd_node *nd, const bd_call *call, bd_err *err) {
    tap_state *t = user;
    if (nd->op != BD_OP_linear || nd->in[0].kind != BD_OPD_VALUE) return BD_OK;
    int s = slot_of_value(t->c, nd->in[0].id);
    if (s < 0) return BD_OK;
    /* Of the nodes that share this input only the first one counts. */
    for (const bd_node *p = t->g->nodes; p < nd; p++)
        if (p->op == BD_OP_linear && p->in[0].kind == BD_OPD_VALUE && p->in[0].id == nd->in[0].id) return BD_OK;
    bd_hessian *h = &t->c->slots[s];
    bd_call sum = {.op = BD_OP_second_moment, .in = {call->in[0]}, .out = {{h->h, BD_F64, h->n, h->n}}};
    return bd_run(t->be, &sum, err);
}

static bd_status check_stream(const bd_model *m, const bd_calib_opts *o, bd_err *err) {
    if (o->n < (uint64_t)o->window)
        return BD_FAIL(err, BD_E_MISSING, "the calibration shards hold %llu tokens, fewer than one window of %lld",
                       (unsigned long long)o->n, (long long)o->window);
    for (uint64_t i = 0; i < o->n; i++)
        if (o->tokens[i] >= m->graph->vocab)
            return BD_FAIL(err, BD_E_RANGE, "calibration token %llu is %u, the vocabulary ends at %d",
                           (unsigned long long)i, o->tokens[i], m->graph->vocab - 1);
    return BD_OK;
}

bd_status bd_calibrate(bd_calibration **out, const bd_model *m, bd_backend *be, const bd_calib_opts *o, bd_err *err) {
    *out = NULL;
    BD_TRY(check_stream(m, o, err));
    bd_calibration *c = calloc(1, sizeof *c);
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_exec *x = NULL;
    int64_t T = o->window, per = CALL_ROWS / T > 0 ? CALL_ROWS / T : 1;
    int32_t *tokens = malloc((size_t)(per * T) * sizeof *tokens);
    bd_status st = tokens ? make_slots(c, m->graph, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st) goto done;
    BD_TRY_DONE(bd_exec_create(&x, m->graph, be, per * T, T, err));
    tap_state tap = {c, m->graph, be};
    bd_exec_set_tap(x, collect, &tap);
    uint64_t have = o->n / (uint64_t)T, want = o->max_tokens / (uint64_t)T;
    if (want < 1) want = 1;
    if (want > have) want = have;
    bd_sha256 hash;
    bd_sha256_init(&hash);
    for (uint64_t w = 0; w < want; w += (uint64_t)per) {
        int64_t n = 0;
        for (; n < per && w + (uint64_t)n < want; n++) {
            uint64_t start = (w + (uint64_t)n) * have / want * (uint64_t)T;
            for (int64_t t = 0; t < T; t++) tokens[n * T + t] = o->tokens[start + (uint64_t)t];
        }
        bd_sha256_add(&hash, tokens, (size_t)(n * T) * sizeof *tokens);
        BD_TRY_DONE(bd_exec_forward(x, m->params, tokens, NULL, n, T, NULL, err));
        bd_tick(o->progress, "calibration windows", (double)(w + (uint64_t)n), (double)want, "%s", "");
        if (bd_stopped(o->progress)) {
            st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted during calibration");
            goto done;
        }
    }
    bd_sha256_end(&hash, c->tokens_hash);
    c->tokens = want * (uint64_t)T;
done:
    bd_exec_destroy(x);
    free(tokens);
    if (st) bd_calibration_destroy(c);
    else *out = c;
    return st;
}

void bd_calibration_destroy(bd_calibration *c) {
    if (!c) return;
    for (int i = 0; i < c->n_slots; i++) free(c->slots[i].h);
    free(c->slots);
    free(c->param_slot);
    free(c);
}

double *bd_calibration_hessian(const bd_calibration *c, const bd_graph *g, int param) {
    int first = c->param_slot[param];
    if (first < 0) return NULL;
    int64_t n = c->slots[first].n;
    double *h = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof(double));
    if (!h) return NULL;
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *nd = &g->nodes[i];
        if (nd->op != BD_OP_linear || nd->in[1].kind != BD_OPD_PARAM || nd->in[1].id != param) continue;
        const double *src = c->slots[slot_of_value(c, nd->in[0].id)].h;
        for (int64_t k = 0; k < n * n; k++) h[k] += src[k];
    }
    return h;
}

/* --- keeping it --- */

bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err) {
    bd_st_writer *w = NULL;
    char key[65], tokens[65], count[32], name[32];
    bd_sha256_hex(c->tokens_hash, tokens);
    snprintf(count, sizeof count, "%llu", (unsigned long long)c->tokens);
    bd_sha256_hex(m->model_hash, key);
    BD_TRY(bd_st_create(&w, path, err));
    bd_status st = BD_OK;
    BD_TRY_DONE(bd_st_meta(w, "birdie_statistics", "1", err));
    BD_TRY_DONE(bd_st_meta(w, "model_sha256", key, err));
    BD_TRY_DONE(bd_st_meta(w, "tokens_sha256", tokens, err));
    BD_TRY_DONE(bd_st_meta(w, "tokens", count, err));
    for (int i = 0; i < c->n_slots; i++) {
        int64_t dim[2] = {c->slots[i].n, c->slots[i].n};
        snprintf(name, sizeof name, "hessian.%d", i);
        BD_TRY_DONE(bd_st_tensor(w, name, BD_CK_F64, 2, dim, c->slots[i].h, err));
    }
    st = bd_st_finish(w, err);
    w = NULL;
done:
    if (w) bd_st_abort(w);
    return st;
}

static const char *meta(const bd_ckpt *f, const char *key) {
    for (int i = 0; i < f->n_meta; i++)
        if (!strcmp(f->meta_keys[i], key)) return f->meta_values[i];
    return "";
}

static bd_status load_slots(bd_calibration *c, const bd_ckpt *f, bd_err *err) {
    char name[32];
    for (int i = 0; i < c->n_slots; i++) {
        snprintf(name, sizeof name, "hessian.%d", i);
        int t = bd_ckpt_find(f, name);
        uint64_t bytes = 0;
        const void *raw = t < 0 ? NULL : bd_ckpt_raw(f, t, &bytes);
        uint64_t want = (uint64_t)c->slots[i].n * (uint64_t)c->slots[i].n * sizeof(double);
        if (!raw || f->tensors[t].dtype != BD_CK_F64 || bytes != want)
            return BD_FAIL(err, BD_E_SHAPE, "the statistics lack %s as %lld x %lld doubles", name,
                           (long long)c->slots[i].n, (long long)c->slots[i].n);
        memcpy(c->slots[i].h, raw, bytes);
        for (int64_t k = 0; k < c->slots[i].n * c->slots[i].n; k++)
            if (!isfinite(c->slots[i].h[k])) return BD_FAIL(err, BD_E_NONFINITE, "%s[%lld] is not finite", name, (long long)k);
    }
    return BD_OK;
}

bd_status bd_calibration_load(bd_calibration **out, const bd_model *m, const char *path, bd_err *err) {
    *out = NULL;
    bd_ckpt *f = NULL;
    char key[65];
    bd_calibration *c = calloc(1, sizeof *c);
    bd_status st = c ? bd_ckpt_open(&f, path, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st) goto done;
    bd_sha256_hex(m->model_hash, key);
    if (strcmp(meta(f, "birdie_statistics"), "1") != 0) {
        st = BD_FAIL(err, BD_E_MAGIC, "not a statistics file (its metadata lacks birdie_statistics)");
        goto done;
    }
    if (strcmp(meta(f, "model_sha256"), key) != 0) {
        st = BD_FAIL(err, BD_E_CHECKSUM, "the statistics belong to other weights; delete the file to collect them anew");
        goto done;
    }
    c->tokens = strtoull(meta(f, "tokens"), NULL, 10);
    const char *hex = meta(f, "tokens_sha256");
    for (int i = 0; i < 32 && strlen(hex) == 64; i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) == 1) c->tokens_hash[i] = (uint8_t)byte;
    }
    BD_TRY_DONE(make_slots(c, m->graph, err));
    BD_TRY_DONE(load_slots(c, f, err));
done:
    bd_ckpt_close(f);
    if (st) {
        bd_calibration_destroy(c);
        bd_err_file(err, path);
    } else {
        *out = c;
    }
    return st;
}
