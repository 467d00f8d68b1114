/* Elaboration: running the syntax tree once, which appends operations to a graph. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/nearest.h"
#include "runtime/graph_ops.h"
#include "runtime/lang.h"

typedef enum val_kind { V_NONE, V_INT, V_REAL, V_TENSOR, V_PARAM, V_TOKENS } val_kind;

typedef struct val {
    val_kind kind;
    int32_t row; /* PARAM: -1 whole */
    int64_t i;   /* INT; TENSOR: value id; PARAM: declaration */
    double r;    /* REAL */
} val;

/* A name of one scope, perhaps with an index; or a declared parameter. */
typedef struct binding {
    int64_t scope, index;
    int sym;
    bool used, fixed;
    val v;
} binding;
#define NO_INDEX   INT64_MIN       /* the plain name */
#define IS_INDEXED (INT64_MIN + 1) /* marks that the name has elements */
enum { GLOBAL_SCOPE = 0, PARAM_SCOPE = -1 };

typedef struct declared {
    int sym, ndim, graph_id;
    int64_t rows, cols;
    bd_role role;
    bd_init_kind init;
    double a, b;
    const bd_tok *tok;
} declared;

typedef struct elab {
    bd_lang *l;
    const bd_file *f;
    const bd_shape_source *shapes; /* only while infer lines run */
    bool infer;
    bd_builder b;
    binding *table;
    int64_t n_table, n_bound, next_scope;
    declared *decl;
    int n_decl, cap_decl;
    uint64_t steps;
    int call_depth;
} elab;

#define ERR_AT(e, tok, code, ...) bd_lang_error((e)->l, code, (tok)->pos, (tok)->line, (tok)->col, __VA_ARGS__)

static const char *text_of(const elab *e, int sym) { return e->l->syms.text[sym]; }

static const char *kind_name(val_kind k) {
    static const char *const names[] = {"nothing",  "an integer",  "a real number",
                                        "a tensor", "a parameter", "the tokens"};
    return names[k];
}

static bd_status step(elab *e, const bd_tok *t) {
    if (++e->steps > e->l->lim.elaboration_steps)
        return ERR_AT(e, t, BD_E_LIMIT, "elaboration takes more than %" PRIu64 " steps",
                      e->l->lim.elaboration_steps);
    return BD_OK;
}

/* ---- names ---- */

