#include "kernels/cpu/simd_avx512.h"

#include "vmath_lanes.h"
