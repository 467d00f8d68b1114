#include "verify/prove.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numerics.h"
#include "format/freq_coder.h"

/* Logits of one forward call, kept while they are coded. */
#define LOGIT_BYTES ((uint64_t)64 << 20)

static const bd_prove_opts no_opts;

double bd_prove_ideal_bytes(int64_t nll_q32) { return (double)nll_q32 * 0x1p-32 / (8 * 0.69314718055994530942); }

static uint64_t add_u64(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

/* Options of the evaluation, and what it will do. */
static bd_status plan_run(bd_eval_opts *eo, bd_eval_plan *plan, const bd_model *m, uint64_t tokens, bool check,
                          const bd_prove_opts *o, bd_err *err) {
    bd_stream stream = {.n = tokens};
    uint64_t row = (uint64_t)m->graph->vocab * sizeof(float), extra, steps = 0;
    *eo = (bd_eval_opts){.max_tokens = check ? 0 : o->max_tokens, .progress = o->progress};
    eo->batch_rows = check ? 1 : (int64_t)(LOGIT_BYTES / row);
    if (eo->batch_rows < 1) eo->batch_rows = 1;
    if (eo->batch_rows > 4096) eo->batch_rows = 4096;
    BD_TRY(bd_eval_plan_make(plan, m, &stream, &m->protocol, eo, err));
    if (check) BD_TRY(bd_session_predict_plan_bytes(&steps, m, plan->max_len, err));
    else steps = (uint64_t)plan->max_rows * row;
    extra = add_u64(5 * (plan->tokens + 1), steps); /* two copies of the tokens, and a bit for each */
    plan->memory = add_u64(plan->memory, extra);
    if (o->max_memory && plan->memory > o->max_memory)
        return BD_FAIL(err, BD_E_LIMIT, "%" PRIu64 " bytes of memory are needed, the limit is %" PRIu64,
                       plan->memory, o->max_memory);
    return BD_OK;
}

bd_status bd_prove_plan(bd_eval_plan *plan, const bd_model *m, uint64_t tokens, bool check,
                        const bd_prove_opts *opts, bd_err *err) {
    bd_eval_opts eo;
    return plan_run(&eo, plan, m, tokens, check, opts ? opts : &no_opts, err);
}

static bd_status check_model(const bd_model *m, bd_err *err) {
    if (m->source != BD_SOURCE_ARTIFACT || !m->has_protocol)
        return BD_FAIL(err, BD_E_USAGE, "a proof is about an artifact: compile the checkpoint first");
    return BD_OK;
}

/* ---- making a proof ---- */

typedef struct prover {
    bd_freq_coder coder;
    bd_evaluator *e;
    int64_t vocab;
    uint64_t *ask;  /* (most) */
    float *logits;  /* (most, vocab) */
    double *nll;    /* (most) */
    uint32_t *freq; /* (vocab) */
    double *work;   /* (vocab) */
} prover;

static bd_status prover_alloc(prover *p, uint64_t most, bd_err *err) {
    p->ask = malloc(most * sizeof *p->ask);
    p->logits = malloc(most * (uint64_t)p->vocab * sizeof *p->logits);
    p->nll = malloc(most * sizeof *p->nll);
    p->freq = malloc((uint64_t)p->vocab * sizeof *p->freq);
    p->work = malloc((uint64_t)p->vocab * sizeof *p->work);
    bool ok = p->ask && p->logits && p->nll && p->freq && p->work;
    return ok ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
}

static void prover_free(prover *p) {
    bd_evaluator_close(p->e);
    free(p->ask);
    free(p->logits);
    free(p->nll);
    free(p->freq);
    free(p->work);
}

static bd_status prove_step(prover *p, const uint16_t *tokens, bd_err *err) {
    bd_step step = bd_evaluator_next(p->e);
    uint64_t n = step.kind == BD_STEP_SCORE ? step.n : 0;
    for (uint64_t i = 0; i < n; i++) p->ask[i] = step.first + i;
    BD_TRY(bd_evaluator_run(p->e, p->nll, p->ask, (int)n, p->logits, err));
    for (uint64_t i = 0; i < n; i++) {
        BD_TRY(bd_freq_from_logits(p->freq, p->work, p->logits + i * (uint64_t)p->vocab, p->vocab, err));
        bd_freq_encode(&p->coder, p->freq, tokens[step.first + i]);
    }
    return bd_buf_check(p->coder.out, err);
}

bd_status bd_prove(bd_proof *p, bd_buf *code, bd_buf *out, bd_score *score, const bd_model *m, bd_backend *be,
                   const bd_shards *shards, const bd_prove_opts *opts, bd_err *err) {
    const bd_prove_opts *o = opts ? opts : &no_opts;
    bd_eval_opts eo;
    bd_eval_plan plan;
    BD_TRY(check_model(m, err));
    if (shards->n > BD_PROOF_MAX_SHARDS)
        return BD_FAIL(err, BD_E_LIMIT, "%d shards: a proof names at most %d", shards->n, BD_PROOF_MAX_SHARDS);
    BD_TRY(plan_run(&eo, &plan, m, shards->total, false, o, err));
    prover w = {.vocab = m->graph->vocab};
    bd_stream stream = {shards->tokens, NULL, shards->total};
    bd_status st;
    BD_TRY_DONE(bd_evaluator_open(&w.e, m, be, &stream, &m->protocol, &eo, err));
    BD_TRY_DONE(prover_alloc(&w, bd_evaluator_most(w.e), err));
    code->size = 0;
    bd_freq_encode_begin(&w.coder, code);
    while (bd_evaluator_next(w.e).kind != BD_STEP_END) BD_TRY_DONE(prove_step(&w, shards->tokens, err));
    bd_freq_encode_end(&w.coder);
    BD_TRY_DONE(bd_buf_check(code, err));
    bd_evaluator_score(w.e, score);
    *p = (bd_proof){.numerics = BD_NUMERICS_VERSION,
                    .tokens = score->tokens,
                    .first_target = 1,
                    .first_token = shards->tokens[0],
                    .n_shards = (uint32_t)shards->n,
                    .protocol = m->protocol,
                    .nll_q32 = score->nll_q32,
                    .code = code->data,
                    .code_size = code->size};
    for (int i = 0; i < shards->n; i++) memcpy(p->shard_sha256[i], shards->shards[i].sha256, 32);
    memcpy(p->model_hash, m->model_hash, 32);
    bd_proof_hash_tokens(shards->tokens, score->tokens + 1, p->tokens_hash);
    st = bd_proof_build(p, out, err);
done:
    prover_free(&w);
    return st;
}

/* ---- checking one ---- */

typedef struct checker {
    bd_freq_coder coder;
    bd_evaluator *e;
    int64_t vocab;
    bool started;
    uint64_t decoded;
    double *nll;    /* (most) */
    uint32_t *freq; /* (vocab) */
    double *work;   /* (vocab) */
} checker;

bd_status bd_prove_matches(const bd_proof *p, const bd_model *m, bd_err *err) {
    BD_TRY(check_model(m, err));
    if (p->numerics != BD_NUMERICS_VERSION)
        return BD_FAIL_AT(err, BD_E_VERSION, 12,
                          "the proof was made under numerics %" PRIu32 ", this program has %d", p->numerics,
                          BD_NUMERICS_VERSION);
    if (memcmp(p->model_hash, m->model_hash, 32) != 0)
        return BD_FAIL_AT(err, BD_E_CHECKSUM, 58, "the proof is about another artifact (its model hash differs)");
    bd_buf a, b;
    bd_buf_init(&a);
    bd_buf_init(&b);
    bd_status st = bd_protocol_print(&p->protocol, &a, err);
    if (st == BD_OK) st = bd_protocol_print(&m->protocol, &b, err);
    if (st == BD_OK && (a.size != b.size || memcmp(a.data, b.data, a.size) != 0))
        st = BD_FAIL_AT(err, BD_E_FIELD, 122 + 32 * (uint64_t)p->n_shards,
                        "the proof states another protocol than the artifact");
    bd_buf_free(&a);
    bd_buf_free(&b);
    return st;
}

static bd_status next_token(void *user, uint64_t index, const float *logits, uint16_t *token, bd_err *err) {
    checker *c = user;
    uint32_t symbol;
    (void)index;
    BD_TRY(bd_freq_from_logits(c->freq, c->work, logits, c->vocab, err));
    BD_TRY(bd_freq_decode(&c->coder, c->freq, c->vocab, &symbol, err));
    *token = (uint16_t)symbol;
    c->decoded++;
    return BD_OK;
}

static bd_status decode_all(checker *c, uint16_t *tokens, const bd_proof *p, const bd_model *m, bd_backend *be,
                            const bd_eval_opts *eo, bd_err *err) {
    bd_stream stream = {tokens, NULL, p->tokens + 1};
    memset(tokens, 0, (size_t)(p->tokens + 1) * sizeof *tokens);
    tokens[0] = p->first_token;
    BD_TRY(bd_evaluator_open(&c->e, m, be, &stream, &m->protocol, eo, err));
    BD_TRY(bd_evaluator_allow_guess(c->e, err));
    c->nll = malloc(bd_evaluator_most(c->e) * sizeof *c->nll);
    c->freq = malloc((uint64_t)c->vocab * sizeof *c->freq);
    c->work = malloc((uint64_t)c->vocab * sizeof *c->work);
    if (!c->nll || !c->freq || !c->work) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_freq_decode_begin(&c->coder, p->code, p->code_size);
    c->started = true;
    for (;;) {
        bd_step_kind kind = bd_evaluator_next(c->e).kind;
        if (kind == BD_STEP_END) return BD_OK;
        if (kind == BD_STEP_SCORE) BD_TRY(bd_evaluator_guess(c->e, tokens, c->nll, next_token, c, err));
        else BD_TRY(bd_evaluator_run(c->e, NULL, NULL, 0, NULL, err));
    }
}

static void judge(bd_prove_result *r, const checker *c, const uint16_t *tokens, const bd_proof *p) {
    bd_evaluator_score(c->e, &r->score);
    bd_proof_hash_tokens(tokens, p->tokens + 1, r->tokens_hash);
    r->code_ended = bd_freq_decode_end(&c->coder);
    r->tokens_match = memcmp(r->tokens_hash, p->tokens_hash, 32) == 0;
    r->score_matches = r->score.nll_q32 == p->nll_q32;
    r->ok = r->code_ended && r->tokens_match && r->score_matches;
    if (!r->tokens_match)
        snprintf(r->detail, sizeof r->detail, "what was decoded has another hash than the proof states");
    else if (!r->score_matches)
        snprintf(r->detail, sizeof r->detail, "the score is nll_q32 %" PRId64 ", the proof states %" PRId64,
                 r->score.nll_q32, p->nll_q32);
    else if (!r->code_ended)
        snprintf(r->detail, sizeof r->detail, "the code does not end where its last token does");
}

/* Failures that a wrong code can bring about: garbage decodes to no token, or makes learning diverge. */
static bool is_verdict(bd_status st) { return st == BD_E_RANGE || st == BD_E_NONFINITE; }

bd_status bd_prove_check(bd_prove_result *r, uint16_t *tokens, const bd_proof *p, const bd_model *m, bd_backend *be,
                         const bd_prove_opts *opts, bd_err *err) {
    const bd_prove_opts *o = opts ? opts : &no_opts;
    bd_eval_opts eo;
    bd_eval_plan plan;
    bd_err e = {0};
    memset(r, 0, sizeof *r);
    BD_TRY(bd_prove_matches(p, m, err));
    if (p->first_token >= m->graph->vocab)
        return BD_FAIL_AT(err, BD_E_RANGE, 32, "first token %u is not below the vocabulary size %d", p->first_token,
                          m->graph->vocab);
    BD_TRY(plan_run(&eo, &plan, m, p->tokens + 1, true, o, err));
    checker c = {.vocab = m->graph->vocab};
    bd_status st = decode_all(&c, tokens, p, m, be, &eo, &e);
    r->decoded = c.decoded;
    if (st == BD_OK) {
        judge(r, &c, tokens, p);
    } else if (c.started && is_verdict(st)) {
        snprintf(r->detail, sizeof r->detail, "decoding failed after %" PRIu64 " tokens: %.400s", c.decoded, e.msg);
        st = BD_OK;
    } else if (err) {
        *err = e;
    }
    bd_evaluator_close(c.e);
    free(c.nll);
    free(c.freq);
    free(c.work);
    return st;
}
