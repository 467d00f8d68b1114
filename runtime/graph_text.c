/* The canonical text of a graph: what stands in an artifact. docs/models.md
 * describes it; in short
 *
 *     birdie-graph 1 NAME
 *     param NAME 1024x512 embedding          one line per parameter, in the order of first use
 *     rms_norm -1 width=512 eps=0x1p-23      one line per operation
 *
 * Operands: `-d` is the result d operations back, `%i` the result of operation i
 * (counted from 0) when it lies more than NEAR back; `+` is the next parameter of
 * the list, used here for the first time, `^d` the one introduced d before the
 * newest, `@i` parameter i when it lies further back; `[r]` names a row. Repeated
 * blocks thus look alike, which is what makes the text compress.
 *
 * Parsing is print's inverse by construction: the text is read, checked, printed
 * again and compared. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/graph_ops.h"

enum { NEAR = 24, NEAR_PARAM = 15 };
static const char magic[] = "birdie-graph 1 ";

/* ---- printing ---- */

/* Integers in decimal, everything else as the shortest C99 hexadecimal float. */
static void put_number(bd_buf *out, double v) {
    if (v == floor(v) && fabs(v) < 16777216.0) {
        bd_buf_printf(out, "%" PRId64, (int64_t)v);
        return;
    }
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    uint64_t frac = bits & 0xfffffffffffff;
    if (exponent == -1023) { /* subnormal: normalise */
        exponent = -1022;
        while (!(frac >> 52)) {
            frac <<= 1;
            exponent--;
        }
        frac &= 0xfffffffffffff;
    }
    bd_buf_printf(out, "%s0x1", bits >> 63 ? "-" : "");
    if (frac) {
        char digits[14];
        int n = 0;
        for (; frac; frac = frac << 4 & 0xfffffffffffff) digits[n++] = "0123456789abcdef"[frac >> 48];
        bd_buf_printf(out, ".%.*s", n, digits);
    }
    bd_buf_printf(out, "p%+d", exponent);
}

static void put_operand(bd_buf *out, const bd_graph *g, int at, const bd_operand *o, int *known) {
    switch (o->kind) {
        case BD_OPD_VALUE: {
            int from = g->values[o->id].node;
            if (at - from <= NEAR) bd_buf_printf(out, " -%d", at - from);
            else bd_buf_printf(out, " %%%d", from);
            break;
        }
        case BD_OPD_PARAM:
            if (o->id == *known) {
                bd_buf_printf(out, " +");
                ++*known;
            } else if (*known - 1 - o->id <= NEAR_PARAM) {
                bd_buf_printf(out, " ^%d", *known - 1 - o->id);
            } else {
                bd_buf_printf(out, " @%d", o->id);
            }
            if (o->row >= 0) bd_buf_printf(out, "[%d]", o->row);
            break;
        case BD_OPD_TOKENS: bd_buf_printf(out, " tokens"); break;
        default: break;
    }
}

bd_status bd_graph_print(const bd_graph *g, bd_buf *out, bd_err *err) {
    bd_buf_printf(out, "%s%s\n", magic, g->name);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        bd_buf_printf(out, "param %s ", p->name);
        if (p->ndim == 2) bd_buf_printf(out, "%" PRId64 "x", p->rows);
        bd_buf_printf(out, "%" PRId64 " %s\n", p->cols, bd_role_name(p->role));
    }
    int known = 0;
    for (int i = 0; i < g->n_forward; i++) {
        const bd_node *n = &g->nodes[i];
        const bd_op_shape *s = bd_op_shape_get(n->op);
        bd_buf_printf(out, "%s", bd_op_get(n->op)->name);
        for (int k = 0; k < BD_MAX_IN; k++) put_operand(out, g, i, &n->in[k], &known);
        for (int f = 0; f < s->n_fields; f++) {
            bd_buf_printf(out, " %s=", s->field[f].name);
            put_number(out, bd_attr_read(&n->attr, &s->field[f]));
        }
        bd_buf_printf(out, "\n");
    }
    return bd_buf_check(out, err);
}

/* ---- parsing ---- */

typedef struct text {
    const char *s;
    uint64_t n, pos;
    bd_err *err;
} text;

static int peek(const text *t) { return t->pos < t->n ? (unsigned char)t->s[t->pos] : -1; }

#define SYNTAX(t, ...) BD_FAIL_AT((t)->err, BD_E_SYNTAX, (t)->pos, __VA_ARGS__)

static bd_status expect(text *t, const char *what) {
    uint64_t n = strlen(what);
    if (t->n - t->pos < n || memcmp(t->s + t->pos, what, n) != 0)
        return SYNTAX(t, "graph text: expected \"%s\"", what[0] == '\n' ? "end of line" : what);
    t->pos += n;
    return BD_OK;
}

