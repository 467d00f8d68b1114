/* Error feedback between rows: the coupled search against direct computations. */
#include "base/arena.h"
#include "compiler/coupled_search.h"
#include "compiler/ldl.h"
#include "compiler/tcq.h"
#include "compiler/tcq_rate.h"
#include "compiler/waterfill.h"
#include "format/weight_group.h"
#include "tests/bd_test.h"

/* A matrix with correlated inputs and correlated output gradients. */
typedef struct problem {
    bd_qsource src;
    float *w;
    double *h, *g; /* damped H; padded G, rows in trellis order */
    double *ldl, *rows_ldl, *r, *g_plain;
    uint8_t *dead;
    int16_t *row_exp, *col_exp;
    int32_t *row;
} problem;

static double *second_moment(int64_t n, int64_t tokens, uint64_t *seed) {
    double *m = calloc((size_t)(n * n), sizeof *m), *x = calloc((size_t)n, sizeof *x);
    CHECK(m && x);
    for (int64_t t = 0; t < tokens; t++) {
        double common = (double)test_normalf(seed), last = 0;
        for (int64_t j = 0; j < n; j++) {
            last = 0.7 * last + (double)test_normalf(seed) + common;
            x[j] = last * (0.3 + (double)(j % 5));
        }
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++) m[j * n + k] += x[j] * x[k] / (double)tokens;
    }
    free(x);
    return m;
}

static void free_problem(problem *p) {
    void *all[] = {p->w,       p->h,    p->g,       p->ldl,     p->rows_ldl, p->r,
                   p->g_plain, p->dead, p->row_exp, p->col_exp, p->row};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void make_problem(problem *p, int64_t rows, int64_t cols, uint64_t *seed) {
    bd_err e;
    double trace = 0;
    *p = (problem){.w = bd_alloc_aligned((uint64_t)(rows * cols), sizeof(float)),
                   .h = second_moment(cols, 3 * cols + 5, seed),
                   .g_plain = second_moment(rows, 3 * rows + 5, seed),
                   .g = calloc((size_t)(rows * rows), sizeof(double)),
                   .ldl = calloc((size_t)(cols * cols), sizeof(double)),
                   .rows_ldl = calloc((size_t)(rows * rows), sizeof(double)),
                   .r = calloc((size_t)rows, sizeof(double)),
                   .dead = calloc((size_t)cols, 1),
                   .row_exp = calloc((size_t)rows, sizeof(int16_t)),
                   .col_exp = calloc((size_t)cols, sizeof(int16_t)),
                   .row = calloc((size_t)rows, sizeof(int32_t))};
    CHECK(p->w && p->g && p->ldl && p->rows_ldl && p->r && p->dead && p->row_exp && p->col_exp && p->row);
    for (int64_t i = 0; i < rows * cols; i++) p->w[i] = 0.1f * test_normalf(seed);
    bd_hessian_prepare(p->h, cols, 1e-3, p->dead);
    memcpy(p->ldl, p->h, (size_t)(cols * cols) * sizeof(double));
    CHECK_OK(bd_ldl(p->ldl, cols, &e), &e);
    for (int64_t i = 0; i < rows; i++) trace += p->g_plain[i * rows + i];
    for (int64_t i = 0; i < rows * rows; i++) p->g_plain[i] /= trace;
    for (int64_t i = 0; i < rows; i++) p->r[i] = p->g_plain[i * rows + i];
    const double pad = 0.05 / (double)rows;
    bd_waterfill_rows(p->row_exp, p->r, rows, 0.05);
    bd_waterfill_cols(p->col_exp, p->ldl, p->dead, NULL, cols);
    bd_trellis_order(p->row, p->row_exp, (uint32_t)rows);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < rows; k++)
            p->g[i * rows + k] = p->g_plain[p->row[i] * rows + p->row[k]] + (i == k ? pad : 0);
    memcpy(p->rows_ldl, p->g, (size_t)(rows * rows) * sizeof(double));
    CHECK_OK(bd_ldl(p->rows_ldl, rows, &e), &e);
    p->src = (bd_qsource){.name = "w",
                          .w = p->w,
                          .rows = rows,
                          .cols = cols,
                          .ldl = p->ldl,
                          .dead = p->dead,
                          .rows_metric = p->r,
                          .row_exp = p->row_exp,
                          .col_exp = p->col_exp,
                          .rows_ldl = p->rows_ldl,
                          .rows_pad = pad};
}

