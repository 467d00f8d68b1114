/* From integers to float32 (format/SPEC.md, "Dequantization"): a fixed chain of
 * roundings per element. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "format/weight_group.h"

enum { TILE = 32 };

/* 2^(i/32), rounded to float32: normative. */
static const float octave[32] = {
    0x1p+0f,        0x1.059b0ep+0f, 0x1.0b5586p+0f, 0x1.11301ep+0f, 0x1.172b84p+0f, 0x1.1d4874p+0f, 0x1.2387a6p+0f,
    0x1.29e9ep+0f,  0x1.306fep+0f,  0x1.371a74p+0f, 0x1.3dea64p+0f, 0x1.44e086p+0f, 0x1.4bfdaep+0f, 0x1.5342b6p+0f,
    0x1.5ab07ep+0f, 0x1.6247ecp+0f, 0x1.6a09e6p+0f, 0x1.71f75ep+0f, 0x1.7a1148p+0f, 0x1.82589ap+0f, 0x1.8ace54p+0f,
    0x1.93737cp+0f, 0x1.9c4918p+0f, 0x1.a5503cp+0f, 0x1.ae89fap+0f, 0x1.b7f77p+0f,  0x1.c199bep+0f, 0x1.cb720ep+0f,
    0x1.d5818ep+0f, 0x1.dfc974p+0f, 0x1.ea4afap+0f, 0x1.f50766p+0f};

/* 2^e for -126 <= e <= 127. */
static float power_of_two(int e) {
    uint32_t bits = (uint32_t)(e + 127) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float bd_tcq_step(float base, unsigned states, int k) {
    int quarter = k & 3, whole = (k - quarter) / 4;
    return base * octave[8 * quarter] * power_of_two(states > 1 ? whole - 1 : whole);
}

float bd_log_value(float base, unsigned levels, int code) {
    if (code == 0) return 0;
    unsigned m = (unsigned)abs(code) - 1;
    float v = base * octave[m % levels * (32 / levels)] * power_of_two((int)(m / levels));
    return code < 0 ? -v : v;
}

static void dequant_tcq(const bd_qtensor *q, float *out) {
    float step[4 * BD_TCQ_EXP_MAX + 1];
    for (int k = -2 * BD_TCQ_EXP_MAX; k <= 2 * BD_TCQ_EXP_MAX; k++)
        step[k + 2 * BD_TCQ_EXP_MAX] = bd_tcq_step(q->base, q->states, k);
    /* in squares, since indices and values are each other's transposed */
    for (uint64_t r0 = 0; r0 < q->rows; r0 += TILE)
        for (uint64_t c0 = 0; c0 < q->cols; c0 += TILE)
            for (uint64_t c = c0; c < q->cols && c < c0 + TILE; c++)
                for (uint64_t r = r0; r < q->rows && r < r0 + TILE; r++)
                    out[r * q->cols + c] =
                        (float)q->index[c * q->rows + r] * step[q->row_exp[r] + q->col_exp[c] + 2 * BD_TCQ_EXP_MAX];
}

static void dequant_lqer(const bd_qtensor *q, float *out) {
    const float a_scale = bd_f16_to_f32(q->lq_scales[0]);
    for (uint64_t r = 0; r < q->rows; r++) {
        const float scale = bd_f16_to_f32(q->scales[r]);
        for (uint64_t c = 0; c < q->cols; c++) {
            float sum = 0;
            for (uint64_t k = 0; k < q->rank; k++) {
                uint64_t b = k * q->cols + c;
                float left = (float)q->lq_a[r * q->rank + k] * a_scale;
                float right = (float)q->lq_b[b] * bd_f16_to_f32(q->lq_scales[1 + b / q->group]);
                sum += left * right;
            }
            out[r * q->cols + c] = (float)q->codes[r * q->cols + c] * scale + sum;
        }
    }
}

void bd_qtensor_dequant(const bd_qtensor *q, float *out) {
    uint64_t n = bd_qtensor_elements(q);
    switch (q->method) {
        case BD_Q_F16:
            for (uint64_t i = 0; i < n; i++) out[i] = bd_f16_to_f32(q->f16[i]);
            break;
        case BD_Q_F32: memcpy(out, q->f32, n * sizeof *out); break;
        case BD_Q_ROW:
            for (uint64_t r = 0; r < q->rows; r++) {
                float s = bd_f16_to_f32(q->scales[r]);
                for (uint64_t c = 0; c < q->cols; c++) out[r * q->cols + c] = (float)q->codes[r * q->cols + c] * s;
            }
            break;
        case BD_Q_TERNARY:
            for (uint64_t i = 0; i < n; i++) out[i] = (float)q->codes[i] * bd_f16_to_f32(q->scales[i / q->group]);
            break;
        case BD_Q_TCQ: dequant_tcq(q, out); break;
        case BD_Q_LOG:
            for (uint64_t i = 0; i < n; i++) out[i] = bd_log_value(q->base, q->levels, q->index[i]);
            break;
        case BD_Q_LQER: dequant_lqer(q, out); break;
        case BD_Q_COUNT: BD_ASSERT(!"a tensor method");
    }
}
