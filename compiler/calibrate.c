#include "compiler/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/sha256.h"
#include "compiler/compile_impl.h"
#include "runtime/exec.h"

/* Rows of a batch, and so memory: backward keeps every activation. */
enum { CALL_ROWS = 1024 };

/* --- what is summed --- */

static int find_moment(const bd_calibration *c, int32_t value, bool of_gradient) {
    for (int i = 0; i < c->n_moments; i++)
        if (c->moments[i].value == value && c->moments[i].of_gradient == of_gradient) return i;
    return -1;
}

static bool reads_as_matrix(const bd_node *nd) {
    return nd->op == BD_OP_linear && nd->in[1].kind == BD_OPD_PARAM && nd->in[0].kind == BD_OPD_VALUE;
}

static bool reads_as_table(const bd_node *nd) { return nd->op == BD_OP_embed && nd->in[0].kind == BD_OPD_PARAM; }

/* Arrays for the parameters without a use. */
static bd_status layout_elements(bd_calibration *c, const bd_graph *g, bd_err *err) {
    c->elements = calloc((size_t)g->n_params + 1, sizeof *c->elements);
    bool *matrix = calloc((size_t)g->n_params + 1, sizeof *matrix), fine = c->elements && matrix;
    c->n_params = c->elements ? g->n_params : 0;
    for (int i = 0; fine && i < c->n_uses; i++) matrix[c->uses[i].param] = true;
    for (int i = 0; fine && i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        if (matrix[i]) continue;
        c->elements[i] = bd_alloc_aligned((uint64_t)p->rows * (uint64_t)p->cols, sizeof(double));
        fine = c->elements[i] != NULL;
    }
    free(matrix);
    return fine ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics of vectors");
}

/* A use per node that reads a matrix, and a moment per distinct value behind them. */
bd_status bd_calibration_layout(bd_calibration *c, const bd_graph *g, bd_err *err) {
    c->moments = calloc((size_t)g->n_forward + 1, sizeof *c->moments);
    c->uses = calloc((size_t)g->n_forward + 1, sizeof *c->uses);
    if (!c->moments || !c->uses) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *nd = &g->nodes[i];
        bool table = reads_as_table(nd);
        if (!table && !reads_as_matrix(nd)) continue;
        int32_t value = table ? nd->out[0].id : nd->in[0].id;
        bd_param_use *u = &c->uses[c->n_uses++];
        u->param = table ? nd->in[0].id : nd->in[1].id;
        u->rows = bd_alloc_aligned((uint64_t)g->params[u->param].rows, sizeof(double));
        u->moment = find_moment(c, value, table);
        if (u->moment < 0) {
            u->moment = c->n_moments++;
            int64_t n = g->values[value].width;
            double *h = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof(double));
            c->moments[u->moment] = (bd_moment){.h = h, .n = n, .value = value, .of_gradient = table};
        }
        c->moments[u->moment].readers++;
        int64_t rows = g->params[u->param].rows;
        bool couple = !table && !c->unweighted && rows <= BD_CALIB_COUPLED_ROWS;
        if (couple) u->coupled = bd_alloc_aligned((uint64_t)rows * (uint64_t)rows, sizeof(double));
        if (!u->rows || !c->moments[u->moment].h || (couple && !u->coupled))
            return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics of %s", g->params[u->param].name);
    }
    return layout_elements(c, g, err);
}

void bd_calibration_destroy(bd_calibration *c) {
    if (!c) return;
    for (int i = 0; i < c->n_moments; i++) free(c->moments[i].h);
    for (int i = 0; i < c->n_uses; i++) {
        free(c->uses[i].rows);
        free(c->uses[i].coupled);
    }
    for (int i = 0; i < c->n_params; i++) free(c->elements[i]);
    free(c->moments);
    free(c->uses);
    free(c->elements);
    free(c->shards);
    free(c);
}

/* --- collecting --- */

/* A pass over one batch: taps see the gradients while they are in memory. */
typedef struct pass {
    bd_calibration *c;
    const bd_graph *g; /* differentiated */
    bd_backend *be;
    const int32_t *tokens;
    int *use_of_node; /* (n_nodes): index into uses, -1: none */
    double **weight; /* (moments): (CALL_ROWS or more) squared gradients of each token so far, NULL: not weighted */
    double *length;  /* (CALL_ROWS or more) squared lengths of a matrix's inputs */
    double **sums;   /* (params): gradients of elements summed over calls */
    int64_t calls;
    int *waiting; /* (moments): readers whose gradient has not been seen in this batch */
} pass;

