/* SCORE and STATS. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/audit_impl.h"

static const char *claim_name(const bd_audit *a) {
    return a->claim_file >= 0 ? a->folder.files[a->claim_file].name : "";
}

/* Decimals that a claim is shown with. */
static int places(const bd_number *x) { return x->decimals < 0 ? 0 : x->decimals > 20 ? 20 : x->decimals; }

static const bd_metric *metric_of(const bd_audit *a, int run) {
    return bd_run_metric(&a->runs[run].r, a->match.label);
}

/* "seeds 1337, 42 and 2 more" of the runs behind the score. */
static void seeds_text(const bd_audit *a, char out[128]) {
    size_t used = (size_t)snprintf(out, 128, "seed%s ", a->match.n > 1 ? "s" : "");
    for (int i = 0; i < a->match.n; i++) {
        int64_t seed = a->runs[a->match.runs[i]].seed;
        if (used > 90) {
            snprintf(out + used, 128 - used, " and %d more", a->match.n - i);
            return;
        }
        if (seed < 0) used += (size_t)snprintf(out + used, 128 - used, "%s?", i ? ", " : "");
        else used += (size_t)snprintf(out + used, 128 - used, "%s%" PRId64, i ? ", " : "", seed);
    }
}

static int distinct_seeds(const bd_audit *a) {
    int n = 0;
    for (int i = 0; i < a->match.n; i++) {
        int64_t seed = a->runs[a->match.runs[i]].seed;
        int k = 0;
        while (k < i && (seed < 0 || a->runs[a->match.runs[k]].seed != seed)) k++;
        n += k == i;
    }
    return n;
}

/* The bytes that the runs' losses divide by: a wrong count makes a wrong score. */
static bd_outcome implied_bytes(bd_audit *a) {
    double low = INFINITY, high = 0, worst = 0, worst_bytes = 0;
    int n = 0, worst_run = -1, bad = 0;
    char place[300];
    for (int i = 0; i < a->match.n; i++) {
        const bd_audit_run *run = &a->runs[a->match.runs[i]];
        double bytes, off, uncertainty;
        if (!bd_audit_implied_bytes(a, &run->r, metric_of(a, a->match.runs[i]), &bytes, &off, &uncertainty))
            continue;
        n++;
        low = fmin(low, bytes);
        high = fmax(high, bytes);
        bad += fabs(off) > a->rules->tolerance + uncertainty;
        if (worst_run < 0 || fabs(off) > fabs(worst)) {
            worst = off;
            worst_bytes = bytes;
            worst_run = a->match.runs[i];
        }
    }
    if (!n) return BD_NOT_CHECKED;
    if (bad) {
        bd_audit_say(a, "the score divides by %.0f bytes, %+.2f %% from the validation set's %" PRIu64 " (%s)",
                     worst_bytes, 100 * worst, a->rules->canonical_bytes,
                     bd_audit_place(a, &a->runs[worst_run], metric_of(a, worst_run)->bpb.line, place));
        return BD_FAILED;
    }
    if (n > 1 && high - low >= 1)
        bd_audit_say(a, "implied bytes %.0f to %.0f, at most %+.4f %% from %" PRIu64, low, high, 100 * worst,
                     a->rules->canonical_bytes);
    else
        bd_audit_say(a, "implied bytes %.0f, %+.4f %% from %" PRIu64, high, 100 * worst, a->rules->canonical_bytes);
    return BD_PASS;
}

