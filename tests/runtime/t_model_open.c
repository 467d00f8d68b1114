/* Opening checkpoints: recognition and every way in which it is refused. */
#include "bd_test.h"

#include "base/file.h"
#include "tiny_model.h"

static const tiny_spec SPEC = {48, 16, 3, 4, 2, 24};

typedef struct edit {
    const char *drop;    /* leave this tensor out */
    const char *reshape; /* give this one an extra row */
    const char *extra;   /* add a tensor of this name */
    const char *nan;     /* put a NaN into this one */
    bool empty;          /* add a tensor without elements */
    bool with_graph;     /* put the graph text into the metadata */
} edit;

static const char *save(const bd_model *m, const edit *x) {
    static char path[256];
    static int count;
    bd_st_writer *w = NULL;
    bd_err e = {0};
    bd_buf text;
    static float scratch[65536];
    snprintf(path, sizeof path, "%s/ckpt%d.safetensors", test_tmp(), count++);
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    bd_buf_init(&text);
    if (x->with_graph) {
        CHECK_OK(bd_graph_print(m->graph, &text, &e), &e);
        bd_buf_u8(&text, 0);
        CHECK_OK(bd_st_meta(w, BD_META_GRAPH, (const char *)text.data, &e), &e);
    }
    float *nan_copy = NULL;
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        const float *data = m->params + p->offset;
        int64_t dim[2] = {p->ndim == 1 ? p->cols : p->rows, p->cols};
        if (x->drop && !strcmp(p->name, x->drop)) continue;
        if (x->reshape && !strcmp(p->name, x->reshape)) {
            dim[0]++;
            data = scratch;
        }
        if (x->nan && !strcmp(p->name, x->nan)) {
            size_t n = (size_t)(p->rows * p->cols);
            nan_copy = malloc(n * sizeof *nan_copy);
            memcpy(nan_copy, data, n * sizeof *nan_copy);
            nan_copy[7] = NAN;
            data = nan_copy;
        }
        CHECK_OK(bd_st_tensor(w, p->name, BD_CK_F32, p->ndim, dim, data, &e), &e);
    }
    int64_t one[1] = {3}, none[2] = {0, 16};
    if (x->extra) CHECK_OK(bd_st_tensor(w, x->extra, BD_CK_F32, 1, one, scratch, &e), &e);
    if (x->empty) CHECK_OK(bd_st_tensor(w, "nothing", BD_CK_F32, 2, none, scratch, &e), &e);
    CHECK_OK(bd_st_finish(w, &e), &e);
    free(nan_copy);
    bd_buf_free(&text);
    return path;
}

static bd_status try_open(const char *path, const bd_model_opts *o, bd_err *e) {
    bd_model *m = NULL;
    memset(e, 0, sizeof *e);
    bd_status st = bd_model_open(&m, path, o, e);
    CHECK(st == BD_OK || m == NULL);
    bd_model_close(m);
    return st;
}

TEST(round_trip) {
    bd_model *m = tiny_model(&SPEC, test_seed()), *r = NULL;
    bd_err e = {0};
    CHECK_OK(bd_model_open(&r, save(m, &(edit){.empty = true}), NULL, &e), &e);
    CHECK_STR(r->model_name, "baseline");
    CHECK(r->source == BD_SOURCE_CHECKPOINT && !r->has_protocol);
    CHECK_EQ_U64(r->graph->param_floats, m->graph->param_floats);
    CHECK(memcmp(r->params, m->params, m->graph->param_floats * sizeof(float)) == 0);
    CHECK(memcmp(r->model_hash, m->model_hash, 32) == 0);
    bd_model_close(r);
    bd_model_close(m);
}

