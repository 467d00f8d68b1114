/* What the loss feels of every parameter, made ready for quantizers: factorized
 * Hessians, row sensitivities, exponents of steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/compile_impl.h"
#include "compiler/ldl.h"
#include "compiler/waterfill.h"
#include "format/trellis.h"

/* Damping grows until the Hessian can be factorized. */
#define DAMP_MAX 10.0

/* --- factors --- */

/* Columns by falling or rising diagonal of H, equal ones as they stand. */
static void sort_columns(int32_t *order, const double *h, int64_t n, bd_column_order way) {
    const double sign = way == BD_ORDER_RISING ? -1 : 1;
    /* Insertion by bisection: n is a few thousand at most. */
    for (int64_t i = 0; i < n; i++) {
        double d = sign * h[i * n + i];
        int64_t lo = 0, hi = i;
        while (lo < hi) {
            int64_t mid = (lo + hi) / 2, at = order[mid];
            if (sign * h[at * n + at] >= d) lo = mid + 1;
            else hi = mid;
        }
        memmove(order + lo + 1, order + lo, (size_t)(i - lo) * sizeof *order);
        order[lo] = (int32_t)i;
    }
}

static double *permuted(const double *h, int64_t n, const int32_t *order) {
    double *out = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof *out);
    for (int64_t i = 0; out && i < n; i++)
        for (int64_t k = 0; k < n; k++) out[i * n + k] = h[order[i] * n + order[k]];
    return out;
}

/* One attempt; h is taken over. */
static bd_status factorize(bd_factor *f, double *h, double damp, bd_column_order order, bd_err *err) {
    int64_t n = f->n;
    f->ldl = h;
    bd_hessian_prepare(h, n, damp, f->dead);
    if (order != BD_ORDER_NATURAL) {
        if (!f->order) f->order = malloc((size_t)n * sizeof *f->order);
        if (!f->order) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        sort_columns(f->order, h, n, order);
        f->ldl = permuted(h, n, f->order);
        free(h);
        if (!f->ldl) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    return bd_ldl(f->ldl, n, err);
}

static bd_status make_factor(const bd_compiler *c, bd_factor *f, bd_err *err) {
    bd_status st = BD_OK;
    f->dead = calloc((size_t)f->n, 1);
    if (!f->dead) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (double damp = c->metric.damp;; damp *= 10) {
        bd_metric m;
        BD_TRY(bd_calibration_metric(&m, c->o->calibration, c->m->graph, f->param, err));
        double *h = m.h;
        m.h = NULL;
        bd_metric_free(&m);
        st = factorize(f, h, damp, c->metric.order, err);
        if (st != BD_E_NONFINITE || damp >= DAMP_MAX) break;
        free(f->ldl);
        f->ldl = NULL;
    }
    if (st) bd_err_prefix(err, "%s: ", c->m->graph->params[f->param].name);
    return st;
}

typedef struct factor_task {
    const bd_compiler *c;
    bd_factor *factors;
    bd_status *status; /* (factors) */
    bd_err *errs;
} factor_task;

static void make_factors(void *arg, int64_t begin, int64_t end, int worker) {
    factor_task *t = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        if (bd_stopped(t->c->o->progress))
            t->status[i] = BD_FAIL(&t->errs[i], BD_E_INTERRUPTED, "interrupted while factorizing");
        else t->status[i] = make_factor(t->c, &t->factors[i], &t->errs[i]);
    }
}

/* Factors are independent: side by side, in shares so that progress shows; first error in their order. */
static bd_status all_factors(bd_compiler *c, bd_err *err) {
    int n = c->n_factors, threads = bd_pool_threads(c->be->pool), share = 2 * threads;
    factor_task t = {c, c->factors, calloc((size_t)n + 1, sizeof *t.status), calloc((size_t)n + 1, sizeof *t.errs)};
    bd_status st = t.status && t.errs ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int from = 0; !st && from < n; from += share) {
        int count = n - from < share ? n - from : share;
        factor_task part = {c, t.factors + from, t.status + from, t.errs + from};
        bd_pool_for(c->be->pool, count, 1, make_factors, &part);
        for (int i = from; !st && i < from + count; i++) {
            st = t.status[i];
            if (st && err) *err = t.errs[i];
        }
        bd_tick(c->o->progress, "Hessians factorized", from + count, n, "%s", "");
        if (!st && bd_stopped(c->o->progress)) st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while factorizing");
    }
    free(t.status);
    free(t.errs);
    return st;
}

