/* Running a graph: one allocation, calls built from the plan, and the host side of
 * tokens, targets and results. */
#include "runtime/exec.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/plan.h"

struct bd_exec {
    const bd_graph *g;
    bd_backend *be;
    bd_plan plan;
    char *mem;       /* the backend's */
    bd_call *calls;  /* one per node, then the loss of a graph that has none */
    int64_t rows, T; /* shape that `calls` is built for */
    const float *params;
    float *grads;
    int64_t nseq;
    bool has_logits, can_backward;
    bd_exec_tap *tap;
    void *tap_user;
};

uint64_t bd_exec_bytes(const bd_exec *x) { return x->plan.bytes; }

int64_t bd_exec_max_rows(const bd_exec *x) { return x->plan.max_rows; }
int64_t bd_exec_max_len(const bd_exec *x) { return x->plan.max_len; }

uint64_t bd_exec_plan_bytes(const bd_graph *g, int64_t max_rows, int64_t max_len) {
    bd_plan p;
    if (bd_plan_make(&p, g, max_rows, max_len, NULL) != BD_OK) return UINT64_MAX;
    bd_plan_free(&p);
    return p.bytes;
}

void bd_exec_set_tap(bd_exec *x, bd_exec_tap *tap, void *user) {
    x->tap = tap;
    x->tap_user = user;
}

/* ---- calls ---- */

static bd_view per_row(char *data, bd_dtype t, int64_t rows) { return (bd_view){data, t, 1, rows}; }

static bd_view operand_view(const bd_exec *x, const bd_node *n, const bd_operand *o) {
    const bd_graph *g = x->g;
    switch (o->kind) {
        case BD_OPD_VALUE: {
            const bd_value *v = &g->values[o->id];
            char *data = x->mem + x->plan.value[o->id];
            if (v->dtype == BD_F64) return per_row(data, BD_F64, x->rows);
            return (bd_view){data, v->dtype, x->rows, v->width};
        }
        case BD_OPD_PARAM:
        case BD_OPD_GRAD: {
            const bd_param *p = &g->params[o->id];
            bd_view v = {NULL, BD_F32, o->row >= 0 ? 1 : p->rows, p->cols};
            uint64_t at = o->row >= 0 ? (uint64_t)o->row * (uint64_t)p->cols : 0;
            if (o->kind == BD_OPD_PARAM) {
                if (x->params) v.data = (void *)(uintptr_t)(x->params + p->offset + at);
            } else if (x->grads) {
                v.data = x->grads + p->grad_offset + (uint64_t)o->use * p->grad_stride + at;
            }
            return v;
        }
        case BD_OPD_TOKENS: return per_row(x->mem + x->plan.tokens, BD_I32, x->rows);
        case BD_OPD_TARGETS: return per_row(x->mem + x->plan.targets, BD_I32, x->rows);
        case BD_OPD_ROPE: {
            const bd_rope_table *t = &x->plan.rope[bd_plan_rope(&x->plan, n->attr.rope.width, n->attr.rope.base)];
            return (bd_view){x->mem + t->offset, BD_F32, x->plan.max_len, t->width};
        }
        default: return (bd_view){0};
    }
}

static void build_call(bd_exec *x, int i) {
    const bd_node *n = &x->g->nodes[i];
    bd_call *c = &x->calls[i];
    memset(c, 0, sizeof *c);
    c->op = n->op;
    c->attr = n->attr;
    c->seq_len = x->T;
    if (n->op == BD_OP_attention || n->op == BD_OP_attention_grad) c->attr.attn.T = (int32_t)x->T;
    for (int k = 0; k < BD_MAX_IN; k++) c->in[k] = operand_view(x, n, &n->in[k]);
    for (int k = 0; k < BD_MAX_OUT; k++) c->out[k] = operand_view(x, n, &n->out[k]);
}

static bool has_own_loss(const bd_graph *g) { return g->nll >= 0; }
static int n_calls(const bd_graph *g) { return g->n_nodes + !has_own_loss(g); }

/* Build every call anew when the batch's shape or an array changed. */
static void build_calls(bd_exec *x, int64_t nseq, int64_t T, const float *params, float *grads) {
    if (x->rows == nseq * T && x->T == T && x->params == params && x->grads == grads) return;
    x->rows = nseq * T;
    x->T = T;
    x->params = params;
    x->grads = grads;
    const bd_graph *g = x->g;
    for (int i = 0; i < g->n_nodes; i++) build_call(x, i);
    if (has_own_loss(g)) return;
    bd_call *c = &x->calls[g->n_nodes];
    memset(c, 0, sizeof *c);
    c->op = BD_OP_nll;
    c->seq_len = T;
    c->in[0] = (bd_view){x->mem + x->plan.value[g->logits], BD_F32, x->rows, g->vocab};
    c->in[1] = per_row(x->mem + x->plan.targets, BD_I32, x->rows);
    c->out[0] = per_row(x->mem + x->plan.nll, BD_F64, x->rows);
    c->out[1] = per_row(x->mem + x->plan.lse, BD_F64, x->rows);
}

static bd_status run(bd_exec *x, int i, bd_err *err) {
    const bd_call *c = &x->calls[i];
    bd_status st = bd_run(x->be, c, err);
    if (st != BD_OK) {
        bd_err_prefix(err, "operation %d (%s): ", i, bd_op_get(c->op)->name);
        return st;
    }
    if (!x->tap || i >= x->g->n_nodes) return BD_OK;
    return x->tap(x->tap_user, &x->g->nodes[i], c, err);
}

/* ---- creation ---- */

