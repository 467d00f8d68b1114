#include "compiler/compile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numerics.h"
#include "base/sha256.h"
#include "compiler/compile_impl.h"

/* Groups of an artifact that a plan may ask for. */
enum { MAX_GROUPS = 256 };

const char *bd_compile_limit_name(bd_compile_limit l) {
    static const char *const names[] = {"budget", "finest", "plan"};
    return names[l];
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
        if (k == c->art.n_groups) c->groups[c->art.n_groups++].name = j->group;
        j->group_index = (int)k;
        j->at = (int)c->groups[k].n_tensors++;
        if (j->setting.method == BD_Q_ROW || j->setting.method == BD_Q_TERNARY) c->state[k].coded = true;
    }
    if (c->art.n_groups > MAX_GROUPS) return BD_FAIL(err, BD_E_LIMIT, "more than %d weight groups", MAX_GROUPS);
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        c->groups[k].tensors = calloc(c->groups[k].n_tensors, sizeof(bd_qtensor));
        if (!c->groups[k].tensors) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        c->state[k].codec = c->state[k].coded ? BD_CODEC_RANGE : BD_CODEC_COUNT;
    }
    c->art.groups = c->groups;
    return BD_OK;
}

/* --- the plan --- */

static bd_status print_plan(const bd_compiler *c, bool with_groups, bd_buf *out, bd_err *err) {
    bd_plan p = {.budget = c->o->budget, .n_tensors = c->m->graph->n_params, .rounding = c->rounding};
    p.tensors = calloc((size_t)p.n_tensors + 1, sizeof *p.tensors);
    p.groups = calloc(c->art.n_groups + 1, sizeof *p.groups);
    bd_status st = BD_OK;
    if (!p.tensors || !p.groups) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    bd_codec_versions(p.codecs, sizeof p.codecs);
    if (c->o->calibration) {
        p.calib_tokens = c->o->calibration->tokens;
        bd_sha256_hex(c->o->calibration->tokens_hash, p.calib_sha256);
    }
    for (int i = 0; i < p.n_tensors; i++) {
        const bd_job *j = &c->jobs[i];
        const bd_qsetting *s = &j->setting;
        p.tensors[i] = (bd_plan_tensor){j->p->name, j->group, s->method, s->bits, s->k, s->group, j->lost, 0};
    }
    for (uint32_t k = 0; with_groups && k < c->art.n_groups; k++)
        p.groups[p.n_groups++] =
            (bd_plan_group){c->groups[k].name, c->groups[k].codec, c->groups[k].stored_bytes, 0};
    st = bd_plan_print(&p, out, err);
done:
    free(p.tensors);
    free(p.groups);
    return st;
}

bd_status bd_compile_write_plan(bd_compiler *c, bd_err *err) {
    c->plan_text.size = 0;
    BD_TRY(print_plan(c, false, &c->plan_text, err));
    c->art.plan_text = (const char *)c->plan_text.data;
    c->art.plan_size = c->plan_text.size;
    return BD_OK;
}

static bd_status result_plan(const bd_compiler *c, bd_plan **out, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = print_plan(c, true, &text, err);
    if (!st) st = bd_plan_parse(out, (const char *)text.data, text.size, err);
    bd_buf_free(&text);
    return st;
}

static bd_status settings_from_plan(bd_compiler *c, bd_err *err) {
    const bd_plan *p = c->o->plan;
    if (p->n_tensors != c->m->graph->n_params)
        return BD_FAIL(err, BD_E_SHAPE, "the plan has %d tensor lines, the model %d parameters", p->n_tensors,
                       c->m->graph->n_params);
    for (int i = 0; i < p->n_tensors; i++) {
        const bd_plan_tensor *t = &p->tensors[i];
        bd_job *j = &c->jobs[i];
        int64_t n = j->p->rows * j->p->cols;
        if (strcmp(t->name, j->p->name) != 0)
            return BD_FAIL(err, BD_E_FIELD, "plan line %d: the tensor is %s, the model's next parameter is %s",
                           t->line, t->name, j->p->name);
        if (t->method == BD_Q_TERNARY && t->qgroup > n)
            return BD_FAIL(err, BD_E_RANGE, "plan line %d: group=%u, %s has %lld elements", t->line, t->qgroup,
                           t->name, (long long)n);
        if (strlen(t->group) >= sizeof j->group)
            return BD_FAIL(err, BD_E_LIMIT, "plan line %d: a group's name has at most %d characters", t->line,
                           (int)sizeof j->group - 1);
        j->setting = (bd_qsetting){.method = t->method};
        if (t->method == BD_Q_ROW) {
            j->setting.bits = t->bits;
            j->setting.k = t->k;
        }
        if (t->method == BD_Q_TERNARY) j->setting.group = t->qgroup;
        memcpy(j->group, t->group, strlen(t->group) + 1);
    }
    return BD_OK;
}

