#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/update_body.h"
