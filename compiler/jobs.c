/* Jobs: what is known of every parameter before the budget is spent, and its
 * quantization. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/fmath.h"
#include "base/nearest.h"
#include "compiler/compile_impl.h"
#include "compiler/ldl.h"

/* By deviation: the fewest deviations that the codes of a row must span; below
 * that the solver takes one bit more. */
#define MIN_SPAN 10.0
/* By loss: room beyond the largest weight, for what feedback adds to it. */
#define SPAN_MARGIN 1.5
/* A matrix that the loss does not feel at all still gets a finite step. */
#define FACTOR_MAX 100.0

/* "blocks.3.attn.c_q.weight" -> "attn.c_q"; vectors share the group "small". */
static void group_name(bd_job *j) {
    if (!j->matrix) {
        snprintf(j->group, sizeof j->group, "small");
        return;
    }
    const char *s = j->p->name;
    if (!strncmp(s, "blocks.", 7)) {
        s += 7;
        while (*s >= '0' && *s <= '9') s++;
        if (*s == '.') s++;
    }
    size_t n = strlen(s);
    if (n > 7 && !strcmp(s + n - 7, ".weight")) n -= 7;
    snprintf(j->group, sizeof j->group, "%.*s", n < 47 ? (int)n : 47, s);
}

static double step_factor(const bd_compile_recipe *r, const char *name) {
    for (int i = 0; i < r->n_steps; i++)
        if (bd_glob(r->steps[i].pattern, name)) return r->steps[i].factor;
    return 1;
}

/* --- the metric --- */

/* Columns by falling diagonal of H, equal ones as they stand. */
static bd_status sort_columns(bd_job *j, const double *h, bd_err *err) {
    int64_t n = j->p->cols;
    j->order = malloc((size_t)n * sizeof *j->order);
    if (!j->order) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    /* Insertion by bisection: n is a few thousand at most. */
    for (int64_t i = 0; i < n; i++) {
        double d = h[i * n + i];
        int64_t lo = 0, hi = i;
        while (lo < hi) {
            int64_t mid = (lo + hi) / 2, at = j->order[mid];
            if (h[at * n + at] >= d) lo = mid + 1;
            else hi = mid;
        }
        memmove(j->order + lo + 1, j->order + lo, (size_t)(i - lo) * sizeof *j->order);
        j->order[lo] = (int32_t)i;
    }
    j->src.order = j->order;
    return BD_OK;
}

static double *permuted(const double *h, int64_t n, const int32_t *order) {
    double *out = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof *out);
    for (int64_t i = 0; out && i < n; i++)
        for (int64_t k = 0; k < n; k++) out[i * n + k] = h[order[i] * n + order[k]];
    return out;
}

/* Factorize h, which the job takes over. */
static bd_status factorize(bd_compiler *c, bd_job *j, double *h, bd_err *err) {
    int64_t n = j->p->cols;
    j->ldl = h;
    j->dead = calloc((size_t)n, 1);
    if (!j->dead) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_hessian_prepare(h, n, c->rounding.damp, j->dead);
    if (c->rounding.act_order) {
        BD_TRY(sort_columns(j, h, err));
        double *p = permuted(h, n, j->order);
        if (!p) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        free(j->ldl);
        j->ldl = p;
    }
    bd_status st = bd_ldl(j->ldl, n, err);
    if (st) {
        bd_err_prefix(err, "%s: ", j->p->name);
        return st;
    }
    if (c->rounding.feedback) {
        j->src.ldl = j->ldl;
        j->src.dead = j->dead;
    }
    return BD_OK;
}

/* Geometric mean of D over the columns that live. */
static double mean_d(const bd_job *j) {
    double sum = 0;
    int64_t n = j->p->cols, live = 0;
    for (int64_t k = 0; k < n; k++) {
        if (j->dead[j->order ? j->order[k] : k]) continue;
        sum += bd_log(j->ldl[k * n + k]);
        live++;
    }
    return live ? bd_exp(sum / (double)live) : 0;
}

/* Units of the rows by what the loss feels of them, with the geometric mean that
 * the matrix's deviation gives: as the step's only scale, so that k keeps its meaning. */
static bd_status loss_units(bd_job *j, const double *rows, double rho, bd_err *err) {
    int64_t n = j->p->rows;
    double mean = 0, dev = 0, logs = 0;
    j->unit = bd_alloc_aligned((uint64_t)n, sizeof *j->unit);
    if (!j->unit) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        double d = bd_row_deviation(j->src.w + i * j->p->cols, j->p->cols);
        dev += d * d / (double)n;
        mean += rows[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        double r = mean > 0 ? rows[i] / mean + rho : 1;
        j->unit[i] = 1 / sqrt(r);
        logs += bd_log(j->unit[i]) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        j->unit[i] *= sqrt(dev) / bd_exp(logs);
        for (int64_t k = 0; dev > 0 && k < j->p->cols; k++) {
            double a = fabs((double)j->src.w[i * j->p->cols + k]) / j->unit[i];
            if (a > j->top) j->top = a;
        }
    }
    j->src.unit = j->unit;
    return BD_OK;
}

/* Loss per squared step, when the step of row i is its unit. */
static double unit_metric(const bd_job *j, const double *rows, double rho) {
    double mean = 0, sum = 0;
    int64_t n = j->p->rows;
    for (int64_t i = 0; i < n; i++) mean += rows[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double u = j->unit ? j->unit[i] : bd_row_deviation(j->src.w + i * j->p->cols, j->p->cols);
        sum += (rows[i] + rho * mean) * u * u / (double)n;
    }
    return sum * mean_d(j);
}

