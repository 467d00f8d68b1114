/* Models of the integer arrays of quantized tensors over the range coder: codes
 * (ROW, TERNARY, LQER), indices (TCQ, LOG), exponents (TCQ) and small factors
 * (LQER). format/SPEC.md, "Codes", is normative.
 *
 * A magnitude is predicted from the running mean of its line (a column of TCQ, a row
 * of the others) times that of its place in the line; models of the prediction and of
 * the neighbouring magnitudes are mixed. Encoder, decoder and price share one body. */
#ifndef BD_FORMAT_CODE_MODEL_H
#define BD_FORMAT_CODE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "format/artifact.h"
#include "format/range_coder.h"

/* What the tensors of a group teach about the next ones. */
typedef struct bd_code_model bd_code_model;

bd_code_model *bd_code_model_create(void); /* NULL: no memory */
void bd_code_model_destroy(bd_code_model *m);

/* True if the tensor has integer arrays, which are coded by bd_code_tensor. */
static inline bool bd_qmethod_has_codes(bd_qmethod m) {
    return m == BD_Q_ROW || m == BD_Q_TERNARY || m == BD_Q_TCQ || m == BD_Q_LOG || m == BD_Q_LQER;
}

/* Code all integer arrays of t[i], in this order: TCQ row_exp, col_exp, index; LOG index; ROW, TERNARY codes; LQER
 * codes, lq_a, lq_b. To be called for the tensors of a group in order, with one model.
 *
 * Its header fields must have passed the checks, and the arrays must be there (decoding: of the right size, their
 * contents are overwritten). Encoding and price: the arrays must be legal (bd_group_check); nothing is changed.
 * Decoding gives legal values in every array, or an error at `place`: BD_E_RANGE (a value too large for the
 * tensor), BD_E_FIELD, BD_E_NONCANON (not as the encoder would have spelled it), BD_E_NOMEM (the other modes give
 * this one alone). It allocates in proportion to rows + cols. */
bd_status bd_code_tensor(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *t, uint32_t i, uint64_t place,
                         bd_err *err);

#endif
