/* The register tile for float (tile_f32_run ...), and packing of its right operand. */
#ifndef BD_KERNELS_CPU_TILE_F32_H
#define BD_KERNELS_CPU_TILE_F32_H

#include <string.h>

#define TILE(name) tile_f32_##name
#define TILE_T     float
#define TILE_V     vf
#define TILE_LANES VF
#if SIMD_AVX512
#define TILE_NV 4
#else
#define TILE_NV 2
#endif
#define TILE_LOAD  vf_load
#define TILE_STORE vf_store
#define TILE_SET1  vf_set1
#define TILE_ZERO  vf_zero
#define TILE_FMA   vf_fma
#include "kernels/cpu/gemm_tile.h"
#undef TILE
#undef TILE_T
#undef TILE_V
#undef TILE_LANES
#undef TILE_NV
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_SET1
#undef TILE_ZERO
#undef TILE_FMA

enum { MR = tile_f32_MR, NR = tile_f32_NR };

static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* An 8 x 8 block: dst[c * ldd + r] = src[r * lds + c]. */
SIMD_INLINE void transpose8(const float *src, int64_t lds, float *dst, int64_t ldd) {
    __m256 r[8], t[8];
    SIMD_UNROLL for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + i * lds);
    SIMD_UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    SIMD_UNROLL for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    SIMD_UNROLL for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* One panel of the right operand, dst[k][NR], from rows that hold columns of b:
 * b[k][j] = src[j * lds + k]. Lanes beyond cols become 0: they are outputs of
 * their own that nobody keeps. */
static void pack_transposed(const float *src, int64_t lds, int64_t cols, int64_t k, float *dst) {
    enum { DEPTH = 64 }; /* the part of the panel being written stays in the first-level cache */
    int64_t whole = cols / 8 * 8;
    for (int64_t i0 = 0; i0 < k; i0 += DEPTH) {
        int64_t i1 = min_i64(i0 + DEPTH, k);
        for (int64_t j = 0; j < whole; j += 8) {
            int64_t i = i0;
            for (; i + 8 <= i1; i += 8) transpose8(src + j * lds + i, lds, dst + i * NR + j, NR);
            for (; i < i1; i++) {
                for (int64_t q = j; q < j + 8; q++) dst[i * NR + q] = src[q * lds + i];
            }
        }
        if (whole == NR) continue;
        for (int64_t i = i0; i < i1; i++) {
            for (int64_t q = whole; q < cols; q++) dst[i * NR + q] = src[q * lds + i];
            for (int64_t q = cols; q < NR; q++) dst[i * NR + q] = 0;
        }
    }
}

/* The same from rows that are rows of b: b[k][j] = src[k * lds + j]. */
static void pack_rows(const float *src, int64_t lds, int64_t cols, int64_t k, float *dst) {
    if (cols == NR) {
        for (int64_t i = 0; i < k; i++) {
            SIMD_UNROLL for (int v = 0; v < NR / VF; v++) {
                vf_store(dst + i * NR + v * VF, vf_load(src + i * lds + v * VF));
            }
        }
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        memcpy(dst + i * NR, src + i * lds, (size_t)cols * sizeof *dst);
        memset(dst + i * NR + cols, 0, (size_t)(NR - cols) * sizeof *dst);
    }
}

#endif
