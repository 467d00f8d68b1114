#include <string.h>

#include "base/sha256.h"
#include "format/artifact_layout.h"
#include "format/codec.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"
#include "format/weight_lrzip.h"

/* A section before it is placed: its table entry and its stored bytes at body[start]. */
typedef struct entry {
    bd_section_type type;
    bd_codec codec;
    uint64_t raw, start, stored;
} entry;

static bd_status add_text(bd_buf *body, entry *e, bd_section_type type, const void *text, uint64_t size,
                          bd_err *err) {
    e->type = type;
    e->raw = size;
    e->start = body->size;
    BD_TRY(bd_codec_pack_best(text, size, body, &e->codec, err));
    e->stored = body->size - e->start;
    return BD_OK;
}

/* The group in the codec asked for, or raw if that is no larger. */
static bd_status pack_group_as(const bd_qgroup *g, bd_codec codec, const bd_buf *raw, bd_buf *out, bd_codec *used,
                               bd_err *err) {
    size_t start = out->size;
    if (codec != BD_CODEC_RAW) {
        BD_TRY(codec == BD_CODEC_RANGE   ? bd_weight_encode(g, out, err)
               : codec == BD_CODEC_LRZIP ? bd_lrzip_pack(g, out, err)
                                         : bd_codec_pack(codec, raw->data, raw->size, out, err));
        *used = codec;
        if (out->size - start < raw->size) return BD_OK;
        out->size = start;
    }
    *used = BD_CODEC_RAW;
    bd_buf_put(out, raw->data, raw->size);
    return bd_buf_check(out, err);
}

static bd_status pack_group_best(const bd_qgroup *g, const bd_buf *raw, bd_buf *out, bd_codec *used, bd_err *err) {
    size_t start = out->size;
    BD_TRY(pack_group_as(g, BD_CODEC_RANGE, raw, out, used, err));
    if (!bd_codec_worth_trying(raw->data, raw->size)) return BD_OK;
    bd_buf other;
    bd_codec codec;
    bd_buf_init(&other);
    bd_status st = bd_codec_pack_best(raw->data, raw->size, &other, &codec, err);
    if (st == BD_OK && other.size <= out->size - start) {
        out->size = start;
        bd_buf_put(out, other.data, other.size);
        *used = codec;
        st = bd_buf_check(out, err);
    }
    bd_buf_free(&other);
    return st;
}

/* The coded section of a group, into `out`. */
static bd_status pack_group(bd_qgroup *g, uint64_t raw_size, bd_buf *out, bd_err *err) {
    size_t start = out->size;
    bd_buf raw;
    bd_buf_init(&raw);
    bd_group_raw_write(g, BD_RAW_ALL, &raw);
    bd_status st = bd_buf_check(&raw, err);
    BD_ASSERT(st != BD_OK || raw.size == raw_size);
    bd_codec used = g->codec;
    if (st == BD_OK)
        st = g->codec == BD_CODEC_COUNT ? pack_group_best(g, &raw, out, &used, err)
                                        : pack_group_as(g, g->codec, &raw, out, &used, err);
    bd_buf_free(&raw);
    if (st != BD_OK) return st;
    g->codec = used;
    g->stored_bytes = out->size - start;
    return BD_OK;
}

/* Its checked size in the raw layout; the section is appended to body (NULL: only its size is asked for). */
static bd_status add_group(bd_buf *body, bd_qgroup *g, uint64_t *raw_size, bd_err *err) {
    BD_TRY(bd_group_check(g, err));
    *raw_size = bd_group_raw_size(g);
    if (*raw_size > UINT32_MAX)
        return BD_FAIL(err, BD_E_LIMIT, "weight group %s has %llu bytes; 2^32 - 1 are possible", g->name,
                       (unsigned long long)*raw_size);
    if ((unsigned)g->codec > BD_CODEC_COUNT)
        return BD_FAIL(err, BD_E_FIELD, "weight group %s has no such codec", g->name);
    if (!g->packed && body) return pack_group(g, *raw_size, body, err);
    bd_buf own, *packed = g->packed ? g->packed : &own;
    bd_buf_init(&own);
    bd_status st = BD_OK;
    if (packed->size == 0) st = pack_group(g, *raw_size, packed, err);
    if (st != BD_OK) packed->size = 0;
    if (st == BD_OK && body) {
        bd_buf_put(body, packed->data, packed->size);
        st = bd_buf_check(body, err);
    }
    bd_buf_free(&own);
    return st;
}

