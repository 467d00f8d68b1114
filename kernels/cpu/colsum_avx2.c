#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/colsum_body.h"
