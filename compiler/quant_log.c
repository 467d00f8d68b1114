/* log: integers on a logarithmic scale, sign(c) * base * 2^((|c| - 1) / levels), so that the
 * error is a share of the value; for small tensors whose values lie within few octaves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"
#include "compiler/quant_util.h"

#define BASE_LEAST 0x1p-40
#define BASE_MOST  0x1p+40

/* What zeros may lose of a tensor's signal for a base that the quantizer chooses, beside what steps lose. */
#define ZERO_SHARE 0.25

static bd_status check_log(const bd_qsetting *s, bd_err *err) {
    int l = s->levels;
    if (l < 1 || l > 32 || (l & (l - 1)) != 0)
        return BD_FAIL(err, BD_E_RANGE, "levels must be 1, 2, 4, 8, 16 or 32, not %d", l);
    return s->step == 0 ? BD_OK : bd_check_range("step", (double)s->step, BASE_LEAST, BASE_MOST, err);
}

/* The code whose value is nearest to a magnitude; of two the smaller one. */
static int nearest_code(float base, unsigned levels, double size) {
    int most = (int)(BD_LOG_OCTAVES * levels), best = 0;
    if (!(size > 0)) return 0;
    double at = bd_log(size / (double)base) * ((double)levels / 0x1.62e42fefa39efp-1) + 1; /* ln 2 */
    int from = at < 1 ? 0 : at > most ? most : (int)at - 1;
    double least = HUGE_VAL;
    for (int c = from < 0 ? 0 : from; c <= from + 3 && c <= most; c++) {
        double miss = fabs(size - (double)bd_log_value(base, levels, c));
        if (miss < least) {
            least = miss;
            best = c;
        }
    }
    return best;
}

static int by_size(const void *a, const void *b) {
    const double *x = a, *y = b; /* (size, weight) */
    return x[0] != y[0] ? (x[0] > y[0] ? 1 : -1) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* The smallest magnitude worth keeping: what is smaller loses, as zeros, a share of what the steps lose. */
static bd_status choose_base(float *base, const bd_qsource *src, int levels, bd_err *err) {
    int64_t n = src->rows * src->cols, k = 0;
    double *list = malloc((size_t)n * 2 * sizeof *list), all = 0, lost = 0;
    if (!list) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a logarithmic scale");
    for (int64_t i = 0; i < n; i++) {
        double g = src->vector && src->rows_metric ? src->rows_metric[i] : 1;
        list[2 * i] = fabs((double)src->w[i]);
        list[2 * i + 1] = g;
        all += g * list[2 * i] * list[2 * i];
    }
    qsort(list, (size_t)n, 2 * sizeof *list, by_size);
    double step = 0x1.62e42fefa39efp-1 / levels, most = ZERO_SHARE * all * step * step / 12;
    for (; k + 1 < n; k++) {
        lost += list[2 * k + 1] * list[2 * k] * list[2 * k];
        if (list[2 * k] > 0 && !(lost < most)) break;
    }
    double b = list[2 * k];
    free(list);
    *base = b > 0 ? (float)fmin(fmax(b, BASE_LEAST), BASE_MOST) : 1;
    return BD_OK;
}

static bd_status to_log(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, bd_qresult *res,
                        bd_err *err) {
    float base = s->step;
    BD_TRY(bd_quant_finite(src, err));
    if (base == 0) BD_TRY(choose_base(&base, src, s->levels, err));
    bd_quant_start(q, src, BD_Q_LOG);
    q->levels = (uint8_t)s->levels;
    q->base = base;
    BD_TRY(bd_qtensor_alloc(q, err));
    for (int64_t i = 0; i < src->rows * src->cols; i++) {
        int c = nearest_code(base, q->levels, fabs((double)src->w[i]));
        q->index[i] = (int16_t)(src->w[i] < 0 ? -c : c);
    }
    return bd_quant_result(res, src, q, pool, err);
}

extern const bd_quantizer bd_quantizer_log;
const bd_quantizer bd_quantizer_log = {
    .name = "log",
    .method = BD_Q_LOG,
    .fields = BD_QF_LEVELS | BD_QF_STEP,
    .defaults = {.levels = 8, .step = 0},
    .summary =
        "integers on a logarithmic scale with `levels` (1 to 32, a power of two) to the octave from `step` "
        "(0: chosen) up",
    .check = check_log,
    .quantize = to_log,
};
