/* Proof files: an error with a place inside the file, or the one legal spelling of what was read. Their hash is put
 * right first, since a fuzzer does not find SHA-256. Whatever the code is, it decodes without harm. */
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "format/freq_coder.h"
#include "format/proof.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VOCAB = 37, MOST = 300 };

static void decode(const bd_proof *p) {
    bd_freq_coder c;
    bd_err e;
    float logits[VOCAB];
    double work[VOCAB];
    uint32_t freq[VOCAB], symbol = p->first_token;
    bd_freq_decode_begin(&c, p->code, p->code_size);
    for (uint64_t i = 0; i < p->tokens && i < MOST; i++) {
        for (uint32_t k = 0; k < VOCAB; k++) logits[k] = (float)((symbol * 7 + k * k + i) % 19) * 1.5f;
        if (bd_freq_from_logits(freq, work, logits, VOCAB, &e) != BD_OK) abort();
        if (bd_freq_decode(&c, freq, VOCAB, &symbol, &e) != BD_OK) {
            if (e.code != BD_E_RANGE) abort();
            return;
        }
        if (symbol >= VOCAB) abort();
    }
    (void)bd_freq_decode_end(&c);
}

static void one(const uint8_t *data, size_t size) {
    bd_proof p;
    bd_err e = {0};
    bd_status st = bd_proof_parse(&p, data, size, 0, &e);
    if (st != BD_OK) {
        if (e.code != st || e.offset > size || !e.msg[0]) abort();
        return;
    }
    bd_buf b;
    bd_buf_init(&b);
    if (bd_proof_build(&p, &b, &e) != BD_OK || b.size != size || memcmp(b.data, data, size) != 0) abort();
    bd_buf_free(&b);
    decode(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    one(data, size);
    if (size < 32) return 0;
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data, size);
    bd_sha256_of(copy, size - 32, copy + size - 32);
    one(copy, size);
    free(copy);
    return 0;
}
