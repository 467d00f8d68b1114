/* The trial: lambda, rho and states by cross-entropy on calibration windows that the
 * statistics left out, never by weight error. Every candidate is quantized at about
 * the budget's bytes, and what its size is off counts at the exchange rate. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/compile_impl.h"
#include "compiler/divergence.h"

enum { MAX_TRIALS = 64 };
/* Sizes need not be nearer to the budget than this. */
#define TOLERANCE 0.01

typedef struct tune {
    bd_compiler *c;
    bd_trial *t;
    int n;
    float **params;  /* (n) dequantized */
    double *number;  /* (n) */
    double *correct; /* (n) nats that the bytes beyond the budget are worth */
} tune;

static int at_least_one(int n) { return n > 1 ? n : 1; }

static const bd_qsetting *first_tcq(const bd_compiler *c) {
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled && c->jobs[i].base.by->method == BD_Q_TCQ) return &c->jobs[i].base;
    return NULL;
}

/* All combinations, states outermost. */
static bd_status list_trials(tune *u, bd_err *err) {
    const bd_compile_recipe *r = u->c->o->recipe;
    const bd_qsetting *own = first_tcq(u->c);
    int ns = at_least_one(r->n_tune_states), nl = at_least_one(r->n_tune_lambda), nr = at_least_one(r->n_tune_rho);
    u->n = ns * nl * nr;
    if (!own || u->n == 1) {
        u->n = 0;
        return BD_OK;
    }
    if (u->n > MAX_TRIALS)
        return BD_FAIL(err, BD_E_LIMIT, "%d combinations of candidates; at most %d are tried", u->n, MAX_TRIALS);
    u->t = calloc((size_t)u->n, sizeof *u->t);
    u->params = calloc((size_t)u->n, sizeof *u->params);
    u->number = calloc((size_t)u->n, sizeof *u->number);
    u->correct = calloc((size_t)u->n, sizeof *u->correct);
    if (!u->t || !u->params || !u->number || !u->correct) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < u->n; i++) {
        int s = i / (nl * nr), l = i / nr % nl, p = i % nr;
        u->t[i] = (bd_trial){.states = r->n_tune_states > 1 ? r->tune_states[s] : own->states,
                             .lambda = r->n_tune_lambda > 1 ? r->tune_lambda[l] : (double)own->lambda,
                             .rho = r->n_tune_rho > 1 ? r->tune_rho[p] : u->c->metric.rho};
    }
    return BD_OK;
}

static bd_status set_trial(bd_compiler *c, const bd_trial *t, bd_err *err) {
    const bd_compile_recipe *r = c->o->recipe;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->scaled || j->base.by->method != BD_Q_TCQ) continue;
        if (r->n_tune_states > 1) j->base.states = t->states;
        if (r->n_tune_lambda > 1) j->base.lambda = (float)t->lambda;
    }
    if (c->metric.rho != t->rho) {
        c->metric.rho = t->rho;
        BD_TRY(bd_jobs_exponents(c, err));
    }
    bd_jobs_limits(c);
    return BD_OK;
}

static bd_status quantize_trial(tune *u, int i, bd_err *err) {
    bd_compiler *c = u->c;
    uint64_t bytes;
    BD_TRY(set_trial(c, &u->t[i], err));
    BD_TRY(bd_compile_solve_roughly(c, i ? u->number[i - 1] : 0, TOLERANCE, &bytes, err));
    u->number[i] = c->number;
    u->correct[i] = ((double)bytes - (double)c->o->budget) * bd_compile_rate(c);
    u->params[i] = bd_alloc_aligned(c->m->graph->param_floats, sizeof(float));
    if (!u->params[i]) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a trial");
    for (int k = 0; k < c->m->graph->n_params; k++)
        bd_qtensor_dequant(&bd_job_using(&c->jobs[k])->q, u->params[i] + c->m->graph->params[k].offset);
    return BD_OK;
}

