/* Vector twins of base/fmath_core.h: each lane gives the bits of the scalar
 * function (any NaN stands for any NaN). Include after simd_avx2.h or
 * simd_avx512.h. Steps are numbered as there.
 *
 * AVX-512 scales by 2^n with one instruction instead of two exact-then-rounded
 * multiplications: p * 2^n rounded once, which is what they give. */
#ifndef BD_KERNELS_CPU_VMATH_H
#define BD_KERNELS_CPU_VMATH_H

#include "base/fmath_core.h"

#define VMATH_FN static inline __attribute__((always_inline, unused))

/* e^r - 1, and the sum t whose low bits hold n and which n came from: steps 1-12. */
VMATH_FN vf vexpm1f_reduced(vf x, vf *t_out, vf *n_out) {
    const vf t = vf_fma(x, vf_set1(BD_EXPF_LOG2E), vf_set1(BD_EXPF_MAGIC));
    const vf n = vf_sub(t, vf_set1(BD_EXPF_MAGIC));
    vf r = vf_fnma(n, vf_set1(BD_EXPF_LN2_HI), x);
    r = vf_fnma(n, vf_set1(BD_EXPF_LN2_LO), r);
    vf q = vf_set1(BD_EXPF_Q5);
    q = vf_fma(q, r, vf_set1(BD_EXPF_Q4));
    q = vf_fma(q, r, vf_set1(BD_EXPF_Q3));
    q = vf_fma(q, r, vf_set1(BD_EXPF_Q2));
    q = vf_fma(q, r, vf_set1(BD_EXPF_Q1));
    q = vf_fma(q, r, vf_set1(BD_EXPF_Q0));
    *t_out = t;
    *n_out = n;
    return vf_fma(q, vf_mul(r, r), r);
}

VMATH_FN vf vexpf(vf x) {
    x = vf_min(vf_set1(BD_EXPF_HI), x); /* E1: a NaN stays */
    x = vf_max(vf_set1(BD_EXPF_LO), x); /* E2 */
    vf t, n;
    const vf p = vf_add(vexpm1f_reduced(x, &t, &n), vf_set1(1.0f)); /* E3 */
#if SIMD_AVX512
    (void)t;
    return _mm512_scalef_ps(p, n); /* E4-E9 */
#else
    const vi i = vi_sub(vi_of_bits(t), vi_of_bits(vf_set1(BD_EXPF_MAGIC)));
    const vi i1 = vi_sra(i, 1), i2 = vi_sub(i, i1);
    const vf s1 = vf_of_bits(vi_sll(vi_add(i1, vi_set1(127)), 23));
    const vf s2 = vf_of_bits(vi_sll(vi_add(i2, vi_set1(127)), 23));
    return vf_mul(vf_mul(p, s1), s2);
#endif
}

VMATH_FN vf vtanhf(vf x) {
    const vi sign = vi_and(vi_of_bits(x), vi_set1(INT32_MIN)); /* T1 */
    const vf a = vf_of_bits(vi_xor(vi_of_bits(x), sign));      /* T2 */
    const vf z = vf_mul(a, a);                                 /* T3 */
    vf p = vf_set1(BD_TANHF_P5);
    p = vf_fma(p, z, vf_set1(BD_TANHF_P4));
    p = vf_fma(p, z, vf_set1(BD_TANHF_P3));
    p = vf_fma(p, z, vf_set1(BD_TANHF_P2));
    p = vf_fma(p, z, vf_set1(BD_TANHF_P1));
    p = vf_fma(p, z, vf_set1(BD_TANHF_P0));                  /* T8 */
    const vf small = vf_fma(p, vf_mul(a, z), a);             /* T9, T10 */
    const vf b = vf_min(vf_set1(BD_TANHF_HI), vf_add(a, a)); /* T11, T12 */
    vf t, n;
    const vf em1 = vexpm1f_reduced(b, &t, &n); /* T13 */
    /* T14: the magic number's own bits are shifted out */
    const vf s = vf_of_bits(vi_sll(vi_add(vi_of_bits(t), vi_set1(127)), 23));
    const vf d = vf_fma(s, em1, vf_add(s, vf_set1(1.0f)));                 /* T15, T16 */
    const vf large = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), d));      /* T17, T18 */
    const vf y = vf_select(vf_lt(a, vf_set1(BD_TANHF_CUT)), small, large); /* T19 */
    return vf_of_bits(vi_or(vi_of_bits(y), sign));                         /* T20 */
}

/* bd_exp, in double. */
VMATH_FN vd vexp(vd x) {
#if SIMD_AVX512
    x = _mm512_min_pd(vd_set1(BD_EXP_HI), x); /* E1 */
    x = _mm512_max_pd(vd_set1(BD_EXP_LO), x); /* E2 */
#else
    x = _mm256_min_pd(vd_set1(BD_EXP_HI), x);
    x = _mm256_max_pd(vd_set1(BD_EXP_LO), x);
#endif
    const vd t = vd_fma(x, vd_set1(BD_EXP_LOG2E), vd_set1(BD_EXP_MAGIC)); /* 1 */
    const vd n = vd_sub(t, vd_set1(BD_EXP_MAGIC));                        /* 2 */
    vd r = vd_fnma(n, vd_set1(BD_EXP_LN2_HI), x);                         /* 3 */
    r = vd_fnma(n, vd_set1(BD_EXP_LN2_LO), r);                            /* 4 */
    vd q = vd_set1(BD_EXP_Q10);
    q = vd_fma(q, r, vd_set1(BD_EXP_Q9)); /* 5 */
    q = vd_fma(q, r, vd_set1(BD_EXP_Q8));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q7));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q6));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q5));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q4));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q3));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q2));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q1));
    q = vd_fma(q, r, vd_set1(BD_EXP_Q0));                          /* 14 */
    const vd p = vd_add(vd_fma(q, vd_mul(r, r), r), vd_set1(1.0)); /* 15, 17, E3 */
#if SIMD_AVX512
    return _mm512_scalef_pd(p, n); /* E4-E9 */
#else
    /* The low 32 bits of t are n; what stands above the low 12 is shifted out. */
    const __m256i i = _mm256_castpd_si256(t);
    const __m256i i1 = _mm256_srai_epi32(i, 1), i2 = _mm256_sub_epi32(i, i1);
    const __m256i bias = _mm256_set1_epi64x(1023);
    const vd s1 = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(i1, bias), 52));
    const vd s2 = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(i2, bias), 52));
    return vd_mul(vd_mul(p, s1), s2);
#endif
}

#endif
