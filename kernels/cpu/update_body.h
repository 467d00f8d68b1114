/* Optimizer steps and what feeds them: combinations, sums of shards, norms of all gradients. */
#include "kernels/cpu/vec.h"

static void axpby_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *x = c->in[0].data, *y = c->in[1].data;
    float *z = c->out[0].data;
    const v16 a = v16_set1(c->attr.lin.a), b = v16_set1(c->attr.lin.b);
    V16_EACH(begin, end, { v16_put(z + j, v16_fma(a, v16_get(x + j, w), v16_mul(b, v16_get(y + j, w))), w); });
}

static void tree_sum8_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t count = vec_count(&c->out[0]);
    const float *x = c->in[0].data;
    float *z = c->out[0].data;
    const v16 a = v16_set1(c->attr.lin.a);
    V16_EACH(begin, end, {
        v16 s[4];
        for (int l = 0; l < 4; l++)
            s[l] = v16_add(v16_get(x + l * count + j, w), v16_get(x + (l + 4) * count + j, w));
        v16_put(z + j, v16_mul(v16_add(v16_add(s[0], s[2]), v16_add(s[1], s[3])), a), w);
    });
}

static void adamw_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *g = c->in[0].data;
    float *p = c->out[0].data, *m = c->out[1].data, *v = c->out[2].data;
    const v16 lr = v16_set1(c->attr.adamw.lr), eps = v16_set1(c->attr.adamw.eps);
    const v16 decay = v16_set1(c->attr.adamw.decay), c1 = v16_set1(c->attr.adamw.c1),
              c2 = v16_set1(c->attr.adamw.c2);
    const v16 beta1 = v16_set1(c->attr.adamw.beta1), rest1 = v16_set1(1.0f - c->attr.adamw.beta1);
    const v16 beta2 = v16_set1(c->attr.adamw.beta2), rest2 = v16_set1(1.0f - c->attr.adamw.beta2);
    V16_EACH(begin, end, {
        const v16 gj = v16_get(g + j, w);
        const v16 pj = v16_mul(v16_get(p + j, w), decay);
        const v16 mj = v16_fma(beta1, v16_get(m + j, w), v16_mul(rest1, gj));
        const v16 vj = v16_fma(beta2, v16_get(v + j, w), v16_mul(v16_mul(rest2, gj), gj));
        const v16 step = v16_div(v16_mul(lr, v16_mul(mj, c1)), v16_add(v16_sqrt(v16_mul(vj, c2)), eps));
        v16_put(m + j, mj, w);
        v16_put(v + j, vj, w);
        v16_put(p + j, v16_sub(pj, step), w);
    });
}

static void sgd_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const float *g = c->in[0].data;
    float *p = c->out[0].data, *b = c->out[1].data;
    const v16 lr = v16_set1(c->attr.sgd.lr), momentum = v16_set1(c->attr.sgd.momentum);
    V16_EACH(begin, end, {
        const v16 bj = v16_fma(momentum, v16_get(b + j, w), v16_get(g + j, w));
        v16_put(b + j, bj, w);
        v16_put(p + j, v16_fnma(lr, bj, v16_get(p + j, w)), w);
    });
}

#define VEC_UPDATE(op, cost)                                             \
    bd_status SIMD_FN(op)(bd_cpu * cpu, const bd_call *c, bd_err *err) { \
        (void)err;                                                       \
        vec_for(cpu, c, vec_count(&c->out[0]), 1, (cost), op##_task);    \
        return BD_OK;                                                    \
    }
VEC_UPDATE(axpby, 1)
VEC_UPDATE(tree_sum8, 4)
VEC_UPDATE(adamw, 4)
VEC_UPDATE(sgd, 2)

/* sum_squares: blocks of a fixed size in parallel, a wave at a time, then the chain of their sums. */

enum { SQUARES_BLOCK = 65536, SQUARES_WAVE = 256 };

typedef struct squares_wave {
    const float *x;
    int64_t count;
    double sum[SQUARES_WAVE];
} squares_wave;

static void sum_squares_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    squares_wave *s = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i * SQUARES_BLOCK, last = vec_min(first + SQUARES_BLOCK, s->count);
        d16 acc = d16_zero();
        V16_EACH(first, last, {
            const d16 a = d16_widen(v16_get(s->x + j, w));
            acc = d16_acc_fma(acc, a, a, w);
        });
        s->sum[i] = d16_sum(acc);
    }
}

bd_status SIMD_FN(sum_squares)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    const int64_t count = vec_count(&c->in[0]), each = (int64_t)SQUARES_BLOCK * SQUARES_WAVE;
    double *out = c->out[0].data;
    squares_wave s;
    for (int64_t done = 0; done < count; done += each) {
        s.x = (const float *)c->in[0].data + done;
        s.count = vec_min(each, count - done);
        const int64_t blocks = (s.count + SQUARES_BLOCK - 1) / SQUARES_BLOCK;
        bd_pool_for(bd_cpu_pool_for(cpu, (double)s.count), blocks, 1, sum_squares_task, &s);
        for (int64_t i = 0; i < blocks; i++) *out += s.sum[i];
    }
    return BD_OK;
}
