/* The compiler as a library: budgets, plans, statistics, determinism. */
#include "bd_test.h"

#include "base/file.h"
#include "base/sha256.h"
#include "compiler/compile.h"
#include "format/checkpoint.h"
#include "tests/runtime/tiny_model.h"

enum { TOKENS = 700, WINDOW = 64 };
static const tiny_spec TINY = {48, 16, 3, 4, 2, 24}, MEDIUM = {512, 128, 3, 4, 2, 256};
static bd_err e;

typedef struct bench {
    bd_model *m;
    bd_backend *be;
    bd_calibration *c;
    bd_compile_recipe *r;
} bench;

static bd_status calibrate(bd_calibration **c, const bd_model *m, bd_backend *be, uint64_t tokens,
                           const bd_progress *p) {
    static uint16_t stream[TOKENS];
    uint64_t seed = 77;
    random_tokens(stream, TOKENS, m->graph->vocab, &seed);
    bd_calib_opts o = {stream, TOKENS, WINDOW, tokens, p};
    return bd_calibrate(c, m, be, &o, &e);
}

static bench open_bench(const tiny_spec *spec, const char *backend, int threads, const char *recipe) {
    bench b = {tiny_model(spec, 5), test_backend(backend, threads), NULL, NULL};
    CHECK_OK(calibrate(&b.c, b.m, b.be, TOKENS, NULL), &e);
    CHECK_OK(bd_compile_recipe_open(&b.r, recipe, &e), &e);
    return b;
}

static void close_bench(bench *b) {
    bd_calibration_destroy(b->c);
    bd_compile_recipe_close(b->r);
    bd_model_close(b->m);
    bd_backend_close(b->be);
}

static bd_compile_opts options(const bench *b, uint64_t budget) {
    bd_compile_opts o = {.budget = budget, .recipe = b->r, .calibration = b->c};
    bd_protocol_default(&o.protocol);
    return o;
}

/* Everything that holds for every success. */
static bd_artifact *check_file(const bench *b, const bd_buf *file, const bd_compile_result *r, uint64_t budget) {
    CHECK_MSG(file->size <= budget, "%zu bytes of %" PRIu64, file->size, budget);
    CHECK_EQ_U64(r->artifact_bytes, file->size);
    CHECK_EQ_U64(r->predicted_bytes, file->size);
    uint64_t short_by = budget - file->size;
    if (r->limit == BD_LIMIT_BUDGET)
        CHECK_MSG(budget >= 200000 ? short_by * 200 <= budget : short_by <= 1024, "%zu bytes of %" PRIu64,
                  file->size, budget);
    bd_artifact *a = NULL;
    bd_artifact_limits lim = bd_artifact_limits_default();
    CHECK_OK(bd_artifact_parse(&a, file->data, file->size, &lim, &e), &e);
    CHECK_EQ_U64(r->plan->n_tensors, b->m->graph->n_params);
    CHECK_EQ_U64(r->plan->n_groups, a->n_groups);
    for (uint32_t k = 0; k < a->n_groups; k++) {
        CHECK_STR(r->plan->groups[k].name, a->groups[k].name);
        CHECK(r->plan->groups[k].codec == a->groups[k].codec);
        CHECK_EQ_U64(r->plan->groups[k].bytes, a->groups[k].stored_bytes);
    }
    return a;
}

static uint64_t compile_ok(const bench *b, uint64_t budget, bd_buf *file, bd_compile_limit *limit) {
    bd_compile_opts o = options(b, budget);
    bd_compile_result r;
    file->size = 0;
    CHECK_OK(bd_compile(file, &r, b->m, b->be, &o, &e), &e);
    bd_artifact_close(check_file(b, file, &r, budget));
    if (limit) *limit = r.limit;
    bd_compile_result_free(&r);
    return file->size;
}

/* Smallest and largest file of a model. */
static uint64_t smallest(const bench *b) {
    bd_compile_opts o = options(b, 1);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_EQ_U64(bd_compile(&file, &r, b->m, b->be, &o, &e), BD_E_BUDGET);
    CHECK(file.size == 0);
    bd_compile_result_free(&r);
    const char *p = strstr(e.msg, "smallest reachable file has ");
    CHECK_MSG(p != NULL, "%s", e.msg);
    return strtoull(p + 28, NULL, 10);
}

