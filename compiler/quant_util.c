#include "compiler/quant_util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* --- carrying errors --- */

static inline __attribute__((always_inline)) void spread_body(double *carry, const double *e, const double *a,
                                                              int64_t stride, int64_t n, int64_t from, int64_t to) {
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
        const double *a0 = a + k * stride, *a1 = a0 + stride, *a2 = a1 + stride, *a3 = a2 + stride;
        for (int64_t i = from; i < to; i++)
            carry[i] = (((carry[i] + e[k] * a0[i]) + e[k + 1] * a1[i]) + e[k + 2] * a2[i]) + e[k + 3] * a3[i];
    }
    for (; k < n; k++)
        for (int64_t i = from; i < to; i++) carry[i] += e[k] * a[k * stride + i];
}

static void spread(double *carry, const double *e, const double *a, int64_t stride, int64_t n, int64_t from,
                   int64_t to) {
    spread_body(carry, e, a, stride, n, from, to);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void spread_avx2(double *carry, const double *e, const double *a,
                                                        int64_t stride, int64_t n, int64_t from, int64_t to) {
    spread_body(carry, e, a, stride, n, from, to);
}
#endif

bd_spread_fn *bd_spread_choose(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return spread_avx2;
#endif
    return spread;
}

/* --- tensors --- */

bd_status bd_quant_finite(const bd_qsource *src, bd_err *err) {
    for (int64_t i = 0; i < src->rows * src->cols; i++)
        if (!isfinite(src->w[i])) return BD_FAIL(err, BD_E_NONFINITE, "element %lld is not finite", (long long)i);
    return BD_OK;
}

void bd_quant_start(bd_qtensor *q, const bd_qsource *src, bd_qmethod method) {
    bd_qtensor_free(q);
    *q =
        (bd_qtensor){.param = q->param, .rows = (uint32_t)src->rows, .cols = (uint32_t)src->cols, .method = method};
}

/* --- what was lost --- */

void bd_ldl_apply(const bd_qsource *src, const double *e, double *u, int64_t rows) {
    int64_t n = src->cols;
    bd_spread_fn *add = bd_spread_choose();
    memcpy(u, e, (size_t)(rows * n) * sizeof *u);
    for (int64_t k0 = 0; k0 < n; k0 += BD_LDL_BLOCK) {
        int64_t k1 = k0 + BD_LDL_BLOCK < n ? k0 + BD_LDL_BLOCK : n;
        const double *a = src->ldl + k0 * n;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = k0; k < k1; k++) add(u + r * n, e + r * n + k, src->ldl + k * n, n, 1, k + 1, k1);
        for (int64_t i = k1; i < n; i += BD_LDL_TILE)
            for (int64_t r = 0; r < rows; r++)
                add(u + r * n, e + r * n + k0, a, n, k1 - k0, i, i + BD_LDL_TILE < n ? i + BD_LDL_TILE : n);
    }
}

void bd_ldl_gather(const bd_qsource *src, const float *w, int64_t r, double *out) {
    w += r * src->cols;
    for (int64_t k = 0; k < src->cols; k++) {
        int64_t col = src->order ? src->order[k] : k;
        out[k] = src->ldl && src->dead && src->dead[col] ? 0 : (double)w[col];
    }
}

typedef struct loss_job {
    const bd_qsource *src;
    const float *value;
    double *out, *scratch; /* scratch: (workers, 3, BD_LDL_ROWS, cols) */
} loss_job;

static void rows_lost(void *arg, int64_t begin, int64_t end, int worker) {
    const loss_job *j = arg;
    const bd_qsource *src = j->src;
    int64_t n = src->cols;
    double *e = j->scratch + (int64_t)worker * 3 * BD_LDL_ROWS * n, *v = e + BD_LDL_ROWS * n,
           *u = v + BD_LDL_ROWS * n;
    for (int64_t r0 = begin; r0 < end; r0 += BD_LDL_ROWS) {
        int64_t rows = end - r0 < BD_LDL_ROWS ? end - r0 : BD_LDL_ROWS;
        for (int64_t r = 0; r < rows; r++) {
            bd_ldl_gather(src, src->w, r0 + r, e + r * n);
            if (!j->value) continue;
            bd_ldl_gather(src, j->value, r0 + r, v + r * n);
            for (int64_t k = 0; k < n; k++) e[r * n + k] -= v[r * n + k];
        }
        if (src->ldl) bd_ldl_apply(src, e, u, rows);
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += src->ldl ? src->ldl[k * n + k] * u[r * n + k] * u[r * n + k] : e[r * n + k] * e[r * n + k];
            j->out[r0 + r] = sum;
        }
    }
}

