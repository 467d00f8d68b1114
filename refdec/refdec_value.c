/* From integers to float32. */
#include <string.h>

#include "refdec/refdec_impl.h"

/* Exact: every binary16 value is a binary32 value. */
static float half(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction / 16777216.0f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

/* 2^(i/32), each rounded to float32. */
static const float octave[32] = {
    0x1.000000p+0f, 0x1.059b0ep+0f, 0x1.0b5586p+0f, 0x1.11301ep+0f, 0x1.172b84p+0f, 0x1.1d4874p+0f, 0x1.2387a6p+0f,
    0x1.29e9e0p+0f, 0x1.306fe0p+0f, 0x1.371a74p+0f, 0x1.3dea64p+0f, 0x1.44e086p+0f, 0x1.4bfdaep+0f, 0x1.5342b6p+0f,
    0x1.5ab07ep+0f, 0x1.6247ecp+0f, 0x1.6a09e6p+0f, 0x1.71f75ep+0f, 0x1.7a1148p+0f, 0x1.82589ap+0f, 0x1.8ace54p+0f,
    0x1.93737cp+0f, 0x1.9c4918p+0f, 0x1.a5503cp+0f, 0x1.ae89fap+0f, 0x1.b7f770p+0f, 0x1.c199bep+0f, 0x1.cb720ep+0f,
    0x1.d5818ep+0f, 0x1.dfc974p+0f, 0x1.ea4afap+0f, 0x1.f50766p+0f};

/* x times 2^e, one exact doubling or halving after the other. */
static float scaled(float x, int e) {
    for (; e > 0; e--) x *= 2;
    for (; e < 0; e++) x /= 2;
    return x;
}

static float tcq_value(const bd_refdec_tensor *t, uint64_t r, uint64_t c) {
    float base;
    int k = t->row_exp[r] + t->col_exp[c] + 256; /* not negative, and 256 is 64 octaves */
    memcpy(&base, &t->base, 4);
    float step = scaled(base * octave[k % 4 * 8], k / 4 - 64 - (t->states > 1));
    return (float)t->index[c * t->rows + r] * step;
}

static float log_value(const bd_refdec_tensor *t, int code) {
    float base;
    int m = (code < 0 ? -code : code) - 1;
    memcpy(&base, &t->base, 4);
    if (code == 0) return 0;
    float v = scaled(base * octave[m % t->levels * 32 / t->levels], m / t->levels);
    return code < 0 ? -v : v;
}

static float lqer_value(const bd_refdec_tensor *t, uint64_t r, uint64_t c) {
    const uint16_t *own = t->words + t->rows;
    float correction = 0;
    for (uint64_t k = 0; k < t->rank; k++) {
        float a = (float)t->left[r * t->rank + k] * half(own[0]);
        float b = (float)t->right[k * t->cols + c] * half(own[1 + (k * t->cols + c) / t->group]);
        float product = a * b;
        correction = correction + product;
    }
    float value = (float)t->codes[r * t->cols + c] * half(t->words[r]);
    return value + correction;
}

void bd_refdec_dequant(const bd_refdec_tensor *t, float *out) {
    for (uint64_t i = 0; i < elements(t); i++) {
        uint64_t r = i / t->cols, c = i % t->cols;
        switch (t->method) {
            case BD_REFDEC_F16: out[i] = half(t->words[i]); break;
            case BD_REFDEC_F32: memcpy(&out[i], &t->f32[i], 4); break;
            case BD_REFDEC_ROW: out[i] = (float)t->codes[i] * half(t->words[r]); break;
            case BD_REFDEC_TERNARY: out[i] = (float)t->codes[i] * half(t->words[i / t->group]); break;
            case BD_REFDEC_TCQ: out[i] = tcq_value(t, r, c); break;
            case BD_REFDEC_LOG: out[i] = log_value(t, t->index[i]); break;
            default: out[i] = lqer_value(t, r, c); break;
        }
    }
}
