#include "compiler/waterfill.h"

#include <math.h>

#include "base/fmath.h"
#include "format/artifact.h"

#define LOG2_E 1.4426950408889634

/* In quarter octaves: 4 log2(1 / sqrt(v)). */
static int16_t exponent(double v) {
    if (!(v > 0)) return BD_TCQ_EXP_MAX;
    double e = nearbyint(-2 * LOG2_E * bd_log(v));
    return (int16_t)(e > BD_TCQ_EXP_MAX ? BD_TCQ_EXP_MAX : e < -BD_TCQ_EXP_MAX ? -BD_TCQ_EXP_MAX : e);
}

void bd_waterfill_rows(int16_t *out, const double *r, int64_t n, double rho) {
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += r[i];
    mean /= (double)n;
    /* Nothing known of any row: as if all counted the same. */
    for (int64_t i = 0; i < n; i++) out[i] = exponent(mean > 0 ? r[i] + rho * mean : 1 / (double)n);
}

void bd_waterfill_cols(int16_t *out, const double *ldl, const uint8_t *dead, const int32_t *order, int64_t n) {
    int least = BD_TCQ_EXP_MAX + 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t j = order ? order[k] : k;
        if (dead && dead[j]) continue;
        out[j] = exponent(ldl[k * n + k]);
        if (out[j] < least) least = out[j];
    }
    if (least > BD_TCQ_EXP_MAX) least = 0;
    for (int64_t j = 0; dead && j < n; j++)
        if (dead[j]) out[j] = (int16_t)least;
}

double bd_dispersion_bits(const double *v, int64_t n) {
    double sum = 0, logs = 0, count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(v[i] > 0)) continue;
        sum += v[i];
        logs += bd_log(v[i]);
        count++;
    }
    return count > 0 ? 0.5 * LOG2_E * (bd_log(sum / count) - logs / count) : 0;
}
