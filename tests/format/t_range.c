#include "base/thread.h"
#include "bd_test.h"
#include "format/artifact.h"
#include "format/range_coder.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"

/* --- the coder alone --- */

typedef struct decision {
    uint8_t bit;
    uint16_t p;
} decision;

static void coder_round_trip(const decision *d, size_t n, const bd_rc_tables *t) {
    bd_buf b;
    bd_rc c;
    bd_buf_init(&b);
    bd_buf_put(&b, "head", 4); /* a carry must stop before what is not the stream's */
    bd_rc_encode_begin(&c, &b, t);
    for (size_t i = 0; i < n; i++) bd_rc_bit(&c, BD_RC_ENCODE, d[i].bit, d[i].p);
    bd_rc_encode_end(&c);
    CHECK(!b.failed && memcmp(b.data, "head", 4) == 0);
    bd_rc_decode_begin(&c, b.data + 4, b.size - 4, t);
    for (size_t i = 0; i < n; i++) CHECK(bd_rc_bit(&c, BD_RC_DECODE, 0, d[i].p) == d[i].bit);
    CHECK(bd_rc_decode_end(&c));
    /* any other stream that gives the same decisions is refused */
    static const uint8_t tails[3] = {0, 1, 255};
    for (int k = 0; k < 3; k++) {
        bd_buf_put(&b, &tails[k], 1);
        bd_rc_decode_begin(&c, b.data + 4, b.size - 4, t);
        bool same = true;
        for (size_t i = 0; i < n; i++) same &= bd_rc_bit(&c, BD_RC_DECODE, 0, d[i].p) == d[i].bit;
        CHECK(!same || !bd_rc_decode_end(&c));
        b.size--;
    }
    if (b.size > 4) {
        bool same = true;
        b.data[b.size - 1]++;
        bd_rc_decode_begin(&c, b.data + 4, b.size - 4, t);
        for (size_t i = 0; i < n; i++) same &= bd_rc_bit(&c, BD_RC_DECODE, 0, d[i].p) == d[i].bit;
        CHECK(!same || !bd_rc_decode_end(&c));
    }
    bd_buf_free(&b);
}

TEST(coder_round_trips) {
    bd_rc_tables *t = malloc(sizeof *t);
    static decision d[2000];
    uint64_t s = test_seed();
    bd_rc_tables_init(t);
    for (int round = 0; round < 3000; round++) {
        size_t n = test_rand(&s) % (round < 2000 ? 40 : 2000);
        unsigned style = (unsigned)(test_rand(&s) % 4);
        for (size_t i = 0; i < n; i++) {
            uint32_t p = style == 0   ? 1
                         : style == 1 ? 65535
                         : style == 2 ? 32768
                                      : 1 + (uint32_t)(test_rand(&s) % 65535);
            /* styles 0 and 1 code the likely decision mostly, and sometimes 40 bits of the unlikely one */
            bool likely = style < 2 && test_rand(&s) % 50 != 0;
            d[i].p = (uint16_t)p;
            d[i].bit = (uint8_t)(likely ? p > 32768 : test_rand(&s) & 1);
        }
        coder_round_trip(d, n, t);
    }
    free(t);
}

TEST(carries_run_through_ff_bytes) {
    /* zeros keep low just below a carry for as long as we like, then it comes */
    bd_rc_tables *t = malloc(sizeof *t);
    static decision d[4000];
    bd_rc_tables_init(t);
    for (size_t n = 1; n < 4000; n += 37) {
        for (size_t i = 0; i < n; i++) d[i] = (decision){i + 1 == n, i % 3 ? 32768 : 40000};
        coder_round_trip(d, n, t);
        for (size_t i = 0; i < n; i++) d[i] = (decision){0, 32768};
        d[0].bit = 1;
        coder_round_trip(d, n, t);
    }
    free(t);
}

