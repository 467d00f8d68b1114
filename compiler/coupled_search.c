#include "compiler/coupled_search.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/search_math.h"

#define INLINE BD_SEARCH_INLINE

typedef float v4 __attribute__((vector_size(16), aligned(4)));
typedef float v8 __attribute__((vector_size(32), aligned(4)));
typedef float v16 __attribute__((vector_size(64), aligned(4)));

/* Rows of a block: their sums are one vector. */
enum { LANES = BD_SEARCH_LANES, WORDS = BD_SEARCH_STATES_MAX / 64 };

bd_status bd_coupled_init(bd_coupled *c, bd_err *err) {
    uint64_t states = c->trellis && c->trellis->states > 1 ? c->trellis->states : 1;
    uint64_t tall = states * (uint64_t)c->rows;
    c->sums[0] = bd_alloc_aligned(states * LANES, sizeof(float));
    c->sums[1] = bd_alloc_aligned(states * LANES, sizeof(float));
    c->error = bd_alloc_aligned((uint64_t)c->stride, sizeof *c->error);
    c->errors = bd_alloc_aligned(tall, sizeof *c->errors);
    c->alive = bd_alloc_aligned(((uint64_t)c->rows + 1) * WORDS, sizeof *c->alive);
    c->choice = bd_alloc_aligned(tall, sizeof *c->choice);
    c->from = bd_alloc_aligned(tall, sizeof *c->from);
    c->moved = bd_alloc_aligned((uint64_t)c->stride, sizeof *c->moved);
    bool fine = c->sums[0] && c->sums[1] && c->error && c->errors && c->alive && c->choice && c->from && c->moved;
    if (fine) return BD_OK;
    bd_coupled_free(c);
    return BD_FAIL(err, BD_E_NOMEM, "out of memory for the search of %lld coupled rows", (long long)c->rows);
}

void bd_coupled_free(bd_coupled *c) {
    free(c->sums[0]);
    free(c->sums[1]);
    free(c->error);
    free(c->errors);
    free(c->alive);
    free(c->choice);
    free(c->from);
    free(c->moved);
    c->sums[0] = c->sums[1] = c->error = c->errors = c->moved = NULL;
    c->alive = NULL;
    c->choice = NULL;
    c->from = NULL;
}

/* What rows [from, to) add to the sums of later rows, `error` being known: in the order of rows, like the search
 * itself. Four registers of the instruction set at a time. */
#define SETTLE(name, vector, width)                                                                          \
    INLINE void name(bd_coupled *c, int64_t from, int64_t to) {                                              \
        const int64_t stride = c->stride, all = (to + LANES - 1) & ~(int64_t)(LANES - 1);                    \
        int64_t i = (from + 1) & ~(int64_t)(LANES - 1);                                                      \
        /* vectors that only some of the rows come before */                                                 \
        for (; i < all && i < stride; i += LANES)                                                            \
            for (int h = 0; h < LANES; h += (width)) {                                                       \
                vector s = *(const vector *)(c->moved + i + h);                                              \
                for (int64_t k = from; k < to && k + 1 < i + LANES; k++)                                     \
                    s += *(const vector *)(c->b + k * stride + i + h) * c->error[k];                         \
                *(vector *)(c->moved + i + h) = s;                                                           \
            }                                                                                                \
        for (; i + 4 * (width) <= stride; i += 4 * (width)) {                                                \
            float *m = c->moved + i;                                                                         \
            vector s0 = *(const vector *)m, s1 = *(const vector *)(m + (width)),                             \
                   s2 = *(const vector *)(m + 2 * (width)), s3 = *(const vector *)(m + 3 * (width));         \
            const float *b = c->b + from * stride + i;                                                       \
            for (int64_t k = from; k < to; k++, b += stride) {                                               \
                const float v = c->error[k];                                                                 \
                s0 += *(const vector *)b * v;                                                                \
                s1 += *(const vector *)(b + (width)) * v;                                                    \
                s2 += *(const vector *)(b + 2 * (width)) * v;                                                \
                s3 += *(const vector *)(b + 3 * (width)) * v;                                                \
            }                                                                                                \
            *(vector *)m = s0;                                                                               \
            *(vector *)(m + (width)) = s1;                                                                   \
            *(vector *)(m + 2 * (width)) = s2;                                                               \
            *(vector *)(m + 3 * (width)) = s3;                                                               \
        }                                                                                                    \
        for (; i < stride; i += (width)) {                                                                   \
            vector s = *(const vector *)(c->moved + i);                                                      \
            for (int64_t k = from; k < to; k++) s += *(const vector *)(c->b + k * stride + i) * c->error[k]; \
            *(vector *)(c->moved + i) = s;                                                                   \
        }                                                                                                    \
    }
