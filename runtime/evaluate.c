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
    w->targets = tokens + w->first;
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

typedef struct run {
    const bd_stream *stream;
    const bd_eval_opts *opts;
    bd_session *session;
    cut c;
    uint64_t next; /* window */
    int batch;     /* windows per call */
    bd_window *w;  /* (batch) */
    double *nll;   /* (batch * L) */
    bd_score_sum sum;
    double seconds_score, seconds_learn;
} run;

static bd_status score_some(run *r, int n, bd_err *err) {
    double t0 = bd_now();
    BD_TRY(bd_session_score(r->session, r->w, n, r->nll, err));
    r->seconds_score += bd_now() - t0;
    const double *nll = r->nll;
    for (int i = 0; i < n; i++) {
        uint64_t bytes = 0;
        const bd_window *w = &r->w[i];
        for (uint32_t k = 0; r->stream->bytes && k < w->n; k++) bytes += r->stream->bytes[w->first + k];
        BD_TRY(bd_score_sum_add(&r->sum, nll, w->n, bytes, err));
        nll += w->n;
    }
    if (r->opts->on_nll)
        BD_TRY(r->opts->on_nll(r->opts->user, r->w[0].first, r->nll, (uint64_t)(nll - r->nll), err));
    double bpb = bd_score_bpb(r->sum.nll_q32, r->sum.bytes);
    if (r->sum.bytes) {
        bd_tick(r->opts->progress, "windows", (double)r->sum.windows, (double)r->c.windows, "%.4f bpb", bpb);
    } else {
        bd_tick(r->opts->progress, "windows", (double)r->sum.windows, (double)r->c.windows, "%.4f nats",
                bd_score_loss(r->sum.nll_q32, r->sum.tokens));
    }
    return BD_OK;
}

/* All windows that score their first target before position `end`. */
static bd_status score_until(run *r, uint64_t end, bd_err *err) {
    while (r->next < r->c.windows) {
        int n = 0;
        while (n < r->batch && r->next < r->c.windows) {
            window_at(&r->c, r->next, r->stream->tokens, &r->w[n]);
            if (r->w[n].first - 1 >= end) break;
            n++;
            r->next++;
        }
        if (n == 0) return BD_OK;
        BD_TRY(score_some(r, n, err));
    }
    return BD_OK;
}

static bd_status learn_chunk(run *r, const bd_protocol *p, uint64_t chunk, uint64_t chunks, bd_err *err) {
    const double pi = 3.14159265358979323846;
    double phase = chunks > 1 ? (double)chunk / (double)(chunks - 1) : 0;
    bd_learn l = {
        .begin = chunk * p->chunk,
        .end = (chunk + 1) * p->chunk + 1,
        .seq_len = (int64_t)min_u64(r->c.L, p->chunk),
        .batch = p->batch,
        .lr = p->lr * 0.5 * (1 + bd_cos(pi * phase)),
        .momentum = p->momentum,
        .clip = p->clip,
        .freeze_blocks = (int)p->freeze,
    };
    double t0 = bd_now();
    for (uint32_t e = 0; e < p->epochs; e++) BD_TRY(bd_session_learn(r->session, &l, err));
    r->seconds_learn += bd_now() - t0;
    return BD_OK;
}

static bd_status run_all(run *r, const bd_protocol *p, bd_err *err) {
    uint64_t chunks = chunk_count(&r->c, p);
    for (uint64_t k = 0; k + 1 < chunks; k++) {
        BD_TRY(score_until(r, (k + 1) * p->chunk, err));
        BD_TRY(learn_chunk(r, p, k, chunks, err));
    }
    return score_until(r, UINT64_MAX, err);
}

static bd_status check_tokens(const bd_stream *s, uint64_t n, int32_t vocab, bd_err *err) {
    for (uint64_t i = 0; i < n; i++)
        if (s->tokens[i] >= vocab)
            return BD_FAIL(err, BD_E_RANGE,
                           "token %u at index %" PRIu64 " is not below the model's vocabulary size %d",
                           s->tokens[i], i, vocab);
    return BD_OK;
}

bd_status bd_evaluate(const bd_model *m, bd_backend *be, const bd_stream *stream, const bd_protocol *proto,
                      const bd_eval_opts *opts, bd_score *score, bd_err *err) {
    run r = {.stream = stream, .opts = opts ? opts : &no_opts};
    bd_eval_plan plan;
    bd_status st = BD_OK;
    memset(score, 0, sizeof *score);
    BD_TRY(plan_cut(&plan, &r.c, m, stream, proto, r.opts, err));
    BD_TRY(check_tokens(stream, r.c.N + 1, m->graph->vocab, err));
    r.batch = (int)(plan.max_rows / plan.max_len);
    r.w = malloc((size_t)r.batch * sizeof *r.w);
    r.nll = malloc((size_t)plan.max_rows * sizeof *r.nll);
    if (!r.w || !r.nll) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    BD_TRY_DONE(bd_score_sum_init(&r.sum, r.c.windows, err));
    BD_TRY_DONE(
        bd_session_create(&r.session, m, be, plan.max_rows, plan.max_len, proto->kind == BD_PROTO_SGD, err));
    bd_session_set_progress(r.session, r.opts->progress);
    BD_TRY_DONE(bd_session_begin(r.session, stream->tokens[0], r.c.N + 1, err));
    BD_TRY_DONE(run_all(&r, proto, err));
    BD_ASSERT(r.sum.tokens == r.c.N && r.sum.windows == r.c.windows && r.sum.bytes == plan.bytes);
    score->tokens = r.sum.tokens;
    score->bytes = r.sum.bytes;
    score->windows = r.sum.windows;
    score->nll_q32 = r.sum.nll_q32;
    score->val_loss = bd_score_loss(r.sum.nll_q32, r.sum.tokens);
    score->val_bpb = bd_score_bpb(r.sum.nll_q32, r.sum.bytes);
    score->bpb_stderr = bd_score_stderr(&r.sum);
    score->seconds_score = r.seconds_score;
    score->seconds_learn = r.seconds_learn;
done:
    bd_session_destroy(r.session);
    bd_score_sum_free(&r.sum);
    free(r.w);
    free(r.nll);
    return st;
}
