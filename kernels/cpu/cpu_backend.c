/* The cpu backend: picks a level, owns the pool and the scratch, and runs the
 * function that the level's table names. No kernel is here. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/numerics.h"
#include "kernels/cpu/cpu_impl.h"

static const char *const isa_name[BD_CPU_ISA_COUNT] = {"avx2", "avx512"};

/* What the machine and its operating system offer ------------------------------------------------------------ */

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t enabled_state(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool machine_has(bd_cpu_isa isa) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
    bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1, avx = c >> 28 & 1;
    if (!osxsave || !avx || !fma || !f16c) return false;
    /* Registers count only if the system saves them: bits 1-2 xmm and ymm, 5-7 masks and zmm. */
    uint64_t state = enabled_state();
    if ((state & 0x06) != 0x06) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(b >> 5 & 1)) return false;
    if (isa == BD_CPU_AVX2) return true;
    unsigned need = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    return (b & need) == need && (state & 0xe6) == 0xe6;
}

static bd_cpu_fn *const table[BD_CPU_ISA_COUNT][BD_OP_COUNT + 1] = {
#define BD_X(op) [BD_OP_##op] = bd_cpu_##op##_avx2,
    [BD_CPU_AVX2] = {BD_CPU_OPS(BD_X)[BD_OP_COUNT] = NULL},
#undef BD_X
#define BD_X(op) [BD_OP_##op] = bd_cpu_##op##_avx512,
    [BD_CPU_AVX512] = {BD_CPU_OPS(BD_X)[BD_OP_COUNT] = NULL},
#undef BD_X
};
static bd_cpu_need_fn *const need_table[BD_CPU_ISA_COUNT][BD_OP_COUNT + 1] = {
#define BD_X(op) [BD_OP_##op] = bd_cpu_##op##_scratch_avx2,
    [BD_CPU_AVX2] = {BD_CPU_SCRATCH_OPS(BD_X)[BD_OP_COUNT] = NULL},
#undef BD_X
#define BD_X(op) [BD_OP_##op] = bd_cpu_##op##_scratch_avx512,
    [BD_CPU_AVX512] = {BD_CPU_SCRATCH_OPS(BD_X)[BD_OP_COUNT] = NULL},
#undef BD_X
};

#else /* other machines have no level yet */
static bool machine_has(bd_cpu_isa isa) {
    (void)isa;
    return false;
}
static bd_cpu_fn *const table[BD_CPU_ISA_COUNT][BD_OP_COUNT + 1];
static bd_cpu_need_fn *const need_table[BD_CPU_ISA_COUNT][BD_OP_COUNT + 1];
#endif

/* The table of the backend ------------------------------------------------------------------------------------- */

static const bd_cpu *const_cpu_of(const bd_backend *be) { return (const bd_cpu *)be; }
static bd_cpu *cpu_of(bd_backend *be) { return (bd_cpu *)be; }

static void cpu_close(bd_backend *be) {
    bd_cpu *cpu = cpu_of(be);
    bd_pool_destroy(be->pool);
    free(cpu->shared);
    free(cpu->workers);
    free(cpu);
}

static bd_status cpu_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err) {
    (void)be;
    *out = bd_alloc_aligned(bytes ? bytes : 1, 1);
    if (!*out) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes", (unsigned long long)bytes);
    return BD_OK;
}

static void cpu_release(bd_backend *be, void *mem) {
    (void)be;
    free(mem);
}

static bd_status cpu_copy(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    (void)be;
    (void)err;
    if (bytes) memmove(dst, src, bytes);
    return BD_OK;
}

static bd_status cpu_sync(bd_backend *be, bd_err *err) {
    (void)be;
    (void)err;
    return BD_OK;
}

static bool cpu_has(const bd_backend *be, bd_op op) {
    return (unsigned)op < BD_OP_COUNT && table[const_cpu_of(be)->isa][op] != NULL;
}

static bd_status grow(unsigned char **block, uint64_t bytes, bd_err *err) {
    free(*block); /* contents are scratch */
    *block = bd_alloc_aligned(bytes, 1);
    if (!*block) {
        return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes of scratch", (unsigned long long)bytes);
    }
    return BD_OK;
}

static bd_status cpu_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    bd_cpu *cpu = cpu_of(be);
    if (!cpu_has(be, c->op)) return BD_FAIL(err, BD_E_UNSUPPORTED, "%s has no such operation", be->vt->name);
    bd_cpu_need_fn *fn = need_table[cpu->isa][c->op];
    if (!fn) return BD_OK;
    bd_cpu_need need = fn(cpu, c);
    if (need.shared > cpu->have.shared) {
        cpu->have.shared = 0;
        BD_TRY(grow(&cpu->shared, need.shared, err));
        cpu->have.shared = need.shared;
    }
    if (need.per_worker > cpu->have.per_worker) {
        uint64_t each = (need.per_worker + 127) & ~(uint64_t)127, all;
        cpu->have.per_worker = 0;
        if (!bd_mul_u64(each, (uint64_t)cpu->threads, &all)) {
            return BD_FAIL(err, BD_E_NOMEM, "scratch of %d threads is too large", cpu->threads);
        }
        BD_TRY(grow(&cpu->workers, all, err));
        cpu->have.per_worker = each;
    }
    return BD_OK;
}

static bd_status cpu_run(bd_backend *be, const bd_call *c, bd_err *err) {
    BD_TRY(cpu_reserve(be, c, err));
    return table[cpu_of(be)->isa][c->op](cpu_of(be), c, err);
}

static const bd_backend_vt vt[BD_CPU_ISA_COUNT] = {
    {"cpu-avx2", cpu_close, cpu_alloc, cpu_release, cpu_copy, cpu_copy, cpu_sync, cpu_has, cpu_reserve, cpu_run},
    {"cpu-avx512", cpu_close, cpu_alloc, cpu_release, cpu_copy, cpu_copy, cpu_sync, cpu_has, cpu_reserve, cpu_run},
};

static bd_status choose(bd_cpu_isa *out, const char *isa, bd_err *err) {
    for (int i = BD_CPU_ISA_COUNT - 1; i >= 0; i--) {
        if (isa && strcmp(isa, isa_name[i]) != 0) continue;
        if (machine_has((bd_cpu_isa)i)) {
            *out = (bd_cpu_isa)i;
            return BD_OK;
        }
        if (isa) return BD_FAIL(err, BD_E_UNSUPPORTED, "this machine lacks %s", isa);
    }
    if (!isa) return BD_FAIL(err, BD_E_UNSUPPORTED, "this machine has neither AVX-512 nor AVX2 with FMA; use ref");
    return BD_FAIL(err, BD_E_UNSUPPORTED, "unknown instruction set \"%s\" (known: avx2, avx512)", isa);
}

bd_status bd_cpu_open(bd_backend **out, const char *isa, int threads, bd_err *err) {
    bd_cpu_isa level = BD_CPU_AVX2;
    *out = NULL;
    BD_TRY(choose(&level, isa, err));
    BD_TRY(bd_numerics_check(err));
    bd_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate a backend");
    cpu->be.vt = &vt[level];
    cpu->isa = level;
    bd_status st = bd_pool_create(&cpu->be.pool, threads, err);
    if (st != BD_OK) {
        free(cpu);
        return st;
    }
    cpu->threads = bd_pool_threads(cpu->be.pool);
    *out = &cpu->be;
    return BD_OK;
}
