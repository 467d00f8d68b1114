#include "format/code_model.h"

#include <stdlib.h>
#include <string.h>

#include "format/trellis.h"
#include "format/weight_group.h"

enum {
    BINS = 14,         /* unary decisions of a magnitude; larger ones escape */
    LOG_LOW = 2 * 256, /* of the smallest mean that is told apart: 2^-6, in 1/256 */
    LEVELS = 168,      /* of the mean: eighths of an octave, from there to 2^15 */
    HALVES = LEVELS / 4,
    SHIFT_FROM = 15,         /* half octave of the mean from which one bit is split off (a mean of 2.8) */
    DRIFTS = 8,              /* half octaves between a place's recent magnitudes and its usual ones */
    NEAR = 4,                /* sums of the last two magnitudes */
    LINE_PRIOR = 16,         /* places that the guess of a line's mean counts for */
    PLACE_PRIOR = 10,        /* lines that the guess of a place's mean counts for */
    RECENT = 4,              /* recent means take 1/16 of every line */
    LINE_WINDOW = 1024,      /* sums over a line are halved after so many places */
    PLACE_WINDOW = 1 << 21,  /* sums over lines are halved from this sum of the lines' means on */
    SUM_MAX = (1 << 24) - 1, /* of a place: exact as a float */
    GUESS_MAX = 1 << 24,
    ESCAPE_BITS = 16,
    EXP_BINS = 20,
    EXP_CONTEXTS = 8,
    SHAPE_WINDOW = 64, /* how far back equal col_exp are looked for */
    FACTOR_STEPS = 40  /* quarter octaves between a row and the mean row, at most */
};

/* What a magnitude belongs to: its first model. */
enum { C_SCALAR, C_EVEN, C_ODD, C_FACTOR, CLASSES };
/* And its second: kinds of TCQ, then these. */
enum { K_ROW = BD_TCQ_KINDS, K_TERNARY, K_LQER, K_LOG, K_LQ_A, K_LQ_B, KINDS };

typedef struct exponent_model {
    bd_bit more[EXP_CONTEXTS][EXP_BINS], escape[ESCAPE_BITS], sign[3];
} exponent_model;

struct bd_code_model {
    bd_bit mean[CLASSES][LEVELS][BINS];
    bd_bit near[KINDS][2][HALVES][DRIFTS][NEAR]; /* the first bin alone */
    bd_bit below[2][HALVES][8][4];               /* the highest two of the bits split off */
    bd_bit escape[ESCAPE_BITS], distance[ESCAPE_BITS];
    exponent_model row_exp, col_exp;
    uint16_t log[256];
    uint8_t shift[HALVES];
};

#define ALWAYS static inline __attribute__((always_inline))

static void fill(bd_bit *m, size_t n, bd_bit start) {
    for (size_t i = 0; i < n; i++) m[i] = start;
}

/* What makes the logarithm's fraction of i / 256 nearly right. */
ALWAYS uint32_t bend(uint32_t i) { return (i * (256 - i) * 89) >> 16; }

/* log2(x) in 1/256 octave, x > 0. */
ALWAYS int32_t log_of(const uint16_t *log, uint64_t x) {
    unsigned top = 63 - (unsigned)__builtin_clzll(x);
    return (int32_t)(top << 8) + log[(x << (63 - top)) >> 55 & 255];
}

/* The same for 0 < x < 2^24, in a form that vectorizes: the number as a float has its logarithm in front. */
ALWAYS int32_t log_of_24(uint32_t x) {
    float f = (float)(int32_t)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (int32_t)((u >> 15) - (127 << 8) + bend(u >> 15 & 255));
}

/* 2^(-quarters / 4) in 1/65536. */
static uint64_t factor(int quarters) {
    static const uint32_t q[4] = {65536, 77935, 92681, 110217};
    int k = -quarters, whole = k >> 2;
    return whole >= 0 ? (uint64_t)q[k & 3] << whole : q[k & 3] >> -whole;
}

static int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

