/* The parser of the model language: recursive descent with bounded depth. */
#include <stdio.h>
#include <string.h>

#include "runtime/graph_ops.h"
#include "runtime/lang.h"

enum { MAX_BLOCKS = 256, MAX_CONSTANTS = 256, MAX_INFERS = 1024 };

typedef struct parser {
    bd_lang *l;
    bd_file *f;
    const bd_tok *t; /* the next token */
    int expr_depth, stmt_depth;
    bool in_block;
} parser;

#define ERR_AT(p, tok, code, ...) bd_lang_error((p)->l, code, (tok)->pos, (tok)->line, (tok)->col, __VA_ARGS__)

static void *take(parser *p, uint64_t n, uint64_t size) { return bd_arena_alloc(p->l->arena, n, size); }

static bool is_punct(const bd_tok *t, const char *s) { return t->kind == BD_TOK_PUNCT && !strcmp(t->punct, s); }
static bool is_word(const parser *p, const bd_tok *t, const char *s) {
    return t->kind == BD_TOK_NAME && !strcmp(p->l->syms.text[t->sym], s);
}

/* What stands there, for "expected A, found B". */
static const char *found(const parser *p, char out[80]) {
    const bd_tok *t = p->t;
    if (t->kind == BD_TOK_END) snprintf(out, 80, "the end of the file");
    else if (t->kind == BD_TOK_NEWLINE) snprintf(out, 80, "the end of the line");
    else snprintf(out, 80, "\"%.*s\"", t->len > 60 ? 60 : (int)t->len, p->l->text + t->pos);
    return out;
}

static bd_status expected(parser *p, const char *what) {
    char buf[80];
    return ERR_AT(p, p->t, BD_E_SYNTAX, "expected %s, found %s", what, found(p, buf));
}

static bd_status punct(parser *p, const char *s, const char *what) {
    if (!is_punct(p->t, s)) return expected(p, what);
    p->t++;
    return BD_OK;
}

static void skip_newlines(parser *p) {
    while (p->t->kind == BD_TOK_NEWLINE) p->t++;
}

static bool reserved(const char *s) {
    static const char *const words[] = {"model",  "infer",   "block", "for", "in",  "if",    "else",
                                        "return", "require", "and",   "or",  "not", "tokens"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(words[i], s)) return true;
    return bd_op_find(s, (int)strlen(s)) >= 0;
}

/* A name that the file may give a meaning to. */
static bd_status new_name(parser *p, const char *what, int *sym) {
    if (p->t->kind != BD_TOK_NAME) return expected(p, what);
    const char *s = p->l->syms.text[p->t->sym];
    if (reserved(s)) return ERR_AT(p, p->t, BD_E_SYNTAX, "expected %s: \"%s\" is a word of the language", what, s);
    *sym = p->t->sym;
    p->t++;
    return BD_OK;
}

static int find_block(const parser *p, int sym) {
    for (int i = 0; i < p->f->n_blocks; i++)
        if (p->f->blocks[i].name == sym) return i;
    return -1;
}

static int find_constant(const parser *p, int sym) {
    for (int i = 0; i < p->f->n_constants; i++)
        if (p->f->constants[i].name == sym) return i;
    return -1;
}

/* ---- expressions ---- */

static bd_status expression(parser *p, bd_expr **out);

static bd_status make(parser *p, bd_expr_kind kind, const bd_tok *tok, bd_expr **out) {
    bd_expr *e = take(p, 1, sizeof *e);
    if (!e) return ERR_AT(p, tok, BD_E_NOMEM, "out of memory");
    e->kind = kind;
    e->tok = tok;
    e->sym = e->block = -1;
    e->depth = 1;
    *out = e;
    return BD_OK;
}

