#include "cli/plan_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/tensor_set.h"
#include "compiler/quantizer.h"

/* What a parameter became. */
typedef struct found {
    const bd_qtensor *q; /* NULL: not in the file */
    const char *group;
    double bytes;
} found;

typedef struct report {
    const bd_plan *p;
    const bd_artifact *a;
    const bd_graph *g;
    found *at; /* (parameters) */
    json_t *tensors, *groups, *head;
    int differ;
} report;

/* --- what the weights say --- */

static bd_status find_tensors(report *r, bd_err *err) {
    r->at = calloc((size_t)r->g->n_params + 1, sizeof *r->at);
    if (!r->at) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < r->a->n_groups; i++) {
        const bd_qgroup *g = &r->a->groups[i];
        double *bytes = calloc((size_t)g->n_tensors + 1, sizeof *bytes);
        bd_status st = bytes ? bd_qgroup_tensor_bytes(g, bytes, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
        for (uint32_t k = 0; !st && k < g->n_tensors; k++)
            if (g->tensors[k].param < (uint32_t)r->g->n_params)
                r->at[g->tensors[k].param] = (found){&g->tensors[k], g->name, bytes[k]};
        free(bytes);
        BD_TRY(st);
    }
    return BD_OK;
}

enum { MAX_FOUND = 3 };
typedef struct fact {
    const char *key;
    double value;
} fact;

/* Parameters that a tensor shows. */
static int facts_of(const bd_qtensor *q, fact out[MAX_FOUND]) {
    int n = 0;
    if (q->bits) out[n++] = (fact){"bits", q->bits};
    if (q->group) out[n++] = (fact){"group", q->group};
    if (q->states) out[n++] = (fact){"states", q->states};
    if (q->levels) out[n++] = (fact){"levels", q->levels};
    if (q->rank && n < MAX_FOUND) out[n++] = (fact){"rank", q->rank};
    if (q->base != 0 && n < MAX_FOUND) out[n++] = (fact){"step", (double)q->base};
    return n;
}

/* A step of 0 is one that the quantizer chose. */
static bool agrees(const fact *f, const char *text) {
    float said = strtof(text, NULL);
    return said == (float)f->value || (!strcmp(f->key, "step") && said == 0);
}

/* What a line says that the weights do not, in words; empty: nothing. */
static void differences(const report *r, int i, bd_buf *out) {
    const bd_plan_tensor *t = &r->p->tensors[i];
    const found *f = &r->at[i];
    const char *name = r->g->params[i].name;
    if (strcmp(t->name, name) != 0) {
        bd_buf_printf(out, "the model's parameter is %s", name);
        return;
    }
    if (!f->q) {
        bd_buf_printf(out, "the file does not hold it");
        return;
    }
    const bd_quantizer *by = bd_quantizer_find(t->quantizer);
    if (!by) bd_buf_printf(out, "no quantizer is called %s; ", t->quantizer);
    else if (by->method != f->q->method) bd_buf_printf(out, "method=%s; ", bd_qmethod_name(f->q->method));
    if (strcmp(t->group, f->group) != 0) bd_buf_printf(out, "in group %s; ", f->group);
    fact facts[MAX_FOUND];
    int n = facts_of(f->q, facts);
    for (int k = 0; k < n; k++)
        for (int j = 0; j < t->n_params; j++)
            if (!strcmp(t->params[j].key, facts[k].key) && !agrees(&facts[k], t->params[j].value))
                bd_buf_printf(out, "%s=%.9g; ", facts[k].key, facts[k].value);
    if (out->size >= 2) out->size -= 2;
}

/* --- head --- */

static const char *yes_no(bool v) { return v ? "yes" : "no"; }

