#include "base/fmath.h"

#include "base/fmath_core.h"

float bd_expf(float x) { return bd_expf_core(x); }
float bd_tanhf(float x) { return bd_tanhf_core(x); }
double bd_exp(double x) { return bd_exp_core(x); }
double bd_tanh(double x) { return bd_tanh_core(x); }

/* --- logarithm ---
 * x = 2^k * m, m in [sqrt(1/2), sqrt(2)); f = m - 1, s = f / (2 + f), z = s * s:
 * log m = 2 atanh s = f - s * (f - z * P(z)). */

#define LOG_LN2_HI BD_EXP_LN2_HI
#define LOG_LN2_LO BD_EXP_LN2_LO
/* 2/3 + 2/5 z + ... on |s| <= 0.1716, fitted; relative error of log m 4.5e-18 */
static const double log_p[7] = {0x1.5555555555558p-1, 0x1.9999999995309p-2, 0x1.2492492df1e99p-2,
                                0x1.c71c62e28b27dp-3, 0x1.7462b5c3e3a3bp-3, 0x1.39fe384090dfbp-3,
                                0x1.2b5a4d2779fdbp-3};

/* m in [sqrt(1/2), sqrt(2)) and k with x = 2^k * m; x > 0 and finite. */
static double split_log(double x, double *k_out) {
    int64_t k = 0;
    if (x < 0x1p-1022) { /* subnormal */
        x *= 0x1p54;
        k = -54;
    }
    const uint64_t u = bd_bits_f64(x);
    /* 0x3fe6a09e667f3bcd is sqrt(1/2): the exponent field of the difference is k. */
    const uint64_t d = u - 0x3fe6a09e667f3bcdu;
    k += (int64_t)d >> 52;
    *k_out = (double)k;
    return bd_f64_bits(u - (d & 0xfff0000000000000u));
}

double bd_log(double x) {
    if (!(x > 0)) return x == 0 ? -__builtin_inf() : __builtin_nan("");
    if (x > 0x1.fffffffffffffp+1023) return x;
    double k;
    const double m = split_log(x, &k);
    const double f = m - 1.0; /* 1: exact */
    const double d = f + 2.0; /* 2 */
    const double s = f / d;   /* 3 */
    const double z = s * s;   /* 4 */
    double p = log_p[6];      /* 5-10: Horner */
    for (int i = 5; i >= 0; i--) p = bd_fma64(p, z, log_p[i]);
    const double w = bd_fma64(-z, p, f);         /* 11: f - z * P(z) */
    const double l = bd_fma64(-s, w, f);         /* 12 */
    const double t = bd_fma64(k, LOG_LN2_LO, l); /* 13 */
    return bd_fma64(k, LOG_LN2_HI, t);           /* 14 */
}

/* --- sine and cosine, |x| <= 2^20; NaN beyond ---
 * x = n * pi/2 + r with pi/2 in three parts of 33, 33 and 53 bits, so that
 * n * PIO2_1 and n * PIO2_2 are exact. */

#define TRIG_MAX    0x1p20
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define PIO2_1      0x1.921fb544p+0
#define PIO2_2      0x1.0b4611a6p-34
#define PIO2_3      0x1.3198a2e037073p-69
/* (sin r - r) / r^3 in r^2, relative error 1.4e-17 */
static const double sin_p[6] = {-0x1.5555555555555p-3, 0x1.1111111110c7ap-7,   -0x1.a01a019e9eabap-13,
                                0x1.71de37ae51ef8p-19, -0x1.ae601d48b6234p-26, 0x1.5e10311908f4fp-33};
/* (cos r - 1 + r^2/2) / r^4 in r^2 */
static const double cos_p[6] = {0x1.5555555555555p-5,   -0x1.6c16c16c168c8p-10, 0x1.a01a019f3790bp-16,
                                -0x1.27e4fa01e1d62p-22, 0x1.1eeb56a7fb651p-29,  -0x1.90729ceec5ef3p-37};