static void say_closest(bd_audit *a) {
    char place[300];
    const bd_match *m = &a->match;
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *r = &a->runs[i].r;
        if (r->last_bpb.finite && bd_number_agrees(&a->claim.bpb, r->last_bpb.v, 0)) {
            bd_audit_say(a, "it stands in a validation line during training (%s), which is no score of an artifact",
                         bd_audit_place(a, &a->runs[i], r->last_bpb.line, place));
            return;
        }
        for (int k = 0; k < r->n_metrics; k++)
            if (r->metrics[k].diagnostic && bd_number_agrees(&a->claim.bpb, r->metrics[k].bpb.v, 0)) {
                bd_audit_say(a, "it stands in the diagnostic \"%s\" (%s), which is no score of an artifact",
                             r->metrics[k].label, bd_audit_place(a, &a->runs[i], r->metrics[k].bpb.line, place));
                return;
            }
    }
    if (m->closest_run < 0) {
        bd_audit_say(a, "no log prints a result");
        return;
    }
    const bd_audit_run *run = &a->runs[m->closest_run];
    const bd_metric *x = bd_run_metric(&run->r, run->r.metrics[m->closest_metric].label);
    bd_audit_say(a, "closest: %.8g, %s (%s)", x->bpb.v, x->label, bd_audit_place(a, run, x->bpb.line, place));
}

static bd_outcome headline(bd_audit *a) {
    const bd_claim *c = &a->claim;
    const bd_match *m = &a->match;
    char seeds[128], place[300];
    if (m->kind == BD_MATCH_NONE) {
        bd_audit_say(a, "claimed %.*f (%s:%d) is reproduced by no log", places(&c->bpb), c->bpb.v, claim_name(a),
                     c->bpb.line);
        say_closest(a);
        return BD_FAILED;
    }
    seeds_text(a, seeds);
    bd_audit_say(a, "%s %.*f (%s:%d)", c->bpb_key, places(&c->bpb), c->bpb.v, claim_name(a), c->bpb.line);
    if (m->kind == BD_MATCH_ONE) {
        double all[BD_AUDIT_MAX_RUNS];
        int n = 0;
        for (int i = 0; i < a->n_runs; i++) {
            const bd_metric *x = bd_run_metric(&a->runs[i].r, m->label);
            if (x && x->bpb.finite) all[n++] = x->bpb.v;
        }
        bd_audit_say(a, "one run: %s of %s, %s", m->label, seeds,
                     bd_audit_place(a, &a->runs[m->runs[0]], metric_of(a, m->runs[0])->bpb.line, place));
        if (n > 1) bd_audit_say(a, "mean of the %d logs %.8g", n, bd_stats_of(all, n).mean);
        return BD_WARN;
    }
    bd_audit_say(a, "mean %.8f, sd %.8f, n=%d: %s of %s (%s)", a->out->val_bpb, a->out->bpb_sd, m->n, m->label,
                 seeds, bd_audit_place(a, &a->runs[m->runs[0]], metric_of(a, m->runs[0])->bpb.line, place));
    if (m->near) {
        bd_audit_say(a, "the claim is off by one in its last decimal: a mean of rounded values");
        return BD_WARN;
    }
    if (c->bpb.decimals < a->rules->decimals) {
        bd_audit_say(a, "the claim is a mean rounded to %d decimals", c->bpb.decimals);
        return BD_WARN;
    }
    return BD_PASS;
}

