/* The run directory: what is written, what a crash or a full disk leaves, and
 * what is refused. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "format/checkpoint.h"
#include "runtime/model.h"
#include "train_help.h"
#include "trainer/train_log.h"

static off_t size_of(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 ? sb.st_size : -1;
}

static void append(const char *path, const char *s) {
    FILE *f = fopen(path, "ab");
    CHECK(f && fputs(s, f) >= 0 && fclose(f) == 0);
}

static void copy(const char *to, const char *from) {
    char cmd[600];
    snprintf(cmd, sizeof cmd, "cp -r %s %s", from, to);
    CHECK(system(cmd) == 0);
}

TEST(a_run_leaves_these_files) {
    bd_train_result res;
    bd_err e = {0};
    CHECK_OK(run_train(&(run_args){.out = "run", .val = test_stream()}, &res, &e), &e);
    CHECK(isfinite(res.val_loss) && isnan(res.val_bpb) && res.steps == 10 && res.tokens == 2400);
    CHECK(isfinite(res.loss) && res.param_count > 10000 && strlen(res.weights_sha256) == 64);
    /* the directory opens as a model, whose loss is what validation said */
    bd_model *m = NULL;
    CHECK_OK(bd_model_open(&m, tmp_path("run"), NULL, &e), &e);
    CHECK_EQ_U64(m->graph->param_count, res.param_count);
    bd_model_close(m);
    /* recipe.json trains the same */
    bd_recipe *r = NULL;
    CHECK_OK(bd_recipe_open(&r, tmp_path("run/recipe.json"), NULL, 0, &e), &e);
    run_hash a = run_ok(&(run_args){.out = "run2", .recipe = r->json});
    CHECK_STR(a.weights, res.weights_sha256);
    bd_recipe_close(r);
    bd_train_log l;
    CHECK_OK(bd_train_log_open(&l, tmp_path("run/log.jsonl"), &e), &e);
    CHECK(l.n == 10 && l.steps[9].loss == res.loss);
    CHECK_STR(l.weights_sha256, res.weights_sha256);
    bd_train_log_free(&l);
    /* nothing else lies about */
    char cmd[300];
    snprintf(cmd, sizeof cmd, "test $(ls -A %s | wc -l) = 4", tmp_path("run"));
    CHECK(system(cmd) == 0);
}

TEST(validation_agrees_with_itself) {
    bd_train_result a, b;
    bd_err e = {0};
    CHECK_OK(run_train(&(run_args){.out = "v1", .val = test_stream(), .set = {"val_every=3"}}, &a, &e), &e);
    CHECK_OK(run_train(&(run_args){.out = "v2", .val = test_stream(), .threads = 2}, &b, &e), &e);
    CHECK(a.val_loss == b.val_loss); /* validating on the way changes nothing */
    CHECK_STR(a.weights_sha256, b.weights_sha256);
}

TEST(memory_is_planned) {
    bd_train_result res;
    bd_err e = {0};
    CHECK(run_train(&(run_args){.out = "mem", .max_memory = 100000}, &res, &e) == BD_E_LIMIT);
    CHECK(strstr(e.msg, "--max-memory") && size_of(tmp_path("mem")) < 0);
    uint64_t total = res.bytes_params + res.bytes_gradients + res.bytes_optimizer + res.bytes_activations;
    CHECK_OK(run_train(&(run_args){.out = "mem", .max_memory = total, .set = {"stop_step=1"}}, &res, &e), &e);
}

TEST(allocations_that_fail) {
    int failed = 0;
    for (int n = 1; n < 400; n += n < 20 ? 1 : 37) {
        char spec[32], out[32];
        snprintf(spec, sizeof spec, "fault:%d:cpu", n);
        snprintf(out, sizeof out, "fault%d", n);
        bd_train_result res;
        bd_err e = {0};
        bd_status st = run_train(&(run_args){.out = out, .spec = spec, .set = {"stop_step=1"}}, &res, &e);
        CHECK_MSG(st == BD_OK || st == BD_E_NOMEM, "%s", e.msg);
        failed += st != BD_OK;
    }
    CHECK(failed > 10);
}

