/* Tokens, symbols and messages of the model language. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/lang.h"

/* ---- symbols ---- */

static uint64_t hash_text(const char *s, uint64_t n) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (uint64_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}

static bool grow_syms(bd_syms *s) {
    int cap = s->cap ? 2 * s->cap : 256, slots = 4 * cap;
    const char **text = bd_arena_alloc(s->arena, (uint64_t)cap, sizeof *text);
    uint32_t *len = bd_arena_alloc(s->arena, (uint64_t)cap, sizeof *len);
    int *slot = bd_arena_alloc(s->arena, (uint64_t)slots, sizeof *slot);
    if (!text || !len || !slot) return false;
    if (s->n) {
        memcpy(text, s->text, (size_t)s->n * sizeof *text);
        memcpy(len, s->len, (size_t)s->n * sizeof *len);
    }
    for (int i = 0; i < slots; i++) slot[i] = -1;
    for (int i = 0; i < s->n; i++) {
        uint64_t h = hash_text(text[i], len[i]) % (uint64_t)slots;
        while (slot[h] >= 0) h = (h + 1) % (uint64_t)slots;
        slot[h] = i;
    }
    s->text = text;
    s->len = len;
    s->slot = slot;
    s->cap = cap;
    s->n_slots = slots;
    return true;
}

int bd_sym(bd_syms *s, const char *text, uint64_t len) {
    if (s->n == s->cap && !grow_syms(s)) return -1;
    uint64_t h = hash_text(text, len) % (uint64_t)s->n_slots;
    for (; s->slot[h] >= 0; h = (h + 1) % (uint64_t)s->n_slots) {
        int i = s->slot[h];
        if (s->len[i] == len && !memcmp(s->text[i], text, len)) return i;
    }
    char *copy = bd_arena_strdup(s->arena, text, len);
    if (!copy) return -1;
    s->text[s->n] = copy;
    s->len[s->n] = (uint32_t)len;
    s->slot[h] = s->n;
    return s->n++;
}

/* ---- messages ---- */

bd_status bd_lang_error(bd_lang *l, bd_status code, uint32_t pos, int line, int col, const char *fmt, ...) {
    char msg[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    BD_FAIL_AT(l->err, code, pos, "%.120s:%d:%d: %s", l->file, line, col, msg);
    bd_err_file(l->err, l->file);
    return code;
}

/* ---- tokens ---- */

typedef struct lexer {
    bd_lang *l;
    uint64_t pos, line_start;
    int line, depth, cap;
} lexer;

static int at(const lexer *x, uint64_t k) {
    return x->pos + k < x->l->size ? (unsigned char)x->l->text[x->pos + k] : -1;
}

static int column(const lexer *x) { return (int)(x->pos - x->line_start) + 1; }

#define LEX_FAIL(x, code, ...) bd_lang_error((x)->l, code, (uint32_t)(x)->pos, (x)->line, column(x), __VA_ARGS__)

static bd_status push(lexer *x, bd_tok t) {
    bd_lang *l = x->l;
    if (l->n_toks == x->cap) {
        int cap = x->cap ? 2 * x->cap : 512;
        bd_tok *more = bd_arena_alloc(l->arena, (uint64_t)cap, sizeof *more);
        if (!more) return LEX_FAIL(x, BD_E_NOMEM, "out of memory");
        if (l->n_toks) memcpy(more, l->toks, (size_t)l->n_toks * sizeof *more);
        l->toks = more;
        x->cap = cap;
    }
    l->toks[l->n_toks++] = t;
    return BD_OK;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }
static bool is_name(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c); }

/* Integers, and decimals with a point or an exponent. "0..n" is an integer and a range. */
static bd_status lex_number(lexer *x, bd_tok *t) {
    uint64_t n = 0;
    bool real = false;
    while (is_digit(at(x, n))) n++;
    if (at(x, n) == '.' && is_digit(at(x, n + 1))) {
        real = true;
        n++;
        while (is_digit(at(x, n))) n++;
    }
    if (at(x, n) == 'e' || at(x, n) == 'E') {
        uint64_t e = n + 1;
        if (at(x, e) == '+' || at(x, e) == '-') e++;
        if (!is_digit(at(x, e))) return LEX_FAIL(x, BD_E_SYNTAX, "expected digits after the exponent sign");
        real = true;
        n = e;
        while (is_digit(at(x, n))) n++;
    }
    if (n > 60) return LEX_FAIL(x, BD_E_SYNTAX, "number too long");
    if (is_name(at(x, n))) return LEX_FAIL(x, BD_E_SYNTAX, "expected a blank or an operator after the number");
    char copy[64];
    memcpy(copy, x->l->text + x->pos, n);
    copy[n] = 0;
    t->kind = real ? BD_TOK_REAL : BD_TOK_INT;
    t->len = (uint32_t)n;
    if (real) {
        t->r = strtod(copy, NULL);
        if (!(t->r <= 1e300)) return LEX_FAIL(x, BD_E_RANGE, "number too large");
    } else {
        for (uint64_t k = 0; k < n; k++)
            if (!bd_mul_i64(t->i, 10, &t->i) || !bd_add_i64(t->i, copy[k] - '0', &t->i))
                return LEX_FAIL(x, BD_E_RANGE, "number too large");
    }
    x->pos += n;
    return BD_OK;
}

