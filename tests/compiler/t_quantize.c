/* The factorization and the quantizers against naive references. */
#include "bd_test.h"

#include "base/arena.h"
#include "base/half.h"
#include "compiler/ldl.h"
#include "compiler/quantize.h"

static bd_err e;

/* H = X^T X of correlated rows: (n, n). */
static double *correlated(int64_t n, int64_t tokens, uint64_t *seed) {
    double *h = bd_alloc_aligned((uint64_t)(n * n), sizeof *h), *x = bd_alloc_aligned((uint64_t)n, sizeof *x);
    CHECK(h && x);
    for (int64_t t = 0; t < tokens; t++) {
        double common = (double)test_normalf(seed), last = 0;
        for (int64_t i = 0; i < n; i++) {
            last = 0.7 * last + (double)test_normalf(seed);
            x[i] = (last + 2 * common) * (1 + (double)(i % 5));
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < n; k++) h[i * n + k] += x[i] * x[k];
    }
    free(x);
    return h;
}

static double *copy_of(const double *h, int64_t n) {
    double *c = bd_alloc_aligned((uint64_t)(n * n), sizeof *c);
    CHECK(c != NULL);
    memcpy(c, h, (size_t)(n * n) * sizeof *c);
    return c;
}

static float *random_weights(int64_t n, uint64_t *seed) {
    float *w = bd_alloc_aligned((uint64_t)n, sizeof *w);
    CHECK(w != NULL);
    for (int64_t i = 0; i < n; i++) w[i] = 0.1f * test_normalf(seed);
    return w;
}

static void check_factors(int64_t n, uint64_t *seed) {
    double *h = correlated(n, 3 * n + 2, seed);
    uint8_t *dead = calloc((size_t)n, 1);
    bd_hessian_prepare(h, n, 0.01, dead);
    double *f = copy_of(h, n), worst = 0, scale = 0;
    for (int64_t i = 1; i < n; i++)
        for (int64_t k = 0; k < i; k++) f[i * n + k] = NAN; /* the lower part is never read */
    CHECK_OK(bd_ldl(f, n, &e), &e);
    for (int64_t i = 0; i < n; i++) {
        CHECK(!dead[i] && f[i * n + i] > 0);
        for (int64_t k = i; k < n; k++) {
            /* row i of A + I times D times row k: both start at max(i, k) = k */
            double sum = 0;
            for (int64_t j = k; j < n; j++)
                sum += (j == i ? 1 : f[i * n + j]) * f[j * n + j] * (j == k ? 1 : f[k * n + j]);
            if (fabs(sum - h[i * n + k]) > worst) worst = fabs(sum - h[i * n + k]);
            if (fabs(h[i * n + k]) > scale) scale = fabs(h[i * n + k]);
        }
    }
    CHECK_MSG(worst <= 1e-10 * scale, "n=%d: off by %g of %g", (int)n, worst, scale);
    free(h);
    free(f);
    free(dead);
}

TEST(ldl_multiplies_back) {
    uint64_t seed = test_seed();
    const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 16, 31, 65, 130};
    for (int i = 0; i < 10; i++) check_factors(sizes[i], &seed);
}

TEST(ldl_refuses_what_is_not_positive) {
    double h[9] = {1, 0, 0, 0, -1, 0, 0, 0, 1};
    CHECK_EQ_U64(bd_ldl(h, 3, &e), BD_E_NONFINITE);
    CHECK(strstr(e.msg, "column 1") != NULL);
    double z[1] = {0}, nan[1] = {NAN};
    CHECK_EQ_U64(bd_ldl(z, 1, &e), BD_E_NONFINITE);
    CHECK_EQ_U64(bd_ldl(nan, 1, &e), BD_E_NONFINITE);
}

typedef struct problem {
    int64_t rows, cols;
    float *w;
    double *h, *ldl;
    uint8_t *dead;
    bd_qsource src;
} problem;

static problem make_problem(int64_t rows, int64_t cols, double damp, uint64_t *seed) {
    problem p = {rows, cols, random_weights(rows * cols, seed), correlated(cols, 4 * cols, seed), NULL, NULL, {0}};
    p.dead = calloc((size_t)cols, 1);
    bd_hessian_prepare(p.h, cols, damp, p.dead);
    p.ldl = copy_of(p.h, cols);
    CHECK_OK(bd_ldl(p.ldl, cols, &e), &e);
    p.src = (bd_qsource){.w = p.w, .rows = rows, .cols = cols, .ldl = p.ldl, .dead = p.dead};
    return p;
}

static void free_problem(problem *p) {
    free(p->w);
    free(p->h);
    free(p->ldl);
    free(p->dead);
}

static bd_qtensor quantized(const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, double *lost) {
    bd_qtensor q = {0};
    CHECK_OK(bd_qtensor_alloc(&q, src->rows, src->cols, s, &e), &e);
    if (q.codes) memset(q.codes, 0x55, (size_t)(src->rows * src->cols)); /* every code must be written */
    CHECK_OK(bd_quantize(&q, src, s, pool, lost, &e), &e);
    return q;
}

