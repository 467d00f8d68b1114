#include "compiler/compile.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numerics.h"
#include "compiler/compile_impl.h"

/* Groups of an artifact that a plan may ask for. */
enum { MAX_GROUPS = 256 };

const char *bd_compile_limit_name(bd_compile_limit l) {
    static const char *const names[] = {"budget", "finest", "plan", "recipe"};
    return names[l];
}

static bool listed(const char *const *list, const char *name) {
    for (int i = 0; list && list[i]; i++)
        if (!strcmp(list[i], name)) return true;
    return false;
}

/* Groups in order of first appearance; each job's tensor lies in its group in parameter order. */
static bd_status make_groups(bd_compiler *c, bd_err *err) {
    int n = c->m->graph->n_params;
    c->groups = calloc((size_t)n + 1, sizeof *c->groups);
    c->state = calloc((size_t)n + 1, sizeof *c->state);
    if (!c->groups || !c->state) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        bd_job *j = &c->jobs[i];
        uint32_t k = 0;
        while (k < c->art.n_groups && strcmp(c->groups[k].name, j->group) != 0) k++;
        if (k == c->art.n_groups) {
            c->groups[k].name = j->group;
            c->state[k].codec = BD_CODEC_COUNT;
            bd_buf_init(&c->state[k].packed);
            c->art.n_groups++;
        }
        j->group_index = (int)k;
        j->at = (int)c->groups[k].n_tensors++;
        if (j->matrix) c->state[k].codec = c->o->recipe->codec;
        if (j->scaled) c->state[k].scaled = true;
    }
    if (c->art.n_groups > MAX_GROUPS) return BD_FAIL(err, BD_E_LIMIT, "more than %d weight groups", MAX_GROUPS);
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        c->groups[k].tensors = calloc(c->groups[k].n_tensors, sizeof(bd_qtensor));
        if (!c->groups[k].tensors) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        c->groups[k].sort_rows = listed(c->o->recipe->sort, c->groups[k].name);
    }
    c->art.groups = c->groups;
    return BD_OK;
}

bd_status bd_compile_write_plan(bd_compiler *c, bd_err *err) {
    c->plan_text.size = 0;
    BD_TRY(bd_plan_of(c, false, &c->plan_text, err));
    c->art.plan_text = (const char *)c->plan_text.data;
    c->art.plan_size = c->plan_text.size;
    return BD_OK;
}

static bd_status result_plan(const bd_compiler *c, bd_plan **out, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_plan_of(c, true, &text, err);
    if (!st) st = bd_plan_parse(out, (const char *)text.data, text.size, err);
    bd_buf_free(&text);
    return st;
}

/* --- the file --- */

static bd_status build(bd_compiler *c, bd_buf *file, uint64_t predicted, bd_err *err) {
    for (uint32_t k = 0; k < c->art.n_groups; k++) c->groups[k].codec = c->state[k].used;
    file->size = 0;
    BD_TRY(bd_artifact_build(&c->art, file, err));
    if (file->size != predicted)
        return BD_FAIL(err, BD_E_MISMATCH,
                       "the file has %zu bytes where %" PRIu64 " were priced: a codec is not deterministic",
                       file->size, predicted);
    return BD_OK;
}

/* A double as a plan prints it, so that a plan that is read back says the same. */
static double as_printed(double v) {
    char text[32];
    snprintf(text, sizeof text, "%.9g", v);
    return strtod(text, NULL);
}

static bd_plan_metric metric_of(const bd_compile_opts *o) {
    const bd_compile_recipe *r = o->recipe;
    if (o->plan && o->plan->metric.given) return o->plan->metric;
    return (bd_plan_metric){.given = o->calibration != NULL,
                            .feedback = r->feedback,
                            .order = r->order,
                            .row_steps = r->row_steps,
                            .col_steps = r->col_steps,
                            .couple_rows = r->couple_rows,
                            .damp = as_printed(r->damp),
                            .rho = as_printed(r->rho)};
}

