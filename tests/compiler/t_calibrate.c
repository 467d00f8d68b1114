/* Calibration statistics: what they mean, that they repeat, and files of them. */
#include "bd_test.h"

#include "base/file.h"
#include "base/sha256.h"
#include "compiler/calibrate.h"
#include "format/checkpoint.h"
#include "runtime/exec.h"
#include "tests/runtime/tiny_model.h"

enum { TOKENS = 3000, WINDOW = 64, TRIALS = 6 };
static const tiny_spec TINY = {48, 16, 3, 4, 2, 24};
static bd_err e;

static uint16_t stream[TOKENS];

static void fill_stream(int vocab) {
    uint64_t seed = 77;
    random_tokens(stream, TOKENS, vocab, &seed);
}

static bd_calib_opts default_opts(void) {
    return (bd_calib_opts){.tokens = stream, .n = TOKENS, .window = WINDOW, .max_tokens = TOKENS};
}

static bd_calibration *collect(const bd_model *m, const char *backend, int threads, const bd_calib_opts *o) {
    bd_backend *be = test_backend(backend, threads);
    bd_calibration *c = NULL;
    memset(&e, 0, sizeof e);
    CHECK_OK(bd_calibrate(&c, m, be, o, &e), &e);
    bd_backend_close(be);
    return c;
}

static void check_same(const bd_calibration *a, const bd_calibration *b, const bd_graph *g) {
    CHECK(a->n_moments == b->n_moments && a->n_uses == b->n_uses && a->n_params == b->n_params);
    for (int i = 0; i < a->n_moments; i++) {
        const bd_moment *x = &a->moments[i], *y = &b->moments[i];
        CHECK(x->n == y->n && x->of_gradient == y->of_gradient && x->readers == y->readers);
        CHECK(!memcmp(x->h, y->h, (size_t)(x->n * x->n) * sizeof(double)));
    }
    for (int i = 0; i < a->n_uses; i++) {
        CHECK(a->uses[i].param == b->uses[i].param && a->uses[i].moment == b->uses[i].moment);
        size_t n = (size_t)g->params[a->uses[i].param].rows;
        CHECK(!memcmp(a->uses[i].rows, b->uses[i].rows, n * sizeof(double)));
        const double *x = a->uses[i].coupled, *y = b->uses[i].coupled;
        CHECK(!x == !y && (!x || !memcmp(x, y, n * n * sizeof(double))));
    }
    for (int i = 0; i < a->n_params; i++) {
        CHECK(!a->elements[i] == !b->elements[i]);
        size_t n = (size_t)(g->params[i].rows * g->params[i].cols);
        if (a->elements[i]) CHECK(!memcmp(a->elements[i], b->elements[i], n * sizeof(double)));
    }
    CHECK(a->tokens == b->tokens && !memcmp(a->tokens_hash, b->tokens_hash, 32));
    CHECK(a->unweighted == b->unweighted && a->n_shards == b->n_shards);
    for (int i = 0; i < a->n_shards; i++) CHECK(!memcmp(a->shards[i], b->shards[i], 32));
}

TEST(same_bits_for_any_threads_and_isa) {
    static const char *const backends[] = {"cpu", "cpu:avx2", "cpu:avx512", "ref", "cpu", "ref"};
    const int threads[] = {2, 1, 2, 1, 3, 2};
    bd_model *m = tiny_model(&TINY, 5);
    fill_stream(TINY.vocab);
    for (int plain = 0; plain < 2; plain++) {
        bd_calib_opts o = default_opts();
        o.unweighted = plain;
        bd_calibration *first = collect(m, "cpu", 1, &o);
        for (int i = 0; i < 6; i++) {
            bd_backend *probe = NULL;
            if (bd_backend_open(&probe, backends[i], 1, &e) != BD_OK) continue; /* this machine lacks it */
            bd_backend_close(probe);
            bd_calibration *c = collect(m, backends[i], threads[i], &o);
            check_same(first, c, m->graph);
            bd_calibration_destroy(c);
        }
        bd_calibration_destroy(first);
    }
    bd_model_close(m);
}

