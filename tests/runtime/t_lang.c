/* The model language: what it computes, what it refuses, and where it points. */
#include "base/nearest.h"
#include "bd_test.h"
#include "runtime/model_lang.h"

static bd_graph *elaborate_with(const char *text, const bd_setting *set, int n, const bd_shape_source *src,
                                bd_err *e) {
    bd_graph *g = NULL;
    bd_limits lim = bd_limits_default();
    *e = (bd_err){0};
    bd_status st = bd_model_elaborate(&g, text, strlen(text), "x.model", set, n, src, &lim, e);
    CHECK((st == BD_OK) == (g != NULL));
    CHECK(st == e->code || st == BD_OK);
    return g;
}

static bd_graph *elaborate(const char *text, bd_err *e) { return elaborate_with(text, NULL, 0, NULL, e); }

/* The error must have this code and contain this text. */
static void refuse(const char *text, bd_status code, const char *part) {
    bd_err e;
    bd_graph *g = elaborate(text, &e);
    CHECK_MSG(!g, "accepted: %s", text);
    CHECK_MSG(e.code == code, "%s (%s) for: %s", e.msg, bd_status_name(e.code), text);
    CHECK_MSG(strstr(e.msg, part), "\"%s\" lacks \"%s\"", e.msg, part);
    CHECK_MSG(code == BD_E_USAGE || e.offset != BD_NO_OFFSET, "%s", e.msg);
}

/* A model around some statements; they may set x (width dim = 6). */
#define HEAD                                 \
    "model t(vocab=10, dim=6, n=3, f=0.5)\n" \
    "e = param(\"e\", [vocab, dim], init=normal(1.0), role=embedding)\nx = embed(tokens, e)\n"
#define TAIL "\nlogits = linear(x, e)\n"

static void refuse_body(const char *stmts, bd_status code, const char *part) {
    static char text[8192];
    snprintf(text, sizeof text, "%s%s%s", HEAD, stmts, TAIL);
    refuse(text, code, part);
}

static bd_graph *accept_body(const char *stmts) {
    static char text[8192];
    snprintf(text, sizeof text, "%s%s%s", HEAD, stmts, TAIL);
    bd_err e;
    bd_graph *g = elaborate(text, &e);
    CHECK_MSG(g, "%s", e.msg);
    return g;
}

static const bd_builtin_model *baseline(void) {
    for (int i = 0; i < bd_n_builtin_models; i++)
        if (!strcmp(bd_builtin_models[i].name, "baseline")) return &bd_builtin_models[i];
    return NULL;
}

static bd_graph *baseline_with(const bd_setting *set, int n, const bd_shape_source *src) {
    const bd_builtin_model *m = baseline();
    CHECK(m != NULL);
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    CHECK_OK(bd_model_elaborate(&g, m->text, m->size, m->name, set, n, src, &lim, &e), &e);
    return g;
}

static const bd_param *param(const bd_graph *g, const char *name) {
    int i = bd_graph_find_param(g, name);
    CHECK_MSG(i >= 0, "no parameter %s", name);
    return &g->params[i];
}

TEST(baseline_is_the_official_shape) {
    bd_graph *g = baseline_with(NULL, 0, NULL);
    CHECK_EQ_U64(g->param_count, 17059912);
    CHECK_STR(g->name, "baseline");
    CHECK_EQ_U64(g->vocab, 1024);
    CHECK(bd_graph_find_param(g, "lm_head.weight") < 0);
    const bd_param *p = param(g, "skip_weights");
    CHECK(p->rows == 4 && p->cols == 512 && p->ndim == 2 && p->role == BD_ROLE_VECTOR && p->uses == 1);
    p = param(g, "tok_emb.weight");
    CHECK(p->uses == 2 && p->role == BD_ROLE_EMBEDDING && p->init == BD_INIT_NORMAL &&
          p->grad_stride == 1024 * 512);
    p = param(g, "blocks.8.attn.c_k.weight");
    CHECK(p->rows == 256 && p->cols == 512 && p->init == BD_INIT_UNIFORM);
    CHECK(fabs(p->init_a * p->init_a * 512 - 1) < 1e-12);
    p = param(g, "blocks.0.resid_mix");
    CHECK(p->uses == 1 && p->init == BD_INIT_ROWS);
    CHECK(p->init_a > 0.5 && p->init_b < 0.5);
    p = param(g, "blocks.3.attn.q_gain");
    CHECK(p->ndim == 1 && p->rows == 1 && p->cols == 8 && fabs(p->init_a - 1.5) < 1e-12);
    CHECK(param(g, "blocks.5.mlp.proj.weight")->init == BD_INIT_ZEROS);
    for (int i = 0; i < g->n_params; i++)
        CHECK(g->params[i].offset % 16 == 0 && g->params[i].grad_offset % 16 == 0);
    bd_graph_destroy(g);
}

