#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/elementwise_body.h"
