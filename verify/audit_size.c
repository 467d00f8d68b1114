/* SIZE and TIME. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/audit_impl.h"

/* --- SIZE ---------------------------------------------------------------------- */

typedef struct sizes {
    double largest, sum; /* codec totals of all runs */
    double claim_sum;    /* of the runs behind the claim */
    double model;        /* largest compressed model */
    double code;         /* largest counted code */
    int n, n_claim, largest_run, over;
} sizes;

/* A run's total: what it prints, or model and code, whichever is larger. */
static double total_of(const bd_run *r) {
    double sum = r->model.finite && r->code.finite ? r->model.v + r->code.v : 0;
    double total = r->total.finite ? r->total.v : 0;
    return total >= sum || r->total_is_rounded ? total : sum;
}

static sizes measure(const bd_audit *a) {
    sizes s = {.largest_run = -1};
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *r = &a->runs[i].r;
        double t = total_of(r);
        if (r->model.finite && r->model.v > s.model) s.model = r->model.v;
        if (r->code.finite && r->code.v > s.code) s.code = r->code.v;
        if (!(t > 0)) continue;
        s.n++;
        s.sum += t;
        s.over += t > (double)a->rules->size_cap;
        if (a->runs[i].of_claim) {
            s.n_claim++;
            s.claim_sum += t;
        }
        if (t > s.largest) {
            s.largest = t;
            s.largest_run = i;
        }
    }
    return s;
}

static void say_totals(bd_audit *a, const sizes *s) {
    char place[300];
    int said = 0;
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *r = &a->runs[i].r;
        double t = total_of(r);
        if (!(t > 0) || (s->over && t <= (double)a->rules->size_cap) || said++ >= 6) continue;
        bd_audit_say(a, "%s%.0f (%s)", said == 1 ? s->over ? "over the cap: " : "totals of the logs: " : "", t,
                     bd_audit_place(a, &a->runs[i], r->total.present ? r->total.line : r->model.line, place));
    }
    if (said > 6) bd_audit_say(a, "and %d more", said - 6);
}

/* Total, model and code of one run must add up; labels of one artifact must agree. */
static bd_outcome inside_logs(bd_audit *a) {
    bd_outcome o = BD_PASS;
    bool labelled = false;
    char place[300];
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *r = &a->runs[i].r;
        if (r->model.finite && r->code.finite && r->total.finite && !r->total_is_rounded && r->total_label[0] &&
            fabs(r->model.v + r->code.v - r->total.v) > 0.5) {
            bd_audit_say(a, "%.0f + %.0f is not the printed %.0f (%s)", r->model.v, r->code.v, r->total.v,
                         bd_audit_place(a, &a->runs[i], r->total.line, place));
            o = BD_WARN;
        }
        /* "Serialized model int6+zstd:" and "Total submission size int8+zlib:" */
        if (r->model_label[0] && r->total_label[0] && strcmp(r->model_label, r->total_label) != 0 && !labelled) {
            labelled = true;
            bd_audit_say(a, "the label \"%s\" is not what was used: the model is \"%s\" (%s)", r->total_label,
                         r->model_label, bd_audit_place(a, &a->runs[i], r->model.line, place));
        }
    }
    return o;
}

/* Does a log (or the mean or maximum over logs) give this total? */
static bool supported(const bd_audit *a, const sizes *s, const bd_number *x, bd_total_kind kind) {
    if (!x->finite) return false;
    if (kind != BD_TOTAL_MEAN)
        for (int i = 0; i < a->n_runs; i++) {
            const bd_run *r = &a->runs[i].r;
            double slack = r->total_is_rounded ? pow(10, -r->total.decimals) / 2 : 0.5;
            if (total_of(r) > 0 && fabs(total_of(r) - x->v) <= slack) return true;
        }
    if (kind == BD_TOTAL_MAX) return false;
    return (s->n && fabs(s->sum / s->n - x->v) < 1) || (s->n_claim && fabs(s->claim_sum / s->n_claim - x->v) < 1);
}

static bool is_model_alone(const bd_audit *a, const bd_number *x) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < a->n_runs; i++) {
        const bd_number *m = &a->runs[i].r.model;
        if (!m->finite) continue;
        if (fabs(m->v - x->v) < 0.5) return true;
        sum += m->v;
        n++;
    }
    return n && fabs(sum / n - x->v) < 1;
}

static bool rounded(double v) { return v >= 1000 && fmod(v, 1000) == 0; }

