#include "compiler/trellis_search.h"

#include <string.h>

#include "compiler/search_math.h"

#define Y_LIMIT 0x1p20f

#define INLINE BD_SEARCH_INLINE

typedef float v16 __attribute__((vector_size(64), aligned(4)));

void bd_search_trellis_init(bd_search_trellis *out, const bd_trellis *t) {
    out->states = t->states;
    for (uint32_t s = 0; s < t->states; s++) {
        unsigned odd = bd_trellis_superset(t, s), upper = (unsigned)__builtin_parity((s << 1) & t->h0);
        out->subset[s] = (uint8_t)(odd | upper << 1);
    }
}

/* --- bodies: compiled for every instruction set --- */

INLINE float targets_body(float *y, const float *w, const float *f, const float *inverse, int64_t n) {
    float lane[BD_SEARCH_LANES] = {0};
    for (int64_t i = 0; i < n; i += BD_SEARCH_LANES)
        for (int l = 0; l < BD_SEARCH_LANES; l++) {
            float v = (w[i + l] + f[i + l]) * inverse[i + l];
            v = v < Y_LIMIT ? v : Y_LIMIT;
            v = v > -Y_LIMIT ? v : -Y_LIMIT;
            y[i + l] = v;
            lane[l] += v < 0 ? -v : v;
        }
    for (int width = BD_SEARCH_LANES / 2; width; width /= 2)
        for (int l = 0; l < width; l++) lane[l] += lane[l + width];
    return lane[0];
}

/* The exponent and two bits of the mantissa: four bins an octave without a logarithm. */
INLINE void bins_body(int32_t *bin, const float *sum, const float *prior, float mean, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float m = mean * (sum[i] + prior[i]);
        int32_t bits;
        memcpy(&bits, &m, sizeof bits);
        int32_t b = (bits >> 21) - ((127 - 7) << 2);
        b = b > 0 ? b : 0;
        bin[i] = b < BD_RATE_BINS - 1 ? b : BD_RATE_BINS - 1;
    }
}

INLINE void subsets_body(float *restrict cost, int16_t *restrict index, const float *restrict y,
                         const int32_t *restrict bin, const bd_rate_cost *restrict rate, int64_t n) {
    const float *table = &rate->cost[0][0][0];
    for (int64_t i = 0; i < n; i++) {
        float at = y[i];
        int32_t floor2 = bd_search_below(bd_search_clamp(at + at)), shift = rate->shift[bin[i]];
        for (int32_t d = 0; d < 4; d++) {
            int32_t low = floor2 - ((floor2 - d) & 3), high = low + 4;
            int32_t offset = (bin[i] * 2 + (d & 1)) * BD_RATE_LEVELS;
            float a = at - 0.5f * (float)low, b = at - 0.5f * (float)high;
            int32_t ml = (low < 0 ? -low : low) >> 1, mh = (high < 0 ? -high : high) >> 1;
            float cl = a * a + table[offset + bd_search_level(ml, shift)];
            float ch = b * b + table[offset + bd_search_level(mh, shift)];
            cost[4 * i + d] = ch < cl ? ch : cl;
            index[4 * i + d] = (int16_t)(ch < cl ? high : low);
        }
    }
}

INLINE void scalar_body(int16_t *restrict index, const float *restrict y, const int32_t *restrict bin,
                        const bd_rate_cost *restrict rate, int64_t n) {
    const float *table = &rate->cost[0][0][0];
    for (int64_t i = 0; i < n; i++) {
        int32_t low = bd_search_below(bd_search_clamp(y[i])), high = low + 1, shift = rate->shift[bin[i]];
        int32_t offset = bin[i] * 2 * BD_RATE_LEVELS;
        float a = y[i] - (float)low, b = y[i] - (float)high;
        float cl = a * a + table[offset + bd_search_level(low < 0 ? -low : low, shift)];
        float ch = b * b + table[offset + bd_search_level(high < 0 ? -high : high, shift)];
        index[i] = (int16_t)(ch < cl ? high : low);
    }
}

