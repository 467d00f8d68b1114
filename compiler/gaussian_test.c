#include "compiler/gaussian_test.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/philox.h"
#include "compiler/tcq.h"

bd_status bd_gaussian_indices(bd_qtensor *q, double *mse, uint32_t rows, uint32_t cols, int states, float step,
                              float lambda, uint64_t seed, bd_err *err) {
    const uint64_t n = (uint64_t)rows * cols;
    float *w = bd_alloc_aligned(n, sizeof *w), *back = bd_alloc_aligned(n, sizeof *back);
    bd_status st = w && back ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for %u x %u numbers", rows, cols);
    for (uint64_t i = 0; !st && i < n; i++) w[i] = (float)bd_philox_normal(seed, 0, i);
    bd_qsource src = {.name = "normal numbers", .w = w, .rows = rows, .cols = cols};
    bd_qsetting s = {.by = &bd_quantizer_tcq, .states = states, .step = step, .lambda = lambda};
    bd_qresult res;
    if (!st) st = bd_quantizer_tcq.quantize(q, &src, &s, NULL, &res, err);
    if (!st) {
        double lost = 0, sum = 0;
        bd_qtensor_dequant(q, back);
        for (uint64_t i = 0; i < n; i++) {
            double e = (double)w[i] - (double)back[i];
            lost += e * e;
            sum += (double)w[i] * (double)w[i];
        }
        *mse = lost / sum;
    }
    free(w);
    free(back);
    return st;
}
