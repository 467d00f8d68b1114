#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/embed_body.h"
