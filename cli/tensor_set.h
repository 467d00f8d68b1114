/* The named tensors of any file that holds weights: checkpoints, directories
 * that train wrote, artifacts (dequantized). For convert, diff and inspect. */
#ifndef BD_CLI_TENSOR_SET_H
#define BD_CLI_TENSOR_SET_H

#include "runtime/model.h"

typedef struct bd_named_tensor {
    const char *name;
    const char *dtype; /* as stored: "f32", ..., or an artifact's method: "row", ... */
    int ndim;
    int64_t dim[BD_CKPT_MAX_RANK];
    int64_t count;
} bd_named_tensor;

typedef struct bd_tensor_set {
    bd_named_tensor *tensors; /* sorted bytewise by name */
    int n;
    /* one of: */
    bd_ckpt *ckpt;
    bd_model *model;
    int *param; /* (n), with model: index of the graph's parameter */
} bd_tensor_set;

bd_status bd_tensor_set_open(bd_tensor_set *s, const char *path, uint64_t max_memory, bd_err *err);
void bd_tensor_set_close(bd_tensor_set *s); /* safe on a zeroed one */
/* out: (count) */
bd_status bd_tensor_set_read(const bd_tensor_set *s, int index, float *out, bd_err *err);
int bd_tensor_set_find(const bd_tensor_set *s, const char *name); /* -1: none */

const char *bd_ckpt_dtype_text(bd_ckpt_dtype t); /* "f32" */
/* "[512, 64]" */
void bd_shape_text(char *out, size_t size, int ndim, const int64_t *dim);
/* Text of a stranger's file for the terminal: control and non-ASCII bytes become '?'. Returns out. */
const char *bd_safe_text(char *out, size_t size, const char *s);

#endif