static bd_qtensor quantized(const bd_search_ops *ops, const bd_qsource *src, int states, bd_qresult *res) {
    bd_qtensor q = {0};
    bd_err e;
    bd_qsetting s = {.by = &bd_quantizer_tcq, .states = states, .step = 0.02f, .lambda = 0.04f};
    CHECK_OK(bd_tcq_quantize_by(ops, &q, src, &s, NULL, res, &e), &e);
    return q;
}

/* tr(G dW H dW^T) / 2 with the G that is not padded. */
static double dense_loss(const problem *p, const bd_qtensor *q) {
    const int64_t rows = p->src.rows, cols = p->src.cols;
    float *back = calloc((size_t)(rows * cols), sizeof *back);
    double *d = calloc((size_t)(rows * cols), sizeof *d), *dh = calloc((size_t)(rows * cols), sizeof *dh), loss = 0;
    CHECK(back && d && dh);
    bd_qtensor_dequant(q, back);
    for (int64_t i = 0; i < rows * cols; i++) d[i] = (double)p->w[i] - (double)back[i];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++)
            for (int64_t c = 0; c < cols; c++) dh[i * cols + c] += d[i * cols + k] * p->h[k * cols + c];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < rows; k++) {
            double dot = 0;
            for (int64_t c = 0; c < cols; c++) dot += dh[i * cols + c] * d[k * cols + c];
            loss += p->g_plain[i * rows + k] * dot;
        }
    free(back);
    free(d);
    free(dh);
    return loss / 2;
}

TEST(loss_is_the_dense_one) {
    uint64_t seed = test_seed();
    const int states[] = {1, 4, 8, 64};
    for (int t = 0; t < 4; t++) {
        problem p;
        make_problem(&p, 13 + 10 * t, 9 + 11 * t, &seed);
        bd_qresult res;
        bd_qtensor q = quantized(bd_search_ops_at(0), &p.src, states[t], &res);
        double want = dense_loss(&p, &q);
        CHECK_MSG(fabs(res.nats - want) < 1e-3 * want, "%d states: %g, dense %g", states[t], res.nats, want);
        bd_qtensor_free(&q);
        free_problem(&p);
    }
}

TEST(coupling_pays) {
    uint64_t seed = test_seed();
    problem p;
    make_problem(&p, 70, 45, &seed);
    for (int states = 1; states <= 64; states *= 8) {
        bd_qresult res;
        bd_qtensor q = quantized(bd_search_ops_at(0), &p.src, states, &res);
        bd_qsource apart = p.src;
        apart.rows_ldl = NULL;
        bd_qtensor o = quantized(bd_search_ops_at(0), &apart, states, &res);
        double with = dense_loss(&p, &q), without = dense_loss(&p, &o);
        CHECK_MSG(with < 0.8 * without, "%d states: %g with coupled rows, %g without", states, with, without);
        bd_qtensor_free(&q);
        bd_qtensor_free(&o);
    }
    free_problem(&p);
}

/* A diagonal G couples nothing. */
TEST(diagonal_is_uncoupled) {
    uint64_t seed = test_seed();
    problem p;
    make_problem(&p, 37, 21, &seed);
    for (int64_t i = 0; i < 37; i++)
        for (int64_t k = 0; k < 37; k++)
            if (i != k) p.rows_ldl[i * 37 + k] = 0;
    for (int states = 1; states <= 64; states *= 8) {
        bd_qresult res;
        bd_qtensor q = quantized(bd_search_ops_at(0), &p.src, states, &res);
        bd_qsource apart = p.src;
        apart.rows_ldl = NULL;
        bd_qtensor o = quantized(bd_search_ops_at(0), &apart, states, &res);
        CHECK(!memcmp(q.index, o.index, 37 * 21 * sizeof *q.index));
        bd_qtensor_free(&q);
        bd_qtensor_free(&o);
    }
    free_problem(&p);
}

TEST(every_instruction_set_agrees) {
    uint64_t seed = test_seed();
    problem p;
    make_problem(&p, 83, 40, &seed);
    for (int states = 1; states <= 256; states *= states == 1 ? 4 : 2) {
        bd_qresult res, other;
        bd_qtensor q = quantized(bd_search_ops_at(0), &p.src, states, &res);
        for (int o = 1; bd_search_ops_at(o); o++) {
            bd_qtensor b = quantized(bd_search_ops_at(o), &p.src, states, &other);
            CHECK_MSG(!memcmp(q.index, b.index, 83 * 40 * sizeof *q.index), "%d states, %s", states,
                      bd_search_ops_at(o)->name);
            CHECK(memcmp(&res.nats, &other.nats, sizeof res.nats) == 0);
            bd_qtensor_free(&b);
        }
        bd_qtensor_free(&q);
    }
    free_problem(&p);
}

