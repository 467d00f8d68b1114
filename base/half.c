/* Bit-exact twins of the F16C instructions: NaN keeps its sign and its payload's
 * top bits and becomes quiet. */
#include "base/half.h"

#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

uint16_t bd_f32_to_f16(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (mag >> 13 & 0x3ffu)); /* NaN */
    if (mag >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);                       /* 2^16 and above, infinity */
    if (mag >= 0x38800000u) {                                                        /* normal: 2^-14 and above */
        uint32_t h = (mag - 0x38000000u) >> 13, rest = mag & 0x1fffu;
        h += rest > 0x1000u || (rest == 0x1000u && (h & 1u)); /* may carry up to infinity, as it should */
        return (uint16_t)(sign | h);
    }
    if (mag < 0x33000000u) return (uint16_t)sign; /* below half of the smallest subnormal */
    uint32_t shift = 126u - (mag >> 23), m = (mag & 0x7fffffu) | 0x800000u; /* 14..24 */
    uint32_t h = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
    h += rest > half || (rest == half && (h & 1u));
    return (uint16_t)(sign | h);
}

float bd_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 0x3ffu;
    if (e == 31) return of_bits(sign | 0x7f800000u | m << 13 | (m ? 0x400000u : 0));
    if (e) return of_bits(sign | (e + 112) << 23 | m << 13);
    if (!m) return of_bits(sign);
    uint32_t top = 31u - (uint32_t)__builtin_clz(m); /* value is m * 2^-24 */
    return of_bits(sign | (top + 103) << 23 | (m << (23 - top) & 0x7fffffu));
}

uint16_t bd_f32_to_bf16(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float bd_bf16_to_f32(uint16_t h) { return of_bits((uint32_t)h << 16); }
