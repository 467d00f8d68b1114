/* Negative log-likelihood and its gradient. The exponentials, the sum and the
 * logarithm are double in both builds. */
#include <inttypes.h>

#include "base/fmath.h"
#include "kernels/ref/ref_typed.h"

static bd_status check_targets(const bd_call *c, bd_err *err) {
    const int32_t *t = c->in[1].data;
    for (int64_t i = 0; i < c->in[0].rows; i++) {
        if (t[i] < -1 || t[i] >= c->in[0].cols) {
            return BD_FAIL(err, BD_E_RANGE,
                           "target %" PRId32 " at index %" PRId64 " is outside the vocabulary of %" PRId64, t[i], i,
                           c->in[0].cols);
        }
    }
    return BD_OK;
}

REF_TASK(nll_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t V = c->in[0].cols;
    const int32_t *targets = c->in[1].data;
    double *nll = c->out[0].data, *lse = c->out[1].data;
    for (int64_t t = begin; t < end; t++) {
        const real *l = (const real *)c->in[0].data + t * V;
        real m = l[0];
        for (int64_t j = 1; j < V; j++) m = l[j] > m ? l[j] : m;
        const double md = (double)m;
        double lanes[16] = {0};
        int64_t j = 0;
        for (; j + 16 <= V; j += 16) {
            for (int i = 0; i < 16; i++) lanes[i] = lanes[i] + bd_exp_core((double)l[j + i] - md);
        }
        for (int i = 0; j + i < V; i++) lanes[i] = lanes[i] + bd_exp_core((double)l[j + i] - md);
        lse[t] = md + bd_log(tree16_double(lanes));
        nll[t] = targets[t] < 0 ? 0 : lse[t] - (double)l[targets[t]];
    }
}

bd_status REF_FN(nll)(bd_ref *r, const bd_call *c, bd_err *err) {
    BD_TRY(check_targets(c, err));
    run_tasks(r, c, c->in[0].rows, nll_rows);
    return BD_OK;
}

REF_TASK(nll_grad_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t V = c->in[0].cols;
    const int32_t *targets = c->in[1].data;
    const double *lse = c->in[2].data;
    const real gscale = (real)c->attr.loss.gscale;
    for (int64_t t = begin; t < end; t++) {
        const real *l = (const real *)c->in[0].data + t * V;
        real *d = (real *)c->out[0].data + t * V;
        if (targets[t] < 0) {
            for (int64_t j = 0; j < V; j++) d[j] = 0;
            continue;
        }
        for (int64_t j = 0; j < V; j++) d[j] = (real)bd_exp_core((double)l[j] - lse[t]);
        d[targets[t]] = d[targets[t]] - (real)1;
        for (int64_t j = 0; j < V; j++) d[j] = d[j] * gscale;
    }
}

bd_status REF_FN(nll_grad)(bd_ref *r, const bd_call *c, bd_err *err) {
    BD_TRY(check_targets(c, err));
    run_tasks(r, c, c->in[0].rows, nll_grad_rows);
    return BD_OK;
}
