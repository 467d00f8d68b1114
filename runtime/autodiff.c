/* Reverse-mode differentiation: a second graph with the forward nodes, the loss
 * and the backward nodes.
 *
 * The walk goes over the forward nodes from last to first and over the operands
 * of a node from last to first. A value read several times thus collects its
 * contributions with the latest use first: ((g_last + g_prev) + ...), which is
 * the normative order. Gradients that pass through unchanged are not copied.
 * Each use of a parameter accumulates into its own buffer (row, use). */
#include <stdlib.h>
#include <string.h>

#include "runtime/graph_ops.h"

typedef struct differ {
    bd_builder b;
    int32_t *grad; /* value id -> value id of its gradient so far, -1: none */
    bd_err *err;
} differ;

static bd_operand value_opd(int32_t id) { return (bd_operand){.kind = BD_OPD_VALUE, .id = id, .row = -1}; }
static bd_operand plain_opd(bd_operand_kind kind) { return (bd_operand){.kind = kind, .row = -1}; }
static bd_operand grad_opd(bd_operand param) {
    param.kind = BD_OPD_GRAD;
    return param;
}

/* Append a node whose output 0 is a new value of that width; its id, or -1. */
static bd_status push(differ *d, bd_node n, int32_t width, int32_t *id) {
    BD_TRY(bd_builder_push_value(&d->b, width, BD_F32, d->b.g->n_nodes, id, d->err));
    n.out[0] = value_opd(*id);
    int32_t at;
    return bd_builder_push_node(&d->b, &n, &at, d->err);
}

/* Append a node that accumulates into the gradient of a parameter operand. */
static bd_status push_param(differ *d, bd_node n, bd_operand param) {
    n.out[0] = grad_opd(param);
    int32_t at;
    return bd_builder_push_node(&d->b, &n, &at, d->err);
}

/* Another contribution to the gradient of the value behind `o`. */
static bd_status contribute(differ *d, bd_operand o, int32_t g, int line) {
    int32_t *have = &d->grad[o.id];
    if (*have < 0) {
        *have = g;
        return BD_OK;
    }
    bd_node n = {.op = BD_OP_add, .in = {value_opd(*have), value_opd(g)}, .line = line};
    int32_t sum;
    BD_TRY(push(d, n, d->b.g->values[o.id].width, &sum));
    *have = sum;
    return BD_OK;
}

/* dy * s, as the gradient of value operand x. */
static bd_status scaled(differ *d, bd_operand x, bd_operand dy, bd_operand s, int line) {
    bd_node n = {.op = BD_OP_scale, .in = {dy, s}, .line = line};
    int32_t id;
    BD_TRY(push(d, n, d->b.g->values[x.id].width, &id));
    return contribute(d, x, id, line);
}

/* Column sums of dy * x, as the gradient of vector operand s. */
static bd_status scale_vector(differ *d, bd_operand s, bd_operand dy, bd_operand x, int line) {
    bd_node n = {.op = BD_OP_scale_grad_s, .in = {dy, x}, .line = line};
    return push_param(d, n, s);
}

static bd_status attention(differ *d, const bd_node *f, bd_operand dy) {
    bd_graph *g = d->b.g;
    bd_node n = {.op = BD_OP_attention_grad,
                 .in = {f->in[0], f->in[1], f->in[2], f->out[0], f->out[1], dy},
                 .attr = f->attr,
                 .line = f->line};
    int32_t id[3], at;
    for (int k = 0; k < 3; k++) {
        BD_TRY(bd_builder_push_value(&d->b, g->values[f->in[k].id].width, BD_F32, g->n_nodes, &id[k], d->err));
        n.out[k] = value_opd(id[k]);
    }
    BD_TRY(bd_builder_push_node(&d->b, &n, &at, d->err));
    for (int k = 2; k >= 0; k--) BD_TRY(contribute(d, f->in[k], id[k], f->line));
    return BD_OK;
}

