/* The cores of bd_expf, bd_tanhf, bd_exp and bd_tanh: straight-line sequences of
 * IEEE operations, numbered so that a vector twin can copy them lane by lane and
 * give the same bits. Every numbered step is one operation (or one exact bit
 * operation). `min(a, b)` below is a < b ? a : b with the operands in the order
 * written: that is what minps/minpd do, and it keeps a NaN given as b.
 *
 * Scaling by 2^n is two multiplications by powers of two, 2^(n >> 1) and
 * 2^(n - (n >> 1)): the first is exact, so a subnormal result is rounded once
 * and an overflow gives infinity. */
#ifndef BD_BASE_FMATH_CORE_H
#define BD_BASE_FMATH_CORE_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bd_bits_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float bd_f32_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline uint64_t bd_bits_f64(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline double bd_f64_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline float bd_fma32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double bd_fma64(double a, double b, double c) { return __builtin_fma(a, b, c); }

/* --- float --- */
#define BD_EXPF_LOG2E  0x1.715476p+0f
#define BD_EXPF_MAGIC  0x1.8p+23f   /* adding it rounds to an integer in the low bits */
#define BD_EXPF_LN2_HI 0x1.62e4p-1f /* 16 bits: n * LN2_HI is exact */
#define BD_EXPF_LN2_LO 0x1.7f7d1cp-20f
#define BD_EXPF_HI     89.0f   /* above: infinity */
#define BD_EXPF_LO     -104.0f /* below: zero */
/* (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, fitted; relative error of e^r 3.0e-10 */
#define BD_EXPF_Q5  0x1.a2cadap-13f
#define BD_EXPF_Q4  0x1.6d30b6p-10f
#define BD_EXPF_Q3  0x1.110fc8p-7f
#define BD_EXPF_Q2  0x1.5555p-5f
#define BD_EXPF_Q1  0x1.555556p-3f
#define BD_EXPF_Q0  0.5f
#define BD_TANHF_HI 20.0f /* from 2|x| = 20 on tanh is 1 */

/* x = n * ln 2 + r: returns e^r - 1 and the integer n. Steps 1-12. */
static inline float bd_expm1f_reduced(float x, int32_t *n_out) {
    const float t = bd_fma32(x, BD_EXPF_LOG2E, BD_EXPF_MAGIC); /* 1 */
    const float n = t - BD_EXPF_MAGIC;                         /* 2 */
    float r = bd_fma32(-n, BD_EXPF_LN2_HI, x);                 /* 3 */
    r = bd_fma32(-n, BD_EXPF_LN2_LO, r);                       /* 4 */
    float q = BD_EXPF_Q5;
    q = bd_fma32(q, r, BD_EXPF_Q4); /* 5 */
    q = bd_fma32(q, r, BD_EXPF_Q3); /* 6 */
    q = bd_fma32(q, r, BD_EXPF_Q2); /* 7 */
    q = bd_fma32(q, r, BD_EXPF_Q1); /* 8 */
    q = bd_fma32(q, r, BD_EXPF_Q0); /* 9 */
    const float r2 = r * r;         /* 10 */
    /* 11: n as an integer, from the low bits of t (integer subtraction, wraps) */
    *n_out = (int32_t)(bd_bits_f32(t) - bd_bits_f32(BD_EXPF_MAGIC));
    return bd_fma32(q, r2, r); /* 12 */
}

static inline float bd_expf_core(float x) {
    x = BD_EXPF_HI < x ? BD_EXPF_HI : x; /* E1: min(HI, x) */
    x = BD_EXPF_LO > x ? BD_EXPF_LO : x; /* E2: max(LO, x) */
    int32_t n;
    const float em1 = bd_expm1f_reduced(x, &n);                /* steps 1-12 */
    const float p = em1 + 1.0f;                                /* E3 */
    const int32_t n1 = n >> 1;                                 /* E4: arithmetic shift */
    const int32_t n2 = n - n1;                                 /* E5 */
    const float s1 = bd_f32_bits(((uint32_t)n1 + 127u) << 23); /* E6 */
    const float s2 = bd_f32_bits(((uint32_t)n2 + 127u) << 23); /* E7 */
    return (p * s1) * s2;                                      /* E8, E9 */
}

/* (tanh a - a) / a^3 in a^2, a < 0.625, fitted; relative error 9.9e-10 */
#define BD_TANHF_P5  0x1.3caf06p-9f
#define BD_TANHF_P4  -0x1.15be38p-7f
#define BD_TANHF_P3  0x1.6580f8p-6f
#define BD_TANHF_P2  -0x1.ba1b12p-5f
#define BD_TANHF_P1  0x1.11113ap-3f
#define BD_TANHF_P0  -0x1.555556p-2f
#define BD_TANHF_CUT 0.625f

/* a = |x|: below 0.625 an odd polynomial, else 1 - 2 / (e^(2a) + 1). Both sides
 * may be computed and one selected. */
