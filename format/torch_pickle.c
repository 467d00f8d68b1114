#include "format/torch_pickle.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "format/utf8.h"

enum {
    MAX_VALUES = 1 << 22,
    MAX_CELLS = 1 << 22,
    MAX_REFS = 1 << 23,
    MAX_STACK = 1 << 16,
    MAX_MARKS = 1 << 10,
    MAX_MEMO = 1 << 22,
    MAX_TENSORS = BD_CKPT_MAX_TENSORS,
    MAX_GLOBAL = 200, /* bytes of a module or name */
    MAX_KEY = 20,     /* digits of a storage key */
};
#define MAX_PICKLE (UINT64_C(64) << 20)
#define ULL(x)     ((unsigned long long)(x))

/* The closed list of globals. */
typedef enum role { ROLE_ORDERED_DICT, ROLE_TENSOR, ROLE_PARAMETER, ROLE_STORAGE, ROLE_DTYPE } role;
static const struct {
    const char *module, *name;
    role role;
    bd_ckpt_dtype dtype;
} globals[] = {
    {"collections", "OrderedDict", ROLE_ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0},
    {"torch", "DoubleStorage", ROLE_STORAGE, BD_CK_F64},
    {"torch", "FloatStorage", ROLE_STORAGE, BD_CK_F32},
    {"torch", "HalfStorage", ROLE_STORAGE, BD_CK_F16},
    {"torch", "BFloat16Storage", ROLE_STORAGE, BD_CK_BF16},
    {"torch", "LongStorage", ROLE_STORAGE, BD_CK_I64},
    {"torch", "IntStorage", ROLE_STORAGE, BD_CK_I32},
    {"torch", "ShortStorage", ROLE_STORAGE, BD_CK_I16},
    {"torch", "CharStorage", ROLE_STORAGE, BD_CK_I8},
    {"torch", "ByteStorage", ROLE_STORAGE, BD_CK_U8},
    {"torch", "BoolStorage", ROLE_STORAGE, BD_CK_BOOL},
    {"torch", "float64", ROLE_DTYPE, BD_CK_F64},
    {"torch", "float32", ROLE_DTYPE, BD_CK_F32},
    {"torch", "float16", ROLE_DTYPE, BD_CK_F16},
    {"torch", "bfloat16", ROLE_DTYPE, BD_CK_BF16},
    {"torch", "int64", ROLE_DTYPE, BD_CK_I64},
    {"torch", "int32", ROLE_DTYPE, BD_CK_I32},
    {"torch", "int16", ROLE_DTYPE, BD_CK_I16},
    {"torch", "int8", ROLE_DTYPE, BD_CK_I8},
    {"torch", "uint8", ROLE_DTYPE, BD_CK_U8},
    {"torch", "bool", ROLE_DTYPE, BD_CK_BOOL},
};

/* The closed list of opcodes (protocol 2). */
typedef enum opcode {
    OP_PROTO = 0x80,
    OP_STOP = '.',
    OP_MARK = '(',
    OP_GLOBAL = 'c',
    OP_REDUCE = 'R',
    OP_BUILD = 'b',
    OP_BINPERSID = 'Q',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_NONE = 'N',
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_LONG1 = 0x8a,
    OP_BINFLOAT = 'G',
    OP_BINUNICODE = 'X',
    OP_EMPTY_TUPLE = ')',
    OP_TUPLE = 't',
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_EMPTY_LIST = ']',
    OP_APPEND = 'a',
    OP_APPENDS = 'e',
    OP_EMPTY_DICT = '}',
    OP_SETITEM = 's',
    OP_SETITEMS = 'u'
} opcode;