/* A run of characters up to a blank or the end of the line. */
static uint64_t word(text *t, const char **at) {
    *at = t->s + t->pos;
    uint64_t n = 0;
    while (t->pos < t->n && t->s[t->pos] != ' ' && t->s[t->pos] != '\n') t->pos++, n++;
    return n;
}

static bool word_is(const char *w, uint64_t n, const char *what) {
    return strlen(what) == n && !memcmp(w, what, n);
}

static bd_status natural(text *t, int64_t *out) {
    int64_t v = 0;
    int digits = 0;
    for (int c; (c = peek(t)) >= '0' && c <= '9'; t->pos++) {
        if (++digits > 12) return SYNTAX(t, "graph text: number too long");
        v = v * 10 + (c - '0');
    }
    if (!digits) return SYNTAX(t, "graph text: expected a number");
    *out = v;
    return BD_OK;
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* At most 13 hexadecimal digits after the point, so every step is exact. */
static bd_status number(text *t, double *out) {
    bool minus = peek(t) == '-';
    t->pos += minus;
    double v;
    if (t->n - t->pos >= 3 && !memcmp(t->s + t->pos, "0x1", 3)) {
        t->pos += 3;
        uint64_t m = 1;
        int digits = 0;
        if (peek(t) == '.') {
            t->pos++;
            for (int d; (d = hex_digit(peek(t))) >= 0; t->pos++) {
                if (++digits > 13) return SYNTAX(t, "graph text: too many digits");
                m = m << 4 | (unsigned)d;
            }
        }
        BD_TRY(expect(t, "p"));
        int sign = peek(t);
        if (sign != '+' && sign != '-') return SYNTAX(t, "graph text: expected the exponent's sign");
        t->pos++;
        int64_t e;
        BD_TRY(natural(t, &e));
        if (e > 1100) return SYNTAX(t, "graph text: exponent out of range");
        v = ldexp((double)m, (int)(sign == '-' ? -e : e) - 4 * digits);
    } else {
        int64_t i;
        BD_TRY(natural(t, &i));
        v = (double)i;
    }
    *out = minus ? -v : v;
    return BD_OK;
}

static bd_status parse_param(text *t, bd_builder *b) {
    uint64_t begin = t->pos;
    BD_TRY(expect(t, "param "));
    const char *name, *role;
    uint64_t name_len = word(t, &name);
    BD_TRY(expect(t, " "));
    int64_t rows = 1, cols;
    int ndim = 1;
    BD_TRY(natural(t, &cols));
    if (peek(t) == 'x') {
        t->pos++;
        rows = cols;
        ndim = 2;
        BD_TRY(natural(t, &cols));
    }
    BD_TRY(expect(t, " "));
    uint64_t role_at = t->pos, role_len = word(t, &role);
    int r = 0;
    while (r < BD_ROLE_COUNT && !word_is(role, role_len, bd_role_name((bd_role)r))) r++;
    if (r == BD_ROLE_COUNT)
        return BD_FAIL_AT(t->err, BD_E_SYNTAX, role_at, "graph text: expected matrix, embedding, head or vector");
    BD_TRY(expect(t, "\n"));
    int index;
    bd_status st = bd_builder_param(b, name, name_len, ndim, rows, cols, (bd_role)r, &index, t->err);
    if (st != BD_OK && t->err && t->err->offset == BD_NO_OFFSET) t->err->offset = begin;
    return st;
}

static bd_status parse_value_ref(text *t, const bd_graph *g, bd_operand *o) {
    uint64_t at = t->pos;
    int kind = peek(t);
    int64_t v;
    if (kind != '-' && kind != '%') return SYNTAX(t, "graph text: expected an earlier result, -d or %%i");
    t->pos++;
    BD_TRY(natural(t, &v));
    int64_t node = kind == '-' ? g->n_nodes - v : v;
    if (node < 0 || node >= g->n_nodes)
        return BD_FAIL_AT(t->err, BD_E_FIELD, at, "graph text: there is no such earlier result");
    *o = g->nodes[node].out[0];
    return BD_OK;
}

static bd_status parse_param_ref(text *t, const bd_graph *g, bd_operand *o, int *known) {
    uint64_t at = t->pos;
    int kind = peek(t);
    int64_t id;
    if (kind != '+' && kind != '^' && kind != '@')
        return SYNTAX(t, "graph text: expected a parameter, + or ^d or @i");
    t->pos++;
    if (kind == '+') {
        id = (*known)++;
    } else {
        BD_TRY(natural(t, &id));
        if (kind == '^') id = *known - 1 - id;
    }
    if (id < 0 || id >= g->n_params || id >= *known)
        return BD_FAIL_AT(t->err, BD_E_FIELD, at, "graph text: there is no such parameter yet");
    int64_t row = -1;
    if (peek(t) == '[') {
        t->pos++;
        BD_TRY(natural(t, &row));
        BD_TRY(expect(t, "]"));
        if (row >= g->params[id].rows)
            return BD_FAIL_AT(t->err, BD_E_RANGE, at, "graph text: there is no such row");
    }
    *o = (bd_operand){BD_OPD_PARAM, (int32_t)id, (int32_t)row, 0};
    return BD_OK;
}

static bd_status parse_node(text *t, bd_builder *b, int *known) {
    uint64_t begin = t->pos;
    const char *name;
    uint64_t n = word(t, &name);
    int op = n <= 64 ? bd_op_find(name, (int)n) : -1;
    const bd_op_shape *s = op < 0 ? NULL : bd_op_shape_get((bd_op)op);
    if (op < 0) return BD_FAIL_AT(t->err, BD_E_UNKNOWN, begin, "graph text: no operation of that name");
    if (!s)
        return BD_FAIL_AT(t->err, BD_E_CAUSAL, begin, "graph text: %s is not an operation of a model",
                          bd_op_get((bd_op)op)->name);
    bd_node node = {.op = (bd_op)op};
    for (int k = 0; k < BD_MAX_IN && s->in[k] != BD_SLOT_NONE; k++) {
        if (s->in[k] == BD_SLOT_ROPE) {
            node.in[k] = (bd_operand){.kind = BD_OPD_ROPE, .row = -1};
            continue;
        }
        BD_TRY(expect(t, " "));
        if (s->in[k] == BD_SLOT_TOKENS) {
            BD_TRY(expect(t, "tokens"));
            node.in[k] = (bd_operand){.kind = BD_OPD_TOKENS, .row = -1};
        } else if (s->in[k] == BD_SLOT_VALUE) {
            BD_TRY(parse_value_ref(t, b->g, &node.in[k]));
        } else {
            BD_TRY(parse_param_ref(t, b->g, &node.in[k], known));
        }
    }
    for (int f = 0; f < s->n_fields; f++) {
        double v = 0;
        BD_TRY(expect(t, " "));
        BD_TRY(expect(t, s->field[f].name));
        BD_TRY(expect(t, "="));
        uint64_t at = t->pos;
        BD_TRY(number(t, &v));
        bool exact = s->field[f].type == BD_ATTR_F64 ||
                     (s->field[f].type == BD_ATTR_F32 && fabs(v) < 0x1p+100 && (double)(float)v == v) ||
                     (v == floor(v) && fabs(v) < 0x1p+31);
        if (!exact) return BD_FAIL_AT(t->err, BD_E_RANGE, at, "graph text: the number does not fit the attribute");
        bd_attr_write(&node.attr, &s->field[f], v);
    }
    BD_TRY(expect(t, "\n"));
    int32_t value;
    bd_status st = bd_builder_node(b, &node, &value, t->err);
    if (st != BD_OK && t->err && t->err->offset == BD_NO_OFFSET) t->err->offset = begin;
    return st;
}

static bd_status parse(text *t, bd_builder *b, bd_graph **out, const bd_limits *lim) {
    const char *name;
    BD_TRY(expect(t, magic));
    uint64_t name_len = word(t, &name);
    BD_TRY(expect(t, "\n"));
    BD_TRY(bd_builder_init(b, name, name_len, lim, t->err));
    while (t->n - t->pos >= 6 && !memcmp(t->s + t->pos, "param ", 6)) BD_TRY(parse_param(t, b));
    int known = 0;
    while (t->pos < t->n) BD_TRY(parse_node(t, b, &known));
    return bd_builder_take(b, out, t->err);
}

bd_status bd_graph_parse(bd_graph **out, const char *s, uint64_t size, const bd_limits *lim, bd_err *err) {
    *out = NULL;
    bd_err scratch = {0};
    text t = {.s = s, .n = size, .err = err ? err : &scratch};
    if (size > lim->text_bytes)
        return BD_FAIL(err, BD_E_LIMIT, "graph text: %" PRIu64 " bytes, the limit is %" PRIu64, size,
                       lim->text_bytes);
    bd_builder b = {0};
    bd_graph *g = NULL;
    bd_status st = parse(&t, &b, &g, lim);
    bd_builder_drop(&b);
    if (st != BD_OK) return st;

    bd_buf again;
    bd_buf_init(&again);
    st = bd_graph_print(g, &again, err);
    if (st == BD_OK && (again.size != size || memcmp(again.data, s, again.size) != 0)) {
        uint64_t at = 0;
        while (at < size && at < again.size && again.data[at] == (uint8_t)s[at]) at++;
        st = BD_FAIL_AT(err, BD_E_NONCANON, at, "graph text: legal but not the one spelling");
    }
    bd_buf_free(&again);
    if (st != BD_OK) {
        bd_graph_destroy(g);
        return st;
    }
    *out = g;
    return BD_OK;
}