/* Per-token means, and the standard error of the difference to the float model over windows. */
static void read_result(bd_trial *t, const bd_divergence *d, int i) {
    double n = (double)d->windows, nll = 0, kl = 0, diff = 0, square = 0, per = (double)d->tokens / n;
    for (uint64_t w = 0; w < d->windows; w++) {
        double x = (d->nll[i][w] - d->nll_float[w]) / per;
        nll += d->nll[i][w];
        kl += d->kl[i][w];
        diff += x / n;
        square += x * x / n;
    }
    t->nll = nll / (double)d->tokens;
    t->kl = kl / (double)d->tokens;
    double var = square - diff * diff;
    t->stderr_nll = n > 1 && var > 0 ? sqrt(var / (n - 1)) : 0;
}

/* Standard error of the mean difference of two candidates, per token. */
static double difference_error(const bd_divergence *d, int a, int b) {
    double n = (double)d->windows, per = (double)d->tokens / n, mean = 0, square = 0;
    for (uint64_t w = 0; w < d->windows; w++) {
        double x = (d->nll[a][w] - d->nll[b][w]) / per;
        mean += x / n;
        square += x * x / n;
    }
    double var = square - mean * mean;
    return n > 1 && var > 0 ? sqrt(var / (n - 1)) : 0;
}

/* The least cross-entropy; among those within a standard error of it the least divergence. */
static int choose(const tune *u, const bd_divergence *d) {
    int best = 0;
    for (int i = 1; i < u->n; i++)
        if (u->t[i].nll + u->correct[i] < u->t[best].nll + u->correct[best]) best = i;
    int chosen = best;
    for (int i = 0; i < u->n; i++) {
        double worse = u->t[i].nll + u->correct[i] - (u->t[best].nll + u->correct[best]);
        if (worse <= difference_error(d, i, best) &&
            u->t[i].kl + u->correct[i] < u->t[chosen].kl + u->correct[chosen])
            chosen = i;
    }
    return chosen;
}

static bd_status measure(tune *u, bd_divergence *d, bd_err *err) {
    const bd_compile_opts *o = u->c->o;
    uint64_t window = o->protocol.window, have = o->n_tokens > 0 ? (o->n_tokens - 1) / window : 0;
    uint64_t held = bd_calibration_held_out(o->n_tokens, (int64_t)window, o->recipe->holdout),
             most = o->recipe->calib_tokens / 2 / window;
    if (held < 2)
        return BD_FAIL(err, BD_E_MISSING,
                       "the calibration text has %llu windows, of which %g are held out: too few for a trial; give "
                       "more shards, or one value each of lambda, rho and states",
                       (unsigned long long)have, o->recipe->holdout);
    if (most < 2) most = 2;
    bd_divergence_opts opts = {.tokens = o->tokens,
                               .n = o->n_tokens,
                               .window = (int64_t)window,
                               .first = have - held,
                               .max_windows = held < most ? held : most,
                               .progress = o->progress};
    return bd_divergence_measure(d, u->c->m, u->c->be, (const float *const *)u->params, u->n, &opts, err);
}

static bd_status run(tune *u, bd_compile_result *res, bd_err *err) {
    bd_compiler *c = u->c;
    bd_divergence d = {0};
    BD_TRY(list_trials(u, err));
    if (!u->n) return BD_OK;
    for (int i = 0; i < u->n; i++) {
        BD_TRY(quantize_trial(u, i, err));
        bd_tick(c->o->progress, "candidates quantized", i + 1, u->n, "%s", "");
    }
    bd_status st = measure(u, &d, err);
    if (!st) {
        for (int i = 0; i < u->n; i++) read_result(&u->t[i], &d, i);
        int best = choose(u, &d);
        u->t[best].chosen = true;
        st = set_trial(c, &u->t[best], err);
        c->number = u->number[best];
        res->trials = u->t;
        res->n_trials = u->n;
        u->t = NULL;
    }
    bd_divergence_free(&d);
    return st;
}

bd_status bd_compile_tune(bd_compiler *c, bd_compile_result *res, bd_err *err) {
    tune u = {.c = c};
    if (!c->o->tokens || c->carry_out || !(bd_jobs_scaled_weights(c) > 0)) return BD_OK;
    bd_status st = run(&u, res, err);
    for (int i = 0; u.params && i < u.n; i++) free(u.params[i]);
    free(u.params);
    free(u.number);
    free(u.correct);
    free(u.t);
    return st;
}
