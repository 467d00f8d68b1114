#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/update_body.h"
