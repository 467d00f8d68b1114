#include "compiler/tcq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/coupled_search.h"
#include "compiler/tcq_rate.h"
#include "format/weight_group.h"

enum {
    BLOCK = 32,   /* columns whose errors are spread together */
    CHUNK = 1024, /* rows of one task within a column; sums are taken by these chunks */
    TILE = 256,   /* rows of one task when errors are spread */
    EXPS = 2 * BD_TCQ_EXP_MAX,
    FINEST_INDEX = 28672 /* of BD_TCQ_INDEX_MAX */
};
/* The prior of a row's mean magnitude counts as this many columns. */
#define PRIOR_COLUMNS 3.0f
/* Below this an entry of A is rounding noise, and products with it would be slow subnormals. */
#define A_LEAST 0x1p-60
/* Tables are brought up to date after the first columns, and whenever the columns grew by 1/8. */
#define GROWTH 8

typedef struct tcq_job {
    const bd_search_ops *ops;
    bd_pool *pool;
    const bd_qsource *src;
    bd_qtensor *q;
    int64_t rows, cols, stride;
    bd_search_trellis trellis;
    bd_rate *rate;
    int32_t *row;                /* (stride) trellis order */
    float step[2 * EXPS + 1];    /* by row_exp + col_exp + EXPS */
    float *w, *e;                /* (BLOCK, stride): weights and errors of the block */
    float *feedback, *sum;       /* (cols, stride): sums of errors and of weights times A; NULL without ldl */
    float *a;                    /* (cols, BLOCK): the block's rows of A, turned */
    float *none;                 /* (stride) zeros */
    float *y, *inverse, *width;  /* (stride): the column's targets in steps, 1 / step, step */
    float *past, *prior;         /* (stride): sums of magnitudes so far, and what stands in at first */
    float *cost;                 /* (stride, 4) */
    int16_t *index, *path;       /* (stride, 4), (stride) */
    int32_t *bin;                /* (stride) */
    uint8_t *decisions, *subset; /* (stride, states / 8), (stride) */
    float *chunk_sum;            /* (chunks) */
    double *lost, *signal;       /* (rows): sums of D u^2 and of D s^2 */
    bd_coupled coupled;          /* where rows are coupled */
    bd_coupled_fn *search_coupled;
    float *b, *target; /* (rows, stride): B of rows_ldl, NULL where rows are independent; (stride) */
    double *apart;     /* (rows): sums of D v^2, the innovations of columns alone; where rows are coupled */
    double columns;    /* mean magnitude of the columns so far, summed */
    /* the block being worked on */
    int64_t k0, k1, k;
    float mean;
} tcq_job;

/* --- settings --- */

static bd_status check(const bd_qsetting *s, bd_err *err) {
    bd_trellis t;
    if (s->states != 1 && (s->states < 0 || !bd_trellis_init(&t, (uint32_t)s->states)))
        return BD_FAIL(err, BD_E_RANGE, "states is %d: it must be 1, 4, 8, 16, 32, 64, 128 or 256", s->states);
    if (!(s->step >= 0x1p-40f && s->step <= 0x1p40f))
        return BD_FAIL(err, BD_E_RANGE, "step is %.9g: it must lie between 2^-40 and 2^40", (double)s->step);
    if (!(s->lambda >= 0 && s->lambda <= 16))
        return BD_FAIL(err, BD_E_RANGE, "lambda is %.9g: it must lie between 0 and 16", (double)s->lambda);
    return BD_OK;
}

static bd_status check_source(const bd_qsource *src, bd_err *err) {
    const int64_t n[2] = {src->rows, src->cols};
    const int16_t *exps[2] = {src->row_exp, src->col_exp};
    if (src->rows < 1 || src->cols < 1 || src->rows > INT32_MAX - CHUNK || src->cols > INT32_MAX)
        return BD_FAIL(err, BD_E_SHAPE, "tcq cannot take a tensor of %lld x %lld", (long long)src->rows,
                       (long long)src->cols);
    for (int side = 0; side < 2; side++)
        for (int64_t i = 0; exps[side] && i < n[side]; i++)
            if (exps[side][i] < -BD_TCQ_EXP_MAX || exps[side][i] > BD_TCQ_EXP_MAX)
                return BD_FAIL(err, BD_E_RANGE, "the exponent of %s %lld is %d, beyond +-%d",
                               side ? "column" : "row", (long long)i, exps[side][i], BD_TCQ_EXP_MAX);
    for (int64_t i = 0; i < src->rows * src->cols; i++)
        if (!isfinite(src->w[i])) return BD_FAIL(err, BD_E_NONFINITE, "element %lld is not finite", (long long)i);
    return BD_OK;
}

