/* SentencePiece models: tables, and decoding of every id after every other kind. */
#include <stdint.h>
#include <stdlib.h>

#include "format/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_tokenizer *t;
    bd_err err;
    if (bd_tokenizer_parse(&t, data, size, &err) != BD_OK) return 0;
    uint32_t n = t->n < 1000 ? t->n : 1000;
    uint16_t ids[2000], bytes[2000];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        ids[2 * i] = (uint16_t)i;
        ids[2 * i + 1] = (uint16_t)(i * 7 % n);
    }
    bd_tokenizer_stream_bytes(t, ids, 2 * (uint64_t)n, bytes);
    for (uint32_t i = 0; i < 2 * n; i++) sum += bytes[i];
    if (2 * n > 0) sum += t->base[ids[0]];
    bd_buf text;
    bd_buf_init(&text);
    if (bd_tokenizer_decode(t, ids, 2 * (uint64_t)n, &text, &err) != BD_OK) abort();
    if (text.size > sum) abort(); /* U+2581 inside a piece counts three bytes and is written as one */
    bd_buf_free(&text);
    bd_tokenizer_close(t);
    return 0;
}
