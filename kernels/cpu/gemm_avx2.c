#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/gemm_body.h"
