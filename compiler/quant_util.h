/* What the quantizers share. Private to compiler/. */
#ifndef BD_COMPILER_QUANT_UTIL_H
#define BD_COMPILER_QUANT_UTIL_H

#include "compiler/quantizer.h"

/* Rows are independent; several go together so that a block of A is read once. */
enum { BD_LDL_ROWS = 8, BD_LDL_BLOCK = 32, BD_LDL_TILE = 128 };

/* carry[i] += sum over k < n of e[k] * a[k * stride + i] for i in [from, to): increasing k,
 * every product rounded, so the way it is cut into blocks and vectors shows nowhere. */
typedef void bd_spread_fn(double *carry, const double *e, const double *a, int64_t stride, int64_t n, int64_t from,
                          int64_t to);
bd_spread_fn *bd_spread_choose(void); /* for this processor; all of them give the same bits */

/* Every element finite, or BD_E_NONFINITE naming the first that is not. */
bd_status bd_quant_finite(const bd_qsource *src, bd_err *err);
/* Frees q's arrays, states method and shape of src, zeroes the other fields (param stays); bits, group, rank follow
 * and then bd_qtensor_alloc. */
void bd_quant_start(bd_qtensor *q, const bd_qsource *src, bd_qmethod method);

/* u = (A + I)^T e for up to BD_LDL_ROWS rows, so that e H e^T = sum D_j u_j^2. e, u: (rows, cols) with columns in
 * the order of ldl; u may not be e. */
void bd_ldl_apply(const bd_qsource *src, const double *e, double *u, int64_t rows);
/* Row r of a (rows, cols) array in the order of ldl, dead columns zero; without ldl as it stands. */
void bd_ldl_gather(const bd_qsource *src, const float *w, int64_t r, double *out);
/* out[r] = d_r H d_r^T with d = w - value (value NULL: zero); H = identity without ldl. */
bd_status bd_quant_row_loss(double *out, const bd_qsource *src, const float *value, bd_pool *pool, bd_err *err);

/* Both numbers of the result from the quantized tensor. */
bd_status bd_quant_result(bd_qresult *res, const bd_qsource *src, const bd_qtensor *q, bd_pool *pool, bd_err *err);
/* The same where the rows' losses are known. */
bd_status bd_quant_result_rows(bd_qresult *res, const bd_qsource *src, const double *loss, bd_pool *pool,
                               bd_err *err);

/* Deviation of a row as SDClip takes it: unbiased; |w| for a single column. */
double bd_row_deviation(const float *w, int64_t n);
/* torch.quantile(a, p): linear interpolation in float32. Reorders a. */
float bd_quantile(float *a, int64_t n, float p);

/* Codes and scales of ROW (or of LQER before the correction): q->bits and the arrays are there. */
bd_status bd_quant_row_codes(bd_qtensor *q, const bd_qsource *src, float k, bd_pool *pool, double *loss,
                             bd_err *err);

/* Checks that several quantizers share; the message names the field. */
bd_status bd_check_range(const char *field, double v, double lo, double hi, bd_err *err);

#endif
