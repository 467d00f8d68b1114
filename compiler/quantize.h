/* From weights to integers: one tensor, one setting.
 *
 * row      int codes with one binary16 scale per row: k * unit / qmax, rounded to
 *          binary16 before use. The unit of a row is its deviation (SDClip) or given
 *          by the caller. Where the matrix has a Hessian, GPTQ's error feedback. At 8
 *          bits, and with given units, the step is at least max|row| / qmax, so such a
 *          row never clips. A row whose codes are all zero has scale 0.
 * ternary  codes -1, 0, 1 with scale mean|w| per group, no feedback (the layers of
 *          ternary models are trained for exactly this rounding).
 * f16, f32 conversions. */
#ifndef BD_COMPILER_QUANTIZE_H
#define BD_COMPILER_QUANTIZE_H

#include "base/thread.h"
#include "format/artifact.h"

typedef struct bd_qsetting {
    bd_qmethod method;
    int bits;       /* row: 2..8 */
    float k;        /* row: SDClip's k, 0: finest */
    uint32_t group; /* ternary */
} bd_qsetting;

/* A tensor to quantize, with its factorized Hessian or none. */
typedef struct bd_qsource {
    const float *w; /* (rows, cols) */
    int64_t rows, cols;
    const double *ldl;    /* (cols, cols) from bd_ldl, or NULL: no feedback */
    const uint8_t *dead;  /* (cols): columns without input become zero; NULL without ldl */
    const int32_t *order; /* (cols): column k of ldl is column order[k] of w and dead; NULL: as they stand */
    const double *unit;   /* (rows): NULL: the rows' deviations */
} bd_qsource;

/* Allocate the arrays that a tensor of this method needs; q->rows, cols, method, bits, group are set. */
bd_status bd_qtensor_alloc(bd_qtensor *q, int64_t rows, int64_t cols, const bd_qsetting *s, bd_err *err);
void bd_qtensor_free(bd_qtensor *q);
/* Deviation of a row as SDClip takes it: unbiased; |w| for a single column. */
double bd_row_deviation(const float *w, int64_t n);
/* Sum over rows of w H w^T (H = identity without a Hessian; dead columns left out).
 * If memory runs out the identity stands in for H: the number only informs. */
double bd_qsource_signal(const bd_qsource *src);
/* *lost: sum over rows of (w - q) H (w - q)^T, to be put over the signal.
 * BD_E_NONFINITE: a weight is NaN or infinite; BD_E_RANGE: too large for a binary16 scale. */
bd_status bd_quantize(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, double *lost,
                      bd_err *err);

#endif
