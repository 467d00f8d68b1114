#include "format/weight_codec.h"

#include <stdlib.h>
#include <string.h>

#include "format/range_coder.h"

enum {
    UNARY = 20,       /* bins with models of their own; larger magnitudes escape */
    CONTEXTS = 52,    /* quarter octaves of a mean magnitude, 1/32 .. 256 */
    ONE = 1 << 12,    /* a mean magnitude of 1 */
    ROW_WINDOW = 512, /* running means: 1/n steps up to these */
    COL_WINDOW = 64,
    SHAPE_WINDOW = 64, /* how far back a tensor's shape is looked for */
    SHIFT_MAX = 5
};

/* Unsigned integers of unknown size: bit length in unary, then the bits below the leading one. */
typedef struct uint_model {
    bd_bit length[32];
    bd_bit tail[4][8];
} uint_model;

typedef enum uint_kind { U_COUNT, U_PARAM, U_SHAPE, U_ROWS, U_COLS, U_GROUP, U_ESCAPE, U_KINDS } uint_kind;
typedef enum word_kind { W_ROW, W_TERNARY, W_F16, W_F32_HIGH, W_F32_LOW, W_KINDS } word_kind;

typedef struct word_model {
    bd_bit same[2], high[256], top[8], low[5];
    uint16_t last;
    uint8_t was_same;
} word_model;

typedef struct codec {
    bd_rc rc;
    bd_rc_tables tables;
    uint32_t inverse[ROW_WINDOW + 1]; /* 65536 / n */
    uint_model uints[U_KINDS];
    word_model words[W_KINDS];
    bd_bit row[CONTEXTS][UNARY], col[CONTEXTS][UNARY];
    bd_bit below[UNARY + 1]; /* highest of the bits shifted out, by magnitude */
    bd_bit sign;
    int32_t weight[UNARY][2];
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
    for (uint32_t n = 1; n <= ROW_WINDOW; n++) c->inverse[n] = 65536 / n;
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
    fill(c->below, UNARY + 1);
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        /* A geometric distribution with the context's mean is the starting point. */
        uint64_t mean = ((uint64_t)(4 + i % 4) << (5 + i / 4)) + (16u << (i / 4));
        bd_bit start = bd_bit_make((uint32_t)((mean << 22) / (mean + ONE)), 1);
        for (int k = 0; k < UNARY; k++) c->row[i][k] = c->col[i][k] = start;
    }
    for (int k = 0; k < UNARY; k++) c->weight[k][0] = c->weight[k][1] = 32768;
    return c;
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

/* --- codes --- */

ALWAYS unsigned context(int32_t mean) {
    uint32_t t = mean < 128 ? 128 : (uint32_t)mean;
    unsigned lz = 31 - (unsigned)__builtin_clz(t);
    return 4 * (lz - 7) + (t >> (lz - 2) & 3);
}

/* Magnitude h in [0, hmax]: unary with mixed models, then an escape. */
ALWAYS unsigned code_magnitude(codec *c, bd_rc *rc, bd_rc_mode mode, unsigned h, unsigned hmax, int32_t row_mean,
                               int32_t col_mean) {
    bd_bit *a = c->row[context(row_mean)], *b = c->col[context(col_mean)];
    unsigned stop = hmax < UNARY ? hmax : UNARY, k = 0;
    while (k < stop && bd_rc_mix(rc, mode, h > k, &a[k], &b[k], c->weight[k])) k++;
    if (__builtin_expect(k == UNARY && hmax > UNARY, 0)) {
        uint32_t more = code_uint(rc, mode, &c->uints[U_ESCAPE], h - UNARY);
        k = more > hmax - UNARY ? hmax + 1 : UNARY + more;
    }
    return k;
}

/* Bits that are coded below the unary part, so that its mean stays below 4. */
static unsigned choose_shift(const int8_t *codes, uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += (uint64_t)(codes[i] < 0 ? -codes[i] : codes[i]);
    unsigned s = 0;
    while (s < SHIFT_MAX && sum >= (4 * n) << s) s++;
    return s;
}

