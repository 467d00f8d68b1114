/* The range coder, numbers and words (format/SPEC.md, "The range coder" and "RANGE codec"). */
#ifndef BD_REFDEC_CODER_H
#define BD_REFDEC_CODER_H

#include <string.h>

#include "refdec/refdec_impl.h"

typedef struct model {
    uint32_t P, n;
} model;

enum { COUNT, PARAM, SHAPE, ROWS, COLS, GROUP, UINT_KINDS };
enum { ROW_SCALE, TERNARY_SCALE, F16_VALUE, F32_HIGH, F32_LOW, LQER_SCALE, BASE_HIGH, BASE_LOW, WORD_KINDS };

typedef struct range_dec {
    const uint8_t *in;
    uint64_t size, taken, range, code;
    struct {
        model length[31], tail[4][8];
    } uints[UINT_KINDS];
    struct {
        model same[2], high[256], top[8], low[5];
        uint16_t last;
        unsigned flag;
    } words[WORD_KINDS];
} range_dec;

static inline uint64_t next_bytes(range_dec *c, int n) {
    uint64_t v = 0;
    for (; n > 0; n--, c->taken++) v = v << 8 | (c->taken < c->size ? c->in[c->taken] : 0);
    return v;
}

static inline unsigned decide(range_dec *c, uint64_t p) {
    uint64_t one = (c->range >> 16) * p;
    unsigned bit = c->code < one;
    if (bit) {
        c->range = one;
    } else {
        c->code -= one;
        c->range -= one;
    }
    if (c->range < (uint64_t)1 << 32) {
        c->range <<= 32;
        c->code = c->code << 32 | next_bytes(c, 4);
    }
    return bit;
}

static inline void learn(model *m, unsigned bit) {
    int64_t P = m->P, rate = 131072 / (2 * m->n + 3);
    m->P = (uint32_t)(P + ((((int64_t)bit * (1 << 22) - P) * rate) >> 16));
    if (m->n < 1022) m->n++;
}

static inline unsigned with_model(range_dec *c, model *m) {
    unsigned bit = decide(c, m->P >> 6 | 1);
    learn(m, bit);
    return bit;
}

/* With the mean of two models. */
static inline unsigned with_two(range_dec *c, model *a, model *b) {
    unsigned bit = decide(c, ((a->P >> 6) + (b->P >> 6)) / 2 | 1);
    learn(a, bit);
    learn(b, bit);
    return bit;
}

static inline uint32_t direct(range_dec *c, unsigned n) {
    uint32_t v = 0;
    while (n-- > 0) v = v * 2 + decide(c, 32768);
    return v;
}

static inline uint32_t uint_of(range_dec *c, int kind) {
    unsigned m = 0;
    while (m < 31 && with_model(c, &c->uints[kind].length[m])) m++;
    uint32_t x = 1;
    if (m > 3) return ((uint32_t)1 << m | direct(c, m)) - 1;
    for (unsigned i = 0; i < m; i++) x = 2 * x + with_model(c, &c->uints[kind].tail[m][x]);
    return x - 1;
}

/* Sets *repeated if the word was spelled out although it equals the last one. */
static inline uint16_t word_of(range_dec *c, int kind, bool *repeated) {
    unsigned flag = with_model(c, &c->words[kind].same[c->words[kind].flag]);
    c->words[kind].flag = flag;
    if (flag) return c->words[kind].last;
    unsigned x = 1, y = 1, z = 0;
    for (int i = 0; i < 8; i++) x = 2 * x + with_model(c, &c->words[kind].high[x]);
    for (int i = 0; i < 3; i++) y = 2 * y + with_model(c, &c->words[kind].top[y]);
    for (int i = 4; i >= 0; i--) z = 2 * z + with_model(c, &c->words[kind].low[i]);
    uint16_t word = (uint16_t)((x - 256) << 8 | (y - 8) << 5 | z);
    if (word == c->words[kind].last) *repeated = true;
    c->words[kind].last = word;
    return word;
}

static inline void fresh(model *m, size_t n) {
    for (size_t i = 0; i < n; i++) m[i] = (model){1u << 21, 0};
}

static inline void range_begin(range_dec *c, const uint8_t *in, uint64_t size) {
    memset(c, 0, sizeof *c);
    c->in = in;
    c->size = size;
    c->range = UINT64_MAX;
    c->code = next_bytes(c, 8);
    for (int k = 0; k < UINT_KINDS; k++) {
        fresh(c->uints[k].length, 31);
        for (int m = 0; m < 4; m++) fresh(c->uints[k].tail[m], 8);
    }
    for (int k = 0; k < WORD_KINDS; k++) {
        fresh(c->words[k].same, 2);
        fresh(c->words[k].high, 256);
        fresh(c->words[k].top, 8);
        fresh(c->words[k].low, 5);
    }
}

static inline bool range_end_is_legal(const range_dec *c) {
    uint64_t window = 0;
    for (uint64_t i = c->taken - 8; i < c->taken; i++) window = window << 8 | (i < c->size ? c->in[i] : 0);
    uint64_t low = window - c->code, k = 0, final = 0;
    if (c->code >= c->range) return false;
    while (final - low >= c->range) {
        k++;
        uint64_t step = (uint64_t)1 << (64 - 8 * k);
        final = low % step ? low - low % step + step : low;
    }
    if (final != window || c->size > c->taken - 8 + k) return false;
    return c->size == 0 || c->in[c->size - 1] != 0;
}

/* --- integer arrays (refdec_codes.c) --- */

typedef struct codes_dec codes_dec;
codes_dec *bd_refdec_codes_begin(void); /* NULL: no memory */
void bd_refdec_codes_end(codes_dec *m);
/* All integer arrays of tensor i, into the memory that is there for them. */
bool bd_refdec_codes(dec *d, codes_dec *m, range_dec *c, bd_refdec_group *g, uint32_t i);

#endif
