/* The predictor that an artifact is: its protocol, run by the runtime's evaluator. */
#include "verify/predictor.h"

#include <stdlib.h>

#include "base/fmath.h"

typedef struct runner {
    bd_predictor base;
    const bd_model *model;
    bd_backend *be;
    const bd_protocol *proto;
    uint64_t max_memory;
    const uint16_t *bytes;
    const bd_progress *progress;
    bd_evaluator *ev;
    float *logits;
    int room; /* rows of logits */
} runner;

static bd_status begin(bd_predictor *p, const uint16_t *tokens, uint64_t given, uint64_t declared, bd_err *err) {
    runner *r = (runner *)p;
    bd_stream stream = {tokens, r->bytes, declared};
    bd_eval_opts o = {.max_memory = r->max_memory, .given = given, .progress = r->progress};
    bd_evaluator_close(r->ev);
    return bd_evaluator_open(&r->ev, r->model, r->be, &stream, r->proto, &o, err);
}

static bd_step next(bd_predictor *p) { return bd_evaluator_next(((runner *)p)->ev); }
static uint64_t most(bd_predictor *p) { return bd_evaluator_most(((runner *)p)->ev); }

/* Not the kernel's sum: what it gathers is compared with this. */
static void log_softmax(const float *logits, int32_t vocab, double *logp) {
    double top = logits[0], sum = 0;
    for (int32_t i = 1; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    for (int32_t i = 0; i < vocab; i++) sum += bd_exp(logits[i] - top);
    double lse = top + bd_log(sum);
    for (int32_t i = 0; i < vocab; i++) logp[i] = logits[i] - lse;
}

static bd_status run(bd_predictor *p, double *nll, const uint64_t *ask, int n_ask, double *logp, bd_err *err) {
    runner *r = (runner *)p;
    if (!logp) return bd_evaluator_run(r->ev, nll, NULL, 0, NULL, err);
    if (n_ask > r->room) {
        float *more = realloc(r->logits, (size_t)n_ask * (size_t)p->vocab * sizeof *more);
        if (!more) return BD_FAIL(err, BD_E_NOMEM, "no memory for %d distributions", n_ask);
        r->logits = more;
        r->room = n_ask;
    }
    BD_TRY(bd_evaluator_run(r->ev, nll, ask, n_ask, r->logits, err));
    for (int i = 0; i < n_ask; i++)
        log_softmax(r->logits + (size_t)i * (size_t)p->vocab, p->vocab, logp + (size_t)i * (size_t)p->vocab);
    return BD_OK;
}

static bd_status state_hash(bd_predictor *p, uint8_t out[32], bd_err *err) {
    return bd_session_adapted_hash(bd_evaluator_session(((runner *)p)->ev), out, err);
}

static void close_runner(bd_predictor *p) {
    runner *r = (runner *)p;
    bd_evaluator_close(r->ev);
    free(r->logits);
    free(r);
}

bd_status bd_predictor_open(bd_predictor **out, const bd_model *m, bd_backend *be, const bd_protocol *proto,
                            uint64_t max_memory, bd_err *err) {
    static const bd_predictor_vt vt = {begin, next, run, state_hash, most, close_runner};
    runner *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    r->base = (bd_predictor){&vt, m->graph->vocab};
    r->model = m;
    r->be = be;
    r->proto = proto;
    r->max_memory = max_memory;
    *out = &r->base;
    return BD_OK;
}

void bd_predictor_account(bd_predictor *p, const uint16_t *bytes, const bd_progress *progress) {
    runner *r = (runner *)p;
    r->bytes = bytes;
    r->progress = progress;
}

void bd_predictor_score(const bd_predictor *p, bd_score *score) {
    bd_evaluator_score(((const runner *)p)->ev, score);
}
