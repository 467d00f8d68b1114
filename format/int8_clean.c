/* The challenge baseline's quantized dictionary, "int8_clean_per_row_v1":
 *
 *   quantized   name -> int8 tensor          scales  name -> float tensor, (rows) or ()
 *   dtypes      name -> original dtype       qmeta   name -> {scheme: "per_row", axis: 0}; optional
 *   passthrough name -> tensor               passthrough_orig_dtypes  name -> original dtype; optional
 *
 * Value = q * scale in float32, then rounded to the original dtype, as the
 * baseline's own loader does: a bfloat16 embedding is rounded to bfloat16. */
#include <stdlib.h>
#include <string.h>

#include "format/torch_pickle.h"
#include "format/utf8.h"

typedef struct table {
    bd_pk_item *items;
    uint32_t n;
} table;

enum { QUANTIZED, SCALES, DTYPES, PASSTHROUGH, QMETA, ORIG, TABLES };
static const struct {
    const char *key;
    bool required;
} parts[TABLES] = {
    [QUANTIZED] = {"quantized", true},     [SCALES] = {"scales", true}, [DTYPES] = {"dtypes", true},
    [PASSTHROUGH] = {"passthrough", true}, [QMETA] = {"qmeta", false},  [ORIG] = {"passthrough_orig_dtypes", false},
};

static const bd_pk_value *find(const table *t, const bd_pk_item *name) {
    return bd_pickle_item_find(t->items, t->n, name->key, name->key_len);
}

/* The dtype names that the loader hands to getattr(torch, ...), as far as they are floats. */
static bd_status original_dtype(const bd_pk_value *v, bd_ckpt_dtype *cast, const char *part, const char *name,
                                bd_err *err) {
    if (bd_pickle_str_is(v, "float32") || bd_pickle_str_is(v, "float64")) *cast = BD_CK_F32;
    else if (bd_pickle_str_is(v, "bfloat16")) *cast = BD_CK_BF16;
    else if (bd_pickle_str_is(v, "float16")) *cast = BD_CK_F16;
    else
        return BD_FAIL(err, BD_E_FIELD, "tensor %s: %s says %s\"%s\", a float dtype's name is needed", name, part,
                       v->kind == BD_PK_STR ? "" : "it is ",
                       v->kind == BD_PK_STR ? bd_quote(v->u.s, v->n).s : bd_pk_kind_name(v->kind));
    return BD_OK;
}

static bd_status need_tensor(const bd_pickle *k, const bd_pk_value *v, const char *part, const char *name,
                             const bd_pk_tensor **out, bd_err *err) {
    if (!v) return BD_FAIL(err, BD_E_MISSING, "tensor %s has no entry in %s", name, part);
    if (v->kind != BD_PK_TENSOR)
        return BD_FAIL(err, BD_E_FIELD, "%s of tensor %s is %s, not a tensor", part, name,
                       bd_pk_kind_name(v->kind));
    *out = &k->tensors[v->u.index];
    return BD_OK;
}

static bool is_float(bd_ckpt_dtype t) { return t <= BD_CK_BF16; }

static bd_status check_qmeta(const bd_pickle *k, const bd_pk_value *m, const char *name, bool *per_row,
                             bd_err *err) {
    *per_row = false;
    if (!m) return BD_OK;
    bool small = m->kind == BD_PK_DICT && m->n <= 8; /* one huge dictionary shared by all tensors would take ages */
    const bd_pk_value *scheme = small ? bd_pickle_get(k, m, "scheme") : NULL;
    const bd_pk_value *axis = small ? bd_pickle_get(k, m, "axis") : NULL;
    if (!scheme || !bd_pickle_str_is(scheme, "per_row") || (axis && (axis->kind != BD_PK_INT || axis->u.i != 0)))
        return BD_FAIL(err, BD_E_FIELD, "qmeta of tensor %s is not {scheme: \"per_row\", axis: 0}", name);
    *per_row = true;
    return BD_OK;
}

