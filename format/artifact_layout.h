/* Numbers of the container that its reader and writer share; format/SPEC.md
 * says what they mean. */
#ifndef BD_FORMAT_ARTIFACT_LAYOUT_H
#define BD_FORMAT_ARTIFACT_LAYOUT_H

#include <stdint.h>

#include "format/artifact.h"

#define BD_ARTIFACT_MAGIC \
    "\x89"                \
    "BRD\r\n\x1a\n"

enum {
    BD_ARTIFACT_VERSION = 2,
    BD_HEADER_BYTES = 28,
    BD_ENTRY_BYTES = 42,
    BD_HASH_BYTES = 32,
    BD_TOKENIZER_BYTES = 68,
    BD_CLAIM_BYTES = 44 + 32 * BD_CLAIM_MAX_SHARDS,
    BD_GROUPS_MAX = 1000,
    BD_FIXED_SECTIONS = 5, /* all but the groups */
    BD_TEXT_MAX = 1 << 24,
    BD_PROTOCOL_MAX = 4096,
    BD_VOCAB_MAX = 65536
};

typedef enum bd_section_type {
    BD_SEC_MODEL = 1,
    BD_SEC_PROTOCOL,
    BD_SEC_TOKENIZER,
    BD_SEC_PLAN,
    BD_SEC_WEIGHTS,
    BD_SEC_CLAIMS
} bd_section_type;

/* Reading and writing agree on these rules. `place` is the file offset that errors name. */
bd_status bd_artifact_check_text(const char *text, uint64_t size, const char *what, uint64_t place, bd_err *err);
bd_status bd_artifact_check_claim(const bd_claim *c, uint64_t place, bd_err *err);
/* Order of parameters over all groups. */
bd_status bd_artifact_check_groups(const bd_qgroup *groups, uint32_t n, uint64_t place, bd_err *err);
void bd_artifact_model_hash(const uint8_t *data, uint32_t n_sections, uint64_t claims_offset, uint8_t out[32]);

/* Where the claims section of a valid artifact begins; the contents of sections are not decoded. */
bd_status bd_artifact_find_claims(const void *data, uint64_t size, uint64_t *offset, uint32_t *n_sections,
                                  bd_err *err);

static inline void bd_store_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

#endif
