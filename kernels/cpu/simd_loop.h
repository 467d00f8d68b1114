/* Loops with constant bounds over registers: SIMD_UNROLL before `for` asks for
 * full unrolling, so that an array of vectors becomes registers. */
#ifndef BD_KERNELS_CPU_SIMD_LOOP_H
#define BD_KERNELS_CPU_SIMD_LOOP_H

#if defined(__clang__)
#define SIMD_UNROLL      _Pragma("clang loop unroll(full)")
#define SIMD_UNROLL_SOME _Pragma("clang loop unroll_count(4)")
#else
#define SIMD_UNROLL      _Pragma("GCC unroll 16")
#define SIMD_UNROLL_SOME _Pragma("GCC unroll 4")
#endif
#define SIMD_INLINE static inline __attribute__((always_inline))

#endif
