/* The commands eval, inspect, convert and diff, run as a user runs them, and the
 * protocol files they read. */
#include "bd_test.h"

#include <jansson.h>
#include <sys/wait.h>

#include "base/file.h"
#include "cli/data_args.h"
#include "cli/protocol_json.h"
#include "cli/tensor_set.h"
#include "tests/runtime/tiny_model.h"

enum { V = 48, N = 301 };
static const tiny_spec SPEC = {V, 16, 3, 4, 2, 24};

typedef struct result {
    int rc;
    char out[65536], err[8192];
} result;

static void slurp(const char *path, char *out, size_t size) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    size_t n = fread(out, 1, size - 1, f);
    out[n] = 0;
    fclose(f);
}

/* birdie ARGUMENTS; $T in them stands for the test's directory. */
static result *run_birdie(const char *args) {
    static result r;
    char cmd[4096], path[128];
    snprintf(cmd, sizeof cmd, "T=%s; %s %s >$T/stdout 2>$T/stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    r.rc = WEXITSTATUS(status);
    snprintf(path, sizeof path, "%s/stdout", test_tmp());
    slurp(path, r.out, sizeof r.out);
    snprintf(path, sizeof path, "%s/stderr", test_tmp());
    slurp(path, r.err, sizeof r.err);
    return &r;
}

static json_t *json_of(const result *r) {
    json_error_t e;
    json_t *j = json_loads(r->out, 0, &e);
    CHECK_MSG(j && json_is_object(j), "not one JSON object: %s", r->out);
    return j;
}

static json_t *run_json(const char *args) {
    char with[4096];
    snprintf(with, sizeof with, "%s --json", args);
    result *r = run_birdie(with);
    CHECK_MSG(r->rc == 0, "birdie %s: %s%s", args, r->out, r->err);
    return json_of(r);
}

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    CHECK_MSG(s != NULL, "no string \"%s\"", key);
    return s;
}

static void fails(const char *args, int rc, const char *says) {
    char with[4096];
    result *r = run_birdie(args);
    CHECK_MSG(r->rc == rc, "birdie %s: exit %d, expected %d: %s", args, r->rc, rc, r->err);
    CHECK_MSG(strstr(r->err, says) != NULL, "birdie %s: \"%s\" lacks \"%s\"", args, r->err, says);
    CHECK_MSG(strchr(r->err, '\n') == r->err + strlen(r->err) - 1, "more than one line: %s", r->err);
    CHECK(r->out[0] == 0);
    snprintf(with, sizeof with, "%s --json", args);
    r = run_birdie(with);
    CHECK(r->rc == rc);
    json_t *o = json_of(r);
    const json_t *error = json_object_get(o, "error");
    const char *file = json_string_value(json_object_get(error, "file"));
    CHECK(strstr(str(error, "message"), says) || (file && strstr(file, says)));
    CHECK(strncmp(str(error, "code"), "E_", 2) == 0);
    json_decref(o);
}

static void write_text(const char *name, const char *text) {
    char path[256];
    bd_err e = {0};
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_file_write(path, text, strlen(text), &e), &e);
}

static void save_model(const bd_model *m, const char *name, float scale) {
    bd_st_writer *w = NULL;
    bd_err e = {0};
    char path[256];
    float *copy = bd_alloc_aligned(m->graph->param_floats, sizeof *copy);
    for (uint64_t i = 0; i < m->graph->param_floats; i++) copy[i] = m->params[i] * scale;
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        int64_t dim[2] = {p->ndim == 1 ? p->cols : p->rows, p->cols};
        CHECK_OK(bd_st_tensor(w, p->name, BD_CK_F32, p->ndim, dim, copy + p->offset, &e), &e);
    }
    CHECK_OK(bd_st_finish(w, &e), &e);
    free(copy);
}

