/* What water-filled steps will save on a model, from its statistics alone: half the
 * logarithm of arithmetic over geometric mean of what the loss feels of tensors,
 * rows and columns (bits per weight at equal loss). */
#ifndef BD_CLI_FORECAST_H
#define BD_CLI_FORECAST_H

#include "compiler/calibrate.h"

/* All in bits per weight. `r` and `d` are the plain dispersions; the others are what is left of them with steps
 * that are really taken, 1 / sqrt((r + rho * mean r) d), compared with one step for all (even) and with steps by
 * the deviations of rows, as SDClip has them. Rows without weights are left out: they cost nothing either way. */
typedef struct bd_forecast_tensor {
    int param;
    int64_t weights;
    double r, d;            /* rows; columns: d is the diagonal of the LDL factor of the damped H */
    double even, deviation; /* of the rows */
    double level;           /* mean sensitivity of a weight: mean r times mean d */
} bd_forecast_tensor;

typedef struct bd_forecast {
    bd_forecast_tensor *tensors; /* matrices with statistics */
    int n;
    int64_t weights;
    double columns;                       /* mean over weights */
    double even_rows, even_tensors, even; /* parts (means over weights; between tensors) and total */
    double deviation_rows, deviation_tensors, deviation;
    double unheard; /* share of rows that the loss does not feel */
} bd_forecast;

/* want: which parameters (by index; NULL: all). */
bd_status bd_forecast_make(bd_forecast *out, const bd_calibration *c, const bd_model *m, double damp, double rho,
                           const bool *want, bd_err *err);
void bd_forecast_free(bd_forecast *f);

#endif
