/* Trellis-coded quantization, water-filling and the normal test source. */
#include "base/arena.h"
#include "base/fmath.h"
#include "compiler/gaussian_test.h"
#include "compiler/ldl.h"
#include "compiler/tcq.h"
#include "compiler/tcq_rate.h"
#include "compiler/waterfill.h"
#include "format/trellis.h"
#include "format/weight_group.h"
#include "tests/bd_test.h"

static const int all_states[] = {1, 4, 8, 16, 32, 64, 128, 256};
enum { N_STATES = sizeof all_states / sizeof *all_states };

/* --- a tensor with all that a quantizer may be told --- */

typedef struct problem {
    bd_qsource src;
    float *w;
    double *h, *ldl, *r; /* damped H in the order of columns; its LDL form */
    uint8_t *dead;
    int32_t *order;
    int16_t *row_exp, *col_exp;
} problem;

static void free_problem(problem *p) {
    free(p->w);
    free(p->h);
    free(p->ldl);
    free(p->r);
    free(p->dead);
    free(p->order);
    free(p->row_exp);
    free(p->col_exp);
}

/* Inputs with correlated columns of different sizes; n_dead columns without any. */
static void make_problem(problem *p, int64_t rows, int64_t cols, int n_dead, bool ordered, uint64_t *seed) {
    const int64_t tokens = 3 * cols + 5;
    bd_err e;
    *p = (problem){0};
    p->w = bd_alloc_aligned((uint64_t)(rows * cols), sizeof(float));
    p->h = calloc((size_t)(cols * cols), sizeof(double));
    p->ldl = calloc((size_t)(cols * cols), sizeof(double));
    p->r = calloc((size_t)rows, sizeof(double));
    p->dead = calloc((size_t)cols, 1);
    p->order = calloc((size_t)cols, sizeof(int32_t));
    p->row_exp = calloc((size_t)rows, sizeof(int16_t));
    p->col_exp = calloc((size_t)cols, sizeof(int16_t));
    double *h = calloc((size_t)(cols * cols), sizeof(double)), *x = calloc((size_t)cols, sizeof(double)), sum = 0;
    CHECK(p->w && p->h && p->ldl && p->r && p->dead && p->order && p->row_exp && p->col_exp && h && x);
    for (int64_t i = 0; i < rows * cols; i++) p->w[i] = 0.1f * test_normalf(seed);
    for (int64_t t = 0; t < tokens; t++) {
        double common = (double)test_normalf(seed), last = 0;
        for (int64_t j = 0; j < cols; j++) {
            last = 0.6 * last + (double)test_normalf(seed) + 0.5 * common;
            x[j] = j >= cols - n_dead ? 0 : last * (0.2 + (double)(j % 7));
        }
        for (int64_t j = 0; j < cols; j++)
            for (int64_t k = 0; k < cols; k++) h[j * cols + k] += x[j] * x[k] / (double)tokens;
    }
    for (int64_t i = 0; i < rows; i++) sum += p->r[i] = i % 5 == 4 ? 0 : test_uniform(seed);
    for (int64_t i = 0; i < rows; i++) p->r[i] /= sum > 0 ? sum : 1;
    bd_hessian_prepare(h, cols, 1e-3, p->dead);
    for (int64_t k = 0; k < cols; k++) p->order[k] = (int32_t)k;
    for (int64_t k = cols - 1; ordered && k > 0; k--) {
        int64_t o = (int64_t)(test_rand(seed) % (uint64_t)(k + 1));
        int32_t keep = p->order[k];
        p->order[k] = p->order[o];
        p->order[o] = keep;
    }
    for (int64_t a = 0; a < cols; a++)
        for (int64_t b = 0; b < cols; b++) p->h[a * cols + b] = h[p->order[a] * cols + p->order[b]];
    memcpy(p->ldl, p->h, (size_t)(cols * cols) * sizeof(double));
    CHECK_OK(bd_ldl(p->ldl, cols, &e), &e);
    bd_waterfill_rows(p->row_exp, p->r, rows, 0.05);
    bd_waterfill_cols(p->col_exp, p->ldl, p->dead, ordered ? p->order : NULL, cols);
    p->src = (bd_qsource){.name = "w",
                          .w = p->w,
                          .rows = rows,
                          .cols = cols,
                          .ldl = p->ldl,
                          .dead = p->dead,
                          .order = ordered ? p->order : NULL,
                          .rows_metric = p->r,
                          .row_exp = p->row_exp,
                          .col_exp = p->col_exp,
                          .kind = 3};
    free(h);
    free(x);
}

