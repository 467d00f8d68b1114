/* Our elementary functions: accuracy against the C library's long double, special
 * values, and the bits themselves, which numerics version 1 freezes. */
#include <float.h>

#include "base/fmath.h"
#include "base/fmath_core.h"
#include "base/numerics.h"
#include "bd_test.h"

/* Error in units of the last place of a float (24 bits) or double (53 bits). */
static double ulps(long double got, long double want, int bits, int min_exp, long double max) {
    if (isinf(got) || isinf(want)) return got == want || (isinf(got) && fabsl(want) >= max) ? 0 : 1e9;
    long double size = fabsl(want), least = ldexpl(1, min_exp - 1);
    int e;
    frexpl(size < least ? least : size, &e);
    return (double)(fabsl(got - want) / ldexpl(1, e - bits));
}
static double ulps_f(float got, long double want) { return ulps((long double)got, want, 24, FLT_MIN_EXP, FLT_MAX); }
static double ulps_d(double got, long double want) {
    return ulps((long double)got, want, 53, DBL_MIN_EXP, DBL_MAX);
}

static void worst(double *w, double e) {
    if (!(e <= *w)) *w = e;
}

TEST(expf_tanhf_everywhere) {
    double we = 0, wt = 0;
    for (uint64_t u = 0; u < 0x100000000u; u += 1511) {
        const float x = bd_f32_bits((uint32_t)u);
        if (x != x) continue;
        worst(&we, ulps_f(bd_expf(x), expl((long double)x)));
        worst(&wt, ulps_f(bd_tanhf(x), tanhl((long double)x)));
    }
    printf("    expf %.3f ulp, tanhf %.3f ulp\n", we, wt);
    CHECK(we <= 1 && wt <= 2);
}

TEST(doubles_at_random) {
    uint64_t rng = test_seed();
    double w[6] = {0};
    for (int i = 0; i < 300000; i++) {
        const double u = test_uniform(&rng), v = test_uniform(&rng);
        const double x = i & 1 ? u * 1460 - 750 : u * 4 - 2;
        worst(&w[0], ulps_d(bd_exp(x), expl((long double)x)));
        const double h = x * (i & 2 ? 0.03 : 0.001);
        worst(&w[1], ulps_d(bd_tanh(h), tanhl((long double)h)));
        double l = i % 3 == 0 ? 1 + (v - 0.5) * 0.1 : bd_f64_bits(test_rand(&rng) & 0x7fefffffffffffffu);
        if (l == 0) l = 1;
        worst(&w[2], ulps_d(bd_log(l), logl((long double)l)));
        const double y = (u - 0.5) * 1480 / (fabs(log(l)) + 1e-3);
        if (fabs(y * log(l)) < 700) worst(&w[3], ulps_d(bd_pow(l, y), powl((long double)l, (long double)y)));
        double a = i & 1 ? (u - 0.5) * 0x1p20 : (u - 0.5) * 7;
        if (i % 7 == 0) a = rint(a) * 1.5707963267948966;
        worst(&w[4], ulps_d(bd_sin(a), sinl((long double)a)));
        worst(&w[5], ulps_d(bd_cos(a), cosl((long double)a)));
    }
    printf("    exp %.2f tanh %.2f log %.2f pow %.2f sin %.2f cos %.2f ulp\n", w[0], w[1], w[2], w[3], w[4], w[5]);
    for (int i = 0; i < 6; i++) CHECK(w[i] <= 4);
}