/* Trees are bounded as well as the parser's recursion: a + a + a ... grows to the left. */
static bd_status deepen(parser *p, bd_expr *e, const bd_expr *child) {
    if (child && child->depth >= e->depth) e->depth = child->depth + 1;
    if (e->depth > BD_LANG_EXPR_DEPTH)
        return ERR_AT(p, e->tok, BD_E_LIMIT, "expression nested more than %d deep", BD_LANG_EXPR_DEPTH);
    return BD_OK;
}

static bd_status arguments(parser *p, bd_expr *e, const char *close, const char *what, bool named) {
    bd_arg args[BD_LANG_MAX_ARGS];
    int n = 0;
    while (!is_punct(p->t, close)) {
        if (n == BD_LANG_MAX_ARGS) return ERR_AT(p, p->t, BD_E_LIMIT, "more than %d arguments", BD_LANG_MAX_ARGS);
        args[n].name = -1;
        if (named && p->t->kind == BD_TOK_NAME && is_punct(p->t + 1, "=")) {
            args[n].name = p->t->sym;
            p->t += 2;
        } else if (n > 0 && args[n - 1].name >= 0) {
            return expected(p, "name=value: arguments without a name come first");
        }
        BD_TRY(expression(p, &args[n].value));
        BD_TRY(deepen(p, e, args[n].value));
        n++;
        if (!is_punct(p->t, ",")) break;
        p->t++;
    }
    BD_TRY(punct(p, close, what));
    e->n_args = n;
    if (!n) return BD_OK;
    e->args = take(p, (uint64_t)n, sizeof *e->args);
    if (!e->args) return ERR_AT(p, e->tok, BD_E_NOMEM, "out of memory");
    memcpy(e->args, args, (size_t)n * sizeof *args);
    return BD_OK;
}

static bd_status call(parser *p, bd_expr **out) {
    BD_TRY(make(p, BD_EX_CALL, p->t, out));
    bd_expr *e = *out;
    e->sym = p->t->sym;
    e->block = find_block(p, e->sym);
    const char *name = p->l->syms.text[e->sym];
    if (e->block < 0) {
        static const char *const functions[] = {"param", "tied",  "sqrt", "min",    "max",    "count",
                                                "shape", "const", "rows", "normal", "uniform"};
        int op = bd_op_find(name, (int)strlen(name));
        bool known = op >= 0 && bd_op_shape_get((bd_op)op);
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) known |= !strcmp(functions[i], name);
        if (op >= 0 && !known) return ERR_AT(p, p->t, BD_E_CAUSAL, "%s is not an operation of a model", name);
        if (!known)
            return ERR_AT(
                p, p->t, BD_E_UNKNOWN,
                "there is no operation, function or block \"%s\" (a block must stand before its first call)", name);
    }
    p->t += 2;
    return arguments(p, e, ")", "\")\" or \",\"", true);
}

static bd_status primary(parser *p, bd_expr **out) {
    const bd_tok *t = p->t;
    switch (t->kind) {
        case BD_TOK_INT:
            BD_TRY(make(p, BD_EX_INT, t, out));
            (*out)->i = t->i;
            p->t++;
            return BD_OK;
        case BD_TOK_REAL:
            BD_TRY(make(p, BD_EX_REAL, t, out));
            (*out)->r = t->r;
            p->t++;
            return BD_OK;
        case BD_TOK_STRING:
            BD_TRY(make(p, BD_EX_STRING, t, out));
            (*out)->sym = bd_sym(&p->l->syms, p->l->text + t->pos, t->len);
            if ((*out)->sym < 0) return ERR_AT(p, t, BD_E_NOMEM, "out of memory");
            p->t++;
            return BD_OK;
        case BD_TOK_NAME:
            if (is_punct(t + 1, "(")) return call(p, out);
            BD_TRY(make(p, BD_EX_NAME, t, out));
            (*out)->sym = t->sym;
            p->t++;
            return BD_OK;
        default:
            if (is_punct(t, "(")) {
                p->t++;
                BD_TRY(expression(p, out));
                return punct(p, ")", "\")\"");
            }
            if (is_punct(t, "[")) {
                BD_TRY(make(p, BD_EX_LIST, t, out));
                p->t++;
                return arguments(p, *out, "]", "\"]\" or \",\"", false);
            }
            return expected(p, "a value");
    }
}

