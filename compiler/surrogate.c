/* How the size moves with the number, without quantizing: the entropy of rounded
 * Gaussians whose deviations are products of a row's and a column's, in steps. It is
 * wrong by some percent, but by nearly the same percent at neighbouring numbers, so
 * the solver corrects it by what it measured. */
#include <math.h>
#include <stdlib.h>

#include "base/fmath.h"
#include "compiler/compile_impl.h"

#define LOG2_E 1.4426950408889634
/* 2 pi e: entropy of a Gaussian. */
#define TWO_PI_E 17.079468445347132
enum { BINS = BD_SURROGATE_BINS, MIDDLE = BINS / 2 };

/* Quarter octaves of a deviation, from its square. */
static int bin_of(double square) {
    double b = nearbyint(2 * LOG2_E * bd_log(square)) + MIDDLE;
    return b < 0 ? 0 : b > BINS - 1 ? BINS - 1 : (int)b;
}

/* 1 / step at number 1, of a row and of a column. */
static double row_inverse(const bd_job *j, int64_t i) {
    const bd_qsetting *s = &j->base;
    if (s->by->scaled & BD_QF_STEP) {
        double step = (double)s->step * j->times;
        return (j->src.row_exp ? 1 / (double)bd_tcq_step(1, 1, j->src.row_exp[i]) : 1) / step;
    }
    double dev = bd_row_deviation(j->src.w + i * j->p->cols, j->p->cols);
    return dev > 0 ? ((1 << (s->bits - 1)) - 1) / (dev * (double)s->k * j->times) : 0;
}

static double col_inverse(const bd_job *j, int64_t k) {
    bool stepped = j->base.by->scaled & BD_QF_STEP && j->src.col_exp;
    return stepped ? 1 / (double)bd_tcq_step(1, 1, j->src.col_exp[k]) : 1;
}

static bd_status spread_job(bd_job *j, bd_err *err) {
    int64_t rows = j->p->rows, cols = j->p->cols;
    double *row = calloc((size_t)rows, sizeof *row), *col = calloc((size_t)cols, sizeof *col);
    double *inverse = calloc((size_t)cols, sizeof *inverse), by_row[BINS] = {0}, by_col[BINS] = {0}, mean = 0;
    if (!j->spread) j->spread = calloc(BINS, sizeof *j->spread);
    bd_status st = row && col && inverse && j->spread ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st) goto done;
    for (int64_t k = 0; k < cols; k++) inverse[k] = col_inverse(j, k);
    for (int64_t i = 0; i < rows; i++) {
        double f = row_inverse(j, i);
        for (int64_t k = 0; k < cols; k++) {
            double a = (double)j->src.w[i * cols + k] * f * inverse[k], square = a * a;
            row[i] += square / (double)cols;
            col[k] += square / (double)rows;
        }
        mean += row[i] / (double)rows;
    }
    for (int64_t i = 0; i < rows; i++)
        if (row[i] > 0) by_row[bin_of(row[i])] += 1;
    for (int64_t k = 0; k < cols; k++)
        if (col[k] > 0 && mean > 0) by_col[bin_of(col[k] / mean)] += 1;
    for (int b = 0; b < BINS; b++) j->spread[b] = 0;
    for (int a = 0; a < BINS; a++)
        for (int b = 0; b < BINS; b++) {
            int bin = a + b - MIDDLE;
            bin = bin < 0 ? 0 : bin > BINS - 1 ? BINS - 1 : bin;
            j->spread[bin] += (float)(by_row[a] * by_col[b]);
        }
done:
    free(row);
    free(col);
    free(inverse);
    return st;
}

bd_status bd_surrogate_prepare(bd_compiler *c, bd_err *err) {
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled) BD_TRY(spread_job(&c->jobs[i], err));
    return BD_OK;
}

double bd_surrogate_bytes(const bd_compiler *c, double number) {
    double total[BINS] = {0}, bits = 0, inverse = 1 / (number > 0 ? number : 1e-30);
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        for (int b = 0; j->scaled && j->spread && b < BINS; b++) total[b] += (double)j->spread[b];
    }
    for (int b = 0; b < BINS; b++) {
        if (!(total[b] > 0)) continue;
        double s = bd_exp((b - MIDDLE) * (0.25 / LOG2_E)) * inverse;
        if (s > 1e15) s = 1e15;
        bits += total[b] * 0.5 * LOG2_E * bd_log(1 + TWO_PI_E * s * s);
    }
    return bits / 8;
}
