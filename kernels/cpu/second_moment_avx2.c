#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/second_moment_body.h"
