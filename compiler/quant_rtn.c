/* Rounding to nearest without a Hessian, as published recipes do it: the arithmetic
 * is float32 in their order, so the codes are theirs.
 *
 * rtn          rows clipped at a quantile; scale max(clip / qmax, floor); codes are
 *              divided by the float32 scale, which is stored as binary16. multiple m
 *              (a power of two): codes are multiples of m in [-2^(bits-1), 2^(bits-1) - m];
 *              stored are code / m with the scale times m.
 * clip-search  the quantile among five with the least squared error of the whole
 *              matrix; scales are rounded to binary16 before use.
 * asym         scale binary16(max(largest / qmax, floor)), codes in [-qmax - 1, qmax];
 *              before that, entries whose magnitude is below the tensor's quantile
 *              become zero (quantile 0: none do).
 *
 * The file's codes are symmetric: a tensor where the extra negative code occurs is
 * stored with one bit more, which no entropy coder charges for. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "compiler/quant_util.h"

static bd_status store_scale(uint16_t *out, float scale, int64_t row, bd_err *err) {
    *out = bd_f32_to_f16(scale);
    if (!isfinite(bd_f16_to_f32(*out)))
        return BD_FAIL(err, BD_E_RANGE, "the scale of row %lld is %g, beyond binary16", (long long)row,
                       (double)scale);
    return BD_OK;
}

static float limit(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

/* A scale of zero has only zeros below it. */
static float rounded(float w, float scale) { return scale > 0 ? nearbyintf(w / scale) : 0; }

/* The clip of a row; magnitudes: (cols) scratch. */
static float row_clip(const float *w, int64_t n, float p, float *magnitudes) {
    for (int64_t i = 0; i < n; i++) magnitudes[i] = fabsf(w[i]);
    return bd_quantile(magnitudes, n, p);
}

/* One bit more if the codes leave the symmetric range of `bits`. */
static uint8_t bits_needed(const bd_qtensor *q, int bits) {
    int lowest = 0;
    for (int64_t i = 0; i < (int64_t)q->rows * q->cols; i++)
        if (q->codes[i] < lowest) lowest = q->codes[i];
    return (uint8_t)(lowest < -((1 << (bits - 1)) - 1) ? bits + 1 : bits);
}

static bd_status start(bd_qtensor *q, const bd_qsource *src, float **scratch, int64_t n_scratch, bd_err *err) {
    BD_TRY(bd_quant_finite(src, err));
    bd_quant_start(q, src, BD_Q_ROW);
    BD_TRY(bd_qtensor_alloc(q, err));
    *scratch = malloc((size_t)n_scratch * sizeof **scratch);
    return *scratch ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
}

/* --- rtn --- */

static int log2_of(int multiple) {
    int l = 0;
    while (multiple >> (l + 1)) l++;
    return l;
}

static bd_status check_rtn(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("bits", s->bits, 2, 8, err));
    BD_TRY(bd_check_range("quantile", (double)s->quantile, 0, 1, err));
    BD_TRY(bd_check_range("floor", (double)s->floor, 0, 65504, err));
    BD_TRY(bd_check_range("multiple", s->multiple, 1, 1 << (s->bits - 1), err));
    if (s->multiple & (s->multiple - 1)) return BD_FAIL(err, BD_E_RANGE, "multiple must be a power of two");
    return BD_OK;
}

static bd_status rtn_row(bd_qtensor *q, const float *w, const bd_qsetting *s, int64_t r, float *scratch,
                         bd_err *err) {
    float qmax = (float)((1 << (s->bits - 1)) - 1), m = (float)s->multiple;
    float clip = row_clip(w, q->cols, s->quantile, scratch), scale = clip / qmax;
    if (scale < s->floor) scale = s->floor;
    /* The stored scale is binary16(scale) times the multiple, which is exact. */
    uint16_t half = 0;
    BD_TRY(store_scale(&half, scale, r, err));
    BD_TRY(store_scale(&q->scales[r], bd_f16_to_f32(half) * m, r, err));
    float lowest = s->multiple == 1 ? -qmax : -(qmax + 1) / m,
          highest = s->multiple == 1 ? qmax : (qmax + 1) / m - 1;
    for (int64_t i = 0; i < q->cols; i++) {
        float code = rounded(limit(w[i], -clip, clip), scale);
        q->codes[r * q->cols + i] = (int8_t)limit(nearbyintf(code / m), lowest, highest);
    }
    return BD_OK;
}

static bd_status quantize_rtn(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                              bd_qresult *res, bd_err *err) {
    BD_TRY(check_rtn(s, err));
    float *scratch = NULL;
    bd_status st = start(q, src, &scratch, src->cols, err);
    for (int64_t r = 0; !st && r < src->rows; r++) st = rtn_row(q, src->w + r * src->cols, s, r, scratch, err);
    free(scratch);
    if (st) return st;
    int bits = s->bits - log2_of(s->multiple);
    q->bits = bits_needed(q, bits < 2 ? 2 : bits);
    return bd_quant_result(res, src, q, pool, err);
}

/* --- clip-search --- */

static bd_status check_clip_search(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("bits", s->bits, 2, 8, err));
    return bd_check_range("floor", (double)s->floor, 0, 65504, err);
}

