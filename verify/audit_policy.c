/* POLICY: points that the rules leave open, and what only a probe of the program can show. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "verify/audit_impl.h"

/* What a choice makes of a finding. */
static bd_outcome by_choice(const bd_audit *a, bd_policy p) {
    char choice[32];
    bd_policy_choice(a->rules, p, choice);
    return !strcmp(choice, "forbid") ? BD_FAILED : !strcmp(choice, "review") ? BD_WARN : BD_PASS;
}

static bd_outcome token_counts(bd_audit *a) {
    const bd_rules *r = a->rules;
    char place[300];
    bd_outcome o = BD_PASS;
    for (int i = 0; i < a->n_runs && r->n_counts; i++) {
        const bd_number *t = &a->runs[i].r.val_tokens;
        bool known = !t->present;
        for (int k = 0; k < r->n_counts && !known; k++) {
            double full = (double)r->counts[k].tokens;
            known = t->v <= full * (1 + 1e-4) && t->v >= full * (1 - r->tail - 1e-9);
        }
        if (known) continue;
        bd_audit_say(a, "%.0f validation tokens (%s) are the count of no tokenizer that the rules know", t->v,
                     bd_audit_place(a, &a->runs[i], t->line, place));
        o = BD_WARN;
        break;
    }
    for (int i = 0; i < a->n_runs && r->train_shards_bad; i++) {
        const bd_number *t = &a->runs[i].r.train_shards;
        if (!t->present || t->v != (double)r->train_shards_bad) continue;
        bd_audit_say(
            a, "%.0f training shards (%s): the mark of a split whose training part holds validation documents",
            t->v, bd_audit_place(a, &a->runs[i], t->line, place));
        o = BD_WARN;
        break;
    }
    return o;
}

/* Words in the logs that ask for a look. Learning at test time is legal, but not shown to be by a log. */
static bd_outcome log_marks(bd_audit *a) {
    char place[300];
    bd_outcome o = BD_PASS;
    const bd_audit_run *learns = NULL, *ngram = NULL, *lrzip = NULL, *caseops = NULL, *self = NULL;
    for (int i = a->n_runs - 1; i >= 0; i--) {
        const bd_audit_run *run = &a->runs[i];
        if (run->r.learns) learns = run;
        if (run->r.ngram) ngram = run;
        if (run->r.lrzip) lrzip = run;
        if (run->r.caseops) caseops = run;
        if (run->r.self_generated) self = run;
    }
    if (learns) {
        bd_audit_say(a, "needs review: learns at test time (%s); that scores come first cannot be seen in a log",
                     bd_audit_place(a, learns, learns->r.learns_line, place));
        o = BD_WARN;
    }
    if (ngram) {
        bd_outcome x = by_choice(a, BD_POLICY_HASHED_CACHE);
        bd_audit_say(a, "%sn-gram statistics at test time (%s)", x == BD_WARN ? "needs review: " : "",
                     bd_audit_place(a, ngram, ngram->r.ngram_line, place));
        o = bd_worse(o, x);
    }
    if (lrzip) {
        bd_outcome x = by_choice(a, BD_POLICY_SYSTEM_BINARIES);
        bd_audit_say(a, "%sthe system program lrzip unpacks the model (%s)", x == BD_WARN ? "needs review: " : "",
                     bd_audit_place(a, lrzip, lrzip->r.lrzip_line, place));
        o = bd_worse(o, x);
    }
    if (caseops && !bd_policy_is(a->rules, BD_POLICY_TEXT_TRANSFORM, "any")) {
        bool none = bd_policy_is(a->rules, BD_POLICY_TEXT_TRANSFORM, "none");
        bd_audit_say(a, "%s",
                     none ? "the text was transformed, which the rules forbid"
                          : "needs review: the text was transformed; that it is lossless and its bytes are "
                            "the original's cannot be seen in a log");
        o = bd_worse(o, none ? BD_FAILED : BD_WARN);
    }
    if (self) {
        char choice[32];
        bd_policy_choice(a->rules, BD_POLICY_CALIBRATION_DATA, choice);
        bd_audit_say(a, "calibration on self-generated data (%s); the rules allow: %s",
                     bd_audit_place(a, self, self->r.calibration_line, place), choice);
        if (!strcmp(choice, "train")) o = bd_worse(o, BD_FAILED);
    }
    return o;
}

static bool says(const char *text, size_t n, const char *word) {
    return memmem(text, n, word, strlen(word)) != NULL;
}

/* Words in the program. Text alone proves nothing either way: this only asks. */
static bd_outcome script_marks(bd_audit *a) {
    static const char *const network[] = {"urllib.request", "requests.get(", "import socket", "hf_hub_download",
                                          "snapshot_download"};
    static const char *const binaries[] = {"lrzip", "apt-get", "g++", "nvcc", "gcc"};
    size_t n;
    const char *text = bd_script_text(&a->script, &a->folder, &n);
    bd_outcome o = BD_PASS;
    char list[128] = "";
    size_t used = 0;
    for (size_t i = 0; i < sizeof network / sizeof *network; i++)
        if (says(text, n, network[i]))
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", network[i]);
    if (used) {
        bd_audit_say(a, "needs review: the script can reach the network (%s)", list);
        o = BD_WARN;
    }
    used = 0;
    for (size_t i = 0; i < sizeof binaries / sizeof *binaries; i++)
        if (says(text, n, binaries[i]) && says(text, n, "subprocess"))
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", binaries[i]);
    if (used && !bd_policy_is(a->rules, BD_POLICY_SYSTEM_BINARIES, "allow")) {
        bd_audit_say(a, "%sthe script names system programs (%s)",
                     by_choice(a, BD_POLICY_SYSTEM_BINARIES) == BD_WARN ? "needs review: " : "", list);
        o = bd_worse(o, by_choice(a, BD_POLICY_SYSTEM_BINARIES));
    }
    return o;
}

static bd_outcome seed_choice(bd_audit *a) {
    int of_claim = a->match.n;
    if (a->match.kind == BD_MATCH_NONE || of_claim >= a->n_runs ||
        by_choice(a, BD_POLICY_SEED_SELECTION) == BD_PASS)
        return BD_PASS;
    bd_audit_say(a, "needs review: the claim rests on %d of the %d runs in the folder", of_claim, a->n_runs);
    return BD_WARN;
}

bd_status bd_audit_policy(bd_audit *a, bd_err *err) {
    bd_outcome o = token_counts(a); /* one after the other: each says its part */
    o = bd_worse(o, log_marks(a));
    o = bd_worse(o, script_marks(a));
    o = bd_worse(o, seed_choice(a));
    if (o == BD_PASS) {
        o = BD_NOT_CHECKED;
        bd_audit_say(a, "logs show nothing that the rules leave open");
    }
    bd_audit_say(a, "causality, normalisation and the order of scoring and learning are not visible in a folder");
    return bd_audit_add(a, "POLICY", o, NULL, NULL, err);
}
