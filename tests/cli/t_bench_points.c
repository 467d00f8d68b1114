/* The numbers and the chart behind `birdie bench quantize`. */
#include "bd_test.h"

#include "cli/bench_points.h"
#include "cli/dither.h"
#include "cli/forecast.h"
#include "cli/svg.h"
#include "tests/runtime/tiny_model.h"

/* --- points --- */

enum { WINDOWS = 200 };
static const double LN2 = 0.69314718055994530942;

typedef struct set {
    bd_bench_windows w;
    double floats[WINDOWS], bytes[WINDOWS], nll[8][WINDOWS], kl[8][WINDOWS];
    bd_bench_point p[8];
} set;

/* Point k has 4,000 + 1,000 k bytes and loses loss[k] bits per byte, give or take some noise per window. */
static set *make_set(const double *loss, int n, double noise) {
    static set s;
    uint64_t seed = test_seed();
    for (int i = 0; i < WINDOWS; i++) {
        s.bytes[i] = 90 + (double)(test_rand(&seed) % 21);
        s.floats[i] = 150 + test_uniform(&seed);
    }
    s.w = (bd_bench_windows){WINDOWS, s.floats, s.bytes};
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < WINDOWS; i++) {
            s.kl[k][i] = loss[k] * LN2 * s.bytes[i];
            s.nll[k][i] = s.floats[i] + s.kl[k][i] + noise * LN2 * s.bytes[i] * (double)test_normalf(&seed);
        }
        s.p[k] = (bd_bench_point){.bytes = 4000 + 1000 * (uint64_t)k, .nll = s.nll[k], .divergence = s.kl[k]};
        bd_bench_score(&s.p[k], &s.w);
    }
    return &s;
}

TEST(scores_and_their_errors) {
    const double loss[] = {0.02, 0.01};
    set *s = make_set(loss, 2, 0.05);
    double bytes = 0, nll = 0;
    for (int i = 0; i < WINDOWS; i++) {
        bytes += s->bytes[i];
        nll += s->floats[i];
    }
    CHECK(fabs(bd_bench_float_bpb(&s->w) - nll / bytes / LN2) < 1e-12);
    for (int k = 0; k < 2; k++) {
        CHECK(fabs(s->p[k].kl - loss[k]) < 1e-12 && s->p[k].kl_stderr < 1e-12);
        /* 200 windows of noise 0.05 */
        CHECK_MSG(fabs(s->p[k].gap_stderr - 0.05 / sqrt(WINDOWS)) < 0.001, "%g", s->p[k].gap_stderr);
        CHECK(fabs(s->p[k].gap - loss[k]) < 5 * s->p[k].gap_stderr);
        CHECK(fabs(s->p[k].bpb - s->p[k].gap - bd_bench_float_bpb(&s->w)) < 1e-12);
    }
    s->w.n = 1;
    bd_bench_score(&s->p[0], &s->w);
    CHECK(isnan(s->p[0].gap_stderr) && isfinite(s->p[0].gap));
}

