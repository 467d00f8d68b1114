/* The factorization and the quantizers against direct computations. */
#include "bd_test.h"

#include "base/arena.h"
#include "base/half.h"
#include "compiler/ldl.h"
#include "compiler/quant_util.h"

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

/* --- helpers --- */

static bd_qsetting setting(const char *name) {
    const bd_quantizer *by = bd_quantizer_find(name);
    CHECK_MSG(by != NULL, "no quantizer %s", name);
    bd_qsetting s = by->defaults;
    s.by = by;
    return s;
}

static bd_qsetting row_setting(int bits, float k) {
    bd_qsetting s = setting("row");
    s.bits = bits;
    s.k = k;
    return s;
}

static bd_qtensor quantized(const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, bd_qresult *res) {
    bd_qtensor q = {.param = 7};
    bd_qresult r;
    CHECK_OK(s->by->check(s, &e), &e);
    CHECK_OK(s->by->quantize(&q, src, s, pool, res ? res : &r, &e), &e);
    CHECK(q.param == 7 && q.method == s->by->method && q.rows == src->rows && q.cols == src->cols);
    return q;
}

static bool same_tensor(const bd_qtensor *a, const bd_qtensor *b) {
    size_t n = (size_t)a->rows * a->cols,
           scales = a->method == BD_Q_TERNARY ? (n + a->group - 1) / a->group : a->rows;
    bool same = a->method == b->method && a->bits == b->bits && a->group == b->group && a->rank == b->rank &&
                !memcmp(a->codes, b->codes, n) && !memcmp(a->scales, b->scales, scales * 2);
    if (!same || a->method != BD_Q_LQER) return same;
    size_t nb = (size_t)a->rank * a->cols;
    return !memcmp(a->lq_a, b->lq_a, (size_t)a->rank * a->rows) && !memcmp(a->lq_b, b->lq_b, nb) &&
           !memcmp(a->lq_scales, b->lq_scales, (1 + (nb + a->group - 1) / a->group) * 2);
}

/* sum over rows of weight * (w - q) H (w - q)^T, from the definition; weight NULL: 1; h NULL: identity; zero: of w
 * itself */
static double weighted(const problem *p, const bd_qtensor *q, const double *h, const double *weight) {
    float *v = bd_alloc_aligned((uint64_t)(p->rows * p->cols), sizeof *v);
    double sum = 0;
    if (q) bd_qtensor_dequant(q, v);
    for (int64_t r = 0; r < p->rows; r++) {
        double row = 0;
        for (int64_t i = 0; i < p->cols; i++) {
            double a = p->dead[i] && h ? 0 : (double)p->w[r * p->cols + i] - (double)v[r * p->cols + i];
            if (!h) row += a * a;
            for (int64_t k = 0; h && k < p->cols; k++)
                if (!p->dead[k])
                    row += a * h[i * p->cols + k] * ((double)p->w[r * p->cols + k] - (double)v[r * p->cols + k]);
        }
        sum += (weight ? weight[r] : 1) * row;
    }
    free(v);
    return sum;
}

static double *row_weights(int64_t rows, uint64_t *seed) {
    double *w = bd_alloc_aligned((uint64_t)rows, sizeof *w), sum = 0;
    for (int64_t r = 0; r < rows; r++) sum += w[r] = test_uniform(seed);
    for (int64_t r = 0; r < rows; r++) w[r] /= sum;
    return w;
}

/* A binary16 scale: relative rounding, absolute where it is subnormal. */
static void check_scale(uint16_t got, double want, double tolerance) {
    double v = (double)bd_f16_to_f32(got);
    CHECK_MSG(fabs(v - want) <= (0x1p-11 + tolerance) * want + 0x1p-25, "scale %.17g, want %.17g", v, want);
}

static void check_close(double got, double want, double tolerance, const char *what) {
    CHECK_MSG(fabs(got - want) <= tolerance * fabs(want) + 1e-300, "%s: %.17g, want %.17g", what, got, want);
}

/* --- the table --- */

TEST(table) {
    for (int i = 0; bd_quantizers[i]; i++) {
        const bd_quantizer *by = bd_quantizers[i];
        CHECK(bd_quantizer_find(by->name) == by && by->summary && by->check && by->quantize);
        CHECK(!(by->scaled & ~by->fields));
        bd_qsetting s = by->defaults;
        s.by = by;
        CHECK_OK(by->check(&s, &e), &e);
    }
    CHECK(!bd_quantizer_find("rows") && !bd_quantizer_find(""));
}