static void save_artifact(const bd_model *m, const bd_tokenizer *tok, const char *name) {
    bd_qtensor *t = calloc((size_t)m->graph->n_params, sizeof *t);
    bd_buf text, out;
    bd_err e = {0};
    char path[256];
    bd_buf_init(&text);
    bd_buf_init(&out);
    CHECK_OK(bd_graph_print(m->graph, &text, &e), &e);
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        t[i] = (bd_qtensor){.param = (uint32_t)i,
                            .rows = (uint32_t)p->rows,
                            .cols = (uint32_t)p->cols,
                            .method = BD_Q_F32,
                            .f32 = m->params + p->offset};
    }
    bd_qgroup g = {.name = "all", .tensors = t, .n_tensors = (uint32_t)m->graph->n_params, .codec = BD_CODEC_COUNT};
    bd_artifact a = {.version = 1,
                     .numerics = 1,
                     .graph_text = (const char *)text.data,
                     .graph_size = text.size,
                     .vocab = V,
                     .plan_text = "",
                     .groups = &g,
                     .n_groups = 1};
    memcpy(a.tokenizer_model_hash, tok->model_hash, 32);
    memcpy(a.tokenizer_tables_hash, tok->tables_hash, 32);
    bd_protocol_default(&a.protocol);
    a.protocol.window = 40;
    CHECK_OK(bd_artifact_build(&a, &out, &e), &e);
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_file_write(path, out.data, out.size, &e), &e);
    bd_buf_free(&text);
    bd_buf_free(&out);
    free(t);
}

/* A SentencePiece file of `n` pieces by hand: protobuf field 1, pieces {1: text, 2: score, 3: type}. */
static void save_tokenizer(const char *name, int n) {
    bd_buf b;
    bd_err e = {0};
    char path[256];
    bd_buf_init(&b);
    for (int i = 0; i < n; i++) {
        char text[16];
        int len = snprintf(text, sizeof text, i < 3 ? "<c%d>" : i % 3 ? "p%d" : "\xe2\x96\x81w%d", i);
        int type = i == 0 ? 2 : i < 3 ? 3 : 1;
        bd_buf_u8(&b, 0x0a);
        bd_buf_u8(&b, (uint8_t)(len + 2 + 5 + 2));
        bd_buf_u8(&b, 0x0a);
        bd_buf_u8(&b, (uint8_t)len);
        bd_buf_put(&b, text, (size_t)len);
        bd_buf_u8(&b, 0x15);
        bd_buf_u32(&b, 0);
        bd_buf_u8(&b, 0x18);
        bd_buf_u8(&b, (uint8_t)type);
    }
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    CHECK_OK(bd_file_write(path, b.data, b.size, &e), &e);
    bd_buf_free(&b);
}

/* Files that all tests here share, made once. */
static void make_files(void) {
    static bool made;
    if (made) return;
    uint64_t seed = test_seed();
    bd_model *m = tiny_model(&SPEC, test_rand(&seed));
    bd_tokenizer *tok = NULL;
    uint16_t tokens[N], bytes[N];
    char path[256];
    bd_err e = {0};
    save_model(m, "a.safetensors", 1.0f);
    save_model(m, "b.safetensors", 1.5f);
    save_tokenizer("tok.model", V);
    save_tokenizer("other.model", V + 1);
    snprintf(path, sizeof path, "%s/tok.model", test_tmp());
    CHECK_OK(bd_tokenizer_open(&tok, path, &e), &e);
    save_artifact(m, tok, "a.birdie");
    bd_tokenizer_close(tok);
    random_tokens(tokens, N, V, &seed);
    for (int i = 0; i < N; i++) bytes[i] = (uint16_t)(i % 7);
    snprintf(path, sizeof path, "%s/x_val_000000.bin", test_tmp());
    CHECK_OK(bd_shard_write(path, tokens, N, &e), &e);
    snprintf(path, sizeof path, "%s/side.bin", test_tmp());
    CHECK_OK(bd_shard_write(path, bytes, N, &e), &e);
    tokens[200] = V;
    snprintf(path, sizeof path, "%s/bad_val_000000.bin", test_tmp());
    CHECK_OK(bd_shard_write(path, tokens, N, &e), &e);
    bd_model_close(m);
    made = true;
}

