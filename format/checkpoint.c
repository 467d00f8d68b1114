#include "format/checkpoint.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/half.h"
#include "format/checkpoint_impl.h"
#include "format/inflate_any.h"
#include "format/utf8.h"

/* --- dtypes and views --- */

static const struct {
    const char *name;
    uint8_t size;
} dtypes[BD_CK_DTYPE_COUNT] = {
    [BD_CK_F64] = {"F64", 8}, [BD_CK_F32] = {"F32", 4}, [BD_CK_F16] = {"F16", 2},   [BD_CK_BF16] = {"BF16", 2},
    [BD_CK_I64] = {"I64", 8}, [BD_CK_I32] = {"I32", 4}, [BD_CK_I16] = {"I16", 2},   [BD_CK_I8] = {"I8", 1},
    [BD_CK_U8] = {"U8", 1},   [BD_CK_U16] = {"U16", 2}, [BD_CK_BOOL] = {"BOOL", 1},
};

uint64_t bd_ckpt_dtype_size(bd_ckpt_dtype t) {
    BD_ASSERT((unsigned)t < BD_CK_DTYPE_COUNT);
    return dtypes[t].size;
}

const char *bd_ckpt_dtype_name(bd_ckpt_dtype t) {
    BD_ASSERT((unsigned)t < BD_CK_DTYPE_COUNT);
    return dtypes[t].name;
}

void bd_ckpt_view_row_major(bd_ckpt_view *v) {
    int64_t step = 1;
    for (int i = v->ndim - 1; i >= 0; i--) {
        v->stride[i] = step;
        step *= v->dim[i];
    }
}

bool bd_ckpt_view_contiguous(const bd_ckpt_view *v) {
    int64_t step = 1;
    if (v->count == 0) return true;
    for (int i = v->ndim - 1; i >= 0; i--) {
        if (v->dim[i] != 1 && v->stride[i] != step) return false;
        step *= v->dim[i];
    }
    return true;
}

bd_status bd_ckpt_count(int64_t *count, int ndim, const int64_t *dim, const char *name, uint64_t offset,
                        bd_err *err) {
    uint64_t n = 1, nonzero = 1;
    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 0)
            return BD_FAIL_AT(err, BD_E_SHAPE, offset, "tensor %s: dimension %d is %lld, not a size", name, i,
                              (long long)dim[i]);
        /* the limit also holds for the nonzero dimensions of an empty tensor, so that strides cannot overflow */
        if (dim[i] > 0 && !bd_mul_u64(nonzero, (uint64_t)dim[i], &nonzero)) nonzero = UINT64_MAX;
        if (nonzero > BD_CKPT_MAX_ELEMENTS)
            return BD_FAIL_AT(err, BD_E_LIMIT, offset, "tensor %s: more than %llu elements", name,
                              (unsigned long long)BD_CKPT_MAX_ELEMENTS);
        n = dim[i] ? n : 0;
    }
    *count = n ? (int64_t)nonzero : 0;
    return BD_OK;
}

/* --- opening --- */

