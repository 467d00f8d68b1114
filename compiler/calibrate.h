/* Calibration: what the loss feels of every matrix, from the model's own graph run
 * forward and backward over windows of training shards.
 *
 * Moving row i of a matrix by d costs about rows[i] * d H d^T / 2 nats per token. H
 * is the second moment of the matrix's inputs, each token weighted by the squared
 * length of the loss gradient at the outputs, and rows[i] the share of output i in
 * that length. A lookup table has the second moment of the gradient at its output
 * as H and the frequencies of tokens as rows. A parameter used several times has
 * the sum of its uses' H, and rows weighted by their traces. Matrices that read the
 * same value (q, k, v) share one H, weighted by the sum of their gradients.
 *
 * Bits do not depend on threads or ISA. */
#ifndef BD_COMPILER_CALIBRATE_H
#define BD_COMPILER_CALIBRATE_H

#include "base/progress.h"
#include "kernels/backend.h"
#include "runtime/model.h"

/* Sums over the calibration tokens. */
typedef struct bd_moment {
    double *h; /* (n, n) */
    int64_t n;
    int32_t value;    /* graph value whose rows were summed */
    bool of_gradient; /* rows of the loss gradient at that value, unweighted */
    int readers;      /* matrices that read the value */
} bd_moment;

typedef struct bd_param_use {
    int param, moment;
    double *rows; /* (rows of the parameter): squared output gradients summed, or counts of tokens */
} bd_param_use;

typedef struct bd_calibration {
    bd_moment *moments;
    int n_moments;
    bd_param_use *uses; /* in graph order */
    int n_uses;
    uint8_t tokens_hash[32]; /* of the calibration stream */
    uint64_t tokens;         /* calibration tokens seen */
} bd_calibration;

typedef struct bd_calib_opts {
    const uint16_t *tokens; /* joined training stream */
    uint64_t n;
    int64_t window;      /* inputs per window */
    uint64_t max_tokens; /* windows are spread evenly over the stream up to this many tokens */
    const bd_progress *progress;
} bd_calib_opts;

bd_status bd_calibrate(bd_calibration **out, const bd_model *m, bd_backend *be, const bd_calib_opts *o,
                       bd_err *err);
void bd_calibration_destroy(bd_calibration *c);

/* The metric of one parameter, per token. */
typedef struct bd_metric {
    double *h;    /* (cols, cols) */
    double *rows; /* (rows), summing to 1 unless all are zero */
} bd_metric;
/* h is NULL if no matrix operation uses the parameter. */
bd_status bd_calibration_metric(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param, bd_err *err);
void bd_metric_free(bd_metric *m);

/* Keep and reuse: safetensors with F64 arrays; bound to the model's weights by their hash. */
bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err);
bd_status bd_calibration_load(bd_calibration **out, const bd_model *m, const char *path, bd_err *err);

#endif
