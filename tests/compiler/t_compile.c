/* The compiler as a library: budgets, recipes, determinism, odd inputs, the trial. */
#include "tests/compiler/compile_bench.h"

#include "base/sha256.h"
#include "compiler/ldl.h"

static const tiny_spec TINY = {48, 16, 3, 4, 2, 24}, MEDIUM = {512, 128, 3, 4, 2, 256}, LINE = {48, 16, 2, 4, 2, 1};
static bd_err e;

/* --- budgets --- */

static uint64_t smallest(bench *b) {
    bd_compile_opts o = bench_options(b, 1);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_EQ_U64(bd_compile(&file, &r, b->m, b->be, &o, &e), BD_E_BUDGET);
    CHECK(file.size == 0);
    const char *p = strstr(e.msg, "smallest reachable file has ");
    CHECK_MSG(p != NULL, "%s", e.msg);
    return strtoull(p + 28, NULL, 10);
}

TEST(budgets_of_a_tiny_model) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    bd_buf file;
    bd_buf_init(&file);
    bd_compile_limit limit;
    uint64_t seed = test_seed(), lo = smallest(b), hi = bench_compile(b, 10000000, &file, &limit);
    CHECK(limit == BD_LIMIT_FINEST && hi > lo);
    for (int i = 0; i < 12; i++) {
        uint64_t budget = lo + 40 + test_rand(&seed) % (hi - lo), size = bench_compile(b, budget, &file, &limit);
        CHECK_MSG(limit == BD_LIMIT_FINEST || size + 1024 >= budget, "%" PRIu64 " of %" PRIu64, size, budget);
    }
    uint64_t again = bench_compile(b, hi + 200, &file, &limit);
    CHECK_MSG(again <= hi + 40 && limit == BD_LIMIT_FINEST, "%" PRIu64 " of %" PRIu64 ", %s", again, hi,
              bd_compile_limit_name(limit));
    bd_buf_free(&file);
    bench_close(b);
}

TEST(budgets_of_a_medium_model) {
    bench *b = bench_open(&MEDIUM, "cpu", 2, NULL, NULL, 0);
    bd_buf file;
    bd_buf_init(&file);
    uint64_t seed = test_seed() + 9;
    for (int i = 0; i < 4; i++) bench_compile(b, 60000 + test_rand(&seed) % 260000, &file, NULL);
    bench_compile(b, 200000, &file, NULL);
    bd_buf_free(&file);
    bench_close(b);
}

TEST(more_bytes_lose_less) {
    bench *b = bench_open(&MEDIUM, "cpu", 2, NULL, NULL, 0);
    double last = HUGE_VAL;
    for (uint64_t budget = 60000; budget <= 300000; budget += 80000) {
        bd_compile_opts o = bench_options(b, budget);
        bd_compile_result r;
        bd_buf file;
        bd_buf_init(&file);
        CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
        CHECK_MSG(r.nats > 0 && r.nats < last, "%g after %g", r.nats, last);
        CHECK_MSG(r.nats_per_byte > 0 && r.nats_per_byte * 1000 < r.nats, "%g of %g", r.nats_per_byte, r.nats);
        double sum = 0;
        for (int i = 0; i < r.plan->n_tensors; i++) sum += r.plan->tensors[i].nats;
        CHECK_MSG(fabs(sum - r.nats) < 0.01 * r.nats, "%g and %g", sum, r.nats);
        last = r.nats;
        bd_compile_result_free(&r);
        bd_buf_free(&file);
    }
    bench_close(b);
}

TEST(budgets_too_small) {
    static const char *const recipes[] = {NULL, "int8"};
    for (int k = 0; k < 2; k++) {
        bench *b = bench_open(&TINY, "cpu", 1, recipes[k], NULL, 0);
        uint64_t least = smallest(b);
        bd_buf file;
        bd_buf_init(&file);
        bd_compile_result r;
        const uint64_t budgets[] = {0, 100, 350, least - least / 12}; /* what is said is not exact */
        for (int i = 0; i < 4; i++) {
            bd_compile_opts o = bench_options(b, budgets[i]);
            bd_status st = bd_compile(&file, &r, b->m, b->be, &o, &e);
            CHECK_MSG(st == BD_E_BUDGET, "%s: %" PRIu64 " bytes were said to be too few, and %zu did", b->r->name,
                      budgets[i], file.size);
            CHECK(bd_status_exit(e.code) == 2 && strstr(e.msg, "of which") != NULL && file.size == 0);
            CHECK(strstr(e.msg, "small tensors") && strstr(e.msg, "scales"));
        }
        CHECK(bench_compile(b, least + 40, &file, NULL) <= least + 40);
        bd_buf_free(&file);
        bench_close(b);
    }
}

