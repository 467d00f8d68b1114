#include "verify/seed_match.h"

#include <stdlib.h>
#include <string.h>

enum { SEED = 6, SEED_BYTES = 2 * SEED, EVERY = 8, MOST_EQUAL = 8, FEW = 4 };

struct bd_seed_index {
    const uint16_t *tokens;
    uint64_t n;
    uint32_t *slot;  /* seed's number + 1; 0: free */
    uint8_t *filter; /* a bit for each hash: most bytes stop here */
    uint64_t mask;   /* of slots */
    int filter_bits;
};

static uint64_t mix(const uint8_t b[SEED_BYTES]) {
    uint64_t h = 0;
    for (int i = 0; i < 8; i++) h |= (uint64_t)b[i] << (8 * i);
    uint64_t t = 0;
    for (int i = 8; i < SEED_BYTES; i++) t |= (uint64_t)b[i] << (8 * (i - 8));
    h = (h ^ t << 17) * 0x9e3779b97f4a7c15u + t;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ h >> 32;
}

static uint16_t word(const uint8_t *b) { return (uint16_t)(b[0] | b[1] << 8); }

static void seed_bytes(const uint16_t *t, uint8_t out[SEED_BYTES]) {
    for (int i = 0; i < SEED; i++) {
        out[2 * i] = (uint8_t)t[i];
        out[2 * i + 1] = (uint8_t)(t[i] >> 8);
    }
}

/* Fillers and separators of one or two tokens are everywhere. */
static bool plain_seed(const uint16_t *t) {
    uint16_t other = t[0];
    for (int i = 1; i < SEED; i++) {
        if (t[i] == t[0] || t[i] == other) continue;
        if (other != t[0]) return false;
        other = t[i];
    }
    return true;
}

static void insert(bd_seed_index *x, uint64_t number) {
    const uint16_t *t = x->tokens + number * EVERY;
    uint8_t b[SEED_BYTES];
    seed_bytes(t, b);
    uint64_t h = mix(b), at = h & x->mask;
    int equal = 0;
    for (; x->slot[at]; at = (at + 1) & x->mask)
        equal += !memcmp(x->tokens + (uint64_t)(x->slot[at] - 1) * EVERY, t, SEED * sizeof *t);
    if (equal >= MOST_EQUAL) return;
    x->slot[at] = (uint32_t)number + 1;
    uint64_t bit = h >> (64 - x->filter_bits);
    x->filter[bit >> 3] |= (uint8_t)(1u << (bit & 7));
}

bd_status bd_seed_index_open(bd_seed_index **out, const uint16_t *tokens, uint64_t n, bd_err *err) {
    *out = NULL;
    uint64_t seeds = n < SEED ? 0 : (n - SEED) / EVERY + 1, slots = 16;
    if (seeds >= UINT32_MAX) return BD_FAIL(err, BD_E_LIMIT, "the stream is too long to be looked for");
    bd_seed_index *x = calloc(1, sizeof *x);
    if (!x) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    x->tokens = tokens;
    x->n = n;
    for (x->filter_bits = 8; slots < 2 * seeds; x->filter_bits++) slots *= 2;
    x->mask = slots - 1;
    x->slot = calloc(slots, sizeof *x->slot);
    x->filter = calloc((size_t)1 << (x->filter_bits - 3), 1);
    if (!x->slot || !x->filter) {
        bd_seed_index_close(x);
        return BD_FAIL(err, BD_E_NOMEM, "no memory to look for the stream in the file");
    }
    for (uint64_t i = 0; i < seeds; i++)
        if (!plain_seed(tokens + i * EVERY)) insert(x, i);
    *out = x;
    return BD_OK;
}

void bd_seed_index_close(bd_seed_index *x) {
    if (!x) return;
    free(x->slot);
    free(x->filter);
    free(x);
}

static uint32_t different(const uint16_t *t, uint64_t n) {
    uint16_t seen[64];
    uint32_t k = 0;
    for (uint64_t i = 0; i < n && k < 64; i++) {
        uint32_t j = 0;
        while (j < k && seen[j] != t[i]) j++;
        if (j == k) seen[k++] = t[i];
    }
    return k;
}

bool bd_seed_better(const bd_seed_hit *a, const bd_seed_hit *b) {
    bool plain_a = a->different < FEW, plain_b = b->different < FEW;
    if (plain_a != plain_b && a->tokens && b->tokens) return plain_b;
    return a->tokens > b->tokens;
}

/* A seed fits at byte o: how far do both sides go on? */
static bd_seed_hit extend(const bd_seed_index *x, const uint8_t *bytes, uint64_t size, uint64_t o, uint64_t t) {
    uint64_t from = t, at = o, to = t + SEED, end = o + SEED_BYTES;
    while (from > 0 && at >= 2 && word(bytes + at - 2) == x->tokens[from - 1]) {
        from--;
        at -= 2;
    }
    while (to < x->n && size - end >= 2 && word(bytes + end) == x->tokens[to]) {
        to++;
        end += 2;
    }
    return (bd_seed_hit){to - from, from, at, different(x->tokens + from, to - from)};
}

/* Part of this match, on the same diagonal? */
static bool inside(const bd_seed_hit *h, uint64_t o, uint64_t t) {
    return t >= h->at_token && t < h->at_token + h->tokens && o == h->at_byte + 2 * (t - h->at_token);
}

void bd_seed_scan(const bd_seed_index *x, const uint8_t *bytes, uint64_t size, bd_seed_hit *best) {
    enum { RECENT = 16 }; /* a long match is extended once, not from each of its seeds */
    bd_seed_hit recent[RECENT] = {{0}};
    unsigned n_recent = 0;
    *best = (bd_seed_hit){0};
    for (uint64_t o = 0; o + SEED_BYTES <= size; o++) {
        uint64_t h = mix(bytes + o), bit = h >> (64 - x->filter_bits);
        if (!(x->filter[bit >> 3] >> (bit & 7) & 1)) continue;
        for (uint64_t at = h & x->mask; x->slot[at]; at = (at + 1) & x->mask) {
            uint64_t t = (uint64_t)(x->slot[at] - 1) * EVERY;
            uint8_t b[SEED_BYTES];
            seed_bytes(x->tokens + t, b);
            if (memcmp(b, bytes + o, SEED_BYTES) != 0) continue;
            int k = 0;
            while (k < RECENT && !inside(&recent[k], o, t)) k++;
            if (k < RECENT) continue;
            bd_seed_hit hit = extend(x, bytes, size, o, t);
            recent[n_recent++ % RECENT] = hit;
            if (bd_seed_better(&hit, best)) *best = hit;
        }
    }
}
