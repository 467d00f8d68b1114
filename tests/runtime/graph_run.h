/* A second, simple way to run a graph: every value has memory of its own, filled
 * with poison first. In double it is the oracle for gradients; in float it shows
 * what the planned, memory-sharing exec must give. */
#ifndef BD_TESTS_GRAPH_RUN_H
#define BD_TESTS_GRAPH_RUN_H

#include "base/fmath.h"
#include "bd_test.h"
#include "kernels/backend.h"
#include "kernels/ref/ref64.h"
#include "runtime/graph.h"

typedef struct simple_run {
    const bd_graph *g;
    bd_backend *be; /* NULL: double */
    int64_t nseq, T;
    void **value;         /* each (rows, width) */
    void *params, *grads; /* float or double */
    int32_t *tokens, *targets;
    float gscale;
} simple_run;

static inline int64_t simple_size(const simple_run *r) { return r->be ? 4 : 8; }

static inline void simple_init(simple_run *r, const bd_graph *g, bd_backend *be, int64_t nseq, int64_t T) {
    memset(r, 0, sizeof *r);
    r->g = g;
    r->be = be;
    r->nseq = nseq;
    r->T = T;
    r->value = calloc((size_t)g->n_values, sizeof *r->value);
    r->params = bd_alloc_aligned(g->param_floats, (uint64_t)simple_size(r));
    r->grads = bd_alloc_aligned(g->grad_floats, (uint64_t)simple_size(r));
    r->tokens = calloc((size_t)(nseq * T), sizeof *r->tokens);
    r->targets = calloc((size_t)(nseq * T), sizeof *r->targets);
    CHECK(r->value && r->params && r->grads && r->tokens && r->targets);
    for (int v = 0; v < g->n_values; v++) {
        uint64_t bytes = (uint64_t)(nseq * T * g->values[v].width) * 8;
        r->value[v] = bd_alloc_aligned(bytes, 1);
        CHECK(r->value[v] != NULL);
        memset(r->value[v], 0xff, bytes);
    }
}

static inline void simple_free(simple_run *r) {
    for (int v = 0; v < r->g->n_values; v++) free(r->value[v]);
    free(r->value);
    free(r->params);
    free(r->grads);
    free(r->tokens);
    free(r->targets);
}

static inline bd_view simple_view(const simple_run *r, const bd_node *n, const bd_operand *o, void *rope) {
    const bd_graph *g = r->g;
    bd_dtype real = r->be ? BD_F32 : BD_F64;
    int64_t rows = r->nseq * r->T, size = simple_size(r);
    switch (o->kind) {
        case BD_OPD_VALUE:
            if (g->values[o->id].dtype == BD_F64) return (bd_view){r->value[o->id], BD_F64, 1, rows};
            return (bd_view){r->value[o->id], real, rows, g->values[o->id].width};
        case BD_OPD_PARAM:
        case BD_OPD_GRAD: {
            const bd_param *p = &g->params[o->id];
            int64_t at = o->kind == BD_OPD_PARAM ? (int64_t)p->offset
                                                 : (int64_t)(p->grad_offset + (uint64_t)o->use * p->grad_stride);
            if (o->row >= 0) at += o->row * p->cols;
            char *base = o->kind == BD_OPD_PARAM ? r->params : r->grads;
            return (bd_view){base + at * size, real, o->row >= 0 ? 1 : p->rows, p->cols};
        }
        case BD_OPD_TOKENS: return (bd_view){r->tokens, BD_I32, 1, rows};
        case BD_OPD_TARGETS: return (bd_view){r->targets, BD_I32, 1, rows};
        case BD_OPD_ROPE: return (bd_view){rope, real, r->T, n->attr.rope.width};
        default: return (bd_view){0};
    }
}

/* Nodes [begin, end). */
static inline void simple_nodes(simple_run *r, int begin, int end) {
    for (int i = begin; i < end; i++) {
        const bd_node *n = &r->g->nodes[i];
        void *rope = NULL;
        if (n->op == BD_OP_rope) {
            int32_t w = n->attr.rope.width;
            rope = bd_alloc_aligned((uint64_t)(r->T * w), 8);
            CHECK(rope != NULL);
            for (int64_t t = 0; t < r->T; t++)
                for (int k = 0; k < w / 2; k++) {
                    double a = (double)t * bd_pow(n->attr.rope.base, -2.0 * k / w);
                    double cs[2] = {bd_cos(a), bd_sin(a)};
                    for (int z = 0; z < 2; z++) {
                        if (r->be) ((float *)rope)[t * w + 2 * k + z] = (float)cs[z];
                        else ((double *)rope)[t * w + 2 * k + z] = cs[z];
                    }
                }
        }
        bd_call c = {.op = n->op, .attr = n->attr, .seq_len = r->T};
        if (n->op == BD_OP_attention || n->op == BD_OP_attention_grad) c.attr.attn.T = (int32_t)r->T;
        if (n->op == BD_OP_nll_grad) c.attr.loss.gscale = r->gscale;
        for (int k = 0; k < BD_MAX_IN; k++) c.in[k] = simple_view(r, n, &n->in[k], rope);
        for (int k = 0; k < BD_MAX_OUT; k++) c.out[k] = simple_view(r, n, &n->out[k], rope);
        bd_err e = {0};
        CHECK_OK(r->be ? bd_run(r->be, &c, &e) : bd_ref64_run(&c, &e), &e);
        free(rope);
    }
}

/* Sum over uses, last first: the gradient of element k of parameter p. */
static inline double simple_grad(const simple_run *r, int p, int64_t k) {
    const bd_param *q = &r->g->params[p];
    double sum = 0;
    for (int u = q->uses - 1; u >= 0; u--) {
        uint64_t at = q->grad_offset + (uint64_t)u * q->grad_stride + (uint64_t)k;
        sum += r->be ? (double)((float *)r->grads)[at] : ((double *)r->grads)[at];
    }
    return sum;
}

#endif
