#include "kernels/cpu/simd_avx2.h"

#include "vmath_lanes.h"
