/* Which runs stand behind the claimed score? */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/audit_impl.h"

enum { MAX_LABELS = 48 };

typedef struct labels {
    char names[MAX_LABELS][48];
    int n;
} labels;

static void collect_labels(labels *l, const bd_audit *a) {
    l->n = 0;
    for (int i = 0; i < a->n_runs; i++)
        for (int k = 0; k < a->runs[i].r.n_metrics; k++) {
            const bd_metric *m = &a->runs[i].r.metrics[k];
            int j = 0;
            while (j < l->n && strcmp(l->names[j], m->label) != 0) j++;
            if (j == l->n && l->n < MAX_LABELS && !m->diagnostic) memcpy(l->names[l->n++], m->label, 48);
        }
}

static const bd_metric *usable(const bd_audit_run *run, const char *label) {
    const bd_metric *m = bd_run_metric(&run->r, label);
    return m && m->bpb.finite ? m : NULL;
}

/* The name without its digits: logs of one series share it. */
static void scheme_of(const char *base, char out[256]) {
    size_t n = 0;
    for (; *base && n < 255; base++)
        if (*base < '0' || *base > '9') out[n++] = *base;
    out[n] = 0;
}

static double mean_of(const bd_audit *a, const int *runs, int n, const char *label) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += usable(&a->runs[runs[i]], label)->bpb.v;
    return sum / n;
}

static int rank_of(bd_match_kind kind, bool near) {
    if (kind == BD_MATCH_NONE) return 100;
    return (int)kind + (near ? 10 : 0);
}

/* Keep this set of runs if it reproduces the claim better than what is kept. */
static void offer(bd_audit *a, bd_match_kind kind, const int *runs, int n, const char *label) {
    bd_match *best = &a->match;
    if (n == 0) return;
    double mean = mean_of(a, runs, n, label);
    bool exact = bd_number_agrees(&a->claim.bpb, mean, 0);
    if (n == 1) kind = BD_MATCH_ONE;
    if (!exact && (kind == BD_MATCH_ONE || !bd_number_agrees(&a->claim.bpb, mean, 0.5))) return;
    if (rank_of(kind, !exact) >= rank_of(best->kind, best->near)) return;
    best->kind = kind;
    best->near = !exact;
    best->n = n;
    memcpy(best->runs, runs, (size_t)n * sizeof *runs);
    memcpy(best->label, label, sizeof best->label);
}

/* A run for each claimed seed: of that seed and with its claimed score, else any with that score, else the first of
 * that seed. */
static int seed_runs(const bd_audit *a, const char *label, int runs[BD_AUDIT_MAX_RUNS]) {
    const bd_claim *c = &a->claim;
    int n = 0;
    for (int s = 0; s < c->n_seeds_listed; s++) {
        int best = -1, best_rank = 3;
        for (int i = 0; i < a->n_runs; i++) {
            const bd_metric *m = usable(&a->runs[i], label);
            if (!m) continue;
            bool exact = bd_number_agrees(&c->seeds[s].bpb, m->bpb.v, 0), own = a->runs[i].seed == c->seeds[s].seed;
            int rank = exact && own ? 0 : exact ? 1 : own ? 2 : 3;
            for (int k = 0; k < n && rank < 3; k++)
                if (runs[k] == i) rank = 3; /* a run stands for one seed */
            if (rank >= best_rank) continue;
            best = i;
            best_rank = rank;
        }
        if (best < 0) return 0;
        runs[n++] = best;
    }
    return n;
}