/* Every parameter is a matrix or a vector; vectors have the squares of the gradients of calls of 1,024 tokens,
 * about their mean. */
TEST(elements_are_squared_gradients) {
    bd_model *m = tiny_model(&TINY, 5);
    fill_stream(TINY.vocab);
    bd_calib_opts o = default_opts();
    bd_calibration *c = collect(m, "cpu", 2, &o);
    bd_backend *be = test_backend("cpu", 1);
    bd_graph *g = NULL;
    bd_exec *x = NULL;
    bd_gradsum *sum = NULL;
    CHECK_OK(bd_graph_differentiate(&g, m->graph, &e), &e);
    CHECK_OK(bd_exec_create(&x, g, be, 1024, WINDOW, &e), &e);
    CHECK_OK(bd_gradsum_create(&sum, g, be, &e), &e);
    float *grad = bd_alloc_aligned(g->param_floats, sizeof *grad);
    double *nll = bd_alloc_aligned(1024, sizeof *nll), *want = bd_alloc_aligned(g->param_floats, sizeof *want);
    double *mean = bd_alloc_aligned(g->param_floats, sizeof *mean), calls = 0;
    int32_t tokens[1024], targets[1024];
    int windows = (TOKENS - 1) / WINDOW;
    CHECK_EQ_U64(c->tokens, windows * WINDOW);
    for (int w = 0; w < windows; w += 16) {
        int n = windows - w < 16 ? windows - w : 16;
        for (int t = 0; t < n * WINDOW; t++) {
            tokens[t] = stream[w * WINDOW + t];
            targets[t] = stream[w * WINDOW + t + 1];
        }
        CHECK_OK(bd_batch_gradient(x, sum, m->params, tokens, targets, n, WINDOW, grad, nll, NULL, &e), &e);
        for (uint64_t k = 0; k < g->param_floats; k++) {
            double v = (double)grad[k] * n * WINDOW; /* it gives the mean */
            want[k] += v * v;
            mean[k] += v;
        }
        calls++;
    }
    for (uint64_t k = 0; k < g->param_floats; k++)
        want[k] = (want[k] - mean[k] * mean[k] / calls) * calls / (calls - 1);
    int vectors = 0;
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        CHECK_MSG((c->elements[i] != NULL) == (p->role == BD_ROLE_VECTOR), "%s", p->name);
        vectors += c->elements[i] != NULL;
        double largest = 0;
        for (int64_t k = 0; k < p->rows * p->cols; k++) largest = fmax(largest, want[p->offset + (uint64_t)k]);
        bd_metric metric;
        CHECK_OK(bd_calibration_metric(&metric, c, m->graph, i, &e), &e);
        CHECK((metric.elements != NULL) == (c->elements[i] != NULL));
        CHECK(!metric.h == !metric.rows && !metric.h == (metric.elements != NULL));
        for (int64_t k = 0; c->elements[i] && k < p->rows * p->cols; k++) {
            double v = c->elements[i][k];
            CHECK_MSG(fabs(v - want[p->offset + (uint64_t)k]) < 1e-4 * largest, "%s[%d]", p->name, (int)k);
            CHECK(metric.elements[k] == v / (double)c->tokens);
        }
        bd_metric_free(&metric);
    }
    CHECK(vectors >= 10 && vectors < g->n_params);
    free(grad);
    free(nll);
    free(want);
    free(mean);
    bd_gradsum_destroy(sum);
    bd_exec_destroy(x);
    bd_graph_destroy(g);
    bd_backend_close(be);
    bd_calibration_destroy(c);
    bd_model_close(m);
}

/* --- what is seen of the stream --- */