static bd_status lex_string(lexer *x, bd_tok *t) {
    uint64_t n = 1;
    while (at(x, n) != '"') {
        int c = at(x, n);
        if (c < 0 || c == '\n') return LEX_FAIL(x, BD_E_SYNTAX, "expected a closing quote on this line");
        if (c < ' ' || c > '~') return LEX_FAIL(x, BD_E_SYNTAX, "text in quotes is printable ASCII");
        n++;
    }
    t->kind = BD_TOK_STRING;
    t->pos = (uint32_t)x->pos + 1;
    t->len = (uint32_t)n - 1;
    x->pos += n + 1;
    return BD_OK;
}

static bd_status lex_punct(lexer *x, bd_tok *t) {
    static const char *const two[] = {"==", "!=", "<=", ">=", ".."};
    t->kind = BD_TOK_PUNCT;
    t->len = 0;
    for (size_t k = 0; k < sizeof two / sizeof *two; k++)
        if (at(x, 0) == two[k][0] && at(x, 1) == two[k][1]) t->len = 2;
    int c = at(x, 0);
    if (!t->len) {
        if (!strchr("()[]{},=+-*/%<>", c)) {
            if (c > ' ' && c <= '~') return LEX_FAIL(x, BD_E_SYNTAX, "unexpected character '%c'", c);
            return LEX_FAIL(x, BD_E_SYNTAX, "unexpected byte 0x%02x", (unsigned)c);
        }
        t->len = 1;
    }
    memcpy(t->punct, x->l->text + x->pos, t->len);
    if (c == '(' || c == '[') x->depth++;
    if ((c == ')' || c == ']') && x->depth > 0) x->depth--;
    x->pos += t->len;
    return BD_OK;
}

static bd_status lex_one(lexer *x) {
    int c = at(x, 0);
    if (c == ' ' || c == '\t' || c == '\r') {
        x->pos++;
        return BD_OK;
    }
    if (c == '#') {
        while (at(x, 0) >= 0 && at(x, 0) != '\n') x->pos++;
        return BD_OK;
    }
    bd_tok t = {.pos = (uint32_t)x->pos, .line = x->line, .col = column(x), .sym = -1};
    if (c == '\n' || c == ';') {
        t.kind = BD_TOK_NEWLINE;
        t.len = 1;
        x->pos++;
        /* Inside parentheses a line may break anywhere. */
        if (c == ';' || x->depth == 0) BD_TRY(push(x, t));
        if (c == '\n') {
            x->line++;
            x->line_start = x->pos;
        }
        return BD_OK;
    }
    if (is_digit(c)) {
        BD_TRY(lex_number(x, &t));
    } else if (c == '"') {
        BD_TRY(lex_string(x, &t));
    } else if (is_name(c)) {
        while (is_name(at(x, t.len))) t.len++;
        if (t.len > 64) return LEX_FAIL(x, BD_E_SYNTAX, "name longer than 64 characters");
        t.kind = BD_TOK_NAME;
        t.sym = bd_sym(&x->l->syms, x->l->text + x->pos, t.len);
        if (t.sym < 0) return LEX_FAIL(x, BD_E_NOMEM, "out of memory");
        x->pos += t.len;
    } else {
        BD_TRY(lex_punct(x, &t));
    }
    return push(x, t);
}

bd_status bd_lang_lex(bd_lang *l) {
    lexer x = {.l = l, .line = 1};
    if (l->size > l->lim.text_bytes || l->size > INT32_MAX)
        return bd_lang_error(l, BD_E_LIMIT, 0, 1, 1, "the file has %" PRIu64 " bytes, the limit is %" PRIu64,
                             l->size, l->lim.text_bytes);
    while (x.pos < l->size) BD_TRY(lex_one(&x));
    bd_tok nl = {.kind = BD_TOK_NEWLINE, .pos = (uint32_t)x.pos, .line = x.line, .col = column(&x), .sym = -1};
    BD_TRY(push(&x, nl));
    nl.kind = BD_TOK_END;
    return push(&x, nl);
}