SETTLE(settle4, v4, 4)
SETTLE(settle8, v8, 8)
SETTLE(settle16, v16, 16)

/* width: floats in a register, a constant */
INLINE void settle(bd_coupled *c, int64_t from, int64_t to, const int width) {
    if (width == 16) settle16(c, from, to);
    else if (width == 8) settle8(c, from, to);
    else settle4(c, from, to);
}

/* out = in + b * v, LANES of each */
INLINE void add_scaled(float *out, const float *in, const float *b, float v, const int width) {
    for (int h = 0; h < LANES; h += width)
        if (width == 16) *(v16 *)(out + h) = *(const v16 *)(in + h) + *(const v16 *)(b + h) * v;
        else if (width == 8) *(v8 *)(out + h) = *(const v8 *)(in + h) + *(const v8 *)(b + h) * v;
        else *(v4 *)(out + h) = *(const v4 *)(in + h) + *(const v4 *)(b + h) * v;
}

/* --- without a trellis --- */

INLINE void scalar_row(bd_coupled *c, int64_t i, float sum) {
    const float *table = &c->rate->cost[c->bin[i]][0][0];
    float y = bd_search_clamp((c->target[i] + sum) * c->inverse[i]);
    int32_t low = bd_search_below(y), high = low + 1, shift = c->rate->shift[c->bin[i]];
    float a = y - (float)low, b = y - (float)high;
    float cl = a * a + table[bd_search_level(low < 0 ? -low : low, shift)];
    float ch = b * b + table[bd_search_level(high < 0 ? -high : high, shift)];
    int32_t index = ch < cl ? high : low;
    c->path[i] = (int16_t)index;
    c->error[i] = c->target[i] - (float)index * c->width[i];
}

INLINE void scalar_body(bd_coupled *c, const int vector) {
    memset(c->moved, 0, (size_t)c->stride * sizeof *c->moved);
    for (int64_t i0 = 0; i0 < c->rows; i0 += LANES) {
        const int64_t i1 = i0 + LANES < c->rows ? i0 + LANES : c->rows;
        float sum[LANES];
        memcpy(sum, c->moved + i0, sizeof sum);
        for (int64_t i = i0; i < i1; i++) {
            scalar_row(c, i, sum[i - i0]);
            const float *b = c->b + i * c->stride + i0;
            add_scaled(sum, sum, b, c->error[i], vector);
        }
        settle(c, i0, i1, vector);
    }
}

/* --- with one --- */

/* The better of the two indices of each state's two subsets: branch 0 is subset[s], branch 1 is subset[s] ^ 2. */
INLINE void branches(float *restrict cost, int32_t *restrict index, const float *restrict y,
                     const uint8_t *restrict subset, const float *restrict table, int32_t shift, uint32_t states,
                     int32_t flip) {
    for (uint32_t s = 0; s < states; s++) {
        int32_t d = subset[s] ^ flip;
        int32_t floor2 = bd_search_below(bd_search_clamp(y[s] + y[s]));
        int32_t low = floor2 - ((floor2 - d) & 3), high = low + 4;
        int32_t offset = (d & 1) * BD_RATE_LEVELS;
        float a = y[s] - 0.5f * (float)low, b = y[s] - 0.5f * (float)high;
        int32_t ml = (low < 0 ? -low : low) >> 1, mh = (high < 0 ? -high : high) >> 1;
        float cl = a * a + table[offset + bd_search_level(ml, shift)];
        float ch = b * b + table[offset + bd_search_level(mh, shift)];
        cost[s] = ch < cl ? ch : cl;
        index[s] = ch < cl ? high : low;
    }
}

/* The path that leads to state s at row `to`, back to row `from`. */
INLINE void trace(bd_coupled *c, int64_t from, int64_t to, uint32_t s, uint32_t states) {
    for (int64_t i = to - 1; i >= from; i--) {
        c->path[i] = c->choice[i * states + s];
        c->error[i] = c->errors[i * states + s];
        s = c->from[i * states + s];
    }
}

