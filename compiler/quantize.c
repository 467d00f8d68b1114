#include "compiler/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/half.h"

bd_status bd_qtensor_alloc(bd_qtensor *q, int64_t rows, int64_t cols, const bd_qsetting *s, bd_err *err) {
    uint64_t n = (uint64_t)rows * (uint64_t)cols;
    q->rows = (uint32_t)rows;
    q->cols = (uint32_t)cols;
    q->method = s->method;
    q->bits = s->method == BD_Q_ROW ? (uint8_t)s->bits : 0;
    q->group = s->method == BD_Q_TERNARY ? s->group : 0;
    bool coded = s->method == BD_Q_ROW || s->method == BD_Q_TERNARY;
    uint64_t n_scales = s->method == BD_Q_ROW ? (uint64_t)rows : coded ? (n + s->group - 1) / s->group : 0;
    q->codes = coded ? bd_alloc_aligned(n, 1) : NULL;
    q->scales = coded ? bd_alloc_aligned(n_scales, 2) : NULL;
    q->f16 = s->method == BD_Q_F16 ? bd_alloc_aligned(n, 2) : NULL;
    q->f32 = s->method == BD_Q_F32 ? bd_alloc_aligned(n, 4) : NULL;
    if ((coded && (!q->codes || !q->scales)) || (s->method == BD_Q_F16 && !q->f16) ||
        (s->method == BD_Q_F32 && !q->f32)) {
        bd_qtensor_free(q);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for a %lld x %lld tensor", (long long)rows, (long long)cols);
    }
    return BD_OK;
}

void bd_qtensor_free(bd_qtensor *q) {
    free(q->codes);
    free(q->scales);
    free(q->f16);
    free(q->f32);
    q->codes = NULL;
    q->scales = NULL;
    q->f16 = NULL;
    q->f32 = NULL;
}

/* --- row --- */

double bd_row_deviation(const float *w, int64_t n) {
    double sum = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)w[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) sq += ((double)w[i] - mean) * ((double)w[i] - mean);
    return n > 1 ? sqrt(sq / (double)(n - 1)) : fabs(mean);
}

static bd_status row_scale(uint16_t *out, const bd_qsource *src, const bd_qsetting *s, int qmax, int64_t row,
                           bd_err *err) {
    const float *w = src->w + row * src->cols;
    double unit = src->unit ? src->unit[row] : bd_row_deviation(w, src->cols), step = (double)s->k * unit / qmax,
           top = 0;
    for (int64_t i = 0; i < src->cols; i++)
        if (fabs((double)w[i]) > top) top = fabs((double)w[i]);
    if ((s->bits == 8 || src->unit || s->k == 0) && step < top / qmax) step = top / qmax;
    if (top / qmax > 65504.0)
        return BD_FAIL(err, BD_E_RANGE, "row %lld has a weight of %g, beyond %d times the largest binary16 scale",
                       (long long)row, top, qmax);
    if (step > 65504.0) step = 65504.0;
    *out = bd_f32_to_f16((float)step);
    /* The smallest non-zero scale stands in for one that would round to zero. */
    if (*out == 0 && top > 0) *out = 1;
    return BD_OK;
}

/* round half to even, as the field's quantizers do */
static inline double code_of(double x, double inv, int qmax) {
    double q = nearbyint(x * inv);
    return q > qmax ? qmax : q < -qmax ? -qmax : q;
}

/* Rows are independent; several go together so that a block of A is read once. */
enum { ROWS = 8, BLOCK = 32, TILE = 128 };

typedef struct row_job {
    bd_qtensor *q;
    const bd_qsource *src;
    int qmax;
    double *lost;    /* (rows): per row, summed afterwards in order */
    double *scratch; /* (workers, ROWS, cols): carries */
} row_job;

