/* The double build of ref: the oracle for gradients and tolerances. */
#ifndef BD_KERNELS_REF64_H
#define BD_KERNELS_REF64_H

#include "kernels/ops.h"

/* Run a call whose real operands are BD_F64 where kernels/ops.h says float32.
 * Serial; allocates its scratch. Attributes are widened, never recomputed. */
bd_status bd_ref64_run(const bd_call *c, bd_err *err);

#endif
