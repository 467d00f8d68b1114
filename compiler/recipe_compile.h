/* A compile recipe: which method for which tensor, before the budget is known.
 * Built-in by name (`gptq`, `int8`, `int7`, `int6`, `int5`, `ternary`), or a JSON file. */
#ifndef BD_COMPILER_RECIPE_COMPILE_H
#define BD_COMPILER_RECIPE_COMPILE_H

#include "base/arena.h"
#include "base/status.h"
#include "format/artifact.h"

typedef struct bd_step_rule {
    const char *pattern; /* parameter name with `*` */
    double factor;       /* step relative to the others, in units of the row's deviation */
} bd_step_rule;

typedef struct bd_compile_recipe {
    bd_arena *arena; /* NULL for built-in ones */
    const char *name;
    bd_qmethod matrix;      /* BD_Q_ROW or BD_Q_TERNARY for role matrix; embeddings and heads are always by row */
    int bits_min, bits_max; /* row: the solver takes the fewest bits that do not clip the step it wants */
    uint32_t group;         /* ternary */
    double damp;            /* share of the mean diagonal added to H */
    bool feedback;          /* GPTQ error feedback; false: round to nearest */
    bool act_order;         /* feedback takes columns by falling diagonal of H */
    bool tensors_by_loss;   /* each matrix's step by what the loss feels of it; false: all the same in deviations */
    bool rows_by_loss;      /* likewise the rows of a matrix; false: by their deviations (SDClip) */
    double rho;             /* share of the mean row sensitivity added to every row's */
    uint64_t calib_tokens;
    bd_qmethod small;    /* BD_Q_F16, or BD_Q_ROW (8 bits) for everything that is not a matrix */
    bd_step_rule *steps; /* first match wins; none: 1 */
    int n_steps;
} bd_compile_recipe;

/* NULL name: the default. An unknown name that is no readable file either is BD_E_UNKNOWN and lists the names. */
bd_status bd_compile_recipe_open(bd_compile_recipe **out, const char *name_or_path, bd_err *err);
void bd_compile_recipe_close(bd_compile_recipe *r);

#endif