/* Names of what is refused, for the message. */
static const char *refused_name(uint8_t op) {
    switch (op) {
        case 'i': return "INST";
        case 'o': return "OBJ";
        case 0x81: return "NEWOBJ";
        case 0x92: return "NEWOBJ_EX";
        case 0x93: return "STACK_GLOBAL";
        case 0x82: return "EXT1";
        case 0x83: return "EXT2";
        case 0x84: return "EXT4";
        case 'P': return "PERSID";
        case 'p': return "PUT";
        case 'g': return "GET";
        case '0': return "POP";
        case '1': return "POP_MARK";
        case '2': return "DUP";
        case 'I': return "INT";
        case 'L': return "LONG";
        case 'F': return "FLOAT";
        case 'S': return "STRING";
        case 'T': return "BINSTRING";
        case 'U': return "SHORT_BINSTRING";
        case 'V': return "UNICODE";
        case 'B': return "BINBYTES";
        case 'C': return "SHORT_BINBYTES";
        case 'd': return "DICT";
        case 'l': return "LIST";
        case 0x8b: return "LONG4";
        case 0x8c: return "SHORT_BINUNICODE";
        case 0x8d: return "BINUNICODE8";
        case 0x8e: return "BINBYTES8";
        case 0x8f: return "EMPTY_SET";
        case 0x90: return "ADDITEMS";
        case 0x91: return "FROZENSET";
        case 0x94: return "MEMOIZE";
        case 0x95: return "FRAME";
        case 0x96: return "BYTEARRAY8";
        case 0x97: return "NEXT_BUFFER";
        case 0x98: return "READONLY_BUFFER";
        default: return "unknown";
    }
}

const char *bd_pk_kind_name(bd_pk_kind k) {
    static const char *const names[] = {"None",          "a truth value", "an integer", "a float",
                                        "a big integer", "a string",      "a tuple",    "a list",
                                        "a dictionary",  "a global",      "a storage",  "a tensor"};
    return names[k];
}

uint64_t bd_pickle_offset(const bd_pickle *k, uint64_t pos) {
    return k->file_at == BD_NO_OFFSET ? BD_NO_OFFSET : k->file_at + pos;
}

/* Errors name the position inside data.pkl; the offset is the file's. */
#define PK_FAIL(k, err, code, ...)                                                               \
    (bd_err_set((err), (code), bd_pickle_offset((k), (k)->op), __FILE__, __LINE__, __VA_ARGS__), \
     bd_err_prefix((err), "data.pkl byte %llu: ", ULL((k)->op)), (code))

/* --- growing arrays --- */

static bool grow(void **p, uint32_t *cap, uint32_t n, size_t size) {
    if (n < *cap) return true;
    uint32_t more = *cap ? *cap * 2 : 64;
    void *q = realloc(*p, more * size);
    if (!q) return false;
    *p = q;
    *cap = more;
    return true;
}

