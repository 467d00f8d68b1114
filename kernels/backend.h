/* A backend is a table that runs calls; a wrapper is a backend made of backends.
 *
 * Memory handed to a backend comes from its own alloc (host memory for ref and
 * cpu). A missing kernel is one message when a model is opened (`has`), never a
 * silent fallback to another device; inside the cpu backend the levels avx512,
 * avx2 fall back on each other by one rule, bits being equal.
 *
 * `run` may only enqueue; `sync` waits and `download` implies it. ref and cpu
 * run at once. A backend is used from one thread at a time; it owns a thread
 * pool. Nothing allocates in `run` after `reserve` was called with the calls to come. */
#ifndef BD_KERNELS_BACKEND_H
#define BD_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "base/thread.h"
#include "kernels/ops.h"

typedef struct bd_backend bd_backend;

typedef struct bd_backend_vt {
    const char *name; /* "ref", "cpu-avx512", "shadow" ... */
    void (*close)(bd_backend *be);
    bd_status (*alloc)(bd_backend *be, void **out, uint64_t bytes, bd_err *err); /* zeroed, 64-byte aligned */
    void (*release)(bd_backend *be, void *mem);
    bd_status (*upload)(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err);
    bd_status (*download)(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err);
    bd_status (*sync)(bd_backend *be, bd_err *err);
    bool (*has)(const bd_backend *be, bd_op op);
    /* Grow private scratch so that running this call will not allocate. */
    bd_status (*reserve)(bd_backend *be, const bd_call *c, bd_err *err);
    bd_status (*run)(bd_backend *be, const bd_call *c, bd_err *err);
} bd_backend_vt;

/* First member of every backend's own structure. */
struct bd_backend {
    const bd_backend_vt *vt;
    bd_pool *pool; /* borrowed by callers for their own parallel loops; may be NULL */
};

/* spec: "ref", "cpu", "cpu:avx2", "cpu:avx512", "cuda", "shadow:cpu,ref",
 * "trace:cpu", "fault:N:cpu" (the N-th alloc or reserve fails). An ISA the
 * machine lacks is BD_E_UNSUPPORTED. threads <= 0: all. */
bd_status bd_backend_open(bd_backend **out, const char *spec, int threads, bd_err *err);
void bd_backend_close(bd_backend *be); /* accepts NULL */

/* Host execution: ref and cpu (and wrappers of them) work on ordinary memory. */
bool bd_backend_is_host(const bd_backend *be);
/* Check the call, then run it. */
bd_status bd_run(bd_backend *be, const bd_call *c, bd_err *err);
/* Where trace writes (default: stderr is never used by libraries, so trace is silent until this is set). */
void bd_backend_trace_to(bd_backend *be, FILE *f);

/* Constructors, for tests and wrappers. */
bd_status bd_ref_open(bd_backend **out, int threads, bd_err *err);
bd_status bd_cpu_open(bd_backend **out, const char *isa /* NULL: best */, int threads, bd_err *err);
bd_status bd_cuda_open(bd_backend **out, int device, bd_err *err); /* BD_E_UNSUPPORTED when built without CUDA */
bd_status bd_shadow_open(bd_backend **out, bd_backend *a, bd_backend *b,
                         bd_err *err); /* owns a and b; results are a's */
bd_status bd_trace_open(bd_backend **out, bd_backend *inner, bd_err *err);
bd_status bd_fault_open(bd_backend **out, bd_backend *inner, int64_t fail_at, bd_err *err);

#endif