/* Sums that rows before i0 give to the block of rows at i0, for every survivor: (states, LANES). Rows before
 * *settled are in `moved`; what all survivors have in common is put there first. */
INLINE float *block_sums(bd_coupled *c, int64_t i0, int64_t *settled, const uint32_t states, const int vector) {
    const uint32_t words = (states + 63) / 64;
    uint64_t *alive = c->alive + i0 * WORDS;
    for (uint32_t w = 0; w < words; w++) alive[w] = states < 64 ? ((uint64_t)1 << states) - 1 : ~(uint64_t)0;
    int64_t k = i0;
    while (k > *settled) {
        const uint64_t *here = c->alive + k * WORDS;
        const uint8_t *from = c->from + --k * states;
        uint64_t *back = c->alive + k * WORDS;
        int count = 0, last = 0;
        if (words == 1) { /* in a register */
            uint64_t bits = 0;
            for (uint64_t left = here[0]; left; left &= left - 1)
                bits |= (uint64_t)1 << from[__builtin_ctzll(left)];
            back[0] = bits;
        } else {
            for (uint32_t w = 0; w < words; w++) back[w] = 0;
            for (uint32_t w = 0; w < words; w++)
                for (uint64_t left = here[w]; left; left &= left - 1) {
                    uint32_t p = from[64 * w + (uint32_t)__builtin_ctzll(left)];
                    back[p / 64] |= (uint64_t)1 << (p & 63);
                }
        }
        for (uint32_t w = 0; w < words; w++) {
            count += __builtin_popcountll(back[w]);
            if (back[w]) last = (int)(64 * w) + __builtin_ctzll(back[w]);
        }
        if (count == 1) {
            trace(c, *settled, k, (uint32_t)last, states);
            settle(c, *settled, k, vector);
            *settled = k;
        }
    }
    float *in = c->sums[0], *out = c->sums[1];
    for (uint32_t s = 0; s < states; s++) memcpy(in + s * LANES, c->moved + i0, LANES * sizeof *in);
    for (; k < i0; k++) {
        const float *b = c->b + k * c->stride + i0;
        const uint64_t *here = c->alive + (k + 1) * WORDS;
        const uint8_t *from = c->from + k * states;
        const float *errors = c->errors + k * states;
        for (uint32_t w = 0; w < words; w++)
            for (uint64_t left = here[w]; left; left &= left - 1) {
                uint32_t n = 64 * w + (uint32_t)__builtin_ctzll(left);
                add_scaled(out + n * LANES, in + from[n] * LANES, b, errors[n], vector);
            }
        float *swap = in;
        in = out;
        out = swap;
    }
    return in;
}

/* Rows [i0, i1) of one block. now: (states) costs. sums: c->sums[0] or [1], lost. */
INLINE void block_rows(bd_coupled *c, int64_t i0, int64_t i1, float *now, float *sums, const uint32_t states,
                       const int vector) {
    const uint32_t half = states / 2;
    float next[BD_SEARCH_STATES_MAX], y[BD_SEARCH_STATES_MAX], cost[2][BD_SEARCH_STATES_MAX];
    int32_t index[2][BD_SEARCH_STATES_MAX];
    float *in = sums, *out = sums == c->sums[0] ? c->sums[1] : c->sums[0];
    for (int64_t i = i0; i < i1; i++) {
        const float *table = &c->rate->cost[c->bin[i]][0][0];
        const float t = c->target[i], inverse = c->inverse[i], width = c->width[i];
        const int32_t shift = c->rate->shift[c->bin[i]];
        const float *row = c->b + i * c->stride + i0;
        int16_t *choice = c->choice + i * states;
        uint8_t *from = c->from + i * states;
        float *errors = c->errors + i * states;
        for (uint32_t s = 0; s < states; s++) y[s] = (t + in[s * LANES + (i - i0)]) * inverse;
        branches(cost[0], index[0], y, c->trellis->subset, table, shift, states, 0);
        branches(cost[1], index[1], y, c->trellis->subset, table, shift, states, 2);
        for (uint32_t m = 0; m < half; m++)
            for (uint32_t b = 0; b < 2; b++) {
                /* From m with branch b or from m + half with the same one. */
                float c0 = now[m] + cost[b][m], c1 = now[m + half] + cost[b][m + half];
                unsigned k = c1 < c0;
                uint32_t n = 2 * m + b;
                next[n] = k ? c1 : c0;
                from[n] = (uint8_t)(k ? m + half : m);
                choice[n] = (int16_t)(k ? index[b][m + half] : index[b][m]);
                errors[n] = t - (float)choice[n] * width;
            }
        for (uint32_t n = 0; n < states; n++)
            add_scaled(out + n * LANES, in + from[n] * LANES, row, errors[n], vector);
        float take = i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1 ? next[0] : 0;
        for (uint32_t s = 0; s < states; s++) now[s] = next[s] - take;
        float *swap = in;
        in = out;
        out = swap;
    }
}