TEST(baseline_untied_and_odd_layers) {
    bd_setting set[] = {{"tied", "0"}, {"layers", "1"}, {"slope", "0.5"}};
    bd_graph *g = baseline_with(set, 3, NULL);
    CHECK(param(g, "lm_head.weight")->role == BD_ROLE_HEAD);
    CHECK(bd_graph_find_param(g, "skip_weights") < 0);
    CHECK(param(g, "tok_emb.weight")->uses == 1);
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == BD_OP_relu2) CHECK(g->nodes[i].attr.relu2.slope > 0.4f);
    bd_graph_destroy(g);
}

/* Decoder step j takes what encoder step (encoders - 1 - j) left, with row j, before its block. */
TEST(baseline_skips_pop_the_last) {
    bd_setting set[] = {{"layers", "5"},   {"dim", "16"},   {"heads", "2"},
                        {"kv_heads", "1"}, {"hidden", "8"}, {"vocab", "32"}};
    bd_graph *g = baseline_with(set, 6, NULL);
    int skip = bd_graph_find_param(g, "skip_weights"), seen = 0;
    int scale1[5] = {0}; /* node that ends block i */
    for (int i = 0; i < g->n_nodes; i++) {
        const bd_node *n = &g->nodes[i];
        if (n->op != BD_OP_add_scaled) continue;
        const char *name = g->params[n->in[2].id].name;
        int b;
        if (sscanf(name, "blocks.%d.mlp_scal", &b) == 1 && strstr(name, "mlp_scale")) scale1[b] = i;
        if (n->in[2].id != skip) continue;
        CHECK(n->in[2].row == seen);
        CHECK(g->values[n->in[1].id].node == scale1[1 - seen]);
        CHECK(g->values[n->in[0].id].node == scale1[1 + seen]);
        CHECK(g->nodes[i + 1].op == BD_OP_mix);
        seen++;
    }
    CHECK(seen == 2);
    bd_graph_destroy(g);
}

static int fake_shape(void *user, const char *name, int64_t dim[4]) {
    (void)user;
    static const struct {
        const char *name;
        int rank;
        int64_t d[2];
    } t[] = {{"tok_emb.weight", 2, {50, 24}},
             {"blocks.0.attn.q_gain", 1, {3, 0}},
             {"blocks.0.attn.c_k.weight", 2, {8, 24}},
             {"blocks.0.mlp.fc.weight", 2, {40, 24}}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if (strcmp(t[i].name, name)) continue;
        dim[0] = t[i].d[0];
        dim[1] = t[i].d[1];
        return t[i].rank;
    }
    return -1;
}
static int64_t fake_count(void *user, const char *pattern) {
    (void)user;
    int64_t n = bd_glob(pattern, "lm_head.weight");
    for (int i = 0; i < 7; i++) {
        char s[64];
        snprintf(s, sizeof s, "blocks.%d.attn.c_q.weight", i);
        n += bd_glob(pattern, s);
    }
    return n;
}

TEST(infer_reads_a_checkpoint) {
    bd_shape_source src = {fake_shape, fake_count, NULL};
    bd_graph *g = baseline_with(NULL, 0, &src);
    CHECK_EQ_U64(g->vocab, 50);
    CHECK(param(g, "blocks.6.attn.c_v.weight")->rows == 8);
    CHECK(param(g, "blocks.0.attn.q_gain")->cols == 3);
    CHECK(param(g, "lm_head.weight")->rows == 50);
    CHECK(param(g, "blocks.0.mlp.fc.weight")->rows == 40);
    CHECK(param(g, "skip_weights")->rows == 3);
    bd_graph_destroy(g);
    bd_setting set[] = {{"layers", "2"}};
    g = baseline_with(set, 1, &src); /* a setting beats infer */
    CHECK(bd_graph_find_param(g, "blocks.2.resid_mix") < 0);
    bd_graph_destroy(g);
    bd_err e;
    CHECK(!elaborate_with("model m(a=1)\ninfer a = shape(\"nothing\")[0]\n", NULL, 0, &src, &e));
    CHECK(e.code == BD_E_MISSING && strstr(e.msg, "x.model:2:11") && strstr(e.msg, "nothing"));
    CHECK(!elaborate_with("model m(a=1)\ninfer a = shape(\"tok_emb.weight\")[2]\n", NULL, 0, &src, &e));
    CHECK(e.code == BD_E_SHAPE);
}

