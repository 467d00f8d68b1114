#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/loss_body.h"
