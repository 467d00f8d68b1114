#include "verify/verify_artifact.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/numerics.h"
#include "base/thread.h"
#include "verify/verify_text.h"

static void u64_text(char out[32], uint64_t v) { snprintf(out, 32, "%" PRIu64, v); }

static void check_size(bd_verdict *v, const bd_rules *r, uint64_t bytes) {
    char value[32], limit[32];
    u64_text(value, bytes);
    u64_text(limit, r->size_cap);
    if (bytes <= r->size_cap)
        bd_verdict_add(v, "SIZE", BD_PASS, value, limit, "file is %" PRIu64 " bytes below the cap of rules \"%s\"",
                       r->size_cap - bytes, r->name);
    else
        bd_verdict_add(v, "SIZE", BD_FAILED, value, limit, "file is %" PRIu64 " bytes above the cap of rules \"%s\"",
                       bytes - r->size_cap, r->name);
}

/* --- COVER --- */

typedef struct cover {
    uint8_t *seen;     /* one bit per target, target t at bit t - 1 */
    uint64_t targets;  /* that should be scored: 1..targets */
    uint64_t scored, twice, outside, first_bad;
} cover;

static bd_status count_scored(void *user, uint64_t first, const double *nll, uint64_t n, bd_err *err) {
    cover *c = user;
    (void)nll;
    (void)err;
    for (uint64_t t = first; t < first + n; t++) {
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
    return BD_OK;
}

static void check_cover(bd_verdict *v, const cover *c, const bd_verify_opts *o) {
    char value[32], limit[32];
    uint64_t covered = 0, documents = 0, all = o->shards->total - 1;
    for (uint64_t t = 0; t < c->targets; t++) covered += (c->seen[t >> 3] >> (t & 7)) & 1;
    if (o->tokenizer && o->tokenizer->bos >= 0)
        for (uint64_t t = 0; t <= c->targets; t++) documents += o->shards->tokens[t] == o->tokenizer->bos;
    u64_text(value, c->scored);
    u64_text(limit, c->targets);
    if (covered != c->targets || c->twice || c->outside) {
        bd_verdict_add(v, "COVER", BD_FAILED, value, limit,
                       "%" PRIu64 " of %" PRIu64 " targets scored, %" PRIu64 " more than once, %" PRIu64
                       " outside the range; first offence at target %" PRIu64,
                       covered, c->targets, c->twice, c->outside, c->first_bad);
        return;
    }
    const bd_rules *r = o->rules;
    if (r->canonical_tokens && fabs((double)c->targets - (double)r->canonical_tokens) > r->tolerance * (double)r->canonical_tokens) {
        u64_text(limit, r->canonical_tokens);
        bd_verdict_add(v, "COVER", BD_FAILED, value, limit, "the rules ask for %" PRIu64 " targets, %" PRIu64 " were scored",
                       r->canonical_tokens, c->targets);
        return;
    }
    bd_verdict_add(v, "COVER", BD_PASS, value, limit,
                   "targets 1..%" PRIu64 " scored once each, in order%s; the stream has %" PRIu64 " targets; %" PRIu64
                   " documents begin in the range",
                   c->targets, c->targets < all ? " (a part of the stream)" : "", all, documents);
}

/* --- BYTES --- */

static void check_bytes(bd_verdict *v, const bd_verify_opts *o, const bd_score *s) {
    char value[32], limit[32] = "";
    u64_text(value, s->bytes);
    if (!o->tokenizer && !o->sidecar) {
        bd_verdict_add(v, "BYTES", BD_NOT_CHECKED, NULL, NULL, "no tokenizer and no sidecar: bytes were not counted");
        return;
    }
    uint64_t tables = 0, sidecar = 0;
    for (uint64_t t = 1; t <= s->tokens; t++) {
        if (o->tokenizer) tables += bd_tokenizer_bytes(o->tokenizer, o->shards->tokens[t - 1], o->shards->tokens[t]);
        if (o->sidecar) sidecar += o->sidecar[t];
    }
    uint64_t want = o->sidecar ? sidecar : tables;
    u64_text(limit, want);
    if (s->bytes != want) {
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit, "the evaluation counted %s bytes, an independent count gives %s",
                       value, limit);
        return;
    }
    const bd_rules *r = o->rules;
    if (r->canonical_bytes && s->tokens == o->shards->total - 1 &&
        fabs((double)s->bytes / (double)r->canonical_bytes - 1) > r->tolerance) {
        u64_text(limit, r->canonical_bytes);
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit, "%s bytes counted, the rules' canonical count is %s", value, limit);
        return;
    }
    bd_text_match m;
    char text[256] = "";
    bd_outcome out = BD_PASS;
    if (o->text && o->tokenizer) {
        bd_text_compare(&m, o->tokenizer, o->shards->tokens, s->tokens + 1, o->text, o->text_size);
        snprintf(text, sizeof text,
                 "; original text: %" PRIu64 " documents compared, %" PRIu64 " equal, %" PRIu64
                 " equal but for white space, %" PRIu64 " different%s",
                 m.documents, m.equal, m.white, m.different,
                 m.different ? " (Unicode normalisation is not undone here)" : "");
        if (m.different || m.white) out = BD_WARN;
    }
    if (o->tokenizer && o->sidecar && tables != sidecar)
        bd_verdict_add(v, "BYTES", out, value, limit, "counted from the sidecar; the tokenizer's tables would give %" PRIu64
                       " (they miscount control pieces)%s", tables, text);
    else
        bd_verdict_add(v, "BYTES", out, value, limit, "%.4f bytes per token, counted twice from the %s%s",
                       (double)s->bytes / (double)s->tokens, o->sidecar ? "sidecar" : "tokenizer's tables", text);
}

