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
        bd_verdict_add(v, "SIZE", BD_FAILED, value, limit,
                       "file is %" PRIu64 " bytes above the cap of rules \"%s\"", bytes - r->size_cap, r->name);
}

/* --- COVER --- */

typedef struct cover {
    uint8_t *seen;    /* one bit per target, target t at bit t - 1 */
    uint64_t targets; /* that should be scored: 1..targets */
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
    if (r->canonical_tokens &&
        fabs((double)c->targets - (double)r->canonical_tokens) > r->tolerance * (double)r->canonical_tokens) {
        u64_text(limit, r->canonical_tokens);
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

/* --- BYTES --- */

static void add_text(char *out, size_t size, const bd_text_match *m) {
    snprintf(out, size,
             "; original text: %" PRIu64 " documents compared, %" PRIu64 " equal, %" PRIu64
             " equal but for white space, %" PRIu64 " different",
             m->documents, m->equal, m->white, m->different);
    size_t n = strlen(out);
    if (m->different && m->first_different != UINT64_MAX)
        snprintf(out + n, size - n,
                 ", the first is document %" PRIu64 " (Unicode normalisation is not undone here)",
                 m->first_different);
}

static void check_bytes(bd_verdict *v, const bd_artifact *a, const bd_verify_opts *o, const uint16_t *bytes,
                        const bd_score *s) {
    char value[32], limit[32], text[300] = "";
    u64_text(value, s->bytes);
    if (!o->tokenizer && !o->sidecar) {
        bd_verdict_add(v, "BYTES", BD_NOT_CHECKED, NULL, NULL,
                       "no tokenizer and no sidecar: bytes were not counted");
        return;
    }
    if (o->tokenizer && memcmp(a->tokenizer_tables_hash, o->tokenizer->tables_hash, 32) != 0) {
        bd_verdict_add(
            v, "BYTES", BD_FAILED, value, NULL,
            "the artifact was made for another tokenizer: the byte tables of the one given have another hash");
        return;
    }
    uint64_t tables = 0, sidecar = 0;
    for (uint64_t t = 1; t <= s->tokens; t++) {
        if (o->tokenizer)
            tables += bd_tokenizer_bytes(o->tokenizer, o->shards->tokens[t - 1], o->shards->tokens[t]);
        if (o->sidecar) sidecar += o->sidecar[t];
    }
    u64_text(limit, o->sidecar ? sidecar : tables);
    if (strcmp(value, limit) != 0) {
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit,
                       "the evaluation counted %s bytes, a second count gives %s", value, limit);
        return;
    }
    const bd_rules *r = o->rules;
    if (r->canonical_bytes && fabs((double)s->bytes / (double)r->canonical_bytes - 1) > r->tolerance) {
        u64_text(limit, r->canonical_bytes);
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit, "%s bytes counted, the rules' canonical count is %s",
                       value, limit);
        return;
    }
    bd_outcome out = BD_PASS;
    bool proven = false; /* some document's bytes were counted against its original text */
    if (o->text && o->tokenizer) {
        bd_text_match m;
        bd_text_compare(&m, o->tokenizer, o->shards->tokens, bytes, s->tokens + 1,
                        s->tokens + 1 == o->shards->total, o->text, o->text_size);
        add_text(text, sizeof text, &m);
        if (m.counted != m.original) {
            char want[32];
            u64_text(want, s->bytes - m.counted + m.original);
            bd_verdict_add(v, "BYTES", BD_FAILED, value, want,
                           "%" PRIu64 " bytes counted for the %" PRIu64
                           " documents that equal their text, which has %" PRIu64 "%s",
                           m.counted, m.equal, m.original, text);
            return;
        }
        proven = m.equal > 0;
        if (m.different || m.white || !m.documents) out = BD_WARN;
    }
    if (!o->tokenizer)
        bd_verdict_add(v, "BYTES", BD_WARN, value, limit,
                       "the sidecar's counts were taken as given: no tokenizer to compare them with");
    else if (o->sidecar && tables != sidecar)
        bd_verdict_add(v, "BYTES", proven ? out : BD_WARN, value, limit,
                       "counted from the sidecar; the tokenizer's tables would give %" PRIu64 "%s%s", tables,
                       proven ? "" : "; the original text (--text) would tell which is right", text);
    else
        bd_verdict_add(v, "BYTES", out, value, limit, "%.4f bytes per token, counted twice from the %s%s",
                       (double)s->bytes / (double)s->tokens,
                       o->sidecar ? "sidecar, equal to the tokenizer's tables" : "tokenizer's tables", text);
}

/* --- SCORE, TIME --- */

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