TEST(budgets_of_a_tiny_model) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    bd_buf file;
    bd_buf_init(&file);
    bd_compile_limit limit;
    uint64_t seed = test_seed(), lo = smallest(&b), hi = compile_ok(&b, 10000000, &file, &limit);
    CHECK(limit == BD_LIMIT_FINEST && hi > lo);
    for (int i = 0; i < 10; i++) {
        uint64_t budget = lo + 40 + test_rand(&seed) % (hi - lo);
        uint64_t size = compile_ok(&b, budget, &file, &limit);
        CHECK_MSG(limit == BD_LIMIT_FINEST ? budget + 16 >= hi : size + 1024 >= budget, "%" PRIu64 " of %" PRIu64,
                  size, budget);
    }
    /* The budget stands in the plan, so its digits count too. */
    CHECK(compile_ok(&b, hi, &file, &limit) <= hi && limit == BD_LIMIT_FINEST);
    bd_buf_free(&file);
    close_bench(&b);
}

TEST(budgets_of_a_medium_model) {
    bench b = open_bench(&MEDIUM, "cpu", 2, NULL);
    bd_buf file;
    bd_buf_init(&file);
    uint64_t seed = test_seed() + 9;
    for (int i = 0; i < 5; i++) compile_ok(&b, 60000 + test_rand(&seed) % 260000, &file, NULL);
    compile_ok(&b, 200000, &file, NULL);
    bd_buf_free(&file);
    close_bench(&b);
}

TEST(budgets_too_small) {
    bench b = open_bench(&TINY, "cpu", 1, "int8");
    uint64_t least = smallest(&b);
    bd_buf file;
    bd_buf_init(&file);
    bd_compile_result r;
    const uint64_t budgets[] = {0, 100, 350, least - 1};
    for (int i = 0; i < 4; i++) {
        bd_compile_opts o = options(&b, budgets[i]);
        CHECK_EQ_U64(bd_compile(&file, &r, b.m, b.be, &o, &e), BD_E_BUDGET);
        CHECK(bd_status_exit(e.code) == 2 && strstr(e.msg, "of which") != NULL && file.size == 0);
        bd_compile_result_free(&r);
    }
    CHECK_EQ_U64(compile_ok(&b, least + 40, &file, NULL) <= least + 40, 1);
    bd_buf_free(&file);
    close_bench(&b);
}

TEST(named_recipes_keep_their_bits) {
    const struct {
        const char *name;
        int bits;
    } want[] = {{"int8", 8}, {"int7", 7}, {"int6", 6}, {"int5", 5}};
    for (int i = 0; i < 4; i++) {
        bench b = open_bench(&TINY, "cpu", 1, want[i].name);
        bd_buf file;
        bd_buf_init(&file);
        bd_compile_opts o = options(&b, 7000);
        bd_compile_result r;
        CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
        bd_artifact *a = check_file(&b, &file, &r, 7000);
        for (int t = 0; t < r.plan->n_tensors; t++) {
            bool vector = b.m->graph->params[t].role == BD_ROLE_VECTOR;
            CHECK(r.plan->tensors[t].method == (vector ? BD_Q_F16 : BD_Q_ROW));
            if (!vector) CHECK(r.plan->tensors[t].bits == want[i].bits);
        }
        bd_artifact_close(a);
        bd_compile_result_free(&r);
        bd_buf_free(&file);
        close_bench(&b);
    }
}

