#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/loss_body.h"