typedef void block_fn(bd_coupled *c, int64_t i0, int64_t i1, float *now, float *sums);

/* rows_of: instead of block_rows, or NULL. */
INLINE void trellis_body(bd_coupled *c, const uint32_t states, block_fn *rows_of, const int vector) {
    float now[BD_SEARCH_STATES_MAX] __attribute__((aligned(64)));
    int64_t settled = 0;
    memset(c->moved, 0, (size_t)c->stride * sizeof *c->moved);
    for (uint32_t s = 0; s < states; s++) now[s] = s ? BD_SEARCH_UNREACHED : 0;
    for (int64_t i0 = 0; i0 < c->rows; i0 += LANES) {
        const int64_t i1 = i0 + LANES < c->rows ? i0 + LANES : c->rows;
        float *sums = block_sums(c, i0, &settled, states, vector);
        if (rows_of) rows_of(c, i0, i1, now, sums);
        else block_rows(c, i0, i1, now, sums, states, vector);
    }
    uint32_t s = 0;
    for (uint32_t k = 1; k < states; k++)
        if (now[k] < now[s]) s = k;
    trace(c, settled, c->rows, s, states);
    settle(c, settled, c->rows, vector);
}

/* Constant numbers of states let the compiler unroll and vectorize over states. */
INLINE void coupled_body(bd_coupled *c, const int vector) {
    switch (c->trellis ? c->trellis->states : 0) {
        case 0: scalar_body(c, vector); return;
        case 4: trellis_body(c, 4, NULL, vector); return;
        case 8: trellis_body(c, 8, NULL, vector); return;
        case 64: trellis_body(c, 64, NULL, vector); return;
        default: trellis_body(c, c->trellis->states, NULL, vector); return;
    }
}

static void coupled_plain(bd_coupled *c) { coupled_body(c, 4); }

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi")))

__attribute__((target("avx2,popcnt,bmi"))) static void coupled_avx2(bd_coupled *c) { coupled_body(c, 8); }

/* Costs of magnitudes in registers: the first 32 levels of both parities. */
typedef struct rates {
    __m512 even0, even1, odd0, odd1;
    const float *table;
    __m128i shift;
} rates;

AVX512 INLINE rates rates_of(const bd_coupled *c, int64_t i) {
    const float *table = &c->rate->cost[c->bin[i]][0][0];
    return (rates){_mm512_loadu_ps(table),
                   _mm512_loadu_ps(table + 16),
                   _mm512_loadu_ps(table + BD_RATE_LEVELS),
                   _mm512_loadu_ps(table + BD_RATE_LEVELS + 16),
                   table,
                   _mm_cvtsi32_si128(c->rate->shift[c->bin[i]])};
}

AVX512 INLINE __m512 rate_at(const rates *r, __m512i index, __mmask16 odd) {
    __m512i level = _mm512_srl_epi32(_mm512_srli_epi32(_mm512_abs_epi32(index), 1), r->shift);
    if (__builtin_expect(_mm512_cmpgt_epi32_mask(level, _mm512_set1_epi32(31)) != 0, 0)) {
        level = _mm512_min_epi32(level, _mm512_set1_epi32(BD_RATE_LEVELS - 1));
        level = _mm512_mask_add_epi32(level, odd, level, _mm512_set1_epi32(BD_RATE_LEVELS));
        return _mm512_i32gather_ps(level, r->table, 4);
    }
    __m512 e = _mm512_permutex2var_ps(r->even0, level, r->even1),
           o = _mm512_permutex2var_ps(r->odd0, level, r->odd1);
    return _mm512_mask_mov_ps(e, odd, o);
}

