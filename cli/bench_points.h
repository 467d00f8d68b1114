/* Points of a rate-distortion comparison: what candidates lose against the float
 * model window by window, with standard errors, and what one curve needs where
 * another one stands. No I/O. */
#ifndef BD_CLI_BENCH_POINTS_H
#define BD_CLI_BENCH_POINTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* The windows all points were measured on. */
typedef struct bd_bench_windows {
    uint64_t n;
    const double *nll_float; /* (n) nats */
    const double *bytes;     /* (n) of text that the windows' targets stand for */
} bd_bench_windows;

typedef struct bd_bench_point {
    uint64_t bytes;
    double *nll, *divergence; /* (windows) nats; borrowed */
    /* from bd_bench_score: */
    double bpb, gap, gap_stderr, kl, kl_stderr; /* bits per byte */
} bd_bench_point;

double bd_bench_float_bpb(const bd_bench_windows *w);
/* gap = bpb minus the float model's, on the same windows; standard errors of ratios of sums over windows
 * (NaN for one window). */
void bd_bench_score(bd_bench_point *p, const bd_bench_windows *w);

/* A value with the standard deviation that resampling the windows gives it. NaN: the curve does not reach that far
 * (beyond its ends it is only believed for 1 % of the bytes there, and between points only where the larger one has
 * at most 1.5 times the bytes), or too few resamples do. */
typedef struct bd_bench_estimate {
    double value, error;
} bd_bench_estimate;

/* What a curve has where a point stands. Between points of the curve, ordered by bytes, the logarithm of the loss
 * is linear in bytes; of several crossings the one with most bytes counts. */
typedef struct bd_bench_comparison {
    bd_bench_estimate bytes_at_gap, bytes_at_kl; /* bytes of the curve at the point's gap, at its KL */
    bd_bench_estimate gap_at_bytes, kl_at_bytes; /* of the curve at the point's bytes */
    bd_bench_estimate gap_ratio, kl_ratio;       /* the point's over the curve's at equal bytes */
} bd_bench_comparison;

/* curve: indices into points (n_curve of them, any order). Bootstrap over windows: Philox, seed 0. */
bd_status bd_bench_compare(bd_bench_comparison *out, const bd_bench_point *points, const int *curve, int n_curve,
                           int point, const bd_bench_windows *w, bd_err *err);
/* Which of the candidates no other one beats in both bytes and loss (by_kl: KL, else gap); returns how many, in the
 * order of bytes. */
int bd_bench_front(int *out, const bd_bench_point *points, const int *candidates, int n, bool by_kl);

#endif
