#include "verify/stats.h"

#include <math.h>

#include "base/fmath.h"

static const double LN2 = 0.693147180559945309417;

bd_stats bd_stats_of(const double *x, int n) {
    bd_stats s = {.n = n};
    if (n < 1) return s;
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    s.mean = sum / n;
    for (int i = 0; i < n; i++) squares += (x[i] - s.mean) * (x[i] - s.mean);
    s.sd_population = sqrt(squares / n);
    s.sd = n > 1 ? sqrt(squares / (n - 1)) : 0;
    return s;
}

/* Lanczos, g = 7, 9 terms: relative error below 1e-14 for x > 0.5. */
static double log_gamma(double x) {
    static const double c[] = {0.99999999999980993,  676.5203681218851,     -1259.1392167224028,
                               771.32342877765313,   -176.61502916214059,   12.507343278686905,
                               -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7};
    static const double half_log_2pi = 0.91893853320467274178;
    double sum = c[0], t = x + 6.5;
    for (int i = 1; i < 9; i++) sum += c[i] / (x - 1 + i);
    return half_log_2pi + (x - 0.5) * bd_log(t) - t + bd_log(sum);
}

/* Regularized incomplete beta function by its continued fraction (modified Lentz). */
static double beta_fraction(double a, double b, double x) {
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    if (fabs(d) < tiny) d = tiny;
    d = 1 / d;
    double h = d;
    for (int m = 1; m <= 500; m++) {
        double step[2] = {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                          -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))};
        double last = 1;
        for (int k = 0; k < 2; k++) {
            d = 1 + step[k] * d;
            if (fabs(d) < tiny) d = tiny;
            c = 1 + step[k] / c;
            if (fabs(c) < tiny) c = tiny;
            d = 1 / d;
            last = d * c;
            h *= last;
        }
        if (fabs(last - 1) < 1e-15) break;
    }
    return h;
}

static double beta(double a, double b, double x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    double front = bd_exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * bd_log(x) + b * bd_log(1 - x));
    if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double bd_student_tail(double t, double df) {
    if (!isfinite(t)) return t > 0 ? 0 : 1;
    double half = beta(df / 2, 0.5, df / (df + t * t)) / 2;
    return t > 0 ? half : 1 - half;
}

double bd_student_quantile(double p, double df) {
    double low = 0, high = 1;
    while (bd_student_tail(high, df) > p && high < 1e12) high *= 2;
    for (int i = 0; i < 200; i++) {
        double mid = (low + high) / 2;
        if (bd_student_tail(mid, df) > p) low = mid;
        else high = mid;
    }
    return (low + high) / 2;
}

double bd_welch(const bd_stats *better, const bd_stats *worse, double margin, double *t, double *df) {
    double a = better->sd * better->sd / better->n, b = worse->sd * worse->sd / worse->n;
    double gain = worse->mean - better->mean - margin;
    double value = gain / sqrt(a + b);
    double freedom = (a + b) * (a + b) / (a * a / (better->n - 1) + b * b / (worse->n - 1));
    if (t) *t = value;
    if (df) *df = freedom;
    return bd_student_tail(value, freedom);
}

double bd_nats_of_bpb(double bpb, double bytes_per_token) { return bpb * LN2 * bytes_per_token; }
double bd_bpb_of_nats(double nats, double bytes_per_token) { return nats / (LN2 * bytes_per_token); }
