#include "format/range_coder.h"

#include <string.h>

uint32_t bd_log2_cost(uint32_t p) {
    /* p = 2^k * m, m in [1, 2) as 1/2^31; twelve fractional bits by repeated squaring. */
    unsigned k = 31 - (unsigned)__builtin_clz(p);
    uint64_t m = (uint64_t)p << (31 - k);
    uint32_t frac = 0;
    for (int i = 0; i < 12; i++) {
        m = (m * m) >> 31;
        frac <<= 1;
        if (m >> 32) {
            frac |= 1;
            m >>= 1;
        }
    }
    return ((12 - k) << 12) - frac;
}

void bd_rc_tables_init(bd_rc_tables *t) {
    for (uint32_t n = 0; n < 1024; n++) t->rate[n] = (uint16_t)(131072 / (2 * n + 3));
}

void bd_rc_encode_begin(bd_rc *c, bd_buf *out, const bd_rc_tables *t) {
    memset(c, 0, sizeof *c);
    c->range = UINT64_MAX;
    c->out = out;
    c->start = out->size;
    c->t = t;
}

void bd_rc_carry(bd_rc *c) {
    if (c->out->failed) return;
    /* The value stays below 1, so the carry stops inside what was written. */
    for (size_t i = c->out->size; i-- > c->start;)
        if (++c->out->data[i] != 0) return;
}

void bd_rc_shift_out(bd_rc *c) {
    uint8_t b[4] = {(uint8_t)(c->low >> 56), (uint8_t)(c->low >> 48), (uint8_t)(c->low >> 40),
                    (uint8_t)(c->low >> 32)};
    bd_buf_put(c->out, b, 4);
    c->low <<= 32;
}

uint64_t bd_rc_final_value(uint64_t low, uint64_t range, unsigned *bytes) {
    if (0 - low < range) return *bytes = 0;
    for (unsigned k = 1;; k++) {
        uint64_t below = UINT64_MAX >> (8 * k), v = (low + below) & ~below;
        if (v - low < range) return *bytes = k, v;
    }
}

void bd_rc_encode_end(bd_rc *c) {
    unsigned bytes;
    uint64_t v = bd_rc_final_value(c->low, c->range, &bytes);
    if (v < c->low) bd_rc_carry(c);
    for (unsigned k = 0; k < bytes; k++) bd_buf_u8(c->out, (uint8_t)(v >> (56 - 8 * k)));
    if (c->out->failed) return;
    while (c->out->size > c->start && c->out->data[c->out->size - 1] == 0) c->out->size--;
}

void bd_rc_decode_begin(bd_rc *c, const uint8_t *in, uint64_t size, const bd_rc_tables *t) {
    memset(c, 0, sizeof *c);
    c->range = UINT64_MAX;
    c->in = in;
    c->in_size = size;
    c->t = t;
    c->code = (uint64_t)bd_rc_next(c) << 32;
    c->code |= bd_rc_next(c);
}

bool bd_rc_decode_end(const bd_rc *c) {
    uint64_t window = 0;
    for (uint64_t i = c->in_pos - 8; i < c->in_pos; i++) window = window << 8 | (i < c->in_size ? c->in[i] : 0u);
    unsigned bytes;
    if (c->code >= c->range || bd_rc_final_value(window - c->code, c->range, &bytes) != window) return false;
    if (c->in_size > c->in_pos - 8 + bytes) return false;
    return c->in_size == 0 || c->in[c->in_size - 1] != 0;
}

void bd_rc_price_begin(bd_rc *c, const bd_rc_tables *t) {
    memset(c, 0, sizeof *c);
    c->range = UINT64_MAX;
    c->t = t;
}

uint64_t bd_rc_price(const bd_rc *c) {
    /* range = 2^k * m, m in [1, 2) as 1/2^31; eight fractional bits of its logarithm by repeated squaring. */
    unsigned k = 63 - (unsigned)__builtin_clzll(c->range);
    uint64_t m = c->range << (63 - k) >> 32, log = k;
    for (int i = 0; i < 8; i++) {
        m = (m * m) >> 31;
        log = log << 1 | m >> 32;
        m >>= m >> 32;
    }
    return ((32 * c->words + 64) << 8) - log;
}