static bd_status postfix(parser *p, bd_expr **out) {
    BD_TRY(primary(p, out));
    while (is_punct(p->t, "[")) {
        bd_expr *e = NULL;
        BD_TRY(make(p, BD_EX_INDEX, p->t, &e));
        p->t++;
        e->a = *out;
        BD_TRY(expression(p, &e->b));
        BD_TRY(deepen(p, e, e->a));
        BD_TRY(deepen(p, e, e->b));
        BD_TRY(punct(p, "]", "\"]\""));
        *out = e;
    }
    return BD_OK;
}

static bd_status enter(parser *p) {
    if (++p->expr_depth > BD_LANG_EXPR_DEPTH)
        return ERR_AT(p, p->t, BD_E_LIMIT, "expression nested more than %d deep", BD_LANG_EXPR_DEPTH);
    return BD_OK;
}

static bd_status unary(parser *p, bd_expr **out) {
    if (!is_punct(p->t, "-")) return postfix(p, out);
    BD_TRY(make(p, BD_EX_UNARY, p->t, out));
    (*out)->oper = BD_OPER_NEG;
    BD_TRY(enter(p));
    p->t++;
    BD_TRY(unary(p, &(*out)->a));
    p->expr_depth--;
    return deepen(p, *out, (*out)->a);
}

/* Binary operators by rising level: or, and, (not), comparisons, + -, * / %. */
typedef struct oper_name {
    const char *text;
    bd_oper oper;
    int level;
} oper_name;
static const oper_name opers[] = {
    {"or", BD_OPER_OR, 0}, {"and", BD_OPER_AND, 1}, {"==", BD_OPER_EQ, 3}, {"!=", BD_OPER_NE, 3},
    {"<", BD_OPER_LT, 3},  {"<=", BD_OPER_LE, 3},   {">", BD_OPER_GT, 3},  {">=", BD_OPER_GE, 3},
    {"+", BD_OPER_ADD, 4}, {"-", BD_OPER_SUB, 4},   {"*", BD_OPER_MUL, 5}, {"/", BD_OPER_DIV, 5},
    {"%", BD_OPER_MOD, 5},
};
enum { LEVEL_NOT = 2, LEVEL_COMPARE = 3, LEVELS = 6 };

static const oper_name *oper_here(const parser *p, int level) {
    for (size_t i = 0; i < sizeof opers / sizeof *opers; i++)
        if (opers[i].level == level && (is_punct(p->t, opers[i].text) || is_word(p, p->t, opers[i].text)))
            return &opers[i];
    return NULL;
}

static bd_status binary(parser *p, int level, bd_expr **out) {
    if (level == LEVELS) return unary(p, out);
    if (level == LEVEL_NOT && is_word(p, p->t, "not")) {
        BD_TRY(make(p, BD_EX_UNARY, p->t, out));
        (*out)->oper = BD_OPER_NOT;
        BD_TRY(enter(p));
        p->t++;
        BD_TRY(binary(p, LEVEL_NOT, &(*out)->a));
        p->expr_depth--;
        return deepen(p, *out, (*out)->a);
    }
    BD_TRY(binary(p, level + 1, out));
    for (const oper_name *o; (o = oper_here(p, level)) != NULL;) {
        bd_expr *e = NULL;
        BD_TRY(make(p, BD_EX_BINARY, p->t, &e));
        p->t++;
        e->oper = o->oper;
        e->a = *out;
        BD_TRY(binary(p, level + 1, &e->b));
        BD_TRY(deepen(p, e, e->a));
        BD_TRY(deepen(p, e, e->b));
        *out = e;
        if (level == LEVEL_COMPARE && oper_here(p, level)) return expected(p, "\"and\" between two comparisons");
    }
    return BD_OK;
}