/* What is written, what is priced and the sum of -log2 p agree, and a price may be asked for at any time. */
TEST(length_is_the_sum_of_the_decisions) {
    bd_rc_tables *t = malloc(sizeof *t);
    uint64_t s = test_seed();
    bd_rc_tables_init(t);
    for (int style = 0; style < 4; style++) {
        bd_buf b;
        bd_rc c, price;
        double ideal = 0, before = 0;
        bd_buf_init(&b);
        bd_rc_encode_begin(&c, &b, t);
        bd_rc_price_begin(&price, t);
        CHECK(bd_rc_price(&price) <= 1);
        for (int i = 0; i < 1000000; i++) {
            uint32_t p = style == 0   ? 1
                         : style == 1 ? 65535
                         : style == 2 ? 32768
                                      : 1 + (uint32_t)(test_rand(&s) % 65535);
            unsigned bit = (test_rand(&s) & 65535) < p;
            bd_rc_bit(&c, BD_RC_ENCODE, bit, p);
            bd_rc_bit(&price, BD_RC_PRICE, bit, p);
            ideal -= log2((bit ? p : 65536 - p) / 65536.0);
            if (i % 1000 == 0) {
                CHECK_MSG(fabs((double)bd_rc_price(&price) / 256 - ideal) < 0.1 + 1e-5 * ideal + 1e-6 * i, "%f %f",
                          (double)bd_rc_price(&price) / 256, ideal);
                CHECK((double)bd_rc_price(&price) >= before);
                before = (double)bd_rc_price(&price);
            }
        }
        bd_rc_encode_end(&c);
        double priced = (double)bd_rc_price(&price) / 2048;
        CHECK_MSG(fabs(priced - (double)b.size) < 2, "priced %.2f, written %zu", priced, b.size);
        CHECK(fabs(priced - ideal / 8) < 0.2 + 1e-5 * ideal / 8);
        bd_buf_free(&b);
    }
    free(t);
}

TEST(log2_cost) {
    for (uint32_t p = 1; p <= 4096; p++) CHECK(fabs(bd_log2_cost(p) / 4096.0 + log2(p / 4096.0)) < 2.0 / 4096);
}

TEST(models_stay_in_range) {
    bd_rc_tables *t = malloc(sizeof *t);
    uint64_t s = test_seed();
    bd_rc_tables_init(t);
    for (int style = 0; style < 3; style++) {
        bd_bit m = bd_bit_make(1u << 21, 0);
        for (int i = 0; i < 100000; i++) {
            unsigned bit = style == 2 ? (unsigned)(test_rand(&s) & 1) : (unsigned)style;
            m = bd_bit_update(m, bit, t->rate);
            CHECK(bd_bit_p16(m) >= 1 && bd_bit_p16(m) <= 65535 && (m & 1023) <= BD_BIT_LIMIT);
        }
        CHECK(style == 2 ? abs((int)bd_bit_p16(m) - 32768) < 6000
                         : (style ? bd_bit_p16(m) > 65500 : bd_bit_p16(m) < 36));
    }
    free(t);
}

/* --- weight groups --- */

static void free_tensors(bd_qtensor *t, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        free(t[i].codes);
        free(t[i].scales);
    }
}

/* Codes of a normal source whose standard deviation (in steps) varies over rows and columns by these factors (as
 * exp(sigma x)). */
static void normal_tensor(bd_qtensor *q, uint64_t *s, double steps, double row_sigma, double col_sigma) {
    uint64_t n = bd_qtensor_elements(q), scales = bd_qtensor_scales(q);
    int qmax = bd_qtensor_qmax(q);
    q->codes = malloc(n);
    q->scales = malloc(2 * scales);
    double *col = malloc(q->cols * sizeof *col);
    for (uint32_t j = 0; j < q->cols; j++) col[j] = exp(col_sigma * test_normalf(s));
    for (uint64_t i = 0; i < scales; i++) q->scales[i] = (uint16_t)(0x2000 + test_rand(s) % 2048);
    for (uint32_t r = 0; r < q->rows; r++) {
        double row = steps * exp(row_sigma * test_normalf(s));
        for (uint32_t j = 0; j < q->cols; j++) {
            double x = rint(row * col[j] * test_normalf(s));
            q->codes[(uint64_t)r * q->cols + j] = (int8_t)(x < -qmax ? -qmax : x > qmax ? qmax : x);
        }
    }
    free(col);
}

