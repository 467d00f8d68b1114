/* How far candidates are from the float model. */
#include "compiler/divergence.h"

#include "base/fmath.h"
#include "runtime/evaluate.h"
#include "runtime/exec.h"
#include "tests/runtime/tiny_model.h"

static const tiny_spec SPEC = {53, 16, 2, 4, 2, 24};
enum { N = 1000, WINDOW = 37, LONG_STREAM = 6000 };

typedef struct fixture {
    bd_model *m;
    bd_backend *be;
    uint16_t tokens[LONG_STREAM];
    float *near, *far;
} fixture;

static float *moved(const bd_model *m, float by, uint64_t seed) {
    float *p = bd_alloc_aligned(m->graph->param_floats, sizeof *p);
    CHECK(p != NULL);
    memcpy(p, m->params, m->graph->param_floats * sizeof *p);
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *q = &m->graph->params[i];
        for (int64_t k = 0; k < q->rows * q->cols; k++) p[q->offset + (uint64_t)k] += by * test_normalf(&seed);
    }
    return p;
}

static fixture setup(int threads) {
    fixture f = {.m = tiny_model(&SPEC, test_seed()), .be = test_backend("cpu", threads)};
    uint64_t seed = test_seed() + 1;
    random_tokens(f.tokens, LONG_STREAM, SPEC.vocab, &seed);
    f.near = moved(f.m, 0.004f, 7);
    f.far = moved(f.m, 0.05f, 8);
    return f;
}

static void teardown(fixture *f) {
    free(f->near);
    free(f->far);
    bd_backend_close(f->be);
    bd_model_close(f->m);
}

static bd_divergence measure(const fixture *f, const float *const *params, int n, const bd_divergence_opts *o) {
    bd_divergence d;
    bd_err e = {0};
    CHECK_OK(bd_divergence_measure(&d, f->m, f->be, params, n, o, &e), &e);
    CHECK(d.n_candidates == n);
    return d;
}

