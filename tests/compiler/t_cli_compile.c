/* birdie compile as a user runs it. */
#include "bd_test.h"

#include <jansson.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "format/shard.h"
#include "tests/runtime/tiny_model.h"

static const tiny_spec SPEC = {48, 16, 3, 4, 2, 24};
enum { N = 900 };

typedef struct result {
    int rc;
    char out[65536], err[16384];
} result;

static const char *in_tmp(const char *name) {
    static char path[8][128];
    static int slot;
    char *p = path[slot++ & 7];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static void slurp(const char *path, char *out, size_t size) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
}

/* birdie ARGUMENTS in a shell; $T stands for the test's directory. */
static result *run(const char *args) {
    static result r;
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "T=%s; %s %s >$T/stdout 2>$T/stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    r.rc = WEXITSTATUS(status);
    slurp(in_tmp("stdout"), r.out, sizeof r.out);
    slurp(in_tmp("stderr"), r.err, sizeof r.err);
    return &r;
}

static void fails(const char *args, int rc, const char *said) {
    unlink(in_tmp("no.birdie"));
    result *r = run(args);
    CHECK_MSG(r->rc == rc, "%s: exit %d, %s", args, r->rc, r->err);
    CHECK_MSG(strstr(r->err, said) != NULL, "%s: \"%s\" lacks \"%s\"", args, r->err, said);
    CHECK_MSG(access(in_tmp("no.birdie"), F_OK) != 0, "%s left a file", args);
}

/* A checkpoint that `birdie` recognises by its graph, and shards. */
static void write_inputs(void) {
    static bool done;
    if (done) return;
    bd_model *m = tiny_model(&SPEC, 5);
    bd_buf graph;
    bd_err e = {0};
    bd_buf_init(&graph);
    CHECK_OK(bd_graph_print(m->graph, &graph, &e), &e);
    bd_buf_u8(&graph, 0);
    bd_st_writer *w;
    CHECK_OK(bd_st_create(&w, in_tmp("m.safetensors"), &e), &e);
    CHECK_OK(bd_st_meta(w, BD_META_GRAPH, (const char *)graph.data, &e), &e);
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        int64_t dim[2] = {p->rows, p->cols};
        CHECK_OK(
            bd_st_tensor(w, p->name, BD_CK_F32, p->ndim, p->ndim == 1 ? dim + 1 : dim, m->params + p->offset, &e),
            &e);
    }
    CHECK_OK(bd_st_finish(w, &e), &e);
    uint16_t t[N];
    uint64_t seed = 3;
    random_tokens(t, N, SPEC.vocab, &seed);
    CHECK_OK(bd_shard_write(in_tmp("x_train_000000.bin"), t, N, &e), &e);
    random_tokens(t, N, SPEC.vocab, &seed);
    CHECK_OK(bd_shard_write(in_tmp("x_val_000000.bin"), t, N, &e), &e);
    CHECK_OK(bd_file_write(in_tmp("p.json"), "{\"kind\":\"window\",\"window\":64}", 29, &e), &e);
    bd_buf_free(&graph);
    bd_model_close(m);
    done = true;
}

#define COMPILE "compile $T/m.safetensors --protocol $T/p.json --calib $T/x_train_000000.bin "

