/* Stands in for the CUDA backend in builds without it. */
#include "kernels/backend.h"

bd_status bd_cuda_open(bd_backend **out, int device, bd_err *err) {
    (void)device;
    *out = NULL;
    return BD_FAIL(err, BD_E_UNSUPPORTED, "this build has no CUDA backend; use cpu");
}