TEST(settings) {
    bd_err e;
    bd_setting wrong[] = {{"layer", "3"}};
    CHECK(!elaborate_with(HEAD TAIL, wrong, 1, NULL, &e));
    CHECK(e.code == BD_E_UNKNOWN && strstr(e.msg, "vocab, dim, n, f"));
    bd_setting text[] = {{"n", "three"}};
    CHECK(!elaborate_with(HEAD TAIL, text, 1, NULL, &e) && e.code == BD_E_USAGE);
    bd_setting real[] = {{"n", "3.0"}};
    CHECK(!elaborate_with(HEAD TAIL, real, 1, NULL, &e) && e.code == BD_E_USAGE);
    bd_setting huge[] = {{"n", "99999999999999999999"}};
    CHECK(!elaborate_with(HEAD TAIL, huge, 1, NULL, &e) && e.code == BD_E_USAGE);
    bd_setting fine[] = {{"f", "2"}, {"dim", "9"}, {"dim", "8"}};
    bd_graph *g = elaborate_with(HEAD "require f == 2.0 and dim == 8" TAIL, fine, 3, NULL, &e);
    CHECK_MSG(g, "%s", e.msg);
    bd_graph_destroy(g);
}

TEST(arithmetic) {
    bd_graph_destroy(
        accept_body("require 7 / 2 == 3 and -7 / 2 == -4 and 7 % 3 == 1 and -7 % 3 == 2 and 7 % -3 == -2\n"
                    "require 2 + 3 * 4 == 14 and (2 + 3) * 4 == 20 and 10 - 3 - 2 == 5 and -2 * -3 == 6\n"
                    "require 1 < 2 and 2 <= 2 and 3 > 2 and 3 >= 3 and 1 != 2 and not 1 == 2\n"
                    "require 1 == 1 or 1 / 0 == 1\n"
                    "require not (0 and 1 / 0)\n"
                    "require min(3, 4) == 3 and max(3, 4) == 4 and max(-1, -2) == -1\n"
                    "require sqrt(16) == 4.0 and 1 / 4.0 == 0.25 and 1e-2 < 0.0101 and f * 2 == 1.0\n"
                    "a = 5; b = a * 2; require b == 10\n"
                    "for i in 0..n { sum[i] = i * i }; require sum[2] == 4\n"
                    "for i in 3..1 { require 0 }\n"
                    "if n > 5 { require 0 } else if n == 3 { c = 1 } else { require 0 }\n require c == 1"));
    refuse_body("a = 1 / 0", BD_E_RANGE, "x.model:4:7: division by zero");
    refuse_body("a = 9223372036854775807 + 1", BD_E_RANGE, "overflow");
    refuse_body("a = 3037000500 * 3037000500", BD_E_RANGE, "overflow");
    refuse_body("a = (0 - 9223372036854775807 - 1) / -1", BD_E_RANGE, "overflow");
    refuse_body("a = 1.5 % 2", BD_E_FIELD, "%");
    refuse_body("a = sqrt(-1)", BD_E_RANGE, "sqrt");
    refuse_body("a = 1e300 * 1e300", BD_E_RANGE, "finite");
    refuse_body("a = 1 + x", BD_E_FIELD, "a tensor");
    refuse_body("if 0.5 { a = 1 }", BD_E_FIELD, "expected an integer");
    refuse_body("require 1 == 2, \"one is not two\"", BD_E_RANGE, "one is not two");
}

