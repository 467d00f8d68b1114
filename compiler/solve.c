/* The budget solver: one number, and a file that must not be larger than the budget.
 *
 * A size as written is expensive: every matrix quantized, every group coded. The
 * surrogate says how the size moves with the number, what was measured corrects it,
 * and a few measurements reach the budget from both sides. No guess is trusted: a
 * number fits only when its file was priced as it will be written. What is between
 * the two ends refine.c spends tensor by tensor. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"
#include "compiler/compile_impl.h"

/* Enough, and what large models settle for. */
#define FILLED       0.9998
#define FILLED_LARGE 0.9993
#define LARGE_MODEL  8e6
/* A bracket whose ends are this near the budget goes to refine.c. */
#define NARROW 0.008
/* Near enough to settle the small tensors. */
#define NEAR 0.1
/* 2 ln 2 * 8: d ln(nats) / d bytes, times the weights. */
#define SLOPE 11.090354888959125
enum { MAX_MEASURED = 24, MAX_ROUNDS = 8 };

typedef struct point {
    double x, scaled; /* log number; bytes of the scaled tensors */
} point;

typedef struct search {
    bd_compiler *c;
    double lo, hi; /* log numbers: the finest and the coarsest there are */
    point last[2]; /* measured, the last one first */
    int n_last;
    double rest;  /* bytes that do not scale, as measured last */
    bd_bracket b; /* in numbers */
    bool has_fine, has_coarse;
    bool small_held;
    int measured;
} search;

double bd_compile_rate(const bd_compiler *c) {
    double weights = bd_jobs_scaled_weights(c), nats = bd_jobs_nats(c, true);
    return weights > 0 ? nats * SLOPE / weights : NAN;
}

/* --- predicting --- */

/* Log of measured over surrogate bytes at x: through the last two points. */
static double correction(const search *s, double x) {
    double c[2] = {0, 0};
    for (int i = 0; i < s->n_last; i++) {
        double sur = bd_surrogate_bytes(s->c, bd_exp(s->last[i].x)), got = s->last[i].scaled;
        c[i] = sur > 0 && got > 0 ? bd_log(got / sur) : 0;
    }
    if (s->n_last < 2 || fabs(s->last[0].x - s->last[1].x) < 1e-4) return c[0];
    double slope = (c[0] - c[1]) / (s->last[0].x - s->last[1].x);
    slope = slope > 0.3 ? 0.3 : slope < -0.3 ? -0.3 : slope;
    double v = c[0] + slope * (x - s->last[0].x);
    /* Never far from what was seen. */
    return v > c[0] + 1 ? c[0] + 1 : v < c[0] - 1 ? c[0] - 1 : v;
}

/* The log number at which scaled tensors take `target` bytes, between two ends. */
static double where(const search *s, double target, double lo, double hi) {
    if (!(target > 0)) return hi;
    for (int i = 0; i < 48 && hi - lo > 1e-9; i++) {
        double mid = 0.5 * (lo + hi);
        double bytes = bd_surrogate_bytes(s->c, bd_exp(mid)) * bd_exp(correction(s, mid));
        if (bytes > target) lo = mid;
        else hi = mid;
    }
    return hi;
}

/* --- measuring --- */

static void adopt(search *s, bool fits, double number, uint64_t bytes) {
    bd_bracket *b = &s->b;
    if (fits ? s->has_coarse && number >= b->coarse : s->has_fine && number <= b->fine) return;
    *(fits ? &b->coarse : &b->fine) = number;
    *(fits ? &b->coarse_bytes : &b->fine_bytes) = bytes;
    *(fits ? &s->has_coarse : &s->has_fine) = true;
    for (int i = 0; i < s->c->m->graph->n_params; i++) {
        bd_job *j = &s->c->jobs[i];
        if (!j->scaled) continue;
        int *from = j->use == j->now ? &j->now : j->use == j->fine ? &j->fine : &j->coarse;
        int *end = fits ? &j->coarse : &j->fine, was = *end;
        if (from == end) continue;
        *end = j->use;
        *from = was;
    }
}

