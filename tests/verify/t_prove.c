/* Proofs of tiny artifacts: round trips, and what happens to wrong ones. */
#include "bd_test.h"

#include "base/numerics.h"
#include "base/sha256.h"
#include "tiny_artifact.h"
#include "verify/prove.h"

enum { N = 700, TARGETS = 600 };

typedef struct fixture {
    bd_arena *arena;
    bd_model *plain, *m; /* m: out of the artifact */
    bd_tokenizer *tok;
    bd_shards shards;
    bd_shard shard;
    uint16_t tokens[N];
} fixture;

static bd_protocol protocol(bool sgd, uint32_t stride) {
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = 64;
    p.stride = stride;
    if (!sgd) return p;
    p.kind = BD_PROTO_SGD;
    p.chunk = 150;
    p.epochs = 1;
    p.batch = 2;
    p.lr = 0.05;
    p.momentum = 0.9;
    p.clip = 1;
    return p;
}

static void setup(fixture *f, const bd_protocol *p, uint64_t model_seed) {
    bd_err e = {0};
    bd_buf b;
    bd_artifact *art = NULL;
    memset(f, 0, sizeof *f);
    f->arena = bd_arena_create(1 << 22);
    f->plain = tiny_model(&TA_SPEC, model_seed);
    f->tok = ta_tokenizer(false);
    ta_build(ta_artifact(f->arena, f->plain, f->tok, p), &b);
    CHECK_OK(bd_artifact_parse(&art, b.data, b.size, NULL, &e), &e);
    CHECK_OK(bd_model_from_artifact(&f->m, art, NULL, &e), &e);
    bd_artifact_close(art);
    bd_buf_free(&b);
    ta_tokens(f->tokens, N, test_seed());
    f->shard.tokens = f->tokens;
    f->shard.n = N;
    memset(f->shard.sha256, 0x5a, 32);
    f->shards = (bd_shards){&f->shard, 1, f->tokens, N};
}

static void teardown(fixture *f) {
    bd_model_close(f->m);
    bd_model_close(f->plain);
    bd_tokenizer_close(f->tok);
    bd_arena_destroy(f->arena);
}

/* The proof file of the first TARGETS targets. */
static void prove(const fixture *f, const char *spec, int threads, bd_buf *file, bd_score *score) {
    bd_backend *be = test_backend(spec, threads);
    bd_prove_opts o = {.max_tokens = TARGETS};
    bd_err e = {0};
    bd_proof p;
    bd_buf code;
    bd_buf_init(&code);
    bd_buf_init(file);
    CHECK_OK(bd_prove(&p, &code, file, score, f->m, be, &f->shards, &o, &e), &e);
    CHECK(p.tokens == TARGETS && p.code_size == code.size);
    bd_buf_free(&code);
    bd_backend_close(be);
}

static bd_status check_on(const fixture *f, bd_backend *be, const bd_buf *file, bd_prove_result *r,
                          uint16_t *tokens, bd_err *e) {
    bd_proof p;
    bd_status st = bd_proof_parse(&p, file->data, file->size, 0, e);
    if (st != BD_OK) return st;
    CHECK(p.tokens <= TARGETS);
    return bd_prove_check(r, tokens, &p, f->m, be, NULL, e);
}

static void round_trip(bool sgd, uint32_t stride) {
    static const char *const specs[] = {"cpu", "cpu:avx512", "cpu:avx2", "ref"};
    bd_protocol p = protocol(sgd, stride);
    fixture f;
    setup(&f, &p, 11);
    bd_buf file, again;
    bd_score score, other, evaluated;
    bd_err e = {0};
    prove(&f, "cpu", 2, &file, &score);
    prove(&f, "ref", 1, &again, &other);
    CHECK(file.size == again.size && memcmp(file.data, again.data, file.size) == 0);
    bd_backend *be = test_backend("cpu", 1);
    bd_stream stream = {f.tokens, NULL, N};
    bd_eval_opts eo = {.max_tokens = TARGETS};
    CHECK_OK(bd_evaluate(f.m, be, &stream, &p, &eo, &evaluated, &e), &e);
    CHECK(evaluated.nll_q32 == score.nll_q32);
    bd_backend_close(be);
    bd_proof proof;
    CHECK_OK(bd_proof_parse(&proof, file.data, file.size, 0, &e), &e);
    double ideal = bd_prove_ideal_bytes(score.nll_q32);
    CHECK_MSG(fabs((double)proof.code_size - ideal) <= 1e-4 * ideal + 2, "%d bytes for %g", (int)proof.code_size,
              ideal);
    CHECK(proof.nll_q32 == score.nll_q32 && proof.numerics == BD_NUMERICS_VERSION);
    for (int i = 0; i < 4; i++) {
        uint16_t tokens[TARGETS + 1];
        bd_prove_result r;
        if (bd_backend_open(&be, specs[i], 1 + i % 2, &e)) continue; /* not on this machine */
        CHECK_OK(check_on(&f, be, &file, &r, tokens, &e), &e);
        CHECK_MSG(r.ok, "%s: %s", specs[i], r.detail);
        CHECK(r.decoded == TARGETS && r.score.nll_q32 == score.nll_q32);
        CHECK(memcmp(tokens, f.tokens, sizeof tokens) == 0);
        bd_backend_close(be);
    }
    bd_buf_free(&file);
    bd_buf_free(&again);
    teardown(&f);
}

