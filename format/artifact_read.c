#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/sha256.h"
#include "format/artifact_layout.h"
#include "format/codec.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"
#include "format/weight_lrzip.h"

const char *bd_qmethod_name(bd_qmethod m) {
    static const char *const names[BD_Q_COUNT] = {"f16", "row", "ternary", "f32", "tcq", "log", "lqer"};
    return (unsigned)m < BD_Q_COUNT ? names[m] : "unknown";
}

bd_artifact_limits bd_artifact_limits_default(void) {
    bd_artifact_limits l = {.file_bytes = (uint64_t)1 << 29,
                            .decoded_bytes = (uint64_t)1 << 29,
                            .tensors = 1 << 16,
                            .elements = (uint64_t)1 << 28};
    return l;
}

bool bd_artifact_is(const void *data, uint64_t size) {
    return size >= 8 && memcmp(data, BD_ARTIFACT_MAGIC, 8) == 0;
}

/* --- rules shared with the writer --- */

bd_status bd_artifact_check_text(const char *text, uint64_t size, const char *what, uint64_t place, bd_err *err) {
    for (uint64_t i = 0; i < size; i++)
        if (text[i] != '\n' && (text[i] < 0x20 || text[i] > 0x7e))
            return BD_FAIL_AT(err, BD_E_SYNTAX, place,
                              "byte 0x%02x in the %s text: printable ASCII and newlines are allowed",
                              (unsigned char)text[i], what);
    return BD_OK;
}

bd_status bd_artifact_check_claim(const bd_claim *c, uint64_t place, bd_err *err) {
    if (!c->present) return BD_OK;
    if (c->numerics == 0 || c->tokens == 0 || c->bytes == 0 || c->nll_q32 < 0)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "the claim has an illegal number");
    if (c->n_shards < 1 || c->n_shards > BD_CLAIM_MAX_SHARDS)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "a claim is about 1 to %d shards, not %u", BD_CLAIM_MAX_SHARDS,
                          c->n_shards);
    return BD_OK;
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

bd_status bd_artifact_check_groups(const bd_qgroup *groups, uint32_t n, uint64_t place, bd_err *err) {
    uint64_t total = 0, at = 0;
    for (uint32_t g = 0; g < n; g++) {
        if (g && groups[g].tensors[0].param <= groups[g - 1].tensors[0].param)
            return BD_FAIL_AT(err, BD_E_NONCANON, place,
                              "weight group %s comes after one with a later first parameter", groups[g].name);
        total += groups[g].n_tensors;
    }
    uint32_t *all = calloc(total, sizeof *all);
    if (!all) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %llu parameters", (unsigned long long)total);
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t t = 0; t < groups[g].n_tensors; t++) all[at++] = groups[g].tensors[t].param;
    qsort(all, total, sizeof *all, compare_u32);
    bd_status st = BD_OK;
    for (uint64_t i = 1; i < total && st == BD_OK; i++)
        if (all[i] == all[i - 1])
            st = BD_FAIL_AT(err, BD_E_NONCANON, place, "parameter %u occurs in two weight groups", all[i]);
    free(all);
    return st;
}

void bd_artifact_model_hash(const uint8_t *data, uint32_t n_sections, uint64_t claims_offset, uint8_t out[32]) {
    uint64_t table_end = BD_HEADER_BYTES + (uint64_t)BD_ENTRY_BYTES * n_sections;
    bd_sha256 s;
    bd_sha256_init(&s);
    bd_sha256_add(&s, data, table_end - BD_ENTRY_BYTES);
    bd_sha256_add(&s, data + table_end, claims_offset - table_end);
    bd_sha256_end(&s, out);
}

/* --- reading --- */

typedef struct reader {
    bd_artifact *a;
    const uint8_t *data;
    uint64_t size;
    bd_artifact_limits lim;
    bd_section_type *types;
    bd_err *err;
} reader;