bd_code_model *bd_code_model_create(void) {
    const bd_bit half = bd_bit_make(1u << 21, 0);
    bd_code_model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    for (uint32_t i = 0; i < 256; i++) m->log[i] = (uint16_t)(i + bend(i));
    for (unsigned h = 0; h < HALVES; h++) m->shift[h] = (uint8_t)(h < SHIFT_FROM ? 0 : (h - SHIFT_FROM) / 2 + 1);
    for (unsigned i = 0; i < LEVELS; i++) {
        /* A geometric distribution with the level's mean is the starting point. */
        uint64_t mean = ((uint64_t)(17 + 2 * (i % 8)) << (i / 8)) >> (2 + m->shift[i / 4]);
        bd_bit start = bd_bit_make((uint32_t)((mean << 22) / (mean + 256)), 1);
        for (int c = 0; c < CLASSES; c++) fill(m->mean[c][i], BINS, start);
        if (i % 4 != 2) continue;
        for (int k = 0; k < KINDS; k++)
            for (int s = 0; s < 2; s++) fill(m->near[k][s][i / 4][0], DRIFTS * NEAR, start);
    }
    fill(&m->below[0][0][0][0], sizeof m->below / sizeof(bd_bit), half);
    fill(m->escape, ESCAPE_BITS, half);
    fill(m->distance, ESCAPE_BITS, half);
    for (int k = 0; k < 2; k++) {
        exponent_model *e = k ? &m->col_exp : &m->row_exp;
        fill(e->more[0], EXP_CONTEXTS * EXP_BINS, half);
        fill(e->escape, ESCAPE_BITS, half);
        fill(e->sign, 3, half);
    }
    return m;
}

void bd_code_model_destroy(bd_code_model *m) { free(m); }

/* v in [0, 2^16 - 2]: bit length in unary, then the bits below the leading one. Decoding gives at most 2^17 - 2. */
ALWAYS uint32_t code_gamma(bd_rc *rc, bd_rc_mode mode, bd_bit *length, uint32_t v) {
    unsigned n = 0, want = mode == BD_RC_DECODE ? 0 : 31 - (unsigned)__builtin_clz(v + 1);
    while (n < ESCAPE_BITS && bd_rc_model(rc, mode, n < want, &length[n])) n++;
    return (1u << n | bd_rc_direct(rc, mode, (v + 1) & ((1u << n) - 1), n)) - 1;
}

/* --- a plane: lines of magnitudes --- */

typedef struct plane {
    uint32_t lines, places;
    uint32_t max; /* of a coded magnitude */
    unsigned kind, class;
    const bd_trellis *trellis; /* NULL: none */
    const int32_t *order;      /* (places): where a place stands in its line; NULL: as they come */
    const int16_t *line_exp;   /* (lines): a line with a larger one has smaller magnitudes; NULL: not known */
    int16_t *wide;             /* the values: these or */
    int8_t *narrow;            /* these */

    int16_t *line;            /* (places): values of one line, in order */
    uint32_t *sum, *recent;   /* (places): magnitudes of the lines so far, 1/256; their recent mean, 1/512 */
    int16_t *base;            /* (places): log of the place's mean less that of the line so far */
    uint8_t *drift;           /* (places) */
    uint64_t line_sum, guess; /* of the lines' means, 1/256; of the next line's */
    uint32_t recent_line;     /* 1/512 */
    uint8_t stop[HALVES];     /* unary decisions at most */
    uint8_t odd[256]; /* by state: superset, and the next state for an index whose second bit is clear or set */
    uint8_t next[256][2];
} plane;

/* What is known before a line. */
static void prepare(const bd_code_model *m, plane *p) {
    const int32_t shift = log_of(m->log, p->recent_line) - log_of(m->log, p->line_sum);
    const uint32_t n = p->places;
    for (uint32_t i = 0; i < n; i++) {
        int32_t mean = log_of_24(p->sum[i]), d = ((log_of_24(p->recent[i]) - mean - shift + 64) >> 7) + DRIFTS / 2;
        p->base[i] = (int16_t)(mean - LOG_LOW);
        p->drift[i] = (uint8_t)(d < 0 ? 0 : d > DRIFTS - 1 ? DRIFTS - 1 : d);
    }
    uint64_t all = LINE_PRIOR * p->line_sum;
    for (uint32_t i = 0; i < n; i++) {
        p->base[i] = (int16_t)(p->base[i] - log_of(m->log, all));
        all += p->sum[i];
        if (i % LINE_WINDOW == LINE_WINDOW - 1) all = (all + 1) >> 1;
    }
}