TEST(holdout_is_never_read) {
    bd_model *m = tiny_model(&TINY, 5);
    fill_stream(TINY.vocab);
    uint64_t windows = (TOKENS - 1) / WINDOW, held = bd_calibration_held_out(TOKENS, WINDOW, 0.25);
    CHECK_EQ_U64(held, windows / 4);
    CHECK(bd_calibration_held_out(0, WINDOW, 0.5) == 0 && bd_calibration_held_out(TOKENS, WINDOW, 0) == 0);
    bd_calib_opts o = default_opts();
    o.holdout = 0.25;
    bd_calibration *part = collect(m, "cpu", 2, &o);
    CHECK_EQ_U64(part->tokens, (windows - held) * WINDOW);
    for (uint64_t t = (windows - held) * WINDOW + 1; t < TOKENS; t++) stream[t] = (uint16_t)(t % 7);
    bd_calibration *changed = collect(m, "cpu", 2, &o);
    check_same(part, changed, m->graph);
    o.holdout = 0;
    o.n = (windows - held) * WINDOW + 1;
    bd_calibration *shorter = collect(m, "cpu", 2, &o);
    check_same(part, shorter, m->graph);
    bd_calibration_destroy(part);
    bd_calibration_destroy(changed);
    bd_calibration_destroy(shorter);
    bd_model_close(m);
}

TEST(streams_that_do_not_do) {
    bd_model *m = tiny_model(&TINY, 5);
    bd_backend *be = test_backend("cpu", 1);
    fill_stream(TINY.vocab);
    bd_calibration *c = NULL;
    bd_calib_opts o = default_opts();
    o.n = WINDOW;
    CHECK_EQ_U64(bd_calibrate(&c, m, be, &o, &e), BD_E_MISSING);
    const double wrong[] = {-0.1, 1, NAN};
    for (int i = 0; i < 3; i++) {
        o = default_opts();
        o.holdout = wrong[i];
        CHECK_EQ_U64(bd_calibrate(&c, m, be, &o, &e), BD_E_RANGE);
    }
    o = default_opts();
    stream[5] = (uint16_t)TINY.vocab;
    CHECK_EQ_U64(bd_calibrate(&c, m, be, &o, &e), BD_E_RANGE);
    CHECK(strstr(e.msg, "token 5 is 48") != NULL && c == NULL);
    bd_backend_close(be);
    bd_model_close(m);
}

/* --- plain and weighted --- */

static const bd_param_use *use_of(const bd_calibration *c, const bd_graph *g, const char *name) {
    int at = bd_graph_find_param(g, name);
    for (int i = 0; i < c->n_uses; i++)
        if (c->uses[i].param == at) return &c->uses[i];
    CHECK_MSG(0, "%s has no use", name);
    return NULL;
}

TEST(weights_change_moments_of_inputs_only) {
    bd_model *m = tiny_model(&TINY, 5);
    fill_stream(TINY.vocab);
    bd_calib_opts o = default_opts();
    bd_calibration *with = collect(m, "cpu", 2, &o);
    o.unweighted = true;
    bd_calibration *without = collect(m, "cpu", 2, &o);
    CHECK(!with->unweighted && without->unweighted);
    CHECK_OK(bd_calibration_check_kind(without, true, &e), &e);
    CHECK_EQ_U64(bd_calibration_check_kind(without, false, &e), BD_E_FIELD);
    CHECK(strstr(e.msg, "without the tokens' gradient weights") != NULL);
    CHECK_EQ_U64(bd_calibration_check_kind(with, true, &e), BD_E_FIELD);
    for (int i = 0; i < with->n_moments; i++) {
        const bd_moment *x = &with->moments[i], *y = &without->moments[i];
        bool same = !memcmp(x->h, y->h, (size_t)(x->n * x->n) * sizeof(double));
        CHECK(same == x->of_gradient);
    }
    for (int i = 0; i < with->n_uses; i++) {
        size_t n = (size_t)m->graph->params[with->uses[i].param].rows;
        CHECK(!memcmp(with->uses[i].rows, without->uses[i].rows, n * sizeof(double)));
    }
    /* The input of the queries is normalized: squares of a token's inputs sum to their number. */
    const bd_param_use *q = use_of(without, m->graph, "blocks.1.attn.c_q.weight");
    const bd_moment *h = &without->moments[q->moment];
    double trace = 0;
    for (int64_t k = 0; k < h->n; k++) trace += h->h[k * h->n + k];
    CHECK(fabs(trace / (double)without->tokens / (double)h->n - 1) < 0.01);
    bd_calibration_destroy(with);
    bd_calibration_destroy(without);
    bd_model_close(m);
}