static bd_status read_header(reader *r, uint32_t *n_sections) {
    bd_err *err = r->err;
    if (r->size > r->lim.file_bytes)
        return BD_FAIL(err, BD_E_LIMIT, "the artifact has %llu bytes; the limit is %llu",
                       (unsigned long long)r->size, (unsigned long long)r->lim.file_bytes);
    if (memcmp(r->data, BD_ARTIFACT_MAGIC, r->size < 8 ? r->size : 8) != 0)
        return BD_FAIL_AT(err, BD_E_MAGIC, 0, "not an artifact: it begins with other bytes");
    bd_rd rd;
    bd_rd_init(&rd, r->data, r->size);
    bd_rd_bytes(&rd, 8);
    r->a->version = bd_rd_u32(&rd);
    r->a->numerics = bd_rd_u32(&rd);
    *n_sections = bd_rd_u32(&rd);
    uint64_t file_size = bd_rd_u64(&rd);
    if (rd.failed) return BD_FAIL_AT(err, BD_E_TRUNCATED, r->size, "the artifact ends inside its header");
    if (r->a->version != BD_ARTIFACT_VERSION)
        return BD_FAIL_AT(err, BD_E_VERSION, 8, "format version %u; this reader knows %u", r->a->version,
                          BD_ARTIFACT_VERSION);
    if (r->a->numerics == 0) return BD_FAIL_AT(err, BD_E_FIELD, 12, "numerics version 0 does not exist");
    if (*n_sections <= BD_FIXED_SECTIONS || *n_sections > BD_FIXED_SECTIONS + BD_GROUPS_MAX)
        return BD_FAIL_AT(err, BD_E_FIELD, 16, "%u sections; there are %d to %d", *n_sections,
                          BD_FIXED_SECTIONS + 1, BD_FIXED_SECTIONS + BD_GROUPS_MAX);
    if (file_size > r->size)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, r->size, "the artifact has %llu of its %llu bytes",
                          (unsigned long long)r->size, (unsigned long long)file_size);
    if (file_size < r->size)
        return BD_FAIL_AT(err, BD_E_NONCANON, file_size, "%llu bytes after the artifact's end",
                          (unsigned long long)(r->size - file_size));
    if (r->size < BD_HEADER_BYTES + (uint64_t)BD_ENTRY_BYTES * *n_sections + BD_HASH_BYTES)
        return BD_FAIL_AT(err, BD_E_FIELD, 16, "the table of %u sections is larger than the file", *n_sections);
    return BD_OK;
}

static bd_status check_entry(reader *r, bd_section_type type, unsigned codec, uint64_t stored, uint64_t raw,
                             uint64_t at) {
    static const struct {
        unsigned codecs; /* highest codec allowed */
        uint64_t low, high;
    } rule[] = {
        [BD_SEC_MODEL] = {BD_CODEC_XZ, 1, BD_TEXT_MAX},
        [BD_SEC_PROTOCOL] = {BD_CODEC_XZ, 1, BD_PROTOCOL_MAX},
        [BD_SEC_TOKENIZER] = {BD_CODEC_RAW, BD_TOKENIZER_BYTES, BD_TOKENIZER_BYTES},
        [BD_SEC_PLAN] = {BD_CODEC_XZ, 0, BD_TEXT_MAX},
        [BD_SEC_WEIGHTS] = {BD_CODEC_LRZIP, 1, UINT32_MAX},
        [BD_SEC_CLAIMS] = {BD_CODEC_RAW, BD_CLAIM_BYTES, BD_CLAIM_BYTES},
    };
    if (codec > rule[type].codecs)
        return BD_FAIL_AT(r->err, BD_E_FIELD, at + 1, "codec %u is not allowed in this section", codec);
    if (codec == BD_CODEC_LRZIP && !r->lim.allow_external)
        return BD_FAIL_AT(r->err, BD_E_REFUSED, at + 1,
                          "a weight group needs the external program lrzip: --allow-external permits that");
    if (raw < rule[type].low || raw > rule[type].high)
        return BD_FAIL_AT(r->err, BD_E_FIELD, at + 6, "a section of this type cannot have %llu bytes",
                          (unsigned long long)raw);
    if (codec == BD_CODEC_RAW && stored != raw)
        return BD_FAIL_AT(r->err, BD_E_FIELD, at + 2, "a raw section's sizes differ");
    if (codec != BD_CODEC_RAW && (stored == 0 || stored >= raw))
        return BD_FAIL_AT(r->err, BD_E_NONCANON, at + 2,
                          "a coded section is smaller than its contents, or it is stored raw");
    return BD_OK;
}

