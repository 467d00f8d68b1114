#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/attention_grad_body.h"
