#include "runtime/steps.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/plan.h"

struct bd_steps {
    const bd_graph *g;
    bd_backend *be;
    bd_plan plan;
    char *mem;        /* the backend's */
    int64_t position; /* tokens whose keys and values are kept */
    int64_t last;     /* rows of the last step; 0: none since begin */
    const float *params;
};

uint64_t bd_steps_bytes(const bd_steps *s) { return s->plan.bytes; }

uint64_t bd_steps_plan_bytes(const bd_graph *g, int64_t max_rows, int64_t max_len) {
    bd_plan p;
    if (bd_plan_make_steps(&p, g, max_rows, max_len, NULL) != BD_OK) return UINT64_MAX;
    bd_plan_free(&p);
    return p.bytes;
}

/* ---- calls ---- */

static bd_view rows_of_value(const bd_steps *s, int32_t id, int64_t first, int64_t rows) {
    const bd_value *v = &s->g->values[id];
    char *data = s->mem + s->plan.value[id] + (uint64_t)first * (uint64_t)v->width * sizeof(float);
    return (bd_view){data, v->dtype, rows, v->width};
}

/* An operand of a step of n rows at `position`. */
static bd_view operand_view(const bd_steps *s, const bd_node *node, const bd_operand *o, int64_t position,
                            int64_t n) {
    switch (o->kind) {
        case BD_OPD_VALUE: return rows_of_value(s, o->id, s->plan.cached[o->id] ? position : 0, n);
        case BD_OPD_PARAM: {
            const bd_param *p = &s->g->params[o->id];
            uint64_t at = o->row >= 0 ? (uint64_t)o->row * (uint64_t)p->cols : 0;
            return (bd_view){(void *)(uintptr_t)(s->params + p->offset + at), BD_F32, o->row >= 0 ? 1 : p->rows,
                             p->cols};
        }
        case BD_OPD_TOKENS: return (bd_view){s->mem + s->plan.tokens, BD_I32, 1, n};
        case BD_OPD_ROPE: {
            const bd_rope_table *t =
                &s->plan.rope[bd_plan_rope(&s->plan, node->attr.rope.width, node->attr.rope.base)];
            char *data = s->mem + t->offset + (uint64_t)position * (uint64_t)t->width * sizeof(float);
            return (bd_view){data, BD_F32, s->plan.max_len - position, t->width};
        }
        case BD_OPD_NONE:
        case BD_OPD_GRAD:
        case BD_OPD_TARGETS: break;
    }
    return (bd_view){NULL, BD_F32, 0, 0};
}

static void build_call(const bd_steps *s, bd_call *c, int i, int64_t position, int64_t n) {
    const bd_node *node = &s->g->nodes[i];
    memset(c, 0, sizeof *c);
    c->op = node->op;
    c->attr = node->attr;
    c->seq_len = n;
    for (int k = 0; k < BD_MAX_IN; k++) c->in[k] = operand_view(s, node, &node->in[k], position, n);
    for (int k = 0; k < BD_MAX_OUT; k++) c->out[k] = operand_view(s, node, &node->out[k], position, n);
    if (node->op != BD_OP_attention) return;
    c->op = BD_OP_attention_step;
    c->seq_len = position + n;
    c->attr.attn.T = (int32_t)c->seq_len;
    for (int k = 1; k <= 2; k++) c->in[k] = rows_of_value(s, node->in[k].id, 0, position + n);
    c->out[1] = (bd_view){NULL, BD_F32, 0, 0}; /* only gradients read the stats */
}

static void loss_call(const bd_steps *s, bd_call *c, int64_t row) {
    memset(c, 0, sizeof *c);
    c->op = BD_OP_nll;
    c->seq_len = 1;
    c->in[0] = rows_of_value(s, s->g->logits, row, 1);
    c->in[1] = (bd_view){s->mem + s->plan.targets, BD_I32, 1, 1};
    c->out[0] = (bd_view){s->mem + s->plan.nll, BD_F64, 1, 1};
    c->out[1] = (bd_view){s->mem + s->plan.lse, BD_F64, 1, 1};
}

/* Of the last token. */
static int64_t logits_row(const bd_steps *s) {
    return s->plan.cached[s->g->logits] ? s->position - 1 : s->last - 1;
}

/* ---- creation ---- */

/* Scratch grows with the rows of a step and with the keys it sees: one row and the most rows, at the end. */
static bd_status reserve(bd_steps *s, bd_err *err) {
    bd_call c;
    int64_t rows = s->plan.max_rows < s->plan.max_len ? s->plan.max_rows : s->plan.max_len;
    s->params = (const float *)(uintptr_t)64; /* never dereferenced: an address for views of parameters */
    for (int64_t n = 1;; n = rows) {
        for (int i = 0; i < s->g->n_forward; i++) {
            build_call(s, &c, i, s->plan.max_len - n, n);
            BD_TRY(s->be->vt->reserve(s->be, &c, err));
        }
        if (n == rows) break;
    }
    loss_call(s, &c, 0);
    return s->be->vt->reserve(s->be, &c, err);
}

