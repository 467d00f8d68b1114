/* Fault: the n-th alloc or reserve fails, so that tests can walk every error path. */
#include <inttypes.h>
#include <stdlib.h>

#include "kernels/wrap.h"

typedef struct fault {
    bd_wrap w;
    int64_t fail_at, seen; /* counted from 1 */
} fault;

static bd_status count_one(bd_backend *be, const char *what, bd_err *err) {
    fault *f = (fault *)be;
    if (++f->seen != f->fail_at) return BD_OK;
    return BD_FAIL(err, BD_E_NOMEM, "%s number %" PRId64 " failed on request", what, f->seen);
}

static bd_status fault_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err) {
    *out = NULL;
    BD_TRY(count_one(be, "allocation", err));
    return bd_wrap_alloc(be, out, bytes, err);
}

static bd_status fault_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    BD_TRY(count_one(be, "reservation", err));
    return bd_wrap_reserve(be, c, err);
}

static void fault_close(bd_backend *be) {
    bd_wrap_close_inner(bd_wrap_of(be));
    free(be);
}

const bd_backend_vt bd_fault_vt = {"fault",          fault_close,  fault_alloc, bd_wrap_release, bd_wrap_upload,
                                   bd_wrap_download, bd_wrap_sync, bd_wrap_has, fault_reserve,   bd_wrap_run};

bd_status bd_fault_open(bd_backend **out, bd_backend *inner, int64_t fail_at, bd_err *err) {
    *out = NULL;
    fault *f = calloc(1, sizeof *f);
    if (!f) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate a backend");
    f->w = (bd_wrap){{&bd_fault_vt, inner->pool}, {inner, NULL}, 1};
    f->fail_at = fail_at;
    *out = &f->w.be;
    return BD_OK;
}
