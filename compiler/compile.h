/* The compiler: a model, calibration text and a byte budget in; the bytes of an
 * artifact out, never above the budget.
 *
 * One number: every matrix has a step of its own, from what the loss feels of it,
 * times one `step` for the whole model, which the solver searches on the size of
 * the file as written (docs/compiling.md). Same inputs give the same bytes, whatever
 * threads or ISA (for stated codec versions). */
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
    const bd_plan *plan; /* carry out this plan instead of solving; NULL: solve */
    bd_protocol protocol;
    uint8_t tokenizer_model_hash[32], tokenizer_tables_hash[32]; /* zero: none named */
    const bd_progress *progress;
} bd_compile_opts;

typedef enum bd_compile_limit {
    BD_LIMIT_BUDGET, /* filled: finer steps would not fit */
    BD_LIMIT_FINEST, /* the finest setting fits: no better use for the rest */
    BD_LIMIT_PLAN    /* a given plan was carried out */
} bd_compile_limit;
const char *bd_compile_limit_name(bd_compile_limit l);

typedef struct bd_compile_result {
    uint64_t artifact_bytes;
    uint64_t predicted_bytes; /* sum of prices before the file was built; the same */
    bd_compile_limit limit;
    double step;
    int tries;     /* times the whole file was priced */
    bd_plan *plan; /* what was done; owned by the result */
} bd_compile_result;

/* file: the artifact without a claim; bd_artifact_set_claim puts one into it. */
bd_status bd_compile(bd_buf *file, bd_compile_result *res, const bd_model *m, bd_backend *be,
                     const bd_compile_opts *o, bd_err *err);
void bd_compile_result_free(bd_compile_result *r);

#endif