float bd_tcq_finest(const bd_qsource *src) {
    float scale[2 * EXPS + 1];
    double top = 0;
    for (int k = -EXPS; k <= EXPS; k++) scale[k + EXPS] = bd_tcq_step(1, 4, k);
    for (int64_t i = 0; i < src->rows; i++)
        for (int64_t j = 0; j < src->cols; j++) {
            int k = (src->row_exp ? src->row_exp[i] : 0) + (src->col_exp ? src->col_exp[j] : 0);
            double v = fabs((double)src->w[i * src->cols + j]) / (double)scale[k + EXPS];
            if (v > top) top = v;
        }
    double base = top > 0 ? top / FINEST_INDEX : 1;
    return base < 0x1p-40 ? 0x1p-40f : base > 0x1p40 ? 0x1p40f : (float)base;
}

/* --- a column --- */

static int64_t column_of(const tcq_job *j, int64_t k) { return j->src->order ? j->src->order[k] : k; }
static bool is_dead(const tcq_job *j, int64_t column) {
    return j->src->ldl && j->src->dead && j->src->dead[column];
}

static void for_chunks(tcq_job *j, bd_task_fn *fn, int64_t chunk) {
    int64_t n = (j->stride + chunk - 1) / chunk;
    if (n < 2 || !j->pool) fn(j, 0, n, 0);
    else bd_pool_for(j->pool, n, 1, fn, j);
}

/* The feedback of the block's earlier columns, and the targets. */
static void column_targets(void *arg, int64_t begin, int64_t end, int worker) {
    tcq_job *j = arg;
    (void)worker;
    const int64_t at = j->k - j->k0;
    for (int64_t c = begin; c < end; c++) {
        int64_t i = c * CHUNK, n = j->stride - i < CHUNK ? j->stride - i : CHUNK;
        float *f = j->feedback ? j->feedback + j->k * j->stride : j->none;
        if (j->feedback) {
            j->ops->feed(f + i, j->e + i, j->stride, j->a + j->k * BLOCK, BLOCK, (int)at, 1, n);
            j->ops->feed(j->sum + j->k * j->stride + i, j->w + i, j->stride, j->a + j->k * BLOCK, BLOCK, (int)at, 1,
                         n);
        }
        j->chunk_sum[c] = j->ops->targets(j->y + i, j->w + at * j->stride + i, f + i, j->inverse + i, n);
    }
}

static void column_choices(void *arg, int64_t begin, int64_t end, int worker) {
    tcq_job *j = arg;
    (void)worker;
    for (int64_t c = begin; c < end; c++) {
        int64_t i = c * CHUNK, n = j->stride - i < CHUNK ? j->stride - i : CHUNK;
        j->ops->bins(j->bin + i, j->past + i, j->prior + i, j->mean, n);
        if (j->b) continue;
        if (j->rate->scalar) j->ops->scalar(j->path + i, j->y + i, j->bin + i, &j->rate->now, n);
        else j->ops->subsets(j->cost + 4 * i, j->index + 4 * i, j->y + i, j->bin + i, &j->rate->now, n);
    }
}

/* Errors of column k with the chosen path, and what they cost. */
static void column_errors(tcq_job *j, int64_t column, double d) {
    const int64_t at = j->k - j->k0;
    const float *w = j->w + at * j->stride, *f = j->feedback ? j->feedback + j->k * j->stride : j->none;
    const float *s = j->sum ? j->sum + j->k * j->stride : j->none;
    const float half = j->rate->scalar ? 1.0f : 0.5f, *moved = j->b ? j->coupled.moved : NULL;
    float *e = j->e + at * j->stride;
    int16_t *out = j->q->index + column * j->rows;
    int64_t total = 0;
    for (int64_t i = 0; i < j->rows; i++) {
        int v = j->path[i], magnitude = v < 0 ? -v : v;
        e[i] = w[i] - (float)v * j->width[i];
        double u = (double)e[i] + (double)f[i], x = (double)w[i] + (double)s[i];
        if (j->b) {
            j->apart[i] += d * u * u;
            u += (double)moved[i];
        }
        j->lost[i] += d * u * u;
        j->signal[i] += d * x * x;
        j->past[i] += half * (float)magnitude;
        total += magnitude;
        out[j->row[i]] = (int16_t)v;
    }
    j->columns += (double)half * (double)total / (double)j->rows;
}