/* After a line. */
static void learn(plane *p) {
    const uint32_t n = p->places;
    const unsigned unit = p->trellis ? 7 : 8;
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = (uint32_t)(p->line[i] < 0 ? -p->line[i] : p->line[i]) << unit;
        total += v;
        uint32_t s = p->sum[i] + v;
        p->sum[i] = s > SUM_MAX ? SUM_MAX : s;
        int32_t r = (int32_t)p->recent[i] + (((int32_t)(2 * v) - (int32_t)p->recent[i]) >> RECENT);
        p->recent[i] = r < 1 ? 1 : (uint32_t)r;
    }
    uint64_t mean = (total + n / 2) / n;
    p->line_sum += mean;
    int32_t r = (int32_t)p->recent_line + (((int32_t)(2 * mean) - (int32_t)p->recent_line) >> RECENT);
    p->recent_line = r < 1 ? 1 : (uint32_t)r;
    if (p->line_sum >= PLACE_WINDOW) {
        p->line_sum >>= 1;
        for (uint32_t i = 0; i < n; i++) p->sum[i] = (p->sum[i] + 1) >> 1;
    }
    p->guess = (3 * p->guess + mean + 2) >> 2;
}

/* One line; false if a decoded magnitude is too large. */
ALWAYS bool code_line(bd_code_model *m, bd_rc *out, bd_rc_mode mode, plane *p, bool trellis) {
    bd_rc rc = *out; /* a local copy lives in registers */
    int16_t *line = p->line;
    const uint32_t n = p->places, max = p->max;
    uint64_t num = LINE_PRIOR * p->guess;
    unsigned before = 0, near = 0;
    uint32_t state = 0;
    bool fine = true;
    for (uint32_t i = 0; i < n; i++) {
        unsigned odd = trellis ? p->odd[state] : 0, v = 0;
        if (mode != BD_RC_DECODE) v = (unsigned)(line[i] < 0 ? -line[i] : line[i]) >> trellis;
        int32_t l = p->base[i] + log_of(m->log, num);
        l = l < 0 ? 0 : l >= LEVELS * 32 ? LEVELS * 32 - 1 : l;
        unsigned half = (unsigned)l >> 7, shift = m->shift[half], stop = p->stop[half], k = 0, h = v >> shift;
        bd_bit *a = m->mean[p->class + odd][l >> 5];
        bd_bit *b = &m->near[p->kind][odd][half][p->drift[i]][near < NEAR ? near : NEAR - 1];
        if (stop && bd_rc_mean(&rc, mode, h > 0, a, b)) {
            k = 1;
            while (k < stop && bd_rc_model(&rc, mode, h > k, &a[k])) k++;
            if (__builtin_expect(k == BINS, 0)) {
                k += code_gamma(&rc, mode, m->escape, h - BINS);
                if (mode == BD_RC_DECODE && k > max >> shift) {
                    fine = false;
                    break;
                }
            }
        }
        unsigned u = k, middle = k << 8;
        if (shift) {
            bd_bit *low = m->below[odd][half][k < 7 ? k : 7];
            unsigned rest = shift - 1, bit = bd_rc_model(&rc, mode, v >> rest & 1, &low[1]);
            u = k << 1 | bit;
            if (rest) {
                rest--;
                u = u << 1 | bd_rc_model(&rc, mode, v >> rest & 1, &low[2 + bit]);
                u = u << rest | bd_rc_direct(&rc, mode, v & ((1u << rest) - 1), rest);
            }
            middle = (2 * k + 1) << (7 + shift);
            if (mode == BD_RC_DECODE && __builtin_expect(u > max, 0)) {
                fine = false;
                break;
            }
        }
        num += middle + (odd << 7);
        if (i % LINE_WINDOW == LINE_WINDOW - 1) num = (num + 1) >> 1;
        near = before + k + odd;
        before = k + odd;
        int j = (int)(trellis ? 2 * u + odd : u);
        if (j) {
            unsigned negative = bd_rc_bit(&rc, mode, line[i] < 0, 32768);
            if (mode == BD_RC_DECODE) j = negative ? -j : j;
        }
        if (mode == BD_RC_DECODE) line[i] = (int16_t)j;
        else j = line[i];
        if (trellis) state = p->next[state][(unsigned)j >> 1 & 1];
    }
    *out = rc;
    return fine;
}

