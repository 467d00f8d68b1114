#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/colsum_body.h"