static void search_coupled_column(tcq_job *j) {
    const float *w = j->w + (j->k - j->k0) * j->stride, *f = j->feedback + j->k * j->stride;
    bd_coupled *c = &j->coupled;
    for (int64_t i = 0; i < j->rows; i++) j->target[i] = w[i] + f[i];
    c->target = j->target;
    c->inverse = j->inverse;
    c->width = j->width;
    c->bin = j->bin;
    c->rate = &j->rate->now;
    c->path = j->path;
    j->search_coupled(c);
}

static void search_column(tcq_job *j, int64_t column) {
    const int col_exp = j->q->col_exp[column];
    /* Targets count whole steps; width is the grid's, half a step if there is a trellis. */
    const float half = j->rate->scalar ? 1.0f : 0.5f;
    const int64_t chunks = (j->stride + CHUNK - 1) / CHUNK;
    double sum = 0, d = j->src->ldl ? j->src->ldl[j->k * j->cols + j->k] : 1;
    for (int64_t i = 0; i < j->rows; i++) {
        j->width[i] = j->step[j->q->row_exp[j->row[i]] + col_exp + EXPS];
        j->inverse[i] = half / j->width[i];
    }
    for_chunks(j, column_targets, CHUNK);
    for (int64_t c = 0; c < chunks; c++) sum += (double)j->chunk_sum[c];
    if (sum > 0 && !is_dead(j, column)) {
        /* the line's mean, and its row's share in it, as the coder will see them */
        j->mean = (float)(sum / (double)j->rows / (j->columns + (double)PRIOR_COLUMNS));
        for_chunks(j, column_choices, CHUNK);
        if (j->b) {
            search_coupled_column(j);
        } else if (!j->rate->scalar) {
            float final[BD_SEARCH_STATES_MAX];
            j->ops->forward(j->decisions, final, &j->trellis, j->cost, j->rows);
            bd_search_back(j->subset, j->decisions, final, &j->trellis, j->rows);
            for (int64_t i = 0; i < j->rows; i++) j->path[i] = j->index[4 * i + j->subset[i]];
        }
        for (int64_t i = 0; i < j->rows; i++) bd_rate_count(j->rate, j->bin[i], j->path[i]);
    } else {
        memset(j->path, 0, (size_t)j->rows * sizeof *j->path);
        if (j->b) memset(j->coupled.moved, 0, (size_t)j->stride * sizeof *j->coupled.moved);
    }
    column_errors(j, column, d);
}

/* --- blocks of columns --- */

/* The block's weights, a column each, in trellis order. */
static void gather(void *arg, int64_t begin, int64_t end, int worker) {
    tcq_job *j = arg;
    (void)worker;
    for (int64_t c = begin; c < end; c++)
        for (int64_t i = c * CHUNK; i < (c + 1) * CHUNK && i < j->rows; i++) {
            const float *w = j->src->w + (int64_t)j->row[i] * j->cols;
            for (int64_t k = j->k0; k < j->k1; k++) {
                int64_t column = column_of(j, k);
                j->w[(k - j->k0) * j->stride + i] = is_dead(j, column) ? 0 : w[column];
            }
        }
}

static void spread(void *arg, int64_t begin, int64_t end, int worker) {
    tcq_job *j = arg;
    (void)worker;
    const int64_t rest = j->cols - j->k1;
    const float *a = j->a + j->k1 * BLOCK;
    for (int64_t t = begin; t < end; t++) {
        int64_t i = t * TILE, n = j->stride - i < TILE ? j->stride - i : TILE, to = j->k1 * j->stride + i;
        j->ops->feed(j->feedback + to, j->e + i, j->stride, a, BLOCK, (int)(j->k1 - j->k0), rest, n);
        j->ops->feed(j->sum + to, j->w + i, j->stride, a, BLOCK, (int)(j->k1 - j->k0), rest, n);
    }
}

