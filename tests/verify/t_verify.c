/* The verifier over a tiny artifact: every check, passing and failing, and the
 * same numbers on every backend and thread count. */
#include <unistd.h>

#include "base/file.h"
#include "base/numerics.h"
#include "base/thread.h"
#include "tests/verify/tiny_artifact.h"
#include "verify/verify_artifact.h"

enum { N = 401 };

typedef struct setup {
    bd_arena *arena;
    bd_model *model;
    bd_tokenizer *tokenizer, *other;
    bd_artifact *art;
    bd_shards shards;
    bd_rules rules;
    char path[128], shard[128];
    uint16_t tokens[N], sidecar[N];
} setup;

static void write_file(setup *s) {
    bd_buf f;
    bd_err e = {0};
    ta_build(s->art, &f);
    CHECK_OK(bd_file_write(s->path, f.data, f.size, &e), &e);
    bd_buf_free(&f);
}

static bd_protocol windows(uint32_t window, uint32_t stride) {
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = window;
    p.stride = stride;
    return p;
}

static setup *setup_open(const bd_protocol *p) {
    setup *s = calloc(1, sizeof *s);
    bd_err e = {0};
    CHECK(s != NULL);
    s->arena = bd_arena_create(0);
    CHECK(s->arena != NULL);
    s->model = tiny_model(&TA_SPEC, 7);
    s->tokenizer = ta_tokenizer(false);
    s->other = ta_tokenizer(true);
    s->art = ta_artifact(s->arena, s->model, s->tokenizer, p);
    ta_tokens(s->tokens, N, 5);
    snprintf(s->path, sizeof s->path, "%s/x.birdie", test_tmp());
    snprintf(s->shard, sizeof s->shard, "%s/x_val_0.bin", test_tmp());
    CHECK_OK(bd_shard_write(s->shard, s->tokens, N, &e), &e);
    const char *paths[] = {s->shard};
    CHECK_OK(bd_shards_open(&s->shards, paths, 1, &e), &e);
    CHECK_OK(bd_rules_open(&s->rules, NULL, &e), &e);
    bd_tokenizer_stream_bytes(s->tokenizer, s->tokens, N, s->sidecar);
    write_file(s);
    return s;
}

static void setup_close(setup *s) {
    bd_shards_close(&s->shards);
    bd_tokenizer_close(s->tokenizer);
    bd_tokenizer_close(s->other);
    bd_model_close(s->model);
    bd_arena_destroy(s->arena);
    free(s);
}

static bd_verify_opts options(const setup *s) {
    return (bd_verify_opts){.path = s->path, .shards = &s->shards, .tokenizer = s->tokenizer, .rules = &s->rules};
}

static bd_verify_result *verify_on(const bd_verify_opts *o, const char *spec, int threads) {
    static bd_verify_result r;
    bd_err e = {0};
    bd_backend *be = test_backend(spec, threads);
    bd_status st = bd_verify_artifact(&r, be, o, &e);
    bd_backend_close(be);
    CHECK_OK(st, &e);
    static const char *const ids[] = {"STRUCTURE", "SIZE", "POLICY", "CAUSAL", "NORM",  "ORDER", "COVER",
                                      "BYTES",     "DATA", "MEMORY", "RANDOM", "SCORE", "TIME",  "STATS"};
    CHECK_EQ_U64(r.verdict.n, 14); /* always the same, in one order */
    for (int i = 0; i < 14; i++)
        CHECK_MSG(!strcmp(r.verdict.checks[i].id, ids[i]) && r.verdict.checks[i].detail[0], "%s", ids[i]);
    bd_verify_result_free(&r);
    return &r;
}
static bd_verify_result *verify(const bd_verify_opts *o) { return verify_on(o, "cpu", 1); }

static const bd_check *check(const bd_verify_result *r, const char *id) {
    for (int i = 0; i < r->verdict.n; i++)
        if (!strcmp(r->verdict.checks[i].id, id)) return &r->verdict.checks[i];
    CHECK_MSG(false, "no check %s", id);
    return NULL;
}

static void expect(const bd_verify_result *r, const char *id, bd_outcome o, const char *says) {
    const bd_check *c = check(r, id);
    CHECK_MSG(c->outcome == o && strstr(c->detail, says), "%s %s value %s limit %s: %s", id,
              bd_outcome_name(c->outcome), c->value, c->limit, c->detail);
}

/* Put the score of a run as the claim into the file. */
static void claim(setup *s, const bd_verify_result *r) {
    bd_claim *c = &s->art->claim;
    memset(c, 0, sizeof *c);
    c->present = true;
    c->numerics = BD_NUMERICS_VERSION;
    c->n_shards = 1;
    memcpy(c->shard_sha256[0], s->shards.shards[0].sha256, 32);
    c->first_target = 1;
    c->tokens = r->score.tokens;
    c->bytes = r->score.bytes;
    c->nll_q32 = r->score.nll_q32;
    write_file(s);
}