/* --- recipes --- */

static double param_of(const bd_plan_tensor *t, const char *key) {
    for (int i = 0; i < t->n_params; i++)
        if (!strcmp(t->params[i].key, key)) return strtod(t->params[i].value, NULL);
    return -1;
}

TEST(named_recipes_keep_their_bits) {
    const struct {
        const char *name;
        int bits;
    } want[] = {{"int8", 8}, {"int7", 7}, {"int6", 6}, {"int5", 5}};
    for (int i = 0; i < 4; i++) {
        bench *b = bench_open(&TINY, "cpu", 1, want[i].name, NULL, 0);
        bd_buf file;
        bd_buf_init(&file);
        bd_compile_opts o = bench_options(b, 7000);
        bd_compile_result r;
        CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
        bd_artifact *a = bench_check_file(b, &file, &r, 7000);
        for (int t = 0; t < r.plan->n_tensors; t++) {
            if (b->m->graph->params[t].role != BD_ROLE_MATRIX) continue;
            CHECK_STR(r.plan->tensors[t].quantizer, "row");
            CHECK(param_of(&r.plan->tensors[t], "bits") == want[i].bits);
        }
        bd_artifact_close(a);
        bd_compile_result_free(&r);
        bd_buf_free(&file);
        bench_close(b);
    }
}

/* All of them make files that open, whose plan can be carried out. */
TEST(every_recipe) {
    bench *b = bench_open(&TINY, "cpu", 2, NULL, NULL, 0);
    for (int i = 0; bd_compile_recipe_names[i]; i++) {
        const char *knobs[] = {"codec=range"}; /* no external programs here */
        bench_recipe(b, bd_compile_recipe_names[i], knobs, 1);
        bd_compile_opts o = bench_options(b, 40000);
        bd_compile_result r, again;
        bd_buf file, copy;
        bd_buf_init(&file);
        bd_buf_init(&copy);
        bd_status st = bd_compile(&file, &r, b->m, b->be, &o, &e);
        CHECK_MSG(st == BD_OK, "%s: %s", bd_compile_recipe_names[i], e.msg);
        CHECK(r.limit == (b->r->fill ? BD_LIMIT_FINEST : BD_LIMIT_RECIPE));
        bd_artifact_close(bench_check_file(b, &file, &r, 40000));
        o.plan = r.plan;
        CHECK_OK(bd_compile(&copy, &again, b->m, b->be, &o, &e), &e);
        CHECK_MSG(copy.size == file.size && !memcmp(copy.data, file.data, file.size), "%s: %zu and %zu bytes",
                  bd_compile_recipe_names[i], file.size, copy.size);
        CHECK(again.limit == BD_LIMIT_PLAN);
        o.plan = NULL;
        o.budget = 1500;
        bd_compile_result_free(&again);
        CHECK_EQ_U64(bd_compile(&copy, &again, b->m, b->be, &o, &e), BD_E_BUDGET);
        bd_compile_result_free(&r);
        bd_buf_free(&file);
        bd_buf_free(&copy);
    }
    bench_close(b);
}

TEST(knobs_reach_the_file) {
    static const char *const knobs[] = {
        "states=1",        "lambda=0.02", "steps={\"*mlp*\":0.25}", "grouping=kind", "small_by_sensitivity=false",
        "order=activation"};
    bench *b = bench_open(&TINY, "cpu", 1, NULL, knobs, 6);
    bd_buf file;
    bd_buf_init(&file);
    bd_compile_opts o = bench_options(b, 7000);
    bd_compile_result r;
    CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
    bd_artifact *a = bench_check_file(b, &file, &r, 7000);
    CHECK(a->n_groups == 8 && r.plan->metric.order == BD_ORDER_FALLING);
    double mlp = 0, attn = 0;
    for (int i = 0; i < r.plan->n_tensors; i++) {
        const bd_plan_tensor *t = &r.plan->tensors[i];
        if (b->m->graph->params[i].role == BD_ROLE_VECTOR) {
            CHECK_STR(t->quantizer, "f16");
            continue;
        }
        CHECK(param_of(t, "states") == 1 && fabs(param_of(t, "lambda") - 0.02) < 1e-6);
        if (strstr(t->name, "mlp")) mlp = param_of(t, "step");
        if (strstr(t->name, "attn")) attn = param_of(t, "step");
    }
    CHECK_MSG(fabs(mlp / attn - 0.25) < 0.05, "%g and %g", mlp, attn);
    bd_artifact_close(a);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    bench_close(b);
}

