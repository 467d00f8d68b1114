/* The compiler: a model, calibration text and a byte budget in; the bytes of an
 * artifact out, never above the budget.
 *
 * One number: under the metric of the statistics the best step of every weight is
 * known up to one factor for the whole model (waterfill.h), which the solver
 * searches on the size of the file as written (docs/compiling.md). Same inputs give
 * the same bytes, whatever threads or ISA (for stated codec versions). */
#ifndef BD_COMPILER_COMPILE_H
#define BD_COMPILER_COMPILE_H

#include "base/progress.h"
#include "compiler/calibrate.h"
#include "compiler/recipe_compile.h"
#include "format/plan_text.h"
#include "runtime/model.h"

typedef struct bd_compile_opts {
    uint64_t budget;
    const bd_compile_recipe *recipe;
    const bd_calibration *calibration;
    /* A plan to carry out (no line is `fixed`), or to solve around (its fixed lines are kept); NULL: solve. */
    const bd_plan *plan;
    /* Calibration text for the trial of lambda, rho and states on windows that the statistics left out; tokens
     * NULL: no trial, the first candidates are taken. */
    const uint16_t *tokens;
    uint64_t n_tokens;
    bd_protocol protocol;
    uint8_t tokenizer_model_hash[32], tokenizer_tables_hash[32]; /* zero: none named */
    const bd_progress *progress;
} bd_compile_opts;

typedef enum bd_compile_limit {
    BD_LIMIT_BUDGET, /* filled: finer steps would not fit */
    BD_LIMIT_FINEST, /* the finest setting fits: no better use for the rest */
    BD_LIMIT_PLAN,   /* a given plan was carried out */
    BD_LIMIT_RECIPE  /* the recipe's settings as they stand (fill: false) */
} bd_compile_limit;
const char *bd_compile_limit_name(bd_compile_limit l);

typedef struct bd_trial {
    int states;
    double lambda, rho;
    double nll, kl, stderr_nll; /* nats per token on held-out windows; stderr of nll minus the float model's */
    bool chosen;
} bd_trial;

typedef struct bd_compile_result {
    uint64_t artifact_bytes;
    uint64_t predicted_bytes; /* sum of prices before the file was built; the same */
    bd_compile_limit limit;
    double number;        /* the solver's; 0: finest */
    int tries;            /* times the whole file was priced */
    double nats;          /* predicted loss increase per token; NAN without statistics */
    double nats_per_byte; /* what one more byte would save now (a negative slope, as a positive number); NAN */
    double seconds_prepare, seconds_tune, seconds_solve, seconds_pack;
    /* of tune and solve: quantizing, the longest time it was done (all matrices at once), and pricing */
    double seconds_quantize, seconds_pass, seconds_price;
    bd_trial *trials;
    int n_trials;
    bd_plan *plan; /* what was done; owned by the result, and so are the trials */
} bd_compile_result;

/* file: the artifact without a claim; bd_artifact_set_claim puts one into it. */
bd_status bd_compile(bd_buf *file, bd_compile_result *res, const bd_model *m, bd_backend *be,
                     const bd_compile_opts *o, bd_err *err);
void bd_compile_result_free(bd_compile_result *r);

#endif
