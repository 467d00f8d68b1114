/* The price of the file: every group as it will be written. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "compiler/compile_impl.h"

typedef struct price_task {
    bd_compiler *c;
    bd_status *status; /* (2 * groups) */
    bd_err *errs;
    bd_qgroup *before; /* (groups) as they were */
    bool *early;       /* (groups): shares are found beside the coding */
} price_task;

static bd_status price_group(bd_qgroup *g, bd_group_state *s, bd_err *err) {
    g->packed = &s->packed;
    if (!s->fresh) {
        s->packed.size = 0;
        g->codec = s->codec;
        BD_TRY(bd_qgroup_cost(g, &s->cost, err));
        s->used = g->codec;
        s->fresh = true;
    }
    g->codec = s->used;
    return BD_OK;
}

/* Bytes of each tensor into the slots that are used. */
static bd_status share_group(bd_compiler *c, uint32_t k, const bd_qgroup *g, bd_err *err) {
    double *bytes = calloc((size_t)g->n_tensors + 1, sizeof *bytes);
    if (!bytes) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = bd_qgroup_tensor_bytes(g, bytes, err);
    for (int i = 0; !st && i < c->m->graph->n_params; i++)
        if (c->jobs[i].group_index == (int)k) bd_job_used(&c->jobs[i])->bytes = bytes[c->jobs[i].at];
    free(bytes);
    c->state[k].shares = st == BD_OK;
    return st;
}

static bool only_range(const bd_group_state *s) { return (s->fresh ? s->used : s->codec) == BD_CODEC_RANGE; }

/* Tasks below n code a group; the others price its tensors, which under our coder does not need the result. */
static void price_groups(void *arg, int64_t begin, int64_t end, int worker) {
    price_task *p = arg;
    const uint32_t n = p->c->art.n_groups;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        uint32_t k = (uint32_t)t % n;
        bd_group_state *s = &p->c->state[k];
        if (t < n) {
            p->status[t] = price_group(&p->c->groups[k], s, &p->errs[t]);
        } else if (p->early[k]) {
            bd_qgroup g = p->before[k];
            g.codec = BD_CODEC_RANGE;
            p->status[t] = share_group(p->c, k, &g, &p->errs[t]);
        }
    }
}

/* A group that our coder did not shorten has other shares. */
static bd_status share_rest(price_task *p, bd_err *err) {
    for (uint32_t k = 0; k < p->c->art.n_groups; k++) {
        bd_group_state *s = &p->c->state[k];
        if (p->early[k] && s->used != BD_CODEC_RANGE) s->shares = false;
        if (!s->shares) BD_TRY(share_group(p->c, k, &p->c->groups[k], err));
    }
    return BD_OK;
}

/* Groups are independent: side by side, first error in their order. */
static bd_status each_group(bd_compiler *c, bd_err *err) {
    uint32_t n = c->art.n_groups;
    price_task p = {.c = c,
                    .status = calloc(2 * (size_t)n + 1, sizeof *p.status),
                    .errs = calloc(2 * (size_t)n + 1, sizeof *p.errs),
                    .before = calloc((size_t)n + 1, sizeof *p.before),
                    .early = calloc((size_t)n + 1, sizeof *p.early)};
    bd_status st = p.status && p.errs && p.before && p.early ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (uint32_t k = 0; !st && k < n; k++) {
        p.before[k] = c->groups[k];
        p.early[k] = !c->state[k].shares && only_range(&c->state[k]);
    }
    if (!st) bd_pool_for(c->be->pool, 2 * (int64_t)n, 1, price_groups, &p);
    for (uint32_t k = 0; !st && k < 2 * n; k++) {
        st = p.status[k];
        if (st && err) *err = p.errs[k];
    }
    if (!st) st = share_rest(&p, err);
    free(p.status);
    free(p.errs);
    free(p.before);
    free(p.early);
    if (!st && bd_stopped(c->o->progress)) st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while packing");
    return st;
}

bd_status bd_compile_price(bd_compiler *c, uint64_t *bytes, bd_err *err) {
    double t = bd_now();
    BD_TRY(bd_jobs_quantize(c, err));
    double pass = bd_now() - t;
    c->seconds_quantize += pass;
    if (pass > c->seconds_pass) c->seconds_pass = pass;
    t = bd_now();
    BD_TRY(each_group(c, err));
    c->seconds_price += bd_now() - t;
    BD_TRY(bd_compile_write_plan(c, err)); /* says what each tensor takes */
    BD_TRY(bd_artifact_fixed_cost(&c->art, bytes, err));
    for (uint32_t k = 0; k < c->art.n_groups; k++) *bytes += c->state[k].cost;
    c->tries++;
    return BD_OK;
}

double bd_compile_scaled_bytes(const bd_compiler *c) {
    double sum = 0;
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->jobs[i].scaled) sum += bd_job_using(&c->jobs[i])->bytes;
    return sum;
}

/* --- what dominates --- */

static uint64_t words_of(const bd_qtensor *q) {
    return q->method == BD_Q_ROW || q->method == BD_Q_LQER ? q->rows
           : q->method == BD_Q_TERNARY                     ? ((uint64_t)q->rows * q->cols + q->group - 1) / q->group
                                                           : 0;
}

/* Bytes of a group without scales and exponents: the same tensors with all of them zero. */
static bd_status without_scales(const bd_qgroup *g, const bd_group_state *s, uint64_t *cost, bd_err *err) {
    bd_qgroup bare = *g;
    uint64_t most = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const bd_qtensor *q = &g->tensors[i];
        uint64_t n = words_of(q) + q->rows + q->cols;
        if (n > most) most = n;
    }
    int16_t *zeros = bd_alloc_aligned(most + 1, sizeof *zeros);
    bare.tensors = calloc((size_t)g->n_tensors + 1, sizeof *bare.tensors);
    bd_status st = zeros && bare.tensors ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (uint32_t i = 0; !st && i < g->n_tensors; i++) {
        bd_qtensor *q = &bare.tensors[i];
        *q = g->tensors[i];
        if (q->scales) q->scales = (uint16_t *)zeros;
        if (q->row_exp) q->row_exp = q->col_exp = zeros;
    }
    bare.codec = s->used;
    bare.packed = NULL;
    if (!st) st = bd_qgroup_cost(&bare, cost, err);
    free(bare.tensors);
    free(zeros);
    return st;
}

bd_status bd_compile_too_small(bd_compiler *c, uint64_t bytes, bd_err *err) {
    static const char *const names[] = {"the codes of the weights", "scales of rows and columns", "small tensors",
                                        "model text, plan and header"};
    uint64_t part[4] = {0}, sum = 0;
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        const bd_group_state *s = &c->state[k];
        sum += s->cost;
        bool small = !strcmp(c->groups[k].name, "small");
        uint64_t bare = s->cost;
        if (!small) BD_TRY(without_scales(&c->groups[k], s, &bare, err));
        if (bare > s->cost) bare = s->cost;
        part[small ? 2 : 0] += bare;
        part[1] += s->cost - bare;
    }
    part[3] = bytes - sum;
    int most = 0;
    for (int i = 1; i < 4; i++)
        if (part[i] > part[most]) most = i;
    return BD_FAIL(err, BD_E_BUDGET,
                   "the budget of %" PRIu64 " bytes is too small: the smallest reachable file has %" PRIu64
                   " bytes, of which %s take %" PRIu64 " (codes %" PRIu64 ", scales %" PRIu64
                   ", small tensors %" PRIu64 ", model text, plan and header %" PRIu64 ")",
                   c->o->budget, bytes, names[most], part[most], part[0], part[1], part[2], part[3]);
}