/* The two largest errors are corrected, and the plan says so exactly. */
TEST(corrections) {
    static const char *const knobs[] = {"lqer_top=2", "lqer={\"rank\":2,\"group\":16}"};
    bench *b = bench_open(&TINY, "cpu", 2, "int5", knobs, 2);
    bd_buf file, copy;
    bd_buf_init(&file);
    bd_buf_init(&copy);
    bd_compile_opts o = bench_options(b, 6500);
    bd_compile_result r, again;
    CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
    bd_artifact_close(bench_check_file(b, &file, &r, 6500));
    int corrected = 0;
    for (int i = 0; i < r.plan->n_tensors; i++)
        if (!strcmp(r.plan->tensors[i].quantizer, "lqer")) {
            corrected++;
            CHECK(param_of(&r.plan->tensors[i], "rank") == 2 && param_of(&r.plan->tensors[i], "bits") == 5);
        }
    CHECK_MSG(corrected >= 2, "%d", corrected);
    o.plan = r.plan;
    CHECK_OK(bd_compile(&copy, &again, b->m, b->be, &o, &e), &e);
    CHECK(copy.size == file.size && !memcmp(copy.data, file.data, file.size));
    bd_compile_result_free(&r);
    bd_compile_result_free(&again);
    bd_buf_free(&file);
    bd_buf_free(&copy);
    bench_close(b);
}

/* --- the metric --- */

/* A matrix that the loss feels more gets finer steps: base times exponents. */
TEST(steps_follow_the_loss) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    int at = bd_graph_find_param(b->m->graph, "blocks.1.mlp.fc.weight");
    CHECK(at >= 0);
    double exponents[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        bd_buf file;
        bd_compile_result r;
        bd_buf_init(&file);
        bd_compile_opts o = bench_options(b, 7000);
        CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
        bd_artifact *a = bench_check_file(b, &file, &r, 7000);
        for (uint32_t g = 0; g < a->n_groups; g++)
            for (uint32_t t = 0; t < a->groups[g].n_tensors; t++) {
                const bd_qtensor *q = &a->groups[g].tensors[t];
                if (q->param != (uint32_t)at) continue;
                CHECK(q->method == BD_Q_TCQ && q->states == 64);
                for (uint32_t i = 0; i < q->rows; i++) exponents[k] += q->row_exp[i] / (double)q->rows;
                for (uint32_t i = 0; i < q->cols; i++) exponents[k] += q->col_exp[i] / (double)q->cols;
            }
        bd_artifact_close(a);
        bd_compile_result_free(&r);
        bd_buf_free(&file);
        for (int i = 0; i < b->c->n_uses; i++) {
            bd_moment *m = &b->c->moments[b->c->uses[i].moment];
            if (b->c->uses[i].param != at) continue;
            for (int64_t j = 0; j < m->n * m->n; j++) m->h[j] *= 256;
        }
    }
    /* 4 log2(1 / sqrt(256)) */
    CHECK_MSG(fabs(exponents[1] - exponents[0] + 16) < 0.01, "%g and %g", exponents[0], exponents[1]);
    bench_close(b);
}

