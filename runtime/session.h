/* A session: one timeline over a model. It owns everything mutable at test time
 * and it owns the metric.
 *
 * The recorded stream grows only by scoring. bd_session_score takes new target
 * tokens and returns what they cost given what came before; bd_session_learn
 * takes no tokens: it can only use what was scored. The order "learn, then
 * score the same tokens" cannot be written down with this interface. */
#ifndef BD_RUNTIME_SESSION_H
#define BD_RUNTIME_SESSION_H

#include "base/progress.h"
#include "runtime/exec.h"
#include "runtime/model.h"

typedef struct bd_session bd_session;

/* New targets of one window. Its inputs are the recorded stream from `start` on
 * (positions count from 0 at `start`); targets are stream tokens
 * [first, first + n), first > start. In one call windows are in stream order:
 * each window's `first` is the recorded length at that point, counting the
 * windows before it in the call. Windows of one call do not influence each other
 * but through the tokens they share: a later window may read, as context, the
 * targets of an earlier one. */
typedef struct bd_window {
    uint64_t start, first;
    const uint16_t *targets;
    uint32_t n;
} bd_window;

/* max_rows: rows (tokens) a forward call may hold; max_len: longest window.
 * learn: allocate what test-time training needs. The model outlives the session. */
bd_status bd_session_create(bd_session **out, const bd_model *m, bd_backend *be, int64_t max_rows, int64_t max_len,
                            bool learn, bd_err *err);
void bd_session_destroy(bd_session *s); /* accepts NULL */
uint64_t bd_session_bytes(const bd_session *s);
/* What bd_session_create would allocate, without the recorded stream. */
bd_status bd_session_plan_bytes(uint64_t *bytes, const bd_model *m, int64_t max_rows, int64_t max_len, bool learn,
                                bd_err *err);
/* Start a stream: weights, momentum and bitmap as new; the recorded stream is
 * {first_token}. The weights are read from the model now, and without `learn`
 * also during every score. expected_tokens: memory is set aside for that many
 * (more are accepted). */
bd_status bd_session_begin(bd_session *s, uint16_t first_token, uint64_t expected_tokens, bd_err *err);
/* nll: sum of n over windows, in window order, natural logarithm. NaN, infinity
 * or nll above 1e4 is BD_E_NONFINITE. On failure nothing of the call is recorded. */
bd_status bd_session_score(bd_session *s, const bd_window *w, int n, double *nll, bd_err *err);
/* Ask the following calls of bd_session_score for the logits that predict the targets at stream positions
 * ask[0 .. n), rising: each call fills logits (n, vocab) for those it scores. Both arrays stay the caller's;
 * NULL: no more. */
void bd_session_ask(bd_session *s, const uint64_t *ask, int n, float *logits);
uint64_t bd_session_length(const bd_session *s); /* recorded tokens */

/* --- one token at a time: predict, then reveal ---
 * The same stream, bitmap and metric as bd_session_score, for callers who do not know the next token yet. Exact
 * mode: the same bits, too. Keys and values of the window are kept from call to call; another window start and
 * every learning step drop them. */
/* Once, before begin: allocate what predicting needs. */
bd_status bd_session_allow_predict(bd_session *s, bd_err *err);
bd_status bd_session_predict_plan_bytes(uint64_t *bytes, const bd_model *m, int64_t max_len, bd_err *err);
/* logits: host (vocab), the model's output for the token at index bd_session_length, whose inputs are the recorded
 * stream from `start` on. */
bd_status bd_session_predict(bd_session *s, uint64_t start, float *logits, bd_err *err);
/* The token that the last predict was about: records it and returns its loss. */
bd_status bd_session_reveal(bd_session *s, uint16_t token, double *nll, bd_err *err);

/* One epoch of SGD with momentum over recorded tokens [begin, end) (both must be
 * recorded). Sequence k has the inputs begin + k*seq_len ... and the targets one
 * further; only full sequences are used, and a remainder is left out (if not even
 * one is full, the whole range is one short sequence). Steps of `batch` sequences
 * in order, the last step may have fewer: mean cross-entropy; the gradient is
 * multiplied by min(1, clip / (norm + 1e-6)), the norm being over all parameters
 * that learn (float64, parameters in graph order, each in blocks as sum_squares
 * states); then momentum, which is kept over calls. Targets are always tokens
 * whose position was scored. */
typedef struct bd_learn {
    uint64_t begin, end;
    int64_t seq_len, batch;
    double lr, momentum, clip; /* clip 0: none */
    int freeze_blocks;         /* parameters named blocks.<i>. with i below this stay fixed */
} bd_learn;
bd_status bd_session_learn(bd_session *s, const bd_learn *l, bd_err *err);
/* SHA-256 of all mutable state, for the ORDER check. */
bd_status bd_session_state_hash(bd_session *s, uint8_t out[32], bd_err *err);
/* The same of what learning may change and scoring may not: weights and momentum, without the record. */
bd_status bd_session_adapted_hash(bd_session *s, uint8_t out[32], bd_err *err);
/* Polled inside long calls; may be NULL. */
void bd_session_set_progress(bd_session *s, const bd_progress *progress);

#endif