static bd_qsetting setting(int states, float step, float lambda) {
    return (bd_qsetting){.by = &bd_quantizer_tcq, .states = states, .step = step, .lambda = lambda};
}

static bd_qtensor quantized(const bd_qsource *src, int states, float step, float lambda, bd_qresult *res) {
    bd_qtensor q = {0};
    bd_err e;
    bd_qsetting s = setting(states, step, lambda);
    CHECK_OK(bd_quantizer_tcq.quantize(&q, src, &s, NULL, res, &e), &e);
    return q;
}

/* Every column is a path from state 0. */
static void check_legal(const bd_qtensor *q) {
    bd_trellis t;
    if (q->states == 1) return;
    CHECK(bd_trellis_init(&t, q->states));
    int32_t *order = calloc(q->rows, sizeof *order);
    bd_trellis_order(order, q->row_exp, q->rows);
    bool legal = true;
    for (uint32_t c = 0; c < q->cols; c++) {
        uint32_t s = 0;
        for (uint32_t i = 0; i < q->rows; i++) {
            int v = q->index[(uint64_t)c * q->rows + (uint32_t)order[i]];
            legal = legal && ((unsigned)v & 1) == bd_trellis_superset(&t, s);
            s = bd_trellis_next(&t, s, v);
        }
    }
    free(order);
    CHECK_MSG(legal, "%u x %u, %u states", q->rows, q->cols, q->states);
}

static bool same_indices(const bd_qtensor *a, const bd_qtensor *b) {
    return !memcmp(a->index, b->index, (size_t)a->rows * a->cols * sizeof *a->index);
}

/* sum_i r_i dW_i H dW_i^T / 2 and the same of W, in double, from what a decoder computes. */
static double dense_loss(const problem *p, const bd_qtensor *q, double *signal) {
    const int64_t rows = p->src.rows, cols = p->src.cols;
    float *back = calloc((size_t)(rows * cols), sizeof *back);
    double *d = calloc((size_t)cols, sizeof *d), *w = calloc((size_t)cols, sizeof *w), loss = 0;
    bd_qtensor_dequant(q, back);
    *signal = 0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t k = 0; k < cols; k++) {
            int64_t c = p->order[k];
            w[k] = p->dead[c] ? 0 : (double)p->w[i * cols + c];
            d[k] = w[k] - (double)back[i * cols + c];
        }
        for (int64_t a = 0; a < cols; a++)
            for (int64_t b = 0; b < cols; b++) {
                loss += p->r[i] * d[a] * p->h[a * cols + b] * d[b];
                *signal += p->r[i] * w[a] * p->h[a * cols + b] * w[b];
            }
    }
    free(back);
    free(d);
    free(w);
    return loss / 2;
}

/* --- the search --- */

/* The cheapest cost over every sequence of branches. */
static double brute_force(const bd_trellis *t, const float *cost, int n, uint32_t s, int i) {
    double best = 1e300;
    for (int upper = 0; upper < 2 && i < n; upper++) {
        int d = (int)bd_trellis_superset(t, s) + 2 * upper;
        double c = (double)cost[4 * i + d] + brute_force(t, cost, n, bd_trellis_next(t, s, d), i + 1);
        if (c < best) best = c;
    }
    return i < n ? best : 0;
}

