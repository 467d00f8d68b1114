/* The built-in compile recipes as data (recipe_builtin.c). Private to compiler/:
 * bd_compile_recipe_open looks the quantizers up and makes a recipe of it. */
#ifndef BD_COMPILER_RECIPE_BUILTIN_H
#define BD_COMPILER_RECIPE_BUILTIN_H

#include "compiler/recipe_compile.h"

typedef struct bd_builtin_rule {
    const char *pattern;   /* NULL: any name */
    const char *role;      /* NULL: any */
    int64_t min_elements;  /* more than this many; 0 or -1: any */
    const char *quantizer; /* by name */
    const char *settings;  /* "bits=6 k=12.85", separated by single spaces, as in a plan; NULL: its defaults */
    double factor;         /* on the solver's number; 0: 1 */
} bd_builtin_rule;

typedef struct bd_builtin_recipe {
    /* Everything but arena, rules and lqer, which are made from what follows. damp, rho, holdout, calib_tokens of 0
     * mean the default recipe's. */
    bd_compile_recipe r;
    const bd_builtin_rule *rules; /* the last one must match everything */
    int n_rules;
    const char *lqer; /* settings of quantizer lqer where r.lqer_top > 0; bits and k are the tensor's own */
} bd_builtin_recipe;

extern const bd_builtin_recipe bd_builtin_recipes[];
extern const int bd_n_builtin_recipes;

#endif
