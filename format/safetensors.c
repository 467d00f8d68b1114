/* Safetensors: u64 length, JSON header, tensor bytes.
 *
 * The header's grammar is small and fixed (an object of tensor objects and one
 * object of strings), so the parser below reads exactly that, without recursion:
 * nesting cannot exceed three. Numbers are non-negative decimal integers. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "format/checkpoint_impl.h"
#include "format/utf8.h"

#define HEADER_LIMIT UINT64_C(100000000)
#define STRING_LIMIT UINT64_C(16000000)
#define ULL(x)       ((unsigned long long)(x))

/* --- reading JSON --- */

typedef struct json {
    const uint8_t *p; /* the whole file: positions are file offsets */
    uint64_t pos, end;
    bd_buf text; /* the last string, decoded */
    bd_err *err;
} json;

static void skip_space(json *j) {
    while (j->pos < j->end) {
        uint8_t c = j->p[j->pos];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') break;
        j->pos++;
    }
}

static int peek(json *j) {
    skip_space(j);
    return j->pos < j->end ? j->p[j->pos] : -1;
}

static bd_status wrong(json *j, const char *want) {
    if (j->pos >= j->end)
        return BD_FAIL_AT(j->err, BD_E_SYNTAX, j->pos, "safetensors header ends where %s was expected", want);
    return BD_FAIL_AT(j->err, BD_E_SYNTAX, j->pos, "safetensors header: expected %s, found \"%s\"", want,
                      bd_quote(j->p + j->pos, 1).s);
}

static bd_status expect(json *j, int c, const char *want) {
    if (peek(j) != c) return wrong(j, want);
    j->pos++;
    return BD_OK;
}

/* After an element: true in *more for ',', false for `close`. */
static bd_status more(json *j, int close, bool *again) {
    int c = peek(j);
    *again = c == ',';
    if (c != ',' && c != close) return wrong(j, close == '}' ? "',' or '}'" : "',' or ']'");
    j->pos++;
    return BD_OK;
}

static bool hex4(const json *j, uint32_t *v) {
    if (j->end - j->pos < 4) return false;
    *v = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = j->p[j->pos + (uint64_t)i];
        uint32_t d;
        if (c >= '0' && c <= '9') d = c - (uint32_t)'0';
        else if (c >= 'a' && c <= 'f') d = c - (uint32_t)'a' + 10;
        else if (c >= 'A' && c <= 'F') d = c - (uint32_t)'A' + 10;
        else return false;
        *v = *v << 4 | d;
    }
    return true;
}

static bd_status read_escape(json *j) {
    static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    uint8_t c = j->pos < j->end ? j->p[j->pos] : 0;
    const char *hit = c ? strchr(plain, c) : NULL;
    if (hit) {
        bd_buf_u8(&j->text, (uint8_t)meant[hit - plain]);
        j->pos++;
        return BD_OK;
    }
    if (c != 'u') return wrong(j, "an escape character");
    j->pos++;
    uint32_t cp, low;
    if (!hex4(j, &cp)) return wrong(j, "four hexadecimal digits");
    j->pos += 4;
    if (cp >= 0xd800 && cp <= 0xdbff) {
        if (j->end - j->pos < 2 || j->p[j->pos] != '\\' || j->p[j->pos + 1] != 'u')
            return wrong(j, "a low surrogate");
        j->pos += 2;
        if (!hex4(j, &low) || low < 0xdc00 || low > 0xdfff) return wrong(j, "a low surrogate");
        j->pos += 4;
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    } else if (cp >= 0xdc00 && cp <= 0xdfff) {
        j->pos -= 4;
        return wrong(j, "no lone low surrogate");
    }
    uint8_t out[4];
    bd_buf_put(&j->text, out, (size_t)bd_utf8_put(cp, out));
    return BD_OK;
}