INLINE void feed_body(float *f, const float *e, int64_t stride, const float *a, int64_t a_stride, int n, int64_t m,
                      int64_t rows) {
    int64_t j = 0;
    for (; j + 4 <= m; j += 4) {
        float *f0 = f + j * stride, *f1 = f0 + stride, *f2 = f1 + stride, *f3 = f2 + stride;
        const float *a0 = a + j * a_stride, *a1 = a0 + a_stride, *a2 = a1 + a_stride, *a3 = a2 + a_stride;
        for (int64_t i = 0; i < rows; i += BD_SEARCH_LANES) {
            v16 s0 = *(const v16 *)(f0 + i), s1 = *(const v16 *)(f1 + i), s2 = *(const v16 *)(f2 + i),
                s3 = *(const v16 *)(f3 + i);
            for (int k = 0; k < n; k++) {
                const v16 x = *(const v16 *)(e + k * stride + i);
                s0 += x * a0[k];
                s1 += x * a1[k];
                s2 += x * a2[k];
                s3 += x * a3[k];
            }
            *(v16 *)(f0 + i) = s0;
            *(v16 *)(f1 + i) = s1;
            *(v16 *)(f2 + i) = s2;
            *(v16 *)(f3 + i) = s3;
        }
    }
    for (; j < m; j++)
        for (int64_t i = 0; i < rows; i += BD_SEARCH_LANES) {
            v16 s = *(const v16 *)(f + j * stride + i);
            for (int k = 0; k < n; k++) s += *(const v16 *)(e + k * stride + i) * a[j * a_stride + k];
            *(v16 *)(f + j * stride + i) = s;
        }
}

/* One step: states 2m and 2m + 1 are reached from m and m + states/2. Which of the two won is bit m of the even
 * half, bit states/2 + m of the decisions. */
INLINE void forward_body(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost, int64_t n,
                         const uint32_t states) {
    const uint32_t half = states / 2, bytes = (states + 7) / 8;
    float now[BD_SEARCH_STATES_MAX], next[BD_SEARCH_STATES_MAX];
    for (uint32_t s = 0; s < states; s++) now[s] = s ? BD_SEARCH_UNREACHED : 0;
    for (int64_t i = 0; i < n; i++) {
        const float *c = cost + 4 * i;
        uint8_t *out = decisions + i * bytes;
        memset(out, 0, bytes);
        for (uint32_t m = 0; m < half; m++) {
            float x = c[t->subset[m]], z = c[t->subset[m] ^ 2];
            float e0 = now[m] + x, e1 = now[m + half] + z, o0 = now[m] + z, o1 = now[m + half] + x;
            unsigned e = e1 < e0, o = o1 < o0;
            next[2 * m] = e ? e1 : e0;
            next[2 * m + 1] = o ? o1 : o0;
            out[m >> 3] |= (uint8_t)(e << (m & 7));
            out[(half + m) >> 3] |= (uint8_t)(o << ((half + m) & 7));
        }
        float take = i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1 ? next[0] : 0;
        for (uint32_t s = 0; s < states; s++) now[s] = next[s] - take;
    }
    memcpy(final, now, states * sizeof *final);
}

void bd_search_back(uint8_t *subset, const uint8_t *decisions, const float *final, const bd_search_trellis *t,
                    int64_t n) {
    uint32_t half = t->states / 2, bytes = (t->states + 7) / 8, s = 0;
    for (uint32_t k = 1; k < t->states; k++)
        if (final[k] < final[s]) s = k;
    for (int64_t i = n - 1; i >= 0; i--) {
        uint32_t branch = s & 1, bit = branch * half + (s >> 1);
        uint32_t from = (s >> 1) + ((decisions[i * bytes + (bit >> 3)] >> (bit & 7)) & 1) * half;
        subset[i] = (uint8_t)(t->subset[from] ^ (branch << 1));
        s = from;
    }
}

/* --- plain C --- */

#define CLONE(isa, attributes)                                                                                     \
    attributes static float targets_##isa(float *y, const float *w, const float *f, const float *inverse,          \
                                          int64_t n) {                                                             \
        return targets_body(y, w, f, inverse, n);                                                                  \
    }                                                                                                              \
    attributes static void bins_##isa(int32_t *bin, const float *sum, const float *prior, float mean, int64_t n) { \
        bins_body(bin, sum, prior, mean, n);                                                                       \
    }                                                                                                              \
    attributes static void subsets_##isa(float *cost, int16_t *index, const float *y, const int32_t *bin,          \
                                         const bd_rate_cost *rate, int64_t n) {                                    \
        subsets_body(cost, index, y, bin, rate, n);                                                                \
    }                                                                                                              \
    attributes static void scalar_##isa(int16_t *index, const float *y, const int32_t *bin,                        \
                                        const bd_rate_cost *rate, int64_t n) {                                     \
        scalar_body(index, y, bin, rate, n);                                                                       \
    }                                                                                                              \
    attributes static void feed_##isa(float *f, const float *e, int64_t stride, const float *a, int64_t a_stride,  \
                                      int n, int64_t m, int64_t rows) {                                            \
        feed_body(f, e, stride, a, a_stride, n, m, rows);                                                          \
    }