TEST(ternary_and_small_int8) {
    char path[128];
    snprintf(path, sizeof path, "%s/t.json", test_tmp());
    static const char recipe[] = "{\"matrix\": \"ternary\", \"group\": 1000, \"small\": \"int8\"}";
    CHECK_OK(bd_file_write(path, recipe, strlen(recipe), &e), &e);
    bench b = open_bench(&TINY, "cpu", 1, path);
    bd_buf file;
    bd_buf_init(&file);
    bd_compile_opts o = options(&b, 7000);
    bd_compile_result r;
    CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
    bd_artifact *a = check_file(&b, &file, &r, 7000);
    for (uint32_t k = 0; k < a->n_groups; k++)
        for (uint32_t t = 0; t < a->groups[k].n_tensors; t++) {
            const bd_qtensor *q = &a->groups[k].tensors[t];
            const bd_param *p = &b.m->graph->params[q->param];
            int64_t n = p->rows * p->cols;
            if (p->role != BD_ROLE_MATRIX) {
                CHECK(q->method == BD_Q_ROW && (p->role != BD_ROLE_VECTOR || q->bits == 8));
                continue;
            }
            CHECK(q->method == BD_Q_TERNARY && q->group == (n < 1000 ? (uint32_t)n : 1000u));
            const float *w = b.m->params + p->offset;
            double sum = 0;
            for (int64_t i = 0; i < q->group; i++) sum += fabs((double)w[i]);
            float *v = malloc((size_t)n * sizeof *v);
            bd_qtensor_dequant(q, v);
            for (int64_t i = 0; i < q->group; i++) {
                double mean = sum / q->group, x = (double)w[i] / mean;
                CHECK(fabs(fabs(x) - 0.5) < 1e-3 || fabs((double)v[i] - mean * (x > 0.5    ? 1
                                                                                : x < -0.5 ? -1
                                                                                           : 0)) < mean * 1e-3);
            }
            free(v);
        }
    bd_artifact_close(a);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    close_bench(&b);
}

/* A matrix the loss feels more gets a finer step. */
TEST(steps_follow_the_loss) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    for (int i = 0; i < b.c->n_uses; i++) CHECK(b.c->uses[i].rows && b.c->moments[b.c->uses[i].moment].h);
    int at = bd_graph_find_param(b.m->graph, "blocks.1.mlp.fc.weight");
    CHECK(at >= 0);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    double relative[2];
    for (int k = 0; k < 2; k++) {
        bd_compile_opts o = options(&b, 7000);
        CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
        relative[k] = (double)r.plan->tensors[at].k / ((1 << (r.plan->tensors[at].bits - 1)) - 1) / r.step;
        bd_compile_result_free(&r);
        for (int i = 0; i < b.c->n_uses; i++) {
            bd_moment *m = &b.c->moments[b.c->uses[i].moment];
            if (b.c->uses[i].param != at) continue;
            for (int64_t j = 0; j < m->n * m->n; j++) m->h[j] *= 100;
        }
    }
    CHECK_MSG(relative[1] < 0.5 * relative[0], "%g and %g", relative[0], relative[1]);
    bd_buf_free(&file);
    close_bench(&b);
}

TEST(dead_matrices_and_zero_gradients) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    int at = bd_graph_find_param(b.m->graph, "blocks.0.attn.proj.weight");
    const bd_param *p = &b.m->graph->params[at];
    memset(b.m->params + p->offset, 0, (size_t)(p->rows * p->cols) * sizeof(float));
    bd_calibration_destroy(b.c);
    CHECK_OK(calibrate(&b.c, b.m, b.be, TOKENS, NULL), &e); /* now q, k and v of block 0 get no gradient */
    bd_buf file;
    bd_buf_init(&file);
    compile_ok(&b, 7000, &file, NULL);
    compile_ok(&b, 5500, &file, NULL);
    bd_buf_free(&file);
    close_bench(&b);
}

TEST(same_bytes_everywhere) {
    static const char *const backends[] = {"cpu", "cpu:avx2", "cpu:avx512", "ref", "cpu"};
    const int threads[] = {1, 2, 3, 1, 2};
    uint8_t first[32], now[32];
    bd_buf file;
    bd_buf_init(&file);
    for (int i = 0; i < 5; i++) {
        bd_backend *probe = NULL;
        if (bd_backend_open(&probe, backends[i], 1, &e) != BD_OK) continue; /* this machine lacks it */
        bd_backend_close(probe);
        bench b = open_bench(&TINY, backends[i], threads[i], NULL);
        if (i == 4) { /* statistics that went through a file */
            char path[128];
            snprintf(path, sizeof path, "%s/same.stats", test_tmp());
            CHECK_OK(bd_calibration_save(b.c, b.m, path, &e), &e);
            bd_calibration_destroy(b.c);
            CHECK_OK(bd_calibration_load(&b.c, b.m, path, &e), &e);
        }
        compile_ok(&b, 7000, &file, NULL);
        bd_sha256_of(file.data, file.size, now);
        if (i == 0) memcpy(first, now, 32);
        CHECK_MSG(!memcmp(first, now, 32), "%s gives other bytes", backends[i]);
        close_bench(&b);
    }
    bd_buf_free(&file);
}

