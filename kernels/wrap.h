/* Wrappers: backends made of backends. Shared by wrap_*.c and backend.c. */
#ifndef BD_KERNELS_WRAP_H
#define BD_KERNELS_WRAP_H

#include "kernels/backend.h"

/* First member of every wrapper: results and memory are those of inner[0]. */
typedef struct bd_wrap {
    bd_backend be;
    bd_backend *inner[2];
    int n;
} bd_wrap;

extern const bd_backend_vt bd_shadow_vt, bd_trace_vt, bd_fault_vt;

/* NULL if the backend is not a wrapper. */
bd_wrap *bd_wrap_of(bd_backend *be);
const bd_wrap *bd_wrap_of_const(const bd_backend *be);
void bd_trace_set_file(bd_backend *trace, FILE *f);

/* Table entries that pass through to inner[0]. */
bd_status bd_wrap_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err);
void bd_wrap_release(bd_backend *be, void *mem);
bd_status bd_wrap_upload(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err);
bd_status bd_wrap_download(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err);
bd_status bd_wrap_sync(bd_backend *be, bd_err *err);
bool bd_wrap_has(const bd_backend *be, bd_op op);
bd_status bd_wrap_reserve(bd_backend *be, const bd_call *c, bd_err *err);
bd_status bd_wrap_run(bd_backend *be, const bd_call *c, bd_err *err);
/* Close what is inside. */
void bd_wrap_close_inner(bd_wrap *w);

#endif