static bd_outcome claimed_totals(bd_audit *a, const sizes *s) {
    bd_outcome o = BD_PASS;
    const bd_claim *c = &a->claim;
    const char *file = a->claim_file >= 0 ? a->folder.files[a->claim_file].name : "";
    for (int i = 0; i < c->n_totals; i++) {
        const bd_number *x = &c->totals[i].x;
        if (!x->finite) {
            bd_audit_say(a, "%s is no size (%s:%d)", c->totals[i].key, file, x->line);
            o = BD_WARN;
        } else if (x->v > (double)a->rules->size_cap) {
            bd_audit_say(a, "%s %.0f is above the cap (%s:%d)", c->totals[i].key, x->v, file, x->line);
            o = BD_FAILED;
        } else if (!supported(a, s, x, c->totals[i].kind)) {
            bd_audit_say(a, "%s %.0f %s (%s:%d)", c->totals[i].key, x->v,
                         is_model_alone(a, x) ? "is the model without the code"
                         : rounded(x->v)      ? "is rounded"
                                              : "stands in no log",
                         file, x->line);
            o = bd_worse(o, BD_WARN);
        } else if (rounded(x->v)) {
            bd_audit_say(a, "%s %.0f is rounded (%s:%d)", c->totals[i].key, x->v, file, x->line);
            o = bd_worse(o, BD_WARN);
        }
    }
    int bad = 0, model = 0, line = 0;
    for (int i = 0; i < c->n_seeds_listed; i++) {
        const bd_number *x = &c->seeds[i].total;
        if (!x->present || supported(a, s, x, BD_TOTAL_PLAIN)) continue;
        if (!bad++) line = x->line;
        model += x->finite && is_model_alone(a, x);
    }
    if (bad) {
        bd_audit_say(a, "%d claimed totals of seeds %s (%s:%d)", bad,
                     model == bad ? "are the model without the code" : "stand in no log", file, line);
        o = bd_worse(o, BD_WARN);
    }
    return o;
}

/* The file whose size is the counted code, if it is not the script. */
static int counted_sibling(const bd_audit *a, const sizes *s) {
    if (!(s->code > 0)) return -1;
    if (a->script.file >= 0 && (double)a->folder.files[a->script.file].size == s->code) return -1;
    for (int i = 0; i < a->folder.n; i++) {
        const bd_folder_file *f = &a->folder.files[i];
        if (i != a->script.file && f->role == BD_ROLE_SCRIPT && (double)f->size == s->code) return i;
    }
    return -1;
}

/* The model with the code as it lies in the folder. */
static bd_outcome as_shipped(bd_audit *a, const sizes *s) {
    const bd_rules *r = a->rules;
    const bd_script *sc = &a->script;
    if (sc->file < 0 || !(s->model > 0)) return BD_PASS;
    const bd_folder_file *script = &a->folder.files[sc->file];
    double helpers = 0, tokenizers = 0, cap = (double)r->size_cap;
    int sibling = counted_sibling(a, s), n_helpers = 0;
    if (sibling >= 0) {
        bd_audit_say(a, "%s has %" PRIu64 " bytes, the counted code (%.0f) is %s", script->name, script->size,
                     s->code, a->folder.files[sibling].name);
        helpers += (double)a->folder.files[sibling].size;
        n_helpers++;
    }
    for (int i = 0; i < sc->n_helpers; i++)
        if (sc->helpers[i] != sibling) {
            helpers += (double)a->folder.files[sc->helpers[i]].size;
            n_helpers++;
        }
    for (int i = 0; i < sc->n_tokenizers; i++) tokenizers += (double)a->folder.files[sc->tokenizers[i]].size;
    double plain = s->model + (double)script->size, with = plain + helpers;
    bd_audit_say(a, "as shipped %.0f + %" PRIu64 " = %.0f%s", s->model, script->size, plain,
                 plain > cap ? " > cap" : "");
    if (n_helpers) {
        const bd_folder_file *first = &a->folder.files[sibling >= 0 ? sibling : sc->helpers[0]];
        bd_audit_say(a, "with %d helper file%s (%s%s, %.0f bytes) %.0f%s", n_helpers, n_helpers > 1 ? "s" : "",
                     first->name, n_helpers > 1 ? ", ..." : "", helpers, with, with > cap ? " > cap" : "");
    }
    if (tokenizers > 0)
        bd_audit_say(a, "with the tokenizer %.0f%s", with + tokenizers, with + tokenizers > cap ? " > cap" : "");
    double counts = bd_policy_is(r, BD_POLICY_HELPER_FILES, "counted") ? with : plain;
    if (bd_policy_is(r, BD_POLICY_TOKENIZER_BYTES, "counted")) counts += tokenizers;
    if (!bd_policy_is(r, BD_POLICY_CODE_SIZE, "shipped") || counts <= cap) return BD_PASS;
    return BD_WARN;
}

