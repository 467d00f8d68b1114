/* Cross-entropy and KL divergence of candidates against the float model.
 *
 * Logits never leave a batch: the float model's are kept with its probabilities
 * while every candidate runs on the same windows. With l and m the two models' logits
 *     KL = lse(m) - lse(l) + sum_j p_j (l_j - m_j),   p_j = e^(l_j - lse(l)),
 * so exponentials are taken once for the float model and a candidate costs one
 * multiplication and addition per logit beside its forward pass; equal logits give
 * exactly zero. */
#include "compiler/divergence.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/fmath.h"
#include "runtime/exec.h"

/* Rows of a forward pass, and bytes of the logits and probabilities kept for them. */
enum { MAX_ROWS = 4096, MAX_BYTES = 256 << 20, LANES = 8, GRAIN = 8 };
static const double MAX_NLL = 1e4;

typedef struct measure {
    const bd_model *m;
    bd_backend *be;
    const bd_divergence_opts *o;
    bd_exec *x;
    float *device;             /* weights of the model that runs, where the backend is not the host */
    int32_t *tokens, *targets; /* (rows) */
    double *nll, *nll_float;   /* (rows) */
    double *kl;                /* (rows) */
    float *logits, *other;     /* (rows, vocab): the float model's, a candidate's */
    double *p;                 /* (rows, vocab) */
    int64_t batch;             /* windows per forward pass */
} measure;

static bd_status plan(measure *s, uint64_t *windows, bd_err *err) {
    const bd_divergence_opts *o = s->o;
    if (o->window < 1) return BD_FAIL(err, BD_E_RANGE, "a window of %" PRId64 " tokens", o->window);
    uint64_t all = o->n > 0 ? (o->n - 1) / (uint64_t)o->window : 0;
    if (o->first >= all || o->max_windows == 0)
        return BD_FAIL(err, BD_E_RANGE,
                       "nothing to measure: a stream of %" PRIu64 " tokens has %" PRIu64 " full windows of %" PRId64
                       ", wanted are %" PRIu64 " from window %" PRIu64,
                       o->n, all, o->window, o->max_windows, o->first);
    *windows = all - o->first < o->max_windows ? all - o->first : o->max_windows;
    for (uint64_t i = o->first * (uint64_t)o->window; i <= (o->first + *windows) * (uint64_t)o->window; i++)
        if (o->tokens[i] >= s->m->graph->vocab)
            return BD_FAIL(err, BD_E_RANGE,
                           "token %u at index %" PRIu64 " is not below the model's vocabulary size %d",
                           o->tokens[i], i, s->m->graph->vocab);
    int64_t row_bytes = (int64_t)s->m->graph->vocab * (int64_t)(2 * sizeof(float) + sizeof(double));
    int64_t rows = MAX_BYTES / row_bytes < MAX_ROWS ? MAX_BYTES / row_bytes : MAX_ROWS;
    s->batch = rows / o->window < 1 ? 1 : rows / o->window;
    if ((uint64_t)s->batch > *windows) s->batch = (int64_t)*windows;
    return BD_OK;
}

static bd_status prepare(measure *s, bd_err *err) {
    const bd_graph *g = s->m->graph;
    uint64_t rows = (uint64_t)(s->batch * s->o->window), cells = rows * (uint64_t)g->vocab;
    s->tokens = malloc(rows * sizeof *s->tokens);
    s->targets = malloc(rows * sizeof *s->targets);
    s->nll = malloc(rows * sizeof *s->nll);
    s->nll_float = malloc(rows * sizeof *s->nll_float);
    s->kl = malloc(rows * sizeof *s->kl);
    s->logits = bd_alloc_aligned(cells, sizeof *s->logits);
    s->other = bd_alloc_aligned(cells, sizeof *s->other);
    s->p = bd_alloc_aligned(cells, sizeof *s->p);
    if (!s->tokens || !s->targets || !s->nll || !s->nll_float || !s->kl || !s->logits || !s->other || !s->p)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for the logits of %" PRIu64 " tokens", rows);
    if (!bd_backend_is_host(s->be)) {
        void *mem = NULL;
        BD_TRY(s->be->vt->alloc(s->be, &mem, g->param_floats * sizeof(float), err));
        s->device = mem;
    }
    return bd_exec_create(&s->x, g, s->be, (int64_t)rows, s->o->window, err);
}

static void release(measure *s) {
    bd_exec_destroy(s->x);
    if (s->device) s->be->vt->release(s->be, s->device);
    free(s->tokens);
    free(s->targets);
    free(s->nll);
    free(s->nll_float);
    free(s->kl);
    free(s->logits);
    free(s->other);
    free(s->p);
}

