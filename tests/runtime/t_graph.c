/* The graph: canonical text, checks, numbering of uses, causality, initial values. */
#include "bd_test.h"
#include "runtime/model_lang.h"

static bd_graph *model(const char *text) {
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    CHECK_OK(bd_model_elaborate(&g, text, strlen(text), "x.model", NULL, 0, NULL, &lim, &e), &e);
    return g;
}

static bd_graph *baseline(const char *layers) {
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    bd_setting set[] = {{"layers", layers}};
    const bd_builtin_model *m = &bd_builtin_models[0];
    CHECK_OK(bd_model_elaborate(&g, m->text, m->size, m->name, set, 1, NULL, &lim, &e), &e);
    return g;
}

static bd_status parse(const char *text, size_t n, bd_graph **g, bd_err *e) {
    bd_limits lim = bd_limits_default();
    *e = (bd_err){0};
    return bd_graph_parse(g, text, n, &lim, e);
}

static void same_graph(const bd_graph *a, const bd_graph *b) {
    CHECK(a->n_params == b->n_params && a->n_values == b->n_values && a->n_nodes == b->n_nodes);
    CHECK(a->logits == b->logits && a->vocab == b->vocab && a->n_forward == b->n_forward);
    CHECK(a->param_floats == b->param_floats && a->grad_floats == b->grad_floats &&
          a->param_count == b->param_count);
    CHECK_STR(a->name, b->name);
    for (int i = 0; i < a->n_params; i++) {
        const bd_param *p = &a->params[i], *q = &b->params[i];
        CHECK_STR(p->name, q->name);
        CHECK(p->ndim == q->ndim && p->rows == q->rows && p->cols == q->cols && p->role == q->role);
        CHECK(p->uses == q->uses && p->offset == q->offset && p->grad_offset == q->grad_offset);
    }
    for (int i = 0; i < a->n_nodes; i++) {
        const bd_node *n = &a->nodes[i], *m = &b->nodes[i];
        CHECK(n->op == m->op);
        CHECK(!memcmp(n->in, m->in, sizeof n->in) && !memcmp(n->out, m->out, sizeof n->out));
        CHECK(!memcmp(&n->attr, &m->attr, sizeof n->attr));
    }
}

TEST(text_round_trip) {
    const char *layers[] = {"1", "2", "5", "9", "40"};
    for (int k = 0; k < 5; k++) {
        bd_graph *g = baseline(layers[k]), *h = NULL;
        bd_err e = {0};
        bd_buf a, b;
        bd_buf_init(&a);
        bd_buf_init(&b);
        CHECK_OK(bd_graph_print(g, &a, &e), &e);
        CHECK_OK(parse((const char *)a.data, a.size, &h, &e), &e);
        same_graph(g, h);
        CHECK_OK(bd_graph_print(h, &b, &e), &e);
        CHECK(a.size == b.size && !memcmp(a.data, b.data, a.size));
        if (k == 3) CHECK_MSG(a.size < 8000, "%zu", a.size);
        bd_graph_destroy(g);
        bd_graph_destroy(h);
        bd_buf_free(&a);
        bd_buf_free(&b);
    }
}

static const char small[] =
    "birdie-graph 1 small\n"
    "param e 10x6 embedding\n"
    "param s 3x6 vector\n"
    "param g 6 vector\n"
    "embed + tokens\n"
    "rms_norm -1 width=6 eps=0x1p-23\n"
    "add_scaled -1 -2 +[0]\n"
    "mix -1 ^0[2] -3 ^0[0]\n"
    "scale -1 +\n"
    "relu2 -1 slope=0x1p-1\n"
    "linear -1 ^2\n"
    "softcap -1 cap=30\n";

TEST(small_text) {
    bd_graph *g = NULL;
    bd_err e;
    CHECK_OK(parse(small, strlen(small), &g, &e), &e);
    CHECK(g->n_nodes == 8 && g->n_params == 3 && g->vocab == 10 && g->param_count == 84);
    /* s: row 0 twice, row 2 once; e: twice whole; g: once */
    CHECK(g->params[0].uses == 2 && g->params[1].uses == 2 && g->params[2].uses == 1);
    CHECK(g->nodes[2].in[2].use == 0 && g->nodes[3].in[1].use == 0 && g->nodes[3].in[3].use == 1);
    CHECK(g->nodes[0].in[0].use == 0 && g->nodes[6].in[1].use == 1);
    CHECK(g->params[0].grad_stride == 64 && g->params[1].grad_offset == 128 && g->params[1].grad_stride == 32);
    CHECK(g->params[2].grad_offset == 192 && g->grad_floats == 208 && g->param_floats == 112);
    bd_graph_destroy(g);
}

/* Replace the first occurrence of `from` and expect this error. */
static void refuse(const char *from, const char *to, bd_status code) {
    char text[2048];
    const char *at = strstr(small, from);
    CHECK_MSG(at, "%s", from);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - small), small, to, at + strlen(from));
    bd_graph *g = NULL;
    bd_err e;
    bd_status st = parse(text, strlen(text), &g, &e);
    CHECK_MSG(st == code, "\"%s\" -> \"%s\": %s (%s)", from, to, bd_status_name(st), e.msg);
    CHECK(!g && (code == BD_E_FIELD || code == BD_E_SHAPE || e.offset <= strlen(text)));
}