TEST(places_that_cannot_be_written) {
    bd_train_result res;
    bd_err e = {0};
    CHECK(run_train(&(run_args){.out = "no/such/parent"}, &res, &e) == BD_E_MISSING);
    append(tmp_path("afile"), "x");
    CHECK(run_train(&(run_args){.out = "afile"}, &res, &e) != BD_OK && e.msg[0]);
    CHECK(run_train(&(run_args){.out = "empty", .resume = true}, &res, &e) == BD_E_MISSING);
    CHECK(strstr(e.msg, "no state to resume") != NULL);
}

TEST(a_log_with_a_torn_last_line) {
    run_hash whole = run_ok(&(run_args){.out = "w"});
    run_ok(&(run_args){.out = "t", .set = {"stop_step=5"}});
    append(tmp_path("t/log.jsonl"), "{\"event\":\"step\",\"st");
    CHECK_RUN(whole, run_ok(&(run_args){.out = "t", .resume = true}));
    bd_train_log l;
    bd_err e = {0};
    CHECK_OK(bd_train_log_open(&l, tmp_path("t/log.jsonl"), &e), &e);
    CHECK(l.n == 10);
    bd_train_log_free(&l);
    /* a crash after the last state: the log knows more steps than the state */
    run_ok(&(run_args){.out = "c", .set = {"stop_step=5"}});
    append(tmp_path("c/log.jsonl"),
           "{\"event\":\"step\",\"step\":5,\"lr_mul\":1.0,\"loss\":9.0}\n"
           "{\"event\":\"step\",\"step\":6,\"lr_mul\":1.0,\"loss\":9.0}\n");
    CHECK_RUN(whole, run_ok(&(run_args){.out = "c", .resume = true}));
    bd_train_result res;
    CHECK_OK(run_train(&(run_args){.out = "c2", .replay = tmp_path("c/log.jsonl")}, &res, &e), &e);
    CHECK(res.replay_equal);
}

/* Train in a child whose files may not grow beyond `limit` bytes; its status. */
static bd_status run_limited(const run_args *a, uint64_t limit, char msg[256]) {
    int fd[2];
    CHECK(pipe(fd) == 0);
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit l = {limit, limit};
        bd_train_result res;
        bd_err e = {0};
        bd_status st = setrlimit(RLIMIT_FSIZE, &l) ? BD_E_USAGE : run_train(a, &res, &e);
        ssize_t n = write(fd[1], e.msg, 255);
        _exit(n < 0 ? 99 : (int)st);
    }
    close(fd[1]);
    memset(msg, 0, 256);
    ssize_t n = read(fd[0], msg, 255);
    close(fd[0]);
    int status = 0;
    CHECK(n >= 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return (bd_status)WEXITSTATUS(status);
}

TEST(a_full_disk) {
    char msg[256];
    run_hash whole = run_ok(&(run_args){.out = "disk"});
    off_t state = size_of(tmp_path("disk/state.safetensors")), model = size_of(tmp_path("disk/model.safetensors"));
    off_t log = size_of(tmp_path("disk/log.jsonl"));
    CHECK(state > model && model > log);
    /* no room for the recipe, for the log, for the model, for the state: no half-written file */
    uint64_t room[4] = {100, (uint64_t)log - 200, (uint64_t)model - 1000, (uint64_t)state - 1000};
    const char *out[4] = {"full0", "full1", "full2", "full3"};
    for (int i = 0; i < 4; i++) {
        CHECK(run_limited(&(run_args){.out = out[i]}, room[i], msg) == BD_E_IO);
        CHECK_MSG(strlen(msg) > 10 && !strchr(msg, '\n'), "%s", msg);
        char cmd[600];
        snprintf(cmd, sizeof cmd, "test -z \"$(find %s -name '*.tmp' -o -name 'state.*')\"", tmp_path(out[i]));
        CHECK(system(cmd) == 0);
    }
    CHECK(size_of(tmp_path("full2/model.safetensors")) < 0 &&
          size_of(tmp_path("full3/model.safetensors")) == model);
    /* a state that is there survives, and the run goes on from it once there is room */
    run_ok(&(run_args){.out = "kept", .set = {"stop_step=5"}});
    uint64_t before = file_fnv(tmp_path("kept/state.safetensors"), 0);
    copy(tmp_path("kept2"), tmp_path("kept"));
    CHECK(run_limited(&(run_args){.out = "kept", .resume = true}, (uint64_t)state - 1000, msg) == BD_E_IO);
    CHECK_EQ_U64(file_fnv(tmp_path("kept/state.safetensors"), 0), before);
    CHECK_RUN(whole, run_ok(&(run_args){.out = "kept", .resume = true}));
    /* the log is full in the middle of a line */
    off_t half = size_of(tmp_path("kept2/log.jsonl"));
    CHECK(run_limited(&(run_args){.out = "kept2", .resume = true}, (uint64_t)half + 300, msg) == BD_E_IO);
    CHECK_EQ_U64(file_fnv(tmp_path("kept2/state.safetensors"), 0), before);
    CHECK_RUN(whole, run_ok(&(run_args){.out = "kept2", .resume = true}));
}