static bd_status codecs_from_plan(bd_compiler *c, bd_err *err) {
    const bd_plan *p = c->o->plan;
    for (uint32_t k = 0; k < c->art.n_groups; k++) c->state[k].codec = BD_CODEC_COUNT;
    for (int i = 0; i < p->n_groups; i++) {
        uint32_t k = 0;
        while (k < c->art.n_groups && strcmp(p->groups[i].name, c->groups[k].name) != 0) k++;
        if (k == c->art.n_groups)
            return BD_FAIL(err, BD_E_UNKNOWN, "plan line %d: no tensor is in group %s", p->groups[i].line,
                           p->groups[i].name);
        c->state[k].codec = p->groups[i].codec;
    }
    return BD_OK;
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

static bd_plan_rounding rounding_of(const bd_compile_opts *o) {
    const bd_compile_recipe *r = o->recipe;
    if (o->plan && o->plan->rounding.given) return o->plan->rounding;
    bool known = o->calibration != NULL;
    return (bd_plan_rounding){.given = true,
                              .feedback = r->feedback && known,
                              .act_order = r->act_order,
                              .rows_by_loss = r->rows_by_loss && known,
                              .damp = as_printed(r->damp),
                              .rho = as_printed(r->rho)};
}

static bd_status run(bd_compiler *c, bd_buf *file, bd_compile_result *res, bd_err *err) {
    const bd_compile_recipe *r = c->o->recipe;
    c->rounding = rounding_of(c->o);
    BD_TRY(bd_jobs_prepare(c, err));
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        if (j->matrix) bd_job_set(r, j, 1);
        else j->setting = (bd_qsetting){.method = r->small, .bits = r->small == BD_Q_ROW ? 8 : 0};
    }
    if (c->o->plan) BD_TRY(settings_from_plan(c, err));
    BD_TRY(make_groups(c, err));
    BD_TRY(bd_graph_print(c->m->graph, &c->graph_text, err));
    c->art.version = 1;
    c->art.numerics = BD_NUMERICS_VERSION;
    c->art.graph_text = (const char *)c->graph_text.data;
    c->art.graph_size = c->graph_text.size;
    c->art.protocol = c->o->protocol;
    c->art.vocab = (uint32_t)c->m->graph->vocab;
    memcpy(c->art.tokenizer_model_hash, c->o->tokenizer_model_hash, 32);
    memcpy(c->art.tokenizer_tables_hash, c->o->tokenizer_tables_hash, 32);
    if (c->o->plan) {
        res->limit = BD_LIMIT_PLAN;
        BD_TRY(codecs_from_plan(c, err));
        BD_TRY(bd_compile_price(c, &res->predicted_bytes, err));
        if (res->predicted_bytes > c->o->budget)
            return BD_FAIL(err, BD_E_BUDGET, "the plan makes %" PRIu64 " bytes, the budget is %" PRIu64,
                           res->predicted_bytes, c->o->budget);
    } else {
        BD_TRY(bd_compile_solve(c, res, err));
    }
    BD_TRY(build(c, file, res->predicted_bytes, err));
    res->artifact_bytes = file->size;
    res->tries = c->tries;
    return result_plan(c, &res->plan, err);
}

bd_status bd_compile(bd_buf *file, bd_compile_result *res, const bd_model *m, bd_backend *be,
                     const bd_compile_opts *o, bd_err *err) {
    *res = (bd_compile_result){.limit = BD_LIMIT_BUDGET};
    bd_compiler c = {.m = m, .o = o, .be = be};
    bd_buf_init(&c.graph_text);
    bd_buf_init(&c.plan_text);
    bd_status st = run(&c, file, res, err);
    if (st) file->size = 0;
    bd_jobs_free(&c);
    for (uint32_t k = 0; c.groups && k < c.art.n_groups; k++) free(c.groups[k].tensors);
    free(c.groups);
    free(c.state);
    bd_buf_free(&c.graph_text);
    bd_buf_free(&c.plan_text);
    return st;
}

void bd_compile_result_free(bd_compile_result *r) {
    bd_plan_close(r->plan);
    r->plan = NULL;
}
