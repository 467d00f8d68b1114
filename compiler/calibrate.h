/* Calibration: for every matrix, H = sum over tokens of x x^T of its inputs,
 * from the model's own graph over windows of training shards. Matrices that read
 * the same value (q, k, v) share one H; a matrix used in several places has the
 * sum of its uses. Bits do not depend on threads or ISA. */
#ifndef BD_COMPILER_CALIBRATE_H
#define BD_COMPILER_CALIBRATE_H

#include "base/progress.h"
#include "kernels/backend.h"
#include "runtime/model.h"

typedef struct bd_hessian {
    double *h;    /* (n, n) */
    int64_t n;
    int32_t value; /* graph value whose rows were summed */
} bd_hessian;

typedef struct bd_calibration {
    bd_hessian *slots;
    int n_slots;
    int *param_slot;     /* (n_params): slot of the parameter's first use, -1: not the weight of a linear */
    uint8_t tokens_hash[32]; /* of the calibration stream */
    uint64_t tokens;     /* calibration tokens seen */
} bd_calibration;

typedef struct bd_calib_opts {
    const uint16_t *tokens; /* joined training stream */
    uint64_t n;
    int64_t window;         /* inputs per window */
    uint64_t max_tokens;    /* windows are spread evenly over the stream up to this many tokens */
    const bd_progress *progress;
} bd_calib_opts;

bd_status bd_calibrate(bd_calibration **out, const bd_model *m, bd_backend *be, const bd_calib_opts *o, bd_err *err);
void bd_calibration_destroy(bd_calibration *c);
/* Sum of the uses of one matrix as a fresh (n, n) array (free()), or NULL if it has none or memory ran out. */
double *bd_calibration_hessian(const bd_calibration *c, const bd_graph *g, int param);
/* Keep and reuse: safetensors with one F64 array per slot; bound to the model's weights by their hash. */
bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err);
bd_status bd_calibration_load(bd_calibration **out, const bd_model *m, const char *path, bd_err *err);

#endif
