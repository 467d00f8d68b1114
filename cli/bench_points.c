#include "cli/bench_points.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"

enum { RESAMPLES = 1000, MIN_RESAMPLES = 900 };

static const double LN2 = 0.69314718055994530942;

/* --- scores --- */

static double text_bytes(const bd_bench_windows *w) {
    double sum = 0;
    for (uint64_t i = 0; i < w->n; i++) sum += w->bytes[i];
    return sum;
}

double bd_bench_float_bpb(const bd_bench_windows *w) {
    double sum = 0;
    for (uint64_t i = 0; i < w->n; i++) sum += w->nll_float[i];
    return sum / (LN2 * text_bytes(w));
}

/* Ratio of the sums of (x - y) / ln 2 and of bytes, and its standard error; y may be NULL. */
static void ratio(double *mean, double *error, const double *x, const double *y, const bd_bench_windows *w) {
    double total = text_bytes(w), sum = 0, squares = 0, n = (double)w->n;
    for (uint64_t i = 0; i < w->n; i++) sum += x[i] - (y ? y[i] : 0);
    *mean = sum / (LN2 * total);
    for (uint64_t i = 0; i < w->n; i++) {
        double d = (x[i] - (y ? y[i] : 0)) / LN2 - *mean * w->bytes[i];
        squares += d * d;
    }
    *error = w->n > 1 ? sqrt(squares * n / (n - 1)) / total : (double)NAN;
}

void bd_bench_score(bd_bench_point *p, const bd_bench_windows *w) {
    ratio(&p->gap, &p->gap_stderr, p->nll, w->nll_float, w);
    ratio(&p->kl, &p->kl_stderr, p->divergence, NULL, w);
    p->bpb = bd_bench_float_bpb(w) + p->gap;
}

/* --- curves --- */

typedef struct curve {
    const double *bytes; /* (n), rising */
    const double *loss;  /* (n) */
    int n;
} curve;

