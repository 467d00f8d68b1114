/* The arithmetic of trellis-coded quantization, one column at a time: which index
 * each of the four subsets of the grid would use and at what cost, the cheapest
 * legal path down the rows (Viterbi), and error feedback.
 *
 * Arrays of rows have `stride` entries, a multiple of 16, with zeros behind the last
 * row, and are 64-byte aligned. All float32, every operation rounded once and in an
 * order that does not depend on the width of vectors: every bd_search_ops gives the
 * same bits. */
#ifndef BD_COMPILER_TRELLIS_SEARCH_H
#define BD_COMPILER_TRELLIS_SEARCH_H

#include <stdint.h>

#include "format/trellis.h"

enum {
    BD_SEARCH_LANES = 16, /* arrays are padded to this many rows */
    BD_RATE_BINS = 84,    /* predicted magnitudes, four to an octave, from 2^-7 on */
    BD_RATE_LEVELS = 64,  /* entries of a table */
    BD_SEARCH_STATES_MAX = 256
};

/* cost[bin][odd][level]: what the bits of magnitude v = |index| >> 1 (scalar: |index|) cost in squared steps;
 * level = min(v >> shift[bin], BD_RATE_LEVELS - 1). */
typedef struct bd_rate_cost {
    float cost[BD_RATE_BINS][2][BD_RATE_LEVELS];
    int32_t shift[BD_RATE_BINS];
} bd_rate_cost;

/* A trellis made ready: the subset that state s reaches with branch 0; branch 1 reaches subset ^ 2. */
typedef struct bd_search_trellis {
    uint32_t states;
    uint8_t subset[BD_SEARCH_STATES_MAX];
} bd_search_trellis;

typedef struct bd_search_ops {
    const char *name;
    /* y = (w + f) / step by its inverse, kept within +-2^20. Returns the sum of |y| in a fixed order. */
    float (*targets)(float *y, const float *w, const float *f, const float *inverse, int64_t n);
    /* Bins of mean * (sum + prior): the predicted magnitude. */
    void (*bins)(int32_t *bin, const float *sum, const float *prior, float mean, int64_t n);
    /* For every row and subset d the cheaper of the two indices around y: cost (n, 4), index (n, 4). */
    void (*subsets)(float *cost, int16_t *index, const float *y, const int32_t *bin, const bd_rate_cost *rate,
                    int64_t n);
    /* Without a trellis: the cheaper of the two integers around y. */
    void (*scalar)(int16_t *index, const float *y, const int32_t *bin, const bd_rate_cost *rate, int64_t n);
    /* Survivors of the search from state 0 over cost (n, 4): (n, ceil(states / 8)) bytes of decisions, for
     * bd_search_back. final: (states) costs at the end, up to a common constant. */
    void (*forward)(uint8_t *decisions, float *final, const bd_search_trellis *t, const float *cost, int64_t n);
    /* f[j] += sum over k < n of e[k] * a[j][k] for columns j < m; rising k. Lines of f and e are `stride` apart, of
     * a `a_stride`; `rows` of them are touched (a multiple of 16). */
    void (*feed)(float *f, const float *e, int64_t stride, const float *a, int64_t a_stride, int n, int64_t m,
                 int64_t rows);
} bd_search_ops;

/* Implementations that this processor runs, fastest first; NULL behind the last. */
const bd_search_ops *bd_search_ops_at(int i);

void bd_search_trellis_init(bd_search_trellis *out, const bd_trellis *t);
/* The cheapest path: subset[i] = 0..3 of every row. */
void bd_search_back(uint8_t *subset, const uint8_t *decisions, const float *final, const bd_search_trellis *t,
                    int64_t n);

#endif