/* weight[t] += |dy[t]|^2, in eight interleaved sums: a fixed order. */
static void add_lengths(double *weight, const bd_view *dy) {
    const float *p = dy->data;
    for (int64_t t = 0; t < dy->rows; t++, p += dy->cols) {
        double s[8] = {0};
        for (int64_t j = 0; j < dy->cols; j++) s[j & 7] += (double)p[j] * (double)p[j];
        weight[t] += ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
}

static bd_status collect(void *user, const bd_node *nd, const bd_call *call, bd_err *err) {
    pass *p = user;
    int u = p->use_of_node[nd - p->g->nodes];
    if (u < 0) return BD_OK;
    bd_param_use *use = &p->c->uses[u];
    bd_moment *m = &p->c->moments[use->moment];
    bd_view dy = call->in[0], h = {m->h, BD_F64, m->n, m->n};
    if (m->of_gradient) {
        for (int64_t t = 0; t < dy.rows; t++) use->rows[p->tokens[t]] += 1;
        bd_call sum = {.op = BD_OP_second_moment, .in = {dy}, .out = {h}};
        return bd_run(p->be, &sum, err);
    }
    bd_call rows = {.op = BD_OP_row_moment, .in = {dy}, .out = {{use->rows, BD_F64, 1, dy.cols}}};
    BD_TRY(bd_run(p->be, &rows, err));
    double *w = p->weight[use->moment];
    if (use->coupled) {
        memset(p->length, 0, (size_t)dy.rows * sizeof *p->length);
        add_lengths(p->length, &call->in[1]);
        bd_call couple = {.op = BD_OP_second_moment,
                          .in = {dy, {p->length, BD_F64, dy.rows, 1}},
                          .out = {{use->coupled, BD_F64, dy.cols, dy.cols}}};
        BD_TRY(bd_run(p->be, &couple, err));
    }
    if (p->waiting[use->moment] == m->readers) memset(w, 0, (size_t)dy.rows * sizeof *w);
    add_lengths(w, &dy);
    if (--p->waiting[use->moment]) return BD_OK;
    p->waiting[use->moment] = m->readers;
    bd_call sum = {.op = BD_OP_second_moment, .in = {call->in[1]}, .out = {h}};
    if (!p->c->unweighted) sum.in[1] = (bd_view){w, BD_F64, dy.rows, 1};
    return bd_run(p->be, &sum, err);
}

/* Gradients of vectors before a batch, in the buffers of all uses. */
static void clear_elements(const pass *p, float *grads) {
    for (int i = 0; i < p->c->n_params; i++) {
        const bd_param *q = &p->g->params[i];
        if (p->c->elements[i])
            memset(grads + q->grad_offset, 0, (size_t)q->uses * (size_t)q->grad_stride * sizeof *grads);
    }
}

static void add_elements(pass *p, const float *grads) {
    p->calls++;
    for (int i = 0; i < p->c->n_params; i++) {
        const bd_param *q = &p->g->params[i];
        double *square = p->c->elements[i], *sum = p->sums[i];
        for (int64_t k = 0; square && k < q->rows * q->cols; k++) {
            double v = 0;
            for (int u = 0; u < q->uses; u++)
                v += (double)grads[q->grad_offset + (uint64_t)u * q->grad_stride + (uint64_t)k];
            sum[k] += v;
            square[k] += v * v;
        }
    }
}

/* Sums of squares about the mean, as many as there were calls. */
static void center_elements(const pass *p) {
    double n = (double)p->calls;
    for (int i = 0; p->calls > 1 && i < p->c->n_params; i++) {
        const bd_param *q = &p->g->params[i];
        double *square = p->c->elements[i], *sum = p->sums[i];
        for (int64_t k = 0; square && k < q->rows * q->cols; k++) {
            double rest = square[k] - sum[k] * sum[k] / n;
            square[k] = rest > 0 ? rest * n / (n - 1) : 0;
        }
    }
}

static void pass_free(pass *p) {
    for (int i = 0; p->weight && i < p->c->n_moments; i++) free(p->weight[i]);
    for (int i = 0; p->sums && i < p->c->n_params; i++) free(p->sums[i]);
    free(p->weight);
    free(p->length);
    free(p->sums);
    free(p->waiting);
    free(p->use_of_node);
}

/* The backward node of use u is the one that writes the gradient of its parameter
 * from the same values; uses of one parameter are told apart by the operand's use. */
static bd_status pass_init(pass *p, int64_t rows, bd_err *err) {
    bd_calibration *c = p->c;
    const bd_graph *g = p->g;
    p->use_of_node = malloc(((size_t)g->n_nodes + 1) * sizeof *p->use_of_node);
    p->weight = calloc((size_t)c->n_moments + 1, sizeof *p->weight);
    p->waiting = calloc((size_t)c->n_moments + 1, sizeof *p->waiting);
    p->length = bd_alloc_aligned((uint64_t)rows, sizeof *p->length);
    p->sums = calloc((size_t)c->n_params + 1, sizeof *p->sums);
    bool fine = p->use_of_node && p->weight && p->waiting && p->sums;
    for (int i = 0; fine && i < c->n_params; i++) {
        if (!c->elements[i]) continue;
        p->sums[i] = bd_alloc_aligned((uint64_t)g->params[i].rows * (uint64_t)g->params[i].cols, sizeof(double));
        fine = p->sums[i] != NULL;
    }
    if (!fine) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    for (int i = 0; i < c->n_moments; i++) {
        p->waiting[i] = c->moments[i].readers;
        if (c->moments[i].of_gradient) continue;
        p->weight[i] = bd_alloc_aligned((uint64_t)rows, sizeof(double));
        if (!p->weight[i]) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    }
    for (int i = 0; i < g->n_nodes; i++) p->use_of_node[i] = -1;
    int u = 0;
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *f = &g->nodes[i];
        bool table = reads_as_table(f);
        if (!table && !reads_as_matrix(f)) continue;
        const bd_operand *param = &f->in[table ? 0 : 1];
        bd_op op = table ? BD_OP_embed_grad : BD_OP_linear_grad_w;
        for (int k = g->n_forward; k < g->n_nodes; k++) {
            const bd_operand *o = &g->nodes[k].out[0];
            if (g->nodes[k].op == op && o->id == param->id && o->use == param->use) p->use_of_node[k] = u;
        }
        u++;
    }
    return BD_OK;
}

