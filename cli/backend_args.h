/* --backend, --isa, --mode and --threads, the same for every command that computes. */
#ifndef BD_CLI_BACKEND_ARGS_H
#define BD_CLI_BACKEND_ARGS_H

#include "kernels/backend.h"

typedef struct bd_backend_args {
    const char *backend; /* "cpu", "cuda" */
    const char *isa;     /* "ref", "avx2", "avx512", or NULL: the best there is */
    const char *mode;    /* "exact", "fast" */
    int64_t threads;     /* 0: all */
} bd_backend_args;

/* Checks the numerics of this machine, then opens. */
bd_status bd_backend_args_open(bd_backend **out, const bd_backend_args *a, bd_err *err);
/* The check of the words alone, into the spec of bd_backend_open. */
bd_status bd_backend_args_spec(char spec[32], const bd_backend_args *a, bd_err *err);
/* --max-memory, or without it what the machine has: a plan above that would only
 * end in swapping or in the kernel's choice of a victim. */
uint64_t bd_memory_limit(int64_t max_memory);

#endif