#define OPS(isa) \
    { #isa, targets_##isa, bins_##isa, subsets_##isa, scalar_##isa, forward_##isa, feed_##isa }

CLONE(plain, )

static void forward_plain(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                          int64_t n) {
    if (t->states == 4) forward_body(decisions, final, t, cost, n, 4);
    else forward_body(decisions, final, t, cost, n, t->states);
}

static const bd_search_ops plain = OPS(plain);

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2   __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

CLONE(avx2, AVX2)

/* 8 states in one register: its halves are the predecessors. */
AVX2 static void forward8(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                          int64_t n) {
    __m128i pick = _mm_setr_epi32(t->subset[0], t->subset[1], t->subset[2], t->subset[3]);
    const __m128i other = _mm_xor_si128(pick, _mm_set1_epi32(2));
    const __m128 far = _mm_set1_ps(BD_SEARCH_UNREACHED);
    __m128 low = _mm_move_ss(far, _mm_setzero_ps()), high = far;
    for (int64_t i = 0; i < n; i++) {
        __m128 c = _mm_loadu_ps(cost + 4 * i), x = _mm_permutevar_ps(c, pick), z = _mm_permutevar_ps(c, other);
        __m128 e0 = _mm_add_ps(low, x), e1 = _mm_add_ps(high, z), o0 = _mm_add_ps(low, z), o1 = _mm_add_ps(high, x);
        int e = _mm_movemask_ps(_mm_cmplt_ps(e1, e0)), o = _mm_movemask_ps(_mm_cmplt_ps(o1, o0));
        decisions[i] = (uint8_t)(e | o << 4);
        __m128 even = _mm_min_ps(e1, e0), odd = _mm_min_ps(o1, o0);
        low = _mm_unpacklo_ps(even, odd);
        high = _mm_unpackhi_ps(even, odd);
        if (i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1) {
            __m128 take = _mm_shuffle_ps(low, low, 0);
            low = _mm_sub_ps(low, take);
            high = _mm_sub_ps(high, take);
        }
    }
    _mm_storeu_ps(final, low);
    _mm_storeu_ps(final + 4, high);
}

/* 16 states and more, eight at a time. */
AVX2 INLINE void forward_by8(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                             int64_t n, const int states) {
    const int half = states / 2, parts = half / 8;
    __m256 now[BD_SEARCH_STATES_MAX / 8], next[BD_SEARCH_STATES_MAX / 8];
    __m256i pick[BD_SEARCH_STATES_MAX / 16];
    for (int p = 0; p < 2 * parts; p++) now[p] = _mm256_set1_ps(BD_SEARCH_UNREACHED);
    now[0] = _mm256_blend_ps(now[0], _mm256_setzero_ps(), 1);
    for (int p = 0; p < parts; p++)
        pick[p] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(t->subset + 8 * p)));
    const __m256i two = _mm256_set1_epi32(2);
    for (int64_t i = 0; i < n; i++) {
        const __m256 c = _mm256_broadcast_ps((const __m128 *)(cost + 4 * i));
        uint8_t *out = decisions + i * (states / 8);
        for (int p = 0; p < parts; p++) {
            __m256 x = _mm256_permutevar_ps(c, pick[p]),
                   z = _mm256_permutevar_ps(c, _mm256_xor_si256(pick[p], two));
            __m256 e0 = _mm256_add_ps(now[p], x), e1 = _mm256_add_ps(now[p + parts], z);
            __m256 o0 = _mm256_add_ps(now[p], z), o1 = _mm256_add_ps(now[p + parts], x);
            out[p] = (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(e1, e0, _CMP_LT_OQ));
            out[p + parts] = (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(o1, o0, _CMP_LT_OQ));
            __m256 even = _mm256_min_ps(e1, e0), odd = _mm256_min_ps(o1, o0);
            __m256 lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
            next[2 * p] = _mm256_permute2f128_ps(lo, hi, 0x20);
            next[2 * p + 1] = _mm256_permute2f128_ps(lo, hi, 0x31);
        }
        if (i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1) {
            __m256 take = _mm256_broadcastss_ps(_mm256_castps256_ps128(next[0]));
            for (int p = 0; p < 2 * parts; p++) next[p] = _mm256_sub_ps(next[p], take);
        }
        for (int p = 0; p < 2 * parts; p++) now[p] = next[p];
    }
    for (int p = 0; p < 2 * parts; p++) _mm256_storeu_ps(final + 8 * p, now[p]);
}