/* --- who shares what --- */

/* The only use of a parameter, or NULL. */
static const bd_param_use *only_use(const bd_calibration *c, int param) {
    const bd_param_use *found = NULL;
    for (int i = 0; i < c->n_uses; i++) {
        if (c->uses[i].param != param) continue;
        if (found) return NULL;
        found = &c->uses[i];
    }
    return found;
}

static double sum_rows(const bd_param_use *u, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += u->rows[i];
    return s;
}

/* Matrices that read one value and nothing else have the same H but for a factor, which `ratio` puts into the rows:
 * H of `param` is ratio times that of the factor's own parameter. */
static int shared_factor(const bd_compiler *c, int param, double *ratio) {
    const bd_calibration *k = c->o->calibration;
    const bd_param *p = c->m->graph->params;
    const bd_param_use *own = only_use(k, param);
    if (!own || k->moments[own->moment].of_gradient) return -1;
    double weight = sum_rows(own, p[param].rows);
    for (int i = 0; weight > 0 && i < c->n_factors; i++) {
        const bd_param_use *other = only_use(k, c->factors[i].param);
        if (!other || other->moment != own->moment) continue;
        double first = sum_rows(other, p[c->factors[i].param].rows);
        if (!(first > 0)) continue;
        *ratio = weight / first;
        return i;
    }
    return -1;
}

static bool used_as_matrix(const bd_calibration *c, int param) {
    for (int i = 0; i < c->n_uses; i++)
        if (c->uses[i].param == param) return true;
    return false;
}

/* Metric of a matrix that no matrix operation reads: the mean of its elements', row by row. */
static bd_status rows_of_elements(bd_job *j, const double *elements, bd_err *err) {
    j->rows = bd_alloc_aligned((uint64_t)j->p->rows, sizeof *j->rows);
    if (!j->rows) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int64_t r = 0; r < j->p->rows; r++)
        for (int64_t k = 0; k < j->p->cols; k++) j->rows[r] += elements[r * j->p->cols + k] / (double)j->p->cols;
    j->src.rows_metric = j->rows;
    return BD_OK;
}

static bd_status job_metric(bd_compiler *c, int param, bd_err *err) {
    bd_job *j = &c->jobs[param];
    double ratio = 1;
    int f = -1;
    if (j->matrix && used_as_matrix(c->o->calibration, param)) {
        f = shared_factor(c, param, &ratio);
        if (f < 0) {
            f = c->n_factors++;
            c->factors[f] = (bd_factor){.param = param, .n = j->p->cols};
        }
    }
    bd_metric m;
    BD_TRY(bd_calibration_metric(&m, c->o->calibration, c->m->graph, param, err));
    bd_status st = BD_OK;
    if (f >= 0) {
        j->factor = &c->factors[f];
        j->rows = m.rows;
        m.rows = NULL;
        for (int64_t i = 0; i < j->p->rows; i++) j->rows[i] *= ratio;
        j->src.rows_metric = j->rows;
        if (c->metric.couple_rows && c->metric.feedback) {
            j->coupled = m.coupled;
            m.coupled = NULL;
        }
        for (int64_t k = 0; j->coupled && k < j->p->rows * j->p->rows; k++) j->coupled[k] *= ratio;
    } else if (j->matrix && m.elements) {
        st = rows_of_elements(j, m.elements, err);
    } else if (!j->matrix) {
        j->elements = m.elements;
        m.elements = NULL;
        j->src.rows_metric = j->elements;
    }
    bd_metric_free(&m);
    return st;
}

/* --- exponents --- */

static void make_even(int16_t *e, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += e[i];
    int16_t mean = (int16_t)nearbyint(sum / (double)n);
    for (int64_t i = 0; i < n; i++) e[i] = mean;
}

/* Couplings in the order of the trellis, factorized. */
static bd_status factorize_rows(bd_job *j, const int32_t *order, double pad, bd_err *err) {
    int64_t n = j->p->rows;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n; k++)
            j->rows_ldl[i * n + k] = j->coupled[(int64_t)order[i] * n + order[k]] + (i == k ? pad : 0);
    bd_status st = bd_ldl(j->rows_ldl, n, err);
    if (st) bd_err_prefix(err, "%s, coupled rows: ", j->p->name);
    return st;
}