/* --- plans --- */

static void plan_text(const bd_plan *p, char *out, size_t size) {
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_plan_print(p, &b, &e), &e);
    CHECK(b.size < size);
    memcpy(out, b.data, b.size);
    out[b.size] = 0;
    bd_buf_free(&b);
}

TEST(plan_gives_the_same_bytes) {
    static const char *const recipes[] = {"gptq", "int6", "ternary"};
    static char text[65536];
    for (int i = 0; i < 3; i++) {
        bench b = open_bench(&TINY, "cpu", 1, recipes[i]);
        bd_compile_opts o = options(&b, 7000);
        bd_compile_result r, again;
        bd_buf file, copy;
        bd_buf_init(&file);
        bd_buf_init(&copy);
        CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
        plan_text(r.plan, text, sizeof text);
        bd_plan *plan;
        CHECK_OK(bd_plan_parse(&plan, text, strlen(text), &e), &e);
        /* another recipe: a plan says everything itself */
        bd_compile_recipe_close(b.r);
        CHECK_OK(bd_compile_recipe_open(&b.r, "int8", &e), &e);
        o.recipe = b.r;
        o.plan = plan;
        CHECK_OK(bd_compile(&copy, &again, b.m, b.be, &o, &e), &e);
        CHECK(again.limit == BD_LIMIT_PLAN);
        CHECK_MSG(copy.size == file.size && !memcmp(copy.data, file.data, file.size),
                  "recipe %s: %zu and %zu bytes", recipes[i], file.size, copy.size);
        bd_plan_close(plan);
        bd_compile_result_free(&r);
        bd_compile_result_free(&again);
        bd_buf_free(&file);
        bd_buf_free(&copy);
        close_bench(&b);
    }
}

TEST(edited_plans) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    bd_compile_opts o = options(&b, 7000);
    bd_compile_result r, again;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
    bd_plan edited = *r.plan;
    int at = bd_graph_find_param(b.m->graph, "blocks.1.attn.c_q.weight");
    edited.tensors[at].method = BD_Q_TERNARY;
    edited.tensors[at].qgroup = 32;
    edited.tensors[at].group = "mine";
    edited.n_groups = 0;
    edited.rounding.feedback = false;
    o.plan = &edited;
    CHECK_OK(bd_compile(&file, &again, b.m, b.be, &o, &e), &e);
    bd_artifact *a = check_file(&b, &file, &again, 7000);
    bool seen = false;
    for (uint32_t k = 0; k < a->n_groups; k++)
        if (!strcmp(a->groups[k].name, "mine")) {
            seen = true;
            CHECK(a->groups[k].n_tensors == 1 && a->groups[k].tensors[0].param == (uint32_t)at);
            CHECK(a->groups[k].tensors[0].method == BD_Q_TERNARY && a->groups[k].tensors[0].group == 32);
        }
    CHECK(seen && !again.plan->rounding.feedback);
    bd_artifact_close(a);
    bd_compile_result_free(&again);
    /* what cannot be done */
    edited.tensors[at].qgroup = 4096;
    edited.tensors[at].line = 17;
    CHECK_EQ_U64(bd_compile(&file, &again, b.m, b.be, &o, &e), BD_E_RANGE);
    CHECK(strstr(e.msg, "plan line 17") != NULL);
    edited.tensors[at].qgroup = 32;
    edited.tensors[at].name = "other";
    CHECK_EQ_U64(bd_compile(&file, &again, b.m, b.be, &o, &e), BD_E_FIELD);
    CHECK(strstr(e.msg, "plan line 17") != NULL && strstr(e.msg, "other") != NULL);
    edited.n_tensors--;
    CHECK_EQ_U64(bd_compile(&file, &again, b.m, b.be, &o, &e), BD_E_SHAPE);
    edited.n_tensors++;
    edited.tensors[at].name = "blocks.1.attn.c_q.weight";
    o.budget = 2000;
    CHECK_EQ_U64(bd_compile(&file, &again, b.m, b.be, &o, &e), BD_E_BUDGET);
    o.budget = 7000;
    bd_plan_group group = {"nothing", BD_CODEC_RAW, 0, 33};
    edited.groups = &group;
    edited.n_groups = 1;
    CHECK_EQ_U64(bd_compile(&file, &again, b.m, b.be, &o, &e), BD_E_UNKNOWN);
    CHECK(strstr(e.msg, "plan line 33") != NULL);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    close_bench(&b);
}