static void search(bd_audit *a, const char *label) {
    int runs[BD_AUDIT_MAX_RUNS], n = seed_runs(a, label, runs);
    offer(a, BD_MATCH_SEEDS, runs, n, label);
    n = 0;
    for (int i = 0; i < a->n_runs; i++)
        if (usable(&a->runs[i], label)) runs[n++] = i;
    offer(a, BD_MATCH_ALL, runs, n, label);
    for (int i = 0; i < a->n_runs; i++) {
        char scheme[256], other[256];
        if (!usable(&a->runs[i], label)) continue;
        scheme_of(a->folder.files[a->runs[i].file].base, scheme);
        n = 0;
        for (int k = 0; k < a->n_runs; k++) {
            scheme_of(a->folder.files[a->runs[k].file].base, other);
            if (usable(&a->runs[k], label) && !strcmp(scheme, other)) runs[n++] = k;
        }
        offer(a, BD_MATCH_GROUP, runs, n, label);
        offer(a, BD_MATCH_ONE, &i, 1, label);
    }
}

static void find_closest(bd_audit *a) {
    double best = INFINITY;
    a->match.closest_run = a->match.closest_metric = -1;
    for (int i = 0; i < a->n_runs; i++)
        for (int k = 0; k < a->runs[i].r.n_metrics; k++) {
            const bd_metric *m = &a->runs[i].r.metrics[k];
            double d = fabs(m->bpb.v - a->claim.bpb.v);
            if (m->diagnostic || !m->bpb.finite || !(d < best)) continue;
            best = d;
            a->match.closest_run = i;
            a->match.closest_metric = k;
        }
}

/* Without a match: the last result of every run, if they have a kind in common. */
static void fall_back(bd_audit *a) {
    bd_match *m = &a->match;
    for (int i = 0; i < a->n_runs && !m->label[0]; i++)
        for (int k = a->runs[i].r.n_metrics - 1; k >= 0 && !m->label[0]; k--) {
            const bd_metric *x = &a->runs[i].r.metrics[k];
            if (!x->diagnostic && x->bpb.finite) memcpy(m->label, x->label, sizeof m->label);
        }
    m->n = 0;
    for (int i = 0; i < a->n_runs && m->label[0]; i++)
        if (usable(&a->runs[i], m->label)) m->runs[m->n++] = i;
}

void bd_audit_match(bd_audit *a) {
    labels l;
    memset(&a->match, 0, sizeof a->match);
    collect_labels(&l, a);
    if (a->claim.bpb.finite)
        for (int i = 0; i < l.n; i++) search(a, l.names[i]);
    find_closest(a);
    if (a->match.kind == BD_MATCH_NONE) fall_back(a);
    for (int i = 0; i < a->match.n; i++) a->runs[a->match.runs[i]].of_claim = true;

    bd_audit_result *out = a->out;
    double bpb[BD_AUDIT_MAX_RUNS], loss[BD_AUDIT_MAX_RUNS];
    int n = 0, n_loss = 0;
    for (int i = 0; i < a->match.n; i++) {
        const bd_metric *m = usable(&a->runs[a->match.runs[i]], a->match.label);
        bpb[n++] = m->bpb.v;
        if (m->loss.finite) loss[n_loss++] = m->loss.v;
    }
    out->n = n;
    if (!n) return;
    bd_stats s = bd_stats_of(bpb, n);
    snprintf(out->metric, sizeof out->metric, "%s", a->match.label);
    out->val_bpb = s.mean;
    out->bpb_sd = s.sd;
    if (n_loss == n) out->val_loss = bd_stats_of(loss, n).mean;
    if (n_loss == n && s.mean > 0) out->bytes_per_token = bd_bpb_of_nats(out->val_loss, 1) / s.mean;
}

bool bd_audit_implied_bytes(const bd_audit *a, const bd_run *r, const bd_metric *m, double *bytes, double *off,
                            double *uncertainty) {
    if (!a->rules->canonical_bytes || !r->val_tokens.present || !m || !m->loss.finite || !(m->bpb.v > 0))
        return false;
    *bytes = r->val_tokens.v * bd_bpb_of_nats(m->loss.v, 1) / m->bpb.v;
    *off = *bytes / (double)a->rules->canonical_bytes - 1;
    *uncertainty = bd_number_uncertainty(&m->loss) + bd_number_uncertainty(&m->bpb);
    return true;
}