/* Losses that halve every 1,000 bytes: log-linear, so the answers are known. */
TEST(between_points_the_logarithm_is_linear) {
    const double loss[] = {0.08, 0.04, 0.02, 0.01};
    set *s = make_set(loss, 4, 0);
    s->p[4] = s->p[1];
    s->p[4].bytes = 6500; /* 0.04 at 6,500: the curve has it at 5,000, and 0.08 * 2^-2.5 there */
    const int curve[] = {2, 0, 3, 1};
    bd_bench_comparison c;
    bd_err e = {0};
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 4, 4, &s->w, &e), &e);
    CHECK(fabs(c.bytes_at_gap.value - 5000) < 1e-6 && fabs(c.bytes_at_kl.value - 5000) < 1e-6);
    double there = 0.08 * exp2(-2.5);
    CHECK(fabs(c.gap_at_bytes.value - there) < 1e-12 && fabs(c.kl_at_bytes.value - there) < 1e-12);
    CHECK(fabs(c.gap_ratio.value - 0.04 / there) < 1e-9 && fabs(c.kl_ratio.value - 0.04 / there) < 1e-9);
    CHECK(c.gap_ratio.error < 1e-9 && c.bytes_at_kl.error < 1e-6); /* no noise */
    s->p[4].bytes = 7020;                                          /* just beyond the end */
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 4, 4, &s->w, &e), &e);
    CHECK(fabs(c.gap_at_bytes.value - 0.08 * exp2(-3.02)) < 1e-12);
    s->p[4].bytes = 7100;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 4, 4, &s->w, &e), &e);
    CHECK(isnan(c.gap_at_bytes.value) && isnan(c.gap_ratio.value) && isfinite(c.bytes_at_gap.value));
    s->p[4].bytes = 6020;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 1, 4, &s->w, &e), &e); /* a curve of one point */
    CHECK(isnan(c.bytes_at_gap.value) && c.gap_at_bytes.value == s->p[2].gap);
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 1, 3, &s->w, &e), &e);
    CHECK(isnan(c.bytes_at_gap.value) && isnan(c.gap_at_bytes.value) && isnan(c.gap_ratio.error));
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 0, 3, &s->w, &e), &e);
    CHECK(isnan(c.bytes_at_gap.value));
}

TEST(points_far_apart_are_no_curve) {
    const double loss[] = {0.08, 0.02, 0.04};
    set *s = make_set(loss, 3, 0);
    const int curve[] = {0, 1};
    bd_bench_comparison c;
    bd_err e = {0};
    s->p[1].bytes = 6001;
    s->p[2].bytes = 5000;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 2, 2, &s->w, &e), &e);
    CHECK(isnan(c.gap_at_bytes.value) && isnan(c.bytes_at_kl.value));
    s->p[2].bytes = 6030;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 2, 2, &s->w, &e), &e);
    CHECK(c.gap_at_bytes.value == s->p[1].gap && c.kl_at_bytes.value == s->p[1].kl);
    s->p[1].bytes = 6000;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 2, 2, &s->w, &e), &e);
    CHECK(c.gap_at_bytes.value < 0.02 && fabs(c.bytes_at_kl.value - 5000) < 1e-6);
}

TEST(errors_of_comparisons_from_resampling) {
    const double loss[] = {0.08, 0.04, 0.02, 0.01, 0.03};
    set *s = make_set(loss, 5, 0.02);
    s->p[4].bytes = 6000;
    const int curve[] = {0, 1, 2, 3};
    bd_bench_comparison c;
    bd_err e = {0};
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 4, 4, &s->w, &e), &e);
    double part = s->p[4].gap_stderr / s->p[4].gap, other = s->p[2].gap_stderr / s->p[2].gap;
    double want = s->p[4].gap / s->p[2].gap * sqrt(part * part + other * other);
    CHECK_MSG(fabs(c.gap_ratio.error / want - 1) < 0.15, "%g, expected %g", c.gap_ratio.error, want);
    CHECK(c.bytes_at_gap.error > 1 && c.bytes_at_gap.error < 500 && c.kl_ratio.error < 1e-9);
}

TEST(losses_below_zero_are_no_curve) {
    const double loss[] = {0.08, -0.01, 0.02};
    set *s = make_set(loss, 3, 0);
    const int curve[] = {0, 1};
    bd_bench_comparison c;
    bd_err e = {0};
    s->p[2].bytes = 4500;
    CHECK_OK(bd_bench_compare(&c, s->p, curve, 2, 2, &s->w, &e), &e);
    CHECK(isnan(c.gap_at_bytes.value) && isnan(c.bytes_at_gap.value) && isnan(c.gap_ratio.value));
}

