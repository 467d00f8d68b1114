/* Calibration: what the loss feels of every matrix, from the model's own graph run
 * forward and backward over windows of training shards.
 *
 * Moving row i of a matrix by d costs about rows[i] * d H d^T / 2 nats per token. H
 * is the second moment of the matrix's inputs, each token weighted by the squared
 * length of the loss gradient at the outputs, and rows[i] the share of output i in
 * that length. A lookup table has the second moment of the gradient at its output
 * as H and the frequencies of tokens as rows. A parameter used several times has
 * the sum of its uses' H, and rows weighted by their traces. Matrices that read the
 * same value (q, k, v) share one H, weighted by the sum of their gradients. Of a
 * vector, every element has a second moment of its own.
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
    /* (rows, rows): products of output gradients summed, each token weighted by the squared length of the matrix's
     * input: how errors of different rows meet in the loss. NULL for tables, for matrices of more than
     * BD_CALIB_COUPLED_ROWS rows and in unweighted statistics. */
    double *coupled;
} bd_param_use;

enum { BD_CALIB_COUPLED_ROWS = 1024 };

typedef struct bd_calibration {
    bd_moment *moments;
    int n_moments;
    bd_param_use *uses; /* in graph order */
    int n_uses;
    /* Vectors (parameters that no matrix operation reads): [param], NULL for matrices. Of each element the sum over
     * calls (a window, or several that have 1,024 tokens) of the squared gradient, about its mean where there is
     * more than one call: the mean is slope, not curvature. Divided by `tokens` it is the second moment per token
     * that a small change costs, on the safe side: measured costs were 0.2 to 0.8 of it, those of matrices 0.7
     * to 1.5. */
    double **elements;
    int n_params;
    bool unweighted;         /* the moments of inputs are plain sums of x x^T */
    uint8_t tokens_hash[32]; /* of the calibration tokens and their targets */
    uint64_t tokens;         /* calibration tokens seen */
    uint8_t (*shards)[32];   /* SHA-256 of the shards it came from */
    int n_shards;
} bd_calibration;

typedef struct bd_calib_opts {
    const uint16_t *tokens; /* joined training stream */
    uint64_t n;
    int64_t window;      /* inputs per window */
    uint64_t max_tokens; /* windows are spread evenly over the stream up to this many tokens */
    double holdout;      /* this share of the stream's windows, at its end, is left out; 0: none */
    bool unweighted;     /* H without the tokens' gradient weights: for measurements of what they are worth */
    const uint8_t (*shards)[32]; /* SHA-256 of the shards that `tokens` joins; kept in the result */
    int n_shards;
    const bd_progress *progress;
} bd_calib_opts;

bd_status bd_calibrate(bd_calibration **out, const bd_model *m, bd_backend *be, const bd_calib_opts *o,
                       bd_err *err);
void bd_calibration_destroy(bd_calibration *c);
/* Windows at the end of a stream of n tokens that `holdout` leaves out; the others, (n - 1) / window less these,
 * come before them. */
uint64_t bd_calibration_held_out(uint64_t n, int64_t window, double holdout);
/* BD_E_FIELD, with what to do, unless the moments are of the kind wanted: for statistics that were loaded. */
bd_status bd_calibration_check_kind(const bd_calibration *c, bool unweighted, bd_err *err);

/* The metric of one parameter, per token. */
typedef struct bd_metric {
    double *h;        /* (cols, cols) */
    double *rows;     /* (rows), summing to 1 unless all are zero */
    double *coupled;  /* (rows, rows) with trace 1: the rows' couplings, NULL where they are not known */
    double *elements; /* (rows * cols) second moment of each element's gradient, per token; NULL for matrices */
} bd_metric;
/* h and rows are NULL if no matrix operation uses the parameter; elements is NULL if one does.
 * Loss per token: sum rows[i] dW_i h dW_i^T / 2, with couplings tr(coupled dW h dW^T) / 2, or sum elements[k]
 * dw_k^2 / 2. */
bd_status bd_calibration_metric(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param, bd_err *err);
void bd_metric_free(bd_metric *m);

/* Keep and reuse: safetensors with F64 arrays, checked by their hash; bound to the model's weights by theirs. */
bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err);
bd_status bd_calibration_load(bd_calibration **out, const bd_model *m, const char *path, bd_err *err);

#endif