/* Choose the small tensors for what bytes are worth at this size; the file is priced again if that changed any. */
static bd_status settle_small(search *s, uint64_t *bytes, bd_err *err) {
    bd_compiler *c = s->c;
    double budget = (double)(c->o->budget ? c->o->budget : 1), off = bd_log((double)*bytes / budget);
    if (s->small_held || !c->o->recipe->small_by_sensitivity) return BD_OK;
    /* The nats at the budget, by the slope of a byte's worth. */
    double weights = bd_jobs_scaled_weights(c), rate = bd_compile_rate(c);
    double over = (double)*bytes - (double)c->o->budget;
    double exponent = weights > 0 ? SLOPE * over / weights : 0;
    rate *= bd_exp(exponent > 20 ? 20 : exponent < -20 ? -20 : exponent);
    BD_TRY(bd_small_choose(c, rate, err));
    s->small_held = fabs(off) < NEAR || s->measured >= 2;
    return bd_compile_price(c, bytes, err);
}

/* Price the file at a number: a real size, which becomes an end of the bracket. 0: the finest. */
static bd_status measure(search *s, double number, uint64_t *bytes, bd_err *err) {
    bd_compiler *c = s->c;
    bd_jobs_set(c, number);
    BD_TRY(bd_compile_price(c, bytes, err));
    s->measured++;
    BD_TRY(settle_small(s, bytes, err));
    bd_tick(c->o->progress, "files priced", s->measured, MAX_ROUNDS, "number %.5g: %" PRIu64 " bytes of %" PRIu64,
            number, *bytes, c->o->budget);
    double scaled = bd_compile_scaled_bytes(c), x = number > 0 ? bd_log(number) : s->lo;
    s->rest = (double)*bytes - scaled;
    if (s->n_last && s->last[0].x != x) s->last[1] = s->last[0];
    s->n_last = s->n_last && s->last[0].x != x ? 2 : s->n_last ? s->n_last : 1;
    s->last[0] = (point){x, scaled};
    adopt(s, *bytes <= c->o->budget, bd_exp(x), *bytes);
    return BD_OK;
}

/* --- ends --- */

/* The same matrices with the small tensors chosen at other rates, until the file fits; it becomes the coarse end.
 */
static bd_status fit_small(search *s, const double *rates, int n, double x, uint64_t *bytes, bd_err *err) {
    bd_compiler *c = s->c;
    for (int i = 0; i < n && c->o->recipe->small_by_sensitivity; i++) {
        BD_TRY(bd_small_choose(c, rates[i], err));
        BD_TRY(bd_compile_price(c, bytes, err));
        s->rest = (double)*bytes - bd_compile_scaled_bytes(c);
        if (*bytes > c->o->budget) continue;
        s->has_coarse = false;
        adopt(s, true, bd_exp(x), *bytes);
        break;
    }
    return BD_OK;
}

/* Nothing is coarser: what fits then, or an error. */
static bd_status coarsest(search *s, bd_err *err) {
    uint64_t bytes;
    s->small_held = true;
    BD_TRY(measure(s, bd_exp(s->hi), &bytes, err));
    if (s->has_coarse) return BD_OK;
    s->has_fine = false; /* it has other small tensors */
    const double rates[] = {bd_compile_rate(s->c), HUGE_VAL};
    BD_TRY(fit_small(s, rates, 2, s->hi, &bytes, err));
    return s->has_coarse ? BD_OK : bd_compile_too_small(s->c, bytes, err);
}

/* Nothing is finer: if it fits, then with the small tensors as good as the rest allows. */
static bd_status finest(search *s, bool *done, bd_err *err) {
    uint64_t bytes;
    bool held = s->small_held;
    s->small_held = true;
    BD_TRY(measure(s, 0, &bytes, err));
    s->small_held = held;
    *done = bytes <= s->c->o->budget;
    const double rates[] = {0, bd_compile_rate(s->c)};
    uint64_t again = UINT64_MAX;
    BD_TRY(fit_small(s, rates, 2, s->lo, &again, err));
    if (again <= s->c->o->budget) *done = true;
    else if (again != UINT64_MAX && *done) { /* only as they were before, which is not known any more */
        const double most = HUGE_VAL;
        BD_TRY(fit_small(s, &most, 1, s->lo, &again, err));
        *done = again <= s->c->o->budget;
    }
    if (!*done) s->small_held = false;
    return BD_OK;
}

/* --- the search --- */

static double off_budget(const search *s, uint64_t bytes) {
    return fabs((double)bytes / (double)s->c->o->budget - 1);
}

