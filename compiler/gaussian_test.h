/* A source whose limit is known: independent normal numbers. What the quantizer and
 * the coder together need beyond R(D) = log2(variance / D) / 2 bits is their own loss. */
#ifndef BD_COMPILER_GAUSSIAN_TEST_H
#define BD_COMPILER_GAUSSIAN_TEST_H

#include "base/thread.h"
#include "format/artifact.h"

/* A (rows, cols) matrix of N(0, 1) by `seed`, quantized by "tcq" with all exponents zero and no feedback. q is
 * filled as by a quantizer (to be freed with bd_qtensor_free, also after an error); *mse is the mean squared error
 * of what a decoder computes, in units of the numbers' own mean square: R(D) = log2(1 / *mse) / 2. */
bd_status bd_gaussian_indices(bd_qtensor *q, double *mse, uint32_t rows, uint32_t cols, int states, float step,
                              float lambda, uint64_t seed, bd_err *err);

#endif