TEST(states_that_do_not_fit) {
    bd_train_result res;
    bd_err e = {0};
    run_ok(&(run_args){.out = "st", .set = {"stop_step=2"}});
    char path[256];
    snprintf(path, sizeof path, "%s", tmp_path("st/state.safetensors"));
    FILE *f = fopen(path, "rb");
    static unsigned char data[1 << 20];
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    CHECK(n > 1000 && n < sizeof data);
    uint64_t seed = test_seed();
    int refused = 0;
    for (int k = 0; k < 40; k++) { /* cut short, and with a flipped bit in its header */
        size_t keep = k < 20 ? test_rand(&seed) % n : n;
        size_t at = test_rand(&seed) % 600;
        if (k >= 20) data[at] ^= 4;
        f = fopen(path, "wb");
        CHECK(f && fwrite(data, 1, keep, f) == keep && fclose(f) == 0);
        if (k >= 20) data[at] ^= 4;
        bd_status st = run_train(&(run_args){.out = "st", .resume = true, .set = {"stop_step=2"}}, &res, &e);
        CHECK(st == BD_OK || (e.msg[0] && e.file[0]));
        refused += st != BD_OK;
        if (st == BD_OK) { /* it was written anew: put the good one back */
            f = fopen(path, "wb");
            CHECK(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
        }
    }
    CHECK(refused >= 20);
    /* NaN in the data */
    memset(data + n - 64, 0xff, 4);
    f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
    CHECK(run_train(&(run_args){.out = "st", .resume = true}, &res, &e) == BD_E_NONFINITE);
    /* a model file in its place */
    copy(path, tmp_path("st/model.safetensors"));
    CHECK(run_train(&(run_args){.out = "st", .resume = true}, &res, &e) == BD_E_MAGIC);
}

TEST(tokens_beyond_the_vocabulary) {
    bd_train_result res;
    bd_err e = {0};
    run_args a = {.out = "vocab", .set = {"constants.vocab=40"}};
    CHECK(run_train(&a, &res, &e) == BD_E_RANGE && strstr(e.msg, "training token"));
    static uint16_t val[1000];
    val[700] = 61;
    run_args b = {.out = "vocab", .val = val};
    CHECK(run_train(&b, &res, &e) == BD_E_RANGE && strstr(e.msg, "validation token 700 is 61"));
    CHECK(size_of(tmp_path("vocab/log.jsonl")) < 0);
}

TEST(rates_that_explode) {
    bd_train_result res;
    bd_err e = {0};
    run_args a = {.out = "boom",
                  .set = {"optimizers.1.lr=1e6", "optimizers.1.decay=1e6", "clip=0", "schedule.warmup_steps=0"}};
    bd_status st = run_train(&a, &res, &e);
    CHECK_MSG(st == BD_E_NONFINITE && strstr(e.msg, "learning rates"), "%s %s", bd_status_name(st), e.msg);
    CHECK(size_of(tmp_path("boom/model.safetensors")) < 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
