#include "compiler/compile.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/nearest.h"
#include "base/numerics.h"
#include "base/sha256.h"
#include "compiler/ldl.h"
#include "compiler/quantize.h"

/* The fewest row deviations that the codes of a row setting must span; below
 * that the solver takes one bit more. */
#define MIN_SPAN 10.0
enum { MAX_TRIES = 40 };
/* Search range of the step in units of a row's deviation. */
#define STEP_MAX 64.0
#define STEP_MIN 1e-4

/* One parameter on its way. */
typedef struct job {
    const bd_param *p;
    bd_qsource src;
    double *ldl;
    uint8_t *dead;
    double signal, factor;
    bool matrix;        /* scaled by the solver */
    bd_qsetting setting;
    bd_qtensor q;
    double lost;
    char group[48];
    int group_index;
} job;

typedef struct compiler {
    const bd_model *m;
    const bd_compile_opts *o;
    bd_backend *be;
    job *jobs;          /* (n_params) */
    bd_artifact art;
    bd_qgroup *groups;
    bool *coded;        /* (groups): holds int codes, so it has a codec to choose */
    bd_codec *codec;    /* (groups): what to build with; BD_CODEC_COUNT: try all */
    bd_buf graph_text, plan_text;
    int tries;
} compiler;

const char *bd_compile_limit_name(bd_compile_limit l) {
    static const char *const names[] = {"budget", "finest", "plan"};
    return names[l];
}

/* "blocks.3.attn.c_q.weight" -> "attn.c_q"; vectors share the group "small". */
static void group_name(const job *j, char out[48]) {
    if (!j->matrix) {
        snprintf(out, 48, "small");
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
    snprintf(out, 48, "%.*s", n < 47 ? (int)n : 47, s);
}

static double step_factor(const bd_compile_recipe *r, const char *name) {
    for (int i = 0; i < r->n_steps; i++)
        if (bd_glob(r->steps[i].pattern, name)) return r->steps[i].factor;
    return 1;
}

static bd_status prepare_hessian(compiler *c, job *j, int param, bd_err *err) {
    if (!c->o->recipe->feedback || !c->o->calibration) return BD_OK;
    double *h = bd_calibration_hessian(c->o->calibration, c->m->graph, param);
    if (!h) return BD_OK; /* not the weight of a linear */
    int64_t n = j->p->cols;
    j->ldl = h;
    j->dead = calloc((size_t)n, 1);
    if (!j->dead) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_hessian_prepare(h, n, c->o->recipe->damp, j->dead);
    bd_status st = bd_ldl(h, n, err);
    if (st) {
        bd_err_prefix(err, "%s: ", j->p->name);
        return st;
    }
    j->src.ldl = j->ldl;
    j->src.dead = j->dead;
    return BD_OK;
}

static bd_status prepare_jobs(compiler *c, bd_err *err) {
    const bd_graph *g = c->m->graph;
    c->jobs = calloc((size_t)g->n_params + 1, sizeof *c->jobs);
    if (!c->jobs) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) {
        job *j = &c->jobs[i];
        j->p = &g->params[i];
        j->matrix = j->p->role != BD_ROLE_VECTOR;
        j->src = (bd_qsource){.w = c->m->params + j->p->offset, .rows = j->p->rows, .cols = j->p->cols};
        j->factor = step_factor(c->o->recipe, j->p->name);
        group_name(j, j->group);
        if (j->matrix) BD_TRY(prepare_hessian(c, j, i, err));
        j->signal = bd_qsource_signal(&j->src);
        bd_tick(c->o->progress, "tensors factorized", i + 1, g->n_params, "%s", "");
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
    }
    return BD_OK;
}

/* Groups in order of first appearance; each job's tensor lies in its group in parameter order. */
static bd_status make_groups(compiler *c, bd_err *err) {
    int n = c->m->graph->n_params;
    c->groups = calloc((size_t)n + 1, sizeof *c->groups);
    c->codec = calloc((size_t)n + 1, sizeof *c->codec);
    c->coded = calloc((size_t)n + 1, sizeof *c->coded);
    if (!c->groups || !c->codec || !c->coded) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        uint32_t k = 0;
        while (k < c->art.n_groups && strcmp(c->groups[k].name, c->jobs[i].group) != 0) k++;
        if (k == c->art.n_groups) c->groups[c->art.n_groups++].name = c->jobs[i].group;
        c->jobs[i].group_index = (int)k;
        c->groups[k].n_tensors++;
    }
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        c->groups[k].tensors = calloc(c->groups[k].n_tensors, sizeof(bd_qtensor));
        if (!c->groups[k].tensors) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    c->art.groups = c->groups;
    return BD_OK;
}

