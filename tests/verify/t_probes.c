/* The probes of the verifier: planted cheats are caught by the check that is meant
 * for them, and legal artifacts pass. */
#include "base/file.h"
#include "base/philox.h"
#include "tests/verify/cheats.h"
#include "verify/doc_overlap.h"
#include "verify/martingale.h"
#include "verify/seed_match.h"
#include "verify/source.h"
#include "verify/verify_artifact.h"

enum { N = 601 };

typedef struct lab {
    bd_arena *arena;
    bd_model *model;
    bd_tokenizer *tokenizer;
    bd_artifact *art;
    bd_shards shards;
    bd_rules rules;
    bd_backend *be;
    char path[128], shard[128];
    uint16_t tokens[N], sidecar[N];
    bd_buf text;
} lab;

static bd_protocol windows(uint32_t window, uint32_t stride) {
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = window;
    p.stride = stride;
    return p;
}

static bd_protocol sgd(uint32_t window, uint32_t stride, uint32_t chunk) {
    bd_protocol p = windows(window, stride);
    p.kind = BD_PROTO_SGD;
    p.chunk = chunk;
    p.epochs = 2;
    p.batch = 2;
    p.lr = 0.05;
    p.momentum = 0.9;
    p.clip = 1;
    p.freeze = 1;
    return p;
}

static void lab_write(lab *l) {
    bd_buf f;
    bd_err e = {0};
    ta_build(l->art, &f);
    CHECK_OK(bd_file_write(l->path, f.data, f.size, &e), &e);
    bd_buf_free(&f);
}

static lab *lab_open(const bd_protocol *p, uint64_t seed) {
    lab *l = calloc(1, sizeof *l);
    bd_err e = {0};
    CHECK(l != NULL);
    l->arena = bd_arena_create(0);
    CHECK(l->arena != NULL);
    l->model = tiny_model(&TA_SPEC, seed);
    l->tokenizer = ta_tokenizer(false);
    l->art = ta_artifact(l->arena, l->model, l->tokenizer, p);
    ta_tokens(l->tokens, N, seed + 100);
    snprintf(l->path, sizeof l->path, "%s/p.birdie", test_tmp());
    snprintf(l->shard, sizeof l->shard, "%s/p_val_0.bin", test_tmp());
    CHECK_OK(bd_shard_write(l->shard, l->tokens, N, &e), &e);
    const char *paths[] = {l->shard};
    CHECK_OK(bd_shards_open(&l->shards, paths, 1, &e), &e);
    CHECK_OK(bd_rules_open(&l->rules, NULL, &e), &e);
    bd_tokenizer_stream_bytes(l->tokenizer, l->tokens, N, l->sidecar);
    bd_buf_init(&l->text);
    for (int i = 0, end; i < N; i = end) {
        for (end = i + 1; end < N && l->tokens[end] != TA_BOS;) end++;
        if (i) bd_buf_put(&l->text, "\n\n", 2);
        CHECK_OK(bd_tokenizer_decode(l->tokenizer, l->tokens + i, (uint64_t)(end - i), &l->text, &e), &e);
    }
    l->be = test_backend("cpu", 1);
    lab_write(l);
    return l;
}

static void lab_close(lab *l) {
    bd_backend_close(l->be);
    bd_buf_free(&l->text);
    bd_shards_close(&l->shards);
    bd_tokenizer_close(l->tokenizer);
    bd_model_close(l->model);
    bd_arena_destroy(l->arena);
    free(l);
}

static bd_verify_opts options(const lab *l, uint64_t seed) {
    return (bd_verify_opts){.path = l->path,
                            .shards = &l->shards,
                            .tokenizer = l->tokenizer,
                            .rules = &l->rules,
                            .checks = BD_CHECKS_ALL,
                            .has_seed = true,
                            .seed = seed};
}