static uint64_t slot_of(int64_t scope, int sym, int64_t index) {
    uint64_t h = (uint64_t)scope * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)sym * UINT64_C(0xbf58476d1ce4e5b9) ^
                 (uint64_t)index * UINT64_C(0x94d049bb133111eb);
    h = (h ^ h >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static binding *find(elab *e, int64_t scope, int sym, int64_t index) {
    uint64_t mask = (uint64_t)e->n_table - 1;
    for (uint64_t h = slot_of(scope, sym, index) & mask;; h = (h + 1) & mask) {
        binding *b = &e->table[h];
        if (!b->used || (b->scope == scope && b->sym == sym && b->index == index)) return b;
    }
}

static bool grow_table(elab *e) {
    int64_t n = e->n_table ? 2 * e->n_table : 1024, old_n = e->n_table;
    binding *old = e->table, *more = bd_arena_alloc(e->l->arena, (uint64_t)n, sizeof *more);
    if (!more) return false;
    e->table = more;
    e->n_table = n;
    for (int64_t i = 0; i < old_n; i++)
        if (old[i].used) *find(e, old[i].scope, old[i].sym, old[i].index) = old[i];
    return true;
}

static bd_status bind(elab *e, const bd_tok *t, int64_t scope, int sym, int64_t index, val v, binding **out) {
    if (2 * e->n_bound >= e->n_table && !grow_table(e)) return ERR_AT(e, t, BD_E_NOMEM, "out of memory");
    binding *b = find(e, scope, sym, index);
    if (!b->used) {
        *b = (binding){.scope = scope, .index = index, .sym = sym, .used = true};
        e->n_bound++;
    }
    b->v = v;
    if (out) *out = b;
    return BD_OK;
}

static bool lookup(elab *e, int64_t scope, int sym, int64_t index, val *v) {
    const binding *b = find(e, scope, sym, index);
    if (!b->used || b->v.kind == V_NONE) return false;
    *v = b->v;
    return true;
}

/* A plain name: of this scope, or a number of the model seen from a block. */
static bd_status name_value(elab *e, const bd_expr *x, int64_t scope, val *v) {
    if (lookup(e, scope, x->sym, NO_INDEX, v)) return BD_OK;
    const char *name = text_of(e, x->sym);
    if (scope != GLOBAL_SCOPE && lookup(e, GLOBAL_SCOPE, x->sym, NO_INDEX, v)) {
        if (v->kind == V_INT || v->kind == V_REAL || v->kind == V_TOKENS) return BD_OK;
        return ERR_AT(e, x->tok, BD_E_UNKNOWN, "\"%s\" is %s of the model: hand it to the block as an argument",
                      name, kind_name(v->kind));
    }
    return ERR_AT(e, x->tok, BD_E_UNKNOWN, "\"%s\" has no value here", name);
}

/* ---- numbers ---- */

static bd_status eval(elab *e, const bd_expr *x, int64_t scope, val *out);

static bd_status eval_int(elab *e, const bd_expr *x, int64_t scope, const char *what, int64_t *out) {
    val v;
    BD_TRY(eval(e, x, scope, &v));
    if (v.kind != V_INT)
        return ERR_AT(e, x->tok, BD_E_FIELD, "expected an integer (%s), got %s", what, kind_name(v.kind));
    *out = v.i;
    return BD_OK;
}

static bd_status eval_real(elab *e, const bd_expr *x, int64_t scope, const char *what, double *out) {
    val v;
    BD_TRY(eval(e, x, scope, &v));
    if (v.kind != V_INT && v.kind != V_REAL)
        return ERR_AT(e, x->tok, BD_E_FIELD, "expected a number (%s), got %s", what, kind_name(v.kind));
    *out = v.kind == V_INT ? (double)v.i : v.r;
    return BD_OK;
}

static val int_val(int64_t i) { return (val){.kind = V_INT, .row = -1, .i = i}; }

static bd_status real_val(elab *e, const bd_tok *t, double r, val *out) {
    if (!isfinite(r)) return ERR_AT(e, t, BD_E_RANGE, "the result is not a finite number");
    *out = (val){.kind = V_REAL, .row = -1, .r = r};
    return BD_OK;
}

/* Division rounds down and % has the divisor's sign, so a = (a / b) * b + a % b. */
static bd_status int_binary(elab *e, const bd_expr *x, int64_t a, int64_t b, val *out) {
    int64_t r = 0;
    bool fine = true;
    switch (x->oper) {
        case BD_OPER_ADD: fine = bd_add_i64(a, b, &r); break;
        case BD_OPER_SUB: fine = bd_sub_i64(a, b, &r); break;
        case BD_OPER_MUL: fine = bd_mul_i64(a, b, &r); break;
        case BD_OPER_DIV:
        case BD_OPER_MOD:
            if (b == 0) return ERR_AT(e, x->tok, BD_E_RANGE, "division by zero");
            if (b == -1) {
                fine = x->oper == BD_OPER_MOD || bd_sub_i64(0, a, &r);
                break;
            }
            r = a / b;
            int64_t m = a % b;
            if (m != 0 && (m < 0) != (b < 0)) r--, m += b;
            if (x->oper == BD_OPER_MOD) r = m;
            break;
        case BD_OPER_EQ: r = a == b; break;
        case BD_OPER_NE: r = a != b; break;
        case BD_OPER_LT: r = a < b; break;
        case BD_OPER_LE: r = a <= b; break;
        case BD_OPER_GT: r = a > b; break;
        default: r = a >= b; break;
    }
    if (!fine) return ERR_AT(e, x->tok, BD_E_RANGE, "integer overflow");
    *out = int_val(r);
    return BD_OK;
}

static bd_status real_binary(elab *e, const bd_expr *x, double a, double b, val *out) {
    switch (x->oper) {
        case BD_OPER_ADD: return real_val(e, x->tok, a + b, out);
        case BD_OPER_SUB: return real_val(e, x->tok, a - b, out);
        case BD_OPER_MUL: return real_val(e, x->tok, a * b, out);
        case BD_OPER_DIV:
            if (b == 0) return ERR_AT(e, x->tok, BD_E_RANGE, "division by zero");
            return real_val(e, x->tok, a / b, out);
        case BD_OPER_MOD: return ERR_AT(e, x->tok, BD_E_FIELD, "%% takes integers");
        case BD_OPER_EQ: *out = int_val(a == b); return BD_OK;
        case BD_OPER_NE: *out = int_val(a != b); return BD_OK;
        case BD_OPER_LT: *out = int_val(a < b); return BD_OK;
        case BD_OPER_LE: *out = int_val(a <= b); return BD_OK;
        case BD_OPER_GT: *out = int_val(a > b); return BD_OK;
        default: *out = int_val(a >= b); return BD_OK;
    }
}

static bd_status eval_binary(elab *e, const bd_expr *x, int64_t scope, val *out) {
    if (x->oper == BD_OPER_AND || x->oper == BD_OPER_OR) {
        int64_t a;
        BD_TRY(eval_int(e, x->a, scope, "a condition", &a));
        if ((a != 0) == (x->oper == BD_OPER_OR)) {
            *out = int_val(x->oper == BD_OPER_OR);
            return BD_OK;
        }
        BD_TRY(eval_int(e, x->b, scope, "a condition", &a));
        *out = int_val(a != 0);
        return BD_OK;
    }
    val a, b;
    BD_TRY(eval(e, x->a, scope, &a));
    BD_TRY(eval(e, x->b, scope, &b));
    const val *bad = a.kind != V_INT && a.kind != V_REAL ? &a : b.kind != V_INT && b.kind != V_REAL ? &b : NULL;
    if (bad)
        return ERR_AT(e, x->tok, BD_E_FIELD, "operators work on numbers, this is %s (tensors have add, scale, mix)",
                      kind_name(bad->kind));
    if (a.kind == V_INT && b.kind == V_INT) return int_binary(e, x, a.i, b.i, out);
    return real_binary(e, x, a.kind == V_INT ? (double)a.i : a.r, b.kind == V_INT ? (double)b.i : b.r, out);
}

/* ---- questions to a checkpoint ---- */

static bd_status text_arg(elab *e, const bd_expr *x, int n, const char *usage) {
    if (x->n_args == n && n > 0 && x->args[0].name < 0 && x->args[0].value->kind == BD_EX_STRING) return BD_OK;
    return ERR_AT(e, x->tok, BD_E_SYNTAX, "expected %s", usage);
}

static bd_status eval_count(elab *e, const bd_expr *x, val *out) {
    BD_TRY(text_arg(e, x, 1, "count(\"pattern\")"));
    if (!e->infer) return ERR_AT(e, x->tok, BD_E_FIELD, "count and shape belong into infer lines");
    *out = int_val(e->shapes->count(e->shapes->user, text_of(e, x->args[0].value->sym)));
    return BD_OK;
}

static bd_status eval_shape(elab *e, const bd_expr *x, int64_t scope, val *out) {
    const bd_expr *call = x->a;
    BD_TRY(text_arg(e, call, 1, "shape(\"name\")[dimension]"));
    if (!e->infer) return ERR_AT(e, call->tok, BD_E_FIELD, "count and shape belong into infer lines");
    const char *name = text_of(e, call->args[0].value->sym);
    int64_t dim[4] = {0}, k;
    int rank = e->shapes->shape(e->shapes->user, name, dim);
    if (rank < 0) return ERR_AT(e, call->tok, BD_E_MISSING, "the checkpoint has no tensor %s", name);
    BD_TRY(eval_int(e, x->b, scope, "a dimension", &k));
    if (k < 0 || k >= rank || k >= 4)
        return ERR_AT(e, x->tok, BD_E_SHAPE, "%s has %d dimensions, there is no number %" PRId64, name, rank, k);
    *out = int_val(dim[k]);
    return BD_OK;
}

/* ---- parameters ---- */

/* "blocks.{i}.x": a name in braces is replaced by its integer. */
static bd_status param_name(elab *e, const bd_expr *x, int64_t scope, int *sym) {
    char out[160];
    size_t n = 0;
    const char *s = text_of(e, x->sym);
    while (*s) {
        char piece[32] = {*s, 0};
        if (*s == '{') {
            const char *end = strchr(s, '}');
            size_t len = end ? (size_t)(end - s) - 1 : 0;
            if (!end || len < 1 || len > 64) return ERR_AT(e, x->tok, BD_E_SYNTAX, "expected {name} in the text");
            bd_expr name = {.kind = BD_EX_NAME, .tok = x->tok};
            name.sym = bd_sym(&e->l->syms, s + 1, len);
            if (name.sym < 0) return ERR_AT(e, x->tok, BD_E_NOMEM, "out of memory");
            int64_t v;
            BD_TRY(eval_int(e, &name, scope, "in braces", &v));
            snprintf(piece, sizeof piece, "%" PRId64, v);
            s = end + 1;
        } else {
            s++;
        }
        size_t m = strlen(piece);
        if (n + m > 128) return ERR_AT(e, x->tok, BD_E_LIMIT, "a parameter's name has at most 128 characters");
        memcpy(out + n, piece, m);
        n += m;
    }
    *sym = bd_sym(&e->l->syms, out, n);
    return *sym < 0 ? ERR_AT(e, x->tok, BD_E_NOMEM, "out of memory") : BD_OK;
}

static bd_status init_numbers(elab *e, const bd_expr *x, int64_t scope, int n, double *a, double *b) {
    if (x->kind != BD_EX_CALL || x->n_args != n)
        return ERR_AT(e, x->tok, BD_E_SYNTAX, "expected %d number%s in parentheses", n, n > 1 ? "s" : "");
    BD_TRY(eval_real(e, x->args[0].value, scope, "initial values", a));
    if (n > 1) BD_TRY(eval_real(e, x->args[1].value, scope, "initial values", b));
    return BD_OK;
}

static bd_status param_init(elab *e, const bd_expr *x, int64_t scope, declared *d) {
    const char *s = x->kind == BD_EX_NAME || x->kind == BD_EX_CALL ? text_of(e, x->sym) : "";
    if (!strcmp(s, "zeros") && x->kind == BD_EX_NAME) {
        d->init = BD_INIT_ZEROS;
        return BD_OK;
    }
    if (!strcmp(s, "ones") && x->kind == BD_EX_NAME) {
        d->init = BD_INIT_CONST;
        d->a = 1;
        return BD_OK;
    }
    static const struct {
        const char *name;
        bd_init_kind kind;
        int n;
    } kinds[] = {{"const", BD_INIT_CONST, 1},
                 {"normal", BD_INIT_NORMAL, 1},
                 {"uniform", BD_INIT_UNIFORM, 1},
                 {"rows", BD_INIT_ROWS, 2}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(s, kinds[i].name)) continue;
        d->init = kinds[i].kind;
        return init_numbers(e, x, scope, kinds[i].n, &d->a, &d->b);
    }
    return ERR_AT(e, x->tok, BD_E_UNKNOWN,
                  "expected init=zeros, ones, const(a), normal(deviation), uniform(bound) or rows(a, b)");
}