bd_status bd_qgroup_cost(bd_qgroup *g, uint64_t *bytes, bd_err *err) {
    uint64_t raw_size;
    BD_TRY(add_group(NULL, g, &raw_size, err));
    *bytes = BD_ENTRY_BYTES + g->stored_bytes;
    return BD_OK;
}

bd_status bd_qgroup_tensor_bytes(const bd_qgroup *g, double *bytes, bd_err *err) {
    BD_TRY(bd_group_check(g, err));
    if (g->codec == BD_CODEC_RANGE || g->codec == BD_CODEC_COUNT) {
        BD_TRY(bd_weight_price_tensors(g, bytes, err));
        for (uint32_t t = 0; t < g->n_tensors; t++) bytes[t] /= 8;
        return BD_OK;
    }
    double raw = (double)bd_group_raw_size(g), stored = g->stored_bytes ? (double)g->stored_bytes : raw;
    for (uint32_t t = 0; t < g->n_tensors; t++)
        bytes[t] = (double)bd_group_raw_size_of(&g->tensors[t]) * stored / raw;
    return BD_OK;
}

static void put_claim(uint8_t out[BD_CLAIM_BYTES], const bd_claim *c) {
    memset(out, 0, BD_CLAIM_BYTES);
    if (!c->present) return;
    bd_store_u32(out, 1);
    bd_store_u32(out + 4, c->numerics);
    bd_store_u32(out + 8, c->n_shards);
    const uint64_t v[4] = {c->first_target, c->tokens, c->bytes, (uint64_t)c->nll_q32};
    for (int i = 0; i < 4; i++) {
        bd_store_u32(out + 12 + 8 * i, (uint32_t)v[i]);
        bd_store_u32(out + 16 + 8 * i, (uint32_t)(v[i] >> 32));
    }
    memcpy(out + 44, c->shard_sha256, 32 * (size_t)c->n_shards);
}

static bd_status add_raw(bd_buf *body, entry *e, bd_section_type type, const void *data, size_t size, bd_err *err) {
    *e = (entry){.type = type, .codec = BD_CODEC_RAW, .raw = size, .start = body->size, .stored = size};
    bd_buf_put(body, data, size);
    return bd_buf_check(body, err);
}

static bd_status add_tokenizer(const bd_artifact *a, bd_buf *body, entry *e, bd_err *err) {
    uint8_t t[BD_TOKENIZER_BYTES];
    if (a->vocab < 1 || a->vocab > BD_VOCAB_MAX)
        return BD_FAIL(err, BD_E_FIELD, "a vocabulary of %u: 1 to %d is possible", a->vocab, BD_VOCAB_MAX);
    memcpy(t, a->tokenizer_model_hash, 32);
    memcpy(t + 32, a->tokenizer_tables_hash, 32);
    bd_store_u32(t + 64, a->vocab);
    return add_raw(body, e, BD_SEC_TOKENIZER, t, sizeof t, err);
}

/* The four sections before the groups. */
static bd_status add_front(const bd_artifact *a, bd_buf *body, entry *e, bd_err *err) {
    if (a->numerics == 0) return BD_FAIL(err, BD_E_FIELD, "numerics version 0 does not exist");
    if (a->graph_size < 1 || a->graph_size > BD_TEXT_MAX)
        return BD_FAIL(err, BD_E_FIELD, "a model text has 1 to %d bytes", BD_TEXT_MAX);
    if (a->plan_size > BD_TEXT_MAX) return BD_FAIL(err, BD_E_FIELD, "a plan has at most %d bytes", BD_TEXT_MAX);
    BD_TRY(bd_artifact_check_text(a->graph_text, a->graph_size, "model", BD_NO_OFFSET, err));
    BD_TRY(bd_artifact_check_text(a->plan_text, a->plan_size, "plan", BD_NO_OFFSET, err));
    BD_TRY(add_text(body, &e[0], BD_SEC_MODEL, a->graph_text, a->graph_size, err));
    bd_buf protocol;
    bd_buf_init(&protocol);
    bd_status st = bd_protocol_print(&a->protocol, &protocol, err);
    if (st == BD_OK) st = add_text(body, &e[1], BD_SEC_PROTOCOL, protocol.data, protocol.size, err);
    bd_buf_free(&protocol);
    BD_TRY(st);
    BD_TRY(add_tokenizer(a, body, &e[2], err));
    return add_text(body, &e[3], BD_SEC_PLAN, a->plan_text, a->plan_size, err);
}

