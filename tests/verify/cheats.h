/* Planted cheats: predictors that stand before an honest one and break one rule each. */
#ifndef BD_TESTS_CHEATS_H
#define BD_TESTS_CHEATS_H

#include "base/sha256.h"
#include "tests/verify/tiny_artifact.h"
#include "verify/predictor.h"

/* X(symbol, name, check that must fail) */
#define CHEATS(X)                                                           \
    X(READ_TARGET, "reads the token it predicts", "CAUSAL")                 \
    X(READ_NEXT, "reads the next token", "CAUSAL")                          \
    X(BLOCK_MIX, "mixes within a block in both directions", "CAUSAL")       \
    X(GOLD_ONLY, "probability of the realised token only", "NORM")          \
    X(HASHED_RATIO, "hashed n-gram ratio that does not sum to one", "NORM") \
    X(TRAIN_FIRST, "trains on a step, then scores it", "ORDER")             \
    X(TRAIN_FIRST_HIDDEN, "the same, its state not shown", "CAUSAL")        \
    X(TWO_PASS, "rescores in a second pass", "CAUSAL")                      \
    X(DELTA, "delta optimised on the scored window", "CAUSAL")              \
    X(HINT, "hint of one bit, gated by the target", "CAUSAL")               \
    X(BATCH_STATS, "statistics over all streams of a batch", "CAUSAL")      \
    X(SKIP_TAIL, "leaves out the tail", "COVER")                            \
    X(SCORE_TWICE, "scores twice and keeps the better", "COVER")            \
    X(REMEMBER, "remembers an earlier run", "ORDER")                        \
    X(MEMORISED, "knows the validation stream by heart", "MEMORY")
#define LEGAL_CACHE CHEAT_COUNT /* a token cache that is causal and normalised: no cheat */

typedef enum cheat_kind {
#define CH_X(symbol, name, check) CHEAT_##symbol,
    CHEATS(CH_X)
#undef CH_X
        CHEAT_COUNT
} cheat_kind;

enum { CH_BUCKETS = 8, CH_BLOCK = 8 };
typedef struct cheat {
    bd_predictor base;
    bd_predictor *inner;
    int kind;
    const uint16_t *tokens;
    uint64_t given, declared;
    double bigram[TA_VOCAB][TA_VOCAB]; /* counts */
    double ctx[CH_BUCKETS], full[CH_BUCKETS];
    uint16_t secret[512]; /* MEMORISED */
    uint64_t n_secret;
    uint8_t carried[32]; /* REMEMBER */
    bool again;          /* SCORE_TWICE */
    bd_step step;
    double *logp; /* (step, vocab) */
    double *nll;
    uint64_t *ask;
    uint64_t room;
} cheat;

static inline void ch_count(cheat *c, uint64_t t) { c->bigram[c->tokens[t - 1]][c->tokens[t]] += 1; }

/* Mix the model with bigram counts, properly. */
static inline void ch_mix_bigram(const cheat *c, uint64_t t, double share, double *p) {
    const double *row = c->bigram[c->tokens[t - 1]];
    double sum = 0;
    for (int i = 0; i < TA_VOCAB; i++) sum += row[i];
    for (int i = 0; sum > 0 && i < TA_VOCAB; i++) p[i] = (1 - share) * p[i] + share * row[i] / sum;
}

static inline void ch_normalise(double *p) {
    double sum = 0;
    for (int i = 0; i < TA_VOCAB; i++) sum += p[i];
    for (int i = 0; i < TA_VOCAB; i++) p[i] /= sum;
}