static bd_status param_role(elab *e, const bd_expr *x, declared *d) {
    for (int r = 0; x->kind == BD_EX_NAME && r < BD_ROLE_COUNT; r++) {
        if (strcmp(text_of(e, x->sym), bd_role_name((bd_role)r))) continue;
        d->role = (bd_role)r;
        return BD_OK;
    }
    return ERR_AT(e, x->tok, BD_E_UNKNOWN, "expected role=matrix, embedding, head or vector");
}

static bool same_number(double a, double b) { return a >= b && a <= b; }

static bd_status declare(elab *e, const declared *d, val *out) {
    val v;
    if (lookup(e, PARAM_SCOPE, d->sym, 0, &v)) {
        const declared *o = &e->decl[v.i];
        if (o->ndim != d->ndim || o->rows != d->rows || o->cols != d->cols || o->role != d->role ||
            o->init != d->init || !same_number(o->a, d->a) || !same_number(o->b, d->b))
            return ERR_AT(e, d->tok, BD_E_FIELD, "parameter %s stands on line %d with another shape, init or role",
                          text_of(e, d->sym), o->tok->line);
        *out = v;
        return BD_OK;
    }
    if ((uint64_t)e->n_decl >= e->l->lim.params)
        return ERR_AT(e, d->tok, BD_E_LIMIT, "more than %" PRIu64 " parameters", e->l->lim.params);
    if (e->n_decl == e->cap_decl) {
        int cap = e->cap_decl ? 2 * e->cap_decl : 128;
        declared *more = bd_arena_alloc(e->l->arena, (uint64_t)cap, sizeof *more);
        if (!more) return ERR_AT(e, d->tok, BD_E_NOMEM, "out of memory");
        if (e->n_decl) memcpy(more, e->decl, (size_t)e->n_decl * sizeof *more);
        e->decl = more;
        e->cap_decl = cap;
    }
    *out = (val){.kind = V_PARAM, .row = -1, .i = e->n_decl};
    e->decl[e->n_decl++] = *d;
    return bind(e, d->tok, PARAM_SCOPE, d->sym, 0, *out, NULL);
}

