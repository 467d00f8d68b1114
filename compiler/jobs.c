/* Jobs: every parameter's setting under the solver's number, and its quantization. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/nearest.h"
#include "compiler/compile_impl.h"
#include "compiler/tcq.h"

/* Where the step is this many times the largest weight, nothing is left of a tensor. */
#define NOTHING_LEFT 16.0
/* Range of k: steps of 64 deviations, and spans of 4. */
#define K_STEP_MAX 64.0
#define K_MIN      4.0
#define BASE_MIN   0x1p-40
#define BASE_MAX   0x1p40

/* --- preparing --- */

/* "blocks.3.attn.c_q.weight" -> "attn.c_q" */
static void kind_name(bd_job *j) {
    const char *s = j->p->name;
    if (!strncmp(s, "blocks.", 7)) {
        s += 7;
        while (*s >= '0' && *s <= '9') s++;
        if (*s == '.') s++;
    }
    size_t n = strlen(s);
    if (n > 7 && !strcmp(s + n - 7, ".weight")) n -= 7;
    snprintf(j->kind, sizeof j->kind, "%.*s", n < 47 ? (int)n : 47, s);
}

static void group_name(bd_job *j, bd_grouping grouping) {
    const char *name = j->matrix ? "matrices" : "small";
    if (grouping == BD_GROUP_SINGLE) name = "all";
    else if (grouping == BD_GROUP_KIND && j->matrix) name = j->kind;
    snprintf(j->group, sizeof j->group, "%s", name);
}

/* Matrices of one kind share contexts: numbered by first appearance. */
static void number_kinds(bd_compiler *c) {
    int next = 0;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->matrix) continue;
        int k = 0;
        while (k < i && !(c->jobs[k].matrix && !strcmp(c->jobs[k].kind, j->kind))) k++;
        j->src.kind = k < i ? c->jobs[k].src.kind : (uint8_t)(next++ % BD_TCQ_KINDS);
    }
}

static const bd_recipe_rule *rule_for(const bd_compile_recipe *r, const bd_param *p) {
    for (int i = 0; i < r->n_rules; i++) {
        const bd_recipe_rule *rule = &r->rules[i];
        if (rule->role && strcmp(rule->role, bd_role_name(p->role)) != 0) continue;
        if (rule->min_elements >= 0 && p->rows * p->cols <= rule->min_elements) continue;
        if (bd_glob(rule->pattern, p->name)) return rule;
    }
    return NULL;
}

static double step_factor(const bd_compile_recipe *r, const char *name) {
    for (int i = 0; i < r->n_steps; i++)
        if (bd_glob(r->steps[i].pattern, name)) return r->steps[i].factor;
    return 1;
}

/* Largest weight in units of base 1. */
static double largest_in_steps(const bd_qsource *s) {
    enum { EXP = 2 * BD_TCQ_EXP_MAX };
    double inverse[2 * EXP + 1], top = 0;
    for (int e = -EXP; e <= EXP; e++) inverse[e + EXP] = 1 / (double)bd_tcq_step(1, 1, e);
    for (int64_t i = 0; i < s->rows; i++)
        for (int64_t k = 0; k < s->cols; k++) {
            int e = (s->row_exp ? s->row_exp[i] : 0) + (s->col_exp ? s->col_exp[k] : 0);
            double a = fabs((double)s->w[i * s->cols + k]) * inverse[e + EXP];
            if (a > top) top = a;
        }
    return top;
}

/* Between which ends the number moves a tensor. */
static void set_ends(bd_job *j) {
    const bd_quantizer *by = j->base.by;
    if (by->scaled & BD_QF_STEP) {
        j->finest = by->method == BD_Q_TCQ ? (double)bd_tcq_finest(&j->src) : BASE_MIN;
        j->coarsest = NOTHING_LEFT * largest_in_steps(&j->src);
    } else {
        j->finest = K_MIN;
        j->coarsest = K_STEP_MAX * ((1 << (j->base.bits - 1)) - 1);
    }
    if (!(j->coarsest > j->finest)) j->coarsest = j->finest;
}