TEST(json_report) {
    write_inputs();
    result *r =
        run(COMPILE "--budget 7000 --out $T/a.birdie --plan $T/a.plan --stats $T/a.stats --threads 2 --json");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    json_error_t je;
    json_t *o = json_loads(r->out, 0, &je);
    CHECK_MSG(o != NULL, "%s", je.text);
    struct stat st;
    CHECK(stat(in_tmp("a.birdie"), &st) == 0);
    char size[32];
    snprintf(size, sizeof size, "%lld", (long long)st.st_size);
    CHECK_STR(json_string_value(json_object_get(o, "artifact_bytes")), size);
    CHECK_STR(json_string_value(json_object_get(o, "predicted_bytes")), size);
    CHECK_STR(json_string_value(json_object_get(o, "budget")), "7000");
    CHECK_STR(json_string_value(json_object_get(o, "limit")), "budget");
    CHECK(strlen(json_string_value(json_object_get(o, "sha256"))) == 64 &&
          json_is_null(json_object_get(o, "claim")));
    json_t *groups = json_object_get(o, "groups");
    CHECK(json_array_size(groups) == 2);
    long long sum = 0;
    for (size_t i = 0; i < json_array_size(groups); i++) {
        json_t *g = json_array_get(groups, i);
        CHECK(json_is_string(json_object_get(g, "name")) && json_is_string(json_object_get(g, "method")));
        CHECK(json_is_object(json_object_get(g, "params")));
        sum += atoll(json_string_value(json_object_get(g, "bytes")));
    }
    CHECK(sum > 0 && sum < st.st_size);
    json_t *kinds = json_object_get(o, "kinds"), *loss = json_object_get(o, "predicted_loss"),
           *measured = json_object_get(o, "measured");
    CHECK(json_array_size(kinds) == 8); /* seven kinds of matrices, and small tensors */
    double bytes = 0;
    for (size_t i = 0; i < json_array_size(kinds); i++)
        bytes += json_number_value(json_object_get(json_array_get(kinds, i), "bytes"));
    CHECK_MSG(bytes > 0.5 * (double)sum && bytes < (double)sum + 40, "%g of %lld", bytes, sum);
    CHECK(json_number_value(json_object_get(loss, "nats")) > 0);
    CHECK(json_number_value(json_object_get(loss, "nats_per_byte")) > 0);
    CHECK(json_is_null(json_object_get(loss, "val_bpb"))); /* no tokenizer was named */
    CHECK(json_number_value(json_object_get(measured, "peak_memory_bytes")) > 1e6);
    CHECK(json_is_array(json_object_get(o, "trials")) && json_number_value(json_object_get(o, "number")) > 0);
    json_decref(o);
}

TEST(same_bytes_with_statistics_and_plan) {
    write_inputs();
    static const char *const ways[] = {"--calib $T/x_train_000000.bin --threads 1 --isa ref",
                                       "--stats $T/b.stats --calib $T/x_train_000000.bin --threads 2",
                                       "--stats $T/b.stats --isa avx2", "--stats $T/b.stats --plan $T/b.plan",
                                       "--stats $T/b.stats --plan $T/b.plan"};
    for (int i = 0; i < 5; i++) {
        char cmd[512];
        snprintf(cmd, sizeof cmd,
                 "compile $T/m.safetensors --protocol $T/p.json --budget 6800 --out $T/w%d.birdie %s", i, ways[i]);
        result *r = run(cmd);
        CHECK_MSG(r->rc == 0, "%s: %s", ways[i], r->err);
        snprintf(cmd, sizeof cmd, "cmp -s %s/w0.birdie %s/w%d.birdie", test_tmp(), test_tmp(), i);
        CHECK_MSG(system(cmd) == 0, "%s gives other bytes", ways[i]);
    }
}

