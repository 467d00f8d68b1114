#include "refdec/refdec.h"

#include <brotli/decode.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define FILE_LIMIT     ((uint64_t)1 << 29)
#define UNPACKED_LIMIT ((uint64_t)1 << 29)
#define TENSOR_LIMIT   65536u
#define ELEMENT_LIMIT  ((uint64_t)1 << 28)
#define NOWHERE        UINT64_MAX

/* Everything a check needs: the file, the result, what may still be asked for. */
typedef struct dec {
    const uint8_t *file;
    uint64_t size;
    bd_refdec_result *out;
    uint64_t tensors_left, elements_left;
    uint64_t section; /* offset of the section being decoded */
} dec;

static bool fail_at(dec *d, int error, uint64_t offset) {
    d->out->error = error;
    d->out->offset = offset;
    return false;
}
static bool fail(dec *d, int error) { return fail_at(d, error, d->section); }

static uint64_t le(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    while (bytes-- > 0) v = v * 256 + p[bytes];
    return v;
}

static uint64_t up(uint64_t a, uint64_t b) { return a / b + (a % b ? 1 : 0); }

/* ------------------------------------------------------------------ SHA-256 */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                      sha_k[i] + w[i];
        uint32_t t2 =
            (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof s[0]);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

/* SHA-256 of a followed by b. */
static void sha(const uint8_t *a, uint64_t na, const uint8_t *b, uint64_t nb, uint8_t out[32]) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t block[64];
    uint64_t total = na + nb, at = 0;
    for (bool ended = false;;) {
        if (at + 64 <= na) {
            sha_block(h, a + at);
        } else if (at >= na && at + 64 <= total) {
            sha_block(h, b + (at - na));
        } else {
            memset(block, 0, 64);
            for (uint64_t i = 0; i < 64 && at + i < total; i++) block[i] = at + i < na ? a[at + i] : b[at + i - na];
            bool last = false;
            if (at + 64 > total) {
                if (!ended) block[total - at] = 0x80;
                ended = true;
                last = at > total || total - at < 56;
            }
            if (last)
                for (int i = 0; i < 8; i++) block[56 + i] = (uint8_t)((total * 8) >> (56 - 8 * i));
            sha_block(h, block);
            if (last) break;
        }
        at += 64;
    }
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* -------------------------------------------------------------- range coder */

static const uint16_t logistic[65] = {22,    28,    36,    47,    60,    77,    98,    126,   162,   208,   267,
                                      342,   439,   562,   720,   922,   1179,  1506,  1921,  2446,  3108,  3938,
                                      4971,  6249,  7812,  9702,  11955, 14595, 17625, 21025, 24743, 28693, 32768,
                                      36843, 40793, 44511, 47911, 50941, 53581, 55834, 57724, 59287, 60565, 61598,
                                      62428, 63090, 63615, 64030, 64357, 64614, 64816, 64974, 65097, 65194, 65269,
                                      65328, 65374, 65410, 65438, 65459, 65476, 65489, 65500, 65508, 65514};

typedef struct model {
    uint32_t P, n;
} model;

enum { COUNT, PARAM, SHAPE, ROWS, COLS, GROUP, ESCAPE, UINT_KINDS };
enum { ROW_SCALE, TERNARY_SCALE, F16_VALUE, F32_HIGH, F32_LOW, WORD_KINDS };

typedef struct range_dec {
    const uint8_t *in;
    uint64_t size, taken, range, code;
    int stretch[4096];
    struct {
        model length[31], tail[4][8];
    } uints[UINT_KINDS];
    struct {
        model same[2], high[256], top[8], low[5];
        uint16_t last;
        unsigned flag;
    } words[WORD_KINDS];
    model row[52][20], col[52][20], below[21], sign;
    int64_t w[20][2];
} range_dec;

static uint64_t next_bytes(range_dec *c, int n) {
    uint64_t v = 0;
    for (; n > 0; n--, c->taken++) v = v << 8 | (c->taken < c->size ? c->in[c->taken] : 0);
    return v;
}

static int squash(int x) {
    int i = (x + 2048) >> 6, f = (x + 2048) % 64;
    return (logistic[i] * (64 - f) + logistic[i + 1] * f + 32) >> 6;
}

