#include "compiler/synthetic.h"

#include <math.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/fmath.h"
#include "base/philox.h"
#include "compiler/compile_impl.h"

/* Deviations of the logarithms. */
#define WEIGHT_SPREAD 0.25
#define INPUT_SPREAD  0.5
#define OUTPUT_SPREAD 0.7
#define WEIGHT_SIZE   0.03
/* Of a second moment: directions that all tokens share, falling like 1 / rank, and neighbours. */
enum { DIRECTIONS = 32 };
#define NEIGHBOUR 0.6
#define COMMON    0.5

static double log_normal(double spread, uint64_t seed, uint64_t stream, uint64_t i) {
    return bd_exp(spread * bd_philox_normal(seed, stream, i));
}

/* --- weights --- */

typedef struct params_task {
    float *out;
    const bd_graph *g;
    uint64_t seed;
} params_task;

static void fill_params(void *arg, int64_t begin, int64_t end, int worker) {
    params_task *t = arg;
    (void)worker;
    for (int64_t p = begin; p < end; p++) {
        const bd_param *q = &t->g->params[p];
        const uint64_t stream = bd_name_stream(q->name);
        float *w = t->out + q->offset;
        bool vector = q->role == BD_ROLE_VECTOR;
        for (int64_t i = 0; i < q->rows; i++) {
            double row = WEIGHT_SIZE * log_normal(WEIGHT_SPREAD, t->seed, stream + 1, (uint64_t)i);
            for (int64_t k = 0; k < q->cols; k++) {
                double v = bd_philox_normal(t->seed, stream, (uint64_t)(i * q->cols + k));
                w[i * q->cols + k] = (float)(vector ? 1 + 0.2 * v : row * v);
            }
        }
        for (int64_t k = 0; !vector && k < q->cols; k++) {
            float col = (float)log_normal(WEIGHT_SPREAD, t->seed, stream + 2, (uint64_t)k);
            for (int64_t i = 0; i < q->rows; i++) w[i * q->cols + k] *= col;
        }
    }
}

void bd_synthetic_params(float *out, const bd_graph *g, uint64_t seed, bd_pool *pool) {
    params_task t = {out, g, seed};
    bd_pool_for(pool, g->n_params, 1, fill_params, &t);
}

/* --- second moments --- */

/* scale_j scale_k (own part for j = k, neighbours, common directions), times `size`. */
static bool second_moment(double *h, int64_t n, const double *scale, double size, uint64_t seed, uint64_t stream) {
    double *u = bd_alloc_aligned((uint64_t)n * DIRECTIONS, sizeof *u), near[64];
    if (!u) return false;
    for (int64_t j = 0; j < n; j++)
        for (int64_t r = 0; r < DIRECTIONS; r++)
            u[j * DIRECTIONS + r] =
                sqrt(COMMON / (double)(1 + r)) * bd_philox_normal(seed, stream, (uint64_t)(j * DIRECTIONS + r));
    near[0] = 1;
    for (int d = 1; d < 64; d++) near[d] = near[d - 1] * NEIGHBOUR;
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k <= j; k++) {
            double s = j - k < 64 ? near[j - k] : 0;
            for (int64_t r = 0; r < DIRECTIONS; r++) s += u[j * DIRECTIONS + r] * u[k * DIRECTIONS + r];
            h[j * n + k] = h[k * n + j] = size * scale[j] * scale[k] * s;
        }
    free(u);
    return true;
}

typedef struct moments_task {
    bd_calibration *c;
    const bd_graph *g;
    uint64_t seed;
    bool *fine; /* (moments + uses) */
} moments_task;

static bool make_moment(const moments_task *t, int64_t i) {
    bd_moment *m = &t->c->moments[i];
    double *scale = calloc((size_t)m->n, sizeof *scale);
    const uint64_t stream = 1000 + 4 * (uint64_t)i;
    for (int64_t k = 0; scale && k < m->n; k++) scale[k] = log_normal(INPUT_SPREAD, t->seed, stream, (uint64_t)k);
    bool fine = scale && second_moment(m->h, m->n, scale, (double)t->c->tokens, t->seed, stream + 1);
    free(scale);
    return fine;
}

static bool make_use(const moments_task *t, int64_t i) {
    bd_param_use *u = &t->c->uses[i];
    const int64_t rows = t->g->params[u->param].rows;
    const uint64_t stream = 1000000 + 4 * (uint64_t)i;
    double *scale = calloc((size_t)rows, sizeof *scale);
    bool fine = scale != NULL;
    for (int64_t k = 0; fine && k < rows; k++) {
        scale[k] = log_normal(OUTPUT_SPREAD, t->seed, stream, (uint64_t)k);
        u->rows[k] = 1e-6 * (double)t->c->tokens * scale[k] * scale[k];
    }
    if (fine && u->coupled) fine = second_moment(u->coupled, rows, scale, 1, t->seed, stream + 1);
    free(scale);
    return fine;
}

static void make_moments(void *arg, int64_t begin, int64_t end, int worker) {
    moments_task *t = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        t->fine[i] = i < t->c->n_moments ? make_moment(t, i) : make_use(t, i - t->c->n_moments);
}

bd_status bd_synthetic_calibration(bd_calibration **out, const bd_graph *g, uint64_t tokens, uint64_t seed,
                                   bd_pool *pool, bd_err *err) {
    *out = NULL;
    bd_calibration *c = calloc(1, sizeof *c);
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    moments_task t = {.c = c, .g = g, .seed = seed};
    bd_status st = bd_calibration_layout(c, g, err);
    if (st) goto done;
    c->tokens = tokens;
    int64_t n = c->n_moments + c->n_uses;
    t.fine = calloc((size_t)n + 1, sizeof *t.fine);
    st = t.fine ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    if (!st) bd_pool_for(pool, n, 1, make_moments, &t);
    for (int64_t i = 0; !st && i < n; i++)
        if (!t.fine[i]) st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    for (int p = 0; !st && p < c->n_params; p++)
        for (int64_t k = 0; c->elements[p] && k < g->params[p].rows * g->params[p].cols; k++)
            c->elements[p][k] =
                1e-6 * (double)tokens * log_normal(1, seed, bd_name_stream(g->params[p].name), (uint64_t)k);
done:
    free(t.fine);
    if (st) bd_calibration_destroy(c);
    else *out = c;
    return st;
}