#define DATA " --data $T/x_val_000000.bin --tokenizer $T/tok.model"

TEST(eval_prints_the_stated_keys) {
    make_files();
    json_t *o = run_json("eval $T/a.safetensors" DATA " --window 32 --nll-out $T/nll.f32");
    CHECK_STR(str(o, "tokens"), "300");
    CHECK_STR(str(o, "windows"), "10");
    CHECK_STR(str(o, "mode"), "exact");
    CHECK_STR(str(o, "protocol"), "override");
    CHECK(json_integer_value(json_object_get(o, "numerics")) == 1);
    CHECK(json_is_real(json_object_get(o, "bpb_stderr")));
    CHECK(json_is_number(json_object_get(json_object_get(o, "measured"), "seconds")));
    double bpb = json_real_value(json_object_get(o, "val_bpb")), q = strtod(str(o, "nll_q32"), NULL);
    double bytes = strtod(str(o, "bytes"), NULL);
    CHECK(fabs(bpb - q * 0x1p-32 / log(2) / bytes) < 1e-9);
    CHECK(fabs(json_real_value(json_object_get(o, "val_loss")) - q * 0x1p-32 / 300) < 1e-9);
    bd_map m;
    bd_err e = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/nll.f32", test_tmp());
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    CHECK_EQ_U64(m.size, 1200);
    double sum = 0;
    for (int i = 0; i < 300; i++) {
        float x;
        memcpy(&x, m.data + 4 * (size_t)i, 4);
        sum += (double)x;
    }
    CHECK(fabs(sum - q * 0x1p-32) < 1e-3);
    bd_map_close(&m);
    json_decref(o);
}

TEST(eval_gives_one_score_however_it_is_run) {
    make_files();
    json_t *first = run_json("eval $T/a.safetensors" DATA " --window 32 --stride 5");
    const char *ways[] = {"--threads 1", "--threads 2 --batch-rows 32", "--isa ref", "--isa avx2", "--mode fast"};
    for (int i = 0; i < 5; i++) {
        char args[512];
        snprintf(args, sizeof args, "eval $T/a.safetensors" DATA " --window 32 --stride 5 %s", ways[i]);
        json_t *o = run_json(args);
        CHECK_STR(str(o, "nll_q32"), str(first, "nll_q32"));
        json_decref(o);
    }
    json_decref(first);
}

TEST(eval_default_protocols) {
    make_files();
    json_t *ckpt = run_json("eval $T/a.safetensors" DATA);
    CHECK_STR(str(ckpt, "protocol"), "default");
    CHECK_STR(str(ckpt, "windows"), "1");
    json_t *art = run_json("eval $T/a.birdie" DATA);
    CHECK_STR(str(art, "protocol"), "artifact");
    CHECK_STR(str(art, "windows"), "8");
    json_t *same = run_json("eval $T/a.safetensors" DATA " --window 40");
    CHECK_STR(str(same, "nll_q32"), str(art, "nll_q32"));
    json_t *over = run_json("eval $T/a.birdie" DATA " --drop-tail --max-windows 2");
    CHECK_STR(str(over, "protocol"), "override");
    CHECK_STR(str(over, "tokens"), "80");
    write_text("p.json", "{\"kind\": \"sgd\", \"window\": 32, \"chunk\": 64, \"epochs\": 1, \"lr\": 0.05}");
    json_t *sgd = run_json("eval $T/a.safetensors" DATA " --protocol $T/p.json");
    CHECK_STR(str(sgd, "protocol"), "p.json");
    CHECK(strcmp(str(sgd, "nll_q32"), str(ckpt, "nll_q32")) != 0);
    json_t *cut = run_json("eval $T/a.safetensors" DATA " --max-tokens 77");
    CHECK_STR(str(cut, "tokens"), "77");
    json_t *slope = run_json("eval $T/a.safetensors" DATA " --set slope=0.5");
    CHECK(strcmp(str(slope, "nll_q32"), str(ckpt, "nll_q32")) != 0);
    json_t *dry = run_json("eval $T/a.safetensors" DATA " --window 32 --dry-run");
    CHECK_STR(str(dry, "windows"), "10");
    CHECK(json_is_true(json_object_get(dry, "dry_run")) && json_real_value(json_object_get(dry, "flops")) > 0);
    json_t *all[] = {ckpt, art, same, over, sgd, cut, slope, dry};
    for (int i = 0; i < 8; i++) json_decref(all[i]);
}