/* What is told as the distribution for target t, and what is scored. */
static inline double ch_twist(cheat *c, const bd_step *s, uint64_t t, double *logp, double honest) {
    const uint16_t *x = c->tokens;
    uint64_t end = s->first + s->n;
    double p[TA_VOCAB], even = 0;
    for (int i = 0; i < TA_VOCAB; i++) p[i] = exp(logp[i]);
    switch (c->kind) {
        case CHEAT_READ_TARGET:
            for (int i = 0; i < TA_VOCAB; i++) p[i] = 0.9 * p[i] + 0.1 * (i == x[t]);
            break;
        case CHEAT_READ_NEXT:
            if (t + 1 < end) p[x[t + 1]] *= 1.5;
            break;
        case CHEAT_BLOCK_MIX:
            for (uint64_t k = t / CH_BLOCK * CH_BLOCK; k < t / CH_BLOCK * CH_BLOCK + CH_BLOCK; k++)
                if (k >= s->first && k < end) p[x[k]] += 0.02;
            break;
        case CHEAT_GOLD_ONLY: return 0.9 * honest;
        case CHEAT_HASHED_RATIO: {
            double n = c->ctx[x[t - 1] % CH_BUCKETS];
            for (int i = 0; n > 0 && i < TA_VOCAB; i++)
                p[i] = 0.5 * p[i] + 0.5 * fmin(1, c->full[(x[t - 1] * 7 + i) % CH_BUCKETS] / n);
            c->ctx[x[t - 1] % CH_BUCKETS]++;
            c->full[(x[t - 1] * 7 + x[t]) % CH_BUCKETS]++;
            for (int i = 0; i < TA_VOCAB; i++) logp[i] = log(p[i]);
            return -logp[x[t]];
        }
        case CHEAT_TRAIN_FIRST:
        case CHEAT_TRAIN_FIRST_HIDDEN:
        case CHEAT_TWO_PASS: ch_mix_bigram(c, t, 0.3, p); break;
        case CHEAT_REMEMBER:
        case LEGAL_CACHE:
            ch_mix_bigram(c, t, 0.1, p);
            ch_count(c, t);
            break;
        case CHEAT_DELTA: {
            double count[TA_VOCAB] = {0};
            for (uint64_t k = t / 32 * 32; k < t / 32 * 32 + 32; k++)
                if (k >= s->first && k < end) count[x[k]]++;
            for (int i = 0; i < TA_VOCAB; i++) p[i] *= 1 + count[i];
            break;
        }
        case CHEAT_HINT:
            for (int i = 0; i < TA_VOCAB; i++) p[i] *= (i & 1) == (x[t] & 1) ? 1.5 : 1;
            break;
        case CHEAT_BATCH_STATS:
            for (uint64_t k = s->first; k < end; k++) even += !(x[k] & 1);
            for (int i = 0; i < TA_VOCAB; i++) p[i] = pow(p[i], 0.8 + 0.4 * even / (double)s->n);
            break;
        case CHEAT_MEMORISED:
            if (t < c->n_secret)
                for (int i = 0; i < TA_VOCAB; i++) p[i] = 0.01 * p[i] + 0.99 * (i == c->secret[t]);
            break;
        default: return honest;
    }
    ch_normalise(p);
    for (int i = 0; i < TA_VOCAB; i++) logp[i] = log(p[i]);
    return -logp[x[t]];
}

static inline bd_status ch_begin(bd_predictor *p, const uint16_t *tokens, uint64_t given, uint64_t declared,
                                 bd_err *err) {
    cheat *c = (cheat *)p;
    if (c->kind == CHEAT_REMEMBER) bd_sha256_of(c->bigram, sizeof c->bigram, c->carried);
    else memset(c->bigram, 0, sizeof c->bigram);
    memset(c->ctx, 0, sizeof c->ctx);
    memset(c->full, 0, sizeof c->full);
    c->tokens = tokens;
    c->given = given;
    c->declared = declared;
    c->again = false;
    for (uint64_t t = 1; c->kind == CHEAT_TWO_PASS && t < given; t++) ch_count(c, t);
    BD_TRY(c->inner->vt->begin(c->inner, tokens, given, declared, err));
    uint64_t most = c->inner->vt->most(c->inner);
    if (most <= c->room) return BD_OK;
    c->room = most;
    c->logp = realloc(c->logp, most * TA_VOCAB * sizeof *c->logp);
    c->nll = realloc(c->nll, most * sizeof *c->nll);
    c->ask = realloc(c->ask, most * sizeof *c->ask);
    return c->logp && c->nll && c->ask ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
}

