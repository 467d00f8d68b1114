/* Running a graph: the memory plan, one allocation, and the calls.
 *
 * bd_exec_create plans lifetimes (forward only: buffers are reused; with
 * backward: what the gradients need is kept), allocates once and reserves the
 * backend's scratch. Nothing allocates afterwards. Parameters and gradients are
 * flat arrays laid out by the graph; they belong to the caller and come from
 * the backend's alloc.
 *
 * Exact mode: the bits of every result are independent of how sequences are
 * grouped into calls. */
#ifndef BD_RUNTIME_EXEC_H
#define BD_RUNTIME_EXEC_H

#include "base/progress.h"
#include "kernels/backend.h"
#include "runtime/graph.h"

typedef struct bd_exec bd_exec;

/* g: finished graph; differentiated if backward is wanted. max_rows bounds
 * nseq * T, max_len bounds T. The graph and the backend must outlive the exec. */
bd_status bd_exec_create(bd_exec **out, const bd_graph *g, bd_backend *be, int64_t max_rows, int64_t max_len,
                         bd_err *err);
void bd_exec_destroy(bd_exec *x);
/* Bytes of the plan, before or after creation. */
uint64_t bd_exec_bytes(const bd_exec *x);
uint64_t bd_exec_plan_bytes(const bd_graph *g, int64_t max_rows, int64_t max_len);

int64_t bd_exec_max_rows(const bd_exec *x);
int64_t bd_exec_max_len(const bd_exec *x);

/* Forward: tokens (nseq, T); targets (nseq, T) or NULL (then nll must be NULL).
 * nll: host array (nseq * T), 0 where target is -1. */
bd_status bd_exec_forward(bd_exec *x, const float *params, const int32_t *tokens, const int32_t *targets,
                          int64_t nseq, int64_t T, double *nll, bd_err *err);
/* Gradients of gscale * sum nll for the batch of the last forward (which must
 * have had targets), added to `grads` (g->grad_floats floats). Once per forward:
 * it reuses the activations' memory, the logits' included. */
bd_status bd_exec_backward(bd_exec *x, const float *params, float gscale, float *grads, bd_err *err);
/* Logits of the last forward: host copy, rows [row, row + n) of (nseq * T, vocab). */
bd_status bd_exec_logits(bd_exec *x, int64_t row, int64_t n, float *out, bd_err *err);

/* Called after each call has run; for statistics and tracing. The loss of a graph
 * that is not differentiated has no node and is not shown. */
typedef bd_status bd_exec_tap(void *user, const bd_node *node, const bd_call *call, bd_err *err);
void bd_exec_set_tap(bd_exec *x, bd_exec_tap *tap, void *user); /* NULL: off */

/* --- gradient of a whole batch, in the normative order ---
 * Sequence b of nseq belongs to virtual shard b * 8 / nseq. Each shard and each
 * use of a parameter is one chain; shards are joined by tree_sum8, then the uses
 * of a parameter, last use first. */
typedef struct bd_gradsum bd_gradsum;
bd_status bd_gradsum_create(bd_gradsum **out, const bd_graph *g, bd_backend *be, bd_err *err);
void bd_gradsum_destroy(bd_gradsum *s);
uint64_t bd_gradsum_bytes(const bd_gradsum *s);
/* tokens, targets: (nseq, T). grad: flat (param_floats), overwritten with the
 * gradient of the mean nll over scored targets. nll: host (nseq * T). */
bd_status bd_batch_gradient(bd_exec *x, bd_gradsum *s, const float *params, const int32_t *tokens,
                            const int32_t *targets, int64_t nseq, int64_t T, float *grad, double *nll,
                            const bd_progress *progress, bd_err *err);

#endif