static void load_line(const plane *p, uint32_t j) {
    const uint64_t at = (uint64_t)j * p->places;
    for (uint32_t i = 0; i < p->places; i++) {
        uint64_t k = at + (p->order ? (uint32_t)p->order[i] : i);
        p->line[i] = p->wide ? p->wide[k] : p->narrow[k];
    }
}

static void store_line(const plane *p, uint32_t j) {
    const uint64_t at = (uint64_t)j * p->places;
    for (uint32_t i = 0; i < p->places; i++) {
        uint64_t k = at + (p->order ? (uint32_t)p->order[i] : i);
        if (p->wide) p->wide[k] = p->line[i];
        else p->narrow[k] = (int8_t)p->line[i];
    }
}

ALWAYS bool code_lines(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, plane *p, bool trellis) {
    for (uint32_t j = 0; j < p->lines; j++) {
        if (mode != BD_RC_DECODE) load_line(p, j);
        if (j && p->line_exp)
            p->guess = (p->guess * factor(clamp(p->line_exp[j] - p->line_exp[j - 1], -64, 64))) >> 16;
        p->guess = p->guess < 1 ? 1 : p->guess > GUESS_MAX ? GUESS_MAX : p->guess;
        prepare(m, p);
        if (!code_line(m, rc, mode, p, trellis)) return false;
        if (mode == BD_RC_DECODE) store_line(p, j);
        learn(p);
    }
    return true;
}

/* place_exp: (places), in the order of the line, or NULL. */
static bd_status open_plane(const bd_code_model *m, plane *p, const int16_t *place_exp, uint64_t place,
                            bd_err *err) {
    const uint32_t n = p->places;
    p->line = malloc(n * sizeof *p->line);
    p->sum = malloc(n * sizeof *p->sum);
    p->recent = malloc(n * sizeof *p->recent);
    p->base = malloc(n * sizeof *p->base);
    p->drift = malloc(n * sizeof *p->drift);
    if (!p->line || !p->sum || !p->recent || !p->base || !p->drift)
        return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for the means of %u places", n);
    int64_t sum = n, mean = 0; /* rounded to the nearest, halves up */
    for (uint32_t i = 0; place_exp && i < n; i++) sum += 2 * place_exp[i];
    if (place_exp) mean = sum >= 0 ? sum / (2 * (int64_t)n) : -((2 * (int64_t)n - 1 - sum) / (2 * (int64_t)n));
    for (uint32_t i = 0; i < n; i++) {
        int e = place_exp ? place_exp[p->order ? (uint32_t)p->order[i] : i] - (int)mean : 0;
        uint64_t f = factor(clamp(e, -FACTOR_STEPS, FACTOR_STEPS));
        p->sum[i] = (uint32_t)((PLACE_PRIOR * f >> 8) + 1);
        p->recent[i] = (uint32_t)((f >> 7) + 1);
    }
    p->line_sum = PLACE_PRIOR * 256;
    p->recent_line = 512;
    p->guess = 256;
    for (unsigned h = 0; h < HALVES; h++) {
        uint32_t most = p->max >> m->shift[h];
        p->stop[h] = (uint8_t)(most < BINS ? most : BINS);
    }
    for (uint32_t s = 0; p->trellis && s < p->trellis->states; s++) {
        p->odd[s] = (uint8_t)bd_trellis_superset(p->trellis, s);
        for (int k = 0; k < 2; k++) p->next[s][k] = (uint8_t)bd_trellis_next(p->trellis, s, 2 * k);
    }
    return BD_OK;
}

static void close_plane(plane *p) {
    free(p->line);
    free(p->sum);
    free(p->recent);
    free(p->base);
    free(p->drift);
}

