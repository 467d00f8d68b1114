/* The recorded stream and scoring. Learning is in learn.c. */
#include "runtime/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sha256.h"
#include "runtime/session_impl.h"

enum { MAX_NLL = 10000 };

static bd_status dev_alloc(bd_session *s, float **out, bd_err *err) {
    uint64_t floats = s->model->graph->param_floats;
    void *mem = NULL;
    BD_TRY(s->be->vt->alloc(s->be, &mem, (floats ? floats : 1) * sizeof(float), err));
    *out = mem;
    return BD_OK;
}

bd_status bd_session_create(bd_session **out, const bd_model *m, bd_backend *be, int64_t max_rows, int64_t max_len,
                            bool learn, bd_err *err) {
    *out = NULL;
    BD_ASSERT(max_len > 0 && max_rows >= max_len);
    bd_status st = BD_OK;
    bd_session *s = calloc(1, sizeof *s);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    s->model = m;
    s->be = be;
    s->max_rows = max_rows;
    s->max_len = max_len;
    s->learn = learn;
    s->own_params = learn || !bd_backend_is_host(be);
    s->tokens = bd_alloc_aligned((uint64_t)max_rows, sizeof(int32_t));
    s->targets = bd_alloc_aligned((uint64_t)max_rows, sizeof(int32_t));
    s->nll = bd_alloc_aligned((uint64_t)max_rows, sizeof(double));
    if (!s->tokens || !s->targets || !s->nll) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    BD_TRY_DONE(bd_exec_create(&s->forward, m->graph, be, max_rows, max_len, err));
    if (s->own_params) BD_TRY_DONE(dev_alloc(s, &s->params, err));
    if (learn) {
        void *mem = NULL;
        BD_TRY_DONE(bd_graph_differentiate(&s->diff, m->graph, err));
        BD_ASSERT(s->diff->param_floats == m->graph->param_floats);
        BD_TRY_DONE(bd_exec_create(&s->backward, s->diff, be, bd_session_learn_rows(max_len), max_len, err));
        BD_TRY_DONE(bd_gradsum_create(&s->gradsum, s->diff, be, err));
        BD_TRY_DONE(dev_alloc(s, &s->grad, err));
        BD_TRY_DONE(dev_alloc(s, &s->momentum, err));
        BD_TRY_DONE(be->vt->alloc(be, &mem, sizeof(double), err));
        s->norm = mem;
    }
done:
    if (st != BD_OK) {
        bd_session_destroy(s);
        return st;
    }
    *out = s;
    return BD_OK;
}

void bd_session_destroy(bd_session *s) {
    if (!s) return;
    bd_exec_destroy(s->forward);
    bd_gradsum_destroy(s->gradsum);
    bd_exec_destroy(s->backward);
    bd_graph_destroy(s->diff);
    if (s->own_params && s->params) s->be->vt->release(s->be, s->params);
    if (s->grad) s->be->vt->release(s->be, s->grad);
    if (s->momentum) s->be->vt->release(s->be, s->momentum);
    if (s->norm) s->be->vt->release(s->be, s->norm);
    bd_steps_destroy(s->steps);
    free(s->batch_tokens);
    free(s->batch_targets);
    free(s->batch_nll);
    free(s->stream);
    free(s->scored);
    free(s->tokens);
    free(s->targets);
    free(s->nll);
    free(s);
}

static uint64_t host_bytes(int64_t max_rows) { return (uint64_t)max_rows * (2 * sizeof(int32_t) + sizeof(double)); }

uint64_t bd_session_bytes(const bd_session *s) {
    uint64_t params = s->model->graph->param_floats * sizeof(float);
    uint64_t n = bd_exec_bytes(s->forward) + host_bytes(s->max_rows) + s->cap * sizeof(uint16_t) + s->cap / 8;
    if (s->own_params) n += params;
    if (s->steps) n += bd_steps_bytes(s->steps);
    if (s->learn)
        n += bd_exec_bytes(s->backward) + bd_gradsum_bytes(s->gradsum) + 2 * params + host_bytes(s->batch_cap);
    return n;
}

bd_status bd_session_plan_bytes(uint64_t *bytes, const bd_model *m, int64_t max_rows, int64_t max_len, bool learn,
                                bd_err *err) {
    *bytes = bd_exec_plan_bytes(m->graph, max_rows, max_len) + host_bytes(max_rows);
    if (!learn) return BD_OK;
    bd_graph *d = NULL;
    BD_TRY(bd_graph_differentiate(&d, m->graph, err));
    /* weights, gradient, momentum; eight shards and their sum per use, and 1 MiB, in the gradient sum */
    *bytes += bd_exec_plan_bytes(d, bd_session_learn_rows(max_len), max_len) + 3 * d->param_floats * sizeof(float) +
              9 * d->grad_floats * sizeof(float) + (1u << 20);
    bd_graph_destroy(d);
    return BD_OK;
}

