/* SentencePiece .model files, as far as scoring needs them: pieces, their types
 * and the three byte tables of the challenge. Encoding text is done by the
 * SentencePiece library behind cli/sp_shim.h; nothing here needs it.
 *
 * bytes(p, t) = base[t] + (lead[t] && !bound[p]) for previous token p, target t. */
#ifndef BD_FORMAT_TOKENIZER_H
#define BD_FORMAT_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef enum bd_piece_type {
    BD_PIECE_NORMAL = 1,
    BD_PIECE_UNKNOWN,
    BD_PIECE_CONTROL,
    BD_PIECE_USER,
    BD_PIECE_UNUSED,
    BD_PIECE_BYTE
} bd_piece_type;

typedef struct bd_piece {
    const char *text; /* UTF-8, terminated; may not contain NUL */
    uint32_t len;
    float score;
    bd_piece_type type;
} bd_piece;

typedef struct bd_tokenizer {
    bd_piece *pieces;
    uint32_t n;
    int32_t bos, eos, unk, pad; /* -1: absent */
    /* tables over ids, (n) */
    uint16_t *base;
    uint8_t *lead, *bound;
    uint8_t model_hash[32];  /* SHA-256 of the file */
    uint8_t tables_hash[32]; /* SHA-256 of n as u32, then per id u16 base, u8 lead, u8 bound */
    struct bd_arena *arena;
} bd_tokenizer;

bd_status bd_tokenizer_open(bd_tokenizer **out, const char *path, bd_err *err);
bd_status bd_tokenizer_parse(bd_tokenizer **out, const void *data, uint64_t size, bd_err *err);
void bd_tokenizer_close(bd_tokenizer *t);
/* Bytes of target t after previous token p; ids at or above n: 0 and boundary. */
uint32_t bd_tokenizer_bytes(const bd_tokenizer *t, uint32_t p, uint32_t target);
/* Per-position byte counts for a stream: out[0] = 0, out[i] = bytes(tokens[i-1], tokens[i]). */
void bd_tokenizer_stream_bytes(const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, uint16_t *out);
/* Append the text of ids: byte pieces joined, U+2581 as space, control pieces nothing, no space at a document's
 * start. */
bd_status bd_tokenizer_decode(const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, bd_buf *out, bd_err *err);

#endif