static bd_status expression(parser *p, bd_expr **out) {
    BD_TRY(enter(p));
    BD_TRY(binary(p, 0, out));
    p->expr_depth--;
    return BD_OK;
}

/* ---- statements ---- */

static bd_status statements(parser *p, bool top, bd_stmt **out);

static bd_status body(parser *p, bd_stmt **out) {
    BD_TRY(punct(p, "{", "\"{\""));
    if (++p->stmt_depth > BD_LANG_STMT_DEPTH)
        return ERR_AT(p, p->t, BD_E_LIMIT, "statements nested more than %d deep", BD_LANG_STMT_DEPTH);
    BD_TRY(statements(p, false, out));
    p->stmt_depth--;
    return punct(p, "}", "\"}\"");
}

static bd_status for_statement(parser *p, bd_stmt *s) {
    s->kind = BD_ST_FOR;
    p->t++;
    s->target[0].tok = p->t;
    BD_TRY(new_name(p, "a name for the counter", &s->target[0].sym));
    if (!is_word(p, p->t, "in")) return expected(p, "\"in\"");
    p->t++;
    BD_TRY(expression(p, &s->value[0]));
    BD_TRY(punct(p, "..", "\"..\""));
    BD_TRY(expression(p, &s->value[1]));
    return body(p, &s->body);
}

static bd_status if_statement(parser *p, bd_stmt *s) {
    s->kind = BD_ST_IF;
    p->t++;
    BD_TRY(expression(p, &s->value[0]));
    BD_TRY(body(p, &s->body));
    const bd_tok *back = p->t;
    skip_newlines(p);
    if (!is_word(p, p->t, "else")) {
        p->t = back;
        return BD_OK;
    }
    p->t++;
    if (!is_word(p, p->t, "if")) return body(p, &s->other);
    /* else if: one statement deeper */
    s->other = take(p, 1, sizeof *s);
    if (!s->other) return ERR_AT(p, p->t, BD_E_NOMEM, "out of memory");
    s->other->tok = p->t;
    if (++p->stmt_depth > BD_LANG_STMT_DEPTH)
        return ERR_AT(p, p->t, BD_E_LIMIT, "statements nested more than %d deep", BD_LANG_STMT_DEPTH);
    BD_TRY(if_statement(p, s->other));
    p->stmt_depth--;
    return BD_OK;
}

static bd_status value_list(parser *p, bd_stmt *s) {
    for (;;) {
        if (s->n_values == 4) return ERR_AT(p, p->t, BD_E_LIMIT, "more than 4 results");
        BD_TRY(expression(p, &s->value[s->n_values++]));
        if (!is_punct(p->t, ",")) return BD_OK;
        p->t++;
    }
}

static bd_status assignment(parser *p, bd_stmt *s) {
    s->kind = BD_ST_ASSIGN;
    for (;;) {
        if (s->n_targets == 4) return ERR_AT(p, p->t, BD_E_LIMIT, "more than 4 names before \"=\"");
        bd_target *g = &s->target[s->n_targets++];
        g->tok = p->t;
        BD_TRY(new_name(p, "a statement or a name to assign to", &g->sym));
        if (is_punct(p->t, "[")) {
            p->t++;
            BD_TRY(expression(p, &g->index));
            BD_TRY(punct(p, "]", "\"]\""));
        }
        if (!is_punct(p->t, ",")) break;
        p->t++;
    }
    BD_TRY(punct(p, "=", "\"=\""));
    s->n_values = 1;
    return expression(p, &s->value[0]);
}

