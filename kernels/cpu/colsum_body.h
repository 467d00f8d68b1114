/* Sums down the columns: every column is one chain over all rows, so tasks are
 * ranges of columns. Several rows are taken per visit to the accumulators. */
#include "kernels/cpu/vec.h"

enum { COLSUM_ROWS = 4 };

static void scale_grad_s_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t n = c->in[0].rows, cols = c->in[0].cols, first = 16 * begin, last = vec_min(16 * end, cols);
    float *ds = c->out[0].data;
    int64_t t = 0;
    for (; t + COLSUM_ROWS <= n; t += COLSUM_ROWS) {
        const float *dy = (const float *)c->in[0].data + t * cols, *x = (const float *)c->in[1].data + t * cols;
        V16_EACH(first, last, {
            v16 acc = v16_get(ds + j, w);
            for (int r = 0; r < COLSUM_ROWS; r++) {
                acc = v16_fma(v16_get(dy + r * cols + j, w), v16_get(x + r * cols + j, w), acc);
            }
            v16_put(ds + j, acc, w);
        });
    }
    for (; t < n; t++) {
        const float *dy = (const float *)c->in[0].data + t * cols, *x = (const float *)c->in[1].data + t * cols;
        V16_EACH(first, last,
                 { v16_put(ds + j, v16_fma(v16_get(dy + j, w), v16_get(x + j, w), v16_get(ds + j, w)), w); });
    }
}

bd_status SIMD_FN(scale_grad_s)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    vec_for_columns(cpu, c, c->in[0].rows, c->in[0].cols, 16, 4, scale_grad_s_task);
    return BD_OK;
}

static void row_moment_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t n = c->in[0].rows, cols = c->in[0].cols, first = 16 * begin, last = vec_min(16 * end, cols);
    double *m = c->out[0].data;
    int64_t t = 0;
    for (; t + COLSUM_ROWS <= n; t += COLSUM_ROWS) {
        const float *g = (const float *)c->in[0].data + t * cols;
        V16_EACH(first, last, {
            d16 acc = d16_get(m + j, w);
            for (int r = 0; r < COLSUM_ROWS; r++) {
                const d16 x = d16_widen(v16_get(g + r * cols + j, w));
                acc = d16_acc_fma(acc, x, x, 16);
            }
            d16_put(m + j, acc, w);
        });
    }
    for (; t < n; t++) {
        const float *g = (const float *)c->in[0].data + t * cols;
        V16_EACH(first, last, {
            const d16 x = d16_widen(v16_get(g + j, w));
            d16_put(m + j, d16_acc_fma(d16_get(m + j, w), x, x, 16), w);
        });
    }
}

bd_status SIMD_FN(row_moment)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    vec_for_columns(cpu, c, c->in[0].rows, c->in[0].cols, 16, 4, row_moment_task);
    return BD_OK;
}

/* Units are heads. */
static void head_scale_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t n = c->in[0].rows, cols = c->in[0].cols, width = cols / c->attr.heads.heads;
    float *dg = c->out[0].data;
    for (int64_t t = 0; t < n; t++) {
        for (int64_t h = begin; h < end; h++) {
            const float *dy = (const float *)c->in[0].data + t * cols + h * width;
            const float *x = (const float *)c->in[1].data + t * cols + h * width;
            v16 acc = v16_zero();
            V16_EACH(0, width, { acc = v16_acc_fma(acc, v16_get(dy + j, w), v16_get(x + j, w), w); });
            dg[h] += v16_sum(acc);
        }
    }
}

bd_status SIMD_FN(head_scale_grad)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    const int64_t cols = c->in[0].cols, width = cols / c->attr.heads.heads;
    vec_for_columns(cpu, c, c->in[0].rows, cols, width, 1, head_scale_grad_task);
    return BD_OK;
}