/* sum over rows of (w - q) H (w - q)^T, from the definition */
static double weighted_error(const problem *p, const bd_qtensor *q) {
    float *v = bd_alloc_aligned((uint64_t)(p->rows * p->cols), sizeof *v);
    double sum = 0;
    bd_qtensor_dequant(q, v);
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = 0; i < p->cols; i++)
            for (int64_t k = 0; k < p->cols; k++)
                sum += ((double)p->w[r * p->cols + i] - (double)v[r * p->cols + i]) * p->h[i * p->cols + k] *
                       ((double)p->w[r * p->cols + k] - (double)v[r * p->cols + k]);
    free(v);
    return sum;
}

TEST(feedback_beats_rounding) {
    uint64_t seed = test_seed();
    for (int round = 0; round < 6; round++) {
        problem p = make_problem(5 + round * 7, 20 + round * 13, 0.01, &seed);
        bd_qsetting s = {.method = BD_Q_ROW, .bits = 4 + round % 3, .k = 4.0f + (float)round};
        bd_qsource plain = p.src;
        plain.ldl = NULL;
        plain.dead = NULL;
        double with = 0, without = 0;
        bd_qtensor a = quantized(&p.src, &s, NULL, &with), b = quantized(&plain, &s, NULL, &without);
        double ea = weighted_error(&p, &a), eb = weighted_error(&p, &b);
        CHECK_MSG(ea < 0.8 * eb, "feedback %g, rounding %g", ea, eb);
        CHECK_MSG(fabs(with - ea) < 1e-5 * ea, "said %g, is %g", with, ea);
        bd_qtensor_free(&a);
        bd_qtensor_free(&b);
        free_problem(&p);
    }
}

/* The rule of ldl.h, one column after the other. */
static void naive_gptq(const problem *p, const bd_qtensor *scales, int qmax, int8_t *out) {
    int64_t n = p->cols;
    for (int64_t r = 0; r < p->rows; r++) {
        double scale = (double)bd_f16_to_f32(scales->scales[r]), inv = 1 / scale;
        for (int64_t j = 0; j < n; j++) {
            double carry = 0;
            for (int64_t k = 0; k < j; k++)
                carry += ((double)p->w[r * n + k] - (double)out[r * n + k] * scale) * p->ldl[k * n + j];
            double c = nearbyint(((double)p->w[r * n + j] + carry) * inv);
            out[r * n + j] = (int8_t)(c > qmax ? qmax : c < -qmax ? -qmax : c);
        }
    }
}

TEST(blocks_and_threads_change_nothing) {
    uint64_t seed = test_seed() + 1;
    bd_pool *pool = NULL;
    CHECK_OK(bd_pool_create(&pool, 3, &e), &e);
    const int64_t shapes[][2] = {{1, 1}, {1, 40}, {33, 1}, {9, 31}, {8, 32}, {17, 33}, {3, 161}, {20, 300}};
    for (int i = 0; i < 8; i++) {
        problem p = make_problem(shapes[i][0], shapes[i][1], 0.02, &seed);
        bd_qsetting s = {.method = BD_Q_ROW, .bits = 5, .k = 6};
        double l1 = 0, l2 = 0;
        bd_qtensor a = quantized(&p.src, &s, NULL, &l1), b = quantized(&p.src, &s, pool, &l2);
        size_t n = (size_t)(p.rows * p.cols);
        int8_t *want = calloc(n, 1);
        naive_gptq(&p, &a, 15, want);
        CHECK(!memcmp(a.codes, b.codes, n) && l1 == l2 && !memcmp(a.scales, b.scales, (size_t)p.rows * 2));
        CHECK_MSG(!memcmp(a.codes, want, n), "shape %d", i);
        free(want);
        bd_qtensor_free(&a);
        bd_qtensor_free(&b);
        free_problem(&p);
    }
    bd_pool_destroy(pool);
}

TEST(columns_in_another_order) {
    /* Quantizing with an order equals quantizing the permuted matrix. */
    uint64_t seed = test_seed() + 2;
    enum { R = 6, C = 37 };
    problem p = make_problem(R, C, 0.01, &seed);
    int32_t order[C];
    float w[R * C];
    double *h = bd_alloc_aligned(C * C, sizeof *h);
    for (int i = 0; i < C; i++) order[i] = (i * 10 + 3) % C;
    for (int i = 0; i < C; i++)
        for (int k = 0; k < C; k++) h[i * C + k] = p.h[order[i] * C + order[k]];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < C; i++) w[r * C + i] = p.w[r * C + order[i]];
    CHECK_OK(bd_ldl(h, C, &e), &e);
    double unit[R];
    for (int r = 0; r < R; r++) unit[r] = 0.05 * (r + 1);
    bd_qsource ordered = p.src, moved = p.src;
    ordered.ldl = moved.ldl = h;
    ordered.order = order;
    ordered.unit = moved.unit = unit;
    moved.w = w;
    bd_qsetting s = {.method = BD_Q_ROW, .bits = 7, .k = 60};
    double l1, l2;
    bd_qtensor a = quantized(&ordered, &s, NULL, &l1), b = quantized(&moved, &s, NULL, &l2);
    CHECK(l1 == l2 && bd_qsource_signal(&ordered) == bd_qsource_signal(&moved));
    for (int r = 0; r < R; r++) {
        CHECK_EQ_U64(a.scales[r], bd_f32_to_f16((float)(60 * unit[r] / 63)));
        for (int i = 0; i < C; i++) CHECK(a.codes[r * C + order[i]] == b.codes[r * C + i]);
    }
    bd_qtensor_free(&a);
    bd_qtensor_free(&b);
    free(h);
    free_problem(&p);
}

