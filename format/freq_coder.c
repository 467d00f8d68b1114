#include "format/freq_coder.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/fmath.h"
#include "format/range_coder.h"

enum { LOW_RANGE_BITS = 56 };

/* ---- frequencies ---- */

bd_status bd_freq_from_logits(uint32_t *freq, double *work, const float *logits, int64_t vocab, bd_err *err) {
    BD_ASSERT(vocab >= 1 && vocab <= BD_FREQ_MAX_VOCAB);
    float top = logits[0];
    for (int64_t i = 0; i < vocab; i++) {
        if (!isfinite(logits[i]))
            return BD_FAIL(err, BD_E_NONFINITE, "the logit of token %" PRId64 " is %g", i, (double)logits[i]);
        if (logits[i] > top) top = logits[i];
    }
    double lane[16] = {0};
    int64_t best = 0;
    for (int64_t i = 0; i < vocab; i++) {
        work[i] = bd_exp((double)logits[i] - (double)top);
        lane[i % 16] += work[i];
        if (work[i] > work[best]) best = i;
    }
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    const double scale = (double)(((int64_t)1 << BD_FREQ_BITS) - vocab);
    int64_t rest = (int64_t)1 << BD_FREQ_BITS;
    for (int64_t i = 0; i < vocab; i++) {
        freq[i] = 1 + (uint32_t)floor(work[i] / lane[0] * scale);
        rest -= freq[i];
    }
    /* The rounding of 65,538 operations is far below one part in 2^31, so nothing is ever missing. */
    BD_ASSERT(rest >= 0);
    freq[best] += (uint32_t)rest;
    return BD_OK;
}

/* ---- encoder ---- */

void bd_freq_encode_begin(bd_freq_coder *c, bd_buf *out) {
    memset(c, 0, sizeof *c);
    c->range = UINT64_MAX;
    c->out = out;
    c->start = out->size;
}

static void carry(bd_freq_coder *c) {
    if (c->out->failed) return;
    /* The value stays below 1, so the carry stops inside what was written. */
    for (size_t i = c->out->size; i-- > c->start;)
        if (++c->out->data[i] != 0) return;
}

void bd_freq_encode(bd_freq_coder *c, const uint32_t *freq, uint32_t symbol) {
    uint64_t before = 0, unit = c->range >> BD_FREQ_BITS;
    for (uint32_t i = 0; i < symbol; i++) before += freq[i];
    before *= unit;
    c->low += before;
    if (c->low < before) carry(c);
    c->range = unit * freq[symbol];
    while (c->range >> LOW_RANGE_BITS == 0) {
        bd_buf_u8(c->out, (uint8_t)(c->low >> 56));
        c->low <<= 8;
        c->range <<= 8;
    }
}

void bd_freq_encode_end(bd_freq_coder *c) {
    unsigned bytes;
    uint64_t v = bd_rc_final_value(c->low, c->range, &bytes);
    if (v < c->low) carry(c);
    for (unsigned k = 0; k < bytes; k++) bd_buf_u8(c->out, (uint8_t)(v >> (56 - 8 * k)));
    if (c->out->failed) return;
    while (c->out->size > c->start && c->out->data[c->out->size - 1] == 0) c->out->size--;
}

/* ---- decoder ---- */

static uint8_t byte_at(const bd_freq_coder *c, uint64_t i) { return i < c->in_size ? c->in[i] : 0; }

void bd_freq_decode_begin(bd_freq_coder *c, const uint8_t *in, uint64_t size) {
    memset(c, 0, sizeof *c);
    c->range = UINT64_MAX;
    c->in = in;
    c->in_size = size;
    while (c->in_pos < 8) c->code = c->code << 8 | byte_at(c, c->in_pos++);
}

bd_status bd_freq_decode(bd_freq_coder *c, const uint32_t *freq, int64_t vocab, uint32_t *symbol, bd_err *err) {
    uint64_t unit = c->range >> BD_FREQ_BITS, at = c->code / unit, before = 0;
    if (at >> BD_FREQ_BITS) return BD_FAIL(err, BD_E_RANGE, "the code stands for no token");
    int64_t i = 0;
    while (at - before >= freq[i]) before += freq[i++];
    BD_ASSERT(i < vocab);
    c->code -= before * unit;
    c->range = unit * freq[i];
    while (c->range >> LOW_RANGE_BITS == 0) {
        c->code = c->code << 8 | byte_at(c, c->in_pos++);
        c->range <<= 8;
    }
    *symbol = (uint32_t)i;
    return BD_OK;
}

bool bd_freq_decode_end(const bd_freq_coder *c) {
    uint64_t window = 0;
    unsigned bytes;
    for (uint64_t i = c->in_pos - 8; i < c->in_pos; i++) window = window << 8 | byte_at(c, i);
    if (c->code >= c->range || bd_rc_final_value(window - c->code, c->range, &bytes) != window) return false;
    if (c->in_size > c->in_pos - 8 + bytes) return false;
    return c->in_size == 0 || c->in[c->in_size - 1] != 0;
}