/* Products of output gradients, tokens weighted by their inputs: what the diagonal says is what rows say where
 * inputs are of one length, and all of it is a second moment. */
TEST(couplings_are_second_moments) {
    bd_model *m = tiny_model(&TINY, 5);
    fill_stream(TINY.vocab);
    bd_calib_opts o = default_opts();
    bd_calibration *c = collect(m, "cpu", 2, &o);
    int with = 0;
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *p = &m->graph->params[i];
        bd_metric x;
        CHECK_OK(bd_calibration_metric(&x, c, m->graph, i, &e), &e);
        with += x.coupled != NULL;
        CHECK(!x.coupled || x.h);
        CHECK(!x.coupled == (p->role != BD_ROLE_MATRIX)); /* the embedding is a table, too */
        double trace = 0;
        for (int64_t k = 0; x.coupled && k < p->rows; k++) {
            trace += x.coupled[k * p->rows + k];
            for (int64_t l = 0; l < k; l++) {
                double a = x.coupled[k * p->rows + l], b = x.coupled[l * p->rows + k];
                double most = sqrt(x.coupled[k * p->rows + k] * x.coupled[l * p->rows + l]);
                CHECK(fabs(a - b) <= 1e-9 * most && fabs(a) <= (1 + 1e-9) * most);
            }
            bool one_length = strstr(p->name, "attn.c_") != NULL;
            if (one_length) CHECK(fabs(x.coupled[k * p->rows + k] - x.rows[k]) <= 0.01 * x.rows[k]);
        }
        CHECK(!x.coupled || fabs(trace - 1) < 1e-9);
        bd_metric_free(&x);
    }
    CHECK(with > 10);
    bd_calibration_destroy(c);
    bd_model_close(m);
}

/* --- what they predict --- */

typedef struct measure {
    const bd_model *m;
    bd_backend *be;
    bd_exec *x;
    int32_t *tokens, *targets;
    double *nll;
    int64_t windows;
    float *params; /* to be changed */
} measure;

static measure open_measure(const bd_model *m) {
    measure s = {.m = m, .be = test_backend("cpu", 2), .windows = (TOKENS - 1) / WINDOW};
    uint64_t n = (uint64_t)(s.windows * WINDOW);
    CHECK_OK(bd_exec_create(&s.x, m->graph, s.be, (int64_t)n, WINDOW, &e), &e);
    s.tokens = bd_alloc_aligned(n, sizeof *s.tokens);
    s.targets = bd_alloc_aligned(n, sizeof *s.targets);
    s.nll = bd_alloc_aligned(n, sizeof *s.nll);
    s.params = bd_alloc_aligned(m->graph->param_floats, sizeof *s.params);
    memcpy(s.params, m->params, m->graph->param_floats * sizeof *s.params);
    for (uint64_t t = 0; t < n; t++) {
        s.tokens[t] = stream[t];
        s.targets[t] = stream[t + 1];
    }
    return s;
}

static void close_measure(measure *s) {
    bd_exec_destroy(s->x);
    bd_backend_close(s->be);
    free(s->tokens);
    free(s->targets);
    free(s->nll);
    free(s->params);
}

static double loss_of(measure *s) {
    double sum = 0;
    CHECK_OK(bd_exec_forward(s->x, s->params, s->tokens, s->targets, s->windows, WINDOW, s->nll, &e), &e);
    for (int64_t t = 0; t < s->windows * WINDOW; t++) sum += s->nll[t];
    return sum / (double)(s->windows * WINDOW);
}

