/* lqer: row, and a low-rank correction of what it lost.
 *
 * E = W - codes * scale = U S V^T; A = U S (rank columns, 2-bit codes -2..1, one scale
 * binary16(max|A| / 1.5)), B = V^T (4-bit codes -8..7, scales binary16(max / 7.5) per
 * `group` elements in row-major order). Where rank * cols is not a multiple of the
 * group the last group is short (the published recipe changes to another form there).
 * The sign of a singular pair is free: the largest entry of A's column is made
 * negative, because its codes reach further down than up.
 *
 * The singular vectors come from the Lanczos process on E^T E with full
 * orthogonalization, in double with a fixed order of operations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/half.h"
#include "compiler/quant_util.h"

/* Eight interleaved sums: fast, and a fixed order. */
static double dot(const double *a, const double *b, int64_t n) {
    double s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) s[k] += a[i + k] * b[i + k];
    for (int k = 0; i < n; i++, k++) s[k] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static void add_scaled(double *y, double f, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += f * x[i];
}

/* y = E^T E x; e: (rows, cols); row: (cols) scratch */
static void gram(double *y, const float *e, const double *x, int64_t rows, int64_t cols, double *row) {
    memset(y, 0, (size_t)cols * sizeof *y);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) row[i] = (double)e[r * cols + i];
        add_scaled(y, dot(row, x, cols), row, cols);
    }
}

/* Eigenvalues of the symmetric (m, m) matrix t and its eigenvectors in the columns of z, by Jacobi's rotations. */
static void jacobi(double *t, double *z, int m) {
    for (int i = 0; i < m * m; i++) z[i] = i % (m + 1) == 0;
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0, all = 0;
        for (int i = 0; i < m; i++)
            for (int k = 0; k < m; k++) {
                all += t[i * m + k] * t[i * m + k];
                if (i != k) off += t[i * m + k] * t[i * m + k];
            }
        if (off <= 1e-30 * all) return;
        for (int p = 0; p < m; p++)
            for (int q = p + 1; q < m; q++) {
                double a = t[p * m + q];
                if (a == 0) continue;
                double h = (t[q * m + q] - t[p * m + p]) / (2 * a);
                double s = (h < 0 ? -1 : 1) / (fabs(h) + sqrt(h * h + 1)), c = 1 / sqrt(s * s + 1);
                s *= c;
                for (int i = 0; i < m; i++) {
                    double x = t[i * m + p], y = t[i * m + q];
                    t[i * m + p] = c * x - s * y;
                    t[i * m + q] = s * x + c * y;
                }
                for (int i = 0; i < m; i++) {
                    double x = t[p * m + i], y = t[q * m + i];
                    t[p * m + i] = c * x - s * y;
                    t[q * m + i] = s * x + c * y;
                }
                for (int i = 0; i < m; i++) {
                    double x = z[i * m + p], y = z[i * m + q];
                    z[i * m + p] = c * x - s * y;
                    z[i * m + q] = s * x + c * y;
                }
            }
    }
}

/* A direction that the vectors before it do not have: fixed pseudo-random numbers, made orthogonal. */
static bool fresh_direction(double *v, const double *basis, int m, int64_t n) {
    for (int attempt = 0; attempt < 8; attempt++) {
        uint64_t s = (uint64_t)(m * 8 + attempt) + 1;
        for (int64_t i = 0; i < n; i++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            v[i] = (double)(int64_t)(s >> 11) * 0x1p-52 - 1;
        }
        double before = sqrt(dot(v, v, n));
        for (int pass = 0; pass < 2; pass++)
            for (int k = 0; k < m; k++) add_scaled(v, -dot(v, basis + k * n, n), basis + k * n, n);
        double length = sqrt(dot(v, v, n));
        if (!(length > 1e-8 * before)) continue;
        for (int64_t i = 0; i < n; i++) v[i] /= length;
        return true;
    }
    return false;
}

/* Right singular vectors of e with the largest singular values: v (rank, cols), zero where there are no more.
 * basis: (steps, cols), t, z: (steps, steps), y, row: (cols) */
static void right_vectors(double *v, int rank, const float *e, int64_t rows, int64_t cols, int steps, double *basis,
                          double *t, double *z, double *y, double *row) {
    memset(t, 0, (size_t)steps * (size_t)steps * sizeof *t);
    memset(v, 0, (size_t)rank * (size_t)cols * sizeof *v);
    int m = 0;
    double scale = 0;
    bool fresh = true;
    for (; m < steps; m++) {
        double *b = basis + m * cols;
        if (fresh && !fresh_direction(b, basis, m, cols)) break;
        gram(y, e, b, rows, cols, row);
        t[m * steps + m] = dot(y, b, cols);
        for (int pass = 0; pass < 2; pass++)
            for (int k = 0; k <= m; k++) add_scaled(y, -dot(y, basis + k * cols, cols), basis + k * cols, cols);
        double length = sqrt(dot(y, y, cols));
        if (fabs(t[m * steps + m]) > scale) scale = fabs(t[m * steps + m]);
        if (length > scale) scale = length;
        /* An invariant subspace: go on beside it. */
        fresh = !(length > 1e-13 * scale);
        if (fresh || m + 1 == steps) continue;
        t[m * steps + m + 1] = t[(m + 1) * steps + m] = length;
        for (int64_t i = 0; i < cols; i++) basis[(m + 1) * cols + i] = y[i] / length;
    }
    jacobi(t, z, steps);
    for (int k = 0; k < rank && k < m; k++) {
        int best = -1;
        for (int i = 0; i < steps; i++)
            if (t[i * steps + i] > 0 && (best < 0 || t[i * steps + i] > t[best * steps + best])) best = i;
        if (best < 0) return;
        for (int i = 0; i < m; i++) add_scaled(v + k * cols, z[i * steps + best], basis + i * cols, cols);
        t[best * steps + best] = 0;
    }
}

