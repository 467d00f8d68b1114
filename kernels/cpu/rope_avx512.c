#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/rope_body.h"
