#include "cli/tensor_set.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

const char *bd_ckpt_dtype_text(bd_ckpt_dtype t) {
    static const char *const names[BD_CK_DTYPE_COUNT] = {
        [BD_CK_F64] = "f64", [BD_CK_F32] = "f32", [BD_CK_F16] = "f16",   [BD_CK_BF16] = "bf16",
        [BD_CK_I64] = "i64", [BD_CK_I32] = "i32", [BD_CK_I16] = "i16",   [BD_CK_I8] = "i8",
        [BD_CK_U8] = "u8",   [BD_CK_U16] = "u16", [BD_CK_BOOL] = "bool",
    };
    return (unsigned)t < BD_CK_DTYPE_COUNT ? names[t] : "?";
}

void bd_shape_text(char *out, size_t size, int ndim, const int64_t *dim) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int d = 0; d < ndim && at < size; d++)
        at += (size_t)snprintf(out + at, size - at, "%s%" PRId64, d ? ", " : "", dim[d]);
    if (at < size) snprintf(out + at, size - at, "]");
}

const char *bd_safe_text(char *out, size_t size, const char *s) {
    size_t i = 0;
    for (; s[i] && i + 1 < size; i++) out[i] = s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?';
    out[i] = 0;
    return out;
}

/* ---- opening ---- */

static bd_status from_ckpt(bd_tensor_set *s, bd_err *err) {
    s->n = s->ckpt->n;
    s->tensors = calloc((size_t)s->n + 1, sizeof *s->tensors);
    if (!s->tensors) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < s->n; i++) {
        const bd_ckpt_tensor *t = &s->ckpt->tensors[i];
        bd_named_tensor *o = &s->tensors[i];
        *o = (bd_named_tensor){
            .name = t->name, .dtype = bd_ckpt_dtype_text(t->dtype), .ndim = t->ndim, .count = t->count};
        memcpy(o->dim, t->dim, sizeof o->dim);
    }
    return BD_OK;
}

static int by_name(const void *a, const void *b) {
    const bd_param *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static bd_status from_model(bd_tensor_set *s, bd_err *err) {
    const bd_graph *g = s->model->graph;
    s->n = g->n_params;
    s->tensors = calloc((size_t)s->n + 1, sizeof *s->tensors);
    s->param = calloc((size_t)s->n + 1, sizeof *s->param);
    const bd_param **order = calloc((size_t)s->n + 1, sizeof *order);
    if (!s->tensors || !s->param || !order) {
        free(order);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    for (int i = 0; i < s->n; i++) order[i] = &g->params[i];
    qsort(order, (size_t)s->n, sizeof *order, by_name);
    for (int i = 0; i < s->n; i++) {
        const bd_param *p = order[i];
        s->param[i] = (int)(p - g->params);
        s->tensors[i] =
            (bd_named_tensor){.name = p->name, .dtype = "f32", .ndim = p->ndim, .count = p->rows * p->cols};
        s->tensors[i].dim[0] = p->ndim == 1 ? p->cols : p->rows;
        s->tensors[i].dim[1] = p->ndim == 1 ? 0 : p->cols;
    }
    free(order);
    return BD_OK;
}

bd_status bd_tensor_set_open(bd_tensor_set *s, const char *path, uint64_t max_memory, bd_err *err) {
    char inside[1024];
    bd_map m;
    memset(s, 0, sizeof *s);
    if (bd_path_is_dir(path)) {
        int n = snprintf(inside, sizeof inside, "%s/model.safetensors", path);
        if (n < 0 || (size_t)n >= sizeof inside) return BD_FAIL(err, BD_E_USAGE, "the path is too long");
        path = inside;
    }
    BD_TRY(bd_map_open(&m, path, err));
    bool artifact = bd_artifact_is(m.data, m.size);
    bd_map_close(&m);
    bd_status st;
    if (artifact) {
        bd_model_opts opts = {.max_memory = max_memory};
        st = bd_model_open(&s->model, path, &opts, err);
        if (st == BD_OK) st = from_model(s, err);
    } else {
        st = bd_ckpt_open(&s->ckpt, path, err);
        if (st == BD_OK) st = from_ckpt(s, err);
    }
    if (st != BD_OK) {
        bd_err_file(err, path);
        bd_tensor_set_close(s);
    }
    return st;
}

void bd_tensor_set_close(bd_tensor_set *s) {
    free(s->tensors);
    free(s->param);
    bd_ckpt_close(s->ckpt);
    bd_model_close(s->model);
    memset(s, 0, sizeof *s);
}

bd_status bd_tensor_set_read(const bd_tensor_set *s, int index, float *out, bd_err *err) {
    if (s->ckpt) {
        bd_status st = bd_ckpt_read_f32(s->ckpt, index, out, err);
        if (st != BD_OK) bd_err_prefix(err, "tensor %.80s: ", s->tensors[index].name);
        return st;
    }
    const bd_param *p = &s->model->graph->params[s->param[index]];
    memcpy(out, s->model->params + p->offset, (size_t)s->tensors[index].count * sizeof *out);
    return BD_OK;
}

int bd_tensor_set_find(const bd_tensor_set *s, const char *name) {
    int lo = 0, hi = s->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, c = strcmp(s->tensors[mid].name, name);
        if (c == 0) return mid;
        if (c < 0) lo = mid + 1;
        else hi = mid;
    }
    return -1;
}
