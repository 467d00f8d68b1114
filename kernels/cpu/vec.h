/* What the bodies of the row and element operations share: how much of the
 * work one task takes. Include after simd_*.h. */
#ifndef BD_KERNELS_CPU_VEC_H
#define BD_KERNELS_CPU_VEC_H

#include <math.h>

#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/lanes16.h"

/* Elements in one task: enough to outweigh handing it out, a multiple of 16. */
enum { VEC_GRAIN = 16384 };

static inline int64_t vec_count(const bd_view *v) { return v->rows * v->cols; }

/* fn(call, begin, end, worker) over n units of `each` elements; `cost` weighs one
 * element against one simple vector operation per sixteen. */
static inline void vec_for(const bd_cpu *cpu, const bd_call *c, int64_t n, int64_t each, double cost,
                           bd_task_fn *fn) {
    const int64_t grain = each >= VEC_GRAIN ? 1 : VEC_GRAIN / (each > 0 ? each : 1);
    bd_pool_for(bd_cpu_pool_for(cpu, (double)n * (double)each * cost), n, grain, fn, (void *)c);
}

/* The same over columns for operations that go down all rows: few, wide tasks.
 * A unit is `unit` columns; fn gets units. */
static inline void vec_for_columns(const bd_cpu *cpu, const bd_call *c, int64_t rows, int64_t cols, int64_t unit,
                                   int64_t least, bd_task_fn *fn) {
    const int64_t n = (cols + unit - 1) / unit;
    bd_pool *pool = bd_cpu_pool_for(cpu, (double)rows * (double)cols);
    int64_t grain = (n + bd_pool_threads(pool) - 1) / bd_pool_threads(pool);
    if (grain < least) grain = least;
    bd_pool_for(pool, n, grain, fn, (void *)c);
}

static inline int64_t vec_min(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
