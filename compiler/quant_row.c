/* row: int codes with one binary16 scale per row, SDClip and GPTQ.
 *
 * scale = binary16(k * deviation / qmax), rounded before use. With a Hessian, columns
 * are rounded one after another and the errors of earlier ones carried into later
 * ones (ldl.h); without, to nearest. Ties go to even codes. k = 0, and a row without
 * deviation, take the finest scale that clips nothing. A row whose codes are all zero
 * has scale 0. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "compiler/quant_util.h"

enum { HALF_MAX = 65504 };

static double largest(const float *w, int64_t n) {
    double top = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs((double)w[i]) > top) top = fabs((double)w[i]);
    return top;
}

static bd_status row_scale(uint16_t *out, const float *w, int64_t n, float k, int qmax, int64_t row, bd_err *err) {
    double top = largest(w, n), deviation = bd_row_deviation(w, n);
    bool finest = !(k > 0) || !(deviation > 0);
    double step = finest ? top / qmax : (double)k * deviation / qmax;
    if (top / qmax > HALF_MAX)
        return BD_FAIL(err, BD_E_RANGE, "row %lld has a weight of %g, beyond %d times the largest binary16 scale",
                       (long long)row, top, qmax);
    *out = bd_f32_to_f16((float)(step < HALF_MAX ? step : HALF_MAX));
    /* The smallest scale stands in for one that would round to zero. */
    if (*out == 0 && top > 0) *out = 1;
    if (!finest) return BD_OK;
    /* Rounding the scale down may let the largest weight round past qmax. */
    while (nearbyint(top / (double)bd_f16_to_f32(*out)) > qmax) ++*out;
    return BD_OK;
}

/* Round half to even, as the field's quantizers do. */
static inline double code_of(double x, double inv, int qmax) {
    double q = nearbyint(x * inv);
    return q > qmax ? qmax : q < -qmax ? -qmax : q;
}

typedef struct row_job {
    bd_qtensor *q;
    const bd_qsource *src;
    int qmax;
    double *loss;    /* (rows) */
    double *scratch; /* (workers, BD_LDL_ROWS, cols): carries */
} row_job;

static void round_row(const row_job *j, int64_t r) {
    const float *w = j->src->w + r * j->src->cols;
    int8_t *codes = j->q->codes + r * j->src->cols;
    double scale = (double)bd_f16_to_f32(j->q->scales[r]), inv = scale > 0 ? 1 / scale : 0, lost = 0;
    for (int64_t i = 0; i < j->src->cols; i++) {
        double c = code_of((double)w[i], inv, j->qmax), e = (double)w[i] - c * scale;
        codes[i] = (int8_t)c;
        lost += e * e;
    }
    j->loss[r] = lost;
}

/* Columns [k0, k1) of one row; carry[i] = sum over done columns k of (w_k - q_k) A_ki,
 * complete up to column k1 afterwards. e: the errors of these columns. */