/* A string into j->text. */
static bd_status read_string(json *j, const char *what) {
    BD_TRY(expect(j, '"', what));
    j->text.size = 0;
    for (;;) {
        if (j->pos >= j->end || j->p[j->pos] < 0x20) return wrong(j, "a string character");
        uint8_t c = j->p[j->pos];
        if (c == '"') {
            j->pos++;
            break;
        }
        if (c == '\\') {
            j->pos++;
            BD_TRY(read_escape(j));
        } else {
            uint32_t cp;
            int n = bd_utf8_next(j->p + j->pos, j->end - j->pos, &cp);
            if (n == 0) return wrong(j, "well-formed UTF-8");
            bd_buf_put(&j->text, j->p + j->pos, (size_t)n);
            j->pos += (uint64_t)n;
        }
        if (j->text.size > STRING_LIMIT)
            return BD_FAIL_AT(j->err, BD_E_LIMIT, j->pos, "safetensors header: a string of more than %llu bytes",
                              ULL(STRING_LIMIT));
    }
    return bd_buf_check(&j->text, j->err);
}

static bd_status read_integer(json *j, uint64_t *v, const char *what) {
    int c = peek(j);
    if (c < '0' || c > '9') return wrong(j, what);
    uint64_t start = j->pos;
    *v = 0;
    while (j->pos < j->end && j->p[j->pos] >= '0' && j->p[j->pos] <= '9') {
        if (!bd_mul_u64(*v, 10, v) || !bd_add_u64(*v, (uint64_t)(j->p[j->pos] - '0'), v))
            return BD_FAIL_AT(j->err, BD_E_LIMIT, start, "safetensors header: a number above 2^64 - 1");
        j->pos++;
    }
    if (c == '0' && j->pos - start > 1)
        return BD_FAIL_AT(j->err, BD_E_SYNTAX, start, "safetensors header: a number with a leading zero");
    if (j->pos < j->end && strchr(".eE", j->p[j->pos]) && j->p[j->pos])
        return BD_FAIL_AT(j->err, BD_E_SYNTAX, start, "safetensors header: %s must be an integer", what);
    return BD_OK;
}

/* --- the header --- */

typedef struct item {
    uint64_t begin, end; /* in the data section */
    uint64_t at;         /* file offset of the name */
    int index;
} item;

typedef struct reader {
    json j;
    bd_ckpt *c;
    uint64_t data_at, data_size; /* data section in the file */
    item *items;
    int n, cap;
    bool has_meta;
    int meta_cap;
} reader;

static bool text_is(const json *j, const char *s) {
    size_t n = strlen(s);
    return j->text.size == n && !memcmp(j->text.data, s, n);
}

static bd_status keep_text(reader *r, const char **out, bool metadata) {
    if (metadata && memchr(r->j.text.data ? (const char *)r->j.text.data : "", 0, r->j.text.size))
        return BD_FAIL_AT(r->j.err, BD_E_FIELD, r->j.pos, "safetensors __metadata__: a NUL character in a string");
    *out = bd_arena_strdup(r->c->impl->arena, r->j.text.data ? (const char *)r->j.text.data : "", r->j.text.size);
    return *out ? BD_OK : BD_FAIL(r->j.err, BD_E_NOMEM, "no memory for the safetensors header");
}

static bd_status read_meta(reader *r) {
    json *j = &r->j;
    bd_ckpt *c = r->c;
    if (r->has_meta) return BD_FAIL_AT(j->err, BD_E_FIELD, j->pos, "safetensors header: __metadata__ occurs twice");
    r->has_meta = true;
    BD_TRY(expect(j, '{', "'{' of __metadata__"));
    if (peek(j) == '}') {
        j->pos++;
        return BD_OK;
    }
    for (bool again = true; again;) {
        if (c->n_meta == BD_CKPT_MAX_META)
            return BD_FAIL_AT(j->err, BD_E_LIMIT, j->pos, "safetensors __metadata__: more than %d keys",
                              (int)BD_CKPT_MAX_META);
        if (c->n_meta == r->meta_cap) {
            int cap = r->meta_cap ? r->meta_cap * 2 : 16;
            void *k = realloc(c->meta_keys, (size_t)cap * sizeof *c->meta_keys);
            if (k) c->meta_keys = k;
            void *v = realloc(c->meta_values, (size_t)cap * sizeof *c->meta_values);
            if (v) c->meta_values = v;
            if (!k || !v) return BD_FAIL(j->err, BD_E_NOMEM, "no memory for the safetensors metadata");
            r->meta_cap = cap;
        }
        BD_TRY(read_string(j, "a key of __metadata__"));
        BD_TRY(keep_text(r, &c->meta_keys[c->n_meta], true));
        BD_TRY(expect(j, ':', "':'"));
        BD_TRY(read_string(j, "a string, as all values of __metadata__ are"));
        BD_TRY(keep_text(r, &c->meta_values[c->n_meta], true));
        c->n_meta++;
        BD_TRY(more(j, '}', &again));
    }
    return BD_OK;
}