static void head(const report *r) {
    const bd_plan *p = r->p;
    const bd_plan_metric *m = &p->metric;
    if (!r->head) {
        printf("%-12s %s, budget %" PRIu64 "\n", "recipe", p->recipe[0] ? p->recipe : "not named", p->budget);
        if (p->codecs[0]) printf("%-12s %s\n", "codecs", p->codecs);
        if (p->calib_tokens)
            printf("%-12s %" PRIu64 " tokens, %s\n", "calibration", p->calib_tokens, p->calib_sha256);
        for (int i = 0; i < p->n_shards; i++) printf("%-12s %s\n", "shard", p->shards[i]);
        if (m->given)
            printf(
                "%-12s damp %.9g, rho %.9g, order %s, feedback %s, row steps %s, column steps %s, coupled rows "
                "%s\n",
                "metric", m->damp, m->rho, bd_column_order_name(m->order), yes_no(m->feedback),
                yes_no(m->row_steps), yes_no(m->col_steps), yes_no(m->couple_rows));
        return;
    }
    json_t *o = r->head, *shards = json_array(), *metric = json_null();
    for (int i = 0; i < p->n_shards; i++) json_array_append_new(shards, json_string(p->shards[i]));
    if (m->given) {
        metric = json_object();
        json_object_set_new(metric, "damp", bd_cli_real(m->damp));
        json_object_set_new(metric, "rho", bd_cli_real(m->rho));
        json_object_set_new(metric, "order", json_string(bd_column_order_name(m->order)));
        json_object_set_new(metric, "feedback", json_boolean(m->feedback));
        json_object_set_new(metric, "row_steps", json_boolean(m->row_steps));
        json_object_set_new(metric, "col_steps", json_boolean(m->col_steps));
        json_object_set_new(metric, "couple_rows", json_boolean(m->couple_rows));
    }
    json_object_set_new(o, "budget", bd_cli_u64(p->budget));
    json_object_set_new(o, "recipe", p->recipe[0] ? json_string(p->recipe) : json_null());
    json_object_set_new(o, "codecs", p->codecs[0] ? json_string(p->codecs) : json_null());
    json_object_set_new(o, "calibration_tokens", bd_cli_u64(p->calib_tokens));
    json_object_set_new(o, "calibration_sha256", p->calib_tokens ? json_string(p->calib_sha256) : json_null());
    json_object_set_new(o, "shards", shards);
    json_object_set_new(o, "metric", metric);
}

/* --- tensors --- */

static void real_text(char out[24], const char *fmt, double v) {
    if (v >= 0 || v < 0) snprintf(out, 24, fmt, v);
    else snprintf(out, 24, "-");
}

static void print_tensor(const report *r, const bd_plan_tensor *t, const found *f, const char *differs) {
    char name[96], group[64], planned[24], actual[24], nats[24];
    real_text(planned, "%.0f", t->bytes < 0 ? (double)NAN : t->bytes);
    real_text(actual, "%.0f", f && f->q ? f->bytes : (double)NAN);
    real_text(nats, "%.3g", t->nats);
    printf("%-40s %-12s %9s ", bd_safe_text(name, sizeof name, t->name),
           bd_safe_text(group, sizeof group, t->group), planned);
    if (r->a) printf("%9s ", actual);
    printf("%9s  %s%s", nats, t->quantizer, t->fixed ? " fixed" : "");
    for (int k = 0; k < t->n_params; k++) printf(" %s=%s", t->params[k].key, t->params[k].value);
    printf("\n");
    if (differs) printf("  ! the file says otherwise: %s\n", differs);
}

static void add_tensor(const report *r, const bd_plan_tensor *t, const found *f, const char *differs) {
    json_t *e = json_object(), *params = json_object();
    for (int k = 0; k < t->n_params; k++)
        json_object_set_new(params, t->params[k].key, json_string(t->params[k].value));
    json_object_set_new(e, "name", bd_cli_str(t->name));
    json_object_set_new(e, "group", bd_cli_str(t->group));
    json_object_set_new(e, "quantizer", json_string(t->quantizer));
    json_object_set_new(e, "params", params);
    json_object_set_new(e, "fixed", json_boolean(t->fixed));
    json_object_set_new(e, "planned_bytes", bd_cli_real(t->bytes < 0 ? (double)NAN : t->bytes));
    json_object_set_new(e, "nats", bd_cli_real(t->nats));
    if (r->a) {
        json_t *weights = json_null();
        if (f && f->q) {
            fact facts[MAX_FOUND];
            int n = facts_of(f->q, facts);
            weights = json_object();
            json_object_set_new(weights, "method", json_string(bd_qmethod_name(f->q->method)));
            json_object_set_new(weights, "group", bd_cli_str(f->group));
            for (int k = 0; k < n; k++) json_object_set_new(weights, facts[k].key, bd_cli_real(facts[k].value));
        }
        json_object_set_new(e, "actual_bytes", bd_cli_real(f && f->q ? f->bytes : (double)NAN));
        json_object_set_new(e, "found", weights);
        json_object_set_new(e, "differs", differs ? bd_cli_str(differs) : json_null());
    }
    json_array_append_new(r->tensors, e);
}

