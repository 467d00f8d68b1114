/* STATS: several runs of one recipe, and whether they beat those of an incumbent by
 * the bar of the rules. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "verify/stats.h"
#include "verify/verify_impl.h"

/* Those that are not a copy of one before, with ours first (NULL: none of ours). */
static int different(double *out, const bd_score *ours, const bd_run_result *runs, int n, int *copies) {
    int k = 0;
    if (ours) out[k++] = ours->val_bpb;
    for (int i = 0; i < n; i++) {
        int j = 0;
        while (j < i && !(runs[j].nll_q32 == runs[i].nll_q32 && runs[j].tokens == runs[i].tokens)) j++;
        bool same = j < i || (ours && ours->nll_q32 == runs[i].nll_q32 && ours->tokens == runs[i].tokens);
        *copies += same;
        if (!same && k < BD_RUNS_MAX + 1) out[k++] = runs[i].val_bpb;
    }
    return k;
}

/* Runs over other text: their bytes tell. */
static int other_text(const bd_verification *x, const bd_score *s, const bd_run_result *runs, int n) {
    int k = 0;
    for (int i = 0; i < n; i++) k += fabs((double)runs[i].bytes / (double)s->bytes - 1) > x->o->rules->tolerance;
    return k;
}

void bd_check_stats(const bd_verification *x, const bd_score *s) {
    const bd_verify_opts *o = x->o;
    const bd_rules *r = o->rules;
    double a[BD_RUNS_MAX + 1], b[BD_RUNS_MAX + 1], t, df, bar = r->bar_nats;
    char value[64], limit[64] = "", text[400] = "";
    int copies = 0, n = different(a, s, o->runs, o->n_runs, &copies);
    if (!o->n_runs && !o->n_incumbent) {
        bd_verdict_add(x->v, "STATS", BD_NOT_CHECKED, NULL, NULL, "one run: give results of others with --runs");
        return;
    }
    if (!s->bytes || !isfinite(s->val_bpb)) {
        bd_verdict_add(x->v, "STATS", BD_NOT_CHECKED, NULL, NULL, "bytes were not counted: nothing to compare");
        return;
    }
    int strange = other_text(x, s, o->runs, o->n_runs) + other_text(x, s, o->incumbent, o->n_incumbent);
    if (strange) {
        bd_verdict_add(x->v, "STATS", BD_FAILED, NULL, NULL,
                       "%d of the results given are about other text: their bytes differ from the %" PRIu64
                       " counted here",
                       strange, s->bytes);
        return;
    }
    double per_token = (double)s->bytes / (double)s->tokens;
    bd_stats mine = bd_stats_of(a, n);
    bool few = r->seeds && n < r->seeds;
    snprintf(value, sizeof value, "%d run%s", n, n > 1 ? "s" : "");
    if (r->seeds) snprintf(limit, sizeof limit, "%d seeds", r->seeds);
    snprintf(text, sizeof text, "mean val_bpb %.6f, sd %.6f%s%s", mine.mean, mine.sd,
             copies ? "; results that are copies were counted once" : "",
             few ? "; fewer runs than the rules ask for" : "");
    if (!o->n_incumbent) {
        bd_verdict_add(x->v, "STATS", few || n < 2 ? BD_WARN : BD_PASS, value, limit,
                       "%s; no incumbent given (--incumbent)", text);
        return;
    }
    bd_stats theirs = bd_stats_of(b, different(b, NULL, o->incumbent, o->n_incumbent, &copies));
    double gain = bd_nats_of_bpb(theirs.mean - mine.mean, per_token);
    if (mine.n < 2 || theirs.n < 2 || (mine.sd == 0 && theirs.sd == 0)) {
        bd_verdict_add(x->v, "STATS", BD_WARN, value, limit,
                       "%s; %.5f nats per token better than the mean of %d incumbent runs, which allows no test",
                       text, gain, theirs.n);
        return;
    }
    double p = bd_welch(&mine, &theirs, bd_bpb_of_nats(bar, per_token), &t, &df);
    bool met = p < r->bar_p || !(r->bar_p > 0),
         asked = bd_policy_is(r, BD_POLICY_SIGNIFICANCE, "bar") && r->bar_p > 0;
    snprintf(value, sizeof value, "p = %.3g", p);
    if (r->bar_p > 0) snprintf(limit, sizeof limit, "%g", r->bar_p);
    bd_verdict_add(
        x->v, "STATS",
        asked && !met ? BD_FAILED
        : few         ? BD_WARN
                      : BD_PASS,
        value, limit,
        "%s; %d against %d runs: %.5f nats per token better (at %.4f bytes per token), one-sided Welch test that "
        "it is more than %g: t = %.3f, %.2f degrees of freedom",
        text, mine.n, theirs.n, gain, per_token, bar, t, df);
}
