/* Rotary positions: the halves of a head pair up. */
#include "kernels/ref/ref_typed.h"

REF_TASK(rope_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t A = c->in[0].cols, W = c->attr.rope.width, half = W / 2;
    for (int64_t t = begin; t < end; t++) {
        const real *table = (const real *)c->in[1].data + t % c->seq_len * W; /* (W/2, 2): cos, sin */
        for (int64_t h = 0; h < A / W; h++) {
            const real *x1 = (const real *)c->in[0].data + t * A + h * W, *x2 = x1 + half;
            real *y1 = (real *)c->out[0].data + t * A + h * W, *y2 = y1 + half;
            for (int64_t i = 0; i < half; i++) {
                const real co = table[2 * i], si = table[2 * i + 1];
                if (c->attr.rope.inverse) {
                    y1[i] = FMA(x1[i], co, -(x2[i] * si));
                    y2[i] = FMA(x2[i], co, x1[i] * si);
                } else {
                    y1[i] = FMA(x1[i], co, x2[i] * si);
                    y2[i] = FMA(x2[i], co, -(x1[i] * si));
                }
            }
        }
    }
}

bd_status REF_FN(rope)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    run_tasks(r, c, c->in[0].rows, rope_rows);
    return BD_OK;
}
