/* Inside of the reference backend.
 *
 * Every ref_*.c is compiled twice: with REAL = float it is the meaning of the
 * operations, with REAL = double (BD_REF_DOUBLE) the oracle for gradients and
 * tolerances. ref_typed.h holds what differs. */
#ifndef BD_KERNELS_REF_IMPL_H
#define BD_KERNELS_REF_IMPL_H

#include "base/thread.h"
#include "kernels/backend.h"

typedef struct bd_ref {
    bd_backend be;         /* be.pool runs the loops; NULL: serial */
    uint64_t scratch_each; /* bytes of scratch of one worker, a multiple of 64 */
    unsigned char *scratch;
} bd_ref;

typedef bd_status bd_ref_fn(bd_ref *r, const bd_call *c, bd_err *err);

#define BD_X(name, nin, nout, causal, attr) \
    bd_ref_fn bd_ref_##name##_f32;          \
    bd_ref_fn bd_ref_##name##_f64;
BD_OP_LIST(BD_X)
#undef BD_X

/* Bytes of scratch that one worker needs for a call. */
uint64_t bd_ref_need(const bd_call *c, uint64_t real_size);

/* Rows of w that ref_gemm.c transposes at a time. */
enum { BD_REF_BLOCK = 64 };

static inline void *bd_ref_scratch(const bd_ref *r, int worker) {
    return r->scratch + (uint64_t)worker * r->scratch_each;
}

#endif