static bd_status backward(differ *d, const bd_node *f) {
    int32_t g = d->grad[f->out[0].id];
    if (g < 0) return BD_OK;
    bd_graph *graph = d->b.g;
    const bd_operand *in = f->in, dy = value_opd(g);
    int line = f->line;
    bd_node n = {.line = line, .attr = f->attr};
    int32_t id;
    switch (f->op) {
        case BD_OP_embed:
            n.op = BD_OP_embed_grad;
            n.in[0] = dy;
            n.in[1] = plain_opd(BD_OPD_TOKENS);
            return push_param(d, n, in[0]);
        case BD_OP_rms_norm:
        case BD_OP_relu2:
            n.op = f->op == BD_OP_relu2 ? BD_OP_relu2_grad : BD_OP_rms_norm_grad;
            n.in[0] = in[0];
            n.in[1] = dy;
            break;
        case BD_OP_softcap:
            n.op = BD_OP_softcap_grad;
            n.in[0] = f->out[0];
            n.in[1] = dy;
            break;
        case BD_OP_linear:
            n.op = BD_OP_linear_grad_w;
            n.in[0] = dy;
            n.in[1] = in[0];
            BD_TRY(push_param(d, n, in[1]));
            n.op = BD_OP_linear_grad_x;
            n.in[1] = in[1];
            break;
        case BD_OP_add: BD_TRY(contribute(d, in[1], g, line)); return contribute(d, in[0], g, line);
        case BD_OP_scale: BD_TRY(scale_vector(d, in[1], dy, in[0], line)); return scaled(d, in[0], dy, in[1], line);
        case BD_OP_add_scaled:
            BD_TRY(scale_vector(d, in[2], dy, in[1], line));
            BD_TRY(scaled(d, in[1], dy, in[2], line));
            return contribute(d, in[0], g, line);
        case BD_OP_mix:
            BD_TRY(scale_vector(d, in[3], dy, in[2], line));
            BD_TRY(scaled(d, in[2], dy, in[3], line));
            BD_TRY(scale_vector(d, in[1], dy, in[0], line));
            return scaled(d, in[0], dy, in[1], line);
        case BD_OP_head_scale:
            n.op = BD_OP_head_scale_grad;
            n.in[0] = dy;
            n.in[1] = in[0];
            BD_TRY(push_param(d, n, in[1]));
            n.op = BD_OP_head_scale;
            n.in[1] = in[1];
            break;
        case BD_OP_rope:
            n.op = BD_OP_rope;
            n.in[0] = dy;
            n.in[1] = in[1];
            n.attr.rope.inverse = 1;
            break;
        case BD_OP_attention: return attention(d, f, dy);
        default: return BD_FAIL(d->err, BD_E_UNSUPPORTED, "%s has no backward operation", bd_op_get(f->op)->name);
    }
    BD_TRY(push(d, n, graph->values[in[0].id].width, &id));
    return contribute(d, in[0], id, line);
}

static bd_status copy_forward(differ *d, const bd_graph *g) {
    bd_graph *h = d->b.g;
    h->params = bd_arena_alloc(h->arena, (uint64_t)g->n_params + 1, sizeof *h->params);
    if (!h->params) return BD_FAIL(d->err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) {
        h->params[i] = g->params[i];
        h->params[i].name = bd_arena_strdup(h->arena, g->params[i].name, strlen(g->params[i].name));
        if (!h->params[i].name) return BD_FAIL(d->err, BD_E_NOMEM, "out of memory");
    }
    h->n_params = g->n_params;
    int32_t id;
    for (int i = 0; i < g->n_values; i++)
        BD_TRY(
            bd_builder_push_value(&d->b, g->values[i].width, g->values[i].dtype, g->values[i].node, &id, d->err));
    for (int i = 0; i < g->n_nodes; i++) BD_TRY(bd_builder_push_node(&d->b, &g->nodes[i], &id, d->err));
    h->n_forward = g->n_forward;
    h->logits = g->logits;
    h->vocab = g->vocab;
    h->param_floats = g->param_floats;
    h->grad_floats = g->grad_floats;
    h->param_count = g->param_count;
    return BD_OK;
}

static bd_status append_loss(differ *d) {
    bd_graph *h = d->b.g;
    bd_node n = {.op = BD_OP_nll, .in = {value_opd(h->logits), plain_opd(BD_OPD_TARGETS)}};
    int32_t at, dlogits;
    BD_TRY(bd_builder_push_value(&d->b, 1, BD_F64, h->n_nodes, &h->nll, d->err));
    BD_TRY(bd_builder_push_value(&d->b, 1, BD_F64, h->n_nodes, &h->lse, d->err));
    n.out[0] = value_opd(h->nll);
    n.out[1] = value_opd(h->lse);
    BD_TRY(bd_builder_push_node(&d->b, &n, &at, d->err));
    bd_node m = {.op = BD_OP_nll_grad, .in = {n.in[0], n.in[1], n.out[1]}};
    BD_TRY(push(d, m, h->values[h->logits].width, &dlogits));
    d->grad[h->logits] = dlogits;
    return BD_OK;
}

bd_status bd_graph_differentiate(bd_graph **out, const bd_graph *g, bd_err *err) {
    *out = NULL;
    if (g->nll >= 0 || g->n_nodes != g->n_forward || !g->grad_floats)
        return BD_FAIL(err, BD_E_FIELD, "only a finished forward graph can be differentiated");
    bd_limits lim = bd_limits_default();
    differ d = {.err = err};
    bd_status st = bd_builder_init(&d.b, g->name, strlen(g->name), &lim, err);
    if (st != BD_OK) return st;
    d.grad = malloc(((size_t)g->n_values + 1) * sizeof *d.grad);
    if (!d.grad) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < g->n_values; i++) d.grad[i] = -1;
    BD_TRY_DONE(copy_forward(&d, g));
    BD_TRY_DONE(append_loss(&d));
    for (int i = g->n_forward - 1; i >= 0; i--) BD_TRY_DONE(backward(&d, &g->nodes[i]));
    *out = d.b.g;
    d.b.g = NULL;
done:
    free(d.grad);
    bd_builder_drop(&d.b);
    return st;
}
