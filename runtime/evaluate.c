#include "runtime/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"
#include "runtime/score.h"

enum { DEFAULT_ROWS = 4096 };

/* ---- which windows there are ---- */

typedef struct cut {
    uint64_t L, S; /* S == L: non-overlapping */
    uint64_t N;    /* targets scored */
    uint64_t windows;
} cut;

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void window_at(const cut *c, uint64_t i, const uint16_t *tokens, bd_window *w) {
    uint64_t start = i * c->S, len = min_u64(c->L, c->N - start);
    uint64_t context = i == 0 ? 0 : c->L - c->S;
    w->start = start;
    w->first = start + context + 1;
    w->n = (uint32_t)(len - context);
    w->targets = tokens ? tokens + w->first : NULL;
}

static bd_status make_cut(cut *c, uint64_t n, const bd_protocol *p, const bd_eval_opts *o, bd_err *err) {
    if (n < 2) return BD_FAIL(err, BD_E_RANGE, "a stream of %" PRIu64 " tokens has nothing to score", n);
    c->L = p->window;
    c->S = p->stride ? p->stride : p->window;
    c->N = n - 1;
    if (o->max_tokens) c->N = min_u64(c->N, o->max_tokens);
    c->windows = c->N <= c->L ? 1 : 1 + (c->N - c->L + c->S - 1) / c->S;
    bd_window w;
    window_at(c, c->windows - 1, NULL, &w);
    if (o->drop_tail && w.first + w.n - 1 - w.start < c->L) c->windows--;
    if (o->max_windows) c->windows = min_u64(c->windows, o->max_windows);
    if (c->windows == 0)
        return BD_FAIL(err, BD_E_RANGE, "%" PRIu64 " targets do not fill one window of %" PRIu64, c->N, c->L);
    window_at(c, c->windows - 1, NULL, &w);
    c->N = w.first + w.n - 1;
    return BD_OK;
}

/* ---- what it will take ---- */

static uint64_t chunk_count(const cut *c, const bd_protocol *p) {
    return p->kind == BD_PROTO_SGD ? (c->N + p->chunk - 1) / p->chunk : 1;
}

/* The session's batch: as asked, or 4,096 rows; smaller where memory is short. */
static bd_status choose_rows(bd_eval_plan *plan, const cut *c, const bd_model *m, const bd_protocol *p,
                             const bd_eval_opts *o, bd_err *err) {
    int64_t len = (int64_t)min_u64(c->L, c->N), rows = o->batch_rows > 0 ? o->batch_rows : DEFAULT_ROWS;
    int64_t count = rows / len < 1 ? 1 : rows / len;
    if ((uint64_t)count > c->windows) count = (int64_t)c->windows;
    plan->max_len = len;
    for (;; count = (count + 1) / 2) {
        plan->max_rows = count * len;
        BD_TRY(bd_session_plan_bytes(&plan->memory, m, plan->max_rows, len, p->kind == BD_PROTO_SGD, err));
        if (!o->max_memory || plan->memory <= o->max_memory) return BD_OK;
        if (count == 1)
            return BD_FAIL(err, BD_E_LIMIT,
                           "one window of %" PRId64 " needs %" PRIu64 " bytes, the memory limit is %" PRIu64, len,
                           plan->memory, o->max_memory);
    }
}