static bd_status tensors(report *r, bd_err *err) {
    const bd_plan *p = r->p;
    double planned = 0, actual = 0, nats = 0;
    int expected = r->g ? r->g->n_params : p->n_tensors;
    if (!r->tensors) {
        printf("\n%-40s %-12s %9s ", "tensor", "group", "planned");
        if (r->a) printf("%9s ", "actual");
        printf("%9s  %s\n", "nats", "quantizer");
    }
    for (int i = 0; i < p->n_tensors; i++) {
        const bd_plan_tensor *t = &p->tensors[i];
        const found *f = r->a && i < expected ? &r->at[i] : NULL;
        bd_buf words;
        bd_buf_init(&words);
        if (f) differences(r, i, &words);
        else if (r->a) bd_buf_printf(&words, "the model has no such parameter");
        bool differ = words.size > 0;
        r->differ += differ;
        bd_buf_u8(&words, 0);
        bd_status st = bd_buf_check(&words, err);
        const char *text = differ && !st ? (const char *)words.data : NULL;
        if (!st && r->tensors) add_tensor(r, t, f, text);
        else if (!st) print_tensor(r, t, f, text);
        bd_buf_free(&words);
        BD_TRY(st);
        planned += t->bytes > 0 ? t->bytes : 0;
        nats += isnan(t->nats) ? 0 : t->nats;
        actual += f ? f->bytes : 0;
    }
    if (r->a && p->n_tensors < expected) r->differ += expected - p->n_tensors;
    if (r->tensors) return BD_OK;
    printf("%-40s %-12s %9.0f ", "sum", "", planned);
    if (r->a) printf("%9.0f ", actual);
    printf("%9.3g\n", nats);
    if (r->a && p->n_tensors < expected)
        printf("  ! the plan lacks %d parameters of the model\n", expected - p->n_tensors);
    return BD_OK;
}

/* --- groups --- */

/* Bytes that the plan's tensor lines put into each group, by name. */
typedef struct share {
    const char *group;
    double bytes;
} share;

static int by_group(const void *a, const void *b) {
    return strcmp(((const share *)a)->group, ((const share *)b)->group);
}

/* One entry for each group; *n of them. */
static share *sum_groups(const bd_plan *p, size_t *n) {
    share *list = calloc((size_t)p->n_tensors + 1, sizeof *list);
    *n = 0;
    if (!list) return NULL;
    for (int i = 0; i < p->n_tensors; i++)
        list[i] = (share){p->tensors[i].group, p->tensors[i].bytes > 0 ? p->tensors[i].bytes : 0};
    qsort(list, (size_t)p->n_tensors, sizeof *list, by_group);
    for (int i = 0; i < p->n_tensors; i++) {
        if (*n && !strcmp(list[*n - 1].group, list[i].group)) list[*n - 1].bytes += list[i].bytes;
        else list[(*n)++] = list[i];
    }
    return list;
}

static double planned_group(const share *list, size_t n, const char *name) {
    const share key = {name, 0}, *s = bsearch(&key, list, n, sizeof *list, by_group);
    return s ? s->bytes : 0;
}

static void one_group(const report *r, const char *name, bd_codec codec, double planned, uint64_t bytes) {
    if (!r->groups) {
        char safe[64];
        printf("%-20s %-8s %12.0f %12" PRIu64 "\n", bd_safe_text(safe, sizeof safe, name), bd_codec_name(codec),
               planned, bytes);
        return;
    }
    json_t *e = json_object();
    json_object_set_new(e, "name", bd_cli_str(name));
    json_object_set_new(e, "codec", json_string(bd_codec_name(codec)));
    json_object_set_new(e, "planned_bytes", bd_cli_real(planned));
    json_object_set_new(e, r->a ? "actual_bytes" : "bytes", bd_cli_u64(bytes));
    json_array_append_new(r->groups, e);
}

static bd_status groups(const report *r, bd_err *err) {
    size_t n;
    share *list = sum_groups(r->p, &n);
    if (!list) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!r->groups && (r->a || r->p->n_groups))
        printf("\n%-20s %-8s %12s %12s\n", "group", "codec", "tensors", r->a ? "actual" : "bytes");
    for (uint32_t i = 0; r->a && i < r->a->n_groups; i++) {
        const bd_qgroup *g = &r->a->groups[i];
        one_group(r, g->name, g->codec, planned_group(list, n, g->name), g->stored_bytes);
    }
    for (int i = 0; !r->a && i < r->p->n_groups; i++) {
        const bd_plan_group *g = &r->p->groups[i];
        one_group(r, g->name, g->codec, planned_group(list, n, g->name), g->bytes);
    }
    free(list);
    return BD_OK;
}

bd_status bd_plan_report(const bd_plan *p, const bd_artifact *a, const bd_graph *g, json_t *o, bd_err *err) {
    report r = {.p = p, .a = a, .g = a ? g : NULL};
    bd_status st = a ? find_tensors(&r, err) : BD_OK;
    if (!st && o) {
        r.head = json_object();
        r.tensors = json_array();
        r.groups = json_array();
    }
    if (!st) head(&r);
    if (!st) st = tensors(&r, err);
    if (!st) st = groups(&r, err);
    if (!st && !o && r.differ) printf("\n%d lines of the plan say something else than the file holds\n", r.differ);
    if (o && r.head) {
        json_object_set_new(r.head, "tensors", r.tensors);
        json_object_set_new(r.head, "groups", r.groups);
        if (a) json_object_set_new(r.head, "differing_lines", json_integer(r.differ));
        json_object_set_new(o, "plan_report", r.head);
    }
    free(r.at);
    return st;
}
