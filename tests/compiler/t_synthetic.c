/* Random models and statistics for measurements of speed, and the measurement itself. */
#include <unistd.h>

#include "compiler/ldl.h"
#include "compiler/synthetic.h"
#include "tests/bd_test.h"
#include "tests/runtime/tiny_model.h"

static const tiny_spec spec = {96, 48, 3, 4, 2, 100};

static bd_calibration *make(const bd_graph *g, int threads) {
    bd_pool *pool = NULL;
    bd_calibration *c = NULL;
    bd_err e;
    CHECK_OK(bd_pool_create(&pool, threads, &e), &e);
    CHECK_OK(bd_synthetic_calibration(&c, g, 4096, 3, pool, &e), &e);
    bd_pool_destroy(pool);
    return c;
}

/* What bd_calibrate would give: positive definite moments that a statistics file may hold, trace of couplings and
 * rows alike. */
TEST(statistics_are_statistics) {
    bd_model *m = tiny_model(&spec, 1);
    bd_calibration *c = make(m->graph, 1);
    bd_err e;
    CHECK(c->n_moments > 0 && c->n_uses > c->n_moments);
    int coupled = 0;
    for (int i = 0; i < c->n_uses; i++) coupled += c->uses[i].coupled != NULL;
    CHECK(coupled > 0);
    for (int i = 0; i < m->graph->n_params; i++) {
        bd_metric k;
        CHECK_OK(bd_calibration_metric(&k, c, m->graph, i, &e), &e);
        CHECK((k.h && k.rows) || k.elements);
        if (k.h) CHECK_OK(bd_ldl(k.h, m->graph->params[i].cols, &e), &e);
        if (k.coupled) CHECK_OK(bd_ldl(k.coupled, m->graph->params[i].rows, &e), &e);
        bd_metric_free(&k);
    }
    char path[256];
    snprintf(path, sizeof path, "%s/synthetic.stats", test_tmp());
    bd_calibration *back = NULL;
    CHECK_OK(bd_calibration_save(c, m, path, &e), &e);
    CHECK_OK(bd_calibration_load(&back, m, path, &e), &e);
    bd_calibration_destroy(back);
    bd_calibration_destroy(c);
    bd_model_close(m);
}

TEST(threads_change_nothing) {
    bd_graph *g = tiny_graph(&spec);
    bd_calibration *a = make(g, 1), *b = make(g, 3);
    for (int i = 0; i < a->n_moments; i++)
        CHECK(!memcmp(a->moments[i].h, b->moments[i].h,
                      (size_t)(a->moments[i].n * a->moments[i].n) * sizeof(double)));
    for (int i = 0; i < a->n_uses; i++)
        CHECK(!memcmp(a->uses[i].rows, b->uses[i].rows, (size_t)g->params[a->uses[i].param].rows * sizeof(double)));
    bd_pool *pool = NULL;
    bd_err e;
    CHECK_OK(bd_pool_create(&pool, 3, &e), &e);
    float *p = bd_alloc_aligned(g->param_floats, sizeof *p), *q = bd_alloc_aligned(g->param_floats, sizeof *q);
    CHECK(p && q);
    bd_synthetic_params(p, g, 5, NULL);
    bd_synthetic_params(q, g, 5, pool);
    CHECK(!memcmp(p, q, g->param_floats * sizeof *p));
    double sum = 0;
    for (uint64_t i = 0; i < g->param_floats; i++) {
        CHECK(isfinite(p[i]));
        sum += (double)p[i] * (double)p[i];
    }
    CHECK(sum > 0);
    free(p);
    free(q);
    bd_pool_destroy(pool);
    bd_calibration_destroy(a);
    bd_calibration_destroy(b);
    bd_graph_destroy(g);
}

static bool says(const char *options, const char *what) {
    char command[1024], out[16384];
    snprintf(command, sizeof command, "%s bench compile %s 2>&1", BIRDIE_PROGRAM, options);
    FILE *f = popen(command, "r");
    CHECK(f != NULL);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = 0;
    pclose(f);
    bool found = strstr(out, what) != NULL;
    if (!found) fprintf(stderr, "%s:\n%s\n", command, out);
    return found;
}

#define SMALL "--set layers=1 --set dim=64 --set hidden=96 --set vocab=200 --share 2 "

TEST(the_measurement) {
    CHECK(says(SMALL "--states 1 8", "packing alone"));
    CHECK(says(SMALL "--states 4 --repeat 2 --json", "\"peak_memory_bytes\""));
    CHECK(says(SMALL "--states 7", "states is 7"));
    CHECK(says(SMALL "--set x=1", "x"));
    CHECK(says("--set layers", "constant=value"));
    CHECK(says("--model nothing", "no built-in model"));
    CHECK(says("--bits 0", "--bits"));
    CHECK(says("--dry-run", "would measure"));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