/* Without a Hessian: round to nearest. */
static void round_row(const row_job *j, int64_t r) {
    const float *w = j->src->w + r * j->src->cols;
    int8_t *codes = j->q->codes + r * j->src->cols;
    double scale = (double)bd_f16_to_f32(j->q->scales[r]), inv = scale > 0 ? 1 / scale : 0, lost = 0;
    for (int64_t i = 0; i < j->src->cols; i++) {
        double c = code_of((double)w[i], inv, j->qmax), e = (double)w[i] - c * scale;
        codes[i] = (int8_t)c;
        lost += e * e;
    }
    j->lost[r] = lost;
}

/* carry[i] += sum over k < n of e[k] * a[k][i] for i in [from, to): increasing k,
 * every product rounded, so the way it is cut into blocks and vectors shows nowhere. */
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

typedef void spread_fn(double *carry, const double *e, const double *a, int64_t stride, int64_t n, int64_t from,
                       int64_t to);

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

static spread_fn *choose_spread(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return spread_avx2;
#endif
    return spread;
}

/* Columns [k0, k1) of one row; carry[i] = sum over done columns k of (w_k - q_k) A_ki,
 * complete up to column k1 afterwards. e: the errors of these columns. */
static void round_block(const row_job *j, int64_t r, int64_t k0, int64_t k1, double *carry, double *e) {
    const bd_qsource *src = j->src;
    const float *w = src->w + r * src->cols;
    int8_t *codes = j->q->codes + r * src->cols;
    double scale = (double)bd_f16_to_f32(j->q->scales[r]), inv = scale > 0 ? 1 / scale : 0, lost = j->lost[r];
    for (int64_t k = k0; k < k1; k++) {
        const double *a = src->ldl + k * src->cols;
        int64_t col = src->order ? src->order[k] : k;
        double wk = src->dead[col] ? 0 : (double)w[col], target = wk + carry[k];
        double c = code_of(target, inv, j->qmax), u = target - c * scale;
        e[k - k0] = wk - c * scale;
        codes[col] = (int8_t)c;
        lost += a[k] * u * u;
        for (int64_t i = k + 1; i < k1; i++) carry[i] += e[k - k0] * a[i];
    }
    j->lost[r] = lost;
}

static void quantize_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const row_job *j = arg;
    int64_t n = j->src->cols;
    double *carry = j->scratch + (int64_t)worker * ROWS * n, e[ROWS][BLOCK];
    spread_fn *add = choose_spread();
    for (int64_t r0 = begin; r0 < end; r0 += ROWS) {
        int64_t rows = end - r0 < ROWS ? end - r0 : ROWS;
        if (!j->src->ldl) {
            for (int64_t r = 0; r < rows; r++) round_row(j, r0 + r);
            continue;
        }
        memset(carry, 0, (size_t)(ROWS * n) * sizeof *carry);
        for (int64_t r = 0; r < rows; r++) j->lost[r0 + r] = 0;
        for (int64_t k0 = 0; k0 < n; k0 += BLOCK) {
            int64_t k1 = k0 + BLOCK < n ? k0 + BLOCK : n;
            for (int64_t r = 0; r < rows; r++) round_block(j, r0 + r, k0, k1, carry + r * n, e[r]);
            for (int64_t i = k1; i < n; i += TILE)
                for (int64_t r = 0; r < rows; r++)
                    add(carry + r * n, e[r], j->src->ldl + k0 * n, n, k1 - k0, i, i + TILE < n ? i + TILE : n);
        }
    }
}

static void drop_zero_rows(bd_qtensor *q, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t i = 0;
        while (i < cols && !q->codes[r * cols + i]) i++;
        if (i == cols) q->scales[r] = 0;
    }
}

static bd_status quantize_by_row(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                                 double *lost, bd_err *err) {
    row_job j = {.q = q, .src = src, .qmax = (1 << (s->bits - 1)) - 1};
    for (int64_t r = 0; r < src->rows; r++) BD_TRY(row_scale(&q->scales[r], src, s, j.qmax, r, err));
    j.lost = malloc((size_t)src->rows * sizeof(double));
    j.scratch = malloc((size_t)bd_pool_threads(pool) * ROWS * (size_t)src->cols * sizeof(double));
    if (!j.lost || !j.scratch) {
        free(j.lost);
        free(j.scratch);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
    }
    bd_pool_for(pool, src->rows, ROWS, quantize_rows, &j);
    for (int64_t r = 0; r < src->rows; r++) *lost += j.lost[r];
    free(j.lost);
    free(j.scratch);
    drop_zero_rows(q, src->rows, src->cols);
    return BD_OK;
}

