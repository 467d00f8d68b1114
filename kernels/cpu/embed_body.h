/* Rows of the embedding table out, and their gradients back in. */
#include <string.h>

#include "kernels/cpu/vec.h"

static bd_status tokens_check(const bd_view *tokens, int64_t vocab, bd_err *err) {
    const int32_t *token = tokens->data;
    const int64_t n = vec_count(tokens);
    for (int64_t t = 0; t < n; t++) {
        if (token[t] < 0 || token[t] >= vocab) {
            return BD_FAIL(err, BD_E_RANGE, "token %d at %lld is outside the vocabulary of %lld", token[t],
                           (long long)t, (long long)vocab);
        }
    }
    return BD_OK;
}

static void embed_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t cols = c->in[0].cols;
    const float *table = c->in[0].data;
    const int32_t *token = c->in[1].data;
    float *y = c->out[0].data;
    for (int64_t t = begin; t < end; t++) memcpy(y + t * cols, table + token[t] * cols, (size_t)cols * sizeof *y);
}

bd_status SIMD_FN(embed)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    BD_TRY(tokens_check(&c->in[1], c->in[0].rows, err));
    vec_for(cpu, c, c->out[0].rows, c->out[0].cols, 1, embed_task);
    return BD_OK;
}

/* A task owns columns, so each row's chain runs over t in order whatever the threads. */
static void embed_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t n = c->in[0].rows, cols = c->in[0].cols, first = 16 * begin, last = vec_min(16 * end, cols);
    const int32_t *token = c->in[1].data;
    for (int64_t t = 0; t < n; t++) {
        const float *dy = (const float *)c->in[0].data + t * cols;
        float *row = (float *)c->out[0].data + token[t] * cols;
        V16_EACH(first, last, { v16_put(row + j, v16_add(v16_get(row + j, w), v16_get(dy + j, w)), w); });
    }
}

bd_status SIMD_FN(embed_grad)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    BD_TRY(tokens_check(&c->in[1], c->out[0].rows, err));
    vec_for_columns(cpu, c, c->in[0].rows, c->in[0].cols, 16, 4, embed_grad_task);
    return BD_OK;
}