static double predicted(const bd_metric *x, const bd_param *p, const float *d) {
    double sum = 0;
    if (x->elements) {
        for (int64_t k = 0; k < p->rows * p->cols; k++) sum += x->elements[k] * (double)d[k] * (double)d[k] / 2;
        return sum;
    }
    for (int64_t i = 0; i < p->rows; i++, d += p->cols)
        for (int64_t a = 0; a < p->cols; a++) {
            double row = 0;
            for (int64_t b = 0; b < p->cols; b++) row += x->h[a * p->cols + b] * (double)d[b];
            sum += x->rows[i] * (double)d[a] * row / 2;
        }
    return sum;
}

/* Noise on all of a parameter or on every third row, both signs so that the slope cancels: the sum of the measured
 * changes against the sum of the predicted ones. */
static double ratio_of(measure *s, const bd_calibration *c, const char *name, int from, uint64_t *seed) {
    const bd_graph *g = s->m->graph;
    int at = bd_graph_find_param(g, name);
    CHECK_MSG(at >= 0, "%s", name);
    const bd_param *p = &g->params[at];
    int64_t n = p->rows * p->cols;
    float *w = s->params + p->offset, *d = bd_alloc_aligned((uint64_t)n, sizeof *d);
    const float *w0 = s->m->params + p->offset;
    bd_metric x;
    CHECK_OK(bd_calibration_metric(&x, c, g, at, &e), &e);
    double rms = 0, real = 0, guess = 0, zero = loss_of(s);
    for (int64_t k = 0; k < n; k++) rms += (double)w0[k] * (double)w0[k];
    rms = sqrt(rms / (double)n);
    for (int trial = 0; trial < TRIALS; trial++) {
        double change = -zero;
        for (int64_t k = 0; k < n; k++)
            d[k] = from < 0 || k / p->cols % 3 == from ? (float)(0.04 * rms) * test_normalf(seed) : 0;
        for (int sign = -1; sign <= 1; sign += 2) {
            for (int64_t k = 0; k < n; k++) w[k] = w0[k] + (float)sign * d[k];
            change += loss_of(s) / 2;
        }
        real += change;
        guess += predicted(&x, p, d);
    }
    memcpy(w, w0, (size_t)n * sizeof *w);
    bd_metric_free(&x);
    free(d);
    printf("    %-28s measured %.3g, predicted %.3g nats: %.2f\n", name, real / TRIALS, guess / TRIALS,
           real / guess);
    return real / guess;
}

/* Text as the model itself writes it, window by window: squared gradients are then what the loss curves by. */
static void write_stream(const bd_model *m, uint64_t *seed) {
    fill_stream(TINY.vocab);
    measure s = open_measure(m);
    float *logits = bd_alloc_aligned((uint64_t)m->graph->vocab, sizeof *logits);
    for (int64_t t = 0; t + 1 < WINDOW; t++) {
        loss_of(&s);
        for (int64_t w = 0; w < s.windows; w++) {
            CHECK_OK(bd_exec_logits(s.x, w * WINDOW + t, 1, logits, &e), &e);
            double sum = 0, u = test_uniform(seed);
            for (int v = 0; v < m->graph->vocab; v++) sum += exp((double)logits[v]);
            int v = 0;
            for (u *= sum; v + 1 < m->graph->vocab && (u -= exp((double)logits[v])) > 0;) v++;
            stream[w * WINDOW + t + 1] = (uint16_t)v;
            s.tokens[w * WINDOW + t + 1] = v;
        }
    }
    free(logits);
    close_measure(&s);
}