static void run(tcq_job *j) {
    int64_t next = 0;
    for (j->k0 = 0; j->k0 < j->cols; j->k0 += BLOCK) {
        j->k1 = j->k0 + BLOCK < j->cols ? j->k0 + BLOCK : j->cols;
        for (int64_t i = j->k0 + 1; j->src->ldl && i < j->cols; i++)
            for (int64_t k = j->k0; k < j->k1 && k < i; k++) {
                double v = j->src->ldl[k * j->cols + i];
                j->a[i * BLOCK + k - j->k0] = fabs(v) < A_LEAST ? 0 : (float)v;
            }
        for_chunks(j, gather, CHUNK);
        for (j->k = j->k0; j->k < j->k1; j->k++) {
            search_column(j, column_of(j, j->k));
            if (j->k < next) continue;
            bd_rate_update(j->rate);
            next = j->k + 1 + j->k / GROWTH;
        }
        if (j->feedback && j->k1 < j->cols) for_chunks(j, spread, TILE);
    }
}

/* --- the whole --- */

static bd_status allocate(tcq_job *j, bd_err *err) {
    const uint64_t n = (uint64_t)j->stride, cols = (uint64_t)j->cols;
    bool fine = true;
#define TAKE(field, count) fine = (j->field = bd_alloc_aligned((count), sizeof *j->field)) != NULL && fine
    TAKE(rate, 1);
    TAKE(row, n);
    TAKE(w, BLOCK * n);
    TAKE(e, BLOCK * n);
    if (j->src->ldl) {
        TAKE(feedback, cols * n);
        TAKE(sum, cols * n);
        TAKE(a, BLOCK * cols);
    }
    TAKE(none, n);
    TAKE(y, n);
    TAKE(inverse, n);
    TAKE(width, n);
    TAKE(past, n);
    TAKE(prior, n);
    TAKE(cost, 4 * n);
    TAKE(index, 4 * n);
    TAKE(path, n);
    TAKE(bin, n);
    TAKE(decisions, n * ((j->trellis.states + 7) / 8));
    TAKE(subset, n);
    TAKE(chunk_sum, n / CHUNK + 1);
    TAKE(lost, n);
    TAKE(signal, n);
    if (j->src->rows_ldl && j->src->ldl) {
        TAKE(b, n * (uint64_t)j->rows);
        TAKE(target, n);
        TAKE(apart, n);
    }
#undef TAKE
    return fine ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory quantizing");
}

