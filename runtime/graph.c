/* Construction and the checks every graph passes. */
#include "runtime/graph.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/graph_ops.h"

enum { MAX_NAME = 128, MAX_VIEWED_ROWS = 65536 };

const char *bd_role_name(bd_role r) {
    static const char *const names[BD_ROLE_COUNT] = {"matrix", "embedding", "head", "vector"};
    return r >= 0 && r < BD_ROLE_COUNT ? names[r] : "unknown";
}

bd_limits bd_limits_default(void) {
    return (bd_limits){.nodes = 16384,
                       .params = 8192,
                       .elements_per_tensor = UINT64_C(1) << 28,
                       .total_elements = UINT64_C(1) << 30,
                       .elaboration_steps = 1000000,
                       .text_bytes = 1 << 20,
                       .width = 1 << 18};
}

void bd_graph_destroy(bd_graph *g) {
    if (g) bd_arena_destroy(g->arena);
}

int bd_graph_find_param(const bd_graph *g, const char *name) {
    for (int i = 0; i < g->n_params; i++)
        if (!strcmp(g->params[i].name, name)) return i;
    return -1;
}

/* ---- building ---- */

static bool name_ok(const char *s, uint64_t n) {
    if (n < 1 || n > MAX_NAME) return false;
    for (uint64_t i = 0; i < n; i++) {
        char c = s[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                  c == '.' || c == '-';
        if (!ok) return false;
    }
    return true;
}

bd_status bd_builder_init(bd_builder *b, const char *name, uint64_t name_len, const bd_limits *lim, bd_err *err) {
    memset(b, 0, sizeof *b);
    b->lim = *lim;
    if (!name_ok(name, name_len))
        return BD_FAIL(err, BD_E_FIELD, "a model's name is 1 to %d of A-Z a-z 0-9 _ . -", MAX_NAME);
    bd_arena *a = bd_arena_create(0);
    bd_graph *g = a ? bd_arena_alloc(a, 1, sizeof *g) : NULL;
    if (g) {
        g->arena = a;
        g->name = bd_arena_strdup(a, name, name_len);
        g->logits = g->nll = g->lse = -1;
    }
    if (!g || !g->name) {
        bd_arena_destroy(a);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    b->g = g;
    return BD_OK;
}

void bd_builder_drop(bd_builder *b) {
    bd_graph_destroy(b->g);
    b->g = NULL;
}

/* Doubling inside the arena: what is left behind is at most as large as what is used. */
static bool grow(bd_arena *a, void **array, int n, int *cap, size_t size) {
    if (n < *cap) return true;
    int want = *cap ? *cap * 2 : 64;
    void *p = bd_arena_alloc(a, (uint64_t)want, size);
    if (!p) return false;
    if (n) memcpy(p, *array, (size_t)n * size);
    *array = p;
    *cap = want;
    return true;
}

bd_status bd_builder_param(bd_builder *b, const char *name, uint64_t name_len, int ndim, int64_t rows, int64_t cols,
                           bd_role role, int *index, bd_err *err) {
    bd_graph *g = b->g;
    if (!name_ok(name, name_len))
        return BD_FAIL(err, BD_E_FIELD, "a parameter's name is 1 to %d of A-Z a-z 0-9 _ . -", MAX_NAME);
    if (ndim < 1 || ndim > 2) return BD_FAIL(err, BD_E_SHAPE, "%.*s: one or two dimensions", (int)name_len, name);
    if (rows < 1 || cols < 1 || (ndim == 1 && rows != 1))
        return BD_FAIL(err, BD_E_SHAPE, "%.*s: sizes must be positive", (int)name_len, name);
    uint64_t count;
    if (!bd_mul_u64((uint64_t)rows, (uint64_t)cols, &count) || count > b->lim.elements_per_tensor)
        return BD_FAIL(err, BD_E_LIMIT, "%.*s: more than %" PRIu64 " elements in one tensor", (int)name_len, name,
                       b->lim.elements_per_tensor);
    if ((uint64_t)rows > b->lim.width || (uint64_t)cols > b->lim.width)
        return BD_FAIL(err, BD_E_LIMIT, "%.*s: a size above %" PRIu64, (int)name_len, name, b->lim.width);
    if ((uint64_t)g->n_params >= b->lim.params)
        return BD_FAIL(err, BD_E_LIMIT, "more than %" PRIu64 " parameters", b->lim.params);
    b->elements += count;
    if (b->elements > b->lim.total_elements)
        return BD_FAIL(err, BD_E_LIMIT, "more than %" PRIu64 " elements in all parameters", b->lim.total_elements);
    void *params = g->params;
    char *copy = bd_arena_strdup(g->arena, name, name_len);
    if (!copy || !grow(g->arena, &params, g->n_params, &b->cap_params, sizeof *g->params))
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    g->params = params;
    *index = g->n_params;
    g->params[g->n_params++] = (bd_param){.name = copy, .ndim = ndim, .rows = rows, .cols = cols, .role = role};
    return BD_OK;
}

bd_status bd_builder_push_value(bd_builder *b, int32_t width, bd_dtype dtype, int32_t node, int32_t *id,
                                bd_err *err) {
    bd_graph *g = b->g;
    void *values = g->values;
    if (!grow(g->arena, &values, g->n_values, &b->cap_values, sizeof *g->values))
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    g->values = values;
    *id = g->n_values;
    g->values[g->n_values++] = (bd_value){width, dtype, node};
    return BD_OK;
}

bd_status bd_builder_push_node(bd_builder *b, const bd_node *node, int32_t *id, bd_err *err) {
    bd_graph *g = b->g;
    void *nodes = g->nodes;
    if (!grow(g->arena, &nodes, g->n_nodes, &b->cap_nodes, sizeof *g->nodes))
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    g->nodes = nodes;
    *id = g->n_nodes;
    g->nodes[g->n_nodes++] = *node;
    return BD_OK;
}

bd_status bd_builder_node(bd_builder *b, const bd_node *node, int32_t *value, bd_err *err) {
    bd_graph *g = b->g;
    int32_t width[BD_MAX_OUT];
    BD_TRY(bd_node_check(g, node, width, err));
    if ((uint64_t)g->n_nodes >= b->lim.nodes)
        return BD_FAIL(err, BD_E_LIMIT, "more than %" PRIu64 " operations", b->lim.nodes);
    bd_node n = *node;
    int nout = bd_op_get(n.op)->nout;
    for (int k = 0; k < nout; k++) {
        int32_t id = -1;
        BD_TRY(bd_builder_push_value(b, width[k], BD_F32, g->n_nodes, &id, err));
        n.out[k] = (bd_operand){.kind = BD_OPD_VALUE, .id = id, .row = -1};
    }
    *value = n.out[0].id;
    int32_t at;
    return bd_builder_push_node(b, &n, &at, err);
}

bd_status bd_builder_take(bd_builder *b, bd_graph **out, bd_err *err) {
    bd_graph *g = b->g;
    if (g->n_nodes == 0) return BD_FAIL(err, BD_E_MISSING, "the model has no operations");
    g->n_forward = g->n_nodes;
    g->logits = g->nodes[g->n_nodes - 1].out[0].id;
    BD_TRY(bd_graph_finish(g, &b->lim, err));
    b->g = NULL;
    *out = g;
    return BD_OK;
}

/* ---- finish ---- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bd_status check_names(const bd_graph *g, bd_err *err) {
    const char **names = malloc((size_t)(g->n_params + 1) * sizeof *names);
    if (!names) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) names[i] = g->params[i].name;
    qsort(names, (size_t)g->n_params, sizeof *names, compare_names);
    bd_status st = BD_OK;
    for (int i = 1; i < g->n_params && st == BD_OK; i++)
        if (!strcmp(names[i - 1], names[i]))
            st = BD_FAIL(err, BD_E_FIELD, "two parameters are called %s", names[i]);
    free(names);
    return st;
}

/* Values once written, in order; every one read later (attention's statistics excepted: they are for its gradient).
 */
static bd_status check_values(const bd_graph *g, bd_err *err) {
    uint8_t *used = calloc((size_t)g->n_values + 1, 1);
    if (!used) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = BD_OK;
    int32_t next = 0;
    for (int i = 0; i < g->n_nodes && st == BD_OK; i++) {
        const bd_node *n = &g->nodes[i];
        /* A view of the graph as it was when this node was appended. */
        bd_graph before = *g;
        before.n_values = next;
        int32_t width[BD_MAX_OUT];
        BD_TRY_DONE(bd_node_check(&before, n, width, err));
        for (int k = 0; k < BD_MAX_IN; k++)
            if (n->in[k].kind == BD_OPD_VALUE) used[n->in[k].id] = 1;
        int nout = bd_op_get(n->op)->nout;
        for (int k = 0; k < nout; k++, next++) {
            if (n->out[k].kind != BD_OPD_VALUE || n->out[k].id != next || next >= g->n_values ||
                g->values[next].width != width[k] || g->values[next].node != i || g->values[next].dtype != BD_F32) {
                st = BD_FAIL(err, BD_E_FIELD, "operation %d: results are not numbered in order", i);
                goto done;
            }
            if (k > 0) used[next] = 1;
        }
    }
    if (next != g->n_values) BD_TRY_DONE(BD_FAIL(err, BD_E_FIELD, "a value is written by no operation"));
    if (g->logits != g->nodes[g->n_nodes - 1].out[0].id)
        BD_TRY_DONE(BD_FAIL(err, BD_E_FIELD, "the last operation must give the logits"));
    used[g->logits] = 1;
    for (int i = 0; i < g->n_values; i++) {
        if (used[i]) continue;
        const bd_node *n = &g->nodes[g->values[i].node];
        if (n->line)
            st = BD_FAIL(err, BD_E_FIELD, "the result of %s on line %d is never used", bd_op_get(n->op)->name,
                         n->line);
        else
            st = BD_FAIL(err, BD_E_FIELD, "the result of operation %d (%s) is never used", g->values[i].node,
                         bd_op_get(n->op)->name);
        break;
    }
done:
    free(used);
    return st;
}

/* Tokens index every table, and the logits cover the same vocabulary. */
static bd_status check_vocab(bd_graph *g, bd_err *err) {
    g->vocab = g->values[g->logits].width;
    for (int i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != BD_OP_embed) continue;
        const bd_param *p = &g->params[g->nodes[i].in[0].id];
        if (p->rows != g->vocab)
            return BD_FAIL(err, BD_E_SHAPE,
                           "%s has %" PRId64 " rows, the logits have %d columns: both are the vocabulary", p->name,
                           p->rows, g->vocab);
    }
    return BD_OK;
}

/* Parameters appear in the order of their first use: one spelling, and none is idle. */
static bd_status check_param_order(const bd_graph *g, bd_err *err) {
    int seen = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < BD_MAX_IN; k++) {
            const bd_operand *o = &g->nodes[i].in[k];
            if (o->kind != BD_OPD_PARAM || o->id < seen) continue;
            if (o->id > seen)
                return BD_FAIL(err, BD_E_FIELD, "parameter %s is used before %s, which stands before it",
                               g->params[o->id].name, g->params[seen].name);
            seen++;
        }
    }
    if (seen < g->n_params) return BD_FAIL(err, BD_E_FIELD, "parameter %s is never used", g->params[seen].name);
    return BD_OK;
}

