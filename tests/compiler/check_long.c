/* Part of `make check-long`: ten random budgets between 1.2 and 6 bits per weight on
 * two trained models. Never above, filled as promised, and the fullest use of them. */
#include "tests/compiler/compile_bench.h"

#include "base/thread.h"
#include "format/shard.h"

static bd_err e;

static bd_calibration *statistics(const bd_model *m, bd_backend *be) {
    const char *path = test_data("tokens/fineweb_train_000000.sp1024.bin");
    bd_shards shards = {0};
    bd_calibration *c = NULL;
    CHECK_OK(bd_shards_open(&shards, &path, 1, &e), &e);
    bd_calib_opts o = {.tokens = shards.tokens, .n = shards.total, .window = 512, .max_tokens = 16384};
    CHECK_OK(bd_calibrate(&c, m, be, &o, &e), &e);
    bd_shards_close(&shards);
    return c;
}

static void budgets(const char *checkpoint, const bd_setting *settings, int n_settings) {
    const char *path = test_data(checkpoint);
    if (!getenv("BIRDIE_LONG")) SKIP("long: set BIRDIE_LONG=1");
    if (!path || !test_data("tokens/fineweb_train_000000.sp1024.bin")) SKIP("no data");
    bd_model_opts mo = {.settings = settings, .n_settings = n_settings};
    bench b = {.be = test_backend("cpu", 0)};
    CHECK_OK(bd_model_open(&b.m, path, &mo, &e), &e);
    CHECK_OK(bd_compile_recipe_open(&b.r, NULL, NULL, 0, &e), &e);
    b.c = statistics(b.m, b.be);
    double weights = 0;
    for (int i = 0; i < b.m->graph->n_params; i++)
        if (b.m->graph->params[i].role != BD_ROLE_VECTOR)
            weights += (double)(b.m->graph->params[i].rows * b.m->graph->params[i].cols);
    uint64_t seed = test_seed();
    for (int i = 0; i < 10; i++) {
        double bits = 1.2 + 4.8 * test_uniform(&seed), t = bd_now();
        uint64_t budget = (uint64_t)(bits * weights / 8);
        bd_compile_opts o = bench_options(&b, budget);
        bd_compile_result r;
        bd_buf file;
        bd_buf_init(&file);
        CHECK_OK(bd_compile(&file, &r, b.m, b.be, &o, &e), &e);
        printf("    %.3f bits: %zu of %" PRIu64 " bytes, %.4f %%, %s, %d priced, %.1f s\n", bits, file.size, budget,
               100 * (double)file.size / (double)budget, bd_compile_limit_name(r.limit), r.tries, bd_now() - t);
        CHECK(r.limit == BD_LIMIT_BUDGET);
        bd_artifact_close(bench_check_file(&b, &file, &r, budget));
        bd_compile_result_free(&r);
        bd_buf_free(&file);
    }
    bd_calibration_destroy(b.c);
    bd_compile_recipe_close(b.r);
    bd_model_close(b.m);
    bd_backend_close(b.be);
}

TEST(random_budgets_of_own_192d) {
    static const bd_setting heads[] = {{"heads", "4"}, {"kv_heads", "2"}};
    budgets("checkpoints/own_192d.pt", heads, 2);
}

TEST(random_budgets_of_nolanvild_128d) { budgets("checkpoints/nolanvild_128d.pt", NULL, 0); }

int main(int argc, char **argv) { return test_main(argc, argv); }
