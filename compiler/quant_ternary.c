/* ternary: codes -1, 0, 1 with a binary16 scale per group of consecutive elements.
 *
 * scale = binary16(max(mean|w|, 1e-8)), z = w / scale in float32. threshold 0.5 is plain
 * rounding (a tie is zero); any other one gives sign(z) where |z| >= threshold. mult
 * multiplies the scale after the codes are chosen; 0 is the factor that loses least,
 * <q s, w> / <q s, q s> over the tensor in the metric of the statistics (without them:
 * squared error).
 *
 * Groups run through the matrix row by row as its elements stand. Where the columns
 * are a multiple of the group, and only there, this is the published layout; elsewhere
 * that one pads every row with zeros to whole groups, while here a group goes on into
 * the next row and only the last one of the tensor is short. */
#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "compiler/quant_util.h"

static bd_status group_scale(uint16_t *out, const float *w, int64_t n, bd_err *err) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fabs((double)w[i]);
    double mean = sum / (double)n;
    *out = bd_f32_to_f16((float)(mean > 1e-8 ? mean : 1e-8));
    if (!isfinite(bd_f16_to_f32(*out)))
        return BD_FAIL(err, BD_E_RANGE, "a group's mean is %g, beyond binary16", mean);
    return BD_OK;
}

static int8_t code_of(float w, float scale, float threshold) {
    float z = scale > 0 ? w / scale : 0, size = fabsf(z);
    bool on = threshold == 0.5f ? size > 0.5f : size >= threshold;
    return (int8_t)(!on ? 0 : z < 0 ? -1 : 1);
}

typedef struct mult_job {
    const bd_qsource *src;
    const float *value;
    double *cross, *square; /* (rows): <q, w>, <q, q> */
    double *scratch;        /* (workers, 4, BD_LDL_ROWS, cols) */
} mult_job;

static void row_products(void *arg, int64_t begin, int64_t end, int worker) {
    const mult_job *j = arg;
    const bd_qsource *src = j->src;
    int64_t n = src->cols, block = BD_LDL_ROWS * n;
    double *w = j->scratch + (int64_t)worker * 4 * block, *q = w + block, *uw = q + block, *uq = uw + block;
    for (int64_t r0 = begin; r0 < end; r0 += BD_LDL_ROWS) {
        int64_t rows = end - r0 < BD_LDL_ROWS ? end - r0 : BD_LDL_ROWS;
        for (int64_t r = 0; r < rows; r++) {
            bd_ldl_gather(src, src->w, r0 + r, w + r * n);
            bd_ldl_gather(src, j->value, r0 + r, q + r * n);
        }
        if (src->ldl) bd_ldl_apply(src, w, uw, rows);
        if (src->ldl) bd_ldl_apply(src, q, uq, rows);
        const double *a = src->ldl ? uw : w, *b = src->ldl ? uq : q;
        for (int64_t r = 0; r < rows; r++) {
            double cross = 0, square = 0;
            for (int64_t k = 0; k < n; k++) {
                double d = src->ldl ? src->ldl[k * n + k] : 1;
                cross += d * a[r * n + k] * b[r * n + k];
                square += d * b[r * n + k] * b[r * n + k];
            }
            j->cross[r0 + r] = cross;
            j->square[r0 + r] = square;
        }
    }
}

/* The factor on the scales that loses least; 1 where none is positive. */
static bd_status best_mult(double *out, const bd_qsource *src, const bd_qtensor *q, bd_pool *pool, bd_err *err) {
    float *value = malloc((size_t)(src->rows * src->cols) * sizeof *value);
    double *sums = malloc(2 * (size_t)src->rows * sizeof *sums);
    double *scratch = malloc((size_t)bd_pool_threads(pool) * 4 * BD_LDL_ROWS * (size_t)src->cols * sizeof(double));
    *out = 1;
    bd_status st = value && sums && scratch ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
    if (!st) {
        bd_qtensor_dequant(q, value);
        mult_job j = {src, value, sums, sums + src->rows, scratch};
        bd_pool_for(pool, src->rows, BD_LDL_ROWS, row_products, &j);
        double cross = 0, square = 0;
        for (int64_t r = 0; r < src->rows; r++) {
            double weight = src->ldl && src->rows_metric && !src->vector ? src->rows_metric[r] : 1;
            cross += weight * j.cross[r];
            square += weight * j.square[r];
        }
        if (square > 0 && cross > 0 && isfinite(cross / square)) *out = cross / square;
    }
    free(value);
    free(sums);
    free(scratch);
    return st;
}

static bd_status check_ternary(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("group", s->group, 1, UINT32_MAX, err));
    BD_TRY(bd_check_range("threshold", (double)s->threshold, 0.05, 4, err));
    return bd_check_range("mult", (double)s->mult, 0, 16, err);
}

static bd_status quantize_ternary(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                                  bd_qresult *res, bd_err *err) {
    BD_TRY(check_ternary(s, err));
    BD_TRY(bd_quant_finite(src, err));
    int64_t n = src->rows * src->cols, group = (int64_t)s->group < n ? (int64_t)s->group : n;
    bd_quant_start(q, src, BD_Q_TERNARY);
    q->group = (uint32_t)group;
    BD_TRY(bd_qtensor_alloc(q, err));
    for (int64_t g = 0; g * group < n; g++) {
        int64_t begin = g * group, end = begin + group < n ? begin + group : n;
        BD_TRY(group_scale(&q->scales[g], src->w + begin, end - begin, err));
        float scale = bd_f16_to_f32(q->scales[g]);
        for (int64_t i = begin; i < end; i++) q->codes[i] = code_of(src->w[i], scale, s->threshold);
    }
    double mult = (double)s->mult;
    if (!(mult > 0)) BD_TRY(best_mult(&mult, src, q, pool, err));
    for (int64_t g = 0; mult != 1 && g * group < n; g++) {
        double scale = (double)bd_f16_to_f32(q->scales[g]) * mult;
        q->scales[g] = bd_f32_to_f16((float)(scale < 65504 ? scale : 65504));
    }
    return bd_quant_result(res, src, q, pool, err);
}

extern const bd_quantizer bd_quantizer_ternary;
const bd_quantizer bd_quantizer_ternary = {
    .name = "ternary",
    .method = BD_Q_TERNARY,
    .fields = BD_QF_GROUP | BD_QF_THRESHOLD | BD_QF_MULT,
    .defaults = {.group = 128, .threshold = 0.5f, .mult = 1},
    .summary = "-1, 0, 1 with the mean magnitude of each group as scale",
    .check = check_ternary,
    .quantize = quantize_ternary,
};