/* Where to measure next. With both ends known: inside. With one: a little beyond where the budget should be, so
 * that the other end is found near it. */
static double next_x(const search *s) {
    double budget = (double)s->c->o->budget, target = budget - s->rest, lo = s->lo, hi = s->hi;
    if (s->has_fine && s->has_coarse && s->b.fine < s->b.coarse) {
        lo = bd_log(s->b.fine);
        hi = bd_log(s->b.coarse);
        /* The end that is further off is the one to move. */
        bool fine_is_far = off_budget(s, s->b.fine_bytes) > off_budget(s, s->b.coarse_bytes);
        double x = where(s, target + (fine_is_far ? 0.0008 : -0.0008) * budget, lo, hi), width = hi - lo;
        if (!(x > lo + 0.02 * width && x < hi - 0.02 * width)) x = 0.5 * (lo + hi);
        return x;
    }
    if (s->has_fine && off_budget(s, s->b.fine_bytes) < 0.02) target -= 0.001 * budget;
    else if (s->has_coarse && off_budget(s, s->b.coarse_bytes) < 0.02) target += 0.001 * budget;
    else target -= 0.0005 * budget;
    double x = where(s, target, lo, hi);
    /* Never stand still. */
    if (s->has_fine && !s->has_coarse && x < bd_log(s->b.fine) + 0.0005)
        x = bd_log(s->b.fine) + 0.0005 * s->measured;
    if (s->has_coarse && !s->has_fine && x > bd_log(s->b.coarse) - 0.0005)
        x = bd_log(s->b.coarse) - 0.0005 * s->measured;
    return x < s->lo ? s->lo : x > s->hi ? s->hi : x;
}

static bool narrow(const search *s) {
    return s->has_fine && s->has_coarse && off_budget(s, s->b.fine_bytes) < NARROW &&
           off_budget(s, s->b.coarse_bytes) < NARROW;
}

/* One more measurement; *done: the finest fits. */
static bd_status step(search *s, bool *done, bd_err *err) {
    uint64_t bytes;
    double x = next_x(s), edge = 1e-3;
    if (!s->has_fine && (x <= s->lo + edge || s->measured > 10)) return finest(s, done, err);
    if (!s->has_coarse && (x >= s->hi - edge || s->measured > 10)) return coarsest(s, err);
    BD_TRY(measure(s, bd_exp(x), &bytes, err));
    return BD_OK;
}

/* Slots of the best file become the coarse end, so that whatever follows starts from it. */
static void use_coarse(search *s) {
    for (int i = 0; i < s->c->m->graph->n_params; i++) {
        bd_job *j = &s->c->jobs[i];
        if (!j->scaled || j->use == j->coarse) continue;
        j->use = j->coarse;
        bd_group_changed(s->c, j->group_index);
    }
}

static bool slow_codec(const bd_compiler *c) {
    for (uint32_t k = 0; k < c->art.n_groups; k++)
        if (c->state[k].scaled && c->state[k].used != BD_CODEC_RANGE && c->state[k].used != BD_CODEC_RAW)
            return true;
    return false;
}

static void slope_of_bracket(const search *s, bd_compile_result *res) {
    const bd_compiler *c = s->c;
    double nats[2] = {0, 0};
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        if (!j->scaled) continue;
        nats[0] += j->slot[j->fine].res.nats;
        nats[1] += j->slot[j->coarse].res.nats;
    }
    double bytes = (double)s->b.fine_bytes - (double)s->b.coarse_bytes;
    /* Ends that are nearly the same say nothing: then the slope of rate-distortion theory. */
    double theory = bd_compile_rate(c), slope = bytes > 0 ? (nats[1] - nats[0]) / bytes : 0;
    bool apart = bytes > 0.001 * (double)s->b.coarse_bytes && slope > theory / 3 && slope < theory * 3;
    res->nats_per_byte = apart ? slope : theory;
}

