/* The factorization behind error feedback: H = (A + I) D (A + I)^T with A
 * strictly upper triangular and D diagonal ("reverse LDL").
 *
 * Quantizing the columns of a row w left to right with
 *     q_j = Q(w_j + sum_{k<j} (w_k - q_k) A_kj)
 * minimizes (w - q) H (w - q)^T greedily: the loss is sum_j D_j u_j^2 with u_j the
 * rounding error of column j. This is GPTQ (Frantar et al., arXiv 2210.17323) in
 * the form of LDLQ (Chee et al., arXiv 2307.13304), which needs no inverse: GPTQ's
 * U (H^-1 = U^T U, upper) is D^-1/2 (A + I)^-1. All in double with
 * a fixed order of operations. */
#ifndef BD_COMPILER_LDL_H
#define BD_COMPILER_LDL_H

#include <stdint.h>

#include "base/status.h"

/* h: (n, n) symmetric, damped; overwritten: strict upper part with A, diagonal
 * with D; the strict lower part is left undefined. BD_E_NONFINITE if H is not
 * positive definite (damping too small). */
bd_status bd_ldl(double *h, int64_t n, bd_err *err);
/* Columns that never received input: diagonal becomes 1, everything else of the
 * row and column 0, dead[j] = 1. Then damp * mean(diagonal) is added to the diagonal. */
void bd_hessian_prepare(double *h, int64_t n, double damp, uint8_t *dead);

#endif
