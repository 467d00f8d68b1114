/* BYTES: what val_bpb divides by. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/verify_impl.h"
#include "verify/verify_text.h"

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

static bool is_control(const bd_tokenizer *t, uint32_t id) {
    return id < t->n && t->pieces[id].type == BD_PIECE_CONTROL;
}

void bd_check_bytes(const bd_verification *x, const bd_score *s) {
    bd_verdict *v = x->v;
    const bd_artifact *a = x->art;
    const bd_verify_opts *o = x->o;
    const uint16_t *bytes = x->bytes;
    char value[32], limit[32], text[300] = "";
    bd_u64_text(value, s->bytes);
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
    uint64_t tables = 0, sidecar = 0, control = 0, first_control = 0;
    uint64_t n = s->tokens < x->targets ? s->tokens : x->targets; /* more were scored: COVER says so */
    for (uint64_t t = 1; t <= n; t++) {
        if (o->tokenizer)
            tables += bd_tokenizer_bytes(o->tokenizer, o->shards->tokens[t - 1], o->shards->tokens[t]);
        if (o->sidecar) sidecar += o->sidecar[t];
        if (!o->sidecar || !o->tokenizer || !o->sidecar[t] || !is_control(o->tokenizer, o->shards->tokens[t]))
            continue;
        if (!control++) first_control = t;
    }
    bd_u64_text(limit, o->sidecar ? sidecar : tables);
    if (strcmp(value, limit) != 0) {
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit,
                       "the evaluation counted %s bytes, a second count gives %s", value, limit);
        return;
    }
    if (control) {
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit,
                       "the sidecar gives bytes to control tokens, which stand for no text: %" PRIu64
                       " times, first at target %" PRIu64,
                       control, first_control);
        return;
    }
    const bd_rules *r = o->rules;
    if (r->canonical_bytes && fabs((double)s->bytes / (double)r->canonical_bytes - 1) > r->tolerance) {
        bd_u64_text(limit, r->canonical_bytes);
        bd_verdict_add(v, "BYTES", BD_FAILED, value, limit, "%s bytes counted, the rules' canonical count is %s",
                       value, limit);
        return;
    }
    bd_outcome out = BD_PASS;
    bool proven = false; /* some document's bytes were counted against its original text */
    if (o->text && o->tokenizer) {
        bd_text_match m;
        bd_text_compare(&m, o->tokenizer, o->shards->tokens, bytes, n + 1, n + 1 == o->shards->total, o->text,
                        o->text_size);
        add_text(text, sizeof text, &m);
        if (m.counted != m.original) {
            char want[32];
            bd_u64_text(want, s->bytes - m.counted + m.original);
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
