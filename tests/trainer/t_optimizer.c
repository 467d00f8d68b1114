/* The optimizers: the golden steps, Newton-Schulz on matrices with known singular
 * values, and every switch of a recipe against a reference in double. */
#include "trainer/optimizer.h"

#include "base/fmath.h"
#include "format/checkpoint.h"
#include "runtime/exec.h"
#include "train_help.h"

/* ---- golden: three steps of Muon and Adam on one batch ---- */

static const char golden_recipe[] =
    "{\"model\": \"baseline\", \"constants\": {\"vocab\": 1024, \"dim\": 64, \"layers\": 5, \"heads\": 4,"
    " \"kv_heads\": 2, \"hidden\": 128}, \"seq_len\": 96, \"batch_tokens\": 288, \"optimizers\": ["
    "{\"kind\": \"muon\", \"match\": [\"blocks.*.weight\"], \"lr\": 0.04, \"momentum\": 0.95},"
    "{\"kind\": \"adamw\", \"match\": [\"tok_emb.weight\"], \"lr\": 0.05},"
    "{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 0.04}]}";
static const double golden_losses[4] = {15.857418676715163, 10.185664877518258, 5.949391645265435,
                                        3.4743571825057162};

static bd_ckpt *open_golden(const char *name) {
    const char *path = test_data(name);
    if (!path) SKIP("no golden data");
    bd_ckpt *c = NULL;
    bd_err e = {0};
    CHECK_OK(bd_ckpt_open(&c, path, &e), &e);
    return c;
}

static void read_params(float *out, const bd_graph *g, const bd_ckpt *c) {
    bd_err e = {0};
    CHECK(c->n == g->n_params);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        int t = bd_ckpt_find(c, p->name);
        CHECK_MSG(t >= 0 && c->tensors[t].count == p->rows * p->cols, "%s", p->name);
        CHECK_OK(bd_ckpt_read_f32(c, t, out + p->offset, &e), &e);
    }
}

static int32_t *read_ids(const bd_ckpt *c, const char *name, int64_t n) {
    int t = bd_ckpt_find(c, name);
    uint64_t bytes = 0;
    const void *raw = t < 0 ? NULL : bd_ckpt_raw(c, t, &bytes);
    CHECK(raw != NULL && bytes == (uint64_t)n * 4);
    int32_t *ids = malloc(bytes);
    CHECK(ids != NULL);
    memcpy(ids, raw, bytes);
    return ids;
}