TEST(eval_counts_bytes_by_sidecar) {
    make_files();
    json_t *given = run_json("eval $T/a.safetensors" DATA " --bytes $T/side.bin");
    CHECK_STR(str(given, "bytes"), "903"); /* sum of i mod 7 over 1..300 */
    /* found beside a shard whose name says so */
    char cmd[600];
    snprintf(cmd, sizeof cmd,
             "cd %s && mkdir -p s && cp x_val_000000.bin s/ && cp side.bin s/x_val_bytes_000000.bin", test_tmp());
    CHECK(system(cmd) == 0);
    json_t *found = run_json("eval $T/a.safetensors --data $T/s");
    CHECK_STR(str(found, "bytes"), "903");
    CHECK_STR(str(found, "nll_q32"), str(given, "nll_q32"));
    json_decref(given);
    json_decref(found);
}

TEST(eval_refuses_wrong_input_in_one_line) {
    make_files();
    fails("eval $T/a.safetensors --data $T/bad_val_000000.bin --tokenizer $T/other.model", 2, "200");
    fails("eval $T/a.birdie --data $T/x_val_000000.bin --tokenizer $T/other.model", 2, "tokenizer");
    fails("eval $T/a.safetensors --data $T/x_val_000000.bin", 2, "--tokenizer");
    fails("eval $T/a.safetensors --tokenizer $T/tok.model", 2, "--data");
    fails("eval $T/none.pt" DATA, 2, "none.pt");
    fails("eval $T/x_val_000000.bin" DATA, 2, "checkpoint");
    fails("eval $T/a.safetensors --data $T/a.safetensors --tokenizer $T/tok.model", 2, "a.safetensors");
    fails("eval $T/a.safetensors" DATA " --backend cuda --isa avx2", 2, "--isa");
    fails("eval $T/a.safetensors" DATA " --mode quick", 2, "--mode");
    fails("eval $T/a.safetensors" DATA " --window 32 --stride 33", 2, "stride");
    fails("eval $T/a.safetensors" DATA " --set slope", 2, "constant=value");
    fails("eval $T/a.safetensors" DATA " --set slop=0.5", 2, "slope");
    fails("eval $T/a.safetensors" DATA " --max-memory 4000", 2, "memory");
    fails("eval $T/a.safetensors" DATA " --nll-out $T/no/such/dir/x", 2, "no/such/dir");
    fails("eval $T/a.birdie" DATA " --set slope=0.5", 2, "artifact");
    write_text("q.json", "{\"windw\": 3}");
    fails("eval $T/a.safetensors" DATA " --protocol $T/q.json", 2, "did you mean \"window\"");
    write_text("q.json", "{\"window\": 3,}");
    fails("eval $T/a.safetensors" DATA " --protocol $T/q.json", 2, "line 1");
}