/* All codes of a tensor; col: (cols) running means. Returns false if a decoded magnitude is too large. */
ALWAYS bool code_tensor(codec *c, bd_rc *rc, bd_rc_mode mode, const bd_qtensor *q, unsigned shift, int32_t *col) {
    const unsigned hmax = (unsigned)bd_qtensor_qmax(q) >> shift;
    const uint32_t *inverse = c->inverse;
    int32_t row_start = ONE;
    for (uint32_t j = 0; j < q->cols; j++) col[j] = ONE;
    c->sign = HALF;
    for (uint32_t r = 0; r < q->rows; r++) {
        int8_t *codes = q->codes + (uint64_t)r * q->cols;
        const int64_t col_step = inverse[r < COL_WINDOW - 3 ? r + 3 : COL_WINDOW];
        int32_t mean = row_start;
        for (uint32_t j = 0; j < q->cols; j++) {
            unsigned v = 0;
            if (mode != BD_RC_DECODE) v = (unsigned)(codes[j] < 0 ? -codes[j] : codes[j]);
            unsigned h = code_magnitude(c, rc, mode, v >> shift, hmax, mean, col[j]), m = h;
            if (mode == BD_RC_DECODE && h > hmax) return false;
            if (shift) {
                m = h << 1 | bd_rc_model(rc, mode, v >> (shift - 1) & 1, &c->below[h < UNARY ? h : UNARY]);
                m = m << (shift - 1) | bd_rc_direct(rc, mode, v & ((1u << (shift - 1)) - 1), shift - 1);
            }
            if (m) {
                unsigned negative = bd_rc_model(rc, mode, codes[j] < 0, &c->sign);
                if (mode == BD_RC_DECODE) codes[j] = (int8_t)(negative ? -(int)m : (int)m);
            } else if (mode == BD_RC_DECODE) {
                codes[j] = 0;
            }
            int32_t now = (int32_t)h << 12;
            mean += (int32_t)(((int64_t)(now - mean) * inverse[j < ROW_WINDOW - 3 ? j + 3 : ROW_WINDOW]) >> 16);
            col[j] += (int32_t)(((int64_t)(now - col[j]) * col_step) >> 16);
        }
        row_start += (mean - row_start) >> 3;
    }
    return true;
}

/* --- the rest of a group --- */

static bool same_shape(const bd_qtensor *a, const bd_qtensor *b) {
    return a->rows == b->rows && a->cols == b->cols && a->method == b->method && a->bits == b->bits &&
           a->group == b->group;
}

/* Distance to the nearest earlier tensor of the same shape, 0: none. */
static uint32_t find_shape(const bd_qtensor *t, uint32_t i) {
    for (uint32_t d = 1; d <= SHAPE_WINDOW && d <= i; d++)
        if (same_shape(&t[i], &t[i - d])) return d;
    return 0;
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
        uint32_t param = q->param;
        *q = t[i - distance];
        q->param = param;
        q->codes = NULL;
        q->scales = q->f16 = NULL;
        q->f32 = NULL;
    } else {
        uint32_t rows = code_uint(&c->rc, mode, &c->uints[U_ROWS], q->rows - 1) + 1,
                 cols = code_uint(&c->rc, mode, &c->uints[U_COLS], q->cols - 1) + 1;
        unsigned method = bd_rc_direct(&c->rc, mode, (unsigned)q->method, 2), bits = 0;
        uint32_t group = 0;
        if (method == BD_Q_ROW) bits = bd_rc_direct(&c->rc, mode, q->bits - 1u, 3) + 1;
        if (method == BD_Q_TERNARY) group = code_uint(&c->rc, mode, &c->uints[U_GROUP], q->group - 1) + 1;
        if (mode != BD_RC_DECODE) return BD_OK;
        q->rows = rows;
        q->cols = cols;
        q->method = (bd_qmethod)method;
        q->bits = (uint8_t)bits;
        q->group = group;
    }
    BD_TRY(bd_group_check_tensor(t, i, budget, c->place, c->err));
    if (find_shape(t, i) != distance)
        return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place,
                          "parameter %u: its shape is not spelled by the nearest equal one", q->param);
    return BD_OK;
}

ALWAYS bd_status code_head(codec *c, bd_rc_mode mode, bd_qgroup *g, uint64_t raw_size, bd_group_budget *budget) {
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
    for (uint32_t i = 0; i < n; i++) BD_TRY(code_tensor_header(c, mode, g->tensors, i, budget));
    if (mode == BD_RC_DECODE && bd_group_raw_size_min(g) > raw_size)
        return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "the tensors do not fit the declared %llu bytes",
                          (unsigned long long)raw_size);
    return BD_OK;
}

ALWAYS bd_status code_words16(codec *c, bd_rc_mode mode, bd_qtensor *q) {
    bool f16 = q->method == BD_Q_F16, bad = false;
    uint64_t n = f16 ? bd_qtensor_elements(q) : bd_qtensor_scales(q);
    word_kind kind = f16 ? W_F16 : q->method == BD_Q_ROW ? W_ROW : W_TERNARY;
    uint16_t *w = f16 ? q->f16 : q->scales;
    if (mode == BD_RC_DECODE) {
        w = bd_arena_alloc(c->arena, n, sizeof *w);
        if (!w) return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for %llu scales", (unsigned long long)n);
        if (f16) q->f16 = w;
        else q->scales = w;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint16_t v = code_word(c, mode, kind, mode == BD_RC_DECODE ? 0 : w[i], &bad);
        if (mode != BD_RC_DECODE) continue;
        w[i] = v;
        if (bad) return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place, "a repeated word is spelled out");
        BD_TRY(f16 ? bd_group_check_f16(v, c->place, c->err) : bd_group_check_scale(v, c->place, c->err));
    }
    return BD_OK;
}