static bd_status read_table(reader *r, uint32_t n) {
    static const char *const names[] = {"", "model", "protocol", "tokenizer", "plan", "weights", "claims"};
    bd_artifact *a = r->a;
    a->sections = bd_arena_alloc(a->arena, n, sizeof *a->sections);
    r->types = bd_arena_alloc(a->arena, n, sizeof *r->types);
    if (!a->sections || !r->types) return BD_FAIL(r->err, BD_E_NOMEM, "no memory for %u sections", n);
    a->n_sections = n;
    bd_rd rd;
    bd_rd_init(&rd, r->data, r->size);
    bd_rd_bytes(&rd, BD_HEADER_BYTES);
    uint64_t offset = BD_HEADER_BYTES + (uint64_t)BD_ENTRY_BYTES * n, decoded = 0;
    for (uint32_t i = 0; i < n; i++) {
        bd_section_info *s = &a->sections[i];
        uint64_t at = rd.pos;
        unsigned want = i < 4 ? BD_SEC_MODEL + i : i + 1 < n ? BD_SEC_WEIGHTS : BD_SEC_CLAIMS;
        unsigned type = bd_rd_u8(&rd), codec = bd_rd_u8(&rd);
        s->stored = bd_rd_u32(&rd);
        s->raw = bd_rd_u32(&rd);
        memcpy(s->sha256, bd_rd_bytes(&rd, BD_HASH_BYTES), BD_HASH_BYTES);
        if (type != want)
            return BD_FAIL_AT(r->err, BD_E_FIELD, at, "section %u has type %u; its place is for type %u", i, type,
                              want);
        BD_TRY(check_entry(r, (bd_section_type)type, codec, s->stored, s->raw, at));
        r->types[i] = (bd_section_type)type;
        s->name = names[type];
        s->codec = (bd_codec)codec;
        s->offset = offset;
        offset += s->stored;
        decoded += s->raw;
        if (decoded > r->lim.decoded_bytes)
            return BD_FAIL_AT(r->err, BD_E_LIMIT, at + 6, "the sections unpack to more than %llu bytes",
                              (unsigned long long)r->lim.decoded_bytes);
    }
    if (offset + BD_HASH_BYTES != r->size)
        return BD_FAIL_AT(r->err, BD_E_FIELD, 20, "the sections end at byte %llu, the file at %llu",
                          (unsigned long long)(offset + BD_HASH_BYTES), (unsigned long long)r->size);
    return BD_OK;
}

static bd_status check_hashes(reader *r) {
    bd_artifact *a = r->a;
    uint8_t hash[32];
    for (uint32_t i = 0; i < a->n_sections; i++) {
        const bd_section_info *s = &a->sections[i];
        bd_sha256_of(r->data + s->offset, s->stored, hash);
        if (memcmp(hash, s->sha256, 32) != 0)
            return BD_FAIL_AT(r->err, BD_E_CHECKSUM, s->offset, "section %u (%s) is damaged: its hash differs", i,
                              s->name);
    }
    memcpy(a->root_hash, r->data + r->size - BD_HASH_BYTES, 32);
    bd_sha256_of(r->data, r->size - BD_HASH_BYTES, hash);
    if (memcmp(hash, a->root_hash, 32) != 0)
        return BD_FAIL_AT(r->err, BD_E_CHECKSUM, r->size - BD_HASH_BYTES,
                          "header or section table are damaged: the root hash differs");
    bd_artifact_model_hash(r->data, a->n_sections, a->sections[a->n_sections - 1].offset, a->model_hash);
    return BD_OK;
}

