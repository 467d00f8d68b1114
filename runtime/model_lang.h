/* The model language: docs/models.md teaches it, models/ holds the files.
 *
 * A small total language: constants with integer arithmetic, bounded for, if on
 * constants, indexed names, reusable blocks, parameters with shape, init and
 * role, and calls of the operations of kernels/ops.h. Elaboration always ends:
 * limits bound the steps, and there is no recursion. Errors carry line and column. */
#ifndef BD_RUNTIME_MODEL_LANG_H
#define BD_RUNTIME_MODEL_LANG_H

#include "runtime/graph.h"

typedef struct bd_setting {
    const char *name;  /* constant of the model file */
    const char *value; /* integer or decimal number */
} bd_setting;

/* What `infer` lines may ask about a checkpoint. */
typedef struct bd_shape_source {
    /* -1 if there is no such tensor; dim receives up to 4 sizes, result is the rank */
    int (*shape)(void *user, const char *name, int64_t dim[4]);
    /* number of tensors whose name matches a pattern with `*` */
    int64_t (*count)(void *user, const char *pattern);
    void *user;
} bd_shape_source;

/* Elaborate. `settings` override constants (an unknown name is an error that
 * lists the constants); `shapes` may be NULL (then infer lines are not used).
 * file_name is only for messages. The result is finished and checked. */
bd_status bd_model_elaborate(bd_graph **out, const char *text, uint64_t size, const char *file_name,
                             const bd_setting *settings, int n_settings, const bd_shape_source *shapes,
                             const bd_limits *lim, bd_err *err);

/* The files of models/, embedded at build time. */
typedef struct bd_builtin_model {
    const char *name; /* "baseline" */
    const char *text;
    uint64_t size;
} bd_builtin_model;
extern const bd_builtin_model bd_builtin_models[];
extern const int bd_n_builtin_models;

#endif