static bd_status plan_cut(bd_eval_plan *plan, cut *c, const bd_model *m, const bd_stream *stream,
                          const bd_protocol *proto, const bd_eval_opts *o, bd_err *err) {
    memset(plan, 0, sizeof *plan);
    BD_TRY(bd_protocol_check(proto, err));
    BD_TRY(make_cut(c, stream->n, proto, o, err));
    plan->windows = c->windows;
    plan->tokens = c->N;
    for (uint64_t i = 1; stream->bytes && i <= c->N; i++) plan->bytes += stream->bytes[i];
    bd_window last;
    window_at(c, c->windows - 1, NULL, &last);
    uint64_t last_len = last.first + last.n - 1 - last.start;
    plan->rows = (c->windows - 1) * c->L + last_len;
    plan->flops = (double)(plan->rows - last_len) * bd_graph_flops(m->graph, (int64_t)c->L) +
                  (double)last_len * bd_graph_flops(m->graph, (int64_t)last_len);
    plan->chunks = chunk_count(c, proto);
    if (proto->kind == BD_PROTO_SGD) {
        uint64_t T = min_u64(c->L, proto->chunk);
        plan->learn_rows = (plan->chunks - 1) * (proto->chunk / T * T) * proto->epochs;
        plan->flops += 3.0 * (double)plan->learn_rows * bd_graph_flops(m->graph, (int64_t)T);
    }
    return choose_rows(plan, c, m, proto, o, err);
}

static const bd_eval_opts no_opts;

bd_status bd_eval_plan_make(bd_eval_plan *plan, const bd_model *m, const bd_stream *stream,
                            const bd_protocol *proto, const bd_eval_opts *opts, bd_err *err) {
    cut c;
    return plan_cut(plan, &c, m, stream, proto, opts ? opts : &no_opts, err);
}

/* ---- running it ---- */

struct bd_evaluator {
    bd_stream stream;
    bd_eval_opts opts;
    bd_protocol proto;
    bd_session *session;
    cut c;
    uint64_t given, chunks, chunk;
    uint64_t next; /* window after those of `step` */
    int batch;     /* windows per call */
    int n;         /* windows of `step` */
    bd_step step;
    bd_window *w; /* (batch) */
    uint64_t most;
    bd_score_sum sum;
    double seconds_score, seconds_learn;
    float *logits; /* (vocab), for guessing */
    int32_t vocab;
};

/* Windows belong to the chunk of the position they score first. */
static void prepare(bd_evaluator *e) {
    bool last = e->chunk + 1 >= e->chunks;
    uint64_t end = last ? UINT64_MAX : (e->chunk + 1) * e->proto.chunk;
    bool ends = false; /* with this window, for want of tokens */
    e->step = (bd_step){BD_STEP_END, 0, 0};
    e->n = 0;
    if (e->given == 0) return; /* the tokens ended inside the window before */
    for (; !ends && e->n < e->batch && e->next < e->c.windows; e->n++, e->next++) {
        bd_window *w = &e->w[e->n];
        window_at(&e->c, e->next, e->stream.tokens, w);
        if (w->first - 1 >= end) break;
        ends = w->first + w->n > e->given;
        if (w->first >= e->given) break;
        if (ends) w->n = (uint32_t)(e->given - w->first);
        e->step.n += w->n;
    }
    if (e->n) {
        e->step.kind = BD_STEP_SCORE;
        e->step.first = e->w[0].first;
        if (ends) e->given = 0;
    } else if (!last && !ends) {
        e->step = (bd_step){BD_STEP_LEARN, e->chunk * e->proto.chunk, e->proto.chunk + 1};
    }
}

static void tick(const bd_evaluator *e) {
    double bpb = bd_score_bpb(e->sum.nll_q32, e->sum.bytes);
    if (e->sum.bytes)
        bd_tick(e->opts.progress, "windows", (double)e->sum.windows, (double)e->c.windows, "%.4f bpb", bpb);
    else
        bd_tick(e->opts.progress, "windows", (double)e->sum.windows, (double)e->c.windows, "%.4f nats",
                bd_score_loss(e->sum.nll_q32, e->sum.tokens));
}

