#include "trainer/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"

struct bd_optimizer {
    const bd_graph *g;
    const bd_recipe *r;
    bd_backend *be;
    int *group;                   /* (n_params) */
    float *momentum;              /* flat: muon's B, adam's m */
    float *second;                /* flat: adam's v; NULL without an adamw group */
    float *update, *ortho, *work; /* one matrix at a time */
    double *sum;                  /* backend memory, one double */
    uint64_t bytes;
};

static bd_status take(bd_optimizer *o, void *out, uint64_t bytes, bd_err *err) {
    void *mem = NULL;
    BD_TRY(o->be->vt->alloc(o->be, &mem, bytes ? bytes : 64, err));
    memcpy(out, &mem, sizeof mem);
    o->bytes += bytes;
    return BD_OK;
}

typedef struct group_needs {
    uint64_t largest, work; /* floats: of the largest muon matrix, and its scratch */
    bool adam;
} group_needs;

/* group: (n_params), or NULL to check only. */
static bd_status assign_groups(const bd_graph *g, const bd_recipe *r, int *group, group_needs *need, bd_err *err) {
    *need = (group_needs){0, 0, false};
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        int k = bd_recipe_group(r, p->name);
        if (k < 0)
            return BD_FAIL(err, BD_E_MISSING, "no optimizer group of the recipe matches parameter %s", p->name);
        if (group) group[i] = k;
        if (r->groups[k].kind == BD_OPTIMIZER_ADAMW) {
            need->adam = true;
            continue;
        }
        if (p->ndim != 2 || p->rows < 2 || p->cols < 2)
            return BD_FAIL(err, BD_E_SHAPE, "parameter %s is no matrix, but its optimizer group %d is muon",
                           p->name, k);
        uint64_t n = (uint64_t)(p->rows * p->cols), w = bd_newton_schulz_work(p->rows, p->cols);
        if (n > need->largest) need->largest = n;
        if (w > need->work) need->work = w;
    }
    return BD_OK;
}

bd_status bd_optimizer_plan(uint64_t *bytes, const bd_graph *g, const bd_recipe *r, bd_err *err) {
    group_needs n;
    BD_TRY(assign_groups(g, r, NULL, &n, err));
    *bytes = (g->param_floats * (n.adam ? 2 : 1) + 2 * n.largest + n.work) * sizeof(float) + sizeof(double);
    return BD_OK;
}

bd_status bd_optimizer_create(bd_optimizer **out, const bd_graph *g, const bd_recipe *r, bd_backend *be,
                              bd_err *err) {
    *out = NULL;
    bd_optimizer *o = calloc(1, sizeof *o);
    if (!o) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    *o = (bd_optimizer){.g = g, .r = r, .be = be};
    bd_status st = BD_OK;
    group_needs need;
    o->group = calloc((size_t)g->n_params + 1, sizeof *o->group);
    if (!o->group) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    BD_TRY_DONE(assign_groups(g, r, o->group, &need, err));
    BD_TRY_DONE(take(o, &o->momentum, g->param_floats * sizeof(float), err));
    if (need.adam) BD_TRY_DONE(take(o, &o->second, g->param_floats * sizeof(float), err));
    BD_TRY_DONE(take(o, &o->update, need.largest * sizeof(float), err));
    BD_TRY_DONE(take(o, &o->ortho, need.largest * sizeof(float), err));
    BD_TRY_DONE(take(o, &o->work, need.work * sizeof(float), err));
    BD_TRY_DONE(take(o, &o->sum, sizeof(double), err));
done:
    if (st) {
        bd_optimizer_destroy(o);
        return st;
    }
    *out = o;
    return BD_OK;
}

void bd_optimizer_destroy(bd_optimizer *o) {
    if (!o) return;
    void *mem[] = {o->momentum, o->second, o->update, o->ortho, o->work, o->sum};
    for (size_t i = 0; i < sizeof mem / sizeof mem[0]; i++)
        if (mem[i]) o->be->vt->release(o->be, mem[i]);
    free(o->group);
    free(o);
}

uint64_t bd_optimizer_bytes(const bd_optimizer *o) { return o->bytes; }

float *bd_optimizer_state(bd_optimizer *o, int i, const char **name) {
    *name = i == 0 ? "momentum" : "second";
    return i == 0 ? o->momentum : i == 1 ? o->second : NULL;
}

static bd_view mat(float *p, int64_t rows, int64_t cols) { return (bd_view){p, BD_F32, rows, cols}; }