/* One row with a clip of its quantile p; the squared error, or -1 with an error. */
static bd_status clipped_row(bd_qtensor *q, const float *w, const bd_qsetting *s, float p, int64_t r,
                             float *scratch, double *sum, bd_err *err) {
    float qmax = (float)((1 << (s->bits - 1)) - 1), scale = row_clip(w, q->cols, p, scratch) / qmax;
    BD_TRY(store_scale(&q->scales[r], scale < s->floor ? s->floor : scale, r, err));
    scale = bd_f16_to_f32(q->scales[r]);
    for (int64_t i = 0; i < q->cols; i++) {
        float code = limit(rounded(w[i], scale), -qmax, qmax);
        double e = (double)w[i] - (double)code * (double)scale;
        q->codes[r * q->cols + i] = (int8_t)code;
        *sum += e * e;
    }
    return BD_OK;
}

static bd_status quantize_clip_search(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                                      bd_qresult *res, bd_err *err) {
    static const float candidates[] = {0.999f, 0.9995f, 0.9999f, 0.99999f, 1.0f};
    enum { N = sizeof candidates / sizeof candidates[0] };
    BD_TRY(check_clip_search(s, err));
    float *scratch = NULL;
    bd_status st = start(q, src, &scratch, src->cols, err);
    q->bits = (uint8_t)s->bits;
    double least = 0;
    int best = 0;
    /* The last round is the best candidate once more. */
    for (int c = 0; !st && c <= N; c++) {
        double sum = 0;
        for (int64_t r = 0; !st && r < src->rows; r++)
            st = clipped_row(q, src->w + r * src->cols, s, candidates[c < N ? c : best], r, scratch, &sum, err);
        if (c < N && (c == 0 || sum < least)) {
            least = sum;
            best = c;
        }
    }
    free(scratch);
    return st ? st : bd_quant_result(res, src, q, pool, err);
}

/* --- asym --- */

static bd_status check_asym(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("bits", s->bits, 2, 7, err));
    BD_TRY(bd_check_range("quantile", (double)s->quantile, 0, 1, err));
    return bd_check_range("floor", (double)s->floor, 0, 65504, err);
}

static bd_status asym_row(bd_qtensor *q, const float *w, const bd_qsetting *s, float prune, int64_t r,
                          bd_err *err) {
    float qmax = (float)((1 << (s->bits - 1)) - 1), top = 0;
    for (int64_t i = 0; i < q->cols; i++)
        if (fabsf(w[i]) > top && fabsf(w[i]) >= prune) top = fabsf(w[i]);
    float scale = top / qmax;
    BD_TRY(store_scale(&q->scales[r], scale < s->floor ? s->floor : scale, r, err));
    scale = bd_f16_to_f32(q->scales[r]);
    for (int64_t i = 0; i < q->cols; i++)
        q->codes[r * q->cols + i] = fabsf(w[i]) < prune ? 0 : (int8_t)limit(rounded(w[i], scale), -qmax - 1, qmax);
    return BD_OK;
}

static bd_status quantize_asym(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                               bd_qresult *res, bd_err *err) {
    BD_TRY(check_asym(s, err));
    int64_t n = src->rows * src->cols;
    float *scratch = NULL, prune = 0;
    bd_status st = start(q, src, &scratch, n, err);
    if (!st && s->quantile > 0) prune = row_clip(src->w, n, s->quantile, scratch);
    for (int64_t r = 0; !st && r < src->rows; r++) st = asym_row(q, src->w + r * src->cols, s, prune, r, err);
    free(scratch);
    if (st) return st;
    q->bits = bits_needed(q, s->bits);
    return bd_quant_result(res, src, q, pool, err);
}

extern const bd_quantizer bd_quantizer_rtn, bd_quantizer_clip_search, bd_quantizer_asym;
const bd_quantizer bd_quantizer_rtn = {
    .name = "rtn",
    .method = BD_Q_ROW,
    .fields = BD_QF_BITS | BD_QF_QUANTILE | BD_QF_FLOOR | BD_QF_MULTIPLE,
    .defaults = {.bits = 8, .quantile = 0.9999984f, .floor = 1.0f / 127, .multiple = 1},
    .summary = "rounding to nearest; rows clipped at a quantile, scales not below a floor",
    .check = check_rtn,
    .quantize = quantize_rtn,
};
const bd_quantizer bd_quantizer_clip_search = {
    .name = "clip-search",
    .method = BD_Q_ROW,
    .fields = BD_QF_BITS | BD_QF_FLOOR,
    .defaults = {.bits = 6, .floor = 1.0f / 31},
    .summary = "rounding to nearest with the best of five clips by squared error of the matrix",
    .check = check_clip_search,
    .quantize = quantize_clip_search,
};
const bd_quantizer bd_quantizer_asym = {
    .name = "asym",
    .method = BD_Q_ROW,
    .fields = BD_QF_BITS | BD_QF_QUANTILE | BD_QF_FLOOR,
    .defaults = {.bits = 5, .quantile = 0.03f, .floor = 1e-12f},
    .summary = "rounding to nearest with one more negative code, small weights below a quantile removed",
    .check = check_asym,
    .quantize = quantize_asym,
};
