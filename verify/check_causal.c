/* CAUSAL: the derivation from the graph, and runs in which later tokens are
 * replaced or missing: what was predicted before must be the same bits. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "verify/verify_impl.h"

static const uint64_t PLACES = 0x464c4950, TOKENS = 0x544f4b45; /* random streams */
enum { SPENT = 16384, STOPS = 3, STARTS = 4 };                  /* SPENT: targets that the flips may score again */

/* --- where --- */

static void add_place(bd_flips *f, const bd_verification *x, uint64_t t, uint64_t *spent) {
    uint64_t most = x->targets > SPENT ? x->targets : SPENT;
    if (t < 2 || t > x->targets || f->n == BD_FLIPS_MAX || *spent + t > most) return;
    int i = 0;
    while (i < f->n && f->at[i] < t) i++;
    if (i < f->n && f->at[i] == t) return;
    memmove(f->at + i + 1, f->at + i, (size_t)(f->n - i) * sizeof *f->at);
    f->at[i] = t;
    f->n++;
    *spent += t;
}

/* Phases of windows and chunks first: their beginnings, middles and ends. */
void bd_flips_choose(bd_flips *f, const bd_verification *x) {
    const bd_protocol *p = &x->art->protocol;
    uint64_t L = p->window, S = p->stride ? p->stride : L, C = p->kind == BD_PROTO_SGD ? p->chunk : 0, spent = 0;
    uint64_t near = x->targets < 4096 ? x->targets : 4096;
    const uint64_t phases[] = {L / 2 + 1, L, L + 1, L + S / 2 + 1, C, C + 1, 2 * C + (S < C ? S : C) / 2 + 1};
    add_place(f, x, L < 8 || x->targets < 8 ? 2 : 5, &spent);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) add_place(f, x, phases[i], &spent);
    for (uint64_t i = 0; i < 4; i++) add_place(f, x, 1 + bd_philox_u64(x->seed, PLACES, i) % near, &spent);
    f->keep = f->n ? f->at[f->n - 1] : 0;
}

/* --- runs --- */

typedef struct probe {
    const bd_verification *x;
    const bd_watch *w;
    double *nll, *logp;
    uint64_t same, places, stops, documents; /* same: targets found equal */
    uint64_t bad_target, bad_place;          /* 0: none */
    double was, is;
    bool bad_distribution;
    const char *how;
} probe;

static void differs(probe *b, uint64_t target, uint64_t place, double was, double is, const char *how) {
    if (b->bad_target) return;
    b->bad_target = target;
    b->bad_place = place;
    b->was = was;
    b->is = is;
    b->how = how;
}

/* Run on `tokens` until target `last` is scored; targets in [low, high) must cost what they did. ask: the target
 * whose distribution is wanted in b->logp, or 0; *asked: it was given. */
static bd_status compare_run(probe *b, const uint16_t *tokens, uint64_t given, uint64_t last, uint64_t low,
                             uint64_t high, uint64_t place, const char *how, uint64_t ask, bool *asked,
                             bd_err *err) {
    bd_predictor *p = b->x->p;
    uint64_t declared = b->x->targets + 1, scored = 0;
    *asked = false;
    BD_TRY(p->vt->begin(p, tokens, given, declared, err));
    if (p->vt->most(p) > b->w->room) {
        double *more = realloc(b->nll, (size_t)p->vt->most(p) * sizeof *more);
        if (!more) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        b->nll = more;
    }
    while (scored <= 2 * declared) {
        bd_step s = p->vt->next(p);
        if (s.kind == BD_STEP_END || (s.kind == BD_STEP_SCORE && s.first > last)) break;
        bool here = s.kind == BD_STEP_SCORE && ask >= s.first && ask - s.first < s.n;
        BD_TRY(p->vt->run(p, b->nll, &ask, here, here ? b->logp : NULL, err));
        if (s.kind != BD_STEP_SCORE) continue;
        *asked |= here;
        scored += s.n;
        for (uint64_t i = 0; i < s.n; i++) {
            uint64_t t = s.first + i;
            double was = t < b->w->flips.keep ? b->w->flips.nll[t] : NAN;
            if (t < low || t >= high || isnan(was)) continue;
            if (was == b->nll[i]) b->same++;
            else differs(b, t, place, was, b->nll[i], how);
        }
    }
    return BD_OK;
}