static bd_status check_backend(const bd_graph *g, const bd_backend *be, bd_err *err) {
    for (int i = 0; i <= g->n_forward; i++) {
        bd_op op = i == g->n_forward ? BD_OP_nll : g->nodes[i].op;
        if (op == BD_OP_attention) op = BD_OP_attention_step;
        if (!be->vt->has(be, op))
            return BD_FAIL(err, BD_E_UNSUPPORTED, "backend %s has no kernel for %s", be->vt->name,
                           bd_op_get(op)->name);
    }
    return BD_OK;
}

bd_status bd_steps_create(bd_steps **out, const bd_graph *g, bd_backend *be, int64_t max_rows, int64_t max_len,
                          bd_err *err) {
    *out = NULL;
    BD_TRY(check_backend(g, be, err));
    bd_steps *s = calloc(1, sizeof *s);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    s->g = g;
    s->be = be;
    bd_status st;
    void *mem = NULL;
    BD_TRY_DONE(bd_plan_make_steps(&s->plan, g, max_rows, max_len, err));
    BD_TRY_DONE(be->vt->alloc(be, &mem, s->plan.bytes, err));
    s->mem = mem;
    BD_TRY_DONE(bd_plan_upload_rope(&s->plan, be, s->mem, err));
    BD_TRY_DONE(reserve(s, err));
    *out = s;
    return BD_OK;
done:
    bd_steps_destroy(s);
    return st;
}

void bd_steps_destroy(bd_steps *s) {
    if (!s) return;
    if (s->mem) s->be->vt->release(s->be, s->mem);
    bd_plan_free(&s->plan);
    free(s);
}

/* ---- running ---- */

void bd_steps_begin(bd_steps *s) { s->position = s->last = 0; }

int64_t bd_steps_position(const bd_steps *s) { return s->position; }

static bd_status append_some(bd_steps *s, const int32_t *tokens, int64_t n, bd_err *err) {
    bd_call c;
    BD_TRY(s->be->vt->upload(s->be, s->mem + s->plan.tokens, tokens, (uint64_t)n * sizeof *tokens, err));
    for (int i = 0; i < s->g->n_forward; i++) {
        build_call(s, &c, i, s->position, n);
        bd_status st = bd_run(s->be, &c, err);
        if (st != BD_OK) {
            bd_err_prefix(err, "operation %d (%s): ", i, bd_op_get(c.op)->name);
            return st;
        }
    }
    s->position += n;
    s->last = n;
    return BD_OK;
}

bd_status bd_steps_append(bd_steps *s, const float *params, const int32_t *tokens, int64_t n, float *logits,
                          bd_err *err) {
    if (n < 1 || n > s->plan.max_len - s->position)
        return BD_FAIL(err, BD_E_RANGE, "%" PRId64 " tokens after %" PRId64 " in a sequence of at most %" PRId64, n,
                       s->position, s->plan.max_len);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= s->g->vocab)
            return BD_FAIL(err, BD_E_RANGE, "token %" PRId32 " is not below the vocabulary of %" PRId32, tokens[i],
                           s->g->vocab);
    s->params = params;
    s->last = 0;
    for (int64_t i = 0; i < n;) {
        int64_t now = n - i < s->plan.max_rows ? n - i : s->plan.max_rows;
        BD_TRY(append_some(s, tokens + i, now, err));
        i += now;
    }
    if (!logits) return s->be->vt->sync(s->be, err);
    bd_view row = rows_of_value(s, s->g->logits, logits_row(s), 1);
    return s->be->vt->download(s->be, logits, row.data, (uint64_t)s->g->vocab * sizeof *logits, err);
}

bd_status bd_steps_nll(bd_steps *s, int32_t target, double *nll, bd_err *err) {
    bd_call c;
    BD_ASSERT(s->last > 0);
    if (target < 0 || target >= s->g->vocab)
        return BD_FAIL(err, BD_E_RANGE, "target %" PRId32 " is not below the vocabulary of %" PRId32, target,
                       s->g->vocab);
    BD_TRY(s->be->vt->upload(s->be, s->mem + s->plan.targets, &target, sizeof target, err));
    loss_call(s, &c, logits_row(s));
    BD_TRY(bd_run(s->be, &c, err));
    return s->be->vt->download(s->be, nll, c.out[0].data, sizeof *nll, err);
}