/* Counts what the windows of the step cost. */
static bd_status count_score(bd_evaluator *e, const double *nll, bd_err *err) {
    const double *at = nll;
    for (int i = 0; i < e->n; i++) {
        uint64_t bytes = 0;
        const bd_window *w = &e->w[i];
        for (uint32_t k = 0; e->stream.bytes && k < w->n; k++) bytes += e->stream.bytes[w->first + k];
        BD_TRY(bd_score_sum_add(&e->sum, at, w->n, bytes, err));
        at += w->n;
    }
    if (e->opts.on_nll) BD_TRY(e->opts.on_nll(e->opts.user, e->step.first, nll, e->step.n, err));
    return BD_OK;
}

static bd_status run_score(bd_evaluator *e, double *nll, bd_err *err) {
    double t0 = bd_now();
    BD_TRY(bd_session_score(e->session, e->w, e->n, nll, err));
    e->seconds_score += bd_now() - t0;
    BD_TRY(count_score(e, nll, err));
    tick(e);
    return BD_OK;
}

static bd_status run_learn(bd_evaluator *e, bd_err *err) {
    const double pi = 3.14159265358979323846;
    const bd_protocol *p = &e->proto;
    double phase = e->chunks > 1 ? (double)e->chunk / (double)(e->chunks - 1) : 0;
    bd_learn l = {
        .begin = e->step.first,
        .end = e->step.first + e->step.n,
        .seq_len = (int64_t)min_u64(e->c.L, p->chunk),
        .batch = p->batch,
        .lr = p->lr * 0.5 * (1 + bd_cos(pi * phase)),
        .momentum = p->momentum,
        .clip = p->clip,
        .freeze_blocks = (int)p->freeze,
    };
    double t0 = bd_now();
    for (uint32_t i = 0; i < p->epochs; i++) BD_TRY(bd_session_learn(e->session, &l, err));
    e->seconds_learn += bd_now() - t0;
    e->chunk++;
    return BD_OK;
}

bd_step bd_evaluator_next(const bd_evaluator *e) { return e->step; }
uint64_t bd_evaluator_most(const bd_evaluator *e) { return e->most; }
bd_session *bd_evaluator_session(bd_evaluator *e) { return e->session; }

bd_status bd_evaluator_run(bd_evaluator *e, double *nll, const uint64_t *ask, int n_ask, float *logits,
                           bd_err *err) {
    BD_ASSERT(e->step.kind != BD_STEP_END);
    if (e->step.kind == BD_STEP_LEARN) {
        BD_TRY(run_learn(e, err));
    } else {
        bd_session_ask(e->session, ask, n_ask, logits);
        bd_status st = run_score(e, nll, err);
        bd_session_ask(e->session, NULL, 0, NULL);
        if (st) return st;
    }
    prepare(e);
    return BD_OK;
}

bd_status bd_evaluator_allow_guess(bd_evaluator *e, bd_err *err) {
    if (!e->logits) e->logits = malloc((size_t)e->vocab * sizeof *e->logits);
    if (!e->logits) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    return bd_session_allow_predict(e->session, err);
}

bd_status bd_evaluator_guess(bd_evaluator *e, uint16_t *tokens, double *nll, bd_evaluator_source *next, void *user,
                             bd_err *err) {
    BD_ASSERT(e->step.kind == BD_STEP_SCORE && tokens == e->stream.tokens && e->logits);
    double t0 = bd_now(), *at = nll;
    for (int i = 0; i < e->n; i++) {
        for (uint64_t k = e->w[i].first; k < e->w[i].first + e->w[i].n; k++) {
            uint16_t token = 0;
            BD_TRY(bd_session_predict(e->session, e->w[i].start, e->logits, err));
            BD_TRY(next(user, k, e->logits, &token, err));
            tokens[k] = token;
            BD_TRY(bd_session_reveal(e->session, token, at++, err));
            if (k % 64 == 0)
                bd_tick(e->opts.progress, "tokens", (double)k, (double)e->c.N, "%.4f nats",
                        bd_score_loss(e->sum.nll_q32, e->sum.tokens));
        }
    }
    e->seconds_score += bd_now() - t0;
    BD_TRY(count_score(e, nll, err));
    prepare(e);
    return BD_OK;
}