bd_status bd_audit_size(bd_audit *a, bd_err *err) {
    char value[64] = "", limit[64];
    sizes s = measure(a);
    a->out->largest_total = s.largest > 0 && s.largest < 1e18 ? (uint64_t)s.largest : 0;
    snprintf(limit, sizeof limit, "%" PRIu64, a->rules->size_cap);
    bd_outcome o = s.n ? BD_PASS : BD_NOT_CHECKED;
    if (s.over) o = BD_FAILED;
    if (s.n) {
        snprintf(value, sizeof value, "%.0f", s.largest);
        say_totals(a, &s);
        if (a->runs[s.largest_run].r.total_is_rounded) {
            bd_audit_say(a, "totals are printed in MB only");
            o = bd_worse(o, BD_WARN);
        }
    } else {
        bd_audit_say(a, "no log prints the size of the artifact");
        if (a->claim.n_totals) o = BD_WARN;
    }
    o = bd_worse(o, inside_logs(a));
    o = bd_worse(o, claimed_totals(a, &s));
    o = bd_worse(o, as_shipped(a, &s));
    return bd_audit_add(a, "SIZE", s.n || a->claim.n_totals ? o : BD_NOT_CHECKED, value, limit, err);
}

/* --- TIME ---------------------------------------------------------------------- */

/* The longest time of the runs, and where it stands. */
typedef struct longest {
    double s;
    int run, line;
} longest;

static void longer(longest *l, double s, int run, int line) {
    if (!(s > l->s)) return;
    *l = (longest){s, run, line};
}

static double eval_of(const bd_run *r, int *line) {
    double s = r->eval_s;
    *line = r->eval_line;
    for (int i = 0; i < r->n_metrics; i++)
        if (!r->metrics[i].diagnostic && r->metrics[i].eval_s > s) {
            s = r->metrics[i].eval_s;
            *line = r->metrics[i].bpb.line;
        }
    return s;
}

typedef struct times {
    longest train, over, calibrated, eval, wall, production; /* over: training beyond the tolerance */
    double calibration;                                      /* seconds of it, at `calibrated` */
    double over_steps;                                       /* of the run most over, in steps */
    int n_over_cap;                                          /* within the tolerance */
} times;

enum { MAX_SAID = 6 }; /* runs that are listed */

static times measure_times(const bd_audit *a) {
    const bd_rules *rules = a->rules;
    times t = {0};
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *r = &a->runs[i].r;
        int line;
        if (r->train_ms.finite && r->train_ms.v > 0) {
            double train = r->train_ms.v / 1000, beyond = train - rules->train_s;
            double step = r->step_ms > 0 ? r->step_ms / 1000 : 0;
            longer(&t.train, train, i, r->train_ms.line);
            if (beyond > (step > 0 ? rules->tolerance_steps * step : rules->tolerance_s) && beyond > 0) {
                if (beyond > t.over.s) t.over_steps = step > 0 ? beyond / step : 0;
                longer(&t.over, beyond, i, r->train_ms.line);
            } else if (beyond > 0) {
                t.n_over_cap++;
            }
            if (r->calibration_s > 0) {
                if (train + r->calibration_s > t.calibrated.s) t.calibration = r->calibration_s;
                longer(&t.calibrated, train + r->calibration_s, i, r->calibration_line);
            }
        }
        double eval = eval_of(r, &line);
        longer(&t.eval, eval, i, line);
        if (r->warmup_s > 0 && eval > 0) { longer(&t.wall, eval + r->warmup_s, i, r->warmup_line); }
        longer(&t.production, r->production_s, i, r->production_line);
    }
    return t;
}

static bd_outcome training_time(bd_audit *a, const times *t) {
    const bd_rules *r = a->rules;
    char place[300];
    if (!r->train_s) return BD_NOT_CHECKED;
    if (!(t->train.s > 0)) {
        bd_audit_say(a, "no log says how long training took");
        return BD_NOT_CHECKED;
    }
    bd_audit_say(a, "longest training %.3f s (%s)", t->train.s,
                 bd_audit_place(a, &a->runs[t->train.run], t->train.line, place));
    if (t->over.s > 0) {
        bd_audit_place(a, &a->runs[t->over.run], t->over.line, place);
        if (t->over_steps > 0)
            bd_audit_say(a, "%.3f s beyond the limit, %.1f steps (%s)", t->over.s, t->over_steps, place);
        else bd_audit_say(a, "%.3f s beyond the limit (%s)", t->over.s, place);
        return BD_FAILED;
    }
    if (t->n_over_cap)
        bd_audit_say(a, "%d run%s over the limit by no more than %g steps: it is tested after a step",
                     t->n_over_cap, t->n_over_cap > 1 ? "s" : "", r->tolerance_steps);
    return BD_PASS;
}