TEST(predicts_what_noise_costs) {
    /* Keys and values are felt by later tokens together, which sums over tokens do not see. */
    static const struct {
        const char *name;
        double least, most;
    } params[] = {{"tok_emb.weight", 0.5, 2},           {"blocks.0.attn.c_q.weight", 0.2, 4},
                  {"blocks.1.attn.c_v.weight", 0.5, 4}, {"blocks.1.attn.proj.weight", 0.5, 2},
                  {"blocks.0.mlp.fc.weight", 0.5, 2},   {"blocks.2.mlp.proj.weight", 0.5, 2},
                  {"blocks.0.attn_scale", 0.25, 4},     {"blocks.1.mlp_scale", 0.25, 4},
                  {"blocks.1.resid_mix", 0.25, 4}};
    uint64_t seed = test_seed();
    bd_model *m = tiny_model(&TINY, 5);
    write_stream(m, &seed);
    measure s = open_measure(m);
    for (int plain = 0; plain < 2; plain++) {
        bd_calib_opts o = default_opts();
        o.unweighted = plain;
        bd_calibration *c = collect(m, "cpu", 2, &o);
        for (size_t i = 0; i < (plain ? 6 : 9); i++) {
            double r = ratio_of(&s, c, params[i].name, -1, &seed);
            CHECK_MSG(r > params[i].least && r < params[i].most, "%s: %g", params[i].name, r);
        }
        for (int from = 0; !plain && from < 3; from++) {
            double r = ratio_of(&s, c, "tok_emb.weight", from, &seed);
            CHECK_MSG(r > 0.5 && r < 2, "rows %d, %d, ... of the embedding: %g", from, from + 3, r);
        }
        bd_calibration_destroy(c);
    }
    close_measure(&s);
    bd_model_close(m);
}

/* --- files --- */

static const char *tmp_path(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    return path;
}

static bd_calibration *saved(const bd_model *m, bool plain) {
    uint8_t shards[2][32];
    for (int i = 0; i < 64; i++) shards[i / 32][i % 32] = (uint8_t)(i * 7 + 1);
    fill_stream(TINY.vocab);
    bd_calib_opts o = default_opts();
    o.unweighted = plain;
    o.shards = (const uint8_t(*)[32])shards;
    o.n_shards = plain ? 0 : 2;
    bd_calibration *c = collect(m, "cpu", 2, &o);
    CHECK_OK(bd_calibration_save(c, m, tmp_path("a.stats"), &e), &e);
    return c;
}

TEST(files_give_everything_back) {
    bd_model *m = tiny_model(&TINY, 5);
    for (int plain = 0; plain < 2; plain++) {
        bd_calibration *c = saved(m, plain), *d = NULL;
        CHECK(c->n_shards == (plain ? 0 : 2));
        CHECK_OK(bd_calibration_load(&d, m, tmp_path("a.stats"), &e), &e);
        check_same(c, d, m->graph);
        bd_calibration_destroy(c);
        bd_calibration_destroy(d);
    }
    bd_model_close(m);
}

static void refused(const bd_model *m, bd_status code, const char *said) {
    bd_calibration *c = NULL;
    memset(&e, 0, sizeof e);
    bd_status st = bd_calibration_load(&c, m, tmp_path("b.stats"), &e);
    CHECK_MSG(st == code, "%s, not %s: %s", bd_status_name(st), bd_status_name(code), e.msg);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK(c == NULL && strstr(e.file, "b.stats") != NULL);
}

/* a.stats with one thing changed: a metadata key's value (NULL: without it), or an array's element `at` (-1: the
 * array is left out, -2: it gets another shape). */
