/* The evaluation that gives the score, with eyes on it: coverage, cheap targets,
 * distributions and the hash of what adapts are taken on the way. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/score.h"
#include "verify/verify_impl.h"

static const uint64_t ASK_BYTES = 256u << 20; /* for distributions of one step */

bd_status bd_watch_init(bd_watch *w, const bd_verification *x, bd_err *err) {
    memset(w, 0, sizeof *w);
    w->cover = (bd_cover){.targets = x->targets, .first_bad = UINT64_MAX};
    w->order.first_bad = UINT64_MAX;
    BD_TRY(bd_norm_choose(&w->norm, x, err));
    bd_flips_choose(&w->flips, x);
    size_t vocab = (size_t)x->p->vocab, most = (size_t)(ASK_BYTES / (vocab * sizeof(double)));
    size_t asks = (size_t)(w->norm.n + w->flips.n);
    w->ask_room = (int)(asks < most ? asks : most);
    w->cover.seen = calloc((size_t)(x->targets / 8 + 1), 1);
    w->flips.nll = malloc((size_t)(w->flips.keep + 1) * sizeof(double));
    w->flips.logp = malloc((size_t)w->flips.n * vocab * sizeof(double) + 1);
    w->ask = malloc((size_t)w->ask_room * sizeof *w->ask + 1);
    w->logp = malloc((size_t)w->ask_room * vocab * sizeof(double) + 1);
    if (!w->cover.seen || !w->flips.nll || !w->flips.logp || !w->ask || !w->logp)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for what is looked at during the evaluation");
    for (uint64_t t = 0; t <= w->flips.keep; t++) w->flips.nll[t] = NAN;
    return BD_OK;
}

void bd_watch_free(bd_watch *w) {
    free(w->cover.seen);
    free(w->norm.at);
    free(w->flips.nll);
    free(w->flips.logp);
    free(w->ask);
    free(w->logp);
    free(w->nll);
    memset(w, 0, sizeof *w);
}

/* Places of this step where the distribution is wanted, rising and without repeats. */
static int asks_of(bd_watch *w, const bd_step *s) {
    bd_norm *m = &w->norm;
    int n = 0, f = 0;
    while (m->next < m->n && m->at[m->next] < s->first) m->next++;
    while (f < w->flips.n && w->flips.at[f] < s->first) f++;
    for (int k = m->next; n < w->ask_room;) {
        uint64_t a = k < m->n ? m->at[k] : UINT64_MAX, b = f < w->flips.n ? w->flips.at[f] : UINT64_MAX,
                 t = a < b ? a : b;
        if (t - s->first >= s->n) break;
        k += a == t;
        f += b == t;
        w->ask[n++] = t;
    }
    return n;
}

static void look(bd_watch *w, const bd_verification *x, const bd_step *s, int n_ask, bool learned) {
    bd_norm *m = &w->norm;
    size_t vocab = (size_t)x->p->vocab;
    for (int i = 0; i < n_ask; i++) {
        uint64_t t = w->ask[i];
        const double *logp = w->logp + (size_t)i * vocab;
        while (m->next < m->n && m->at[m->next] < t) m->next++;
        if (m->next < m->n && m->at[m->next] == t) bd_norm_look(m, x, t, w->nll[t - s->first], logp, learned);
        for (int f = 0; f < w->flips.n; f++) {
            if (w->flips.at[f] != t) continue;
            memcpy(w->flips.logp + (size_t)f * vocab, logp, vocab * sizeof *logp);
            w->flips.have[f] = true;
        }
    }
}

static bool rare(uint64_t i) { return i < 4 || (i & (i - 1)) == 0; }

static bd_status check_step(const bd_step *s, uint64_t room, bd_err *err) {
    if (s->kind == BD_STEP_SCORE && (s->n == 0 || s->n > room || s->first == 0 || s->first > UINT64_MAX - s->n))
        return BD_FAIL(err, BD_E_RANGE,
                       "a step scores %" PRIu64 " targets from %" PRIu64 ", at most %" PRIu64 " at once", s->n,
                       s->first, room);
    return BD_OK;
}

static bd_status after_score(bd_watch *w, const bd_verification *x, const bd_step *s, int n_ask, bd_err *err) {
    for (uint64_t i = 0; i < s->n; i++) {
        double nll = w->nll[i];
        if (!isfinite(nll) || fabs(nll) > 1e6)
            return BD_FAIL(err, BD_E_NONFINITE, "the loss of the target at index %" PRIu64 " is %g: not a score",
                           s->first + i, nll);
        if (!bd_add_i64(w->nll_q32, bd_score_q32(nll), &w->nll_q32))
            return BD_FAIL(err, BD_E_RANGE, "the sum of the losses exceeds 2^31 nats");
        if (s->first + i < w->flips.keep) w->flips.nll[s->first + i] = nll;
    }
    bd_cover_count(&w->cover, s->first, s->n);
    bd_memory_count(&w->memory, s->first, w->nll, s->n);
    look(w, x, s, n_ask, w->order.learns > 0);
    return BD_OK;
}

/* The state that adapts before and after some of the steps. */
static bd_status step_looked_at(bd_watch *w, const bd_verification *x, const bd_step *s, bool hashed, int n_ask,
                                bd_err *err) {
    bd_order *r = &w->order;
    uint8_t before[32], after[32];
    if (hashed) {
        BD_TRY(x->p->vt->state_hash(x->p, before, err));
        if (r->have_last && memcmp(before, r->last, 32) != 0) {
            r->changed_between++;
            if (r->first_bad == UINT64_MAX) r->first_bad = s->first;
        }
    }
    BD_TRY(x->p->vt->run(x->p, w->nll, w->ask, n_ask, n_ask ? w->logp : NULL, err));
    r->have_last = hashed;
    if (!hashed) return BD_OK;
    BD_TRY(x->p->vt->state_hash(x->p, after, err));
    memcpy(r->last, after, 32);
    bool changed = memcmp(before, after, 32) != 0;
    if (s->kind == BD_STEP_LEARN) {
        r->seen_learns++;
        r->learned += changed;
        return BD_OK;
    }
    r->seen_scores++;
    if (!changed) return BD_OK;
    r->changed_by_score++;
    if (r->first_bad == UINT64_MAX) r->first_bad = s->first;
    return BD_OK;
}

bd_status bd_watch_run(bd_watch *w, const bd_verification *x, bd_err *err) {
    bd_predictor *p = x->p;
    bd_order *r = &w->order;
    BD_TRY(p->vt->begin(p, x->tokens, x->targets + 1, x->targets + 1, err));
    w->room = p->vt->most(p);
    w->nll = malloc((size_t)w->room * sizeof *w->nll);
    if (!w->nll) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    BD_TRY(p->vt->state_hash(p, r->initial, err));
    memcpy(r->last, r->initial, 32);
    r->have_last = true;
    for (uint64_t steps = 0;; steps++) {
        bd_step s = p->vt->next(p);
        if (s.kind == BD_STEP_END || w->cover.scored > 2 * x->targets + 16) return BD_OK; /* COVER says the rest */
        BD_TRY(check_step(&s, w->room, err));
        bool learn = s.kind == BD_STEP_LEARN;
        bool hashed = rare(steps) || (steps > 4 && rare(steps - 1)) || (learn && rare(r->learns));
        int n_ask = learn ? 0 : asks_of(w, &s);
        BD_TRY(step_looked_at(w, x, &s, hashed, n_ask, err));
        if (learn) {
            r->learns++;
        } else {
            r->scores++;
            BD_TRY(after_score(w, x, &s, n_ask, err));
        }
    }
}
