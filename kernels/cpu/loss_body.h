/* Cross entropy and its gradient. Logits are float, everything after them is double. */
#include <string.h>

#include "base/fmath.h"
#include "kernels/cpu/vec.h"

static bd_status targets_check(const bd_call *c, bd_err *err) {
    const int32_t *target = c->in[1].data;
    const int64_t n = c->in[0].rows, vocab = c->in[0].cols;
    for (int64_t t = 0; t < n; t++) {
        if (target[t] < -1 || target[t] >= vocab) {
            return BD_FAIL(err, BD_E_RANGE, "target %d of row %lld is outside the vocabulary of %lld", target[t],
                           (long long)t, (long long)vocab);
        }
    }
    return BD_OK;
}

/* The order of a maximum is free: four chains hide its latency. */
static inline float row_max(const float *l, int64_t n) {
    v16 top[4];
    int64_t at = 0;
    for (int k = 0; k < 4; k++) top[k] = v16_set1(-INFINITY);
    for (; at + 64 <= n; at += 64) {
        for (int k = 0; k < 4; k++) top[k] = v16_acc_max(top[k], v16_load(l + at + 16 * k), 16);
    }
    V16_EACH(at, n, { top[0] = v16_acc_max(top[0], v16_get(l + j, w), w); });
    return v16_max_all(v16_acc_max(v16_acc_max(top[0], top[1], 16), v16_acc_max(top[2], top[3], 16), 16));
}

static void nll_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t vocab = c->in[0].cols;
    const int32_t *target = c->in[1].data;
    double *nll = c->out[0].data, *lse_out = c->out[1].data;
    for (int64_t t = begin; t < end; t++) {
        const float *l = (const float *)c->in[0].data + t * vocab;
        const double m = (double)row_max(l, vocab);
        const d16 shift = d16_set1(m);
        d16 sum = d16_zero();
        V16_EACH(0, vocab, { sum = d16_acc_add(sum, d16_exp(d16_sub(d16_widen(v16_get(l + j, w)), shift)), w); });
        const double lse = m + bd_log(d16_sum(sum));
        lse_out[t] = lse;
        nll[t] = target[t] < 0 ? 0.0 : lse - (double)l[target[t]];
    }
}

bd_status SIMD_FN(nll)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    BD_TRY(targets_check(c, err));
    vec_for(cpu, c, c->in[0].rows, c->in[0].cols, 8, nll_task);
    return BD_OK;
}

static void nll_grad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const bd_call *c = arg;
    const int64_t vocab = c->in[0].cols;
    const int32_t *target = c->in[1].data;
    const double *lse = c->in[2].data;
    const v16 gscale = v16_set1(c->attr.loss.gscale);
    for (int64_t t = begin; t < end; t++) {
        const float *l = (const float *)c->in[0].data + t * vocab;
        float *d = (float *)c->out[0].data + t * vocab;
        if (target[t] < 0) {
            memset(d, 0, (size_t)vocab * sizeof *d);
            continue;
        }
        const double at_target = bd_exp((double)l[target[t]] - lse[t]); /* before d overwrites l, if they are one */
        const d16 shift = d16_set1(lse[t]);
        V16_EACH(0, vocab, {
            const v16 p = d16_narrow(d16_exp(d16_sub(d16_widen(v16_get(l + j, w)), shift)));
            v16_put(d + j, v16_mul(p, gscale), w);
        });
        d[target[t]] = ((float)at_target - 1.0f) * c->attr.loss.gscale;
    }
}

bd_status SIMD_FN(nll_grad)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    BD_TRY(targets_check(c, err));
    vec_for(cpu, c, c->in[0].rows, c->in[0].cols, 8, nll_grad_task);
    return BD_OK;
}
