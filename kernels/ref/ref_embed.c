/* Lookup and its gradient. */
#include <inttypes.h>
#include <string.h>

#include "kernels/ref/ref_typed.h"

/* Ids come from data, so they are checked here too. */
static bd_status check_ids(const bd_view *ids, int64_t vocab, bd_err *err) {
    const int32_t *t = ids->data;
    const int64_t n = ids->rows * ids->cols;
    for (int64_t i = 0; i < n; i++) {
        if (t[i] < 0 || t[i] >= vocab) {
            return BD_FAIL(err, BD_E_RANGE,
                           "token %" PRId32 " at index %" PRId64 " is outside the vocabulary of %" PRId64, t[i], i,
                           vocab);
        }
    }
    return BD_OK;
}

REF_TASK(embed_rows) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t D = c->out[0].cols;
    const real *table = c->in[0].data; /* (V,D) */
    const int32_t *ids = c->in[1].data;
    real *y = c->out[0].data; /* (n,D) */
    for (int64_t t = begin; t < end; t++) memcpy(y + t * D, table + ids[t] * D, (size_t)D * sizeof *y);
}

bd_status REF_FN(embed)(bd_ref *r, const bd_call *c, bd_err *err) {
    BD_TRY(check_ids(&c->in[1], c->in[0].rows, err));
    run_tasks(r, c, c->out[0].rows, embed_rows);
    return BD_OK;
}

/* Tasks are columns: a row of the table is one chain over all t. */
REF_TASK(embed_grad_columns) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, D = c->in[0].cols;
    const real *dy = c->in[0].data; /* (n,D) */
    const int32_t *ids = c->in[1].data;
    real *dt = c->out[0].data; /* (V,D) */
    for (int64_t t = 0; t < n; t++) {
        for (int64_t j = begin; j < end; j++) dt[ids[t] * D + j] = dt[ids[t] * D + j] + dy[t * D + j];
    }
}

bd_status REF_FN(embed_grad)(bd_ref *r, const bd_call *c, bd_err *err) {
    BD_TRY(check_ids(&c->in[1], c->out[0].rows, err));
    run_tasks(r, c, c->in[0].cols, embed_grad_columns);
    return BD_OK;
}