static const char *const SPECS[] = {"ref", "cpu:avx2", "cpu:avx512"};

/* Same score and same report on every backend that this machine has. */
static void everywhere(const bd_verify_opts *o) {
    bd_verify_result first = *verify_on(o, "cpu", 2);
    expect(&first, "SCORE", BD_PASS, "bit for bit");
    CHECK(first.overall == BD_PASS);
    for (int i = 0; i < 3; i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            bd_backend *be = NULL;
            bd_err e = {0};
            if (bd_backend_open(&be, SPECS[i], 1, &e) != BD_OK) continue; /* not on this machine */
            bd_backend_close(be);
            bd_verify_result *r = verify_on(o, SPECS[i], threads);
            CHECK_EQ_U64(r->score.nll_q32, first.score.nll_q32);
            CHECK(!memcmp(&r->verdict, &first.verdict, sizeof r->verdict));
            CHECK(r->flops == first.flops && r->overall == first.overall);
        }
}

TEST(claimed_score_passes_everywhere) {
    const bd_protocol cases[] = {windows(32, 0), windows(48, 16), windows(1024, 0)};
    for (int i = 0; i < 3; i++) {
        setup *s = setup_open(&cases[i]);
        bd_verify_opts o = options(s);
        bd_verify_result *r = verify(&o);
        CHECK(r->overall == BD_PASS && r->scored && r->score.tokens == N - 1);
        expect(r, "STRUCTURE", BD_PASS, "two decoders agree");
        expect(r, "SIZE", BD_PASS, "below the cap");
        expect(r, "COVER", BD_PASS, "targets 1..400 scored once each");
        expect(r, "BYTES", BD_PASS, "counted twice from the tokenizer's tables");
        expect(r, "SCORE", BD_NOT_CHECKED, "claims no score");
        expect(r, "TIME", BD_NOT_CHECKED, "only report times");
        claim(s, r);
        everywhere(&o);
        setup_close(s);
    }
}

TEST(test_time_training_reproduces_everywhere) {
    bd_protocol p = windows(32, 0);
    p.kind = BD_PROTO_SGD;
    p.chunk = 96;
    p.epochs = 2;
    p.batch = 2;
    p.lr = 0.05;
    p.momentum = 0.9;
    p.clip = 1;
    p.freeze = 1;
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result learnt = *verify(&o);
    CHECK(learnt.overall == BD_PASS);
    claim(s, &learnt);
    everywhere(&o);
    s->art->protocol = windows(32, 0);
    s->art->claim.present = false;
    write_file(s);
    CHECK(verify(&o)->score.nll_q32 != learnt.score.nll_q32); /* it did learn something */
    setup_close(s);
}

TEST(claims_that_do_not_hold) {
    bd_protocol p = windows(64, 0);
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result r0 = *verify(&o), *r;
    claim(s, &r0);
    s->art->claim.nll_q32++;
    write_file(s);
    r = verify(&o);
    expect(r, "SCORE", BD_FAILED, "measured nll_q32");
    CHECK(r->overall == BD_FAILED);
    s->art->claim.nll_q32--;
    s->art->claim.bytes++;
    write_file(s);
    expect(verify(&o), "SCORE", BD_FAILED, "claimed");
    o.tokenizer = NULL; /* nothing to hold against the claimed bytes */
    r = verify(&o);
    expect(r, "SCORE", BD_PASS, "bytes were not counted");
    expect(r, "BYTES", BD_NOT_CHECKED, "no tokenizer");
    CHECK(r->overall == BD_FAILED); /* the rules require BYTES */
    o.tokenizer = s->tokenizer;
    s->art->claim.bytes--;
    write_file(s);
    CHECK(verify(&o)->overall == BD_PASS);

    o.fast = true;
    expect(verify(&o), "SCORE", BD_NOT_CHECKED, "exact mode only");
    o.fast = false;
    o.max_tokens = 100;
    r = verify(&o);
    expect(r, "SCORE", BD_NOT_CHECKED, "use --max-tokens 400");
    expect(r, "COVER", BD_PASS, "a part of the stream");
    CHECK(r->overall == BD_PASS);
    o.max_tokens = 0;
    s->art->claim.tokens = 4000;
    write_file(s);
    expect(verify(&o), "SCORE", BD_NOT_CHECKED, "covers 4000 targets from target 1, 400 were scored");
    CHECK(!strstr(check(verify(&o), "SCORE")->detail, "use --max"));
    s->art->claim.tokens = N - 1;
    s->art->claim.first_target = 2;
    write_file(s);
    expect(verify(&o), "SCORE", BD_NOT_CHECKED, "from target 2");
    s->art->claim.first_target = 1;
    s->art->claim.numerics = 77;
    write_file(s);
    expect(verify(&o), "SCORE", BD_NOT_CHECKED, "numerics version 77");
    s->art->claim.numerics = BD_NUMERICS_VERSION;
    s->art->claim.shard_sha256[0][5] ^= 1;
    write_file(s);
    r = verify(&o);
    expect(r, "SCORE", BD_NOT_CHECKED, "the hashes differ");
    CHECK(r->overall == BD_PASS);
    s->art->claim.n_shards = 2;
    write_file(s);
    expect(verify(&o), "SCORE", BD_NOT_CHECKED, "2 of them, 1 given");
    CHECK(r->score.nll_q32 == r0.score.nll_q32);
    setup_close(s);
}