/* Other tokens from `from` to `to`; document starts stay, and no new ones appear. */
static void replace(const bd_verification *x, uint16_t *tokens, uint64_t from, uint64_t to, uint64_t salt) {
    uint64_t vocab = (uint64_t)x->p->vocab;
    for (uint64_t t = from; t < to; t++) {
        if (x->tokens[t] == x->bos || vocab < 3) continue;
        uint64_t k = bd_philox_u64(x->seed ^ salt * 0x9e3779b97f4a7c15u, TOKENS, t) % vocab;
        while (k == x->tokens[t] || (int32_t)k == x->bos) k = (k + 1) % vocab;
        tokens[t] = (uint16_t)k;
    }
}

static bd_status flip(probe *b, uint16_t *copy, int i, bd_err *err) {
    const bd_verification *x = b->x;
    uint64_t at = b->w->flips.at[i], n = x->targets + 1;
    size_t vocab = (size_t)x->p->vocab;
    bool asked;
    memcpy(copy, x->tokens, (size_t)n * sizeof *copy);
    replace(x, copy, at, n, (uint64_t)i + 1);
    BD_TRY(compare_run(b, copy, n, at, 1, at, at, "later tokens were replaced", at, &asked, err));
    b->places++;
    if (!asked || !b->w->flips.have[i]) return BD_OK;
    if (memcmp(b->logp, b->w->flips.logp + (size_t)i * vocab, vocab * sizeof(double)) != 0 && !b->bad_target) {
        differs(b, at, at, 0, 0, "it and later tokens were replaced");
        b->bad_distribution = true;
    }
    return BD_OK;
}

/* Nothing there after the place, the declared length as before. */
static bd_status stop_early(probe *b, int i, bd_err *err) {
    uint64_t at = b->w->flips.at[i];
    uint16_t *head = malloc((size_t)at * sizeof *head);
    bool asked;
    if (!head) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    memcpy(head, b->x->tokens, (size_t)at * sizeof *head);
    bd_status st = compare_run(b, head, at, at, 1, at, at, "the stream ended early", 0, &asked, err);
    free(head);
    b->stops++;
    return st;
}

/* Documents near the beginning, with everything before them replaced; up to where learning begins. */
static bd_status isolate(probe *b, uint16_t *copy, bd_err *err) {
    const bd_verification *x = b->x;
    const bd_protocol *p = &x->art->protocol;
    uint64_t end = b->w->flips.keep, n = x->targets + 1;
    bool asked;
    if (p->kind == BD_PROTO_SGD && p->chunk + 1 < end) end = p->chunk + 1;
    for (uint64_t t = 1; t + 1 < end && b->documents < STARTS; t++) {
        if (x->tokens[t] != x->bos) continue;
        uint64_t stop = t + 1;
        while (stop < end && x->tokens[stop] != x->bos) stop++;
        memcpy(copy, x->tokens, (size_t)n * sizeof *copy);
        replace(x, copy, 0, t, 1000 + t);
        BD_TRY(compare_run(b, copy, n, stop, t + 1, stop, t, "the documents before were replaced", 0, &asked, err));
        b->documents++;
    }
    return BD_OK;
}

/* --- the check --- */

static int shifts(const bd_graph *g) {
    int n = 0;
    for (int i = 0; i < g->n_forward; i++) n += bd_op_get(g->nodes[i].op)->causality == BD_CAUSAL_SHIFT;
    return n;
}

/* The last line of the derivation. */
static const char *conclusion(const bd_buf *b, size_t *n) {
    const char *s = (const char *)b->data;
    size_t end = b->size;
    while (end > 0 && s[end - 1] == '\n') end--;
    size_t from = end;
    while (from > 0 && s[from - 1] != '\n') from--;
    *n = end - from;
    return s + from;
}

