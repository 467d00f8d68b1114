/* The quantizer "tcq": entropy-coded trellis-coded quantization with error feedback.
 *
 * Columns go in the order of the LDL form. The target of a column is
 *     target_j = w_j + sum_{k<j} (w_k - q_k) A_kj
 * and a Viterbi search down its rows, in the trellis's own order, chooses the path
 * that is cheapest in (target - q)^2 / step^2 + lambda * bits. The bits are what
 * adaptive tables predict (tcq_rate.h). With one state every index is chosen for itself.
 *
 * Columns and tensors of zeros become zeros: the path of zeros is legal. */
#ifndef BD_COMPILER_TCQ_H
#define BD_COMPILER_TCQ_H

#include "compiler/quantizer.h"
#include "compiler/trellis_search.h"

extern const bd_quantizer bd_quantizer_tcq;

/* The smallest base worth trying: no index gets beyond BD_TCQ_INDEX_MAX (feedback moves targets, for which there is
 * room). In the range of bases; 1 for a tensor of zeros. */
float bd_tcq_finest(const bd_qsource *src);

/* bd_quantizer_tcq.quantize with a chosen implementation: for tests. */
bd_status bd_tcq_quantize_by(const bd_search_ops *ops, bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s,
                             bd_pool *pool, bd_qresult *res, bd_err *err);

#endif