TEST(settings_out_of_range_are_named) {
    const struct {
        const char *quantizer, *field;
        bd_qsetting s;
    } cases[] = {
        {"row", "bits", {.bits = 1, .k = 1}},
        {"row", "bits", {.bits = 9, .k = 1}},
        {"row", "k", {.bits = 6, .k = -1}},
        {"row", "k", {.bits = 6, .k = NAN}},
        {"rtn", "quantile", {.bits = 8, .quantile = 1.5f, .multiple = 1}},
        {"rtn", "multiple", {.bits = 8, .quantile = 1, .multiple = 3}},
        {"rtn", "multiple", {.bits = 8, .quantile = 1, .multiple = 0}},
        {"rtn", "multiple", {.bits = 3, .quantile = 1, .multiple = 8}},
        {"rtn", "floor", {.bits = 8, .quantile = 1, .multiple = 1, .floor = -1}},
        {"clip-search", "bits", {.bits = 0}},
        {"asym", "bits", {.bits = 8}},
        {"ternary", "group", {.group = 0, .threshold = 0.5f}},
        {"ternary", "threshold", {.group = 128, .threshold = 0}},
        {"ternary", "mult", {.group = 128, .threshold = 0.5f, .mult = -1}},
        {"lqer", "rank", {.bits = 6, .group = 64, .rank = 65}},
        {"lqer", "group", {.bits = 6, .group = 0, .rank = 4}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bd_qsetting s = cases[i].s;
        s.by = bd_quantizer_find(cases[i].quantizer);
        CHECK(s.by != NULL);
        bd_status st = s.by->check(&s, &e);
        CHECK_MSG(st == BD_E_RANGE && !strncmp(e.msg, cases[i].field, strlen(cases[i].field)), "case %d: %d %s",
                  (int)i, (int)st, e.msg);
    }
}

TEST(arrays_follow_the_shape) {
    bd_qtensor q = {.rows = 3, .cols = 5, .method = BD_Q_LQER, .bits = 6, .group = 4, .rank = 2};
    CHECK_OK(bd_qtensor_alloc(&q, &e), &e);
    for (int i = 0; i < 15; i++) CHECK(q.codes[i] == 0);
    q.lq_b[9] = 1;
    q.lq_scales[3] = 1; /* 1 + ceil(10 / 4) */
    q.method = BD_Q_TCQ;
    CHECK_OK(bd_qtensor_alloc(&q, &e), &e);
    CHECK(!q.codes && !q.lq_b && q.index && q.row_exp && q.col_exp);
    q.index[14] = q.row_exp[2] = q.col_exp[4] = 1;
    q.method = BD_Q_TERNARY;
    q.group = 0;
    CHECK_EQ_U64(bd_qtensor_alloc(&q, &e), BD_E_FIELD);
    CHECK(!q.index && !q.codes);
}

/* --- row --- */

TEST(feedback_beats_rounding) {
    uint64_t seed = test_seed();
    double ratio = 0;
    for (int round = 0; round < 6; round++) {
        problem p = make_problem(5 + round * 7, 20 + round * 13, 0.01, &seed);
        bd_qsetting s = row_setting(4 + round % 3, 4.0f + (float)round);
        double *weight = row_weights(p.rows, &seed);
        bd_qsource plain = p.src;
        plain.ldl = NULL;
        plain.dead = NULL;
        p.src.rows_metric = weight;
        bd_qresult with, without;
        bd_qtensor a = quantized(&p.src, &s, NULL, &with), b = quantized(&plain, &s, NULL, &without);
        double ea = weighted(&p, &a, p.h, NULL), eb = weighted(&p, &b, p.h, NULL);
        ratio += ea / eb / 6;
        double lost = weighted(&p, &a, p.h, weight);
        check_close(with.nats, lost / 2, 1e-5, "nats");
        check_close(with.lost, lost / weighted(&p, NULL, p.h, weight), 1e-5, "lost");
        CHECK(isnan(without.nats));
        check_close(without.lost, weighted(&p, &b, NULL, NULL) / weighted(&p, NULL, NULL, NULL), 1e-5, "lost");
        bd_qtensor_free(&a);
        bd_qtensor_free(&b);
        free(weight);
        free_problem(&p);
    }
    CHECK_MSG(ratio < 0.9, "feedback loses %g of what rounding does", ratio);
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

/* a = L L^T, lower; the upper part is left */
static void cholesky(double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k <= i; k++) {
            double s = a[i * n + k];
            for (int64_t j = 0; j < k; j++) s -= a[i * n + j] * a[k * n + j];
            a[i * n + k] = i == k ? sqrt(s) : s / a[k * n + k];
        }
}

/* The published form: U = the upper factor of H^-1 = U^T U; after each column the rest of the row moves by
 * -(w_j - q_j) / U_jj * U_j. */
static void textbook_gptq(const problem *p, const bd_qtensor *scales, int qmax, int8_t *out) {
    int64_t n = p->cols;
    double *l = copy_of(p->h, n), *inv = bd_alloc_aligned((uint64_t)(n * n), sizeof *inv);
    double *w = bd_alloc_aligned((uint64_t)n, sizeof *w);
    cholesky(l, n);
    for (int64_t c = 0; c < n; c++) { /* solve L L^T x = e_c */
        double *x = inv + c * n;
        for (int64_t i = 0; i < n; i++) {
            double s = i == c;
            for (int64_t k = 0; k < i; k++) s -= l[i * n + k] * x[k];
            x[i] = s / l[i * n + i];
        }
        for (int64_t i = n; i-- > 0;) {
            double s = x[i];
            for (int64_t k = i + 1; k < n; k++) s -= l[k * n + i] * x[k];
            x[i] = s / l[i * n + i];
        }
    }
    cholesky(inv, n); /* lower L' with H^-1 = L' L'^T: U = L'^T, U_jk = inv[k * n + j] */
    for (int64_t r = 0; r < p->rows; r++) {
        double scale = (double)bd_f16_to_f32(scales->scales[r]);
        for (int64_t j = 0; j < n; j++) w[j] = (double)p->w[r * n + j];
        for (int64_t j = 0; j < n; j++) {
            double c = nearbyint(w[j] / scale);
            c = c > qmax ? qmax : c < -qmax ? -qmax : c;
            out[r * n + j] = (int8_t)c;
            double err = (w[j] - c * scale) / inv[j * n + j];
            for (int64_t k = j; k < n; k++) w[k] -= err * inv[k * n + j];
        }
    }
    free(l);
    free(inv);
    free(w);
}

TEST(blocks_threads_and_forms_change_nothing) {
    uint64_t seed = test_seed() + 1;
    bd_pool *pool = NULL;
    CHECK_OK(bd_pool_create(&pool, 3, &e), &e);
    const int64_t shapes[][2] = {{1, 1}, {1, 40}, {33, 1}, {9, 31}, {8, 32}, {17, 33}, {3, 161}, {20, 300}};
    for (int i = 0; i < 8; i++) {
        problem p = make_problem(shapes[i][0], shapes[i][1], 0.02, &seed);
        bd_qsetting s = row_setting(5, 6);
        double *weight = row_weights(p.rows, &seed);
        p.src.rows_metric = weight;
        bd_qresult l1, l2;
        bd_qtensor a = quantized(&p.src, &s, NULL, &l1), b = quantized(&p.src, &s, pool, &l2);
        size_t n = (size_t)(p.rows * p.cols), differ = 0;
        int8_t *want = calloc(n, 1);
        CHECK(same_tensor(&a, &b) && l1.nats == l2.nats && l1.lost == l2.lost);
        naive_gptq(&p, &a, 15, want);
        CHECK_MSG(!memcmp(a.codes, want, n), "shape %d", i);
        textbook_gptq(&p, &a, 15, want);
        for (size_t k = 0; k < n; k++) differ += a.codes[k] != want[k];
        CHECK_MSG(differ == 0, "shape %d: %d codes of %d differ from the published form", i, (int)differ, (int)n);
        free(want);
        free(weight);
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
    double weight[R];
    for (int r = 0; r < R; r++) weight[r] = (r + 1) / 21.0;
    bd_qsource ordered = p.src, moved = p.src;
    ordered.ldl = moved.ldl = h;
    ordered.order = order;
    ordered.rows_metric = moved.rows_metric = weight;
    moved.w = w;
    /* The deviation is summed in another order, so the scales could differ in the last bit: k = 0 avoids it. */
    bd_qsetting s = row_setting(7, 0);
    bd_qresult l1, l2;
    bd_qtensor a = quantized(&ordered, &s, NULL, &l1), b = quantized(&moved, &s, NULL, &l2);
    CHECK(l1.nats == l2.nats && l1.lost == l2.lost);
    for (int r = 0; r < R; r++) {
        CHECK(a.scales[r] == b.scales[r]);
        for (int i = 0; i < C; i++) CHECK(a.codes[r * C + order[i]] == b.codes[r * C + i]);
    }
    check_close(l1.nats, weighted(&p, &a, p.h, weight) / 2, 1e-5, "nats");
    bd_qtensor_free(&a);
    bd_qtensor_free(&b);
    free(h);
    free_problem(&p);
}

TEST(scales_are_sdclip) {
    uint64_t seed = test_seed() + 5;
    const int64_t widths[] = {2, 3, 17, 192};
    for (int i = 0; i < 4; i++) {
        int64_t n = widths[i];
        float *w = random_weights(3 * n, &seed);
        for (int64_t k = 0; k < n; k++) w[2 * n + k] = 0.5f; /* no deviation */
        bd_qsource src = {.w = w, .rows = 3, .cols = n};
        bd_qsetting s = row_setting(6, 12.85f);
        bd_qtensor q = quantized(&src, &s, NULL, NULL);
        for (int r = 0; r < 2; r++) {
            double mean = 0, sq = 0;
            for (int64_t k = 0; k < n; k++) mean += (double)w[r * n + k] / (double)n;
            for (int64_t k = 0; k < n; k++) sq += pow((double)w[r * n + k] - mean, 2);
            double want = 12.85 * sqrt(sq / (double)(n - 1)) / 31;
            check_scale(q.scales[r], want, 1e-6);
        }
        for (int64_t k = 0; k < n; k++) CHECK(q.codes[2 * n + k] == 31);
        bd_qtensor_free(&q);
        free(w);
    }
}

TEST(ties_go_to_even_codes_and_clamp) {
    /* deviation of (-1, 0, 1) is 1: k = 7 at 4 bits is a scale of 1 */
    const float w[9] = {-1, 0, 1, 999, -1000, 1, 2.5f, 3.5f, 0.5f};
    bd_qsource src = {.w = w, .rows = 1, .cols = 3};
    bd_qsetting s = row_setting(4, 7);
    bd_qtensor q = quantized(&src, &s, NULL, NULL);
    CHECK_EQ_U64(q.scales[0], bd_f32_to_f16(1));
    CHECK(q.codes[0] == -1 && q.codes[1] == 0 && q.codes[2] == 1);
    bd_qtensor_free(&q);
    /* largest 7 and k = 0 at 4 bits: scale 1 again */
    const float t[6] = {7, 0.5f, 1.5f, -2.5f, -0.5f, 3.5f};
    const int8_t want[6] = {7, 0, 2, -2, 0, 4};
    src = (bd_qsource){.w = t, .rows = 1, .cols = 6};
    s.k = 0;
    q = quantized(&src, &s, NULL, NULL);
    CHECK(!memcmp(q.codes, want, 6));
    bd_qtensor_free(&q);
    src = (bd_qsource){.w = w + 3, .rows = 1, .cols = 2};
    s = row_setting(3, 1); /* scale 471, range +-1413 */
    q = quantized(&src, &s, NULL, NULL);
    CHECK(q.codes[0] == 2 && q.codes[1] == -2);
    bd_qtensor_free(&q);
    s.k = 0.3f; /* scale 141: clipped */
    q = quantized(&src, &s, NULL, NULL);
    CHECK(q.codes[0] == 3 && q.codes[1] == -3);
    bd_qtensor_free(&q);
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
    bd_qsetting s = row_setting(6, 10), l = setting("lqer");
    bd_qresult res;
    bd_qtensor q = quantized(&src, &s, NULL, &res);
    for (int r = 0; r < R; r++) CHECK(q.codes[r * C + 5] == 0);
    bd_qtensor_free(&q);
    memset(w, 0, sizeof w);
    for (int i = 0; bd_quantizers[i]; i++) {
        if (!strcmp(bd_quantizers[i]->name, "tcq") || !strcmp(bd_quantizers[i]->name, "log")) continue;
        s = setting(bd_quantizers[i]->name);
        q = quantized(&src, &s, NULL, &res);
        float v[R * C];
        bd_qtensor_dequant(&q, v);
        for (int k = 0; k < R * C; k++) CHECK(v[k] == 0);
        CHECK_MSG(res.lost == 0, "%s lost %g of nothing", s.by->name, res.lost);
        bd_qtensor_free(&q);
    }
    q = quantized(&src, &l, NULL, &res);
    for (int r = 0; r < R; r++) CHECK(q.scales[r] == 0 && q.lq_scales[0] == 0);
    bd_qtensor_free(&q);
    free(h);
}

TEST(finest_never_clips) {
    uint64_t seed = test_seed() + 4;
    enum { R = 7, C = 50 };
    float *w = random_weights(R * C, &seed);
    w[3] = 9;                                          /* an outlier */
    for (int i = 0; i < C; i++) w[6 * C + i] *= 1e-6f; /* subnormal scales */
    bd_qsource src = {.w = w, .rows = R, .cols = C};
    for (int bits = 2; bits <= 8; bits++) {
        bd_qsetting s = row_setting(bits, 0);
        bd_qtensor q = quantized(&src, &s, NULL, NULL);
        float v[R * C];
        bd_qtensor_dequant(&q, v);
        for (int i = 0; i < R * C; i++) {
            double step = (double)bd_f16_to_f32(q.scales[i / C]);
            CHECK(fabs((double)v[i] - (double)w[i]) <= step * 0.5 + 1e-9 * fabs((double)w[i]));
        }
        bd_qtensor_free(&q);
    }
    free(w);
}

/* --- rtn and its relatives --- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile_of(const float *w, int64_t n, double p) {
    double *a = bd_alloc_aligned((uint64_t)n, sizeof *a);
    for (int64_t i = 0; i < n; i++) a[i] = fabs((double)w[i]);
    qsort(a, (size_t)n, sizeof *a, by_size);
    double at = p * (double)(n - 1), t = at - floor(at);
    int64_t k = (int64_t)at;
    double v = k + 1 < n ? a[k] + t * (a[k + 1] - a[k]) : a[n - 1];
    free(a);
    return v;
}

TEST(quantiles_interpolate) {
    uint64_t seed = test_seed() + 6;
    const int64_t sizes[] = {1, 2, 3, 10, 129, 512};
    const double ps[] = {0, 0.03, 0.25, 0.5, 0.999, 0.9999984, 1};
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 7; k++) {
            float *w = random_weights(sizes[i], &seed), *a = bd_alloc_aligned((uint64_t)sizes[i], sizeof *a);
            for (int64_t j = 0; j < sizes[i]; j++) a[j] = fabsf(w[j] = j % 5 ? w[j] : 0.1f);
            check_close((double)bd_quantile(a, sizes[i], (float)ps[k]),
                        quantile_of(w, sizes[i], (double)(float)ps[k]), 1e-4, "quantile");
            free(w);
            free(a);
        }
}

/* |got - want| <= 1 where the direct computation is within float32 rounding of a tie, else equal. */
static void check_code(int got, double exact, double lo, double hi) {
    double c = nearbyint(exact), tie = fabs(exact - floor(exact) - 0.5);
    c = c < lo ? lo : c > hi ? hi : c;
    CHECK_MSG(got == (int)c || (tie < 1e-4 && fabs(got - exact) < 0.51), "%d for %.9g", got, exact);
}

TEST(rtn_is_its_definition) {
    uint64_t seed = test_seed() + 7;
    const int64_t shapes[][2] = {{1, 1}, {3, 1}, {5, 37}, {4, 512}};
    const struct {
        int bits;
        float quantile, floor;
    } set[] = {{8, 0.9999984f, 1.0f / 127}, {8, 0.99f, 0}, {6, 1, 1.0f / 31}, {2, 1, 0}};
    for (int i = 0; i < 16; i++) {
        int64_t rows = shapes[i & 3][0], cols = shapes[i & 3][1];
        float *w = random_weights(rows * cols, &seed);
        bd_qsource src = {.w = w, .rows = rows, .cols = cols};
        bd_qsetting s = setting("rtn");
        s.bits = set[i / 4].bits;
        s.quantile = set[i / 4].quantile;
        s.floor = set[i / 4].floor;
        bd_qtensor q = quantized(&src, &s, NULL, NULL);
        int qmax = (1 << (s.bits - 1)) - 1;
        CHECK(q.bits == s.bits);
        for (int64_t r = 0; r < rows; r++) {
            double clip = quantile_of(w + r * cols, cols, (double)s.quantile), scale = clip / qmax;
            if (scale < (double)s.floor) scale = (double)s.floor;
            check_scale(q.scales[r], scale, 1e-4);
            for (int64_t k = 0; k < cols; k++) {
                double x = (double)w[r * cols + k];
                x = x > clip ? clip : x < -clip ? -clip : x;
                check_code(q.codes[r * cols + k], x / scale, -qmax, qmax);
            }
        }
        bd_qtensor_free(&q);
        free(w);
    }
}

TEST(rtn_on_multiples_of_four) {
    /* largest 127 steps: scale 1 */
    const float w[8] = {127, -127, 2, 6, -6, 5.4f, 125.4f, -125.4f};
    const int8_t want[8] = {31, -32, 0, 2, -2, 1, 31, -31}; /* 6 / 4 and 2 / 4 are ties */
    bd_qsource src = {.w = w, .rows = 1, .cols = 8};
    bd_qsetting s = setting("rtn");
    s.multiple = 4;
    s.quantile = 1;
    bd_qtensor q = quantized(&src, &s, NULL, NULL);
    for (int i = 0; i < 8; i++) CHECK_MSG(q.codes[i] == want[i], "code %d is %d", i, q.codes[i]);
    CHECK(q.bits == 7 && bd_f16_to_f32(q.scales[0]) == 4);
    bd_qtensor_free(&q);
    const float v[3] = {127, -125, 1};
    src = (bd_qsource){.w = v, .rows = 1, .cols = 3};
    q = quantized(&src, &s, NULL, NULL);
    CHECK(q.bits == 6 && q.codes[0] == 31 && q.codes[1] == -31);
    bd_qtensor_free(&q);
}

TEST(clip_search_takes_the_least_error) {
    uint64_t seed = test_seed() + 8;
    const double ps[] = {0.999, 0.9995, 0.9999, 0.99999, 1};
    for (int round = 0; round < 4; round++) {
        int64_t rows = 3 + round, cols = 400 + 37 * round, n = rows * cols;
        float *w = random_weights(n, &seed);
        for (int i = 0; i < 8 * round; i++) w[test_rand(&seed) % (uint64_t)n] *= 6;
        bd_qsource src = {.w = w, .rows = rows, .cols = cols};
        bd_qsetting s = setting("clip-search");
        if (round % 2) s.floor = 0;
        bd_qresult res;
        bd_qtensor q = quantized(&src, &s, NULL, &res);
        double least = INFINITY, all = 0;
        for (int64_t i = 0; i < n; i++) all += (double)w[i] * (double)w[i];
        for (int c = 0; c < 5; c++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++) {
                double step = quantile_of(w + r * cols, cols, (double)(float)ps[c]) / 31;
                step =
                    (double)bd_f16_to_f32(bd_f32_to_f16((float)(step < (double)s.floor ? (double)s.floor : step)));
                for (int64_t k = 0; k < cols; k++) {
                    double x = (double)w[r * cols + k], code = nearbyint(x / step);
                    code = code > 31 ? 31 : code < -31 ? -31 : code;
                    sum += (x - code * step) * (x - code * step);
                }
            }
            if (sum < least) least = sum;
        }
        check_close(res.lost, least / all, 2e-3, "lost");
        bd_qtensor_free(&q);
        free(w);
    }
}

TEST(asymmetric_codes_and_pruning) {
    const float w[8] = {15, -16, -15.5f, -0.5f, 1, 2, -3, 0.25f};
    bd_qsource src = {.w = w, .rows = 2, .cols = 4};
    bd_qsetting s = setting("asym");
    s.quantile = 0;
    bd_qtensor q = quantized(&src, &s, NULL, NULL);
    /* row 0: 16 / 15 is the scale; row 1: 3 / 15 */
    CHECK(q.bits == 5 && q.codes[0] == 14 && q.codes[1] == -15 && q.codes[7] == 1);
    bd_qtensor_free(&q);
    /* The extra code needs a scale that rounding made much smaller: a subnormal one. */
    uint64_t seed = test_seed() + 9;
    float r[64];
    int extra = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 64; i++) r[i] = test_normalf(&seed) * 1e-6f;
        src = (bd_qsource){.w = r, .rows = 4, .cols = 16};
        s.quantile = 0.25f;
        q = quantized(&src, &s, NULL, NULL);
        double prune = quantile_of(r, 64, 0.25);
        int lowest = 0;
        for (int i = 0; i < 64; i++) {
            double scale = (double)bd_f16_to_f32(q.scales[i / 16]);
            if (fabs((double)r[i]) < prune * (1 - 1e-4)) CHECK(q.codes[i] == 0);
            else if (scale > 0 && fabs((double)r[i]) > prune * (1 + 1e-4))
                check_code(q.codes[i], (double)r[i] / scale, -16, 15);
            if (q.codes[i] < lowest) lowest = q.codes[i];
        }
        CHECK(q.bits == (lowest == -16 ? 6 : 5));
        extra += lowest == -16;
        bd_qtensor_free(&q);
    }
    CHECK(extra > 0);
}