/* --- the search itself, against survivors that carry all their sums --- */

typedef struct column {
    bd_coupled c;
    float *b, *target, *inverse, *width;
    int32_t *bin;
    int16_t *path;
    bd_search_trellis trellis;
    bd_rate *rate;
} column;

static void make_column(column *k, int64_t rows, int states, uint64_t *seed) {
    const int64_t stride = ((rows + 15) / 16 | 1) * 16;
    bd_trellis t;
    *k = (column){.b = bd_alloc_aligned((uint64_t)(rows * stride), sizeof(float)),
                  .target = bd_alloc_aligned((uint64_t)stride, sizeof(float)),
                  .inverse = bd_alloc_aligned((uint64_t)stride, sizeof(float)),
                  .width = bd_alloc_aligned((uint64_t)stride, sizeof(float)),
                  .bin = bd_alloc_aligned((uint64_t)stride, sizeof(int32_t)),
                  .path = bd_alloc_aligned((uint64_t)stride, sizeof(int16_t)),
                  .rate = calloc(1, sizeof(bd_rate))};
    CHECK(k->b && k->target && k->inverse && k->width && k->bin && k->path && k->rate);
    bd_rate_init(k->rate, states == 1, 0.05);
    if (states > 1) {
        CHECK(bd_trellis_init(&t, (uint32_t)states));
        bd_search_trellis_init(&k->trellis, &t);
    }
    for (int64_t i = 0; i < rows; i++) {
        float step = 0.02f * expf(0.4f * test_normalf(seed));
        k->inverse[i] = 1 / step;
        k->width[i] = states > 1 ? step / 2 : step;
        /* some far beyond what tables hold */
        k->target[i] = (test_rand(seed) % 50 ? 0.05f : 3.0f) * test_normalf(seed);
        k->bin[i] = (int32_t)(18 + test_rand(seed) % 40);
        for (int64_t l = i + 1; l < rows; l++) k->b[i * stride + l] = 0.2f * test_normalf(seed);
    }
    k->c = (bd_coupled){.trellis = states > 1 ? &k->trellis : NULL,
                        .rows = rows,
                        .stride = stride,
                        .b = k->b,
                        .target = k->target,
                        .inverse = k->inverse,
                        .width = k->width,
                        .bin = k->bin,
                        .rate = &k->rate->now,
                        .path = k->path};
    bd_err e;
    CHECK_OK(bd_coupled_init(&k->c, &e), &e);
}