TEST(search_finds_the_cheapest_path) {
    uint64_t seed = test_seed();
    float cost[40], final[BD_SEARCH_STATES_MAX];
    uint8_t decisions[10 * 32], subset[10];
    for (int round = 0; round < 200; round++)
        for (int k = 1; k < N_STATES; k++) {
            int n = 1 + (int)(test_rand(&seed) % 10);
            bd_trellis t;
            bd_search_trellis st;
            CHECK(bd_trellis_init(&t, (uint32_t)all_states[k]));
            bd_search_trellis_init(&st, &t);
            for (int i = 0; i < 4 * n; i++) cost[i] = (float)test_uniform(&seed);
            double best = brute_force(&t, cost, n, 0, 0);
            for (int o = 0; bd_search_ops_at(o); o++) {
                bd_search_ops_at(o)->forward(decisions, final, &st, cost, n);
                bd_search_back(subset, decisions, final, &st, n);
                double found = 0;
                uint32_t s = 0;
                for (int i = 0; i < n; i++) {
                    CHECK((subset[i] & 1) == bd_trellis_superset(&t, s));
                    s = bd_trellis_next(&t, s, subset[i]);
                    found += (double)cost[4 * i + subset[i]];
                }
                CHECK_MSG(found < best + 1e-5, "%s, %d states, %d rows: %g, best is %g", bd_search_ops_at(o)->name,
                          all_states[k], n, found, best);
            }
        }
}

/* Long columns, costs with ties and far outliers: the same bits from every implementation. */
TEST(search_is_the_same_in_every_width) {
    enum { N = 1007 };
    uint64_t seed = test_seed() + 1;
    float *cost = calloc(4 * N, sizeof *cost), final[2][BD_SEARCH_STATES_MAX];
    uint8_t *decisions[2] = {calloc(N, 32), calloc(N, 32)};
    for (int i = 0; i < 4 * N; i++) {
        cost[i] = (float)(test_rand(&seed) % 64) * 0.03125f;
        if (test_rand(&seed) % 97 == 0) cost[i] = 1e9f * (float)test_uniform(&seed);
    }
    for (int k = 1; k < N_STATES; k++) {
        bd_trellis t;
        bd_search_trellis st;
        CHECK(bd_trellis_init(&t, (uint32_t)all_states[k]));
        bd_search_trellis_init(&st, &t);
        bd_search_ops_at(0)->forward(decisions[0], final[0], &st, cost, N);
        for (int o = 1; bd_search_ops_at(o); o++) {
            bd_search_ops_at(o)->forward(decisions[1], final[1], &st, cost, N);
            CHECK_MSG(!memcmp(decisions[0], decisions[1], (size_t)N * (((size_t)all_states[k] + 7) / 8)),
                      "%s, %d states", bd_search_ops_at(o)->name, all_states[k]);
            CHECK(!memcmp(final[0], final[1], (size_t)all_states[k] * sizeof(float)));
        }
    }
    free(cost);
    free(decisions[0]);
    free(decisions[1]);
}

TEST(choices_are_the_cheaper_neighbours) {
    enum { N = 512 };
    uint64_t seed = test_seed() + 2;
    bd_rate *rate = malloc(sizeof *rate);
    CHECK(rate);
    float y[N], cost[4 * N];
    int16_t index[4 * N];
    int32_t bin[N];
    bd_rate_init(rate, false, 0.07);
    for (int i = 0; i < N; i++) {
        y[i] = test_normalf(&seed) * (i % 16 == 15 ? 30000.0f : (float)(1 << i % 8));
        bin[i] = (int32_t)(test_rand(&seed) % BD_RATE_BINS);
    }
    for (int o = 0; bd_search_ops_at(o); o++) {
        bd_search_ops_at(o)->subsets(cost, index, y, bin, &rate->now, N);
        for (int i = 0; i < N; i++)
            for (int d = 0; d < 4; d++) {
                int v = index[4 * i + d], magnitude = abs(v) >> 1, level = magnitude >> rate->now.shift[bin[i]];
                CHECK((v & 3) == d && abs(v) <= BD_TCQ_INDEX_MAX);
                float e = y[i] - 0.5f * (float)v;
                CHECK(cost[4 * i + d] == e * e + rate->now.cost[bin[i]][d & 1][level < 63 ? level : 63]);
                for (int other = v - 4; other <= v + 4; other += 8) {
                    level = (abs(other) >> 1) >> rate->now.shift[bin[i]];
                    e = y[i] - 0.5f * (float)other;
                    /* the two around y are compared; farther ones could only win by their bits */
                    if (e * e <= 4 && fabsf(y[i]) < 16000)
                        CHECK(cost[4 * i + d] <= e * e + rate->now.cost[bin[i]][d & 1][level < 63 ? level : 63] ||
                              (e > 2 || e < -2 || (v > 2 * y[i]) == (other > 2 * y[i])));
                }
            }
    }
    free(rate);
}

