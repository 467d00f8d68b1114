#include "verify/audit_claim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/audit_json.h"

/* The value under the first of several spellings, or an absent number. */
static bd_number number_of(const bd_json *d, int object, const char *keys, char key[32]) {
    bd_number x = {0};
    for (const char *k = keys; *k;) {
        char name[32];
        size_t n = strcspn(k, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, k);
        k += n + (k[n] == ' ');
        int i = bd_json_get(d, object, name);
        if (i < 0 || d->nodes[i].type != BD_JSON_NUMBER) continue;
        const char *t = d->nodes[i].text;
        if (bd_number_scan(&x, t, strlen(t)) != strlen(t)) x = (bd_number){.present = true};
        x.line = d->nodes[i].line;
        if (key) snprintf(key, 32, "%s", name);
        return x;
    }
    return x;
}

static void add_total(bd_claim *c, const bd_json *d, int object, const char *key, bd_total_kind kind) {
    bd_number x = number_of(d, object, key, NULL);
    if (!x.present || c->n_totals == BD_CLAIM_MAX_TOTALS) return;
    c->totals[c->n_totals].x = x;
    c->totals[c->n_totals].kind = kind;
    snprintf(c->totals[c->n_totals++].key, sizeof c->totals[0].key, "%s", key);
}

static bd_number seconds_of(const bd_json *d, int object, const char *keys, const char *ms_keys) {
    bd_number x = number_of(d, object, keys, NULL);
    if (x.present) return x;
    x = number_of(d, object, ms_keys, NULL);
    x.v /= 1000;
    x.decimals += 3;
    return x;
}

static void seed_values(bd_seed_claim *s, const bd_json *d, int object) {
    s->bpb = number_of(d, object, "val_bpb val_var_bpb", NULL);
    s->loss = number_of(d, object, "val_loss", NULL);
    s->total = number_of(d, object, "artifact_bytes bytes_total", NULL);
    s->steps = number_of(d, object, "steps", NULL);
    s->train_s = seconds_of(d, object, "train_time_s", "train_time_ms");
    s->eval_s = seconds_of(d, object, "eval_time_s ttt_eval_time_s", "eval_time_ms ttt_time_ms");
}

static bd_seed_claim *seed_entry(bd_claim *c, int64_t seed, int line) {
    for (int i = 0; i < c->n_seeds_listed; i++)
        if (c->seeds[i].seed == seed) return &c->seeds[i];
    if (c->n_seeds_listed == BD_CLAIM_MAX_SEEDS) return NULL;
    bd_seed_claim *s = &c->seeds[c->n_seeds_listed++];
    *s = (bd_seed_claim){.seed = seed, .line = line};
    return s;
}

static bool seed_of_text(const char *t, int64_t *seed) {
    size_t n = strcspn(t, "0123456789"), k = strspn(t + n, "0123456789");
    if (!k || k > 18 || t[n + k]) return false;
    *seed = strtoll(t + n, NULL, 10);
    return true;
}

/* A list of numbers, or an object whose keys are seeds ("42", "seed_42"). */
static void read_seeds(bd_claim *c, const bd_json *d, int list) {
    if (list < 0) return;
    const bd_json_node *l = &d->nodes[list];
    if (l->type != BD_JSON_LIST && l->type != BD_JSON_OBJECT) return;
    for (int i = l->child; i >= 0; i = d->nodes[i].next) {
        const bd_json_node *v = &d->nodes[i];
        int64_t seed = 0;
        int inner = bd_json_get(d, i, "seed");
        const char *t = v->key ? v->key : inner >= 0 ? d->nodes[inner].text : v->text;
        if (!t || !seed_of_text(t, &seed)) continue;
        bd_seed_claim *s = seed_entry(c, seed, v->line);
        if (s && v->type == BD_JSON_OBJECT) seed_values(s, d, i);
    }
}

static void read_hardware(bd_claim *c, const bd_json *d) {
    static const char *const keys[] = {"hardware", "gpu", "platform"};
    for (int k = 0; k < 3 && !c->hardware[0]; k++) {
        int i = bd_json_get(d, 0, keys[k]);
        if (i < 0 || d->nodes[i].type != BD_JSON_STRING) continue;
        snprintf(c->hardware, sizeof c->hardware, "%s", d->nodes[i].text);
        for (char *s = c->hardware; *s; s++)
            if (*s < 0x20 || *s > 0x7e) *s = '?';
        c->hardware_line = d->nodes[i].line;
    }
}

static void find_missing(bd_claim *c, const bd_json *d, const bd_rules *r) {
    size_t used = 0;
    for (int k = 0; k < r->n_keys && used < sizeof c->missing; k++) {
        int i = bd_json_get(d, 0, r->keys[k]);
        const bd_json_node *v = i >= 0 ? &d->nodes[i] : NULL;
        bool there = v && v->type != BD_JSON_NULL && !(v->type == BD_JSON_STRING && !v->text[0]);
        if (!there)
            used +=
                (size_t)snprintf(c->missing + used, sizeof c->missing - used, "%s%s", used ? ", " : "", r->keys[k]);
    }
}

bd_status bd_claim_parse(bd_claim *c, const void *text, uint64_t size, const bd_rules *r, bd_err *err) {
    static const struct {
        const char *key;
        bd_total_kind kind;
    } totals[] = {
        {"bytes_total", BD_TOTAL_PLAIN},         {"artifact_bytes", BD_TOTAL_PLAIN},
        {"artifact_size_bytes", BD_TOTAL_PLAIN}, {"total_submission_bytes", BD_TOTAL_PLAIN},
        {"artifact_bytes_max", BD_TOTAL_MAX},    {"artifact_bytes_mean", BD_TOTAL_MEAN},
    };
    bd_json d;
    memset(c, 0, sizeof *c);
    BD_TRY(bd_json_parse(&d, text, size, err));
    if (d.nodes[0].type != BD_JSON_OBJECT) {
        bd_json_free(&d);
        return BD_FAIL(err, BD_E_FIELD, "not a JSON object");
    }
    c->bpb = number_of(&d, 0, "val_bpb mean_val_bpb mean_bpb", c->bpb_key);
    c->loss = number_of(&d, 0, "val_loss mean_val_loss mean_val_loss_nats val_loss_nats", NULL);
    c->bpb_std = number_of(&d, 0, "val_bpb_std std_bpb", NULL);
    c->loss_std = number_of(&d, 0, "val_loss_std std_val_loss_nats val_loss_nats_std", NULL);
    c->code = number_of(&d, 0, "bytes_code code_bytes", NULL);
    c->n_seeds = number_of(&d, 0, "n_seeds", NULL);
    c->params = number_of(&d, 0, "model_params", NULL);
    c->train_s = number_of(&d, 0, "wallclock_seconds train_time_seconds train_time_s_mean", NULL);
    c->eval_s = number_of(&d, 0, "eval_time_seconds eval_time_s_mean", NULL);
    c->baseline = number_of(&d, 0, "comparison_baseline_bpb", NULL);
    for (size_t i = 0; i < sizeof totals / sizeof *totals; i++) add_total(c, &d, 0, totals[i].key, totals[i].kind);
    add_total(c, &d, bd_json_get(&d, 0, "compliance"), "artifact_bytes_max", BD_TOTAL_MAX);
    read_seeds(c, &d, bd_json_get(&d, 0, "seeds"));
    read_seeds(c, &d, bd_json_get(&d, 0, "seed_results"));
    read_hardware(c, &d);
    find_missing(c, &d, r);
    bd_json_free(&d);
    return BD_OK;
}