TEST(special_values) {
    CHECK(bd_expf(0.0f) == 1 && bd_expf(-0.0f) == 1 && bd_expf(-INFINITY) == 0 && isinf(bd_expf(INFINITY)));
    CHECK(isinf(bd_expf(88.8f)) && bd_expf(88.72f) < INFINITY && bd_expf(-103.9f) == 0x1p-149f);
    CHECK(bd_expf(-104.0f) == 0 && bd_expf(-1e30f) == 0 && isnan(bd_expf(NAN)) && isnan(bd_tanhf(NAN)));
    CHECK(bd_tanhf(INFINITY) == 1 && bd_tanhf(-INFINITY) == -1 && bd_tanhf(50.0f) == 1);
    CHECK(bd_tanhf(0x1p-149f) == 0x1p-149f && bd_tanhf(-0x1p-130f) == -0x1p-130f);
    CHECK(bd_tanhf(0.0f) == 0 && !signbit(bd_tanhf(0.0f)) && signbit(bd_tanhf(-0.0f)));
    CHECK(bd_exp(0.0) == 1 && bd_exp(-INFINITY) == 0 && isinf(bd_exp(INFINITY)) && isnan(bd_exp((double)NAN)));
    CHECK(isinf(bd_exp(709.79)) && bd_exp(709.78) < INFINITY && bd_exp(-745.13) == 0x1p-1074 && bd_exp(-746) == 0);
    CHECK(bd_tanh(1e300) == 1 && bd_tanh(-INFINITY) == -1 && bd_tanh(0x1p-1074) == 0x1p-1074);
    CHECK(bd_log(1.0) == 0 && bd_log(0x1p-1074) < -744 && isinf(bd_log(0.0)) && isnan(bd_log(-1.0)));
    CHECK(bd_sin(0.0) == 0 && signbit(bd_sin(-0.0)) && bd_cos(0.0) == 1);
    CHECK(isnan(bd_sin(INFINITY)) && isnan(bd_cos(0x1.1p20)) && !isnan(bd_sin(0x1p20)));
    CHECK(bd_pow(2.0, 10.0) == 1024 && bd_pow(10.0, -2.0) == 0.01 && bd_pow(7.0, 0.0) == 1 &&
          bd_pow(1.0, 1e300) == 1);
    CHECK(isinf(bd_pow(10.0, 400.0)) && bd_pow(10.0, -400.0) == 0 && isnan(bd_pow(-1.0, 2.0)));
}

TEST(odd_and_monotone) {
    float last_e = 0, last_t = -1;
    for (int i = -2000000; i < 2000000; i++) {
        const float x = (float)i * 0x1p-17f;
        const float e = bd_expf(x), t = bd_tanhf(x);
        CHECK(bd_tanhf(-x) == -t || x == 0);
        CHECK_MSG(e >= last_e * (1 - 0x1p-23f) && t >= last_t - 0x1p-24f, "at %a", (double)x);
        last_e = e;
        last_t = t;
    }
}

/* FNV-1a of results over fixed arguments. A change here is a change of numerics:
 * a new version number and new records. */
static void add_bits(uint64_t *h, uint64_t bits) {
    for (int i = 0; i < 8; i++, bits >>= 8) *h = (*h ^ (bits & 255)) * 0x100000001b3u;
}

TEST(bits_are_frozen) {
    CHECK(BD_NUMERICS_VERSION == 1);
    uint64_t rng = 42, h[8];
    for (int i = 0; i < 8; i++) h[i] = 0xcbf29ce484222325u;
    for (int i = 0; i < 100000; i++) {
        const uint64_t r = test_rand(&rng);
        const double u = (double)(r >> 11) * 0x1p-53;
        const float f = (float)((u - 0.5) * 220), g = (float)((u - 0.5) * (i & 1 ? 3 : 24));
        add_bits(&h[0], bd_bits_f32(bd_expf(f)));
        add_bits(&h[1], bd_bits_f32(bd_tanhf(g)));
        add_bits(&h[2], bd_bits_f64(bd_exp((u - 0.5) * 1500)));
        add_bits(&h[3], bd_bits_f64(bd_log(bd_f64_bits(r >> 2 | 1))));
        add_bits(&h[4], bd_bits_f64(bd_sin(u * 70000)));
        add_bits(&h[5], bd_bits_f64(bd_cos(u * 70000)));
        add_bits(&h[6], bd_bits_f64(bd_pow(1 + u * 1e4, u * 20 - 10)));
        add_bits(&h[7], bd_bits_f64(bd_tanh((u - 0.5) * 10)));
    }
    /* expf, tanhf, exp, log, sin, cos, pow, tanh */
    static const uint64_t frozen[8] = {0x0fdea8ce04f102cfu, 0xdf69c667ce8c3f16u, 0xbfb7258b95229c30u,
                                       0x0343d8c7de885d98u, 0x52ea0b7235e09358u, 0x4175437f64bcfb44u,
                                       0x4d0b5efb32865f56u, 0x53a5b05cb7667158u};
    for (int i = 0; i < 8; i++) CHECK_MSG(h[i] == frozen[i], "function %d: 0x%016" PRIx64 "u", i, h[i]);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