/* --- SCORE, TIME --- */

static void check_score(bd_verdict *v, const bd_artifact *a, const bd_verify_opts *o, const bd_score *s) {
    const bd_claim *c = &a->claim;
    char value[32], limit[32];
    snprintf(value, sizeof value, "%" PRId64, s->nll_q32);
    const char *why = NULL;
    char range[160];
    if (!c->present) {
        why = "the artifact claims no score";
    } else if (c->numerics != BD_NUMERICS_VERSION) {
        snprintf(range, sizeof range, "the claim was made with numerics version %u, this program has %u", c->numerics, BD_NUMERICS_VERSION);
        why = range;
    } else if (c->n_shards != (uint32_t)o->shards->n) {
        why = "the claim is about other shards";
    } else if (c->first_target != 1 || c->tokens != s->tokens) {
        snprintf(range, sizeof range, "the claim covers %" PRIu64 " targets from target %" PRIu64 ", %" PRIu64
                 " were scored: use --max-tokens %" PRIu64, c->tokens, c->first_target, s->tokens, c->tokens);
        why = range;
    }
    for (uint32_t i = 0; !why && i < c->n_shards; i++)
        if (memcmp(c->shard_sha256[i], o->shards->shards[i].sha256, 32) != 0) why = "the claim is about other shards";
    if (why) {
        bd_verdict_add(v, "SCORE", BD_NOT_CHECKED, value, NULL, "%s", why);
        return;
    }
    snprintf(limit, sizeof limit, "%" PRId64, c->nll_q32);
    if (c->nll_q32 == s->nll_q32 && c->bytes == s->bytes)
        bd_verdict_add(v, "SCORE", BD_PASS, value, limit, "equal to the claim, bit for bit: val_bpb %.6f", s->val_bpb);
    else
        bd_verdict_add(v, "SCORE", BD_FAILED, value, limit, "measured nll_q32 %s and %" PRIu64 " bytes, claimed %s and %" PRIu64,
                       value, s->bytes, limit, c->bytes);
}