static const bd_verify_result *verify(const lab *l, const bd_verify_opts *o) {
    static bd_verify_result r;
    bd_err e = {0};
    CHECK_OK(bd_verify_artifact(&r, l->be, o, &e), &e);
    CHECK(!r.scored || (r.causality && strstr(r.causality, "attention (past)")));
    bd_verify_result_free(&r);
    return &r;
}

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

static void expect_clean(const bd_verify_result *r) {
    for (int i = 0; i < r->verdict.n; i++) {
        const bd_check *c = &r->verdict.checks[i];
        CHECK_MSG(c->outcome == BD_PASS || c->outcome == BD_NOT_CHECKED, "%s %s %s: %s", c->id,
                  bd_outcome_name(c->outcome), c->value, c->detail);
    }
    CHECK(r->overall == BD_PASS);
}

/* --- legal runs --- */

TEST(legal_artifacts_give_no_alarm) {
    const bd_protocol cases[] = {windows(32, 0), windows(48, 16), windows(1024, 0),
                                 sgd(32, 0, 96), sgd(48, 16, 64), sgd(200, 0, 100)};
    int runs = 0;
    for (int k = 0; k < 6; k++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            lab *l = lab_open(&cases[k], test_seed() + 31 * seed);
            bd_verify_opts o = options(l, test_seed() * 1000 + seed);
            const bd_verify_result *r = verify(l, &o);
            expect_clean(r);
            expect(r, "CAUSAL", BD_PASS, "the distribution at each place is the same");
            expect(r, "RANDOM", BD_PASS, "model: source");
            expect(r, "NORM", BD_PASS, "600 distributions over 32 tokens");
            if (cases[k].kind == BD_PROTO_SGD) expect(r, "ORDER", BD_PASS, "changed by");
            runs++;
            lab_close(l);
        }
    printf("    %d legal runs, no alarm\n", runs);
}

TEST(a_causal_normalised_cache_is_legal) {
    const bd_protocol cases[] = {windows(32, 0), sgd(32, 0, 96)};
    for (int k = 0; k < 2; k++) {
        cheat_plan plan = {.kind = LEGAL_CACHE};
        lab *l = lab_open(&cases[k], 3);
        bd_verify_opts o = options(l, 11);
        o.wrap = ch_wrap;
        o.wrap_user = &plan;
        const bd_verify_result *r = verify(l, &o);
        expect_clean(r);
        lab_close(l);
    }
}

/* --- cheats --- */

static const char *const COLUMNS[] = {"SIZE",  "CAUSAL", "NORM",   "ORDER", "COVER",
                                      "BYTES", "DATA",   "MEMORY", "RANDOM"};
enum { N_COLUMNS = sizeof COLUMNS / sizeof *COLUMNS };

static void print_head(void) {
    printf("    | %-45s |", "cheat");
    for (int i = 0; i < N_COLUMNS; i++) printf(" %s |", COLUMNS[i]);
    printf("\n    |%.*s|", 47, "------------------------------------------------");
    for (int i = 0; i < N_COLUMNS; i++) printf("---|");
    printf("\n");
}

static void print_row(const char *name, const bd_verify_result *r) {
    printf("    | %-45s |", name);
    for (int i = 0; i < N_COLUMNS; i++) {
        bd_outcome o = check(r, COLUMNS[i])->outcome;
        printf(" %s |", o == BD_PASS ? "" : o == BD_NOT_CHECKED ? "-" : bd_outcome_name(o));
    }
    printf("\n");
}

static void caught(const char *name, const bd_verify_result *r, const char *id) {
    const bd_check *c = check(r, id);
    bool warns = !strcmp(id, "MEMORY");
    CHECK_MSG(c->outcome == (warns ? BD_WARN : BD_FAILED), "%s: %s is %s: %s", name, id,
              bd_outcome_name(c->outcome), c->detail);
    CHECK_MSG(r->overall == c->outcome || r->overall == BD_FAILED, "%s", name);
}