/* Bytes of a section that went through a byte codec; terminated. */
static bd_status unpack(reader *r, const bd_section_info *s, char **out) {
    char *p = bd_arena_alloc(r->a->arena, s->raw + 1, 1);
    if (!p) return BD_FAIL_AT(r->err, BD_E_NOMEM, s->offset, "no memory for section %s", s->name);
    BD_TRY(bd_codec_unpack(s->codec, r->data + s->offset, s->stored, p, s->raw, s->offset, r->err));
    *out = p;
    return BD_OK;
}

static bd_status read_text(reader *r, const bd_section_info *s, const char **text, uint64_t *size) {
    char *p = NULL;
    BD_TRY(unpack(r, s, &p));
    BD_TRY(bd_artifact_check_text(p, s->raw, s->name, s->offset, r->err));
    *text = p;
    *size = s->raw;
    return BD_OK;
}

static bd_status read_protocol(reader *r, const bd_section_info *s) {
    char *p = NULL;
    BD_TRY(unpack(r, s, &p));
    bd_status st = bd_protocol_parse(&r->a->protocol, p, s->raw, r->err);
    if (st != BD_OK && r->err) r->err->offset = s->offset;
    return st;
}

static bd_status read_tokenizer(reader *r, const bd_section_info *s) {
    bd_artifact *a = r->a;
    bd_rd rd;
    bd_rd_init(&rd, r->data + s->offset, s->stored);
    memcpy(a->tokenizer_model_hash, bd_rd_bytes(&rd, 32), 32);
    memcpy(a->tokenizer_tables_hash, bd_rd_bytes(&rd, 32), 32);
    a->vocab = bd_rd_u32(&rd);
    if (a->vocab < 1 || a->vocab > BD_VOCAB_MAX)
        return BD_FAIL_AT(r->err, BD_E_FIELD, s->offset + 64, "a vocabulary of %u: 1 to %d is possible", a->vocab,
                          BD_VOCAB_MAX);
    return BD_OK;
}

static bd_status read_group(reader *r, bd_section_info *s, bd_qgroup *g, bd_group_budget *budget) {
    g->codec = s->codec;
    g->stored_bytes = s->stored;
    bd_status st;
    if (s->codec == BD_CODEC_RANGE) {
        st = bd_weight_decode(g, r->a->arena, r->data + s->offset, s->stored, s->raw, budget, s->offset, r->err);
    } else if (s->codec == BD_CODEC_LRZIP) {
        st = bd_lrzip_unpack(g, r->a->arena, r->data + s->offset, s->stored, s->raw, budget, s->offset, r->err);
    } else {
        uint8_t *raw = malloc(s->raw);
        if (!raw)
            return BD_FAIL_AT(r->err, BD_E_NOMEM, s->offset, "no memory for %llu bytes of weights",
                              (unsigned long long)s->raw);
        st = bd_codec_unpack(s->codec, r->data + s->offset, s->stored, raw, s->raw, s->offset, r->err);
        if (st == BD_OK)
            st = bd_group_raw_read(g, BD_RAW_ALL, r->a->arena, raw, s->raw, NULL, budget, s->offset, r->err);
        free(raw);
    }
    if (st == BD_OK) s->name = g->name;
    return st;
}

static bd_status read_claim(reader *r, const bd_section_info *s) {
    bd_claim *c = &r->a->claim;
    bd_rd rd;
    bd_rd_init(&rd, r->data + s->offset, s->stored);
    uint32_t present = bd_rd_u32(&rd);
    if (present > 1)
        return BD_FAIL_AT(r->err, BD_E_FIELD, s->offset, "a claim is present (1) or not (0), not %u", present);
    c->present = present;
    c->numerics = bd_rd_u32(&rd);
    c->n_shards = bd_rd_u32(&rd);
    c->first_target = bd_rd_u64(&rd);
    c->tokens = bd_rd_u64(&rd);
    c->bytes = bd_rd_u64(&rd);
    c->nll_q32 = (int64_t)bd_rd_u64(&rd);
    uint64_t hashes = s->offset + rd.pos;
    memcpy(c->shard_sha256, bd_rd_bytes(&rd, sizeof c->shard_sha256), sizeof c->shard_sha256);
    BD_TRY(bd_artifact_check_claim(c, s->offset, r->err));
    /* What is not used is zero: all of an absent claim, the places of further shards. */
    for (uint64_t i = c->present ? hashes + 32 * (uint64_t)c->n_shards : s->offset; i < s->offset + s->stored; i++)
        if (r->data[i]) return BD_FAIL_AT(r->err, BD_E_NONCANON, i, "an unused byte of the claims is not zero");
    return BD_OK;
}