static unsigned decide(range_dec *c, uint64_t p) {
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

static void learn(model *m, unsigned bit) {
    int64_t P = m->P, rate = 131072 / (2 * m->n + 3);
    m->P = (uint32_t)(P + ((((int64_t)bit * (1 << 22) - P) * rate) >> 16));
    if (m->n < 1022) m->n++;
}

static unsigned with_model(range_dec *c, model *m) {
    uint64_t p = m->P >> 6;
    unsigned bit = decide(c, p < 22 ? 22 : p > 65514 ? 65514 : p);
    learn(m, bit);
    return bit;
}

static int64_t limit(int64_t x, int64_t bound) { return x < -bound ? -bound : x > bound ? bound : x; }

static unsigned mixed(range_dec *c, model *a, model *b, int64_t w[2]) {
    int64_t sa = c->stretch[a->P >> 10], sb = c->stretch[b->P >> 10];
    int p = squash((int)limit((w[0] * sa + w[1] * sb) >> 16, 2047));
    unsigned bit = decide(c, (uint64_t)p);
    int64_t e = (int64_t)bit * 65536 - p;
    w[0] = limit(w[0] + ((sa * e + 65536) >> 17), 1 << 18);
    w[1] = limit(w[1] + ((sb * e + 65536) >> 17), 1 << 18);
    learn(a, bit);
    learn(b, bit);
    return bit;
}

static uint32_t direct(range_dec *c, unsigned n) {
    uint32_t v = 0;
    while (n-- > 0) v = v * 2 + decide(c, 32768);
    return v;
}

static uint32_t uint_of(range_dec *c, int kind) {
    unsigned m = 0;
    while (m < 31 && with_model(c, &c->uints[kind].length[m])) m++;
    uint32_t x = 1;
    if (m > 3) return ((uint32_t)1 << m | direct(c, m)) - 1;
    for (unsigned i = 0; i < m; i++) x = 2 * x + with_model(c, &c->uints[kind].tail[m][x]);
    return x - 1;
}

/* Sets *repeated if the word was spelled out although it equals the last one. */
static uint16_t word_of(range_dec *c, int kind, bool *repeated) {
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

static void fresh(model *m, size_t n) {
    for (size_t i = 0; i < n; i++) m[i] = (model){1u << 21, 0};
}

static void range_begin(range_dec *c, const uint8_t *in, uint64_t size) {
    memset(c, 0, sizeof *c);
    c->in = in;
    c->size = size;
    c->range = UINT64_MAX;
    c->code = next_bytes(c, 8);
    for (int i = 0; i < 4096; i++) {
        int x = i ? c->stretch[i - 1] : -2047; /* squash never decreases */
        while (x < 2047 && squash(x) < 16 * i + 8) x++;
        c->stretch[i] = x;
    }
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
    for (uint64_t i = 0; i < 52; i++)
        for (int k = 0; k < 20; k++) {
            uint64_t M = ((4 + i % 4) << (5 + i / 4)) + ((uint64_t)16 << (i / 4));
            c->row[i][k] = c->col[i][k] = (model){(uint32_t)((M << 22) / (M + 4096)), 1};
        }
    for (int k = 0; k < 20; k++) c->w[k][0] = c->w[k][1] = 32768;
    fresh(c->below, 21);
}

static bool range_end_is_legal(const range_dec *c) {
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

/* ------------------------------------------------------------ weight groups */

static uint64_t elements(const bd_refdec_tensor *t) { return (uint64_t)t->rows * t->cols; }
static bool has_codes(const bd_refdec_tensor *t) {
    return t->method == BD_REFDEC_ROW || t->method == BD_REFDEC_TERNARY;
}
static int largest(const bd_refdec_tensor *t) { return t->method == BD_REFDEC_ROW ? (1 << (t->bits - 1)) - 1 : 1; }

static uint64_t words_of(const bd_refdec_tensor *t) {
    switch (t->method) {
        case BD_REFDEC_F16: return elements(t);
        case BD_REFDEC_ROW: return t->rows;
        case BD_REFDEC_TERNARY: return up(elements(t), t->group);
        default: return 0;
    }
}

/* Packed size of n ternary codes, z of them nonzero, and the form for it; without the form byte. */
static uint64_t ternary_size(uint64_t n, uint64_t z, unsigned *form) {
    uint64_t mask = up(n, 8) + up(z, 8), base3 = up(n, 5);
    *form = mask < base3;
    return *form ? mask : base3;
}

static bool check_name(dec *d, bd_refdec_group *g, const uint8_t *name, unsigned len) {
    if (len < 1 || len > 63) return fail(d, BD_REFDEC_FIELD);
    for (unsigned i = 0; i < len; i++)
        if (name[i] < 0x21 || name[i] > 0x7e) return fail(d, BD_REFDEC_FIELD);
    memcpy(g->name, name, len);
    return true;
}

static bool check_count(dec *d, uint64_t n) {
    if (n < 1 || n > 65536) return fail(d, BD_REFDEC_FIELD);
    if (n > d->tensors_left) return fail(d, BD_REFDEC_LIMIT);
    d->tensors_left -= n;
    return true;
}

static bool make_tensors(dec *d, bd_refdec_group *g, uint32_t n) {
    g->tensors = calloc(n, sizeof *g->tensors);
    if (!g->tensors) return fail(d, BD_REFDEC_NOMEM);
    g->n_tensors = n;
    return true;
}

static bool check_tensor(dec *d, const bd_refdec_group *g, uint32_t i) {
    const bd_refdec_tensor *t = &g->tensors[i];
    if (i > 0 && t->param <= g->tensors[i - 1].param) return fail(d, BD_REFDEC_NONCANON);
    if (t->param >> 31 || t->rows == 0 || t->cols == 0 || t->method > 3) return fail(d, BD_REFDEC_FIELD);
    if (t->method == BD_REFDEC_ROW ? (t->bits < 2 || t->bits > 8) : t->bits != 0) return fail(d, BD_REFDEC_FIELD);
    if (t->method == BD_REFDEC_TERNARY ? (t->group < 1 || t->group > elements(t)) : t->group != 0)
        return fail(d, BD_REFDEC_FIELD);
    if (elements(t) > d->elements_left) return fail(d, BD_REFDEC_LIMIT);
    d->elements_left -= elements(t);
    return true;
}

static bool check_word(dec *d, const bd_refdec_tensor *t, uint16_t w) {
    if ((w >> 10 & 31) == 31) return fail(d, BD_REFDEC_NONFINITE);
    if (t->method != BD_REFDEC_F16 && w >> 15) return fail(d, BD_REFDEC_NONCANON);
    return true;
}

static bool check_f32(dec *d, uint32_t w) { return (w >> 23 & 255) == 255 ? fail(d, BD_REFDEC_NONFINITE) : true; }

static bool make_words(dec *d, bd_refdec_tensor *t) {
    t->n_words = words_of(t);
    if (t->method == BD_REFDEC_F32) t->f32 = malloc(elements(t) * 4);
    else t->words = malloc(t->n_words * 2);
    return t->f32 || t->words ? true : fail(d, BD_REFDEC_NOMEM);
}

static bool make_codes(dec *d, bd_refdec_tensor *t) {
    t->codes = malloc(elements(t));
    return t->codes ? true : fail(d, BD_REFDEC_NOMEM);
}

/* --- raw layout --- */

typedef struct bytes {
    const uint8_t *p;
    uint64_t left;
} bytes;

static const uint8_t *take(bytes *b, uint64_t n) {
    if (n > b->left) return NULL;
    const uint8_t *p = b->p;
    b->p += n;
    b->left -= n;
    return p;
}

static bool raw_words(dec *d, bd_refdec_group *g, bytes *b) {
    uint64_t W = 0, V = 0, w = 0, v = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        W += words_of(&g->tensors[i]);
        if (g->tensors[i].method == BD_REFDEC_F32) V += elements(&g->tensors[i]);
    }
    const uint8_t *p = take(b, 2 * W), *q = p ? take(b, 4 * V) : NULL;
    if (!q) return fail(d, BD_REFDEC_TRUNCATED);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (!make_words(d, t)) return false;
        for (uint64_t k = 0; k < t->n_words; k++, w++) {
            t->words[k] = (uint16_t)(p[w] + 256 * p[W + w]);
            if (!check_word(d, t, t->words[k])) return false;
        }
        if (t->method != BD_REFDEC_F32) continue;
        for (uint64_t k = 0; k < elements(t); k++, v++) {
            t->f32[k] = (uint32_t)q[v] | (uint32_t)q[V + v] << 8 | (uint32_t)q[2 * V + v] << 16 |
                        (uint32_t)q[3 * V + v] << 24;
            if (!check_f32(d, t->f32[k])) return false;
        }
    }
    return true;
}

static bool raw_ternary(dec *d, bd_refdec_tensor *t, bytes *b) {
    uint64_t n = elements(t), z = 0;
    const uint8_t *form = take(b, 1);
    if (!form) return fail(d, BD_REFDEC_TRUNCATED);
    if (*form > 1) return fail(d, BD_REFDEC_FIELD);
    const uint8_t *p = take(b, up(n, *form ? 8 : 5));
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    if (!make_codes(d, t)) return false;
    if (*form == 0) {
        for (uint64_t i = 0; i < up(n, 5) * 5; i++) {
            static const unsigned power[5] = {1, 3, 9, 27, 81};
            if (p[i / 5] > 242) return fail(d, BD_REFDEC_RANGE);
            unsigned digit = p[i / 5] / power[i % 5] % 3;
            if (i >= n && digit) return fail(d, BD_REFDEC_NONCANON);
            if (i < n) t->codes[i] = (int8_t)(digit == 2 ? -1 : (int)digit);
            z += digit != 0;
        }
    } else {
        for (uint64_t i = 0; i < up(n, 8) * 8; i++) {
            unsigned bit = p[i / 8] >> i % 8 & 1;
            if (i >= n && bit) return fail(d, BD_REFDEC_NONCANON);
            if (i < n) t->codes[i] = (int8_t)bit;
            z += bit;
        }
        const uint8_t *s = take(b, up(z, 8));
        if (!s) return fail(d, BD_REFDEC_TRUNCATED);
        uint64_t k = 0;
        for (uint64_t i = 0; i < n; i++)
            if (t->codes[i]) {
                if (s[k / 8] >> k % 8 & 1) t->codes[i] = -1;
                k++;
            }
        for (; k < up(z, 8) * 8; k++)
            if (s[k / 8] >> k % 8 & 1) return fail(d, BD_REFDEC_NONCANON);
    }
    unsigned best;
    ternary_size(n, z, &best);
    return best == *form ? true : fail(d, BD_REFDEC_NONCANON);
}

static bool raw_group(dec *d, bd_refdec_group *g, const uint8_t *data, uint64_t size) {
    bytes b = {data, size};
    const uint8_t *len = take(&b, 1), *name = len ? take(&b, *len) : NULL;
    if (!name) return fail(d, BD_REFDEC_TRUNCATED);
    if (!check_name(d, g, name, *len)) return false;
    const uint8_t *p = take(&b, 4);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    uint32_t n = (uint32_t)le(p, 4);
    if (!check_count(d, n)) return false;
    p = take(&b, 18 * (uint64_t)n);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    if (!make_tensors(d, g, n)) return false;
    for (uint32_t i = 0; i < n; i++, p += 18) {
        bd_refdec_tensor *t = &g->tensors[i];
        t->param = (uint32_t)le(p, 4);
        t->rows = (uint32_t)le(p + 4, 4);
        t->cols = (uint32_t)le(p + 8, 4);
        t->method = p[12];
        t->bits = p[13];
        t->group = (uint32_t)le(p + 14, 4);
        if (!check_tensor(d, g, i)) return false;
    }
    if (!raw_words(d, g, &b)) return false;
    for (uint32_t i = 0; i < n; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (t->method == BD_REFDEC_TERNARY && !raw_ternary(d, t, &b)) return false;
        if (t->method != BD_REFDEC_ROW) continue;
        p = take(&b, elements(t));
        if (!p) return fail(d, BD_REFDEC_TRUNCATED);
        if (!make_codes(d, t)) return false;
        for (uint64_t k = 0; k < elements(t); k++) {
            int v = p[k] < 128 ? p[k] : p[k] - 256;
            if (v < -largest(t) || v > largest(t)) return fail(d, BD_REFDEC_RANGE);
            t->codes[k] = (int8_t)v;
        }
    }
    return b.left ? fail(d, BD_REFDEC_NONCANON) : true;
}

/* --- RANGE codec --- */

static bool same_shape(const bd_refdec_tensor *a, const bd_refdec_tensor *b) {
    return a->rows == b->rows && a->cols == b->cols && a->method == b->method && a->bits == b->bits &&
           a->group == b->group;
}

static bool range_header(dec *d, range_dec *c, bd_refdec_group *g, uint32_t i) {
    bd_refdec_tensor *t = &g->tensors[i];
    uint64_t param = uint_of(c, PARAM);
    if (i > 0) param += (uint64_t)g->tensors[i - 1].param + 1;
    if (param >> 31) return fail(d, BD_REFDEC_FIELD);
    uint32_t distance = uint_of(c, SHAPE), nearest = 0;
    if (distance > 64 || distance > i) return fail(d, BD_REFDEC_FIELD);
    if (distance) {
        *t = g->tensors[i - distance];
    } else {
        t->rows = uint_of(c, ROWS) + 1;
        t->cols = uint_of(c, COLS) + 1;
        t->method = (uint8_t)direct(c, 2);
        if (t->method == BD_REFDEC_ROW) t->bits = (uint8_t)(direct(c, 3) + 1);
        if (t->method == BD_REFDEC_TERNARY) t->group = uint_of(c, GROUP) + 1;
    }
    t->param = (uint32_t)param;
    if (!check_tensor(d, g, i)) return false;
    for (uint32_t k = 64; k > 0; k--)
        if (k <= i && same_shape(t, t - k)) nearest = k;
    return nearest == distance ? true : fail(d, BD_REFDEC_NONCANON);
}

static bool range_words(dec *d, range_dec *c, bd_refdec_tensor *t) {
    bool repeated = false;
    if (!make_words(d, t)) return false;
    int kind = t->method == BD_REFDEC_F16 ? F16_VALUE : t->method == BD_REFDEC_ROW ? ROW_SCALE : TERNARY_SCALE;
    for (uint64_t k = 0; k < t->n_words; k++) {
        t->words[k] = word_of(c, kind, &repeated);
        if (repeated) return fail(d, BD_REFDEC_NONCANON);
        if (!check_word(d, t, t->words[k])) return false;
    }
    for (uint64_t k = 0; t->method == BD_REFDEC_F32 && k < elements(t); k++) {
        uint32_t high = word_of(c, F32_HIGH, &repeated);
        t->f32[k] = high << 16 | word_of(c, F32_LOW, &repeated);
        if (repeated) return fail(d, BD_REFDEC_NONCANON);
        if (!check_f32(d, t->f32[k])) return false;
    }
    return true;
}

static unsigned context(int64_t m) {
    unsigned B = 0;
    if (m < 128) return 0;
    while (m >> B) B++;
    return 4 * (B - 8) + (unsigned)(m >> (B - 3)) % 4;
}

static int64_t inv(uint64_t n) { return (int64_t)(65536 / n); }

/* C: (cols) running means of columns. */
static bool range_codes(dec *d, range_dec *c, bd_refdec_tensor *t, unsigned s, int64_t *C) {
    uint32_t H = (uint32_t)largest(t) >> s, U = H < 20 ? H : 20;
    int64_t S = 4096;
    for (uint64_t j = 0; j < t->cols; j++) C[j] = 4096;
    fresh(&c->sign, 1);
    for (uint64_t r = 0; r < t->rows; r++) {
        int64_t R = S;
        for (uint64_t j = 0; j < t->cols; j++) {
            unsigned a = context(R), b = context(C[j]);
            uint64_t h = 0;
            while (h < U && mixed(c, &c->row[a][h], &c->col[b][h], c->w[h])) h++;
            if (h == 20 && H > 20) h += uint_of(c, ESCAPE);
            if (h > H) return fail(d, BD_REFDEC_RANGE);
            unsigned v = (unsigned)h;
            if (s > 0) {
                v = 2 * v + with_model(c, &c->below[h < 20 ? h : 20]);
                v = v << (s - 1) | direct(c, s - 1);
            }
            bool negative = v > 0 && with_model(c, &c->sign);
            t->codes[r * t->cols + j] = (int8_t)(negative ? -(int)v : (int)v);
            int64_t now = 4096 * (int64_t)h;
            R += ((now - R) * inv(j + 3 < 512 ? j + 3 : 512)) >> 16;
            C[j] += ((now - C[j]) * inv(r + 3 < 64 ? r + 3 : 64)) >> 16;
        }
        S += (R - S) >> 3;
    }
    return true;
}

static bool range_tensor_codes(dec *d, range_dec *c, bd_refdec_tensor *t) {
    uint64_t n = elements(t), sum = 0;
    if (!make_codes(d, t)) return false;
    unsigned s = direct(c, 3), want = 0;
    if (s > 5) return fail(d, BD_REFDEC_FIELD);
    int64_t *C = malloc((uint64_t)t->cols * sizeof *C);
    if (!C) return fail(d, BD_REFDEC_NOMEM);
    bool fine = range_codes(d, c, t, s, C);
    free(C);
    if (!fine) return false;
    for (uint64_t k = 0; k < n; k++) sum += (uint64_t)(t->codes[k] < 0 ? -t->codes[k] : t->codes[k]);
    while (want < 5 && sum >= 4 * n << want) want++;
    return s == want ? true : fail(d, BD_REFDEC_NONCANON);
}

static uint64_t raw_size(const bd_refdec_group *g, bool as_zeros) {
    uint64_t size = 1 + strlen(g->name) + 4 + 18 * (uint64_t)g->n_tensors;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const bd_refdec_tensor *t = &g->tensors[i];
        uint64_t n = elements(t), z = 0;
        unsigned form;
        for (uint64_t k = 0; !as_zeros && t->method == BD_REFDEC_TERNARY && k < n; k++) z += t->codes[k] != 0;
        size += 2 * words_of(t);
        if (t->method == BD_REFDEC_F32) size += 4 * n;
        if (t->method == BD_REFDEC_ROW) size += n;
        if (t->method == BD_REFDEC_TERNARY) size += 1 + ternary_size(n, z, &form);
    }
    return size;
}