TEST(cheats_of_predictors_are_caught) {
    static const char *const names[] = {
#define CH_X(symbol, name, id) name,
        CHEATS(CH_X)
#undef CH_X
    };
    static const char *const ids[] = {
#define CH_X(symbol, name, id) id,
        CHEATS(CH_X)
#undef CH_X
    };
    const bd_protocol cases[] = {windows(32, 0), sgd(32, 0, 96)};
    for (int p = 0; p < 2; p++) {
        printf("    %s\n", p ? "protocol that learns" : "protocol of windows");
        print_head();
        lab *l = lab_open(&cases[p], test_seed() + 5);
        for (int k = 0; k < CHEAT_COUNT; k++) {
            cheat_plan plan = {k, l->tokens, N};
            bd_verify_opts o = options(l, test_seed() + 77);
            o.wrap = ch_wrap;
            o.wrap_user = &plan;
            const bd_verify_result *r = verify(l, &o);
            print_row(names[k], r);
            caught(names[k], r, ids[k]);
            /* Whoever gains by it is caught by the random streams too, whatever the mechanism. */
            bool gains = k == CHEAT_READ_TARGET || k == CHEAT_GOLD_ONLY || k == CHEAT_HINT ||
                         k == CHEAT_BLOCK_MIX || k == CHEAT_DELTA;
            if (gains) caught(names[k], r, "RANDOM");
        }
        lab_close(l);
    }
}

static void store_prefix(lab *l, uint64_t from, int n) {
    for (uint32_t g = 0; g < l->art->n_groups; g++)
        for (uint32_t i = 0; i < l->art->groups[g].n_tensors; i++) {
            bd_qtensor *q = &l->art->groups[g].tensors[i];
            if (q->method != BD_Q_ROW || (int)(q->rows * q->cols) < n) continue;
            for (int k = 0; k < n; k++) q->codes[k] = (int8_t)l->tokens[from + (uint64_t)k];
            return;
        }
    CHECK(false);
}

TEST(cheats_of_files_and_tables_are_caught) {
    bd_protocol p = windows(32, 0);
    print_head();
    lab *l = lab_open(&p, 9);
    bd_verify_opts o = options(l, 1);
    store_prefix(l, 37, 120);
    lab_write(l);
    const bd_verify_result *r = verify(l, &o);
    print_row("validation prefix stored in the artifact", r);
    caught("prefix", r, "DATA");
    expect(r, "DATA", BD_FAILED, "120 tokens of the validation stream from 37 on");
    store_prefix(l, 37, 63);
    for (uint32_t k = 63; k < 120; k++) l->art->groups[0].tensors[0].codes[k] = 0;
    lab_write(l);
    r = verify(l, &o);
    CHECK(check(r, "DATA")->outcome == BD_PASS);
    lab_close(l);

    l = lab_open(&p, 9);
    o = options(l, 1);
    const char *train[] = {l->shard};
    o.train = train;
    o.n_train = 1;
    r = verify(l, &o);
    print_row("trained on validation documents", r);
    caught("trained on validation documents", r, "DATA");

    o = options(l, 1);
    o.text = (const char *)l->text.data;
    o.text_size = l->text.size;
    o.sidecar = l->sidecar;
    expect_clean(verify(l, &o));
    for (int t = 1; t < N; t++) l->sidecar[t] = (uint16_t)(l->sidecar[t] + (l->tokenizer->lead[l->tokens[t]] != 0));
    r = verify(l, &o);
    print_row("spaces counted twice", r);
    caught("spaces", r, "BYTES");
    bd_tokenizer_stream_bytes(l->tokenizer, l->tokens, N, l->sidecar);
    for (int t = 1; t < N; t++)
        if (l->tokens[t] == TA_BOS) l->sidecar[t] = 3;
    r = verify(l, &o);
    print_row("control tokens of three bytes", r);
    caught("control tokens", r, "BYTES");

    o = options(l, 1);
    l->rules.size_cap = r->file_bytes * 1000000 / 1048576 + 1;
    r = verify(l, &o);
    print_row("cap taken for MiB", r);
    caught("cap", r, "SIZE");
    lab_close(l);
}