TEST(golden_three_steps) {
    bd_ckpt *weights = open_golden("golden/tiny_weights.safetensors");
    bd_ckpt *batch = open_golden("golden/tiny_expected.safetensors");
    bd_ckpt *after = open_golden("golden/tiny_after3.safetensors");
    bd_recipe *r = recipe_with(golden_recipe, NULL, 0);
    bd_graph *g = NULL, *d = NULL;
    bd_exec *x = NULL;
    bd_gradsum *s = NULL;
    bd_optimizer *o = NULL;
    bd_err e = {0};
    bd_backend *be = backend_or_null("cpu", 2);
    CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
    CHECK_OK(bd_graph_differentiate(&d, g, &e), &e);
    CHECK_OK(bd_exec_create(&x, d, be, 96, 96, &e), &e);
    CHECK_OK(bd_gradsum_create(&s, d, be, &e), &e);
    CHECK_OK(bd_optimizer_create(&o, g, r, be, &e), &e);
    float *p = bd_alloc_aligned(g->param_floats, 4), *grad = bd_alloc_aligned(g->param_floats, 4);
    float *want = bd_alloc_aligned(g->param_floats, 4);
    double nll[288];
    CHECK(p && grad && want);
    read_params(p, g, weights);
    read_params(want, g, after);
    int32_t *tokens = read_ids(batch, "tokens", 288), *targets = read_ids(batch, "targets", 288);
    for (int k = 0; k < 4; k++) {
        CHECK_OK(bd_batch_gradient(x, s, p, tokens, targets, 3, 96, grad, nll, NULL, &e), &e);
        double sum = 0;
        for (int i = 0; i < 288; i++) sum += nll[i];
        CHECK_MSG(fabs(sum / 288 / golden_losses[k] - 1) < 1e-3, "loss %d: %.9f, expected %.9f", k, sum / 288,
                  golden_losses[k]);
        if (k < 3) CHECK_OK(bd_optimizer_step(o, p, grad, k, 1, NULL, &e), &e);
    }
    double worst = 0;
    for (int i = 0; i < g->n_params; i++) {
        double up = 0, down = 0;
        for (int64_t k = 0; k < g->params[i].rows * g->params[i].cols; k++) {
            uint64_t at = g->params[i].offset + (uint64_t)k;
            up += ((double)p[at] - (double)want[at]) * ((double)p[at] - (double)want[at]);
            down += (double)want[at] * (double)want[at];
        }
        double rel = sqrt(up / down);
        if (rel > worst) worst = rel;
        CHECK_MSG(rel < 1e-3, "%s differs by %.3g of its norm", g->params[i].name, rel);
    }
    printf("    largest distance of a tensor: %.2g of its norm\n", worst);
    free(tokens);
    free(targets);
    free(p);
    free(grad);
    free(want);
    bd_optimizer_destroy(o);
    bd_gradsum_destroy(s);
    bd_exec_destroy(x);
    bd_backend_close(be);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_recipe_close(r);
    bd_ckpt_close(weights);
    bd_ckpt_close(batch);
    bd_ckpt_close(after);
}

/* ---- Newton-Schulz ---- */

static double chained(bd_ns_coefficients kind, int steps, double x) {
    for (int i = 0; i < steps; i++) {
        double c[3];
        bd_ns_coefficient(kind, i, c);
        x = c[0] * x + c[1] * x * x * x + c[2] * x * x * x * x * x;
    }
    return x;
}

TEST(scalar_vectors) {
    static const double at[5] = {0.001, 0.01, 0.1, 0.5, 1};
    static const double polar[5] = {0.858873, 1.027110, 1.059161, 0.910611, 0.859129};
    static const double fixed[5] = {0.470544, 0.698917, 0.712120, 0.765439, 0.696436};
    for (int i = 0; i < 5; i++) {
        CHECK(fabs(chained(BD_NS_POLAR, 5, at[i]) - polar[i]) < 1e-6);
        CHECK(fabs(chained(BD_NS_FIXED, 5, at[i]) - fixed[i]) < 1e-6);
    }
    for (double x = 0.001; x <= 1; x += 0.0007) {
        double y = chained(BD_NS_POLAR, 5, x);
        CHECK(y > 0.8589 - 1e-4 && y < 1.1411 + 1e-4);
    }
    CHECK(fabs(chained(BD_NS_FIXED, 3, 0.001) - 0.041) < 5e-4);
    double a[3], b[3]; /* past the fifth step, the last coefficients stay */
    bd_ns_coefficient(BD_NS_POLAR, 4, a);
    bd_ns_coefficient(BD_NS_POLAR, 9, b);
    CHECK(a[0] == b[0] && a[2] == b[2]);
}

static void ns(bd_backend *be, float *out, const float *u, int64_t rows, int64_t cols, int steps,
               bd_ns_coefficients kind) {
    bd_err e = {0};
    float *work = bd_alloc_aligned(bd_newton_schulz_work(rows, cols), sizeof *work);
    CHECK(work != NULL);
    memset(work, 0xff, bd_newton_schulz_work(rows, cols) * sizeof *work);
    memset(out, 0xff, (size_t)(rows * cols) * sizeof *out);
    CHECK_OK(bd_newton_schulz(be, out, u, rows, cols, steps, kind, work, &e), &e);
    free(work);
}

