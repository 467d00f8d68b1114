/* Quantizers: from float weights to what stands in the file, one row of a table each.
 *
 * A recipe gives every tensor a quantizer and settings; the budget solver may
 * scale the settings by one number for the whole model; the plan writes them as
 * `key=value`. A new quantizer is one file and one row of bd_quantizers[]. */
#ifndef BD_COMPILER_QUANTIZER_H
#define BD_COMPILER_QUANTIZER_H

#include "base/thread.h"
#include "format/artifact.h"

/* What a quantizer may ask for. Each uses its own subset (bd_quantizer.fields);
 * the others are zero. Every value survives printing and reading (floats as %.9g). */
typedef struct bd_qsetting {
    const struct bd_quantizer *by;
    int bits;        /* row, lqer, rtn */
    float k;         /* row, lqer: SDClip's step in deviations times qmax; 0: finest that does not clip */
    uint32_t group;  /* ternary, lqer */
    int states;      /* tcq */
    float step;      /* tcq, log: the base: steps are base * 2^(exponent / 4) */
    float lambda;    /* tcq: rate-distortion weight, squared steps per bit */
    int levels;      /* log */
    int rank;        /* lqer */
    float quantile;  /* rtn: rows are clipped there; 1: at the largest */
    float floor;     /* rtn: smallest scale */
    int multiple;    /* rtn: codes are multiples of this (QAT6: 4) */
    float threshold; /* ternary: |w| / scale at which a code is not zero */
    float mult;      /* ternary: factor on the scale; 0: the best in the metric */
} bd_qsetting;

typedef enum bd_qfield {
    BD_QF_BITS = 1 << 0,
    BD_QF_K = 1 << 1,
    BD_QF_GROUP = 1 << 2,
    BD_QF_STATES = 1 << 3,
    BD_QF_STEP = 1 << 4,
    BD_QF_LAMBDA = 1 << 5,
    BD_QF_LEVELS = 1 << 6,
    BD_QF_RANK = 1 << 7,
    BD_QF_QUANTILE = 1 << 8,
    BD_QF_FLOOR = 1 << 9,
    BD_QF_MULTIPLE = 1 << 10,
    BD_QF_THRESHOLD = 1 << 11,
    BD_QF_MULT = 1 << 12
} bd_qfield;

/* A tensor to quantize and what is known of it. Nothing is owned. */
typedef struct bd_qsource {
    const char *name;
    const float *w; /* (rows, cols), all finite */
    int64_t rows, cols;
    bool vector;               /* not a matrix: no Hessian; `rows_metric` is per element */
    const double *ldl;         /* (cols, cols) from bd_ldl of the damped H, or NULL: no feedback */
    const uint8_t *dead;       /* (cols): columns without input become zero; NULL without ldl */
    const int32_t *order;      /* (cols): column k of ldl is column order[k] of w and dead; NULL: as they stand */
    const double *rows_metric; /* (rows): r of the statistics, summing to 1 (matrices), or NULL; vectors:
                                * (rows*cols) second moments of the elements' gradients per token, or NULL */
    const int16_t *row_exp, *col_exp; /* tcq: water-filled exponents (waterfill.h), or NULL: all zero */
    /* tcq: (rows, rows) from bd_ldl of G + rows_pad * I, rows in the trellis order of row_exp: G is the second
     * moment of the output gradients with trace 1, so that the loss is tr(G dW H dW^T) / 2 (coupled_search.h);
     * needs ldl. NULL: rows are taken as independent. */
    const double *rows_ldl;
    double rows_pad;
    uint8_t kind; /* tcq: context set */
} bd_qsource;

typedef struct bd_qresult {
    double nats; /* predicted loss increase per token: sum_i r_i dW_i H dW_i^T / 2 (vectors: sum g_i dw_i^2 / 2);
                  * NAN without statistics */
    double lost; /* share of the signal lost in the same metric (identity without statistics) */
} bd_qresult;

typedef struct bd_quantizer {
    const char *name; /* as in plans and recipes */
    bd_qmethod method;
    unsigned fields;      /* bd_qfield bits that a setting states */
    bd_qsetting defaults; /* `by` is not set here */
    unsigned scaled;      /* fields the solver multiplies by its number: BD_QF_STEP, BD_QF_K or 0: not scalable */
    const char *summary;  /* one line for --help and docs */
    /* Checks ranges of the fields; the message names the field. */
    bd_status (*check)(const bd_qsetting *s, bd_err *err);
    /* Fills q (arrays by bd_qtensor_alloc, freed by the caller with bd_qtensor_free, also after an error; q->param
     * is the caller's). Same inputs, same bytes for any number of threads and any ISA. */
    bd_status (*quantize)(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                          bd_qresult *res, bd_err *err);
} bd_quantizer;

extern const bd_quantizer *const bd_quantizers[]; /* NULL ends it (quantizers.c) */
const bd_quantizer *bd_quantizer_find(const char *name);

/* Frees what the tensor holds and allocates zeroed arrays for the method and shape that q's fields state
 * (method, rows, cols, group, rank). */
bd_status bd_qtensor_alloc(bd_qtensor *q, bd_err *err);
void bd_qtensor_free(bd_qtensor *q);

#endif
