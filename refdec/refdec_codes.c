/* Integer arrays of a group in codec RANGE (format/SPEC.md, "Codes"). */
#include <stdlib.h>

#include "refdec/refdec_coder.h"
#include "refdec/refdec_trellis.h"

typedef struct exponents {
    model more[8][20], escape[16], sign[3];
} exponents;

struct codes_dec {
    model mean[4][168][14], near[22][2][42][8][4], below[2][42][8][4], escape[16], distance[16];
    exponents row, col;
};

static unsigned bitlen(uint64_t x) {
    unsigned n = 0;
    for (; x; x >>= 1) n++;
    return n;
}

static unsigned shift_of(unsigned half) { return half < 15 ? 0 : (half - 15) / 2 + 1; }

codes_dec *bd_refdec_codes_begin(void) {
    codes_dec *m = malloc(sizeof *m);
    if (!m) return NULL;
    for (unsigned l = 0; l < 168; l++) {
        uint64_t M = ((17 + 2 * (uint64_t)(l % 8)) << l / 8) >> (2 + shift_of(l / 4));
        model start = {(uint32_t)((M << 22) / (M + 256)), 1};
        for (int i = 0; i < 4 * 14; i++) m->mean[i / 14][l][i % 14] = start;
        for (int i = 0; i < 22 * 2 * 8 * 4 && l % 4 == 2; i++)
            m->near[i / 64][i / 32 % 2][l / 4][i / 4 % 8][i % 4] = start;
    }
    fresh(m->below[0][0][0], sizeof m->below / sizeof(model));
    fresh(m->escape, 16);
    fresh(m->distance, 16);
    for (int k = 0; k < 2; k++) {
        exponents *e = k ? &m->col : &m->row;
        fresh(e->more[0], 8 * 20);
        fresh(e->escape, 16);
        fresh(e->sign, 3);
    }
    return m;
}

void bd_refdec_codes_end(codes_dec *m) { free(m); }

static uint32_t gamma_of(range_dec *c, model *M) {
    unsigned m = 0;
    while (m < 16 && with_model(c, &M[m])) m++;
    return ((uint32_t)1 << m | direct(c, m)) - 1;
}

/* --- exponents --- */

static bool exponents_of(dec *d, range_dec *c, exponents *e, int16_t *x, uint32_t n) {
    int mean = 0, spread = 32, last = 0;
    for (uint32_t i = 0; i < n; i++) {
        int guess = (mean + 8) >> 4, k = 0;
        unsigned context = bitlen((uint64_t)(spread >> 2));
        if (context > 7) context = 7;
        while (k < 20 && with_model(c, &e->more[context][k])) k++;
        if (k == 20) k += (int)gamma_of(c, e->escape);
        last = k == 0 ? 0 : with_model(c, &e->sign[last]) ? 2 : 1;
        int value = last == 2 ? guess - k : guess + k;
        if (value < -128 || value > 128) return fail(d, BD_REFDEC_RANGE);
        x[i] = (int16_t)value;
        mean += (16 * value - mean) >> (i == 0 ? 0 : i < 3 ? 1 : i < 7 ? 2 : 3);
        spread += (16 * k - spread) >> 3;
    }
    return true;
}

static uint32_t equal_columns(const bd_refdec_tensor *t, uint32_t i) {
    for (uint32_t D = 1; D <= i && D <= 64; D++) {
        const bd_refdec_tensor *o = &t[i - D];
        if (is(o, BD_REFDEC_TCQ) && o->cols == t[i].cols &&
            !memcmp(o->col_exp, t[i].col_exp, 2 * (uint64_t)o->cols))
            return D;
    }
    return 0;
}

static bool column_exponents(dec *d, codes_dec *m, range_dec *c, bd_refdec_group *g, uint32_t i) {
    bd_refdec_tensor *t = &g->tensors[i];
    uint32_t D = gamma_of(c, m->distance);
    if (D == 0) {
        if (!exponents_of(d, c, &m->col, t->col_exp, t->cols)) return false;
    } else {
        if (D > 64 || D > i) return fail(d, BD_REFDEC_FIELD);
        const bd_refdec_tensor *o = t - D;
        if (!is(o, BD_REFDEC_TCQ) || o->cols != t->cols) return fail(d, BD_REFDEC_FIELD);
        memcpy(t->col_exp, o->col_exp, 2 * (uint64_t)t->cols);
    }
    return equal_columns(g->tensors, i) == D ? true : fail(d, BD_REFDEC_NONCANON);
}