ALWAYS bd_status code_plane(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, plane *p, const int16_t *place_exp,
                            uint32_t param, uint64_t place, bd_err *err) {
    bd_status st = open_plane(m, p, place_exp, place, err);
    if (!st && !(p->trellis ? code_lines(m, rc, mode, p, true) : code_lines(m, rc, mode, p, false)))
        st = BD_FAIL_AT(err, BD_E_RANGE, place, "a code of parameter %u is too large", param);
    close_plane(p);
    return st;
}

/* --- exponents --- */

/* Differences to a running mean, by how large the last ones were. False if a decoded one is too large. */
ALWAYS bool code_exponents(bd_rc *rc, bd_rc_mode mode, exponent_model *e, int16_t *x, uint32_t n) {
    int32_t mean = 0, spread = 32; /* 1/16 */
    unsigned last = 0;
    for (uint32_t i = 0; i < n; i++) {
        const int32_t guess = (mean + 8) >> 4, d = mode == BD_RC_DECODE ? 0 : x[i] - guess;
        const unsigned want = (unsigned)(d < 0 ? -d : d);
        unsigned context = spread < 4 ? 0 : 30 - (unsigned)__builtin_clz((uint32_t)spread), k = 0;
        if (context >= EXP_CONTEXTS) context = EXP_CONTEXTS - 1;
        while (k < EXP_BINS && bd_rc_model(rc, mode, want > k, &e->more[context][k])) k++;
        if (k == EXP_BINS) k += code_gamma(rc, mode, e->escape, want - EXP_BINS);
        int32_t r = (int32_t)k;
        if (k) {
            last = 1 + bd_rc_model(rc, mode, d < 0, &e->sign[last]);
            if (last == 2) r = -r;
        } else {
            last = 0;
        }
        if (mode == BD_RC_DECODE) {
            if (guess + r < -BD_TCQ_EXP_MAX || guess + r > BD_TCQ_EXP_MAX) return false;
            x[i] = (int16_t)(guess + r);
        }
        mean += (16 * x[i] - mean) >> (i < 1 ? 0 : i < 3 ? 1 : i < 7 ? 2 : 3);
        spread += ((int32_t)(16 * k) - spread) >> 3;
    }
    return true;
}

/* Distance to the nearest earlier tensor with the same col_exp, 0: none. */
static uint32_t find_equal(const bd_qtensor *t, uint32_t i) {
    for (uint32_t d = 1; d <= SHAPE_WINDOW && d <= i; d++) {
        const bd_qtensor *o = &t[i - d];
        if (o->method == BD_Q_TCQ && o->cols == t[i].cols &&
            memcmp(o->col_exp, t[i].col_exp, t[i].cols * sizeof *o->col_exp) == 0)
            return d;
    }
    return 0;
}

ALWAYS bd_status code_col_exp(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *t, uint32_t i,
                              uint64_t place, bd_err *err) {
    bd_qtensor *q = &t[i];
    uint32_t d = mode == BD_RC_DECODE ? 0 : find_equal(t, i);
    d = code_gamma(rc, mode, m->distance, d);
    if (d == 0) {
        if (!code_exponents(rc, mode, &m->col_exp, q->col_exp, q->cols))
            return BD_FAIL_AT(err, BD_E_RANGE, place, "an exponent of parameter %u is too large", q->param);
    } else if (mode == BD_RC_DECODE) {
        if (d > SHAPE_WINDOW || d > i || t[i - d].method != BD_Q_TCQ || t[i - d].cols != q->cols)
            return BD_FAIL_AT(err, BD_E_FIELD, place, "parameter %u has the exponents of no tensor", q->param);
        memcpy(q->col_exp, t[i - d].col_exp, q->cols * sizeof *q->col_exp);
    }
    if (mode == BD_RC_DECODE && find_equal(t, i) != d)
        return BD_FAIL_AT(err, BD_E_NONCANON, place,
                          "parameter %u: its exponents are not spelled by the nearest equal ones", q->param);
    return BD_OK;
}

/* --- tensors --- */

