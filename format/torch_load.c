/* Torch checkpoints: the zip's layout, and tensors out of the pickled value. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint_impl.h"
#include "format/torch_pickle.h"
#include "format/utf8.h"

enum { MAX_DEPTH = 8, MAX_STEPS = 1 << 22 };

/* The one entry PREFIX/data.pkl. */
static bd_status find_pickle(const bd_zip *z, const bd_zip_entry **out, bd_err *err) {
    static const char tail[] = "/data.pkl";
    const uint32_t n = sizeof tail - 1;
    *out = NULL;
    for (uint32_t i = 0; i < z->n; i++) {
        const bd_zip_entry *e = &z->entries[i];
        if (e->name_len <= n || memcmp(e->name + e->name_len - n, tail, n)) continue;
        if (memchr(e->name, '/', e->name_len - n)) continue;
        if (*out)
            return BD_FAIL_AT(err, BD_E_FIELD, e->local, "two pickles in the archive: %s and %s",
                              bd_quote((*out)->name, (*out)->name_len).s, bd_quote(e->name, e->name_len).s);
        *out = e;
    }
    if (!*out)
        return BD_FAIL(err, BD_E_MISSING, "the zip archive has no NAME/data.pkl, so torch.save did not write it");
    return BD_OK;
}

static bd_status check_byteorder(const bd_zip *z, const char *prefix, uint32_t prefix_len, bd_err *err) {
    char name[BD_ZIP_MAX_NAME + 16];
    memcpy(name, prefix, prefix_len);
    memcpy(name + prefix_len, "/byteorder", 10);
    const bd_zip_entry *e = bd_zip_find(z, name, prefix_len + 10);
    if (!e || (e->size == 6 && !memcmp(e->data, "little", 6))) return BD_OK;
    return BD_FAIL_AT(err, BD_E_FIELD, e->offset, "byteorder is \"%s\", only \"little\" is read",
                      bd_quote(e->data, e->size).s);
}

/* --- flattening --- */

typedef struct frame {
    uint32_t cell; /* next item, 0: done */
    size_t prefix; /* length of the name so far */
} frame;

static bd_status join_name(char *name, size_t *len, const bd_pk_value *key, bd_err *err) {
    char digits[24];
    const char *s = key->u.s;
    size_t n = key->n;
    if (key->kind == BD_PK_INT) {
        n = (size_t)snprintf(digits, sizeof digits, "%lld", (long long)key->u.i);
        s = digits;
    }
    size_t dot = *len ? 1 : 0;
    if (n > BD_CKPT_MAX_NAME - *len - dot || *len + dot > BD_CKPT_MAX_NAME)
        return BD_FAIL(err, BD_E_LIMIT, "data.pkl: the tensor name %s...%s has more than %d bytes",
                       bd_quote(name, *len).s, bd_quote(s, n).s, (int)BD_CKPT_MAX_NAME);
    if (dot) name[(*len)++] = '.';
    if (n) memcpy(name + *len, s, n);
    *len += n;
    return BD_OK;
}

/* Every tensor below `root`, names joined with dots; other values are passed over. */
static bd_status flatten(bd_ckpt *c, const bd_pickle *k, const bd_pk_value *root, bd_err *err) {
    frame stack[MAX_DEPTH];
    char name[BD_CKPT_MAX_NAME + 1];
    int depth = 0;
    uint64_t steps = 0;
    stack[0] = (frame){root->n ? root->u.c.first : 0, 0};
    while (depth >= 0) {
        frame *f = &stack[depth];
        if (!f->cell) {
            depth--;
            continue;
        }
        if (++steps > MAX_STEPS)
            return BD_FAIL(err, BD_E_LIMIT, "data.pkl: more than %d nested items", (int)MAX_STEPS);
        bd_pk_cell cell = k->cells[f->cell];
        f->cell = cell.next;
        const bd_pk_value *v = &k->values[cell.value];
        if (v->kind != BD_PK_TENSOR && v->kind != BD_PK_DICT) continue;
        size_t len = f->prefix;
        BD_TRY(join_name(name, &len, &k->values[cell.key], err));
        if (v->kind == BD_PK_DICT) {
            if (depth + 1 == MAX_DEPTH)
                return BD_FAIL(err, BD_E_LIMIT, "data.pkl: dictionaries are nested deeper than %d at \"%s\"",
                               (int)MAX_DEPTH, bd_quote(name, len).s);
            stack[++depth] = (frame){v->n ? v->u.c.first : 0, len};
            continue;
        }
        const bd_pk_tensor *t = &k->tensors[v->u.index];
        bd_ckpt_source s;
        memset(&s, 0, sizeof s);
        s.value = t->view;
        s.cast = BD_CK_F32;
        BD_TRY(bd_ckpt_add(c, name, len, s.value.dtype, &s, bd_pickle_offset(k, t->at), err));
    }
    return BD_OK;
}