/* sin(x + quarter * pi/2) */
static double trig(double x, uint32_t quarter) {
    if (!(x >= -TRIG_MAX && x <= TRIG_MAX)) return __builtin_nan("");
    const double t = bd_fma64(x, TWO_OVER_PI, BD_EXP_MAGIC);      /* 1 */
    const double n = t - BD_EXP_MAGIC;                            /* 2 */
    double r = bd_fma64(-n, PIO2_1, x);                           /* 3 */
    r = bd_fma64(-n, PIO2_2, r);                                  /* 4 */
    r = bd_fma64(-n, PIO2_3, r);                                  /* 5 */
    const uint32_t q = (uint32_t)(bd_bits_f64(t) & 3u) + quarter; /* 6 */
    const double z = r * r;                                       /* 7 */
    double y;
    if (q & 1) {
        double p = cos_p[5]; /* 8-12 */
        for (int i = 4; i >= 0; i--) p = bd_fma64(p, z, cos_p[i]);
        const double h = bd_fma64(-0.5, z, 1.0); /* 13 */
        /* 14: what rounding took from h, put back: 1 - h is exact */
        const double e = bd_fma64(-0.5, z, 1.0 - h);
        const double z2 = z * z;    /* 15 */
        y = bd_fma64(z2, p, e) + h; /* 16, 17 */
    } else {
        double p = sin_p[5]; /* 8-12 */
        for (int i = 4; i >= 0; i--) p = bd_fma64(p, z, sin_p[i]);
        const double rz = r * z; /* 13 */
        y = bd_fma64(rz, p, r);  /* 14 */
    }
    return q & 2 ? -y : y;
}

double bd_sin(double x) { return x == 0 ? x : trig(x, 0); }
double bd_cos(double x) { return trig(x, 1); }

/* --- power ---
 * y * log x needs about 10 bits more than a double holds, so log x is a sum of
 * two doubles. A pair (h, l) stands for h + l. */

typedef struct pair {
    double h, l;
} pair;

static pair two_sum(double a, double b) {
    const double s = a + b, t = s - a;
    return (pair){s, (a - (s - t)) + (b - t)};
}
static pair quick_sum(double a, double b) { /* |a| >= |b| */
    const double s = a + b;
    return (pair){s, b - (s - a)};
}
static pair pair_mul(pair a, pair b) {
    const double p = a.h * b.h;
    double e = bd_fma64(a.h, b.h, -p);
    e = bd_fma64(a.h, b.l, e);
    e = bd_fma64(a.l, b.h, e);
    return quick_sum(p, e);
}

/* 2/5 + 2/7 z + ... : what follows the cubic term; relative error of log m 1.5e-21 */
static const double log2nd_p[8] = {0x1.999999999999ap-2, 0x1.24924924922fdp-2, 0x1.c71c71c74ccd0p-3,
                                   0x1.745d173c97e37p-3, 0x1.3b13a9eb0b3e2p-3, 0x1.11154a93dc1bfp-3,
                                   0x1.e01ac5d0ee9a1p-4, 0x1.da97c9d54cbd6p-4};

static pair log_pair(double x) {
    double k;
    const double m = split_log(x, &k);
    const double f = m - 1.0;
    const pair d = two_sum(f, 2.0);
    pair s;
    s.h = f / d.h;
    s.l = bd_fma64(-s.h, d.l, bd_fma64(-s.h, d.h, f)) / d.h;
    const pair z = pair_mul(s, s);
    /* 2 s + s z (2/3 + z P(z)) */
    double p = log2nd_p[7];
    for (int i = 6; i >= 0; i--) p = bd_fma64(p, z.h, log2nd_p[i]);
    const pair zp = {z.h * p, 0};
    pair c = two_sum(0x1.5555555555555p-1, zp.h);
    c.l += 0x1.5555555555555p-55;
    const pair sz = pair_mul(s, z);
    const pair cubic = pair_mul(sz, c);
    /* k ln 2 + 2 s + cubic, largest first; k * LN2_HI is exact */
    pair a = two_sum(k * LOG_LN2_HI, 2 * s.h);
    const pair b = two_sum(a.h, cubic.h);
    const double low = ((a.l + b.l) + (2 * s.l + cubic.l)) + k * LOG_LN2_LO;
    return quick_sum(b.h, low);
}

double bd_pow(double x, double y) {
    if (y == 0 || x == 1) return 1;
    if (!(x > 0) || x > 0x1.fffffffffffffp+1023 || y != y) return __builtin_nan("");
    const pair l = log_pair(x);
    const double h = y * l.h;
    if (!(h > -800 && h < 800)) return bd_exp(h);
    const double e = bd_fma64(y, l.l, bd_fma64(y, l.h, -h));
    /* e^(h + e) = e^h + e^h * e, as |e| is tiny */
    const double v = bd_exp(h);
    return v > 0x1.fffffffffffffp+1023 ? v : bd_fma64(v, e, v);
}
