#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/attention_grad_body.h"
