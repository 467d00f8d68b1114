/* One sequence, a few tokens at a time: the forward graph with the keys and
 * values of earlier positions kept.
 *
 * Exact mode: a position's logits are the same bits as in a forward pass over the
 * whole sequence, however it is cut into steps, because every operation but
 * attention looks at its own row and attention is stated row by row. What is kept
 * belongs to the weights it was computed with: begin anew when they change. */
#ifndef BD_RUNTIME_STEPS_H
#define BD_RUNTIME_STEPS_H

#include "kernels/backend.h"
#include "runtime/graph.h"

typedef struct bd_steps bd_steps;

/* g: finished forward graph. max_rows: tokens of a step; max_len: of the sequence.
 * The graph and the backend must outlive it. Nothing allocates afterwards. */
bd_status bd_steps_create(bd_steps **out, const bd_graph *g, bd_backend *be, int64_t max_rows, int64_t max_len,
                          bd_err *err);
void bd_steps_destroy(bd_steps *s); /* accepts NULL */
uint64_t bd_steps_bytes(const bd_steps *s);
uint64_t bd_steps_plan_bytes(const bd_graph *g, int64_t max_rows, int64_t max_len);

void bd_steps_begin(bd_steps *s);             /* a new sequence: nothing is kept */
int64_t bd_steps_position(const bd_steps *s); /* tokens of the sequence so far */
/* Append n tokens. logits: NULL, or the host's (vocab) of the last one. */
bd_status bd_steps_append(bd_steps *s, const float *params, const int32_t *tokens, int64_t n, float *logits,
                          bd_err *err);
/* What bd_exec_forward would give for the last appended token with this target. */
bd_status bd_steps_nll(bd_steps *s, int32_t target, double *nll, bd_err *err);

#endif