TEST(documents_are_isolated_where_the_rules_ask) {
    bd_protocol p = windows(64, 0);
    lab *l = lab_open(&p, 4);
    bd_verify_opts o = options(l, 1);
    l->rules.policy[BD_POLICY_DOCUMENT_BOUNDARY] = 1; /* isolate: attention sees the documents before */
    CHECK(bd_policy_is(&l->rules, BD_POLICY_DOCUMENT_BOUNDARY, "isolate"));
    expect(verify(l, &o), "CAUSAL", BD_FAILED, "the documents before were replaced");
    o.tokenizer = NULL;
    expect(verify(l, &o), "CAUSAL", BD_NOT_CHECKED, "without the tokenizer");
    o.tokenizer = l->tokenizer;
    l->rules.policy[BD_POLICY_DOCUMENT_BOUNDARY] = 2;
    expect(verify(l, &o), "CAUSAL", BD_PASS, "");
    p = sgd(32, 0, 96);
    l->art->protocol = p;
    lab_write(l);
    l->rules.policy[BD_POLICY_TRACK] = 1;
    expect(verify(l, &o), "POLICY", BD_FAILED, "track: fixed (FAIL)");
    l->rules.policy[BD_POLICY_TRACK] = 0;
    l->rules.policy[BD_POLICY_LEARN_EPOCHS] = 1;
    expect(verify(l, &o), "POLICY", BD_FAILED, "learn-epochs: one (FAIL)");
    lab_close(l);
}

TEST(seeds_decide_and_reports_repeat) {
    bd_protocol p = sgd(32, 0, 96);
    lab *l = lab_open(&p, 2);
    bd_verify_opts o = options(l, 5);
    bd_verify_result a = *verify(l, &o), b = *verify(l, &o);
    CHECK(!memcmp(&a.verdict, &b.verdict, sizeof a.verdict));
    bd_backend_close(l->be);
    l->be = test_backend("ref", 2);
    b = *verify(l, &o);
    CHECK(!memcmp(&a.verdict, &b.verdict, sizeof a.verdict));
    o.seed = 6;
    b = *verify(l, &o);
    CHECK(strcmp(check(&a, "RANDOM")->detail, check(&b, "RANDOM")->detail) != 0);
    o.has_seed = false; /* secret, and told */
    a = *verify(l, &o);
    b = *verify(l, &o);
    expect(&a, "RANDOM", BD_PASS, "secret until now");
    CHECK(strcmp(check(&a, "RANDOM")->detail, check(&b, "RANDOM")->detail) != 0);
    CHECK_STR(check(&a, "CAUSAL")->detail, check(&b, "CAUSAL")->detail);
    o.checks = 0;
    expect(verify(l, &o), "RANDOM", BD_NOT_CHECKED, "--checks RANDOM");
    snprintf(l->rules.required[l->rules.n_required++], 16, "RANDOM");
    expect(verify(l, &o), "RANDOM", BD_PASS, "2 learning steps");
    lab_close(l);
    unsigned mask;
    bd_err e = {0};
    CHECK_OK(bd_verify_checks_parse(&mask, "CAUSAL,RANDOM", &e), &e);
    CHECK(mask == BD_CHECKS_RANDOM);
    CHECK_OK(bd_verify_checks_parse(&mask, "all", &e), &e);
    CHECK(mask == BD_CHECKS_ALL);
    CHECK(bd_verify_checks_parse(&mask, "RANDON", &e) == BD_E_USAGE && strstr(e.msg, "RANDOM"));
    CHECK(bd_verify_checks_parse(&mask, "", &e) == BD_E_USAGE);
}