static bd_status read_dtype(json *j, bd_ckpt_dtype *t, const char *name) {
    BD_TRY(read_string(j, "a dtype string"));
    for (int i = 0; i < BD_CK_DTYPE_COUNT; i++)
        if (text_is(j, bd_ckpt_dtype_name((bd_ckpt_dtype)i))) {
            *t = (bd_ckpt_dtype)i;
            return BD_OK;
        }
    return BD_FAIL_AT(j->err, BD_E_UNKNOWN, j->pos, "tensor %s: dtype \"%s\" is not one that is read here", name,
                      bd_quote(j->text.data, j->text.size).s);
}

static bd_status read_shape(json *j, bd_ckpt_view *v, const char *name) {
    BD_TRY(expect(j, '[', "'[' of a shape"));
    v->ndim = 0;
    if (peek(j) == ']') {
        j->pos++;
        return BD_OK;
    }
    for (bool again = true; again;) {
        uint64_t d;
        skip_space(j);
        uint64_t at = j->pos;
        BD_TRY(read_integer(j, &d, "a dimension"));
        if (v->ndim == BD_CKPT_MAX_RANK)
            return BD_FAIL_AT(j->err, BD_E_LIMIT, at, "tensor %s: more than %d dimensions", name,
                              (int)BD_CKPT_MAX_RANK);
        if (d > BD_CKPT_MAX_ELEMENTS)
            return BD_FAIL_AT(j->err, BD_E_LIMIT, at, "tensor %s: dimension %d is %llu", name, v->ndim, ULL(d));
        v->dim[v->ndim++] = (int64_t)d;
        BD_TRY(more(j, ']', &again));
    }
    return BD_OK;
}

static bd_status add_item(reader *r, const item *it) {
    if (r->n == r->cap) {
        int cap = r->cap ? r->cap * 2 : 64;
        void *p = realloc(r->items, (size_t)cap * sizeof *r->items);
        if (!p) return BD_FAIL(r->j.err, BD_E_NOMEM, "no memory for %d tensors", cap);
        r->items = p;
        r->cap = cap;
    }
    r->items[r->n++] = *it;
    return BD_OK;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} in any order. */