static bd_status eval_param(elab *e, const bd_expr *x, int64_t scope, val *out) {
    static const char usage[] = "param(\"name\", [sizes], init=..., role=...)";
    if (x->n_args < 2 || x->args[0].name >= 0 || x->args[1].name >= 0 || x->args[0].value->kind != BD_EX_STRING ||
        x->args[1].value->kind != BD_EX_LIST)
        return ERR_AT(e, x->tok, BD_E_SYNTAX, "expected %s", usage);
    const bd_expr *sizes = x->args[1].value;
    declared d = {.tok = x->tok, .graph_id = -1, .rows = 1, .ndim = sizes->n_args};
    BD_TRY(param_name(e, x->args[0].value, scope, &d.sym));
    if (d.ndim < 1 || d.ndim > 2) return ERR_AT(e, sizes->tok, BD_E_SHAPE, "expected one or two sizes");
    for (int k = 0; k < d.ndim; k++) {
        int64_t n;
        BD_TRY(eval_int(e, sizes->args[k].value, scope, "a size", &n));
        if (n < 1)
            return ERR_AT(e, sizes->args[k].value->tok, BD_E_SHAPE,
                          "%s: a size of %" PRId64 ", it must be positive", text_of(e, d.sym), n);
        if (k == 0 && d.ndim == 2) d.rows = n;
        else d.cols = n;
    }
    d.role = d.ndim == 1 ? BD_ROLE_VECTOR : BD_ROLE_MATRIX;
    bool has_init = false;
    for (int k = 2; k < x->n_args; k++) {
        const bd_arg *a = &x->args[k];
        const char *name = a->name >= 0 ? text_of(e, a->name) : "";
        if (!strcmp(name, "init")) {
            has_init = true;
            BD_TRY(param_init(e, a->value, scope, &d));
        } else if (!strcmp(name, "role")) {
            BD_TRY(param_role(e, a->value, &d));
        } else {
            return ERR_AT(e, a->value->tok, BD_E_SYNTAX, "expected %s", usage);
        }
    }
    if (!has_init)
        return ERR_AT(e, x->tok, BD_E_MISSING, "parameter %s: say how it begins, init=...", text_of(e, d.sym));
    return declare(e, &d, out);
}

static bd_status eval_tied(elab *e, const bd_expr *x, int64_t scope, val *out) {
    BD_TRY(text_arg(e, x, 1, "tied(\"name\")"));
    int sym;
    BD_TRY(param_name(e, x->args[0].value, scope, &sym));
    if (lookup(e, PARAM_SCOPE, sym, 0, out)) return BD_OK;
    return ERR_AT(e, x->tok, BD_E_UNKNOWN, "there is no parameter %s so far", text_of(e, sym));
}

static bd_status eval_index(elab *e, const bd_expr *x, int64_t scope, val *out) {
    if (x->a->kind == BD_EX_CALL && x->a->block < 0 && !strcmp(text_of(e, x->a->sym), "shape"))
        return eval_shape(e, x, scope, out);
    int64_t i;
    BD_TRY(eval_int(e, x->b, scope, "an index", &i));
    if (x->a->kind == BD_EX_NAME && !lookup(e, scope, x->a->sym, NO_INDEX, out)) {
        if (i != NO_INDEX && i != IS_INDEXED && lookup(e, scope, x->a->sym, i, out)) return BD_OK;
        return ERR_AT(e, x->tok, BD_E_UNKNOWN, "%s[%" PRId64 "] has no value here", text_of(e, x->a->sym), i);
    }
    BD_TRY(eval(e, x->a, scope, out));
    if (out->kind != V_PARAM || out->row >= 0)
        return ERR_AT(e, x->tok, BD_E_FIELD, "only a parameter of two dimensions has rows, this is %s%s",
                      out->kind == V_PARAM ? "a row of " : "", kind_name(out->kind));
    const declared *d = &e->decl[out->i];
    if (d->ndim != 2 || i < 0 || i >= d->rows || i > INT32_MAX)
        return ERR_AT(e, x->tok, BD_E_RANGE, "%s has no row %" PRId64, text_of(e, d->sym), i);
    out->row = (int32_t)i;
    return BD_OK;
}

/* ---- operations ---- */

static bd_status param_operand(elab *e, val v, bd_operand *o) {
    declared *d = &e->decl[v.i];
    if (d->graph_id < 0) { /* numbered in the order of first use */
        bd_err inner = {0};
        const char *name = text_of(e, d->sym);
        if (bd_builder_param(&e->b, name, strlen(name), d->ndim, d->rows, d->cols, d->role, &d->graph_id, &inner) !=
            BD_OK)
            return ERR_AT(e, d->tok, inner.code, "%s", inner.msg);
        bd_param *p = &e->b.g->params[d->graph_id];
        p->init = d->init;
        p->init_a = d->a;
        p->init_b = d->b;
    }
    *o = (bd_operand){BD_OPD_PARAM, d->graph_id, v.row, 0};
    return BD_OK;
}

