/* Which tokens a step trains on: a pure function of (seed, step), so resuming
 * needs no loader state.
 *
 * The stream is cut into windows of seq_len inputs. `sequential`: window
 * step * nseq + b, wrapping round. `shuffled`: epoch by epoch, each with its own
 * random phase in [0, seq_len) and its own permutation of the windows. */
#ifndef BD_TRAINER_LOADER_H
#define BD_TRAINER_LOADER_H

#include "trainer/recipe.h"

typedef struct bd_loader {
    const uint16_t *tokens; /* borrowed */
    uint64_t n;
    int64_t seq_len, windows; /* windows of an epoch */
    bd_loader_kind kind;
    uint64_t seed;
    int64_t epoch; /* whose permutation is in `order`, -1: none */
    uint64_t phase;
    uint32_t *order; /* (windows) */
} bd_loader;

/* BD_E_MISSING if the stream holds not even one window. */
bd_status bd_loader_init(bd_loader *l, const uint16_t *tokens, uint64_t n, int64_t seq_len, bd_loader_kind kind,
                         uint64_t seed, bd_err *err);
void bd_loader_free(bd_loader *l);
/* Fill x, y: (nseq, seq_len); y is x shifted by one token. */
void bd_loader_batch(bd_loader *l, int64_t step, int64_t nseq, int32_t *x, int32_t *y);

#endif
