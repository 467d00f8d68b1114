/* Comparing a token stream with the text it should stand for. */
#ifndef BD_VERIFY_VERIFY_TEXT_H
#define BD_VERIFY_VERIFY_TEXT_H

#include "format/tokenizer.h"

typedef struct bd_text_match {
    uint64_t documents, equal, white, different; /* white: equal once runs of white space are one space */
    uint64_t first_different;                    /* document index, or UINT64_MAX */
} bd_text_match;

/* Documents of the stream begin at the tokenizer's BOS; documents of the text are
 * separated by a blank line. Only documents that are whole in the stream (a BOS
 * follows) are compared; extra ones on either side count as different. */
void bd_text_compare(bd_text_match *m, const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, const char *text,
                     uint64_t size);

#endif