static bd_status quantize_job(compiler *c, job *j, bd_err *err) {
    bd_qsetting *s = &j->setting;
    if (j->q.method != s->method || (!j->q.codes && !j->q.f16 && !j->q.f32)) {
        bd_qtensor_free(&j->q);
        BD_TRY(bd_qtensor_alloc(&j->q, j->p->rows, j->p->cols, s, err));
    }
    j->q.param = (uint32_t)(j - c->jobs);
    j->q.bits = s->method == BD_Q_ROW ? (uint8_t)s->bits : 0;
    double lost = 0;
    bd_status st = bd_quantize(&j->q, &j->src, s, c->be->pool, &lost, err);
    if (st) bd_err_prefix(err, "%s: ", j->p->name);
    j->lost = j->signal > 0 ? lost / j->signal : 0;
    return st;
}

/* The setting for a step of `d` row deviations; d = 0: the finest there is. */
static void matrix_setting(const bd_compile_recipe *r, job *j, double d) {
    j->setting.method = j->p->role == BD_ROLE_MATRIX ? r->matrix : BD_Q_ROW;
    j->setting.group = r->group;
    if (j->setting.method != BD_Q_ROW) return;
    int bits = r->bits_min;
    while (bits < r->bits_max && d * ((1 << (bits - 1)) - 1) < MIN_SPAN) bits++;
    j->setting.bits = bits;
    j->setting.k = (float)(d * ((1 << (bits - 1)) - 1));
    /* Fewer than 8 bits cannot be finer than what spans the row. */
    if (bits < 8 && j->setting.k < (float)MIN_SPAN) j->setting.k = (float)MIN_SPAN;
}

