/* Finding long pieces of a token stream inside bytes, by seed and extend: every
 * place where 12 bytes equal six tokens (little-endian 16-bit words) is extended
 * both ways, token by token. */
#ifndef BD_VERIFY_SEED_MATCH_H
#define BD_VERIFY_SEED_MATCH_H

#include <stdbool.h>

#include "base/status.h"

typedef struct bd_seed_index bd_seed_index;

/* Seeds stand at every eighth token, so every match of 13 tokens and more is found, unless its seeds are made of
 * one or two tokens or occurred eight times before. The tokens are borrowed. */
bd_status bd_seed_index_open(bd_seed_index **out, const uint16_t *tokens, uint64_t n, bd_err *err);
void bd_seed_index_close(bd_seed_index *x); /* accepts NULL */

typedef struct bd_seed_hit {
    uint64_t tokens;    /* length; 0: none */
    uint64_t at_token;  /* where it begins in the stream */
    uint64_t at_byte;   /* and in the bytes */
    uint32_t different; /* tokens of it, counted to 64 */
} bd_seed_hit;
/* The longest match anywhere in the bytes, at any byte offset. Matches of fewer than four different tokens only
 * count where no other is found: they are runs of one filler. */
void bd_seed_scan(const bd_seed_index *x, const uint8_t *bytes, uint64_t size, bd_seed_hit *best);
/* Is it longer, in that sense? */
bool bd_seed_better(const bd_seed_hit *a, const bd_seed_hit *b);

#endif