/* A reflection I - 2 v v^T / |v|^2 applied to the rows of m (n x c): an orthogonal factor without a library. */
static void reflect_rows(double *m, int n, int c, uint64_t *seed) {
    double v[64], norm = 0;
    for (int i = 0; i < n; i++) {
        v[i] = test_normalf(seed);
        norm += v[i] * v[i];
    }
    for (int j = 0; j < c; j++) {
        double dot = 0;
        for (int i = 0; i < n; i++) dot += v[i] * m[i * c + j];
        for (int i = 0; i < n; i++) m[i * c + j] -= 2 * dot / norm * v[i];
    }
}

static void transpose(double *out, const double *m, int r, int c) {
    for (int i = 0; i < r; i++)
        for (int j = 0; j < c; j++) out[j * r + i] = m[i * c + j];
}

/* U diag(sigma) V^T and the same with p(sigma / |sigma|) for sigma: what the iteration must give. */
static void known_singular_values(int rows, int cols, bd_ns_coefficients kind, int steps) {
    enum { MOST = 40 };
    uint64_t seed = test_seed() + (uint64_t)(rows * 100 + cols);
    int s = rows < cols ? rows : cols;
    double sigma[MOST], fro = 0;
    for (int i = 0; i < s; i++) {
        sigma[i] = 0.01 + 3 * test_uniform(&seed);
        fro += sigma[i] * sigma[i];
    }
    fro = sqrt(fro);
    double m[2][MOST * MOST] = {{0}}, t[MOST * MOST];
    for (int i = 0; i < s; i++) {
        m[0][i * cols + i] = sigma[i];
        m[1][i * cols + i] = chained(kind, steps, sigma[i] / fro);
    }
    uint64_t turn = seed;
    for (int w = 0; w < 2; w++) {
        seed = turn;
        for (int k = 0; k < 5; k++) reflect_rows(m[w], rows, cols, &seed);
        transpose(t, m[w], rows, cols);
        for (int k = 0; k < 5; k++) reflect_rows(t, cols, rows, &seed);
        transpose(m[w], t, cols, rows);
    }
    float u[MOST * MOST], out[MOST * MOST];
    for (int i = 0; i < rows * cols; i++) u[i] = (float)m[0][i];
    const char *specs[] = {"ref", "cpu:avx2", "cpu:avx512"};
    float first[MOST * MOST];
    for (int b = 0; b < 3; b++) {
        bd_backend *be = backend_or_null(specs[b], 1);
        if (!be) continue;
        ns(be, out, u, rows, cols, steps, kind);
        if (b == 0) memcpy(first, out, sizeof first);
        CHECK(!memcmp(first, out, (size_t)(rows * cols) * sizeof *out));
        bd_backend_close(be);
    }
    for (int i = 0; i < rows * cols; i++)
        CHECK_MSG(fabs((double)out[i] - m[1][i]) < 2e-4, "%d x %d, element %d: %.7f, expected %.7f", rows, cols, i,
                  (double)out[i], m[1][i]);
}

TEST(singular_values_follow_the_polynomial) {
    static const int shapes[][2] = {{2, 2}, {5, 5}, {17, 31}, {31, 17}, {2, 40}, {40, 2}, {33, 33}};
    for (int i = 0; i < 7; i++) {
        known_singular_values(shapes[i][0], shapes[i][1], BD_NS_FIXED, 5);
        known_singular_values(shapes[i][0], shapes[i][1], BD_NS_POLAR, 5);
        known_singular_values(shapes[i][0], shapes[i][1], BD_NS_POLAR, 1);
    }
}