TEST(bytes) {
    bd_protocol p = windows(64, 0);
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result *r;
    uint64_t total = 0;
    for (int i = 1; i < N; i++) total += s->sidecar[i];
    char number[32];
    snprintf(number, sizeof number, "%" PRIu64, total);
    CHECK_STR(check(verify(&o), "BYTES")->value, number);

    o.tokenizer = s->other;
    r = verify(&o);
    expect(r, "BYTES", BD_FAILED, "another tokenizer");
    CHECK(r->overall == BD_FAILED);
    o.tokenizer = s->tokenizer;

    o.sidecar = s->sidecar;
    expect(verify(&o), "BYTES", BD_PASS, "equal to the tokenizer's tables");
    o.tokenizer = NULL;
    r = verify(&o);
    expect(r, "BYTES", BD_WARN, "taken as given");
    CHECK(r->overall == BD_WARN);
    o.tokenizer = s->tokenizer;
    s->sidecar[9] = (uint16_t)(s->sidecar[9] + 3);
    r = verify(&o);
    expect(r, "BYTES", BD_WARN, "counted from the sidecar");
    CHECK_EQ_U64(r->score.bytes, total + 3);

    /* The original text decides: documents as decoded, joined by blank lines. */
    bd_buf text;
    bd_err e = {0};
    bd_buf_init(&text);
    for (int i = 0, end; i < N; i = end) {
        for (end = i + 1; end < N && s->tokens[end] != TA_BOS;) end++;
        if (i) bd_buf_put(&text, "\n\n", 2);
        CHECK_OK(bd_tokenizer_decode(s->tokenizer, s->tokens + i, (uint64_t)(end - i), &text, &e), &e);
    }
    o.text = (const char *)text.data;
    o.text_size = text.size;
    expect(verify(&o), "BYTES", BD_FAILED, "documents that equal their text");
    o.sidecar = NULL;
    r = verify(&o);
    expect(r, "BYTES", BD_PASS, "different");
    CHECK(strstr(check(r, "BYTES")->detail, " 0 different") && r->overall == BD_PASS);
    size_t letter = text.size / 2;
    while (text.data[letter] < 'a') letter++;
    text.data[letter] = 'Z';
    r = verify(&o);
    expect(r, "BYTES", BD_WARN, "1 different, the first is document");
    CHECK(r->overall == BD_WARN);
    o.text_size = 0;
    CHECK(verify(&o)->overall == BD_WARN);
    bd_buf_free(&text);
    setup_close(s);
}

TEST(rules_decide) {
    bd_protocol p = windows(64, 0);
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result *r;
    s->rules.size_cap = 1000;
    r = verify(&o);
    expect(r, "SIZE", BD_FAILED, "above the cap");
    CHECK_STR(check(r, "SIZE")->limit, "1000");
    CHECK(r->overall == BD_FAILED && r->scored);
    s->rules.size_cap = r->file_bytes;
    expect(verify(&o), "SIZE", BD_PASS, "0 bytes below");

    s->rules.canonical_tokens = 100; /* names the range: no max_tokens needed */
    r = verify(&o);
    expect(r, "COVER", BD_PASS, "targets 1..100");
    CHECK_EQ_U64(r->score.tokens, 100);
    o.max_tokens = 99;
    r = verify(&o);
    expect(r, "COVER", BD_FAILED, "the rules ask for 100 targets");
    CHECK(r->overall == BD_FAILED);
    o.max_tokens = 0;
    s->rules.canonical_tokens = 401;
    expect(verify(&o), "COVER", BD_FAILED, "the rules ask for 401");
    s->rules.tolerance = 0.01;
    expect(verify(&o), "COVER", BD_PASS, "targets 1..400");
    s->rules.canonical_tokens = 0;

    s->rules.canonical_bytes = verify(&o)->score.bytes;
    expect(verify(&o), "BYTES", BD_PASS, "bytes per token");
    s->rules.canonical_bytes *= 2;
    expect(verify(&o), "BYTES", BD_FAILED, "canonical count");
    s->rules.canonical_bytes = 0;

    s->rules.eval_s = 1000;
    expect(verify(&o), "TIME", BD_PASS, "no longer than the limit");
    s->rules.processors = bd_cpu_count();
    expect(verify(&o), "TIME", BD_PASS, "no longer than the limit");
    s->rules.eval_s = 1e-9;
    r = verify(&o);
    expect(r, "TIME", BD_FAILED, "longer than the limit");
    CHECK(r->overall == BD_FAILED);
    s->rules.processors = bd_cpu_count() + 1;
    r = verify(&o);
    expect(r, "TIME", BD_NOT_CHECKED, "this program may use");
    CHECK(strstr(check(r, "TIME")->value, "FLOPs") && r->overall == BD_PASS);
    snprintf(s->rules.required[s->rules.n_required++], 16, "TIME");
    CHECK(verify(&o)->overall == BD_FAILED);
    setup_close(s);
}

