/* f16, f32: conversions. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "compiler/quant_util.h"

static bd_status check_nothing(const bd_qsetting *s, bd_err *err) {
    (void)s;
    (void)err;
    return BD_OK;
}

static bd_status to_f16(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, bd_qresult *res,
                        bd_err *err) {
    (void)s;
    BD_TRY(bd_quant_finite(src, err));
    bd_quant_start(q, src, BD_Q_F16);
    BD_TRY(bd_qtensor_alloc(q, err));
    for (int64_t i = 0; i < src->rows * src->cols; i++) {
        q->f16[i] = bd_f32_to_f16(src->w[i]);
        if (!isfinite(bd_f16_to_f32(q->f16[i])))
            return BD_FAIL(err, BD_E_RANGE, "element %lld is %g, beyond binary16", (long long)i, (double)src->w[i]);
    }
    return bd_quant_result(res, src, q, pool, err);
}

static bd_status to_f32(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool, bd_qresult *res,
                        bd_err *err) {
    (void)s;
    (void)pool;
    BD_TRY(bd_quant_finite(src, err));
    bd_quant_start(q, src, BD_Q_F32);
    BD_TRY(bd_qtensor_alloc(q, err));
    memcpy(q->f32, src->w, (size_t)(src->rows * src->cols) * sizeof(float));
    *res = (bd_qresult){.nats = 0, .lost = 0};
    return BD_OK;
}

extern const bd_quantizer bd_quantizer_f16, bd_quantizer_f32;
const bd_quantizer bd_quantizer_f16 = {
    .name = "f16",
    .method = BD_Q_F16,
    .summary = "binary16",
    .check = check_nothing,
    .quantize = to_f16,
};
const bd_quantizer bd_quantizer_f32 = {
    .name = "f32",
    .method = BD_Q_F32,
    .summary = "float32, lossless",
    .check = check_nothing,
    .quantize = to_f32,
};