TEST(rates_follow_counts) {
    bd_rate *rate = malloc(sizeof *rate);
    CHECK(rate);
    bd_rate_init(rate, false, 1.0);
    /* a table is a distribution: its bits without signs sum to at most one */
    for (int b = 0; b < BD_RATE_BINS; b++)
        for (int odd = 0; odd < 2; odd++) {
            double sum = 0;
            for (int l = 0; l < BD_RATE_LEVELS; l++) {
                double bits = (double)rate->now.cost[b][odd][l] - rate->now.shift[b];
                if (odd || l || rate->now.shift[b]) bits -= 1;
                CHECK(bits > -1e-5 && bits < 40);
                sum += pow(2, -bits);
            }
            CHECK_MSG(fabs(sum - 1) < 1e-4, "bin %d: %g", b, sum);
        }
    float before = rate->now.cost[20][1][2];
    for (int i = 0; i < 10000; i++) bd_rate_count(rate, 20, i & 1 ? 5 : -5);
    CHECK(rate->now.cost[20][1][2] == before);
    bd_rate_update(rate);
    CHECK(rate->now.cost[20][1][2] < 1.05f && rate->now.cost[20][1][0] > 8 && rate->now.cost[20][0][2] != 0);
    free(rate);
}

/* --- the quantizer --- */

TEST(every_path_is_legal) {
    static const int64_t shape[][2] = {{1, 1}, {1, 37}, {37, 1}, {5, 3}, {16, 16}, {65, 70}, {130, 33}};
    static const float lambda[] = {0, 0.05f, 0.5f};
    uint64_t seed = test_seed() + 3;
    for (size_t n = 0; n < sizeof shape / sizeof *shape; n++)
        for (int k = 0; k < N_STATES; k++) {
            problem p;
            bd_qresult res;
            make_problem(&p, shape[n][0], shape[n][1], n == 5 ? 3 : 0, n & 1, &seed);
            bd_qtensor q = quantized(&p.src, all_states[k], 0.02f, lambda[k % 3], &res);
            check_legal(&q);
            CHECK(q.states == all_states[k] && q.kind == 3 && q.base == 0.02f && q.method == BD_Q_TCQ);
            CHECK(!memcmp(q.row_exp, p.row_exp, (size_t)shape[n][0] * 2));
            CHECK(!memcmp(q.col_exp, p.col_exp, (size_t)shape[n][1] * 2));
            CHECK(res.nats >= 0 && res.lost >= 0 && res.lost < 2);
            bd_qtensor_free(&q);
            free_problem(&p);
        }
}