/* Matrices that read one value share a factorization, and lose nothing by it. */
TEST(shared_factors) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    const bd_graph *g = b->m->graph;
    for (int i = 0; i < g->n_params; i++) {
        bd_metric m;
        CHECK_OK(bd_calibration_metric(&m, b->c, g, i, &e), &e);
        bd_metric_free(&m);
    }
    static const char *const knobs[] = {"states=1"};
    bench_recipe(b, NULL, knobs, 1);
    bd_compile_opts o = bench_options(b, 7000);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
    bd_artifact *a = bench_check_file(b, &file, &r, 7000);
    for (uint32_t k = 0; k < a->n_groups; k++)
        for (uint32_t t = 0; t < a->groups[k].n_tensors; t++) {
            const bd_qtensor *q = &a->groups[k].tensors[t];
            const bd_param *p = &g->params[q->param];
            if (q->method != BD_Q_TCQ || strstr(p->name, "c_k") == NULL) continue;
            /* The loss by definition, H undamped: sum r_i dW_i H dW_i^T / 2, or with coupled rows
             * sum G_ij dW_i H dW_j^T / 2. */
            bd_metric m;
            CHECK_OK(bd_calibration_metric(&m, b->c, g, (int)q->param, &e), &e);
            float v[16 * 16];
            double nats = 0, hd[16 * 16] = {0};
            CHECK(p->rows * p->cols <= 256 && p->cols <= 16);
            bd_qtensor_dequant(q, v);
            const float *w = b->m->params + p->offset;
            for (int64_t i = 0; i < p->rows * p->cols; i++) v[i] = w[i] - v[i];
            for (int64_t i = 0; i < p->rows; i++)
                for (int64_t x = 0; x < p->cols; x++)
                    for (int64_t y = 0; y < p->cols; y++)
                        hd[i * p->cols + x] += m.h[x * p->cols + y] * (double)v[i * p->cols + y];
            for (int64_t i = 0; i < p->rows; i++)
                for (int64_t j = 0; j < p->rows; j++) {
                    double weight = m.coupled ? m.coupled[i * p->rows + j] : i == j ? m.rows[i] : 0;
                    for (int64_t x = 0; x < p->cols; x++)
                        nats += weight * (double)v[j * p->cols + x] * hd[i * p->cols + x] / 2;
                }
            double said = r.plan->tensors[q->param].nats;
            CHECK_MSG(fabs(said - nats) < 0.03 * nats + 1e-12, "%s: %g, by definition %g", p->name, said, nats);
            bd_metric_free(&m);
        }
    bd_artifact_close(a);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    bench_close(b);
}

TEST(factorization) {
    static const int sizes[] = {1, 2, 7, 63, 64, 65, 129, 200};
    uint64_t seed = test_seed();
    for (int s = 0; s < 8; s++) {
        int64_t n = sizes[s];
        double *h = calloc((size_t)(n * n), sizeof *h), *was = calloc((size_t)(n * n), sizeof *was), worst = 0;
        for (int r = 0; r < 12; r++) {
            double x[200];
            for (int64_t i = 0; i < n; i++) x[i] = (double)test_normalf(&seed);
            for (int64_t i = 0; i < n * n; i++) h[i] += x[i / n] * x[i % n];
        }
        for (int64_t i = 0; i < n; i++) h[i * n + i] += 0.01;
        memcpy(was, h, (size_t)(n * n) * sizeof *h);
        CHECK_OK(bd_ldl(h, n, &e), &e);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = i; k < n; k++) {
                double v = 0;
                for (int64_t j = k; j < n; j++)
                    v += (j == i ? 1 : h[i * n + j]) * (j == k ? 1 : h[k * n + j]) * h[j * n + j];
                if (fabs(v - was[i * n + k]) > worst) worst = fabs(v - was[i * n + k]);
            }
        CHECK_MSG(worst < 1e-9, "n %d: %g", (int)n, worst);
        for (int64_t i = 0; i < n * n; i++) h[i] = i % (n + 1) ? 0 : -1;
        CHECK_EQ_U64(bd_ldl(h, n, &e), BD_E_NONFINITE);
        free(h);
        free(was);
    }
}

/* --- odd inputs --- */

static void set_matrix(bench *b, const char *name, float v) {
    int at = bd_graph_find_param(b->m->graph, name);
    CHECK(at >= 0);
    const bd_param *p = &b->m->graph->params[at];
    for (int64_t i = 0; i < p->rows * p->cols; i++) b->m->params[p->offset + (uint64_t)i] = v;
}

static void compiles_with(bench *b, const char *what) {
    static const char *const recipes[] = {NULL, "int6", "gptq-lqer-pgrp", "ternary-g128"};
    bd_buf file;
    bd_buf_init(&file);
    for (int i = 0; i < 4; i++) {
        static const char *const knobs[] = {"codec=range"};
        bench_recipe(b, recipes[i], knobs, 1);
        bd_compile_opts o = bench_options(b, 9000);
        bd_compile_result r;
        file.size = 0;
        bd_status st = bd_compile(&file, &r, b->m, b->be, &o, &e);
        CHECK_MSG(st == BD_OK, "%s, %s: %s", what, b->r->name, e.msg);
        bd_artifact_close(bench_check_file(b, &file, &r, 9000));
        CHECK_MSG(isfinite(r.nats), "%s, %s", what, b->r->name);
        bd_compile_result_free(&r);
    }
    bd_buf_free(&file);
}