static double between(double x0, double y0, double x1, double y1, double x) {
    return x1 == x0 ? y0 : y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

/* Nearly the same budget is the same budget. */
#define BEYOND 0.01
/* Between points that are far apart nothing is known. */
#define FAR 1.5

static bool near(double a, double b) { return fabs(a - b) <= BEYOND * b; }

static double loss_at(const curve *c, double bytes) {
    if (c->n == 0) return (double)NAN;
    int k = 0;
    while (k + 2 < c->n && bytes > c->bytes[k + 1]) k++;
    int next = k + 1 < c->n ? k + 1 : k;
    bool at_first = near(bytes, c->bytes[k]), at_next = near(bytes, c->bytes[next]);
    bool inside = bytes >= c->bytes[k] && bytes <= c->bytes[next];
    if (!inside && !at_first && !at_next) return (double)NAN;
    if (c->bytes[next] > c->bytes[k] * FAR) {
        if (!at_first && !at_next) return (double)NAN;
        return at_first ? c->loss[k] : c->loss[next];
    }
    if (!(c->loss[k] > 0 && c->loss[next] > 0)) return (double)NAN;
    return exp(between(c->bytes[k], log(c->loss[k]), c->bytes[next], log(c->loss[next]), bytes));
}

static double bytes_at(const curve *c, double loss) {
    if (!(loss > 0)) return (double)NAN;
    for (int i = c->n - 1; i >= 0; i--) {
        if (c->loss[i] == loss) return c->bytes[i];
        if (i == 0 || !(c->loss[i] > 0 && c->loss[i - 1] > 0)) continue;
        double a = log(c->loss[i - 1]), b = log(c->loss[i]), v = log(loss);
        if ((a - v) * (b - v) > 0) continue;
        return c->bytes[i] > c->bytes[i - 1] * FAR ? (double)NAN : between(a, c->bytes[i - 1], b, c->bytes[i], v);
    }
    return (double)NAN;
}

/* --- comparisons --- */

enum { BYTES_AT_GAP, BYTES_AT_KL, GAP_AT_BYTES, KL_AT_BYTES, GAP_RATIO, KL_RATIO, N_VALUES };

typedef struct comparing {
    const bd_bench_point *points;
    const bd_bench_windows *w;
    int *order; /* (n) of the curve by bytes */
    int n, point;
    double *bytes, *gap, *kl; /* (n) */
    uint32_t *times;          /* (windows): how often each is drawn; NULL: once */
} comparing;

static void losses(const comparing *c, int point, double *gap, double *kl) {
    const bd_bench_point *p = &c->points[point];
    double g = 0, k = 0, bytes = 0;
    for (uint64_t i = 0; i < c->w->n; i++) {
        double times = c->times ? (double)c->times[i] : 1;
        g += times * (p->nll[i] - c->w->nll_float[i]);
        k += times * p->divergence[i];
        bytes += times * c->w->bytes[i];
    }
    *gap = g / (LN2 * bytes);
    *kl = k / (LN2 * bytes);
}

static void compare_once(const comparing *c, double value[N_VALUES]) {
    double gap, kl, at = (double)c->points[c->point].bytes;
    losses(c, c->point, &gap, &kl);
    for (int i = 0; i < c->n; i++) losses(c, c->order[i], &c->gap[i], &c->kl[i]);
    curve by_gap = {c->bytes, c->gap, c->n}, by_kl = {c->bytes, c->kl, c->n};
    value[BYTES_AT_GAP] = bytes_at(&by_gap, gap);
    value[BYTES_AT_KL] = bytes_at(&by_kl, kl);
    value[GAP_AT_BYTES] = loss_at(&by_gap, at);
    value[KL_AT_BYTES] = loss_at(&by_kl, at);
    value[GAP_RATIO] = gap > 0 ? gap / value[GAP_AT_BYTES] : (double)NAN;
    value[KL_RATIO] = kl > 0 ? kl / value[KL_AT_BYTES] : (double)NAN;
}

static void draw_windows(const comparing *c, uint64_t resample) {
    for (uint64_t i = 0; i < c->w->n; i++) c->times[i] = 0;
    for (uint64_t i = 0; i < c->w->n; i++) c->times[bd_philox_below(0, resample, i, c->w->n)]++;
}

static void bootstrap(comparing *c, bd_bench_estimate *out) {
    double mean[N_VALUES] = {0}, m2[N_VALUES] = {0}, v[N_VALUES];
    int used[N_VALUES] = {0};
    for (uint64_t r = 0; r < RESAMPLES; r++) {
        draw_windows(c, r);
        compare_once(c, v);
        for (int k = 0; k < N_VALUES; k++) {
            if (!isfinite(v[k])) continue;
            double d = v[k] - mean[k];
            mean[k] += d / ++used[k];
            m2[k] += d * (v[k] - mean[k]);
        }
    }
    for (int k = 0; k < N_VALUES; k++)
        out[k].error =
            isfinite(out[k].value) && used[k] >= MIN_RESAMPLES ? sqrt(m2[k] / (used[k] - 1)) : (double)NAN;
}

/* By bytes; equal ones keep their order. */
static void sort_by_bytes(int *order, int n, const bd_bench_point *points) {
    for (int i = 1; i < n; i++) {
        int x = order[i], k = i;
        for (; k > 0 && points[order[k - 1]].bytes > points[x].bytes; k--) order[k] = order[k - 1];
        order[k] = x;
    }
}

bd_status bd_bench_compare(bd_bench_comparison *out, const bd_bench_point *points, const int *curve_points,
                           int n_curve, int point, const bd_bench_windows *w, bd_err *err) {
    size_t n = (size_t)n_curve + 1;
    comparing c = {.points = points, .w = w, .n = n_curve, .point = point};
    double value[N_VALUES];
    bd_bench_estimate e[N_VALUES];
    c.order = malloc(n * sizeof *c.order);
    c.bytes = malloc(n * sizeof *c.bytes);
    c.gap = malloc(n * sizeof *c.gap);
    c.kl = malloc(n * sizeof *c.kl);
    uint32_t *times = malloc((w->n + 1) * sizeof *times);
    bd_status st = BD_OK;
    if (!c.order || !c.bytes || !c.gap || !c.kl || !times) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the comparisons");
        goto done;
    }
    for (int i = 0; i < n_curve; i++) c.order[i] = curve_points[i];
    sort_by_bytes(c.order, n_curve, points);
    for (int i = 0; i < n_curve; i++) c.bytes[i] = (double)points[c.order[i]].bytes;
    compare_once(&c, value);
    for (int k = 0; k < N_VALUES; k++) e[k].value = value[k];
    c.times = times;
    bootstrap(&c, e);
    *out = (bd_bench_comparison){e[BYTES_AT_GAP], e[BYTES_AT_KL], e[GAP_AT_BYTES],
                                 e[KL_AT_BYTES],  e[GAP_RATIO],   e[KL_RATIO]};
done:
    free(c.order);
    free(c.bytes);
    free(c.gap);
    free(c.kl);
    free(times);
    return st;
}

int bd_bench_front(int *out, const bd_bench_point *points, const int *candidates, int n, bool by_kl) {
    int count = 0;
    for (int i = 0; i < n; i++) {
        const bd_bench_point *p = &points[candidates[i]];
        double loss = by_kl ? p->kl : p->gap;
        bool beaten = false;
        for (int k = 0; k < n && !beaten; k++) {
            const bd_bench_point *q = &points[candidates[k]];
            double other = by_kl ? q->kl : q->gap;
            if (k == i || q->bytes > p->bytes || other > loss) continue;
            beaten = q->bytes < p->bytes || other < loss || k < i; /* of twins the first one stays */
        }
        if (!beaten) out[count++] = candidates[i];
    }
    sort_by_bytes(out, count, points);
    return count;
}