/* As `branches`, for 16 states or 8 states and both branches. d: subsets, odd: of d. */
AVX512 INLINE __m512 branch16(__m512i *index, __m512 y, __m512i d, __mmask16 odd, const rates *r) {
    __m512 limited = _mm512_max_ps(_mm512_min_ps(_mm512_add_ps(y, y), _mm512_set1_ps(BD_SEARCH_INDEX_LIMIT)),
                                   _mm512_set1_ps(-BD_SEARCH_INDEX_LIMIT));
    __m512i floor2 = _mm512_cvt_roundps_epi32(limited, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512i past = _mm512_and_si512(_mm512_sub_epi32(floor2, d), _mm512_set1_epi32(3));
    __m512i low = _mm512_sub_epi32(floor2, past), high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 a = _mm512_sub_ps(y, _mm512_mul_ps(half, _mm512_cvtepi32_ps(low)));
    __m512 b = _mm512_sub_ps(y, _mm512_mul_ps(half, _mm512_cvtepi32_ps(high)));
    __m512 cl = _mm512_add_ps(_mm512_mul_ps(a, a), rate_at(r, low, odd));
    __m512 ch = _mm512_add_ps(_mm512_mul_ps(b, b), rate_at(r, high, odd));
    __mmask16 upper = _mm512_cmp_ps_mask(ch, cl, _CMP_LT_OQ);
    *index = _mm512_mask_mov_epi32(low, upper, high);
    return _mm512_mask_mov_ps(cl, upper, ch);
}

/* 16 rows of 16 floats turned, with `from` floats between those that come in and `to` between those that go out. */
AVX512 INLINE void turn16(float *out, int64_t to, const float *in, int64_t from) {
    __m512 a[16], b[16];
    for (int k = 0; k < 16; k++) a[k] = _mm512_loadu_ps(in + k * from);
    for (int k = 0; k < 16; k += 2) {
        b[k] = _mm512_unpacklo_ps(a[k], a[k + 1]);
        b[k + 1] = _mm512_unpackhi_ps(a[k], a[k + 1]);
    }
    for (int k = 0; k < 16; k += 4)
        for (int h = 0; h < 2; h++) {
            __m512d x = _mm512_castps_pd(b[k + h]), z = _mm512_castps_pd(b[k + 2 + h]);
            a[k + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, z));
            a[k + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, z));
        }
    /* a[4g + c] holds columns c, 4 + c, 8 + c, 12 + c of rows 4g to 4g + 3, in its quarters */
    for (int k = 0; k < 4; k++) {
        __m512 p = _mm512_shuffle_f32x4(a[k], a[4 + k], 0x88), q = _mm512_shuffle_f32x4(a[k], a[4 + k], 0xdd);
        __m512 r = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0x88),
               s = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0xdd);
        _mm512_storeu_ps(out + k * to, _mm512_shuffle_f32x4(p, r, 0x88));
        _mm512_storeu_ps(out + (4 + k) * to, _mm512_shuffle_f32x4(q, s, 0x88));
        _mm512_storeu_ps(out + (8 + k) * to, _mm512_shuffle_f32x4(p, r, 0xdd));
        _mm512_storeu_ps(out + (12 + k) * to, _mm512_shuffle_f32x4(q, s, 0xdd));
    }
}