AVX2 static void forward_avx2(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                              int64_t n) {
    switch (t->states) {
        case 8: forward8(decisions, final, t, cost, n); return;
        case 16: forward_by8(decisions, final, t, cost, n, 16); return;
        case 32: forward_by8(decisions, final, t, cost, n, 32); return;
        case 64: forward_by8(decisions, final, t, cost, n, 64); return;
        case 128: forward_by8(decisions, final, t, cost, n, 128); return;
        case 256: forward_by8(decisions, final, t, cost, n, 256); return;
        default: forward_plain(decisions, final, t, cost, n); return;
    }
}

static const bd_search_ops avx2 = OPS(avx2);

CLONE(avx512, AVX512)

/* 32 states and more, sixteen at a time. */
AVX512 INLINE void forward_by16(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                                int64_t n, const int states) {
    const int half = states / 2, parts = half / 16;
    __m512 now[BD_SEARCH_STATES_MAX / 16], next[BD_SEARCH_STATES_MAX / 16];
    __m512i pick[BD_SEARCH_STATES_MAX / 32];
    for (int p = 0; p < 2 * parts; p++) now[p] = _mm512_set1_ps(BD_SEARCH_UNREACHED);
    now[0] = _mm512_maskz_mov_ps(0xfffe, now[0]);
    for (int p = 0; p < parts; p++)
        pick[p] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(t->subset + 16 * p)));
    const __m512i two = _mm512_set1_epi32(2);
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    for (int64_t i = 0; i < n; i++) {
        const __m512 c = _mm512_broadcast_f32x4(_mm_loadu_ps(cost + 4 * i));
        uint8_t *out = decisions + i * (states / 8);
        for (int p = 0; p < parts; p++) {
            __m512 x = _mm512_permutevar_ps(c, pick[p]),
                   z = _mm512_permutevar_ps(c, _mm512_xor_si512(pick[p], two));
            __m512 e0 = _mm512_add_ps(now[p], x), e1 = _mm512_add_ps(now[p + parts], z);
            __m512 o0 = _mm512_add_ps(now[p], z), o1 = _mm512_add_ps(now[p + parts], x);
            uint32_t e = _mm512_cmp_ps_mask(e1, e0, _CMP_LT_OQ), o = _mm512_cmp_ps_mask(o1, o0, _CMP_LT_OQ);
            /* GCC 12 at -O3 would make one vector store of several masks, with wrong bits. */
            __asm__("" : "+r"(e), "+r"(o));
            out[2 * p] = (uint8_t)e;
            out[2 * p + 1] = (uint8_t)(e >> 8);
            out[2 * (p + parts)] = (uint8_t)o;
            out[2 * (p + parts) + 1] = (uint8_t)(o >> 8);
            __m512 even = _mm512_min_ps(e1, e0), odd = _mm512_min_ps(o1, o0);
            next[2 * p] = _mm512_permutex2var_ps(even, first, odd);
            next[2 * p + 1] = _mm512_permutex2var_ps(even, second, odd);
        }
        if (i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1) {
            __m512 take = _mm512_broadcastss_ps(_mm512_castps512_ps128(next[0]));
            for (int p = 0; p < 2 * parts; p++) next[p] = _mm512_sub_ps(next[p], take);
        }
        for (int p = 0; p < 2 * parts; p++) now[p] = next[p];
    }
    for (int p = 0; p < 2 * parts; p++) _mm512_storeu_ps(final + 16 * p, now[p]);
}

AVX512 static void forward_avx512(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost,
                                  int64_t n) {
    switch (t->states) {
        case 32: forward_by16(decisions, final, t, cost, n, 32); return;
        case 64: forward_by16(decisions, final, t, cost, n, 64); return;
        case 128: forward_by16(decisions, final, t, cost, n, 128); return;
        case 256: forward_by16(decisions, final, t, cost, n, 256); return;
        default: forward_avx2(decisions, final, t, cost, n); return;
    }
}

static const bd_search_ops avx512 = OPS(avx512);
#endif

const bd_search_ops *bd_search_ops_at(int i) {
    const bd_search_ops *all[3];
    int n = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        all[n++] = &avx512;
    if (__builtin_cpu_supports("avx2")) all[n++] = &avx2;
#endif
    all[n++] = &plain;
    return i >= 0 && i < n ? all[i] : NULL;
}
