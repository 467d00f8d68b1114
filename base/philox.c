#include "base/philox.h"

#include <math.h>

#include "base/fmath.h"

void bd_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static uint64_t word(const uint32_t x[4], int i) { return x[2 * i] | (uint64_t)x[2 * i + 1] << 32; }

uint64_t bd_philox_u64(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t x[4];
    bd_philox(seed, stream, index, x);
    return word(x, 0);
}

double bd_philox_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(bd_philox_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double bd_philox_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t x[4];
    bd_philox(seed, stream, index, x);
    double u = (double)((word(x, 0) >> 11) + 1) * 0x1p-53; /* (0, 1]: the logarithm is finite */
    double v = (double)(word(x, 1) >> 11) * 0x1p-53;
    return sqrt(-2.0 * bd_log(u)) * bd_cos(0x1.921fb54442d18p+2 * v); /* 2 pi v */
}

uint64_t bd_philox_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    /* The high word of a 64 x 64 product, by halves (ISO C has no 128-bit type). */
    uint64_t x = bd_philox_u64(seed, stream, index);
    uint64_t x0 = (uint32_t)x, x1 = x >> 32, n0 = (uint32_t)n, n1 = n >> 32;
    uint64_t mid = x1 * n0 + (x0 * n0 >> 32), mid2 = x0 * n1 + (uint32_t)mid;
    return x1 * n1 + (mid >> 32) + (mid2 >> 32);
}

uint64_t bd_name_stream(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) h = (h ^ *p) * 0x100000001b3u;
    return h;
}
