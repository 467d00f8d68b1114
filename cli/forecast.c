#include "cli/forecast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/ldl.h"
#include "compiler/waterfill.h"

#define DAMP_LEAST 1e-6
#define DAMP_MOST  10.0
#define RHO_LEAST  1e-3 /* rows that the loss does not feel would get infinite steps */

/* A way to choose steps costs 0.5 log2(mean of sensitivity * step^2) - mean log2(step): the difference of two ways'
 * costs is the rate between them at equal loss. */
typedef struct cost {
    double loss, log_step;
} cost;

static double bits(cost c) { return 0.5 * log2(c.loss) - c.log_step; }

/* Sums over rows, then means. */
typedef struct row_costs {
    cost even, deviation, filled;
    double n;
} row_costs;

typedef struct making {
    bd_forecast *f;
    const bd_calibration *c;
    const bd_model *m;
    double rho;
    int64_t rows, silent;
    cost even, deviation, filled; /* of the whole model: sums over weights */
} making;

static double variance(const float *w, int64_t n) {
    double mean = 0, square = 0;
    for (int64_t k = 0; k < n; k++) mean += (double)w[k];
    mean /= (double)n;
    for (int64_t k = 0; k < n; k++) square += ((double)w[k] - mean) * ((double)w[k] - mean);
    return square / (double)n;
}

static void add(cost *sum, double loss, double log_step) {
    sum->loss += loss;
    sum->log_step += log_step;
}

static row_costs compare_rows(const double *r, const float *w, int64_t rows, int64_t cols, double rho) {
    row_costs c = {0};
    double mean = 0;
    for (int64_t i = 0; i < rows; i++) mean += r[i] / (double)rows;
    for (int64_t i = 0; i < rows; i++) {
        double v = variance(w + i * cols, cols), filled = r[i] + rho * mean;
        if (!(v > 0 && filled > 0)) continue;
        add(&c.even, r[i], 0);
        add(&c.deviation, r[i] * v, 0.5 * log2(v));
        add(&c.filled, r[i] / filled, -0.5 * log2(filled));
        c.n++;
    }
    cost *all[] = {&c.even, &c.deviation, &c.filled};
    for (int k = 0; k < 3 && c.n > 0; k++) *all[k] = (cost){all[k]->loss / c.n, all[k]->log_step / c.n};
    return c;
}

static double mean_of(const double *v, int64_t n, bool logs) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += logs ? log2(v[i]) : v[i];
    return n > 0 ? sum / (double)n : 0;
}

/* d of the columns that have input; returns how many. h is used up. */
static bd_status column_spread(double *d, int64_t *count, double *h, uint8_t *dead, int64_t n, double damp,
                               bd_err *err) {
    bd_hessian_prepare(h, n, damp, dead);
    BD_TRY(bd_ldl(h, n, err));
    *count = 0;
    for (int64_t k = 0; k < n; k++)
        if (!dead[k]) d[(*count)++] = h[k * n + k];
    return BD_OK;
}

static void tensor_forecast(making *k, const double *r, const double *d, int64_t live, int param) {
    const bd_param *p = &k->m->graph->params[param];
    for (int64_t i = 0; i < p->rows; i++) k->silent += !(r[i] > 0);
    k->rows += p->rows;
    row_costs c = compare_rows(r, k->m->params + p->offset, p->rows, p->cols, k->rho);
    double mean_d = mean_of(d, live, false), log_d = mean_of(d, live, true), n = c.n * (double)live;
    if (!(n > 0 && c.even.loss > 0)) return; /* the loss feels nothing of it */
    k->f->tensors[k->f->n++] = (bd_forecast_tensor){.param = param,
                                                    .weights = (int64_t)n,
                                                    .r = bd_dispersion_bits(r, p->rows),
                                                    .d = bd_dispersion_bits(d, live),
                                                    .even = bits(c.even) - bits(c.filled),
                                                    .deviation = bits(c.deviation) - bits(c.filled),
                                                    .level = c.even.loss * mean_d};
    add(&k->even, n * c.even.loss * mean_d, 0);
    add(&k->deviation, n * c.deviation.loss * mean_d, n * c.deviation.log_step);
    add(&k->filled, n * c.filled.loss, n * (c.filled.log_step - 0.5 * log_d));
}

/* One parameter with this damping; BD_E_NONFINITE: too little. */
static bd_status add_tensor(making *k, int param, double damp, bd_err *err) {
    const bd_param *p = &k->m->graph->params[param];
    bd_metric metric = {0};
    int64_t live = 0;
    double *d = malloc((size_t)p->cols * sizeof *d);
    uint8_t *dead = calloc((size_t)p->cols, 1);
    bd_status st = d && dead ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the forecast");
    if (!st) st = bd_calibration_metric(&metric, k->c, k->m->graph, param, err);
    if (!st && metric.h && metric.rows) {
        st = column_spread(d, &live, metric.h, dead, p->cols, damp, err);
        if (!st) tensor_forecast(k, metric.rows, d, live, param);
    }
    bd_metric_free(&metric);
    free(d);
    free(dead);
    if (st) bd_err_prefix(err, "%s: ", p->name);
    return st;
}

static void finish(making *k) {
    bd_forecast *f = k->f;
    for (int i = 0; i < f->n; i++) f->weights += f->tensors[i].weights;
    if (!f->weights) return;
    double n = (double)f->weights;
    for (int i = 0; i < f->n; i++) {
        const bd_forecast_tensor *t = &f->tensors[i];
        double share = (double)t->weights / n;
        f->columns += share * t->d;
        f->even_rows += share * t->even;
        f->deviation_rows += share * t->deviation;
    }
    cost *all[] = {&k->even, &k->deviation, &k->filled};
    for (int i = 0; i < 3; i++) *all[i] = (cost){all[i]->loss / n, all[i]->log_step / n};
    f->even = bits(k->even) - bits(k->filled);
    f->deviation = bits(k->deviation) - bits(k->filled);
    f->even_tensors = f->even - f->even_rows - f->columns;
    f->deviation_tensors = f->deviation - f->deviation_rows - f->columns;
    f->unheard = (double)k->silent / (double)k->rows;
}

bd_status bd_forecast_make(bd_forecast *out, const bd_calibration *c, const bd_model *m, double damp, double rho,
                           const bool *want, bd_err *err) {
    const bd_graph *g = m->graph;
    making k = {.f = out, .c = c, .m = m, .rho = rho > RHO_LEAST ? rho : RHO_LEAST};
    *out = (bd_forecast){.tensors = calloc((size_t)g->n_params + 1, sizeof *out->tensors)};
    if (!out->tensors) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the forecast");
    for (int i = 0; i < g->n_params; i++) {
        bd_status st = BD_OK;
        if (g->params[i].role == BD_ROLE_VECTOR || (want && !want[i])) continue;
        /* a singular Hessian gets more damping, as when compiling */
        for (double more = damp > 0 ? damp : DAMP_LEAST;; more *= 10) {
            st = add_tensor(&k, i, more, err);
            if (st != BD_E_NONFINITE || more > DAMP_MOST) break;
        }
        if (st) {
            bd_forecast_free(out);
            return st;
        }
    }
    finish(&k);
    return BD_OK;
}

void bd_forecast_free(bd_forecast *f) {
    free(f->tensors);
    memset(f, 0, sizeof *f);
}