static void report(const probe *b, const bd_buf *chain) {
    const bd_verification *x = b->x;
    char value[64], where[256] = "", extra[256] = "";
    size_t n, at = 0;
    const char *end = conclusion(chain, &n);
    bool alone = bd_policy_is(x->o->rules, BD_POLICY_DOCUMENT_BOUNDARY, "isolate");
    bool mixers = bd_policy_is(x->o->rules, BD_POLICY_DOCUMENT_BOUNDARY, "isolate-mixers");
    int n_shifts = shifts(x->model->graph);
    for (int i = 0; i < b->w->flips.n; i++)
        at += (size_t)snprintf(where + at, sizeof where - at, "%s%" PRIu64, i ? ", " : "", b->w->flips.at[i]);
    snprintf(value, sizeof value, "%" PRIu64 " targets equal", b->same);
    if (b->bad_distribution) {
        bd_verdict_add(x->v, "CAUSAL", BD_FAILED, value, NULL,
                       "the distribution that predicts target %" PRIu64 " changed when %s", b->bad_target, b->how);
        return;
    }
    if (b->bad_target) {
        bd_verdict_add(x->v, "CAUSAL", BD_FAILED, value, NULL,
                       "target %" PRIu64 " cost %.9g nats and %.9g when %s (from %" PRIu64 " on)", b->bad_target,
                       b->was, b->is, b->how, b->bad_place);
        return;
    }
    if (alone && x->bos < 0) {
        bd_verdict_add(x->v, "CAUSAL", BD_NOT_CHECKED, value, NULL,
                       "the rules isolate documents, and without the tokenizer their starts are not known");
        return;
    }
    if ((mixers || alone) && n_shifts) {
        bd_verdict_add(x->v, "CAUSAL", BD_FAILED, value, NULL,
                       "the rules isolate documents; %d operations carry earlier tokens over their starts",
                       n_shifts);
        return;
    }
    if (alone)
        snprintf(extra, sizeof extra, "; %" PRIu64 " documents cost the same after other documents", b->documents);
    else if (mixers)
        snprintf(extra, sizeof extra,
                 "; no operation mixes neighbouring tokens only (attention may cross documents)");
    bd_verdict_add(x->v, "CAUSAL", BD_PASS, value, NULL,
                   "%d operations: %.*s. With later tokens replaced from targets %s on, and with the stream ended "
                   "there %" PRIu64 " times, earlier targets cost the same bits%s%s",
                   x->model->graph->n_forward, (int)n, end, where, b->stops,
                   b->places ? ", and the distribution at each place is the same" : "", extra);
}

bd_status bd_check_causal(bd_verification *x, const bd_watch *w, bd_err *err) {
    bd_buf chain;
    bd_err own = {0};
    probe b = {.x = x, .w = w};
    uint16_t *copy = NULL;
    bd_buf_init(&chain);
    bd_status st = bd_graph_causality(x->model->graph, &chain, &own);
    if (st == BD_E_CAUSAL) {
        bd_verdict_add(x->v, "CAUSAL", BD_FAILED, bd_status_name(st), NULL, "%s", own.msg);
        st = BD_OK;
        goto done;
    }
    if (st) {
        if (err) *err = own;
        goto done;
    }
    bd_buf_u8(&chain, 0);
    BD_TRY_DONE(bd_buf_check(&chain, err));
    chain.size--;
    copy = malloc((size_t)(x->targets + 1) * sizeof *copy);
    b.nll = malloc((size_t)w->room * sizeof *b.nll);
    b.logp = malloc((size_t)x->p->vocab * sizeof *b.logp);
    if (!copy || !b.nll || !b.logp) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory for the flip test"));
    for (int i = 0; i < w->flips.n; i++) {
        bd_tick(x->o->progress, "flips", i, w->flips.n, "%s", "");
        BD_TRY_DONE(flip(&b, copy, i, err));
    }
    /* Other batches than before: the same bits only in exact mode. */
    for (int i = 0; i < STOPS && i < w->flips.n && !x->o->fast; i++)
        BD_TRY_DONE(stop_early(&b, w->flips.n - 1 - i * w->flips.n / STOPS, err));
    if (bd_policy_is(x->o->rules, BD_POLICY_DOCUMENT_BOUNDARY, "isolate") && x->bos >= 0)
        BD_TRY_DONE(isolate(&b, copy, err));
    report(&b, &chain);
done:
    if (!st && chain.size && !chain.failed) {
        x->derivation = (char *)chain.data; /* taken over */
        bd_buf_init(&chain);
    }
    bd_buf_free(&chain);
    free(copy);
    free(b.nll);
    free(b.logp);
    return st;
}
