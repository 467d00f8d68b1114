/* Causality as a type: which token positions of its own stream each value may
 * depend on, derived from the operations' rules alone.
 *
 * The derived type of a value at position t is one of
 *   nothing       no token (cannot happen: every chain of values begins at embed)
 *   {t}           this token
 *   {t-k .. t}    this token and up to k before it
 *   {0 .. t}      everything up to this token
 * There is no type for the future, since no operation of a model has a rule that
 * leads there; an operation without a rule is refused. */
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/graph_ops.h"

typedef enum reach_kind { REACH_NOTHING, REACH_HERE, REACH_BACK, REACH_PAST } reach_kind;
typedef struct reach {
    reach_kind kind;
    int32_t back; /* REACH_BACK: how far */
    int32_t from; /* node that made it wider than its inputs, or the input's; -1: none yet */
} reach;

static bool wider(reach a, reach b) { return a.kind > b.kind || (a.kind == b.kind && a.back > b.back); }

static void put_reach(bd_buf *out, reach r) {
    switch (r.kind) {
        case REACH_NOTHING: bd_buf_printf(out, "nothing"); break;
        case REACH_HERE: bd_buf_printf(out, "{t}"); break;
        case REACH_BACK: bd_buf_printf(out, "{t-%d..t}", r.back); break;
        case REACH_PAST: bd_buf_printf(out, "{0..t}"); break;
    }
}

static const char *rule_text(bd_causality c) {
    switch (c) {
        case BD_CAUSAL_LOCAL: return "local";
        case BD_CAUSAL_SHIFT: return "shift";
        case BD_CAUSAL_PAST: return "past";
        default: return "none";
    }
}

static void put_node(bd_buf *out, const bd_graph *g, int i, reach r) {
    const bd_node *n = &g->nodes[i];
    const bd_op_info *info = bd_op_get(n->op);
    bd_buf_printf(out, "%%%d %s (%s) of", i, info->name, rule_text(info->causality));
    for (int k = 0; k < info->nin; k++) {
        const bd_operand *o = &n->in[k];
        if (o->kind == BD_OPD_VALUE) bd_buf_printf(out, " %%%d", g->values[o->id].node);
        if (o->kind == BD_OPD_TOKENS) bd_buf_printf(out, " tokens");
    }
    bd_buf_printf(out, ": ");
    put_reach(out, r);
    bd_buf_printf(out, "\n");
}

bd_status bd_graph_causality(const bd_graph *g, bd_buf *out, bd_err *err) {
    reach *at = calloc((size_t)g->n_forward + 1, sizeof *at); /* per node */
    if (!at) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_status st = BD_OK;
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *n = &g->nodes[i];
        const bd_op_info *info = bd_op_get(n->op);
        reach in = {REACH_NOTHING, 0, -1};
        for (int k = 0; k < info->nin; k++) {
            const bd_operand *o = &n->in[k];
            reach one = {REACH_NOTHING, 0, -1};
            if (o->kind == BD_OPD_TOKENS) one = (reach){REACH_HERE, 0, i};
            if (o->kind == BD_OPD_VALUE) {
                int32_t from = o->id >= 0 && o->id < g->n_values ? g->values[o->id].node : -1;
                if (from < 0 || from >= i) {
                    st = BD_FAIL(err, BD_E_CAUSAL, "operation %d reads a value that does not exist yet", i);
                    goto done;
                }
                one = at[from];
            }
            if (o->kind == BD_OPD_TARGETS || o->kind == BD_OPD_GRAD) {
                st = BD_FAIL(err, BD_E_CAUSAL, "operation %d (%s) reads the targets or a gradient", i, info->name);
                goto done;
            }
            if (wider(one, in)) in = one;
        }
        reach r = in;
        switch (info->causality) {
            case BD_CAUSAL_LOCAL: break;
            case BD_CAUSAL_SHIFT: /* k is not bounded here, so the answer is the widest there is */
            case BD_CAUSAL_PAST:
                if (r.kind != REACH_NOTHING && r.kind != REACH_PAST) r = (reach){REACH_PAST, 0, i};
                break;
            default:
                st = BD_FAIL(err, BD_E_CAUSAL,
                             "operation %d: %s has no causality rule, it is not an operation of a model", i,
                             info->name);
                goto done;
        }
        at[i] = r;
        if (out) put_node(out, g, i, r);
    }
    int last = g->values[g->logits].node;
    if (at[last].kind == REACH_NOTHING)
        BD_TRY_DONE(BD_FAIL(err, BD_E_CAUSAL, "the logits do not depend on the tokens at all"));
    if (out) {
        bd_buf_printf(out, "logits = %%%d: the prediction at position t depends on tokens ", last);
        put_reach(out, at[last]);
        bd_buf_printf(out,
                      " of its own stream, first widened at %%%d; no operation reads later tokens, targets or "
                      "other streams\n",
                      at[last].from);
        st = bd_buf_check(out, err);
    }
done:
    free(at);
    return st;
}