TEST(one_spelling) {
    refuse("tokens", "tokens ", BD_E_SYNTAX);
    refuse("rms_norm -1", "rms_norm %0", BD_E_NONCANON);
    refuse("rms_norm -1", "rms_norm -01", BD_E_NONCANON);
    refuse("0x1p-23", "0x1.0p-23", BD_E_NONCANON);
    refuse("0x1p-23", "0x1.00000000000000p-23", BD_E_SYNTAX);
    refuse("cap=30", "cap=030", BD_E_NONCANON);
    refuse("cap=30", "cap=0x1.ep+4", BD_E_NONCANON);
    refuse("cap=30", "cap=-0", BD_E_RANGE);
    refuse("slope=0x1p-1", "slope=-0", BD_E_RANGE);
    refuse("cap=30", "cap=0x1.00000001p+0", BD_E_RANGE);
    refuse("cap=30", "cap=0x1p+5000", BD_E_SYNTAX);
    refuse("linear -1 ^2", "linear -1 @0", BD_E_NONCANON);
    refuse("\nparam s", "\n\nparam s", BD_E_UNKNOWN);
    refuse("small\n", "small\r\n", BD_E_FIELD);
    refuse("10x6", "010x6", BD_E_NONCANON);
    refuse("slope=0x1p-1\n", "slope=0x1p-1 \n", BD_E_SYNTAX);
    refuse("width=6", "width=6.0", BD_E_SYNTAX);
    refuse("birdie-graph 1", "birdie-graph 2", BD_E_SYNTAX);
}

TEST(refusals) {
    refuse("embed + tokens", "embed ^0 tokens", BD_E_FIELD);
    refuse("rms_norm -1", "rms_norm -2", BD_E_FIELD);
    refuse("rms_norm -1", "rms_norm -0", BD_E_FIELD);
    refuse("rms_norm -1", "rms_norm %7", BD_E_FIELD);
    refuse("width=6", "width=4", BD_E_SHAPE);
    refuse("width=6", "width=0", BD_E_SHAPE);
    refuse("width=6", "width=99999999999", BD_E_RANGE);
    refuse("+[0]", "+[3]", BD_E_RANGE);
    refuse("+[0]", "+", BD_E_SHAPE);
    refuse("scale -1 +", "scale -1 +[0]", BD_E_SHAPE);
    refuse("softcap -1 cap=30", "nll -1 tokens", BD_E_CAUSAL);
    refuse("softcap -1 cap=30", "axpby -1 -1", BD_E_CAUSAL);
    refuse("softcap -1 cap=30", "future -1", BD_E_UNKNOWN);
    refuse("param g 6 vector\n", "param g 6 vector\nparam h 6 vector\n", BD_E_FIELD); /* never used */
    refuse("param g", "param e", BD_E_FIELD);                                         /* twice the name */
    refuse("param g 6", "param g 1x6", BD_E_SHAPE);
    refuse("param g 6", "param g 5", BD_E_SHAPE);
    refuse("param g 6", "param g 99999999", BD_E_LIMIT);
    refuse("param e 10x6", "param e 262144x262144", BD_E_LIMIT);
    refuse("vector\nembed", "scalar\nembed", BD_E_SYNTAX);
    refuse("param s", "param s/t", BD_E_FIELD);
    refuse("linear -1 ^2\nsoftcap -1 cap=30\n", "", BD_E_SHAPE); /* logits of width 6, table of 10 */
    refuse("softcap -1", "softcap -8", BD_E_FIELD);              /* leaves a result unused */
    refuse("scale -1 +", "scale -2 +", BD_E_FIELD);
}

TEST(truncation_and_bit_flips) {
    size_t n = strlen(small);
    size_t whole = (size_t)(strstr(small, "softcap") - small); /* without its last line it is another model */
    for (size_t k = 0; k < n; k++) {
        bd_graph *g = NULL;
        bd_err e;
        if (k == whole) continue;
        CHECK_MSG(parse(small, k, &g, &e) != BD_OK && !g, "%zu bytes", k);
    }
    char text[sizeof small];
    int accepted = 0;
    for (size_t k = 0; k < n * 8; k++) {
        memcpy(text, small, sizeof small);
        text[k / 8] = (char)(text[k / 8] ^ (1 << k % 8));
        bd_graph *g = NULL;
        bd_err e;
        bd_status st = parse(text, n, &g, &e);
        CHECK((st == BD_OK) == (g != NULL));
        accepted += st == BD_OK; /* other names, other numbers */
        bd_graph_destroy(g);
    }
    CHECK(accepted < (int)n * 2);
}

