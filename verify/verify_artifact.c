#include "verify/verify_artifact.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "runtime/score.h"
#include "verify/verify_impl.h"

/* In the order of a report. */
static const char *const CHECKS[] = {"STRUCTURE", "SIZE", "POLICY", "CAUSAL", "NORM",  "ORDER", "COVER",
                                     "BYTES",     "DATA", "MEMORY", "RANDOM", "SCORE", "TIME",  "STATS"};
enum { N_CHECKS = sizeof CHECKS / sizeof *CHECKS };

const char *bd_u64_text(char out[32], uint64_t v) {
    snprintf(out, 32, "%" PRIu64, v);
    return out;
}

bd_status bd_verify_checks_parse(unsigned *mask, const char *list, bd_err *err) {
    *mask = 0;
    if (!strcmp(list, "all")) {
        *mask = BD_CHECKS_ALL;
        return BD_OK;
    }
    for (const char *s = list;;) {
        char name[32];
        size_t n = strcspn(s, ",");
        snprintf(name, sizeof name, "%.*s", n < 31 ? (int)n : 31, s);
        int i = 0;
        while (i < N_CHECKS && strcmp(CHECKS[i], name) != 0) i++;
        if (i == N_CHECKS) {
            const char *near = bd_nearest(name, CHECKS, N_CHECKS);
            return BD_FAIL(err, BD_E_USAGE, "there is no check \"%s\"%s%s%s", name, near ? "; did you mean \"" : "",
                           near ? near : "", near ? "\"?" : "");
        }
        if (!strcmp(name, "RANDOM")) *mask |= BD_CHECKS_RANDOM;
        if (!s[n]) return BD_OK;
        s += n + 1;
    }
}

void bd_verify_result_free(bd_verify_result *r) {
    free(r->causality);
    r->causality = NULL;
}

/* What could not be reached is listed too: a report has the same checks whatever happened, in one order. */
static void complete(bd_verdict *v, const char *why) {
    for (int k = 0; k < N_CHECKS; k++) {
        int i = 0;
        while (i < v->n && strcmp(v->checks[i].id, CHECKS[k]) != 0) i++;
        if (i == v->n) bd_verdict_add(v, CHECKS[k], BD_NOT_CHECKED, NULL, NULL, "%s", why);
        bd_check c = v->checks[i];
        memmove(v->checks + k + 1, v->checks + k, (size_t)(i - k) * sizeof c);
        v->checks[k] = c;
    }
}

/* Above this an evaluation is not begun: years on any machine, and what overflowing sizes would ask for. */
static const double MAX_FLOPS = 1e19;

uint64_t bd_verify_range(const bd_verify_opts *o) {
    const bd_rules *r = o->rules;
    if (o->max_tokens || !r->canonical_tokens || o->shards->total < 2) return o->max_tokens;
    uint64_t targets = o->shards->total - 1;
    return (double)targets > (double)r->canonical_tokens * (1 + r->tolerance) ? r->canonical_tokens : 0;
}

/* Is what the protocol plans within reason? If not, TIME says so. */
static bd_status plan(bool *go, bd_verify_result *r, const bd_verification *x, bd_err *err) {
    bd_stream stream = {x->tokens, x->bytes, x->targets + 1};
    bd_eval_opts eo = {.max_memory = x->o->max_memory};
    bd_eval_plan p;
    BD_TRY(bd_eval_plan_make(&p, x->model, &stream, &x->art->protocol, &eo, err));
    r->flops = p.flops;
    *go = p.flops <= MAX_FLOPS;
    if (*go) return BD_OK;
    char value[64], limit[64];
    snprintf(value, sizeof value, "%.4g FLOPs", p.flops);
    snprintf(limit, sizeof limit, "%.4g FLOPs", MAX_FLOPS);
    bd_verdict_add(x->v, "TIME", BD_FAILED, value, limit, "the protocol asks for more than this program begins");
    return BD_OK;
}

/* The evaluator's score; what was seen of it counts, should the two differ. */
static void take_score(bd_score *s, const bd_predictor *runner, const bd_watch *w) {
    bd_predictor_score(runner, s);
    if (s->nll_q32 == w->nll_q32 && s->tokens == w->cover.scored) return;
    s->nll_q32 = w->nll_q32;
    s->tokens = w->cover.scored;
    s->val_loss = bd_score_loss(s->nll_q32, s->tokens);
    s->val_bpb = bd_score_bpb(s->nll_q32, s->bytes);
}

/* The initial state again? */
static bd_status begin_again(bd_watch *w, const bd_verification *x, bd_err *err) {
    uint8_t hash[32];
    BD_TRY(x->p->vt->begin(x->p, x->tokens, x->targets + 1, x->targets + 1, err));
    BD_TRY(x->p->vt->state_hash(x->p, hash, err));
    w->order.kept = memcmp(hash, w->order.initial, 32) != 0;
    if (w->order.kept && w->order.first_bad == UINT64_MAX) w->order.first_bad = 1;
    return BD_OK;
}