void bd_evaluator_score(const bd_evaluator *e, bd_score *score) {
    memset(score, 0, sizeof *score);
    score->tokens = e->sum.tokens;
    score->bytes = e->sum.bytes;
    score->windows = e->sum.windows;
    score->nll_q32 = e->sum.nll_q32;
    score->val_loss = bd_score_loss(e->sum.nll_q32, e->sum.tokens);
    score->val_bpb = bd_score_bpb(e->sum.nll_q32, e->sum.bytes);
    score->bpb_stderr = bd_score_stderr(&e->sum);
    score->seconds_score = e->seconds_score;
    score->seconds_learn = e->seconds_learn;
}

static bd_status check_tokens(const bd_stream *s, uint64_t n, int32_t vocab, bd_err *err) {
    for (uint64_t i = 0; i < n; i++)
        if (s->tokens[i] >= vocab)
            return BD_FAIL(err, BD_E_RANGE,
                           "token %u at index %" PRIu64 " is not below the model's vocabulary size %d",
                           s->tokens[i], i, vocab);
    return BD_OK;
}

void bd_evaluator_close(bd_evaluator *e) {
    if (!e) return;
    bd_session_destroy(e->session);
    bd_score_sum_free(&e->sum);
    free(e->logits);
    free(e->w);
    free(e);
}

bd_status bd_evaluator_open(bd_evaluator **out, const bd_model *m, bd_backend *be, const bd_stream *stream,
                            const bd_protocol *proto, const bd_eval_opts *opts, bd_err *err) {
    *out = NULL;
    bd_evaluator *e = calloc(1, sizeof *e);
    if (!e) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_eval_plan plan;
    bd_status st = BD_OK;
    e->stream = *stream;
    e->proto = *proto;
    e->vocab = m->graph->vocab;
    if (opts) e->opts = *opts;
    BD_TRY_DONE(plan_cut(&plan, &e->c, m, stream, proto, &e->opts, err));
    e->chunks = plan.chunks;
    e->given = e->opts.given ? min_u64(e->opts.given, stream->n) : stream->n;
    BD_TRY_DONE(check_tokens(stream, min_u64(e->c.N + 1, e->given), m->graph->vocab, err));
    e->batch = (int)(plan.max_rows / plan.max_len);
    e->most = (uint64_t)plan.max_rows;
    e->w = malloc((size_t)e->batch * sizeof *e->w);
    if (!e->w) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory"));
    BD_TRY_DONE(bd_score_sum_init(&e->sum, e->c.windows, err));
    BD_TRY_DONE(
        bd_session_create(&e->session, m, be, plan.max_rows, plan.max_len, proto->kind == BD_PROTO_SGD, err));
    bd_session_set_progress(e->session, e->opts.progress);
    BD_TRY_DONE(bd_session_begin(e->session, stream->tokens[0], min_u64(e->c.N + 1, e->given), err));
    prepare(e);
    *out = e;
    return BD_OK;
done:
    bd_evaluator_close(e);
    return st;
}

bd_status bd_evaluate(const bd_model *m, bd_backend *be, const bd_stream *stream, const bd_protocol *proto,
                      const bd_eval_opts *opts, bd_score *score, bd_err *err) {
    bd_evaluator *e = NULL;
    memset(score, 0, sizeof *score);
    BD_TRY(bd_evaluator_open(&e, m, be, stream, proto, opts, err));
    double *nll = malloc((size_t)e->most * sizeof *nll);
    bd_status st = nll ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    while (!st && e->step.kind != BD_STEP_END) st = bd_evaluator_run(e, nll, NULL, 0, NULL, err);
    if (!st) {
        BD_ASSERT(e->opts.given || (e->sum.tokens == e->c.N && e->sum.windows == e->c.windows));
        bd_evaluator_score(e, score);
    }
    free(nll);
    bd_evaluator_close(e);
    return st;
}
