/* Weights that came from an int8 export lie on a grid, and a fine enough quantizer
 * finds the grid: not a measurement of anything. Uniform noise of one grid cell
 * makes them continuous again. */
#ifndef BD_CLI_DITHER_H
#define BD_CLI_DITHER_H

#include "runtime/model.h"

/* Every row of a matrix of *m that is code * step with |code| <= 127 (bfloat16 rounding of the product allowed)
 * gets noise in [-step/2, step/2) from Philox (seed, parameter, index); rows of zeros and vectors stay. `want` (a
 * pattern list, n of them; none: all) picks parameters. *m is replaced by a model with the new weights; *rows and
 * *all: rows that got noise, of how many. A model without any such row is BD_E_FIELD. */
bd_status bd_dither(bd_model **m, uint64_t seed, const char *const *want, int n, int64_t *rows, int64_t *all,
                    bd_err *err);

#endif
