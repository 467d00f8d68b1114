/* The trellis search down a column whose rows are coupled: what the loss feels of row i
 * depends on the errors of the rows above it.
 *
 * The loss of a matrix is tr(G dW H dW^T) / 2 with G the second moment of its output
 * gradients. Factorized on both sides, G = (B + I) D (B + I)^T like H, it is a sum of
 * D_i D_j u_ij^2 with innovations
 *     u_ij = v_ij + sum_{k<i} v_kj B_ki,   v = dW (A + I),
 * so errors of earlier rows move the targets of later ones, as errors of earlier
 * columns do (two-sided adaptive rounding; Tseng et al., YAQA, arXiv 2505.22988).
 * Targets differ from path to path: every survivor of the Viterbi search has its own
 * sums (per-survivor processing; Raheli et al., 1995). Survivors soon have the same
 * past, whose sums are taken once for all; each carries its own for 16 rows at a time.
 *
 * Arrays of rows have `stride` entries, a multiple of 16, and are 64-byte aligned.
 * float32, every operation rounded once, in an order that does not depend on the
 * width of vectors. */
#ifndef BD_COMPILER_COUPLED_SEARCH_H
#define BD_COMPILER_COUPLED_SEARCH_H

#include "base/status.h"
#include "compiler/trellis_search.h"

typedef struct bd_coupled {
    const bd_search_trellis *trellis; /* NULL: no trellis, every index is allowed and `width` is a whole step */
    int64_t rows, stride;
    const float *b; /* (rows, stride): B, zero on and below the diagonal and behind the last row */
    /* of the column */
    const float *target;          /* (stride): w + feedback of earlier columns */
    const float *inverse, *width; /* (stride): 1 / step, the grid's width */
    const int32_t *bin;           /* (stride) */
    const bd_rate_cost *rate;
    /* results */
    int16_t *path; /* (stride) */
    float *moved;  /* (stride): sum_{k<i} v_ki B_ki along the path */
    /* scratch, owned */
    float *sums[2];  /* (states, BD_SEARCH_LANES): of the block of rows at hand, per survivor */
    float *error;    /* (stride): v along the part of the path that is settled */
    uint64_t *alive; /* (rows + 1, BD_SEARCH_STATES_MAX / 64): states that survivors go through */
    int16_t *choice; /* (rows, states): index with which the survivor of a state arrived */
    uint8_t *from;   /* (rows, states): state that it came from */
    float *errors;   /* (rows, states): v of that index */
} bd_coupled;

/* trellis, rows, stride and b are set by the caller; allocates the scratch. */
bd_status bd_coupled_init(bd_coupled *c, bd_err *err);
void bd_coupled_free(bd_coupled *c);

typedef void bd_coupled_fn(bd_coupled *c);
/* The implementation for the same instruction set as bd_search_ops_at(i). */
bd_coupled_fn *bd_coupled_at(int i);

#endif