static uint64_t group_round_trip(const bd_qgroup *g) {
    bd_arena *a = bd_arena_create(0);
    bd_buf b;
    bd_err e;
    bd_qgroup back = {0};
    bd_group_budget budget = {1000, 1u << 30};
    uint64_t bits;
    bd_buf_init(&b);
    CHECK_OK(bd_group_check(g, &e), &e);
    CHECK_OK(bd_weight_encode(g, &b, &e), &e);
    CHECK_OK(bd_weight_price(g, &bits, &e), &e);
    /* zeros at the end of a stream are not written */
    bool zeros = abs(g->tensors[0].codes[0]) == 127;
    CHECK_MSG(zeros || fabs((double)bits / 2048 - (double)b.size) < 2, "priced %.1f, written %zu",
              (double)bits / 2048, b.size);
    CHECK_OK(bd_weight_decode(&back, a, b.data, b.size, bd_group_raw_size(g), &budget, 0, &e), &e);
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *x = &g->tensors[t], *y = &back.tensors[t];
        CHECK(memcmp(x->codes, y->codes, bd_qtensor_elements(x)) == 0);
        CHECK(memcmp(x->scales, y->scales, 2 * bd_qtensor_scales(x)) == 0);
    }
    uint64_t size = b.size;
    back = (bd_qgroup){0};
    CHECK_EQ_U64(bd_weight_decode(&back, a, b.data, b.size, bd_group_raw_size(g) + 1, &budget, 5, &e), BD_E_FIELD);
    CHECK_EQ_U64(e.offset, 5);
    bd_buf_u8(&b, 0);
    back = (bd_qgroup){0};
    CHECK_EQ_U64(bd_weight_decode(&back, a, b.data, b.size, bd_group_raw_size(g), &budget, 5, &e), BD_E_NONCANON);
    bd_buf_free(&b);
    bd_arena_destroy(a);
    return size;
}

TEST(groups_of_all_widths_round_trip) {
    uint64_t s = test_seed();
    for (int bits = 2; bits <= 9; bits++)
        for (int k = 0; k < 12; k++) {
            bd_qtensor t[3];
            memset(t, 0, sizeof t);
            for (int i = 0; i < 3; i++) {
                t[i].param = (uint32_t)(3 * i + k);
                t[i].rows = 1 + (uint32_t)(test_rand(&s) % 70);
                t[i].cols = 1 + (uint32_t)(test_rand(&s) % 700);
                if (bits == 9)
                    t[i].method = BD_Q_TERNARY,
                    t[i].group = 1 + (uint32_t)(test_rand(&s) % (t[i].rows * t[i].cols));
                else t[i].method = BD_Q_ROW, t[i].bits = (uint8_t)bits;
                normal_tensor(&t[i], &s, 0.02 * (1 << (bits % 9)) * (double)(1 + k), 0.5, 0.3);
            }
            bd_qgroup g = {.name = "test", .tensors = t, .n_tensors = 3};
            group_round_trip(&g);
            free_tensors(t, 3);
        }
}

TEST(extreme_codes_round_trip) {
    uint64_t s = test_seed();
    for (int style = 0; style < 4; style++) {
        bd_qtensor t = {.rows = 50, .cols = 64, .method = BD_Q_ROW, .bits = 8};
        normal_tensor(&t, &s, 1, 0, 0);
        for (int i = 0; i < 50 * 64; i++)
            t.codes[i] = (int8_t)(style == 0 ? 127 : style == 1 ? -127 : style == 2 ? 0 : i % 1000 == 0 ? 127 : 0);
        bd_qgroup g = {.name = "test", .tensors = &t, .n_tensors = 1};
        uint64_t size = group_round_trip(&g);
        if (style == 2) CHECK_MSG(size < 200, "%d", (int)size);
        free_tensors(&t, 1);
    }
}