static void round_block(const row_job *j, int64_t r, int64_t k0, int64_t k1, double *carry, double *e) {
    const bd_qsource *src = j->src;
    const float *w = src->w + r * src->cols;
    int8_t *codes = j->q->codes + r * src->cols;
    double scale = (double)bd_f16_to_f32(j->q->scales[r]), inv = scale > 0 ? 1 / scale : 0, lost = j->loss[r];
    for (int64_t k = k0; k < k1; k++) {
        const double *a = src->ldl + k * src->cols;
        int64_t col = src->order ? src->order[k] : k;
        bool dead = src->dead && src->dead[col];
        double wk = dead ? 0 : (double)w[col], target = wk + carry[k];
        double c = dead ? 0 : code_of(target, inv, j->qmax), u = target - c * scale;
        e[k - k0] = wk - c * scale;
        codes[col] = (int8_t)c;
        lost += a[k] * u * u;
        for (int64_t i = k + 1; i < k1; i++) carry[i] += e[k - k0] * a[i];
    }
    j->loss[r] = lost;
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const row_job *j = arg;
    int64_t n = j->src->cols;
    double *carry = j->scratch + (int64_t)worker * BD_LDL_ROWS * n, e[BD_LDL_ROWS][BD_LDL_BLOCK];
    bd_spread_fn *add = bd_spread_choose();
    for (int64_t r0 = begin; r0 < end; r0 += BD_LDL_ROWS) {
        int64_t rows = end - r0 < BD_LDL_ROWS ? end - r0 : BD_LDL_ROWS;
        if (!j->src->ldl) {
            for (int64_t r = 0; r < rows; r++) round_row(j, r0 + r);
            continue;
        }
        memset(carry, 0, (size_t)(BD_LDL_ROWS * n) * sizeof *carry);
        for (int64_t r = 0; r < rows; r++) j->loss[r0 + r] = 0;
        for (int64_t k0 = 0; k0 < n; k0 += BD_LDL_BLOCK) {
            int64_t k1 = k0 + BD_LDL_BLOCK < n ? k0 + BD_LDL_BLOCK : n;
            for (int64_t r = 0; r < rows; r++) round_block(j, r0 + r, k0, k1, carry + r * n, e[r]);
            for (int64_t i = k1; i < n; i += BD_LDL_TILE)
                for (int64_t r = 0; r < rows; r++)
                    add(carry + r * n, e[r], j->src->ldl + k0 * n, n, k1 - k0, i,
                        i + BD_LDL_TILE < n ? i + BD_LDL_TILE : n);
        }
    }
}

static void drop_zero_rows(bd_qtensor *q) {
    for (int64_t r = 0; r < q->rows; r++) {
        int64_t i = 0;
        while (i < q->cols && !q->codes[r * q->cols + i]) i++;
        if (i == q->cols) q->scales[r] = 0;
    }
}

bd_status bd_quant_row_codes(bd_qtensor *q, const bd_qsource *src, float k, bd_pool *pool, double *loss,
                             bd_err *err) {
    row_job j = {.q = q, .src = src, .qmax = (1 << (q->bits - 1)) - 1, .loss = loss};
    for (int64_t r = 0; r < src->rows; r++)
        BD_TRY(row_scale(&q->scales[r], src->w + r * src->cols, src->cols, k, j.qmax, r, err));
    j.scratch = malloc((size_t)bd_pool_threads(pool) * BD_LDL_ROWS * (size_t)src->cols * sizeof(double));
    if (!j.scratch) return BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
    bd_pool_for(pool, src->rows, BD_LDL_ROWS, round_rows, &j);
    free(j.scratch);
    drop_zero_rows(q);
    return BD_OK;
}

static bd_status check_row(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("bits", s->bits, 2, 8, err));
    return bd_check_range("k", (double)s->k, 0, 1e6, err);
}

static bd_status quantize_row(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                              bd_qresult *res, bd_err *err) {
    BD_TRY(check_row(s, err));
    BD_TRY(bd_quant_finite(src, err));
    bd_quant_start(q, src, BD_Q_ROW);
    q->bits = (uint8_t)s->bits;
    BD_TRY(bd_qtensor_alloc(q, err));
    double *loss = malloc((size_t)src->rows * sizeof *loss);
    bd_status st = loss ? bd_quant_row_codes(q, src, s->k, pool, loss, err)
                        : BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
    if (!st && src->vector) st = bd_quant_result(res, src, q, pool, err);
    else if (!st) st = bd_quant_result_rows(res, src, loss, pool, err);
    free(loss);
    return st;
}

extern const bd_quantizer bd_quantizer_row;
const bd_quantizer bd_quantizer_row = {
    .name = "row",
    .method = BD_Q_ROW,
    .fields = BD_QF_BITS | BD_QF_K,
    .defaults = {.bits = 6, .k = 12.85f},
    .scaled = BD_QF_K,
    .summary = "GPTQ: integers with a scale per row from its deviation (SDClip), errors carried over columns",
    .check = check_row,
    .quantize = quantize_row,
};