static bd_status grow(bd_session *s, uint64_t tokens, bd_err *err) {
    if (tokens <= s->cap) return BD_OK;
    uint64_t cap = s->cap + s->cap / 2;
    if (cap < tokens) cap = tokens;
    cap = (cap + 63) / 64 * 64;
    if (cap > SIZE_MAX / 4) return BD_FAIL(err, BD_E_LIMIT, "a stream of %" PRIu64 " tokens is too long", tokens);
    uint16_t *stream = realloc(s->stream, cap * sizeof *stream);
    if (stream) s->stream = stream;
    uint8_t *scored = realloc(s->scored, cap / 8);
    if (scored) s->scored = scored;
    if (!stream || !scored) return BD_FAIL(err, BD_E_NOMEM, "no memory for a stream of %" PRIu64 " tokens", tokens);
    memset(s->scored + s->cap / 8, 0, (cap - s->cap) / 8);
    s->cap = cap;
    return BD_OK;
}

bd_status bd_session_begin(bd_session *s, uint16_t first_token, uint64_t expected_tokens, bd_err *err) {
    const bd_graph *g = s->model->graph;
    s->begun = false;
    s->broken = false;
    if (first_token >= g->vocab)
        return BD_FAIL(err, BD_E_RANGE, "token %u at index 0 is not below the vocabulary size %d", first_token,
                       g->vocab);
    BD_TRY(grow(s, expected_tokens ? expected_tokens : 1, err));
    memset(s->scored, 0, s->cap / 8);
    uint64_t bytes = g->param_floats * sizeof(float);
    if (s->own_params) {
        BD_TRY(s->be->vt->upload(s->be, s->params, s->model->params, bytes, err));
    } else {
        s->params = s->model->params;
    }
    bd_session_weights_changed(s);
    s->momentum_set = false; /* learn.c clears the array before its first use */
    s->stream[0] = first_token;
    s->length = 1;
    s->begun = true;
    return BD_OK;
}

uint64_t bd_session_length(const bd_session *s) { return s->begun ? s->length : 0; }

void bd_session_set_progress(bd_session *s, const bd_progress *progress) { s->progress = progress; }

/* ---- scoring ---- */

static bool is_scored(const bd_session *s, uint64_t i) { return s->scored[i / 8] >> (i % 8) & 1; }
static void set_scored(bd_session *s, uint64_t i) { s->scored[i / 8] |= (uint8_t)(1u << (i % 8)); }
static void clear_scored(bd_session *s, uint64_t i) { s->scored[i / 8] &= (uint8_t) ~(1u << (i % 8)); }

static uint64_t window_len(const bd_window *w) { return w->first + w->n - 1 - w->start; }

bd_status bd_session_record(bd_session *s, const bd_window *w, bd_err *err) {
    const bd_graph *g = s->model->graph;
    if (w->n == 0 || w->first != s->length || w->start >= w->first)
        return BD_FAIL(err, BD_E_RANGE,
                       "window from %" PRIu64 " with targets [%" PRIu64 ", +%" PRIu32
                       ") does not continue the stream at %" PRIu64,
                       w->start, w->first, w->n, s->length);
    if (window_len(w) > (uint64_t)s->max_len)
        return BD_FAIL(err, BD_E_RANGE, "a window of %" PRIu64 " inputs, the session was made for %" PRId64,
                       window_len(w), s->max_len);
    BD_TRY(grow(s, s->length + w->n, err));
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->targets[i] >= g->vocab)
            return BD_FAIL(err, BD_E_RANGE, "token %u at index %" PRIu64 " is not below the vocabulary size %d",
                           w->targets[i], w->first + i, g->vocab);
        BD_ASSERT(!is_scored(s, w->first + i));
    }
    for (uint32_t i = 0; i < w->n; i++) {
        s->stream[w->first + i] = w->targets[i];
        set_scored(s, w->first + i);
    }
    s->length += w->n;
    return BD_OK;
}

static void forget(bd_session *s, uint64_t length) {
    for (uint64_t i = length; i < s->length; i++) clear_scored(s, i);
    s->length = length;
}

void bd_session_ask(bd_session *s, const uint64_t *ask, int n, float *logits) {
    s->ask = ask;
    s->n_ask = logits ? n : 0;
    s->asked = logits;
}

/* Those of window b of the forward call just done, T inputs each. */
static bd_status answer(bd_session *s, const bd_window *w, int b, int64_t T, bd_err *err) {
    int64_t vocab = s->model->graph->vocab;
    for (int i = 0; i < s->n_ask; i++) {
        if (s->ask[i] < w->first || s->ask[i] >= w->first + w->n) continue;
        int64_t row = b * T + (int64_t)(s->ask[i] - 1 - w->start);
        BD_TRY(bd_exec_logits(s->forward, row, 1, s->asked + i * vocab, err));
    }
    return BD_OK;
}