static bool range_group(dec *d, range_dec *c, bd_refdec_group *g, uint64_t raw) {
    uint8_t name[256];
    unsigned len = direct(c, 8);
    for (unsigned i = 0; i < len; i++) name[i] = (uint8_t)direct(c, 8);
    if (!check_name(d, g, name, len)) return false;
    uint64_t n = (uint64_t)uint_of(c, COUNT) + 1;
    if (!check_count(d, n)) return false;
    if (raw < 1 + len + 4 + 18 * n) return fail(d, BD_REFDEC_FIELD);
    if (!make_tensors(d, g, (uint32_t)n)) return false;
    for (uint32_t i = 0; i < n; i++)
        if (!range_header(d, c, g, i)) return false;
    if (raw < raw_size(g, true)) return fail(d, BD_REFDEC_FIELD);
    for (uint32_t i = 0; i < n; i++)
        if (!range_words(d, c, &g->tensors[i])) return false;
    for (uint32_t i = 0; i < n; i++)
        if (has_codes(&g->tensors[i]) && !range_tensor_codes(d, c, &g->tensors[i])) return false;
    if (!range_end_is_legal(c)) return fail(d, BD_REFDEC_NONCANON);
    return raw == raw_size(g, false) ? true : fail(d, BD_REFDEC_FIELD);
}