/* Claims beside the score: those of seeds count, the others are said. */
static bd_outcome other_claims(bd_audit *a) {
    const bd_claim *c = &a->claim;
    bd_outcome o = BD_PASS;
    int bad = 0, line = 0, steps = 0;
    char place[300], note[400] = "";
    for (int s = 0; s < c->n_seeds_listed; s++) {
        const bd_seed_claim *x = &c->seeds[s];
        bool log = false, found = !x->bpb.present, right_steps = !x->steps.finite;
        const bd_audit_run *last = NULL;
        for (int i = 0; i < a->n_runs; i++) {
            const bd_run *r = &a->runs[i].r;
            if (a->runs[i].seed != x->seed) continue;
            log = true;
            for (int k = 0; k < r->n_metrics && !found; k++)
                found = r->metrics[k].bpb.finite && bd_number_agrees(&x->bpb, r->metrics[k].bpb.v, 0);
            if (r->steps.present && !right_steps) {
                right_steps = r->steps.v == x->steps.v;
                last = &a->runs[i];
            }
        }
        if (log && !found && !bad++) line = x->bpb.line;
        if (last && !right_steps && !steps++)
            snprintf(note, sizeof note, "steps of seed %" PRId64 ": claimed %.0f (line %d), log %.0f (%s)", x->seed,
                     x->steps.v, x->steps.line, last->r.steps.v,
                     bd_audit_place(a, last, last->r.steps.line, place));
    }
    if (bad) {
        bd_audit_say(a, "claimed val_bpb of %d seed%s in no log of %s (%s:%d)", bad,
                     bad > 1 ? "s stand" : " stands", bad > 1 ? "theirs" : "its seed", claim_name(a), line);
        o = BD_WARN;
    }
    if (steps) bd_audit_say(a, "%s", note);
    if (c->loss.finite && a->out->val_loss > 0 && !bd_number_agrees(&c->loss, a->out->val_loss, 0.5))
        bd_audit_say(a, "val_loss %.8g (%s:%d) is not the mean %.8g of these runs", c->loss.v, claim_name(a),
                     c->loss.line, a->out->val_loss);
    if (c->params.finite) {
        const bd_audit_run *other = NULL;
        bool same = false;
        for (int i = 0; i < a->n_runs; i++) {
            if (!a->runs[i].r.params.present) continue;
            same |= a->runs[i].r.params.v == c->params.v;
            other = &a->runs[i];
        }
        if (other && !same) {
            bd_audit_say(a, "%.0f parameters (%s), %.0f claimed (%s:%d)", other->r.params.v,
                         bd_audit_place(a, other, other->r.params.line, place), c->params.v, claim_name(a),
                         c->params.line);
            o = BD_WARN;
        }
    }
    return o;
}

/* A score in the folder's name ("..._1.0614") that is not the claim. */
static void folder_score(bd_audit *a) {
    const char *s = a->out->folder;
    for (size_t i = 0, n = strlen(s); i < n; i++) {
        bd_number x;
        if ((i && s[i - 1] >= '0' && s[i - 1] <= '9') || s[i] < '0' || s[i] > '9') continue;
        size_t k = bd_number_scan(&x, s + i, n - i);
        if (!k || !x.finite || x.decimals < 3 || x.decimals > 12 || !(x.v > 0) || s[i + k] == '.') continue;
        if (!bd_number_agrees(&x, a->claim.bpb.v, 0) && !bd_number_agrees(&a->claim.bpb, x.v, 0))
            bd_audit_say(a, "the folder's name says %.*f, the claim %.*f", x.decimals, x.v, places(&a->claim.bpb),
                         a->claim.bpb.v);
        return;
    }
}

bd_status bd_audit_score(bd_audit *a, bd_err *err) {
    char value[64] = "", limit[64] = "";
    const bd_claim *c = &a->claim;
    bd_outcome o;
    if (a->out->n) snprintf(value, sizeof value, "%.8f", a->out->val_bpb);
    if (c->bpb.present) {
        if (c->bpb.finite) snprintf(limit, sizeof limit, "claimed %.*f", places(&c->bpb), c->bpb.v);
        else snprintf(limit, sizeof limit, "claimed, not finite");
    }
    if (a->claim_file < 0 || a->claim_bad[0]) {
        bd_audit_say(a, "there is no claim that can be read");
        o = BD_FAILED;
    } else if (!c->bpb.present) {
        bd_audit_say(a, "val_bpb is missing");
        if (c->loss.finite && a->out->n && bd_number_agrees(&c->loss, a->out->val_bpb, 1))
            bd_audit_say(a, "val_loss %.8g (%s:%d) holds the bits per byte: mean of the logs %.8f, n=%d", c->loss.v,
                         claim_name(a), c->loss.line, a->out->val_bpb, a->out->n);
        o = BD_FAILED;
    } else if (!c->bpb.finite) {
        bd_audit_say(a, "%s is not a finite number (%s:%d)", c->bpb_key, claim_name(a), c->bpb.line);
        o = BD_FAILED;
    } else {
        o = headline(a);
        bd_outcome other = other_claims(a);
        o = bd_worse(o, other);
        folder_score(a);
    }
    bd_outcome bytes = implied_bytes(a);
    o = bd_worse(o, bytes);
    return bd_audit_add(a, "SCORE", o, value, limit, err);
}