static void check_score(bd_verdict *v, const bd_artifact *a, const bd_verify_opts *o, const bd_score *s) {
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

static void check_time(bd_verdict *v, const bd_rules *r, const bd_score *s, double flops) {
    char value[64], limit[64] = "";
    snprintf(value, sizeof value, "%.4g FLOPs", flops);
    if (r->eval_s <= 0) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, NULL, "the rules only report times: see measured");
        return;
    }
    snprintf(limit, sizeof limit, "%g s", r->eval_s);
    if (r->devices) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, limit, "the limit is for %d x %s", r->devices, r->device);
        return;
    }
    if (r->processors && r->processors != bd_cpu_count()) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, limit,
                       "the limit is for %d processors, this program may use %d (taskset limits them)",
                       r->processors, bd_cpu_count());
        return;
    }
    bool ok = s->seconds_score + s->seconds_learn <= r->eval_s;
    bd_verdict_add(v, "TIME", ok ? BD_PASS : BD_FAILED, value, limit, "evaluation took %s the limit: see measured",
                   ok ? "no longer than" : "longer than");
}

/* What could not be reached is listed too: a report has the same checks whatever happened. */
static void not_reached(bd_verdict *v, const char *why) {
    static const char *const ids[] = {"COVER", "BYTES", "SCORE", "TIME"};
    for (int k = 0; k < 4; k++) {
        int i = 0;
        while (i < v->n && strcmp(v->checks[i].id, ids[k]) != 0) i++;
        if (i == v->n) bd_verdict_add(v, ids[k], BD_NOT_CHECKED, NULL, NULL, "%s", why);
    }
}

/* --- all --- */

/* Above this an evaluation is not begun: years on any machine, and what overflowing sizes would ask for. */
static const double MAX_FLOPS = 1e19;

uint64_t bd_verify_range(const bd_verify_opts *o) {
    const bd_rules *r = o->rules;
    if (o->max_tokens || !r->canonical_tokens || o->shards->total < 2) return o->max_tokens;
    uint64_t targets = o->shards->total - 1;
    return (double)targets > (double)r->canonical_tokens * (1 + r->tolerance) ? r->canonical_tokens : 0;
}

static bd_status score_all(bd_verify_result *r, const bd_artifact *a, bd_backend *be, const bd_verify_opts *o,
                           bd_err *err) {
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
    uint64_t max_tokens = bd_verify_range(o);
    if (max_tokens && max_tokens < c.targets) c.targets = max_tokens;
    c.seen = calloc((size_t)(c.targets / 8 + 1), 1);
    if (!c.seen) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the coverage bitmap");
        goto done;
    }
    bd_eval_opts eo = {.max_tokens = max_tokens,
                       .max_memory = o->max_memory,
                       .on_nll = count_scored,
                       .user = &c,
                       .progress = o->progress};
    bd_eval_plan plan;
    BD_TRY_DONE(bd_eval_plan_make(&plan, m, &stream, &a->protocol, &eo, err));
    r->flops = plan.flops;
    if (!(plan.flops <= MAX_FLOPS)) {
        char value[64], limit[64];
        snprintf(value, sizeof value, "%.4g FLOPs", plan.flops);
        snprintf(limit, sizeof limit, "%.4g FLOPs", MAX_FLOPS);
        bd_verdict_add(&r->verdict, "TIME", BD_FAILED, value, limit,
                       "the protocol asks for more than this program begins");
        goto done;
    }
    st = bd_evaluate(m, be, &stream, &a->protocol, &eo, &r->score, err);
    if (st == BD_E_NONFINITE) { /* the inputs are fine: it is the artifact that gives no score */
        bd_verdict_add(&r->verdict, "SCORE", BD_FAILED, NULL, NULL, "%s", err ? err->msg : bd_status_text(st));
        st = BD_OK;
        goto done;
    }
    if (st) goto done;
    r->scored = true;
    check_cover(&r->verdict, &c, o);
    check_bytes(&r->verdict, a, o, stream.bytes, &r->score);
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
    bd_artifact *a = NULL;
    bd_status st = bd_verify_structure(&a, &r->verdict, map.data, map.size, o->allow_external, err);
    if (st) bd_err_file(err, o->path);
    else check_size(&r->verdict, o->rules, map.size);
    if (a) {
        r->protocol = a->protocol;
        memcpy(r->model_hash, a->model_hash, 32);
        memcpy(r->root_hash, a->root_hash, 32);
        if (o->shards) st = score_all(r, a, be, o, err);
    }
    if (!st) {
        not_reached(&r->verdict, !a          ? "the file is no model that could be scored"
                                 : o->shards ? "the evaluation could not be carried out"
                                             : "no validation shards were given");
        r->overall = bd_verdict_overall(&r->verdict, o->rules);
    }
    bd_artifact_close(a);
    bd_map_close(&map);
    return st;
}