/* Scratch grows with the rows or with the length, so both extremes stand for all batches. */
static bd_status reserve(bd_exec *x, bd_err *err) {
    int64_t shapes[2][2] = {{x->plan.max_rows / x->plan.max_len, x->plan.max_len}, {x->plan.max_rows, 1}};
    float *none = (float *)(uintptr_t)64; /* never dereferenced: an address for views of parameters */
    for (int s = 0; s < 2; s++) {
        build_calls(x, shapes[s][0], shapes[s][1], none, none);
        for (int i = 0; i < n_calls(x->g); i++) BD_TRY(x->be->vt->reserve(x->be, &x->calls[i], err));
    }
    x->rows = 0;
    return BD_OK;
}

bd_status bd_exec_create(bd_exec **out, const bd_graph *g, bd_backend *be, int64_t max_rows, int64_t max_len,
                         bd_err *err) {
    *out = NULL;
    bd_exec *x = calloc(1, sizeof *x);
    if (!x) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    x->g = g;
    x->be = be;
    bd_status st;
    for (int i = 0; i < g->n_nodes; i++)
        if (!be->vt->has(be, g->nodes[i].op))
            BD_TRY_DONE(BD_FAIL(err, BD_E_UNSUPPORTED, "backend %s has no kernel for %s", be->vt->name,
                                bd_op_get(g->nodes[i].op)->name));
    if (!be->vt->has(be, BD_OP_nll))
        BD_TRY_DONE(BD_FAIL(err, BD_E_UNSUPPORTED, "backend %s has no kernel for nll", be->vt->name));
    BD_TRY_DONE(bd_plan_make(&x->plan, g, max_rows, max_len, err));
    x->calls = calloc((size_t)n_calls(g), sizeof *x->calls);
    if (!x->calls) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory"));
    void *mem = NULL;
    BD_TRY_DONE(be->vt->alloc(be, &mem, x->plan.bytes, err));
    x->mem = mem;
    BD_TRY_DONE(bd_plan_upload_rope(&x->plan, be, x->mem, err));
    BD_TRY_DONE(reserve(x, err));
    *out = x;
    return BD_OK;
done:
    bd_exec_destroy(x);
    return st;
}

void bd_exec_destroy(bd_exec *x) {
    if (!x) return;
    if (x->mem) x->be->vt->release(x->be, x->mem);
    bd_plan_free(&x->plan);
    free(x->calls);
    free(x);
}

/* ---- running ---- */

static bd_status check_ids(const char *what, const int32_t *id, int64_t n, int32_t low, int32_t vocab,
                           bd_err *err) {
    for (int64_t i = 0; i < n; i++)
        if (id[i] < low || id[i] >= vocab)
            return BD_FAIL(err, BD_E_RANGE,
                           "%s %" PRId32 " at index %" PRId64 " is not below the vocabulary of %" PRId32, what,
                           id[i], i, vocab);
    return BD_OK;
}

bd_status bd_exec_forward(bd_exec *x, const float *params, const int32_t *tokens, const int32_t *targets,
                          int64_t nseq, int64_t T, double *nll, bd_err *err) {
    const bd_graph *g = x->g;
    bd_backend *be = x->be;
    BD_ASSERT(targets || !nll);
    x->can_backward = x->has_logits = false;
    if (nseq < 1 || T < 1 || T > x->plan.max_len || nseq > x->plan.max_rows / T)
        return BD_FAIL(err, BD_E_RANGE,
                       "a batch of %" PRId64 " sequences of %" PRId64 " exceeds the plan (%" PRId64
                       " rows, length %" PRId64 ")",
                       nseq, T, x->plan.max_rows, x->plan.max_len);
    uint64_t n = (uint64_t)(nseq * T);
    BD_TRY(check_ids("token", tokens, (int64_t)n, 0, g->vocab, err));
    if (targets) BD_TRY(check_ids("target", targets, (int64_t)n, -1, g->vocab, err));
    build_calls(x, nseq, T, params, x->grads);
    x->nseq = nseq;
    BD_TRY(be->vt->upload(be, x->mem + x->plan.tokens, tokens, n * sizeof *tokens, err));
    for (int i = 0; i < g->n_forward; i++) BD_TRY(run(x, i, err));
    x->has_logits = true;
    if (!targets) return be->vt->sync(be, err);
    BD_TRY(be->vt->upload(be, x->mem + x->plan.targets, targets, n * sizeof *targets, err));
    BD_TRY(run(x, g->n_forward, err));
    if (nll) BD_TRY(be->vt->download(be, nll, x->calls[g->n_forward].out[0].data, n * sizeof *nll, err));
    x->can_backward = has_own_loss(g);
    return BD_OK;
}

bd_status bd_exec_backward(bd_exec *x, const float *params, float gscale, float *grads, bd_err *err) {
    const bd_graph *g = x->g;
    BD_ASSERT(x->can_backward && grads);
    x->can_backward = x->has_logits = false; /* their memory is reused from here on */
    build_calls(x, x->nseq, x->T, params, grads);
    for (int i = g->n_forward + 1; i < g->n_nodes; i++) {
        if (x->calls[i].op == BD_OP_nll_grad) x->calls[i].attr.loss.gscale = gscale;
        BD_TRY(run(x, i, err));
    }
    return x->be->vt->sync(x->be, err);
}

bd_status bd_exec_logits(bd_exec *x, int64_t row, int64_t n, float *out, bd_err *err) {
    if (!x->has_logits || row < 0 || n < 0 || row > x->rows || n > x->rows - row)
        return BD_FAIL(err, BD_E_RANGE, "there are no logits for rows %" PRId64 " to %" PRId64, row, row + n);
    const char *from = x->mem + x->plan.value[x->g->logits] + (uint64_t)row * (uint64_t)x->g->vocab * sizeof(float);
    return x->be->vt->download(x->be, out, from, (uint64_t)n * (uint64_t)x->g->vocab * sizeof(float), err);
}
