/* Weight groups: what holds for every codec, and the raw layout. */
#include <stdlib.h>
#include <string.h>

#include "refdec/refdec_impl.h"
#include "refdec/refdec_trellis.h"

static uint64_t words_of(const bd_refdec_tensor *t) {
    switch (t->method) {
        case BD_REFDEC_F16: return elements(t);
        case BD_REFDEC_ROW: return t->rows;
        case BD_REFDEC_TERNARY: return up(elements(t), t->group);
        case BD_REFDEC_LQER: return t->rows + 1 + up(right_size(t), t->group);
        default: return 0;
    }
}

/* Packed size of n ternary codes, z of them nonzero, and the form for it; without the form byte. */
static uint64_t ternary_size(uint64_t n, uint64_t z, unsigned *form) {
    uint64_t mask = up(n, 8) + up(z, 8), base3 = up(n, 5);
    *form = mask < base3;
    return *form ? mask : base3;
}

bool bd_refdec_check_name(dec *d, bd_refdec_group *g, const uint8_t *name, unsigned len) {
    if (len < 1 || len > 63) return fail(d, BD_REFDEC_FIELD);
    for (unsigned i = 0; i < len; i++)
        if (name[i] < 0x21 || name[i] > 0x7e) return fail(d, BD_REFDEC_FIELD);
    memcpy(g->name, name, len);
    return true;
}

bool bd_refdec_check_count(dec *d, uint64_t n) {
    if (n < 1 || n > 65536) return fail(d, BD_REFDEC_FIELD);
    if (n > d->tensors_left) return fail(d, BD_REFDEC_LIMIT);
    d->tensors_left -= n;
    return true;
}

bool bd_refdec_make_tensors(dec *d, bd_refdec_group *g, uint32_t n) {
    g->tensors = calloc(n, sizeof *g->tensors);
    if (!g->tensors) return fail(d, BD_REFDEC_NOMEM);
    g->n_tensors = n;
    return true;
}

bool bd_refdec_check_tensor(dec *d, const bd_refdec_group *g, uint32_t i) {
    const bd_refdec_tensor *t = &g->tensors[i];
    if (i > 0 && t->param <= g->tensors[i - 1].param) return fail(d, BD_REFDEC_NONCANON);
    if (t->param >> 31 || t->rows == 0 || t->cols == 0 || t->method >= BD_REFDEC_METHODS)
        return fail(d, BD_REFDEC_FIELD);
    bool tcq = is(t, BD_REFDEC_TCQ), lqer = is(t, BD_REFDEC_LQER), logarithmic = is(t, BD_REFDEC_LOG);
    if (has_bits(t) ? (t->bits < 2 || t->bits > 8) : t->bits != 0) return fail(d, BD_REFDEC_FIELD);
    if (lqer ? (t->rank < 1 || t->rank > 64) : t->rank != 0) return fail(d, BD_REFDEC_FIELD);
    uint64_t grouped = is(t, BD_REFDEC_TERNARY) ? elements(t) : lqer ? right_size(t) : 0;
    if (t->group > grouped || (grouped && t->group == 0)) return fail(d, BD_REFDEC_FIELD);
    bool states = t->states == 1;
    for (unsigned n = 4; n <= 256; n *= 2) states |= t->states == n;
    if (tcq ? !states : t->states != 0) return fail(d, BD_REFDEC_FIELD);
    if (t->kind > (tcq ? 15 : 0)) return fail(d, BD_REFDEC_FIELD);
    bool levels = false;
    for (unsigned n = 1; n <= 32; n *= 2) levels |= t->levels == n;
    if (logarithmic ? !levels : t->levels != 0) return fail(d, BD_REFDEC_FIELD);
    if (elements(t) > d->elements_left) return fail(d, BD_REFDEC_LIMIT);
    d->elements_left -= elements(t);
    return true;
}

bool bd_refdec_check_word(dec *d, const bd_refdec_tensor *t, uint16_t w) {
    if ((w >> 10 & 31) == 31) return fail(d, BD_REFDEC_NONFINITE);
    if (t->method != BD_REFDEC_F16 && w >> 15) return fail(d, BD_REFDEC_NONCANON);
    return true;
}

bool bd_refdec_check_f32(dec *d, uint32_t w) {
    return (w >> 23 & 255) == 255 ? fail(d, BD_REFDEC_NONFINITE) : true;
}