TEST(dead_column_and_zero_tensor) {
    uint64_t seed = test_seed() + 3;
    enum { R = 4, C = 12 };
    float w[R * C];
    for (int i = 0; i < R * C; i++) w[i] = test_normalf(&seed);
    double *h = correlated(C, 40, &seed);
    for (int k = 0; k < C; k++) h[5 * C + k] = h[k * C + 5] = 0;
    uint8_t dead[C];
    bd_hessian_prepare(h, C, 0.01, dead);
    for (int k = 0; k < C; k++) CHECK(dead[k] == (k == 5));
    CHECK_OK(bd_ldl(h, C, &e), &e);
    bd_qsource src = {.w = w, .rows = R, .cols = C, .ldl = h, .dead = dead};
    bd_qsetting s = {.method = BD_Q_ROW, .bits = 6, .k = 10};
    double lost;
    bd_qtensor q = quantized(&src, &s, NULL, &lost);
    for (int r = 0; r < R; r++) CHECK(q.codes[r * C + 5] == 0);
    bd_qtensor_free(&q);
    memset(w, 0, sizeof w);
    q = quantized(&src, &s, NULL, &lost);
    for (int i = 0; i < R * C; i++) CHECK(q.codes[i] == 0);
    for (int r = 0; r < R; r++) CHECK(q.scales[r] == 0);
    CHECK(lost == 0 && bd_qsource_signal(&src) == 0);
    bd_qtensor_free(&q);
    free(h);
}

TEST(finest_never_clips) {
    uint64_t seed = test_seed() + 4;
    enum { R = 7, C = 50 };
    float *w = random_weights(R * C, &seed);
    w[3] = 9; /* an outlier */
    bd_qsource src = {.w = w, .rows = R, .cols = C};
    for (int bits = 2; bits <= 8; bits++) {
        bd_qsetting s = {.method = BD_Q_ROW, .bits = bits, .k = 0};
        double lost;
        bd_qtensor q = quantized(&src, &s, NULL, &lost);
        float v[R * C];
        bd_qtensor_dequant(&q, v);
        for (int i = 0; i < R * C; i++) {
            double step = (double)bd_f16_to_f32(q.scales[i / C]);
            /* binary16 rounds the scale by up to 2^-11 */
            CHECK(fabs((double)v[i] - (double)w[i]) <= step * (0.5 + 0.0005 * ((1 << (bits - 1)) - 1)) + 1e-12);
        }
        bd_qtensor_free(&q);
    }
    free(w);
}

TEST(ternary_is_its_definition) {
    const float w[10] = {0.5f, -0.5f, 0.1f, -2.0f, 0, 0, 0, 0, 3.0f, 1.0f};
    bd_qsource src = {.w = w, .rows = 2, .cols = 5};
    bd_qsetting s = {.method = BD_Q_TERNARY, .group = 4};
    double lost;
    bd_qtensor q = quantized(&src, &s, NULL, &lost);
    const int8_t want[10] = {1, -1, 0, -1, 0, 0, 0, 0, 1, 0}; /* 1 / 2 is a half and goes to even */
    CHECK(!memcmp(q.codes, want, 10));
    CHECK_EQ_U64(q.scales[0], bd_f32_to_f16(0.775f));
    CHECK_EQ_U64(q.scales[2], bd_f32_to_f16(2.0f));
    bd_qtensor_free(&q);
}

TEST(errors_name_the_place) {
    float w[6] = {1, 2, 3, 4, NAN, 6};
    bd_qsource src = {.w = w, .rows = 2, .cols = 3};
    bd_qsetting row = {.method = BD_Q_ROW, .bits = 8, .k = 1}, half = {.method = BD_Q_F16};
    bd_qtensor q = {0};
    double lost;
    CHECK_OK(bd_qtensor_alloc(&q, 2, 3, &row, &e), &e);
    CHECK_EQ_U64(bd_quantize(&q, &src, &row, NULL, &lost, &e), BD_E_NONFINITE);
    CHECK(strstr(e.msg, "element 4") != NULL);
    w[4] = 3e7f;
    CHECK_EQ_U64(bd_quantize(&q, &src, &row, NULL, &lost, &e), BD_E_RANGE);
    CHECK(strstr(e.msg, "row 1") != NULL);
    bd_qtensor_free(&q);
    CHECK_OK(bd_qtensor_alloc(&q, 2, 3, &half, &e), &e);
    CHECK_EQ_U64(bd_quantize(&q, &src, &half, NULL, &lost, &e), BD_E_RANGE);
    CHECK(strstr(e.msg, "element 4") != NULL);
    bd_qtensor_free(&q);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
