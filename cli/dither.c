#include "cli/dither.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/nearest.h"
#include "base/philox.h"

enum { MAX_CODE = 127, MAX_DIVISOR = 8 };

/* Does every value lie on the grid of this step? *step is fitted to the codes on the way. */
static bool fits(const float *w, int64_t n, double *step) {
    double s = *step;
    for (int round = 0; round < 3; round++) {
        double num = 0, den = 0;
        for (int64_t i = 0; i < n; i++) {
            double code = nearbyint((double)w[i] / s);
            if (fabs(code) > MAX_CODE) return false;
            num += code * (double)w[i];
            den += code * code;
        }
        if (!(den > 0)) return false;
        s = num / den;
    }
    for (int64_t i = 0; i < n; i++) {
        double code = nearbyint((double)w[i] / s), off = fabs((double)w[i] - code * s);
        /* rounding to bfloat16 is off by at most 2^-9 of the value; s has an error of its own */
        if (fabs(code) > MAX_CODE || off > fabs((double)w[i]) * 0x1p-8 + 1e-3 * s) return false;
    }
    *step = s;
    return true;
}

/* Step of a row that is codes times one step, 0: it is not (or it is all zeros). The smallest value is a small
 * code; large codes alone fit any fine grid, so some code must be small enough to tell. */
static double grid_step(const float *w, int64_t n) {
    double least = INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (w[i] != 0 && fabs((double)w[i]) < least) least = fabs((double)w[i]);
    if (!isfinite(least)) return 0;
    for (int k = 1; k <= MAX_DIVISOR; k++) {
        double s = least / k;
        if (fits(w, n, &s)) return s;
    }
    return 0;
}

static bool wanted(const char *name, const char *const *want, int n) {
    for (int i = 0; i < n; i++)
        if (bd_glob(want[i], name)) return true;
    return n == 0;
}

bd_status bd_dither(bd_model **m, uint64_t seed, const char *const *want, int n, int64_t *rows, int64_t *all,
                    bd_err *err) {
    bd_model *from = *m;
    const bd_graph *g = from->graph;
    float *params = bd_alloc_aligned(g->param_floats ? g->param_floats : 1, sizeof *params);
    if (!params) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the weights");
    memcpy(params, from->params, g->param_floats * sizeof *params);
    *rows = *all = 0;
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        if (p->role == BD_ROLE_VECTOR || !wanted(p->name, want, n)) continue;
        *all += p->rows;
        for (int64_t r = 0; r < p->rows; r++) {
            float *w = params + p->offset + (uint64_t)(r * p->cols);
            double step = grid_step(w, p->cols);
            if (!(step > 0)) continue;
            ++*rows;
            for (int64_t k = 0; k < p->cols; k++) {
                double u = bd_philox_uniform(seed, (uint64_t)i, (uint64_t)(r * p->cols + k));
                w[k] = (float)((double)w[k] + step * (u - 0.5));
            }
        }
    }
    if (!*rows) {
        free(params);
        return BD_FAIL(err, BD_E_FIELD,
                       "no row of the weights is int8 codes times a step: there is nothing to dither");
    }
    char name[64];
    memcpy(name, from->model_name, sizeof name);
    bd_graph *graph = from->graph;
    from->graph = NULL; /* goes to the new model */
    bd_model_close(from);
    *m = NULL;
    return bd_model_create(m, graph, params, name, err);
}
