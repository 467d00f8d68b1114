#include "cli/bench_reference.h"

#include <math.h>
#include <stdlib.h>

#include "format/trellis.h"

enum { CONTEXTS = 6, CELLS = 1 << 20, BINS = 48 };

typedef struct cell {
    float p;
    int n; /* 0: never used */
} cell;

typedef struct mixer {
    cell *cells[CONTEXTS]; /* hashed */
    float weight[2][BINS][CONTEXTS];
    double bits;
} mixer;

static void decide(mixer *m, bool bit, const uint32_t *context, int bin, bool odd, float start) {
    cell *c[CONTEXTS];
    float stretched[CONTEXTS], sum = 0, *w = m->weight[odd][bin];
    for (int k = 0; k < CONTEXTS; k++) {
        c[k] = &m->cells[k][((context[k] * 64u + (uint32_t)bin) * 2654435761u) >> 12];
        if (c[k]->n == 0) *c[k] = (cell){start, 1};
        float trust = c[k]->n < 30 ? 0.4f + 0.02f * (float)c[k]->n : 1;
        stretched[k] = logf(c[k]->p / (1 - c[k]->p)) * trust;
        sum += w[k] * stretched[k];
    }
    float p = fminf(fmaxf(1 / (1 + expf(-sum)), 1e-5f), 1 - 1e-5f), e = ((float)bit - p) * 0.003f;
    m->bits -= log2f(bit ? p : 1 - p);
    for (int k = 0; k < CONTEXTS; k++) {
        w[k] += e * stretched[k];
        float rate = fmaxf(1 / ((float)c[k]->n++ + 1.5f), 0.0015f);
        c[k]->p = fminf(fmaxf(c[k]->p + ((float)bit - c[k]->p) * rate, 1e-4f), 1 - 1e-4f);
    }
}

/* log2(x) in steps of 1 / per, between low and high; from 0. */
static uint32_t level(double x, double per, int low, int high) {
    double k = floor(per * log2(x + 1e-5));
    return (uint32_t)((k < low ? low : k > high ? high : (int)k) - low);
}

/* Magnitude of a neighbour where the mean is `mean`. */
static uint32_t near(int magnitude, double mean, int most) {
    if (mean > 3) return level((magnitude + 0.3) / mean, 1.5, -4, most - 4);
    return (uint32_t)(magnitude < most ? magnitude : most);
}

/* Places and lines as in SPEC.md, "Planes". */
typedef struct view {
    const bd_qtensor *q;
    bd_trellis trellis;
    bool coded;
    uint32_t lines, places;
    int32_t *order;
    double *prior, *sum, *recent; /* (places) */
} view;

static int value_at(const view *v, uint32_t line, uint32_t i) {
    uint64_t at = (uint64_t)line * v->places + (v->order ? (uint32_t)v->order[i] : i);
    return v->q->index ? v->q->index[at] : v->q->codes[at];
}

static void run_line(mixer *m, view *v, uint32_t j, double *guess, double *lines_sum) {
    double num = 6 * *guess, den = 6, recent_line = *guess, total = 0;
    uint32_t state = 0;
    int u1 = 0, u2 = 0;
    for (uint32_t i = 0; i < v->places; i++) {
        int x = value_at(v, j, i), a = abs(x), odd = v->coded ? (int)bd_trellis_superset(&v->trellis, state) : 0;
        int h = v->coded ? a / 2 : a, above = j ? abs(value_at(v, j - 1, i)) : 0;
        if (v->coded) above = (above + 1) / 2;
        double magnitude = v->coded ? 0.5 * a : a, place = (v->sum[i] + 3 * v->prior[i]) / (*lines_sum + 3);
        double line = num / den, mean = place * line, lately = j > 8 || v->recent[i] > 0 ? v->recent[i] : place;
        uint32_t p = (uint32_t)odd, coarse = level(mean, 2, -10, 20);
        uint32_t context[CONTEXTS] = {
            p + 2 * level(mean, 8, -48, 80),
            p + 2 * (level(place, 4, -20, 20) + 64 * level(line, 4, -24, 40)),
            p + 2 * (near(u1, mean, 6) + 8 * (near(above, mean, 6) + 8 * (near(u2, mean, 3) + 5 * coarse))),
            p + 2 * level(mean, 4, -24, 40),
            p + 2 * (level(lately * line, 4, -24, 40) + 80 * coarse),
            p + 2 * (level(recent_line * place, 4, -24, 40) + 80 * level(mean, 1, -6, 9)),
        };
        float start = (float)fmin(fmax(mean / (1 + mean), 0.01), 0.97);
        if (h || odd) m->bits += 1;
        int k = 0;
        for (; k < BINS; k++) {
            decide(m, h > k, context, k, odd, start);
            if (h <= k) break;
        }
        if (k == BINS) m->bits += 2 * floor(log2(h - BINS + 1)) + 1;
        if (v->coded) state = bd_trellis_next(&v->trellis, state, x);
        u2 = u1;
        u1 = v->coded ? (a + 1) / 2 : a;
        num += magnitude;
        den += place;
        total += magnitude;
        v->sum[i] += magnitude;
        v->recent[i] = 0.9 * v->recent[i] + 0.1 * magnitude / (line + 1e-3);
        recent_line = 0.93 * recent_line + 0.07 * magnitude / (place + 1e-3);
    }
    *guess = total / v->places + 1e-3;
    *lines_sum += total / v->places;
}

static void run(mixer *m, view *v) {
    const bd_qtensor *q = v->q;
    double mean = 0, guess = 1, lines_sum = 0;
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < BINS; k++)
            for (int c = 0; c < CONTEXTS; c++) m->weight[s][k][c] = 0.3f;
    if (v->order) bd_trellis_order(v->order, q->row_exp, q->rows);
    for (uint32_t i = 0; i < v->places; i++) {
        v->prior[i] = v->order ? exp2(-q->row_exp[v->order[i]] / 4.0) : 1;
        mean += v->prior[i] / v->places;
    }
    for (uint32_t i = 0; i < v->places; i++) v->prior[i] /= mean;
    for (uint32_t j = 0; j < v->lines; j++) {
        if (j && q->col_exp) guess *= exp2((q->col_exp[j - 1] - q->col_exp[j]) / 4.0);
        run_line(m, v, j, &guess, &lines_sum);
    }
}

bd_status bd_bench_reference(double *bits, const bd_qtensor *q, bd_err *err) {
    const bool tcq = q->method == BD_Q_TCQ;
    view v = {.q = q, .lines = tcq ? q->cols : q->rows, .places = tcq ? q->rows : q->cols};
    mixer m = {.bits = 0};
    bool fine = true;
    v.coded = bd_trellis_init(&v.trellis, q->states);
    for (int k = 0; k < CONTEXTS; k++) fine &= (m.cells[k] = calloc(CELLS, sizeof(cell))) != NULL;
    if (tcq) fine &= (v.order = malloc(v.places * sizeof *v.order)) != NULL;
    fine &= (v.prior = calloc(3 * (size_t)v.places, sizeof *v.prior)) != NULL;
    if (fine) {
        v.sum = v.prior + v.places;
        v.recent = v.sum + v.places;
        run(&m, &v);
        *bits = m.bits;
    }
    for (int k = 0; k < CONTEXTS; k++) free(m.cells[k]);
    free(v.order);
    free(v.prior);
    return fine ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
}