/* ------------------------------------------------------------------ sections */

typedef struct section {
    unsigned type, codec;
    uint64_t offset, stored, raw;
} section;

/* Contents of a section in codec 0-3: terminated, malloced. */
static uint8_t *unpack(dec *d, const section *s) {
    const uint8_t *in = d->file + s->offset;
    uint8_t *out = malloc(s->raw + 1);
    bool fine = false;
    d->section = s->offset;
    if (!out) {
        fail(d, BD_REFDEC_NOMEM);
        return NULL;
    }
    out[s->raw] = 0;
    if (s->codec == 0) {
        memcpy(out, in, s->raw);
        fine = true;
    } else if (s->codec == 1) {
        BrotliDecoderState *b = BrotliDecoderCreateInstance(NULL, NULL, NULL);
        size_t left = s->stored, room = s->raw;
        const uint8_t *from = in;
        uint8_t *to = out;
        fine = b &&
               BrotliDecoderDecompressStream(b, &left, &from, &room, &to, NULL) == BROTLI_DECODER_RESULT_SUCCESS &&
               !left && !room;
        if (b) BrotliDecoderDestroyInstance(b);
    } else if (s->codec == 2) {
        fine = s->stored >= 4 && le(in, 4) == 0xfd2fb528 &&
               ZSTD_findFrameCompressedSize(in, s->stored) == s->stored &&
               ZSTD_decompress(out, s->raw, in, s->stored) == s->raw;
    } else if (s->codec == 3) {
        uint64_t memory = (uint64_t)128 << 20;
        size_t from = 0, to = 0;
        fine = lzma_stream_buffer_decode(&memory, 0, NULL, in, &from, s->stored, out, &to, s->raw) == LZMA_OK &&
               from == s->stored && to == s->raw;
    }
    if (fine) return out;
    free(out);
    fail(d, BD_REFDEC_CODEC);
    return NULL;
}

