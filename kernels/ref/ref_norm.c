/* Root-mean-square norm of groups of columns, its gradient, and the row norm of Muon. */
#include "kernels/ref/ref_typed.h"

static real inverse_rms(const real *x, const bd_call *c) {
    const int64_t w = c->attr.norm.width;
    const real ss = lanes16_fma(x, x, w);
    return (real)1 / SQRT(ss / (real)w + (real)c->attr.norm.eps);
}

/* A task is one group: row major, so group g starts at g * width. */
REF_TASK(rms_norm_groups) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t w = c->attr.norm.width;
    const real *x = c->in[0].data;
    real *y = c->out[0].data;
    for (int64_t g = begin; g < end; g++) {
        const real r = inverse_rms(x + g * w, c);
        for (int64_t i = g * w; i < (g + 1) * w; i++) y[i] = x[i] * r;
    }
}

bd_status REF_FN(rms_norm)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].rows * (c->in[0].cols / c->attr.norm.width), rms_norm_groups);
    return BD_OK;
}

REF_TASK(rms_norm_grad_groups) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t w = c->attr.norm.width;
    const real *x = c->in[0].data, *dy = c->in[1].data;
    real *dx = c->out[0].data;
    for (int64_t g = begin; g < end; g++) {
        const real r = inverse_rms(x + g * w, c);
        const real dot = lanes16_fma(dy + g * w, x + g * w, w);
        const real k = (dot / (real)w) * (r * r);
        for (int64_t i = g * w; i < (g + 1) * w; i++) dx[i] = FMA(-x[i], k, dy[i]) * r;
    }
}

bd_status REF_FN(rms_norm_grad)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].rows * (c->in[0].cols / c->attr.norm.width), rms_norm_grad_groups);
    return BD_OK;
}

REF_TASK(row_norm_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t C = c->in[0].cols;
    const real *x = c->in[0].data;
    real *y = c->out[0].data;
    for (int64_t t = begin; t < end; t++) {
        const real norm = SQRT(lanes16_fma(x + t * C, x + t * C, C));
        const real r = (real)1 / (norm > (real)1e-7f ? norm : (real)1e-7f);
        for (int64_t i = t * C; i < (t + 1) * C; i++) y[i] = x[i] * r;
    }
}

bd_status REF_FN(row_norm)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].rows, row_norm_rows);
    return BD_OK;
}
