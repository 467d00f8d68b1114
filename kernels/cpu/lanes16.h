/* Sixteen lanes at a time: v16 (floats) and d16 (doubles) of simd_*.h with the
 * rest of their arithmetic. Include after one of those.
 *
 * `w` is the number of elements present, 1..16: memory beyond them is neither
 * read nor written, and the accumulating forms leave the lanes beyond them
 * alone (adding a zero is not nothing when a lane holds -0). A constant 16
 * costs no mask; V16_EACH writes a loop so that all rounds but the last have it. */
#ifndef BD_KERNELS_CPU_LANES16_H
#define BD_KERNELS_CPU_LANES16_H

#include "kernels/cpu/vmath.h"

#define L16_FN static inline __attribute__((always_inline, unused))

/* Run the statement for j = begin, begin + 16, ... with w elements at j. */
#define V16_EACH(begin, end, ...)           \
    do {                                    \
        int64_t j = (begin);                \
        const int64_t j_end = (end);        \
        for (; j + 16 <= j_end; j += 16) {  \
            enum { w = 16 };                \
            __VA_ARGS__                     \
        }                                   \
        if (j < j_end) {                    \
            const int w = (int)(j_end - j); \
            __VA_ARGS__                     \
        }                                   \
    } while (0)

#if SIMD_AVX512

typedef vm m16;
#define V16_1(op, x)       op(x)
#define V16_2(op, x, y)    op((x), (y))
#define V16_3(op, x, y, z) op((x), (y), (z))
#define D16_1(op, x)       ((d16){{op((x).q[0]), op((x).q[1])}})
#define D16_2(op, x, y)    ((d16){{op((x).q[0], (y).q[0]), op((x).q[1], (y).q[1])}})
#define D16_3(op, x, y, z) ((d16){{op((x).q[0], (y).q[0], (z).q[0]), op((x).q[1], (y).q[1], (z).q[1])}})

L16_FN v16 v16_set1(float x) { return vf_set1(x); }
L16_FN void v16_put(float *p, v16 x, int w) {
    if (w == 16) vf_store(p, x);
    else vf_storem(p, vm_first(w), x);
}
L16_FN m16 v16_gt(v16 x, v16 y) { return vf_gt(x, y); }
L16_FN v16 v16_select(m16 m, v16 yes, v16 no) { return vf_select(m, yes, no); }
L16_FN v16 v16_acc_max(v16 acc, v16 x, int w) { return _mm512_mask_max_ps(acc, vm_first(w), acc, x); }
L16_FN float v16_max_all(v16 x) { return _mm512_reduce_max_ps(x); }
/* Both halves of 16 pairs (c, s), (c, s) ... */
L16_FN void v16_split(v16 lo, v16 hi, v16 *c, v16 *s) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    *c = _mm512_permutex2var_ps(lo, even, hi);
    *s = _mm512_permutex2var_ps(lo, odd, hi);
}

L16_FN d16 d16_set1(double x) { return (d16){{vd_set1(x), vd_set1(x)}}; }
L16_FN d16 d16_widen(v16 x) {
    return (d16){{_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))}};
}
L16_FN v16 d16_narrow(d16 x) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(x.q[0])), _mm512_cvtpd_ps(x.q[1]), 1);
}
L16_FN d16 d16_get(const double *p, int w) {
    if (w == 16) return (d16){{vd_load(p), vd_load(p + 8)}};
    const vm m = vm_first(w);
    return (d16){{_mm512_maskz_loadu_pd((__mmask8)m, p), _mm512_maskz_loadu_pd((__mmask8)(m >> 8), p + 8)}};
}
L16_FN void d16_put(double *p, d16 x, int w) {
    const vm m = vm_first(w);
    _mm512_mask_storeu_pd(p, (__mmask8)m, x.q[0]);
    _mm512_mask_storeu_pd(p + 8, (__mmask8)(m >> 8), x.q[1]);
}
L16_FN d16 d16_keep(d16 r, d16 acc, int w) { /* r in the first w lanes, acc in the others */
    const vm m = vm_first(w);
    return (d16){{_mm512_mask_blend_pd((__mmask8)m, acc.q[0], r.q[0]),
                  _mm512_mask_blend_pd((__mmask8)(m >> 8), acc.q[1], r.q[1])}};
}