TEST(same_bytes_for_any_threads_and_width) {
    uint64_t seed = test_seed() + 4;
    problem p;
    make_problem(&p, 2100, 75, 2, true, &seed); /* three chunks of rows, three blocks of columns */
    for (int k = 0; k < N_STATES; k += 2) {
        bd_qresult first, res;
        bd_qsetting s = setting(all_states[k], 0.01f, 0.05f);
        bd_qtensor a = quantized(&p.src, all_states[k], 0.01f, 0.05f, &first);
        for (int o = 0; bd_search_ops_at(o); o++)
            for (int threads = 1; threads <= 3; threads++) {
                bd_pool *pool = NULL;
                bd_err e;
                bd_qtensor b = {0};
                CHECK_OK(bd_pool_create(&pool, threads, &e), &e);
                CHECK_OK(bd_tcq_quantize_by(bd_search_ops_at(o), &b, &p.src, &s, pool, &res, &e), &e);
                CHECK_MSG(same_indices(&a, &b), "%s, %d threads, %d states", bd_search_ops_at(o)->name, threads,
                          all_states[k]);
                CHECK(!memcmp(&first, &res, sizeof first));
                bd_qtensor_free(&b);
                bd_pool_destroy(pool);
            }
        bd_qtensor_free(&a);
    }
    free_problem(&p);
}

TEST(nats_are_the_dense_loss) {
    uint64_t seed = test_seed() + 5;
    for (int k = 0; k < N_STATES; k++) {
        problem p;
        bd_qresult res;
        double signal;
        make_problem(&p, 40, 71, k == 2 ? 4 : 0, k & 1, &seed);
        bd_qtensor q = quantized(&p.src, all_states[k], k & 1 ? 0.02f : 0.002f, 0.05f, &res);
        double loss = dense_loss(&p, &q, &signal);
        CHECK_MSG(fabs(res.nats - loss) < 1e-4 * loss, "%g, directly %g", res.nats, loss);
        CHECK_MSG(fabs(res.lost - 2 * loss / signal) < 1e-4 * res.lost, "%g, directly %g", res.lost,
                  2 * loss / signal);
        bd_qtensor_free(&q);
        free_problem(&p);
    }
}

TEST(feedback_and_states_pay) {
    uint64_t seed = test_seed() + 6;
    problem p;
    bd_qresult res;
    double signal, previous = 1e300;
    make_problem(&p, 256, 64, 0, false, &seed);
    bd_qsource without = p.src;
    without.ldl = NULL;
    bd_qtensor q = quantized(&without, 8, 0.02f, 0.05f, &res);
    CHECK(isnan(res.nats) && res.lost > 0);
    double blind = dense_loss(&p, &q, &signal);
    bd_qtensor_free(&q);
    q = quantized(&p.src, 8, 0.02f, 0.05f, &res);
    CHECK_MSG(res.nats < 0.8 * blind, "%g with feedback, %g without", res.nats, blind);
    bd_qtensor_free(&q);
    static const int some[] = {1, 8, 256};
    for (int k = 0; k < 3; k++) {
        q = quantized(&p.src, some[k], 0.005f, 0, &res);
        CHECK_MSG(res.nats < 0.995 * previous, "%d states: %g, fewer: %g", some[k], res.nats, previous);
        previous = res.nats;
        bd_qtensor_free(&q);
    }
    free_problem(&p);
}

TEST(zeros_stay_zeros) {
    uint64_t seed = test_seed() + 7;
    problem p;
    bd_qresult res;
    make_problem(&p, 33, 20, 5, true, &seed);
    for (int k = 0; k < N_STATES; k++) {
        bd_qtensor q = quantized(&p.src, all_states[k], 0.01f, 0.05f, &res);
        for (int64_t c = 0; c < 20; c++)
            for (int64_t i = 0; p.dead[c] && i < 33; i++) CHECK(q.index[c * 33 + i] == 0);
        bd_qtensor_free(&q);
    }
    memset(p.w, 0, 33 * 20 * sizeof *p.w);
    for (int k = 0; k < N_STATES; k++) {
        bd_qtensor q = quantized(&p.src, all_states[k], 0.01f, 0.05f, &res);
        for (int64_t i = 0; i < 33 * 20; i++) CHECK(q.index[i] == 0);
        CHECK(res.nats == 0 && res.lost == 0);
        bd_qtensor_free(&q);
    }
    CHECK(bd_tcq_finest(&p.src) == 1);
    /* rows that were never used cost nothing and do not disturb the others' result */
    memset(p.r, 0, 33 * sizeof *p.r);
    p.w[7] = 1;
    bd_qtensor q = quantized(&p.src, 8, 0.01f, 0.05f, &res);
    CHECK(res.nats == 0 && isfinite(res.lost));
    bd_qtensor_free(&q);
    free_problem(&p);
}