TEST(train_directories_use_their_recipe) {
    make_files();
    char cmd[600];
    snprintf(cmd, sizeof cmd, "cd %s && mkdir -p run && cp a.safetensors run/model.safetensors", test_tmp());
    CHECK(system(cmd) == 0);
    write_text("run/recipe.json",
               "{\"model\": \"baseline\", \"constants\": {\"slope\": 0.5, \"layers\": 3}, \"steps\": 5}");
    json_t *dir = run_json("eval $T/run" DATA), *set = run_json("eval $T/a.safetensors" DATA " --set slope=0.5");
    json_t *zero = run_json("eval $T/run" DATA " --set slope=0"), *plain = run_json("eval $T/a.safetensors" DATA);
    CHECK_STR(str(dir, "nll_q32"), str(set, "nll_q32"));
    CHECK_STR(str(zero, "nll_q32"), str(plain, "nll_q32"));
    CHECK(strcmp(str(dir, "nll_q32"), str(zero, "nll_q32")) != 0);
    json_decref(dir);
    json_decref(set);
    json_decref(zero);
    json_decref(plain);
}

TEST(convert_and_diff) {
    make_files();
    json_t *o = run_json("convert $T/a.birdie --out $T/c.safetensors");
    CHECK(json_integer_value(json_object_get(o, "tensors")) > 10);
    json_decref(o);
    o = run_json("diff $T/a.birdie $T/c.safetensors");
    CHECK(json_is_true(json_object_get(o, "equal")));
    json_decref(o);
    o = run_json("diff $T/a.safetensors $T/c.safetensors");
    CHECK(json_is_true(json_object_get(o, "equal")));
    json_decref(o);
    o = run_json("eval $T/c.safetensors" DATA " --window 40"); /* opens by the graph in its metadata */
    json_t *art = run_json("eval $T/a.birdie" DATA);
    CHECK_STR(str(o, "nll_q32"), str(art, "nll_q32"));
    json_decref(o);
    json_decref(art);
    result *r = run_birdie("diff $T/a.safetensors $T/b.safetensors --json");
    CHECK(r->rc == 1);
    o = json_of(r);
    CHECK(json_is_false(json_object_get(o, "equal")));
    json_t *t = json_array_get(json_object_get(o, "tensors"), 0);
    CHECK_STR(str(t, "status"), "different");
    CHECK(fabs(json_real_value(json_object_get(t, "rel_rms")) - 0.5) < 1e-6);
    json_decref(o);
    fails("convert $T/a.birdie", 2, "--out");
    fails("convert $T/tok.model --out $T/z.safetensors", 2, "tok.model");
    fails("diff $T/a.birdie $T/none", 2, "none");
}

TEST(inspect_names_every_kind_of_file) {
    make_files();
    const char *files[][2] = {{"a.safetensors", "checkpoint"},
                              {"a.birdie", "artifact"},
                              {"x_val_000000.bin", "shard"},
                              {"tok.model", "tokenizer"}};
    for (int i = 0; i < 4; i++) {
        char args[256];
        snprintf(args, sizeof args, "inspect $T/%s", files[i][0]);
        json_t *o = run_json(args);
        CHECK_STR(str(o, "type"), files[i][1]);
        json_decref(o);
        result *r = run_birdie(args);
        CHECK(r->rc == 0 && strstr(r->out, files[i][1]));
    }
    json_t *o = run_json("inspect $T/x_val_000000.bin");
    CHECK_STR(str(o, "tokens"), "301");
    json_decref(o);
    o = run_json("inspect $T/a.safetensors");
    CHECK_STR(str(o, "recognised"), "baseline");
    json_decref(o);
    o = run_json("inspect $T/a.birdie --model");
    char graph[16384];
    snprintf(graph, sizeof graph, "%s", str(o, "model"));
    CHECK(json_array_size(json_object_get(o, "sections")) > 3);
    CHECK(json_is_null(json_object_get(o, "claim")));
    json_decref(o);
    CHECK_STR(run_birdie("inspect $T/a.birdie --model")->out, graph);
    CHECK_STR(run_birdie("inspect $T/a.safetensors --model")->out, graph);
    const char *views[] = {"--tensors", "--sections", "--plan"};
    for (int i = 0; i < 3; i++) {
        char args[256];
        snprintf(args, sizeof args, "inspect $T/a.birdie %s", views[i]);
        CHECK(run_birdie(args)->rc == 0);
    }
    CHECK(strstr(run_birdie("inspect $T/a.safetensors --tensors")->out, "tok_emb.weight"));
    fails("inspect $T/a.safetensors --sections", 2, "artifact");
    fails("inspect $T/a.safetensors --model --tensors", 2, "one of");
    write_text("junk", "hello");
    fails("inspect $T/junk", 2, "junk");
}

