/* The session's own fields, shared by session.c and learn.c only. */
#ifndef BD_RUNTIME_SESSION_IMPL_H
#define BD_RUNTIME_SESSION_IMPL_H

#include "runtime/session.h"
#include "runtime/steps.h"

struct bd_session {
    const bd_model *model;
    bd_backend *be;
    int64_t max_rows, max_len;
    bool learn;
    const bd_progress *progress;

    bd_exec *forward;
    float *params; /* what forward reads; the model's own array when nothing learns on a host backend */
    bool own_params;
    int32_t *tokens;  /* (max_rows) batch being put together */
    int32_t *targets; /* (max_rows) */
    double *nll;      /* (max_rows) */

    /* recorded stream; scored: one bit per position */
    uint16_t *stream;
    uint8_t *scored;
    uint64_t length, cap;
    bool begun;

    /* logits that were asked for */
    const uint64_t *ask;
    int n_ask;
    float *asked;

    /* learning */
    bd_graph *diff;
    bd_exec *backward;
    bd_gradsum *gradsum;
    float *grad, *momentum;                /* (param_floats), backend memory */
    double *norm;                          /* (1), backend memory */
    int32_t *batch_tokens, *batch_targets; /* (batch_cap) */
    double *batch_nll;
    int64_t batch_cap;
    bool momentum_set; /* momentum holds something but zeros */
    bool broken;       /* a learning step failed half-way: begin anew */

    /* predicting */
    bd_steps *steps;     /* NULL: predicting was not asked for */
    uint64_t step_start; /* window that the kept keys and values belong to */
    bool step_valid;     /* they belong to the weights as they are */
    bool predicted;      /* the last token of steps is the one before the token to be revealed */
};

/* The weights changed: nothing computed with the old ones may be used again. */
static inline void bd_session_weights_changed(bd_session *s) { s->step_valid = s->predicted = false; }

/* Take the targets of a window into the stream, after all checks. */
bd_status bd_session_record(bd_session *s, const bd_window *w, bd_err *err);
bd_status bd_session_check_nll(double nll, uint64_t index, bd_err *err);

/* Rows of a forward and backward pass while learning. */
int64_t bd_session_learn_rows(int64_t max_len);

#endif
