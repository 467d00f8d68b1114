#include "bd_test.h"
#include "format/artifact.h"
#include "format/code_model.h"
#include "format/trellis.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"

static const uint16_t state_counts[] = {1, 4, 8, 16, 32, 64, 128, 256};

static void *need(uint64_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    CHECK(p != NULL);
    return p;
}

static int limited(double x, int low, int high) { return x < low ? low : x > high ? high : (int)rint(x); }

/* Arrays of a tensor whose header fields are set: normal values of `size` steps, larger by factors of their row and
 * column, none above `most`. */
static void fill_tensor(bd_qtensor *q, uint64_t *s, double size, double spread, int most) {
    const uint64_t n = bd_qtensor_elements(q);
    double *row = need(q->rows, sizeof *row), *col = need(q->cols, sizeof *col);
    for (uint32_t r = 0; r < q->rows; r++) row[r] = exp(spread * test_normalf(s));
    for (uint32_t c = 0; c < q->cols; c++) col[c] = exp(spread * test_normalf(s));
    q->base = 1;
    if (q->method == BD_Q_TCQ) {
        bd_trellis t = {1, 0, 0};
        bool coded = bd_trellis_init(&t, q->states);
        int32_t *order = need(q->rows, sizeof *order);
        q->row_exp = need(q->rows, sizeof *q->row_exp);
        q->col_exp = need(q->cols, sizeof *q->col_exp);
        q->index = need(n, sizeof *q->index);
        for (uint32_t r = 0; r < q->rows; r++) q->row_exp[r] = (int16_t)limited(-4 * log2(row[r]), -128, 128);
        for (uint32_t c = 0; c < q->cols; c++) q->col_exp[c] = (int16_t)limited(-4 * log2(col[c]), -128, 128);
        bd_trellis_order(order, q->row_exp, q->rows);
        for (uint32_t c = 0; c < q->cols; c++) {
            uint32_t state = 0;
            for (uint32_t i = 0; i < q->rows; i++) {
                uint32_t r = (uint32_t)order[i];
                int j = limited((coded ? 2 : 1) * size * row[r] * col[c] * test_normalf(s), -most, most);
                if (coded && ((unsigned)j & 1) != bd_trellis_superset(&t, state)) j += j > 0 ? -1 : 1;
                q->index[(uint64_t)c * q->rows + r] = (int16_t)j;
                if (coded) state = bd_trellis_next(&t, state, j);
            }
        }
        free(order);
    } else {
        int8_t *narrow = NULL;
        if (q->method == BD_Q_LOG) q->index = need(n, sizeof *q->index);
        else q->codes = narrow = need(n, 1);
        int limit = q->method == BD_Q_LOG ? bd_qtensor_index_max(q) : bd_qtensor_qmax(q);
        if (limit > most) limit = most;
        for (uint64_t i = 0; i < n; i++) {
            int v = limited(size * row[i / q->cols] * col[i % q->cols] * test_normalf(s), -limit, limit);
            if (narrow) narrow[i] = (int8_t)v;
            else q->index[i] = (int16_t)v;
        }
        if (narrow) q->scales = need(bd_qtensor_scales(q), sizeof *q->scales);
    }
    if (q->method == BD_Q_LQER) {
        q->lq_a = need((uint64_t)q->rows * q->rank, 1);
        q->lq_b = need((uint64_t)q->cols * q->rank, 1);
        q->lq_scales = need(bd_qtensor_lq_scales(q), sizeof *q->lq_scales);
        for (uint64_t i = 0; i < (uint64_t)q->rows * q->rank; i++)
            q->lq_a[i] = (int8_t)limited(test_normalf(s), -2, 1);
        for (uint64_t i = 0; i < (uint64_t)q->cols * q->rank; i++)
            q->lq_b[i] = (int8_t)limited(4 * test_normalf(s), -8, 7);
    }
    free(row);
    free(col);
}

static void random_header(bd_qtensor *q, uint64_t *s, bd_qmethod method) {
    static const uint32_t shapes[][2] = {{1, 1},   {1, 77},  {77, 1},   {2, 3},
                                         {33, 65}, {130, 7}, {5, 1500}, {1500, 5}};
    unsigned k = (unsigned)(test_rand(s) % 8);
    q->method = method;
    q->rows = shapes[k][0];
    q->cols = shapes[k][1];
    if (method == BD_Q_ROW || method == BD_Q_LQER) q->bits = (uint8_t)(2 + test_rand(s) % 7);
    if (method == BD_Q_TERNARY) q->group = 1 + (uint32_t)(test_rand(s) % bd_qtensor_elements(q));
    if (method == BD_Q_LOG) q->levels = (uint8_t)(1u << test_rand(s) % 6);
    if (method == BD_Q_LQER) {
        q->rank = (uint8_t)(1 + test_rand(s) % 9);
        q->group = 1 + (uint32_t)(test_rand(s) % ((uint64_t)q->rank * q->cols));
    }
    if (method == BD_Q_TCQ) {
        q->states = state_counts[test_rand(s) % 8];
        q->kind = (uint8_t)(test_rand(s) % 16);
    }
}