TEST(plans_with_errors) {
    write_inputs();
    CHECK(run(COMPILE "--budget 7000 --out $T/c.birdie --plan $T/c.plan")->rc == 0);
    char cmd[512], plan[16384];
    slurp(in_tmp("c.plan"), plan, sizeof plan);
    CHECK(strncmp(plan, "birdie-plan 2\nbudget 7000\nrecipe trellis\n", 41) == 0);
    CHECK(strstr(plan, "\nshard ") && strstr(plan, "\ngroup matrices range"));
    snprintf(cmd, sizeof cmd, "sed 's/ states=64 / states=9 /' %s/c.plan > %s/bad.plan", test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
    fails(COMPILE "--budget 7000 --out $T/no.birdie --plan $T/bad.plan", 2, "plan line 8: states is 9");
    snprintf(cmd, sizeof cmd, "grep -v tok_emb %s/c.plan > %s/bad.plan", test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
    fails(COMPILE "--budget 7000 --out $T/no.birdie --plan $T/bad.plan", 2, "tensor lines");
    fails(COMPILE "--budget 3000 --out $T/no.birdie --plan $T/c.plan", 2, "the plan makes");
}

/* A hand edit: one line fixed, another budget; everything else is solved around it. */
TEST(plans_with_fixed_lines) {
    write_inputs();
    CHECK(run(COMPILE "--budget 7000 --out $T/f.birdie --plan $T/f.plan")->rc == 0);
    char cmd[512], out[65536];
    snprintf(
        cmd, sizeof cmd,
        "sed 's/^tensor blocks.1.mlp.fc.weight .*/tensor blocks.1.mlp.fc.weight matrices row bits=4 k=3 fixed/' "
        "%s/f.plan > %s/fixed.plan",
        test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
    result *r = run(COMPILE "--budget 8000 --out $T/g.birdie --plan $T/fixed.plan --json");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    CHECK(strstr(r->out, "\"limit\": \"budget\"") != NULL);
    struct stat st;
    CHECK(stat(in_tmp("g.birdie"), &st) == 0 && st.st_size <= 8000 && st.st_size > 7000);
    r = run("inspect $T/g.birdie --plan");
    CHECK(r->rc == 0);
    snprintf(out, sizeof out, "%s", r->out);
    CHECK_MSG(strstr(out, "blocks.1.mlp.fc.weight") && strstr(out, "bits=4 k=3"), "%s", out);
}

TEST(knobs_and_trials) {
    write_inputs();
    result *r = run(COMPILE
                    "--budget 7000 --out $T/k.birdie --knob 'lambda=[0.02,0.1]' --knob states=4 "
                    "--knob holdout=0.3 --json");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    json_t *o = json_loads(r->out, 0, NULL), *trials = json_object_get(o, "trials");
    CHECK(json_array_size(trials) == 2);
    int chosen = 0;
    for (size_t i = 0; i < 2; i++) {
        json_t *t = json_array_get(trials, i);
        CHECK(json_integer_value(json_object_get(t, "states")) == 4);
        CHECK(json_number_value(json_object_get(t, "nll")) > 0);
        chosen += json_is_true(json_object_get(t, "chosen"));
    }
    CHECK(chosen == 1);
    json_decref(o);
    r = run("compile --help");
    CHECK(r->rc == 0 && strstr(r->out, "--knob") && strstr(r->out, "trellis:") &&
          strstr(r->out, "gptq-lqer-pgrp:"));
}

TEST(wrong_usage) {
    write_inputs();
    fails(COMPILE "--out $T/no.birdie", 2, "--budget");
    fails(COMPILE "--budget 7000", 2, "--out");
    fails("compile $T/m.safetensors --budget 7000 --out $T/no.birdie", 2, "--calib");
    fails(COMPILE "--budget 300 --out $T/no.birdie", 2, "smallest reachable file has");
    fails(COMPILE "--budget 7000 --out $T/missing/no.birdie", 2, "missing");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --max-tokens 5", 2, "--claim");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --recipe int9", 2, "no recipe");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --knob lamda=1", 2, "did you mean \"lambda\"");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --knob states=7", 2, "states is 7");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --recipe int8-zlib", 2, "settings as they stand");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --claim $T/x_train_000000.bin --tokenizer $T/m.safetensors", 2,
          "");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --stats $T/x_val_000000.bin", 2, "x_val");
    fails(COMPILE "--budget 7000 --out $T/no.birdie --claim $T/x_val_000000.bin", 2, "--tokenizer");
}

TEST(calibration_text_is_never_scored) {
    const char *train = test_data("tokens/fineweb_train_000000.sp1024.bin");
    const char *model = test_data("checkpoints/taleef7_64d.pt"),
               *tok = test_data("tokenizers/fineweb_1024_bpe.model");
    if (!train || !model || !tok) SKIP("no data");
    char cmd[2048];
    snprintf(cmd, sizeof cmd, "compile %s --calib %s --claim %s --tokenizer %s --budget 60000 --out $T/no.birdie",
             model, train, train, tok);
    fails(cmd, 2, "never calibrate on what is scored");
}

TEST(ctrl_c_leaves_no_file) {
    const char *train = test_data("tokens/fineweb_train_000000.sp1024.bin"),
               *model = test_data("checkpoints/own_192d.pt");
    if (!train || !model) SKIP("no data");
    char out[128];
    snprintf(out, sizeof out, "%s", in_tmp("no.birdie"));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(99);
        execl(BIRDIE_PROGRAM, "birdie", "compile", model, "--calib", train, "--budget", "600000", "--out", out,
              "--stats", in_tmp("no.stats"), (char *)NULL);
        _exit(98);
    }
    usleep(800000);
    kill(pid, SIGINT);
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 130, "status %x", (unsigned)status);
    CHECK(access(out, F_OK) != 0 && access(in_tmp("no.stats"), F_OK) != 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
