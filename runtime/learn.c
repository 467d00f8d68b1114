/* Test-time training: SGD with momentum over recorded tokens. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/session_impl.h"

int64_t bd_session_learn_rows(int64_t max_len) { return max_len; }

/* "blocks.<i>." with i below `blocks`? */
static bool frozen(const char *name, int blocks) {
    static const char prefix[] = "blocks.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return false;
    const char *p = name + sizeof prefix - 1;
    long i = 0;
    if (*p < '0' || *p > '9') return false;
    while (*p >= '0' && *p <= '9') {
        i = i * 10 + (*p++ - '0');
        if (i >= blocks) return false;
    }
    return *p == '.';
}

static bd_view view_of(float *base, const bd_param *p) {
    return (bd_view){base + p->offset, BD_F32, p->rows, p->cols};
}

static bd_status clear(bd_session *s, float *dev, bd_err *err) {
    uint64_t bytes = s->model->graph->param_floats * sizeof(float);
    if (bd_backend_is_host(s->be)) {
        memset(dev, 0, bytes);
        return BD_OK;
    }
    float *zero = calloc(1, bytes ? bytes : 1);
    if (!zero) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = s->be->vt->upload(s->be, dev, zero, bytes, err);
    free(zero);
    return st;
}

static bd_status global_norm(bd_session *s, int freeze, double *out, bd_err *err) {
    const bd_graph *g = s->model->graph;
    double sum = 0;
    BD_TRY(s->be->vt->upload(s->be, s->norm, &sum, sizeof sum, err));
    for (int i = 0; i < g->n_params; i++) {
        if (frozen(g->params[i].name, freeze)) continue;
        bd_call c = {.op = BD_OP_sum_squares};
        c.in[0] = view_of(s->grad, &g->params[i]);
        c.out[0] = (bd_view){s->norm, BD_F64, 1, 1};
        BD_TRY(bd_run(s->be, &c, err));
    }
    BD_TRY(s->be->vt->download(s->be, &sum, s->norm, sizeof sum, err));
    if (!isfinite(sum))
        return BD_FAIL(err, BD_E_NONFINITE, "test-time training diverged: the gradient is not finite");
    *out = sqrt(sum);
    return BD_OK;
}

static bd_status step(bd_session *s, const bd_learn *l, bd_err *err) {
    const bd_graph *g = s->model->graph;
    double norm = 0, factor = 1;
    BD_TRY(global_norm(s, l->freeze_blocks, &norm, err));
    if (l->clip > 0) factor = l->clip / (norm + 1e-6);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        if (frozen(p->name, l->freeze_blocks)) continue;
        if (factor < 1) {
            bd_call c = {.op = BD_OP_axpby, .attr.lin = {(float)factor, 0}};
            c.in[0] = c.in[1] = c.out[0] = view_of(s->grad, p);
            BD_TRY(bd_run(s->be, &c, err));
        }
        bd_call c = {.op = BD_OP_sgd, .attr.sgd = {(float)l->lr, (float)l->momentum}};
        c.in[0] = view_of(s->grad, p);
        c.out[0] = view_of(s->params, p);
        c.out[1] = view_of(s->momentum, p);
        BD_TRY(bd_run(s->be, &c, err));
    }
    return BD_OK;
}

static bd_status batch_room(bd_session *s, int64_t rows, bd_err *err) {
    if (rows <= s->batch_cap) return BD_OK;
    free(s->batch_tokens);
    free(s->batch_targets);
    free(s->batch_nll);
    s->batch_tokens = malloc((size_t)rows * sizeof(int32_t));
    s->batch_targets = malloc((size_t)rows * sizeof(int32_t));
    s->batch_nll = malloc((size_t)rows * sizeof(double));
    s->batch_cap = s->batch_tokens && s->batch_targets && s->batch_nll ? rows : 0;
    return s->batch_cap ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for a batch of %" PRId64 " tokens", rows);
}

static bd_status learn_batch(bd_session *s, const bd_learn *l, uint64_t begin, int64_t nseq, int64_t T,
                             bd_err *err) {
    for (int64_t r = 0; r < nseq * T; r++) {
        s->batch_tokens[r] = s->stream[begin + (uint64_t)r];
        s->batch_targets[r] = s->stream[begin + (uint64_t)r + 1];
    }
    BD_TRY(bd_batch_gradient(s->backward, s->gradsum, s->params, s->batch_tokens, s->batch_targets, nseq, T,
                             s->grad, s->batch_nll, s->progress, err));
    return step(s, l, err);
}

bd_status bd_session_learn(bd_session *s, const bd_learn *l, bd_err *err) {
    BD_ASSERT(s->learn && s->begun && !s->broken);
    if (l->begin >= l->end || l->end > s->length)
        return BD_FAIL(err, BD_E_RANGE, "learning from [%" PRIu64 ", %" PRIu64 "): %" PRIu64 " tokens are recorded",
                       l->begin, l->end, s->length);
    if (l->seq_len < 1 || l->seq_len > s->max_len || l->batch < 1)
        return BD_FAIL(err, BD_E_RANGE,
                       "learning in %" PRId64 " sequences of %" PRId64 ": at least 1 of 1..%" PRId64, l->batch,
                       l->seq_len, s->max_len);
    uint64_t inputs = l->end - l->begin - 1;
    if (inputs == 0) return BD_OK;
    int64_t T = l->seq_len;
    uint64_t sequences = inputs / (uint64_t)T;
    if (sequences == 0) {
        T = (int64_t)inputs;
        sequences = 1;
    }
    int64_t batch = (uint64_t)l->batch > sequences ? (int64_t)sequences : l->batch;
    BD_TRY(batch_room(s, batch * T, err));
    if (!s->momentum_set) BD_TRY(clear(s, s->momentum, err));
    s->momentum_set = true;
    bd_session_weights_changed(s);
    for (uint64_t k = 0; k < sequences; k += (uint64_t)batch) {
        int64_t nseq = sequences - k < (uint64_t)batch ? (int64_t)(sequences - k) : batch;
        bd_status st = bd_stopped(s->progress) ? BD_FAIL(err, BD_E_INTERRUPTED, "interrupted") : BD_OK;
        if (st == BD_OK) st = learn_batch(s, l, l->begin + k * (uint64_t)T, nseq, T, err);
        if (st != BD_OK) {
            s->broken = true;
            return st;
        }
    }
    return BD_OK;
}
