/* What `birdie bench quantize` measures, between measuring and reporting it.
 * Private to cli/bench_quantize*.c. */
#ifndef BD_CLI_BENCH_QUANTIZE_H
#define BD_CLI_BENCH_QUANTIZE_H

#include "cli/bench_points.h"
#include "cli/cli.h"
#include "cli/forecast.h"
#include "compiler/compile.h"
#include "runtime/model.h"

/* Statistics as some of the recipes need them. */
typedef struct bd_bq_statistics {
    uint64_t tokens; /* asked for */
    double holdout;
    bool plain;
    char path[1024]; /* where they are kept, or "" */
    bool loaded;
    bd_calibration *c;
    double seconds, memory;
} bd_bq_statistics;

typedef struct bd_bq_recipe {
    const char *spec; /* as given: "NAME:key=value,..." */
    char base[64];    /* NAME, without folders */
    bd_compile_recipe *r;
    int statistics;
    uint64_t left_bytes; /* what tensors that stay float take in its files; 0: not known yet */
} bd_bq_recipe;

/* One artifact, and how far it is from the float model. */
typedef struct bd_bq_candidate {
    int recipe;
    uint64_t budget; /* 0: the recipe's own point */
    bd_compile_limit limit;
    double number, nats, nats_per_byte;
    int tries;
    double seconds, seconds_prepare, seconds_tune, seconds_solve, seconds_pack, memory;
    bd_model *m; /* dequantized; freed once it was measured */
} bd_bq_candidate;

typedef struct bd_bq_result {
    const char *checkpoint;
    const bd_model *m;
    int64_t window;
    uint64_t weights;                   /* counted: of the tensors that are quantized */
    bool partly;                        /* some tensors stay float */
    int64_t dithered_rows, matrix_rows; /* 0: no dither */
    bd_bench_windows windows;
    bd_bq_statistics *statistics;
    int n_statistics;
    bd_bq_recipe *recipes;
    int n_recipes, reference; /* reference: the recipe that the others are compared with */
    bd_bq_candidate *candidates;
    bd_bench_point *points; /* (n) beside the candidates; bytes are those counted */
    int n;
    char (*unreachable)[320]; /* budgets that were too small, and why */
    int n_unreachable;
    bd_forecast forecast;
    double seconds_compare, seconds_total, memory; /* memory: the most at any time */
} bd_bq_result;

double bd_bq_bits(const bd_bq_result *r, int candidate); /* per weight */
bd_status bd_bq_print(const bd_bq_result *r, bool json, int *rc, bd_err *err);
void bd_bq_svg(const bd_bq_result *r, bd_buf *out);

#endif
