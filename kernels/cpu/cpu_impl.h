/* Inside of the cpu backend: what its kernels see of it.
 *
 * One operation at one level is one function `bd_cpu_<op>_<isa>`, and the two
 * levels of an operation are two tiny files that include one body:
 *
 *     rope_avx2.c     #include "kernels/cpu/simd_avx2.h"
 *                     #include "kernels/cpu/rope_body.h"
 *     rope_body.h     bd_status SIMD_FN(rope)(bd_cpu *cpu, const bd_call *c, bd_err *err) { ... }
 *
 * so that the order of every sum is written once. An operation that needs
 * scratch stands in BD_CPU_SCRATCH_OPS too and gives `SIMD_FN(<op>_scratch)`;
 * the backend has provided at least that much before the kernel runs. */
#ifndef BD_KERNELS_CPU_IMPL_H
#define BD_KERNELS_CPU_IMPL_H

#include "base/thread.h"
#include "kernels/backend.h"

/* The operations the cpu backend has, by the files that hold them. */
#define BD_CPU_GEMM_OPS(X) \
    X(linear)              \
    X(linear_grad_x)       \
    X(linear_grad_w)       \
    X(attention)           \
    X(attention_step)      \
    X(attention_grad)      \
    X(second_moment)

/* Grows as kernels appear; an operation listed here must exist at both levels. */
#define BD_CPU_VECTOR_OPS(X) \
    X(embed)                 \
    X(rms_norm)              \
    X(add)                   \
    X(scale)                 \
    X(add_scaled)            \
    X(mix)                   \
    X(head_scale)            \
    X(rope)                  \
    X(relu2)                 \
    X(softcap)               \
    X(nll)                   \
    X(nll_grad)              \
    X(embed_grad)            \
    X(rms_norm_grad)         \
    X(scale_grad_s)          \
    X(head_scale_grad)       \
    X(relu2_grad)            \
    X(softcap_grad)          \
    X(axpby)                 \
    X(tree_sum8)             \
    X(sum_squares)           \
    X(row_norm)              \
    X(adamw)                 \
    X(sgd)                   \
    X(row_moment)

#define BD_CPU_OPS(X) BD_CPU_GEMM_OPS(X) BD_CPU_VECTOR_OPS(X)

/* The operations among them that need scratch. */
#define BD_CPU_GEMM_SCRATCH_OPS(X) BD_CPU_GEMM_OPS(X)
#define BD_CPU_VECTOR_SCRATCH_OPS(X)
#define BD_CPU_SCRATCH_OPS(X) BD_CPU_GEMM_SCRATCH_OPS(X) BD_CPU_VECTOR_SCRATCH_OPS(X)

typedef enum bd_cpu_isa { BD_CPU_AVX2, BD_CPU_AVX512, BD_CPU_ISA_COUNT } bd_cpu_isa;

/* Bytes of scratch: one block for the call, one for each worker. */
typedef struct bd_cpu_need {
    uint64_t shared, per_worker;
} bd_cpu_need;

typedef struct bd_cpu {
    bd_backend be; /* be.pool runs the kernels' loops */
    bd_cpu_isa isa;
    int threads;
    bd_cpu_need have;
    unsigned char *shared;  /* have.shared bytes, 64-byte aligned, contents undefined */
    unsigned char *workers; /* threads blocks of have.per_worker bytes (a multiple of 128) */
} bd_cpu;

typedef bd_status bd_cpu_fn(bd_cpu *cpu, const bd_call *c, bd_err *err);
typedef bd_cpu_need bd_cpu_need_fn(const bd_cpu *cpu, const bd_call *c);

static inline void *bd_cpu_worker(const bd_cpu *cpu, int worker) {
    return cpu->workers + (uint64_t)worker * cpu->have.per_worker;
}

/* The pool, or NULL (serial) where the work is too little to wake anybody:
 * waking and waiting cost some microseconds, about 100,000 simple operations. */
static inline bd_pool *bd_cpu_pool_for(const bd_cpu *cpu, double work) {
    return work < 2e5 ? (bd_pool *)0 : cpu->be.pool;
}

#define BD_X(op)                  \
    bd_cpu_fn bd_cpu_##op##_avx2; \
    bd_cpu_fn bd_cpu_##op##_avx512;
BD_CPU_OPS(BD_X)
#undef BD_X
#define BD_X(op)                               \
    bd_cpu_need_fn bd_cpu_##op##_scratch_avx2; \
    bd_cpu_need_fn bd_cpu_##op##_scratch_avx512;
BD_CPU_SCRATCH_OPS(BD_X)
#undef BD_X

#endif