uint64_t bd_calibration_held_out(uint64_t n, int64_t window, double holdout) {
    return n ? (uint64_t)((double)((n - 1) / (uint64_t)window) * holdout) : 0;
}

static bd_status check_stream(const bd_model *m, const bd_calib_opts *o, bd_err *err) {
    if (o->window < 1 || !(o->holdout >= 0 && o->holdout < 1))
        return BD_FAIL(err, BD_E_RANGE, "calibration with windows of %lld and %g of them held out",
                       (long long)o->window, o->holdout);
    if (o->n < (uint64_t)o->window + 1)
        return BD_FAIL(err, BD_E_MISSING,
                       "the calibration shards hold %llu tokens, fewer than one window of %lld and its target",
                       (unsigned long long)o->n, (long long)o->window);
    for (uint64_t i = 0; i < o->n; i++)
        if (o->tokens[i] >= m->graph->vocab)
            return BD_FAIL(err, BD_E_RANGE, "calibration token %llu is %u, the vocabulary ends at %d",
                           (unsigned long long)i, o->tokens[i], m->graph->vocab - 1);
    return BD_OK;
}

static bd_status check_finite(const bd_calibration *c, const bd_graph *g, bd_err *err) {
    for (int i = 0; i < c->n_params; i++)
        for (int64_t k = 0; c->elements[i] && k < g->params[i].rows * g->params[i].cols; k++)
            if (!isfinite(c->elements[i][k]))
                return BD_FAIL(err, BD_E_NONFINITE, "the gradient statistics of %s are not finite",
                               g->params[i].name);
    for (int i = 0; i < c->n_uses; i++) {
        const bd_moment *h = &c->moments[c->uses[i].moment];
        const char *name = g->params[c->uses[i].param].name;
        for (int64_t k = 0; k < h->n * h->n; k++)
            if (!isfinite(h->h[k]))
                return BD_FAIL(err, BD_E_NONFINITE, "the statistics of %s are not finite", name);
        for (int64_t k = 0; k < g->params[c->uses[i].param].rows; k++)
            if (!(c->uses[i].rows[k] >= 0) || !isfinite(c->uses[i].rows[k]))
                return BD_FAIL(err, BD_E_NONFINITE, "the gradient statistics of %s are not finite", name);
    }
    return BD_OK;
}

typedef struct batch {
    int32_t *tokens, *targets; /* (windows * T) */
    double *nll;
    float *grads;
} batch;

