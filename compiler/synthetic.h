/* A model and statistics made of random numbers, for measurements of speed: the
 * compiler meets what it meets in real ones (spreads of rows and columns, correlated
 * inputs and output gradients, spectra that decay), but no model is run. */
#ifndef BD_COMPILER_SYNTHETIC_H
#define BD_COMPILER_SYNTHETIC_H

#include "base/thread.h"
#include "compiler/calibrate.h"

/* Weights of a finished graph: normal numbers with log-normal scales of rows and columns. out: (param_floats),
 * zeroed. */
void bd_synthetic_params(float *out, const bd_graph *g, uint64_t seed, bd_pool *pool);

/* Statistics of a graph's matrices and vectors, as bd_calibrate gives them for `tokens` tokens. */
bd_status bd_synthetic_calibration(bd_calibration **out, const bd_graph *g, uint64_t tokens, uint64_t seed,
                                   bd_pool *pool, bd_err *err);

#endif
