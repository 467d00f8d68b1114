/* Vectors at the AVX-512 level. simd_avx2.h has the same names; bodies are
 * written against them once. Nothing here contracts, reorders or approximates.
 *
 * vf: VF floats.  vd: VD doubles (VF / 2).  vm: a mask over the lanes of a vf.
 * v16, d16: 16 lanes of float or double, for the fixed order of sums over a
 * row (lane = index mod 16, then the tree 8-4-2-1). */
#ifndef BD_KERNELS_CPU_SIMD_AVX512_H
#define BD_KERNELS_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/simd_loop.h"

#define SIMD_FN(name) bd_cpu_##name##_avx512
#define SIMD_AVX512   1

enum { VF = 16, VD = 8 };
typedef __m512 vf;
typedef __m512i vi;
typedef __m512d vd;
typedef __mmask16 vm;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a * b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* -a * b + c */
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }              /* a > b ? a : b */
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }              /* a < b ? a : b */
static inline float vf_max_all(vf a) { return _mm512_reduce_max_ps(a); }         /* no NaN among them */

/* Masks. Lanes outside a mask are neither read nor written in memory. */
static inline vm vm_first(int64_t n) { return (vm)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u); }
static inline vf vf_loadm(const float *p, vm m) { return _mm512_maskz_loadu_ps(m, p); } /* 0 outside */
static inline void vf_storem(float *p, vm m, vf v) { _mm512_mask_storeu_ps(p, m, v); }
static inline vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline vm vf_isnan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline int vm_any(vm m) { return m != 0; }

/* 32-bit integers, for the insides of elementary functions. */
static inline vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
static inline vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
#define vi_sll(a, n) _mm512_slli_epi32((a), (n))
#define vi_srl(a, n) _mm512_srli_epi32((a), (n))
#define vi_sra(a, n) _mm512_srai_epi32((a), (n))
static inline vi vi_of_bits(vf a) { return _mm512_castps_si512(a); }
static inline vf vf_of_bits(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vi_round(vf a) { return _mm512_cvtps_epi32(a); } /* to nearest even */
static inline vf vf_of_int(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vf vf_neg(vf a) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}

static inline vd vd_zero(void) { return _mm512_setzero_pd(); }
static inline vd vd_set1(double x) { return _mm512_set1_pd(x); }
static inline vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
static inline void vd_store(double *p, vd v) { _mm512_storeu_pd(p, v); }
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
static inline vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
static inline vd vd_div(vd a, vd b) { return _mm512_div_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline vd vd_fnma(vd a, vd b, vd c) { return _mm512_fnmadd_pd(a, b, c); }
static inline vd vd_loadf(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); } /* VD floats, widened */
static inline void vd_storef(float *p, vd v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); } /* rounded to float */

/* 16 lanes of float. The forms ending in n change the first n lanes only: an
 * absent term is not a zero term (a lane may hold -0). */
typedef vf v16;
static inline v16 v16_zero(void) { return vf_zero(); }
static inline v16 v16_load(const float *p) { return vf_load(p); }
static inline v16 v16_loadn(const float *p, int64_t n) { return vf_loadm(p, vm_first(n)); }
static inline v16 v16_add(v16 acc, v16 x) { return vf_add(acc, x); }
static inline v16 v16_addn(v16 acc, v16 x, int64_t n) { return _mm512_mask_add_ps(acc, vm_first(n), acc, x); }
static inline v16 v16_fma(v16 a, v16 b, v16 acc) { return vf_fma(a, b, acc); }
static inline v16 v16_fman(v16 a, v16 b, v16 acc, int64_t n) {
    return _mm512_mask3_fmadd_ps(a, b, acc, vm_first(n));
}
/* l += l+8, l += l+4, l += l+2, l += l+1 */
static inline float v16_sum(v16 v) {
    __m256 h = _mm512_extractf32x8_ps(v, 1);
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), h);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* 16 lanes of double. */
typedef struct d16 {
    vd q[2];
} d16;
static inline d16 d16_zero(void) { return (d16){{vd_zero(), vd_zero()}}; }
static inline double d16_sum(d16 v) {
    vd e = vd_add(v.q[0], v.q[1]);
    __m256d f = _mm256_add_pd(_mm512_castpd512_pd256(e), _mm512_extractf64x4_pd(e, 1));
    __m128d g = _mm_add_pd(_mm256_castpd256_pd128(f), _mm256_extractf128_pd(f, 1));
    return _mm_cvtsd_f64(_mm_add_sd(g, _mm_unpackhi_pd(g, g)));
}
enum { D16_VECTORS = 2 }; /* q[i] holds lanes i*VD .. */

#endif
