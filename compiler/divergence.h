/* How far candidates are from the float model on given text: cross-entropy and KL
 * divergence of whole distributions, in exact mode, window by window.
 *
 * KL(float || candidate) is 5-10 times less noisy than the difference in loss. All
 * candidates see the same batches, the float model runs once. */
#ifndef BD_COMPILER_DIVERGENCE_H
#define BD_COMPILER_DIVERGENCE_H

#include "base/progress.h"
#include "kernels/backend.h"
#include "runtime/model.h"

typedef struct bd_divergence_opts {
    const uint16_t *tokens; /* joined stream */
    uint64_t n;
    int64_t window; /* inputs per window; windows do not overlap */
    uint64_t first,
        max_windows; /* windows [first, first + max_windows) of the stream; a short last one is left out */
    const bd_progress *progress;
} bd_divergence_opts;

typedef struct bd_divergence {
    uint64_t windows, tokens;
    /* Sums per window in nats; all owned. */
    double *nll_float;  /* (windows) */
    double **nll, **kl; /* [candidate](windows) */
    int n_candidates;
} bd_divergence;

/* params[c]: flat parameters of candidate c, laid out as m->params. */
bd_status bd_divergence_measure(bd_divergence *out, const bd_model *m, bd_backend *be, const float *const *params,
                                int n_candidates, const bd_divergence_opts *o, bd_err *err);
void bd_divergence_free(bd_divergence *d);

#endif
