/* A compile recipe: which quantizer for which tensor, and how tensors are packed,
 * before the budget is known. Built-in by name (bd_compile_recipe_names), or a JSON
 * file that changes one of them ("base"). */
#ifndef BD_COMPILER_RECIPE_COMPILE_H
#define BD_COMPILER_RECIPE_COMPILE_H

#include "base/arena.h"
#include "base/status.h"
#include "compiler/quantizer.h"
#include "format/plan_text.h"

/* Which tensors a rule is for: all conditions must hold. */
typedef struct bd_recipe_rule {
    const char *pattern;  /* parameter name with `*` */
    const char *role;     /* "matrix", "embedding", "head", "vector", or NULL: any */
    int64_t min_elements; /* more than this many elements; -1: any */
    bd_qsetting setting;
    double factor; /* on the solver's number for these tensors */
} bd_recipe_rule;

typedef struct bd_step_factor {
    const char *pattern; /* parameter name with `*` */
    double factor;
} bd_step_factor;

typedef enum bd_grouping {
    BD_GROUP_ONE,   /* all matrices in one group, all vectors in another */
    BD_GROUP_KIND,  /* a group per kind of matrix (attn.c_q of all layers), vectors in another */
    BD_GROUP_SINGLE /* everything in one group */
} bd_grouping;

enum { BD_TUNE_MAX = 8 };

typedef struct bd_compile_recipe {
    bd_arena *arena;
    const char *name, *summary;
    bd_recipe_rule *rules; /* first match wins; the last one matches everything */
    int n_rules;
    bd_step_factor *steps; /* on the number, besides the rule's factor; first match wins */
    int n_steps;
    bool fill; /* search the solver's number so that the budget is filled; false: settings as they stand (number 1)
                */
    /* the metric */
    double damp;           /* share of the mean diagonal added to H */
    bool feedback;         /* error feedback */
    bd_column_order order; /* in which feedback takes the columns */
    /* H without the tokens' gradient weights. Statistics are collected with unweighted = plain_h (calibrate.h), a
     * statistics file's metadata says which it holds, and a mismatch is an error that says so. */
    bool plain_h;
    double rho;       /* tcq: share of the mean row sensitivity added to every row's */
    bool couple_rows; /* tcq: error feedback between rows as well, where the statistics know how they meet */
    bool row_steps, col_steps; /* tcq: water-filled exponents of rows, of columns (off: ablation) */
    uint64_t calib_tokens;
    /* small tensors: take f16, log or row int8 (whichever loses least for its bytes at the matrices' exchange
     * rate); false: as the rules say */
    bool small_by_sensitivity;
    /* candidates tried on held-out calibration windows by cross-entropy; n 0 or 1: no trial */
    double tune_lambda[BD_TUNE_MAX], tune_rho[BD_TUNE_MAX];
    int n_tune_lambda, n_tune_rho;
    int tune_states[BD_TUNE_MAX], n_tune_states;
    double holdout; /* share of the calibration windows held out for the trial */
    /* after quantizing: the `lqer_top` tensors with the largest error (Frobenius) get quantizer lqer with these */
    int lqer_top;
    bd_qsetting lqer;
    /* packing */
    bd_grouping grouping;
    bd_codec codec;          /* of groups that hold matrices; BD_CODEC_COUNT: the smallest */
    const char *const *sort; /* lrzip: kinds whose rows are sorted by similarity; NULL-terminated, may be NULL */
} bd_compile_recipe;

/* NULL name: the default. An unknown name that is no readable file either is BD_E_UNKNOWN and lists the names.
 * knobs: "key=value" each, as in the JSON file, applied last. */
bd_status bd_compile_recipe_open(bd_compile_recipe **out, const char *name_or_path, const char *const *knobs,
                                 int n_knobs, bd_err *err);
void bd_compile_recipe_close(bd_compile_recipe *r);
/* Names of the built-in ones, NULL at the end; the first is the default. */
extern const char *const bd_compile_recipe_names[];

#endif
