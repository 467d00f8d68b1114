#include "base/numerics.h"

#include <fenv.h>
#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define FMA_TARGET __attribute__((target("fma"), noinline))
#else
#define FMA_TARGET __attribute__((noinline))
#endif

/* Compiled with the fma instruction at hand, so that a build which allows
 * contraction shows it here whatever its baseline processor is. */
FMA_TARGET static float mul_add_f32(float a, float b, float c) { return a * b + c; }
FMA_TARGET static double mul_add_f64(double a, double b, double c) { return a * b + c; }

/* Intrinsics are contracted as well by some compilers. */
FMA_TARGET static float mul_add_intrinsic(float a, float b, float c) {
#if defined(__x86_64__)
    return _mm_cvtss_f32(_mm_add_ss(_mm_mul_ss(_mm_set_ss(a), _mm_set_ss(b)), _mm_set_ss(c)));
#else
    return mul_add_f32(a, b, c);
#endif
}

bd_status bd_numerics_check(bd_err *err) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2"))
        return BD_FAIL(err, BD_E_UNSUPPORTED, "this processor lacks AVX2 and FMA, which exact arithmetic needs");
    unsigned mxcsr = _mm_getcsr();
    if (mxcsr & 0x8040u)
        return BD_FAIL(err, BD_E_NUMERICS,
                       "denormal numbers are flushed to zero in this thread (MXCSR %#x); a library or the option "
                       "-ffast-math did that",
                       mxcsr);
    if (mxcsr & 0x6000u)
        return BD_FAIL(err, BD_E_NUMERICS, "the SSE rounding mode is not to nearest (MXCSR %#x)", mxcsr);
#endif
    if (fegetround() != FE_TONEAREST) return BD_FAIL(err, BD_E_NUMERICS, "the rounding mode is not to nearest");

    volatile float tiny = 0x1p-126f, half = 0.5f;
    volatile float denormal = tiny * half;
    if (denormal == 0.0f) return BD_FAIL(err, BD_E_NUMERICS, "denormal numbers are flushed to zero");

    /* (1 + e)^2 - (1 + 2e) is e^2 in one rounding and 0 in two. */
    volatile float a = 1.0f + 0x1p-12f, c = -(1.0f + 0x1p-11f);
    volatile double da = 1.0 + 0x1p-27, dc = -(1.0 + 0x1p-26);
    if (mul_add_f32(a, a, c) != 0.0f || mul_add_f64(da, da, dc) != 0.0 || mul_add_intrinsic(a, a, c) != 0.0f)
        return BD_FAIL(err, BD_E_NUMERICS,
                       "this build contracts a*b+c; rebuild with -ffp-contract=off and without -ffast-math");
    if (fmaf(a, a, c) != 0x1p-24f || fma(da, da, dc) != 0x1p-54)
        return BD_FAIL(err, BD_E_NUMERICS, "fma() of this C library rounds twice");
    return BD_OK;
}