#else

typedef struct m16 {
    vm lo, hi;
} m16;
#define V16_1(op, x)       ((v16){op((x).lo), op((x).hi)})
#define V16_2(op, x, y)    ((v16){op((x).lo, (y).lo), op((x).hi, (y).hi)})
#define V16_3(op, x, y, z) ((v16){op((x).lo, (y).lo, (z).lo), op((x).hi, (y).hi, (z).hi)})
#define D16_1(op, x)       ((d16){{op((x).q[0]), op((x).q[1]), op((x).q[2]), op((x).q[3])}})
#define D16_2(op, x, y) \
    ((d16){{op((x).q[0], (y).q[0]), op((x).q[1], (y).q[1]), op((x).q[2], (y).q[2]), op((x).q[3], (y).q[3])}})
#define D16_3(op, x, y, z)                                                                                        \
    ((d16){{op((x).q[0], (y).q[0], (z).q[0]), op((x).q[1], (y).q[1], (z).q[1]), op((x).q[2], (y).q[2], (z).q[2]), \
            op((x).q[3], (y).q[3], (z).q[3])}})

L16_FN v16 v16_set1(float x) { return (v16){vf_set1(x), vf_set1(x)}; }
L16_FN void v16_put(float *p, v16 x, int w) {
    if (w == 16) {
        vf_store(p, x.lo);
        vf_store(p + 8, x.hi);
        return;
    }
    vf_storem(p, vm_first(w), x.lo);
    if (w > 8) vf_storem(p + 8, vm_first(w - 8), x.hi);
}
L16_FN m16 v16_gt(v16 x, v16 y) { return (m16){vf_gt(x.lo, y.lo), vf_gt(x.hi, y.hi)}; }
L16_FN v16 v16_select(m16 m, v16 yes, v16 no) {
    return (v16){vf_select(m.lo, yes.lo, no.lo), vf_select(m.hi, yes.hi, no.hi)};
}
L16_FN v16 v16_acc_max(v16 acc, v16 x, int w) {
    const v16 r = {vf_max(acc.lo, x.lo), vf_max(acc.hi, x.hi)};
    if (w == 16) return r;
    return v16_select((m16){vm_first(w), vm_first(w - 8)}, r, acc);
}
L16_FN float v16_max_all(v16 x) {
    const vf e = vf_max(x.lo, x.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
L16_FN void v16_split8(vf lo, vf hi, vf *c, vf *s) {
    const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(lo, hi, 0x88));
    const __m256d o = _mm256_castps_pd(_mm256_shuffle_ps(lo, hi, 0xdd));
    *c = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
    *s = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
L16_FN void v16_split(v16 lo, v16 hi, v16 *c, v16 *s) {
    v16_split8(lo.lo, lo.hi, &c->lo, &s->lo);
    v16_split8(hi.lo, hi.hi, &c->hi, &s->hi);
}

L16_FN d16 d16_set1(double x) { return (d16){{vd_set1(x), vd_set1(x), vd_set1(x), vd_set1(x)}}; }
L16_FN d16 d16_widen(v16 x) {
    return (d16){{_mm256_cvtps_pd(_mm256_castps256_ps128(x.lo)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.lo, 1)),
                  _mm256_cvtps_pd(_mm256_castps256_ps128(x.hi)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.hi, 1))}};
}
L16_FN v16 d16_narrow(d16 x) {
    return (v16){_mm256_set_m128(_mm256_cvtpd_ps(x.q[1]), _mm256_cvtpd_ps(x.q[0])),
                 _mm256_set_m128(_mm256_cvtpd_ps(x.q[3]), _mm256_cvtpd_ps(x.q[2]))};
}
L16_FN __m256i d4_first(int w) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(w), _mm256_setr_epi64x(0, 1, 2, 3)); }
L16_FN d16 d16_get(const double *p, int w) {
    if (w == 16) return (d16){{vd_load(p), vd_load(p + 4), vd_load(p + 8), vd_load(p + 12)}};
    d16 r = d16_zero();
    r.q[0] = _mm256_maskload_pd(p, d4_first(w));
    if (w > 4) r.q[1] = _mm256_maskload_pd(p + 4, d4_first(w - 4));
    if (w > 8) r.q[2] = _mm256_maskload_pd(p + 8, d4_first(w - 8));
    if (w > 12) r.q[3] = _mm256_maskload_pd(p + 12, d4_first(w - 12));
    return r;
}
L16_FN void d16_put(double *p, d16 x, int w) {
    _mm256_maskstore_pd(p, d4_first(w), x.q[0]);
    if (w > 4) _mm256_maskstore_pd(p + 4, d4_first(w - 4), x.q[1]);
    if (w > 8) _mm256_maskstore_pd(p + 8, d4_first(w - 8), x.q[2]);
    if (w > 12) _mm256_maskstore_pd(p + 12, d4_first(w - 12), x.q[3]);
}
L16_FN d16 d16_keep(d16 r, d16 acc, int w) {
    return (d16){{_mm256_blendv_pd(acc.q[0], r.q[0], _mm256_castsi256_pd(d4_first(w))),
                  _mm256_blendv_pd(acc.q[1], r.q[1], _mm256_castsi256_pd(d4_first(w - 4))),
                  _mm256_blendv_pd(acc.q[2], r.q[2], _mm256_castsi256_pd(d4_first(w - 8))),
                  _mm256_blendv_pd(acc.q[3], r.q[3], _mm256_castsi256_pd(d4_first(w - 12)))}};
}