TEST(tall_is_the_transpose_of_wide) {
    enum { R = 24, C = 50 };
    float u[R * C], v[R * C], a[R * C], b[R * C];
    uint64_t seed = test_seed();
    for (int i = 0; i < R; i++)
        for (int j = 0; j < C; j++) v[j * R + i] = u[i * C + j] = test_normalf(&seed);
    bd_backend *be = backend_or_null("cpu", 2);
    for (int kind = 0; kind < 2; kind++) {
        ns(be, a, u, R, C, 5, (bd_ns_coefficients)kind);
        ns(be, b, v, C, R, 5, (bd_ns_coefficients)kind);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < C; j++) CHECK(fabsf(a[i * C + j] - b[j * R + i]) < 2e-5f);
    }
    memset(u, 0, sizeof u); /* nothing to orthogonalize is no division by zero */
    ns(be, a, u, R, C, 5, BD_NS_FIXED);
    for (int i = 0; i < R * C; i++) CHECK(a[i] == 0);
    bd_backend_close(be);
}

/* ---- every switch against a reference in double ---- */

enum { ROWS = 12, COLS = 7, N = ROWS * COLS };

/* The orthogonalized update in double. */
static void ns_double(double *x, int rows, int cols, int steps, bd_ns_coefficients kind) {
    double fro = 0;
    for (int i = 0; i < rows * cols; i++) fro += x[i] * x[i];
    for (int i = 0; i < rows * cols; i++) x[i] /= sqrt(fro) + 1e-7;
    for (int k = 0; k < steps; k++) {
        double c[3], a[ROWS * ROWS], b[ROWS * ROWS], y[N];
        bd_ns_coefficient(kind, k, c);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < rows; j++) {
                a[i * rows + j] = 0;
                for (int l = 0; l < cols; l++) a[i * rows + j] += x[i * cols + l] * x[j * cols + l];
            }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < rows; j++) {
                double sum = 0;
                for (int l = 0; l < rows; l++) sum += a[i * rows + l] * a[l * rows + j];
                b[i * rows + j] = c[1] * a[i * rows + j] + c[2] * sum;
            }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++) {
                y[i * cols + j] = c[0] * x[i * cols + j];
                for (int l = 0; l < rows; l++) y[i * cols + j] += b[i * rows + l] * x[l * cols + j];
            }
        memcpy(x, y, sizeof y);
    }
}

static void muon_double(double *w, double *m, const float *g, const bd_recipe *r, const bd_opt_group *o,
                        int64_t step, double lr, double scale) {
    double mu = step >= o->momentum_warmup ? o->momentum
                                           : o->momentum_start + (o->momentum - o->momentum_start) * (double)step /
                                                                     (double)o->momentum_warmup;
    double u[N];
    (void)r;
    for (int i = 0; i < N; i++) {
        m[i] = mu * m[i] + scale * g[i];
        u[i] = o->nesterov ? scale * g[i] + mu * m[i] : m[i];
    }
    for (int i = 0; i < ROWS && o->row_norm; i++) {
        double s = 0;
        for (int j = 0; j < COLS; j++) s += u[i * COLS + j] * u[i * COLS + j];
        for (int j = 0; j < COLS; j++) u[i * COLS + j] /= fmax(sqrt(s), 1e-7);
    }
    ns_double(u, ROWS, COLS, o->ns_steps, o->coefficients);
    for (int i = 0; i < N; i++) w[i] = w[i] * (1 - lr * o->decay) - lr * sqrt((double)ROWS / COLS) * u[i];
}

static void adam_double(double *w, double *m, double *v, const float *g, int n, const bd_opt_group *o, int64_t step,
                        double lr, double scale) {
    double k = (double)step + 1;
    for (int i = 0; i < n; i++) {
        double gi = scale * g[i];
        m[i] = o->beta1 * m[i] + (1 - o->beta1) * gi;
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * gi * gi;
        w[i] = w[i] * (1 - lr * o->decay) -
               lr * (m[i] / (1 - pow(o->beta1, k))) / (sqrt(v[i] / (1 - pow(o->beta2, k))) + o->eps);
    }
}

/* A graph with one tall matrix and one vector; the optimizer looks at nothing else of it. */
typedef struct tiny_graph_s {
    bd_graph g;
    bd_param p[2];
} tiny_graph_s;