static bd_status operand(elab *e, const bd_expr *call, const bd_expr *x, bd_slot slot, int64_t scope,
                         bd_operand *o) {
    static const char *const wanted[] = {"", "a tensor", "a parameter (matrix)", "a parameter (vector or row)",
                                         "tokens"};
    val v;
    BD_TRY(eval(e, x, scope, &v));
    *o = (bd_operand){.row = -1};
    if (v.kind == V_TENSOR && slot == BD_SLOT_VALUE) {
        o->kind = BD_OPD_VALUE;
        o->id = (int32_t)v.i;
        return BD_OK;
    }
    if (v.kind == V_TOKENS && slot == BD_SLOT_TOKENS) {
        o->kind = BD_OPD_TOKENS;
        return BD_OK;
    }
    if (v.kind == V_PARAM && (slot == BD_SLOT_MATRIX || slot == BD_SLOT_VECTOR)) return param_operand(e, v, o);
    return ERR_AT(e, x->tok, BD_E_FIELD, "%s: expected %s, got %s", text_of(e, call->sym), wanted[slot],
                  kind_name(v.kind));
}

static bd_status attribute(elab *e, const bd_expr *call, const bd_attr_field *f, const bd_expr *x, int64_t scope,
                           bd_attr *attr) {
    if (f->type == BD_ATTR_I32) {
        int64_t i;
        BD_TRY(eval_int(e, x, scope, f->name, &i));
        if (i < INT32_MIN || i > INT32_MAX)
            return ERR_AT(e, x->tok, BD_E_RANGE, "%s: %s is out of range", text_of(e, call->sym), f->name);
        bd_attr_write(attr, f, (double)i);
        return BD_OK;
    }
    double r;
    BD_TRY(eval_real(e, x, scope, f->name, &r));
    if (f->type == BD_ATTR_F32 && !(fabs(r) <= 3.4e38))
        return ERR_AT(e, x->tok, BD_E_RANGE, "%s: %s is out of range", text_of(e, call->sym), f->name);
    bd_attr_write(attr, f, r);
    return BD_OK;
}

/* What an attribute is when nothing is said; false: it must be said. */
static bool default_attribute(const elab *e, bd_node *n, int field) {
    const bd_graph *g = e->b.g;
    switch (n->op) {
        case BD_OP_rms_norm:
            if (field == 0) n->attr.norm.width = g->values[n->in[0].id].width;
            else n->attr.norm.eps = 0x1p-23f;
            return true;
        case BD_OP_head_scale: n->attr.heads.heads = (int32_t)g->params[n->in[1].id].cols; return true;
        case BD_OP_relu2: n->attr.relu2.slope = 0; return true;
        default: return false;
    }
}

static bd_status eval_op(elab *e, const bd_expr *x, int64_t scope, val *out) {
    const char *name = text_of(e, x->sym);
    bd_node n = {.op = (bd_op)bd_op_find(name, (int)strlen(name)), .line = x->tok->line};
    const bd_op_shape *s = bd_op_shape_get(n.op);
    int at = 0, written = 0;
    for (int k = 0; k < BD_MAX_IN; k++) written += s->in[k] != BD_SLOT_NONE && s->in[k] != BD_SLOT_ROPE;
    if (x->n_args < written || (written && x->args[written - 1].name >= 0))
        return ERR_AT(e, x->tok, BD_E_SYNTAX, "%s takes %d operand%s", name, written, written > 1 ? "s" : "");
    /* The language says embed(tokens, table). */
    bool swap = n.op == BD_OP_embed;
    for (int k = 0; k < BD_MAX_IN && s->in[k] != BD_SLOT_NONE; k++) {
        if (s->in[k] == BD_SLOT_ROPE) {
            n.in[k] = (bd_operand){.kind = BD_OPD_ROPE, .row = -1};
            continue;
        }
        BD_TRY(operand(e, x, x->args[swap ? written - 1 - at : at].value, s->in[k], scope, &n.in[k]));
        at++;
    }
    bool given[BD_MAX_FIELDS] = {false};
    for (int k = written; k < x->n_args; k++) {
        const bd_arg *a = &x->args[k];
        int f = a->name < 0 ? k - written : 0;
        if (a->name >= 0)
            while (f < s->n_fields && strcmp(s->field[f].name, text_of(e, a->name))) f++;
        if (f >= s->n_fields || given[f]) {
            if (a->name < 0 || f < s->n_fields)
                return ERR_AT(e, a->value->tok, BD_E_SYNTAX, "%s: too many arguments", name);
            return ERR_AT(e, a->value->tok, BD_E_UNKNOWN, "%s has no attribute \"%s\"", name, text_of(e, a->name));
        }
        given[f] = true;
        BD_TRY(attribute(e, x, &s->field[f], a->value, scope, &n.attr));
    }
    for (int f = 0; f < s->n_fields; f++)
        if (!given[f] && !default_attribute(e, &n, f))
            return ERR_AT(e, x->tok, BD_E_MISSING, "%s needs %s=...", name, s->field[f].name);
    bd_err inner = {0};
    int32_t value;
    bd_status st = bd_builder_node(&e->b, &n, &value, &inner);
    if (st != BD_OK) return ERR_AT(e, x->tok, st, "%s", inner.msg);
    *out = (val){.kind = V_TENSOR, .row = -1, .i = value};
    return BD_OK;
}

/* ---- calls ---- */

static bd_status run_stmts(elab *e, const bd_stmt *s, int64_t scope, val *results);

