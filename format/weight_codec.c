#include "format/weight_codec.h"

#include <stdlib.h>
#include <string.h>

#include "format/code_model.h"
#include "format/range_coder.h"

enum { SHAPE_WINDOW = 64 }; /* how far back a tensor's shape is looked for */

/* Unsigned integers of unknown size: bit length in unary, then the bits below the leading one. */
typedef struct uint_model {
    bd_bit length[32];
    bd_bit tail[4][8];
} uint_model;

typedef enum uint_kind { U_COUNT, U_PARAM, U_SHAPE, U_ROWS, U_COLS, U_GROUP, U_KINDS } uint_kind;
typedef enum word_kind {
    W_ROW,
    W_TERNARY,
    W_F16,
    W_F32_HIGH,
    W_F32_LOW,
    W_LQER,
    W_BASE_HIGH,
    W_BASE_LOW,
    W_KINDS
} word_kind;

typedef struct word_model {
    bd_bit same[2], high[256], top[8], low[5];
    uint16_t last;
    uint8_t was_same;
} word_model;

typedef struct codec {
    bd_rc rc;
    bd_rc_tables tables;
    uint_model uints[U_KINDS];
    word_model words[W_KINDS];
    bd_code_model *codes;
    bd_arena *arena;
    uint64_t place;
    bd_err *err;
} codec;

#define HALF   bd_bit_make(1u << 21, 0)
#define ALWAYS static inline __attribute__((always_inline))

static void fill(bd_bit *m, size_t n) {
    for (size_t i = 0; i < n; i++) m[i] = HALF;
}

static codec *codec_new(void) {
    codec *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    bd_rc_tables_init(&c->tables);
    for (int k = 0; k < U_KINDS; k++) {
        fill(c->uints[k].length, 32);
        fill(&c->uints[k].tail[0][0], 32);
    }
    for (int k = 0; k < W_KINDS; k++) {
        word_model *w = &c->words[k];
        fill(w->same, 2);
        fill(w->high, 256);
        fill(w->top, 8);
        fill(w->low, 5);
    }
    c->codes = bd_code_model_create();
    if (!c->codes) {
        free(c);
        return NULL;
    }
    return c;
}

static void codec_free(codec *c) {
    bd_code_model_destroy(c->codes);
    free(c);
}

ALWAYS uint32_t code_uint(bd_rc *rc, bd_rc_mode mode, uint_model *m, uint32_t v) {
    unsigned n = 0, want = mode == BD_RC_DECODE ? 0 : 31 - (unsigned)__builtin_clz(v + 1);
    /* v <= 2^32 - 2, so v + 1 has at most 32 digits */
    while (n < 31 && bd_rc_model(rc, mode, n < want, &m->length[n])) n++;
    uint32_t x = 1;
    if (n <= 3)
        for (unsigned i = n; i-- > 0;) x = x << 1 | bd_rc_model(rc, mode, (v + 1) >> i & 1, &m->tail[n][x]);
    else x = 1u << n | bd_rc_direct(rc, mode, (v + 1) & ((1u << n) - 1), n);
    return x - 1;
}

/* One 16-bit word. *bad: it was spelled out although it repeats the last one. */
ALWAYS uint16_t code_word(codec *c, bd_rc_mode mode, word_kind kind, uint16_t v, bool *bad) {
    word_model *m = &c->words[kind];
    unsigned same = bd_rc_model(&c->rc, mode, v == m->last, &m->same[m->was_same]);
    m->was_same = (uint8_t)same;
    if (same) return m->last;
    unsigned x = 1;
    for (int i = 15; i >= 8; i--) x = x << 1 | bd_rc_model(&c->rc, mode, v >> i & 1, &m->high[x]);
    unsigned y = 1;
    for (int i = 7; i >= 5; i--) y = y << 1 | bd_rc_model(&c->rc, mode, v >> i & 1, &m->top[y]);
    for (int i = 4; i >= 0; i--) y = y << 1 | bd_rc_model(&c->rc, mode, v >> i & 1, &m->low[i]);
    uint16_t word = (uint16_t)((x & 255) << 8 | (y & 255));
    *bad |= word == m->last;
    m->last = word;
    return word;
}

static bool same_shape(const bd_qtensor *a, const bd_qtensor *b) {
    return a->rows == b->rows && a->cols == b->cols && a->method == b->method && a->bits == b->bits &&
           a->group == b->group && a->states == b->states && a->kind == b->kind && a->levels == b->levels &&
           a->rank == b->rank;
}