ALWAYS bd_status code_words32(codec *c, bd_rc_mode mode, bd_qtensor *q) {
    uint64_t n = bd_qtensor_elements(q);
    bool bad = false;
    if (mode == BD_RC_DECODE) {
        q->f32 = bd_arena_alloc(c->arena, n, sizeof *q->f32);
        if (!q->f32)
            return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for %llu values", (unsigned long long)n);
    }
    for (uint64_t i = 0; i < n; i++) {
        uint32_t u = 0;
        if (mode != BD_RC_DECODE) memcpy(&u, &q->f32[i], sizeof u);
        uint16_t high = code_word(c, mode, W_F32_HIGH, (uint16_t)(u >> 16), &bad);
        uint16_t low = code_word(c, mode, W_F32_LOW, (uint16_t)u, &bad);
        if (mode != BD_RC_DECODE) continue;
        if (bad) return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place, "a repeated word is spelled out");
        u = (uint32_t)high << 16 | low;
        BD_TRY(bd_group_check_f32(u, c->place, c->err));
        memcpy(&q->f32[i], &u, sizeof u);
    }
    return BD_OK;
}

static bd_status no_memory_for_means(codec *c) {
    return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for column means");
}

ALWAYS bd_status code_group(codec *c, bd_rc_mode mode, bd_qgroup *g, uint64_t raw_size, bd_group_budget *budget) {
    BD_TRY(code_head(c, mode, g, raw_size, budget));
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        bd_qtensor *q = &g->tensors[t];
        BD_TRY(q->method == BD_Q_F32 ? code_words32(c, mode, q) : code_words16(c, mode, q));
    }
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        bd_qtensor *q = &g->tensors[t];
        if (q->method != BD_Q_ROW && q->method != BD_Q_TERNARY) continue;
        uint64_t n = bd_qtensor_elements(q);
        if (mode == BD_RC_DECODE) {
            q->codes = bd_arena_alloc(c->arena, n, 1);
            if (!q->codes)
                return BD_FAIL_AT(c->err, BD_E_NOMEM, c->place, "no memory for %llu codes", (unsigned long long)n);
        }
        unsigned shift = mode == BD_RC_DECODE ? 0 : choose_shift(q->codes, n);
        shift = bd_rc_direct(&c->rc, mode, shift, 3);
        if (shift > SHIFT_MAX)
            return BD_FAIL_AT(c->err, BD_E_FIELD, c->place, "parameter %u has a shift of %u", q->param, shift);
        int32_t *col = malloc((uint64_t)q->cols * sizeof *col);
        if (!col) return no_memory_for_means(c);
        bd_rc rc = c->rc; /* a local copy lives in registers */
        bool fine = code_tensor(c, &rc, mode, q, shift, col);
        c->rc = rc;
        free(col);
        if (!fine) return BD_FAIL_AT(c->err, BD_E_RANGE, c->place, "a code of parameter %u is too large", q->param);
        if (mode == BD_RC_DECODE && choose_shift(q->codes, n) != shift)
            return BD_FAIL_AT(c->err, BD_E_NONCANON, c->place,
                              "parameter %u: a shift of %u is not the one its codes ask for", q->param, shift);
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
    bd_status st = code_group(c, BD_RC_ENCODE, &copy, 0, NULL);
    if (st == BD_OK) {
        bd_rc_encode_end(&c->rc);
        st = bd_buf_check(out, err);
    }
    free(c);
    return st;
}

bd_status bd_weight_price(const bd_qgroup *g, uint64_t *bits_q8, bd_err *err) {
    codec *c = codec_new();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for the range coder's models");
    c->err = err;
    c->place = BD_NO_OFFSET;
    bd_rc_price_begin(&c->rc, &c->tables);
    bd_qgroup copy = *g;
    bd_status st = code_group(c, BD_RC_PRICE, &copy, 0, NULL);
    *bits_q8 = bd_rc_price_end(&c->rc);
    free(c);
    return st;
}

bd_status bd_weight_decode(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                           bd_group_budget *budget, uint64_t place, bd_err *err) {
    codec *c = codec_new();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for the range coder's models");
    c->arena = arena;
    c->place = place;
    c->err = err;
    bd_rc_decode_begin(&c->rc, data, size, &c->tables);
    bd_status st = code_group(c, BD_RC_DECODE, g, raw_size, budget);
    if (st == BD_OK && !bd_rc_decode_end(&c->rc))
        st = BD_FAIL_AT(err, BD_E_NONCANON, place, "the range coder's stream does not end where its symbols end");
    if (st == BD_OK && bd_group_raw_size(g) != raw_size)
        st = BD_FAIL_AT(err, BD_E_FIELD, place, "the group takes %llu bytes unpacked, %llu are declared",
                        (unsigned long long)bd_group_raw_size(g), (unsigned long long)raw_size);
    free(c);
    return st;
}