static bool decode_text(dec *d, const section *s, char **text, uint64_t *size) {
    *text = (char *)unpack(d, s);
    if (!*text) return false;
    *size = s->raw;
    for (uint64_t i = 0; i < s->raw; i++) {
        unsigned char ch = (unsigned char)(*text)[i];
        if (ch != 0x0a && (ch < 0x20 || ch > 0x7e)) return fail(d, BD_REFDEC_SYNTAX);
    }
    return true;
}

/* --- protocol text --- */

static bool expect(const char **p, const char *end, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(end - *p) < n || memcmp(*p, word, n)) return false;
    *p += n;
    return true;
}

static bool number(const char **p, const char *end, uint64_t *v) {
    const char *start = *p;
    *v = 0;
    while (*p < end && **p >= '0' && **p <= '9' && *v <= UINT32_MAX) *v = *v * 10 + (uint64_t)(*(*p)++ - '0');
    return *p > start && *v <= UINT32_MAX && (*start != '0' || *p == start + 1);
}

static bool hex_number(const char **p, const char *end, double *v) {
    uint64_t fraction = 0, exponent;
    int digits = 0;
    *v = 0;
    if (expect(p, end, "0x0p+0")) return true;
    if (!expect(p, end, "0x1")) return false;
    if (expect(p, end, ".")) {
        while (digits < 13 && *p < end && **p && strchr("0123456789abcdef", **p)) {
            fraction = fraction * 16 + (uint64_t)(strchr("0123456789abcdef", **p) - "0123456789abcdef");
            digits++;
            ++*p;
        }
        if (digits == 0 || fraction % 16 == 0) return false;
    }
    bool minus = expect(p, end, "p-");
    if (!minus && !expect(p, end, "p+")) return false;
    if (!number(p, end, &exponent) || exponent > (minus ? 1022 : 1023) || (minus && exponent == 0)) return false;
    uint64_t bits = (minus ? 1023 - exponent : 1023 + exponent) << 52 | fraction << (4 * (13 - digits));
    memcpy(v, &bits, 8);
    return true;
}