static void free_tensors(bd_qtensor *t, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        free(t[i].codes);
        free(t[i].scales);
        free(t[i].index);
        free(t[i].row_exp);
        free(t[i].col_exp);
        free(t[i].lq_a);
        free(t[i].lq_b);
        free(t[i].lq_scales);
    }
}

static bool same_array(const void *a, const void *b, uint64_t bytes) {
    return a ? b && memcmp(a, b, bytes) == 0 : !b;
}

static bool same_tensor(const bd_qtensor *x, const bd_qtensor *y) {
    const uint64_t n = bd_qtensor_elements(x);
    return same_array(x->codes, y->codes, n) && same_array(x->index, y->index, 2 * n) &&
           same_array(x->row_exp, y->row_exp, 2 * x->rows) && same_array(x->col_exp, y->col_exp, 2 * x->cols) &&
           same_array(x->lq_a, y->lq_a, (uint64_t)x->rows * x->rank) &&
           same_array(x->lq_b, y->lq_b, (uint64_t)x->rank * x->cols);
}

static bd_status decode(bd_qgroup *back, bd_arena *a, const bd_buf *b, uint64_t raw, bd_err *e) {
    bd_group_budget budget = {1000, 1u << 24};
    *back = (bd_qgroup){0};
    return bd_weight_decode(back, a, b->data, b->size, raw, &budget, 0, e);
}

/* Encode, decode, price; returns the length of the stream. *near counts prices within two bytes of it. */
static uint64_t round_trip(bd_qtensor *t, uint32_t n, int *near) {
    bd_qgroup g = {.name = "test", .tensors = t, .n_tensors = n}, back;
    bd_arena *a = bd_arena_create(0);
    bd_buf b;
    bd_err e;
    uint64_t bits;
    bd_buf_init(&b);
    for (uint32_t i = 0; i < n; i++) t[i].param = i;
    CHECK_OK(bd_group_check(&g, &e), &e);
    CHECK_OK(bd_weight_encode(&g, &b, &e), &e);
    CHECK_OK(bd_weight_price(&g, &bits, &e), &e);
    double priced = (double)bits / 2048;
    /* Zeros at the end are not written: a run of ones, as the largest values give it, leaves some. */
    CHECK_MSG((double)b.size - priced < 2 && priced - (double)b.size < 200, "priced %.2f, written %zu", priced,
              b.size);
    *near += fabs(priced - (double)b.size) < 2;
    CHECK_OK(decode(&back, a, &b, bd_group_raw_size(&g), &e), &e);
    for (uint32_t i = 0; i < n; i++) CHECK_MSG(same_tensor(&t[i], &back.tensors[i]), "tensor %u", i);
    uint64_t size = b.size;
    bd_buf_free(&b);
    bd_arena_destroy(a);
    return size;
}

static void random_group(bd_qtensor *t, uint32_t n, uint64_t *s) {
    static const bd_qmethod methods[] = {BD_Q_TCQ, BD_Q_TCQ, BD_Q_ROW, BD_Q_TERNARY, BD_Q_LOG, BD_Q_LQER};
    static const double sizes[] = {0.01, 0.3, 1, 2.5, 8, 60, 3000};
    memset(t, 0, n * sizeof *t);
    for (uint32_t i = 0; i < n; i++) {
        random_header(&t[i], s, methods[test_rand(s) % 6]);
        fill_tensor(&t[i], s, sizes[test_rand(s) % 7], (double)(test_rand(s) % 3), BD_TCQ_INDEX_MAX);
    }
}

TEST(groups_round_trip) {
    uint64_t s = test_seed();
    int near = 0;
    for (int round = 0; round < 200; round++) {
        bd_qtensor t[5];
        random_group(t, 5, &s);
        round_trip(t, 5, &near);
        free_tensors(t, 5);
    }
    CHECK_MSG(near >= 190, "%d of 200", near);
}

TEST(every_state_count_and_size) {
    uint64_t s = test_seed();
    for (unsigned k = 0; k < 8; k++)
        for (int size = 0; size < 4; size++) {
            bd_qtensor t = {.rows = 67, .cols = 41, .method = BD_Q_TCQ, .states = state_counts[k]};
            fill_tensor(&t, &s, 0.05 * pow(8, size), 0.5, BD_TCQ_INDEX_MAX);
            int near = 0;
            round_trip(&t, 1, &near);
            CHECK(near == 1);
            free_tensors(&t, 1);
        }
}

TEST(zeros_take_nothing) {
    bd_qtensor t = {.rows = 300, .cols = 400, .method = BD_Q_TCQ, .states = 1};
    uint64_t s = test_seed();
    fill_tensor(&t, &s, 0, 0, 0);
    int near = 0;
    uint64_t size = round_trip(&t, 1, &near);
    CHECK_MSG(size < 60, "%d bytes", (int)size);
    free_tensors(&t, 1);
}

