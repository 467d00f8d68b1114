/* The command prove, run as a user runs it. */
#include <jansson.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/sha256.h"
#include "bd_test.h"
#include "tests/verify/tiny_artifact.h"

enum { N = 900 };

static char out_text[1 << 16], err_text[1 << 14];

static void slurp(const char *name, char *out, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
}

/* In the test's directory. */
static int birdie(const char *args) {
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "cd %s && %s prove %s >stdout 2>stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    slurp("stdout", out_text, sizeof out_text);
    slurp("stderr", err_text, sizeof err_text);
    return WEXITSTATUS(status);
}

static json_t *json_out(void) {
    json_error_t e;
    json_t *o = json_loads(out_text, 0, &e);
    CHECK_MSG(json_is_object(o), "not one object: %s", out_text);
    return o;
}

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    CHECK_MSG(s != NULL, "no string \"%s\"", key);
    return s;
}

static void fails(const char *args, int rc, const char *says) {
    int got = birdie(args);
    CHECK_MSG(got == rc && strstr(err_text, says) && !out_text[0], "prove %s: exit %d, \"%s\"", args, got,
              err_text);
    char with[2048];
    snprintf(with, sizeof with, "%s --json", args);
    CHECK(birdie(with) == rc);
    json_t *o = json_out();
    CHECK(json_object_get(o, "error") != NULL);
    json_decref(o);
}

static void save_artifact(const char *name, uint64_t seed, const bd_protocol *p) {
    char path[256];
    bd_err e = {0};
    bd_buf b;
    bd_arena *a = bd_arena_create(1 << 22);
    bd_model *m = tiny_model(&TA_SPEC, seed);
    bd_tokenizer *t = ta_tokenizer(false);
    ta_build(ta_artifact(a, m, t, p), &b);
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_file_write(path, b.data, b.size, &e), &e);
    bd_buf_free(&b);
    bd_tokenizer_close(t);
    bd_model_close(m);
    bd_arena_destroy(a);
}

static void save_shard(const char *name, uint64_t n, uint64_t seed) {
    char path[256];
    bd_err e = {0};
    uint16_t *tokens = malloc(n * sizeof *tokens);
    CHECK(tokens != NULL);
    ta_tokens(tokens, n, seed);
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_shard_write(path, tokens, n, &e), &e);
    free(tokens);
}

static void setup(void) {
    static bool done;
    if (done) return;
    done = true;
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = 64;
    save_artifact("plain.birdie", 3, &p);
    save_artifact("other.birdie", 4, &p);
    p = (bd_protocol){BD_PROTO_SGD, 64, 24, 200, 1, 2, 0.05, 0.9, 1, 0};
    save_artifact("sgd.birdie", 3, &p);
    save_shard("x_val_000.bin", N, 1);
    save_shard("y_val_000.bin", N, 2);
    save_shard("long.bin", 60000, 2);
}

TEST(round_trip) {
    setup();
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "sgd" : "plain";
        char args[512];
        snprintf(args, sizeof args, "%s.birdie --data x_val_000.bin --out %s.proof --threads 2 --json", name, name);
        CHECK_MSG(birdie(args) == 0, "%s%s", out_text, err_text);
        json_t *made = json_out();
        CHECK_STR(str(made, "tokens"), "899");
        CHECK_STR(str(made, "claim"), "none");
        double ideal = json_real_value(json_object_get(made, "ideal_bytes"));
        CHECK(fabs(atof(str(made, "code_bytes")) - ideal) < 1e-4 * ideal + 2);
        snprintf(args, sizeof args, "--check %s.proof %s.birdie --out %s.bin --threads 1 --json", name, name, name);
        CHECK_MSG(birdie(args) == 0, "%s%s", out_text, err_text);
        json_t *back = json_out();
        CHECK_STR(str(back, "verdict"), "PASS");
        CHECK_STR(str(back, "decoded"), "899");
        CHECK_STR(str(back, "covers"), "the whole shard, byte for byte");
        CHECK_STR(str(back, "tokens_sha256"), str(made, "tokens_sha256"));
        CHECK_STR(str(back, "nll_q32"), str(made, "nll_q32"));
        CHECK(json_object_get(back, "measured") != NULL);
        json_decref(made);
        json_decref(back);
        snprintf(args, sizeof args, "cmp %s/%s.bin %s/x_val_000.bin", test_tmp(), name, test_tmp());
        CHECK(system(args) == 0);
    }
    CHECK(birdie("plain.birdie --data x_val_000.bin --max-tokens 100 --out part.proof") == 0);
    CHECK(strstr(out_text, "100 tokens") != NULL);
    CHECK(birdie("--check part.proof plain.birdie --data x_val_000.bin --out part.bin") == 0);
    CHECK(strstr(out_text, "PASS") && strstr(out_text, "part of the data"));
}