bd_status bd_ckpt_add(bd_ckpt *c, const char *name, uint64_t name_len, bd_ckpt_dtype reported,
                      const bd_ckpt_source *src, uint64_t offset, bd_err *err) {
    struct bd_ckpt_impl *im = c->impl;
    if (!bd_name_ok(name, name_len, BD_CKPT_MAX_NAME))
        return BD_FAIL_AT(err, BD_E_FIELD, offset,
                          "\"%s\" is no tensor name: 1 to %d bytes of UTF-8 without control characters are",
                          bd_quote(name, name_len).s, (int)BD_CKPT_MAX_NAME);
    if (c->n == BD_CKPT_MAX_TENSORS)
        return BD_FAIL_AT(err, BD_E_LIMIT, offset, "more than %d tensors", (int)BD_CKPT_MAX_TENSORS);
    if (c->n == im->cap) {
        int cap = im->cap ? im->cap * 2 : 32;
        void *t = realloc(c->tensors, (size_t)cap * sizeof *c->tensors);
        if (t) c->tensors = t;
        void *s = realloc(im->sources, (size_t)cap * sizeof *im->sources);
        if (s) im->sources = s;
        if (!t || !s) return BD_FAIL(err, BD_E_NOMEM, "no memory for %d tensors", cap);
        im->cap = cap;
    }
    char *copy = bd_arena_strdup(im->arena, name, (size_t)name_len);
    if (!copy) return BD_FAIL(err, BD_E_NOMEM, "no memory for tensor names");
    bd_ckpt_tensor *t = &c->tensors[c->n];
    memset(t, 0, sizeof *t);
    t->name = copy;
    t->dtype = reported;
    t->ndim = src->value.ndim;
    memcpy(t->dim, src->value.dim, (size_t)t->ndim * sizeof t->dim[0]);
    t->count = src->value.count;
    t->internal = c->n;
    im->sources[c->n++] = *src;
    return BD_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const bd_ckpt_tensor *)a)->name, ((const bd_ckpt_tensor *)b)->name);
}

static bd_status finish(bd_ckpt *c, bd_err *err) {
    if (c->n == 0) return BD_OK;
    qsort(c->tensors, (size_t)c->n, sizeof *c->tensors, by_name);
    for (int i = 1; i < c->n; i++)
        if (!strcmp(c->tensors[i - 1].name, c->tensors[i].name))
            return BD_FAIL(err, BD_E_FIELD, "tensor %s occurs twice",
                           bd_quote(c->tensors[i].name, strlen(c->tensors[i].name)).s);
    return BD_OK;
}

static bool looks_like_zip(const uint8_t *p, uint64_t n) { return n >= 4 && !memcmp(p, "PK\3\4", 4); }

/* A header length below 2^32 and the opening brace of its JSON. */
static bool looks_like_safetensors(const uint8_t *p, uint64_t n) {
    return n >= 9 && p[8] == '{' && !p[4] && !p[5] && !p[6] && !p[7];
}

static bd_status parse_plain(bd_ckpt *c, const uint8_t *p, uint64_t n, bd_err *err) {
    if (looks_like_zip(p, n)) return bd_torch_parse(c, p, n, err);
    if (looks_like_safetensors(p, n)) return bd_safetensors_parse(c, p, n, err);
    if (n >= 2 && p[0] == 0x80 && p[1] <= 5)
        return BD_FAIL_AT(
            err, BD_E_MAGIC, 0,
            "a bare pickle (torch.save before version 1.6): load and save it again with a newer torch");
    return BD_FAIL_AT(
        err, BD_E_MAGIC, 0,
        "not a checkpoint: neither safetensors, nor a torch zip (.pt), nor one compressed with zlib, xz "
        "or zstd (.ptz)");
}

static bd_status parse_any(bd_ckpt *c, const uint8_t *p, uint64_t n, bd_err *err) {
    if (n < 9)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, n, "a file of %llu bytes is too short for a checkpoint",
                          (unsigned long long)n);
    bd_wrap wrap = looks_like_zip(p, n) || looks_like_safetensors(p, n) ? BD_WRAP_NONE : bd_wrap_detect(p, n);
    if (wrap == BD_WRAP_NONE) {
        BD_TRY(parse_plain(c, p, n, err));
        return finish(c, err);
    }
    uint64_t size;
    BD_TRY(bd_inflate_any(&c->impl->unwrapped, &size, p, n, 0, err));
    bd_status st = parse_plain(c, c->impl->unwrapped, size, err);
    if (st == BD_OK) st = finish(c, err);
    if (st != BD_OK && err) {
        if (err->offset == BD_NO_OFFSET) bd_err_prefix(err, "after %s decompression: ", bd_wrap_name(wrap));
        else
            bd_err_prefix(err, "at byte %llu after %s decompression: ", (unsigned long long)err->offset,
                          bd_wrap_name(wrap));
        err->offset = BD_NO_OFFSET; /* it is no offset of the file that the user sees */
    }
    return st;
}