/* --- ternary --- */

TEST(ternary_is_its_definition) {
    const float w[10] = {0.5f, -0.5f, 0.1f, -2.0f, 0, 0, 0, 0, 3.0f, 1.0f};
    bd_qsource src = {.w = w, .rows = 2, .cols = 5};
    bd_qsetting s = setting("ternary");
    s.group = 4;
    bd_qtensor q = quantized(&src, &s, NULL, NULL);
    const int8_t want[10] = {1, -1, 0, -1, 0, 0, 0, 0, 1, 0}; /* 1 / 2 is a half and goes to even */
    CHECK(!memcmp(q.codes, want, 10));
    CHECK_EQ_U64(q.scales[0], bd_f32_to_f16(0.775f));
    CHECK_EQ_U64(q.scales[2], bd_f32_to_f16(2.0f));
    bd_qtensor_free(&q);
    /* Thresholds change the rounding, on both sides of a half; they take ties. */
    const float v[4] = {0.25f, -0.75f, 2.0f, -1.0f}; /* mean 1 */
    const int8_t low[4] = {1, -1, 1, -1}, high[4] = {0, -1, 1, -1}, higher[4] = {0, 0, 1, -1};
    src = (bd_qsource){.w = v, .rows = 1, .cols = 4};
    const float taus[3] = {0.25f, 0.75f, 0.76f};
    const int8_t *const codes[3] = {low, high, higher};
    for (int i = 0; i < 3; i++) {
        s.threshold = taus[i];
        q = quantized(&src, &s, NULL, NULL);
        CHECK(!memcmp(q.codes, codes[i], 4));
        bd_qtensor_free(&q);
    }
    s.mult = 1.25f;
    q = quantized(&src, &s, NULL, NULL);
    CHECK(!memcmp(q.codes, higher, 4));
    CHECK_EQ_U64(q.scales[0], bd_f32_to_f16(1.25f));
    bd_qtensor_free(&q);
}

