/* The vector math of one instruction set over arrays, for t_vmath.c. n is a multiple of 16. */
#include <stdint.h>

#include "kernels/cpu/vmath.h"
#include "vmath_lanes_list.h"

#if SIMD_AVX512
#define LANES(name) lanes_##name##_avx512
#else
#define LANES(name) lanes_##name##_avx2
#endif

void LANES(expf)(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += VF) vf_store(y + i, vexpf(vf_load(x + i)));
}
void LANES(tanhf)(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += VF) vf_store(y + i, vtanhf(vf_load(x + i)));
}
void LANES(exp)(const double *x, double *y, int64_t n) {
    for (int64_t i = 0; i < n; i += VD) vd_store(y + i, vexp(vd_load(x + i)));
}