static bool has_fixed_lines(const bd_plan *p) {
    for (int i = 0; p && i < p->n_tensors; i++)
        if (p->tensors[i].fixed) return true;
    return false;
}

static bd_status describe(bd_compiler *c, bd_err *err) {
    BD_TRY(bd_graph_print(c->m->graph, &c->graph_text, err));
    c->art.version = 2;
    c->art.numerics = BD_NUMERICS_VERSION;
    c->art.graph_text = (const char *)c->graph_text.data;
    c->art.graph_size = c->graph_text.size;
    c->art.protocol = c->o->protocol;
    c->art.vocab = (uint32_t)c->m->graph->vocab;
    memcpy(c->art.tokenizer_model_hash, c->o->tokenizer_model_hash, 32);
    memcpy(c->art.tokenizer_tables_hash, c->o->tokenizer_tables_hash, 32);
    return BD_OK;
}

static bd_status carry_out(bd_compiler *c, bd_compile_result *res, bd_err *err) {
    res->limit = BD_LIMIT_PLAN;
    res->nats_per_byte = NAN;
    BD_TRY(bd_compile_price(c, &res->predicted_bytes, err));
    if (res->predicted_bytes > c->o->budget)
        return BD_FAIL(err, BD_E_BUDGET, "the plan makes %" PRIu64 " bytes, the budget is %" PRIu64,
                       res->predicted_bytes, c->o->budget);
    return BD_OK;
}

static bd_status run(bd_compiler *c, bd_buf *file, bd_compile_result *res, bd_err *err) {
    double t = bd_now();
    c->metric = metric_of(c->o);
    c->carry_out = c->o->plan && !has_fixed_lines(c->o->plan);
    BD_TRY(bd_jobs_prepare(c, err));
    BD_TRY(make_groups(c, err));
    if (c->o->plan) BD_TRY(bd_plan_codecs(c, err));
    BD_TRY(describe(c, err));
    res->seconds_prepare = bd_now() - t;
    t = bd_now();
    BD_TRY(bd_compile_tune(c, res, err));
    res->seconds_tune = bd_now() - t;
    t = bd_now();
    if (c->carry_out) BD_TRY(carry_out(c, res, err));
    else BD_TRY(bd_compile_solve(c, res, err));
    res->seconds_solve = bd_now() - t;
    t = bd_now();
    BD_TRY(build(c, file, res->predicted_bytes, err));
    res->seconds_pack = bd_now() - t;
    res->artifact_bytes = file->size;
    res->tries = c->tries;
    res->seconds_quantize = c->seconds_quantize;
    res->seconds_pass = c->seconds_pass;
    res->seconds_price = c->seconds_price;
    res->nats = bd_jobs_nats(c, false);
    return result_plan(c, &res->plan, err);
}

bd_status bd_compile(bd_buf *file, bd_compile_result *res, const bd_model *m, bd_backend *be,
                     const bd_compile_opts *o, bd_err *err) {
    *res = (bd_compile_result){.limit = BD_LIMIT_BUDGET, .nats = NAN, .nats_per_byte = NAN};
    bd_compiler c = {.m = m, .o = o, .be = be};
    bd_buf_init(&c.graph_text);
    bd_buf_init(&c.plan_text);
    bd_status st = run(&c, file, res, err);
    if (st) {
        file->size = 0;
        bd_compile_result_free(res);
    }
    for (uint32_t k = 0; c.groups && k < c.art.n_groups; k++) {
        free(c.groups[k].tensors);
        bd_buf_free(&c.state[k].packed);
    }
    bd_jobs_free(&c);
    free(c.groups);
    free(c.state);
    bd_buf_free(&c.graph_text);
    bd_buf_free(&c.plan_text);
    return st;
}

void bd_compile_result_free(bd_compile_result *r) {
    bd_plan_close(r->plan);
    free(r->trials);
    r->plan = NULL;
    r->trials = NULL;
    r->n_trials = 0;
}
