/* Causal attention with shared key/value heads, and its gradient.
 *
 * A task is one (sequence, kv head). Keys and values are transposed once, so
 * that the chains of neighbouring keys run in one vector; the order inside a
 * chain is that of kernels/ops.h. */
#include "kernels/ref/ref_typed.h"

typedef struct shape {
    int64_t T, H, G, W, group; /* sequence, query heads, kv heads, head width, heads in a group */
    int64_t first;             /* position of a sequence's first query: not 0 in a step */
    int64_t A, B;              /* row widths of q and of k, v */
    real scale;
} shape;

static shape shape_of(const bd_call *c) {
    shape s;
    s.T = c->attr.attn.T;
    s.H = c->attr.attn.heads;
    s.G = c->attr.attn.kv_heads;
    s.A = c->in[0].cols;
    s.W = s.A / s.H;
    s.group = s.H / s.G;
    s.B = s.G * s.W;
    s.first = c->op == BD_OP_attention_step ? s.T - c->in[0].rows : 0;
    s.scale = (real)(1 / sqrt((double)s.W));
    return s;
}

/* xt (W,T) from rows (T, stride). */
static void transpose(real *xt, const real *x, int64_t stride, int64_t T, int64_t W) {
    for (int64_t j = 0; j < T; j++) {
        for (int64_t i = 0; i < W; i++) xt[i * T + j] = x[j * stride + i];
    }
}

/* out[j] = chain over i of fma(a[i], xt[i,j], .), j < n. */
static void dots(real *out, const real *a, const real *xt, int64_t T, int64_t n, int64_t W) {
    for (int64_t j = 0; j < n; j++) out[j] = 0;
    int64_t i = 0;
    for (; i + 4 <= W; i += 4) {
        const real a0 = a[i], a1 = a[i + 1], a2 = a[i + 2], a3 = a[i + 3];
        const real *x0 = xt + i * T, *x1 = x0 + T, *x2 = x1 + T, *x3 = x2 + T;
        for (int64_t j = 0; j < n; j++)
            out[j] = FMA(a3, x3[j], FMA(a2, x2[j], FMA(a1, x1[j], FMA(a0, x0[j], out[j]))));
    }
    for (; i < W; i++) {
        for (int64_t j = 0; j < n; j++) out[j] = FMA(a[i], xt[i * T + j], out[j]);
    }
}

/* out[i] = chain over j < n of fma(p[j], x[j,i], .), then * factor. */
static void weighted_sum(real *restrict out, const real *p, const real *x, int64_t stride, int64_t n, int64_t W,
                         real factor) {
    for (int64_t i = 0; i < W; i++) out[i] = 0;
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) {
        const real p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
        const real *x0 = x + j * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;
        for (int64_t i = 0; i < W; i++)
            out[i] = FMA(p3, x3[i], FMA(p2, x2[i], FMA(p1, x1[i], FMA(p0, x0[i], out[i]))));
    }
    for (; j < n; j++) {
        for (int64_t i = 0; i < W; i++) out[i] = FMA(p[j], x[j * stride + i], out[i]);
    }
    for (int64_t i = 0; i < W; i++) out[i] = out[i] * factor;
}

/* p_j = exp(s_j - m) for keys 0..t; m is found here unless it is given. */
static void scores(real *p, const real *q, const real *kt, const shape *s, int64_t t) {
    dots(p, q, kt, s->T, t + 1, s->W);
    for (int64_t j = 0; j <= t; j++) p[j] = p[j] * s->scale;
}

static void exponentials(real *p, real m, int64_t n) {
    for (int64_t j = 0; j < n; j++) p[j] = EXP(p[j] - m);
}