TEST(broken_files_and_inputs) {
    bd_protocol p = windows(64, 0);
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result *r, out;
    bd_err e = {0};
    bd_buf f;
    ta_build(s->art, &f);
    f.data[f.size / 2] ^= 4;
    CHECK_OK(bd_file_write(s->path, f.data, f.size, &e), &e);
    r = verify(&o);
    expect(r, "STRUCTURE", BD_FAILED, "");
    CHECK_STR(check(r, "STRUCTURE")->value, "E_CHECKSUM");
    expect(r, "SIZE", BD_PASS, "");
    expect(r, "COVER", BD_NOT_CHECKED, "no model");
    CHECK(r->overall == BD_FAILED && !r->scored);
    CHECK_OK(bd_file_write(s->path, f.data, 8, &e), &e); /* nothing but the magic */
    CHECK(verify(&o)->overall == BD_FAILED);
    bd_buf_free(&f);

    bd_backend *be = test_backend("cpu", 1);
    CHECK_OK(bd_file_write(s->path, "not an artifact", 15, &e), &e);
    CHECK(bd_verify_artifact(&out, be, &o, &e) == BD_E_MAGIC && e.file[0]);
    CHECK_OK(bd_file_write(s->path, "", 0, &e), &e);
    CHECK(bd_verify_artifact(&out, be, &o, &e) == BD_E_MAGIC);
    CHECK(unlink(s->path) == 0 && bd_status_exit(bd_verify_artifact(&out, be, &o, &e)) == 2);

    write_file(s);
    s->shards.tokens[77] = TA_VOCAB;
    e = (bd_err){0};
    CHECK(bd_verify_artifact(&out, be, &o, &e) == BD_E_RANGE && strstr(e.msg, "77"));
    s->shards.tokens[77] = 5;
    o.shards = NULL;
    r = verify(&o);
    expect(r, "STRUCTURE", BD_PASS, "");
    expect(r, "COVER", BD_NOT_CHECKED, "no validation shards");
    CHECK(r->overall == BD_FAILED);
    bd_backend_close(be);
    setup_close(s);
}

TEST(weights_that_score_nothing) {
    /* Finite weights whose activations are not: the artifact fails, not the command. */
    bd_protocol p = windows(64, 0);
    setup *s = setup_open(&p);
    for (uint32_t i = 0; i < s->art->groups[1].n_tensors; i++) {
        bd_qtensor *t = &s->art->groups[1].tensors[i];
        for (uint32_t k = 0; t->scales && k < t->rows; k++) t->scales[k] = 0x7bff;
        for (uint32_t k = 0; t->f16 && k < t->rows * t->cols; k++) t->f16[k] = 0x7bff;
    }
    write_file(s);
    bd_verify_opts o = options(s);
    bd_verify_result *r = verify(&o);
    if (!r->scored) {
        expect(r, "SCORE", BD_FAILED, "");
        expect(r, "COVER", BD_NOT_CHECKED, "could not be carried out");
        CHECK(r->overall == BD_FAILED);
    }
    setup_close(s);
}

TEST(more_than_the_limits) {
    bd_protocol p = windows(65535, 0);
    setup *s = setup_open(&p);
    bd_verify_opts o = options(s);
    bd_verify_result r;
    bd_err e = {0};
    bd_backend *be = test_backend("cpu", 1);
    o.max_memory = 20000; /* the weights */
    CHECK(bd_verify_artifact(&r, be, &o, &e) == BD_E_LIMIT && strstr(e.msg, "memory limit"));
    o.max_memory = 200000; /* the window */
    e = (bd_err){0};
    CHECK(bd_verify_artifact(&r, be, &o, &e) == BD_E_LIMIT);
    CHECK_MSG(strstr(e.msg, "one window of 400"), "%s", e.msg);
    o.max_memory = 100u << 20;
    CHECK_OK(bd_verify_artifact(&r, be, &o, &e), &e);
    bd_verify_result_free(&r);
    bd_backend_close(be);
    setup_close(s);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
