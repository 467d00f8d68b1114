#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/norm_body.h"