TEST(the_best_of_many) {
    bd_bench_point p[6] = {{.bytes = 50, .gap = 5, .kl = 1}, {.bytes = 40, .gap = 6, .kl = 9},
                           {.bytes = 45, .gap = 7, .kl = 2}, {.bytes = 60, .gap = 5, .kl = 3},
                           {.bytes = 70, .gap = 1, .kl = 4}, {.bytes = 70, .gap = 1, .kl = 4}};
    const int all[] = {0, 1, 2, 3, 4, 5};
    int out[6];
    CHECK(bd_bench_front(out, p, all, 6, false) == 3);
    CHECK(out[0] == 1 && out[1] == 0 && out[2] == 4);
    CHECK(bd_bench_front(out, p, all, 6, true) == 3);
    CHECK(out[0] == 1 && out[1] == 2 && out[2] == 0);
    CHECK(bd_bench_front(out, p, all, 0, true) == 0);
}

/* --- forecast --- */

TEST(forecast_of_known_spreads) {
    static const tiny_spec spec = {16, 8, 1, 2, 1, 8};
    bd_model *m = tiny_model(&spec, 3);
    int param = bd_graph_find_param(m->graph, "blocks.0.mlp.fc.weight");
    CHECK(param >= 0);
    const bd_param *p = &m->graph->params[param];
    int64_t rows = p->rows, n = p->cols;
    CHECK(rows == 8 && n == 8);
    double *h = bd_alloc_aligned(64, sizeof *h), *r = bd_alloc_aligned(8, sizeof *r);
    CHECK(h && r);
    /* half of the columns 4 times the others, half of the rows 16 times: AM/GM = 2.5 / 2 and 8.5 / 4 */
    for (int i = 0; i < 8; i++) {
        h[i * 8 + i] = i < 4 ? 1 : 4;
        r[i] = i < 4 ? 1 : 16;
    }
    bd_moment moment = {.h = h, .n = 8, .readers = 1};
    bd_param_use use = {.param = param, .moment = 0, .rows = r};
    bd_calibration c = {.moments = &moment, .n_moments = 1, .uses = &use, .n_uses = 1, .tokens = 100};
    bd_forecast f;
    bd_err e = {0};
    bool *only = calloc((size_t)m->graph->n_params, sizeof *only);
    CHECK(only != NULL);
    only[param] = true;
    CHECK_OK(bd_forecast_make(&f, &c, m, 1e-9, 0, only, &e), &e);
    CHECK(f.n == 1 && f.weights == 64 && f.tensors[0].param == param);
    const double columns = 0.5 * log2(2.5 / 2), of_rows = 0.5 * log2(8.5 / 4);
    CHECK_MSG(fabs(f.columns - columns) < 1e-6, "%g", f.columns);
    CHECK_MSG(fabs(f.tensors[0].r - of_rows) < 1e-9, "%g", f.tensors[0].r);
    CHECK_MSG(fabs(f.even - columns - of_rows) < 1e-4, "%g", f.even); /* rho is never quite zero */
    CHECK(fabs(f.even_tensors) < 1e-9 && f.unheard == 0);
    bd_forecast_free(&f);
    for (int k = 0; k < 64; k++) m->params[p->offset + (uint64_t)k] = (k & 1 ? -1.0f : 1.0f) * (k < 32 ? 1 : 4);
    CHECK_OK(bd_forecast_make(&f, &c, m, 1e-9, 0, only, &e), &e);
    /* steps 1 and 4 where 1 and 1/4 are right: losses 1 and 256 on average, and steps 4 times too large on average
     */
    CHECK_MSG(fabs(f.deviation_rows - (0.5 * log2((1 + 256) / 2.0) - 1 - 1)) < 1e-3, "%g", f.deviation_rows);
    bd_forecast_free(&f);
    r[0] = 0;
    CHECK_OK(bd_forecast_make(&f, &c, m, 1e-9, 0.1, only, &e), &e);
    CHECK(fabs(f.unheard - 0.125) < 1e-12 && f.even > 0 && isfinite(f.tensors[0].r));
    bd_forecast_free(&f);
    memset(h, 0, 64 * sizeof *h); /* nothing is known: nothing is promised */
    CHECK_OK(bd_forecast_make(&f, &c, m, 0, 0.1, only, &e), &e);
    CHECK(f.n == 0 && f.weights == 0);
    bd_forecast_free(&f);
    free(only);
    free(h);
    free(r);
    bd_model_close(m);
}