REF_TASK(attention_groups) {
    const task *k = arg;
    const bd_call *c = k->c;
    const shape s = shape_of(c);
    real *kt = bd_ref_scratch(k->r, worker), *p = kt + s.W * s.T; /* (W,T), (T) */
    for (int64_t index = begin; index < end; index++) {
        const int64_t row0 = index / s.G * s.T, g = index % s.G;
        const real *keys = (const real *)c->in[1].data + row0 * s.B + g * s.W;
        const real *values = (const real *)c->in[2].data + row0 * s.B + g * s.W;
        transpose(kt, keys, s.B, s.T, s.W);
        for (int64_t h = g * s.group; h < (g + 1) * s.group; h++) {
            for (int64_t t = s.first; t < s.T; t++) {
                const int64_t at = row0 + t - s.first;
                const real *q = (const real *)c->in[0].data + at * s.A + h * s.W;
                real *o = (real *)c->out[0].data + at * s.A + h * s.W;
                scores(p, q, kt, &s, t);
                real m = p[0];
                for (int64_t j = 1; j <= t; j++) m = p[j] > m ? p[j] : m;
                exponentials(p, m, t + 1);
                const real inv = (real)1 / lanes16_add(p, t + 1);
                weighted_sum(o, p, values, s.B, t + 1, s.W, inv);
                if (c->op == BD_OP_attention_step) continue;
                real *stats = (real *)c->out[1].data + (at * s.H + h) * 2;
                stats[0] = m;
                stats[1] = inv;
            }
        }
    }
}

bd_status REF_FN(attention)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    task k = {r, c};
    const shape s = shape_of(c);
    bd_pool_for(r->be.pool, c->in[1].rows / s.T * s.G, 1, attention_groups, &k);
    return BD_OK;
}

bd_status REF_FN(attention_step)(bd_ref *r, const bd_call *c, bd_err *err) { return REF_FN(attention)(r, c, err); }

/* x[j,i] = fma(w[j], a[i], x[j,i]): one step of the chains of dk or dv, keys 0..n-1. */
static void add_outer(real *x, int64_t stride, const real *w, const real *a, int64_t n, int64_t W) {
    for (int64_t j = 0; j < n; j++) {
        real *restrict xj = x + j * stride;
        for (int64_t i = 0; i < W; i++) xj[i] = FMA(w[j], a[i], xj[i]);
    }
}

REF_TASK(attention_grad_groups) {
    const task *k = arg;
    const bd_call *c = k->c;
    const shape s = shape_of(c);
    real *kt = bd_ref_scratch(k->r, worker), *vt = kt + s.W * s.T; /* (W,T) each */
    real *p = vt + s.W * s.T, *ds = p + s.T;                       /* (T) each */
    for (int64_t index = begin; index < end; index++) {
        const int64_t row0 = index / s.G * s.T, g = index % s.G;
        const real *keys = (const real *)c->in[1].data + row0 * s.B + g * s.W;
        const real *values = (const real *)c->in[2].data + row0 * s.B + g * s.W;
        real *dk = (real *)c->out[1].data + row0 * s.B + g * s.W;
        real *dv = (real *)c->out[2].data + row0 * s.B + g * s.W;
        transpose(kt, keys, s.B, s.T, s.W);
        transpose(vt, values, s.B, s.T, s.W);
        for (int64_t j = 0; j < s.T; j++) {
            for (int64_t i = 0; i < s.W; i++) dk[j * s.B + i] = dv[j * s.B + i] = 0;
        }
        for (int64_t h = g * s.group; h < (g + 1) * s.group; h++) {
            for (int64_t t = 0; t < s.T; t++) {
                const int64_t at = (row0 + t) * s.A + h * s.W, n = t + 1;
                const real *q = (const real *)c->in[0].data + at, *o = (const real *)c->in[3].data + at;
                const real *stats = (const real *)c->in[4].data + ((row0 + t) * s.H + h) * 2;
                const real *go = (const real *)c->in[5].data + at;
                real *dq = (real *)c->out[0].data + at;
                scores(p, q, kt, &s, t);
                exponentials(p, stats[0], n);
                for (int64_t j = 0; j < n; j++) p[j] = p[j] * stats[1];
                const real D = lanes16_fma(go, o, s.W);
                dots(ds, go, vt, s.T, n, s.W);
                for (int64_t j = 0; j < n; j++) ds[j] = p[j] * (ds[j] - D);
                weighted_sum(dq, ds, keys, s.B, n, s.W, s.scale);
                add_outer(dk, s.B, ds, q, n, s.W);
                add_outer(dv, s.B, p, go, n, s.W);
            }
        }
        for (int64_t j = 0; j < s.T; j++) {
            for (int64_t i = 0; i < s.W; i++) dk[j * s.B + i] = dk[j * s.B + i] * s.scale;
        }
    }
}

bd_status REF_FN(attention_grad)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    task k = {r, c};
    const shape s = shape_of(c);
    bd_pool_for(r->be.pool, c->in[0].rows / s.T * s.G, 1, attention_grad_groups, &k);
    return BD_OK;
}
