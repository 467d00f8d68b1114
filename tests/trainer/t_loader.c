/* Which tokens a step sees, and what the schedule says. */
#include "trainer/loader.h"

#include "bd_test.h"
#include "trainer/schedule.h"

static uint16_t *counting(uint64_t n) {
    uint16_t *t = malloc(n * sizeof *t);
    CHECK(t != NULL);
    for (uint64_t i = 0; i < n; i++) t[i] = (uint16_t)i; /* a token is its position */
    return t;
}

TEST(every_window_once_an_epoch) {
    enum { N = 1003, L = 16 };
    uint16_t *t = counting(N);
    bd_err e = {0};
    for (int kind = 0; kind < 2; kind++) {
        bd_loader l;
        CHECK_OK(bd_loader_init(&l, t, N, L, (bd_loader_kind)kind, 5, &e), &e);
        CHECK(l.windows >= (N - 1) / L - 1 && l.windows <= (N - 1) / L);
        int32_t x[3 * L], y[3 * L];
        int64_t per_epoch = l.windows;
        int moved = 0, phases = 0;
        int64_t last_phase = -1;
        for (int epoch = 0; epoch < 4; epoch++) {
            int *seen = calloc((size_t)per_epoch, sizeof *seen);
            int64_t phase = -1;
            for (int64_t w = 0; w < per_epoch; w++) {
                bd_loader_batch(&l, epoch * per_epoch + w, 1, x, y);
                for (int i = 0; i < L; i++) {
                    CHECK(y[i] == x[i] + 1);
                    CHECK(i == 0 || x[i] == x[i - 1] + 1);
                }
                if (phase < 0) phase = x[0] % L;
                CHECK(x[0] % L == phase && (x[0] - phase) / L < per_epoch);
                seen[(x[0] - phase) / L]++;
                moved += (x[0] - phase) / L != w;
            }
            for (int64_t w = 0; w < per_epoch; w++) CHECK(seen[w] == 1);
            phases += phase != last_phase;
            last_phase = phase;
            free(seen);
        }
        CHECK(kind == BD_LOADER_SHUFFLED ? moved > per_epoch && phases > 1 : moved == 0 && phases == 1);
        bd_loader_free(&l);
    }
    free(t);
}

TEST(pure_function_of_the_step) {
    enum { N = 700, L = 8, NSEQ = 5 };
    uint16_t *t = counting(N);
    bd_err e = {0};
    bd_loader a, b, c;
    CHECK_OK(bd_loader_init(&a, t, N, L, BD_LOADER_SHUFFLED, 3, &e), &e);
    CHECK_OK(bd_loader_init(&b, t, N, L, BD_LOADER_SHUFFLED, 3, &e), &e);
    CHECK_OK(bd_loader_init(&c, t, N, L, BD_LOADER_SHUFFLED, 4, &e), &e);
    int32_t x[NSEQ * L], y[NSEQ * L], u[NSEQ * L], v[NSEQ * L];
    int other = 0;
    for (int64_t k = 0; k < 60; k++) { /* b goes through the steps in another order, and across epochs */
        int64_t step = k * 37 % 60;
        for (int64_t j = 0; j <= step; j++) bd_loader_batch(&a, j, NSEQ, x, y);
        bd_loader_batch(&b, step, NSEQ, u, v);
        CHECK(!memcmp(x, u, sizeof x) && !memcmp(y, v, sizeof y));
        bd_loader_batch(&c, step, NSEQ, u, v);
        other += memcmp(x, u, sizeof x) != 0;
    }
    CHECK(other > 50); /* another seed, other windows */
    bd_loader_free(&a);
    bd_loader_free(&b);
    bd_loader_free(&c);
    free(t);
}

TEST(too_few_tokens) {
    uint16_t t[40] = {0};
    bd_loader l;
    bd_err e = {0};
    CHECK(bd_loader_init(&l, t, 16, 16, BD_LOADER_SEQUENTIAL, 1, &e) == BD_E_MISSING);
    bd_loader_free(&l);
    CHECK_OK(bd_loader_init(&l, t, 17, 16, BD_LOADER_SEQUENTIAL, 1, &e), &e);
    bd_loader_free(&l);
    CHECK(bd_loader_init(&l, t, 31, 16, BD_LOADER_SHUFFLED, 1, &e) == BD_E_MISSING);
    bd_loader_free(&l);
    CHECK_OK(bd_loader_init(&l, t, 32, 16, BD_LOADER_SHUFFLED, 1, &e), &e);
    bd_loader_free(&l);
    CHECK(bd_loader_init(&l, t, 0, 16, BD_LOADER_SHUFFLED, 1, &e) == BD_E_MISSING);
    bd_loader_free(&l);
}

TEST(rates) {
    bd_recipe r = {.steps = 100, .warmdown = 0.72};
    CHECK(bd_lr_multiplier(&r, 0, 0) == 1);
    CHECK(bd_lr_multiplier(&r, 27, 0.27) == 1);
    CHECK(fabs(bd_lr_multiplier(&r, 64, 0.64) - 0.5) < 1e-15);
    CHECK(bd_lr_multiplier(&r, 100, 1) == 0 && bd_lr_multiplier(&r, 100, 1.5) == 0);
    /* the worked example of the top record: warmdown 0.85 down to a tenth */
    bd_recipe top = {.steps = 100, .warmdown = 0.85, .min_lr = 0.1};
    CHECK(bd_lr_multiplier(&top, 0, 0.10) == 1);
    CHECK(fabs(bd_lr_multiplier(&top, 0, 0.50) - 0.5882) < 5e-5);
    CHECK(bd_lr_multiplier(&top, 0, 0.95) == 0.1);
    /* no warmdown at all; a warm-up of 4 steps begins at a fifth */
    bd_recipe up = {.steps = 100, .warmup_steps = 4};
    CHECK(bd_lr_multiplier(&up, 0, 0) == 0.2 && bd_lr_multiplier(&up, 3, 0) == 0.8);
    CHECK(bd_lr_multiplier(&up, 4, 0) == 1 && bd_lr_multiplier(&up, 99, 1) == 1);
    bd_opt_group g = {.momentum = 0.95, .momentum_start = 0.85, .momentum_warmup = 500};
    CHECK(bd_momentum_at(&g, 0) == 0.85 && bd_momentum_at(&g, 500) == 0.95 && bd_momentum_at(&g, 9999) == 0.95);
    CHECK(fabs(bd_momentum_at(&g, 250) - 0.9) < 1e-15);
    bd_opt_group flat = {.momentum = 0.9, .momentum_start = 0.9};
    CHECK(bd_momentum_at(&flat, 0) == 0.9);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