TEST(settings_change_what_cannot_be_inferred) {
    bd_model *m = tiny_model(&SPEC, test_seed()), *r = NULL;
    bd_err e = {0};
    const bd_setting slope = {"slope", "0.5"}, other = {"slope", "0.25"}, wrong = {"slop", "0.5"};
    char path[256];
    snprintf(path, sizeof path, "%s", save(m, &(edit){0}));
    bd_model_opts o = {.settings = &slope, .n_settings = 1, .defaults = &other, .n_defaults = 1};
    CHECK_OK(bd_model_open(&r, path, &o, &e), &e);
    CHECK(memcmp(r->model_hash, m->model_hash, 32) != 0);
    uint8_t hash[32];
    memcpy(hash, r->model_hash, 32);
    bd_model_close(r);
    o = (bd_model_opts){.defaults = &slope, .n_defaults = 1};
    CHECK_OK(bd_model_open(&r, path, &o, &e), &e);
    CHECK(memcmp(r->model_hash, hash, 32) == 0); /* the setting won over the default above */
    bd_model_close(r);
    o = (bd_model_opts){.settings = &wrong, .n_settings = 1};
    CHECK(try_open(path, &o, &e) != BD_OK);
    CHECK_MSG(strstr(e.msg, "slope") != NULL, "%s", e.msg);
    bd_model_close(m);
}

TEST(faults_are_listed_together) {
    bd_model *m = tiny_model(&SPEC, test_seed());
    bd_err e;
    const char *path =
        save(m, &(edit){.drop = "blocks.1.attn.proj.weight", .reshape = "blocks.2.mlp_scale", .extra = "rubbish"});
    CHECK(try_open(path, NULL, &e) == BD_E_MISSING);
    CHECK_MSG(strstr(e.msg, "missing: blocks.1.attn.proj.weight") != NULL, "%s", e.msg);
    CHECK_MSG(strstr(e.msg, "blocks.2.mlp_scale is [17] (the model wants [16])") != NULL, "%s", e.msg);
    CHECK_MSG(strstr(e.msg, "left over: rubbish") != NULL, "%s", e.msg);
    CHECK_STR(e.file, path);
    CHECK(try_open(save(m, &(edit){.reshape = "blocks.2.mlp_scale"}), NULL, &e) == BD_E_SHAPE);
    CHECK(try_open(save(m, &(edit){.extra = "rubbish"}), NULL, &e) == BD_E_UNKNOWN);
    bd_model_close(m);
}

TEST(weights_that_are_not_finite_are_named) {
    bd_model *m = tiny_model(&SPEC, test_seed());
    bd_err e;
    CHECK(try_open(save(m, &(edit){.nan = "blocks.0.mlp.fc.weight"}), NULL, &e) == BD_E_NONFINITE);
    CHECK_MSG(strstr(e.msg, "blocks.0.mlp.fc.weight") && strstr(e.msg, "index 7"), "%s", e.msg);
    bd_model_close(m);
}

TEST(graph_in_the_metadata) {
    bd_model *m = tiny_model(&SPEC, test_seed()), *r = NULL;
    bd_err e = {0};
    CHECK_OK(bd_model_open(&r, save(m, &(edit){.with_graph = true}), NULL, &e), &e);
    CHECK(memcmp(r->model_hash, m->model_hash, 32) == 0);
    bd_model_close(r);
    CHECK(try_open(save(m, &(edit){.with_graph = true, .drop = "tok_emb.weight"}), NULL, &e) == BD_E_MISSING);
    bd_model_close(m);
}

TEST(model_by_name_file_and_directory) {
    bd_model *m = tiny_model(&SPEC, test_seed());
    bd_err e;
    char path[256], dir[256], to[300], cmd[700];
    snprintf(path, sizeof path, "%s", save(m, &(edit){0}));
    bd_model_opts o = {.model_file = "baseline"};
    CHECK_OK(try_open(path, &o, &e), &e);
    o.model_file = "/nowhere/x.model";
    CHECK(bd_status_exit(try_open(path, &o, &e)) == 2);
    snprintf(to, sizeof to, "%s/mine.model", test_tmp());
    CHECK_OK(bd_file_write(to, bd_builtin_models[0].text, bd_builtin_models[0].size, &e), &e);
    o.model_file = to;
    CHECK_OK(try_open(path, &o, &e), &e);
    snprintf(dir, sizeof dir, "%s/run", test_tmp());
    CHECK_OK(bd_make_dir(dir, &e), &e);
    CHECK(try_open(dir, NULL, &e) == BD_E_MISSING);
    snprintf(cmd, sizeof cmd, "cp %s %s/model.safetensors", path, dir);
    CHECK(system(cmd) == 0);
    CHECK_OK(try_open(dir, NULL, &e), &e);
    CHECK(bd_status_exit(try_open("/nowhere/at/all.pt", NULL, &e)) == 2);
    bd_model_close(m);
}

