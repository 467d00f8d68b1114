#include "verify/audit_json.h"

#include <stdlib.h>
#include <string.h>

typedef struct reader {
    bd_json *d;
    const char *s;
    size_t n, at, pool_used;
    int line;
    bd_err *err;
} reader;

static bd_status bad(const reader *r, const char *what) {
    return BD_FAIL_AT(r->err, BD_E_SYNTAX, r->at, "line %d: %s", r->line, what);
}

static void skip_space(reader *r) {
    for (; r->at < r->n && strchr(" \t\r\n", r->s[r->at]) && r->s[r->at]; r->at++) r->line += r->s[r->at] == '\n';
}

static int peek(const reader *r) { return r->at < r->n ? (unsigned char)r->s[r->at] : -1; }

/* The pool is as large as the text and a terminator for each node: decoding never lengthens. */
static void put(reader *r, char c) { r->d->pool[r->pool_used++] = c; }

static int hex4(const reader *r, size_t at) {
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        int c = i < r->n ? r->s[i] : 0;
        int h = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (h < 0) return -1;
        v = v << 4 | h;
    }
    return v;
}

/* \uXXXX (6 bytes) gives at most 3 bytes of UTF-8, a pair (12) gives 4. */
static bd_status read_unicode(reader *r) {
    int u = hex4(r, r->at);
    if (u < 0) return bad(r, "bad \\u escape");
    r->at += 4;
    uint32_t c = (uint32_t)u;
    if (c >= 0xd800 && c < 0xdc00 && r->at + 6 <= r->n && r->s[r->at] == '\\' && r->s[r->at + 1] == 'u') {
        int low = hex4(r, r->at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
            r->at += 6;
        }
    }
    if (c == 0 || (c >= 0xd800 && c < 0xe000)) c = '?';
    if (c < 0x80) {
        put(r, (char)c);
    } else if (c < 0x800) {
        put(r, (char)(0xc0 | c >> 6));
        put(r, (char)(0x80 | (c & 0x3f)));
    } else {
        if (c < 0x10000) {
            put(r, (char)(0xe0 | c >> 12));
        } else {
            put(r, (char)(0xf0 | c >> 18));
            put(r, (char)(0x80 | (c >> 12 & 0x3f)));
        }
        put(r, (char)(0x80 | (c >> 6 & 0x3f)));
        put(r, (char)(0x80 | (c & 0x3f)));
    }
    return BD_OK;
}

static bd_status read_string(reader *r, const char **out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    *out = r->d->pool + r->pool_used;
    r->at++; /* the quote */
    for (;;) {
        int c = peek(r);
        if (c < 0) return bad(r, "a string does not end");
        if (c < 0x20) return bad(r, "control character in a string");
        r->at++;
        if (c == '"') break;
        if (c != '\\') {
            put(r, (char)c);
            continue;
        }
        c = peek(r);
        r->at++;
        const char *name = c > 0 ? strchr(names, c) : NULL;
        if (name) put(r, values[name - names]);
        else if (c == 'u') BD_TRY(read_unicode(r));
        else return bad(r, "unknown escape in a string");
    }
    put(r, 0);
    return BD_OK;
}

static size_t digits(const reader *r, size_t at) {
    size_t n = 0;
    while (at + n < r->n && r->s[at + n] >= '0' && r->s[at + n] <= '9') n++;
    return n;
}

/* Length of the number at the reader, or 0. */
static size_t number_length(const reader *r) {
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (r->n - r->at >= n && !memcmp(r->s + r->at, words[i], n)) return n;
    }
    size_t i = r->at + (peek(r) == '-'), n = digits(r, i);
    if (!n || (n > 1 && r->s[i] == '0')) return 0;
    i += n;
    if (i < r->n && r->s[i] == '.') {
        n = digits(r, i + 1);
        if (!n) return 0;
        i += 1 + n;
    }
    if (i < r->n && (r->s[i] == 'e' || r->s[i] == 'E')) {
        size_t k = i + 1 + (i + 1 < r->n && (r->s[i + 1] == '+' || r->s[i + 1] == '-'));
        n = digits(r, k);
        if (!n) return 0;
        i = k + n;
    }
    return i - r->at;
}

static bd_status read_word(reader *r, bd_json_node *v) {
    static const struct {
        const char *word;
        bd_json_type type;
    } words[] = {{"null", BD_JSON_NULL}, {"true", BD_JSON_BOOL}, {"false", BD_JSON_BOOL}};
    size_t n = 0;
    for (int i = 0; i < 3 && !n; i++) {
        size_t len = strlen(words[i].word);
        if (r->n - r->at >= len && !memcmp(r->s + r->at, words[i].word, len)) {
            v->type = words[i].type;
            n = len;
        }
    }
    if (!n) {
        v->type = BD_JSON_NUMBER;
        n = number_length(r);
    }
    if (!n) return bad(r, "a value is expected");
    v->text = r->d->pool + r->pool_used;
    for (size_t i = 0; i < n; i++) put(r, r->s[r->at + i]);
    put(r, 0);
    r->at += n;
    return BD_OK;
}

