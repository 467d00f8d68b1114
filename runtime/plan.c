/* The memory plan. A value lives from the node that writes it to the last node
 * that reads it; values whose lives overlap get disjoint bytes, first fit in the
 * order of writing. Operations never work in place, so a result is disjoint from
 * the operands of its own node. */
#include "runtime/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fmath.h"

enum { ALIGN = 64 };

typedef struct live {
    uint64_t begin, end;
    int last;
} live;

static bool padded_bytes(int64_t rows, int64_t cols, int64_t size, uint64_t *out) {
    uint64_t n;
    if (!bd_mul_u64((uint64_t)rows, (uint64_t)cols, &n) || !bd_mul_u64(n, (uint64_t)size, &n) ||
        !bd_add_u64(n, ALIGN - 1, &n))
        return false;
    *out = n & ~(uint64_t)(ALIGN - 1);
    return true;
}

static uint64_t value_size(bd_dtype t) { return t == BD_F64 ? 8 : 4; }

/* Give every value an offset; *top is the end of the highest. */
static bd_status place_values(bd_plan *p, const bd_graph *g, uint64_t *top, bd_err *err) {
    bd_status st = BD_OK;
    int *last = malloc(((size_t)g->n_values + 1) * sizeof *last);
    live *alive = malloc(((size_t)g->n_values + 1) * sizeof *alive); /* sorted by begin */
    if (!last || !alive) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < g->n_values; i++) last[i] = g->values[i].node;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < BD_MAX_IN; k++)
            if (g->nodes[i].in[k].kind == BD_OPD_VALUE) last[g->nodes[i].in[k].id] = i;
    /* bd_exec_logits reads them after the run; with gradients, until the backward pass. */
    if (g->nll < 0) last[g->logits] = g->n_nodes;
    if (g->nll >= 0) last[g->nll] = g->n_nodes;
    int n = 0;
    *top = 0;
    for (int v = 0; v < g->n_values; v++) {
        if (p->cached && p->cached[v]) continue;
        int now = g->values[v].node, kept = 0;
        for (int i = 0; i < n; i++)
            if (alive[i].last >= now) alive[kept++] = alive[i];
        n = kept;
        uint64_t bytes, at = 0, end;
        if (!padded_bytes(p->max_rows, g->values[v].width, (int64_t)value_size(g->values[v].dtype), &bytes))
            goto overflow;
        int i = 0;
        while (i < n && alive[i].begin - at < bytes) at = alive[i++].end;
        if (!bd_add_u64(at, bytes, &end) || end > INT64_MAX) goto overflow;
        memmove(&alive[i + 1], &alive[i], (size_t)(n - i) * sizeof *alive);
        alive[i] = (live){at, end, last[v]};
        n++;
        p->value[v] = at;
        if (*top < end) *top = end;
    }
    goto done;
overflow:
    st = BD_FAIL(err, BD_E_LIMIT, "the activations of %" PRId64 " rows exceed any memory", p->max_rows);
done:
    free(last);
    free(alive);
    return st;
}

int bd_plan_rope(const bd_plan *p, int32_t width, double base) {
    for (int i = 0; i < p->n_rope; i++)
        if (p->rope[i].width == width && p->rope[i].base == base) return i;
    return -1;
}

/* Append a block behind the values. */
static bd_status append(bd_plan *p, int64_t rows, int64_t cols, int64_t size, uint64_t *offset, bd_err *err) {
    uint64_t bytes;
    *offset = p->bytes;
    if (!padded_bytes(rows, cols, size, &bytes) || !bd_add_u64(p->bytes, bytes, &p->bytes) || p->bytes > INT64_MAX)
        return BD_FAIL(err, BD_E_LIMIT, "the plan exceeds any memory");
    return BD_OK;
}