TEST(zeros_and_zero_gradients) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    set_matrix(b, "blocks.0.attn.proj.weight", 0);
    bench_calibrate(b, 0); /* now q, k and v of block 0 get no gradient */
    compiles_with(b, "a tensor of zeros");
    for (int i = 0; i < b->m->graph->n_params; i++)
        if (b->m->graph->params[i].role != BD_ROLE_VECTOR) set_matrix(b, b->m->graph->params[i].name, 0);
    compiles_with(b, "zeros everywhere");
    bench_close(b);
}

TEST(lines_and_columns) {
    bench *b = bench_open(&LINE, "cpu", 1, NULL, NULL, 0);
    compiles_with(b, "1 x N and N x 1");
    bench_close(b);
}

TEST(dead_columns_and_rows_never_used) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    for (int i = 0; i < b->c->n_uses; i++) {
        bd_moment *m = &b->c->moments[b->c->uses[i].moment];
        for (int64_t k = 0; k < m->n; k++) m->h[3 * m->n + k] = m->h[k * m->n + 3] = 0;
        b->c->uses[i].rows[1] = 0;
    }
    compiles_with(b, "a dead column, an unused row");
    /* Of H nothing but one direction is left. */
    for (int i = 0; i < b->c->n_moments; i++) {
        bd_moment *m = &b->c->moments[i];
        for (int64_t k = 0; k < m->n * m->n; k++) m->h[k] = 1;
    }
    compiles_with(b, "a singular H");
    for (int i = 0; i < b->c->n_moments; i++) {
        bd_moment *m = &b->c->moments[i];
        for (int64_t k = 0; k < m->n * m->n; k++) m->h[k] = 0;
    }
    compiles_with(b, "no H at all");
    bench_close(b);
}

TEST(without_statistics) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    bd_calibration_destroy(b->c);
    b->c = NULL;
    bd_buf file;
    bd_buf_init(&file);
    bench_compile(b, 7000, &file, NULL);
    bench_recipe(b, "int8-zlib", NULL, 0);
    bd_compile_limit limit;
    bench_compile(b, 40000, &file, &limit);
    CHECK(limit == BD_LIMIT_RECIPE);
    bd_buf_free(&file);
    bench_close(b);
}

TEST(bad_weights) {
    bench *b = bench_open(&TINY, "cpu", 2, NULL, NULL, 0);
    bd_compile_result r;
    bd_buf file;
    bd_buf_init(&file);
    int at = bd_graph_find_param(b->m->graph, "blocks.2.mlp.proj.weight");
    float *w = b->m->params + b->m->graph->params[at].offset, was = w[5];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        bd_compile_opts o = bench_options(b, 7000);
        w[5] = bad[i];
        CHECK_EQ_U64(bd_compile(&file, &r, b->m, b->be, &o, &e), BD_E_NONFINITE);
        CHECK_MSG(strstr(e.msg, "blocks.2.mlp.proj.weight") && strstr(e.msg, "element 5"), "%s", e.msg);
        CHECK(bd_status_exit(e.code) == 2 && file.size == 0);
    }
    /* What a scale per row cannot hold is an error with its place, never a wrong file. */
    bench_recipe(b, "int6", NULL, 0);
    bd_compile_opts o = bench_options(b, 7000);
    w[5] = 3e38f;
    CHECK_EQ_U64(bd_compile(&file, &r, b->m, b->be, &o, &e), BD_E_RANGE);
    CHECK_MSG(strstr(e.msg, "blocks.2.mlp.proj.weight") && strstr(e.msg, "row 0"), "%s", e.msg);
    w[5] = was;
    bd_buf_free(&file);
    bench_close(b);
}

