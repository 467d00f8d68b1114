/* COVER: every target of the range once. One bit for each. */
#include <inttypes.h>
#include <math.h>

#include "verify/verify_impl.h"

void bd_cover_count(bd_cover *c, uint64_t first, uint64_t n) {
    for (uint64_t t = first; t - first < n; t++) {
        c->scored++;
        bool bad = t < 1 || t > c->targets;
        if (bad) {
            c->outside++;
        } else {
            uint8_t bit = (uint8_t)(1u << ((t - 1) & 7)), *byte = &c->seen[(t - 1) >> 3];
            if (*byte & bit) {
                c->twice++;
                bad = true;
            }
            *byte |= bit;
        }
        if (bad && c->first_bad == UINT64_MAX) c->first_bad = t;
    }
}

void bd_check_cover(const bd_verification *x, const bd_cover *c) {
    bd_verdict *v = x->v;
    const bd_verify_opts *o = x->o;
    char value[32], limit[32];
    uint64_t covered = 0, documents = 0, all = o->shards->total - 1;
    for (uint64_t t = 0; t < c->targets; t++) covered += (c->seen[t >> 3] >> (t & 7)) & 1;
    if (o->tokenizer && o->tokenizer->bos >= 0)
        for (uint64_t t = 0; t <= c->targets; t++) documents += o->shards->tokens[t] == o->tokenizer->bos;
    bd_u64_text(value, c->scored);
    bd_u64_text(limit, c->targets);
    if (covered != c->targets || c->twice || c->outside) {
        bd_verdict_add(v, "COVER", BD_FAILED, value, limit,
                       "%" PRIu64 " of %" PRIu64 " targets scored, %" PRIu64 " more than once, %" PRIu64
                       " outside the range; first offence at target %" PRIu64,
                       covered, c->targets, c->twice, c->outside, c->first_bad);
        return;
    }
    const bd_rules *r = o->rules;
    if (r->canonical_tokens &&
        fabs((double)c->targets - (double)r->canonical_tokens) > r->tolerance * (double)r->canonical_tokens) {
        bd_u64_text(limit, r->canonical_tokens);
        bd_verdict_add(v, "COVER", BD_FAILED, value, limit,
                       "the rules ask for %" PRIu64 " targets, %" PRIu64 " were scored", r->canonical_tokens,
                       c->targets);
        return;
    }
    bd_verdict_add(v, "COVER", BD_PASS, value, limit,
                   "targets 1..%" PRIu64 " scored once each, in order%s; the stream has %" PRIu64
                   " targets; %" PRIu64 " documents begin in the range",
                   c->targets, c->targets < all ? " (a part of the stream)" : "", all, documents);
}
