/* The type of this build of ref: float, or double with BD_REF_DOUBLE. */
#ifndef BD_KERNELS_REF_TYPED_H
#define BD_KERNELS_REF_TYPED_H

#include <math.h>

#include "base/fmath_core.h"
#include "kernels/ref/ref_impl.h"

#ifdef BD_REF_DOUBLE
typedef double real;
#define FMA        bd_fma64
#define EXP        bd_exp_core
#define TANH       bd_tanh_core
#define SQRT       sqrt
#define REF_FN(op) bd_ref_##op##_f64
#else
typedef float real;
#define FMA        bd_fma32
#define EXP        bd_expf_core
#define TANH       bd_tanhf_core
#define SQRT       sqrtf
#define REF_FN(op) bd_ref_##op##_f32
#endif

/* What most tasks need to know. */
typedef struct task {
    bd_ref *r;
    const bd_call *c;
} task;

#define REF_TASK(name) static void name(void *arg, int64_t begin, int64_t end, int worker)

/* Run fn over [0, n), several tasks for each thread. */
static inline void run_tasks(bd_ref *r, const bd_call *c, int64_t n, bd_task_fn *fn) {
    task k = {r, c};
    const int64_t grain = n / (8 * (int64_t)bd_pool_threads(r->be.pool)) + 1;
    bd_pool_for(r->be.pool, n, grain, fn, &k);
}

/* lanes16: lane = index mod 16, increasing index, then the tree 8-4-2-1. */
static inline real tree16(real *l) {
    for (int h = 8; h > 0; h /= 2) {
        for (int i = 0; i < h; i++) l[i] = l[i] + l[i + h];
    }
    return l[0];
}
static inline real lanes16_fma(const real *a, const real *b, int64_t n) {
    real l[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) l[j] = FMA(a[i + j], b[i + j], l[j]);
    }
    for (int j = 0; i + j < n; j++) l[j] = FMA(a[i + j], b[i + j], l[j]);
    return tree16(l);
}
static inline real lanes16_add(const real *a, int64_t n) {
    real l[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) l[j] = l[j] + a[i + j];
    }
    for (int j = 0; i + j < n; j++) l[j] = l[j] + a[i + j];
    return tree16(l);
}
static inline double tree16_double(double *l) {
    for (int h = 8; h > 0; h /= 2) {
        for (int i = 0; i < h; i++) l[i] = l[i] + l[i + h];
    }
    return l[0];
}

#endif
