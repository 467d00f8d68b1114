/* Second moments for the compiler: chains over t in double. */
#include "kernels/ref/ref_typed.h"

/* Tasks are rows of H. */
REF_TASK(second_moment_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, K = c->in[0].cols;
    const real *x = c->in[0].data;   /* (n,K) */
    const double *w = c->in[1].data; /* (n) or none */
    double *H = c->out[0].data;      /* (K,K) */
    for (int64_t i = begin; i < end; i++) {
        double *restrict h = H + i * K;
        for (int64_t t = 0; t < n; t++) {
            const double a = (w ? w[t] : 1.0) * (double)x[t * K + i];
            for (int64_t j = 0; j < K; j++) h[j] = bd_fma64(a, (double)x[t * K + j], h[j]);
        }
    }
}

bd_status REF_FN(second_moment)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].cols, second_moment_rows);
    return BD_OK;
}

/* Tasks are columns. */
REF_TASK(row_moment_columns) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, M = c->in[0].cols;
    const real *g = c->in[0].data;
    double *sum = c->out[0].data;
    for (int64_t t = 0; t < n; t++) {
        for (int64_t j = begin; j < end; j++) {
            const double v = (double)g[t * M + j];
            sum[j] = bd_fma64(v, v, sum[j]);
        }
    }
}

bd_status REF_FN(row_moment)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].cols, row_moment_columns);
    return BD_OK;
}