bool bd_refdec_check_base(dec *d, uint32_t w) {
    if (!bd_refdec_check_f32(d, w)) return false;
    /* 2^-40 and 2^40; positive floats are ordered as their bit patterns are */
    return w >= 0x2b800000 && w <= 0x53800000 ? true : fail(d, BD_REFDEC_RANGE);
}

bool bd_refdec_make_words(dec *d, bd_refdec_tensor *t) {
    t->n_words = words_of(t);
    if (is(t, BD_REFDEC_F32)) t->f32 = malloc(elements(t) * 4);
    else if (!has_index(t)) t->words = malloc(t->n_words * 2);
    return t->f32 || t->words || has_index(t) ? true : fail(d, BD_REFDEC_NOMEM);
}

bool bd_refdec_make_codes(dec *d, bd_refdec_tensor *t) {
    bool fine = true;
    if (has_codes(t)) fine = (t->codes = malloc(elements(t))) != NULL;
    if (has_index(t)) fine = (t->index = malloc(elements(t) * 2)) != NULL;
    if (is(t, BD_REFDEC_TCQ)) {
        t->row_exp = malloc((uint64_t)t->rows * 2);
        t->col_exp = malloc((uint64_t)t->cols * 2);
        fine &= t->row_exp && t->col_exp;
    }
    if (is(t, BD_REFDEC_LQER)) {
        t->left = malloc(left_size(t));
        t->right = malloc(right_size(t));
        fine &= t->left && t->right;
    }
    return fine ? true : fail(d, BD_REFDEC_NOMEM);
}

static bool check_trellis(dec *d, const bd_refdec_tensor *t) {
    uint32_t *order = trellis_order(t);
    trellis code;
    if (!order) return fail(d, BD_REFDEC_NOMEM);
    bool fine = true;
    trellis_begin(&code, t->states);
    for (uint64_t c = 0; c < t->cols; c++) {
        unsigned s = 0;
        for (uint64_t i = 0; i < t->rows && fine; i++) {
            int x = t->index[c * t->rows + order[i]];
            fine = (unsigned)(x + 32768) % 2 == code.allowed[s];
            s = state_after(&code, s, x);
        }
    }
    free(order);
    return fine ? true : fail(d, BD_REFDEC_FIELD);
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
        V += has_index(&g->tensors[i]);
    }
    const uint8_t *p = take(b, 2 * W), *q = p ? take(b, 4 * V) : NULL;
    if (!q) return fail(d, BD_REFDEC_TRUNCATED);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (!bd_refdec_make_words(d, t)) return false;
        for (uint64_t k = 0; k < t->n_words; k++, w++) {
            t->words[k] = (uint16_t)(p[w] + 256 * p[W + w]);
            if (!bd_refdec_check_word(d, t, t->words[k])) return false;
        }
        uint64_t n = is(t, BD_REFDEC_F32) ? elements(t) : has_index(t);
        for (uint64_t k = 0; k < n; k++, v++) {
            uint32_t bits = (uint32_t)q[v] | (uint32_t)q[V + v] << 8 | (uint32_t)q[2 * V + v] << 16 |
                            (uint32_t)q[3 * V + v] << 24;
            if (is(t, BD_REFDEC_F32) ? !bd_refdec_check_f32(d, bits) : !bd_refdec_check_base(d, bits)) return false;
            if (is(t, BD_REFDEC_F32)) t->f32[k] = bits;
            else t->base = bits;
        }
    }
    return true;
}

static bool within(dec *d, int v, int low, int high) {
    return v >= low && v <= high ? true : fail(d, BD_REFDEC_RANGE);
}

/* Exponents and indices: low bytes of all tensors, then high bytes. */
static bool raw_codes16(dec *d, bd_refdec_group *g, bytes *b) {
    uint64_t X = 0, x = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const bd_refdec_tensor *t = &g->tensors[i];
        if (has_index(t)) X += elements(t);
        if (is(t, BD_REFDEC_TCQ)) X += (uint64_t)t->rows + t->cols;
    }
    const uint8_t *p = take(b, 2 * X);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (!has_index(t)) continue;
        if (!bd_refdec_make_codes(d, t)) return false;
        int16_t *part[3] = {t->row_exp, t->col_exp, t->index};
        const uint64_t size[3] = {part[0] ? t->rows : 0, part[1] ? t->cols : 0, elements(t)};
        for (int k = 0; k < 3; k++)
            for (uint64_t m = 0; m < size[k]; m++, x++) {
                int v = p[x] + 256 * (p[X + x] < 128 ? p[X + x] : p[X + x] - 256);
                int most = k < 2 ? 128 : largest_index(t);
                if (!within(d, v, -most, most)) return false;
                part[k][m] = (int16_t)v;
            }
        if (is(t, BD_REFDEC_TCQ) && t->states > 1 && !check_trellis(d, t)) return false;
    }
    return true;
}