/* Room for one more element in array `a` of the machine. */
#define ROOM(k, a, limit, what, err)                                                                            \
    do {                                                                                                        \
        void *room_ = (k)->a;                                                                                   \
        if ((k)->n_##a >= (limit)) return PK_FAIL(k, err, BD_E_LIMIT, "more than %llu %s", ULL(limit), (what)); \
        if (!grow(&room_, &(k)->c_##a, (k)->n_##a, sizeof *(k)->a))                                             \
            return PK_FAIL(k, err, BD_E_NOMEM, "no memory");                                                    \
        (k)->a = room_;                                                                                         \
    } while (0)

static bd_status push(bd_pickle *k, uint32_t v, bd_err *err) {
    ROOM(k, stack, MAX_STACK, "values on the stack", err);
    k->stack[k->n_stack++] = v;
    return BD_OK;
}

static bd_status push_new(bd_pickle *k, bd_pk_value v, bd_err *err) {
    ROOM(k, values, MAX_VALUES, "values", err);
    k->values[k->n_values] = v;
    return push(k, k->n_values++, err);
}

static bd_status push_int(bd_pickle *k, bd_pk_kind kind, int64_t i, bd_err *err) {
    bd_pk_value v = {kind, 0, {.i = i}};
    return push_new(k, v, err);
}

/* Stack values above the last mark. */
static uint32_t available(const bd_pickle *k) { return k->n_stack - (k->n_marks ? k->marks[k->n_marks - 1] : 0); }

static bd_status need(const bd_pickle *k, uint32_t n, bd_err *err) {
    if (available(k) >= n) return BD_OK;
    return PK_FAIL(k, err, BD_E_FIELD, "opcode 0x%02x needs %u values, the stack has %u", k->p[k->op], n,
                   available(k));
}

static bd_pk_value *top(bd_pickle *k, uint32_t below) { return &k->values[k->stack[k->n_stack - 1 - below]]; }

/* Drop the last mark: *from is the first stack value above it. */
static bd_status pop_mark(bd_pickle *k, uint32_t *from, bd_err *err) {
    if (k->n_marks == 0) return PK_FAIL(k, err, BD_E_FIELD, "opcode 0x%02x without a mark", k->p[k->op]);
    *from = k->marks[--k->n_marks];
    return BD_OK;
}

/* --- containers --- */

static bd_status make_tuple(bd_pickle *k, uint32_t from, bd_err *err) {
    bd_pk_value v = {BD_PK_TUPLE, k->n_stack - from, {.c = {k->n_refs, 0}}};
    for (uint32_t i = from; i < k->n_stack; i++) {
        ROOM(k, refs, MAX_REFS, "tuple items", err);
        k->refs[k->n_refs++] = k->stack[i];
    }
    k->n_stack = from;
    return push_new(k, v, err);
}

static const bd_pk_value *tuple_at(const bd_pickle *k, const bd_pk_value *t, uint32_t i) {
    return &k->values[k->refs[t->u.c.first + i]];
}

static bd_status append_cell(bd_pickle *k, uint32_t owner, uint32_t key, uint32_t value, bd_err *err) {
    ROOM(k, cells, MAX_CELLS, "container items", err);
    uint32_t cell = k->n_cells++;
    k->cells[cell] = (bd_pk_cell){key, value, 0};
    bd_pk_value *o = &k->values[owner];
    if (o->n++ == 0) o->u.c.first = cell;
    else k->cells[o->u.c.last].next = cell;
    o->u.c.last = cell;
    return BD_OK;
}

/* Items [from, n_stack) into the container just below them, then drop them. */
static bd_status fill(bd_pickle *k, uint32_t from, bd_pk_kind kind, bd_err *err) {
    uint32_t n = k->n_stack - from, step = kind == BD_PK_DICT ? 2 : 1;
    uint32_t floor = k->n_marks ? k->marks[k->n_marks - 1] : 0;
    if (from <= floor) return PK_FAIL(k, err, BD_E_FIELD, "nothing on the stack to add items to");
    uint32_t owner = k->stack[from - 1];
    if (k->values[owner].kind != kind)
        return PK_FAIL(k, err, BD_E_FIELD, "items are added to %s, which is not %s",
                       bd_pk_kind_name(k->values[owner].kind), bd_pk_kind_name(kind));
    if (n % step) return PK_FAIL(k, err, BD_E_FIELD, "a dictionary key without a value");
    for (uint32_t i = from; i < k->n_stack; i += step) {
        uint32_t key = k->stack[i];
        if (kind == BD_PK_DICT) {
            bd_pk_kind t = k->values[key].kind;
            if (t != BD_PK_STR && t != BD_PK_INT)
                return PK_FAIL(k, err, BD_E_FIELD, "a dictionary key must be a string or an integer, not %s",
                               bd_pk_kind_name(t));
        }
        BD_TRY(append_cell(k, owner, key, k->stack[i + step - 1], err));
    }
    k->n_stack = from;
    return BD_OK;
}

/* --- tensors --- */

static bool is_role(const bd_pk_value *v, role r) { return v->kind == BD_PK_GLOBAL && globals[v->u.i].role == r; }

static bd_status persistent(bd_pickle *k, bd_err *err) {
    BD_TRY(need(k, 1, err));
    const bd_pk_value *t = top(k, 0);
    bool shape = t->kind == BD_PK_TUPLE && t->n == 5;
    const bd_pk_value *v[5] = {0};
    for (uint32_t i = 0; shape && i < 5; i++) v[i] = tuple_at(k, t, i);
    if (!shape || !bd_pickle_str_is(v[0], "storage") || !is_role(v[1], ROLE_STORAGE) || v[2]->kind != BD_PK_STR ||
        v[3]->kind != BD_PK_STR || v[4]->kind != BD_PK_INT)
        return PK_FAIL(k, err, BD_E_REFUSED,
                       "a persistent id must be ('storage', a storage type, key, location, number of elements)");
    bd_pk_storage s = {globals[v[1]->u.i].dtype, v[4]->u.i, NULL};
    bool digits = v[2]->n > 0 && v[2]->n <= MAX_KEY;
    for (uint32_t i = 0; digits && i < v[2]->n; i++) digits = v[2]->u.s[i] >= '0' && v[2]->u.s[i] <= '9';
    if (!digits)
        return PK_FAIL(k, err, BD_E_FIELD, "\"%s\" is no storage key: a number is", bd_quote(v[2]->u.s, v[2]->n).s);
    char name[BD_ZIP_MAX_NAME + 8 + MAX_KEY];
    uint32_t n = k->prefix_len;
    memcpy(name, k->prefix, n);
    memcpy(name + n, "/data/", 6);
    memcpy(name + n + 6, v[2]->u.s, v[2]->n);
    n += 6 + v[2]->n;
    const bd_zip_entry *e = bd_zip_find(k->zip, name, n);
    if (!e) return PK_FAIL(k, err, BD_E_MISSING, "storage %s is not in the archive", bd_quote(name, n).s);
    uint64_t bytes;
    if (s.numel < 0 || !bd_mul_u64((uint64_t)s.numel, bd_ckpt_dtype_size(s.dtype), &bytes) || bytes != e->size)
        return PK_FAIL(k, err, BD_E_SHAPE, "storage %s: %lld elements of %s expected, the archive has %llu bytes",
                       bd_quote(name, n).s, (long long)s.numel, bd_ckpt_dtype_name(s.dtype), ULL(e->size));
    s.data = e->data;
    ROOM(k, storages, MAX_TENSORS, "storages", err);
    k->storages[k->n_storages] = s;
    bd_pk_value out = {BD_PK_STORAGE, 0, {.index = k->n_storages++}};
    k->n_stack--;
    return push_new(k, out, err);
}

static bd_status rebuild_tensor(bd_pickle *k, const bd_pk_value *args, bd_pk_value *out, bd_err *err) {
    const bd_pk_value *a[6];
    if (args->n != 6 && args->n != 7) return PK_FAIL(k, err, BD_E_FIELD, "a tensor with %u arguments", args->n);
    for (uint32_t i = 0; i < 6; i++) a[i] = tuple_at(k, args, i);
    if (a[0]->kind != BD_PK_STORAGE || a[1]->kind != BD_PK_INT || a[2]->kind != BD_PK_TUPLE ||
        a[3]->kind != BD_PK_TUPLE || a[4]->kind != BD_PK_BOOL || a[5]->kind != BD_PK_DICT || a[2]->n != a[3]->n)
        return PK_FAIL(k, err, BD_E_FIELD, "a tensor needs (storage, offset, sizes, strides, bool, dictionary)");
    if (a[2]->n > BD_CKPT_MAX_RANK)
        return PK_FAIL(k, err, BD_E_LIMIT, "a tensor of %u dimensions, the limit is %d", a[2]->n,
                       (int)BD_CKPT_MAX_RANK);
    bd_pk_tensor t;
    memset(&t, 0, sizeof t);
    t.at = k->op;
    bd_ckpt_view *v = &t.view;
    const bd_pk_storage *s = &k->storages[a[0]->u.index];
    v->dtype = s->dtype;
    v->ndim = (int)a[2]->n;
    for (int i = 0; i < v->ndim; i++) {
        const bd_pk_value *d = tuple_at(k, a[2], (uint32_t)i), *st = tuple_at(k, a[3], (uint32_t)i);
        if (d->kind != BD_PK_INT || st->kind != BD_PK_INT || d->u.i < 0 || st->u.i < 0)
            return PK_FAIL(k, err, BD_E_FIELD, "sizes and strides must be integers that are not negative");
        v->dim[i] = d->u.i;
        v->stride[i] = st->u.i;
    }
    bd_status st = bd_ckpt_count(&v->count, v->ndim, v->dim, "in a pickle", bd_pickle_offset(k, k->op), err);
    if (st != BD_OK) {
        bd_err_prefix(err, "data.pkl byte %llu: ", ULL(k->op));
        return st;
    }
    /* the last element touched must lie in the storage */
    int64_t last = a[1]->u.i, step;
    bool inside = last >= 0 && last <= s->numel;
    if (v->count > 0) {
        for (int i = 0; inside && i < v->ndim; i++)
            inside = bd_mul_i64(v->dim[i] - 1, v->stride[i], &step) && bd_add_i64(last, step, &last);
        inside = inside && last < s->numel;
    }
    if (!inside)
        return PK_FAIL(k, err, BD_E_RANGE, "a tensor reaches outside its storage of %lld elements (offset %lld)",
                       (long long)s->numel, (long long)a[1]->u.i);
    /* an expanded view could ask for any amount of memory */
    if (v->count > s->numel)
        return PK_FAIL(k, err, BD_E_REFUSED, "a tensor of %lld elements over a storage of %lld (an expanded view)",
                       (long long)v->count, (long long)s->numel);
    v->data = v->count ? s->data + (uint64_t)a[1]->u.i * bd_ckpt_dtype_size(s->dtype) : s->data;
    ROOM(k, tensors, MAX_TENSORS, "tensors", err);
    k->tensors[k->n_tensors] = t;
    out->kind = BD_PK_TENSOR;
    out->u.index = k->n_tensors++;
    return BD_OK;
}

static bd_status reduce(bd_pickle *k, bd_err *err) {
    BD_TRY(need(k, 2, err));
    const bd_pk_value *args = top(k, 0), *fn = top(k, 1);
    if (fn->kind != BD_PK_GLOBAL || args->kind != BD_PK_TUPLE)
        return PK_FAIL(k, err, BD_E_REFUSED, "REDUCE calls %s with %s", bd_pk_kind_name(fn->kind),
                       bd_pk_kind_name(args->kind));
    bd_pk_value out = {BD_PK_NONE, 0, {.i = 0}};
    switch (globals[fn->u.i].role) {
        case ROLE_ORDERED_DICT:
            if (args->n != 0)
                return PK_FAIL(k, err, BD_E_REFUSED, "collections.OrderedDict is called with arguments");
            out.kind = BD_PK_DICT;
            break;
        case ROLE_TENSOR: BD_TRY(rebuild_tensor(k, args, &out, err)); break;
        case ROLE_PARAMETER:
            if (args->n != 3 || tuple_at(k, args, 0)->kind != BD_PK_TENSOR)
                return PK_FAIL(k, err, BD_E_FIELD, "a parameter needs (tensor, bool, dictionary)");
            out = *tuple_at(k, args, 0);
            break;
        default:
            return PK_FAIL(k, err, BD_E_REFUSED, "%s.%s is called, which is no function", globals[fn->u.i].module,
                           globals[fn->u.i].name);
    }
    k->n_stack -= 2;
    return push_new(k, out, err);
}

/* --- opcodes with text or numbers --- */

static bd_status find_global(bd_pickle *k, bd_err *err) {
    const char *text[2];
    uint32_t len[2];
    for (int i = 0; i < 2; i++) {
        uint64_t left = k->size - k->pos, scan = left > MAX_GLOBAL + 1 ? MAX_GLOBAL + 1 : left;
        const uint8_t *nl = scan ? memchr(k->p + k->pos, '\n', (size_t)scan) : NULL;
        if (!nl)
            return PK_FAIL(k, err, scan == left ? BD_E_TRUNCATED : BD_E_REFUSED,
                           "GLOBAL without the end of its %s in %llu bytes", i ? "name" : "module", ULL(scan));
        text[i] = (const char *)k->p + k->pos;
        len[i] = (uint32_t)(nl - (k->p + k->pos));
        k->pos += len[i] + 1;
    }
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strlen(globals[i].module) == len[0] && !memcmp(globals[i].module, text[0], len[0]) &&
            strlen(globals[i].name) == len[1] && !memcmp(globals[i].name, text[1], len[1]))
            return push_int(k, BD_PK_GLOBAL, (int64_t)i, err);
    return PK_FAIL(k, err, BD_E_REFUSED,
                   "global \"%s.%s\" is not allowed; save a dictionary of plain tensors (a state_dict) instead",
                   bd_quote(text[0], len[0]).s, bd_quote(text[1], len[1]).s);
}

static bd_status take(bd_pickle *k, uint64_t n, bd_rd *r, bd_err *err) {
    if (n > k->size - k->pos)
        return PK_FAIL(k, err, BD_E_TRUNCATED, "opcode 0x%02x needs %llu bytes, %llu are left", k->p[k->op], ULL(n),
                       ULL(k->size - k->pos));
    bd_rd_init(r, k->p + k->pos, n);
    k->pos += n;
    return BD_OK;
}

static bd_status read_long(bd_pickle *k, bd_err *err) {
    bd_rd r;
    BD_TRY(take(k, 1, &r, err));
    uint8_t n = bd_rd_u8(&r);
    BD_TRY(take(k, n, &r, err));
    if (n > 8) return push_int(k, BD_PK_BIGINT, 0, err);
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)bd_rd_u8(&r) << (8 * i);
    if (n > 0 && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << (8 * n); /* sign */
    return push_int(k, BD_PK_INT, (int64_t)v, err);
}

static bd_status read_number(bd_pickle *k, uint8_t op, bd_err *err) {
    bd_rd r;
    if (op == OP_BINFLOAT) {
        BD_TRY(take(k, 8, &r, err));
        uint64_t u = 0; /* the one big-endian field of the format */
        for (int i = 0; i < 8; i++) u = u << 8 | bd_rd_u8(&r);
        bd_pk_value v = {BD_PK_FLOAT, 0, {.f = 0}};
        memcpy(&v.u.f, &u, 8);
        return push_new(k, v, err);
    }
    BD_TRY(take(k, op == OP_BININT ? 4 : op == OP_BININT2 ? 2 : 1, &r, err));
    int64_t i = op == OP_BININT ? (int32_t)bd_rd_u32(&r) : op == OP_BININT2 ? bd_rd_u16(&r) : bd_rd_u8(&r);
    return push_int(k, BD_PK_INT, i, err);
}

static bd_status read_text(bd_pickle *k, bd_err *err) {
    bd_rd r;
    BD_TRY(take(k, 4, &r, err));
    uint32_t n = bd_rd_u32(&r);
    BD_TRY(take(k, n, &r, err));
    const char *s = (const char *)k->p + k->pos - n;
    if (!bd_utf8_valid(s, n)) return PK_FAIL(k, err, BD_E_FIELD, "a string of %u bytes is not UTF-8", n);
    bd_pk_value v = {BD_PK_STR, n, {.s = s}};
    return push_new(k, v, err);
}

static bd_status memo_put(bd_pickle *k, bool wide, bd_err *err) {
    bd_rd r;
    BD_TRY(take(k, wide ? 4 : 1, &r, err));
    uint32_t i = wide ? bd_rd_u32(&r) : bd_rd_u8(&r);
    BD_TRY(need(k, 1, err));
    if (i >= MAX_MEMO) return PK_FAIL(k, err, BD_E_LIMIT, "memo index %u, the limit is %d", i, (int)MAX_MEMO);
    while (k->n_memo <= i) {
        ROOM(k, memo, MAX_MEMO, "memo entries", err);
        k->memo[k->n_memo++] = 0;
    }
    k->memo[i] = k->stack[k->n_stack - 1] + 1;
    return BD_OK;
}

static bd_status memo_get(bd_pickle *k, bool wide, bd_err *err) {
    bd_rd r;
    BD_TRY(take(k, wide ? 4 : 1, &r, err));
    uint32_t i = wide ? bd_rd_u32(&r) : bd_rd_u8(&r);
    if (i >= k->n_memo || !k->memo[i]) return PK_FAIL(k, err, BD_E_FIELD, "memo entry %u was never stored", i);
    return push(k, k->memo[i] - 1, err);
}

/* --- the machine --- */

static bd_status step(bd_pickle *k, uint8_t op, bd_err *err) {
    uint32_t from;
    switch ((opcode)op) {
        case OP_MARK:
            ROOM(k, marks, MAX_MARKS, "open marks", err);
            k->marks[k->n_marks++] = k->n_stack;
            return BD_OK;
        case OP_GLOBAL: return find_global(k, err);
        case OP_REDUCE: return reduce(k, err);
        case OP_BUILD: /* the attributes of an OrderedDict (its _metadata) say nothing about tensors */
            BD_TRY(need(k, 2, err));
            if (top(k, 0)->kind != BD_PK_DICT || top(k, 1)->kind != BD_PK_DICT)
                return PK_FAIL(k, err, BD_E_REFUSED, "BUILD sets the state of %s",
                               bd_pk_kind_name(top(k, 1)->kind));
            k->n_stack--;
            return BD_OK;
        case OP_BINPERSID: return persistent(k, err);
        case OP_BINPUT: return memo_put(k, false, err);
        case OP_LONG_BINPUT: return memo_put(k, true, err);
        case OP_BINGET: return memo_get(k, false, err);
        case OP_LONG_BINGET: return memo_get(k, true, err);
        case OP_NONE: return push_int(k, BD_PK_NONE, 0, err);
        case OP_NEWTRUE: return push_int(k, BD_PK_BOOL, 1, err);
        case OP_NEWFALSE: return push_int(k, BD_PK_BOOL, 0, err);
        case OP_BININT:
        case OP_BININT1:
        case OP_BININT2:
        case OP_BINFLOAT: return read_number(k, op, err);
        case OP_LONG1: return read_long(k, err);
        case OP_BINUNICODE: return read_text(k, err);
        case OP_EMPTY_TUPLE: return make_tuple(k, k->n_stack, err);
        case OP_TUPLE: BD_TRY(pop_mark(k, &from, err)); return make_tuple(k, from, err);
        case OP_TUPLE1:
        case OP_TUPLE2:
        case OP_TUPLE3: {
            uint32_t n = op - (uint32_t)OP_TUPLE1 + 1;
            BD_TRY(need(k, n, err));
            return make_tuple(k, k->n_stack - n, err);
        }
        case OP_EMPTY_LIST:
        case OP_EMPTY_DICT: {
            bd_pk_value v = {op == OP_EMPTY_LIST ? BD_PK_LIST : BD_PK_DICT, 0, {.c = {0, 0}}};
            return push_new(k, v, err);
        }
        case OP_APPEND: BD_TRY(need(k, 2, err)); return fill(k, k->n_stack - 1, BD_PK_LIST, err);
        case OP_SETITEM: BD_TRY(need(k, 3, err)); return fill(k, k->n_stack - 2, BD_PK_DICT, err);
        case OP_APPENDS: BD_TRY(pop_mark(k, &from, err)); return fill(k, from, BD_PK_LIST, err);
        case OP_SETITEMS: BD_TRY(pop_mark(k, &from, err)); return fill(k, from, BD_PK_DICT, err);
        case OP_PROTO:
        case OP_STOP: break; /* only at the ends: see run */
    }
    return PK_FAIL(k, err, BD_E_REFUSED, "opcode 0x%02x (%s) is not allowed", op,
                   op == OP_PROTO ? "PROTO" : refused_name(op));
}

static bd_status run(bd_pickle *k, bd_err *err) {
    if (k->size > MAX_PICKLE)
        return PK_FAIL(k, err, BD_E_LIMIT, "data.pkl has %llu bytes, the limit is %llu", ULL(k->size),
                       ULL(MAX_PICKLE));
    if (k->size < 2) return PK_FAIL(k, err, BD_E_TRUNCATED, "data.pkl has %llu bytes", ULL(k->size));
    if (k->p[0] != OP_PROTO || k->p[1] != 2)
        return PK_FAIL(k, err, BD_E_VERSION, "pickle protocol 2 expected (bytes 80 02), found %02x %02x", k->p[0],
                       k->p[1]);
    ROOM(k, cells, MAX_CELLS, "container items", err);
    k->cells[k->n_cells++] = (bd_pk_cell){0, 0, 0};
    k->pos = 2;
    for (;;) {
        k->op = k->pos;
        if (k->pos >= k->size) return PK_FAIL(k, err, BD_E_TRUNCATED, "the pickle ends without STOP");
        uint8_t op = k->p[k->pos++];
        if (op == OP_STOP) break;
        BD_TRY(step(k, op, err));
    }
    if (k->n_stack != 1 || k->n_marks != 0)
        return PK_FAIL(k, err, BD_E_FIELD, "STOP with %u values on the stack and %u marks", k->n_stack, k->n_marks);
    if (k->pos != k->size) return PK_FAIL(k, err, BD_E_FIELD, "%llu bytes follow STOP", ULL(k->size - k->pos));
    k->root = k->stack[0];
    return BD_OK;
}

bd_status bd_pickle_load(bd_pickle *k, const bd_zip *zip, const bd_zip_entry *entry, const char *prefix,
                         uint32_t prefix_len, bd_err *err) {
    memset(k, 0, sizeof *k);
    k->p = entry->data;
    k->size = entry->size;
    k->file_at = entry->heap ? BD_NO_OFFSET : entry->offset;
    k->zip = zip;
    k->prefix = prefix;
    k->prefix_len = prefix_len;
    return run(k, err);
}

void bd_pickle_free(bd_pickle *k) {
    free(k->values);
    free(k->cells);
    free(k->refs);
    free(k->stack);
    free(k->marks);
    free(k->memo);
    free(k->storages);
    free(k->tensors);
    memset(k, 0, sizeof *k);
}

/* --- looking at values --- */

bool bd_pickle_str_is(const bd_pk_value *v, const char *s) {
    return v && v->kind == BD_PK_STR && v->n == strlen(s) && !memcmp(v->u.s, s, v->n);
}

const bd_pk_value *bd_pickle_get(const bd_pickle *k, const bd_pk_value *dict, const char *key) {
    const bd_pk_value *found = NULL;
    if (dict->kind != BD_PK_DICT) return NULL;
    for (uint32_t c = dict->n ? dict->u.c.first : 0; c; c = k->cells[c].next)
        if (bd_pickle_str_is(&k->values[k->cells[c].key], key)) found = &k->values[k->cells[c].value];
    return found;
}

static int compare_keys(const char *a, uint32_t na, const char *b, uint32_t nb) {
    uint32_t n = na < nb ? na : nb;
    int d = n ? memcmp(a, b, n) : 0;
    return d ? d : na < nb ? -1 : na > nb;
}

static int by_key(const void *a, const void *b) {
    const bd_pk_item *x = a, *y = b;
    return compare_keys(x->key, x->key_len, y->key, y->key_len);
}

bd_status bd_pickle_items(bd_pk_item **items, const bd_pickle *k, const bd_pk_value *dict, const char *what,
                          bd_err *err) {
    *items = NULL;
    if (dict->kind != BD_PK_DICT)
        return BD_FAIL(err, BD_E_FIELD, "data.pkl: %s is %s, a dictionary is needed", what,
                       bd_pk_kind_name(dict->kind));
    bd_pk_item *list = malloc(((size_t)dict->n + 1) * sizeof *list);
    if (!list) return BD_FAIL(err, BD_E_NOMEM, "no memory for %u names", dict->n);
    uint32_t n = 0;
    for (uint32_t c = dict->n ? dict->u.c.first : 0; c; c = k->cells[c].next) {
        const bd_pk_value *key = &k->values[k->cells[c].key];
        if (key->kind != BD_PK_STR) {
            free(list);
            return BD_FAIL(err, BD_E_FIELD, "data.pkl: a key of %s is %s, a string is needed", what,
                           bd_pk_kind_name(key->kind));
        }
        list[n++] = (bd_pk_item){key->u.s, key->n, &k->values[k->cells[c].value]};
    }
    qsort(list, n, sizeof *list, by_key);
    for (uint32_t i = 1; i < n; i++)
        if (by_key(&list[i - 1], &list[i]) == 0) {
            BD_FAIL(err, BD_E_FIELD, "data.pkl: \"%s\" occurs twice in %s",
                    bd_quote(list[i].key, list[i].key_len).s, what);
            free(list);
            return BD_E_FIELD;
        }
    *items = list;
    return BD_OK;
}

const bd_pk_value *bd_pickle_item_find(const bd_pk_item *items, uint32_t n, const char *key, uint32_t key_len) {
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int d = compare_keys(items[mid].key, items[mid].key_len, key, key_len);
        if (d == 0) return items[mid].value;
        if (d < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}
