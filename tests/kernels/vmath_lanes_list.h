#ifndef VMATH_LANES_LIST_H
#define VMATH_LANES_LIST_H

#include <stdint.h>

typedef void lanes_f32(const float *x, float *y, int64_t n);
typedef void lanes_f64(const double *x, double *y, int64_t n);
lanes_f32 lanes_expf_avx2, lanes_expf_avx512, lanes_tanhf_avx2, lanes_tanhf_avx512;
lanes_f64 lanes_exp_avx2, lanes_exp_avx512;

#endif