static bool decode_protocol(dec *d, const section *s) {
    static const struct {
        const char *key;
        bool sgd, real;
        double low, high;
    } rule[9] = {{"window ", false, false, 1, 65536},  {"stride ", false, false, 0, 65536},
                 {"chunk ", true, false, 1, 16777216}, {"epochs ", true, false, 1, 1000},
                 {"batch ", true, false, 1, 65536},    {"lr ", true, true, 0, 1000},
                 {"momentum ", true, true, 0, 1},      {"clip ", true, true, 0, 1e6},
                 {"freeze ", true, false, 0, 65536}};
    double value[9] = {0};
    d->out->protocol = (char *)unpack(d, s);
    if (!d->out->protocol) return false;
    d->out->protocol_size = s->raw;
    const char *p = d->out->protocol, *end = p + s->raw;
    if (!expect(&p, end, "kind ")) return fail(d, BD_REFDEC_SYNTAX);
    bool sgd = expect(&p, end, "sgd");
    if (!sgd && !expect(&p, end, "window")) return fail(d, BD_REFDEC_SYNTAX);
    if (!expect(&p, end, "\n")) return fail(d, BD_REFDEC_SYNTAX);
    for (int i = 0; i < 9; i++) {
        if (rule[i].sgd && !sgd) continue;
        uint64_t integer = 0;
        bool fine = expect(&p, end, rule[i].key);
        if (fine) fine = rule[i].real ? hex_number(&p, end, &value[i]) : number(&p, end, &integer);
        if (!fine || !expect(&p, end, "\n")) return fail(d, BD_REFDEC_SYNTAX);
        if (!rule[i].real) value[i] = (double)integer;
    }
    if (p != end) return fail(d, BD_REFDEC_SYNTAX);
    for (int i = 0; i < 9; i++)
        if ((sgd || !rule[i].sgd) && (value[i] < rule[i].low || value[i] > rule[i].high))
            return fail(d, BD_REFDEC_RANGE);
    if (value[1] > value[0]) return fail(d, BD_REFDEC_RANGE);
    return value[1] < value[0] ? true : fail(d, BD_REFDEC_NONCANON);
}