TEST(ternary_best_factor) {
    uint64_t seed = test_seed() + 10;
    bd_pool *pool = NULL;
    CHECK_OK(bd_pool_create(&pool, 3, &e), &e);
    for (int round = 0; round < 6; round++) {
        problem p = make_problem(3 + round * 4, 20 + round * 31, 0.01, &seed);
        double *weight = row_weights(p.rows, &seed);
        p.src.rows_metric = weight;
        if (round == 5) p.src.ldl = NULL;
        const double *h = p.src.ldl ? p.h : NULL, *rows = p.src.ldl ? weight : NULL;
        bd_qsetting s = setting("ternary");
        s.group = 16;
        s.threshold = 0.4f + 0.05f * (float)round;
        s.mult = 1;
        bd_qtensor a = quantized(&p.src, &s, NULL, NULL);
        s.mult = 0;
        bd_qresult l1, l2;
        bd_qtensor b = quantized(&p.src, &s, NULL, &l1), c = quantized(&p.src, &s, pool, &l2);
        CHECK(same_tensor(&b, &c) && l1.lost == l2.lost &&
              (l1.nats == l2.nats || (isnan(l1.nats) && isnan(l2.nats))));
        CHECK(!memcmp(a.codes, b.codes, (size_t)(p.rows * p.cols)));
        /* <q, w> and <q, q> by polarization: |w|^2, |w - q|^2 and |w - 2 q|^2 */
        bd_qtensor twice = a;
        uint16_t *doubled = calloc((size_t)(p.rows * p.cols), 2);
        for (int64_t i = 0; i * 16 < p.rows * p.cols; i++)
            doubled[i] = bd_f32_to_f16(2 * bd_f16_to_f32(a.scales[i]));
        twice.scales = doubled;
        double w0 = weighted(&p, NULL, h, rows), w1 = weighted(&p, &a, h, rows), w2 = weighted(&p, &twice, h, rows);
        double square = (w2 - 2 * w1 + w0) / 2, cross = (square - (w1 - w0)) / 2, mult = cross / square;
        for (int64_t i = 0; i * 16 < p.rows * p.cols; i++)
            check_scale(b.scales[i], mult * (double)bd_f16_to_f32(a.scales[i]), 1e-5);
        check_close(l1.lost, weighted(&p, &b, h, rows) / w0, 1e-4, "lost");
        /* binary16 rounds every scale */
        CHECK(weighted(&p, &b, h, rows) < w1 + 1e-3 * w0);
        free(doubled);
        free(weight);
        bd_qtensor_free(&a);
        bd_qtensor_free(&b);
        bd_qtensor_free(&c);
        free_problem(&p);
    }
    bd_pool_destroy(pool);
}