double bd_qsource_signal(const bd_qsource *src) {
    double signal = 0;
    double *sum = src->ldl ? malloc((size_t)src->cols * sizeof *sum) : NULL;
    for (int64_t r = 0; r < src->rows; r++) {
        const float *w = src->w + r * src->cols;
        if (!sum) {
            for (int64_t i = 0; i < src->cols; i++) signal += (double)w[i] * (double)w[i];
            continue;
        }
        memset(sum, 0, (size_t)src->cols * sizeof *sum);
        for (int64_t k = 0; k < src->cols; k++) {
            const double *a = src->ldl + k * src->cols;
            int64_t col = src->order ? src->order[k] : k;
            double wk = src->dead[col] ? 0 : (double)w[col], s = wk + sum[k];
            signal += a[k] * s * s;
            for (int64_t i = k + 1; i < src->cols; i++) sum[i] += wk * a[i];
        }
    }
    free(sum);
    return signal;
}

/* --- ternary --- */

static bd_status quantize_ternary(bd_qtensor *q, const bd_qsource *src, uint32_t group, double *lost, bd_err *err) {
    int64_t n = src->rows * src->cols;
    for (int64_t g = 0; g * group < n; g++) {
        int64_t begin = g * group, end = begin + group < n ? begin + group : n;
        double sum = 0;
        for (int64_t i = begin; i < end; i++) sum += fabs((double)src->w[i]);
        double mean = sum / (double)(end - begin);
        if (mean > 65504.0) return BD_FAIL(err, BD_E_RANGE, "a group's mean is %g, beyond binary16", mean);
        q->scales[g] = bd_f32_to_f16((float)(mean > 1e-8 ? mean : 1e-8));
        double scale = (double)bd_f16_to_f32(q->scales[g]), inv = scale > 0 ? 1 / scale : 0;
        for (int64_t i = begin; i < end; i++) {
            double c = code_of((double)src->w[i], inv, 1), e = (double)src->w[i] - c * scale;
            q->codes[i] = (int8_t)c;
            *lost += e * e;
        }
    }
    return BD_OK;
}

/* --- plain --- */

static bd_status convert_f16(bd_qtensor *q, const bd_qsource *src, double *lost, bd_err *err) {
    for (int64_t i = 0; i < src->rows * src->cols; i++) {
        q->f16[i] = bd_f32_to_f16(src->w[i]);
        double v = (double)bd_f16_to_f32(q->f16[i]), e = (double)src->w[i] - v;
        if (!isfinite(v))
            return BD_FAIL(err, BD_E_RANGE, "element %lld is %g, beyond binary16", (long long)i, (double)src->w[i]);
        *lost += e * e;
    }
    return BD_OK;
}

bd_status bd_quantize(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, double *lost,
                      bd_err *err) {
    for (int64_t i = 0; i < src->rows * src->cols; i++)
        if (!isfinite(src->w[i])) return BD_FAIL(err, BD_E_NONFINITE, "element %lld is not finite", (long long)i);
    *lost = 0;
    switch (s->method) {
        case BD_Q_ROW: return quantize_by_row(q, src, s, pool, lost, err);
        case BD_Q_TERNARY: return quantize_ternary(q, src, s->group, lost, err);
        case BD_Q_F16: return convert_f16(q, src, lost, err);
        case BD_Q_F32: memcpy(q->f32, src->w, (size_t)(src->rows * src->cols) * sizeof(float)); return BD_OK;
        case BD_Q_COUNT: break;
    }
    return BD_FAIL(err, BD_E_FIELD, "unknown quantization method");
}