ALWAYS bd_status code_tcq(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *t, uint32_t i, uint64_t place,
                          bd_err *err) {
    bd_qtensor *q = &t[i];
    bd_trellis trellis = {1, 0, 0};
    if (!code_exponents(rc, mode, &m->row_exp, q->row_exp, q->rows))
        return BD_FAIL_AT(err, BD_E_RANGE, place, "an exponent of parameter %u is too large", q->param);
    BD_TRY(code_col_exp(m, rc, mode, t, i, place, err));
    int32_t *order = malloc(q->rows * sizeof *order);
    if (!order) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for the order of %u rows", q->rows);
    bd_trellis_order(order, q->row_exp, q->rows);
    bool coded = bd_trellis_init(&trellis, q->states);
    plane p = {.lines = q->cols,
               .places = q->rows,
               .max = coded ? BD_TCQ_INDEX_MAX / 2 : BD_TCQ_INDEX_MAX,
               .kind = q->kind,
               .class = coded ? C_EVEN : C_SCALAR,
               .trellis = coded ? &trellis : NULL,
               .order = order,
               .line_exp = q->col_exp,
               .wide = q->index};
    bd_status st = code_plane(m, rc, mode, &p, q->row_exp, q->param, place, err);
    free(order);
    return st;
}

/* Codes of ROW, TERNARY and LQER, index of LOG: one line a row. */
ALWAYS bd_status code_rows(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *q, uint64_t place,
                           bd_err *err) {
    plane p = {.lines = q->rows, .places = q->cols, .class = C_SCALAR};
    if (q->method == BD_Q_LOG) {
        p.max = (uint32_t)bd_qtensor_index_max(q);
        p.kind = K_LOG;
        p.wide = q->index;
    } else {
        p.max = (uint32_t)bd_qtensor_qmax(q);
        p.kind = q->method == BD_Q_ROW ? K_ROW : q->method == BD_Q_TERNARY ? K_TERNARY : K_LQER;
        p.narrow = q->codes;
    }
    return code_plane(m, rc, mode, &p, NULL, q->param, place, err);
}

/* Factors of LQER: two's complement numbers of `bits` bits. */
ALWAYS bd_status code_factor(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, int8_t *x, uint32_t lines,
                             uint32_t places, unsigned kind, uint32_t max, uint32_t param, uint64_t place,
                             bd_err *err) {
    plane p = {.lines = lines, .places = places, .max = max, .kind = kind, .class = C_FACTOR, .narrow = x};
    BD_TRY(code_plane(m, rc, mode, &p, NULL, param, place, err));
    for (uint64_t i = 0; mode == BD_RC_DECODE && i < (uint64_t)lines * places; i++)
        if (x[i] == (int)max)
            return BD_FAIL_AT(err, BD_E_RANGE, place, "a factor of parameter %u is too large", param);
    return BD_OK;
}

ALWAYS bd_status code_tensor(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *t, uint32_t i,
                             uint64_t place, bd_err *err) {
    bd_qtensor *q = &t[i];
    if (q->method == BD_Q_TCQ) return code_tcq(m, rc, mode, t, i, place, err);
    BD_TRY(code_rows(m, rc, mode, q, place, err));
    if (q->method != BD_Q_LQER) return BD_OK;
    BD_TRY(code_factor(m, rc, mode, q->lq_a, q->rows, q->rank, K_LQ_A, 2, q->param, place, err));
    return code_factor(m, rc, mode, q->lq_b, q->rank, q->cols, K_LQ_B, 8, q->param, place, err);
}

bd_status bd_code_tensor(bd_code_model *m, bd_rc *rc, bd_rc_mode mode, bd_qtensor *t, uint32_t i, uint64_t place,
                         bd_err *err) {
    if (!bd_qmethod_has_codes(t[i].method)) return BD_OK;
    switch (mode) {
        case BD_RC_ENCODE: return code_tensor(m, rc, BD_RC_ENCODE, t, i, place, err);
        case BD_RC_DECODE: return code_tensor(m, rc, BD_RC_DECODE, t, i, place, err);
        default: return code_tensor(m, rc, BD_RC_PRICE, t, i, place, err);
    }
}