TEST(several_runs_against_an_incumbent) {
    bd_protocol p = windows(32, 0);
    lab *l = lab_open(&p, 2);
    bd_verify_opts o = options(l, 5);
    o.checks = 0;
    const bd_verify_result *r = verify(l, &o);
    expect(r, "STATS", BD_NOT_CHECKED, "--runs");
    double x = r->score.val_bpb;
    uint64_t n = r->score.tokens, bytes = r->score.bytes;
    bd_run_result mine[] = {{x + 0.001, n, bytes, 1}, {x - 0.001, n, bytes, 2}, {x + 0.001, n, bytes, 1}};
    bd_run_result other[] = {{x + 0.05, n, bytes, 4}, {x + 0.051, n, bytes, 5}, {x + 0.049, n, bytes, 6}};
    l->rules.seeds = 3;
    l->rules.bar_nats = 0.005;
    l->rules.bar_p = 0.01;
    o.runs = mine;
    o.n_runs = 1;
    expect(verify(l, &o), "STATS", BD_WARN, "fewer runs than the rules ask for");
    o.n_runs = 3;
    expect(verify(l, &o), "STATS", BD_PASS, "copies were counted once");
    o.incumbent = other;
    o.n_incumbent = 3;
    expect(verify(l, &o), "STATS", BD_PASS, "3 against 3 runs");
    for (int i = 0; i < 3; i++) other[i].val_bpb -= 0.048; /* better, by less than the bar */
    r = verify(l, &o);
    expect(r, "STATS", BD_FAILED, "one-sided Welch test");
    CHECK(r->overall == BD_FAILED);
    o.n_incumbent = 1;
    expect(verify(l, &o), "STATS", BD_WARN, "which allows no test");
    other[0].bytes += 7;
    expect(verify(l, &o), "STATS", BD_FAILED, "other text");
    lab_close(l);
}

/* --- parts --- */

TEST(martingale_of_fair_games_stays_low_and_leaks_show) {
    enum { TOKENS = 4096, GAMES = 400 };
    uint64_t rnd = test_seed();
    int high = 0;
    for (int g = 0; g < GAMES; g++) { /* a source of two tokens; the predictor guesses other odds as it likes */
        bd_martingale m;
        bd_martingale_init(&m, TOKENS);
        for (int t = 0; t < TOKENS; t++) {
            double q = 0.2 + 0.6 * test_uniform(&rnd), p = 0.2 + 0.6 * test_uniform(&rnd);
            if (g % 2) p = q + 0.02;
            bool one = test_uniform(&rnd) < q;
            bd_martingale_add(&m, -log(one ? p : 1 - p), -log(one ? q : 1 - q));
        }
        high += m.excess >= log(20);
        CHECK_MSG(m.excess < -log(1e-9), "%g", m.excess);
    }
    CHECK_MSG(high <= GAMES / 20 + 15, "%d of %d games exceed 20", high, GAMES);
    /* Losses first, a leak afterwards: found through a later start. */
    bd_martingale m;
    bd_martingale_init(&m, TOKENS);
    for (int t = 0; t < TOKENS; t++) bd_martingale_add(&m, t < TOKENS / 2 ? 3 : 1.9, 2);
    CHECK_MSG(m.excess > 0.1 * TOKENS / 2 - 10 * log(2), "%g", m.excess);
    CHECK(m.ours > m.theirs);
    /* What it says could be detected is detected, and a little less is not. */
    bd_martingale base;
    bd_martingale_init(&base, TOKENS);
    uint64_t again = rnd;
    for (int t = 0; t < TOKENS; t++) bd_martingale_add(&base, 2 + 0.1 * test_uniform(&rnd), 2);
    double leak = bd_martingale_detectable(&base, 1e-9);
    CHECK_MSG(leak > 0.04 && leak < 0.06, "%g", leak);
    bd_martingale_init(&m, TOKENS);
    for (int t = 0; t < TOKENS; t++) bd_martingale_add(&m, 2 + 0.1 * test_uniform(&again) - leak - 1e-6, 2);
    CHECK(m.excess >= -log(1e-9));
    for (int j = 1; j < BD_MARTINGALE_STARTS; j++) CHECK(m.start[j] > 0 && m.start[j] < TOKENS);
}