static double total(const double *x, uint64_t n) {
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

TEST(a_model_against_itself_is_zero) {
    fixture f = setup(0);
    const float *same[] = {f.m->params};
    bd_divergence d = measure(&f, same, 1, &(bd_divergence_opts){f.tokens, N, WINDOW, 0, 1000, NULL});
    CHECK_EQ_U64(d.windows, (N - 1) / WINDOW);
    CHECK_EQ_U64(d.tokens, d.windows * WINDOW);
    for (uint64_t w = 0; w < d.windows; w++) {
        CHECK(d.kl[0][w] == 0);
        CHECK(d.nll[0][w] == d.nll_float[w]);
    }
    bd_divergence_free(&d);
    teardown(&f);
}

TEST(losses_are_those_of_the_evaluator) {
    fixture f = setup(0);
    const float *c[] = {f.near};
    bd_divergence d = measure(&f, c, 1, &(bd_divergence_opts){f.tokens, N, WINDOW, 0, 1000, NULL});
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = WINDOW;
    bd_stream s = {f.tokens, NULL, N};
    bd_eval_opts o = {.drop_tail = true};
    const double *got[] = {d.nll_float, d.nll[0]};
    for (int k = 0; k < 2; k++) {
        float *params = bd_alloc_aligned(f.m->graph->param_floats, sizeof *params);
        CHECK(params != NULL);
        memcpy(params, k ? f.near : f.m->params, f.m->graph->param_floats * sizeof *params);
        bd_model *m = NULL;
        bd_score score;
        bd_err e = {0};
        CHECK_OK(bd_model_create(&m, tiny_graph(&SPEC), params, "tiny", &e), &e);
        CHECK_OK(bd_evaluate(m, f.be, &s, &p, &o, &score, &e), &e);
        CHECK_EQ_U64(score.windows, d.windows);
        CHECK_EQ_U64(score.tokens, d.tokens);
        double mean = total(got[k], d.windows) / (double)d.tokens;
        CHECK_MSG(fabs(mean - score.val_loss) < 1e-9, "%.12f, evaluated %.12f", mean, score.val_loss);
        bd_model_close(m);
    }
    bd_divergence_free(&d);
    teardown(&f);
}

/* Both distributions written out, in long double. */
static double direct_kl(const float *l, const float *m, int n) {
    long double sl = 0, sm = 0, kl = 0;
    for (int j = 0; j < n; j++) {
        sl += expl((long double)l[j]);
        sm += expl((long double)m[j]);
    }
    for (int j = 0; j < n; j++) {
        long double p = expl((long double)l[j]) / sl;
        kl += p * (((long double)l[j] - logl(sl)) - ((long double)m[j] - logl(sm)));
    }
    return (double)kl;
}

TEST(divergence_by_its_definition) {
    fixture f = setup(2);
    const float *c[] = {f.near, f.far, f.m->params};
    bd_divergence d = measure(&f, c, 3, &(bd_divergence_opts){f.tokens, N, WINDOW, 2, 3, NULL});
    CHECK_EQ_U64(d.windows, 3);
    int32_t tokens[WINDOW];
    static float l[WINDOW * 53], m[WINDOW * 53];
    bd_exec *x = NULL;
    bd_err e = {0};
    CHECK_OK(bd_exec_create(&x, f.m->graph, f.be, WINDOW, WINDOW, &e), &e);
    for (uint64_t w = 0; w < 3; w++) {
        for (int t = 0; t < WINDOW; t++) tokens[t] = f.tokens[(w + 2) * WINDOW + (uint64_t)t];
        CHECK_OK(bd_exec_forward(x, f.m->params, tokens, NULL, 1, WINDOW, NULL, &e), &e);
        CHECK_OK(bd_exec_logits(x, 0, WINDOW, l, &e), &e);
        for (int k = 0; k < 2; k++) {
            double want = 0;
            CHECK_OK(bd_exec_forward(x, c[k], tokens, NULL, 1, WINDOW, NULL, &e), &e);
            CHECK_OK(bd_exec_logits(x, 0, WINDOW, m, &e), &e);
            for (int t = 0; t < WINDOW; t++) want += direct_kl(l + t * SPEC.vocab, m + t * SPEC.vocab, SPEC.vocab);
            CHECK_MSG(fabs(d.kl[k][w] - want) < 1e-12 * WINDOW + 1e-10 * want,
                      "candidate %d window %d: %.17g, %.17g", k, (int)w, d.kl[k][w], want);
            CHECK(d.kl[k][w] > 0);
        }
    }
    CHECK(total(d.kl[1], 3) > 10 * total(d.kl[0], 3));
    bd_exec_destroy(x);
    bd_divergence_free(&d);
    teardown(&f);
}

/* 5,999 targets are more than one batch. */
TEST(same_bits_for_any_threads_and_isa) {
    static const struct {
        const char *spec;
        int threads;
    } ways[] = {{"cpu", 1}, {"cpu", 2}, {"cpu", 3}, {"cpu:avx2", 2}, {"ref", 2}};
    bd_divergence first = {0};
    for (int k = 0; k < 5; k++) {
        fixture f = setup(1);
        bd_backend_close(f.be);
        f.be = test_backend(ways[k].spec, ways[k].threads);
        const float *c[] = {f.far, f.near};
        bd_divergence d = measure(&f, c, 2, &(bd_divergence_opts){f.tokens, LONG_STREAM, WINDOW, 1, 1000, NULL});
        CHECK_EQ_U64(d.windows, 161);
        if (k == 0) {
            first = d;
        } else {
            size_t bytes = d.windows * sizeof(double);
            CHECK(memcmp(d.nll_float, first.nll_float, bytes) == 0);
            for (int i = 0; i < 2; i++)
                CHECK(memcmp(d.nll[i], first.nll[i], bytes) == 0 && memcmp(d.kl[i], first.kl[i], bytes) == 0);
            bd_divergence_free(&d);
        }
        teardown(&f);
    }
    bd_divergence_free(&first);
}

TEST(no_candidates_measure_the_float_model) {
    fixture f = setup(1);
    bd_divergence d = measure(&f, NULL, 0, &(bd_divergence_opts){f.tokens, WINDOW + 1, WINDOW, 0, 5, NULL});
    CHECK(d.windows == 1 && d.nll_float[0] > 0);
    bd_divergence_free(&d);
    teardown(&f);
}

static volatile sig_atomic_t stop;
static void stop_now(void *user, const char *what, double done, double all, const char *detail) {
    (void)user, (void)what, (void)done, (void)all, (void)detail;
    stop = 1;
}

TEST(what_cannot_be_measured) {
    fixture f = setup(1);
    const float *c[] = {f.near};
    bd_divergence d;
    bd_err e = {0};
    const bd_divergence_opts bad[] = {{f.tokens, WINDOW, WINDOW, 0, 1, NULL},
                                      {f.tokens, 0, WINDOW, 0, 1, NULL},
                                      {f.tokens, N, 0, 0, 1, NULL},
                                      {f.tokens, N, WINDOW, 27, 1, NULL},
                                      {f.tokens, N, WINDOW, 0, 0, NULL}};
    for (int i = 0; i < 5; i++) {
        CHECK(bd_divergence_measure(&d, f.m, f.be, c, 1, &bad[i], &e) == BD_E_RANGE);
        CHECK(d.nll_float == NULL && d.kl == NULL);
    }
    bd_divergence_opts o = {f.tokens, N, WINDOW, 0, 4, NULL};
    f.tokens[WINDOW * 4] = (uint16_t)SPEC.vocab;
    CHECK(bd_divergence_measure(&d, f.m, f.be, c, 1, &o, &e) == BD_E_RANGE);
    CHECK(strstr(e.msg, "index 148") != NULL);
    f.tokens[WINDOW * 4] = 0;
    f.near[f.m->graph->params[0].offset] = NAN;
    f.tokens[3] = 0; /* the row that is read */
    CHECK(bd_divergence_measure(&d, f.m, f.be, c, 1, &o, &e) == BD_E_NONFINITE);
    CHECK(strstr(e.msg, "candidate 1") != NULL);
    bd_progress p = {.tick = stop_now, .stop = &stop};
    o.progress = &p;
    c[0] = f.far;
    CHECK(bd_divergence_measure(&d, f.m, f.be, c, 1, &o, &e) == BD_E_INTERRUPTED);
    CHECK(d.nll_float == NULL);
    teardown(&f);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