/* --- lqer --- */

/* Squared singular values of e (rows, cols), largest first, from the Gram matrix by Jacobi's method. */
static double *spectrum(const double *m, int64_t rows, int64_t cols) {
    double *g = bd_alloc_aligned((uint64_t)(cols * cols), sizeof *g),
           *out = bd_alloc_aligned((uint64_t)cols, sizeof *out);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++)
            for (int64_t k = 0; k < cols; k++) g[i * cols + k] += m[r * cols + i] * m[r * cols + k];
    for (int sweep = 0; sweep < 30; sweep++)
        for (int64_t p = 0; p < cols; p++)
            for (int64_t q = p + 1; q < cols; q++) {
                double t = 0.5 * atan2(2 * g[p * cols + q], g[q * cols + q] - g[p * cols + p]), c = cos(t),
                       s = sin(t);
                for (int64_t i = 0; i < cols; i++) {
                    double x = g[i * cols + p], y = g[i * cols + q];
                    g[i * cols + p] = c * x - s * y;
                    g[i * cols + q] = s * x + c * y;
                }
                for (int64_t i = 0; i < cols; i++) {
                    double x = g[p * cols + i], y = g[q * cols + i];
                    g[p * cols + i] = c * x - s * y;
                    g[q * cols + i] = s * x + c * y;
                }
            }
    for (int64_t i = 0; i < cols; i++) out[i] = -g[i * cols + i];
    qsort(out, (size_t)cols, sizeof *out, by_size);
    for (int64_t i = 0; i < cols; i++) out[i] = -out[i];
    free(g);
    return out;
}

