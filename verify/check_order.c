/* ORDER: scoring changes nothing that adapts; only learning may, and a new run
 * begins where the first one began. */
#include <inttypes.h>
#include <stdio.h>

#include "verify/verify_impl.h"

void bd_check_order(const bd_verification *x, const bd_order *r) {
    char value[64];
    snprintf(value, sizeof value, "%d of %" PRIu64 " scoring steps", r->seen_scores, r->scores);
    if (r->changed_by_score || r->changed_between || r->kept) {
        bd_verdict_add(x->v, "ORDER", BD_FAILED, value, NULL,
                       "of the state that adapts: %d of %d scoring steps changed it, it changed between steps %d "
                       "times, and a new run %s where the first one did; first offence at target %" PRIu64,
                       r->changed_by_score, r->seen_scores, r->changed_between,
                       r->kept ? "does not begin" : "begins", r->first_bad);
        return;
    }
    if (!r->learns)
        bd_verdict_add(x->v, "ORDER", BD_PASS, value, NULL,
                       "SHA-256 of the weights before and after scoring is the same; the protocol does not learn");
    else
        bd_verdict_add(
            x->v, "ORDER", BD_PASS, value, NULL,
            "SHA-256 of weights and momentum: the same before and after scoring, changed by %d of the %d "
            "learning steps looked at (of %" PRIu64 "), and the same again when a new run begins",
            r->learned, r->seen_learns, r->learns);
}
