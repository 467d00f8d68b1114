/* The vector twins of base/fmath.h give the scalar bits in every lane. */
#include "base/fmath.h"
#include "bd_test.h"
#include "vmath_lanes_list.h"

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
/* Sanitizers make the scalar side far slower: fewer patterns there. */
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { STEP = 97 * 31 };
#else
enum { STEP = 97 };
#endif
enum { BATCH = 4096 };

static float fx[BATCH], fy[BATCH], fwant[BATCH];
static double dx[BATCH], dy[BATCH], dwant[BATCH];

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static uint32_t bits32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static float from32(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static uint64_t bits64(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static double from64(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void compare_f32(const char *what, lanes_f32 *fn) {
    memset(fy, 0xa5, sizeof fy);
    fn(fx, fy, BATCH);
    for (int i = 0; i < BATCH; i++) {
        bool same = bits32(fy[i]) == bits32(fwant[i]) || (isnan(fy[i]) && isnan(fwant[i]));
        CHECK_MSG(same, "%s(%a): %a, scalar %a", what, fx[i], fy[i], fwant[i]);
    }
}

static void batch_f32(float (*scalar)(float), const char *name, lanes_f32 *avx2, lanes_f32 *avx512) {
    char what[32];
    for (int i = 0; i < BATCH; i++) fwant[i] = scalar(fx[i]);
    snprintf(what, sizeof what, "%s avx2", name);
    compare_f32(what, avx2);
    snprintf(what, sizeof what, "%s avx512", name);
    if (has_avx512()) compare_f32(what, avx512);
}

/* Every 97th pattern (or fewer), and the neighbours of the values where something changes. */
static void all_f32(float (*scalar)(float), const char *name, lanes_f32 *avx2, lanes_f32 *avx512) {
    if (!has_avx2()) SKIP("no AVX2");
    for (uint64_t u = test_seed() % STEP; u < UINT64_C(1) << 32;) {
        for (int i = 0; i < BATCH; i++, u += STEP) fx[i] = from32((uint32_t)u);
        batch_f32(scalar, name, avx2, avx512);
    }
    const float edge[] = {0.0f,   -0.0f,   89.0f,   -104.0f,  88.72284f, -87.33655f, -103.97208f, 10.0f,
                          -10.0f, 9.0109f, 0.3466f, -0.3466f, INFINITY,  -INFINITY,  NAN,         1.17549435e-38f};
    for (size_t e = 0; e < sizeof edge / sizeof *edge; e++) {
        for (int i = 0; i < BATCH; i++) fx[i] = from32(bits32(edge[e]) + (uint32_t)i - BATCH / 2);
        batch_f32(scalar, name, avx2, avx512);
    }
}

TEST(expf_lanes) { all_f32(bd_expf, "expf", lanes_expf_avx2, lanes_expf_avx512); }
TEST(tanhf_lanes) { all_f32(bd_tanhf, "tanhf", lanes_tanhf_avx2, lanes_tanhf_avx512); }

static void compare_f64(const char *what, lanes_f64 *fn) {
    memset(dy, 0xa5, sizeof dy);
    fn(dx, dy, BATCH);
    for (int i = 0; i < BATCH; i++) {
        bool same = bits64(dy[i]) == bits64(dwant[i]) || (isnan(dy[i]) && isnan(dwant[i]));
        CHECK_MSG(same, "%s(%a): %a, scalar %a", what, dx[i], dy[i], dwant[i]);
    }
}

static void batch_f64(void) {
    for (int i = 0; i < BATCH; i++) dwant[i] = bd_exp(dx[i]);
    compare_f64("exp avx2", lanes_exp_avx2);
    if (has_avx512()) compare_f64("exp avx512", lanes_exp_avx512);
}

TEST(exp_lanes) {
    if (!has_avx2()) SKIP("no AVX2");
    uint64_t s = test_seed();
    const double range[][2] = {{-750, 715}, {-750, -700}, {700, 715}, {-1, 1}, {-40, 0}, {-1e-9, 1e-9}};
    for (int round = 0; round < 100; round++) {
        for (size_t r = 0; r < sizeof range / sizeof *range; r++) {
            for (int i = 0; i < BATCH; i++) dx[i] = range[r][0] + (range[r][1] - range[r][0]) * test_uniform(&s);
            batch_f64();
        }
        for (int i = 0; i < BATCH; i++) dx[i] = from64(test_rand(&s)); /* any pattern */
        batch_f64();
    }
    const double edge[] = {
        0.0,      -0.0,     710.0,     -746.0, 709.782712893384, -708.3964185322641, -745.1332191019412, 0.34657,
        -0.34657, INFINITY, -INFINITY, NAN,    0x1p-1022};
    for (size_t e = 0; e < sizeof edge / sizeof *edge; e++) {
        for (int i = 0; i < BATCH; i++) dx[i] = from64(bits64(edge[e]) + (uint64_t)i - BATCH / 2);
        batch_f64();
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
