#include "compiler/vector_choice.h"

#include <math.h>
#include <string.h>

#include "compiler/qsetting.h"

enum { OCTAVES = 12 }; /* below the largest magnitude: where bases are tried */

typedef struct search {
    const bd_qsource *src;
    bd_pool *pool;
    double price, cost; /* cost: of the best so far */
    bool found;
    bd_vector_choice *out;
} search;

static bd_status bytes_alone(const bd_qtensor *q, double *bytes, bd_err *err) {
    bd_qtensor one = *q;
    bd_qgroup g = {.name = "small", .tensors = &one, .n_tensors = 1, .codec = BD_CODEC_RANGE};
    return bd_qgroup_tensor_bytes(&g, bytes, err);
}

/* Takes the setting if it is better than what there is, and the first one in any case. One that cannot hold the
 * values is passed over. */
static bd_status attempt(search *s, const bd_qsetting *setting, bd_err *err) {
    bd_qtensor q = {0};
    bd_qresult res;
    bd_err why = {0};
    double bytes = 0;
    bd_status st = setting->by->quantize(&q, s->src, setting, s->pool, &res, &why);
    if (st == BD_E_RANGE) {
        bd_qtensor_free(&q);
        return BD_OK;
    }
    if (st && err) *err = why;
    bool only_bytes = isinf(s->price) != 0;
    bool hopeless = s->found && !only_bytes && !(res.nats < s->cost);
    if (!st && !hopeless) {
        st = bytes_alone(&q, &bytes, err);
        double cost = only_bytes ? bytes : (isnan(res.nats) ? 0 : res.nats) + bytes * s->price;
        if (!st && (!s->found || cost < s->cost)) {
            *s->out = (bd_vector_choice){*setting, res.nats, bytes};
            s->cost = cost;
            s->found = true;
        }
    }
    bd_qtensor_free(&q);
    return st;
}

static bd_status attempt_logs(search *s, bd_err *err) {
    double least = HUGE_VAL, most = 0;
    for (int64_t i = 0; i < s->src->rows * s->src->cols; i++) {
        double a = fabs((double)s->src->w[i]);
        if (a > most) most = a;
        if (a > 0 && a < least) least = a;
    }
    bd_qsetting q;
    BD_TRY(bd_qsetting_init(&q, "log", err));
    for (q.levels = 1; q.levels <= 32; q.levels *= 2) {
        q.step = 0; /* chosen by the quantizer */
        BD_TRY(attempt(s, &q, err));
        for (int k = -1; k <= OCTAVES && most > 0; k++) {
            q.step = (float)(k < 0 ? least : ldexp(most, -k));
            if (k > 0 && ldexp(most, 1 - k) < least) break; /* all are kept already */
            if (q.by->check(&q, NULL) == BD_OK) BD_TRY(attempt(s, &q, err));
        }
    }
    return BD_OK;
}

bd_status bd_vector_choose(bd_vector_choice *out, const bd_qsource *src, double price, bd_pool *pool, bd_err *err) {
    search s = {.src = src, .pool = pool, .price = price, .out = out};
    bd_qsetting q;
    BD_TRY(bd_qsetting_init(&q, "f16", err));
    BD_TRY(attempt(&s, &q, err));
    if (!s.found) {
        BD_TRY(bd_qsetting_init(&q, "f32", err));
        BD_TRY(attempt(&s, &q, err));
    }
    if (!src->rows_metric) return BD_OK;
    BD_TRY(bd_qsetting_init(&q, "row", err));
    for (q.bits = 3; q.bits <= 8; q.bits++) {
        q.k = 0;
        BD_TRY(attempt(&s, &q, err));
    }
    return attempt_logs(&s, err);
}