/* Distance to the nearest earlier tensor of the same shape, 0: none. */
static uint32_t find_shape(const bd_qtensor *t, uint32_t i) {
    for (uint32_t d = 1; d <= SHAPE_WINDOW && d <= i; d++)
        if (same_shape(&t[i], &t[i - d])) return d;
    return 0;
}

/* 4 .. 256 states as 1 .. 7, one state as 0; levels as their logarithm. */
static unsigned log2_of(unsigned v) { return 31 - (unsigned)__builtin_clz(v); }

/* All fields but param and base. */
ALWAYS void code_fields(codec *c, bd_rc_mode mode, bd_qtensor *q) {
    const bool read = mode == BD_RC_DECODE;
    bd_qtensor x = {.param = q->param};
    x.rows = code_uint(&c->rc, mode, &c->uints[U_ROWS], read ? 0 : q->rows - 1) + 1;
    x.cols = code_uint(&c->rc, mode, &c->uints[U_COLS], read ? 0 : q->cols - 1) + 1;
    x.method = (bd_qmethod)bd_rc_direct(&c->rc, mode, read ? 0 : (unsigned)q->method, 3);
    if (x.method == BD_Q_ROW || x.method == BD_Q_LQER)
        x.bits = (uint8_t)(bd_rc_direct(&c->rc, mode, read ? 0 : q->bits - 1u, 3) + 1);
    if (x.method == BD_Q_TERNARY || x.method == BD_Q_LQER)
        x.group = code_uint(&c->rc, mode, &c->uints[U_GROUP], read ? 0 : q->group - 1) + 1;
    if (x.method == BD_Q_TCQ) {
        unsigned v = bd_rc_direct(&c->rc, mode, read || q->states == 1 ? 0 : log2_of(q->states) - 1, 3);
        x.states = v ? (uint16_t)(2u << v) : 1;
        x.kind = (uint8_t)bd_rc_direct(&c->rc, mode, read ? 0 : q->kind, 4);
    }
    if (x.method == BD_Q_LOG)
        x.levels = (uint8_t)(1u << bd_rc_direct(&c->rc, mode, read ? 0 : log2_of(q->levels), 3));
    if (x.method == BD_Q_LQER) x.rank = (uint8_t)(bd_rc_direct(&c->rc, mode, read ? 0 : q->rank - 1u, 6) + 1);
    if (read) *q = x;
}

ALWAYS bd_status code_tensor_header(codec *c, bd_rc_mode mode, bd_qtensor *t, uint32_t i, bd_group_budget *budget) {
    bd_qtensor *q = &t[i];
    uint32_t next = i ? t[i - 1].param + 1 : 0, distance = 0;
    if (mode != BD_RC_DECODE) distance = find_shape(t, i);
    uint32_t delta = code_uint(&c->rc, mode, &c->uints[U_PARAM], mode == BD_RC_DECODE ? 0 : q->param - next);
    if (mode == BD_RC_DECODE) {
        if ((uint64_t)next + delta > BD_PARAM_MAX)
            return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "a parameter index of 2^31 or more");
        q->param = next + delta;
    }
    distance = code_uint(&c->rc, mode, &c->uints[U_SHAPE], distance);
    if (distance) {
        if (mode != BD_RC_DECODE) return BD_OK;
        if (distance > SHAPE_WINDOW || distance > i)
            return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "parameter %u has the shape of no tensor", q->param);
        const bd_qtensor *like = &t[i - distance];
        *q = (bd_qtensor){.param = q->param,
                          .rows = like->rows,
                          .cols = like->cols,
                          .method = like->method,
                          .bits = like->bits,
                          .group = like->group,
                          .states = like->states,
                          .kind = like->kind,
                          .levels = like->levels,
                          .rank = like->rank};
    } else {
        code_fields(c, mode, q);
        if (mode != BD_RC_DECODE) return BD_OK;
    }
    BD_TRY(bd_group_check_tensor(t, i, budget, c->place, c->err));
    if (find_shape(t, i) != distance)
        return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place,
                          "parameter %u: its shape is not spelled by the nearest equal one", q->param);
    return BD_OK;
}

