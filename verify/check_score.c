/* SCORE: the claim against what was measured, as 64-bit integers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/numerics.h"
#include "verify/verify_impl.h"

/* Why the claim cannot be compared with what was scored, into `why`; false if it can. */
static bool other_claim(const bd_claim *c, const bd_verify_opts *o, uint64_t tokens, char *why, size_t size) {
    uint64_t all = o->shards->total - 1;
    if (!c->present) {
        snprintf(why, size, "the artifact claims no score");
        return true;
    }
    if (o->fast) {
        snprintf(why, size, "claims are compared in exact mode only");
        return true;
    }
    if (c->numerics != BD_NUMERICS_VERSION) {
        snprintf(why, size, "the claim was made with numerics version %" PRIu32 ", this program has %u",
                 c->numerics, BD_NUMERICS_VERSION);
        return true;
    }
    bool same = c->n_shards == (uint32_t)o->shards->n;
    for (uint32_t i = 0; same && i < c->n_shards; i++)
        same = !memcmp(c->shard_sha256[i], o->shards->shards[i].sha256, 32);
    if (!same) {
        snprintf(why, size, "the claim is about other shards: %" PRIu32 " of them, %d given", c->n_shards,
                 o->shards->n);
        if (c->n_shards == (uint32_t)o->shards->n)
            snprintf(why, size, "the claim is about other shards: the hashes differ");
        return true;
    }
    if (c->first_target == 1 && c->tokens == tokens) return false;
    int n =
        snprintf(why, size, "the claim covers %" PRIu64 " targets from target %" PRIu64 ", %" PRIu64 " were scored",
                 c->tokens, c->first_target, tokens);
    if (c->first_target == 1 && c->tokens <= all && n > 0 && (size_t)n < size)
        snprintf(why + n, size - (size_t)n, ": use --max-tokens %" PRIu64, c->tokens);
    return true;
}

void bd_check_score(const bd_verification *x, const bd_score *s) {
    bd_verdict *v = x->v;
    const bd_artifact *a = x->art;
    const bd_verify_opts *o = x->o;
    const bd_claim *c = &a->claim;
    char value[32], limit[32], why[256];
    snprintf(value, sizeof value, "%" PRId64, s->nll_q32);
    if (other_claim(c, o, s->tokens, why, sizeof why)) {
        bd_verdict_add(v, "SCORE", BD_NOT_CHECKED, value, NULL, "%s", why);
        return;
    }
    bool counted = o->tokenizer || o->sidecar;
    snprintf(limit, sizeof limit, "%" PRId64, c->nll_q32);
    if (c->nll_q32 != s->nll_q32)
        bd_verdict_add(v, "SCORE", BD_FAILED, value, limit, "measured nll_q32 %s, claimed %s", value, limit);
    else if (counted && c->bytes != s->bytes)
        bd_verdict_add(v, "SCORE", BD_FAILED, value, limit,
                       "nll_q32 is as claimed, but %" PRIu64 " bytes were counted and %" PRIu64 " claimed",
                       s->bytes, c->bytes);
    else if (counted)
        bd_verdict_add(v, "SCORE", BD_PASS, value, limit, "equal to the claim, bit for bit: val_bpb %.6f",
                       s->val_bpb);
    else
        bd_verdict_add(v, "SCORE", BD_PASS, value, limit,
                       "equal to the claim, bit for bit; the claimed bytes were not counted");
}
