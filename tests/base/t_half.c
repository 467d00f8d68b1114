/* binary16 and bfloat16, over all 65,536 values and against exact arithmetic and F16C. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/half.h"
#include "bd_test.h"

static float of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

/* The value of a binary16, from its definition. */
static double f16_value(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? INFINITY : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

TEST(f16_all_values) {
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bd_f16_to_f32((uint16_t)h);
        bool nan = (h & 0x7fff) > 0x7c00;
        if (nan) {
            CHECK(isnan(x) && (bits_of(x) >> 31) == h >> 15);
            CHECK(bd_f32_to_f16(x) == (h | 0x200)); /* quiet, payload kept */
        } else {
            CHECK_MSG((double)x == f16_value((uint16_t)h), "%04x", h);
            CHECK_MSG(bd_f32_to_f16(x) == h, "%04x", h);
        }
    }
}

/* Around every value and every midpoint: the nearer one, ties to the even one. */
TEST(f16_rounds_to_nearest_even) {
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double lo = f16_value((uint16_t)h), hi = h == 0x7bff ? 65536.0 : f16_value((uint16_t)(h + 1));
        float mid = (float)((lo + hi) / 2); /* exact: one bit more */
        CHECK((double)mid == (lo + hi) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        CHECK_MSG(bd_f32_to_f16(mid) == even, "%04x", h);
        CHECK(bd_f32_to_f16(nextafterf(mid, -1)) == h && bd_f32_to_f16(nextafterf(mid, 1e9f)) == h + 1);
        CHECK(bd_f32_to_f16(-mid) == (0x8000 | even));
    }
    CHECK(bd_f32_to_f16(INFINITY) == 0x7c00 && bd_f32_to_f16(-3e38f) == 0xfc00 && bd_f32_to_f16(-1e-30f) == 0x8000);
}

TEST(bf16_all_values_and_midpoints) {
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bd_bf16_to_f32((uint16_t)h);
        CHECK(bits_of(x) == h << 16);
        bool nan = (h & 0x7fff) > 0x7f80;
        CHECK(bd_f32_to_bf16(x) == (nan ? (h | 0x40) : h));
        if ((h & 0x7fff) >= 0x7f80) continue;
        uint32_t mid = h << 16 | 0x8000;
        CHECK(bd_f32_to_bf16(of_bits(mid)) == (h & 1 ? h + 1 : h));
        CHECK(bd_f32_to_bf16(of_bits(mid - 1)) == h && bd_f32_to_bf16(of_bits(mid + 1)) == h + 1);
    }
    CHECK(bd_f32_to_bf16(of_bits(0x7f800001)) == 0x7fc0); /* stays NaN */
}

#if defined(__x86_64__)
__attribute__((target("f16c"))) static uint16_t hardware_to_f16(float x) {
    return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT), 0);
}
__attribute__((target("f16c"))) static float hardware_to_f32(uint16_t h) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}
TEST(f16_equals_the_instructions) {
    if (!__builtin_cpu_supports("avx2")) SKIP("no F16C");
    for (uint32_t h = 0; h < 65536; h++)
        CHECK_MSG(bits_of(bd_f16_to_f32((uint16_t)h)) == bits_of(hardware_to_f32((uint16_t)h)), "%04x", h);
    uint64_t seed = test_seed();
    uint32_t u = (uint32_t)test_rand(&seed);
    for (uint32_t i = 0; i < 1u << 24; i++, u += 257) { /* odd stride: spread over all exponents */
        float x = of_bits(u);
        CHECK_MSG(bd_f32_to_f16(x) == hardware_to_f16(x), "%08x", u);
    }
}
#endif

int main(int argc, char **argv) { return test_main(argc, argv); }