TEST(finest_base_keeps_indices_small) {
    uint64_t seed = test_seed() + 8;
    for (int k = 0; k < N_STATES; k++) {
        problem p;
        bd_qresult res;
        make_problem(&p, 50, 40, 0, false, &seed);
        bd_qtensor q = quantized(&p.src, all_states[k], bd_tcq_finest(&p.src), 0, &res);
        int top = 0;
        for (int i = 0; i < 50 * 40; i++) top = abs(q.index[i]) > top ? abs(q.index[i]) : top;
        CHECK_MSG(top <= BD_TCQ_INDEX_MAX && top > 8000, "%d states: %d", all_states[k], top);
        bd_qtensor_free(&q);
        free_problem(&p);
    }
}

/* Steps far too small for the weights: clamped, legal, and finite or refused. */
TEST(hopeless_steps_are_survived) {
    uint64_t seed = test_seed() + 9;
    problem p;
    make_problem(&p, 20, 12, 0, false, &seed);
    for (int k = 0; k < N_STATES; k++) {
        bd_qtensor q = {0};
        bd_qresult res;
        bd_err e;
        bd_qsetting s = setting(all_states[k], 0x1p-40f, 0.05f);
        bd_status st = bd_quantizer_tcq.quantize(&q, &p.src, &s, NULL, &res, &e);
        CHECK(st == BD_OK || st == BD_E_RANGE);
        if (!st) check_legal(&q);
        bd_qtensor_free(&q);
    }
    free_problem(&p);
}

TEST(bad_settings_are_refused) {
    bd_err e;
    const bd_qsetting bad[] = {setting(2, 1, 0),  setting(-8, 1, 0),       setting(512, 1, 0),
                               setting(8, 0, 0),  setting(8, 0x1p41f, 0),  setting(8, NAN, 0),
                               setting(8, 1, -1), setting(8, 1, INFINITY), setting(8, 1, NAN)};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(bd_quantizer_tcq.check(&bad[i], &e) == BD_E_RANGE);
    for (int k = 0; k < N_STATES; k++) {
        bd_qsetting s = setting(all_states[k], 0.5f, 0.1f);
        CHECK(bd_quantizer_tcq.check(&s, &e) == BD_OK);
    }
    const float w[2] = {1, INFINITY};
    const int16_t wide[2] = {0, 129};
    bd_qtensor q = {0};
    bd_qresult res;
    bd_qsource src = {.name = "w", .w = w, .rows = 1, .cols = 2};
    bd_qsetting s = setting(8, 0.5f, 0.1f);
    CHECK(bd_quantizer_tcq.quantize(&q, &src, &s, NULL, &res, &e) == BD_E_NONFINITE);
    src.rows = 2;
    src.cols = 1;
    src.row_exp = wide;
    CHECK(bd_quantizer_tcq.quantize(&q, &src, &s, NULL, &res, &e) == BD_E_RANGE);
    bd_qtensor_free(&q);
}

/* --- the normal source --- */

/* Bits of the magnitudes given the superset, and one for each sign. */
static double ideal_bits(const bd_qtensor *q) {
    static uint32_t count[2][4096];
    const uint64_t n = (uint64_t)q->rows * q->cols;
    double bits = 0, total[2] = {0};
    memset(count, 0, sizeof count);
    for (uint64_t i = 0; i < n; i++) {
        int v = abs(q->index[i]), odd = q->states > 1 ? v & 1 : 0;
        CHECK(v < 4096);
        count[odd][v]++;
        total[odd]++;
        bits += v != 0;
    }
    for (int odd = 0; odd < 2; odd++)
        for (int v = 0; v < 4096; v++)
            if (count[odd][v]) bits += count[odd][v] * log2(total[odd] / count[odd][v]);
    return bits / (double)n;
}

