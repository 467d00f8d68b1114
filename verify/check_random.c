/* RANDOM: the whole evaluation, learning included, on streams from sources whose
 * probabilities are known. Nobody can beat the source by much (verify/martingale.h);
 * who does has seen what it was to predict. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/fmath.h"
#include "verify/martingale.h"
#include "verify/source.h"
#include "verify/verify_impl.h"

enum { LEAST = 4096 };
static const double ALPHA = 1e-9;
static const double TIMES = 64, AT_LEAST = 1e14; /* of the evaluation's FLOPs; FLOPs that are never too many */

typedef struct outcome {
    bd_martingale m;
    uint64_t scored, learns;
    double detectable;
} outcome;

/* Two learning steps, if the evaluation itself has as many: the third chunk has to begin. */
static uint64_t length_of(const bd_verification *x) {
    const bd_protocol *p = &x->art->protocol;
    uint64_t n = LEAST;
    if (p->kind == BD_PROTO_SGD) {
        uint64_t steps = (x->targets - 1) / p->chunk, more = p->window < p->chunk ? p->window : p->chunk;
        more += (steps < 2 ? steps : 2) * p->chunk;
        if (more > n) n = more;
    }
    return n;
}

static bd_status system_seed(uint64_t *seed, bd_err *err) {
    size_t got = 0;
    while (got < sizeof *seed) {
        ssize_t k = getrandom((char *)seed + got, sizeof *seed - got, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return BD_FAIL(err, BD_E_IO, "the system gives no random seed: give one with --seed");
        got += (size_t)k;
    }
    return BD_OK;
}

/* A run over the drawn stream. Targets that are not scored in order cost what they cost the source. */
static bd_status play(outcome *o, const bd_verification *x, const uint16_t *tokens, const double *source,
                      uint64_t n, double alpha, bd_err *err) {
    bd_predictor *p = x->p;
    uint64_t next = 1;
    bd_status st = BD_OK;
    bd_martingale_init(&o->m, n);
    BD_TRY(p->vt->begin(p, tokens, n + 1, n + 1, err));
    double *nll = malloc((size_t)p->vt->most(p) * sizeof *nll);
    if (!nll) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    while (next <= n) {
        bd_step s = p->vt->next(p);
        if (s.kind == BD_STEP_END) break;
        BD_TRY_DONE(p->vt->run(p, nll, NULL, 0, NULL, err));
        o->learns += s.kind == BD_STEP_LEARN;
        if (s.kind != BD_STEP_SCORE) continue;
        if (s.first + s.n <= next) break; /* it does not come on */
        for (uint64_t i = 0; i < s.n; i++) {
            if (s.first + i < next || s.first + i > n) continue;
            for (; next < s.first + i; next++) bd_martingale_add(&o->m, source[next], source[next]);
            bd_martingale_add(&o->m, nll[i], source[next]);
            next++;
            o->scored++;
        }
    }
    o->detectable = bd_martingale_detectable(&o->m, alpha);
done:
    free(nll);
    return st;
}

static void report(const bd_verification *x, const outcome *o, uint64_t n, uint64_t seed, double alpha) {
    char value[64], limit[64], text[2048];
    size_t at = 0;
    int worst = 0;
    double need = -bd_log(alpha);
    for (int k = 0; k < BD_SOURCES; k++) {
        const bd_martingale *m = &o[k].m;
        if (m->excess > o[worst].m.excess) worst = k;
        int len = snprintf(text + at, sizeof text - at,
                           "%s: source %.4f nats per token, predictor %.4f, margin %.2f nats, "
                           "detectable_nats_per_token %.4f; ",
                           bd_source_name((bd_source_kind)k), m->theirs / (double)n, m->ours / (double)n, m->excess,
                           o[k].detectable);
        if (len > 0 && (size_t)len < sizeof text - at) at += (size_t)len;
    }
    bool bad = o[worst].m.excess >= need;
    snprintf(value, sizeof value, "%.2f nats", o[worst].m.excess);
    snprintf(limit, sizeof limit, "%.2f nats", need);
    bd_verdict_add(
        x->v, "RANDOM", bad ? BD_FAILED : BD_PASS, value, limit,
        "%s. %s%" PRIu64 " tokens and %" PRIu64 " learning steps each, seed %" PRIu64
        " (%s), chance of a false "
        "alarm at most %g per source",
        bad ? "the predictor beats a random source by more than chance allows: it has seen what it was to "
              "predict, or its probabilities are none"
            : "no random source was beaten",
        text, n, o[0].learns, seed, x->o->has_seed ? "given" : "secret until now", alpha);
}

/* What the three runs would take, and whether that is out of proportion: a protocol may ask for little on a short
 * range and for years on this one. */
static bd_status plan(bool *go, const bd_verification *x, uint64_t n, bd_err *err) {
    bd_stream there = {x->tokens, NULL, x->targets + 1}, here = {NULL, NULL, n + 1};
    bd_eval_plan own, random;
    BD_TRY(bd_eval_plan_make(&own, x->model, &there, &x->art->protocol, NULL, err));
    BD_TRY(bd_eval_plan_make(&random, x->model, &here, &x->art->protocol, NULL, err));
    double flops = BD_SOURCES * random.flops, most = TIMES * own.flops > AT_LEAST ? TIMES * own.flops : AT_LEAST;
    char value[64], limit[64];
    *go = flops <= most;
    if (*go) return BD_OK;
    snprintf(value, sizeof value, "%.4g FLOPs", flops);
    snprintf(limit, sizeof limit, "%.4g FLOPs", most);
    bd_verdict_add(x->v, "RANDOM", BD_NOT_CHECKED, value, limit,
                   "three runs of %" PRIu64 " tokens would take too much work under this protocol", n);
    return BD_OK;
}

bd_status bd_check_random(const bd_verification *x, bd_err *err) {
    uint64_t n = length_of(x), seed = x->o->seed;
    bool go;
    BD_TRY(plan(&go, x, n, err));
    if (!go) return BD_OK;
    double alpha = x->o->rules->random_alpha > 0 ? x->o->rules->random_alpha : ALPHA;
    uint16_t *tokens = malloc((size_t)(n + 1) * sizeof *tokens), first = x->tokens[0];
    double *source = malloc((size_t)(n + 1) * sizeof *source);
    outcome *o = calloc(BD_SOURCES, sizeof *o);
    bd_status st = tokens && source && o ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for random streams");
    if (!st && !x->o->has_seed) st = system_seed(&seed, err);
    if (x->bos >= 0 && x->bos < x->p->vocab) first = (uint16_t)x->bos;
    for (int k = 0; k < BD_SOURCES && !st; k++) {
        st = bd_source_draw((bd_source_kind)k, x->model, x->be, &x->art->protocol, seed, first, tokens, source, n,
                            x->o->max_memory, x->o->progress, err);
        if (!st) st = play(&o[k], x, tokens, source, n, alpha, err);
    }
    if (!st) report(x, o, n, seed, alpha);
    free(tokens);
    free(source);
    free(o);
    return st;
}
