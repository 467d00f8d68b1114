#include "format/proof.h"

#include <inttypes.h>
#include <string.h>

#include "base/sha256.h"

enum { HEADER = 122, HASH = 32, MAX_PROTOCOL = 4096 };
#define DEFAULT_MAX_TOKENS ((uint64_t)1 << 28)
#define FORMAT_MAX_TOKENS  ((uint64_t)1 << 40)

static const uint8_t magic[8] = {0x89, 'B', 'R', 'P', 0x0d, 0x0a, 0x1a, 0x0a};

/* A token takes 31 bits at most, and the end of the stream a few bytes. */
static uint64_t most_code(uint64_t tokens) { return 4 * tokens + 8; }

void bd_proof_hash_tokens(const uint16_t *tokens, uint64_t n, uint8_t out[32]) {
    bd_sha256 h;
    bd_sha256_init(&h);
    for (uint64_t i = 0; i < n;) {
        uint8_t b[512];
        size_t k = 0;
        for (; k < sizeof b && i < n; i++) {
            b[k++] = (uint8_t)tokens[i];
            b[k++] = (uint8_t)(tokens[i] >> 8);
        }
        bd_sha256_add(&h, b, k);
    }
    bd_sha256_end(&h, out);
}

static bd_status check_numbers(const bd_proof *p, uint32_t protocol_size, uint64_t max_tokens, bd_err *err) {
    if (p->numerics == 0) return BD_FAIL_AT(err, BD_E_FIELD, 12, "numerics version 0");
    if (p->tokens == 0 || p->tokens > FORMAT_MAX_TOKENS)
        return BD_FAIL_AT(err, BD_E_FIELD, 16, "%" PRIu64 " tokens", p->tokens);
    if (p->tokens > max_tokens)
        return BD_FAIL_AT(err, BD_E_LIMIT, 16, "%" PRIu64 " tokens, the limit is %" PRIu64, p->tokens, max_tokens);
    if (p->first_target != 1)
        return BD_FAIL_AT(err, BD_E_FIELD, 24, "first target %" PRIu64 ", must be 1", p->first_target);
    if (p->n_shards < 1 || p->n_shards > BD_PROOF_MAX_SHARDS)
        return BD_FAIL_AT(err, BD_E_FIELD, 34, "%" PRIu32 " shards: 1 to %d are possible", p->n_shards,
                          BD_PROOF_MAX_SHARDS);
    if (protocol_size < 1 || protocol_size > MAX_PROTOCOL)
        return BD_FAIL_AT(err, BD_E_FIELD, 38, "a protocol of %" PRIu32 " bytes", protocol_size);
    if (p->nll_q32 < 0) return BD_FAIL_AT(err, BD_E_FIELD, 42, "nll_q32 is negative");
    if (p->code_size > most_code(p->tokens))
        return BD_FAIL_AT(err, BD_E_FIELD, 50, "%" PRIu64 " bytes of code for %" PRIu64 " tokens", p->code_size,
                          p->tokens);
    return BD_OK;
}

/* The end of the file: everything is there, nothing follows, and the hash fits. */
static bd_status check_end(const uint8_t *data, uint64_t size, uint64_t declared, bd_err *err) {
    uint8_t hash[HASH];
    if (size < declared)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, size, "the proof ends after %" PRIu64 " of %" PRIu64 " bytes", size,
                          declared);
    if (size > declared)
        return BD_FAIL_AT(err, BD_E_NONCANON, declared, "%" PRIu64 " bytes after the end of the proof",
                          size - declared);
    bd_sha256_of(data, size - HASH, hash);
    if (memcmp(hash, data + size - HASH, HASH) != 0)
        return BD_FAIL_AT(err, BD_E_CHECKSUM, size - HASH, "the proof's hash does not fit its contents");
    return BD_OK;
}