/* Number the uses of each parameter; see bd_param.uses. Row counts live in one array, cleared row by row. */
static bd_status number_uses(bd_graph *g, bd_err *err) {
    bd_status st = BD_OK;
    size_t n_refs = 0;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < BD_MAX_IN; k++) n_refs += g->nodes[i].in[k].kind == BD_OPD_PARAM;
    bd_operand **refs = malloc((n_refs + 1) * sizeof *refs);
    size_t *start = calloc((size_t)g->n_params + 2, sizeof *start);
    int32_t *count = calloc(MAX_VIEWED_ROWS, sizeof *count);
    if (!refs || !start || !count) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < BD_MAX_IN; k++)
            if (g->nodes[i].in[k].kind == BD_OPD_PARAM) start[g->nodes[i].in[k].id + 2]++;
    for (int p = 2; p < g->n_params + 2; p++) start[p] += start[p - 1];
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < BD_MAX_IN; k++)
            if (g->nodes[i].in[k].kind == BD_OPD_PARAM)
                refs[start[g->nodes[i].in[k].id + 1]++] = &g->nodes[i].in[k];
    for (int p = 0; p < g->n_params; p++) {
        int32_t top = 0, floor = 0; /* most uses of any row; uses of every row */
        for (size_t r = start[p]; r < start[p + 1]; r++) {
            bd_operand *o = refs[r];
            if (o->row < 0) {
                o->use = top++;
                floor = top;
                continue;
            }
            if (g->params[p].rows > MAX_VIEWED_ROWS) {
                st = BD_FAIL(err, BD_E_LIMIT, "%s: rows can be named only of parameters of at most %d rows",
                             g->params[p].name, MAX_VIEWED_ROWS);
                goto done;
            }
            int32_t *c = &count[o->row];
            if (*c < floor) *c = floor;
            o->use = (*c)++;
            if (top < *c) top = *c;
        }
        for (size_t r = start[p]; r < start[p + 1]; r++)
            if (refs[r]->row >= 0) count[refs[r]->row] = 0;
        g->params[p].uses = top;
    }
