#include "compiler/ldl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* Columns go in blocks from the last to the first: a block is factorized, then
 * everything left of it is updated once. Sums run over a block's columns in rising
 * order and blocks in falling order: fixed for any compiler, vector width or cache. */
enum { BLOCK = 64, TILE = 16, ROWS = 4 };

/* sum over k in [from, to) of a[k] * b[k] */
static double dot(const double *a, const double *b, int64_t from, int64_t to) {
    double s = 0;
    for (int64_t k = from; k < to; k++) s += a[k] * b[k];
    return s;
}

/* Columns [j0, j1) of rows [0, j1): A and D, when all later blocks are taken out of h.
 * scaled: (BLOCK) scratch for a row of A times D. */
static bd_status factor_block(double *h, int64_t n, int64_t j0, int64_t j1, double *scaled, bd_err *err) {
    for (int64_t j = j1 - 1; j >= j0; j--) {
        double *aj = h + j * n;
        for (int64_t k = j + 1; k < j1; k++) scaled[k - j0] = aj[k] * h[k * n + k];
        double d = aj[j] - dot(aj + j0, scaled, j + 1 - j0, j1 - j0);
        if (!(d > 0) || !isfinite(d))
            return BD_FAIL(err, BD_E_NONFINITE, "the Hessian is not positive definite at column %lld",
                           (long long)j);
        aj[j] = d;
        for (int64_t i = 0; i < j; i++) {
            double *ai = h + i * n;
            ai[j] = (ai[j] - dot(ai + j0, scaled, j + 1 - j0, j1 - j0)) / d;
        }
    }
    return BD_OK;
}

#define INLINE static inline __attribute__((always_inline))

/* ROWS rows of h, n apart, less the products with a tile of columns: sums over the block in rising order. p: the
 * rows' entries of A. */
INLINE void tile_body(double *h, int64_t n, const double *p, const double *t, int64_t block) {
    double a[ROWS][TILE] = {{0}};
    for (int64_t l = 0; l < block; l++) {
        const double *q = t + l * n;
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < TILE; k++) a[r][k] += p[r * n + l] * q[k];
    }
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < TILE; k++) h[r * n + k] -= a[r][k];
}

typedef void tile_fn(double *h, int64_t n, const double *p, const double *t, int64_t block);

static void tile_plain(double *h, int64_t n, const double *p, const double *t, int64_t block) {
    tile_body(h, n, p, t, block);
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void tile_avx2(double *h, int64_t n, const double *p, const double *t,
                                                      int64_t block) {
    tile_body(h, n, p, t, block);
}

__attribute__((target("avx512f"))) static void tile_avx512(double *h, int64_t n, const double *p, const double *t,
                                                           int64_t block) {
    __m512d a[ROWS][2];
    for (int r = 0; r < ROWS; r++) a[r][0] = a[r][1] = _mm512_setzero_pd();
    for (int64_t l = 0; l < block; l++) {
        const __m512d q0 = _mm512_loadu_pd(t + l * n), q1 = _mm512_loadu_pd(t + l * n + 8);
        for (int r = 0; r < ROWS; r++) {
            const __m512d x = _mm512_set1_pd(p[r * n + l]);
            a[r][0] = _mm512_add_pd(a[r][0], _mm512_mul_pd(x, q0));
            a[r][1] = _mm512_add_pd(a[r][1], _mm512_mul_pd(x, q1));
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < 2; k++) {
            double *at = h + r * n + 8 * k;
            _mm512_storeu_pd(at, _mm512_sub_pd(_mm512_loadu_pd(at), a[r][k]));
        }
}
#endif

static tile_fn *tile_for_this_machine(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return tile_avx512;
    if (__builtin_cpu_supports("avx2")) return tile_avx2;
#endif
    return tile_plain;
}

static void update_edge(double *h, const double *p, const double *t, int64_t stride, int64_t block, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        double a = 0;
        for (int64_t l = 0; l < block; l++) a += p[l] * t[l * stride + k];
        h[k] -= a;
    }
}

/* h[i][k] -= sum over the block's columns j of A[i][j] D[j] A[k][j], for i <= k < j0. t: (BLOCK, n) scratch:
 * columns of A times D, by rows. */
static void update_rest(double *h, int64_t n, int64_t j0, int64_t j1, double *t, tile_fn *tile) {
    int64_t block = j1 - j0;
    for (int64_t k = 0; k < j0; k++)
        for (int64_t l = 0; l < block; l++) t[l * n + k] = h[k * n + j0 + l] * h[(j0 + l) * n + j0 + l];
    for (int64_t i = 0; i < j0; i += ROWS) {
        const int64_t rows = i + ROWS <= j0 ? ROWS : j0 - i;
        /* from a multiple of TILE on: below the diagonal nothing is kept */
        int64_t k = rows == ROWS ? i & ~(int64_t)(TILE - 1) : i;
        for (; rows == ROWS && k + TILE <= j0; k += TILE) tile(h + i * n + k, n, h + i * n + j0, t + k, block);
        for (int64_t r = 0; r < rows; r++)
            update_edge(h + (i + r) * n + k, h + (i + r) * n + j0, t + k, n, block, j0 - k);
    }
}

bd_status bd_ldl(double *h, int64_t n, bd_err *err) {
    double *t = bd_alloc_aligned((uint64_t)n + 1, BLOCK * sizeof *t), scaled[BLOCK];
    if (!t) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a factorization");
    tile_fn *tile = tile_for_this_machine();
    bd_status st = BD_OK;
    for (int64_t j1 = n; !st && j1 > 0; j1 -= BLOCK) {
        int64_t j0 = j1 > BLOCK ? j1 - BLOCK : 0;
        st = factor_block(h, n, j0, j1, scaled, err);
        if (!st) update_rest(h, n, j0, j1, t, tile);
    }
    free(t);
    return st;
}

void bd_hessian_prepare(double *h, int64_t n, double damp, uint8_t *dead) {
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        dead[j] = !(h[j * n + j] > 0);
        if (dead[j]) {
            for (int64_t k = 0; k < n; k++) h[j * n + k] = h[k * n + j] = 0;
            h[j * n + j] = 1;
        }
        sum += h[j * n + j];
    }
    double add = damp * (sum / (double)n);
    for (int64_t j = 0; j < n; j++) h[j * n + j] += add;
}