TEST(blocks_and_results) {
    bd_graph *g = accept_body(
        "block two(i, x) {\n  a = rms_norm(x)\n  w = param(\"w.{i}\", [dim], init=ones)\n  return add(a, x), "
        "scale(x, w)\n}\n"
        "block one(i, x) { y, z = two(i, x); return add(y, z) }\n"
        "for i in 0..2 { x = one(i, x) }\n"
        "x = one(0, x)\n" /* the same parameters again */);
    CHECK(param(g, "w.0")->uses == 2 && param(g, "w.1")->uses == 1 && g->n_params == 3);
    CHECK(param(g, "e")->uses == 2);
    CHECK(g->n_nodes == 2 + 3 * 4);
    bd_graph_destroy(g);
    refuse_body("block a(x) { return a(x) }\nx = a(x)", BD_E_UNKNOWN, "before its first call");
    refuse_body("block a(x) { return b(x) }\nblock b(x) { return a(x) }\n", BD_E_UNKNOWN, "\"b\"");
    refuse_body("block a(x) { y = x }\n", BD_E_SYNTAX, "ends with \"return\"");
    refuse_body("block a(x) { return x; y = x }\n", BD_E_SYNTAX, "last statement");
    refuse_body("block a(x) { if 1 { return x }; return x }\n", BD_E_SYNTAX, "last statement");
    refuse_body("return x\n", BD_E_SYNTAX, "last statement");
    refuse_body("if 1 { return x }\n", BD_E_SYNTAX, "last statement");
    refuse_body("block a(y) { return add(x, y) }\nx = a(x)", BD_E_UNKNOWN, "as an argument");
    refuse_body("block a(y) { return y }\nx = a(x, x)", BD_E_SYNTAX, "takes 1 arguments");
    refuse_body("block a(y) { return y, y }\nx = a(x)", BD_E_FIELD, "2 results");
    refuse_body("block a(y, y) { return y }\n", BD_E_SYNTAX, "one name");
    refuse_body("block a(y) { return y }\nblock a(y) { return y }\n", BD_E_SYNTAX, "already");
    refuse_body("for i in 0..2 { block a(y) { return y } }\n", BD_E_SYNTAX, "word of the language");
}

TEST(names) {
    refuse_body("x = add(x, y)", BD_E_UNKNOWN, "x.model:4:12: \"y\" has no value here");
    refuse_body("x = skip[2]", BD_E_UNKNOWN, "skip[2]");
    refuse_body("dim = 3", BD_E_FIELD, "constant");
    refuse_body("for i in 0..2 { i = 3 }", BD_E_FIELD, "counter");
    refuse_body("for i in 0..2 { for i in 0..2 { a = 1 } }", BD_E_FIELD, "counter");
    refuse_body("for i in 0..2 { a = 1 }\nrequire i == 1", BD_E_UNKNOWN, "\"i\"");
    refuse_body("x[1] = x", BD_E_FIELD, "no elements");
    refuse_body("s[1] = x\ns = x", BD_E_FIELD, "has elements");
    refuse_body("linear = x", BD_E_SYNTAX, "word of the language");
    refuse_body("x = x[0]", BD_E_FIELD, "rows");
}

TEST(parameters) {
    refuse_body("p = param(\"p\", [dim], init=ones)", BD_E_FIELD, "x.model:4:5: parameter p is never used");
    refuse_body("x = scale(x, param(\"p\", [dim]))", BD_E_MISSING, "init");
    refuse_body("x = scale(x, param(\"p\", [dim], init=one))", BD_E_UNKNOWN, "init=zeros");
    refuse_body("x = scale(x, param(\"p\", [dim], init=ones, role=thing))", BD_E_UNKNOWN, "role=");
    refuse_body("x = scale(x, param(\"p\", [dim], init=ones, size=3))", BD_E_SYNTAX, "param(");
    refuse_body("x = scale(x, param(\"p q\", [dim], init=ones))", BD_E_FIELD, "A-Z");
    refuse_body("x = scale(x, param(\"p{i}\", [dim], init=ones))", BD_E_UNKNOWN, "\"i\"");
    refuse_body("x = scale(x, param(\"p{\", [dim], init=ones))", BD_E_SYNTAX, "{name}");
    refuse_body("x = scale(x, param(\"p\", [0], init=ones))", BD_E_SHAPE, "positive");
    refuse_body("x = scale(x, param(\"p\", [1,2,3], init=ones))", BD_E_SHAPE, "one or two");
    refuse_body("x = scale(x, param(\"p\", [1 * 1000000], init=ones))", BD_E_LIMIT, "");
    refuse_body("x = scale(x, param(\"p\", [5], init=ones))", BD_E_SHAPE,
                "x.model:4:5: scale: the input has 6 columns, p has 5");
    refuse_body("x = scale(x, param(\"p\", [2, dim], init=ones))", BD_E_SHAPE, "name one of them");
    refuse_body("x = scale(x, param(\"p\", [2, dim], init=ones)[2])", BD_E_RANGE, "no row 2");
    refuse_body("x = scale(x, param(\"p\", [dim], init=ones)[0])", BD_E_RANGE, "no row 0");
    refuse_body("x = linear(x, param(\"p\", [dim], init=ones))", BD_E_SHAPE, "whole matrix");
    refuse_body("x = linear(x, param(\"p\", [2, 5], init=ones))", BD_E_SHAPE, "p reads 5");
    refuse_body("x = linear(x, tied(\"q\"))", BD_E_UNKNOWN, "no parameter q");
    refuse_body("x = scale(x, param(\"p\", [dim], init=ones))\nx = scale(x, param(\"p\", [dim], init=zeros))",
                BD_E_FIELD, "another shape, init or role");
    refuse_body("x = linear(x, param(\"big\", [200000, 200000], init=ones))", BD_E_LIMIT, "big");
}

