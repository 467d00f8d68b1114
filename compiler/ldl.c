#include "compiler/ldl.h"

#include <math.h>

enum { LANES = 8 };

/* sum over k in [from, n) of a[k] * b[k] * d[k]. Eight interleaved sums: a fixed order that vectorizes. */
static double dot3(const double *a, const double *b, const double *d, int64_t from, int64_t n) {
    double s[LANES] = {0};
    int64_t k = from;
    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++) s[l] += a[k + l] * b[k + l] * d[k + l];
    for (int l = 0; k < n; k++, l++) s[l] += a[k] * b[k] * d[k];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

bd_status bd_ldl(double *h, int64_t n, bd_err *err) {
    /* dot3 wants D contiguous: it is also kept in row n-1, whose lower part is free
     * and whose last entry is that row's own diagonal. */
    double *d = h + (n - 1) * n;
    double last = d[n - 1];
    if (!(last > 0) || !isfinite(last)) return BD_FAIL(err, BD_E_NONFINITE, "the Hessian is not positive definite");
    for (int64_t i = 0; i < n - 1; i++) h[i * n + n - 1] /= last;
    for (int64_t j = n - 2; j >= 0; j--) {
        double *aj = h + j * n;
        double dj = aj[j] - dot3(aj, aj, d, j + 1, n);
        if (!(dj > 0) || !isfinite(dj))
            return BD_FAIL(err, BD_E_NONFINITE, "the Hessian is not positive definite at column %lld",
                           (long long)j);
        aj[j] = dj;
        d[j] = dj;
        for (int64_t i = 0; i < j; i++) {
            double *ai = h + i * n;
            ai[j] = (ai[j] - dot3(ai, aj, d, j + 1, n)) / dj;
        }
    }
    return BD_OK;
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