static void tiny_params(tiny_graph_s *t) {
    memset(t, 0, sizeof *t);
    t->p[0] =
        (bd_param){.name = "w", .ndim = 2, .rows = ROWS, .cols = COLS, .offset = 0, .uses = 1, .grad_stride = 96};
    t->p[1] = (bd_param){.name = "v",
                         .ndim = 1,
                         .rows = 1,
                         .cols = 5,
                         .offset = 96,
                         .uses = 1,
                         .grad_offset = 96,
                         .grad_stride = 16};
    t->g.params = t->p;
    t->g.n_params = 2;
    t->g.param_floats = t->g.grad_floats = 112;
}

static void switches(const char *recipe) {
    bd_recipe *r = recipe_with(recipe, NULL, 0);
    tiny_graph_s t;
    tiny_params(&t);
    bd_backend *be = backend_or_null("cpu", 1);
    bd_optimizer *o = NULL;
    bd_err e = {0};
    uint64_t planned = 0;
    CHECK_OK(bd_optimizer_create(&o, &t.g, r, be, &e), &e);
    CHECK_OK(bd_optimizer_plan(&planned, &t.g, r, &e), &e);
    CHECK_EQ_U64(planned, bd_optimizer_bytes(o));
    float *w = bd_alloc_aligned(112, 4), *g = bd_alloc_aligned(112, 4);
    double w2[112] = {0}, m2[112] = {0}, v2[112] = {0};
    uint64_t seed = test_seed();
    CHECK(w && g);
    for (int i = 0; i < 112; i++) w2[i] = w[i] = i < N || (i >= 96 && i < 101) ? test_normalf(&seed) : 0;
    for (int64_t step = 0; step < 6; step++) {
        double sum = 0, mul = 1 - 0.1 * (double)step, norm = -1;
        for (int i = 0; i < 112; i++) {
            g[i] = i < N || (i >= 96 && i < 101) ? test_normalf(&seed) * (step == 3 ? 1e-4f : 1) : 0;
            sum += (double)g[i] * g[i];
        }
        double scale = r->clip > 0 && sqrt(sum) > r->clip ? r->clip / sqrt(sum) : 1;
        float copy[112];
        memcpy(copy, g, sizeof copy);
        CHECK_OK(bd_optimizer_step(o, w, g, step, mul, &norm, &e), &e);
        CHECK(r->clip > 0 ? fabs(norm - sqrt(sum)) < 1e-5 * sqrt(sum) : norm == 0);
        const bd_opt_group *a = &r->groups[bd_recipe_group(r, "w")], *b = &r->groups[bd_recipe_group(r, "v")];
        if (a->kind == BD_OPTIMIZER_MUON) muon_double(w2, m2, copy, r, a, step, a->lr * mul, scale);
        else adam_double(w2, m2, v2, copy, N, a, step, a->lr * mul, scale);
        adam_double(w2 + 96, m2 + 96, v2 + 96, copy + 96, 5, b, step, b->lr * mul, scale);
        for (int i = 0; i < 112; i++)
            CHECK_MSG(fabs((double)w[i] - w2[i]) < 2e-4, "step %d, element %d: %.7f, expected %.7f", (int)step, i,
                      (double)w[i], w2[i]);
    }
    free(w);
    free(g);
    bd_optimizer_destroy(o);
    bd_backend_close(be);
    bd_recipe_close(r);
}

#define RECIPE(muon, adam, more)                                                                    \
    "{\"model\": \"m\", \"optimizers\": [{\"kind\": \"muon\", \"match\": [\"w\"], \"lr\": 0.1" muon \
    "},"                                                                                            \
    "{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 0.05" adam "}]" more "}"