static bd_status read_all(reader *r) {
    bd_artifact *a = r->a;
    uint32_t n = 0;
    BD_TRY(read_header(r, &n));
    BD_TRY(read_table(r, n));
    BD_TRY(check_hashes(r));
    a->n_groups = n - BD_FIXED_SECTIONS;
    a->groups = bd_arena_alloc(a->arena, a->n_groups, sizeof *a->groups);
    if (!a->groups) return BD_FAIL(r->err, BD_E_NOMEM, "no memory for %u weight groups", a->n_groups);
    bd_section_info *s = a->sections;
    BD_TRY(read_text(r, &s[0], &a->graph_text, &a->graph_size));
    BD_TRY(read_protocol(r, &s[1]));
    BD_TRY(read_tokenizer(r, &s[2]));
    BD_TRY(read_text(r, &s[3], &a->plan_text, &a->plan_size));
    bd_group_budget budget = {r->lim.tensors, r->lim.elements};
    for (uint32_t g = 0; g < a->n_groups; g++) BD_TRY(read_group(r, &s[4 + g], &a->groups[g], &budget));
    BD_TRY(bd_artifact_check_groups(a->groups, a->n_groups, s[4].offset, r->err));
    return read_claim(r, &s[n - 1]);
}

bd_status bd_artifact_find_claims(const void *data, uint64_t size, uint64_t *offset, uint32_t *n_sections,
                                  bd_err *err) {
    bd_arena *arena = bd_arena_create(0);
    bd_artifact *a = arena ? bd_arena_alloc(arena, 1, sizeof *a) : NULL;
    reader r = {.a = a, .data = data ? data : "", .size = size, .lim = bd_artifact_limits_default(), .err = err};
    bd_status st = BD_OK;
    if (!a) {
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for an artifact");
        goto done;
    }
    a->arena = arena;
    r.lim.allow_external = true; /* nothing is unpacked */
    BD_TRY_DONE(read_header(&r, n_sections));
    BD_TRY_DONE(read_table(&r, *n_sections));
    BD_TRY_DONE(check_hashes(&r));
    *offset = a->sections[*n_sections - 1].offset;
done:
    bd_arena_destroy(arena);
    return st;
}

bd_status bd_artifact_parse(bd_artifact **out, const void *data, uint64_t size, const bd_artifact_limits *lim,
                            bd_err *err) {
    *out = NULL;
    bd_arena *arena = bd_arena_create(0);
    bd_artifact *a = arena ? bd_arena_alloc(arena, 1, sizeof *a) : NULL;
    if (!a) {
        bd_arena_destroy(arena);
        return BD_FAIL(err, BD_E_NOMEM, "no memory for an artifact");
    }
    a->arena = arena;
    reader r = {.a = a, .data = data ? data : "", .size = size, .err = err};
    r.lim = lim ? *lim : bd_artifact_limits_default();
    bd_status st = read_all(&r);
    if (st == BD_OK) *out = a;
    else bd_artifact_close(a);
    return st;
}

bd_status bd_artifact_open(bd_artifact **out, const char *path, const bd_artifact_limits *lim, bd_err *err) {
    bd_map m;
    *out = NULL;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_artifact_parse(out, m.data, m.size, lim, err);
    if (st != BD_OK) bd_err_file(err, path);
    bd_map_close(&m);
    return st;
}

void bd_artifact_close(bd_artifact *a) {
    if (a) bd_arena_destroy(a->arena);
}
