/* Steps by water-filling: under the loss sum_i r_i dW_i H dW_i^T / 2 with error
 * feedback the best step of weight (i, j) is Delta / sqrt(r_i d_j), d from the LDL
 * factorization of H, one Delta for the whole model (reverse water-filling on the
 * successive innovations; Cover & Thomas ch. 10; WaterSIC for the columns).
 * The file carries the two factors as exponents in quarter octaves. */
#ifndef BD_COMPILER_WATERFILL_H
#define BD_COMPILER_WATERFILL_H

#include <stdint.h>
#include "base/status.h"

/* out[i] = round(4 log2(1 / sqrt((r[i] + rho * mean r)))), within +-BD_TCQ_EXP_MAX; all equal r: all equal. */
void bd_waterfill_rows(int16_t *out, const double *r, int64_t n, double rho);
/* out[j] for column order[k] from d_k = ldl[k][k]; dead columns get the smallest step of the others. */
void bd_waterfill_cols(int16_t *out, const double *ldl, const uint8_t *dead, const int32_t *order, int64_t n);
/* Bits per weight that uneven steps save against even ones: 0.5 * log2(arithmetic / geometric mean), zeros left
 * out. */
double bd_dispersion_bits(const double *v, int64_t n);

#endif
