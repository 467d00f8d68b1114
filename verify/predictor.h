/* A predictor under test: what the probes of the verifier ask of whoever scores.
 *
 * A run over a stream is a list of steps: score so many targets, learn. The
 * predictor says which step comes next and carries it out; between the steps the
 * probes look. One implementation drives the very evaluator that gives an artifact
 * its score; the others are the planted cheats of the tests. */
#ifndef BD_VERIFY_PREDICTOR_H
#define BD_VERIFY_PREDICTOR_H

#include "runtime/evaluate.h"

typedef struct bd_predictor bd_predictor;

typedef struct bd_predictor_vt {
    /* Start, or start anew, with nothing kept of earlier runs: a stream of `declared` tokens, which schedules may
     * depend on, of which only tokens[0 .. given) are there. The run ends where more would be needed. */
    bd_status (*begin)(bd_predictor *p, const uint16_t *tokens, uint64_t given, uint64_t declared, bd_err *err);
    bd_step (*next)(bd_predictor *p); /* what the next run does; the same until then */
    /* A SCORE step: nll (n). logp, if not NULL, receives the natural logarithms of the whole distributions that
     * predict the targets ask[0 .. n_ask), rising and among the step's: (n_ask, vocab). LEARN touches neither. */
    bd_status (*run)(bd_predictor *p, double *nll, const uint64_t *ask, int n_ask, double *logp, bd_err *err);
    /* Of everything that learning may change and scoring may not. */
    bd_status (*state_hash)(bd_predictor *p, uint8_t out[32], bd_err *err);
    uint64_t (*most)(bd_predictor *p); /* targets of a SCORE step at most, in this run */
    void (*close)(bd_predictor *p);
} bd_predictor_vt;

/* First member of every implementation. */
struct bd_predictor {
    const bd_predictor_vt *vt;
    int32_t vocab;
};

/* Over the runtime's evaluator. Model, backend and protocol are borrowed. */
bd_status bd_predictor_open(bd_predictor **out, const bd_model *m, bd_backend *be, const bd_protocol *proto,
                            uint64_t max_memory, bd_err *err);
/* For the runs that follow: the stream's bytes per token, which count in bd_predictor_score, and who is told how
 * far they are. Either may be NULL. */
void bd_predictor_account(bd_predictor *p, const uint16_t *bytes, const bd_progress *progress);
/* The evaluator's own score of the run so far. Only for what bd_predictor_open made, and once begun. */
void bd_predictor_score(const bd_predictor *p, bd_score *score);

static inline void bd_predictor_close(bd_predictor *p) {
    if (p) p->vt->close(p);
}

#endif
