#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/embed_body.h"