/* --- dither --- */

TEST(noise_within_one_code) {
    static const tiny_spec spec = {40, 16, 1, 4, 2, 24};
    bd_model *m = tiny_model(&spec, test_seed());
    uint64_t seed = test_seed() + 9;
    const float step = 0.013f;
    int on_grid = bd_graph_find_param(m->graph, "blocks.0.mlp.fc.weight");
    CHECK(on_grid >= 0);
    const bd_param *p = &m->graph->params[on_grid];
    for (int64_t k = 0; k < p->rows * p->cols; k++) {
        int code = (int)(test_rand(&seed) % 61) - 30;
        if (k % p->cols == 0) code = 1; /* as in a row of a real matrix, some code is small */
        m->params[p->offset + (uint64_t)k] =
            k < 2 * p->cols ? (k < p->cols ? 0 : (float)code * step) : (float)code * step;
    }
    float *before = bd_alloc_aligned(m->graph->param_floats, sizeof *before);
    CHECK(before != NULL);
    memcpy(before, m->params, m->graph->param_floats * sizeof *before);
    uint8_t hash[32];
    memcpy(hash, m->model_hash, 32);
    int64_t rows = 0, all = 0;
    bd_err e = {0};
    const char *none[] = {"tok_emb*"};
    CHECK(bd_dither(&m, 5, none, 1, &rows, &all, &e) == BD_E_FIELD);
    CHECK(m != NULL);
    const char *want[] = {"*mlp*"};
    CHECK_OK(bd_dither(&m, 5, want, 1, &rows, &all, &e), &e);
    CHECK_EQ_U64(rows, p->rows - 1); /* the first one is zero */
    CHECK(all > rows && memcmp(hash, m->model_hash, 32) != 0);
    p = &m->graph->params[on_grid];
    double least = 1, most = -1;
    for (int i = 0; i < m->graph->n_params; i++) {
        const bd_param *q = &m->graph->params[i];
        for (int64_t k = 0; k < q->rows * q->cols; k++) {
            double d = (double)m->params[q->offset + (uint64_t)k] - (double)before[q->offset + (uint64_t)k];
            if (i != on_grid || k < p->cols) CHECK(d == 0);
            least = d < least ? d : least;
            most = d > most ? d : most;
        }
    }
    CHECK(least >= -0.501 * (double)step && least < -0.4 * (double)step);
    CHECK(most <= 0.501 * (double)step && most > 0.4 * (double)step);
    free(before);
    bd_model_close(m);
}

/* --- the chart --- */

/* Tags must nest, and no text may hold what begins one. */
static void check_xml(const char *s) {
    char open[32][32];
    int depth = 0, elements = 0;
    for (; *s; s++) {
        if (*s == '&') {
            CHECK(!strncmp(s, "&amp;", 5) || !strncmp(s, "&lt;", 4) || !strncmp(s, "&gt;", 4) ||
                  !strncmp(s, "&quot;", 6));
        }
        CHECK(*s != '>' && ((unsigned char)*s >= 0x20 || *s == '\n'));
        if (*s != '<') continue;
        const char *end = s + 1;
        bool quoted = false;
        for (; *end && (*end != '>' || quoted); end++) {
            if (*end == '"') quoted = !quoted;
            CHECK(*end != '<');
        }
        CHECK(*end == '>' && !quoted);
        size_t n = strcspn(s + 1, " />\n");
        if (s[1] == '/') {
            n = (size_t)(end - s - 2);
            CHECK(depth > 0 && strlen(open[depth - 1]) == n && !strncmp(open[depth - 1], s + 2, n));
            depth--;
        } else if (end[-1] != '/') {
            CHECK(depth < 32 && n < 32);
            snprintf(open[depth++], 32, "%.*s", (int)n, s + 1);
        }
        elements++;
        s = end;
    }
    CHECK(depth == 0 && elements > 10);
}