static bd_status read_tensor(reader *r, const char *name, uint64_t name_len, uint64_t name_at) {
    json *j = &r->j;
    bd_ckpt_source s;
    memset(&s, 0, sizeof s);
    s.cast = BD_CK_F32;
    item it = {0, 0, name_at, r->c->n};
    bool has_dtype = false, has_shape = false, has_range = false;
    bd_quoted q = bd_quote(name, name_len);
    BD_TRY(expect(j, '{', "'{' of a tensor"));
    for (bool again = true; again;) {
        skip_space(j);
        uint64_t at = j->pos;
        BD_TRY(read_string(j, "\"dtype\", \"shape\" or \"data_offsets\""));
        bool dtype = text_is(j, "dtype"), shape = text_is(j, "shape"), range = text_is(j, "data_offsets");
        if (!dtype && !shape && !range)
            return BD_FAIL_AT(j->err, BD_E_UNKNOWN, at, "tensor %s: unknown key \"%s\"", q.s,
                              bd_quote(j->text.data, j->text.size).s);
        if ((dtype && has_dtype) || (shape && has_shape) || (range && has_range))
            return BD_FAIL_AT(j->err, BD_E_FIELD, at, "tensor %s: key \"%s\" occurs twice", q.s,
                              dtype   ? "dtype"
                              : shape ? "shape"
                                      : "data_offsets");
        BD_TRY(expect(j, ':', "':'"));
        if (dtype) {
            BD_TRY(read_dtype(j, &s.value.dtype, q.s));
            has_dtype = true;
        } else if (shape) {
            BD_TRY(read_shape(j, &s.value, q.s));
            has_shape = true;
        } else {
            BD_TRY(expect(j, '[', "'[' of data_offsets"));
            BD_TRY(read_integer(j, &it.begin, "an offset"));
            BD_TRY(expect(j, ',', "','"));
            BD_TRY(read_integer(j, &it.end, "an offset"));
            BD_TRY(expect(j, ']', "']'"));
            has_range = true;
        }
        BD_TRY(more(j, '}', &again));
    }
    if (!has_dtype || !has_shape || !has_range)
        return BD_FAIL_AT(j->err, BD_E_MISSING, name_at, "tensor %s: no \"%s\"", q.s,
                          !has_dtype   ? "dtype"
                          : !has_shape ? "shape"
                                       : "data_offsets");
    BD_TRY(bd_ckpt_count(&s.value.count, s.value.ndim, s.value.dim, q.s, name_at, j->err));
    uint64_t bytes;
    bool fits = bd_mul_u64((uint64_t)s.value.count, bd_ckpt_dtype_size(s.value.dtype), &bytes);
    if (it.begin > it.end || it.end > r->data_size)
        return BD_FAIL_AT(j->err, it.begin > it.end ? BD_E_FIELD : BD_E_TRUNCATED, name_at,
                          "tensor %s: data_offsets [%llu, %llu] do not lie in the %llu bytes after the header", q.s,
                          ULL(it.begin), ULL(it.end), ULL(r->data_size));
    if (!fits || bytes != it.end - it.begin)
        return BD_FAIL_AT(j->err, BD_E_SHAPE, name_at,
                          "tensor %s: dtype and shape need %llu bytes, data_offsets give "
                          "%llu",
                          q.s, ULL(bytes), ULL(it.end - it.begin));
    bd_ckpt_view_row_major(&s.value);
    s.value.data = j->p + r->data_at + it.begin;
    BD_TRY(bd_ckpt_add(r->c, name, name_len, s.value.dtype, &s, name_at, j->err));
    return add_item(r, &it);
}

static int by_range(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->index - y->index;
}

/* The ranges tile the data section: no gap, no overlap, nothing after the end. */
static bd_status check_ranges(reader *r) {
    uint64_t at = 0;
    if (r->n > 0) qsort(r->items, (size_t)r->n, sizeof *r->items, by_range);
    for (int i = 0; i < r->n; i++) {
        const item *it = &r->items[i];
        if (it->begin != at) {
            const char *name = r->c->tensors[it->index].name;
            return BD_FAIL_AT(r->j.err, BD_E_FIELD, it->at,
                              "tensor %s: its data begins at %llu, the previous tensor's ends at %llu (%s)",
                              bd_quote(name, strlen(name)).s, ULL(it->begin), ULL(at),
                              it->begin > at ? "gap" : "overlap");
        }
        at = it->end;
    }
    if (at != r->data_size)
        return BD_FAIL_AT(r->j.err, BD_E_FIELD, r->data_at + at, "%llu bytes follow the last tensor",
                          ULL(r->data_size - at));
    return BD_OK;
}