/* Distance to R(D), with the lambda that fits the rate. */
TEST(normal_source_comes_close_to_its_limit) {
    static const struct {
        int states;
        float step, lambda;
        double gap;
    } c[] = {{1, 0.5f, 0.11f, 0.262}, {1, 0.25f, 0.11f, 0.262},  {8, 1, 0.1f, 0.082},   {8, 0.5f, 0.085f, 0.082},
             {64, 1, 0.1f, 0.055},    {64, 0.5f, 0.085f, 0.055}, {256, 1, 0.1f, 0.043}, {256, 0.5f, 0.085f, 0.043}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        bd_qtensor q = {0};
        bd_err e;
        double mse;
        CHECK_OK(bd_gaussian_indices(&q, &mse, 1024, 96, c[i].states, c[i].step, c[i].lambda, test_seed(), &e), &e);
        check_legal(&q);
        double bits = ideal_bits(&q), gap = bits - log2(1 / mse) / 2;
        CHECK_MSG(gap < c[i].gap && gap > 0, "%d states, step %g: %.3f bits, gap %.4f", c[i].states,
                  (double)c[i].step, bits, gap);
        bd_qtensor_free(&q);
    }
}

/* --- water-filling --- */

TEST(waterfill_values) {
    int16_t out[6];
    const double even[3] = {0.25, 0.25, 0.25}, r[4] = {1, 0.25, 0.0625, 0}, zero[4] = {0};
    bd_waterfill_rows(out, even, 3, 0);
    CHECK(out[0] == 4 && out[1] == 4 && out[2] == 4);
    bd_waterfill_rows(out, r, 4, 0);
    CHECK(out[0] == 0 && out[1] == 4 && out[2] == 8 && out[3] == BD_TCQ_EXP_MAX);
    bd_waterfill_rows(out, r, 4, 1); /* mean 0.328125 */
    for (int i = 0; i < 4; i++) CHECK(out[i] == (int)nearbyint(-2 * log2(r[i] + 0.328125)));
    bd_waterfill_rows(out, zero, 4, 0.1);
    CHECK(out[0] == 4 && out[3] == 4); /* as if each had 1/4 */
    const double tiny[2] = {1e-30, 1e30};
    bd_waterfill_rows(out, tiny, 2, 0);
    CHECK(out[0] == BD_TCQ_EXP_MAX && out[1] == -BD_TCQ_EXP_MAX);
    const double ldl[9] = {16, 0, 0, 0, 1, 0, 0, 0, 0.0625};
    const int32_t order[3] = {2, 0, 1};
    uint8_t dead[3] = {0};
    bd_waterfill_cols(out, ldl, dead, order, 3);
    CHECK(out[2] == -8 && out[0] == 0 && out[1] == 8);
    dead[2] = 1;
    bd_waterfill_cols(out, ldl, dead, order, 3);
    CHECK(out[2] == 0 && out[0] == 0 && out[1] == 8);
    bd_waterfill_cols(out, ldl, NULL, NULL, 3);
    CHECK(out[0] == -8 && out[1] == 0 && out[2] == 8);
    dead[0] = dead[1] = 1;
    bd_waterfill_cols(out, ldl, dead, NULL, 3);
    CHECK(out[0] == 0 && out[1] == 0 && out[2] == 0);
}

TEST(dispersion_bits) {
    const double even[3] = {7, 7, 7}, two[3] = {1, 0, 4};
    CHECK(fabs(bd_dispersion_bits(even, 3)) < 1e-12);
    CHECK(fabs(bd_dispersion_bits(two, 3) - 0.5 * log2(2.5 / 2)) < 1e-12);
    CHECK(bd_dispersion_bits(two + 1, 1) == 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