TEST(lqer_corrects_with_the_top_singular_vectors) {
    uint64_t seed = test_seed() + 11;
    bd_pool *pool = NULL;
    CHECK_OK(bd_pool_create(&pool, 3, &e), &e);
    const int64_t shapes[][2] = {{1, 1}, {1, 30}, {30, 1}, {2, 40}, {24, 40}, {60, 33}, {130, 48}};
    for (int i = 0; i < 7; i++) {
        problem p = make_problem(shapes[i][0], shapes[i][1], 0.01, &seed);
        int64_t n = p.rows * p.cols;
        bd_qsetting row = row_setting(3, 3), s = setting("lqer");
        s.bits = 3;
        s.k = 3;
        s.rank = 4;
        bd_qresult l1, l2;
        bd_qtensor r = quantized(&p.src, &row, NULL, NULL), a = quantized(&p.src, &s, NULL, &l1),
                   b = quantized(&p.src, &s, pool, &l2);
        CHECK(same_tensor(&a, &b) && l1.lost == l2.lost);
        CHECK(!memcmp(a.codes, r.codes, (size_t)n) && !memcmp(a.scales, r.scales, (size_t)p.rows * 2));
        float *base = calloc((size_t)n, sizeof *base), *with = calloc((size_t)n, sizeof *with);
        double *err = calloc((size_t)n, sizeof *err), before = 0, after = 0, top = 0;
        bd_qtensor_dequant(&r, base);
        bd_qtensor_dequant(&a, with);
        for (int64_t k = 0; k < n; k++) {
            err[k] = (double)p.w[k] - (double)base[k];
            before += err[k] * err[k];
            after += pow((double)p.w[k] - (double)with[k], 2);
            /* the correction from its integers */
            double sum = 0;
            for (int64_t j = 0; j < 4; j++) {
                int64_t at = j * p.cols + k % p.cols;
                sum += (double)a.lq_a[k / p.cols * 4 + j] * (double)bd_f16_to_f32(a.lq_scales[0]) *
                       (double)a.lq_b[at] * (double)bd_f16_to_f32(a.lq_scales[1 + at / 64]);
            }
            CHECK(fabs((double)with[k] - (double)base[k] - sum) <= 1e-6);
        }
        double *sv = spectrum(err, p.rows, p.cols);
        for (int64_t k = 0; k < 4 && k < p.cols; k++) top += sv[k];
        /* Two bits keep some of what rank 4 could take away, and nothing can take more. */
        CHECK_MSG(before - after <= top * (1 + 1e-3) && (before - after > 0.2 * top || before < 1e-12),
                  "%d x %d: %g of %g removed, rank 4 is %g", (int)p.rows, (int)p.cols, before - after, before, top);
        for (int64_t k = 0; k < 4 * p.cols; k++) CHECK(a.lq_b[k] >= -8 && a.lq_b[k] <= 7);
        for (int64_t k = 0; k < 4 * p.rows; k++) CHECK(a.lq_a[k] >= -2 && a.lq_a[k] <= 1);
        free(sv);
        free(base);
        free(with);
        free(err);
        bd_qtensor_free(&r);
        bd_qtensor_free(&a);
        bd_qtensor_free(&b);
        free_problem(&p);
    }
    bd_pool_destroy(pool);
}