static bd_status require_statement(parser *p, bd_stmt *s) {
    s->kind = BD_ST_REQUIRE;
    s->message = -1;
    p->t++;
    BD_TRY(expression(p, &s->value[0]));
    if (!is_punct(p->t, ",")) return BD_OK;
    p->t++;
    if (p->t->kind != BD_TOK_STRING) return expected(p, "a text in quotes");
    s->message = bd_sym(&p->l->syms, p->l->text + p->t->pos, p->t->len);
    if (s->message < 0) return ERR_AT(p, p->t, BD_E_NOMEM, "out of memory");
    p->t++;
    return BD_OK;
}

static bd_status statement(parser *p, bd_stmt **out) {
    bd_stmt *s = take(p, 1, sizeof *s);
    if (!s) return ERR_AT(p, p->t, BD_E_NOMEM, "out of memory");
    s->tok = p->t;
    *out = s;
    if (is_word(p, p->t, "for")) return for_statement(p, s);
    if (is_word(p, p->t, "if")) return if_statement(p, s);
    if (is_word(p, p->t, "require")) return require_statement(p, s);
    if (is_word(p, p->t, "return")) {
        s->kind = BD_ST_RETURN;
        p->t++;
        return value_list(p, s);
    }
    return assignment(p, s);
}

static bd_status end_of_statement(parser *p) {
    if (p->t->kind == BD_TOK_NEWLINE) {
        skip_newlines(p);
        return BD_OK;
    }
    if (is_punct(p->t, "}") || p->t->kind == BD_TOK_END) return BD_OK;
    return expected(p, "the end of the line or \";\"");
}

/* ---- the top level ---- */

static bd_status infer_line(parser *p) {
    bd_file *f = p->f;
    p->t++;
    for (;;) {
        if (f->n_infers == MAX_INFERS)
            return ERR_AT(p, p->t, BD_E_LIMIT, "more than %d inferred values", MAX_INFERS);
        bd_infer *in = &f->infers[f->n_infers];
        in->tok = p->t;
        if (p->t->kind != BD_TOK_NAME) return expected(p, "a constant of the model");
        in->constant = find_constant(p, p->t->sym);
        if (in->constant < 0)
            return ERR_AT(p, p->t, BD_E_UNKNOWN, "\"%s\" is no constant of the model", p->l->syms.text[p->t->sym]);
        p->t++;
        BD_TRY(punct(p, "=", "\"=\""));
        BD_TRY(expression(p, &in->value));
        f->n_infers++;
        if (!is_punct(p->t, ",")) return BD_OK;
        p->t++;
        skip_newlines(p);
    }
}

static bd_status block_definition(parser *p) {
    bd_file *f = p->f;
    p->t++;
    if (f->n_blocks == MAX_BLOCKS) return ERR_AT(p, p->t, BD_E_LIMIT, "more than %d blocks", MAX_BLOCKS);
    bd_block b = {0};
    const bd_tok *at = p->t;
    BD_TRY(new_name(p, "a name for the block", &b.name));
    if (find_block(p, b.name) >= 0)
        return ERR_AT(p, at, BD_E_SYNTAX, "there is a block \"%s\" already", p->l->syms.text[b.name]);
    BD_TRY(punct(p, "(", "\"(\""));
    int args[BD_LANG_MAX_ARGS];
    while (!is_punct(p->t, ")")) {
        if (b.n_args == BD_LANG_MAX_ARGS)
            return ERR_AT(p, p->t, BD_E_LIMIT, "more than %d arguments", BD_LANG_MAX_ARGS);
        const bd_tok *arg = p->t;
        BD_TRY(new_name(p, "a name for the argument", &args[b.n_args]));
        for (int i = 0; i < b.n_args; i++)
            if (args[i] == args[b.n_args]) return ERR_AT(p, arg, BD_E_SYNTAX, "two arguments of one name");
        b.n_args++;
        if (!is_punct(p->t, ",")) break;
        p->t++;
    }
    BD_TRY(punct(p, ")", "\")\" or \",\""));
    if (b.n_args) {
        b.args = take(p, (uint64_t)b.n_args, sizeof *b.args);
        if (!b.args) return ERR_AT(p, at, BD_E_NOMEM, "out of memory");
        memcpy(b.args, args, (size_t)b.n_args * sizeof *args);
    }
    p->in_block = true;
    BD_TRY(body(p, &b.body));
    p->in_block = false;
    const bd_stmt *last = b.body;
    while (last && last->next) last = last->next;
    if (!last || last->kind != BD_ST_RETURN) return ERR_AT(p, p->t, BD_E_SYNTAX, "a block ends with \"return\"");
    b.n_results = last->n_values;
    f->blocks[f->n_blocks++] = b; /* only now: a block cannot call itself */
    return BD_OK;
}

