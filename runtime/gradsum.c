/* The gradient of a whole batch in the normative order: 8 virtual shards by
 * sequence index, one chain per shard and use across micro-batches, a binary
 * tree over the shards, then the uses of a parameter with the last use first.
 * The micro-batches' size cannot matter: every accumulation is a chain over rows
 * in order, and a chain may be cut anywhere. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/exec.h"

enum { SHARDS = 8, ZERO_FLOATS = 1 << 18 };

struct bd_gradsum {
    const bd_graph *g;
    bd_backend *be;
    float *shards; /* (SHARDS, grad_floats), the backend's */
    float *sum;    /* (grad_floats), the backend's */
    float *zeros;  /* host (ZERO_FLOATS): backends have no fill, they have upload */
};

bd_status bd_gradsum_create(bd_gradsum **out, const bd_graph *g, bd_backend *be, bd_err *err) {
    *out = NULL;
    bd_gradsum *s = calloc(1, sizeof *s);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    s->g = g;
    s->be = be;
    bd_status st;
    void *p = NULL;
    bd_op needed[2] = {BD_OP_tree_sum8, BD_OP_axpby};
    for (int i = 0; i < 2; i++)
        if (!be->vt->has(be, needed[i]))
            BD_TRY_DONE(BD_FAIL(err, BD_E_UNSUPPORTED, "backend %s has no kernel for %s", be->vt->name,
                                bd_op_get(needed[i])->name));
    BD_TRY_DONE(be->vt->alloc(be, &p, SHARDS * g->grad_floats * sizeof(float), err));
    s->shards = p;
    BD_TRY_DONE(be->vt->alloc(be, &p, g->grad_floats * sizeof(float), err));
    s->sum = p;
    s->zeros = calloc(ZERO_FLOATS, sizeof *s->zeros);
    if (!s->zeros) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory"));
    *out = s;
    return BD_OK;
done:
    bd_gradsum_destroy(s);
    return st;
}

void bd_gradsum_destroy(bd_gradsum *s) {
    if (!s) return;
    if (s->shards) s->be->vt->release(s->be, s->shards);
    if (s->sum) s->be->vt->release(s->be, s->sum);
    free(s->zeros);
    free(s);
}

uint64_t bd_gradsum_bytes(const bd_gradsum *s) {
    return (SHARDS + 1) * s->g->grad_floats * sizeof(float) + ZERO_FLOATS * sizeof(float);
}

static bd_status clear(bd_gradsum *s, float *at, uint64_t n, bd_err *err) {
    for (uint64_t i = 0; i < n; i += ZERO_FLOATS) {
        uint64_t part = n - i < ZERO_FLOATS ? n - i : ZERO_FLOATS;
        BD_TRY(s->be->vt->upload(s->be, at + i, s->zeros, part * sizeof(float), err));
    }
    return BD_OK;
}

static bd_view flat(float *data, uint64_t rows, uint64_t n) {
    return (bd_view){data, BD_F32, (int64_t)rows, (int64_t)n};
}

/* z = x + y; with y NULL a copy of x (x * 1 + x * 0, which is x for finite x and NaN where x is not finite). */
static bd_status combine(bd_gradsum *s, float *z, float *x, float *y, uint64_t n, bd_err *err) {
    bd_call c = {.op = BD_OP_axpby,
                 .in = {flat(x, 1, n), flat(y ? y : x, 1, n)},
                 .out = {flat(z, 1, n)},
                 .attr.lin = {1.0f, y ? 1.0f : 0.0f}};
    return bd_run(s->be, &c, err);
}

static bd_status join(bd_gradsum *s, float *grad, bd_err *err) {
    const bd_graph *g = s->g;
    bd_call c = {.op = BD_OP_tree_sum8,
                 .in = {flat(s->shards, SHARDS, g->grad_floats)},
                 .out = {flat(s->sum, 1, g->grad_floats)},
                 .attr.lin = {1.0f, 0.0f}};
    BD_TRY(bd_run(s->be, &c, err));
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        float *to = grad + p->offset, *from = s->sum + p->grad_offset;
        uint64_t n = p->grad_stride;
        if (p->uses == 1) {
            /* Neighbours used once lie alike in both arrays: one call for the run. */
            while (i + 1 < g->n_params && g->params[i + 1].uses == 1) n += g->params[++i].grad_stride;
            BD_TRY(combine(s, to, from, NULL, n, err));
            continue;
        }
        float *last = from + (uint64_t)(p->uses - 1) * n;
        BD_TRY(combine(s, to, last, last - n, n, err));
        for (int u = p->uses - 3; u >= 0; u--) BD_TRY(combine(s, to, to, from + (uint64_t)u * n, n, err));
    }
    return s->be->vt->sync(s->be, err);
}

bd_status bd_batch_gradient(bd_exec *x, bd_gradsum *s, const float *params, const int32_t *tokens,
                            const int32_t *targets, int64_t nseq, int64_t T, float *grad, double *nll,
                            const bd_progress *progress, bd_err *err) {
    if (nseq < 1 || T < 1 || nseq > INT32_MAX)
        return BD_FAIL(err, BD_E_RANGE, "a batch needs at least one sequence of one token");
    int64_t scored = 0, most = bd_exec_max_rows(x) / T;
    for (int64_t i = 0; i < nseq * T; i++) scored += targets[i] >= 0;
    if (!scored) return BD_FAIL(err, BD_E_RANGE, "no target of the batch is scored");
    if (most < 1)
        return BD_FAIL(err, BD_E_RANGE, "a sequence of %" PRId64 " tokens exceeds the plan of %" PRId64 " rows", T,
                       bd_exec_max_rows(x));
    float gscale = (float)(1.0 / (double)scored);
    BD_TRY(clear(s, s->shards, SHARDS * s->g->grad_floats, err));
    for (int64_t b = 0; b < nseq;) {
        int64_t shard = b * SHARDS / nseq, n = 1;
        while (n < most && b + n < nseq && (b + n) * SHARDS / nseq == shard) n++;
        if (bd_stopped(progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
        BD_TRY(bd_exec_forward(x, params, tokens + b * T, targets + b * T, n, T, nll ? nll + b * T : NULL, err));
        BD_TRY(bd_exec_backward(x, params, gscale, s->shards + (uint64_t)shard * s->g->grad_floats, err));
        b += n;
        bd_tick(progress, "sequences", (double)b, (double)nseq, "%s", "");
    }
    return join(s, grad, err);
}