ALWAYS bd_status code_head(codec *c, bd_rc_mode mode, bd_qgroup *g, uint64_t raw_size, bd_group_budget *budget,
                           double *bits) {
    char name[256];
    unsigned len = mode == BD_RC_DECODE ? 0 : (unsigned)strlen(g->name);
    len = bd_rc_direct(&c->rc, mode, len, 8);
    for (unsigned i = 0; i < len; i++)
        name[i] = (char)bd_rc_direct(&c->rc, mode, mode == BD_RC_DECODE ? 0 : (unsigned char)g->name[i], 8);
    if (mode == BD_RC_DECODE) BD_TRY(bd_group_check_name(name, len, c->place, c->err));
    uint32_t n = code_uint(&c->rc, mode, &c->uints[U_COUNT], g->n_tensors - 1) + 1;
    if (mode == BD_RC_DECODE) {
        BD_TRY(bd_group_check_count(n, budget, c->place, c->err));
        if (raw_size < 1 + len + 4 + (uint64_t)n * BD_GROUP_HEADER)
            return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "%u tensors do not fit the declared %llu bytes", n,
                              (unsigned long long)raw_size);
        g->name = bd_arena_strdup(c->arena, name, len);
        g->tensors = bd_arena_alloc(c->arena, n, sizeof *g->tensors);
        if (!g->name || !g->tensors) return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for %u tensors", n);
        g->n_tensors = n;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t before = bd_rc_price(&c->rc);
        BD_TRY(code_tensor_header(c, mode, g->tensors, i, budget));
        if (bits) bits[i] += (double)(bd_rc_price(&c->rc) - before) / 256;
    }
    if (mode == BD_RC_DECODE && bd_group_raw_size_min(g) > raw_size)
        return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "the tensors do not fit the declared %llu bytes",
                          (unsigned long long)raw_size);
    return BD_OK;
}

static bd_status no_memory(codec *c, uint64_t n) {
    return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for %llu weights or scales", (unsigned long long)n);
}

/* n words of one kind: binary16 values or scales. */
ALWAYS bd_status code_words16(codec *c, bd_rc_mode mode, word_kind kind, uint16_t **words, uint64_t n) {
    bool bad = false;
    if (n == 0) return BD_OK;
    uint16_t *w = *words;
    if (mode == BD_RC_DECODE) {
        *words = w = bd_arena_alloc(c->arena, n, sizeof *w);
        if (!w) return no_memory(c, n);
    }
    for (uint64_t i = 0; i < n; i++) {
        uint16_t v = code_word(c, mode, kind, mode == BD_RC_DECODE ? 0 : w[i], &bad);
        if (mode != BD_RC_DECODE) continue;
        w[i] = v;
        if (bad) return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place, "a repeated word is spelled out");
        BD_TRY(kind == W_F16 ? bd_group_check_f16(v, c->place, c->err) : bd_group_check_scale(v, c->place, c->err));
    }
    return BD_OK;
}

/* One float32 as two words. */
ALWAYS bd_status code_float(codec *c, bd_rc_mode mode, word_kind high_kind, word_kind low_kind, float *x) {
    bool bad = false;
    uint32_t u = mode == BD_RC_DECODE ? 0 : bd_float_bits(*x);
    uint16_t high = code_word(c, mode, high_kind, (uint16_t)(u >> 16), &bad);
    uint16_t low = code_word(c, mode, low_kind, (uint16_t)u, &bad);
    if (mode != BD_RC_DECODE) return BD_OK;
    if (bad) return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place, "a repeated word is spelled out");
    u = (uint32_t)high << 16 | low;
    BD_TRY(high_kind == W_F32_HIGH ? bd_group_check_f32(u, c->place, c->err)
                                   : bd_group_check_base(u, c->place, c->err));
    memcpy(x, &u, sizeof u);
    return BD_OK;
}

ALWAYS bd_status code_words(codec *c, bd_rc_mode mode, bd_qtensor *q) {
    uint64_t n = bd_qtensor_elements(q);
    switch (q->method) {
        case BD_Q_F16: return code_words16(c, mode, W_F16, &q->f16, n);
        case BD_Q_ROW: return code_words16(c, mode, W_ROW, &q->scales, bd_qtensor_scales(q));
        case BD_Q_TERNARY: return code_words16(c, mode, W_TERNARY, &q->scales, bd_qtensor_scales(q));
        case BD_Q_LQER:
            BD_TRY(code_words16(c, mode, W_ROW, &q->scales, bd_qtensor_scales(q)));
            return code_words16(c, mode, W_LQER, &q->lq_scales, bd_qtensor_lq_scales(q));
        case BD_Q_F32:
            if (mode == BD_RC_DECODE) q->f32 = bd_arena_alloc(c->arena, n, sizeof *q->f32);
            if (!q->f32) return no_memory(c, n);
            for (uint64_t i = 0; i < n; i++) BD_TRY(code_float(c, mode, W_F32_HIGH, W_F32_LOW, &q->f32[i]));
            return BD_OK;
        default: return code_float(c, mode, W_BASE_HIGH, W_BASE_LOW, &q->base);
    }
}