static bd_status add_quantized(bd_ckpt *c, const bd_pickle *k, const table *t, const bd_pk_item *it, bd_err *err) {
    bd_quoted q = bd_quote(it->key, it->key_len);
    const bd_pk_tensor *codes = NULL, *scale = NULL;
    BD_TRY(need_tensor(k, it->value, "quantized", q.s, &codes, err));
    BD_TRY(need_tensor(k, find(&t[SCALES], it), "scales", q.s, &scale, err));
    const bd_pk_value *dtype = find(&t[DTYPES], it);
    if (!dtype) return BD_FAIL(err, BD_E_MISSING, "tensor %s has no entry in dtypes", q.s);
    uint64_t at = bd_pickle_offset(k, codes->at);
    bd_ckpt_source s;
    memset(&s, 0, sizeof s);
    bool per_row;
    BD_TRY(original_dtype(dtype, &s.cast, "dtypes", q.s, err));
    BD_TRY(check_qmeta(k, find(&t[QMETA], it), q.s, &per_row, err));
    s.value = codes->view;
    s.scale = scale->view;
    s.scaled = true;
    if (s.value.dtype != BD_CK_I8)
        return BD_FAIL_AT(err, BD_E_FIELD, at, "tensor %s: quantized values are %s, I8 is needed", q.s,
                          bd_ckpt_dtype_name(s.value.dtype));
    if (!is_float(s.scale.dtype))
        return BD_FAIL_AT(err, BD_E_FIELD, at, "tensor %s: scales are %s, a float dtype is needed", q.s,
                          bd_ckpt_dtype_name(s.scale.dtype));
    bool row = s.scale.ndim == 1 && s.value.ndim >= 1 && s.scale.dim[0] == s.value.dim[0];
    bool one = s.scale.ndim == 0 && !per_row;
    if (!row && !one)
        return BD_FAIL_AT(err, BD_E_SHAPE, at, "tensor %s: %lld scales in %d dimensions for %lld rows", q.s,
                          (long long)s.scale.count, s.scale.ndim, (long long)(s.value.ndim ? s.value.dim[0] : 0));
    return bd_ckpt_add(c, it->key, it->key_len, BD_CK_F32, &s, at, err);
}

static bd_status add_passthrough(bd_ckpt *c, const bd_pickle *k, const table *t, const bd_pk_item *it,
                                 bd_err *err) {
    bd_quoted q = bd_quote(it->key, it->key_len);
    const bd_pk_tensor *x = NULL;
    BD_TRY(need_tensor(k, it->value, "passthrough", q.s, &x, err));
    bd_ckpt_source s;
    memset(&s, 0, sizeof s);
    s.value = x->view;
    s.cast = BD_CK_F32;
    const bd_pk_value *orig = find(&t[ORIG], it);
    if (orig) {
        BD_TRY(original_dtype(orig, &s.cast, "passthrough_orig_dtypes", q.s, err));
        if (!is_float(s.value.dtype))
            return BD_FAIL(err, BD_E_FIELD, "tensor %s: passthrough_orig_dtypes for values of %s", q.s,
                           bd_ckpt_dtype_name(s.value.dtype));
        if (s.cast == s.value.dtype) s.cast = BD_CK_F32; /* nothing to round */
    }
    bd_ckpt_dtype reported = is_float(s.value.dtype) ? BD_CK_F32 : s.value.dtype;
    return bd_ckpt_add(c, it->key, it->key_len, reported, &s, bd_pickle_offset(k, x->at), err);
}

/* An entry about a tensor that does not exist is a sign of damage. */
static bd_status check_orphans(const table *t, int part, int about, bd_err *err) {
    for (uint32_t i = 0; i < t[part].n; i++)
        if (!find(&t[about], &t[part].items[i]))
            return BD_FAIL(err, BD_E_FIELD, "%s has an entry \"%s\" that %s has not", parts[part].key,
                           bd_quote(t[part].items[i].key, t[part].items[i].key_len).s, parts[about].key);
    return BD_OK;
}

static bd_status read_tables(bd_ckpt *c, const bd_pickle *k, table *t, bd_err *err) {
    BD_TRY(check_orphans(t, SCALES, QUANTIZED, err));
    BD_TRY(check_orphans(t, DTYPES, QUANTIZED, err));
    BD_TRY(check_orphans(t, QMETA, QUANTIZED, err));
    BD_TRY(check_orphans(t, ORIG, PASSTHROUGH, err));
    for (uint32_t i = 0; i < t[QUANTIZED].n; i++) BD_TRY(add_quantized(c, k, t, &t[QUANTIZED].items[i], err));
    for (uint32_t i = 0; i < t[PASSTHROUGH].n; i++) BD_TRY(add_passthrough(c, k, t, &t[PASSTHROUGH].items[i], err));
    return BD_OK;
}

bd_status bd_int8_clean_read(bd_ckpt *c, const bd_pickle *k, const bd_pk_value *root, bd_err *err) {
    table t[TABLES] = {{NULL, 0}};
    bd_pk_item *top;
    BD_TRY(bd_pickle_items(&top, k, root, "the quantized checkpoint", err)); /* also refuses a repeated part */
    free(top);
    bd_status st = BD_OK;
    for (int i = 0; st == BD_OK && i < TABLES; i++) {
        const bd_pk_value *v = bd_pickle_get(k, root, parts[i].key);
        if (!v && parts[i].required)
            st = BD_FAIL(err, BD_E_MISSING, "the int8_clean_per_row_v1 dictionary has no \"%s\"", parts[i].key);
        if (v) st = bd_pickle_items(&t[i].items, k, v, parts[i].key, err);
        if (v && st == BD_OK) t[i].n = v->n;
    }
    if (st == BD_OK) st = read_tables(c, k, t, err);
    for (int i = 0; i < TABLES; i++) free(t[i].items);
    return st;
}