static bd_status write_plan(compiler *c, bd_plan *out_plan, bd_err *err) {
    bd_plan p = {.budget = c->o->budget, .n_tensors = c->m->graph->n_params};
    bd_plan_tensor *t = calloc((size_t)p.n_tensors + 1, sizeof *t);
    bd_plan_group *g = calloc(c->art.n_groups + 1, sizeof *g);
    if (!t || !g) {
        free(t);
        free(g);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    bd_codec_versions(p.codecs, sizeof p.codecs);
    if (c->o->calibration) {
        p.calib_tokens = c->o->calibration->tokens;
        bd_sha256_hex(c->o->calibration->tokens_hash, p.calib_sha256);
    }
    for (int i = 0; i < p.n_tensors; i++) {
        const job *j = &c->jobs[i];
        t[i] = (bd_plan_tensor){j->p->name, j->group, j->setting.method, j->setting.bits, j->setting.k, j->setting.group, j->lost};
    }
    p.tensors = t;
    c->plan_text.size = 0;
    bd_status st = BD_OK;
    if (out_plan) {
        for (uint32_t k = 0; k < c->art.n_groups; k++)
            g[k] = (bd_plan_group){c->groups[k].name, c->groups[k].codec, c->groups[k].stored_bytes};
        p.groups = g;
        p.n_groups = (int)c->art.n_groups;
        bd_buf text;
        bd_buf_init(&text);
        st = bd_plan_print(&p, &text, err);
        bd_plan *copy = NULL;
        if (!st) st = bd_plan_parse(&copy, (const char *)text.data, text.size, err);
        if (!st) {
            *out_plan = *copy;
        }
        bd_buf_free(&text);
    } else {
        st = bd_plan_print(&p, &c->plan_text, err);
    }
    free(t);
    free(g);
    return st;
}

/* Quantize everything as set and build the file. */
static bd_status build(compiler *c, bd_buf *file, bd_err *err) {
    uint32_t at[256] = {0};
    BD_ASSERT(c->art.n_groups <= 256);
    for (int i = 0; i < c->m->graph->n_params; i++) {
        job *j = &c->jobs[i];
        BD_TRY(quantize_job(c, j, err));
        c->groups[j->group_index].tensors[at[j->group_index]++] = j->q;
        if (j->setting.method == BD_Q_ROW || j->setting.method == BD_Q_TERNARY) c->coded[j->group_index] = true;
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
    }
    for (uint32_t k = 0; k < c->art.n_groups; k++) c->groups[k].codec = c->coded[k] ? c->codec[k] : BD_CODEC_COUNT;
    BD_TRY(write_plan(c, NULL, err));
    c->art.plan_text = (const char *)c->plan_text.data;
    c->art.plan_size = c->plan_text.size;
    file->size = 0;
    c->tries++;
    return bd_artifact_build(&c->art, file, err);
}

static bd_status build_at(compiler *c, double step, bd_buf *file, bd_err *err) {
    for (int i = 0; i < c->m->graph->n_params; i++) {
        job *j = &c->jobs[i];
        if (j->matrix) matrix_setting(c->o->recipe, j, step * j->factor);
    }
    BD_TRY(build(c, file, err));
    bd_tick(c->o->progress, "files tried", c->tries, MAX_TRIES, "step %.5g: %zu bytes of %" PRIu64, step, file->size,
            c->o->budget);
    return BD_OK;
}

static void keep(bd_buf *best, bd_buf *file) {
    bd_buf t = *best;
    *best = *file;
    *file = t;
}

static bd_status too_small(compiler *c, const bd_buf *file, bd_err *err) {
    uint64_t largest = 0;
    const char *name = "header and text sections";
    for (uint32_t k = 0; k < c->art.n_groups; k++)
        if (c->groups[k].stored_bytes > largest) {
            largest = c->groups[k].stored_bytes;
            name = c->groups[k].name;
        }
    return BD_FAIL(err, BD_E_BUDGET, "the budget of %" PRIu64 " bytes is too small: the smallest reachable file is %zu bytes, "
                   "of which group %s takes %" PRIu64, c->o->budget, file->size, name, largest);
}

/* Narrow (lo does not fit, hi fits) until the file fills the budget to 0.02 % or
 * the steps are one and the same. log(size) is close to linear in log(step), so
 * the secant is a good guess; every third guess is the middle, so that it ends. */
static bd_status search(compiler *c, double lo, double lo_size, double hi, double *step, bd_buf *best, bd_buf *file,
                        bd_err *err) {
    double budget = (double)c->o->budget, hi_size = (double)best->size;
    for (int i = 1; c->tries < MAX_TRIES && hi_size < budget * 0.9998 && hi / lo > 1 + 1e-6; i++) {
        double a = log(lo), b = log(hi), t = (log(lo_size) - log(budget * 0.9999)) / (log(lo_size) - log(hi_size));
        if (i % 3 == 0 || !(t > 0.02 && t < 0.98)) t = 0.5;
        double mid = exp(a + t * (b - a));
        BD_TRY(build_at(c, mid, file, err));
        if ((double)file->size <= budget) {
            keep(best, file);
            hi = *step = mid;
            hi_size = (double)best->size;
        } else {
            lo = mid;
            lo_size = (double)file->size;
        }
    }
    return BD_OK;
}

/* Find a step that fits and a finer one that does not, then search between. */
static bd_status solve(compiler *c, bd_buf *best, bd_compile_result *res, bd_err *err) {
    bd_buf file;
    bd_buf_init(&file);
    bd_status st = BD_OK;
    double hi = 0.5, lo = 0, lo_size = 0;
    BD_TRY_DONE(build_at(c, hi, &file, err));
    while (file.size > c->o->budget) {
        lo = hi;
        lo_size = (double)file.size;
        if (hi >= STEP_MAX) {
            st = too_small(c, &file, err);
            goto done;
        }
        hi = hi * 2 < STEP_MAX ? hi * 2 : STEP_MAX;
        BD_TRY_DONE(build_at(c, hi, &file, err));
    }
    keep(best, &file);
    res->step = hi;
    if (lo == 0) {
        /* Going finer: the finest first, it may fit. */
        BD_TRY_DONE(build_at(c, 0, &file, err));
        if (file.size <= c->o->budget) {
            keep(best, &file);
            res->step = 0;
            res->limit = BD_LIMIT_FINEST;
            goto done;
        }
        lo = hi;
        do {
            lo /= 2;
            BD_TRY_DONE(build_at(c, lo > STEP_MIN ? lo : 0, &file, err));
            if (file.size > c->o->budget) break;
            keep(best, &file);
            hi = res->step = lo;
        } while (lo > STEP_MIN);
        lo_size = (double)file.size;
        if (lo <= STEP_MIN) goto done;
    }
    BD_TRY_DONE(search(c, lo, lo_size, hi, &res->step, best, &file, err));
done:
    bd_buf_free(&file);
    return st;
}

/* With the steps found, let every codec try; what a winner saves is spent by searching once more. */
static bd_status choose_codecs(compiler *c, bd_buf *best, bd_compile_result *res, bd_err *err) {
    bool changed = false;
    BD_TRY(build_at(c, res->step, best, err));
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        if (!c->coded[k]) continue;
        uint64_t bytes;
        bd_codec was = c->groups[k].codec;
        c->groups[k].codec = BD_CODEC_COUNT;
        BD_TRY(bd_qgroup_cost(&c->groups[k], &bytes, err));
        c->codec[k] = c->groups[k].codec;
        changed |= c->codec[k] != was;
        bd_tick(c->o->progress, "groups packed", k + 1, c->art.n_groups, "%s", c->groups[k].name);
        if (bd_stopped(c->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
    }
    if (!changed) return BD_OK;
    if (res->limit == BD_LIMIT_FINEST) return build_at(c, 0, best, err);
    bd_buf file;
    bd_buf_init(&file);
    bd_status st = build_at(c, res->step, best, err);
    double lo = res->step * 0.98;
    if (!st) st = build_at(c, lo, &file, err);
    if (!st && file.size > c->o->budget) st = search(c, lo, (double)file.size, res->step, &res->step, best, &file, err);
    bd_buf_free(&file);
    return st;
}

static bd_status settings_from_plan(compiler *c, bd_err *err) {
    const bd_plan *p = c->o->plan;
    if (p->n_tensors != c->m->graph->n_params)
        return BD_FAIL(err, BD_E_SHAPE, "the plan has %d tensor lines, the model %d parameters", p->n_tensors,
                       c->m->graph->n_params);
    for (int i = 0; i < p->n_tensors; i++) {
        const bd_plan_tensor *t = &p->tensors[i];
        job *j = &c->jobs[i];
        if (strcmp(t->name, j->p->name) != 0)
            return BD_FAIL(err, BD_E_FIELD, "the plan's tensor %d is %s, the model's is %s", i, t->name, j->p->name);
        j->setting = (bd_qsetting){t->method, t->bits, t->k, t->qgroup};
        snprintf(j->group, sizeof j->group, "%s", t->group);
    }
    return BD_OK;
}

static bd_status carry_out_plan(compiler *c, bd_buf *best, bd_compile_result *res, bd_err *err) {
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        c->codec[k] = BD_CODEC_COUNT;
        for (int i = 0; i < c->o->plan->n_groups; i++)
            if (!strcmp(c->o->plan->groups[i].name, c->groups[k].name)) c->codec[k] = c->o->plan->groups[i].codec;
    }
    res->limit = BD_LIMIT_PLAN;
    BD_TRY(build(c, best, err));
    if (best->size > c->o->budget)
        return BD_FAIL(err, BD_E_BUDGET, "the plan makes %zu bytes, the budget is %" PRIu64, best->size, c->o->budget);
    return BD_OK;
}

static bd_status run(compiler *c, bd_buf *file, bd_compile_result *res, bd_err *err) {
    const bd_compile_recipe *r = c->o->recipe;
    BD_TRY(prepare_jobs(c, err));
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (!c->jobs[i].matrix) c->jobs[i].setting = (bd_qsetting){.method = r->small, .bits = 8};
    if (c->o->plan) BD_TRY(settings_from_plan(c, err));
    BD_TRY(make_groups(c, err));
    if (c->art.n_groups > 256) return BD_FAIL(err, BD_E_LIMIT, "more than 256 weight groups");
    BD_TRY(bd_graph_print(c->m->graph, &c->graph_text, err));
    c->art.version = 1;
    c->art.numerics = BD_NUMERICS_VERSION;
    c->art.graph_text = (const char *)c->graph_text.data;
    c->art.graph_size = c->graph_text.size;
    c->art.protocol = c->o->protocol;
    c->art.vocab = (uint32_t)c->m->graph->vocab;
    memcpy(c->art.tokenizer_model_hash, c->o->tokenizer_model_hash, 32);
    memcpy(c->art.tokenizer_tables_hash, c->o->tokenizer_tables_hash, 32);
    for (uint32_t k = 0; k < c->art.n_groups; k++) c->codec[k] = BD_CODEC_RANGE;
    if (c->o->plan) return carry_out_plan(c, file, res, err);
    BD_TRY(solve(c, file, res, err));
    return choose_codecs(c, file, res, err);
}

static void release(compiler *c) {
    for (int i = 0; c->jobs && i < c->m->graph->n_params; i++) {
        bd_qtensor_free(&c->jobs[i].q);
        free(c->jobs[i].ldl);
        free(c->jobs[i].dead);
    }
    for (uint32_t k = 0; c->groups && k < c->art.n_groups; k++) free(c->groups[k].tensors);
    free(c->jobs);
    free(c->groups);
    free(c->codec);
    free(c->coded);
    bd_buf_free(&c->graph_text);
    bd_buf_free(&c->plan_text);
}

bd_status bd_compile(bd_buf *file, bd_compile_result *res, const bd_model *m, bd_backend *be, const bd_compile_opts *o,
                     bd_err *err) {
    *res = (bd_compile_result){.limit = BD_LIMIT_BUDGET};
    compiler c = {.m = m, .o = o, .be = be};
    bd_buf_init(&c.graph_text);
    bd_buf_init(&c.plan_text);
    bd_status st = run(&c, file, res, err);
    if (!st) {
        res->artifact_bytes = res->predicted_bytes = file->size;
        res->tries = c.tries;
        bd_plan tmp;
        st = write_plan(&c, &tmp, err);
        if (!st) {
            res->plan = bd_arena_alloc(tmp.arena, 1, sizeof tmp);
            if (res->plan) *res->plan = tmp;
            else st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        }
    }
    release(&c);
    return st;
}

void bd_compile_result_free(bd_compile_result *r) {
    bd_plan_close(r->plan);
    r->plan = NULL;
}
