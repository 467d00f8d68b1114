/* Differentiation: finite differences in double over a model that uses every
 * operation, and the order in which contributions are added. */
#include "graph_run.h"
#include "runtime/model_lang.h"

static bd_graph *model(const char *text) {
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    CHECK_OK(bd_model_elaborate(&g, text, strlen(text), "x.model", NULL, 0, NULL, &lim, &e), &e);
    return g;
}

static bd_graph *derivative(const bd_graph *g) {
    bd_graph *d = NULL;
    bd_err e = {0};
    CHECK_OK(bd_graph_differentiate(&d, g, &e), &e);
    return d;
}

/* Every operation; values, whole parameters and rows used several times; a tied table. */
static const char everything[] =
    "model all(v=13, d=12)\n"
    "e = param(\"e\", [v, d], init=normal(1.0), role=embedding)\n"
    "s = param(\"s\", [3, d], init=ones, role=vector)\n"
    "w = param(\"w\", [d, d], init=normal(1.0), role=matrix)\n"
    "x = rms_norm(embed(tokens, e), eps=0.01)\n"
    "x0 = x\n"
    "block layer(i, x, x0) {\n"
    "  n = rms_norm(mix(x, s0(i), x0, s0(i + 1)), width=6)\n"
    "  q = head_scale(rope(linear(n, tied(\"w\")), width=4, base=50), param(\"g\", [3], init=ones))\n"
    "  kv = linear(n, param(\"kv.{i}\", [4, d], init=normal(1.0), role=matrix))\n"
    "  x = add_scaled(x, attention(q, kv, rms_norm(kv, eps=0.1), heads=3, kv_heads=1), s0(0))\n"
    "  return add(x, scale(relu2(linear(x, tied(\"w\")), slope=0.5), s0(i)))\n"
    "}\n";

static bd_graph *all_ops(void) {
    /* s0(i) is a row of s, which a block cannot see: spelled out here. */
    static char text[4096];
    size_t n = 0;
    for (const char *p = everything; *p;) {
        if (!strncmp(p, "s0(", 3)) {
            n += (size_t)snprintf(text + n, sizeof text - n, "tied(\"s\")[");
            p += 3;
            while (*p != ')') text[n++] = *p++;
            text[n++] = ']';
            p++;
        } else {
            text[n++] = *p++;
        }
    }
    snprintf(text + n, sizeof text - n,
             "x = linear(x, w)\nx = layer(0, x, x0)\nx = layer(1, x, x0)\nx = add(x, x)\n"
             "x = scale(x, s[2])\nlogits = softcap(linear(rms_norm(x), e), 5)\n");
    return model(text);
}

static double loss(simple_run *r) {
    simple_nodes(r, 0, r->g->n_forward + 1);
    double sum = 0;
    for (int64_t i = 0; i < r->nseq * r->T; i++) sum += ((double *)r->value[r->g->nll])[i];
    return sum;
}

TEST(finite_differences) {
    uint64_t seed = test_seed();
    bd_graph *g = all_ops(), *d = derivative(g);
    simple_run r;
    simple_init(&r, d, NULL, 2, 5);
    r.gscale = 1;
    double *p = r.params;
    for (uint64_t i = 0; i < d->param_floats; i++) p[i] = 0.5 * (double)test_normalf(&seed);
    for (int i = 0; i < 10; i++) {
        r.tokens[i] = (int32_t)(test_rand(&seed) % 13);
        r.targets[i] = i == 3 ? -1 : (int32_t)(test_rand(&seed) % 13);
    }
    loss(&r);
    simple_nodes(&r, d->n_forward + 1, d->n_nodes);
    double *saved = malloc(d->grad_floats * sizeof *saved);
    CHECK(saved != NULL);
    memcpy(saved, r.grads, d->grad_floats * sizeof *saved);
    int tried = 0;
    for (int q = 0; q < d->n_params; q++) {
        const bd_param *pp = &d->params[q];
        for (int64_t k = 0; k < pp->rows * pp->cols; k += pp->ndim == 1 ? 1 : 3) {
            double *x = p + pp->offset + k, keep = *x, h = 1e-5;
            double want = simple_grad(&r, q, k);
            *x = keep + h;
            double up = loss(&r);
            *x = keep - h;
            double down = loss(&r);
            *x = keep;
            double got = (up - down) / (2 * h);
            CHECK_MSG(fabs(got - want) <= 1e-6 * (1 + fabs(want)),
                      "%s[%lld]: %.9g by differences, %.9g by the graph", pp->name, (long long)k, got, want);
            tried++;
        }
    }
    CHECK(tried > 100);
    free(saved);
    simple_free(&r);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
}

