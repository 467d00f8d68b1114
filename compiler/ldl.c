#include "compiler/ldl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* Columns go in blocks from the last to the first: a block is factorized, then
 * everything left of it is updated once. Sums run over a block's columns in rising
 * order and blocks in falling order: fixed for any compiler, vector width or cache. */
enum { BLOCK = 64, TILE = 8 };

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

/* Two rows of h less the products with a tile of columns: acc over the block in rising order. */
static void update_tile(double *h0, double *h1, const double *p0, const double *p1, const double *t, int64_t stride,
                        int64_t block) {
    double a0[TILE] = {0}, a1[TILE] = {0};
    for (int64_t l = 0; l < block; l++) {
        const double *q = t + l * stride;
        for (int k = 0; k < TILE; k++) {
            a0[k] += p0[l] * q[k];
            a1[k] += p1[l] * q[k];
        }
    }
    for (int k = 0; k < TILE; k++) {
        h0[k] -= a0[k];
        h1[k] -= a1[k];
    }
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
static void update_rest(double *h, int64_t n, int64_t j0, int64_t j1, double *t) {
    int64_t block = j1 - j0;
    for (int64_t k = 0; k < j0; k++)
        for (int64_t l = 0; l < block; l++) t[l * n + k] = h[k * n + j0 + l] * h[(j0 + l) * n + j0 + l];
    for (int64_t i = 0; i < j0; i += 2) {
        double *h0 = h + i * n, *h1 = i + 1 < j0 ? h0 + n : NULL;
        int64_t k = i;
        for (; h1 && k + TILE <= j0; k += TILE) update_tile(h0 + k, h1 + k, h0 + j0, h1 + j0, t + k, n, block);
        update_edge(h0 + k, h0 + j0, t + k, n, block, j0 - k);
        if (h1) update_edge(h1 + k, h1 + j0, t + k, n, block, j0 - k);
    }
}

bd_status bd_ldl(double *h, int64_t n, bd_err *err) {
    double *t = bd_alloc_aligned((uint64_t)n + 1, BLOCK * sizeof *t), scaled[BLOCK];
    if (!t) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a factorization");
    bd_status st = BD_OK;
    for (int64_t j1 = n; !st && j1 > 0; j1 -= BLOCK) {
        int64_t j0 = j1 > BLOCK ? j1 - BLOCK : 0;
        st = factor_block(h, n, j0, j1, scaled, err);
        if (!st) update_rest(h, n, j0, j1, t);
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
