/* The score: fixed-point totals and their spread.
 *
 * A target's loss enters as llrint(nll * 2^32), so a total is an integer sum:
 * independent of order, threads and ranks. */
#ifndef BD_RUNTIME_SCORE_H
#define BD_RUNTIME_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { BD_SCORE_RESAMPLES = 1000, BD_SCORE_GROUPS = 4096 };

/* Totals, and the same per group of windows for the bootstrap: with at most
 * BD_SCORE_GROUPS windows each is its own group, else ceil(windows / groups)
 * neighbours make one. */
typedef struct bd_score_sum {
    uint64_t tokens, bytes, windows;
    int64_t nll_q32;
    uint64_t per_group;
    uint32_t n_groups;
    int64_t *group_q32;    /* (n_groups) */
    uint64_t *group_bytes; /* (n_groups) */
} bd_score_sum;

int64_t bd_score_q32(double nll);
bd_status bd_score_sum_init(bd_score_sum *s, uint64_t windows, bd_err *err);
void bd_score_sum_free(bd_score_sum *s); /* safe on a zeroed one */
/* The next window: n targets, standing for `bytes` bytes of text together. */
bd_status bd_score_sum_add(bd_score_sum *s, const double *nll, uint64_t n, uint64_t bytes, bd_err *err);
double bd_score_loss(int64_t nll_q32, uint64_t tokens); /* nats per token; NaN for no tokens */
double bd_score_bpb(int64_t nll_q32, uint64_t bytes);   /* sum / (ln 2 * bytes); NaN for no bytes */
/* Standard deviation of val_bpb over resamples of the groups (Philox, seed 0,
 * stream = resample, index = draw); NaN with fewer than two groups or no bytes. */
double bd_score_stderr(const bd_score_sum *s);

#endif
