/* Muon and AdamW over the flat parameter array, through backend operations.
 *
 * Muon (Keller Jordan, 2024): momentum, optional row normalization, then
 * Newton-Schulz orthogonalization of the update, scaled by sqrt(max(1, rows/cols)).
 * Coefficients: the fixed quintic, or the per-step Polar Express ones (Amsel et
 * al., 2025; arXiv 2505.16932). All arithmetic is float32 in exact mode's orders;
 * scalars are computed in double and rounded once. */
#ifndef BD_TRAINER_OPTIMIZER_H
#define BD_TRAINER_OPTIMIZER_H

#include "kernels/backend.h"
#include "runtime/graph.h"
#include "trainer/recipe.h"
#include "trainer/schedule.h"

typedef struct bd_optimizer bd_optimizer;

/* Assigns every parameter of the graph to a group of the recipe: one without a
 * group, or a vector in a muon group, is an error that names it. */
bd_status bd_optimizer_create(bd_optimizer **out, const bd_graph *g, const bd_recipe *r, bd_backend *be,
                              bd_err *err);
void bd_optimizer_destroy(bd_optimizer *o);
uint64_t bd_optimizer_bytes(const bd_optimizer *o);
/* The same before creation, with creation's complaints. */
bd_status bd_optimizer_plan(uint64_t *bytes, const bd_graph *g, const bd_recipe *r, bd_err *err);
/* One update. step counts from 0; lr_mul multiplies every group's rate. grad is
 * scaled in place when the recipe clips; *norm (may be NULL) receives the
 * gradient's global norm before clipping (0 when the recipe does not clip). */
bd_status bd_optimizer_step(bd_optimizer *o, float *params, float *grad, int64_t step, double lr_mul, double *norm,
                            bd_err *err);
/* State arrays for checkpoints, flat like the parameters: "momentum" (muon's, and
 * adam's first moment), "second". i counts from 0; NULL past the last. */
float *bd_optimizer_state(bd_optimizer *o, int i, const char **name);

/* Orthogonalize u (rows x cols) into out, for tests and the bench: `work` holds
 * bd_newton_schulz_work(rows, cols) floats. */
uint64_t bd_newton_schulz_work(int64_t rows, int64_t cols);
bd_status bd_newton_schulz(bd_backend *be, float *out, const float *u, int64_t rows, int64_t cols, int steps,
                           bd_ns_coefficients coefficients, float *work, bd_err *err);
/* Coefficients of step i as doubles. */
void bd_ns_coefficient(bd_ns_coefficients kind, int i, double abc[3]);

#endif