bd_status bd_artifact_fixed_cost(const bd_artifact *a, uint64_t *bytes, bd_err *err) {
    bd_buf body;
    entry e[4];
    bd_buf_init(&body);
    bd_status st = add_front(a, &body, e, err);
    if (st == BD_OK)
        *bytes = BD_HEADER_BYTES + BD_FIXED_SECTIONS * BD_ENTRY_BYTES + body.size + BD_CLAIM_BYTES + BD_HASH_BYTES;
    bd_buf_free(&body);
    return st;
}

static void put_file(const bd_artifact *a, const entry *e, uint32_t n, const bd_buf *body, bd_buf *out) {
    size_t start = out->size;
    bd_buf_put(out, BD_ARTIFACT_MAGIC, 8);
    bd_buf_u32(out, BD_ARTIFACT_VERSION);
    bd_buf_u32(out, a->numerics);
    bd_buf_u32(out, n);
    bd_buf_u64(out, BD_HEADER_BYTES + (uint64_t)BD_ENTRY_BYTES * n + body->size + BD_HASH_BYTES);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t hash[32];
        bd_buf_u8(out, (uint8_t)e[i].type);
        bd_buf_u8(out, (uint8_t)e[i].codec);
        bd_buf_u32(out, (uint32_t)e[i].stored);
        bd_buf_u32(out, (uint32_t)e[i].raw);
        bd_sha256_of(body->data + e[i].start, e[i].stored, hash);
        bd_buf_put(out, hash, sizeof hash);
    }
    bd_buf_put(out, body->data, body->size);
    if (out->failed) return;
    uint8_t root[32];
    bd_sha256_of(out->data + start, out->size - start, root);
    bd_buf_put(out, root, sizeof root);
}

bd_status bd_artifact_build(const bd_artifact *a, bd_buf *out, bd_err *err) {
    if (a->n_groups < 1 || a->n_groups > BD_GROUPS_MAX)
        return BD_FAIL(err, BD_E_FIELD, "%u weight groups: 1 to %d are possible", a->n_groups, BD_GROUPS_MAX);
    BD_TRY(bd_artifact_check_claim(&a->claim, BD_NO_OFFSET, err));
    uint32_t n = BD_FIXED_SECTIONS + a->n_groups;
    bd_buf body;
    bd_buf_init(&body);
    bd_status st = BD_OK;
    bd_arena *arena = bd_arena_create(0);
    entry *e = arena ? bd_arena_alloc(arena, n, sizeof *e) : NULL;
    if (!e) {
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for %u sections", n);
        goto done;
    }
    BD_TRY_DONE(add_front(a, &body, e, err));
    for (uint32_t g = 0; g < a->n_groups; g++) {
        entry *s = &e[4 + g];
        s->type = BD_SEC_WEIGHTS;
        s->start = body.size;
        BD_TRY_DONE(add_group(&body, &a->groups[g], &s->raw, err));
        s->codec = a->groups[g].codec;
        s->stored = a->groups[g].stored_bytes;
        BD_ASSERT(s->stored == body.size - s->start); /* else `packed` was kept although the group changed hands */
    }
    BD_TRY_DONE(bd_artifact_check_groups(a->groups, a->n_groups, BD_NO_OFFSET, err));
    uint8_t claim[BD_CLAIM_BYTES];
    put_claim(claim, &a->claim);
    BD_TRY_DONE(add_raw(&body, &e[n - 1], BD_SEC_CLAIMS, claim, sizeof claim, err));
    put_file(a, e, n, &body, out);
    st = bd_buf_check(out, err);
done:
    bd_buf_free(&body);
    bd_arena_destroy(arena);
    return st;
}

bd_status bd_artifact_set_claim(void *data, uint64_t size, const bd_claim *claim, bd_err *err) {
    uint8_t *bytes = data;
    uint64_t at;
    uint32_t n;
    BD_TRY(bd_artifact_check_claim(claim, BD_NO_OFFSET, err));
    BD_TRY(bd_artifact_find_claims(data, size, &at, &n, err));
    uint8_t *hash = bytes + BD_HEADER_BYTES + (uint64_t)BD_ENTRY_BYTES * n - BD_HASH_BYTES;
    put_claim(bytes + at, claim);
    bd_sha256_of(bytes + at, BD_CLAIM_BYTES, hash);
    bd_sha256_of(bytes, size - BD_HASH_BYTES, bytes + size - BD_HASH_BYTES);
    return BD_OK;
}