static bd_status sort_meta(reader *r) {
    bd_ckpt *c = r->c;
    int n = c->n_meta;
    if (n == 0) return BD_OK;
    /* pointers first, so that keys and values move together */
    typedef struct pair {
        const char *key, *value;
    } pair;
    pair *p = bd_arena_alloc(c->impl->arena, (uint64_t)n * 2, sizeof *p), *from = p, *to = p ? p + n : NULL;
    if (!p) return BD_FAIL(r->j.err, BD_E_NOMEM, "no memory for the safetensors metadata");
    for (int i = 0; i < n; i++) from[i] = (pair){c->meta_keys[i], c->meta_values[i]};
    for (int width = 1; width < n; width *= 2) { /* bottom-up merge sort: n log n for hostile keys, too */
        for (int lo = 0; lo < n; lo += 2 * width) {
            int mid = lo + width < n ? lo + width : n, hi = mid + width < n ? mid + width : n, a = lo, b = mid;
            for (int i = lo; i < hi; i++)
                to[i] = a < mid && (b >= hi || strcmp(from[a].key, from[b].key) <= 0) ? from[a++] : from[b++];
        }
        pair *t = from;
        from = to;
        to = t;
    }
    for (int i = 0; i < n; i++) {
        if (i > 0 && !strcmp(from[i].key, from[i - 1].key))
            return BD_FAIL(r->j.err, BD_E_FIELD, "safetensors __metadata__: key \"%s\" occurs twice",
                           bd_quote(from[i].key, strlen(from[i].key)).s);
        c->meta_keys[i] = from[i].key;
        c->meta_values[i] = from[i].value;
    }
    return BD_OK;
}

static bd_status read_header(reader *r) {
    json *j = &r->j;
    BD_TRY(expect(j, '{', "'{'"));
    if (peek(j) == '}') {
        j->pos++;
    } else {
        for (bool again = true; again;) {
            skip_space(j);
            uint64_t at = j->pos;
            BD_TRY(read_string(j, "a tensor name"));
            BD_TRY(expect(j, ':', "':'"));
            if (text_is(j, "__metadata__")) {
                BD_TRY(read_meta(r));
            } else {
                char name[BD_CKPT_MAX_NAME + 1];
                uint64_t len = j->text.size < sizeof name ? j->text.size : sizeof name;
                if (len) memcpy(name, j->text.data, (size_t)len); /* one byte too many is refused with the name */
                BD_TRY(read_tensor(r, name, len, at));
            }
            BD_TRY(more(j, '}', &again));
        }
    }
    skip_space(j);
    if (j->pos != j->end) return wrong(j, "nothing after the header's object but spaces");
    BD_TRY(check_ranges(r));
    return sort_meta(r);
}

bd_status bd_safetensors_parse(bd_ckpt *c, const uint8_t *data, uint64_t size, bd_err *err) {
    bd_rd rd;
    bd_rd_init(&rd, data, size);
    uint64_t len = bd_rd_u64(&rd);
    BD_TRY(bd_rd_check(&rd, "safetensors header length", err));
    if (len > HEADER_LIMIT)
        return BD_FAIL_AT(err, BD_E_LIMIT, 0, "safetensors header of %llu bytes, the limit is %llu", ULL(len),
                          ULL(HEADER_LIMIT));
    if (len > size - 8)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, size, "safetensors header of %llu bytes in a file of %llu", ULL(len),
                          ULL(size));
    c->format = "safetensors";
    reader r;
    memset(&r, 0, sizeof r);
    r.c = c;
    r.data_at = 8 + len;
    r.data_size = size - r.data_at;
    r.j.p = data;
    r.j.pos = 8;
    r.j.end = 8 + len;
    r.j.err = err;
    bd_buf_init(&r.j.text);
    bd_status st = read_header(&r);
    bd_buf_free(&r.j.text);
    free(r.items);
    return st;
}

/* --- writing --- */

typedef struct entry {
    char *name, *value; /* metadata: key and value; tensors: name */
    bd_ckpt_dtype dtype;
    int ndim;
    int64_t dim[BD_CKPT_MAX_RANK];
    const void *data;
    uint64_t bytes;
} entry;

typedef struct entry_list {
    entry *e;
    size_t n, cap;
} entry_list;