static bd_outcome calibration_time(bd_audit *a, const times *t) {
    const bd_rules *r = a->rules;
    char place[300];
    if (!r->train_s || !(t->calibrated.s > 0)) return BD_PASS;
    double low = INFINITY, high = 0;
    bool self = false;
    for (int i = 0; i < a->n_runs; i++) {
        double s = a->runs[i].r.calibration_s;
        if (!(s > 0)) continue;
        self |= a->runs[i].r.self_generated;
        low = fmin(low, s);
        high = fmax(high, s);
    }
    const char *what = self ? "calibration on self-generated data takes" : "collecting Hessians takes";
    if (high - low < 0.05) bd_audit_say(a, "%s %.1f s", what, high);
    else bd_audit_say(a, "%s %.1f to %.1f s", what, low, high);
    if (t->calibrated.s <= r->train_s) {
        bd_audit_say(a, "it ends at most at %.1f + %.1f = %.1f s", t->calibrated.s - t->calibration, t->calibration,
                     t->calibrated.s);
        return BD_PASS;
    }
    int said = 0;
    for (int i = 0; i < a->n_runs; i++) {
        const bd_run *run = &a->runs[i].r;
        double train = run->train_ms.v / 1000;
        if (run->calibration_s > 0 && train + run->calibration_s > r->train_s && said++ < MAX_SAID)
            bd_audit_say(a, "%s%.1f + %.1f = %.1f s (%s)", said == 1 ? "beyond the limit: " : "", train,
                         run->calibration_s, train + run->calibration_s,
                         bd_audit_place(a, &a->runs[i], run->calibration_line, place));
    }
    return bd_policy_is(r, BD_POLICY_CALIBRATION_TIME, "training") ? BD_WARN : BD_PASS;
}

static bd_outcome eval_time(bd_audit *a, const times *t) {
    const bd_rules *r = a->rules;
    char place[300];
    bd_outcome o = BD_PASS;
    bool wall = bd_policy_is(r, BD_POLICY_EVAL_CLOCK, "wall");
    if (t->eval.s > 0)
        bd_audit_say(a, "longest evaluation %.1f s by the log's timer (%s)", t->eval.s,
                     bd_audit_place(a, &a->runs[t->eval.run], t->eval.line, place));
    int said = 0;
    for (int i = 0; i < a->n_runs && t->wall.s > r->eval_s && r->eval_s > 0; i++) {
        const bd_run *run = &a->runs[i].r;
        int line;
        double eval = eval_of(run, &line);
        if (run->warmup_s > 0 && eval + run->warmup_s > r->eval_s && said++ < MAX_SAID)
            bd_audit_say(a, "%stimer %.1f + warm-up %.1f = %.1f s (%s)",
                         said == 1 ? wall ? "" : "outside the timer, which the profile allows: " : "", eval,
                         run->warmup_s, eval + run->warmup_s,
                         bd_audit_place(a, &a->runs[i], run->warmup_line, place));
    }
    double counts = wall && t->wall.s > t->eval.s ? t->wall.s : t->eval.s;
    if (r->eval_s && counts > r->eval_s) {
        bd_audit_say(a, "evaluation is above %g s", r->eval_s);
        o = BD_FAILED;
    }
    if (t->production.s > 0)
        bd_audit_say(a, "production of the artifact %.1f s (%s)", t->production.s,
                     bd_audit_place(a, &a->runs[t->production.run], t->production.line, place));
    return o;
}

bd_status bd_audit_time(bd_audit *a, bd_err *err) {
    char value[64] = "", limit[64] = "";
    times t = measure_times(a);
    if (a->rules->train_s > 0) snprintf(limit, sizeof limit, "%g s", a->rules->train_s);
    if (t.train.s > 0) snprintf(value, sizeof value, "%.3f s", t.train.s);
    bd_outcome o = training_time(a, &t);
    bd_outcome rest = calibration_time(a, &t);
    rest = bd_worse(rest, eval_time(a, &t));
    if (o != BD_NOT_CHECKED || rest == BD_FAILED) o = bd_worse(o, rest);
    if (!a->text.size) bd_audit_say(a, "the rules name no limits and no log names a time");
    return bd_audit_add(a, "TIME", o, value, limit, err);
}