static void vary(const char *key, const char *value, const char *array, int64_t at, double number) {
    bd_ckpt *f = NULL;
    bd_st_writer *w = NULL;
    double *copies[256];
    int n = 0;
    CHECK_OK(bd_ckpt_open(&f, tmp_path("a.stats"), &e), &e);
    CHECK_OK(bd_st_create(&w, tmp_path("b.stats"), &e), &e);
    for (int i = 0; i < f->n_meta; i++) {
        bool this = key && !strcmp(f->meta_keys[i], key);
        if (!this || value) CHECK_OK(bd_st_meta(w, f->meta_keys[i], this ? value : f->meta_values[i], &e), &e);
    }
    for (int i = 0; i < f->n; i++) {
        const bd_ckpt_tensor *t = &f->tensors[i];
        bool this = array && !strcmp(t->name, array);
        uint64_t bytes;
        const void *raw = bd_ckpt_raw(f, i, &bytes);
        CHECK(n < 256);
        copies[n] = malloc((size_t)bytes);
        memcpy(copies[n], raw, (size_t)bytes);
        if (this && at >= 0) copies[n][at] = number;
        int64_t flat[1] = {t->count - 1};
        if (this && at == -2) CHECK_OK(bd_st_tensor(w, t->name, BD_CK_F64, 1, flat, copies[n], &e), &e);
        else if (!this || at != -1)
            CHECK_OK(bd_st_tensor(w, t->name, BD_CK_F64, t->ndim, t->dim, copies[n], &e), &e);
        n++;
    }
    if (array && !strcmp(array, "more"))
        CHECK_OK(bd_st_tensor(w, array, BD_CK_F64, 1, (const int64_t[]){1}, &number, &e), &e);
    CHECK_OK(bd_st_finish(w, &e), &e);
    bd_ckpt_close(f);
    for (int i = 0; i < n; i++) free(copies[i]);
}

TEST(files_with_one_thing_wrong) {
    bd_model *m = tiny_model(&TINY, 5), *other = tiny_model(&TINY, 6);
    bd_calibration_destroy(saved(m, false));
    int at = bd_graph_find_param(m->graph, "blocks.1.mlp_scale");
    char elements[32], long_list[1024 * 65 + 70];
    snprintf(elements, sizeof elements, "elements.%d", at);
    const struct {
        const char *key, *value, *array;
        int64_t at;
        double number;
        bd_status code;
        const char *said;
    } wrong[] = {
        {"birdie_statistics", NULL, NULL, 0, 0, BD_E_MAGIC, "not a statistics file"},
        {"birdie_statistics", "1", NULL, 0, 0, BD_E_VERSION, "version 1, this program reads "},
        {"model_sha256", "00", NULL, 0, 0, BD_E_CHECKSUM, "another model"},
        {"tokens_sha256", "zz", NULL, 0, 0, BD_E_FIELD, "tokens_sha256"},
        {"tokens", "64", NULL, 0, 0, BD_E_CHECKSUM, "damaged"},
        {"shards", NULL, NULL, 0, 0, BD_E_CHECKSUM, "damaged"},
        {"weights", "none", NULL, 0, 0, BD_E_SHAPE, "arrays, this model has"},
        {"tokens", "0", NULL, 0, 0, BD_E_FIELD, "number of tokens"},
        {"tokens", "12x", NULL, 0, 0, BD_E_FIELD, "\"12x\""},
        {"tokens", "9999999999999999999", NULL, 0, 0, BD_E_FIELD, "number of tokens"},
        {"weights", "some", NULL, 0, 0, BD_E_FIELD, "neither gradient nor none"},
        {"weights", NULL, NULL, 0, 0, BD_E_FIELD, "neither gradient nor none"},
        {"shards", "abc", NULL, 0, 0, BD_E_FIELD, "list of shards"},
        {"shards", long_list, NULL, 0, 0, BD_E_FIELD, "list of shards"},
        {"sha256", "abc", NULL, 0, 0, BD_E_CHECKSUM, "damaged"},
        {"sha256", NULL, NULL, 0, 0, BD_E_CHECKSUM, "damaged"},
        {NULL, NULL, "hessian.1", -1, 0, BD_E_MISSING, "lack hessian.1;"},
        {NULL, NULL, "rows.2", -1, 0, BD_E_MISSING, "lack rows.2 of blocks.0.attn"},
        {NULL, NULL, elements, -1, 0, BD_E_MISSING, "of blocks.1.mlp_scale; delete the file"},
        {NULL, NULL, "coupled.2", -1, 0, BD_E_MISSING, "lack coupled.2 of blocks.0.attn"},
        {NULL, NULL, "coupled.2", 0, -1, BD_E_RANGE, "negative"},
        {NULL, NULL, "hessian.1", -2, 0, BD_E_SHAPE, "256 doubles"},
        {NULL, NULL, "rows.0", -2, 0, BD_E_SHAPE, "tok_emb.weight"},
        {NULL, NULL, elements, -2, 0, BD_E_SHAPE, "16 doubles"},
        {NULL, NULL, "more", -3, 0, BD_E_SHAPE, "arrays, this model has"},
        {NULL, NULL, "hessian.1", 17, NAN, BD_E_NONFINITE, "hessian.1[17] is not finite"},
        {NULL, NULL, "rows.0", 3, INFINITY, BD_E_NONFINITE, "rows.0[3] of tok_emb.weight"},
        {NULL, NULL, elements, 0, -NAN, BD_E_NONFINITE, "[0] of blocks.1.mlp_scale"},
        {NULL, NULL, "rows.0", 3, -1e-30, BD_E_RANGE, "negative"},
        {NULL, NULL, elements, 15, -1, BD_E_RANGE, "negative"},
        {NULL, NULL, "hessian.1", 17, -1, BD_E_RANGE, "hessian.1[1, 1] is negative"},
        {NULL, NULL, "hessian.1", 18, 0.125, BD_E_RANGE, "hessian.1[2, 1] is no second moment's"},
        {NULL, NULL, "hessian.1", 33, 1e300, BD_E_RANGE, "hessian.1[2, 1]"},
        {NULL, NULL, "rows.0", 3, 0.125, BD_E_CHECKSUM, "damaged"},
        {NULL, NULL, elements, 3, 0.125, BD_E_CHECKSUM, "damaged"},
    };
    for (int i = 0; i <= 1024; i++) /* a shard too many */
        for (int k = 0; k < 65; k++) long_list[65 * i + k] = k < 64 ? 'a' : i < 1024 ? ' ' : 0;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        vary(wrong[i].key, wrong[i].value, wrong[i].array, wrong[i].at, wrong[i].number);
        refused(m, wrong[i].code, wrong[i].said);
    }
    vary(NULL, NULL, NULL, 0, 0);
    refused(other, BD_E_CHECKSUM, "another model");
    bd_calibration *c = NULL;
    CHECK_OK(bd_calibration_load(&c, m, tmp_path("b.stats"), &e), &e);
    bd_calibration_destroy(c);
    bd_model_close(m);
    bd_model_close(other);
}

