/* Vectors at the AVX2 + FMA level: the names of simd_avx512.h, half as wide. */
#ifndef BD_KERNELS_CPU_SIMD_AVX2_H
#define BD_KERNELS_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/simd_loop.h"

#define SIMD_FN(name) bd_cpu_##name##_avx2
#define SIMD_AVX512   0

enum { VF = 8, VD = 4 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256d vd;
typedef __m256i vm; /* lanes all ones or all zeros */

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a * b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* -a * b + c */
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* a > b ? a : b */
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }              /* a < b ? a : b */
static inline float vf_max_all(vf a) {                                           /* no NaN among them */
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* Masks. Lanes outside a mask are neither read nor written in memory. */
static inline vm vm_first(int64_t n) {
    int k = n >= 8 ? 8 : n <= 0 ? 0 : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_loadm(const float *p, vm m) { return _mm256_maskload_ps(p, m); } /* 0 outside */
static inline void vf_storem(float *p, vm m, vf v) { _mm256_maskstore_ps(p, m, v); }
static inline vm vf_gt(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
static inline vm vf_lt(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
static inline vm vf_eq(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
static inline vm vf_isnan(vf a) { return _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m)); }
static inline int vm_any(vm m) { return _mm256_movemask_ps(_mm256_castsi256_ps(m)) != 0; }

/* 32-bit integers, for the insides of elementary functions. */
static inline vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
static inline vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
#define vi_sll(a, n) _mm256_slli_epi32((a), (n))
#define vi_srl(a, n) _mm256_srli_epi32((a), (n))
#define vi_sra(a, n) _mm256_srai_epi32((a), (n))
static inline vi vi_of_bits(vf a) { return _mm256_castps_si256(a); }
static inline vf vf_of_bits(vi a) { return _mm256_castsi256_ps(a); }
static inline vi vi_round(vf a) { return _mm256_cvtps_epi32(a); } /* to nearest even */
static inline vf vf_of_int(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vf vf_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }

static inline vd vd_zero(void) { return _mm256_setzero_pd(); }
static inline vd vd_set1(double x) { return _mm256_set1_pd(x); }
static inline vd vd_load(const double *p) { return _mm256_loadu_pd(p); }
static inline void vd_store(double *p, vd v) { _mm256_storeu_pd(p, v); }
static inline vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline vd vd_sub(vd a, vd b) { return _mm256_sub_pd(a, b); }
static inline vd vd_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }
static inline vd vd_div(vd a, vd b) { return _mm256_div_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline vd vd_fnma(vd a, vd b, vd c) { return _mm256_fnmadd_pd(a, b, c); }
static inline vd vd_loadf(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); } /* VD floats, widened */
static inline void vd_storef(float *p, vd v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); } /* rounded to float */

/* 16 lanes of float. The forms ending in n change the first n lanes only: an
 * absent term is not a zero term (a lane may hold -0). */
typedef struct v16 {
    vf lo, hi;
} v16;
static inline v16 v16_zero(void) { return (v16){vf_zero(), vf_zero()}; }
static inline v16 v16_load(const float *p) { return (v16){vf_load(p), vf_load(p + 8)}; }
static inline v16 v16_loadn(const float *p, int64_t n) {
    return (v16){vf_loadm(p, vm_first(n)), n > 8 ? vf_loadm(p + 8, vm_first(n - 8)) : vf_zero()};
}
static inline v16 v16_add(v16 acc, v16 x) { return (v16){vf_add(acc.lo, x.lo), vf_add(acc.hi, x.hi)}; }
static inline v16 v16_addn(v16 acc, v16 x, int64_t n) {
    v16 s = v16_add(acc, x);
    return (v16){vf_select(vm_first(n), s.lo, acc.lo), vf_select(vm_first(n - 8), s.hi, acc.hi)};
}
static inline v16 v16_fma(v16 a, v16 b, v16 acc) {
    return (v16){vf_fma(a.lo, b.lo, acc.lo), vf_fma(a.hi, b.hi, acc.hi)};
}
static inline v16 v16_fman(v16 a, v16 b, v16 acc, int64_t n) {
    v16 s = v16_fma(a, b, acc);
    return (v16){vf_select(vm_first(n), s.lo, acc.lo), vf_select(vm_first(n - 8), s.hi, acc.hi)};
}
/* l += l+8, l += l+4, l += l+2, l += l+1 */
static inline float v16_sum(v16 v) {
    __m256 a = _mm256_add_ps(v.lo, v.hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* 16 lanes of double. */
typedef struct d16 {
    vd q[4];
} d16;
static inline d16 d16_zero(void) { return (d16){{vd_zero(), vd_zero(), vd_zero(), vd_zero()}}; }
static inline double d16_sum(d16 v) {
    vd e0 = vd_add(v.q[0], v.q[2]), e1 = vd_add(v.q[1], v.q[3]);
    vd f = vd_add(e0, e1);
    __m128d g = _mm_add_pd(_mm256_castpd256_pd128(f), _mm256_extractf128_pd(f, 1));
    return _mm_cvtsd_f64(_mm_add_sd(g, _mm_unpackhi_pd(g, g)));
}
enum { D16_VECTORS = 4 }; /* q[i] holds lanes i*VD .. */

#endif
