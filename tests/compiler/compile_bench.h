/* A random model, statistics and a recipe, for tests of whole compilations. */
#ifndef BD_TESTS_COMPILE_BENCH_H
#define BD_TESTS_COMPILE_BENCH_H

#include "bd_test.h"
#include "compiler/compile.h"
#include "tests/runtime/tiny_model.h"

enum { BENCH_TOKENS = 2000, BENCH_WINDOW = 64 };

typedef struct bench {
    bd_model *m;
    bd_backend *be;
    bd_calibration *c;
    bd_compile_recipe *r;
    uint16_t tokens[BENCH_TOKENS];
    bd_err e;
} bench;

static inline void bench_calibrate(bench *b, double holdout) {
    static const uint8_t shard[1][32] = {{1, 2, 3}};
    uint64_t seed = 77;
    random_tokens(b->tokens, BENCH_TOKENS, b->m->graph->vocab, &seed);
    bd_calib_opts o = {.tokens = b->tokens,
                       .n = BENCH_TOKENS,
                       .window = BENCH_WINDOW,
                       .max_tokens = BENCH_TOKENS,
                       .holdout = holdout,
                       .shards = shard,
                       .n_shards = 1};
    bd_calibration_destroy(b->c);
    CHECK_OK(bd_calibrate(&b->c, b->m, b->be, &o, &b->e), &b->e);
}

static inline bench *bench_open(const tiny_spec *spec, const char *backend, int threads, const char *recipe,
                                const char *const *knobs, int n_knobs) {
    bench *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    b->m = tiny_model(spec, 5);
    b->be = test_backend(backend, threads);
    bench_calibrate(b, 0);
    CHECK_OK(bd_compile_recipe_open(&b->r, recipe, knobs, n_knobs, &b->e), &b->e);
    return b;
}

static inline void bench_recipe(bench *b, const char *recipe, const char *const *knobs, int n_knobs) {
    bd_compile_recipe_close(b->r);
    CHECK_OK(bd_compile_recipe_open(&b->r, recipe, knobs, n_knobs, &b->e), &b->e);
}

static inline void bench_close(bench *b) {
    bd_calibration_destroy(b->c);
    bd_compile_recipe_close(b->r);
    bd_model_close(b->m);
    bd_backend_close(b->be);
    free(b);
}

static inline bd_compile_opts bench_options(const bench *b, uint64_t budget) {
    bd_compile_opts o = {.budget = budget, .recipe = b->r, .calibration = b->c};
    bd_protocol_default(&o.protocol);
    o.protocol.window = BENCH_WINDOW;
    return o;
}

/* Filled as promised: 99.9 % of large models, 1,024 bytes of small files, 99.5 % between. */
static inline bool bench_filled(uint64_t params, uint64_t bytes, uint64_t budget) {
    double share = (double)bytes / (double)budget;
    if (params > 1000000) return share >= 0.999;
    return budget < 200000 ? bytes + 1024 >= budget : share >= 0.995;
}

/* Everything that holds for every success. */
static inline bd_artifact *bench_check_file(bench *b, const bd_buf *file, const bd_compile_result *r,
                                            uint64_t budget) {
    CHECK_MSG(file->size <= budget, "%zu bytes of %" PRIu64, file->size, budget);
    CHECK_EQ_U64(r->artifact_bytes, file->size);
    CHECK_EQ_U64(r->predicted_bytes, file->size);
    if (r->limit == BD_LIMIT_BUDGET)
        CHECK_MSG(bench_filled(b->m->graph->param_count, file->size, budget), "%zu bytes of %" PRIu64, file->size,
                  budget);
    bd_artifact *a = NULL;
    bd_artifact_limits lim = bd_artifact_limits_default();
    CHECK_OK(bd_artifact_parse(&a, file->data, file->size, &lim, &b->e), &b->e);
    CHECK_EQ_U64(r->plan->n_tensors, b->m->graph->n_params);
    CHECK_EQ_U64(r->plan->n_groups, a->n_groups);
    double bytes = 0;
    for (int i = 0; i < r->plan->n_tensors; i++) bytes += r->plan->tensors[i].bytes;
    CHECK(bytes > 0 && bytes <= (double)file->size + r->plan->n_tensors);
    for (uint32_t k = 0; k < a->n_groups; k++) {
        CHECK_STR(r->plan->groups[k].name, a->groups[k].name);
        CHECK(r->plan->groups[k].codec == a->groups[k].codec);
        CHECK_EQ_U64(r->plan->groups[k].bytes, a->groups[k].stored_bytes);
    }
    return a;
}

static inline uint64_t bench_compile(bench *b, uint64_t budget, bd_buf *file, bd_compile_limit *limit) {
    bd_compile_opts o = bench_options(b, budget);
    bd_compile_result r;
    file->size = 0;
    CHECK_OK(bd_compile(file, &r, b->m, b->be, &o, &b->e), &b->e);
    bd_artifact_close(bench_check_file(b, file, &r, budget));
    if (limit) *limit = r.limit;
    bd_compile_result_free(&r);
    return file->size;
}

#endif