TEST(extremes_round_trip) {
    uint64_t s = test_seed();
    int near = 0;
    for (unsigned k = 0; k < 8; k++)
        for (int style = 0; style < 4; style++) {
            bd_qtensor t = {.rows = 40, .cols = 1030, .method = BD_Q_TCQ, .states = state_counts[k]};
            if (style & 1) t.rows = 1030, t.cols = 40;
            bd_trellis tr = {1, 0, 0};
            bool coded = bd_trellis_init(&tr, t.states);
            fill_tensor(&t, &s, 0, 0, 0);
            for (uint32_t r = 0; r < t.rows; r++) t.row_exp[r] = (int16_t)(style < 2 ? 0 : r % 2 ? 128 : -128);
            for (uint32_t c = 0; c < t.cols; c++) t.col_exp[c] = (int16_t)(style < 2 ? 0 : c % 3 ? 128 : -128);
            int32_t *order = need(t.rows, sizeof *order);
            bd_trellis_order(order, t.row_exp, t.rows);
            for (uint32_t c = 0; c < t.cols; c++)
                for (uint32_t i = 0, state = 0; i < t.rows; i++) {
                    bool large = style % 3 == 0 || test_rand(&s) % 300 == 0;
                    int j = large ? test_rand(&s) & 1 ? 32767 : -32767 : 0;
                    if (coded && ((unsigned)j & 1) != bd_trellis_superset(&tr, state)) j += j > 0 ? -1 : 1;
                    t.index[(uint64_t)c * t.rows + (uint32_t)order[i]] = (int16_t)j;
                    if (coded) state = bd_trellis_next(&tr, state, j);
                }
            free(order);
            round_trip(&t, 1, &near);
            free_tensors(&t, 1);
        }
}

TEST(equal_column_exponents_are_told_once) {
    uint64_t s = test_seed();
    int near = 0;
    bd_qtensor t[3];
    memset(t, 0, sizeof t);
    for (int i = 0; i < 3; i++) {
        t[i] = (bd_qtensor){.rows = 2, .cols = 5000, .method = BD_Q_TCQ, .states = 1};
        fill_tensor(&t[i], &s, 0, 1, 0);
    }
    uint64_t apart = round_trip(t, 3, &near);
    for (int i = 1; i < 3; i++) memcpy(t[i].col_exp, t[0].col_exp, 5000 * sizeof(int16_t));
    uint64_t equal = round_trip(t, 3, &near);
    CHECK_MSG(equal * 3 < apart + 300, "%d and %d bytes", (int)apart, (int)equal);
    free_tensors(t, 3);
}

/* A damaged stream is refused, or gives a group that may stand in a file. */
TEST(damaged_streams_do_no_harm) {
    uint64_t s = test_seed();
    int refused = 0, rounds = 400;
    for (int round = 0; round < rounds; round++) {
        bd_qtensor t[2];
        bd_err e;
        bd_buf b;
        bd_arena *a = bd_arena_create(0);
        random_group(t, 2, &s);
        bd_qgroup g = {.name = "test", .tensors = t, .n_tensors = 2}, back;
        t[1].param = 1;
        bd_buf_init(&b);
        CHECK_OK(bd_weight_encode(&g, &b, &e), &e);
        if (round % 4 == 0) b.size -= 1 + test_rand(&s) % (b.size - 1);
        else
            for (int k = 0; k < 1 + round % 3; k++)
                b.data[test_rand(&s) % b.size] ^= (uint8_t)(1 + test_rand(&s) % 255);
        bd_status st = decode(&back, a, &b, bd_group_raw_size(&g), &e);
        if (st) refused++;
        else CHECK_OK(bd_group_check(&back, &e), &e);
        bd_buf_free(&b);
        bd_arena_destroy(a);
        free_tensors(t, 2);
    }
    CHECK_MSG(refused > rounds / 2, "%d of %d refused", refused, rounds); /* the name is free, and signs are */
}

/* Independent normal values, the deviation of rows and columns known by a factor of two: against the entropy. */
TEST(near_the_ideal_length) {
    uint64_t s = test_seed();
    for (int k = 0; k < 4; k++) {
        const double sigma = 0.5 * (1 << k);
        bd_qtensor t = {.rows = 700, .cols = 700, .method = BD_Q_TCQ, .states = 1};
        fill_tensor(&t, &s, 0, 0, 0);
        double ideal = 0;
        for (uint32_t c = 0; c < t.cols; c++)
            for (uint32_t r = 0; r < t.rows; r++) {
                double x = sqrt(-2 * log(test_uniform(&s) + 1e-300)) * cos(6.283185307179586 * test_uniform(&s));
                int j = (int)rint(sigma * x);
                t.index[(uint64_t)c * t.rows + r] = (int16_t)j;
                ideal -= log2(0.5 * (erfc((j - 0.5) / sigma / sqrt(2)) - erfc((j + 0.5) / sigma / sqrt(2))));
            }
        int near = 0;
        double over = 8 * (double)round_trip(&t, 1, &near) / ideal - 1;
        printf("    deviation %.1f: %.3f bits a value, %.3f %% above the entropy\n", sigma, ideal / 490000,
               100 * over);
        CHECK(over < 0.003 && near == 1);
        free_tensors(&t, 1);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