TEST(lqer_factors_are_the_svd) {
    /* An error of known factors: w = integers * scale + sum of c_k a_k b_k^T with orthogonal a, b from a Hadamard
     * matrix, small enough that the codes stay. */
    enum { R = 16, C = 64 };
    float w[R * C];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < C; i++) {
            double v = i == 0 ? 127 : (r * 7 + i * 3) % 21 - 10;
            for (int k = 1; k <= 3; k++)
                v += 0.1 / k * (__builtin_popcount((unsigned)(r & k)) % 2 ? -1 : 1) *
                     (i && __builtin_popcount((unsigned)(i & (k * 5))) % 2 ? -1 : 1) * (i != 0);
            w[r * C + i] = (float)v;
        }
    bd_qsource src = {.w = w, .rows = R, .cols = C};
    bd_qsetting s = setting("lqer");
    s.bits = 8;
    s.k = 0;
    s.rank = 3;
    bd_qresult res;
    bd_qtensor q = quantized(&src, &s, NULL, &res);
    double lost = 0, left = 0;
    float v[R * C];
    bd_qtensor_dequant(&q, v);
    for (int i = 0; i < R * C; i++) {
        double e0 = (double)w[i] - q.codes[i] * (double)bd_f16_to_f32(q.scales[i / C]);
        lost += e0 * e0;
        left += pow((double)w[i] - (double)v[i], 2);
    }
    CHECK_MSG(left < 0.25 * lost, "%g left of %g", left, lost);
    for (int k = 0; k < 3; k++) { /* the largest entries of A's columns are negative */
        int low = 0, high = 0;
        for (int r = 0; r < R; r++) {
            if (q.lq_a[r * 3 + k] < low) low = q.lq_a[r * 3 + k];
            if (q.lq_a[r * 3 + k] > high) high = q.lq_a[r * 3 + k];
        }
        CHECK(-low >= high);
    }
    bd_qtensor_free(&q);
}