static bd_status call_block(elab *e, const bd_expr *x, int64_t scope, val results[4]) {
    const bd_block *b = &e->f->blocks[x->block];
    const char *name = text_of(e, x->sym);
    if (x->n_args != b->n_args)
        return ERR_AT(e, x->tok, BD_E_SYNTAX, "block %s takes %d arguments, got %d", name, b->n_args, x->n_args);
    if (e->call_depth == BD_LANG_CALL_DEPTH)
        return ERR_AT(e, x->tok, BD_E_LIMIT, "blocks call each other more than %d deep", BD_LANG_CALL_DEPTH);
    int64_t inner = e->next_scope++;
    for (int k = 0; k < b->n_args; k++) {
        val v;
        if (x->args[k].name >= 0)
            return ERR_AT(e, x->args[k].value->tok, BD_E_SYNTAX, "arguments of a block have no names");
        BD_TRY(eval(e, x->args[k].value, scope, &v));
        BD_TRY(bind(e, x->tok, inner, b->args[k], NO_INDEX, v, NULL));
    }
    e->call_depth++;
    BD_TRY(run_stmts(e, b->body, inner, results));
    e->call_depth--;
    return BD_OK;
}

static bd_status eval_call(elab *e, const bd_expr *x, int64_t scope, val *out) {
    const char *name = text_of(e, x->sym);
    if (x->block >= 0) {
        val results[4];
        if (e->f->blocks[x->block].n_results != 1)
            return ERR_AT(e, x->tok, BD_E_FIELD, "block %s gives %d results, one is wanted here", name,
                          e->f->blocks[x->block].n_results);
        BD_TRY(call_block(e, x, scope, results));
        *out = results[0];
        return BD_OK;
    }
    if (!strcmp(name, "param")) return eval_param(e, x, scope, out);
    if (!strcmp(name, "tied")) return eval_tied(e, x, scope, out);
    if (!strcmp(name, "count")) return eval_count(e, x, out);
    if (!strcmp(name, "shape")) return ERR_AT(e, x->tok, BD_E_SYNTAX, "expected shape(\"name\")[dimension]");
    if (!strcmp(name, "sqrt")) {
        double r;
        if (x->n_args != 1) return ERR_AT(e, x->tok, BD_E_SYNTAX, "sqrt takes one number");
        BD_TRY(eval_real(e, x->args[0].value, scope, "sqrt", &r));
        if (r < 0) return ERR_AT(e, x->tok, BD_E_RANGE, "sqrt of a negative number");
        return real_val(e, x->tok, sqrt(r), out);
    }
    if (!strcmp(name, "min") || !strcmp(name, "max")) {
        val a, b;
        if (x->n_args != 2) return ERR_AT(e, x->tok, BD_E_SYNTAX, "%s takes two integers", name);
        BD_TRY(eval_int(e, x->args[0].value, scope, name, &a.i));
        BD_TRY(eval_int(e, x->args[1].value, scope, name, &b.i));
        *out = int_val((name[1] == 'i') == (a.i < b.i) ? a.i : b.i);
        return BD_OK;
    }
    if (bd_op_find(name, (int)strlen(name)) >= 0) return eval_op(e, x, scope, out);
    return ERR_AT(e, x->tok, BD_E_SYNTAX, "%s(...) belongs into init=", name);
}

static bd_status eval(elab *e, const bd_expr *x, int64_t scope, val *out) {
    BD_TRY(step(e, x->tok));
    switch (x->kind) {
        case BD_EX_INT: *out = int_val(x->i); return BD_OK;
        case BD_EX_REAL: return real_val(e, x->tok, x->r, out);
        case BD_EX_NAME: return name_value(e, x, scope, out);
        case BD_EX_INDEX: return eval_index(e, x, scope, out);
        case BD_EX_CALL: return eval_call(e, x, scope, out);
        case BD_EX_BINARY: return eval_binary(e, x, scope, out);
        case BD_EX_UNARY:
            if (x->oper == BD_OPER_NOT) {
                int64_t i;
                BD_TRY(eval_int(e, x->a, scope, "a condition", &i));
                *out = int_val(!i);
                return BD_OK;
            }
            BD_TRY(eval(e, x->a, scope, out));
            if (out->kind == V_REAL) {
                out->r = -out->r;
            } else if (out->kind != V_INT || !bd_sub_i64(0, out->i, &out->i)) {
                return ERR_AT(e, x->tok, BD_E_FIELD, "- takes a number, this is %s", kind_name(out->kind));
            }
            return BD_OK;
        case BD_EX_STRING:
            return ERR_AT(e, x->tok, BD_E_SYNTAX, "a text is no value; it names a parameter or tensor");
        default: return ERR_AT(e, x->tok, BD_E_SYNTAX, "a list is no value; it is a parameter's shape");
    }
}

/* ---- statements ---- */

static bd_status assign(elab *e, const bd_target *t, int64_t scope, val v) {
    const char *name = text_of(e, t->sym);
    const binding *plain = find(e, scope, t->sym, NO_INDEX);
    if (plain->used && plain->fixed)
        return ERR_AT(e, t->tok, BD_E_FIELD, "\"%s\" is a constant or a counter and cannot be assigned", name);
    if (!t->index) {
        if (find(e, scope, t->sym, IS_INDEXED)->used)
            return ERR_AT(e, t->tok, BD_E_FIELD, "\"%s\" has elements; assign to %s[i]", name, name);
        return bind(e, t->tok, scope, t->sym, NO_INDEX, v, NULL);
    }
    if (plain->used) return ERR_AT(e, t->tok, BD_E_FIELD, "\"%s\" has no elements", name);
    int64_t i;
    BD_TRY(eval_int(e, t->index, scope, "an index", &i));
    if (i == NO_INDEX || i == IS_INDEXED) return ERR_AT(e, t->tok, BD_E_RANGE, "index out of range");
    BD_TRY(bind(e, t->tok, scope, t->sym, IS_INDEXED, int_val(1), NULL));
    return bind(e, t->tok, scope, t->sym, i, v, NULL);
}

