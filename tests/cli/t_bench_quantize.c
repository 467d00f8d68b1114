/* birdie bench quantize as a user runs it. */
#include "bd_test.h"

#include <jansson.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "format/shard.h"
#include "tests/runtime/tiny_model.h"

static const tiny_spec SPEC = {48, 16, 3, 4, 2, 24};
enum { N = 1500, WINDOW = 64 };

typedef struct result {
    int rc;
    char out[131072], err[16384];
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

/* birdie bench quantize ARGUMENTS in a shell; $T stands for the test's directory. */
static result *run(const char *args) {
    static result r;
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "T=%s; %s bench quantize %s >$T/stdout 2>$T/stderr", test_tmp(), BIRDIE_PROGRAM,
             args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    r.rc = WEXITSTATUS(status);
    slurp(in_tmp("stdout"), r.out, sizeof r.out);
    slurp(in_tmp("stderr"), r.err, sizeof r.err);
    return &r;
}

static void fails(const char *args, int rc, const char *said) {
    result *r = run(args);
    CHECK_MSG(r->rc == rc, "%s: exit %d, %s", args, r->rc, r->err);
    CHECK_MSG(strstr(r->err, said) != NULL, "%s: \"%s\" lacks \"%s\"", args, r->err, said);
}

/* Every token stands for 2 bytes; the sidecar says so, so that no tokenizer is needed. */
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
    for (int i = 0; i < N; i++) t[i] = 2;
    CHECK_OK(bd_shard_write(in_tmp("x_val_bytes_000000.bin"), t, N, &e), &e);
    bd_buf_free(&graph);
    bd_model_close(m);
    done = true;
}

#define MODEL "$T/m.safetensors --window 64 "
#define BENCH MODEL "--calib $T/x_train_000000.bin --data $T/x_val_000000.bin "

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    CHECK_MSG(json_is_number(v), "%s is no number", key);
    return json_number_value(v);
}

static int count(const char *s, const char *what) {
    int n = 0;
    for (; (s = strstr(s, what)) != NULL; s += strlen(what)) n++;
    return n;
}

TEST(table_json_and_chart) {
    write_inputs();
    const char *args = BENCH
        "--recipe trellis --recipe int8-zlib --budget 4000 5000 --budget 6500 --windows 9 --svg "
        "$T/c.svg --stats $T/b.stats ";
    result *r = run(args);
    CHECK_MSG(r->rc == 0, "%s", r->err);
    CHECK_MSG(count(r->out, "\ntrellis ") == 3 && count(r->out, "\n  trellis ") == 3 &&
                  strstr(r->out, "\nint8-zlib ") && strstr(r->out, "same gap"),
              "%s", r->out);
    CHECK(strstr(r->out, "9 windows of 64 tokens, 1152 bytes of text") && strstr(r->out, "forecast"));
    CHECK(access(in_tmp("b.stats"), R_OK) == 0);
    static char svg[100000];
    slurp(in_tmp("c.svg"), svg, sizeof svg);
    CHECK(!strncmp(svg, "<svg ", 5) && strstr(svg, "</svg>\n") && count(svg, "<g>") == count(svg, "</g>"));
    CHECK(count(svg, "<text") == count(svg, "</text>") && strstr(svg, ">int8-zlib</text>"));
    char cmd[1024];
    snprintf(cmd, sizeof cmd, "%s --threads 1 --json", args);
    r = run(cmd);
    CHECK_MSG(r->rc == 0, "%s", r->err);
    json_error_t je;
    json_t *o = json_loads(r->out, 0, &je);
    CHECK_MSG(o != NULL, "%s", je.text);
    json_t *points = json_object_get(o, "points");
    CHECK(json_array_size(points) == 4);
    double kl = INFINITY;
    for (size_t i = 0; i < 3; i++) {
        json_t *p = json_array_get(points, i);
        CHECK_STR(json_string_value(json_object_get(p, "recipe")), "trellis");
        long bytes = atol(json_string_value(json_object_get(p, "bytes")));
        CHECK(bytes > 0 && bytes <= atol(json_string_value(json_object_get(p, "budget"))));
        CHECK(number(p, "kl") > 0 && number(p, "kl") < kl && number(p, "kl_stderr") >= 0);
        kl = number(p, "kl");
        CHECK(fabs(number(p, "val_bpb") - number(p, "gap") - number(o, "float_bpb")) < 1e-9);
        CHECK(fabs(number(p, "bits_per_weight") * atof(json_string_value(json_object_get(o, "weights"))) -
                   8.0 * (double)bytes) < 1e-3);
    }
    CHECK(json_is_null(json_object_get(json_array_get(points, 3), "budget")));
    CHECK_STR(json_string_value(json_object_get(o, "reference")), "trellis");
    CHECK(json_array_size(json_object_get(o, "others_beside_reference")) == 1);
    CHECK(json_array_size(json_object_get(o, "reference_beside_best")) == 3);
    CHECK(json_is_true(json_object_get(json_array_get(json_object_get(o, "statistics"), 0), "loaded")));
    CHECK(json_array_size(json_object_get(json_object_get(o, "forecast"), "tensors")) > 3);
    json_decref(o);
}