/* --- weights --- */

TEST(bad_weights) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    bd_compile_opts o = options(&b, 7000);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    int at = bd_graph_find_param(b.m->graph, "blocks.2.mlp.proj.weight");
    float *w = b.m->params + b.m->graph->params[at].offset, was = w[5];
    const float bad[] = {NAN, INFINITY, 3e38f};
    const bd_status want[] = {BD_E_NONFINITE, BD_E_NONFINITE, BD_E_RANGE};
    for (int i = 0; i < 3; i++) {
        w[5] = bad[i];
        CHECK_EQ_U64(bd_compile(&file, &r, b.m, b.be, &o, &e), want[i]);
        CHECK_MSG(strstr(e.msg, "blocks.2.mlp.proj.weight") && strstr(e.msg, i < 2 ? "element 5" : "row 0"), "%s",
                  e.msg);
        CHECK(bd_status_exit(e.code) == 2 && file.size == 0);
    }
    w[5] = was;
    bd_buf_free(&file);
    close_bench(&b);
}

/* --- statistics --- */

TEST(statistics_files) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    bd_model *other = tiny_model(&TINY, 6);
    bd_calibration *c = NULL;
    char path[128], cut[128];
    snprintf(path, sizeof path, "%s/a.stats", test_tmp());
    snprintf(cut, sizeof cut, "%s/cut.stats", test_tmp());
    CHECK_OK(bd_calibration_save(b.c, b.m, path, &e), &e);
    CHECK_EQ_U64(bd_calibration_load(&c, other, path, &e), BD_E_CHECKSUM);
    CHECK(strstr(e.msg, "another model") != NULL && strstr(e.file, "a.stats") != NULL && c == NULL);
    bd_map m;
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    for (uint64_t n = 0; n < m.size; n += n < 64 ? 7 : m.size / 23) {
        CHECK_OK(bd_file_write(cut, m.data, n, &e), &e);
        CHECK_MSG(bd_calibration_load(&c, b.m, cut, &e) != BD_OK, "%d bytes are enough", (int)n);
        CHECK(c == NULL && e.msg[0] && bd_status_exit(e.code) == 2);
    }
    uint8_t *bytes = malloc(m.size);
    memcpy(bytes, m.data, m.size);
    memset(bytes + m.size - 8, 0xff, 8); /* a NaN */
    CHECK_OK(bd_file_write(cut, bytes, m.size, &e), &e);
    CHECK_EQ_U64(bd_calibration_load(&c, b.m, cut, &e), BD_E_NONFINITE);
    memset(bytes + m.size - 8, 0, 7);
    bytes[m.size - 1] = 0xc0; /* -2 */
    CHECK_OK(bd_file_write(cut, bytes, m.size, &e), &e);
    CHECK_EQ_U64(bd_calibration_load(&c, b.m, cut, &e), BD_E_RANGE);
    CHECK_OK(bd_file_write(cut, "not statistics at all", 21, &e), &e);
    CHECK(bd_calibration_load(&c, b.m, cut, &e) != BD_OK);
    free(bytes);
    bd_map_close(&m);
    bd_st_writer *w;
    CHECK_OK(bd_st_create(&w, cut, &e), &e);
    CHECK_OK(bd_st_finish(w, &e), &e);
    CHECK_EQ_U64(bd_calibration_load(&c, b.m, cut, &e), BD_E_MAGIC);
    bd_model_close(other);
    close_bench(&b);
}

