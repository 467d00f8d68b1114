/* Comparing a token stream with the text it should stand for. */
#ifndef BD_VERIFY_VERIFY_TEXT_H
#define BD_VERIFY_VERIFY_TEXT_H

#include <stdbool.h>

#include "format/tokenizer.h"

typedef struct bd_text_match {
    uint64_t documents, equal, white, different; /* white: equal once runs of white space are one space */
    uint64_t first_different;                    /* index of the document in the stream, or UINT64_MAX */
    uint64_t counted, original; /* bytes of the documents that are equal: as counted, in the text */
} bd_text_match;

/* Documents of the stream begin at the tokenizer's BOS; in the text a blank line
 * stands between them (and may stand inside them). Only documents that are whole
 * in tokens[0 .. n) are compared: another BOS follows, or `whole` says that the
 * stream ends with the range. Case operations are undone where the tokenizer has
 * their symbols. A document that is nowhere in the rest of the text is different,
 * and so is text between two documents that match. bytes: per target, (n). */
void bd_text_compare(bd_text_match *m, const bd_tokenizer *t, const uint16_t *tokens, const uint16_t *bytes,
                     uint64_t n, bool whole, const char *text, uint64_t size);

#endif