static bool decode_tokenizer(dec *d, const section *s) {
    const uint8_t *p = d->file + s->offset;
    memcpy(d->out->tokenizer_hash, p, 32);
    memcpy(d->out->tables_hash, p + 32, 32);
    d->out->vocab = (uint32_t)le(p + 64, 4);
    return d->out->vocab >= 1 && d->out->vocab <= 65536 ? true : fail_at(d, BD_REFDEC_FIELD, s->offset + 64);
}

static bool decode_group(dec *d, const section *s, bd_refdec_group *g) {
    bool fine;
    d->section = s->offset;
    g->codec = (uint8_t)s->codec;
    if (s->codec == 4) {
        range_dec *c = malloc(sizeof *c);
        if (!c) return fail(d, BD_REFDEC_NOMEM);
        range_begin(c, d->file + s->offset, s->stored);
        fine = range_group(d, c, g, s->raw);
        free(c);
    } else {
        uint8_t *raw = unpack(d, s);
        if (!raw) return false;
        fine = raw_group(d, g, raw, s->raw);
        free(raw);
    }
    return fine;
}

static int by_value(const void *a, const void *b) {
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return x < y ? -1 : x > y;
}

static bool check_params(dec *d, uint64_t first_group) {
    const bd_refdec_result *o = d->out;
    uint64_t n = 0, k = 0;
    d->section = first_group;
    for (uint32_t g = 0; g < o->n_groups; g++) {
        if (g > 0 && o->groups[g].tensors[0].param <= o->groups[g - 1].tensors[0].param)
            return fail(d, BD_REFDEC_NONCANON);
        n += o->groups[g].n_tensors;
    }
    uint32_t *all = malloc(n * sizeof *all);
    if (!all) return fail(d, BD_REFDEC_NOMEM);
    for (uint32_t g = 0; g < o->n_groups; g++)
        for (uint32_t t = 0; t < o->groups[g].n_tensors; t++) all[k++] = o->groups[g].tensors[t].param;
    qsort(all, n, sizeof *all, by_value);
    bool twice = false;
    for (k = 1; k < n; k++) twice |= all[k] == all[k - 1];
    free(all);
    return twice ? fail(d, BD_REFDEC_NONCANON) : true;
}

static bool decode_claims(dec *d, const section *s) {
    const uint8_t *p = d->file + s->offset;
    bd_refdec_result *o = d->out;
    d->section = s->offset;
    o->claim.present = (uint32_t)le(p, 4);
    o->claim.numerics = (uint32_t)le(p + 4, 4);
    o->claim.shards = (uint32_t)le(p + 8, 4);
    o->claim.first_target = le(p + 12, 8);
    o->claim.tokens = le(p + 20, 8);
    o->claim.bytes = le(p + 28, 8);
    o->claim.nll_q32 = (int64_t)le(p + 36, 8);
    memcpy(o->claim.sha256, p + 44, 256);
    if (o->claim.present > 1) return fail(d, BD_REFDEC_FIELD);
    uint64_t used = 0;
    if (o->claim.present) {
        if (!o->claim.numerics || !o->claim.tokens || !o->claim.bytes || o->claim.nll_q32 < 0)
            return fail(d, BD_REFDEC_FIELD);
        if (o->claim.shards < 1 || o->claim.shards > 8) return fail(d, BD_REFDEC_FIELD);
        used = 44 + 32 * o->claim.shards;
    }
    for (; used < 300; used++)
        if (p[used]) return fail_at(d, BD_REFDEC_NONCANON, s->offset + used);
    return true;
}

/* ---------------------------------------------------------------- the file */

static bool check_header(dec *d, uint32_t *sections) {
    static const uint8_t magic[8] = {0x89, 0x42, 0x52, 0x44, 0x0d, 0x0a, 0x1a, 0x0a};
    const uint8_t *f = d->file;
    if (d->size > FILE_LIMIT) return fail_at(d, BD_REFDEC_LIMIT, NOWHERE);
    for (uint64_t i = 0; i < 8 && i < d->size; i++)
        if (f[i] != magic[i]) return fail_at(d, BD_REFDEC_MAGIC, 0);
    if (d->size < 28) return fail_at(d, BD_REFDEC_TRUNCATED, d->size);
    if (le(f + 8, 4) != 1) return fail_at(d, BD_REFDEC_VERSION, 8);
    d->out->numerics = (uint32_t)le(f + 12, 4);
    if (d->out->numerics == 0) return fail_at(d, BD_REFDEC_FIELD, 12);
    uint64_t n = le(f + 16, 4), stated = le(f + 20, 8);
    if (n < 6 || n > 1005) return fail_at(d, BD_REFDEC_FIELD, 16);
    if (stated > d->size) return fail_at(d, BD_REFDEC_TRUNCATED, d->size);
    if (stated < d->size) return fail_at(d, BD_REFDEC_NONCANON, stated);
    if (d->size < 28 + 42 * n + 32) return fail_at(d, BD_REFDEC_FIELD, 16);
    *sections = (uint32_t)n;
    return true;
}