static bd_ckpt *create(bd_err *err) {
    bd_ckpt *c = calloc(1, sizeof *c);
    struct bd_ckpt_impl *im = calloc(1, sizeof *im);
    if (c) c->impl = im;
    if (im) im->arena = bd_arena_create(BD_CKPT_ARENA_LIMIT);
    if (c && im && im->arena) {
        c->format = "";
        return c;
    }
    if (im) bd_arena_destroy(im->arena);
    free(im);
    free(c);
    BD_FAIL(err, BD_E_NOMEM, "no memory for a checkpoint");
    return NULL;
}

bd_status bd_ckpt_open_memory(bd_ckpt **out, const void *data, uint64_t size, bd_err *err) {
    *out = NULL;
    bd_ckpt *c = create(err);
    if (!c) return BD_E_NOMEM;
    bd_status st = parse_any(c, data, size, err);
    if (st == BD_OK) *out = c;
    else bd_ckpt_close(c);
    return st;
}

bd_status bd_ckpt_open(bd_ckpt **out, const char *path, bd_err *err) {
    *out = NULL;
    bd_ckpt *c = create(err);
    if (!c) return BD_E_NOMEM;
    bd_status st = bd_map_open(&c->impl->map, path, err);
    if (st == BD_OK) {
        st = parse_any(c, c->impl->map.data, c->impl->map.size, err);
        if (c->impl->unwrapped) bd_map_close(&c->impl->map);
    }
    if (st == BD_OK) {
        *out = c;
    } else {
        bd_err_file(err, path);
        bd_ckpt_close(c);
    }
    return st;
}

void bd_ckpt_close(bd_ckpt *c) {
    if (!c) return;
    bd_zip_close(c->impl->zip);
    bd_map_close(&c->impl->map);
    free(c->impl->unwrapped);
    free(c->impl->sources);
    bd_arena_destroy(c->impl->arena);
    free(c->impl);
    free(c->tensors);
    free((void *)c->meta_keys);
    free((void *)c->meta_values);
    free(c);
}

int bd_ckpt_find(const bd_ckpt *c, const char *name) {
    int lo = 0, hi = c->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, d = strcmp(c->tensors[mid].name, name);
        if (d == 0) return mid;
        if (d < 0) lo = mid + 1;
        else hi = mid;
    }
    return -1;
}

const char *bd_ckpt_meta(const bd_ckpt *c, const char *key) {
    for (int i = 0; i < c->n_meta; i++)
        if (!strcmp(c->meta_keys[i], key)) return c->meta_values[i];
    return NULL;
}

/* --- values --- */

static inline uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t le32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t le64(const uint8_t *p) { return le32(p) | (uint64_t)le32(p + 4) << 32; }

static inline float f32_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline double f64_of_bits(uint64_t u) {
    double f;
    memcpy(&f, &u, 8);
    return f;
}