static double scaled_value(const bd_job *j) {
    return j->base.by->scaled & BD_QF_STEP ? (double)j->base.step : (double)j->base.k;
}

static bd_status prepare_job(bd_compiler *c, bd_job *j, bd_err *err) {
    const bd_compile_recipe *r = c->o->recipe;
    const bd_recipe_rule *rule = rule_for(r, j->p);
    if (!rule) return BD_FAIL(err, BD_E_FIELD, "recipe %s has no rule for %s", r->name, j->p->name);
    j->base = rule->setting;
    j->times = rule->factor * step_factor(r, j->p->name);
    /* Groups of scales end where a small tensor does. */
    int64_t n = j->p->rows * j->p->cols;
    if (j->base.by->fields & BD_QF_GROUP && (int64_t)j->base.group > n) j->base.group = (uint32_t)n;
    j->scaled = r->fill && j->matrix && j->base.by->scaled && scaled_value(j) > 0;
    j->slot[j->now].setting = j->base;
    group_name(j, r->grouping);
    return BD_OK;
}

bd_status bd_jobs_prepare(bd_compiler *c, bd_err *err) {
    const bd_graph *g = c->m->graph;
    c->jobs = calloc((size_t)g->n_params + 1, sizeof *c->jobs);
    if (!c->jobs) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) {
        bd_job *j = &c->jobs[i];
        j->p = &g->params[i];
        j->matrix = j->p->role != BD_ROLE_VECTOR;
        j->src = (bd_qsource){.name = j->p->name,
                              .w = c->m->params + j->p->offset,
                              .rows = j->p->rows,
                              .cols = j->p->cols,
                              .vector = !j->matrix};
        j->now = j->use = 0;
        j->fine = 1;
        j->coarse = 2;
        kind_name(j);
        for (int64_t k = 0; k < j->p->rows * j->p->cols; k++)
            if (!isfinite(j->src.w[k]))
                return BD_FAIL(err, BD_E_NONFINITE, "%s: element %lld is not finite", j->p->name, (long long)k);
        BD_TRY(prepare_job(c, j, err));
    }
    number_kinds(c);
    if (c->o->plan) BD_TRY(bd_plan_settings(c, err));
    BD_TRY(bd_jobs_metric(c, err));
    bd_jobs_limits(c);
    return BD_OK;
}

void bd_jobs_limits(bd_compiler *c) {
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled) set_ends(&c->jobs[i]);
}

void bd_jobs_free(bd_compiler *c) {
    for (int i = 0; c->jobs && i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        for (int s = 0; s < 3; s++) bd_qtensor_free(&j->slot[s].q);
        free(j->rows);
        free(j->elements);
        free(j->coupled);
        free(j->rows_ldl);
        free(j->row_exp);
        free(j->col_exp);
        free(j->spread);
    }
    for (int i = 0; i < c->n_factors; i++) {
        free(c->factors[i].ldl);
        free(c->factors[i].dead);
        free(c->factors[i].order);
    }
    free(c->jobs);
    free(c->factors);
    c->jobs = NULL;
    c->factors = NULL;
}

/* --- settings --- */

bd_qsetting bd_job_setting(const bd_job *j, double number) {
    bd_qsetting s = j->base;
    if (!j->scaled) return s;
    double v = scaled_value(j) * number * j->times;
    if (v > j->coarsest) v = j->coarsest;
    if (s.by->scaled & BD_QF_STEP) {
        if (v < j->finest) v = j->finest;
        s.step = (float)(v < BASE_MIN ? BASE_MIN : v > BASE_MAX ? BASE_MAX : v);
    } else {
        s.k = (float)v; /* 0: the finest that does not clip */
    }
    return s;
}

void bd_job_choose(bd_compiler *c, bd_job *j, const bd_qsetting *s) {
    bd_variant *v = &j->slot[j->now];
    if (j->use != j->now) {
        j->use = j->now;
        bd_group_changed(c, j->group_index);
    }
    /* A correction on top of the same codes stays. */
    bool same = bd_qsetting_same(&v->setting, s);
    if (!same && v->done && v->corrected && bd_qsetting_same(&v->before, s)) same = true;
    if (same) return;
    v->setting = *s;
    v->done = false;
    v->corrected = false;
}