TEST(uses_of_rows_and_wholes) {
    bd_graph *g = all_ops();
    const bd_param *s = &g->params[bd_graph_find_param(g, "s")], *w = &g->params[bd_graph_find_param(g, "w")];
    /* s[0]: mix, attention, relu2 of layer 0, attention of layer 1; s[1]: 3; s[2]: 2 */
    CHECK(s->uses == 4 && w->uses == 5);
    int next[3] = {0}, whole = 0;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < BD_MAX_IN; k++) {
            const bd_operand *o = &g->nodes[i].in[k];
            if (o->kind != BD_OPD_PARAM) continue;
            if (&g->params[o->id] == s) CHECK(o->use == next[o->row]++);
            if (&g->params[o->id] == w) CHECK(o->use == whole++ && o->row == -1);
        }
    CHECK(next[0] == 4 && next[1] == 3 && next[2] == 2 && whole == 5);
    bd_graph_destroy(g);
}

/* Every gradient goes to the buffer of its own (parameter, row, use), exactly once. */
TEST(each_use_has_one_gradient) {
    bd_graph *g = all_ops(), *d = derivative(g);
    CHECK(d->n_forward == g->n_forward && d->nodes[d->n_forward].op == BD_OP_nll);
    int uses = 0, grads = 0;
    for (int i = 0; i < d->n_nodes; i++) {
        for (int k = 0; k < BD_MAX_IN && i < d->n_forward; k++) {
            const bd_operand *o = &d->nodes[i].in[k];
            if (o->kind != BD_OPD_PARAM) continue;
            uses++;
            int found = 0;
            for (int j = d->n_forward; j < d->n_nodes; j++) {
                const bd_operand *q = &d->nodes[j].out[0];
                if (q->kind == BD_OPD_GRAD && q->id == o->id && q->row == o->row && q->use == o->use) found++;
            }
            CHECK(found == 1);
        }
        grads += d->nodes[i].out[0].kind == BD_OPD_GRAD;
    }
    CHECK(uses == grads && uses == 20);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
}

/* x is read by rms_norm (first), relu2, and twice by the last add: ((last + last') + relu2) + rms_norm. */
TEST(later_uses_first) {
    bd_graph *g = model(
        "model m(v=8)\ne = param(\"e\", [v, v], init=ones, role=embedding)\n"
        "x = embed(tokens, e)\na = rms_norm(x)\nb = relu2(x)\nc = add(a, b)\nd = add(x, x)\n"
        "logits = add(c, d)\n");
    bd_graph *d = derivative(g);
    int at = d->n_forward + 2; /* after nll and nll_grad */
    int32_t dy = d->nodes[d->n_forward + 1].out[0].id;
    const bd_node *n = &d->nodes[at];
    CHECK(n[0].op == BD_OP_add && n[0].in[0].id == dy && n[0].in[1].id == dy);
    CHECK(n[1].op == BD_OP_relu2_grad && n[1].in[1].id == dy);
    CHECK(n[2].op == BD_OP_add && n[2].in[0].id == n[0].out[0].id && n[2].in[1].id == n[1].out[0].id);
    CHECK(n[3].op == BD_OP_rms_norm_grad);
    CHECK(n[4].op == BD_OP_add && n[4].in[0].id == n[2].out[0].id && n[4].in[1].id == n[3].out[0].id);
    CHECK(n[5].op == BD_OP_embed_grad && n[5].in[0].id == n[4].out[0].id && n[5].out[0].kind == BD_OPD_GRAD);
    CHECK(d->n_nodes == at + 6);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
