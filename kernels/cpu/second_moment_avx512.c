#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/second_moment_body.h"
