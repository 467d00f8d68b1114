/* Root mean square norms of groups of columns, and the norm of whole rows. */
#include "kernels/cpu/vec.h"

static inline v16 squares(const float *x, int64_t width) {
    v16 acc = v16_zero();
    V16_EACH(0, width, {
        const v16 a = v16_get(x + j, w);
        acc = v16_acc_fma(acc, a, a, w);
    });
    return acc;
}

static inline float inverse_rms(v16 ss, float width, float eps) { return 1.0f / sqrtf(v16_sum(ss) / width + eps); }

static inline void scale_to(float *y, const float *x, float r, int64_t width) {
    const v16 f = v16_set1(r);
    V16_EACH(0, width, { v16_put(y + j, v16_mul(v16_get(x + j, w), f), w); });
}

/* A task is a range of groups; rows are dense, so groups are too. */
static void rms_norm_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t width = c->attr.norm.width;
    for (int64_t g = begin; g < end; g++) {
        const float *x = (const float *)c->in[0].data + g * width;
        const float r = inverse_rms(squares(x, width), (float)width, c->attr.norm.eps);
        scale_to((float *)c->out[0].data + g * width, x, r, width);
    }
}

bd_status SIMD_FN(rms_norm)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    const int64_t width = c->attr.norm.width;
    vec_for(cpu, c, vec_count(&c->in[0]) / width, width, 2, rms_norm_task);
    return BD_OK;
}

static void rms_norm_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t width = c->attr.norm.width;
    for (int64_t g = begin; g < end; g++) {
        const float *x = (const float *)c->in[0].data + g * width, *dy = (const float *)c->in[1].data + g * width;
        float *dx = (float *)c->out[0].data + g * width;
        v16 ss = v16_zero(), dot = v16_zero();
        V16_EACH(0, width, {
            const v16 a = v16_get(x + j, w);
            ss = v16_acc_fma(ss, a, a, w);
            dot = v16_acc_fma(dot, v16_get(dy + j, w), a, w);
        });
        const float r = inverse_rms(ss, (float)width, c->attr.norm.eps);
        const v16 k = v16_set1((v16_sum(dot) / (float)width) * (r * r)), f = v16_set1(r);
        V16_EACH(0, width, { v16_put(dx + j, v16_mul(v16_fnma(v16_get(x + j, w), k, v16_get(dy + j, w)), f), w); });
    }
}

bd_status SIMD_FN(rms_norm_grad)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    const int64_t width = c->attr.norm.width;
    vec_for(cpu, c, vec_count(&c->in[0]) / width, width, 3, rms_norm_grad_task);
    return BD_OK;
}

static void row_norm_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols;
    for (int64_t t = begin; t < end; t++) {
        const float *x = (const float *)c->in[0].data + t * cols;
        const float norm = sqrtf(v16_sum(squares(x, cols)));
        /* written so that a NaN stays a NaN */
        scale_to((float *)c->out[0].data + t * cols, x, 1.0f / (norm < 1e-7f ? 1e-7f : norm), cols);
    }
}

bd_status SIMD_FN(row_norm)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    vec_for(cpu, c, c->in[0].rows, c->in[0].cols, 2, row_norm_task);
    return BD_OK;
}