struct bd_st_writer {
    bd_out out;
    bd_arena *arena;
    entry_list meta, tensors;
};

bd_status bd_st_create(bd_st_writer **out, const char *path, bd_err *err) {
    *out = NULL;
    bd_st_writer *w = calloc(1, sizeof *w);
    if (w) w->arena = bd_arena_create(BD_CKPT_ARENA_LIMIT);
    if (!w || !w->arena) {
        free(w);
        return BD_FAIL(err, BD_E_NOMEM, "no memory for a safetensors writer");
    }
    bd_status st = bd_out_open(&w->out, path, err);
    if (st != BD_OK) {
        bd_arena_destroy(w->arena);
        free(w);
        return st;
    }
    *out = w;
    return BD_OK;
}

static bd_status new_entry(bd_st_writer *w, entry_list *l, const char *name, entry **out, bd_err *err) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 32;
        void *p = realloc(l->e, cap * sizeof *l->e);
        if (!p) return BD_FAIL(err, BD_E_NOMEM, "no memory for a safetensors header");
        l->e = p;
        l->cap = cap;
    }
    entry *e = &l->e[l->n];
    memset(e, 0, sizeof *e);
    e->name = bd_arena_strdup(w->arena, name, strlen(name));
    if (!e->name) return BD_FAIL(err, BD_E_NOMEM, "no memory for a safetensors header");
    *out = e;
    return BD_OK;
}

bd_status bd_st_meta(bd_st_writer *w, const char *key, const char *value, bd_err *err) {
    if (!bd_utf8_valid(key, strlen(key)) || !bd_utf8_valid(value, strlen(value)))
        return BD_FAIL(err, BD_E_FIELD, "safetensors metadata \"%s\" is not UTF-8", bd_quote(key, strlen(key)).s);
    if (w->meta.n == BD_CKPT_MAX_META)
        return BD_FAIL(err, BD_E_LIMIT, "more than %d metadata keys", (int)BD_CKPT_MAX_META);
    entry *e;
    BD_TRY(new_entry(w, &w->meta, key, &e, err));
    e->value = bd_arena_strdup(w->arena, value, strlen(value));
    if (!e->value) return BD_FAIL(err, BD_E_NOMEM, "no memory for a safetensors header");
    w->meta.n++;
    return BD_OK;
}

bd_status bd_st_tensor(bd_st_writer *w, const char *name, bd_ckpt_dtype dtype, int ndim, const int64_t *dim,
                       const void *data, bd_err *err) {
    BD_ASSERT((unsigned)dtype < BD_CK_DTYPE_COUNT && ndim >= 0 && ndim <= BD_CKPT_MAX_RANK);
    bd_quoted q = bd_quote(name, strlen(name));
    if (!bd_name_ok(name, strlen(name), BD_CKPT_MAX_NAME) || !strcmp(name, "__metadata__"))
        return BD_FAIL(err, BD_E_FIELD, "\"%s\" cannot be the name of a tensor", q.s);
    if (w->tensors.n == BD_CKPT_MAX_TENSORS)
        return BD_FAIL(err, BD_E_LIMIT, "more than %d tensors", (int)BD_CKPT_MAX_TENSORS);
    int64_t count;
    BD_TRY(bd_ckpt_count(&count, ndim, dim, q.s, BD_NO_OFFSET, err));
    entry *e;
    BD_TRY(new_entry(w, &w->tensors, name, &e, err));
    e->dtype = dtype;
    e->ndim = ndim;
    if (ndim) memcpy(e->dim, dim, (size_t)ndim * sizeof *dim);
    e->data = data;
    e->bytes = (uint64_t)count * bd_ckpt_dtype_size(dtype);
    w->tensors.n++;
    return BD_OK;
}

static void put_string(bd_buf *b, const char *s) {
    bd_buf_u8(b, '"');
    for (; *s; s++) {
        uint8_t c = (uint8_t)*s;
        if (c == '"' || c == '\\') bd_buf_printf(b, "\\%c", c);
        else if (c < 0x20) bd_buf_printf(b, "\\u%04x", c);
        else bd_buf_u8(b, c);
    }
    bd_buf_u8(b, '"');
}