static bool check_table(dec *d, section *s, uint32_t n) {
    static const struct {
        unsigned codecs;
        uint64_t low, high;
    } rule[7] = {{0, 0, 0},       {3, 1, 1 << 24},    {3, 1, 4096}, {0, 68, 68},
                 {3, 0, 1 << 24}, {4, 1, UINT32_MAX}, {0, 300, 300}};
    uint64_t at = 28 + 42 * (uint64_t)n, total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t e = 28 + 42 * (uint64_t)i;
        const uint8_t *p = d->file + e;
        unsigned type = i == n - 1 ? 6 : i < 4 ? i + 1 : 5;
        s[i] = (section){p[0], p[1], at, le(p + 2, 4), le(p + 6, 4)};
        if (s[i].type != type) return fail_at(d, BD_REFDEC_FIELD, e);
        if (s[i].codec > rule[type].codecs) return fail_at(d, BD_REFDEC_FIELD, e + 1);
        if (s[i].raw < rule[type].low || s[i].raw > rule[type].high) return fail_at(d, BD_REFDEC_FIELD, e + 6);
        if (s[i].codec == 0 && s[i].stored != s[i].raw) return fail_at(d, BD_REFDEC_FIELD, e + 2);
        if (s[i].codec != 0 && (s[i].stored == 0 || s[i].stored >= s[i].raw))
            return fail_at(d, BD_REFDEC_NONCANON, e + 2);
        at += s[i].stored;
        total += s[i].raw;
        if (total > UNPACKED_LIMIT) return fail_at(d, BD_REFDEC_LIMIT, e + 6);
    }
    return at + 32 == d->size ? true : fail_at(d, BD_REFDEC_FIELD, 20);
}

static bool check_hashes(dec *d, const section *s, uint32_t n) {
    uint8_t hash[32];
    for (uint32_t i = 0; i < n; i++) {
        sha(d->file + s[i].offset, s[i].stored, NULL, 0, hash);
        if (memcmp(hash, d->file + 28 + 42 * (uint64_t)i + 10, 32))
            return fail_at(d, BD_REFDEC_CHECKSUM, s[i].offset);
    }
    sha(d->file, d->size - 32, NULL, 0, d->out->root_hash);
    if (memcmp(d->out->root_hash, d->file + d->size - 32, 32)) return fail_at(d, BD_REFDEC_CHECKSUM, d->size - 32);
    uint64_t table = 28 + 42 * (uint64_t)n;
    sha(d->file, table - 42, d->file + table, s[n - 1].offset - table, d->out->model_hash);
    return true;
}

static bool decode_file(dec *d, section *s, uint32_t n) {
    bd_refdec_result *o = d->out;
    if (!check_table(d, s, n) || !check_hashes(d, s, n)) return false;
    if (!decode_text(d, &s[0], &o->model, &o->model_size)) return false;
    if (!decode_protocol(d, &s[1])) return false;
    if (!decode_tokenizer(d, &s[2])) return false;
    if (!decode_text(d, &s[3], &o->plan, &o->plan_size)) return false;
    o->groups = calloc(n - 5, sizeof *o->groups);
    if (!o->groups) return fail_at(d, BD_REFDEC_NOMEM, NOWHERE);
    o->n_groups = n - 5;
    for (uint32_t g = 0; g < n - 5; g++)
        if (!decode_group(d, &s[4 + g], &o->groups[g])) return false;
    return check_params(d, s[4].offset) && decode_claims(d, &s[n - 1]);
}

int bd_refdec_decode(const void *data, uint64_t size, bd_refdec_result *out) {
    dec d = {.file = data, .size = size, .out = out, .tensors_left = TENSOR_LIMIT, .elements_left = ELEMENT_LIMIT};
    uint32_t n = 0;
    memset(out, 0, sizeof *out);
    out->offset = NOWHERE;
    if (!check_header(&d, &n)) return out->error;
    section *s = calloc(n, sizeof *s);
    if (!s) fail_at(&d, BD_REFDEC_NOMEM, NOWHERE);
    else decode_file(&d, s, n);
    free(s);
    return out->error;
}

void bd_refdec_free(bd_refdec_result *r) {
    for (uint32_t g = 0; r->groups && g < r->n_groups; g++) {
        for (uint32_t t = 0; r->groups[g].tensors && t < r->groups[g].n_tensors; t++) {
            bd_refdec_tensor *q = &r->groups[g].tensors[t];
            free(q->words);
            free(q->f32);
            free(q->codes);
        }
        free(r->groups[g].tensors);
    }
    free(r->groups);
    free(r->model);
    free(r->protocol);
    free(r->plan);
    memset(r, 0, sizeof *r);
}

/* Exact: every binary16 value is a binary32 value. */
static float half(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction / 16777216.0f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

void bd_refdec_dequant(const bd_refdec_tensor *t, float *out) {
    for (uint64_t i = 0; i < elements(t); i++) {
        if (t->method == BD_REFDEC_F16) out[i] = half(t->words[i]);
        else if (t->method == BD_REFDEC_F32) memcpy(&out[i], &t->f32[i], 4);
        else out[i] = (float)t->codes[i] * half(t->words[t->method == BD_REFDEC_ROW ? i / t->cols : i / t->group]);
    }
}