static bd_status axpby(bd_backend *be, bd_view out, double a, bd_view x, double b, bd_view y, bd_err *err) {
    bd_call c = {.op = BD_OP_axpby, .in = {x, y}, .out = {out}, .attr.lin = {(float)a, (float)b}};
    return bd_run(be, &c, err);
}

static bd_status clip_gradient(bd_optimizer *o, float *grad, double *norm, bd_err *err) {
    double sum = 0;
    BD_TRY(o->be->vt->upload(o->be, o->sum, &sum, sizeof sum, err));
    bd_view all = mat(grad, 1, (int64_t)o->g->param_floats);
    bd_call c = {.op = BD_OP_sum_squares, .in = {all}, .out = {{o->sum, BD_F64, 1, 1}}};
    BD_TRY(bd_run(o->be, &c, err));
    BD_TRY(o->be->vt->download(o->be, &sum, o->sum, sizeof sum, err));
    *norm = sqrt(sum);
    if (!isfinite(*norm))
        return BD_FAIL(err, BD_E_NONFINITE, "the gradient is not finite; lower the learning rates");
    if (*norm <= o->r->clip) return BD_OK;
    return axpby(o->be, all, o->r->clip / (*norm + 1e-6), all, 0, all, err);
}

static bd_status muon_step(bd_optimizer *o, const bd_opt_group *gr, const bd_param *p, float *w, float *grad,
                           float *m, int64_t step, double lr, bd_err *err) {
    bd_backend *be = o->be;
    bd_view vw = mat(w, p->rows, p->cols), vg = mat(grad, p->rows, p->cols), vm = mat(m, p->rows, p->cols);
    bd_view vu = mat(o->update, p->rows, p->cols), vo = mat(o->ortho, p->rows, p->cols);
    double mu = bd_momentum_at(gr, step);
    BD_TRY(axpby(be, vm, mu, vm, 1, vg, err));
    if (gr->nesterov) BD_TRY(axpby(be, vu, mu, vm, 1, vg, err));
    const bd_view *src = gr->nesterov ? &vu : &vm;
    if (gr->row_norm) {
        bd_call c = {.op = BD_OP_row_norm, .in = {*src}, .out = {vu}};
        BD_TRY(bd_run(be, &c, err));
        src = &vu;
    }
    BD_TRY(
        bd_newton_schulz(be, o->ortho, src->data, p->rows, p->cols, gr->ns_steps, gr->coefficients, o->work, err));
    double tall = (double)p->rows / (double)p->cols;
    return axpby(be, vw, -lr * sqrt(tall > 1 ? tall : 1), vo, 1 - lr * gr->decay, vw, err);
}

/* Our own, so that the C library cannot decide a bit. */
static double power(double base, double k) { return base > 0 ? bd_pow(base, k) : 0; }

static bd_status adamw_step(bd_optimizer *o, const bd_opt_group *gr, const bd_param *p, float *w, float *grad,
                            float *m, float *v, int64_t step, double lr, bd_err *err) {
    double k = (double)(step + 1);
    bd_call c = {.op = BD_OP_adamw,
                 .in = {mat(grad, p->rows, p->cols)},
                 .out = {mat(w, p->rows, p->cols), mat(m, p->rows, p->cols), mat(v, p->rows, p->cols)},
                 .attr.adamw = {.lr = (float)lr,
                                .beta1 = (float)gr->beta1,
                                .beta2 = (float)gr->beta2,
                                .eps = (float)gr->eps,
                                .decay = (float)(1 - lr * gr->decay),
                                .c1 = (float)(1 / (1 - power(gr->beta1, k))),
                                .c2 = (float)(1 / (1 - power(gr->beta2, k)))}};
    return bd_run(o->be, &c, err);
}

bd_status bd_optimizer_step(bd_optimizer *o, float *params, float *grad, int64_t step, double lr_mul, double *norm,
                            bd_err *err) {
    double n = 0;
    if (o->r->clip > 0) BD_TRY(clip_gradient(o, grad, &n, err));
    if (norm) *norm = n;
    for (int i = 0; i < o->g->n_params; i++) {
        const bd_param *p = &o->g->params[i];
        const bd_opt_group *gr = &o->r->groups[o->group[i]];
        double lr = gr->lr * lr_mul;
        float *w = params + p->offset, *g = grad + p->offset, *m = o->momentum + p->offset;
        if (gr->kind == BD_OPTIMIZER_MUON) BD_TRY(muon_step(o, gr, p, w, g, m, step, lr, err));
        else BD_TRY(adamw_step(o, gr, p, w, g, m, o->second + p->offset, step, lr, err));
    }
    return BD_OK;
}