TEST(limits) {
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL;
    bd_err e = {0};
    lim.nodes = 7;
    CHECK(bd_graph_parse(&g, small, strlen(small), &lim, &e) == BD_E_LIMIT);
    lim = bd_limits_default();
    lim.params = 2;
    CHECK(bd_graph_parse(&g, small, strlen(small), &lim, &e) == BD_E_LIMIT);
    lim = bd_limits_default();
    lim.total_elements = 80;
    CHECK(bd_graph_parse(&g, small, strlen(small), &lim, &e) == BD_E_LIMIT);
    lim = bd_limits_default();
    lim.elements_per_tensor = 59;
    CHECK(bd_graph_parse(&g, small, strlen(small), &lim, &e) == BD_E_LIMIT);
    lim = bd_limits_default();
    lim.text_bytes = strlen(small) - 1;
    CHECK(bd_graph_parse(&g, small, strlen(small), &lim, &e) == BD_E_LIMIT);
    CHECK(!g);
}

TEST(causality) {
    bd_graph *g = baseline("2");
    bd_err e = {0};
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_graph_causality(g, &b, &e), &e);
    bd_buf_u8(&b, 0);
    CHECK(strstr((char *)b.data, "attention (past) of"));
    CHECK(strstr((char *)b.data, "%0 embed (local) of tokens: {t}\n"));
    CHECK(strstr((char *)b.data, "depends on tokens {0..t}"));
    bd_buf_free(&b);
    bd_graph *d = NULL;
    CHECK_OK(bd_graph_differentiate(&d, g, &e), &e);
    bd_limits lim = bd_limits_default();
    CHECK(bd_graph_finish(d, &lim, &e) == BD_E_CAUSAL);
    bd_graph *again = NULL;
    CHECK(bd_graph_differentiate(&again, d, &e) == BD_E_FIELD && !again);
    bd_graph_destroy(d);
    bd_graph_destroy(g);

    g = model("model m(v=8)\ne = param(\"e\", [v, v], init=ones, role=embedding)\nlogits = embed(tokens, e)\n");
    bd_buf_init(&b);
    CHECK_OK(bd_graph_causality(g, &b, &e), &e);
    bd_buf_u8(&b, 0);
    CHECK(strstr((char *)b.data, "depends on tokens {t}"));
    bd_buf_free(&b);
    /* A graph altered by hand is refused. */
    g->nodes[0].op = BD_OP_embed_grad;
    CHECK(bd_graph_causality(g, NULL, &e) == BD_E_CAUSAL);
    g->nodes[0].op = BD_OP_embed;
    g->nodes[0].in[1].kind = BD_OPD_TARGETS;
    CHECK(bd_graph_causality(g, NULL, &e) == BD_E_CAUSAL);
    CHECK(bd_graph_finish(g, &lim, &e) != BD_OK);
    bd_graph_destroy(g);
}

TEST(flops) {
    bd_graph *g = baseline("9");
    double f = bd_graph_flops(g, 1024);
    /* matrices twice, attention 4 * 512 * mean context per layer, and a little for the rest */
    double want = 2.0 * 17039360 + 9 * 4.0 * 512 * 512.5;
    CHECK_MSG(f > want && f < 1.02 * want, "%g against %g", f, want);
    bd_graph_destroy(g);
}

TEST(initial_values) {
    bd_graph *g = model(
        "model m(v=64, d=48)\n"
        "x = embed(tokens, param(\"e\", [v, d], init=normal(0.5), role=embedding))\n"
        "w = param(\"mix\", [3, d], init=rows(1, 0.25), role=vector)\n"
        "x = mix(x, w[0], x, w[1])\nx = scale(x, w[2])\n"
        "x = scale(x, param(\"c\", [d], init=const(1.5)))\n"
        "logits = linear(x, param(\"h\", [v, d], init=uniform(1 / sqrt(d)), role=head))\n");
    float *a = malloc(g->param_floats * sizeof *a), *b = malloc(g->param_floats * sizeof *b);
    CHECK(a && b);
    memset(a, 0x7f, g->param_floats * sizeof *a);
    bd_graph_init_params(g, 5, a);
    bd_graph_init_params(g, 5, b);
    CHECK(!memcmp(a, b, g->param_floats * sizeof *a));
    bd_graph_init_params(g, 6, b);
    CHECK(memcmp(a, b, g->param_floats * sizeof *a));
    double sum = 0, square = 0, top = 0;
    const float *e = a + g->params[0].offset, *m = a + g->params[1].offset, *c = a + g->params[2].offset,
                *h = a + g->params[3].offset;
    for (int i = 0; i < 64 * 48; i++) {
        sum += (double)e[i];
        square += (double)e[i] * (double)e[i];
        if (fabs((double)h[i]) > top) top = fabs((double)h[i]);
    }
    CHECK(fabs(sum / 3072) < 0.04 && fabs(sqrt(square / 3072) - 0.5) < 0.03);
    CHECK(top <= 1 / sqrt(48.0) && top > 0.95 / sqrt(48.0));
    for (int i = 0; i < 48; i++) {
        CHECK(m[i] > 0.99f && m[48 + i] < 0.26f && m[96 + i] > 0.24f && m[96 + i] < 0.26f);
        CHECK(c[i] > 1.49f && c[i] < 1.51f);
    }
    free(a);
    free(b);
    bd_graph_destroy(g);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
