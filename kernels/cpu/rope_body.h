/* Rotary positions. The table's row is split into cosines and sines once for all heads of a token. */
#include "kernels/cpu/vec.h"

static void rope_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols, width = c->attr.rope.width, half = width / 2;
    const bool inverse = c->attr.rope.inverse != 0;
    for (int64_t t = begin; t < end; t++) {
        const float *table = (const float *)c->in[1].data + t % c->seq_len * width;
        const float *x = (const float *)c->in[0].data + t * cols;
        float *y = (float *)c->out[0].data + t * cols;
        V16_EACH(0, half, {
            v16 cs;
            v16 sn;
            v16_get_pairs(table + 2 * j, w, &cs, &sn);
            if (inverse) sn = v16_neg(sn); /* x * -s is -(x * s), bit for bit */
            const v16 minus = v16_neg(sn);
            for (int64_t h = j; h < cols; h += width) {
                const v16 x1 = v16_get(x + h, w);
                const v16 x2 = v16_get(x + h + half, w);
                v16_put(y + h, v16_fma(x1, cs, v16_mul(x2, sn)), w);
                v16_put(y + h + half, v16_fma(x2, cs, v16_mul(x1, minus)), w);
            }
        });
    }
}

bd_status SIMD_FN(rope)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    vec_for(cpu, c, c->in[0].rows, c->in[0].cols, 1, rope_task);
    return BD_OK;
}