/* Room for a tensor's integer arrays. */
static bd_status alloc_codes(codec *c, bd_qtensor *q) {
    uint64_t n = bd_qtensor_elements(q);
    bool fine = true;
    if (bd_qtensor_qmax(q)) fine &= (q->codes = bd_arena_alloc(c->arena, n, sizeof *q->codes)) != NULL;
    if (bd_qtensor_index_max(q)) fine &= (q->index = bd_arena_alloc(c->arena, n, sizeof *q->index)) != NULL;
    if (q->method == BD_Q_TCQ) {
        q->row_exp = bd_arena_alloc(c->arena, q->rows, sizeof *q->row_exp);
        q->col_exp = bd_arena_alloc(c->arena, q->cols, sizeof *q->col_exp);
        fine &= q->row_exp && q->col_exp;
    }
    if (q->method == BD_Q_LQER) {
        q->lq_a = bd_arena_alloc(c->arena, (uint64_t)q->rows * q->rank, sizeof *q->lq_a);
        q->lq_b = bd_arena_alloc(c->arena, (uint64_t)q->rank * q->cols, sizeof *q->lq_b);
        fine &= q->lq_a && q->lq_b;
    }
    return fine ? BD_OK : no_memory(c, n);
}

/* bits: NULL, or (n_tensors) where the length of each tensor's parts is added up (price). */
ALWAYS bd_status code_group(codec *c, bd_rc_mode mode, bd_qgroup *g, uint64_t raw_size, bd_group_budget *budget,
                            double *bits) {
    BD_TRY(code_head(c, mode, g, raw_size, budget, bits));
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        uint64_t before = bd_rc_price(&c->rc);
        BD_TRY(code_words(c, mode, &g->tensors[t]));
        if (bits) bits[t] += (double)(bd_rc_price(&c->rc) - before) / 256;
    }
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        if (!bd_qmethod_has_codes(g->tensors[t].method)) continue;
        uint64_t before = bd_rc_price(&c->rc);
        if (mode == BD_RC_DECODE) BD_TRY(alloc_codes(c, &g->tensors[t]));
        BD_TRY(bd_code_tensor(c->codes, &c->rc, mode, g->tensors, t, c->place, c->err));
        if (bits) bits[t] += (double)(bd_rc_price(&c->rc) - before) / 256;
    }
    return BD_OK;
}

bd_status bd_weight_encode(const bd_qgroup *g, bd_buf *out, bd_err *err) {
    codec *c = codec_new();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for the range coder's models");
    c->err = err;
    c->place = BD_NO_OFFSET;
    bd_rc_encode_begin(&c->rc, out, &c->tables);
    bd_qgroup copy = *g; /* the shared body takes a writable group; encoding changes nothing in it */
    bd_status st = code_group(c, BD_RC_ENCODE, &copy, 0, NULL, NULL);
    if (st == BD_OK) {
        bd_rc_encode_end(&c->rc);
        st = bd_buf_check(out, err);
    }
    codec_free(c);
    return st;
}

static bd_status price(const bd_qgroup *g, uint64_t *bits_q8, double *tensors, bd_err *err) {
    codec *c = codec_new();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for the range coder's models");
    c->err = err;
    c->place = BD_NO_OFFSET;
    bd_rc_price_begin(&c->rc, &c->tables);
    bd_qgroup copy = *g;
    bd_status st = code_group(c, BD_RC_PRICE, &copy, 0, NULL, tensors);
    *bits_q8 = bd_rc_price(&c->rc);
    codec_free(c);
    return st;
}

bd_status bd_weight_price(const bd_qgroup *g, uint64_t *bits_q8, bd_err *err) {
    return price(g, bits_q8, NULL, err);
}

bd_status bd_weight_price_tensors(const bd_qgroup *g, double *bits, bd_err *err) {
    uint64_t all;
    for (uint32_t t = 0; t < g->n_tensors; t++) bits[t] = 0;
    return price(g, &all, bits, err);
}

bd_status bd_weight_decode(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                           bd_group_budget *budget, uint64_t place, bd_err *err) {
    codec *c = codec_new();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for the range coder's models");
    c->arena = arena;
    c->place = place;
    c->err = err;
    bd_rc_decode_begin(&c->rc, data, size, &c->tables);
    bd_status st = code_group(c, BD_RC_DECODE, g, raw_size, budget, NULL);
    if (st == BD_OK && !bd_rc_decode_end(&c->rc))
        st = BD_FAIL_AT(err, BD_E_NONCANON, place, "the range coder's stream does not end where its symbols end");
    if (st == BD_OK && bd_group_raw_size(g) != raw_size)
        st = BD_FAIL_AT(err, BD_E_FIELD, place, "the group takes %llu bytes unpacked, %llu are declared",
                        (unsigned long long)bd_group_raw_size(g), (unsigned long long)raw_size);
    codec_free(c);
    return st;
}