TEST(damaged_files) {
    bd_model *m = tiny_model(&TINY, 5);
    bd_calibration *c = saved(m, false), *d = NULL;
    bd_map map;
    CHECK_OK(bd_map_open(&map, tmp_path("a.stats"), &e), &e);
    uint8_t *copy = malloc((size_t)map.size);
    uint64_t seed = test_seed(), size = map.size;
    memcpy(copy, map.data, (size_t)size);
    bd_map_close(&map);
    for (int i = 0; i < 200; i++) {
        uint64_t n = i < 40 ? (uint64_t)i : test_rand(&seed) % size;
        CHECK_OK(bd_file_write(tmp_path("b.stats"), copy, n, &e), &e);
        CHECK_MSG(bd_calibration_load(&d, m, tmp_path("b.stats"), &e) != BD_OK, "%d bytes", (int)n);
    }
    for (int i = 0; i < 400; i++) {
        uint64_t at = test_rand(&seed) % (i % 2 ? size : 4096);
        uint8_t bit = (uint8_t)(1 << test_rand(&seed) % 8);
        copy[at] ^= bit;
        CHECK_OK(bd_file_write(tmp_path("b.stats"), copy, size, &e), &e);
        copy[at] ^= bit;
        if (bd_calibration_load(&d, m, tmp_path("b.stats"), &e)) continue;
        /* White space, or the like. */
        check_same(c, d, m->graph);
        bd_calibration_destroy(d);
    }
    free(copy);
    bd_calibration_destroy(c);
    bd_model_close(m);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