static int entry_by_name(const void *a, const void *b) {
    return strcmp((*(const entry *const *)a)->name, (*(const entry *const *)b)->name);
}

static bd_status check_distinct(bd_st_writer *w, const entry_list *l, bd_err *err) {
    if (l->n < 2) return BD_OK;
    const entry **p = bd_arena_alloc(w->arena, l->n, sizeof *p);
    if (!p) return BD_FAIL(err, BD_E_NOMEM, "no memory for a safetensors header");
    for (size_t i = 0; i < l->n; i++) p[i] = &l->e[i];
    qsort(p, l->n, sizeof *p, entry_by_name);
    for (size_t i = 1; i < l->n; i++)
        if (!strcmp(p[i - 1]->name, p[i]->name))
            return BD_FAIL(err, BD_E_FIELD, "\"%s\" was given twice to the safetensors writer",
                           bd_quote(p[i]->name, strlen(p[i]->name)).s);
    return BD_OK;
}

static bd_status put_header(bd_st_writer *w, bd_buf *b, bd_err *err) {
    uint64_t at = 0;
    BD_TRY(check_distinct(w, &w->meta, err));
    BD_TRY(check_distinct(w, &w->tensors, err));
    bd_buf_u8(b, '{');
    if (w->meta.n) {
        bd_buf_printf(b, "\"__metadata__\":{");
        for (size_t i = 0; i < w->meta.n; i++) {
            if (i) bd_buf_u8(b, ',');
            put_string(b, w->meta.e[i].name);
            bd_buf_u8(b, ':');
            put_string(b, w->meta.e[i].value);
        }
        bd_buf_u8(b, '}');
    }
    for (size_t i = 0; i < w->tensors.n; i++) {
        const entry *e = &w->tensors.e[i];
        uint64_t end;
        if (i || w->meta.n) bd_buf_u8(b, ',');
        put_string(b, e->name);
        bd_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", bd_ckpt_dtype_name(e->dtype));
        for (int d = 0; d < e->ndim; d++) bd_buf_printf(b, "%s%lld", d ? "," : "", (long long)e->dim[d]);
        if (!bd_add_u64(at, e->bytes, &end))
            return BD_FAIL(err, BD_E_LIMIT, "the tensors are too large for a file");
        bd_buf_printf(b, "],\"data_offsets\":[%llu,%llu]}", ULL(at), ULL(end));
        at = end;
    }
    bd_buf_u8(b, '}');
    while (!b->failed && b->size % 8) bd_buf_u8(b, ' ');
    BD_TRY(bd_buf_check(b, err));
    if (b->size > HEADER_LIMIT)
        return BD_FAIL(err, BD_E_LIMIT, "a safetensors header of %llu bytes, the limit is %llu", ULL(b->size),
                       ULL(HEADER_LIMIT));
    return BD_OK;
}

static void writer_free(bd_st_writer *w) {
    bd_out_abort(&w->out);
    bd_arena_destroy(w->arena);
    free(w->meta.e);
    free(w->tensors.e);
    free(w);
}

bd_status bd_st_finish(bd_st_writer *w, bd_err *err) {
    bd_buf b;
    bd_buf_init(&b);
    bd_status st = put_header(w, &b, err);
    if (st == BD_OK) {
        uint8_t len[8];
        for (int i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)b.size >> (8 * i));
        bd_out_put(&w->out, len, sizeof len);
        bd_out_put(&w->out, b.data, b.size);
        for (size_t i = 0; i < w->tensors.n; i++)
            if (w->tensors.e[i].bytes) bd_out_put(&w->out, w->tensors.e[i].data, (size_t)w->tensors.e[i].bytes);
        st = bd_out_commit(&w->out, err);
    }
    bd_buf_free(&b);
    writer_free(w);
    return st;
}

void bd_st_abort(bd_st_writer *w) {
    if (w) writer_free(w);
}
