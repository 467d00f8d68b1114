/* POLICY: the profile's switches, each with what it means for this artifact. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "verify/verify_impl.h"

typedef struct lines {
    char text[3600];
    size_t n;
    bd_outcome worst;
    int settled;
} lines;

static void say(lines *l, const bd_rules *r, bd_policy p, bd_outcome o, const char *what) {
    char choice[32];
    const char *mark = o == BD_FAILED ? " (FAIL)" : o == BD_WARN ? " (WARN)" : "";
    int n = snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s: %s%s, %s", l->n ? "; " : "", bd_policy_name(p),
                     bd_policy_choice(r, p, choice), mark, what);
    if (n > 0) l->n += (size_t)n < sizeof l->text - l->n ? (size_t)n : sizeof l->text - l->n - 1;
    if (o > l->worst) l->worst = o;
    l->settled++;
}

static bool uses_program(const bd_artifact *a) {
    for (uint32_t g = 0; g < a->n_groups; g++)
        if (a->groups[g].codec == BD_CODEC_LRZIP) return true;
    return false;
}

void bd_check_policy(const bd_verification *x) {
    const bd_rules *r = x->o->rules;
    const bd_protocol *p = &x->art->protocol;
    bool learns = p->kind == BD_PROTO_SGD;
    lines l = {.worst = BD_PASS};
    char value[32];
    say(&l, r, BD_POLICY_TRACK, learns && bd_policy_is(r, BD_POLICY_TRACK, "fixed") ? BD_FAILED : BD_PASS,
        learns ? "the protocol learns from what it scored" : "the protocol does not learn");
    if (learns)
        say(&l, r, BD_POLICY_LEARN_EPOCHS,
            p->epochs > 1 && bd_policy_is(r, BD_POLICY_LEARN_EPOCHS, "one") ? BD_FAILED : BD_PASS,
            p->epochs > 1 ? "several epochs over scored tokens" : "one epoch over scored tokens");
    say(&l, r, BD_POLICY_DOCUMENT_ORDER, BD_PASS, "scored in the order of the stream");
    say(&l, r, BD_POLICY_DOCUMENT_BOUNDARY, BD_PASS, "see CAUSAL");
    say(&l, r, BD_POLICY_ALPHABET, bd_policy_is(r, BD_POLICY_ALPHABET, "byte") ? BD_WARN : BD_PASS,
        "distributions are over the tokenizer's ids");
    say(&l, r, BD_POLICY_HASHED_CACHE, BD_PASS, "the format has no caches");
    say(&l, r, BD_POLICY_WINDOW_DELTA, BD_PASS, "nothing is fitted to a window before it is scored");
    if (uses_program(x->art)) {
        bool forbid = bd_policy_is(r, BD_POLICY_SYSTEM_BINARIES, "forbid"),
             allow = bd_policy_is(r, BD_POLICY_SYSTEM_BINARIES, "allow");
        say(&l, r, BD_POLICY_SYSTEM_BINARIES,
            forbid  ? BD_FAILED
            : allow ? BD_PASS
                    : BD_WARN,
            "sections need the program lrzip");
    }
    if (x->o->tokenizer)
        say(&l, r, BD_POLICY_TOKENIZER_BYTES,
            bd_policy_is(r, BD_POLICY_TOKENIZER_BYTES, "counted") ? BD_WARN : BD_PASS,
            "SIZE counts the artifact's file alone");
    if (x->o->sidecar) say(&l, r, BD_POLICY_TEXT_TRANSFORM, BD_PASS, "bytes come from a sidecar, see BYTES");
    snprintf(value, sizeof value, "%d switches", l.settled);
    bd_verdict_add(
        x->v, "POLICY", l.worst, value, NULL,
        "%s. The other switches are about training, scripts and folders, which an artifact does not show", l.text);
}