static bd_status prepare_metric(bd_compiler *c, bd_job *j, int param, bd_err *err) {
    const bd_plan_rounding *r = &c->rounding;
    bool spread = c->o->recipe->tensors_by_loss;
    if (!c->o->calibration || !(r->feedback || r->rows_by_loss || spread)) return BD_OK;
    bd_metric m;
    BD_TRY(bd_calibration_metric(&m, c->o->calibration, c->m->graph, param, err));
    if (!m.h) return BD_OK;
    double *h = m.h;
    m.h = NULL;
    bd_status st = factorize(c, j, h, err);
    if (!st && r->rows_by_loss) st = loss_units(j, m.rows, r->rho, err);
    if (!st && spread) j->metric = unit_metric(j, m.rows, r->rho);
    bd_metric_free(&m);
    return st;
}

/* Steps by water-filling: each matrix's is 1 / sqrt(metric), relative to what an
 * even step would cost. */
static void spread_factors(bd_compiler *c) {
    double sum = 0, count = 0;
    int n = c->m->graph->n_params;
    for (int i = 0; i < n; i++) {
        const bd_job *j = &c->jobs[i];
        double size = (double)(j->p->rows * j->p->cols);
        if (!(j->metric > 0)) continue;
        sum += size * j->metric;
        count += size;
    }
    for (int i = 0; i < n; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->matrix || !(sum > 0)) continue;
        double f = j->metric > 0                             ? sqrt(sum / count / j->metric)
                   : c->o->recipe->tensors_by_loss && j->ldl ? FACTOR_MAX
                                                             : 1;
        j->factor *= f < FACTOR_MAX ? f : FACTOR_MAX;
    }
}

bd_status bd_jobs_prepare(bd_compiler *c, bd_err *err) {
    const bd_graph *g = c->m->graph;
    c->jobs = calloc((size_t)g->n_params + 1, sizeof *c->jobs);
    if (!c->jobs) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) {
        bd_job *j = &c->jobs[i];
        j->p = &g->params[i];
        j->matrix = j->p->role != BD_ROLE_VECTOR;
        j->src = (bd_qsource){.w = c->m->params + j->p->offset, .rows = j->p->rows, .cols = j->p->cols};
        j->factor = step_factor(c->o->recipe, j->p->name);
        group_name(j);
        for (int64_t k = 0; k < j->p->rows * j->p->cols; k++)
            if (!isfinite(j->src.w[k]))
                return BD_FAIL(err, BD_E_NONFINITE, "%s: element %lld is not finite", j->p->name, (long long)k);
        if (j->matrix) BD_TRY(prepare_metric(c, j, i, err));
        j->signal = bd_qsource_signal(&j->src);
        bd_tick(c->o->progress, "tensors factorized", i + 1, g->n_params, "%s", "");
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while factorizing");
    }
    spread_factors(c);
    return BD_OK;
}

void bd_jobs_free(bd_compiler *c) {
    for (int i = 0; c->jobs && i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        bd_qtensor_free(&j->q);
        free(j->ldl);
        free(j->unit);
        free(j->dead);
        free(j->order);
    }
    free(c->jobs);
    c->jobs = NULL;
}

/* --- settings --- */

void bd_job_set(const bd_compile_recipe *r, bd_job *j, double d) {
    bd_qsetting *s = &j->setting;
    *s = (bd_qsetting){.method = j->p->role == BD_ROLE_MATRIX ? r->matrix : BD_Q_ROW};
    int64_t n = j->p->rows * j->p->cols;
    if (s->method != BD_Q_ROW) {
        s->group = (int64_t)r->group < n ? r->group : (uint32_t)n;
        return;
    }
    double span = j->unit ? SPAN_MARGIN * j->top : MIN_SPAN;
    int bits = r->bits_min;
    while (bits < r->bits_max && d * ((1 << (bits - 1)) - 1) < span) bits++;
    int qmax = (1 << (bits - 1)) - 1;
    s->bits = bits;
    s->k = (float)(d * qmax);
    /* Fewer than 8 bits cannot be finer than what spans the row. */
    if (!j->unit && bits < 8 && s->k < (float)MIN_SPAN) s->k = (float)MIN_SPAN;
}

static bd_status quantize_job(bd_compiler *c, bd_job *j, bd_err *err) {
    const bd_qsetting *s = &j->setting;
    if (j->done && j->had.method == s->method && j->had.bits == s->bits && j->had.k == s->k &&
        j->had.group == s->group)
        return BD_OK;
    j->done = false;
    if (j->q.method != s->method || j->q.group != s->group || !(j->q.codes || j->q.f16 || j->q.f32)) {
        bd_qtensor_free(&j->q);
        BD_TRY(bd_qtensor_alloc(&j->q, j->p->rows, j->p->cols, s, err));
    }
    j->q.param = (uint32_t)(j - c->jobs);
    j->q.bits = s->method == BD_Q_ROW ? (uint8_t)s->bits : 0;
    double lost = 0;
    bd_status st = bd_quantize(&j->q, &j->src, s, c->be->pool, &lost, err);
    if (st) {
        bd_err_prefix(err, "%s: ", j->p->name);
        return st;
    }
    /* Other methods than `row` round without feedback, and count plain squares. */
    bd_qsource plain = {.w = j->src.w, .rows = j->src.rows, .cols = j->src.cols};
    double signal = s->method == BD_Q_ROW ? j->signal : bd_qsource_signal(&plain);
    j->lost = signal > 0 ? lost / signal : 0;
    j->had = *s;
    j->done = true;
    c->state[j->group_index].fresh = false;
    return BD_OK;
}

bd_status bd_jobs_quantize(bd_compiler *c, bd_err *err) {
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        BD_TRY(quantize_job(c, j, err));
        c->groups[j->group_index].tensors[j->at] = j->q;
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while quantizing");
    }
    return BD_OK;
}
