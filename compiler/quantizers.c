#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/quantizer.h"

extern const bd_quantizer bd_quantizer_tcq, bd_quantizer_row, bd_quantizer_rtn, bd_quantizer_clip_search,
    bd_quantizer_asym, bd_quantizer_ternary, bd_quantizer_lqer, bd_quantizer_log, bd_quantizer_f16,
    bd_quantizer_f32;

const bd_quantizer *const bd_quantizers[] = {
    &bd_quantizer_tcq,
    &bd_quantizer_row,
    &bd_quantizer_rtn,
    &bd_quantizer_clip_search,
    &bd_quantizer_asym,
    &bd_quantizer_ternary,
    &bd_quantizer_lqer,
    &bd_quantizer_log,
    &bd_quantizer_f16,
    &bd_quantizer_f32,
    NULL,
};

const bd_quantizer *bd_quantizer_find(const char *name) {
    for (int i = 0; bd_quantizers[i]; i++)
        if (!strcmp(bd_quantizers[i]->name, name)) return bd_quantizers[i];
    return NULL;
}

void bd_qtensor_free(bd_qtensor *q) {
    free(q->codes);
    free(q->scales);
    free(q->f16);
    free(q->f32);
    free(q->index);
    free(q->row_exp);
    free(q->col_exp);
    free(q->lq_a);
    free(q->lq_b);
    free(q->lq_scales);
    q->codes = NULL;
    q->scales = NULL;
    q->f16 = NULL;
    q->f32 = NULL;
    q->index = NULL;
    q->row_exp = NULL;
    q->col_exp = NULL;
    q->lq_a = NULL;
    q->lq_b = NULL;
    q->lq_scales = NULL;
}

/* *out: n zeroed elements; false: out of memory */
#define ALLOC(out, n) (((out) = bd_alloc_aligned((n), sizeof *(out))) != NULL)

static bool alloc_arrays(bd_qtensor *q) {
    uint64_t rows = q->rows, cols = q->cols, n = rows * cols, group = q->group, rank = q->rank;
    switch (q->method) {
        case BD_Q_F16: return ALLOC(q->f16, n);
        case BD_Q_F32: return ALLOC(q->f32, n);
        case BD_Q_ROW: return ALLOC(q->codes, n) && ALLOC(q->scales, rows);
        case BD_Q_TERNARY: return ALLOC(q->codes, n) && ALLOC(q->scales, (n + group - 1) / group);
        case BD_Q_TCQ: return ALLOC(q->index, n) && ALLOC(q->row_exp, rows) && ALLOC(q->col_exp, cols);
        case BD_Q_LOG: return ALLOC(q->index, n);
        case BD_Q_LQER:
            return ALLOC(q->codes, n) && ALLOC(q->scales, rows) && ALLOC(q->lq_a, rows * rank) &&
                   ALLOC(q->lq_b, rank * cols) && ALLOC(q->lq_scales, 1 + (rank * cols + group - 1) / group);
        case BD_Q_COUNT: break;
    }
    return false;
}

bd_status bd_qtensor_alloc(bd_qtensor *q, bd_err *err) {
    bd_qtensor_free(q);
    bool grouped = q->method == BD_Q_TERNARY || q->method == BD_Q_LQER;
    if ((unsigned)q->method >= BD_Q_COUNT || !q->rows || !q->cols || (grouped && !q->group) ||
        (q->method == BD_Q_LQER && !q->rank))
        return BD_FAIL(err, BD_E_FIELD, "no such tensor: method %d, %u x %u, group %u, rank %u", (int)q->method,
                       q->rows, q->cols, q->group, q->rank);
    if (alloc_arrays(q)) return BD_OK;
    bd_qtensor_free(q);
    return BD_FAIL(err, BD_E_NOMEM, "out of memory for a %u x %u tensor", q->rows, q->cols);
}