/* 8 states: both branches of all of them in one register. */
AVX512 static void block8_avx512(bd_coupled *c, int64_t i0, int64_t i1, float *now_at, float *sums) {
    float turned[LANES][16] __attribute__((aligned(64)));
    float both[16 * LANES] __attribute__((aligned(64)));
    memcpy(both, sums, 8 * LANES * sizeof *both);
    memcpy(both + 8 * LANES, sums, 8 * LANES * sizeof *both);
    turn16(&turned[0][0], 16, both, LANES); /* lane s and lane 8 + s: state s */
    __m512i d = _mm512_cvtepu8_epi32(
        _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)c->trellis->subset), _mm_setzero_si128()));
    d = _mm512_shuffle_i64x2(d, d, 0x44);
    d = _mm512_mask_xor_epi32(d, 0xff00, d, _mm512_set1_epi32(2));
    const __mmask16 odd = _mm512_test_epi32_mask(d, _mm512_set1_epi32(1));
    /* state n = 2 m + b comes from m or m + 4 by branch b; the upper half the same again */
    const __m512i first = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    const __m512i seven = _mm512_set1_epi32(7);
    __m512 now = _mm512_castps256_ps512(_mm256_loadu_ps(now_at));
    now = _mm512_shuffle_f32x4(now, now, 0x44);
    for (int64_t i = i0; i < i1; i++) {
        const rates r = rates_of(c, i);
        const float *b = c->b + i * c->stride + i0;
        const __m512 t = _mm512_set1_ps(c->target[i]);
        __m512i index;
        __m512 y = _mm512_mul_ps(_mm512_add_ps(t, _mm512_load_ps(turned[i - i0])), _mm512_set1_ps(c->inverse[i]));
        __m512 path = _mm512_add_ps(now, branch16(&index, y, d, odd, &r));
        __m512 c0 = _mm512_permutexvar_ps(first, path), c1 = _mm512_permutexvar_ps(second, path);
        __mmask16 k = _mm512_cmp_ps_mask(c1, c0, _CMP_LT_OQ);
        __m512i chosen = _mm512_mask_mov_epi32(first, k, second);
        index = _mm512_permutexvar_epi32(chosen, index);
        now = _mm512_min_ps(c1, c0);
        if (i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1)
            now = _mm512_sub_ps(now, _mm512_broadcastss_ps(_mm512_castps512_ps128(now)));
        _mm_storeu_si128((__m128i *)(c->choice + 8 * i), _mm256_castsi256_si128(_mm512_cvtepi32_epi16(index)));
        __m512 v = _mm512_sub_ps(t, _mm512_mul_ps(_mm512_cvtepi32_ps(index), _mm512_set1_ps(c->width[i])));
        const __m512i back = _mm512_and_si512(chosen, seven);
        _mm_storel_epi64((__m128i *)(c->from + 8 * i), _mm512_cvtepi32_epi8(back));
        _mm256_storeu_ps(c->errors + 8 * i, _mm512_castps512_ps256(v));
        for (int64_t l = i + 1 - i0; l < i1 - i0; l++) {
            __m512 s = _mm512_permutexvar_ps(back, _mm512_load_ps(turned[l]));
            _mm512_store_ps(turned[l], _mm512_add_ps(s, _mm512_mul_ps(_mm512_set1_ps(b[l]), v)));
        }
    }
    _mm256_storeu_ps(now_at, _mm512_castps512_ps256(now));
}