void bd_jobs_set(bd_compiler *c, double number) {
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        if (!j->scaled) continue;
        bd_qsetting s = bd_job_setting(j, number);
        bd_job_choose(c, j, &s);
    }
    c->number = number;
}

double bd_jobs_coarsest(const bd_compiler *c) {
    double top = 0;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        double v = j->scaled ? j->coarsest / (scaled_value(j) * j->times) : 0;
        if (v > top) top = v;
    }
    return top;
}

double bd_jobs_finest(const bd_compiler *c) {
    double least = HUGE_VAL;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        double v = j->scaled ? j->finest / (scaled_value(j) * j->times) : HUGE_VAL;
        if (v < least) least = v;
    }
    return least;
}

/* --- quantizing --- */

typedef struct quantize_task {
    bd_compiler *c;
    const int *job; /* indices */
    bd_status *status;
    bd_err *errs;
    bd_pool *pool; /* of the single task that is alone */
} quantize_task;

static bd_status squared_error(const bd_job *j, bd_variant *v, bd_err *err) {
    int64_t n = j->p->rows * j->p->cols;
    float *value = bd_alloc_aligned((uint64_t)n, sizeof *value);
    if (!value) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_qtensor_dequant(&v->q, value);
    v->error = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)j->src.w[i] - (double)value[i];
        v->error += e * e;
    }
    free(value);
    return BD_OK;
}

static bd_status quantize_job(bd_compiler *c, bd_job *j, bd_pool *pool, bd_err *err) {
    bd_variant *v = &j->slot[j->now];
    v->q.param = (uint32_t)(j - c->jobs);
    bd_status st = v->setting.by->quantize(&v->q, &j->src, &v->setting, pool, &v->res, err);
    if (!st && c->o->recipe->lqer_top > 0 && j->matrix && !v->corrected) st = squared_error(j, v, err);
    /* Without feedback the quantizer does not see the Hessian, but the loss does. */
    if (!st && j->factor && !j->src.ldl) {
        bd_qsource whole = j->src;
        whole.ldl = j->factor->ldl;
        whole.dead = j->factor->dead;
        whole.order = j->factor->order;
        st = bd_quant_result(&v->res, &whole, &v->q, pool, err);
    }
    if (st) bd_err_prefix(err, "%s: ", j->p->name);
    v->done = st == BD_OK;
    return st;
}

static void quantize_some(void *arg, int64_t begin, int64_t end, int worker) {
    quantize_task *t = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        if (bd_stopped(t->c->o->progress))
            t->status[i] = BD_FAIL(&t->errs[i], BD_E_INTERRUPTED, "interrupted while quantizing");
        else t->status[i] = quantize_job(t->c, &t->c->jobs[t->job[i]], t->pool, &t->errs[i]);
    }
}

static int64_t size_of(const bd_compiler *c, int job) { return c->jobs[job].p->rows * c->jobs[job].p->cols; }

/* Jobs that are not done, largest first, equal ones as they stand. */
static int pending(const bd_compiler *c, int *list) {
    int n = 0;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        if (j->use != j->now || j->slot[j->now].done) continue;
        int at = n++;
        for (; at > 0 && size_of(c, list[at - 1]) < size_of(c, i); at--) list[at] = list[at - 1];
        list[at] = i;
    }
    return n;
}

/* A tensor that is more than one thread's share of the work has all threads to itself; the others go side by side.
 */