/* --- planes --- */

/* One array; which of the pointers are set says what it is. */
typedef struct plane {
    uint32_t lines, n;
    int64_t Q;
    unsigned class, kind;
    int8_t *narrow;
    int16_t *wide;
    const uint32_t *order;                 /* TCQ: the row of a place */
    const int16_t *row_exp, *col_exp;      /* TCQ */
    const trellis *trellis;                /* TCQ with more than one state */
    int64_t *S, *R, *base, *drift, *value; /* by place */
    int64_t T, U, G;
} plane;

static int64_t log_of(int64_t x) {
    unsigned B = bitlen((uint64_t)x);
    int64_t f = (int64_t)((B > 9 ? (uint64_t)x >> (B - 9) : (uint64_t)x << (9 - B)) % 256);
    return 256 * (int64_t)(B - 1) + f + ((89 * f * (256 - f)) >> 16);
}

static int64_t limited(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

static int64_t factor_of(int64_t e) {
    static const int64_t quarter[4] = {65536, 77935, 92681, 110217};
    int64_t h = (-e) >> 2, f = quarter[-e - 4 * h];
    return h < 0 ? f >> -h : f << h;
}

static void start(plane *p) {
    int64_t sum = 0, E = 0;
    for (uint32_t i = 0; i < p->n && p->row_exp; i++) sum += p->row_exp[i];
    if (p->row_exp) {
        int64_t a = 2 * sum + p->n, b = 2 * (int64_t)p->n;
        E = a / b - (a % b < 0);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        int64_t f = p->row_exp ? factor_of(limited(p->row_exp[p->order[i]] - E, -40, 40)) : 65536;
        p->S[i] = (10 * f >> 8) + 1;
        p->R[i] = (f >> 7) + 1;
    }
    p->T = 2560;
    p->U = 512;
    p->G = 256;
}

static void before_line(plane *p, uint32_t j) {
    if (p->col_exp && j > 0) p->G = (p->G * factor_of(limited(p->col_exp[j] - p->col_exp[j - 1], -64, 64))) >> 16;
    p->G = limited(p->G, 1, 1 << 24);
    int64_t w = log_of(p->U) - log_of(p->T), A = 16 * p->T;
    for (uint32_t i = 0; i < p->n; i++) {
        p->drift[i] = limited(((log_of(p->R[i]) - log_of(p->S[i]) - w + 64) >> 7) + 4, 0, 7);
        p->base[i] = log_of(p->S[i]) - log_of(A) - 512;
        A += p->S[i];
        if (i % 1024 == 1023) A = (A + 1) >> 1;
    }
}

static bool read_line(dec *d, codes_dec *m, range_dec *c, plane *p) {
    int64_t N = 16 * p->G, m1 = 0, m2 = 0;
    unsigned s = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        unsigned o = p->trellis ? p->trellis->allowed[s] : 0;
        int64_t l = limited(p->base[i] + log_of(N), 0, 5375), H = l >> 7, h = 0;
        unsigned z = shift_of((unsigned)H);
        int64_t K = limited(p->Q >> z, 0, 14);
        model *mean = m->mean[p->class + o][l >> 5];
        if (K > 0 && with_two(c, &mean[0], &m->near[p->kind][o][H][p->drift[i]][limited(m1 + m2, 0, 3)])) {
            h = 1;
            while (h < K && with_model(c, &mean[h])) h++;
            if (h == 14) h += gamma_of(c, m->escape);
            if (h > p->Q >> z) return fail(d, BD_REFDEC_RANGE);
        }
        int64_t v = h;
        model *below = m->below[o][H][limited(h, 0, 7)];
        if (z > 0) {
            unsigned b1 = with_model(c, &below[1]);
            v = 2 * v + b1;
            if (z > 1) {
                v = 2 * v + with_model(c, &below[2 + b1]);
                v = (v << (z - 2)) + direct(c, z - 2);
            }
        }
        if (v > p->Q) return fail(d, BD_REFDEC_RANGE);
        if (p->trellis) v = 2 * v + o;
        if (v != 0 && direct(c, 1)) v = -v;
        p->value[i] = v;
        N += (z == 0 ? 256 * h : (2 * h + 1) << (7 + z)) + 128 * o;
        if (i % 1024 == 1023) N = (N + 1) >> 1;
        m2 = m1;
        m1 = h + o;
        if (p->trellis) s = state_after(p->trellis, s, (int)v);
    }
    return true;
}

