/* The list of operations as data: names, shape rules, costs, and the check that
 * stands before every call. */
#include "kernels/ops.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

enum { MAX_OPERAND_ELEMENTS_LOG2 = 48 };

static const bd_op_info infos[BD_OP_COUNT] = {
#define BD_X(name, nin, nout, causal, attr) {#name, nin, nout, BD_CAUSAL_##causal, #attr},
    BD_OP_LIST(BD_X)
#undef BD_X
};

/* Shape rules. An operand is a type letter (f: real, i: int32, d: float64), then
 * its shape: "r,c" a matrix, ".n" a vector, "*N" any shape of N elements; a
 * dimension is a digit or a letter, and one letter has one value in a call.
 * '?' before the type: may be absent. */
typedef struct rule {
    const char *in[BD_MAX_IN], *out[BD_MAX_OUT];
    unsigned reads_out; /* bit i: output i is also read */
    bool alias;         /* an output may be exactly an input */
} rule;

static const rule rules[BD_OP_COUNT] = {
    [BD_OP_embed] = {{"fV,D", "i.n"}, {"fn,D"}, 0, false},
    [BD_OP_rms_norm] = {{"fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_linear] = {{"fn,K", "fM,K"}, {"fn,M"}, 0, false},
    [BD_OP_add] = {{"fn,C", "fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_scale] = {{"fn,C", "f.C"}, {"fn,C"}, 0, false},
    [BD_OP_add_scaled] = {{"fn,C", "fn,C", "f.C"}, {"fn,C"}, 0, false},
    [BD_OP_mix] = {{"fn,C", "f.C", "fn,C", "f.C"}, {"fn,C"}, 0, false},
    [BD_OP_head_scale] = {{"fn,A", "f.H"}, {"fn,A"}, 0, false},
    [BD_OP_rope] = {{"fn,A", "fP,W"}, {"fn,A"}, 0, false},
    [BD_OP_attention] = {{"fn,A", "fn,B", "fn,B"}, {"fn,A", "fn,S"}, 0, false},
    [BD_OP_relu2] = {{"fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_softcap] = {{"fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_nll] = {{"fn,V", "i.n"}, {"d.n", "d.n"}, 0, false},
    [BD_OP_attention_step] = {{"fn,A", "fP,B", "fP,B"}, {"fn,A"}, 0, false},
    [BD_OP_nll_grad] = {{"fn,V", "i.n", "d.n"}, {"fn,V"}, 0, false},
    [BD_OP_embed_grad] = {{"fn,D", "i.n"}, {"fV,D"}, 1, false},
    [BD_OP_rms_norm_grad] = {{"fn,C", "fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_linear_grad_x] = {{"fn,M", "fM,K"}, {"fn,K"}, 0, false},
    [BD_OP_linear_grad_w] = {{"fn,M", "fn,K"}, {"fM,K"}, 1, false},
    [BD_OP_scale_grad_s] = {{"fn,C", "fn,C"}, {"f.C"}, 1, false},
    [BD_OP_head_scale_grad] = {{"fn,A", "fn,A"}, {"f.H"}, 1, false},
    [BD_OP_attention_grad] = {{"fn,A", "fn,B", "fn,B", "fn,A", "fn,S", "fn,A"}, {"fn,A", "fn,B", "fn,B"}, 0, false},
    [BD_OP_relu2_grad] = {{"fn,C", "fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_softcap_grad] = {{"fn,C", "fn,C"}, {"fn,C"}, 0, false},
    [BD_OP_axpby] = {{"f*N", "f*N"}, {"f*N"}, 0, true},
    [BD_OP_tree_sum8] = {{"f8,N"}, {"f*N"}, 0, false},
    [BD_OP_sum_squares] = {{"f*N"}, {"d.1"}, 1, false},
    [BD_OP_row_norm] = {{"fR,C"}, {"fR,C"}, 0, true},
    [BD_OP_adamw] = {{"f*N"}, {"f*N", "f*N", "f*N"}, 7, false},
    [BD_OP_sgd] = {{"f*N"}, {"f*N", "f*N"}, 3, false},
    [BD_OP_second_moment] = {{"fn,K", "?d.n"}, {"dK,K"}, 1, false},
    [BD_OP_row_moment] = {{"fn,M"}, {"d.M"}, 1, false},
};

static bool known(bd_op op) { return (unsigned)op < BD_OP_COUNT; }

const bd_op_info *bd_op_get(bd_op op) { return known(op) ? &infos[op] : NULL; }

int bd_op_find(const char *name, int name_len) {
    for (int i = 0; i < BD_OP_COUNT; i++) {
        if ((int)strlen(infos[i].name) == name_len && memcmp(infos[i].name, name, (size_t)name_len) == 0) return i;
    }
    return -1;
}

bool bd_op_reads_out(bd_op op, int i) {
    return known(op) && i >= 0 && i < BD_MAX_OUT && (rules[op].reads_out >> i & 1);
}

int64_t bd_dtype_size(bd_dtype t) {
    switch (t) {
        case BD_F64:
        case BD_I64: return 8;
        case BD_F32:
        case BD_I32: return 4;
        case BD_BF16:
        case BD_F16: return 2;
        case BD_DTYPE_COUNT: break;
    }
    return 0;
}

static const char *dtype_name(bd_dtype t) {
    static const char *const names[BD_DTYPE_COUNT] = {"f32", "f64", "i32", "i64", "bf16", "f16"};
    return (unsigned)t < BD_DTYPE_COUNT ? names[t] : "?";
}

/* Shapes ------------------------------------------------------------------------------------------------------- */

static bool bind(bd_dims *d, char name, int64_t value) {
    if (name >= '0' && name <= '9') return value == name - '0';
    int64_t *slot = &d->of[(unsigned char)name];
    if (*slot == 0) *slot = value;
    return *slot == value;
}

static bool fits(bd_dims *d, const char *shape, int64_t rows, int64_t cols) {
    if (shape[0] == '.') return (rows == 1 || cols == 1) && bind(d, shape[1], rows * cols);
    if (shape[0] == '*') return bind(d, shape[1], rows * cols);
    return bind(d, shape[0], rows) && bind(d, shape[2], cols);
}

static bd_status check_operand(const bd_call *c, bd_dims *d, const char *spec, const bd_view *v, const char *kind,
                               int i, bd_dtype real, bd_err *err) {
    const char *op = infos[c->op].name;
    if (spec[0] == '?') {
        if (!v->data) return BD_OK;
        spec++;
    }
    if (!v->data) return BD_FAIL(err, BD_E_SHAPE, "%s: %s%d is absent", op, kind, i);
    const bd_dtype want = spec[0] == 'f' ? real : spec[0] == 'i' ? BD_I32 : BD_F64;
    if (v->dtype != want) {
        return BD_FAIL(err, BD_E_SHAPE, "%s: %s%d is %s, must be %s", op, kind, i, dtype_name(v->dtype),
                       dtype_name(want));
    }
    int64_t count;
    if (v->rows < 1 || v->cols < 1 || !bd_mul_i64(v->rows, v->cols, &count) ||
        count >> MAX_OPERAND_ELEMENTS_LOG2 != 0 || !fits(d, spec + 1, v->rows, v->cols)) {
        return BD_FAIL(err, BD_E_SHAPE, "%s: %s%d has shape [%" PRId64 ",%" PRId64 "], which does not fit (%s)", op,
                       kind, i, v->rows, v->cols, spec + 1);
    }
    return BD_OK;
}

static uint64_t view_bytes(const bd_view *v) { return (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype)); }

static bool overlap(const bd_view *a, const bd_view *b) {
    if (!a->data || !b->data) return false;
    const uintptr_t pa = (uintptr_t)a->data, pb = (uintptr_t)b->data;
    return pa < pb + view_bytes(b) && pb < pa + view_bytes(a);
}

static bd_status check_overlap(const bd_call *c, bd_err *err) {
    const bd_op_info *info = &infos[c->op];
    for (int i = 0; i < info->nout; i++) {
        for (int j = 0; j < i; j++) {
            if (overlap(&c->out[i], &c->out[j])) {
                return BD_FAIL(err, BD_E_SHAPE, "%s: out%d overlaps out%d", info->name, i, j);
            }
        }
        for (int j = 0; j < info->nin; j++) {
            if (rules[c->op].alias && c->out[i].data == c->in[j].data) continue;
            if (overlap(&c->out[i], &c->in[j])) {
                return BD_FAIL(err, BD_E_SHAPE, "%s: out%d overlaps in%d", info->name, i, j);
            }
        }
    }
    return BD_OK;
}

static void shape_view(bd_view *v, const char *spec, const bd_dims *d) {
    if (spec[0] == '?') spec++;
    v->dtype = spec[0] == 'f' ? BD_F32 : spec[0] == 'i' ? BD_I32 : BD_F64;
    const bool vector = spec[1] == '.' || spec[1] == '*';
    const char last = vector ? spec[2] : spec[3];
    v->rows = vector ? 1 : spec[1] >= '0' && spec[1] <= '9' ? spec[1] - '0' : d->of[(unsigned char)spec[1]];
    v->cols = last >= '0' && last <= '9' ? last - '0' : d->of[(unsigned char)last];
}

void bd_call_shapes(bd_call *c, const bd_dims *d) {
    const bd_op_info *info = &infos[c->op];
    for (int i = 0; i < info->nin; i++) shape_view(&c->in[i], rules[c->op].in[i], d);
    for (int i = 0; i < info->nout; i++) shape_view(&c->out[i], rules[c->op].out[i], d);
}

/* Attributes --------------------------------------------------------------------------------------------------- */

static bool finite_f(float x) { return x - x == 0; }

static bd_status check_seq(const bd_call *c, const bd_dims *d, bd_err *err) {
    const int64_t n = d->of['n'];
    if (c->seq_len < 1 || n % c->seq_len != 0) {
        return BD_FAIL(err, BD_E_SHAPE, "%s: %" PRId64 " rows are not whole sequences of length %" PRId64,
                       infos[c->op].name, n, c->seq_len);
    }
    return BD_OK;
}

static bd_status check_attention(const bd_call *c, const bd_dims *d, bd_err *err) {
    const int64_t heads = c->attr.attn.heads, kv = c->attr.attn.kv_heads, a = d->of['A'];
    const bool step = c->op == BD_OP_attention_step; /* has no stats */
    if (heads < 1 || kv < 1 || heads % kv != 0 || a % heads != 0 || d->of['B'] != a / heads * kv ||
        (!step && d->of['S'] != 2 * heads)) {
        return BD_FAIL(err, BD_E_SHAPE,
                       "%s: %" PRId64 " heads and %" PRId64 " kv heads do not fit widths %" PRId64 ", %" PRId64
                       " and stats %" PRId64,
                       infos[c->op].name, heads, kv, a, d->of['B'], d->of['S']);
    }
    if (!step) BD_TRY(check_seq(c, d, err));
    if (step && (c->seq_len != d->of['P'] || d->of['n'] > c->seq_len)) {
        return BD_FAIL(err, BD_E_SHAPE, "%s: %" PRId64 " queries and %" PRId64 " keys in a sequence of %" PRId64,
                       infos[c->op].name, d->of['n'], d->of['P'], c->seq_len);
    }
    if (c->attr.attn.T != c->seq_len) {
        return BD_FAIL(err, BD_E_SHAPE, "%s: attr T = %d but seq_len = %" PRId64, infos[c->op].name, c->attr.attn.T,
                       c->seq_len);
    }
    return BD_OK;
}

static bd_status check_attr(const bd_call *c, const bd_dims *d, bd_err *err) {
    const char *op = infos[c->op].name;
    switch (c->op) {
        case BD_OP_rms_norm:
        case BD_OP_rms_norm_grad: {
            const int32_t w = c->attr.norm.width;
            if (w < 1 || d->of['C'] % w != 0) {
                return BD_FAIL(err, BD_E_SHAPE, "%s: width %d does not divide %" PRId64, op, w, d->of['C']);
            }
            if (!finite_f(c->attr.norm.eps) || c->attr.norm.eps < 0) {
                return BD_FAIL(err, BD_E_RANGE, "%s: eps must be a finite number, not below 0", op);
            }
            return BD_OK;
        }
        case BD_OP_head_scale:
        case BD_OP_head_scale_grad: {
            const int64_t h = c->attr.heads.heads;
            if (h < 1 || d->of['H'] != h || d->of['A'] % h != 0) {
                return BD_FAIL(err, BD_E_SHAPE,
                               "%s: %" PRId64 " heads do not fit width %" PRId64 " and %" PRId64 " gains", op, h,
                               d->of['A'], d->of['H']);
            }
            return BD_OK;
        }
        case BD_OP_rope: {
            const int32_t w = c->attr.rope.width;
            if (w < 2 || w % 2 != 0 || d->of['W'] != w || d->of['A'] % w != 0) {
                return BD_FAIL(err, BD_E_SHAPE,
                               "%s: width %d does not fit %" PRId64 " columns and a table of %" PRId64, op, w,
                               d->of['A'], d->of['W']);
            }
            if (c->attr.rope.inverse != 0 && c->attr.rope.inverse != 1) {
                return BD_FAIL(err, BD_E_RANGE, "%s: inverse must be 0 or 1", op);
            }
            BD_TRY(check_seq(c, d, err));
            if (c->seq_len > d->of['P']) {
                return BD_FAIL(err, BD_E_SHAPE, "%s: sequence length %" PRId64 " exceeds the table's %" PRId64, op,
                               c->seq_len, d->of['P']);
            }
            return BD_OK;
        }
        case BD_OP_attention:
        case BD_OP_attention_step:
        case BD_OP_attention_grad: return check_attention(c, d, err);
        case BD_OP_relu2:
        case BD_OP_relu2_grad:
            if (!finite_f(c->attr.relu2.slope)) return BD_FAIL(err, BD_E_RANGE, "%s: slope must be finite", op);
            return BD_OK;
        case BD_OP_softcap:
        case BD_OP_softcap_grad:
            if (!finite_f(c->attr.softcap.cap) || !(c->attr.softcap.cap > 0)) {
                return BD_FAIL(err, BD_E_RANGE, "%s: cap must be a finite number above 0", op);
            }
            return BD_OK;
        default: return BD_OK;
    }
}

bd_status bd_call_check_real(const bd_call *c, bd_dtype real, bd_err *err) {
    if (!known(c->op)) return BD_FAIL(err, BD_E_UNKNOWN, "operation number %d does not exist", (int)c->op);
    const bd_op_info *info = &infos[c->op];
    const rule *r = &rules[c->op];
    bd_dims d;
    memset(&d, 0, sizeof d);
    for (int i = 0; i < info->nin; i++) BD_TRY(check_operand(c, &d, r->in[i], &c->in[i], "in", i, real, err));
    for (int i = 0; i < info->nout; i++) BD_TRY(check_operand(c, &d, r->out[i], &c->out[i], "out", i, real, err));
    BD_TRY(check_attr(c, &d, err));
    return check_overlap(c, err);
}

bd_status bd_call_check(const bd_call *c, bd_err *err) { return bd_call_check_real(c, BD_F32, err); }

/* Costs -------------------------------------------------------------------------------------------------------- */

/* Operations per element of the first output, for those without a matrix product. */
static double flops_each(bd_op op) {
    switch (op) {
        case BD_OP_add:
        case BD_OP_scale:
        case BD_OP_head_scale:
        case BD_OP_embed_grad: return 1;
        case BD_OP_add_scaled:
        case BD_OP_sgd: return 2;
        case BD_OP_mix:
        case BD_OP_rope:
        case BD_OP_axpby:
        case BD_OP_relu2:
        case BD_OP_relu2_grad:
        case BD_OP_row_norm:
        case BD_OP_rms_norm: return 3;
        case BD_OP_softcap_grad: return 5;
        case BD_OP_rms_norm_grad: return 7;
        case BD_OP_tree_sum8: return 8;
        case BD_OP_adamw: return 15;
        case BD_OP_softcap: return 30; /* one elementary function is about 25 */
        case BD_OP_nll_grad: return 30;
        default: return 0;
    }
}

void bd_call_cost(const bd_call *c, double *flops, double *bytes) {
    const bd_op_info *info = bd_op_get(c->op);
    double f = 0, b = 0;
    if (info) {
        for (int i = 0; i < info->nin; i++) {
            if (c->in[i].data)
                b += (double)c->in[i].rows * (double)c->in[i].cols * (double)bd_dtype_size(c->in[i].dtype);
        }
        for (int i = 0; i < info->nout; i++) {
            const double size =
                (double)c->out[i].rows * (double)c->out[i].cols * (double)bd_dtype_size(c->out[i].dtype);
            b += bd_op_reads_out(c->op, i) ? 2 * size : size;
        }
        const double rows = (double)c->in[0].rows, cols = (double)c->in[0].cols;
        const double T = (double)c->seq_len, pairs = rows * (T + 1) / 2 * cols; /* of (row, earlier row, column) */
        switch (c->op) {
            case BD_OP_embed: b = 2.0 * (double)c->out[0].rows * (double)c->out[0].cols * 4; break;
            case BD_OP_linear: f = 2 * rows * cols * (double)c->in[1].rows; break;
            case BD_OP_linear_grad_x:
            case BD_OP_linear_grad_w: f = 2 * rows * cols * (double)c->in[1].cols; break;
            case BD_OP_attention: f = 4 * pairs; break;
            case BD_OP_attention_step: f = 4 * rows * (T - (rows - 1) / 2) * cols; break;
            case BD_OP_attention_grad: f = 10 * pairs; break;
            case BD_OP_nll: f = 28 * rows * cols; break;
            case BD_OP_scale_grad_s:
            case BD_OP_head_scale_grad:
            case BD_OP_sum_squares:
            case BD_OP_row_moment: f = 2 * rows * cols; break;
            case BD_OP_second_moment: f = 2 * rows * cols * cols; break;
            default: f = flops_each(c->op) * (double)c->out[0].rows * (double)c->out[0].cols; break;
        }
    }
    if (flops) *flops = f;
    if (bytes) *bytes = b;
}

/* Printing ----------------------------------------------------------------------------------------------------- */

typedef struct line {
    char *out;
    int size, used;
} line;

static void put(line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put(line *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const int left = l->size - l->used;
    const int n = left > 0 ? vsnprintf(l->out + l->used, (size_t)left, fmt, ap) : 0;
    va_end(ap);
    if (n > 0) l->used += n < left ? n : left;
}

static void put_view(line *l, const char *kind, int i, const bd_view *v) {
    if (!v->data) put(l, " %s%d=none", kind, i);
    else put(l, " %s%d=%s[%" PRId64 ",%" PRId64 "]", kind, i, dtype_name(v->dtype), v->rows, v->cols);
}

static void put_attr(line *l, const bd_call *c) {
    const bd_attr *a = &c->attr;
    const char *arm = infos[c->op].attr_arm;
    if (!strcmp(arm, "norm")) put(l, " width=%d eps=%.9g", a->norm.width, (double)a->norm.eps);
    if (!strcmp(arm, "heads")) put(l, " heads=%d", a->heads.heads);
    if (!strcmp(arm, "rope"))
        put(l, " width=%d inverse=%d base=%.17g", a->rope.width, a->rope.inverse, a->rope.base);
    if (!strcmp(arm, "attn")) put(l, " heads=%d kv_heads=%d T=%d", a->attn.heads, a->attn.kv_heads, a->attn.T);
    if (!strcmp(arm, "relu2")) put(l, " slope=%.9g", (double)a->relu2.slope);
    if (!strcmp(arm, "softcap")) put(l, " cap=%.9g", (double)a->softcap.cap);
    if (!strcmp(arm, "loss")) put(l, " gscale=%.9g", (double)a->loss.gscale);
    if (!strcmp(arm, "lin")) put(l, " a=%.9g b=%.9g", (double)a->lin.a, (double)a->lin.b);
    if (!strcmp(arm, "sgd")) put(l, " lr=%.9g momentum=%.9g", (double)a->sgd.lr, (double)a->sgd.momentum);
    if (!strcmp(arm, "adamw")) {
        put(l, " lr=%.9g beta1=%.9g beta2=%.9g eps=%.9g decay=%.9g c1=%.9g c2=%.9g", (double)a->adamw.lr,
            (double)a->adamw.beta1, (double)a->adamw.beta2, (double)a->adamw.eps, (double)a->adamw.decay,
            (double)a->adamw.c1, (double)a->adamw.c2);
    }
}

void bd_call_print(const bd_call *c, char *out, int size) {
    if (size <= 0) return;
    out[0] = 0;
    line l = {out, size, 0};
    const bd_op_info *info = bd_op_get(c->op);
    if (!info) {
        put(&l, "operation %d", (int)c->op);
        return;
    }
    put(&l, "%s", info->name);
    for (int i = 0; i < info->nin; i++) put_view(&l, "in", i, &c->in[i]);
    for (int i = 0; i < info->nout; i++) put_view(&l, "out", i, &c->out[i]);
    if (c->seq_len) put(&l, " seq=%" PRId64, c->seq_len);
    put_attr(&l, c);
}