TEST(windows) { round_trip(false, 0); }
TEST(sliding_windows) { round_trip(false, 24); }
TEST(test_time_training) { round_trip(true, 0); }
TEST(test_time_training_with_sliding_windows) { round_trip(true, 20); }

/* The case that is asked for: 16,384 tokens of a real shard, chunks of 2,048, other threads for the other half. */
TEST(sixteen_thousand_tokens_of_a_validation_shard) {
    static const tiny_spec spec = {1024, 16, 1, 2, 1, 16};
    enum { MANY = 16384 };
    const char *path = test_data("tokens/fineweb_val_000000.sp1024.bin");
    if (!path) SKIP("no validation shard");
    bd_err e = {0};
    bd_shards shards;
    CHECK_OK(bd_shards_open(&shards, &path, 1, &e), &e);
    bd_protocol p = protocol(true, 0);
    p.window = 512;
    p.chunk = 2048;
    bd_arena *arena = bd_arena_create(1 << 24);
    bd_tokenizer *tok = ta_tokenizer(false);
    bd_model *plain = tiny_model(&spec, 5), *m = NULL;
    bd_artifact *art = ta_artifact(arena, plain, tok, &p), *read = NULL;
    bd_buf b, code, file;
    bd_score score;
    bd_proof proof;
    bd_prove_opts o = {.max_tokens = MANY};
    bd_prove_result r;
    art->vocab = 1024;
    ta_build(art, &b);
    CHECK_OK(bd_artifact_parse(&read, b.data, b.size, NULL, &e), &e);
    CHECK_OK(bd_model_from_artifact(&m, read, NULL, &e), &e);
    bd_buf_init(&code);
    bd_buf_init(&file);
    bd_backend *two = test_backend("cpu", 2), *one = test_backend("cpu", 1);
    CHECK_OK(bd_prove(&proof, &code, &file, &score, m, two, &shards, &o, &e), &e);
    double ideal = bd_prove_ideal_bytes(score.nll_q32);
    printf("    %d bytes of code, nll / (8 ln 2) = %.1f\n", (int)proof.code_size, ideal);
    CHECK(fabs((double)proof.code_size - ideal) <= 1e-4 * ideal + 64);
    uint16_t *tokens = malloc((MANY + 1) * sizeof *tokens);
    CHECK(tokens != NULL);
    CHECK_OK(bd_proof_parse(&proof, file.data, file.size, 0, &e), &e);
    CHECK_OK(bd_prove_check(&r, tokens, &proof, m, one, NULL, &e), &e);
    CHECK_MSG(r.ok && r.decoded == MANY, "%s", r.detail);
    CHECK(memcmp(tokens, shards.tokens, (MANY + 1) * sizeof *tokens) == 0);
    free(tokens);
    bd_backend_close(one);
    bd_backend_close(two);
    bd_buf_free(&b);
    bd_buf_free(&code);
    bd_buf_free(&file);
    bd_artifact_close(read);
    bd_model_close(m);
    bd_model_close(plain);
    bd_tokenizer_close(tok);
    bd_arena_destroy(arena);
    bd_shards_close(&shards);
}

static void rehash(bd_buf *b) { bd_sha256_of(b->data, b->size - 32, b->data + b->size - 32); }

/* With the hash at its end put right, a damaged proof still comes to nothing. */
TEST(damaged_proofs_do_not_hold) {
    bd_protocol p = protocol(true, 0);
    fixture f;
    setup(&f, &p, 11);
    bd_buf file;
    bd_score score;
    bd_err e = {0};
    prove(&f, "cpu", 2, &file, &score);
    bd_backend *be = test_backend("cpu", 1);
    uint64_t seed = test_seed();
    bd_proof whole;
    CHECK_OK(bd_proof_parse(&whole, file.data, file.size, 0, &e), &e);
    size_t code_at = (size_t)(whole.code - file.data);
    int refused = 0, failed = 0;
    for (int i = 0; i < 40; i++) {
        size_t at = i < 20 ? code_at + test_rand(&seed) % whole.code_size : test_rand(&seed) % (file.size - 32);
        if (i == 0) at = code_at + whole.code_size - 1;
        uint8_t old = file.data[at];
        uint16_t tokens[TARGETS + 1];
        bd_prove_result r;
        memset(&e, 0, sizeof e);
        file.data[at] ^= (uint8_t)(1u << test_rand(&seed) % 8);
        CHECK(check_on(&f, be, &file, &r, tokens, &e) == (at < 8 ? BD_E_MAGIC : e.code) && e.code != BD_OK);
        rehash(&file);
        bool only_named = at >= 122 && at < 154; /* the shard's hash: compared with the shard, not decoded */
        bd_status st = check_on(&f, be, &file, &r, tokens, &e);
        if (only_named) CHECK(st == BD_OK && r.ok);
        else CHECK_MSG(st != BD_OK || (!r.ok && r.detail[0]), "byte %zu", at);
        refused += st != BD_OK;
        failed += st == BD_OK && !r.ok;
        file.data[at] = old;
        rehash(&file);
    }
    CHECK(failed >= 15);
    printf("    %d refused, %d decoded to something else\n", refused, failed);
    bd_backend_close(be);
    bd_buf_free(&file);
    teardown(&f);
}