bd_status bd_quant_row_loss(double *out, const bd_qsource *src, const float *value, bd_pool *pool, bd_err *err) {
    loss_job j = {.src = src, .value = value, .out = out};
    j.scratch = malloc((size_t)bd_pool_threads(pool) * 3 * BD_LDL_ROWS * (size_t)src->cols * sizeof(double));
    if (!j.scratch) return BD_FAIL(err, BD_E_NOMEM, "out of memory measuring what was lost");
    bd_pool_for(pool, src->rows, BD_LDL_ROWS, rows_lost, &j);
    free(j.scratch);
    return BD_OK;
}

/* Second moments of a vector's elements weight their squared errors. */
static void vector_result(bd_qresult *res, const bd_qsource *src, const float *value) {
    double lost = 0, signal = 0;
    for (int64_t i = 0; i < src->rows * src->cols; i++) {
        double g = src->rows_metric ? src->rows_metric[i] : 1, w = (double)src->w[i], e = w - (double)value[i];
        lost += g * e * e;
        signal += g * w * w;
    }
    *res = (bd_qresult){.nats = src->rows_metric ? lost / 2 : (double)NAN, .lost = signal > 0 ? lost / signal : 0};
}

bd_status bd_quant_result_rows(bd_qresult *res, const bd_qsource *src, const double *loss, bd_pool *pool,
                               bd_err *err) {
    double *signal = malloc((size_t)src->rows * sizeof *signal), lost = 0, all = 0;
    if (!signal) return BD_FAIL(err, BD_E_NOMEM, "out of memory measuring what was lost");
    bd_status st = bd_quant_row_loss(signal, src, NULL, pool, err);
    const double *weight = src->ldl && !src->vector ? src->rows_metric : NULL;
    for (int64_t r = 0; !st && r < src->rows; r++) {
        lost += (weight ? weight[r] : 1) * loss[r];
        all += (weight ? weight[r] : 1) * signal[r];
    }
    free(signal);
    if (!st) *res = (bd_qresult){.nats = weight ? lost / 2 : (double)NAN, .lost = all > 0 ? lost / all : 0};
    return st;
}

bd_status bd_quant_result(bd_qresult *res, const bd_qsource *src, const bd_qtensor *q, bd_pool *pool, bd_err *err) {
    float *value = bd_alloc_aligned((uint64_t)(src->rows * src->cols), sizeof *value);
    double *loss = malloc((size_t)src->rows * sizeof *loss);
    bd_status st = value && loss ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory measuring what was lost");
    if (!st) bd_qtensor_dequant(q, value);
    if (!st && src->vector) {
        vector_result(res, src, value);
    } else if (!st) {
        st = bd_quant_row_loss(loss, src, value, pool, err);
        if (!st) st = bd_quant_result_rows(res, src, loss, pool, err);
    }
    free(value);
    free(loss);
    return st;
}

/* --- statistics of weights --- */

double bd_row_deviation(const float *w, int64_t n) {
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)w[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) sq += ((double)w[i] - mean) * ((double)w[i] - mean);
    return n > 1 ? sqrt(sq / (double)(n - 1)) : fabs(mean);
}

/* Puts the k-th smallest at a[k], smaller ones before it and larger ones after it. */
static void select_kth(float *a, int64_t n, int64_t k) {
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = a[lo + (hi - lo) / 2];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (a[i] < pivot) i++;
            while (a[j] > pivot) j--;
            if (i > j) break;
            float t = a[i];
            a[i++] = a[j];
            a[j--] = t;
        }
        if (k <= j) hi = j;
        else if (k >= i) lo = i;
        else return;
    }
}

float bd_quantile(float *a, int64_t n, float p) {
    float at = p * (float)(n - 1);
    int64_t below = (int64_t)floorf(at);
    if (below > n - 1) below = n - 1;
    select_kth(a, n, below);
    if (below == n - 1) return a[below];
    float t = at - (float)below, x = a[below], y = a[below + 1];
    for (int64_t i = below + 2; i < n; i++)
        if (a[i] < y) y = a[i];
    return t < 0.5f ? x + t * (y - x) : y - (y - x) * (1.0f - t);
}

bd_status bd_check_range(const char *field, double v, double lo, double hi, bd_err *err) {
    if (!(v >= lo && v <= hi))
        return BD_FAIL(err, BD_E_RANGE, "%s must be from %.9g to %.9g, not %.9g", field, lo, hi, v);
    return BD_OK;
}
