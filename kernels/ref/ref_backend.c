/* The reference backend: opens, allocates, and finds the function of a call. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/numerics.h"
#include "kernels/ref/ref64.h"
#include "kernels/ref/ref_impl.h"

static bd_ref_fn *const table_f32[BD_OP_COUNT] = {
#define BD_X(name, nin, nout, causal, attr) bd_ref_##name##_f32,
    BD_OP_LIST(BD_X)
#undef BD_X
};
static bd_ref_fn *const table_f64[BD_OP_COUNT] = {
#define BD_X(name, nin, nout, causal, attr) bd_ref_##name##_f64,
    BD_OP_LIST(BD_X)
#undef BD_X
};

uint64_t bd_ref_need(const bd_call *c, uint64_t real_size) {
    uint64_t reals = 0;
    if (c->op == BD_OP_linear) {
        reals = (uint64_t)c->in[0].cols * BD_REF_BLOCK;
    } else if (c->op == BD_OP_attention || c->op == BD_OP_attention_grad || c->op == BD_OP_attention_step) {
        const uint64_t T = (uint64_t)c->attr.attn.T, W = (uint64_t)(c->in[0].cols / c->attr.attn.heads);
        reals = c->op == BD_OP_attention_grad ? T * (2 * W + 2) : T * (W + 1);
    }
    return (reals * real_size + 63) & ~(uint64_t)63;
}

static bd_ref *ref_of(bd_backend *be) { return (bd_ref *)be; }

static void ref_close(bd_backend *be) {
    bd_ref *r = ref_of(be);
    bd_pool_destroy(be->pool);
    free(r->scratch);
    free(r);
}

static bd_status ref_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err) {
    (void)be;
    *out = bd_alloc_aligned(bytes ? bytes : 1, 1);
    if (!*out) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes", (unsigned long long)bytes);
    return BD_OK;
}

static void ref_release(bd_backend *be, void *mem) {
    (void)be;
    free(mem);
}

static bd_status ref_copy(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    (void)be;
    (void)err;
    if (bytes) memmove(dst, src, bytes);
    return BD_OK;
}

static bd_status ref_sync(bd_backend *be, bd_err *err) {
    (void)be;
    (void)err;
    return BD_OK;
}

static bool ref_has(const bd_backend *be, bd_op op) {
    (void)be;
    return (unsigned)op < BD_OP_COUNT;
}

static bd_status grow(bd_ref *r, uint64_t each, bd_err *err) {
    if (each <= r->scratch_each) return BD_OK;
    uint64_t all;
    free(r->scratch);
    r->scratch = NULL;
    r->scratch_each = 0;
    if (bd_mul_u64(each, (uint64_t)bd_pool_threads(r->be.pool), &all)) r->scratch = bd_alloc_aligned(all, 1);
    if (!r->scratch) {
        return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes of scratch for each thread",
                       (unsigned long long)each);
    }
    r->scratch_each = each;
    return BD_OK;
}

static bd_status ref_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    return grow(ref_of(be), bd_ref_need(c, sizeof(float)), err);
}

static bd_status ref_run(bd_backend *be, const bd_call *c, bd_err *err) {
    BD_TRY(ref_reserve(be, c, err));
    return table_f32[c->op](ref_of(be), c, err);
}

static const bd_backend_vt ref_vt = {"ref",    ref_close, ref_alloc, ref_release, ref_copy,
                                     ref_copy, ref_sync,  ref_has,   ref_reserve, ref_run};

bd_status bd_ref_open(bd_backend **out, int threads, bd_err *err) {
    *out = NULL;
    BD_TRY(bd_numerics_check(err)); /* refuses machines without the instructions that ref is compiled for */
    bd_ref *r = calloc(1, sizeof *r);
    if (!r) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate a backend");
    r->be.vt = &ref_vt;
    const bd_status st = bd_pool_create(&r->be.pool, threads, err);
    if (st != BD_OK) {
        free(r);
        return st;
    }
    *out = &r->be;
    return BD_OK;
}

bd_status bd_ref64_run(const bd_call *c, bd_err *err) {
    BD_TRY(bd_call_check_real(c, BD_F64, err));
    bd_ref r;
    memset(&r, 0, sizeof r);
    bd_status st = grow(&r, bd_ref_need(c, sizeof(double)), err);
    if (st == BD_OK) st = table_f64[c->op](&r, c, err);
    free(r.scratch);
    return st;
}