/* Steps of coupled rows: from the innovations of G, which depend on the order, which depends on the steps. Two
 * rounds settle it well enough: factors are always of the order that the steps give. */
static bd_status couple_rows(const bd_compiler *c, bd_job *j, bd_err *err) {
    int64_t n = j->p->rows;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += j->coupled[i * n + i] / (double)n;
    const double pad = c->metric.rho * mean;
    if (!(pad > 0)) return BD_OK;
    int32_t *order = malloc((size_t)n * sizeof *order);
    if (!j->rows_ldl) j->rows_ldl = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof *j->rows_ldl);
    bd_status st = order && j->rows_ldl ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!st) bd_trellis_order(order, j->row_exp, (uint32_t)n);
    if (!st) st = factorize_rows(j, order, pad, err);
    if (!st && c->metric.row_steps) {
        bd_waterfill_cols(j->row_exp, j->rows_ldl, NULL, order, n);
        bd_trellis_order(order, j->row_exp, (uint32_t)n);
        st = factorize_rows(j, order, pad, err);
    }
    free(order);
    if (st == BD_E_NONFINITE) {
        /* As good as singular: rows by themselves. */
        bd_waterfill_rows(j->row_exp, j->rows, n, c->metric.rho);
        return BD_OK;
    }
    if (st) return st;
    j->src.rows_ldl = j->rows_ldl;
    j->src.rows_pad = pad;
    return BD_OK;
}

static bd_status job_exponents(const bd_compiler *c, bd_job *j, bd_err *err) {
    int64_t rows = j->p->rows, cols = j->p->cols;
    if (!j->row_exp) j->row_exp = calloc((size_t)rows, sizeof *j->row_exp);
    if (!j->col_exp) j->col_exp = calloc((size_t)cols, sizeof *j->col_exp);
    if (!j->row_exp || !j->col_exp) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_waterfill_rows(j->row_exp, j->rows, rows, c->metric.rho);
    if (!c->metric.row_steps) make_even(j->row_exp, rows);
    j->src.rows_ldl = NULL;
    if (j->coupled) BD_TRY(couple_rows(c, j, err));
    if (j->factor) {
        bd_waterfill_cols(j->col_exp, j->factor->ldl, j->factor->dead, j->factor->order, cols);
        if (!c->metric.col_steps) make_even(j->col_exp, cols);
    }
    j->src.row_exp = j->row_exp;
    j->src.col_exp = j->col_exp;
    return BD_OK;
}

typedef struct exponents_task {
    const bd_compiler *c;
    bd_status *status; /* (params) */
    bd_err *errs;
} exponents_task;

static void some_exponents(void *arg, int64_t begin, int64_t end, int worker) {
    exponents_task *t = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        bd_job *j = &t->c->jobs[i];
        if (j->matrix && j->rows) t->status[i] = job_exponents(t->c, j, &t->errs[i]);
    }
}

/* Side by side: rows that are coupled are factorized for each matrix. First error in their order. */
bd_status bd_jobs_exponents(bd_compiler *c, bd_err *err) {
    int n = c->m->graph->n_params;
    exponents_task t = {c, calloc((size_t)n + 1, sizeof *t.status), calloc((size_t)n + 1, sizeof *t.errs)};
    bd_status st = t.status && t.errs ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!st) bd_pool_for(c->be->pool, n, 1, some_exponents, &t);
    for (int i = 0; !st && i < n; i++) {
        st = t.status[i];
        if (st && err) *err = t.errs[i];
    }
    for (int i = 0; !st && i < n; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->matrix || !j->rows) continue;
        if (!j->base.by || j->base.by->method == BD_Q_TCQ)
            for (int s = 0; s < 3; s++) j->slot[s].done = false;
    }
    free(t.status);
    free(t.errs);
    return st;
}

bd_status bd_jobs_metric(bd_compiler *c, bd_err *err) {
    int n = c->m->graph->n_params;
    c->factors = calloc((size_t)n + 1, sizeof *c->factors);
    if (!c->factors) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!c->o->calibration) return BD_OK;
    for (int i = 0; i < n; i++) {
        BD_TRY(job_metric(c, i, err));
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while preparing");
    }
    BD_TRY(all_factors(c, err));
    for (int i = 0; i < n; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->factor || !c->metric.feedback) continue;
        j->src.ldl = j->factor->ldl;
        j->src.dead = j->factor->dead;
        j->src.order = j->factor->order;
    }
    return bd_jobs_exponents(c, err);
}