/* n elements, `step` bytes apart. */
static void convert_run(float *out, const uint8_t *p, bd_ckpt_dtype t, int64_t n, int64_t step) {
    switch (t) {
        case BD_CK_F64:
            for (int64_t i = 0; i < n; i++) out[i] = (float)f64_of_bits(le64(p + i * step));
            break;
        case BD_CK_F32:
            for (int64_t i = 0; i < n; i++) out[i] = f32_of_bits(le32(p + i * step));
            break;
        case BD_CK_F16:
            for (int64_t i = 0; i < n; i++) out[i] = bd_f16_to_f32(le16(p + i * step));
            break;
        case BD_CK_BF16:
            for (int64_t i = 0; i < n; i++) out[i] = bd_bf16_to_f32(le16(p + i * step));
            break;
        case BD_CK_I64:
            for (int64_t i = 0; i < n; i++) out[i] = (float)(int64_t)le64(p + i * step);
            break;
        case BD_CK_I32:
            for (int64_t i = 0; i < n; i++) out[i] = (float)(int32_t)le32(p + i * step);
            break;
        case BD_CK_I16:
            for (int64_t i = 0; i < n; i++) out[i] = (float)(int16_t)le16(p + i * step);
            break;
        case BD_CK_U16:
            for (int64_t i = 0; i < n; i++) out[i] = (float)le16(p + i * step);
            break;
        case BD_CK_I8:
            for (int64_t i = 0; i < n; i++) out[i] = (float)(int8_t)p[i * step];
            break;
        case BD_CK_U8:
            for (int64_t i = 0; i < n; i++) out[i] = (float)p[i * step];
            break;
        case BD_CK_BOOL:
            for (int64_t i = 0; i < n; i++) out[i] = p[i * step] ? 1.0f : 0.0f;
            break;
        default: BD_ASSERT(!"dtype");
    }
}

/* All elements in row-major order: an odometer over the outer dimensions. */
static void convert_view(float *out, const bd_ckpt_view *v) {
    int64_t size = (int64_t)bd_ckpt_dtype_size(v->dtype);
    if (v->count == 0) return;
    if (bd_ckpt_view_contiguous(v)) {
        convert_run(out, v->data, v->dtype, v->count, size);
        return;
    }
    int last = v->ndim - 1; /* a view that is not contiguous has a dimension */
    int64_t at[BD_CKPT_MAX_RANK] = {0}, base = 0, run = v->dim[last];
    for (int64_t done = 0; done < v->count; done += run) {
        convert_run(out + done, v->data + base * size, v->dtype, run, v->stride[last] * size);
        for (int d = last - 1; d >= 0; d--) {
            base += v->stride[d];
            if (++at[d] < v->dim[d]) break;
            base -= v->stride[d] * v->dim[d];
            at[d] = 0;
        }
    }
}

bd_status bd_ckpt_read_f32(const bd_ckpt *c, int index, float *out, bd_err *err) {
    BD_ASSERT(index >= 0 && index < c->n);
    const bd_ckpt_source *s = &c->impl->sources[c->tensors[index].internal];
    int64_t n = s->value.count;
    convert_view(out, &s->value);
    if (s->scaled && n > 0) {
        int64_t rows = s->scale.ndim ? s->scale.dim[0] : 1, cols = n / rows;
        float *scale = malloc((size_t)rows * sizeof *scale);
        if (!scale)
            return BD_FAIL(err, BD_E_NOMEM, "no memory for the scales of tensor %s", c->tensors[index].name);
        convert_view(scale, &s->scale);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < cols; j++) out[r * cols + j] = out[r * cols + j] * scale[r];
        free(scale);
    }
    if (s->cast == BD_CK_BF16)
        for (int64_t i = 0; i < n; i++) out[i] = bd_bf16_to_f32(bd_f32_to_bf16(out[i]));
    else if (s->cast == BD_CK_F16)
        for (int64_t i = 0; i < n; i++) out[i] = bd_f16_to_f32(bd_f32_to_f16(out[i]));
    return BD_OK;
}

const void *bd_ckpt_raw(const bd_ckpt *c, int index, uint64_t *bytes) {
    BD_ASSERT(index >= 0 && index < c->n);
    const bd_ckpt_tensor *t = &c->tensors[index];
    const bd_ckpt_source *s = &c->impl->sources[t->internal];
    *bytes = 0;
    if (s->scaled || s->cast != BD_CK_F32 || s->value.dtype != t->dtype || !bd_ckpt_view_contiguous(&s->value))
        return NULL;
    *bytes = (uint64_t)t->count * bd_ckpt_dtype_size(t->dtype);
    return s->value.data;
}
