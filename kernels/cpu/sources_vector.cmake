# Everything that is neither GEMM nor attention; included by sources.cmake.
list(APPEND BD_CPU_KERNELS elementwise norm rope loss embed colsum update)