TEST(plans) {
    setup();
    CHECK(birdie("sgd.birdie --data x_val_000.bin --dry-run --json") == 0);
    json_t *o = json_out();
    CHECK(json_is_true(json_object_get(o, "dry_run")));
    CHECK_STR(str(o, "tokens"), "899");
    CHECK(json_real_value(json_object_get(o, "seconds")) > 0);
    json_decref(o);
    CHECK(birdie("plain.birdie --data x_val_000.bin --out p2.proof") == 0);
    CHECK(birdie("--check p2.proof plain.birdie --dry-run") == 0 && strstr(out_text, "FLOPs"));
}

TEST(refusals) {
    setup();
    CHECK(birdie("plain.birdie --data x_val_000.bin --max-tokens 300 --out r.proof") == 0);
    fails("--check r.proof other.birdie --out r.bin", 2, "another artifact");
    fails("--check r.proof plain.birdie --out r.bin --data y_val_000.bin", 2, "not the one that the proof names");
    fails("--check r.proof plain.birdie --out r.bin --data x_val_000.bin x_val_000.bin", 2, "2 shards were given");
    fails("--check plain.birdie plain.birdie --out r.bin", 2, "not a proof");
    fails("--check r.proof r.proof --out r.bin", 2, "r.proof");
    fails("--check r.proof plain.birdie --max-tokens 3 --out r.bin", 2, "--max-tokens");
    fails("--check none.proof plain.birdie --out r.bin", 2, "none.proof");
    fails("--check r.proof plain.birdie", 2, "--out");
    fails("plain.birdie --data x_val_000.bin", 2, "--out");
    fails("plain.birdie --out r.proof", 2, "--data");
    fails("plain.birdie --data x_val_000.bin --out r.proof --max-memory 4096", 2, "limit");
    char path[256];
    snprintf(path, sizeof path, "%s/r.bin", test_tmp());
    CHECK(access(path, F_OK) != 0);
}

/* A code changed under a hash put right again: decodes to something else, exit 1, no tokens are written. */
TEST(a_forged_proof_fails) {
    setup();
    CHECK(birdie("plain.birdie --data x_val_000.bin --max-tokens 300 --out f.proof") == 0);
    char path[256];
    bd_map m;
    bd_err e = {0};
    snprintf(path, sizeof path, "%s/f.proof", test_tmp());
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    uint8_t *copy = malloc(m.size);
    CHECK(copy != NULL);
    memcpy(copy, m.data, m.size);
    copy[m.size - 60] ^= 8;
    uint64_t size = m.size;
    bd_map_close(&m);
    CHECK_OK(bd_file_write(path, copy, size, &e), &e);
    fails("--check f.proof plain.birdie --out f.bin", 2, "hash");
    bd_sha256_of(copy, size - 32, copy + size - 32);
    CHECK_OK(bd_file_write(path, copy, size, &e), &e);
    CHECK(birdie("--check f.proof plain.birdie --out f.bin") == 1 && strstr(out_text, "FAIL"));
    CHECK(birdie("--check f.proof plain.birdie --out f.bin --json") == 1);
    json_t *o = json_out();
    CHECK_STR(str(o, "verdict"), "FAIL");
    CHECK(str(o, "detail")[0] != 0);
    json_decref(o);
    snprintf(path, sizeof path, "%s/f.bin", test_tmp());
    CHECK(access(path, F_OK) != 0);
    free(copy);
}

TEST(interrupt_leaves_nothing) {
    setup();
    CHECK(birdie("plain.birdie --data long.bin --out long.proof") == 0);
    char cmd[1024];
    snprintf(cmd, sizeof cmd,
             "cd %s && { %s prove --check long.proof plain.birdie --out long_back.bin 2>stderr & p=$!; sleep 0.5; "
             "kill -TERM $p; wait $p; }",
             test_tmp(), BIRDIE_PROGRAM);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    slurp("stderr", err_text, sizeof err_text);
    CHECK_MSG(WEXITSTATUS(status) == 130, "exit %d: %s", WEXITSTATUS(status), err_text);
    snprintf(cmd, sizeof cmd, "%s/long_back.bin", test_tmp());
    CHECK(access(cmd, F_OK) != 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