/* 16 states and more. */
AVX512 INLINE void block_by16(bd_coupled *c, int64_t i0, int64_t i1, float *now_at, float *sums, const int states) {
    enum { MOST = BD_SEARCH_STATES_MAX / 16 };
    const int parts = states / 16, apart = parts / 2;
    float turned[LANES * BD_SEARCH_STATES_MAX] __attribute__((aligned(64)));
    __m512 now[MOST], path[2][MOST];
    __m512i index[2][MOST], subset[MOST];
    for (int p = 0; p < parts; p++) {
        turn16(turned + 16 * p, states, sums + 16 * p * LANES, LANES);
        now[p] = _mm512_loadu_ps(now_at + 16 * p);
        subset[p] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(c->trellis->subset + 16 * p)));
    }
    const __m512i two = _mm512_set1_epi32(2), one = _mm512_set1_epi32(1);
    /* of two registers in turn, their lower or upper halves; of one register, every lane of a half twice */
    const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (int64_t i = i0; i < i1; i++) {
        const rates r = rates_of(c, i);
        const float *b = c->b + i * c->stride + i0, *at = turned + (i - i0) * states;
        const __m512 t = _mm512_set1_ps(c->target[i]), inverse = _mm512_set1_ps(c->inverse[i]);
        const __m512 width = _mm512_set1_ps(c->width[i]);
        __m512 v[MOST];
        __m512i back[MOST];
        for (int p = 0; p < parts; p++) {
            __m512 y = _mm512_mul_ps(_mm512_add_ps(t, _mm512_load_ps(at + 16 * p)), inverse);
            const __mmask16 odd = _mm512_test_epi32_mask(subset[p], one);
            path[0][p] = _mm512_add_ps(now[p], branch16(&index[0][p], y, subset[p], odd, &r));
            path[1][p] =
                _mm512_add_ps(now[p], branch16(&index[1][p], y, _mm512_xor_si512(subset[p], two), odd, &r));
        }
        for (int q = 0; q < parts; q++) {
            const int p = q / 2, o = p + apart;
            const __m512i pick = q & 1 ? upper : lower, other = parts == 1 ? upper : pick;
            __m512 c0 = _mm512_permutex2var_ps(path[0][p], pick, path[1][p]);
            __m512 c1 = _mm512_permutex2var_ps(path[0][o], other, path[1][o]);
            __mmask16 k = _mm512_cmp_ps_mask(c1, c0, _CMP_LT_OQ);
            __m512i chosen = _mm512_permutex2var_epi32(index[0][p], pick, index[1][p]);
            chosen = _mm512_mask_mov_epi32(chosen, k, _mm512_permutex2var_epi32(index[0][o], other, index[1][o]));
            now[q] = _mm512_min_ps(c1, c0);
            __m512i lane = q & 1 ? _mm512_add_epi32(twice, _mm512_set1_epi32(8)) : twice;
            back[q] = _mm512_mask_add_epi32(lane, k, lane, _mm512_set1_epi32(parts == 1 ? 8 : 16));
            v[q] = _mm512_sub_ps(t, _mm512_mul_ps(_mm512_cvtepi32_ps(chosen), width));
            _mm256_storeu_si256((__m256i *)(c->choice + i * states + 16 * q), _mm512_cvtepi32_epi16(chosen));
            __m512i from = _mm512_add_epi32(twice, _mm512_set1_epi32(8 * q));
            from = _mm512_mask_add_epi32(from, k, from, _mm512_set1_epi32(states / 2));
            _mm_storeu_si128((__m128i *)(c->from + i * states + 16 * q), _mm512_cvtepi32_epi8(from));
            _mm512_storeu_ps(c->errors + i * states + 16 * q, v[q]);
        }
        if (i % BD_SEARCH_RENORM == BD_SEARCH_RENORM - 1) {
            const __m512 take = _mm512_broadcastss_ps(_mm512_castps512_ps128(now[0]));
            for (int p = 0; p < parts; p++) now[p] = _mm512_sub_ps(now[p], take);
        }
        for (int64_t l = i + 1 - i0; l < i1 - i0; l++) {
            float *line = turned + l * states;
            const __m512 bl = _mm512_set1_ps(b[l]);
            __m512 s[MOST];
            for (int p = 0; p < parts; p++) s[p] = _mm512_load_ps(line + 16 * p);
            for (int q = 0; q < parts; q++) {
                __m512 x = _mm512_permutex2var_ps(s[q / 2], back[q], s[q / 2 + apart]);
                _mm512_store_ps(line + 16 * q, _mm512_add_ps(x, _mm512_mul_ps(bl, v[q])));
            }
        }
    }
    for (int p = 0; p < parts; p++) _mm512_storeu_ps(now_at + 16 * p, now[p]);
}

#define BLOCK(n)                                                                                           \
    AVX512 static void block##n##_avx512(bd_coupled *c, int64_t i0, int64_t i1, float *now, float *sums) { \
        block_by16(c, i0, i1, now, sums, n);                                                               \
    }
BLOCK(16)
BLOCK(32)
BLOCK(64)
BLOCK(128)
BLOCK(256)

AVX512 static void coupled_avx512(bd_coupled *c) {
    switch (c->trellis ? c->trellis->states : 0) {
        case 8: trellis_body(c, 8, block8_avx512, 16); return;
        case 16: trellis_body(c, 16, block16_avx512, 16); return;
        case 32: trellis_body(c, 32, block32_avx512, 16); return;
        case 64: trellis_body(c, 64, block64_avx512, 16); return;
        case 128: trellis_body(c, 128, block128_avx512, 16); return;
        case 256: trellis_body(c, 256, block256_avx512, 16); return;
        default: coupled_body(c, 16); return;
    }
}
#endif

bd_coupled_fn *bd_coupled_at(int i) {
    bd_coupled_fn *all[3];
    int n = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        all[n++] = coupled_avx512;
    if (__builtin_cpu_supports("avx2")) all[n++] = coupled_avx2;
#endif
    all[n++] = coupled_plain;
    return i >= 0 && i < n ? all[i] : NULL;
}