static bd_status run_assign(elab *e, const bd_stmt *s, int64_t scope) {
    val v[4];
    const bd_expr *x = s->value[0];
    if (s->n_targets == 1) {
        BD_TRY(eval(e, x, scope, &v[0]));
    } else {
        if (x->kind != BD_EX_CALL || x->block < 0 || e->f->blocks[x->block].n_results != s->n_targets)
            return ERR_AT(e, x->tok, BD_E_FIELD, "expected a call of a block with %d results", s->n_targets);
        BD_TRY(call_block(e, x, scope, v));
    }
    for (int k = 0; k < s->n_targets; k++) BD_TRY(assign(e, &s->target[k], scope, v[k]));
    return BD_OK;
}

static bd_status run_for(elab *e, const bd_stmt *s, int64_t scope) {
    int64_t from, to;
    BD_TRY(eval_int(e, s->value[0], scope, "the range", &from));
    BD_TRY(eval_int(e, s->value[1], scope, "the range", &to));
    const bd_target *t = &s->target[0];
    const binding *old = find(e, scope, t->sym, NO_INDEX);
    if ((old->used && old->v.kind != V_NONE) || find(e, scope, t->sym, IS_INDEXED)->used)
        return ERR_AT(e, t->tok, BD_E_FIELD, "the counter \"%s\" has a value already; take another name",
                      text_of(e, t->sym));
    for (int64_t i = from; i < to; i++) {
        BD_TRY(step(e, s->tok));
        binding *b;
        BD_TRY(bind(e, t->tok, scope, t->sym, NO_INDEX, int_val(i), &b));
        b->fixed = true;
        BD_TRY(run_stmts(e, s->body, scope, NULL));
    }
    binding *b = find(e, scope, t->sym, NO_INDEX);
    if (b->used) {
        b->v.kind = V_NONE;
        b->fixed = false;
    }
    return BD_OK;
}

static bd_status run_stmts(elab *e, const bd_stmt *s, int64_t scope, val *results) {
    for (; s; s = s->next) {
        BD_TRY(step(e, s->tok));
        int64_t c;
        switch (s->kind) {
            case BD_ST_ASSIGN: BD_TRY(run_assign(e, s, scope)); break;
            case BD_ST_FOR: BD_TRY(run_for(e, s, scope)); break;
            case BD_ST_IF:
                BD_TRY(eval_int(e, s->value[0], scope, "a condition", &c));
                BD_TRY(run_stmts(e, c ? s->body : s->other, scope, results));
                break;
            case BD_ST_REQUIRE:
                BD_TRY(eval_int(e, s->value[0], scope, "a condition", &c));
                if (!c)
                    return ERR_AT(
                        e, s->tok, BD_E_RANGE, "%s",
                        s->message >= 0 ? text_of(e, s->message) : "the model's requirement does not hold");
                break;
            case BD_ST_RETURN:
                for (int k = 0; k < s->n_values; k++) BD_TRY(eval(e, s->value[k], scope, &results[k]));
                break;
        }
    }
    return BD_OK;
}

/* ---- constants ---- */

static bd_status set_constant(elab *e, const bd_const *c, const bd_tok *t, val v, val_kind want) {
    if (want == V_REAL && v.kind == V_INT) v = (val){.kind = V_REAL, .row = -1, .r = (double)v.i};
    if (v.kind != want)
        return ERR_AT(e, t, BD_E_FIELD, "constant \"%s\" is %s, got %s", text_of(e, c->name), kind_name(want),
                      kind_name(v.kind));
    binding *b;
    BD_TRY(bind(e, t, GLOBAL_SCOPE, c->name, NO_INDEX, v, &b));
    b->fixed = true;
    return BD_OK;
}

/* An integer or decimal number, as --set gives it. */
static bd_status setting_value(elab *e, const bd_setting *s, val *v) {
    const char *p = s->value;
    bool real = strpbrk(p, ".eE") != NULL;
    char *end = NULL;
    size_t n = strlen(p);
    if (n < 1 || n > 40 || strspn(p, "+-.0123456789eE") != n)
        return BD_FAIL(e->l->err, BD_E_USAGE, "%s=%.60s is not a number", s->name, p);
    if (real) {
        double r = strtod(p, &end);
        *v = (val){.kind = V_REAL, .row = -1, .r = r};
        if (*end || !isfinite(r)) return BD_FAIL(e->l->err, BD_E_USAGE, "%s=%s is not a number", s->name, p);
        return BD_OK;
    }
    if (n > 18) return BD_FAIL(e->l->err, BD_E_USAGE, "%s=%s is too large", s->name, p);
    *v = int_val(strtoll(p, &end, 10));
    if (*end) return BD_FAIL(e->l->err, BD_E_USAGE, "%s=%s is not a number", s->name, p);
    return BD_OK;
}

static bd_status unknown_constant(elab *e, const char *name) {
    char list[400] = "";
    const char *names[64];
    int n = 0;
    for (int i = 0; i < e->f->n_constants; i++) {
        const char *c = text_of(e, e->f->constants[i].name);
        if (n < 64) names[n++] = c;
        size_t len = strlen(list);
        if (len + strlen(c) + 3 < sizeof list) snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "", c);
    }
    const char *near = bd_nearest(name, names, n);
    return BD_FAIL(e->l->err, BD_E_UNKNOWN, "model %s has no constant \"%.64s\"%s%s%s; it has: %s",
                   text_of(e, e->f->name), name, near ? " (did you mean \"" : "", near ? near : "",
                   near ? "\"?)" : "", *list ? list : "none");
}