/* A = E V for the rows of v; signs fixed on the way. a: (rows, rank) */
static void left_factors(double *a, double *v, int rank, const float *e, int64_t rows, int64_t cols, double *row) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) row[i] = (double)e[r * cols + i];
        for (int k = 0; k < rank; k++) a[r * rank + k] = dot(row, v + k * cols, cols);
    }
    for (int k = 0; k < rank; k++) {
        double top = 0;
        for (int64_t r = 0; r < rows; r++)
            if (fabs(a[r * rank + k]) > fabs(top)) top = a[r * rank + k];
        if (top <= 0) continue;
        for (int64_t r = 0; r < rows; r++) a[r * rank + k] = -a[r * rank + k];
        for (int64_t i = 0; i < cols; i++) v[k * cols + i] = -v[k * cols + i];
    }
}

/* n values with one scale of max / span, codes lo..hi. */
static bd_status code_group(int8_t *codes, uint16_t *scale, const double *x, int64_t n, double span, double lo,
                            double hi, bd_err *err) {
    double top = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs(x[i]) > top) top = fabs(x[i]);
    *scale = bd_f32_to_f16((float)(top / span));
    double s = (double)bd_f16_to_f32(*scale);
    if (!isfinite(s)) return BD_FAIL(err, BD_E_RANGE, "a factor of the correction is %g, beyond binary16", top);
    for (int64_t i = 0; i < n; i++) {
        double c = s > 0 ? nearbyint(x[i] / s) : 0;
        codes[i] = (int8_t)(c < lo ? lo : c > hi ? hi : c);
    }
    return BD_OK;
}

static bd_status correct(bd_qtensor *q, const bd_qsource *src, bd_err *err) {
    int64_t rows = src->rows, cols = src->cols, few = rows < cols ? rows : cols;
    int rank = q->rank, steps = 6 * rank > 96 ? 6 * rank : 96;
    if (steps > few + 1) steps = (int)few + 1;
    if (steps > cols) steps = (int)cols;
    uint64_t S = (uint64_t)steps, C = (uint64_t)cols, K = (uint64_t)rank;
    float *e = bd_alloc_aligned((uint64_t)rows * C, sizeof *e);
    double *work = bd_alloc_aligned(S * C + 2 * S * S + 2 * C + K * C + (uint64_t)rows * K, sizeof *work);
    bd_status st = e && work ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the correction");
    if (!st) {
        for (int64_t r = 0; r < rows; r++) {
            float scale = bd_f16_to_f32(q->scales[r]);
            for (int64_t i = 0; i < cols; i++)
                e[r * cols + i] = src->w[r * cols + i] - (float)q->codes[r * cols + i] * scale;
        }
        double *basis = work, *t = basis + S * C, *z = t + S * S, *y = z + S * S, *row = y + C, *v = row + C,
               *a = v + K * C;
        right_vectors(v, rank, e, rows, cols, steps, basis, t, z, y, row);
        left_factors(a, v, rank, e, rows, cols, row);
        st = code_group(q->lq_a, &q->lq_scales[0], a, rows * rank, 1.5, -2, 1, err);
        int64_t n = rank * cols, group = (int64_t)q->group;
        for (int64_t g = 0; !st && g * group < n; g++)
            st = code_group(q->lq_b + g * group, &q->lq_scales[1 + g], v + g * group,
                            (g + 1) * group < n ? group : n - g * group, 7.5, -8, 7, err);
    }
    free(e);
    free(work);
    return st;
}

static bd_status check_lqer(const bd_qsetting *s, bd_err *err) {
    BD_TRY(bd_check_range("bits", s->bits, 2, 8, err));
    BD_TRY(bd_check_range("k", (double)s->k, 0, 1e6, err));
    BD_TRY(bd_check_range("group", s->group, 1, 65536, err));
    return bd_check_range("rank", s->rank, 1, BD_LQER_RANK_MAX, err);
}

static bd_status quantize_lqer(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                               bd_qresult *res, bd_err *err) {
    BD_TRY(check_lqer(s, err));
    BD_TRY(bd_quant_finite(src, err));
    bd_quant_start(q, src, BD_Q_LQER);
    q->bits = (uint8_t)s->bits;
    q->group = s->group;
    q->rank = (uint8_t)s->rank;
    BD_TRY(bd_qtensor_alloc(q, err));
    double *loss = malloc((size_t)src->rows * sizeof *loss);
    bd_status st = loss ? bd_quant_row_codes(q, src, s->k, pool, loss, err)
                        : BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
    free(loss);
    if (!st) st = correct(q, src, err);
    return st ? st : bd_quant_result(res, src, q, pool, err);
}

extern const bd_quantizer bd_quantizer_lqer;
const bd_quantizer bd_quantizer_lqer = {
    .name = "lqer",
    .method = BD_Q_LQER,
    .fields = BD_QF_BITS | BD_QF_K | BD_QF_GROUP | BD_QF_RANK,
    .defaults = {.bits = 6, .k = 12.85f, .group = 64, .rank = 4},
    .scaled = BD_QF_K,
    .summary = "row with a low-rank correction of its error",
    .check = check_lqer,
    .quantize = quantize_lqer,
};