TEST(sources_have_the_probabilities_they_state) {
    /* For each source the mean of nll over draws is its entropy, so cross-entropies of other sources exceed it; and
     * the fixed model itself, run by the evaluator, costs what the source states. */
    enum { TOKENS = 4096 };
    bd_protocol cases[] = {windows(32, 0), windows(40, 12), windows(8192, 0)};
    static uint16_t tokens[TOKENS + 1];
    static double nll[TOKENS + 1], got[TOKENS + 1];
    bd_err e = {0};
    bd_backend *be = test_backend("cpu", 1);
    for (int k = 0; k < 3; k++) {
        bd_model *m = tiny_model(&TA_SPEC, 40 + (uint64_t)k);
        uint64_t n = k == 2 ? 300 : TOKENS;
        CHECK_OK(
            bd_source_draw(BD_SOURCE_MODEL, m, be, &cases[k], test_seed(), TA_BOS, tokens, nll, n, 0, NULL, &e),
            &e);
        bd_predictor *p = NULL;
        CHECK_OK(bd_predictor_open(&p, m, be, &cases[k], 0, &e), &e);
        CHECK_OK(p->vt->begin(p, tokens, n + 1, n + 1, &e), &e);
        for (bd_step s; (s = p->vt->next(p)).kind != BD_STEP_END;)
            CHECK_OK(p->vt->run(p, got + s.first, NULL, 0, NULL, &e), &e);
        for (uint64_t t = 1; t <= n; t++)
            CHECK_MSG(fabs(got[t] - nll[t]) < 1e-12, "%d %g %g", (int)t, got[t], nll[t]);
        bd_predictor_close(p);
        bd_model_close(m);
    }
    bd_model *m = tiny_model(&TA_SPEC, 3);
    CHECK_OK(bd_source_draw(BD_SOURCE_UNIFORM, m, be, &cases[0], 9, TA_BOS, tokens, nll, TOKENS, 0, NULL, &e), &e);
    int count[TA_VOCAB] = {0};
    for (int t = 1; t <= TOKENS; t++) count[tokens[t]]++;
    for (int i = 0; i < TA_VOCAB; i++) CHECK_MSG(abs(count[i] - TOKENS / TA_VOCAB) < 70, "%d: %d", i, count[i]);
    CHECK_OK(bd_source_draw(BD_SOURCE_MARKOV, m, be, &cases[0], 9, TA_BOS, tokens, nll, TOKENS, 0, NULL, &e), &e);
    double sum = 0;
    int repeats = 0;
    for (int t = 1; t <= TOKENS; t++) sum += nll[t];
    for (int t = 200; t <= TOKENS; t++)
        for (int b = t - 1; b > 8; b--)
            if (!memcmp(tokens + t - 8, tokens + b - 8, 16)) {
                repeats++;
                break;
            }
    CHECK_MSG(sum / TOKENS > 0.3 && sum / TOKENS < 1.6, "%g", sum / TOKENS);
    CHECK_MSG(repeats > TOKENS / 10, "%d", repeats);
    bd_model_close(m);
    bd_backend_close(be);
}

TEST(drawing_keeps_to_the_memory_limit) {
    uint16_t tokens[9];
    double nll[9];
    bd_err e = {0};
    bd_protocol p = windows(32, 0);
    bd_backend *be = test_backend("cpu", 1);
    bd_model *m = tiny_model(&TA_SPEC, 1);
    CHECK(bd_source_draw(BD_SOURCE_MODEL, m, be, &p, 1, TA_BOS, tokens, nll, 8, 1000, NULL, &e) == BD_E_LIMIT);
    CHECK_OK(bd_source_draw(BD_SOURCE_MODEL, m, be, &p, 1, TA_BOS, tokens, nll, 8, 1u << 24, NULL, &e), &e);
    bd_model_close(m);
    bd_backend_close(be);
}