static bd_status search_number(search *s, bd_compile_result *res, bd_err *err) {
    bd_compiler *c = s->c;
    double budget = (double)c->o->budget;
    bool done = false, large = bd_jobs_scaled_weights(c) > LARGE_MODEL;
    double enough = large || slow_codec(c) ? FILLED_LARGE : FILLED;
    uint64_t best = 0;
    while (!done && (double)best < enough * budget && s->measured < MAX_MEASURED) {
        bool both = s->has_fine && s->has_coarse;
        bool still = both && (!(s->b.fine < s->b.coarse) || s->b.coarse / s->b.fine < 1 + 1e-6);
        if (!still && (!narrow(s) || best)) BD_TRY(step(s, &done, err));
        if (done || !(s->has_fine && s->has_coarse)) continue;
        if (!still && !narrow(s) && s->measured < MAX_ROUNDS) continue;
        BD_TRY(bd_compile_refine(c, &s->b, &best, err));
        enough = large || slow_codec(c) ? FILLED_LARGE : FILLED;
        if (still || s->measured >= MAX_ROUNDS) break;
    }
    if (!done && !best) {
        if (!s->has_coarse) BD_TRY(coarsest(s, err));
        use_coarse(s);
        BD_TRY(bd_compile_price(c, &best, err));
    }
    res->limit = done ? BD_LIMIT_FINEST : BD_LIMIT_BUDGET;
    res->number = done ? 0 : s->b.coarse;
    res->predicted_bytes = done ? s->b.coarse_bytes : best;
    if (s->has_fine && s->has_coarse && !done) slope_of_bracket(s, res);
    else res->nats_per_byte = bd_compile_rate(c);
    return BD_OK;
}

static bd_status begin(search *s, bd_compiler *c, bd_err *err) {
    uint64_t fixed;
    *s = (search){.c = c};
    BD_TRY(bd_surrogate_prepare(c, err));
    s->lo = bd_log(bd_jobs_finest(c));
    s->hi = bd_log(bd_jobs_coarsest(c));
    if (s->hi < s->lo) s->hi = s->lo;
    /* Before anything is priced: vectors as f16, and the texts. */
    BD_TRY(bd_compile_write_plan(c, err));
    BD_TRY(bd_artifact_fixed_cost(&c->art, &fixed, err));
    s->rest = (double)fixed;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        if (!j->scaled) s->rest += (j->matrix ? 1.0 : 2.0) * (double)(j->p->rows * j->p->cols);
    }
    return BD_OK;
}

/* As the settings stand: nothing to search. */
static bd_status no_search(bd_compiler *c, bd_compile_result *res, bd_err *err) {
    uint64_t bytes;
    c->number = 1;
    BD_TRY(bd_compile_price(c, &bytes, err));
    if (c->o->recipe->small_by_sensitivity) {
        BD_TRY(bd_small_choose(c, 0, err));
        BD_TRY(bd_compile_price(c, &bytes, err));
    }
    if (bytes > c->o->budget)
        return BD_FAIL(err, BD_E_BUDGET,
                       "%s %" PRIu64 " bytes, the budget is %" PRIu64 "; \"fill\": true searches what fits",
                       c->o->plan ? "the plan's fixed lines leave nothing to search and make"
                                  : "the recipe's settings as they stand make",
                       bytes, c->o->budget);
    res->limit = BD_LIMIT_RECIPE;
    res->number = 1;
    res->predicted_bytes = bytes;
    res->nats_per_byte = NAN;
    return BD_OK;
}

bd_status bd_compile_solve(bd_compiler *c, bd_compile_result *res, bd_err *err) {
    search s;
    if (!(bd_jobs_scaled_weights(c) > 0)) return no_search(c, res, err);
    BD_TRY(begin(&s, c, err));
    /* A number that a trial found is where to begin. */
    if (c->number > 0) {
        uint64_t bytes;
        BD_TRY(measure(&s, c->number, &bytes, err));
    }
    return search_number(&s, res, err);
}

bd_status bd_compile_solve_roughly(bd_compiler *c, double start, double tolerance, uint64_t *bytes, bd_err *err) {
    search s;
    BD_TRY(begin(&s, c, err));
    double number = start > 0 ? start : bd_exp(where(&s, (double)c->o->budget - s.rest, s.lo, s.hi));
    for (int round = 0; round < 4; round++) {
        BD_TRY(measure(&s, number, bytes, err));
        if (off_budget(&s, *bytes) < tolerance) break;
        double next = bd_exp(where(&s, (double)c->o->budget - s.rest, s.lo, s.hi));
        if (next == number) break;
        number = next;
    }
    return BD_OK;
}