static inline float bd_tanhf_core(float x) {
    const uint32_t sign = bd_bits_f32(x) & 0x80000000u; /* T1 */
    const float a = bd_f32_bits(bd_bits_f32(x) ^ sign); /* T2: |x| */
    const float z = a * a;                              /* T3 */
    float p = BD_TANHF_P5;
    p = bd_fma32(p, z, BD_TANHF_P4);        /* T4 */
    p = bd_fma32(p, z, BD_TANHF_P3);        /* T5 */
    p = bd_fma32(p, z, BD_TANHF_P2);        /* T6 */
    p = bd_fma32(p, z, BD_TANHF_P1);        /* T7 */
    p = bd_fma32(p, z, BD_TANHF_P0);        /* T8 */
    const float az = a * z;                 /* T9 */
    const float small = bd_fma32(p, az, a); /* T10 */
    float b = a + a;                        /* T11 */
    b = BD_TANHF_HI < b ? BD_TANHF_HI : b;  /* T12: min(HI, b) */
    int32_t n;
    const float em1 = bd_expm1f_reduced(b, &n);              /* T13: steps 1-12 */
    const float s = bd_f32_bits(((uint32_t)n + 127u) << 23); /* T14: 2^n, n = 0..29 */
    const float sp1 = s + 1.0f;                              /* T15 */
    const float d = bd_fma32(s, em1, sp1);                   /* T16: e^(2a) + 1 */
    const float w = 2.0f / d;                                /* T17 */
    const float large = 1.0f - w;                            /* T18 */
    const float y = a < BD_TANHF_CUT ? small : large;        /* T19: NaN goes to large */
    return bd_f32_bits(bd_bits_f32(y) | sign);               /* T20: y is >= +0 or NaN */
}

/* --- double: the same steps with other constants --- */
#define BD_EXP_LOG2E  0x1.71547652b82fep+0
#define BD_EXP_MAGIC  0x1.8p+52
#define BD_EXP_LN2_HI 0x1.62e42fefa38p-1 /* 42 bits: n * LN2_HI is exact */
#define BD_EXP_LN2_LO 0x1.ef35793c7673p-45
#define BD_EXP_HI     710.0
#define BD_EXP_LO     -746.0
/* (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, fitted; relative error of e^r 2.3e-19 */
#define BD_EXP_Q10 0x1.1f794cb7e7babp-29
#define BD_EXP_Q9  0x1.af4f71f1f705ep-26
#define BD_EXP_Q8  0x1.27e4d7e5d343ap-22
#define BD_EXP_Q7  0x1.71de0162f55adp-19
#define BD_EXP_Q6  0x1.a01a01a8274cfp-16
#define BD_EXP_Q5  0x1.a01a01ac3207cp-13
#define BD_EXP_Q4  0x1.6c16c16c15fe5p-10
#define BD_EXP_Q3  0x1.1111111110037p-7
#define BD_EXP_Q2  0x1.5555555555556p-5
#define BD_EXP_Q1  0x1.5555555555557p-3
#define BD_EXP_Q0  0.5
#define BD_TANH_HI 44.0

/* Steps 1-17. n fits in 12 bits; only the low 32 bits of the difference matter. */
static inline double bd_expm1_reduced(double x, int64_t *n_out) {
    const double t = bd_fma64(x, BD_EXP_LOG2E, BD_EXP_MAGIC); /* 1 */
    const double n = t - BD_EXP_MAGIC;                        /* 2 */
    double r = bd_fma64(-n, BD_EXP_LN2_HI, x);                /* 3 */
    r = bd_fma64(-n, BD_EXP_LN2_LO, r);                       /* 4 */
    double q = BD_EXP_Q10;
    q = bd_fma64(q, r, BD_EXP_Q9);                                  /* 5 */
    q = bd_fma64(q, r, BD_EXP_Q8);                                  /* 6 */
    q = bd_fma64(q, r, BD_EXP_Q7);                                  /* 7 */
    q = bd_fma64(q, r, BD_EXP_Q6);                                  /* 8 */
    q = bd_fma64(q, r, BD_EXP_Q5);                                  /* 9 */
    q = bd_fma64(q, r, BD_EXP_Q4);                                  /* 10 */
    q = bd_fma64(q, r, BD_EXP_Q3);                                  /* 11 */
    q = bd_fma64(q, r, BD_EXP_Q2);                                  /* 12 */
    q = bd_fma64(q, r, BD_EXP_Q1);                                  /* 13 */
    q = bd_fma64(q, r, BD_EXP_Q0);                                  /* 14 */
    const double r2 = r * r;                                        /* 15 */
    *n_out = (int64_t)(bd_bits_f64(t) - bd_bits_f64(BD_EXP_MAGIC)); /* 16 */
    return bd_fma64(q, r2, r);                                      /* 17 */
}

static inline double bd_exp_core(double x) {
    x = BD_EXP_HI < x ? BD_EXP_HI : x; /* E1 */
    x = BD_EXP_LO > x ? BD_EXP_LO : x; /* E2 */
    int64_t n;
    const double em1 = bd_expm1_reduced(x, &n); /* steps 1-17 */
    const double p = em1 + 1.0;                 /* E3 */
    /* E4-E7. A vector twin without a 64-bit arithmetic shift may shift the low
     * 32 bits: for every x but NaN, n lies in -1076..1025. */
    const int64_t n1 = n >> 1;
    const int64_t n2 = n - n1;
    const double s1 = bd_f64_bits(((uint64_t)n1 + 1023u) << 52);
    const double s2 = bd_f64_bits(((uint64_t)n2 + 1023u) << 52);
    return (p * s1) * s2; /* E8, E9 */
}

/* tanh |x| = E / (E + 2), E = e^(2|x|) - 1 = 2^n * (e^r - 1) + (2^n - 1). */
static inline double bd_tanh_core(double x) {
    const uint64_t sign = bd_bits_f64(x) & 0x8000000000000000u;
    double a = bd_f64_bits(bd_bits_f64(x) ^ sign);
    a = a + a;
    a = BD_TANH_HI < a ? BD_TANH_HI : a;
    int64_t n;
    const double em1 = bd_expm1_reduced(a, &n);
    const double s = bd_f64_bits(((uint64_t)n + 1023u) << 52);
    const double e = bd_fma64(s, em1, s - 1.0);
    const double y = e / (e + 2.0);
    return bd_f64_bits(bd_bits_f64(y) | sign);
}

#endif