static bool has_tensor(const bd_pickle *k, const bd_pk_value *dict) {
    for (uint32_t c = dict->n ? dict->u.c.first : 0; c; c = k->cells[c].next)
        if (k->values[k->cells[c].value].kind == BD_PK_TENSOR) return true;
    return false;
}

/* {"model": {...}, "optimizer": {...}}: the weights are in the wrapped dictionary. */
static const bd_pk_value *unwrap(const bd_pickle *k, const bd_pk_value *v) {
    static const char *const wrappers[] = {"state_dict", "model_state_dict", "model"};
    for (int level = 0; level < 3 && !has_tensor(k, v); level++) {
        const bd_pk_value *inner = NULL;
        for (size_t i = 0; !inner && i < sizeof wrappers / sizeof *wrappers; i++) {
            const bd_pk_value *w = bd_pickle_get(k, v, wrappers[i]);
            if (w && w->kind == BD_PK_DICT) inner = w;
        }
        if (!inner) break;
        v = inner;
    }
    return v;
}

static bd_status read_value(bd_ckpt *c, const bd_pickle *k, bd_err *err) {
    const bd_pk_value *v = &k->values[k->root];
    if (v->kind != BD_PK_DICT)
        return BD_FAIL(err, BD_E_FIELD, "the checkpoint holds %s; a dictionary of tensors is needed",
                       bd_pk_kind_name(v->kind));
    v = unwrap(k, v);
    const bd_pk_value *format = bd_pickle_get(k, v, "__quant_format__");
    if (format) {
        if (!bd_pickle_str_is(format, "int8_clean_per_row_v1")) {
            bool text = format->kind == BD_PK_STR;
            return BD_FAIL(err, BD_E_UNKNOWN, "quantized dictionary of the unknown format \"%s\"",
                           text ? bd_quote(format->u.s, format->n).s : bd_pk_kind_name(format->kind));
        }
        c->format = "torch int8_clean_per_row_v1";
        BD_TRY(bd_int8_clean_read(c, k, v, err));
    } else {
        c->format = "torch";
        BD_TRY(flatten(c, k, v, err));
    }
    if (c->n == 0) return BD_FAIL(err, BD_E_MISSING, "the checkpoint's dictionary holds no tensor");
    return BD_OK;
}

bd_status bd_torch_parse(bd_ckpt *c, const uint8_t *data, uint64_t size, bd_err *err) {
    const bd_zip_entry *pkl;
    bd_zip **zip = &c->impl->zip;
    BD_TRY(bd_zip_open(zip, data, size, err));
    BD_TRY(find_pickle(*zip, &pkl, err));
    const uint32_t prefix_len = pkl->name_len - (uint32_t)strlen("/data.pkl");
    BD_TRY(check_byteorder(*zip, pkl->name, prefix_len, err));
    bd_pickle k;
    bd_status st = bd_pickle_load(&k, *zip, pkl, pkl->name, prefix_len, err);
    if (st == BD_OK) st = read_value(c, &k, err);
    bd_pickle_free(&k); /* names are copied, tensor bytes belong to the archive */
    return st;
}
