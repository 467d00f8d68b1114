#include "runtime/graph_ops.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define VAL BD_SLOT_VALUE
#define MAT BD_SLOT_MATRIX
#define VEC BD_SLOT_VECTOR
#define FIELD(arm, member, type) \
    { #member, type, (uint8_t)offsetof(bd_attr, arm.member) }

/* Fields in the order of the canonical text. T, gscale and inverse are not the author's to choose. */
static const bd_op_shape shapes[BD_OP_COUNT] = {
    [BD_OP_embed] = {.in = {MAT, BD_SLOT_TOKENS}},
    [BD_OP_rms_norm] = {.in = {VAL},
                        .field = {FIELD(norm, width, BD_ATTR_I32), FIELD(norm, eps, BD_ATTR_F32)},
                        .n_fields = 2},
    [BD_OP_linear] = {.in = {VAL, MAT}},
    [BD_OP_add] = {.in = {VAL, VAL}},
    [BD_OP_scale] = {.in = {VAL, VEC}},
    [BD_OP_add_scaled] = {.in = {VAL, VAL, VEC}},
    [BD_OP_mix] = {.in = {VAL, VEC, VAL, VEC}},
    [BD_OP_head_scale] = {.in = {VAL, VEC}, .field = {FIELD(heads, heads, BD_ATTR_I32)}, .n_fields = 1},
    [BD_OP_rope] = {.in = {VAL, BD_SLOT_ROPE},
                    .field = {FIELD(rope, width, BD_ATTR_I32), FIELD(rope, base, BD_ATTR_F64)},
                    .n_fields = 2},
    [BD_OP_attention] = {.in = {VAL, VAL, VAL},
                         .field = {FIELD(attn, heads, BD_ATTR_I32), FIELD(attn, kv_heads, BD_ATTR_I32)},
                         .n_fields = 2},
    [BD_OP_relu2] = {.in = {VAL}, .field = {FIELD(relu2, slope, BD_ATTR_F32)}, .n_fields = 1},
    [BD_OP_softcap] = {.in = {VAL}, .field = {FIELD(softcap, cap, BD_ATTR_F32)}, .n_fields = 1},
};

const bd_op_shape *bd_op_shape_get(bd_op op) {
    return op < BD_OP_COUNT && shapes[op].in[0] != BD_SLOT_NONE ? &shapes[op] : NULL;
}

double bd_attr_read(const bd_attr *a, const bd_attr_field *f) {
    const char *p = (const char *)a + f->offset;
    int32_t i;
    float s;
    double d;
    switch (f->type) {
        case BD_ATTR_I32: memcpy(&i, p, sizeof i); return i;
        case BD_ATTR_F32: memcpy(&s, p, sizeof s); return (double)s;
        default: memcpy(&d, p, sizeof d); return d;
    }
}

void bd_attr_write(bd_attr *a, const bd_attr_field *f, double v) {
    char *p = (char *)a + f->offset;
    if (f->type == BD_ATTR_I32) {
        int32_t i = (int32_t)v;
        memcpy(p, &i, sizeof i);
    } else if (f->type == BD_ATTR_F32) {
        float s = (float)v;
        memcpy(p, &s, sizeof s);
    } else {
        memcpy(p, &v, sizeof v);
    }
}

/* ---- the shape rules ---- */

#define SHAPE(err, ...) BD_FAIL(err, BD_E_SHAPE, __VA_ARGS__)

static bd_status check_operand(const bd_graph *g, bd_op op, int k, bd_slot slot, const bd_operand *o,
                               int64_t *width, bd_err *err) {
    const char *name = bd_op_get(op)->name;
    *width = 0;
    switch (slot) {
        case BD_SLOT_VALUE:
            if (o->kind != BD_OPD_VALUE)
                return SHAPE(err, "%s: operand %d must be the result of an operation", name, k + 1);
            /* A node's further outputs (attention's statistics) are for its gradient alone. */
            if (o->id < 0 || o->id >= g->n_values || g->nodes[g->values[o->id].node].out[0].id != o->id)
                return BD_FAIL(err, BD_E_FIELD, "%s: operand %d names no earlier result", name, k + 1);
            *width = g->values[o->id].width;
            return BD_OK;
        case BD_SLOT_MATRIX:
        case BD_SLOT_VECTOR: {
            if (o->kind != BD_OPD_PARAM) return SHAPE(err, "%s: operand %d must be a parameter", name, k + 1);
            if (o->id < 0 || o->id >= g->n_params)
                return BD_FAIL(err, BD_E_FIELD, "%s: operand %d names no parameter", name, k + 1);
            const bd_param *p = &g->params[o->id];
            *width = p->cols;
            if (slot == BD_SLOT_MATRIX) {
                if (p->ndim != 2 || o->row != -1)
                    return SHAPE(err, "%s: operand %d must be a whole matrix, %s%s is a vector", name, k + 1,
                                 p->name, o->row != -1 ? "[row]" : "");
                return BD_OK;
            }
            if (p->ndim == 1 && o->row == -1) return BD_OK;
            if (p->ndim == 2 && o->row == -1)
                return SHAPE(err, "%s: operand %d must be a vector, %s has %" PRId64 " rows: name one of them",
                             name, k + 1, p->name, p->rows);
            if (p->ndim == 1)
                return SHAPE(err, "%s: operand %d: %s is a vector and has no rows", name, k + 1, p->name);
            if (o->row < 0 || o->row >= p->rows)
                return BD_FAIL(err, BD_E_RANGE, "%s: operand %d: %s has no row %d, it has %" PRId64 " rows", name,
                               k + 1, p->name, o->row, p->rows);
            return BD_OK;
        }
        case BD_SLOT_TOKENS:
            if (o->kind != BD_OPD_TOKENS) return SHAPE(err, "%s: operand %d must be the tokens", name, k + 1);
            return BD_OK;
        case BD_SLOT_ROPE:
            if (o->kind != BD_OPD_ROPE) return SHAPE(err, "%s: operand %d must be the table", name, k + 1);
            return BD_OK;
        default:
            if (o->kind != BD_OPD_NONE) return SHAPE(err, "%s: too many operands", name);
            return BD_OK;
    }
}

static bd_status same_width(const char *op, const char *what, int64_t want, int64_t have, bd_err *err) {
    if (want == have) return BD_OK;
    return SHAPE(err, "%s: the input has %" PRId64 " columns, %s has %" PRId64, op, want, what, have);
}

/* An attribute that is a real number within [lo, hi]; -0 would be a second spelling of 0. */
static bd_status real_attr(const char *op, const char *name, double v, double lo, double hi, bd_err *err) {
    if (isfinite(v) && v >= lo && v <= hi && !(v == 0 && signbit(v))) return BD_OK;
    return BD_FAIL(err, BD_E_RANGE, "%s: %s is %g, it must lie within %g and %g", op, name, v, lo, hi);
}

bd_status bd_node_check(const bd_graph *g, const bd_node *n, int32_t out_width[BD_MAX_OUT], bd_err *err) {
    const bd_op_shape *s = bd_op_shape_get(n->op);
    if (!s) {
        if (n->op >= BD_OP_COUNT) return BD_FAIL(err, BD_E_UNKNOWN, "unknown operation");
        return BD_FAIL(err, BD_E_CAUSAL, "%s is not an operation of a model", bd_op_get(n->op)->name);
    }
    const bd_op_info *info = bd_op_get(n->op);
    const char *name = info->name;
    if (info->causality == BD_CAUSAL_NONE)
        return BD_FAIL(err, BD_E_CAUSAL, "%s is not an operation of a model", name);
    int64_t w[BD_MAX_IN];
    for (int k = 0; k < BD_MAX_IN; k++) BD_TRY(check_operand(g, n->op, k, s->in[k], &n->in[k], &w[k], err));
    out_width[0] = (int32_t)w[0];
    out_width[1] = out_width[2] = 0;
    const bd_attr *a = &n->attr;
    switch (n->op) {
        case BD_OP_embed: return BD_OK;
        case BD_OP_rms_norm:
            if (a->norm.width < 1 || w[0] % a->norm.width != 0)
                return SHAPE(err, "%s: width %d does not divide the %" PRId64 " columns", name, a->norm.width,
                             w[0]);
            return real_attr(name, "eps", (double)a->norm.eps, 0, 1, err);
        case BD_OP_linear: {
            const bd_param *p = &g->params[n->in[1].id];
            if (p->cols != w[0])
                return SHAPE(err, "%s: the input has %" PRId64 " columns, %s reads %" PRId64, name, w[0], p->name,
                             p->cols);
            out_width[0] = (int32_t)p->rows;
            return BD_OK;
        }
        case BD_OP_add: return same_width(name, "the second", w[0], w[1], err);
        case BD_OP_scale: return same_width(name, g->params[n->in[1].id].name, w[0], w[1], err);
        case BD_OP_add_scaled:
            BD_TRY(same_width(name, "the second", w[0], w[1], err));
            return same_width(name, g->params[n->in[2].id].name, w[0], w[2], err);
        case BD_OP_mix:
            BD_TRY(same_width(name, "the second", w[0], w[2], err));
            BD_TRY(same_width(name, g->params[n->in[1].id].name, w[0], w[1], err));
            return same_width(name, g->params[n->in[3].id].name, w[0], w[3], err);
        case BD_OP_head_scale:
            if (a->heads.heads != w[1])
                return SHAPE(err, "%s: heads=%d, %s has %" PRId64, name, a->heads.heads,
                             g->params[n->in[1].id].name, w[1]);
            if (w[0] % w[1] != 0)
                return SHAPE(err, "%s: %" PRId64 " heads do not divide the %" PRId64 " columns", name, w[1], w[0]);
            return BD_OK;
        case BD_OP_rope:
            if (a->rope.width < 2 || a->rope.width % 2 != 0 || w[0] % a->rope.width != 0)
                return SHAPE(err, "%s: width %d must be even and divide the %" PRId64 " columns", name,
                             a->rope.width, w[0]);
            if (a->rope.inverse != 0)
                return BD_FAIL(err, BD_E_FIELD, "%s: a model may not ask for the inverse", name);
            return real_attr(name, "base", a->rope.base, 1, 1e12, err);
        case BD_OP_attention: {
            int32_t h = a->attn.heads, kv = a->attn.kv_heads;
            if (h < 1 || kv < 1 || h % kv != 0)
                return SHAPE(err, "%s: kv_heads (%d) must divide heads (%d)", name, kv, h);
            if (w[0] % h != 0)
                return SHAPE(err, "%s: %d heads do not divide the %" PRId64 " columns of q", name, h, w[0]);
            int64_t want = w[0] / h * kv;
            if (w[1] != want || w[2] != want)
                return SHAPE(err,
                             "%s: k and v have %" PRId64 " and %" PRId64 " columns, %d kv_heads of %" PRId64
                             " need %" PRId64,
                             name, w[1], w[2], kv, w[0] / h, want);
            out_width[1] = 2 * h;
            return BD_OK;
        }
        case BD_OP_relu2: return real_attr(name, "slope", (double)a->relu2.slope, 0, 1, err);
        case BD_OP_softcap: return real_attr(name, "cap", (double)a->softcap.cap, 0x1p-10, 0x1p20, err);
        default: return BD_FAIL(err, BD_E_UNKNOWN, "%s has no shape rule", name);
    }
}