TEST(muon_and_adam_plain) { switches(RECIPE("", "", "")); }
TEST(without_nesterov) { switches(RECIPE(", \"nesterov\": false", "", "")); }
TEST(row_normalization) { switches(RECIPE(", \"row_norm\": true", "", "")); }
TEST(row_normalization_without_nesterov) { switches(RECIPE(", \"row_norm\": true, \"nesterov\": false", "", "")); }
TEST(polar_coefficients) { switches(RECIPE(", \"coefficients\": \"polar\"", "", "")); }
TEST(three_iterations) { switches(RECIPE(", \"ns_steps\": 3", "", "")); }
TEST(decay) { switches(RECIPE(", \"decay\": 0.9", ", \"decay\": 0.7", "")); }
TEST(momentum_warm_up) {
    switches(RECIPE(", \"momentum\": 0.9, \"momentum_start\": 0.2, \"momentum_warmup\": 4", "", ""));
}
TEST(clipping) { switches(RECIPE("", "", ", \"clip\": 2.0")); }
TEST(adam_betas_and_eps) { switches(RECIPE("", ", \"beta1\": 0.5, \"beta2\": 0.99, \"eps\": 1e-3", "")); }
TEST(adam_without_momentum) { switches(RECIPE("", ", \"beta1\": 0", "")); }
TEST(adam_for_everything) {
    switches("{\"model\": \"m\", \"optimizers\": [{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 0.05}]}");
}

TEST(groups_that_do_not_fit) {
    tiny_graph_s t;
    tiny_params(&t);
    bd_backend *be = backend_or_null("cpu", 1);
    bd_optimizer *o = NULL;
    bd_err e = {0};
    bd_recipe *r = recipe_with(
        "{\"model\": \"m\", \"optimizers\": [{\"kind\": \"muon\", \"match\": [\"*\"], \"lr\": 1}]}", NULL, 0);
    CHECK(bd_optimizer_create(&o, &t.g, r, be, &e) == BD_E_SHAPE && strstr(e.msg, "parameter v") && !o);
    bd_recipe_close(r);
    r = recipe_with("{\"model\": \"m\", \"optimizers\": [{\"kind\": \"muon\", \"match\": [\"w\"], \"lr\": 1}]}",
                    NULL, 0);
    CHECK(bd_optimizer_create(&o, &t.g, r, be, &e) == BD_E_MISSING && strstr(e.msg, "parameter v") && !o);
    bd_recipe_close(r);
    bd_backend_close(be);
}

TEST(memory_running_out) {
    tiny_graph_s t;
    tiny_params(&t);
    bd_recipe *r = recipe_with(RECIPE("", "", ""), NULL, 0);
    int failures = 0;
    for (int n = 1; n < 12; n++) {
        char spec[32];
        snprintf(spec, sizeof spec, "fault:%d:cpu", n);
        bd_backend *be = backend_or_null(spec, 1);
        bd_optimizer *o = NULL;
        bd_err e = {0};
        bd_status st = bd_optimizer_create(&o, &t.g, r, be, &e);
        CHECK((st == BD_OK) == (o != NULL));
        failures += st != BD_OK;
        bd_optimizer_destroy(o);
        bd_backend_close(be);
    }
    CHECK(failures == 6);
    bd_recipe_close(r);
}

TEST(gradient_that_is_not_finite) {
    tiny_graph_s t;
    tiny_params(&t);
    bd_recipe *r = recipe_with(RECIPE("", "", ", \"clip\": 1"), NULL, 0);
    bd_backend *be = backend_or_null("cpu", 1);
    bd_optimizer *o = NULL;
    bd_err e = {0};
    CHECK_OK(bd_optimizer_create(&o, &t.g, r, be, &e), &e);
    float *w = bd_alloc_aligned(112, 4), *g = bd_alloc_aligned(112, 4);
    CHECK(w && g);
    g[3] = INFINITY;
#ifndef BIRDIE_VERIFY
    CHECK(bd_optimizer_step(o, w, g, 0, 1, NULL, &e) == BD_E_NONFINITE);
#endif
    free(w);
    free(g);
    bd_optimizer_destroy(o);
    bd_backend_close(be);
    bd_recipe_close(r);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