/* Sums by hand for a layer without context: the head of a model reads the last norm. */
TEST(statistics_are_their_definition) {
    bench b = open_bench(&TINY, "ref", 1, NULL);
    const bd_graph *g = b.m->graph;
    int emb = bd_graph_find_param(g, "tok_emb.weight"), uses = 0;
    for (int i = 0; i < b.c->n_uses; i++) {
        const bd_param_use *u = &b.c->uses[i];
        const bd_moment *m = &b.c->moments[u->moment];
        for (int64_t j = 0; j < m->n; j++) {
            CHECK(m->h[j * m->n + j] >= 0);
            for (int64_t k = 0; k < j; k++) {
                double a = m->h[j * m->n + k], top = sqrt(m->h[j * m->n + j] * m->h[k * m->n + k]);
                CHECK(fabs(a) <= top * (1 + 1e-9) && fabs(a - m->h[k * m->n + j]) <= top * 1e-12);
            }
        }
        if (u->param != emb) continue;
        uses++;
        if (!m->of_gradient) continue;
        double count = 0;
        for (int64_t j = 0; j < g->params[emb].rows; j++) count += u->rows[j];
        CHECK_EQ_U64(count, b.c->tokens);
    }
    CHECK_EQ_U64(uses, 2);
    bd_metric metric;
    CHECK_OK(bd_calibration_metric(&metric, b.c, g, emb, &e), &e);
    double sum = 0;
    for (int64_t j = 0; j < g->params[emb].rows; j++) sum += metric.rows[j];
    CHECK(fabs(sum - 1) < 1e-12);
    bd_metric_free(&metric);
    CHECK_OK(bd_calibration_metric(&metric, b.c, g, bd_graph_find_param(g, "blocks.0.attn.q_gain"), &e), &e);
    CHECK(metric.h == NULL && metric.rows == NULL);
    close_bench(&b);
}

TEST(calibration_errors) {
    bd_model *m = tiny_model(&TINY, 5);
    bd_backend *be = test_backend("cpu", 1);
    bd_calibration *c = NULL;
    uint16_t stream[WINDOW + 1] = {0};
    bd_calib_opts o = {stream, WINDOW, WINDOW, 100, NULL};
    CHECK_EQ_U64(bd_calibrate(&c, m, be, &o, &e), BD_E_MISSING);
    stream[40] = 48;
    o.n = WINDOW + 1;
    CHECK_EQ_U64(bd_calibrate(&c, m, be, &o, &e), BD_E_RANGE);
    CHECK(strstr(e.msg, "token 40 is 48") != NULL);
    stream[40] = 47;
    CHECK_OK(bd_calibrate(&c, m, be, &o, &e), &e);
    CHECK_EQ_U64(c->tokens, WINDOW);
    bd_calibration_destroy(c);
    bd_model_close(m);
    bd_backend_close(be);
}

/* --- stopping --- */

static volatile sig_atomic_t stop_flag;
static int ticks_left;
static void count_down(void *user, const char *what, double done, double total, const char *detail) {
    (void)user, (void)what, (void)done, (void)total, (void)detail;
    if (--ticks_left <= 0) stop_flag = 1;
}

TEST(interruption) {
    bench b = open_bench(&TINY, "cpu", 1, NULL);
    bd_progress p = {.tick = count_down, .stop = &stop_flag};
    bd_calibration *c = NULL;
    stop_flag = 1;
    CHECK_EQ_U64(calibrate(&c, b.m, b.be, TOKENS, &p), BD_E_INTERRUPTED);
    CHECK(c == NULL);
    bd_compile_opts o = options(&b, 7000);
    o.progress = &p;
    int stopped = 0;
    for (int n = 1; n < 60; n += 6) {
        bd_buf file;
        bd_compile_result r;
        bd_buf_init(&file);
        stop_flag = 0;
        ticks_left = n;
        bd_status st = bd_compile(&file, &r, b.m, b.be, &o, &e);
        CHECK(st == BD_OK || st == BD_E_INTERRUPTED);
        if (st) CHECK(file.size == 0 && bd_status_exit(st) == 130);
        stopped += st != BD_OK;
        bd_compile_result_free(&r);
        bd_buf_free(&file);
    }
    CHECK(stopped >= 3);
    stop_flag = 0;
    close_bench(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
