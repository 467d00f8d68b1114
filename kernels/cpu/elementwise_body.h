/* Element by element, forward and backward: nothing here sums. */
#include "kernels/cpu/vec.h"

/* --- over all elements --- */

static void add_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *a = c->in[0].data, *b = c->in[1].data;
    float *y = c->out[0].data;
    V16_EACH(begin, end, { v16_put(y + j, v16_add(v16_get(a + j, w), v16_get(b + j, w)), w); });
}

static void relu2_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *z = c->in[0].data;
    float *y = c->out[0].data;
    const v16 slope = v16_set1(c->attr.relu2.slope), zero = v16_zero();
    V16_EACH(begin, end, {
        const v16 x = v16_get(z + j, w);
        const v16 u = v16_select(v16_gt(x, zero), x, v16_mul(slope, x));
        v16_put(y + j, v16_mul(u, u), w);
    });
}

static void relu2_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *z = c->in[0].data, *dy = c->in[1].data;
    float *dz = c->out[0].data;
    const float slope = c->attr.relu2.slope;
    const v16 below = v16_set1(2.0f * (slope * slope)), above = v16_set1(2.0f), zero = v16_zero();
    V16_EACH(begin, end, {
        const v16 x = v16_get(z + j, w);
        const v16 k = v16_select(v16_gt(x, zero), above, below);
        v16_put(dz + j, v16_mul(v16_get(dy + j, w), v16_mul(k, x)), w);
    });
}

static void softcap_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *x = c->in[0].data;
    float *y = c->out[0].data;
    const v16 cap = v16_set1(c->attr.softcap.cap);
    V16_EACH(begin, end, { v16_put(y + j, v16_mul(cap, v16_tanh(v16_div(v16_get(x + j, w), cap))), w); });
}

static void softcap_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *y = c->in[0].data, *dy = c->in[1].data;
    float *dx = c->out[0].data;
    const v16 cap = v16_set1(c->attr.softcap.cap), one = v16_set1(1.0f);
    V16_EACH(begin, end, {
        const v16 u = v16_div(v16_get(y + j, w), cap);
        v16_put(dx + j, v16_mul(v16_get(dy + j, w), v16_fnma(u, u, one)), w);
    });
}

#define VEC_FLAT(op, cost)                                               \
    bd_status SIMD_FN(op)(bd_cpu * cpu, const bd_call *c, bd_err *err) { \
        (void)err;                                                       \
        vec_for(cpu, c, vec_count(&c->out[0]), 1, (cost), op##_task);    \
        return BD_OK;                                                    \
    }
VEC_FLAT(add, 1)
VEC_FLAT(relu2, 1)
VEC_FLAT(relu2_grad, 1)
VEC_FLAT(softcap, 8)
VEC_FLAT(softcap_grad, 2)

/* --- over rows, with a vector per column or a factor per head --- */

static void scale_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols;
    const float *s = c->in[1].data;
    for (int64_t t = begin; t < end; t++) {
        const float *x = (const float *)c->in[0].data + t * cols;
        float *y = (float *)c->out[0].data + t * cols;
        V16_EACH(0, cols, { v16_put(y + j, v16_mul(v16_get(x + j, w), v16_get(s + j, w)), w); });
    }
}

static void add_scaled_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols;
    const float *s = c->in[2].data;
    for (int64_t t = begin; t < end; t++) {
        const float *x = (const float *)c->in[0].data + t * cols, *y = (const float *)c->in[1].data + t * cols;
        float *z = (float *)c->out[0].data + t * cols;
        V16_EACH(0, cols, { v16_put(z + j, v16_fma(v16_get(s + j, w), v16_get(y + j, w), v16_get(x + j, w)), w); });
    }
}

static void mix_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols;
    const float *a = c->in[1].data, *b = c->in[3].data;
    for (int64_t t = begin; t < end; t++) {
        const float *x = (const float *)c->in[0].data + t * cols, *y = (const float *)c->in[2].data + t * cols;
        float *z = (float *)c->out[0].data + t * cols;
        V16_EACH(0, cols, {
            const v16 by = v16_mul(v16_get(b + j, w), v16_get(y + j, w));
            v16_put(z + j, v16_fma(v16_get(a + j, w), v16_get(x + j, w), by), w);
        });
    }
}

static void head_scale_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols, heads = c->attr.heads.heads, width = cols / heads;
    const float *g = c->in[1].data;
    for (int64_t t = begin; t < end; t++) {
        for (int64_t h = 0; h < heads; h++) {
            const float *x = (const float *)c->in[0].data + t * cols + h * width;
            float *y = (float *)c->out[0].data + t * cols + h * width;
            const v16 f = v16_set1(g[h]);
            V16_EACH(0, width, { v16_put(y + j, v16_mul(v16_get(x + j, w), f), w); });
        }
    }
}

#define VEC_ROWS(op)                                                     \
    bd_status SIMD_FN(op)(bd_cpu * cpu, const bd_call *c, bd_err *err) { \
        (void)err;                                                       \
        vec_for(cpu, c, c->in[0].rows, c->in[0].cols, 1, op##_task);     \
        return BD_OK;                                                    \
    }
VEC_ROWS(scale)
VEC_ROWS(add_scaled)
VEC_ROWS(mix)
VEC_ROWS(head_scale)
