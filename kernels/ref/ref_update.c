/* Updates and sums over whole arrays. */
#include "kernels/ref/ref_typed.h"

static int64_t count(const bd_view *v) { return v->rows * v->cols; }

REF_TASK(axpby_elements) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const real a = (real)c->attr.lin.a, b = (real)c->attr.lin.b;
    const real *x = c->in[0].data, *y = c->in[1].data;
    real *z = c->out[0].data;
    for (int64_t i = begin; i < end; i++) z[i] = FMA(a, x[i], b * y[i]);
}

bd_status REF_FN(axpby)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, count(&c->out[0]), axpby_elements);
    return BD_OK;
}

REF_TASK(tree_sum8_elements) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const real a = (real)c->attr.lin.a, *x = c->in[0].data; /* (8, n) */
    const int64_t n = count(&c->out[0]);
    real *z = c->out[0].data;
    for (int64_t i = begin; i < end; i++) {
        const real s0 = x[i] + x[i + 4 * n], s1 = x[i + n] + x[i + 5 * n];
        const real s2 = x[i + 2 * n] + x[i + 6 * n], s3 = x[i + 3 * n] + x[i + 7 * n];
        z[i] = ((s0 + s2) + (s1 + s3)) * a;
    }
}

bd_status REF_FN(tree_sum8)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, count(&c->out[0]), tree_sum8_elements);
    return BD_OK;
}

enum { SQUARES_BLOCK = 65536 };

static double block_squares(const real *x, int64_t n) {
    double l[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) l[j] = bd_fma64((double)x[i + j], (double)x[i + j], l[j]);
    }
    for (int j = 0; i + j < n; j++) l[j] = bd_fma64((double)x[i + j], (double)x[i + j], l[j]);
    return tree16_double(l);
}

bd_status REF_FN(sum_squares)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)r;
    (void)err;
    const int64_t n = count(&c->in[0]);
    const real *x = c->in[0].data;
    double *sum = c->out[0].data;
    for (int64_t i = 0; i < n; i += SQUARES_BLOCK) {
        sum[0] = sum[0] + block_squares(x + i, n - i < SQUARES_BLOCK ? n - i : SQUARES_BLOCK);
    }
    return BD_OK;
}

REF_TASK(adamw_elements) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const real *g = c->in[0].data;
    real *p = c->out[0].data, *m = c->out[1].data, *v = c->out[2].data;
    const real lr = (real)c->attr.adamw.lr, beta1 = (real)c->attr.adamw.beta1, beta2 = (real)c->attr.adamw.beta2;
    const real eps = (real)c->attr.adamw.eps, decay = (real)c->attr.adamw.decay;
    const real c1 = (real)c->attr.adamw.c1, c2 = (real)c->attr.adamw.c2;
    for (int64_t i = begin; i < end; i++) {
        const real q = p[i] * decay;
        m[i] = FMA(beta1, m[i], ((real)1 - beta1) * g[i]);
        v[i] = FMA(beta2, v[i], (((real)1 - beta2) * g[i]) * g[i]);
        p[i] = q - (lr * (m[i] * c1)) / (SQRT(v[i] * c2) + eps);
    }
}

bd_status REF_FN(adamw)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, count(&c->out[0]), adamw_elements);
    return BD_OK;
}

REF_TASK(sgd_elements) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const real *g = c->in[0].data;
    real *p = c->out[0].data, *b = c->out[1].data;
    const real lr = (real)c->attr.sgd.lr, momentum = (real)c->attr.sgd.momentum;
    for (int64_t i = begin; i < end; i++) {
        b[i] = FMA(momentum, b[i], g[i]);
        p[i] = FMA(-lr, b[i], p[i]);
    }
}

bd_status REF_FN(sgd)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, count(&c->out[0]), sgd_elements);
    return BD_OK;
}
