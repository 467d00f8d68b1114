/* The coder of proofs (format/SPEC.md, "Proof"): one of V symbols at a time, with
 * integer frequencies that sum to 2^31, by a 64-bit range coder that moves bytes.
 *
 * The frequencies come from float32 logits by a fixed float64 computation, so
 * that equal logits give equal integers on every machine. */
#ifndef BD_FORMAT_FREQ_CODER_H
#define BD_FORMAT_FREQ_CODER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

enum { BD_FREQ_BITS = 31, BD_FREQ_MAX_VOCAB = 65536 };

/* freq, work: (vocab). Every frequency is at least 1. BD_E_NONFINITE names the first logit that is not finite. */
bd_status bd_freq_from_logits(uint32_t *freq, double *work, const float *logits, int64_t vocab, bd_err *err);

typedef struct bd_freq_coder {
    uint64_t range, low, code;
    bd_buf *out; /* encode: the stream begins at out->data[start] */
    size_t start;
    const uint8_t *in;        /* decode */
    uint64_t in_size, in_pos; /* in_pos counts the zeros after the end as well */
} bd_freq_coder;

void bd_freq_encode_begin(bd_freq_coder *c, bd_buf *out);
void bd_freq_encode(bd_freq_coder *c, const uint32_t *freq, uint32_t symbol);
void bd_freq_encode_end(bd_freq_coder *c);
void bd_freq_decode_begin(bd_freq_coder *c, const uint8_t *in, uint64_t size);
/* BD_E_RANGE where the stream stands for no symbol. */
bd_status bd_freq_decode(bd_freq_coder *c, const uint32_t *freq, int64_t vocab, uint32_t *symbol, bd_err *err);
/* True if the stream ended exactly as the encoder ends it. */
bool bd_freq_decode_end(const bd_freq_coder *c);

#endif