static void free_column(column *k) {
    void *all[] = {k->b, k->target, k->inverse, k->width, k->bin, k->path, k->rate};
    bd_coupled_free(&k->c);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* The better of the two indices nearest to y that are `every` apart, at distance d of a multiple. */
static float direct_choice(const column *k, int64_t i, float y, int every, int d, int *index) {
    const float scale = every == 4 ? 0.5f : 1.0f;
    float at = y / scale;
    at = at < 32760.0f ? at : 32760.0f;
    at = at > -32760.0f ? at : -32760.0f;
    if (every == 1) y = at;
    int low = (int)floorf(at);
    low -= (low - d) & (every - 1);
    float best = 0;
    for (int side = 0; side < 2; side++) {
        int v = low + side * every, level = (abs(v) >> (every == 4)) >> k->c.rate->shift[k->c.bin[i]];
        level = level < BD_RATE_LEVELS - 1 ? level : BD_RATE_LEVELS - 1;
        float off = y - scale * (float)v, cost = off * off + k->c.rate->cost[k->c.bin[i]][d & 1][level];
        if (side && !(cost < best)) continue;
        best = cost;
        *index = v;
    }
    return best;
}

/* Sums of all rows to come, for every survivor: (states, rows). */
static void direct_search(const column *k, int states, int16_t *path, float *moved) {
    const int64_t rows = k->c.rows;
    const size_t line = (size_t)rows;
    float *carry = calloc((size_t)states * line, sizeof *carry), *to = calloc((size_t)states * line, sizeof *to);
    int16_t *paths = calloc((size_t)states * line, sizeof *paths),
            *next = calloc((size_t)states * line, sizeof *next);
    float now[BD_SEARCH_STATES_MAX], then[BD_SEARCH_STATES_MAX];
    CHECK(carry && to && paths && next);
    for (int s = 0; s < states; s++) now[s] = s ? 1e30f : 0;
    for (int64_t i = 0; i < rows; i++) {
        for (int n = 0; n < states; n++) {
            int from = 0, index = 0;
            for (int side = 0; side < (states > 1 ? 2 : 1); side++) {
                int s = states > 1 ? n / 2 + side * states / 2 : 0, v = 0;
                int d = states > 1 ? k->trellis.subset[s] ^ (n & 1) << 1 : 0;
                float y = (k->target[i] + carry[(size_t)s * line + (size_t)i]) * k->inverse[i];
                float cost = direct_choice(k, i, y, states > 1 ? 4 : 1, d, &v);
                if (states > 1) cost = now[s] + cost;
                if (side && !(cost < then[n])) continue;
                then[n] = cost;
                from = s;
                index = v;
            }
            memcpy(to + (size_t)n * line, carry + (size_t)from * line, line * sizeof *to);
            memcpy(next + (size_t)n * line, paths + (size_t)from * line, line * sizeof *next);
            next[(size_t)n * line + (size_t)i] = (int16_t)index;
            float v = k->target[i] - (float)index * k->width[i];
            for (int64_t l = i + 1; l < rows; l++)
                to[(size_t)n * line + (size_t)l] += k->b[i * k->c.stride + l] * v;
        }
        float take = i % 32 == 31 && states > 1 ? then[0] : 0;
        for (int s = 0; s < states; s++) now[s] = then[s] - take;
        float *c = carry;
        int16_t *p = paths;
        carry = to;
        to = c;
        paths = next;
        next = p;
    }
    int best = 0;
    for (int s = 1; s < states; s++)
        if (now[s] < now[best]) best = s;
    memcpy(path, paths + (size_t)best * line, line * sizeof *path);
    memcpy(moved, carry + (size_t)best * line, line * sizeof *moved);
    free(carry);
    free(to);
    free(paths);
    free(next);
}

TEST(search_follows_the_definition) {
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 48, 67, 130};
    uint64_t seed = test_seed();
    int16_t path[130];
    float moved[130];
    for (int states = 1; states <= 256; states *= states == 1 ? 4 : 2)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
            column k;
            make_column(&k, sizes[z], states, &seed);
            direct_search(&k, states, path, moved);
            for (int isa = 0; bd_coupled_at(isa); isa++) {
                memset(k.path, 0, (size_t)sizes[z] * sizeof *k.path);
                bd_coupled_at(isa)(&k.c);
                CHECK_MSG(!memcmp(k.path, path, (size_t)sizes[z] * sizeof *path), "%d states, %d rows, %s", states,
                          (int)sizes[z], bd_search_ops_at(isa)->name);
                for (int64_t i = 0; i < sizes[z]; i++) CHECK(k.c.moved[i] == moved[i]);
            }
            free_column(&k);
        }
}

/* Without a trellis and without bits to pay: every row rounds its target. */
TEST(scalar_follows_the_definition) {
    uint64_t seed = test_seed();
    problem p;
    const int64_t rows = 19, cols = 7;
    make_problem(&p, rows, cols, &seed);
    bd_qtensor q = {0};
    bd_qresult res;
    bd_err e;
    bd_qsetting s = {.by = &bd_quantizer_tcq, .states = 1, .step = 0.02f, .lambda = 0};
    CHECK_OK(bd_quantizer_tcq.quantize(&q, &p.src, &s, NULL, &res, &e), &e);
    float *back = calloc((size_t)(rows * cols), sizeof *back);
    CHECK(back);
    bd_qtensor_dequant(&q, back);
    double *v = calloc((size_t)(rows * cols), sizeof *v);
    CHECK(v);
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = p.row[i] * cols + j;
            double f = 0, moved = 0, step = (double)bd_tcq_step(0.02f, 1, q.row_exp[p.row[i]] + q.col_exp[j]);
            for (int64_t k = 0; k < j; k++)
                f += ((double)p.w[p.row[i] * cols + k] - (double)back[p.row[i] * cols + k]) * p.ldl[k * cols + j];
            for (int64_t k = 0; k < i; k++) moved += v[k * cols + j] * p.rows_ldl[k * rows + i];
            double target = (double)p.w[at] + f + moved, off = fabs(target - (double)back[at]) / step;
            CHECK_MSG(off < 0.5 + 1e-3, "row %d, column %d: %g steps off", (int)i, (int)j, off);
            v[i * cols + j] = (double)p.w[at] + f - (double)back[at];
        }
    free(back);
    free(v);
    bd_qtensor_free(&q);
    free_problem(&p);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
