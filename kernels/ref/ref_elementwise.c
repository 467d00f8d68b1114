/* Operations whose outputs depend on one element (and on small vectors), and
 * the gradients of those vectors. */
#include "kernels/ref/ref_typed.h"

/* A task is a run of rows. ROWS opens its body; EACH visits column j of row t,
 * flat index e. */
#define ROWS                             \
    (void)worker;                        \
    const bd_call *c = ((task *)arg)->c; \
    const int64_t C = c->out[0].cols;    \
    const real *x = c->in[0].data;       \
    real *out = c->out[0].data
#define EACH                              \
    for (int64_t t = begin; t < end; t++) \
        for (int64_t j = 0, e = t * C; j < C; j++, e++)
#define BY_ROWS(op)                                                   \
    bd_status REF_FN(op)(bd_ref * r, const bd_call *c, bd_err *err) { \
        (void)err;                                                    \
        run_tasks(r, c, c->out[0].rows, op##_rows);                   \
        return BD_OK;                                                 \
    }

REF_TASK(add_rows) {
    ROWS;
    const real *b = c->in[1].data;
    EACH { out[e] = x[e] + b[e]; }
}
BY_ROWS(add)

REF_TASK(scale_rows) {
    ROWS;
    const real *s = c->in[1].data;
    EACH { out[e] = x[e] * s[j]; }
}
BY_ROWS(scale)

REF_TASK(add_scaled_rows) {
    ROWS;
    const real *y = c->in[1].data, *s = c->in[2].data;
    EACH { out[e] = FMA(s[j], y[e], x[e]); }
}
BY_ROWS(add_scaled)

REF_TASK(mix_rows) {
    ROWS;
    const real *a = c->in[1].data, *y = c->in[2].data, *b = c->in[3].data;
    EACH { out[e] = FMA(a[j], x[e], b[j] * y[e]); }
}
BY_ROWS(mix)

REF_TASK(head_scale_rows) {
    ROWS;
    const real *g = c->in[1].data;
    const int64_t H = c->attr.heads.heads, W = C / H;
    for (int64_t h = begin * H; h < end * H; h++) { /* head h % H of row h / H starts at h * W */
        for (int64_t e = h * W; e < (h + 1) * W; e++) out[e] = x[e] * g[h % H];
    }
}
BY_ROWS(head_scale)

REF_TASK(relu2_rows) {
    ROWS;
    const real slope = (real)c->attr.relu2.slope;
    EACH {
        const real u = x[e] > 0 ? x[e] : slope * x[e];
        out[e] = u * u;
    }
}
BY_ROWS(relu2)

REF_TASK(relu2_grad_rows) {
    ROWS;
    const real *dy = c->in[1].data;
    const real slope = (real)c->attr.relu2.slope, k = 2 * (slope * slope);
    EACH { out[e] = dy[e] * (x[e] > 0 ? 2 * x[e] : k * x[e]); }
}
BY_ROWS(relu2_grad)

REF_TASK(softcap_rows) {
    ROWS;
    const real cap = (real)c->attr.softcap.cap;
    EACH { out[e] = cap * TANH(x[e] / cap); }
}
BY_ROWS(softcap)

REF_TASK(softcap_grad_rows) {
    ROWS; /* x is the forward's output */
    const real *dy = c->in[1].data;
    const real cap = (real)c->attr.softcap.cap;
    EACH {
        const real u = x[e] / cap;
        out[e] = dy[e] * FMA(-u, u, (real)1);
    }
}
BY_ROWS(softcap_grad)

/* Tasks are columns: a gradient is one chain over t. */
REF_TASK(scale_grad_columns) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, C = c->in[0].cols;
    const real *dy = c->in[0].data, *x = c->in[1].data;
    real *ds = c->out[0].data;
    for (int64_t t = 0; t < n; t++) {
        for (int64_t j = begin; j < end; j++) ds[j] = FMA(dy[t * C + j], x[t * C + j], ds[j]);
    }
}

bd_status REF_FN(scale_grad_s)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].cols, scale_grad_columns);
    return BD_OK;
}

/* Tasks are heads. */
REF_TASK(head_scale_grad_heads) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, A = c->in[0].cols, W = A / c->attr.heads.heads;
    const real *dy = c->in[0].data, *x = c->in[1].data;
    real *dg = c->out[0].data;
    for (int64_t h = begin; h < end; h++) {
        for (int64_t t = 0; t < n; t++) dg[h] = dg[h] + lanes16_fma(dy + t * A + h * W, x + t * A + h * W, W);
    }
}

bd_status REF_FN(head_scale_grad)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->attr.heads.heads, head_scale_grad_heads);
    return BD_OK;
}
