/* CaseOps: text with capital letters moved into four control code points, so
 * that a tokenizer sees one spelling of each word. Lossless: decode(encode(s))
 * is s for every valid UTF-8 text s.
 *
 *     "The NASA Launch A iPhone"  ->  T"the " C"nasa " T"launch " T"a i" N"phone"
 *     T title, C all capitals, N next letter capital, E the next code point is literal
 *
 * A tokenizer of such text cannot tell from its tables how many bytes of the
 * original a token stands for; the byte counter below can, from the pieces of
 * transformed text (surfaces) that the tokenizer aligned its tokens with. */
#ifndef BD_FORMAT_CASEOPS_H
#define BD_FORMAT_CASEOPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

enum { BD_CASEOPS_TITLE = 0xe001, BD_CASEOPS_ALLCAPS, BD_CASEOPS_CAPNEXT, BD_CASEOPS_ESC };
/* The controls as SentencePiece user-defined symbols, joined by commas. */
#define BD_CASEOPS_SYMBOLS "\xee\x80\x81,\xee\x80\x82,\xee\x80\x83,\xee\x80\x84"

/* Append the transformed text. Text that is not UTF-8: BD_E_FIELD with the offset. */
bd_status bd_caseops_encode(const void *text, uint64_t n, bd_buf *out, bd_err *err);

/* One state machine reads transformed text, for decoding and for counting. Its
 * states reach over the cuts between pieces. Zero it to begin a text. */
typedef struct bd_caseops_state {
    uint8_t mode;         /* a title or all-capitals control waits for its word */
    bool escape, capnext; /* controls that wait for the next code point */
    bool allcaps, in_word;
} bd_caseops_state;

/* Append the original text of one more piece of transformed text. A control where none may stand: BD_E_FIELD. */
bd_status bd_caseops_decode(bd_caseops_state *s, const void *text, uint64_t n, bd_buf *out, bd_err *err);
/* Bytes of original text that one more piece stands for. */
bd_status bd_caseops_count(bd_caseops_state *s, const void *text, uint64_t n, uint64_t *bytes, bd_err *err);
/* At the end of a text: BD_E_TRUNCATED if a control still waits. */
bd_status bd_caseops_end(const bd_caseops_state *s, bd_err *err);

#endif