static int count(const char *s, const char *what) {
    int n = 0;
    for (; (s = strstr(s, what)) != NULL; s += strlen(what)) n++;
    return n;
}

static bd_buf chart(const char *title, const bd_svg_panel *p, int n) {
    bd_buf b;
    bd_err e = {0};
    bd_buf_init(&b);
    bd_svg_chart(&b, title, p, n);
    bd_buf_u8(&b, 0);
    CHECK_OK(bd_buf_check(&b, &e), &e);
    check_xml((const char *)b.data);
    CHECK(!strstr((const char *)b.data, "nan") && !strstr((const char *)b.data, "inf"));
    return b;
}

TEST(chart_is_well_formed) {
    const double x[] = {350000, 440000, 525000, 600000}, y[] = {0.015, 0.0066, 0.003, 0.0015};
    const double err[] = {0.001, 0.0005, 0.0004, 0.0019};
    const bd_svg_series s[] = {{.name = "trellis", .x = x, .y = y, .err = err, .n = 4},
                               {.name = "<a & \"b\">\x01\xff\xc3\xa9", .x = x, .y = y, .n = 2}};
    const bd_svg_panel p[] = {{"Gap", "bytes", "bpb <", s, 2, true}, {"KL", "bytes", "bits", s, 1, false}};
    bd_buf b = chart("R & D", p, 2);
    const char *t = (const char *)b.data;
    CHECK(strstr(t, "R &amp; D") && strstr(t, "&lt;a &amp; &quot;b&quot;&gt;??\xc3\xa9"));
    CHECK(strstr(t, ">400,000<") && strstr(t, ">0.002<"));
    CHECK(count(t, "class=\"m m0\"") == 4 + 4 + 1 && count(t, "class=\"m m1\"") == 2 + 1);
    CHECK(count(t, "class=\"e l0\"") == 8 && count(t, "<g>") == 2);
    CHECK(strstr(t, "prefers-color-scheme:dark") != NULL);
    bd_buf again = chart("R & D", p, 2);
    CHECK(again.size == b.size && !memcmp(again.data, b.data, b.size));
    bd_buf_free(&again);
    bd_buf_free(&b);
}

TEST(chart_of_odd_data) {
    const double x[] = {1, 2, NAN, 4, 5}, y[] = {0, -1, 1, INFINITY, 1e-9}, one[] = {7}, huge[] = {1e-300, 1e300};
    const bd_svg_series some[] = {{.name = "some", .x = x, .y = y, .err = y, .n = 5}},
                        single[] = {{.name = "one", .x = one, .y = one, .n = 1}},
                        none[] = {{.name = "none", .n = 0}},
                        wide[] = {{.name = "wide", .x = huge, .y = huge, .n = 2}};
    const bd_svg_panel p[] = {
        {"", "", "", some, 1, true},    {"", "", "", some, 1, false}, {"", "", "", single, 1, true},
        {"", "", "", single, 1, false}, {"", "", "", none, 1, true},  {"", "", "", none, 1, false},
        {"", "", "", wide, 1, true},    {"", "", "", wide, 1, false}, {"", "", "", NULL, 0, true}};
    for (int i = 0; i < 9; i++) {
        bd_buf b = chart("", &p[i], 1);
        bd_buf_free(&b);
    }
    bd_buf b = chart("", &p[0], 1);
    CHECK(count((const char *)b.data, "class=\"m m0\"") == 1 + 1); /* one can be drawn */
    bd_buf_free(&b);
    char long_name[4000];
    memset(long_name, '<', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    bd_svg_series many[80];
    static char names[80][24];
    for (int i = 0; i < 80; i++) {
        snprintf(names[i], sizeof names[i], "series %d", i);
        many[i] = (bd_svg_series){.name = i ? names[i] : long_name, .x = one, .y = one, .n = 1};
    }
    b = chart(long_name, &(bd_svg_panel){long_name, long_name, long_name, many, 80, true}, 1);
    CHECK(b.size < 60000);
    bd_buf_free(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
