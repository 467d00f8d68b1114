/* A proof file: that an artifact predicts a stream as well as it says (format/SPEC.md,
 * "Proof"). This is its container; the code inside is read by format/freq_coder.h,
 * with the predictions of the artifact. */
#ifndef BD_FORMAT_PROOF_H
#define BD_FORMAT_PROOF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "format/protocol.h"

enum { BD_PROOF_VERSION = 1, BD_PROOF_MAX_SHARDS = 8 };

typedef struct bd_proof {
    uint32_t numerics;
    uint64_t tokens;       /* coded targets: stream tokens [first_target, first_target + tokens) */
    uint64_t first_target; /* 1 */
    uint16_t first_token;  /* stream token 0: context, not coded */
    uint32_t n_shards;     /* shards whose joined stream was coded, from its start */
    uint8_t shard_sha256[BD_PROOF_MAX_SHARDS][32];
    bd_protocol protocol;
    int64_t nll_q32;
    uint8_t model_hash[32];  /* of the artifact */
    uint8_t tokens_hash[32]; /* of stream tokens [0, tokens] as 16-bit little-endian integers */
    const uint8_t *code;     /* (code_size); the reader's points into the file */
    uint64_t code_size;
} bd_proof;

/* max_tokens: 0 means the default limit, 2^28. Offsets are those of the file. */
bd_status bd_proof_parse(bd_proof *p, const void *data, uint64_t size, uint64_t max_tokens, bd_err *err);
bd_status bd_proof_build(const bd_proof *p, bd_buf *out, bd_err *err);
/* What tokens_hash is of tokens [0, n). */
void bd_proof_hash_tokens(const uint16_t *tokens, uint64_t n, uint8_t out[32]);

#endif