/* A new node under `parent`, after `last` (-1: the first). */
static bd_status add_node(reader *r, int parent, int last, int *out) {
    bd_json *d = r->d;
    if (d->n == BD_JSON_MAX_NODES)
        return BD_FAIL_AT(r->err, BD_E_LIMIT, r->at, "line %d: more than %d values", r->line, BD_JSON_MAX_NODES);
    *out = d->n++;
    d->nodes[*out] = (bd_json_node){.parent = parent, .child = -1, .next = -1, .line = r->line};
    if (parent >= 0) {
        d->nodes[parent].n_children++;
        if (last < 0) d->nodes[parent].child = *out;
        else d->nodes[last].next = *out;
    }
    return BD_OK;
}

/* Key and colon of the next member; the node takes the key. */
static bd_status read_key(reader *r, int object, int node) {
    if (peek(r) != '"') return bad(r, "a key in quotes is expected");
    const char *key;
    BD_TRY(read_string(r, &key));
    for (int i = r->d->nodes[object].child; i >= 0; i = r->d->nodes[i].next)
        if (i != node && !strcmp(r->d->nodes[i].key, key)) return bad(r, "a key occurs twice");
    r->d->nodes[node].key = key;
    skip_space(r);
    if (peek(r) != ':') return bad(r, "':' is expected");
    r->at++;
    skip_space(r);
    r->d->nodes[node].line = r->line;
    return BD_OK;
}

/* Without recursion: `open` is the container that is being read, `last` its last child. */
static bd_status read_all(reader *r) {
    int open = -1, last = -1, depth = 0, node = -1;
    do {
        bd_json *d = r->d;
        skip_space(r);
        int close = open < 0 ? 0 : d->nodes[open].type == BD_JSON_OBJECT ? '}' : ']';
        if (open >= 0 && peek(r) == close) {
            if (last < 0 && d->nodes[open].n_children) return bad(r, "a value is expected after ','");
            r->at++;
            last = open;
            open = d->nodes[open].parent;
            depth--;
        } else {
            BD_TRY(add_node(r, open, last, &node));
            bd_json_node *v = &d->nodes[node];
            if (open >= 0 && d->nodes[open].type == BD_JSON_OBJECT) BD_TRY(read_key(r, open, node));
            int c = peek(r);
            if (c == '{' || c == '[') {
                if (++depth > BD_JSON_MAX_DEPTH)
                    return BD_FAIL_AT(r->err, BD_E_LIMIT, r->at, "line %d: deeper than %d", r->line,
                                      BD_JSON_MAX_DEPTH);
                v->type = c == '{' ? BD_JSON_OBJECT : BD_JSON_LIST;
                r->at++;
                open = node;
                last = -1;
                continue;
            }
            if (c == '"') {
                v->type = BD_JSON_STRING;
                BD_TRY(read_string(r, &v->text));
            } else {
                BD_TRY(read_word(r, v));
            }
            last = node;
        }
        if (open < 0) break;
        skip_space(r);
        close = d->nodes[open].type == BD_JSON_OBJECT ? '}' : ']';
        if (peek(r) == ',') {
            r->at++;
            skip_space(r);
            if (peek(r) == close) return bad(r, "a value is expected after ','");
        } else if (peek(r) != close) {
            return bad(r, "',' or the end of the list is expected");
        }
    } while (true);
    skip_space(r);
    return r->at == r->n ? BD_OK : bad(r, "something follows the end");
}

bd_status bd_json_parse(bd_json *d, const void *text, uint64_t size, bd_err *err) {
    memset(d, 0, sizeof *d);
    if (size > BD_JSON_MAX_SIZE) return BD_FAIL(err, BD_E_LIMIT, "larger than %d bytes", BD_JSON_MAX_SIZE);
    reader r = {.d = d, .s = text, .n = (size_t)size, .line = 1, .err = err};
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at = 3;
    d->nodes = malloc(BD_JSON_MAX_NODES * sizeof *d->nodes);
    d->pool = malloc((size_t)size + 2 * BD_JSON_MAX_NODES);
    bd_status st = d->nodes && d->pool ? read_all(&r) : BD_FAIL(err, BD_E_NOMEM, "out of memory for JSON");
    if (st) bd_json_free(d);
    return st;
}

void bd_json_free(bd_json *d) {
    free(d->nodes);
    free(d->pool);
    memset(d, 0, sizeof *d);
}

int bd_json_get(const bd_json *d, int object, const char *key) {
    if (object < 0 || object >= d->n || d->nodes[object].type != BD_JSON_OBJECT) return -1;
    for (int i = d->nodes[object].child; i >= 0; i = d->nodes[i].next)
        if (!strcmp(d->nodes[i].key, key)) return i;
    return -1;
}