static bool raw_codes8(dec *d, bd_refdec_tensor *t, bytes *b) {
    bool lqer = is(t, BD_REFDEC_LQER);
    const uint64_t size[3] = {elements(t), lqer ? left_size(t) : 0, lqer ? right_size(t) : 0};
    const int low[3] = {-largest(t), -2, -8}, high[3] = {largest(t), 1, 7};
    const uint8_t *p = take(b, size[0] + size[1] + size[2]);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    if (!bd_refdec_make_codes(d, t)) return false;
    int8_t *part[3] = {t->codes, t->left, t->right};
    for (int k = 0; k < 3; k++)
        for (uint64_t m = 0; m < size[k]; m++, p++) {
            int v = *p < 128 ? *p : *p - 256;
            if (!within(d, v, low[k], high[k])) return false;
            part[k][m] = (int8_t)v;
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
    if (!bd_refdec_make_codes(d, t)) return false;
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

bool bd_refdec_raw_group(dec *d, bd_refdec_group *g, const uint8_t *data, uint64_t size) {
    bytes b = {data, size};
    const uint8_t *len = take(&b, 1), *name = len ? take(&b, *len) : NULL;
    if (!name) return fail(d, BD_REFDEC_TRUNCATED);
    if (!bd_refdec_check_name(d, g, name, *len)) return false;
    const uint8_t *p = take(&b, 4);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    uint32_t n = (uint32_t)le(p, 4);
    if (!bd_refdec_check_count(d, n)) return false;
    p = take(&b, 23 * (uint64_t)n);
    if (!p) return fail(d, BD_REFDEC_TRUNCATED);
    if (!bd_refdec_make_tensors(d, g, n)) return false;
    for (uint32_t i = 0; i < n; i++, p += 23) {
        bd_refdec_tensor *t = &g->tensors[i];
        t->param = (uint32_t)le(p, 4);
        t->rows = (uint32_t)le(p + 4, 4);
        t->cols = (uint32_t)le(p + 8, 4);
        t->method = p[12];
        t->bits = p[13];
        t->group = (uint32_t)le(p + 14, 4);
        t->states = (uint16_t)le(p + 18, 2);
        t->kind = p[20];
        t->levels = p[21];
        t->rank = p[22];
        if (!bd_refdec_check_tensor(d, g, i)) return false;
    }
    if (!raw_words(d, g, &b) || !raw_codes16(d, g, &b)) return false;
    for (uint32_t i = 0; i < n; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (is(t, BD_REFDEC_TERNARY) && !raw_ternary(d, t, &b)) return false;
        if (has_bits(t) && !raw_codes8(d, t, &b)) return false;
    }
    return b.left ? fail(d, BD_REFDEC_NONCANON) : true;
}

uint64_t bd_refdec_raw_size(const bd_refdec_group *g, bool as_zeros) {
    uint64_t size = 1 + strlen(g->name) + 4 + 23 * (uint64_t)g->n_tensors;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const bd_refdec_tensor *t = &g->tensors[i];
        uint64_t n = elements(t), z = 0;
        unsigned form;
        size += 2 * words_of(t);
        if (is(t, BD_REFDEC_F32)) size += 4 * n;
        if (has_index(t)) size += 4 + 2 * n;
        if (is(t, BD_REFDEC_TCQ)) size += 2 * ((uint64_t)t->rows + t->cols);
        if (has_bits(t)) size += n;
        if (is(t, BD_REFDEC_LQER)) size += left_size(t) + right_size(t);
        if (!is(t, BD_REFDEC_TERNARY)) continue;
        for (uint64_t k = 0; !as_zeros && k < n; k++) z += t->codes[k] != 0;
        size += 1 + ternary_size(n, z, &form);
    }
    return size;
}