TEST(a_longer_or_shorter_code_is_noticed) {
    bd_protocol p = protocol(false, 0);
    fixture f;
    setup(&f, &p, 11);
    bd_buf file, longer;
    bd_score score;
    bd_err e = {0};
    prove(&f, "cpu", 2, &file, &score);
    bd_backend *be = test_backend("cpu", 1);
    bd_proof q;
    for (int change = -2; change <= 2; change++) {
        uint8_t code[4096];
        uint16_t tokens[TARGETS + 1];
        bd_prove_result r;
        CHECK_OK(bd_proof_parse(&q, file.data, file.size, 0, &e), &e);
        CHECK(q.code_size + 2 < sizeof code);
        memcpy(code, q.code, q.code_size);
        memset(code + q.code_size, 0x41, 2);
        q.code = code;
        q.code_size = (uint64_t)((int64_t)q.code_size + change);
        while (q.code_size && code[q.code_size - 1] == 0) code[q.code_size - 1] = 1;
        bd_buf_init(&longer);
        CHECK_OK(bd_proof_build(&q, &longer, &e), &e);
        CHECK_OK(check_on(&f, be, &longer, &r, tokens, &e), &e);
        CHECK(r.ok == (change == 0));
        bd_buf_free(&longer);
    }
    /* fewer tokens than were coded */
    CHECK_OK(bd_proof_parse(&q, file.data, file.size, 0, &e), &e);
    q.tokens = TARGETS - 100;
    bd_buf_init(&longer);
    CHECK_OK(bd_proof_build(&q, &longer, &e), &e);
    uint16_t tokens[TARGETS + 1];
    bd_prove_result r;
    CHECK_OK(check_on(&f, be, &longer, &r, tokens, &e), &e);
    CHECK(!r.ok && !r.tokens_match && !r.code_ended);
    bd_buf_free(&longer);
    bd_backend_close(be);
    bd_buf_free(&file);
    teardown(&f);
}

TEST(proofs_of_others_are_refused) {
    bd_protocol p = protocol(false, 0), q = protocol(false, 24);
    fixture f, other, longer;
    setup(&f, &p, 11);
    setup(&other, &p, 12);
    setup(&longer, &q, 11);
    bd_buf file;
    bd_score score;
    bd_err e = {0};
    bd_prove_result r;
    uint16_t tokens[TARGETS + 1];
    prove(&f, "cpu", 2, &file, &score);
    bd_backend *be = test_backend("cpu", 1);
    CHECK(check_on(&other, be, &file, &r, tokens, &e) == BD_E_CHECKSUM && e.offset == 58);
    CHECK(check_on(&longer, be, &file, &r, tokens, &e) == BD_E_CHECKSUM);
    bd_proof proof;
    bd_buf edited;
    bd_buf_init(&edited);
    CHECK_OK(bd_proof_parse(&proof, file.data, file.size, 0, &e), &e);
    proof.protocol = q;
    CHECK_OK(bd_proof_build(&proof, &edited, &e), &e);
    CHECK(check_on(&f, be, &edited, &r, tokens, &e) == BD_E_FIELD && e.offset == 154);
    proof.protocol = p;
    proof.numerics = BD_NUMERICS_VERSION + 1;
    edited.size = 0;
    CHECK_OK(bd_proof_build(&proof, &edited, &e), &e);
    CHECK(check_on(&f, be, &edited, &r, tokens, &e) == BD_E_VERSION && e.offset == 12);
    bd_buf code, out;
    bd_buf_init(&code);
    bd_buf_init(&out);
    CHECK(bd_prove(&proof, &code, &out, &score, f.plain, be, &f.shards, NULL, &e) == BD_E_USAGE);
    bd_prove_opts small = {.max_memory = 1000};
    CHECK(bd_prove(&proof, &code, &out, &score, f.m, be, &f.shards, &small, &e) == BD_E_LIMIT);
    f.tokens[300] = TA_VOCAB;
    CHECK(bd_prove(&proof, &code, &out, &score, f.m, be, &f.shards, NULL, &e) == BD_E_RANGE);
    bd_buf_free(&code);
    bd_buf_free(&out);
    bd_buf_free(&edited);
    bd_buf_free(&file);
    bd_backend_close(be);
    teardown(&f);
    teardown(&other);
    teardown(&longer);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