#endif

L16_FN v16 v16_get(const float *p, int w) { return w == 16 ? v16_load(p) : v16_loadn(p, w); } /* 0 beyond w */
L16_FN void v16_get_pairs(const float *p, int w, v16 *c, v16 *s) {
    const v16 lo = v16_get(p, w >= 8 ? 16 : 2 * w);
    const v16 hi = w > 8 ? v16_get(p + 16, w == 16 ? 16 : 2 * w - 16) : v16_zero();
    v16_split(lo, hi, c, s);
}
L16_FN v16 v16_sub(v16 x, v16 y) { return V16_2(vf_sub, x, y); }
L16_FN v16 v16_mul(v16 x, v16 y) { return V16_2(vf_mul, x, y); }
L16_FN v16 v16_div(v16 x, v16 y) { return V16_2(vf_div, x, y); }
L16_FN v16 v16_sqrt(v16 x) { return V16_1(vf_sqrt, x); }
L16_FN v16 v16_neg(v16 x) { return V16_1(vf_neg, x); }
L16_FN v16 v16_fnma(v16 x, v16 y, v16 z) { return V16_3(vf_fnma, x, y, z); } /* -x*y + z */
L16_FN v16 v16_tanh(v16 x) { return V16_1(vtanhf, x); }
L16_FN v16 v16_acc_fma(v16 acc, v16 x, v16 y, int w) {
    return w == 16 ? v16_fma(x, y, acc) : v16_fman(x, y, acc, w);
}

L16_FN d16 d16_sub(d16 x, d16 y) { return D16_2(vd_sub, x, y); }
L16_FN d16 d16_exp(d16 x) { return D16_1(vexp, x); }
L16_FN d16 d16_acc_add(d16 acc, d16 x, int w) {
    const d16 r = D16_2(vd_add, acc, x);
    return w == 16 ? r : d16_keep(r, acc, w);
}
L16_FN d16 d16_acc_fma(d16 acc, d16 x, d16 y, int w) {
    const d16 r = D16_3(vd_fma, x, y, acc);
    return w == 16 ? r : d16_keep(r, acc, w);
}

#endif