/* --- determinism --- */

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
        bench *b = bench_open(&TINY, backends[i], threads[i], NULL, NULL, 0);
        if (i == 4) { /* statistics that went through a file */
            char path[128];
            snprintf(path, sizeof path, "%s/same.stats", test_tmp());
            CHECK_OK(bd_calibration_save(b->c, b->m, path, &e), &e);
            bd_calibration_destroy(b->c);
            CHECK_OK(bd_calibration_load(&b->c, b->m, path, &e), &e);
        }
        bench_compile(b, 7000, &file, NULL);
        bd_sha256_of(file.data, file.size, now);
        if (i == 0) memcpy(first, now, 32);
        CHECK_MSG(!memcmp(first, now, 32), "%s gives other bytes", backends[i]);
        bench_close(b);
    }
    bd_buf_free(&file);
}

/* --- the trial --- */

TEST(trials) {
    static const char *const knobs[] = {"lambda=[0.02,0.08]", "states=[4,1]", "rho=[0.05,0.2]", "holdout=0.2"};
    uint8_t first[32], now[32];
    bd_buf file;
    bd_buf_init(&file);
    for (int k = 0; k < 2; k++) {
        bench *b = bench_open(&TINY, "cpu", 1 + k, NULL, knobs, 4);
        bench_calibrate(b, b->r->holdout);
        bd_compile_opts o = bench_options(b, 7000);
        o.tokens = b->tokens;
        o.n_tokens = BENCH_TOKENS;
        bd_compile_result r;
        CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
        bd_artifact_close(bench_check_file(b, &file, &r, 7000));
        CHECK_EQ_U64(r.n_trials, 8);
        int chosen = -1;
        for (int i = 0; i < 8; i++) {
            CHECK(r.trials[i].nll > 0 && r.trials[i].kl >= 0 && r.trials[i].stderr_nll >= 0);
            if (r.trials[i].chosen) chosen = chosen < 0 ? i : 99;
        }
        CHECK(chosen >= 0 && chosen < 8);
        for (int i = 0; i < r.plan->n_tensors; i++) {
            if (b->m->graph->params[i].role == BD_ROLE_VECTOR) continue;
            CHECK(param_of(&r.plan->tensors[i], "states") == r.trials[chosen].states);
            CHECK(fabs(param_of(&r.plan->tensors[i], "lambda") - r.trials[chosen].lambda) < 1e-6);
        }
        CHECK(r.plan->metric.rho == r.trials[chosen].rho);
        bd_sha256_of(file.data, file.size, now);
        if (k == 0) memcpy(first, now, 32);
        CHECK_MSG(!memcmp(first, now, 32), "other bytes with %d threads", k + 1);
        /* The plan needs no trial. */
        bd_buf copy;
        bd_compile_result again;
        bd_buf_init(&copy);
        o.plan = r.plan;
        CHECK_OK(bd_compile(&copy, &again, b->m, b->be, &o, &e), &e);
        CHECK(again.n_trials == 0 && copy.size == file.size && !memcmp(copy.data, file.data, file.size));
        bd_compile_result_free(&again);
        bd_buf_free(&copy);
        /* Too little text for one. */
        o.plan = NULL;
        o.n_tokens = 3 * BENCH_WINDOW;
        CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_MISSING);
        bd_compile_result_free(&r);
        file.size = 0;
        bench_close(b);
    }
    bd_buf_free(&file);
}

/* --- stopping --- */

static volatile sig_atomic_t stop_flag;
static int ticks_left;
static void count_down(void *user, const char *what, double done, double total, const char *detail) {
    (void)user, (void)what, (void)done, (void)total, (void)detail;
    if (--ticks_left <= 0) stop_flag = 1;
}

TEST(interruption) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    bd_progress p = {.tick = count_down, .stop = &stop_flag};
    bd_compile_opts o = bench_options(b, 7000);
    o.progress = &p;
    int stopped = 0;
    for (int n = 1; n < 14; n++) {
        bd_buf file;
        bd_compile_result r;
        bd_buf_init(&file);
        stop_flag = 0;
        ticks_left = n;
        bd_status st = bd_compile(&file, &r, b->m, b->be, &o, &e);
        CHECK(st == BD_OK || st == BD_E_INTERRUPTED);
        if (st) CHECK(file.size == 0 && bd_status_exit(st) == 130);
        stopped += st != BD_OK;
        bd_compile_result_free(&r);
        bd_buf_free(&file);
    }
    CHECK_MSG(stopped >= 3, "%d", stopped);
    stop_flag = 0;
    bench_close(b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