static bd_status run_checks(bd_verify_result *r, bd_verification *x, bd_predictor *runner, const void *file,
                            bd_err *err) {
    const bd_verify_opts *o = x->o;
    const bd_progress quiet = {.stop = o->progress ? o->progress->stop : NULL}; /* other runs: only Ctrl-C */
    bd_watch w;
    bd_status st;
    bd_predictor_account(runner, x->bytes, o->progress);
    BD_TRY_DONE(bd_watch_init(&w, x, err));
    double t0 = bd_now();
    st = bd_watch_run(&w, x, err);
    if (st == BD_E_NONFINITE) { /* the inputs are fine: it is the artifact that gives no score */
        bd_verdict_add(x->v, "SCORE", BD_FAILED, NULL, NULL, "%s", err ? err->msg : bd_status_text(st));
        st = BD_OK;
        goto done;
    }
    if (st) goto done;
    r->scored = true;
    take_score(&r->score, runner, &w);
    r->seconds_probes = bd_now() - t0 - r->score.seconds_score - r->score.seconds_learn;
    t0 = bd_now();
    bd_predictor_account(runner, NULL, &quiet);
    BD_TRY_DONE(begin_again(&w, x, err));
    bd_check_policy(x);
    BD_TRY_DONE(bd_check_causal(x, &w, err));
    bd_check_norm(x, &w.norm);
    bd_check_order(x, &w.order);
    bd_check_cover(x, &w.cover);
    bd_check_bytes(x, &r->score);
    BD_TRY_DONE(bd_check_data(x, file, r->file_bytes, err));
    bd_check_memory(x, &w.memory);
    if (o->checks & (BD_CHECKS_ALL | BD_CHECKS_RANDOM) || bd_rules_requires(o->rules, "RANDOM"))
        BD_TRY_DONE(bd_check_random(x, err));
    else
        bd_verdict_add(x->v, "RANDOM", BD_NOT_CHECKED, NULL, NULL,
                       "neither required by the rules nor asked for (--checks RANDOM)");
    bd_check_score(x, &r->score);
    bd_check_time(x, &r->score, r->flops);
    bd_check_stats(x, &r->score);
    r->seconds_probes += bd_now() - t0;
done:
    bd_watch_free(&w);
    return st;
}

static uint64_t seed_of(const bd_artifact *a) {
    uint64_t s = 0;
    for (int i = 0; i < 8; i++) s |= (uint64_t)a->root_hash[i] << (8 * i);
    return s;
}

static bd_status score_all(bd_verify_result *r, const bd_artifact *a, bd_backend *be, const bd_verify_opts *o,
                           const void *file, bd_err *err) {
    bd_model *m = NULL;
    bd_predictor *runner = NULL, *p = NULL;
    bd_model_opts mo = {.max_memory = o->max_memory};
    uint16_t *bytes = NULL;
    bool go;
    bd_status st = bd_model_from_artifact(&m, a, &mo, err);
    if (st) return st;
    if (o->shards->total < 2) BD_TRY_DONE(BD_FAIL(err, BD_E_MISSING, "the validation shards hold no target"));
    bd_verification x = {.o = o,
                         .v = &r->verdict,
                         .art = a,
                         .model = m,
                         .be = be,
                         .tokens = o->shards->tokens,
                         .bytes = o->sidecar,
                         .total = o->shards->total,
                         .targets = o->shards->total - 1,
                         .seed = o->has_seed ? o->seed : seed_of(a),
                         .bos = o->tokenizer ? o->tokenizer->bos : -1};
    if (!o->sidecar && o->tokenizer) {
        bytes = malloc(x.total * sizeof *bytes);
        if (!bytes) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "out of memory for the byte counts"));
        bd_tokenizer_stream_bytes(o->tokenizer, x.tokens, x.total, bytes);
        x.bytes = bytes;
    }
    uint64_t range = bd_verify_range(o);
    if (range && range < x.targets) x.targets = range;
    BD_TRY_DONE(plan(&go, r, &x, err));
    if (!go) goto done;
    BD_TRY_DONE(bd_predictor_open(&runner, m, be, &a->protocol, o->max_memory, err));
    p = runner;
    if (o->wrap) BD_TRY_DONE(o->wrap(&p, runner, o->wrap_user, err));
    x.p = p;
    st = run_checks(r, &x, runner, file, err);
    r->causality = x.derivation;
done:
    bd_predictor_close(p);
    free(bytes);
    bd_model_close(m);
    return st;
}

bd_status bd_verify_artifact(bd_verify_result *r, bd_backend *be, const bd_verify_opts *o, bd_err *err) {
    memset(r, 0, sizeof *r);
    bd_map map;
    BD_TRY(bd_map_open(&map, o->path, err));
    if (!bd_artifact_is(map.data, map.size)) {
        bd_map_close(&map);
        bd_status st = BD_FAIL_AT(err, BD_E_MAGIC, 0, "not a Birdie artifact");
        bd_err_file(err, o->path);
        return st;
    }
    r->file_bytes = map.size;
    bd_artifact *a = NULL;
    bd_status st = bd_verify_structure(&a, &r->verdict, map.data, map.size, o->allow_external, err);
    if (st) bd_err_file(err, o->path);
    else bd_check_size(&(bd_verification){.o = o, .v = &r->verdict}, map.size);
    if (a) {
        r->protocol = a->protocol;
        memcpy(r->model_hash, a->model_hash, 32);
        memcpy(r->root_hash, a->root_hash, 32);
        if (o->shards) st = score_all(r, a, be, o, map.data, err);
    }
    if (!st) {
        complete(&r->verdict, !a          ? "the file is no model that could be scored"
                              : o->shards ? "the evaluation could not be carried out"
                                          : "no validation shards were given");
        r->overall = bd_verdict_overall(&r->verdict, o->rules);
    }
    bd_artifact_close(a);
    bd_map_close(&map);
    return st;
}
