/* Weight groups in codec RANGE, but for the integer arrays. */
#include <stdlib.h>

#include "refdec/refdec_coder.h"

static bool same_shape(const bd_refdec_tensor *a, const bd_refdec_tensor *b) {
    return a->rows == b->rows && a->cols == b->cols && a->method == b->method && a->bits == b->bits &&
           a->group == b->group && a->states == b->states && a->kind == b->kind && a->levels == b->levels &&
           a->rank == b->rank;
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
        t->method = (uint8_t)direct(c, 3);
        if (has_bits(t)) t->bits = (uint8_t)(direct(c, 3) + 1);
        if (is(t, BD_REFDEC_TERNARY) || is(t, BD_REFDEC_LQER)) t->group = uint_of(c, GROUP) + 1;
        if (is(t, BD_REFDEC_TCQ)) {
            unsigned v = direct(c, 3);
            t->states = (uint16_t)(v ? 2 << v : 1);
            t->kind = (uint8_t)direct(c, 4);
        }
        if (is(t, BD_REFDEC_LOG)) t->levels = (uint8_t)(1 << direct(c, 3));
        if (is(t, BD_REFDEC_LQER)) t->rank = (uint8_t)(direct(c, 6) + 1);
    }
    t->param = (uint32_t)param;
    if (!bd_refdec_check_tensor(d, g, i)) return false;
    for (uint32_t k = 64; k > 0; k--)
        if (k <= i && same_shape(t, t - k)) nearest = k;
    return nearest == distance ? true : fail(d, BD_REFDEC_NONCANON);
}

static bool range_words(dec *d, range_dec *c, bd_refdec_tensor *t) {
    bool repeated = false;
    if (!bd_refdec_make_words(d, t)) return false;
    for (uint64_t k = 0; k < t->n_words; k++) {
        int kind = is(t, BD_REFDEC_F16)                    ? F16_VALUE
                   : is(t, BD_REFDEC_TERNARY)              ? TERNARY_SCALE
                   : is(t, BD_REFDEC_LQER) && k >= t->rows ? LQER_SCALE
                                                           : ROW_SCALE;
        t->words[k] = word_of(c, kind, &repeated);
        if (repeated) return fail(d, BD_REFDEC_NONCANON);
        if (!bd_refdec_check_word(d, t, t->words[k])) return false;
    }
    for (uint64_t k = 0; is(t, BD_REFDEC_F32) && k < elements(t); k++) {
        uint32_t high = word_of(c, F32_HIGH, &repeated);
        t->f32[k] = high << 16 | word_of(c, F32_LOW, &repeated);
        if (repeated) return fail(d, BD_REFDEC_NONCANON);
        if (!bd_refdec_check_f32(d, t->f32[k])) return false;
    }
    if (!has_index(t)) return true;
    uint32_t high = word_of(c, BASE_HIGH, &repeated);
    t->base = high << 16 | word_of(c, BASE_LOW, &repeated);
    return repeated ? fail(d, BD_REFDEC_NONCANON) : bd_refdec_check_base(d, t->base);
}

static bool group(dec *d, range_dec *c, codes_dec *m, bd_refdec_group *g, uint64_t raw) {
    uint8_t name[256];
    unsigned len = direct(c, 8);
    for (unsigned i = 0; i < len; i++) name[i] = (uint8_t)direct(c, 8);
    if (!bd_refdec_check_name(d, g, name, len)) return false;
    uint64_t n = (uint64_t)uint_of(c, COUNT) + 1;
    if (!bd_refdec_check_count(d, n)) return false;
    if (raw < 1 + len + 4 + 23 * n) return fail(d, BD_REFDEC_FIELD);
    if (!bd_refdec_make_tensors(d, g, (uint32_t)n)) return false;
    for (uint32_t i = 0; i < n; i++)
        if (!range_header(d, c, g, i)) return false;
    if (raw < bd_refdec_raw_size(g, true)) return fail(d, BD_REFDEC_FIELD);
    for (uint32_t i = 0; i < n; i++)
        if (!range_words(d, c, &g->tensors[i])) return false;
    for (uint32_t i = 0; i < n; i++) {
        bd_refdec_tensor *t = &g->tensors[i];
        if (!has_codes(t) && !has_index(t)) continue;
        if (!bd_refdec_make_codes(d, t) || !bd_refdec_codes(d, m, c, g, i)) return false;
    }
    if (!range_end_is_legal(c)) return fail(d, BD_REFDEC_NONCANON);
    return raw == bd_refdec_raw_size(g, false) ? true : fail(d, BD_REFDEC_FIELD);
}

bool bd_refdec_range_group(dec *d, bd_refdec_group *g, const uint8_t *data, uint64_t size, uint64_t raw) {
    range_dec *c = malloc(sizeof *c);
    codes_dec *m = bd_refdec_codes_begin();
    bool fine = c && m ? true : fail(d, BD_REFDEC_NOMEM);
    if (fine) {
        range_begin(c, data, size);
        fine = group(d, c, m, g, raw);
    }
    free(c);
    bd_refdec_codes_end(m);
    return fine;
}