static bd_status run_windows(bd_calibration *c, bd_exec *x, pass *p, batch *b, const bd_model *m,
                             const bd_calib_opts *o, int64_t per, bd_err *err) {
    int64_t T = o->window;
    uint64_t have = (o->n - 1) / (uint64_t)T - bd_calibration_held_out(o->n, T, o->holdout);
    uint64_t want = o->max_tokens / (uint64_t)T;
    if (want < 1) want = 1;
    if (want > have) want = have;
    bd_sha256 hash;
    bd_sha256_init(&hash);
    for (uint64_t w = 0; w < want; w += (uint64_t)per) {
        int64_t n = 0;
        for (; n < per && w + (uint64_t)n < want; n++) {
            const uint16_t *from = o->tokens + (w + (uint64_t)n) * have / want * (uint64_t)T;
            for (int64_t t = 0; t < T; t++) {
                b->tokens[n * T + t] = from[t];
                b->targets[n * T + t] = from[t + 1];
            }
        }
        bd_sha256_add(&hash, b->tokens, (size_t)(n * T) * sizeof *b->tokens);
        bd_sha256_add(&hash, b->targets, (size_t)(n * T) * sizeof *b->targets);
        p->tokens = b->tokens;
        BD_TRY(bd_exec_forward(x, m->params, b->tokens, b->targets, n, T, b->nll, err));
        clear_elements(p, b->grads);
        BD_TRY(bd_exec_backward(x, m->params, 1.0f, b->grads, err));
        add_elements(p, b->grads);
        bd_tick(o->progress, "calibration windows", (double)(w + (uint64_t)n), (double)want, "%s", "");
        if (bd_stopped(o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted during calibration");
    }
    center_elements(p);
    bd_sha256_end(&hash, c->tokens_hash);
    c->tokens = want * (uint64_t)T;
    return check_finite(c, m->graph, err);
}

bd_status bd_calibrate(bd_calibration **out, const bd_model *m, bd_backend *be, const bd_calib_opts *o,
                       bd_err *err) {
    *out = NULL;
    BD_TRY(check_stream(m, o, err));
    int64_t T = o->window, per = CALL_ROWS / T > 0 ? CALL_ROWS / T : 1;
    bd_calibration *c = calloc(1, sizeof *c);
    bd_graph *g = NULL;
    bd_exec *x = NULL;
    pass p = {.c = c, .be = be};
    batch b = {.tokens = bd_alloc_aligned((uint64_t)(per * T), sizeof *b.tokens),
               .targets = bd_alloc_aligned((uint64_t)(per * T), sizeof *b.targets),
               .nll = bd_alloc_aligned((uint64_t)(per * T), sizeof *b.nll)};
    if (c) c->unweighted = o->unweighted;
    bd_status st = c && b.tokens && b.targets && b.nll
                       ? bd_calibration_layout(c, m->graph, err)
                       : BD_FAIL(err, BD_E_NOMEM, "out of memory for the calibration batch");
    if (st) goto done;
    c->shards = calloc((size_t)o->n_shards + 1, sizeof *c->shards);
    if (!c->shards) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
        goto done;
    }
    c->n_shards = o->n_shards;
    for (int i = 0; i < o->n_shards; i++) memcpy(c->shards[i], o->shards[i], 32);
    BD_TRY_DONE(bd_graph_differentiate(&g, m->graph, err));
    p.g = g;
    BD_TRY_DONE(pass_init(&p, per * T, err));
    BD_TRY_DONE(bd_exec_create(&x, g, be, per * T, T, err));
    bd_exec_set_tap(x, collect, &p);
    void *grads = NULL;
    BD_TRY_DONE(be->vt->alloc(be, &grads, g->grad_floats * sizeof(float), err));
    b.grads = grads;
    st = run_windows(c, x, &p, &b, m, o, per, err);
done:
    if (b.grads) be->vt->release(be, b.grads);
    bd_exec_destroy(x);
    if (c) pass_free(&p);
    bd_graph_destroy(g);
    free(b.tokens);
    free(b.targets);
    free(b.nll);
    if (st) bd_calibration_destroy(c);
    else *out = c;
    return st;
}

/* --- reading it --- */

static double sum_rows(const bd_param_use *u, const bd_graph *g) {
    double s = 0;
    for (int64_t i = 0; i < g->params[u->param].rows; i++) s += u->rows[i];
    return s;
}

/* Sum of the gradients that weighted a moment. */
static double moment_weight(const bd_calibration *c, const bd_graph *g, int moment) {
    double s = 0;
    for (int i = 0; i < c->n_uses; i++)
        if (c->uses[i].moment == moment) s += sum_rows(&c->uses[i], g);
    return s;
}

bd_status bd_calibration_check_kind(const bd_calibration *c, bool unweighted, bd_err *err) {
    if (c->unweighted == unweighted) return BD_OK;
    return BD_FAIL(
        err, BD_E_FIELD,
        "these statistics were collected %s the tokens' gradient weights, the recipe asks for H %s them; "
        "collect them anew into another file",
        c->unweighted ? "without" : "with", unweighted ? "without" : "with");
}

/* Weight of a use's moment in the metric: what its own outputs feel, per token. */
static double moment_scale(const bd_calibration *c, const bd_graph *g, const bd_param_use *u, double own) {
    double tokens = (double)c->tokens;
    if (c->moments[u->moment].of_gradient) return own > 0 ? 1 / tokens : 0;
    if (c->unweighted) return own / tokens / tokens;
    double all = moment_weight(c, g, u->moment);
    return all > 0 ? own / all / tokens : 0;
}

static bd_status check_metric(const bd_metric *m, const bd_param *p, bd_err *err) {
    bool fine = true;
    for (int64_t k = 0; m->h && k < p->cols * p->cols; k++) fine &= isfinite(m->h[k]) != 0;
    for (int64_t k = 0; m->rows && k < p->rows; k++) fine &= isfinite(m->rows[k]) != 0;
    for (int64_t k = 0; m->coupled && k < p->rows * p->rows; k++) fine &= isfinite(m->coupled[k]) != 0;
    for (int64_t k = 0; m->elements && k < p->rows * p->cols; k++) fine &= isfinite(m->elements[k]) != 0;
    return fine ? BD_OK : BD_FAIL(err, BD_E_NONFINITE, "the statistics of %s are beyond all bounds", p->name);
}

/* Sum over uses, if all of them know theirs; trace 1. */
static bd_status add_couplings(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param, bd_err *err) {
    int64_t n = g->params[param].rows;
    double trace = 0;
    int known = 0, uses = 0;
    for (int i = 0; i < c->n_uses; i++) {
        uses += c->uses[i].param == param;
        known += c->uses[i].param == param && c->uses[i].coupled;
    }
    if (!uses || known < uses) return BD_OK;
    out->coupled = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof(double));
    if (!out->coupled) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the metric of %s", g->params[param].name);
    for (int i = 0; i < c->n_uses; i++)
        for (int64_t k = 0; c->uses[i].param == param && k < n * n; k++) out->coupled[k] += c->uses[i].coupled[k];
    for (int64_t i = 0; i < n; i++) trace += out->coupled[i * n + i];
    for (int64_t k = 0; trace > 0 && k < n * n; k++) out->coupled[k] /= trace;
    if (trace > 0) return BD_OK;
    free(out->coupled);
    out->coupled = NULL;
    return BD_OK;
}