static bd_status statements(parser *p, bool top, bd_stmt **out) {
    bd_stmt **tail = out;
    skip_newlines(p);
    while (p->t->kind != BD_TOK_END && !is_punct(p->t, "}")) {
        if (top && is_word(p, p->t, "infer")) {
            BD_TRY(infer_line(p));
        } else if (top && is_word(p, p->t, "block")) {
            BD_TRY(block_definition(p));
        } else {
            const bd_tok *at = p->t;
            BD_TRY(statement(p, tail));
            if ((*tail)->kind == BD_ST_RETURN && (p->stmt_depth != 1 || !p->in_block))
                return ERR_AT(p, at, BD_E_SYNTAX, "\"return\" is the last statement of a block, and nowhere else");
            bool was_return = (*tail)->kind == BD_ST_RETURN;
            tail = &(*tail)->next;
            BD_TRY(end_of_statement(p));
            if (was_return && !is_punct(p->t, "}"))
                return ERR_AT(p, at, BD_E_SYNTAX, "\"return\" is the last statement of a block, and nowhere else");
            continue;
        }
        BD_TRY(end_of_statement(p));
    }
    return BD_OK;
}

static bd_status header(parser *p) {
    bd_file *f = p->f;
    skip_newlines(p);
    f->tok = p->t;
    if (!is_word(p, p->t, "model")) return expected(p, "\"model\", which begins a model file");
    p->t++;
    BD_TRY(new_name(p, "the model's name", &f->name));
    BD_TRY(punct(p, "(", "\"(\""));
    while (!is_punct(p->t, ")")) {
        if (f->n_constants == MAX_CONSTANTS)
            return ERR_AT(p, p->t, BD_E_LIMIT, "more than %d constants", MAX_CONSTANTS);
        bd_const *c = &f->constants[f->n_constants];
        c->tok = p->t;
        BD_TRY(new_name(p, "a name for the constant", &c->name));
        if (find_constant(p, c->name) >= 0)
            return ERR_AT(p, c->tok, BD_E_SYNTAX, "there is a constant \"%s\" already", p->l->syms.text[c->name]);
        BD_TRY(punct(p, "=", "\"=\" and the default"));
        BD_TRY(expression(p, &c->value));
        f->n_constants++;
        if (!is_punct(p->t, ",")) break;
        p->t++;
    }
    BD_TRY(punct(p, ")", "\")\" or \",\""));
    return end_of_statement(p);
}

bd_status bd_lang_parse(bd_lang *l, bd_file *f) {
    parser p = {.l = l, .f = f, .t = l->toks};
    memset(f, 0, sizeof *f);
    f->constants = take(&p, MAX_CONSTANTS, sizeof *f->constants);
    f->infers = take(&p, MAX_INFERS, sizeof *f->infers);
    f->blocks = take(&p, MAX_BLOCKS, sizeof *f->blocks);
    if (!f->constants || !f->infers || !f->blocks) return ERR_AT(&p, p.t, BD_E_NOMEM, "out of memory");
    BD_TRY(header(&p));
    BD_TRY(statements(&p, true, &f->body));
    if (p.t->kind != BD_TOK_END) return expected(&p, "the end of the file");
    return BD_OK;
}