/* --- STATS --------------------------------------------------------------------- */

static bd_outcome claimed_deviation(bd_audit *a, const bd_stats *s) {
    const bd_number *x = &a->claim.bpb_std;
    if (!x->present) return BD_PASS;
    const char *file = claim_name(a);
    if (s->n < 2) {
        bd_audit_say(a, "the claimed deviation %.8g (%s:%d) needs logs that are not here", x->v, file, x->line);
        return BD_WARN;
    }
    if (bd_number_agrees(x, s->sd, 0)) {
        bd_audit_say(a, "claimed deviation %.8g is the sample's", x->v);
        return BD_PASS;
    }
    if (bd_number_agrees(x, s->sd_population, 0))
        bd_audit_say(a, "claimed deviation %.8g (%s:%d) is the population's %.8f, the sample's is %.8f", x->v, file,
                     x->line, s->sd_population, s->sd);
    else if (bd_number_agrees(x, s->sd, 0.5) && fabs(x->v - s->sd) < 0.1 * s->sd)
        bd_audit_say(a, "claimed deviation %.8g (%s:%d) is off by one in its last decimal", x->v, file, x->line);
    else bd_audit_say(a, "claimed deviation %.8g (%s:%d), %.8f in the logs", x->v, file, x->line, s->sd);
    return BD_WARN;
}

bd_status bd_audit_stats(bd_audit *a, bd_err *err) {
    const bd_rules *r = a->rules;
    char value[64] = "", limit[64] = "";
    double bpb[BD_AUDIT_MAX_RUNS];
    for (int i = 0; i < a->match.n; i++) bpb[i] = metric_of(a, a->match.runs[i])->bpb.v;
    bd_stats s = bd_stats_of(bpb, a->match.n);
    int seeds = distinct_seeds(a);
    double bpt = a->out->bytes_per_token;
    if (r->seeds) snprintf(limit, sizeof limit, "%d seeds", r->seeds);
    if (!s.n) {
        bd_audit_say(a, "no result to compare");
        return bd_audit_add(a, "STATS", BD_NOT_CHECKED, NULL, limit, err);
    }
    snprintf(value, sizeof value, "%d run%s, %d seed%s", s.n, s.n > 1 ? "s" : "", seeds, seeds > 1 ? "s" : "");
    bd_outcome o = claimed_deviation(a, &s);
    if (a->match.kind == BD_MATCH_NONE && a->claim.bpb.present)
        bd_audit_say(a, "these are the logs' runs of %s, not those of the claim", a->match.label);
    if (r->seeds && seeds < r->seeds) {
        bd_audit_say(a, "%d seed%s, the rules ask for %d", seeds, seeds > 1 ? "s" : "", r->seeds);
        o = BD_WARN;
    }
    if (seeds < 2) {
        bd_audit_say(a, "one seed allows no test of significance");
    } else {
        double t = r->bar_p > 0 && r->bar_p < 0.5 ? bd_student_quantile(r->bar_p, s.n - 1) : 0;
        bd_audit_say(a, "mean %.8f, sd %.8f, standard error %.8f", s.mean, s.sd, s.sd / sqrt(s.n));
        if (t > 0)
            bd_audit_say(a, "with p < %g the mean over all seeds is below %.6f", r->bar_p,
                         s.mean + t * s.sd / sqrt(s.n));
    }
    if (r->bar_nats > 0 && bpt > 0 && bd_policy_is(r, BD_POLICY_SIGNIFICANCE, "bar"))
        bd_audit_say(a, "the bar of %g nats per token is %.5f bits per byte at %.4f bytes per token", r->bar_nats,
                     bd_bpb_of_nats(r->bar_nats, bpt), bpt);
    const bd_number *b = &a->claim.baseline;
    if (b->finite && b->present && bpt > 0)
        bd_audit_say(a, "against the named baseline %.8g: %+.5f nats per token", b->v,
                     bd_nats_of_bpb(s.mean - b->v, bpt));
    return bd_audit_add(a, "STATS", o, value, limit, err);
}