TEST(operations) {
    refuse_body("x = foo(x)", BD_E_UNKNOWN, "x.model:4:5: there is no operation");
    refuse_body("x = nll(x, tokens)", BD_E_CAUSAL, "not an operation of a model");
    refuse_body("x = linear_grad_x(x, x)", BD_E_CAUSAL, "not an operation of a model");
    refuse_body("x = add(x)", BD_E_SYNTAX, "takes 2 operands");
    refuse_body("x = add(x, x, x)", BD_E_SYNTAX, "too many");
    refuse_body("x = add(x, 1)", BD_E_FIELD, "expected a tensor, got an integer");
    refuse_body("x = add(x, tokens)", BD_E_FIELD, "the tokens");
    refuse_body("x = embed(x, e)", BD_E_FIELD, "expected tokens");
    refuse_body("x = rms_norm(x, width=4)", BD_E_SHAPE, "does not divide");
    refuse_body("x = rms_norm(x, width=2, width=2)", BD_E_SYNTAX, "too many");
    refuse_body("x = rms_norm(x, eps=-1.0)", BD_E_RANGE, "eps");
    refuse_body("x = rms_norm(x, gain=1)", BD_E_UNKNOWN, "gain");
    refuse_body("x = rope(x, width=3, base=10)", BD_E_SHAPE, "even");
    refuse_body("x = rope(x, width=6)", BD_E_MISSING, "base");
    refuse_body("x = attention(x, x, x, heads=2, kv_heads=1)", BD_E_SHAPE, "kv_heads");
    refuse_body("x = attention(x, x, x, heads=4, kv_heads=4)", BD_E_SHAPE, "do not divide");
    refuse_body("x = softcap(x, 0)", BD_E_RANGE, "cap");
    refuse_body("x = softcap(x, width=3, 4)", BD_E_SYNTAX, "without a name come first");
    refuse_body("x = relu2(x, slope=2)", BD_E_RANGE, "slope");
    refuse_body("y = rms_norm(x)", BD_E_FIELD, "line 4 is never used");
    bd_graph_destroy(
        accept_body("x = softcap(relu2(rope(rms_norm(x, 3), 6, 10000)), cap=30)\n"
                    "x = attention(x, x, x, heads=3, kv_heads=3)"));
    refuse("model m()\n", BD_E_MISSING, "logits");
    refuse("model m()\nlogits = 3\n", BD_E_MISSING, "logits");
    refuse(HEAD "logits = linear(x, e)\ny = rms_norm(x)\n", BD_E_FIELD, "must be the last");
    refuse(HEAD "logits = linear(x, param(\"h\", [9, dim], init=zeros))\n", BD_E_SHAPE, "vocabulary");
    refuse("model m()\nlogits = rms_norm(tokens)\n", BD_E_FIELD, "expected a tensor");
}