static inline bd_step ch_next(bd_predictor *p) {
    cheat *c = (cheat *)p;
    if (c->again) return c->step;
    bd_step s = c->inner->vt->next(c->inner);
    uint64_t cut = c->declared * 9 / 10;
    if (c->kind != CHEAT_SKIP_TAIL || s.kind != BD_STEP_SCORE || s.first + s.n <= cut) return s;
    if (s.first >= cut) return (bd_step){BD_STEP_END, 0, 0};
    s.n = cut - s.first;
    return s;
}

static inline bd_status ch_run(bd_predictor *p, double *nll, const uint64_t *ask, int n_ask, double *logp,
                               bd_err *err) {
    cheat *c = (cheat *)p;
    if (!c->again) {
        bd_step s = c->inner->vt->next(c->inner);
        c->step = s;
        if (s.kind == BD_STEP_LEARN) return c->inner->vt->run(c->inner, nll, NULL, 0, NULL, err);
        for (uint64_t i = 0; i < s.n; i++) c->ask[i] = s.first + i;
        BD_TRY(c->inner->vt->run(c->inner, c->nll, c->ask, (int)s.n, c->logp, err));
        if (c->kind == CHEAT_TRAIN_FIRST || c->kind == CHEAT_TRAIN_FIRST_HIDDEN)
            for (uint64_t i = 0; i < s.n; i++) ch_count(c, s.first + i);
        for (uint64_t i = 0; i < s.n; i++)
            c->nll[i] = ch_twist(c, &s, s.first + i, c->logp + i * TA_VOCAB, c->nll[i]);
    }
    bd_step told = c->step;
    if (c->kind == CHEAT_SKIP_TAIL && told.first + told.n > c->declared * 9 / 10)
        told.n = c->declared * 9 / 10 - told.first;
    memcpy(nll, c->nll, told.n * sizeof *nll);
    for (int i = 0; logp && i < n_ask; i++)
        memcpy(logp + (size_t)i * TA_VOCAB, c->logp + (ask[i] - c->step.first) * TA_VOCAB, TA_VOCAB * sizeof *logp);
    c->again = c->kind == CHEAT_SCORE_TWICE && !c->again;
    return BD_OK;
}

static inline bd_status ch_hash(bd_predictor *p, uint8_t out[32], bd_err *err) {
    cheat *c = (cheat *)p;
    BD_TRY(c->inner->vt->state_hash(c->inner, out, err));
    bd_sha256 h;
    bd_sha256_init(&h);
    bd_sha256_add(&h, out, 32);
    if (c->kind == CHEAT_TRAIN_FIRST) bd_sha256_add(&h, c->bigram, sizeof c->bigram);
    if (c->kind == CHEAT_REMEMBER) bd_sha256_add(&h, c->carried, sizeof c->carried);
    bd_sha256_end(&h, out);
    return BD_OK;
}

static inline uint64_t ch_most(bd_predictor *p) { return ((cheat *)p)->inner->vt->most(((cheat *)p)->inner); }

static inline void ch_close(bd_predictor *p) {
    cheat *c = (cheat *)p;
    bd_predictor_close(c->inner);
    free(c->logp);
    free(c->nll);
    free(c->ask);
    free(c);
}

typedef struct cheat_plan {
    int kind;
    const uint16_t *stream; /* MEMORISED */
    uint64_t n;
} cheat_plan;

static inline bd_status ch_wrap(bd_predictor **out, bd_predictor *inner, void *user, bd_err *err) {
    static const bd_predictor_vt vt = {ch_begin, ch_next, ch_run, ch_hash, ch_most, ch_close};
    const cheat_plan *plan = user;
    cheat *c = calloc(1, sizeof *c);
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    c->base = (bd_predictor){&vt, inner->vocab};
    c->inner = inner;
    c->kind = plan->kind;
    if (plan->kind == CHEAT_MEMORISED) {
        c->n_secret = plan->n < 200 ? plan->n : 200;
        memcpy(c->secret, plan->stream, c->n_secret * sizeof *c->secret);
    }
    *out = &c->base;
    return BD_OK;
}

#endif