bd_status bd_proof_parse(bd_proof *p, const void *data, uint64_t size, uint64_t max_tokens, bd_err *err) {
    const uint8_t *bytes = data;
    bd_rd r;
    memset(p, 0, sizeof *p);
    if (size == 0 || memcmp(bytes, magic, size < sizeof magic ? size : sizeof magic) != 0)
        return BD_FAIL_AT(err, BD_E_MAGIC, 0, "not a proof");
    if (size < HEADER) return BD_FAIL_AT(err, BD_E_TRUNCATED, size, "the proof ends inside its header");
    bd_rd_init(&r, data, size);
    bd_rd_bytes(&r, sizeof magic);
    uint32_t version = bd_rd_u32(&r);
    if (version != BD_PROOF_VERSION)
        return BD_FAIL_AT(err, BD_E_VERSION, 8, "proof version %" PRIu32 ", this reader knows %d", version,
                          BD_PROOF_VERSION);
    p->numerics = bd_rd_u32(&r);
    p->tokens = bd_rd_u64(&r);
    p->first_target = bd_rd_u64(&r);
    p->first_token = bd_rd_u16(&r);
    p->n_shards = bd_rd_u32(&r);
    uint32_t protocol_size = bd_rd_u32(&r);
    p->nll_q32 = (int64_t)bd_rd_u64(&r);
    p->code_size = bd_rd_u64(&r);
    memcpy(p->model_hash, bd_rd_bytes(&r, HASH), HASH);
    memcpy(p->tokens_hash, bd_rd_bytes(&r, HASH), HASH);
    BD_TRY(check_numbers(p, protocol_size, max_tokens ? max_tokens : DEFAULT_MAX_TOKENS, err));
    uint64_t shards = (uint64_t)p->n_shards * HASH, protocol_at = HEADER + shards;
    uint64_t code_at = protocol_at + protocol_size;
    BD_TRY(check_end(data, size, code_at + p->code_size + HASH, err));
    memcpy(p->shard_sha256, bytes + HEADER, shards);
    bd_err e = {0};
    bd_status st = bd_protocol_parse(&p->protocol, (const char *)bytes + protocol_at, protocol_size, &e);
    if (st != BD_OK) return BD_FAIL_AT(err, st, protocol_at, "%s", e.msg);
    p->code = bytes + code_at;
    if (p->code_size && p->code[p->code_size - 1] == 0)
        return BD_FAIL_AT(err, BD_E_NONCANON, code_at + p->code_size - 1, "the code ends with a zero byte");
    return BD_OK;
}

bd_status bd_proof_build(const bd_proof *p, bd_buf *out, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = BD_OK;
    BD_TRY_DONE(bd_protocol_print(&p->protocol, &text, err));
    BD_TRY_DONE(check_numbers(p, (uint32_t)text.size, FORMAT_MAX_TOKENS, err));
    size_t start = out->size;
    bd_buf_put(out, magic, sizeof magic);
    bd_buf_u32(out, BD_PROOF_VERSION);
    bd_buf_u32(out, p->numerics);
    bd_buf_u64(out, p->tokens);
    bd_buf_u64(out, p->first_target);
    bd_buf_u16(out, p->first_token);
    bd_buf_u32(out, p->n_shards);
    bd_buf_u32(out, (uint32_t)text.size);
    bd_buf_u64(out, (uint64_t)p->nll_q32);
    bd_buf_u64(out, p->code_size);
    bd_buf_put(out, p->model_hash, HASH);
    bd_buf_put(out, p->tokens_hash, HASH);
    bd_buf_put(out, p->shard_sha256, (size_t)p->n_shards * HASH);
    bd_buf_put(out, text.data, text.size);
    bd_buf_put(out, p->code, p->code_size);
    BD_TRY_DONE(bd_buf_check(out, err));
    uint8_t hash[HASH];
    bd_sha256_of(out->data + start, out->size - start, hash);
    bd_buf_put(out, hash, HASH);
    st = bd_buf_check(out, err);
done:
    bd_buf_free(&text);
    return st;
}