static void release(tcq_job *j) {
    void *all[] = {j->rate,   j->row,  j->w,       j->e,         j->feedback, j->sum,       j->a,
                   j->none,   j->y,    j->inverse, j->width,     j->past,     j->prior,     j->cost,
                   j->index,  j->path, j->bin,     j->decisions, j->subset,   j->chunk_sum, j->lost,
                   j->signal, j->b,    j->target,  j->apart};
    bd_coupled_free(&j->coupled);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Rows of larger steps have smaller indices. */
static void set_priors(tcq_job *j) {
    double sum = 0;
    for (int64_t i = 0; i < j->rows; i++) {
        j->prior[i] = 1 / bd_tcq_step(1, 1, j->q->row_exp[j->row[i]]);
        sum += (double)j->prior[i];
    }
    float scale = (float)((double)PRIOR_COLUMNS * (double)j->rows / sum);
    for (int64_t i = 0; i < j->rows; i++) j->prior[i] *= scale;
}

/* B in float32 with zeros below, and the search's own memory. */
static bd_status couple(tcq_job *j, bd_err *err) {
    if (!j->b) return BD_OK;
    for (int64_t i = 0; i < j->rows; i++)
        for (int64_t k = i + 1; k < j->rows; k++) {
            double v = j->src->rows_ldl[i * j->rows + k];
            j->b[i * j->stride + k] = fabs(v) < A_LEAST ? 0 : (float)v;
        }
    j->coupled = (bd_coupled){
        .trellis = j->rate->scalar ? NULL : &j->trellis, .rows = j->rows, .stride = j->stride, .b = j->b};
    return bd_coupled_init(&j->coupled, err);
}

/* tr(G dW H dW^T) from the innovations of both sides: what the padding of G's diagonal adds is taken off. */
static double coupled_loss(const tcq_job *j) {
    double with = 0, apart = 0;
    for (int64_t i = 0; i < j->rows; i++) {
        with += j->src->rows_ldl[i * j->rows + i] * j->lost[i];
        apart += j->apart[i];
    }
    double loss = with - j->src->rows_pad * apart;
    return loss > 0 ? loss : 0;
}

/* Sums over rows, weighted as the loss feels them. */
static bd_status set_result(const tcq_job *j, bd_qresult *res, bd_err *err) {
    const double *r = j->src->rows_metric;
    double lost = 0, signal = 0, plain_lost = 0, plain_signal = 0;
    for (int64_t i = 0; i < j->rows; i++) {
        double weight = r ? r[j->row[i]] : 1;
        lost += weight * j->lost[i];
        signal += weight * j->signal[i];
        plain_lost += j->lost[i];
        plain_signal += j->signal[i];
    }
    if (!isfinite(plain_lost))
        return BD_FAIL(err, BD_E_RANGE, "the step %.9g is too small: indices beyond %d leave errors that grow",
                       (double)j->q->base, BD_TCQ_INDEX_MAX);
    if (j->b) lost = coupled_loss(j);
    res->nats = r && j->src->ldl ? lost / 2 : NAN;
    if (!(signal > 0)) {
        lost = plain_lost;
        signal = plain_signal;
    }
    res->lost = signal > 0 ? lost / signal : 0;
    return BD_OK;
}

bd_status bd_tcq_quantize_by(const bd_search_ops *ops, bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s,
                             bd_pool *pool, bd_qresult *res, bd_err *err) {
    BD_TRY(check(s, err));
    BD_TRY(check_source(src, err));
    tcq_job j = {.ops = ops, .pool = pool, .src = src, .q = q, .rows = src->rows, .cols = src->cols};
    /* An odd number of lines: columns of the same rows do not compete for the same places in the cache. */
    j.stride = ((src->rows + BD_SEARCH_LANES - 1) / BD_SEARCH_LANES | 1) * BD_SEARCH_LANES;
    bd_trellis t;
    if (s->states > 1 && bd_trellis_init(&t, (uint32_t)s->states)) bd_search_trellis_init(&j.trellis, &t);
    q->method = BD_Q_TCQ;
    q->rows = (uint32_t)src->rows;
    q->cols = (uint32_t)src->cols;
    q->bits = 0;
    q->group = 0;
    q->levels = 0;
    q->rank = 0;
    q->states = (uint16_t)s->states;
    q->kind = src->kind;
    q->base = s->step;
    BD_TRY(bd_qtensor_alloc(q, err));
    if (src->row_exp) memcpy(q->row_exp, src->row_exp, (size_t)src->rows * sizeof *q->row_exp);
    if (src->col_exp) memcpy(q->col_exp, src->col_exp, (size_t)src->cols * sizeof *q->col_exp);
    bd_status st;
    BD_TRY_DONE(allocate(&j, err));
    bd_rate_init(j.rate, s->states == 1, (double)s->lambda);
    for (int k = -EXPS; k <= EXPS; k++) j.step[k + EXPS] = bd_tcq_step(q->base, q->states, k);
    bd_trellis_order(j.row, q->row_exp, q->rows);
    set_priors(&j);
    for (int i = 0; bd_coupled_at(i); i++)
        if (bd_search_ops_at(i) == ops) j.search_coupled = bd_coupled_at(i);
    BD_TRY_DONE(couple(&j, err));
    run(&j);
    st = set_result(&j, res, err);
done:
    release(&j);
    return st;
}

static bd_status quantize(bd_qtensor *q, const bd_qsource *src, const bd_qsetting *s, bd_pool *pool,
                          bd_qresult *res, bd_err *err) {
    return bd_tcq_quantize_by(bd_search_ops_at(0), q, src, s, pool, res, err);
}

const bd_quantizer bd_quantizer_tcq = {
    .name = "tcq",
    .method = BD_Q_TCQ,
    .fields = BD_QF_STATES | BD_QF_STEP | BD_QF_LAMBDA,
    .defaults = {.states = 8, .step = 0.01f, .lambda = 0.05f},
    .scaled = BD_QF_STEP,
    .summary = "trellis-coded quantization with error feedback, steps by row and column, for the range coder",
    .check = check,
    .quantize = quantize,
};