static const bd_setting *find_setting(const elab *e, const bd_const *c, const bd_setting *settings, int n) {
    for (int i = n - 1; i >= 0; i--) /* the last one wins */
        if (!strcmp(settings[i].name, text_of(e, c->name))) return &settings[i];
    return NULL;
}

static bd_status set_constants(elab *e, const bd_setting *settings, int n, const bd_shape_source *shapes) {
    const bd_file *f = e->f;
    for (int i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < f->n_constants; k++)
            known |= !strcmp(settings[i].name, text_of(e, f->constants[k].name));
        if (!known) return unknown_constant(e, settings[i].name);
    }
    val_kind *kinds = bd_arena_alloc(e->l->arena, (uint64_t)f->n_constants + 1, sizeof *kinds);
    if (!kinds) return ERR_AT(e, f->tok, BD_E_NOMEM, "out of memory");
    for (int k = 0; k < f->n_constants; k++) {
        const bd_const *c = &f->constants[k];
        val v;
        BD_TRY(eval(e, c->value, GLOBAL_SCOPE, &v));
        if (v.kind != V_INT && v.kind != V_REAL)
            return ERR_AT(e, c->value->tok, BD_E_FIELD, "a constant is a number, this is %s", kind_name(v.kind));
        kinds[k] = v.kind;
        const bd_setting *s = find_setting(e, c, settings, n);
        if (s) {
            BD_TRY(setting_value(e, s, &v));
            if (v.kind == V_REAL && kinds[k] == V_INT)
                return BD_FAIL(e->l->err, BD_E_USAGE, "%s=%s: the constant is an integer", s->name, s->value);
        }
        BD_TRY(set_constant(e, c, c->tok, v, kinds[k]));
    }
    if (!shapes) return BD_OK;
    e->shapes = shapes;
    e->infer = true;
    for (int i = 0; i < f->n_infers; i++) {
        const bd_infer *in = &f->infers[i];
        const bd_const *c = &f->constants[in->constant];
        if (find_setting(e, c, settings, n)) continue;
        val v;
        BD_TRY(eval(e, in->value, GLOBAL_SCOPE, &v));
        BD_TRY(set_constant(e, c, in->tok, v, kinds[in->constant]));
    }
    e->infer = false;
    return BD_OK;
}

/* ---- all of it ---- */

static bd_status finish(elab *e, bd_graph **out) {
    const bd_tok *end = &e->l->toks[e->l->n_toks - 1];
    int logits = bd_sym(&e->l->syms, "logits", 6);
    val v;
    if (logits < 0) return ERR_AT(e, end, BD_E_NOMEM, "out of memory");
    if (!lookup(e, GLOBAL_SCOPE, logits, NO_INDEX, &v) || v.kind != V_TENSOR)
        return ERR_AT(e, end, BD_E_MISSING, "expected \"logits = ...\", which every model file ends with");
    for (int i = 0; i < e->n_decl; i++)
        if (e->decl[i].graph_id < 0)
            return ERR_AT(e, e->decl[i].tok, BD_E_FIELD, "parameter %s is never used", text_of(e, e->decl[i].sym));
    const bd_graph *g = e->b.g;
    const bd_node *last = &g->nodes[g->n_nodes - 1];
    if (v.i != last->out[0].id)
        return ERR_AT(e, end, BD_E_FIELD,
                      "the operation that gives the logits must be the last; line %d has another", last->line);
    bd_err inner = {0};
    bd_status st = bd_builder_take(&e->b, out, &inner);
    if (st != BD_OK) return ERR_AT(e, e->f->tok, st, "%s", inner.msg);
    return BD_OK;
}

static bd_status elaborate(elab *e, bd_file *f, const bd_setting *settings, int n_settings,
                           const bd_shape_source *shapes, bd_graph **out) {
    bd_lang *l = e->l;
    BD_TRY(bd_lang_lex(l));
    BD_TRY(bd_lang_parse(l, f));
    e->f = f;
    e->next_scope = 1;
    int tokens = bd_sym(&l->syms, "tokens", 6);
    if (tokens < 0 || !grow_table(e)) return ERR_AT(e, f->tok, BD_E_NOMEM, "out of memory");
    binding *b;
    BD_TRY(bind(e, f->tok, GLOBAL_SCOPE, tokens, NO_INDEX, (val){.kind = V_TOKENS, .row = -1}, &b));
    b->fixed = true;
    BD_TRY(set_constants(e, settings, n_settings, shapes));
    const char *name = text_of(e, f->name);
    BD_TRY(bd_builder_init(&e->b, name, strlen(name), &l->lim, l->err));
    BD_TRY(run_stmts(e, f->body, GLOBAL_SCOPE, NULL));
    return finish(e, out);
}

bd_status bd_model_elaborate(bd_graph **out, const char *text, uint64_t size, const char *file_name,
                             const bd_setting *settings, int n_settings, const bd_shape_source *shapes,
                             const bd_limits *lim, bd_err *err) {
    *out = NULL;
    bd_arena *arena = bd_arena_create(UINT64_C(512) << 20);
    if (!arena) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    bd_lang l = {.arena = arena,
                 .text = text,
                 .size = size,
                 .file = file_name ? file_name : "model",
                 .lim = *lim,
                 .syms = {.arena = arena},
                 .err = err};
    bd_file f;
    elab e = {.l = &l};
    bd_status st = elaborate(&e, &f, settings, n_settings, shapes, out);
    bd_builder_drop(&e.b);
    bd_arena_destroy(arena);
    return st;
}