static void check_time(bd_verdict *v, const bd_rules *r, const bd_score *s, double flops) {
    char value[64], limit[64] = "";
    snprintf(value, sizeof value, "%.4g FLOPs", flops);
    if (r->eval_s <= 0) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, NULL, "the rules only report times: see measured");
        return;
    }
    snprintf(limit, sizeof limit, "%g s", r->eval_s);
    if (r->processors && r->processors != bd_cpu_count()) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, limit, "the limit is for %d processors, this machine has %d",
                       r->processors, bd_cpu_count());
        return;
    }
    bool ok = s->seconds_score + s->seconds_learn <= r->eval_s;
    bd_verdict_add(v, "TIME", ok ? BD_PASS : BD_FAILED, value, limit, "evaluation took %s the limit: see measured",
                   ok ? "less than" : "longer than");
}

/* --- all --- */

static bd_status score_all(bd_verify_result *r, const bd_artifact *a, bd_backend *be, const bd_verify_opts *o, bd_err *err) {
    bd_model *m = NULL;
    bd_model_opts mo = {.max_memory = o->max_memory};
    cover c = {.first_bad = UINT64_MAX};
    uint16_t *bytes = NULL;
    bd_status st = bd_model_from_artifact(&m, a, &mo, err);
    if (st) return st;
    if (o->shards->total < 2) {
        st = BD_FAIL(err, BD_E_MISSING, "the validation shards hold no target");
        goto done;
    }
    bd_stream stream = {o->shards->tokens, o->sidecar, o->shards->total};
    if (!o->sidecar && o->tokenizer) {
        bytes = malloc(o->shards->total * sizeof *bytes);
        if (!bytes) {
            st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the byte counts");
            goto done;
        }
        bd_tokenizer_stream_bytes(o->tokenizer, o->shards->tokens, o->shards->total, bytes);
        stream.bytes = bytes;
    }
    c.targets = stream.n - 1;
    if (o->max_tokens && o->max_tokens < c.targets) c.targets = o->max_tokens;
    c.seen = calloc((size_t)(c.targets / 8 + 1), 1);
    if (!c.seen) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the coverage bitmap");
        goto done;
    }
    bd_eval_opts eo = {.max_tokens = o->max_tokens, .max_memory = o->max_memory, .on_nll = count_scored, .user = &c, .progress = o->progress};
    bd_eval_plan plan;
    BD_TRY_DONE(bd_eval_plan_make(&plan, m, &stream, &a->protocol, &eo, err));
    r->flops = plan.flops;
    BD_TRY_DONE(bd_evaluate(m, be, &stream, &a->protocol, &eo, &r->score, err));
    r->scored = true;
    check_cover(&r->verdict, &c, o);
    check_bytes(&r->verdict, o, &r->score);
    check_score(&r->verdict, a, o, &r->score);
    check_time(&r->verdict, o->rules, &r->score, plan.flops);
done:
    free(c.seen);
    free(bytes);
    bd_model_close(m);
    return st;
}

bd_status bd_verify_artifact(bd_verify_result *r, bd_backend *be, const bd_verify_opts *o, bd_err *err) {
    memset(r, 0, sizeof *r);
    bd_map map;
    BD_TRY(bd_map_open(&map, o->path, err));
    if (!bd_artifact_is(map.data, map.size)) {
        bd_map_close(&map);
        bd_status st = BD_FAIL_AT(err, BD_E_MAGIC, 0, "not a Birdie artifact");
        bd_err_file(err, o->path);
        return st;
    }
    r->file_bytes = map.size;
    bd_status st = BD_OK;
    bd_artifact *a = bd_verify_structure(&r->verdict, map.data, map.size);
    check_size(&r->verdict, o->rules, map.size);
    if (a) {
        r->protocol = a->protocol;
        memcpy(r->model_hash, a->model_hash, 32);
        memcpy(r->root_hash, a->root_hash, 32);
        if (o->shards) st = score_all(r, a, be, o, err);
    }
    bd_artifact_close(a);
    bd_map_close(&map);
    if (!st) r->overall = bd_verdict_overall(&r->verdict, o->rules);
    return st;
}