/* ---- protocol files ---- */

static bd_status parse(const char *text, bd_protocol *p, bd_err *e) {
    json_error_t je;
    memset(e, 0, sizeof *e);
    json_t *o = json_loads(text, 0, &je);
    CHECK(o != NULL);
    bd_status st = bd_protocol_from_json(p, o, e);
    json_decref(o);
    return st;
}

TEST(protocol_json) {
    bd_protocol p, q;
    bd_err e;
    CHECK_OK(parse("{}", &p, &e), &e);
    CHECK(p.kind == BD_PROTO_WINDOW && p.window == 1024 && p.stride == 0);
    CHECK_OK(parse("{\"window\": 64, \"stride\": 64}", &p, &e), &e);
    CHECK(p.stride == 0);
    const char *full =
        "{\"kind\": \"sgd\", \"window\": 64, \"stride\": 8, \"chunk\": 256, \"epochs\": 2, \"optimizer\": \"sgd\","
        "\"batch\": 4, \"lr\": 0.01, \"momentum\": 0, \"clip\": 2, \"freeze\": 1}";
    CHECK_OK(parse(full, &p, &e), &e);
    CHECK(p.kind == BD_PROTO_SGD && p.chunk == 256 && p.epochs == 2 && p.batch == 4 && p.lr == 0.01 &&
          p.momentum == 0 && p.clip == 2 && p.freeze == 1);
    json_t *o = bd_protocol_to_json(&p);
    CHECK_OK(bd_protocol_from_json(&q, o, &e), &e);
    CHECK(p.kind == q.kind && p.window == q.window && p.stride == q.stride && p.chunk == q.chunk && p.lr == q.lr);
    json_decref(o);
    CHECK(parse("{\"kind\": \"lora\"}", &p, &e) == BD_E_UNKNOWN);
    CHECK(parse("{\"kind\": 3}", &p, &e) == BD_E_UNKNOWN);
    CHECK(parse("{\"stride\": 2000}", &p, &e) == BD_E_RANGE);
    CHECK(parse("{\"window\": 0}", &p, &e) == BD_E_RANGE);
    CHECK(parse("{\"window\": -1}", &p, &e) == BD_E_RANGE);
    CHECK(parse("{\"window\": 1.5}", &p, &e) == BD_E_RANGE);
    CHECK(parse("{\"window\": 4294967297}", &p, &e) == BD_E_RANGE);
    CHECK(parse("{\"chunk\": 5}", &p, &e) == BD_E_FIELD);
    CHECK(parse("{\"kind\": \"sgd\", \"momentun\": 0.5}", &p, &e) == BD_E_UNKNOWN);
    CHECK(strstr(e.msg, "momentum") != NULL);
    CHECK(parse("{\"kind\": \"sgd\", \"optimizer\": \"adam\"}", &p, &e) == BD_E_UNKNOWN);
}

TEST(safe_text_keeps_escapes_from_the_terminal) {
    char out[16];
    CHECK_STR(bd_safe_text(out, sizeof out, "a\x1b[2Jb\x80"), "a?[2Jb?");
    CHECK_STR(bd_safe_text(out, 4, "abcdef"), "abc");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