/* What stays float is not counted, and is float. With more than one rho there is a trial, which sees it. */
TEST(some_tensors_only) {
    write_inputs();
    static const char *const recipes[] = {"trellis:rho=0.05", "trellis:rho=[0.02,0.2],damp=0.01", "int8-zlib"};
    double kl = 0;
    for (int i = 0; i < 3; i++) {
        char cmd[512];
        snprintf(cmd, sizeof cmd,
                 BENCH "--budget 3000 --windows 4 --tensors 'blocks.0.*' tok_emb.weight --recipe '%s' --json",
                 recipes[i]);
        result *r = run(cmd);
        CHECK_MSG(r->rc == 0, "%s: %s%s", recipes[i], r->err, r->out);
        json_t *o = json_loads(r->out, 0, NULL), *p;
        CHECK(o != NULL);
        p = json_array_get(json_object_get(o, "points"), 0);
        long weights = atol(json_string_value(json_object_get(o, "weights")));
        CHECK(weights > 2000 && weights < 4000);
        long bytes = atol(json_string_value(json_object_get(p, "bytes")));
        if (i < 2) CHECK_MSG(bytes > 2900 && bytes <= 3060, "%ld", bytes);
        else CHECK_MSG(bytes > weights && bytes < 2 * weights + 4000, "%ld of %ld", bytes, weights);
        CHECK(number(p, "kl") > 0 && (i == 0 || number(p, "kl") < 1.5 * kl));
        kl = number(p, "kl");
        json_decref(o);
    }
    fails(BENCH "--tensors blocks.7.*", 2, "no tensor has such a name");
}

TEST(knobs_in_the_recipe) {
    write_inputs();
    result *r = run(BENCH "--budget 5000 --windows 4 --recipe trellis:rho=0.2,damp=0.01 --knob rho=0.1 --json");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    CHECK(strstr(r->out, "\"trellis:rho=0.2,damp=0.01\"") != NULL);
    fails(BENCH "--recipe trellis:nonsense=1", 2, "nonsense");
    fails(BENCH "--recipe nonsense", 2, "nonsense");
}

TEST(budgets_that_are_too_small) {
    write_inputs();
    result *r = run(BENCH "--budget 300 5000 --windows 4 --json");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    json_t *o = json_loads(r->out, 0, NULL);
    CHECK(o && json_array_size(json_object_get(o, "points")) == 1);
    CHECK(json_array_size(json_object_get(o, "not_reached")) == 1);
    json_decref(o);
    fails(BENCH "--budget 300 --windows 4", 2, "no budget can be reached");
}

TEST(wrong_usage) {
    write_inputs();
    fails("$T/m.safetensors --calib $T/x_train_000000.bin", 2, "--data");
    fails("$T/m.safetensors --data $T/x_val_000000.bin", 2, "--calib");
    fails(MODEL "--calib $T/x_val_000000.bin --data $T/x_val_000000.bin", 2, "never calibrate on what is scored");
    fails(BENCH "--budget 5k", 2, "not a number of bytes");
    fails(BENCH "--windows 0", 2, "--windows");
    fails(BENCH "--dither 1", 2, "nothing to dither");
    fails(BENCH "--svg $T/missing/x.svg", 2, "missing");
    fails(MODEL "--calib $T/x_train_000000.bin --data $T/x_train_000000.bin", 2, "");
    fails(MODEL "--data $T/x_val_000000.bin --stats $T/none.stats", 2, "give training shards");
    result *r = run("--help");
    CHECK(r->rc == 0 && strstr(r->out, "--calib-tail") && strstr(r->out, "bench quantize"));
    r = run(BENCH "--dry-run --json");
    CHECK(r->rc == 0 && strstr(r->out, "\"points\": 4"));
}

TEST(statistics_that_rest_on_scored_text) {
    write_inputs();
    /* made with the shards the other way round */
    char cmd[512];
    snprintf(cmd, sizeof cmd, "cp %s/x_val_bytes_000000.bin %s/x_train_bytes_000000.bin", test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
    snprintf(cmd, sizeof cmd,
             "cp %s/x_train_000000.bin %s/y_val_000000.bin; cp %s/x_val_bytes_000000.bin %s/y_val_bytes_000000.bin",
             test_tmp(), test_tmp(), test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
    result *r = run(MODEL
                    "--calib $T/x_val_000000.bin --data $T/y_val_000000.bin --stats $T/v.stats --budget 5000 "
                    "--windows 2");
    CHECK_MSG(r->rc == 0, "%s", r->err);
    fails(BENCH "--stats $T/v.stats --budget 5000 --windows 2", 2, "never calibrate on what is scored");
}

TEST(ctrl_c_leaves_no_chart) {
    const char *train = test_data("tokens/fineweb_train_000000.sp1024.bin");
    const char *val = test_data("tokens/fineweb_val_000000.sp1024.bin"),
               *tok = test_data("tokenizers/fineweb_1024_bpe.model"), *model = test_data("checkpoints/own_192d.pt");
    if (!train || !val || !tok || !model) SKIP("no data");
    char out[128];
    snprintf(out, sizeof out, "%s", in_tmp("no.svg"));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(99);
        execl(BIRDIE_PROGRAM, "birdie", "bench", "quantize", model, "--calib", train, "--data", val, "--tokenizer",
              tok, "--svg", out, (char *)NULL);
        _exit(98);
    }
    usleep(1500000);
    kill(pid, SIGINT);
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 130, "status %x", (unsigned)status);
    CHECK(access(out, F_OK) != 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
