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

enum { BD_BIT_LIMIT = 1022, BD_SQUASH_MAX = 2047, BD_MIX_LIMIT = 1 << 18 };

typedef struct bd_rc_tables {
    uint16_t squash[4096]; /* x + 2048, x in 1/256 nat -> probability in 1/65536 */
    int16_t stretch[4096]; /* probability in 1/4096 -> x */
    uint16_t rate[1024];   /* update count -> step in 1/65536 */
    uint16_t cost[4097];   /* probability in 1/4096 -> -log2 in 1/4096 bit */
} bd_rc_tables;

void bd_rc_tables_init(bd_rc_tables *t);

static inline bd_bit bd_bit_make(uint32_t p22, uint32_t count) { return p22 << 10 | count; }
static inline uint32_t bd_bit_p16(bd_bit s) {
    uint32_t p = s >> 16;
    return p < 22 ? 22 : p > 65514 ? 65514 : p;
}
static inline bd_bit bd_bit_update(bd_bit s, unsigned bit, const uint16_t *rate) {
    uint32_t n = s & 1023;
    int64_t p = s >> 10, err = ((int64_t)bit << 22) - p;
    p += (err * rate[n]) >> 16;
    return (uint32_t)p << 10 | (n + (n < BD_BIT_LIMIT));
}

/* --- the coder --- */

typedef enum bd_rc_mode { BD_RC_ENCODE, BD_RC_DECODE, BD_RC_PRICE } bd_rc_mode;

typedef struct bd_rc {
    uint64_t range, low, code;
    bd_buf *out; /* encode: the stream begins at out->data[start] */
    size_t start;
    const uint8_t *in;        /* decode */
    uint64_t in_size, in_pos; /* in_pos counts the zeros after the end as well */
    uint64_t cost;            /* price: 1/4096 bit */
    const bd_rc_tables *t;
} bd_rc;

void bd_rc_encode_begin(bd_rc *c, bd_buf *out, const bd_rc_tables *t);
void bd_rc_encode_end(bd_rc *c);
void bd_rc_decode_begin(bd_rc *c, const uint8_t *in, uint64_t size, const bd_rc_tables *t);
/* True if the stream ended exactly as the encoder ends it. */
bool bd_rc_decode_end(const bd_rc *c);
void bd_rc_price_begin(bd_rc *c, const bd_rc_tables *t);
uint64_t bd_rc_price_end(const bd_rc *c); /* 1/256 bit */
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
    if (mode == BD_RC_PRICE) {
        uint32_t p = bit ? p16 : 65536 - p16, i = p >> 4, f = p & 15;
        c->cost += ((uint32_t)c->t->cost[i] * (16 - f) + (uint32_t)c->t->cost[i + 1] * f) >> 4;
        return bit;
    }
    uint64_t one = (c->range >> 16) * p16;
    if (mode == BD_RC_DECODE) {
        /* Without a branch: the caller's loop branches on the bit anyway. */
        bit = c->code < one;
        uint64_t zero = (uint64_t)bit - 1;
        c->range = one + (zero & (c->range - 2 * one));
        c->code -= zero & one;
    } else if (bit) {
        c->range = one;
    } else {
        c->range -= one;
        c->low += one;
        if (c->low < one) bd_rc_carry(c);
    }
    if (__builtin_expect(c->range < (uint64_t)1 << 32, 0)) {
        if (mode == BD_RC_DECODE) c->code = c->code << 32 | bd_rc_next(c);
        else bd_rc_shift_out(c);
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

/* One decision with two models, mixed in the logistic domain by weights w[2] (1/65536). */
static inline __attribute__((always_inline)) unsigned bd_rc_mix(bd_rc *c, bd_rc_mode mode, unsigned bit, bd_bit *a,
                                                                bd_bit *b, int32_t *w) {
    const bd_rc_tables *t = c->t;
    int32_t sa = t->stretch[*a >> 20], sb = t->stretch[*b >> 20];
    int32_t x = (w[0] * sa + w[1] * sb) >> 16;
    x = x < -BD_SQUASH_MAX ? -BD_SQUASH_MAX : x > BD_SQUASH_MAX ? BD_SQUASH_MAX : x;
    uint32_t p = t->squash[x + 2048];
    bit = bd_rc_bit(c, mode, bit, p);
    int32_t e = (int32_t)(bit << 16) - (int32_t)p;
    int32_t wa = w[0] + ((sa * e + 65536) >> 17), wb = w[1] + ((sb * e + 65536) >> 17);
    w[0] = wa < -BD_MIX_LIMIT ? -BD_MIX_LIMIT : wa > BD_MIX_LIMIT ? BD_MIX_LIMIT : wa;
    w[1] = wb < -BD_MIX_LIMIT ? -BD_MIX_LIMIT : wb > BD_MIX_LIMIT ? BD_MIX_LIMIT : wb;
    *a = bd_bit_update(*a, bit, t->rate);
    *b = bd_bit_update(*b, bit, t->rate);
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
