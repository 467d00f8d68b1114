/* Logarithmic codes, and the choice of settings for small tensors. */
#include "bd_test.h"

#include "base/arena.h"
#include "compiler/qsetting.h"
#include "compiler/quantizer.h"
#include "compiler/vector_choice.h"

static bd_err e;

static bd_qsetting log_setting(int levels, float step) {
    bd_qsetting s;
    CHECK_OK(bd_qsetting_init(&s, "log", &e), &e);
    s.levels = levels;
    s.step = step;
    return s;
}

static bd_qsource vector_of(const float *w, int64_t rows, int64_t cols, const double *metric) {
    return (bd_qsource){.name = "v", .w = w, .rows = rows, .cols = cols, .vector = true, .rows_metric = metric};
}

/* Quantizes and checks that the file takes it. */
static bd_qresult quantize(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s) {
    bd_qresult r;
    double bytes;
    *q = (bd_qtensor){0};
    CHECK_OK(s->by->check(s, &e), &e);
    CHECK_OK(s->by->quantize(q, src, s, NULL, &r, &e), &e);
    bd_qgroup g = {.name = "g", .tensors = q, .n_tensors = 1, .codec = BD_CODEC_RANGE};
    CHECK_OK(bd_qgroup_tensor_bytes(&g, &bytes, &e), &e);
    CHECK(bytes > 0);
    return r;
}

TEST(every_code_is_the_nearest) {
    uint64_t seed = test_seed();
    enum { N = 300 };
    float w[N];
    for (int levels = 1; levels <= 32; levels *= 2) {
        for (int trial = 0; trial < 4; trial++) {
            float base = (float)ldexp(1 + test_uniform(&seed), (int)(test_rand(&seed) % 60) - 30);
            bd_qsetting s = log_setting(levels, base);
            for (int i = 0; i < N; i++) {
                w[i] = base * test_normalf(&seed) * (float)ldexp(1, (int)(test_rand(&seed) % 24) - 4);
                /* Values of codes, and halfway between two of them. */
                int c = (int)(test_rand(&seed) % (uint64_t)(20 * levels));
                if (i % 5 == 0) w[i] = bd_log_value(base, (unsigned)levels, c);
                if (i % 5 == 1)
                    w[i] =
                        (bd_log_value(base, (unsigned)levels, c) + bd_log_value(base, (unsigned)levels, c + 1)) / 2;
            }
            bd_qsource src = vector_of(w, 1, N, NULL);
            bd_qtensor q, again;
            quantize(&q, &src, &s);
            for (int i = 0; i < N; i++) {
                double miss = fabs((double)w[i] - (double)bd_log_value(base, (unsigned)levels, q.index[i]));
                int most = BD_LOG_OCTAVES * levels;
                for (int c = -most; c <= most; c++) {
                    double other = fabs((double)w[i] - (double)bd_log_value(base, (unsigned)levels, c));
                    CHECK_MSG(!(other < miss), "%d levels, base %g: %g is %d, not %d", levels, (double)base,
                              (double)w[i], q.index[i], c);
                }
            }
            float v[N];
            bd_qtensor_dequant(&q, v);
            src.w = v;
            bd_qresult r = quantize(&again, &src, &s);
            CHECK(!memcmp(again.index, q.index, sizeof *q.index * N) && r.lost == 0);
            bd_qtensor_free(&q);
            bd_qtensor_free(&again);
        }
    }
}

TEST(chosen_bases_keep_what_matters) {
    uint64_t seed = test_seed();
    enum { N = 200 };
    float w[N];
    double g[N];
    for (int i = 0; i < N; i++) {
        w[i] = i % 2 ? 1 + 0.2f * test_normalf(&seed) : 1e-6f * test_normalf(&seed);
        g[i] = 1;
    }
    for (int levels = 1; levels <= 32; levels *= 2) {
        bd_qsetting s = log_setting(levels, 0);
        bd_qsource src = vector_of(w, 1, N, g);
        bd_qtensor q;
        bd_qresult r = quantize(&q, &src, &s);
        CHECK(q.base > 0.1f); /* the small ones become zeros */
        for (int i = 0; i < N; i += 2) CHECK(q.index[i] == 0);
        CHECK(r.lost < 0.5 / levels / levels);
        /* Unless the loss feels them much more than the others. */
        for (int i = 0; i < N; i += 2) g[i] = 1e16;
        bd_qtensor_free(&q);
        quantize(&q, &src, &s);
        CHECK(q.base < 1e-5f);
        for (int i = 0; i < N; i += 2) g[i] = 1;
        bd_qtensor_free(&q);
    }
}