static bd_status matrix_metric(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param, bd_err *err) {
    int64_t n = g->params[param].cols, rows = g->params[param].rows;
    double total = 0;
    out->h = bd_alloc_aligned((uint64_t)n * (uint64_t)n, sizeof(double));
    out->rows = bd_alloc_aligned((uint64_t)rows, sizeof(double));
    if (!out->h || !out->rows)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for the Hessian of %s", g->params[param].name);
    for (int i = 0; i < c->n_uses; i++) {
        const bd_param_use *u = &c->uses[i];
        if (u->param != param) continue;
        const bd_moment *m = &c->moments[u->moment];
        double own = sum_rows(u, g), scale = moment_scale(c, g, u, own), trace = 0;
        for (int64_t k = 0; k < n * n; k++) out->h[k] += m->h[k] * scale;
        for (int64_t k = 0; k < n; k++) trace += m->h[k * n + k] * scale;
        if (own > 0)
            for (int64_t k = 0; k < rows; k++) out->rows[k] += u->rows[k] / own * trace;
        total += trace;
    }
    for (int64_t k = 0; total > 0 && k < rows; k++) out->rows[k] /= total;
    return add_couplings(out, c, g, param, err);
}

static bd_status vector_metric(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param, bd_err *err) {
    int64_t n = g->params[param].rows * g->params[param].cols;
    out->elements = bd_alloc_aligned((uint64_t)n, sizeof(double));
    if (!out->elements)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for the metric of %s", g->params[param].name);
    for (int64_t k = 0; k < n; k++) out->elements[k] = c->elements[param][k] / (double)c->tokens;
    return BD_OK;
}

bd_status bd_calibration_metric(bd_metric *out, const bd_calibration *c, const bd_graph *g, int param,
                                bd_err *err) {
    *out = (bd_metric){0};
    bool vector = param < c->n_params && c->elements[param];
    bd_status st = vector ? vector_metric(out, c, g, param, err) : matrix_metric(out, c, g, param, err);
    if (!st) st = check_metric(out, &g->params[param], err);
    if (st) bd_metric_free(out);
    return st;
}

void bd_metric_free(bd_metric *m) {
    free(m->h);
    free(m->rows);
    free(m->coupled);
    free(m->elements);
    *m = (bd_metric){0};
}
