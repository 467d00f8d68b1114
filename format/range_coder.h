/* Binary adaptive range coder (format/SPEC.md, "The range coder"): integers
 * only, so bytes and decisions are the same on every machine.
 *
 * A decision is coded with the probability of a 1 in 1/65536. Three modes share
 * one body, so that encoder, decoder and price can never drift apart. */
#ifndef BD_FORMAT_RANGE_CODER_H
#define BD_FORMAT_RANGE_CODER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* --- bit models --- */

/* Upper 22 bits: probability of a 1; lower 10: how often it was updated, up to a limit. */
typedef uint32_t bd_bit;

enum { BD_BIT_LIMIT = 1022 };

typedef struct bd_rc_tables {
    uint16_t rate[1024]; /* update count -> step in 1/65536 */
} bd_rc_tables;

void bd_rc_tables_init(bd_rc_tables *t);

static inline bd_bit bd_bit_make(uint32_t p22, uint32_t count) { return p22 << 10 | count; }
static inline uint32_t bd_bit_p16(bd_bit s) { return s >> 16 | 1; /* never 0, never 65536 */ }
static inline bd_bit bd_bit_update(bd_bit s, unsigned bit, const uint16_t *rate) {
    uint32_t n = s & 1023;
    int64_t err = ((int64_t)bit << 22) - (int64_t)(s >> 10);
    return s + ((uint32_t)((err * rate[n]) >> 16) << 10) + (n < BD_BIT_LIMIT);
}

/* --- the coder --- */

typedef enum bd_rc_mode { BD_RC_ENCODE, BD_RC_DECODE, BD_RC_PRICE } bd_rc_mode;

typedef struct bd_rc {
    uint64_t range, low, code;
    bd_buf *out; /* encode: the stream begins at out->data[start] */
    size_t start;
    const uint8_t *in;        /* decode */
    uint64_t in_size, in_pos; /* in_pos counts the zeros after the end as well */
    uint64_t words;           /* price: 32-bit words that the encoder would have written */
    const bd_rc_tables *t;
} bd_rc;

void bd_rc_encode_begin(bd_rc *c, bd_buf *out, const bd_rc_tables *t);
void bd_rc_encode_end(bd_rc *c);
void bd_rc_decode_begin(bd_rc *c, const uint8_t *in, uint64_t size, const bd_rc_tables *t);
/* True if the stream ended exactly as the encoder ends it. */
bool bd_rc_decode_end(const bd_rc *c);
void bd_rc_price_begin(bd_rc *c, const bd_rc_tables *t);
/* Price: what all decisions so far take, in 1/256 bit; the stream has at most two bytes more. */
uint64_t bd_rc_price(const bd_rc *c);
/* The number in [low, low + range), modulo 2^64, with the fewest leading bytes
 * before zeros, and how many they are. Four are always enough for range >= 2^32. */
uint64_t bd_rc_final_value(uint64_t low, uint64_t range, unsigned *bytes);
/* Cold paths of bd_rc_bit. */
void bd_rc_carry(bd_rc *c);
void bd_rc_shift_out(bd_rc *c);

static inline uint32_t bd_rc_next(bd_rc *c) {
    uint64_t at = c->in_pos;
    c->in_pos += 4;
    if (at < c->in_size && c->in_size - at >= 4)
        return (uint32_t)c->in[at] << 24 | (uint32_t)c->in[at + 1] << 16 | (uint32_t)c->in[at + 2] << 8 |
               c->in[at + 3];
    uint32_t v = 0;
    for (uint64_t i = at; i < at + 4; i++) v = v << 8 | (i < c->in_size ? c->in[i] : 0u);
    return v;
}

/* Codes `bit` (or returns the decoded one); p16 in [1, 65535]. `mode` is a constant at every call. */
static inline __attribute__((always_inline)) unsigned bd_rc_bit(bd_rc *c, bd_rc_mode mode, unsigned bit,
                                                                uint32_t p16) {
    uint64_t one = (c->range >> 16) * p16;
    if (mode == BD_RC_DECODE) {
        /* Without a branch: the caller's loop branches on the bit anyway. */
        bit = c->code < one;
        uint64_t zero = (uint64_t)bit - 1;
        c->range = one + (zero & (c->range - 2 * one));
        c->code -= zero & one;
    } else {
        uint64_t zero = (uint64_t)bit - 1, add = zero & one;
        c->range = one + (zero & (c->range - 2 * one));
        if (mode == BD_RC_ENCODE) {
            c->low += add;
            if (__builtin_expect(c->low < add, 0)) bd_rc_carry(c);
        }
    }
    if (__builtin_expect(c->range < (uint64_t)1 << 32, 0)) {
        if (mode == BD_RC_DECODE) c->code = c->code << 32 | bd_rc_next(c);
        else if (mode == BD_RC_ENCODE) bd_rc_shift_out(c);
        else c->words++;
        c->range <<= 32;
    }
    return bit;
}

/* One decision with one model. */
static inline __attribute__((always_inline)) unsigned bd_rc_model(bd_rc *c, bd_rc_mode mode, unsigned bit,
                                                                  bd_bit *m) {
    bit = bd_rc_bit(c, mode, bit, bd_bit_p16(*m));
    *m = bd_bit_update(*m, bit, c->t->rate);
    return bit;
}

/* One decision with the mean of two models. */
static inline __attribute__((always_inline)) unsigned bd_rc_mean(bd_rc *c, bd_rc_mode mode, unsigned bit, bd_bit *a,
                                                                 bd_bit *b) {
    bit = bd_rc_bit(c, mode, bit, ((*a >> 16) + (*b >> 16)) >> 1 | 1);
    *a = bd_bit_update(*a, bit, c->t->rate);
    *b = bd_bit_update(*b, bit, c->t->rate);
    return bit;
}

/* n equiprobable decisions, most significant first. */
static inline uint32_t bd_rc_direct(bd_rc *c, bd_rc_mode mode, uint32_t value, unsigned n) {
    uint32_t v = 0;
    while (n--) v = v << 1 | bd_rc_bit(c, mode, value >> n & 1, 32768);
    return v;
}

/* -log2(p / 4096) in 1/4096 bit for p in [1, 4096]; integer arithmetic. */
uint32_t bd_log2_cost(uint32_t p);

#endif
