/* Timing of single operations at the shapes of the official baseline model:
 * 1,024 tokens of width 512. Used by `birdie bench kernels` and check_kernels. */
#ifndef BD_KERNELS_BENCH_CASES_H
#define BD_KERNELS_BENCH_CASES_H

#include "kernels/backend.h"

typedef struct bd_bench_case {
    const char *name; /* "linear 512x1024" */
    bd_op op;
    const char *dims; /* "n=1024 K=512 M=1024": letters of bd_dims, and T */
    bd_attr attr;
} bd_bench_case;

/* Ends with op == BD_OP_COUNT. */
extern const bd_bench_case bd_bench_cases[];

typedef struct bd_bench_result {
    double seconds; /* of one call: the best of several batches */
    double flops, bytes;
} bd_bench_result;

/* Run a case for about `budget` seconds on operands of its own. */
bd_status bd_bench_run(bd_bench_result *out, bd_backend *be, const bd_bench_case *bc, double budget, bd_err *err);

#endif