/* Order-0 entropy of the codes under the known source. */
static double ideal_bits(const bd_qtensor *q, const double *row_steps) {
    double bits = 0;
    int qmax = bd_qtensor_qmax(q);
    for (uint32_t r = 0; r < q->rows; r++) {
        double p[256];
        for (int v = -qmax; v <= qmax; v++) {
            double lo = v == -qmax ? -INFINITY : v - 0.5, hi = v == qmax ? INFINITY : v + 0.5;
            p[v + qmax] = 0.5 * (erfc(-hi / row_steps[r] / sqrt(2)) - erfc(-lo / row_steps[r] / sqrt(2)));
        }
        for (uint32_t j = 0; j < q->cols; j++)
            bits -= log2(fmax(p[q->codes[(uint64_t)r * q->cols + j] + qmax], 1e-30));
    }
    return bits;
}

static double box_muller(uint64_t *s) {
    return sqrt(-2 * log(test_uniform(s) + 1e-300)) * cos(6.283185307179586 * test_uniform(s));
}

/* Four million int6 codes clipped at 12.85 standard deviations, the row's own one known to the ideal only. */
TEST(near_the_ideal_length) {
    for (int varying = 0; varying < 2; varying++) {
        uint64_t s = test_seed(), bits;
        bd_qtensor t = {.rows = 4096, .cols = 1024, .method = BD_Q_ROW, .bits = 6};
        bd_err e;
        double *steps = malloc(t.rows * sizeof *steps);
        t.codes = malloc(bd_qtensor_elements(&t));
        t.scales = calloc(t.rows, 2);
        for (uint32_t r = 0; r < t.rows; r++) {
            steps[r] = 31 / 12.85 * (varying ? exp(0.25 * box_muller(&s)) : 1);
            for (uint32_t j = 0; j < t.cols; j++) {
                double x = rint(steps[r] * box_muller(&s));
                t.codes[(uint64_t)r * t.cols + j] = (int8_t)(x < -31 ? -31 : x > 31 ? 31 : x);
            }
        }
        bd_qgroup g = {.name = "test", .tensors = &t, .n_tensors = 1};
        CHECK_OK(bd_weight_price(&g, &bits, &e), &e);
        double ideal = ideal_bits(&t, steps), excess = (double)bits / 256 / ideal - 1;
        printf("    %s rows: %.4f bits per code, %.3f %% above the ideal\n", varying ? "varying" : "equal",
               (double)bits / 256 / 4194304, 100 * excess);
        CHECK(excess < (varying ? 0.0035 : 0.001));
        free(steps);
        free_tensors(&t, 1);
    }
}

TEST(columns_are_learned) {
    uint64_t s = test_seed(), with, without;
    bd_err e;
    bd_qtensor t = {.rows = 400, .cols = 300, .method = BD_Q_ROW, .bits = 6};
    normal_tensor(&t, &s, 2.4, 0, 0.6);
    bd_qgroup g = {.name = "test", .tensors = &t, .n_tensors = 1};
    CHECK_OK(bd_weight_price(&g, &with, &e), &e);
    for (uint32_t r = 0; r < t.rows; r++) /* the same codes with the columns' places shuffled in every row */
        for (uint32_t j = t.cols - 1; j > 0; j--) {
            int8_t *row = t.codes + (uint64_t)r * t.cols, x = row[j];
            uint32_t k = (uint32_t)(test_rand(&s) % (j + 1));
            row[j] = row[k];
            row[k] = x;
        }
    CHECK_OK(bd_weight_price(&g, &without, &e), &e);
    CHECK_MSG((double)with < 0.95 * (double)without, "%.0f %.0f", with / 2048.0, without / 2048.0);
    free_tensors(&t, 1);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