TEST(seed_and_extend_finds_what_brute_force_finds) {
    enum { TOKENS = 3000, SIZE = 4001 };
    uint64_t rnd = test_seed();
    bd_err e = {0};
    for (int round = 0; round < 200; round++) {
        static uint16_t t[TOKENS];
        static uint8_t hay[SIZE];
        uint64_t n = 6 + test_rand(&rnd) % (TOKENS - 6), size = test_rand(&rnd) % SIZE;
        unsigned vocab = round % 3 ? 1024 : 3;
        for (uint64_t i = 0; i < n; i++) t[i] = (uint16_t)(test_rand(&rnd) % vocab);
        for (uint64_t i = 0; i < size; i++) hay[i] = (uint8_t)test_rand(&rnd);
        uint64_t len = 13 + test_rand(&rnd) % 120, from = 0, at = 0;
        bool planted = n > len && size > 2 * len;
        if (planted) {
            from = test_rand(&rnd) % (n - len);
            at = test_rand(&rnd) % (size - 2 * len);
            for (uint64_t i = 0; i < len; i++) {
                hay[at + 2 * i] = (uint8_t)t[from + i];
                hay[at + 2 * i + 1] = (uint8_t)(t[from + i] >> 8);
            }
        }
        bd_seed_index *x = NULL;
        bd_seed_hit h;
        CHECK_OK(bd_seed_index_open(&x, t, n, &e), &e);
        bd_seed_scan(x, hay, size, &h);
        bd_seed_index_close(x);
        if (planted && vocab > 3)
            CHECK_MSG(h.tokens >= len && h.at_token <= from && h.at_byte <= at && h.different >= 4,
                      "round %d: %d of %d", round, (int)h.tokens, (int)len);
        for (uint64_t i = 0; i < h.tokens; i++) /* and what it finds is there */
            CHECK(hay[h.at_byte + 2 * i] + 256 * hay[h.at_byte + 2 * i + 1] == t[h.at_token + i]);
    }
}

TEST(document_overlap) {
    static uint16_t val[4000], train[4000];
    bd_err e = {0};
    bd_doc_overlap r;
    char path[128];
    const char *paths[] = {path};
    snprintf(path, sizeof path, "%s/o_train_0.bin", test_tmp());
    ta_tokens(val, 4000, 1);
    ta_tokens(train, 4000, 2);
    CHECK_OK(bd_shard_write(path, train, 4000, &e), &e);
    CHECK_OK(bd_doc_overlap_count(&r, val, 4000, TA_BOS, paths, 1, &e), &e);
    CHECK(r.found == 0 && r.documents > 90 && r.trained > 90);
    /* The second whole document of the stream, put between two of training. */
    uint64_t a = 1, b, at = 1;
    while (val[a] != TA_BOS) a++;
    for (b = a + 1; val[b] != TA_BOS;) b++;
    while (at < 2000 || train[at] != TA_BOS) at++;
    memmove(train + at + (b - a), train + at, (4000 - at - (b - a)) * sizeof *train);
    memcpy(train + at, val + a, (b - a) * sizeof *train);
    CHECK_OK(bd_shard_write(path, train, 4000, &e), &e);
    CHECK_OK(bd_doc_overlap_count(&r, val, 4000, TA_BOS, paths, 1, &e), &e);
    CHECK(r.found == 1 && r.first == 1);
    CHECK_OK(bd_doc_overlap_count(&r, val, 1, TA_BOS, paths, 1, &e), &e);
    CHECK(r.documents == 0 && r.found == 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
