/* The plan: what was decided, as text, and what a given one asks for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "compiler/compile_impl.h"

/* --- writing --- */

/* The recipe's name as one plain word. */
static void recipe_word(char out[64], const char *name) {
    const char *slash = strrchr(name, '/');
    snprintf(out, 64, "%s", slash ? slash + 1 : name);
    for (char *s = out; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
              strchr("_.+-", *s)))
            *s = '_';
}

static bd_status name_calibration(bd_plan *p, const bd_calibration *k, bd_err *err) {
    p->calib_tokens = k->tokens;
    bd_sha256_hex(k->tokens_hash, p->calib_sha256);
    p->shards = calloc((size_t)k->n_shards + 1, sizeof *p->shards);
    if (!p->shards) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    p->n_shards = k->n_shards;
    for (int i = 0; i < k->n_shards; i++) bd_sha256_hex(k->shards[i], p->shards[i]);
    return BD_OK;
}

/* Predictions are not that exact, and every digit stands in the file. */
static double three_digits(double v) {
    char text[32];
    snprintf(text, sizeof text, "%.3g", v);
    return isfinite(v) ? strtod(text, NULL) : v;
}

bd_status bd_plan_of(const bd_compiler *c, bool with_groups, bd_buf *out, bd_err *err) {
    bd_plan p = {.budget = c->o->budget, .n_tensors = c->m->graph->n_params, .metric = c->metric};
    bd_qsetting_words *words = calloc((size_t)p.n_tensors + 1, sizeof *words);
    p.tensors = calloc((size_t)p.n_tensors + 1, sizeof *p.tensors);
    p.groups = calloc(c->art.n_groups + 1, sizeof *p.groups);
    bd_status st = words && p.tensors && p.groups ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!st && c->o->calibration) st = name_calibration(&p, c->o->calibration, err);
    if (st) goto done;
    recipe_word(p.recipe, c->o->recipe->name);
    bd_codec_versions(p.codecs, sizeof p.codecs);
    for (int i = 0; i < p.n_tensors; i++) {
        const bd_job *j = &c->jobs[i];
        const bd_variant *v = bd_job_using(j);
        bd_plan_tensor *t = &p.tensors[i];
        *t = (bd_plan_tensor){.name = j->p->name, .group = j->group, .quantizer = v->setting.by->name};
        bd_qsetting_print(&words[i], &v->setting);
        t->n_params = words[i].n;
        memcpy(t->params, words[i].params, sizeof t->params);
        t->fixed = j->fixed;
        t->bytes = v->done ? nearbyint(v->bytes) : -1;
        t->nats = v->done ? three_digits(v->res.nats) : NAN;
    }
    for (uint32_t k = 0; with_groups && k < c->art.n_groups; k++)
        p.groups[p.n_groups++] =
            (bd_plan_group){c->groups[k].name, c->groups[k].codec, c->groups[k].stored_bytes, 0};
    st = bd_plan_print(&p, out, err);
done:
    free(words);
    free(p.tensors);
    free(p.groups);
    free(p.shards);
    return st;
}

/* --- reading --- */

static bd_status setting_of(bd_qsetting *s, const bd_plan_tensor *t, const bd_job *j, bd_err *err) {
    BD_TRY(bd_qsetting_init(s, t->quantizer, err));
    for (int i = 0; i < t->n_params; i++)
        BD_TRY(bd_qsetting_set_text(s, t->params[i].key, t->params[i].value, err));
    if (s->by->check) BD_TRY(s->by->check(s, err));
    int64_t n = j->p->rows * j->p->cols;
    if (s->by->method == BD_Q_TERNARY && (int64_t)s->group > n)
        return BD_FAIL(err, BD_E_RANGE, "group=%u, %s has %lld elements", s->group, j->p->name, (long long)n);
    return BD_OK;
}

static bd_status apply_line(const bd_compiler *c, bd_job *j, const bd_plan_tensor *t, bd_err *err) {
    bd_qsetting s;
    if (strcmp(t->name, j->p->name) != 0)
        return BD_FAIL(err, BD_E_FIELD, "the tensor is %s, the model's next parameter is %s", t->name, j->p->name);
    BD_TRY(setting_of(&s, t, j, err));
    if (strlen(t->group) >= sizeof j->group)
        return BD_FAIL(err, BD_E_RANGE, "group names have at most %d characters", (int)sizeof j->group - 1);
    memcpy(j->group, t->group, strlen(t->group) + 1);
    if (!c->carry_out && !t->fixed) return BD_OK;
    j->fixed = t->fixed;
    j->scaled = false;
    j->base = s;
    j->slot[j->now].setting = s;
    return BD_OK;
}

bd_status bd_plan_settings(bd_compiler *c, bd_err *err) {
    const bd_plan *p = c->o->plan;
    if (p->n_tensors != c->m->graph->n_params)
        return BD_FAIL(err, BD_E_SHAPE, "the plan has %d tensor lines, the model %d parameters", p->n_tensors,
                       c->m->graph->n_params);
    for (int i = 0; i < p->n_tensors; i++) {
        bd_status st = apply_line(c, &c->jobs[i], &p->tensors[i], err);
        if (st) {
            bd_err_prefix(err, "plan line %d: ", p->tensors[i].line);
            return st;
        }
    }
    return BD_OK;
}

bd_status bd_plan_codecs(bd_compiler *c, bd_err *err) {
    const bd_plan *p = c->o->plan;
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