/* ---- artifacts ---- */

typedef struct packed {
    bd_artifact a;
    bd_qgroup group;
    bd_qtensor tensors[80];
    bd_buf text, bytes;
} packed;

static void pack(packed *k, const bd_model *m) {
    bd_err e = {0};
    memset(k, 0, sizeof *k);
    bd_buf_init(&k->text);
    bd_buf_init(&k->bytes);
    CHECK_OK(bd_graph_print(m->graph, &k->text, &e), &e);
    CHECK(m->graph->n_params <= 80);
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        k->tensors[i] = (bd_qtensor){.param = (uint32_t)i,
                                     .rows = (uint32_t)p->rows,
                                     .cols = (uint32_t)p->cols,
                                     .method = BD_Q_F32,
                                     .f32 = m->params + p->offset};
    }
    k->group = (bd_qgroup){
        .name = "all", .tensors = k->tensors, .n_tensors = (uint32_t)m->graph->n_params, .codec = BD_CODEC_RAW};
    k->a = (bd_artifact){.version = 1,
                         .numerics = 1,
                         .graph_text = (const char *)k->text.data,
                         .graph_size = k->text.size,
                         .vocab = (uint32_t)m->graph->vocab,
                         .plan_text = "",
                         .groups = &k->group,
                         .n_groups = 1};
    bd_protocol_default(&k->a.protocol);
    k->a.protocol.window = 77;
}

static void pack_free(packed *k) {
    bd_buf_free(&k->text);
    bd_buf_free(&k->bytes);
}

TEST(artifact_gives_the_same_model) {
    bd_model *m = tiny_model(&SPEC, test_seed()), *r = NULL;
    packed *k = malloc(sizeof *k);
    bd_err e = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/x.birdie", test_tmp());
    pack(k, m);
    CHECK_OK(bd_artifact_build(&k->a, &k->bytes, &e), &e);
    CHECK_OK(bd_file_write(path, k->bytes.data, k->bytes.size, &e), &e);
    CHECK_OK(bd_model_open(&r, path, NULL, &e), &e);
    CHECK(!r->has_tokenizer_hash); /* compiled without a tokenizer: any will do */
    bd_model_close(r);
    k->a.tokenizer_tables_hash[31] = 1;
    k->bytes.size = 0;
    CHECK_OK(bd_artifact_build(&k->a, &k->bytes, &e), &e);
    CHECK_OK(bd_file_write(path, k->bytes.data, k->bytes.size, &e), &e);
    CHECK_OK(bd_model_open(&r, path, NULL, &e), &e);
    CHECK(r->source == BD_SOURCE_ARTIFACT && r->has_protocol && r->protocol.window == 77 && r->has_tokenizer_hash);
    CHECK(memcmp(r->params, m->params, m->graph->param_floats * sizeof(float)) == 0);
    bd_model_close(r);
    bd_model_opts o = {.model_file = "baseline"};
    CHECK(try_open(path, &o, &e) == BD_E_USAGE);
    o = (bd_model_opts){.max_memory = 1000};
    CHECK(try_open(path, &o, &e) == BD_E_LIMIT);
    pack_free(k);
    free(k);
    bd_model_close(m);
}

/* Straight from the structure: what the container itself does not forbid. */
TEST(artifact_must_cover_every_parameter_once) {
    bd_model *m = tiny_model(&SPEC, test_seed()), *r = NULL;
    packed *k = malloc(sizeof *k);
    bd_err e = {0};
    pack(k, m);
    CHECK_OK(bd_model_from_artifact(&r, &k->a, NULL, &e), &e);
    bd_model_close(r);
    k->group.n_tensors--;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) == BD_E_MISSING);
    k->group.n_tensors++;
    k->tensors[1].param = 0;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) != BD_OK);
    k->tensors[1].param = 10000;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) == BD_E_RANGE);
    k->tensors[1].param = 1;
    k->tensors[2].rows++;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) == BD_E_SHAPE);
    k->tensors[2].rows--;
    k->a.vocab++;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) == BD_E_FIELD);
    k->a.vocab--;
    k->a.numerics = 99;
    CHECK(bd_model_from_artifact(&r, &k->a, NULL, &e) == BD_E_VERSION);
    pack_free(k);
    free(k);
    bd_model_close(m);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