TEST(syntax) {
    refuse("", BD_E_SYNTAX, "x.model:1:1: expected \"model\"");
    refuse("modle x()", BD_E_SYNTAX, "found \"modle\"");
    refuse("model m(a)\n", BD_E_SYNTAX, "default");
    refuse("model m(a=1, a=2)\n", BD_E_SYNTAX, "already");
    refuse("model m(a=tokens)\n", BD_E_FIELD, "a constant is a number");
    refuse("model m() x = 1", BD_E_SYNTAX, "end of the line");
    refuse_body("x = (1 + ", BD_E_SYNTAX, "");
    refuse_body("x = 1 +", BD_E_SYNTAX, "x.model:4:8: expected a value, found the end of the line");
    refuse_body("x = 1 2", BD_E_SYNTAX, "x.model:4:7");
    refuse_body("x = 1 < 2 < 3", BD_E_SYNTAX, "\"and\"");
    refuse_body("x = 3abc", BD_E_SYNTAX, "after the number");
    refuse_body("x = 1e", BD_E_SYNTAX, "exponent");
    refuse_body("x = \"abc", BD_E_SYNTAX, "closing quote");
    refuse_body("x = $", BD_E_SYNTAX, "'$'");
    refuse_body("x = \x80", BD_E_SYNTAX, "0x80");
    refuse_body("x ! 3", BD_E_SYNTAX, "'!'");
    refuse_body("for i 0..3 { }", BD_E_SYNTAX, "\"in\"");
    refuse_body("for i in 0 3 { }", BD_E_SYNTAX, "\"..\"");
    refuse_body("if 1 x = 2", BD_E_SYNTAX, "\"{\"");
    refuse_body("if 1 { x = 2", BD_E_SYNTAX, "\"}\"");
    refuse_body("}", BD_E_SYNTAX, "end of the file");
    refuse_body("infer q = 1", BD_E_UNKNOWN, "\"q\" is no constant");
    refuse_body("a = count(\"*\")", BD_E_FIELD, "infer");
    refuse_body("a = \"text\"", BD_E_SYNTAX, "text is no value");
    refuse_body("a = [1, 2]", BD_E_SYNTAX, "list is no value");
    refuse_body("a = normal(1.0)", BD_E_SYNTAX, "init=");
}

/* Hostile files end with an error, soon and without a deep stack. */
TEST(limits) {
    size_t n = 200000;
    char *s = malloc(4 * n + 1000);
    CHECK(s != NULL);
    const struct {
        const char *open, *close;
    } nest[] = {{"(", ""},    {"-", ""},   {"not ", ""},         {"if 1 { ", ""},        {"for i in 0..1 { ", ""},
                {"[", ""},    {"1+", "1"}, {"sqrt(", ""},        {"if 0 { } else ", ""}, {"x[", ""},
                {"x[0]", ""}, {"a,", ""},  {"block a(x) {", ""}, {"1 and ", "1"}};
    for (size_t k = 0; k < sizeof nest / sizeof *nest; k++) {
        strcpy(s, "model m()\na = ");
        if (nest[k].open[0] == 'i' || nest[k].open[0] == 'f' || nest[k].open[0] == 'b') strcpy(s, "model m()\n");
        size_t len = strlen(s), step = strlen(nest[k].open);
        while (len + step < n) {
            memcpy(s + len, nest[k].open, step);
            len += step;
        }
        strcpy(s + len, nest[k].close);
        bd_err e;
        CHECK(!elaborate(s, &e));
    }
    free(s);
    refuse_body("for i in 0..1000000000000 { a = i }", BD_E_LIMIT, "steps");
    refuse_body("for i in 0..1000 { for j in 0..1000 { for k in 0..1000 { a = 1 } } }", BD_E_LIMIT, "steps");
    refuse_body("for i in 0..100000 { x = rms_norm(x) }", BD_E_LIMIT, "operations");
    refuse_body("for i in 0..100000 { x = scale(x, param(\"p{i}\", [dim], init=ones)) }", BD_E_LIMIT, "parameters");
    refuse_body("for i in 0..100000 { p = param(\"p{i}\", [dim], init=ones) }", BD_E_LIMIT, "parameters");
    refuse_body("for i in 0..3000000 { a[i] = i }", BD_E_LIMIT, "steps");
    /* Calls double at every level: bounded by steps and by the depth of calls. */
    static char text[4096];
    int len = snprintf(text, sizeof text, "block b0(x) { return rms_norm(x) }\n");
    for (int i = 1; i < 30; i++)
        len += snprintf(text + len, sizeof text - (size_t)len, "block b%d(x) { return b%d(b%d(x)) }\n", i, i - 1,
                        i - 1);
    snprintf(text + len, sizeof text - (size_t)len, "x = b29(x)\n");
    refuse_body(text, BD_E_LIMIT, "");
    bd_limits lim = bd_limits_default();
    lim.text_bytes = 10;
    bd_err e = {0};
    bd_graph *g = NULL;
    CHECK(bd_model_elaborate(&g, HEAD TAIL, strlen(HEAD TAIL), "m", NULL, 0, NULL, &lim, &e) == BD_E_LIMIT);
}

TEST(lines_and_comments) {
    bd_graph *g =
        accept_body("# a comment\n\nx = add( # inside\n  x,\n  x)\r\n\tx = rms_norm(x) ; x = rms_norm(x)");
    CHECK(g->nodes[1].op == BD_OP_add && g->nodes[1].line == 6);
    CHECK(g->nodes[2].line == 9 && g->nodes[3].line == 9);
    bd_graph_destroy(g);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
