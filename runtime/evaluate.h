/* Evaluators: small programs over a session, chosen by a protocol, and the score. */
#ifndef BD_RUNTIME_EVALUATE_H
#define BD_RUNTIME_EVALUATE_H

#include "base/progress.h"
#include "format/protocol.h"
#include "runtime/session.h"

/* A validation stream: tokens of all shards joined, and the bytes each token
 * stands for when it is the target (index 0 is never a target). */
typedef struct bd_stream {
    const uint16_t *tokens;
    const uint16_t *bytes; /* NULL: no byte count, val_bpb is not reported */
    uint64_t n;
} bd_stream;

typedef struct bd_score {
    uint64_t tokens, bytes, windows;
    int64_t nll_q32;                      /* sum of llrint(nll * 2^32) */
    double val_loss, val_bpb, bpb_stderr; /* stderr: bootstrap over windows (runtime/score.h). NaN: not known */
    double seconds_score, seconds_learn;
} bd_score;

typedef struct bd_eval_opts {
    uint64_t max_windows, max_tokens; /* 0: all. Tokens are scored targets */
    bool drop_tail;                   /* leave out a last window that is not full */
    int64_t batch_rows;               /* rows per forward call; 0: chosen. Never changes the score */
    uint64_t max_memory;              /* bytes a session may take; smaller batches are chosen to fit. 0: no limit */
    uint64_t given; /* only tokens [0, given) are there: the window that needs more is cut and the last; 0: all */
    /* called with scored nll in stream order; may be NULL */
    bd_status (*on_nll)(void *user, uint64_t first, const double *nll, uint64_t n, bd_err *err);
    void *user;
    const bd_progress *progress;
} bd_eval_opts;

/* What an evaluation will do, from the stream's length and the protocol alone.
 *
 * n tokens have N = n - 1 targets; max_tokens cuts N first. Window w of kind
 *   non-overlapping: inputs from w*L, targets the min(L, N - w*L) after each;
 *   with stride S:   inputs from w*S while w*S + L - S < N; the first scores all its targets, the others
 *                    those after local position L - S - 1: each target once, with at least L - S of context.
 * Then max_windows cuts; N is what the remaining windows score.
 * Kind sgd: C = ceil(N / chunk) chunks; a window belongs to chunk min(p / chunk, C - 1) by the position p (target
 * index - 1) it scores first; after the windows of chunk c < C - 1, `epochs` epochs over the inputs
 * [c*chunk, (c+1)*chunk) at lr * 0.5 * (1 + cos(pi c / max(C - 1, 1))). */
typedef struct bd_eval_plan {
    uint64_t windows, tokens, bytes; /* bytes: 0 without a byte table */
    uint64_t rows;                   /* inputs run forward while scoring */
    uint64_t chunks, learn_rows;     /* kind sgd: rows learnt from, epochs counted */
    double flops;
    int64_t max_len, max_rows; /* of the session */
    uint64_t memory;           /* of the session */
} bd_eval_plan;
bd_status bd_eval_plan_make(bd_eval_plan *plan, const bd_model *m, const bd_stream *stream,
                            const bd_protocol *proto, const bd_eval_opts *opts, bd_err *err);

/* An evaluation step by step, for those who look at what happens between the steps. bd_evaluate is a loop over
 * it: what is looked at is what scores. Targets are read when they are scored, and not before. */
typedef enum bd_step_kind { BD_STEP_END, BD_STEP_SCORE, BD_STEP_LEARN } bd_step_kind;
typedef struct bd_step {
    bd_step_kind kind;
    uint64_t first, n; /* SCORE: targets [first, first + n); LEARN: from the tokens [first, first + n) */
} bd_step;
typedef struct bd_evaluator bd_evaluator;
/* model, backend and the stream's arrays outlive it; opts may be NULL. Tokens at or above the vocabulary are
 * BD_E_RANGE with their index. */
bd_status bd_evaluator_open(bd_evaluator **out, const bd_model *m, bd_backend *be, const bd_stream *stream,
                            const bd_protocol *proto, const bd_eval_opts *opts, bd_err *err);
void bd_evaluator_close(bd_evaluator *e);         /* accepts NULL */
bd_step bd_evaluator_next(const bd_evaluator *e); /* what the next run does */
/* SCORE: nll (n). logits, if not NULL, receives those that predict the targets ask[0 .. n_ask), rising and among
 * the step's: (n_ask, vocab). Neither is touched by LEARN. */
bd_status bd_evaluator_run(bd_evaluator *e, double *nll, const uint64_t *ask, int n_ask, float *logits,
                           bd_err *err);
/* SCORE when the targets are not known: `next` chooses each in turn from the logits (vocab) that predict it, and it
 * is stored in `tokens`, which is the stream's array. Exact mode: nll as bd_evaluator_run would give for these
 * tokens. bd_evaluator_allow_guess comes before the first run. */
typedef bd_status bd_evaluator_source(void *user, uint64_t index, const float *logits, uint16_t *token,
                                      bd_err *err);
bd_status bd_evaluator_allow_guess(bd_evaluator *e, bd_err *err);
bd_status bd_evaluator_guess(bd_evaluator *e, uint16_t *tokens, double *nll, bd_evaluator_source *next, void *user,
                             bd_err *err);
uint64_t bd_evaluator_most(const bd_evaluator *e); /* targets of a SCORE step at most */
bd_session *bd_evaluator_session(bd_evaluator *e);
void bd_evaluator_score(const bd_evaluator *e, bd_score *score); /* so far */

/* opts may be NULL. Tokens at or above the vocabulary are BD_E_RANGE with their index. */
bd_status bd_evaluate(const bd_model *m, bd_backend *be, const bd_stream *stream, const bd_protocol *proto,
                      const bd_eval_opts *opts, bd_score *score, bd_err *err);

#endif