bd_status bd_session_check_nll(double nll, uint64_t index, bd_err *err) {
    if (nll > -1 && nll <= MAX_NLL) return BD_OK;
    return BD_FAIL(err, BD_E_NONFINITE, "the loss of the target at index %" PRIu64 " is %g: not a score", index,
                   nll);
}

/* One forward call for `count` windows of T inputs each. */
static bd_status run_group(bd_session *s, const bd_window *w, int count, int64_t T, double *nll, bd_err *err) {
    for (int b = 0; b < count; b++) {
        int64_t context = T - (int64_t)w[b].n;
        for (int64_t t = 0; t < T; t++) {
            uint64_t at = w[b].start + (uint64_t)t;
            s->tokens[b * T + t] = s->stream[at];
            s->targets[b * T + t] = t < context ? -1 : (int32_t)s->stream[at + 1];
        }
    }
    BD_TRY(bd_exec_forward(s->forward, s->params, s->tokens, s->targets, count, T, s->nll, err));
    for (int b = 0; b < count; b++) {
        const double *from = s->nll + (b + 1) * T - w[b].n;
        for (uint32_t i = 0; i < w[b].n; i++) {
            BD_TRY(bd_session_check_nll(from[i], w[b].first + i, err));
            *nll++ = from[i];
        }
        BD_TRY(answer(s, &w[b], b, T, err));
    }
    return BD_OK;
}

bd_status bd_session_score(bd_session *s, const bd_window *w, int n, double *nll, bd_err *err) {
    BD_ASSERT(s->begun && !s->broken);
    s->predicted = false;
    uint64_t before = s->length;
    bd_status st = BD_OK;
    for (int i = 0; i < n; i++) BD_TRY_DONE(bd_session_record(s, &w[i], err));
    for (int i = 0; i < n;) {
        uint64_t T = window_len(&w[i]);
        int count = 1;
        double *to = nll;
        nll += w[i].n;
        while (i + count < n && window_len(&w[i + count]) == T &&
               (uint64_t)(count + 1) * T <= (uint64_t)s->max_rows)
            nll += w[i + count++].n;
        if (bd_stopped(s->progress)) {
            st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
            goto done;
        }
        BD_TRY_DONE(run_group(s, w + i, count, (int64_t)T, to, err));
        i += count;
    }
done:
    if (st != BD_OK) forget(s, before);
    return st;
}

/* ---- state hash ---- */

static void hash_u64(bd_sha256 *h, uint64_t v) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)(v >> (8 * i));
    bd_sha256_add(h, b, sizeof b);
}

/* Parameters only: the gaps between them are nobody's state. */
static bd_status hash_floats(bd_session *s, bd_sha256 *h, const float *dev, bd_err *err) {
    const bd_graph *g = s->model->graph;
    float *host = NULL;
    if (!bd_backend_is_host(s->be)) {
        host = bd_alloc_aligned(g->param_floats, sizeof(float));
        if (!host) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        bd_status st = s->be->vt->download(s->be, host, dev, g->param_floats * sizeof(float), err);
        if (st != BD_OK) {
            free(host);
            return st;
        }
        dev = host;
    }
    for (int i = 0; i < g->n_params; i++)
        bd_sha256_add(h, dev + g->params[i].offset,
                      (size_t)(g->params[i].rows * g->params[i].cols) * sizeof(float));
    free(host);
    return BD_OK;
}

static bd_status hash_adapted(bd_session *s, bd_sha256 *h, bd_err *err) {
    BD_TRY(hash_floats(s, h, s->params, err));
    hash_u64(h, s->momentum_set);
    return s->momentum_set ? hash_floats(s, h, s->momentum, err) : BD_OK;
}

bd_status bd_session_state_hash(bd_session *s, uint8_t out[32], bd_err *err) {
    BD_ASSERT(s->begun);
    bd_sha256 h;
    bd_sha256_init(&h);
    hash_u64(&h, s->length);
    for (uint64_t i = 0; i < s->length; i++) {
        uint8_t b[3] = {(uint8_t)s->stream[i], (uint8_t)(s->stream[i] >> 8), is_scored(s, i)};
        bd_sha256_add(&h, b, sizeof b);
    }
    BD_TRY(hash_adapted(s, &h, err));
    bd_sha256_end(&h, out);
    return BD_OK;
}

bd_status bd_session_adapted_hash(bd_session *s, uint8_t out[32], bd_err *err) {
    BD_ASSERT(s->begun);
    bd_sha256 h;
    bd_sha256_init(&h);
    BD_TRY(hash_adapted(s, &h, err));
    bd_sha256_end(&h, out);
    return BD_OK;
}