TEST(extreme_values) {
    static const float values[][4] = {{0, 0, 0, 0},
                                      {-0.0f, 0, 1, -1},
                                      {1e-45f, -1e-45f, 0, 0},
                                      {3e38f, -3e38f, 1e-38f, 1},
                                      {1e-20f, 1e-20f, 0, 0},
                                      {1e30f, 1e30f, -1e30f, 1e30f}};
    for (int k = 0; k < 6; k++)
        for (int levels = 1; levels <= 32; levels *= 32) {
            static const int64_t shapes[][2] = {{1, 4}, {4, 1}, {2, 2}, {1, 1}};
            for (int i = 0; i < 4; i++) {
                bd_qsetting s = log_setting(levels, 0);
                bd_qsource src = vector_of(values[k], shapes[i][0], shapes[i][1], NULL);
                bd_qtensor q;
                float v[4];
                bd_qresult r = quantize(&q, &src, &s);
                bd_qtensor_dequant(&q, v);
                for (int64_t j = 0; j < shapes[i][0] * shapes[i][1]; j++) {
                    CHECK(isfinite(v[j]) && !(v[j] * values[k][j] < 0));
                    if (values[k][j] == 0) CHECK(v[j] == 0 && !signbit(v[j]));
                }
                CHECK(isnan(r.nats) && r.lost >= 0 && r.lost <= 1);
                bd_qtensor_free(&q);
            }
        }
    const float bad[2] = {1, NAN};
    bd_qsource src = vector_of(bad, 1, 2, NULL);
    bd_qsetting s = log_setting(8, 0);
    bd_qtensor q = {0};
    bd_qresult r;
    CHECK_EQ_U64(s.by->quantize(&q, &src, &s, NULL, &r, &e), BD_E_NONFINITE);
    bd_qtensor_free(&q);
}

TEST(settings_that_do_not_do) {
    static const int levels[] = {0, 3, 64, -8};
    for (int i = 0; i < 4; i++) {
        bd_qsetting s = log_setting(levels[i], 1);
        CHECK_EQ_U64(s.by->check(&s, &e), BD_E_RANGE);
        CHECK(strstr(e.msg, "levels") != NULL);
    }
    static const float steps[] = {-1, 1e-13f, 2e12f, NAN, INFINITY};
    for (int i = 0; i < 5; i++) {
        bd_qsetting s = log_setting(8, steps[i]);
        CHECK_EQ_U64(s.by->check(&s, &e), BD_E_RANGE);
        CHECK(strstr(e.msg, "step") != NULL);
    }
}

/* --- the choice --- */

static bd_vector_choice choose(const bd_qsource *src, double price) {
    bd_vector_choice c;
    CHECK_OK(bd_vector_choose(&c, src, price, NULL, &e), &e);
    bd_qtensor q;
    bd_qresult r = quantize(&q, src, &c.setting);
    CHECK(r.nats == c.nats || (isnan(r.nats) && isnan(c.nats)));
    bd_qtensor_free(&q);
    return c;
}

TEST(bytes_fall_as_they_get_dearer) {
    uint64_t seed = test_seed();
    enum { N = 384 };
    float w[N];
    double g[N];
    for (int kind = 0; kind < 4; kind++) {
        for (int i = 0; i < N; i++) {
            float x = test_normalf(&seed);
            w[i] = kind == 0   ? 1 + 0.3f * x
                   : kind == 1 ? 0.02f * x
                   : kind == 2 ? (i < N / 2 ? 1 : 0) + 0.1f * x
                               : (float)ldexp(1, (int)(test_rand(&seed) % 5)) * (x < 0 ? -1.0f : 1.0f);
            g[i] = 1e-3 * exp((double)test_normalf(&seed));
        }
        bd_qsource src = vector_of(w, kind == 2 ? 2 : 1, kind == 2 ? N / 2 : N, g);
        double bytes = HUGE_VAL, nats = 0;
        for (double price = 1e-12; price < 1e-2; price *= 4) {
            bd_vector_choice c = choose(&src, price);
            CHECK_MSG(c.bytes <= bytes && c.nats >= nats, "kind %d at %g: %g bytes, %g nats after %g, %g", kind,
                      price, c.bytes, c.nats, bytes, nats);
            bytes = c.bytes;
            nats = c.nats;
        }
        bd_vector_choice least = choose(&src, INFINITY), first = choose(&src, 1e-12);
        CHECK(least.bytes <= bytes && (kind == 3 || least.bytes * 4 < first.bytes));
        /* Powers of two are what one level to the octave has. */
        if (kind == 3) CHECK(!strcmp(choose(&src, 1e-7).setting.by->name, "log") && choose(&src, 1e-7).nats == 0);
    }
}

TEST(without_a_metric_nothing_is_risked) {
    float w[6] = {1, 2, 3, 0.25f, 0, -7};
    bd_qsource src = vector_of(w, 1, 6, NULL);
    CHECK_STR(choose(&src, 1).setting.by->name, "f16");
    CHECK(isnan(choose(&src, 1).nats));
    w[2] = 1e6f; /* beyond binary16 */
    CHECK_STR(choose(&src, 1).setting.by->name, "f32");
    double g[6] = {0}; /* the loss does not feel it: the fewest bytes */
    src.rows_metric = g;
    bd_vector_choice c = choose(&src, 1e-8);
    CHECK(c.nats == 0 && c.bytes < 12);
    w[1] = NAN;
    CHECK_EQ_U64(bd_vector_choose(&c, &src, 1, NULL, &e), BD_E_NONFINITE);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