static bd_status make(bd_plan *p, const bd_graph *g, bd_err *err) {
    p->value = calloc((size_t)g->n_values + 1, sizeof *p->value);
    if (!p->value) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    BD_TRY(place_values(p, g, &p->bytes, err));
    for (int v = 0; p->cached && v < g->n_values; v++)
        if (p->cached[v]) BD_TRY(append(p, p->max_len, g->values[v].width, 4, &p->value[v], err));
    BD_TRY(append(p, p->max_rows, 1, 4, &p->tokens, err));
    BD_TRY(append(p, p->max_rows, 1, 4, &p->targets, err));
    if (g->nll < 0) {
        BD_TRY(append(p, p->max_rows, 1, 8, &p->nll, err));
        BD_TRY(append(p, p->max_rows, 1, 8, &p->lse, err));
    }
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *n = &g->nodes[i];
        if (n->op != BD_OP_rope || bd_plan_rope(p, n->attr.rope.width, n->attr.rope.base) >= 0) continue;
        if (p->n_rope == 64) return BD_FAIL(err, BD_E_LIMIT, "more than 64 different position tables");
        bd_rope_table *more = realloc(p->rope, ((size_t)p->n_rope + 1) * sizeof *more);
        if (!more) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        p->rope = more;
        bd_rope_table *t = &p->rope[p->n_rope];
        *t = (bd_rope_table){.width = n->attr.rope.width, .base = n->attr.rope.base};
        BD_TRY(append(p, p->max_len, t->width, 4, &t->offset, err));
        p->n_rope++;
    }
    return BD_OK;
}

bd_status bd_plan_make(bd_plan *p, const bd_graph *g, int64_t max_rows, int64_t max_len, bd_err *err) {
    memset(p, 0, sizeof *p);
    if (max_rows < 1 || max_len < 1 || max_len > max_rows || max_rows > INT32_MAX)
        return BD_FAIL(err, BD_E_RANGE,
                       "rows (%" PRId64 ") must be at least the length (%" PRId64 ") and below 2^31", max_rows,
                       max_len);
    p->max_rows = max_rows;
    p->max_len = max_len;
    bd_status st = make(p, g, err);
    if (st != BD_OK) bd_plan_free(p);
    return st;
}

static bool *attention_operands(const bd_graph *g) {
    bool *cached = calloc((size_t)g->n_values + 1, sizeof *cached);
    for (int i = 0; cached && i < g->n_forward; i++)
        for (int k = 1; g->nodes[i].op == BD_OP_attention && k <= 2; k++)
            if (g->nodes[i].in[k].kind == BD_OPD_VALUE) cached[g->nodes[i].in[k].id] = true;
    return cached;
}

bd_status bd_plan_make_steps(bd_plan *p, const bd_graph *g, int64_t max_rows, int64_t max_len, bd_err *err) {
    memset(p, 0, sizeof *p);
    BD_ASSERT(g->nll < 0);
    if (max_rows < 1 || max_len < 1 || max_rows > INT32_MAX || max_len > INT32_MAX)
        return BD_FAIL(err, BD_E_RANGE, "steps of %" PRId64 " rows in a sequence of %" PRId64, max_rows, max_len);
    p->max_rows = max_rows;
    p->max_len = max_len;
    p->cached = attention_operands(g);
    bd_status st = p->cached ? make(p, g, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st != BD_OK) bd_plan_free(p);
    return st;
}

bd_status bd_plan_upload_rope(const bd_plan *p, bd_backend *be, char *mem, bd_err *err) {
    for (int i = 0; i < p->n_rope; i++) {
        const bd_rope_table *t = &p->rope[i];
        uint64_t n = (uint64_t)p->max_len * (uint64_t)t->width;
        float *table = malloc(n * sizeof *table);
        if (!table) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        for (int32_t k = 0; k < t->width / 2; k++) {
            double frequency = bd_pow(t->base, -2.0 * k / t->width);
            for (int64_t pos = 0; pos < p->max_len; pos++) {
                double angle = (double)pos * frequency;
                table[pos * t->width + 2 * k] = (float)bd_cos(angle);
                table[pos * t->width + 2 * k + 1] = (float)bd_sin(angle);
            }
        }
        bd_status st = be->vt->upload(be, mem + t->offset, table, n * sizeof *table, err);
        free(table);
        if (st != BD_OK) return st;
    }
    return BD_OK;
}

void bd_plan_free(bd_plan *p) {
    free(p->value);
    free(p->cached);
    free(p->rope);
    p->value = NULL;
    p->cached = NULL;
    p->rope = NULL;
    p->n_rope = 0;
}