done:
    free(refs);
    free(start);
    free(count);
    return st;
}

static bd_status lay_out(bd_graph *g, const bd_limits *lim, bd_err *err) {
    g->param_floats = g->grad_floats = g->param_count = 0;
    for (int i = 0; i < g->n_params; i++) {
        bd_param *p = &g->params[i];
        uint64_t count = (uint64_t)p->rows * (uint64_t)p->cols, padded = (count + 15) & ~UINT64_C(15), grads;
        p->offset = g->param_floats;
        p->grad_offset = g->grad_floats;
        p->grad_stride = padded;
        g->param_floats += padded;
        g->param_count += count;
        if (!bd_mul_u64(padded, (uint64_t)p->uses, &grads) || !bd_add_u64(g->grad_floats, grads, &g->grad_floats) ||
            g->grad_floats > 16 * lim->total_elements)
            return BD_FAIL(err, BD_E_LIMIT, "%s is used %d times: the gradients would be too large", p->name,
                           p->uses);
    }
    return BD_OK;
}

bd_status bd_graph_finish(bd_graph *g, const bd_limits *lim, bd_err *err) {
    if (g->n_nodes != g->n_forward || g->nll >= 0)
        return BD_FAIL(err, BD_E_CAUSAL, "only the forward part of a model can be finished");
    uint64_t total = 0;
    if ((uint64_t)g->n_nodes > lim->nodes || (uint64_t)g->n_params > lim->params)
        return BD_FAIL(err, BD_E_LIMIT, "too many operations or parameters");
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        uint64_t count;
        if (p->rows < 1 || p->cols < 1 || (uint64_t)p->rows > lim->width || (uint64_t)p->cols > lim->width ||
            !bd_mul_u64((uint64_t)p->rows, (uint64_t)p->cols, &count) || count > lim->elements_per_tensor)
            return BD_FAIL(err, BD_E_LIMIT, "%s: the shape exceeds a limit", p->name);
        total += count;
        if (total > lim->total_elements) return BD_FAIL(err, BD_E_LIMIT, "too many elements in all parameters");
    }
    BD_TRY(check_names(g, err));
    BD_TRY(check_values(g, err));
    BD_TRY(check_vocab(g, err));
    BD_TRY(check_param_order(g, err));
    BD_TRY(bd_graph_causality(g, NULL, err));
    BD_TRY(number_uses(g, err));
    return lay_out(g, lim, err);
}

/* ---- cost ---- */

static void shape_of(const bd_graph *g, const bd_operand *o, int64_t rows, bd_view *v) {
    v->dtype = BD_F32;
    v->rows = rows;
    if (o->kind == BD_OPD_VALUE) v->cols = g->values[o->id].width;
    if (o->kind != BD_OPD_PARAM) return;
    v->rows = o->row >= 0 ? 1 : g->params[o->id].rows;
    v->cols = g->params[o->id].cols;
}

double bd_graph_flops(const bd_graph *g, int64_t T) {
    double sum = 0;
    for (int i = 0; i < g->n_forward; i++) {
        bd_call c = {.op = g->nodes[i].op, .seq_len = T};
        for (int k = 0; k < BD_MAX_IN; k++) shape_of(g, &g->nodes[i].in[k], T, &c.in[k]);
        for (int k = 0; k < BD_MAX_OUT; k++) shape_of(g, &g->nodes[i].out[k], T, &c.out[k]);
        double flops;
        bd_call_cost(&c, &flops, NULL);
        sum += flops;
    }
    return sum / (double)T;
}