static void after_line(plane *p) {
    int64_t X = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        int64_t x = (p->value[i] < 0 ? -p->value[i] : p->value[i]) * (p->trellis ? 128 : 256);
        X += x;
        p->S[i] = limited(p->S[i] + x, 0, (1 << 24) - 1);
        p->R[i] += (2 * x - p->R[i]) >> 4;
        if (p->R[i] < 1) p->R[i] = 1;
    }
    int64_t t = (X + p->n / 2) / p->n;
    p->T += t;
    p->U += (2 * t - p->U) >> 4;
    if (p->U < 1) p->U = 1;
    p->G = (3 * p->G + t + 2) >> 2;
    if (p->T < 1 << 21) return;
    p->T >>= 1;
    for (uint32_t i = 0; i < p->n; i++) p->S[i] = (p->S[i] + 1) >> 1;
}

static bool read_plane(dec *d, codes_dec *m, range_dec *c, plane *p) {
    int64_t *memory = malloc(5 * sizeof *memory * p->n);
    if (!memory) return fail(d, BD_REFDEC_NOMEM);
    p->S = memory;
    p->R = p->S + p->n;
    p->base = p->R + p->n;
    p->drift = p->base + p->n;
    p->value = p->drift + p->n;
    bool fine = true;
    start(p);
    for (uint32_t j = 0; j < p->lines && fine; j++) {
        before_line(p, j);
        fine = read_line(d, m, c, p);
        for (uint32_t i = 0; i < p->n && fine; i++) {
            uint64_t at = (uint64_t)j * p->n + (p->order ? p->order[i] : i);
            if (p->wide) p->wide[at] = (int16_t)p->value[i];
            else p->narrow[at] = (int8_t)p->value[i];
        }
        if (fine) after_line(p);
    }
    free(memory);
    return fine;
}

static bool read_factor(dec *d, codes_dec *m, range_dec *c, plane *p) {
    if (!read_plane(d, m, c, p)) return false;
    for (uint64_t i = 0; i < (uint64_t)p->lines * p->n; i++)
        if (p->narrow[i] == p->Q) return fail(d, BD_REFDEC_RANGE);
    return true;
}

bool bd_refdec_codes(dec *d, codes_dec *m, range_dec *c, bd_refdec_group *g, uint32_t i) {
    bd_refdec_tensor *t = &g->tensors[i];
    plane p = {.lines = t->rows, .n = t->cols, .narrow = t->codes, .Q = largest(t)};
    if (is(t, BD_REFDEC_TCQ)) {
        trellis tr;
        if (!exponents_of(d, c, &m->row, t->row_exp, t->rows) || !column_exponents(d, m, c, g, i)) return false;
        uint32_t *order = trellis_order(t);
        if (!order) return fail(d, BD_REFDEC_NOMEM);
        p = (plane){.lines = t->cols, .n = t->rows, .wide = t->index, .Q = 32767, .kind = t->kind};
        p.order = order;
        p.row_exp = t->row_exp;
        p.col_exp = t->col_exp;
        if (t->states > 1) {
            trellis_begin(&tr, t->states);
            p.trellis = &tr;
            p.class = 1;
            p.Q = 16383;
        }
        bool fine = read_plane(d, m, c, &p);
        free(order);
        return fine;
    }
    if (is(t, BD_REFDEC_LOG)) {
        p.kind = 19;
        p.narrow = NULL;
        p.wide = t->index;
        p.Q = largest_index(t);
        return read_plane(d, m, c, &p);
    }
    p.kind = is(t, BD_REFDEC_ROW) ? 16 : is(t, BD_REFDEC_TERNARY) ? 17 : 18;
    if (!read_plane(d, m, c, &p)) return false;
    if (!is(t, BD_REFDEC_LQER)) return true;
    plane left = {.lines = t->rows, .n = t->rank, .Q = 2, .class = 3, .kind = 20, .narrow = t->left};
    plane right = {.lines = t->rank, .n = t->cols, .Q = 8, .class = 3, .kind = 21, .narrow = t->right};
    return read_factor(d, m, c, &left) && read_factor(d, m, c, &right);
}