/* --- plain --- */

TEST(plain_conversions) {
    uint64_t seed = test_seed() + 12;
    float *w = random_weights(35, &seed);
    double g[35];
    for (int i = 0; i < 35; i++) g[i] = test_uniform(&seed);
    bd_qsource src = {.w = w, .rows = 5, .cols = 7, .vector = true, .rows_metric = g};
    bd_qsetting s = setting("f16"), full = setting("f32"), row = row_setting(8, 0);
    bd_qresult res;
    bd_qtensor q = quantized(&src, &s, NULL, &res);
    double lost = 0, all = 0;
    for (int i = 0; i < 35; i++) {
        CHECK_EQ_U64(q.f16[i], bd_f32_to_f16(w[i]));
        lost += g[i] * pow((double)w[i] - (double)bd_f16_to_f32(q.f16[i]), 2);
        all += g[i] * (double)w[i] * (double)w[i];
    }
    check_close(res.nats, lost / 2, 1e-9, "nats");
    check_close(res.lost, lost / all, 1e-9, "lost");
    bd_qtensor_free(&q);
    q = quantized(&src, &row, NULL, &res);
    lost = 0;
    for (int i = 0; i < 35; i++)
        lost += g[i] * pow((double)w[i] - q.codes[i] * (double)bd_f16_to_f32(q.scales[i / 7]), 2);
    check_close(res.nats, lost / 2, 1e-5, "nats");
    bd_qtensor_free(&q);
    q = quantized(&src, &full, NULL, &res);
    CHECK(!memcmp(q.f32, w, 35 * sizeof *w) && res.nats == 0 && res.lost == 0);
    bd_qtensor_free(&q);
    free(w);
}

/* --- errors --- */

TEST(errors_name_the_place) {
    float w[6] = {1, 2, 3, 4, NAN, 6};
    bd_qsource src = {.w = w, .rows = 2, .cols = 3};
    bd_qtensor q = {0};
    bd_qresult res;
    for (int i = 0; bd_quantizers[i]; i++) {
        const char *name = bd_quantizers[i]->name;
        if (!strcmp(name, "tcq") || !strcmp(name, "log")) continue;
        bd_qsetting s = setting(name);
        for (int inf = 0; inf < 2; inf++) {
            w[4] = inf ? -INFINITY : NAN;
            CHECK_EQ_U64(s.by->quantize(&q, &src, &s, NULL, &res, &e), BD_E_NONFINITE);
            CHECK_MSG(strstr(e.msg, "element 4") != NULL, "%s: %s", name, e.msg);
        }
        w[4] = 3e37f; /* no binary16 scale reaches it */
        bd_status st = s.by->quantize(&q, &src, &s, NULL, &res, &e);
        if (!strcmp(name, "f32")) CHECK(st == BD_OK);
        else CHECK_MSG(st == BD_E_RANGE, "%s: %d", name, (int)st);
        if (!strcmp(name, "row") || !strcmp(name, "rtn")) CHECK(strstr(e.msg, "row 1") != NULL);
        if (!strcmp(name, "f16")) CHECK(strstr(e.msg, "element 4") != NULL);
        bd_qtensor_free(&q);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