/* One model on the batch's windows: losses and logits. candidate < 0: the float model. */
static bd_status forward(measure *s, const float *params, int candidate, int64_t count, double *nll, float *logits,
                         bd_err *err) {
    if (bd_stopped(s->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
    if (s->device) {
        BD_TRY(s->be->vt->upload(s->be, s->device, params, s->m->graph->param_floats * sizeof(float), err));
        params = s->device;
    }
    int64_t rows = count * s->o->window;
    BD_TRY(bd_exec_forward(s->x, params, s->tokens, s->targets, count, s->o->window, nll, err));
    BD_TRY(bd_exec_logits(s->x, 0, rows, logits, err));
    for (int64_t t = 0; t < rows; t++) {
        if (nll[t] > -1 && nll[t] <= MAX_NLL) continue;
        if (candidate < 0) return BD_FAIL(err, BD_E_NONFINITE, "the float model's loss of a target is %g", nll[t]);
        return BD_FAIL(err, BD_E_NONFINITE, "candidate %d: the loss of a target is %g", candidate + 1, nll[t]);
    }
    return BD_OK;
}

static void probabilities_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const measure *s = arg;
    const int64_t vocab = s->m->graph->vocab;
    for (int64_t t = begin; t < end; t++) {
        const float *l = s->logits + t * vocab;
        double *p = s->p + t * vocab, lse = s->nll_float[t] + (double)l[s->targets[t]];
        for (int64_t j = 0; j < vocab; j++) p[j] = bd_exp((double)l[j] - lse);
    }
}

/* sum_j p_j (l_j - m_j) in eight interleaved sums: a fixed order that vectors can follow. */
static double mean_difference(const double *p, const float *l, const float *m, int64_t n) {
    double s[LANES] = {0};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) s[k] += p[j + k] * ((double)l[j + k] - (double)m[j + k]);
    for (int k = 0; j + k < n; k++) s[k] += p[j + k] * ((double)l[j + k] - (double)m[j + k]);
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static void divergence_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const measure *s = arg;
    const int64_t vocab = s->m->graph->vocab;
    for (int64_t t = begin; t < end; t++) {
        const float *l = s->logits + t * vocab, *m = s->other + t * vocab;
        double lse_l = s->nll_float[t] + (double)l[s->targets[t]], lse_m = s->nll[t] + (double)m[s->targets[t]];
        double kl = (lse_m - lse_l) + mean_difference(s->p + t * vocab, l, m, vocab);
        s->kl[t] = kl < 0 ? 0 : kl; /* it is not negative; rounding may leave -1e-15 (a NaN stays) */
    }
}

static void add_windows(double *out, const double *rows, int64_t count, int64_t window) {
    for (int64_t w = 0; w < count; w++) {
        double sum = 0;
        for (int64_t t = 0; t < window; t++) sum += rows[w * window + t];
        out[w] = sum;
    }
}

/* Windows [at, at + count) of those measured. */
static bd_status run_batch(measure *s, bd_divergence *out, const float *const *params, uint64_t at, int64_t count,
                           bd_err *err) {
    const bd_divergence_opts *o = s->o;
    int64_t rows = count * o->window;
    const uint16_t *stream = o->tokens + (o->first + at) * (uint64_t)o->window;
    double passes = out->n_candidates + 1.0;
    for (int64_t i = 0; i < rows; i++) {
        s->tokens[i] = stream[i];
        s->targets[i] = stream[i + 1];
    }
    BD_TRY(forward(s, s->m->params, -1, count, s->nll_float, s->logits, err));
    add_windows(out->nll_float + at, s->nll_float, count, o->window);
    if (out->n_candidates) bd_pool_for(s->be->pool, rows, GRAIN, probabilities_task, s);
    for (int c = 0; c < out->n_candidates; c++) {
        bd_tick(o->progress, "windows compared", (double)at + (double)count * (c + 1) / passes,
                (double)out->windows, "%d candidates", out->n_candidates);
        BD_TRY(forward(s, params[c], c, count, s->nll, s->other, err));
        bd_pool_for(s->be->pool, rows, GRAIN, divergence_task, s);
        add_windows(out->nll[c] + at, s->nll, count, o->window);
        add_windows(out->kl[c] + at, s->kl, count, o->window);
        for (int64_t w = 0; w < count; w++)
            if (!(out->kl[c][at + (uint64_t)w] <= MAX_NLL * (double)o->window))
                return BD_FAIL(err, BD_E_NONFINITE, "candidate %d: the divergence of a window is %g", c + 1,
                               out->kl[c][at + (uint64_t)w]);
    }
    return BD_OK;
}

static bd_status make_result(bd_divergence *d, uint64_t windows, int n_candidates, bd_err *err) {
    d->windows = windows;
    d->n_candidates = n_candidates;
    d->nll_float = calloc(windows, sizeof *d->nll_float);
    d->nll = calloc((size_t)n_candidates + 1, sizeof *d->nll);
    d->kl = calloc((size_t)n_candidates + 1, sizeof *d->kl);
    bool ok = d->nll_float && d->nll && d->kl;
    for (int c = 0; c < n_candidates && ok; c++) {
        d->nll[c] = calloc(windows, sizeof *d->nll[c]);
        d->kl[c] = calloc(windows, sizeof *d->kl[c]);
        ok = d->nll[c] && d->kl[c];
    }
    return ok ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the sums of %" PRIu64 " windows", windows);
}

bd_status bd_divergence_measure(bd_divergence *out, const bd_model *m, bd_backend *be, const float *const *params,
                                int n_candidates, const bd_divergence_opts *o, bd_err *err) {
    measure s = {.m = m, .be = be, .o = o};
    uint64_t windows = 0;
    bd_status st = BD_OK;
    memset(out, 0, sizeof *out);
    BD_TRY_DONE(plan(&s, &windows, err));
    BD_TRY_DONE(make_result(out, windows, n_candidates, err));
    out->tokens = windows * (uint64_t)o->window;
    BD_TRY_DONE(prepare(&s, err));
    for (uint64_t at = 0; at < windows; at += (uint64_t)s.batch) {
        uint64_t left = windows - at;
        BD_TRY_DONE(run_batch(&s, out, params, at, left < (uint64_t)s.batch ? (int64_t)left : s.batch, err));
    }
done:
    release(&s);
    if (st) bd_divergence_free(out);
    return st;
}

void bd_divergence_free(bd_divergence *d) {
    for (int c = 0; c < d->n_candidates; c++) {
        if (d->nll) free(d->nll[c]);
        if (d->kl) free(d->kl[c]);
    }
    free(d->nll);
    free(d->kl);
    free(d->nll_float);
    memset(d, 0, sizeof *d);
}