static bd_status quantize_list(bd_compiler *c, const int *list, int n, bd_err *err) {
    int threads = bd_pool_threads(c->be->pool), from = 0;
    int64_t total = 0;
    for (int i = 0; i < n; i++) total += size_of(c, list[i]);
    quantize_task t = {
        .c = c, .status = calloc((size_t)n + 1, sizeof *t.status), .errs = calloc((size_t)n + 1, sizeof *t.errs)};
    bd_status st = t.status && t.errs ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    while (!st && from < n && threads > 1 && size_of(c, list[from]) * threads > total) {
        total -= size_of(c, list[from]);
        t.job = list + from;
        t.pool = c->be->pool;
        quantize_some(&t, 0, 1, 0);
        st = t.status[0];
        if (st && err) *err = t.errs[0];
        t.pool = NULL;
        from++;
    }
    t.job = list + from;
    if (!st) bd_pool_for(c->be->pool, n - from, 1, quantize_some, &t);
    /* The first in the graph's order, whichever came first here. */
    int first = -1;
    for (int i = 0; !st && i < n - from; i++)
        if (t.status[i] && (first < 0 || t.job[i] < t.job[first])) first = i;
    if (first >= 0) {
        st = t.status[first];
        if (err) *err = t.errs[first];
    }
    free(t.status);
    free(t.errs);
    if (!st && bd_stopped(c->o->progress)) st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while quantizing");
    return st;
}

/* --- corrections --- */

/* The `lqer_top` matrices by row that lost most are quantized again, with a correction. */
static bd_status correct(bd_compiler *c, int *list, int *n, bd_err *err) {
    int top = c->o->recipe->lqer_top, params = c->m->graph->n_params, chosen = 0;
    bool *taken = calloc((size_t)params + 1, sizeof *taken);
    if (!taken) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    *n = 0;
    for (; chosen < top; chosen++) {
        int best = -1;
        for (int i = 0; i < params; i++) {
            const bd_job *j = &c->jobs[i];
            const bd_variant *v = bd_job_using(j);
            if (taken[i] || !j->matrix || j->fixed) continue;
            if (v->q.method != BD_Q_ROW && !v->corrected) continue;
            if (best < 0 || v->error > bd_job_using(&c->jobs[best])->error) best = i;
        }
        if (best < 0) break;
        taken[best] = true;
    }
    for (int i = 0; i < params; i++) {
        bd_variant *v = bd_job_used(&c->jobs[i]);
        if (taken[i] && !v->corrected && c->jobs[i].use == c->jobs[i].now) {
            v->before = v->setting;
            v->setting = c->o->recipe->lqer;
            v->setting.bits = v->before.bits;
            v->setting.k = v->before.k;
            v->corrected = true;
            v->done = false;
            list[(*n)++] = i;
        }
    }
    free(taken);
    return BD_OK;
}

void bd_group_changed(bd_compiler *c, int group) {
    if (!c->state) return;
    c->state[group].fresh = false;
    c->state[group].shares = false;
    c->state[group].packed.size = 0;
}

void bd_jobs_place(bd_compiler *c) {
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        c->groups[j->group_index].tensors[j->at] = bd_job_using(j)->q;
    }
}

bd_status bd_jobs_quantize(bd_compiler *c, bd_err *err) {
    int *list = malloc(((size_t)c->m->graph->n_params + 1) * sizeof *list);
    if (!list) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    int n = pending(c, list);
    for (int i = 0; i < n; i++) bd_group_changed(c, c->jobs[list[i]].group_index);
    bd_status st = n ? quantize_list(c, list, n, err) : BD_OK;
    bool whole_plan = c->o->plan && c->carry_out;
    if (!st && c->o->recipe->lqer_top > 0 && !whole_plan) {
        st = correct(c, list, &n, err);
        for (int i = 0; i < n; i++) bd_group_changed(c, c->jobs[list[i]].group_index);
        if (!st && n) st = quantize_list(c, list, n, err);
    }
    free(list);
    if (!st) bd_jobs_place(c);
    return st;
}

/* --- sums --- */

double bd_jobs_nats(const bd_compiler *c, bool scaled_only) {
    double sum = 0;
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled || !scaled_only) sum += bd_job_using(&c->jobs[i])->res.nats;
    return sum;
}

double bd_jobs_scaled_weights(const bd_compiler *c) {
    double sum = 0;
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled) sum += (double)size_of(c, i);
    return sum;
}
