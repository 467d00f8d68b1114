/* Small torch files made in memory: pickles by opcode, zip archives as torch lays them out. */
#ifndef BD_TESTS_MAKE_TORCH_H
#define BD_TESTS_MAKE_TORCH_H

#include <string.h>
#include <zlib.h>

#include "base/buf.h"

/* --- pickle --- */

static inline void pk_text(bd_buf *b, const char *s) { bd_buf_put(b, s, strlen(s)); }
static inline void pk_begin(bd_buf *b) { bd_buf_put(b, "\x80\x02", 2); }
static inline void pk_str(bd_buf *b, const char *s) {
    bd_buf_u8(b, 'X');
    bd_buf_u32(b, (uint32_t)strlen(s));
    pk_text(b, s);
}
static inline void pk_int(bd_buf *b, int32_t v) {
    bd_buf_u8(b, 'J');
    bd_buf_u32(b, (uint32_t)v);
}
static inline void pk_ints(bd_buf *b, int n, const int32_t *v) {
    bd_buf_u8(b, '(');
    for (int i = 0; i < n; i++) pk_int(b, v[i]);
    bd_buf_u8(b, 't');
}
static inline void pk_ordered_dict(bd_buf *b) { pk_text(b, "ccollections\nOrderedDict\n)R"); }
static inline void pk_storage(bd_buf *b, const char *type, const char *key, int32_t numel) {
    bd_buf_u8(b, '(');
    pk_str(b, "storage");
    bd_buf_printf(b, "ctorch\n%s\n", type);
    pk_str(b, key);
    pk_str(b, "cpu");
    pk_int(b, numel);
    pk_text(b, "tQ");
}
static inline void pk_tensor(bd_buf *b, const char *type, const char *key, int32_t numel, int32_t offset, int ndim,
                             const int32_t *dim, const int32_t *stride) {
    pk_text(b, "ctorch._utils\n_rebuild_tensor_v2\n(");
    pk_storage(b, type, key, numel);
    pk_int(b, offset);
    pk_ints(b, ndim, dim);
    pk_ints(b, ndim, stride);
    bd_buf_u8(b, 0x89);
    pk_ordered_dict(b);
    pk_text(b, "tR");
}

/* --- zip --- */

enum { ZIP_DESCRIPTOR = 1, ZIP_DEFLATE = 2, ZIP_MAX = 16 };
typedef struct zip_maker {
    bd_buf out, central;
    int n;
} zip_maker;

static inline void zip_begin(zip_maker *z) {
    bd_buf_init(&z->out);
    bd_buf_init(&z->central);
    z->n = 0;
}

static inline void zip_add(zip_maker *z, const char *name, const void *data, size_t n, int how) {
    size_t stored = n, name_len = strlen(name);
    const uint8_t *body = data;
    uint8_t *packed = NULL;
    if (how & ZIP_DEFLATE) {
        size_t cap = n + n / 1000 + 64;
        packed = malloc(cap);
        z_stream s;
        memset(&s, 0, sizeof s);
        if (!packed || deflateInit2(&s, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY) != Z_OK) abort();
        s.next_in = (Bytef *)(uintptr_t)data;
        s.avail_in = (uInt)n;
        s.next_out = packed;
        s.avail_out = (uInt)cap;
        if (deflate(&s, Z_FINISH) != Z_STREAM_END) abort();
        stored = cap - s.avail_out;
        deflateEnd(&s);
        body = packed;
    }
    uint32_t crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), n ? data : (const void *)"", n),
             at = (uint32_t)z->out.size;
    uint16_t flags = 0x800 | (how & ZIP_DESCRIPTOR ? 8 : 0), method = how & ZIP_DEFLATE ? 8 : 0;
    bool late = (how & ZIP_DESCRIPTOR) != 0;
    bd_buf_u32(&z->out, 0x04034b50);
    bd_buf_u16(&z->out, 0);
    bd_buf_u16(&z->out, flags);
    bd_buf_u16(&z->out, method);
    bd_buf_u32(&z->out, 0);
    bd_buf_u32(&z->out, late ? 0 : crc);
    bd_buf_u32(&z->out, late ? 0 : (uint32_t)stored);
    bd_buf_u32(&z->out, late ? 0 : (uint32_t)n);
    bd_buf_u16(&z->out, (uint16_t)name_len);
    bd_buf_u16(&z->out, late ? 7 : 0);
    bd_buf_put(&z->out, name, name_len);
    if (late) bd_buf_put(&z->out, "FB\3\0ZZZ", 7); /* torch's padding */
    if (stored) bd_buf_put(&z->out, body, stored);
    if (late) {
        bd_buf_u32(&z->out, 0x08074b50);
        bd_buf_u32(&z->out, crc);
        bd_buf_u32(&z->out, (uint32_t)stored);
        bd_buf_u32(&z->out, (uint32_t)n);
    }
    bd_buf *c = &z->central;
    bd_buf_u32(c, 0x02014b50);
    bd_buf_u16(c, 0);
    bd_buf_u16(c, 0);
    bd_buf_u16(c, flags);
    bd_buf_u16(c, method);
    bd_buf_u32(c, 0);
    bd_buf_u32(c, crc);
    bd_buf_u32(c, (uint32_t)stored);
    bd_buf_u32(c, (uint32_t)n);
    bd_buf_u16(c, (uint16_t)name_len);
    bd_buf_u16(c, 0);
    bd_buf_u16(c, 0);
    bd_buf_u16(c, 0);
    bd_buf_u16(c, 0);
    bd_buf_u32(c, 0);
    bd_buf_u32(c, at);
    bd_buf_put(c, name, name_len);
    z->n++;
    free(packed);
}

/* Append the directory; the archive is z->out (free it with bd_buf_free). */
static inline void zip_end(zip_maker *z, bool zip64) {
    bd_buf *o = &z->out;
    uint64_t at = o->size, size = z->central.size;
    bd_buf_put(o, z->central.data, z->central.size);
    if (zip64) {
        uint64_t end64 = o->size;
        bd_buf_u32(o, 0x06064b50);
        bd_buf_u64(o, 44);
        bd_buf_u32(o, 0x032d031e);
        bd_buf_u32(o, 0);
        bd_buf_u32(o, 0);
        bd_buf_u64(o, (uint64_t)z->n);
        bd_buf_u64(o, (uint64_t)z->n);
        bd_buf_u64(o, size);
        bd_buf_u64(o, at);
        bd_buf_u32(o, 0x07064b50);
        bd_buf_u32(o, 0);
        bd_buf_u64(o, end64);
        bd_buf_u32(o, 1);
    }
    bd_buf_u32(o, 0x06054b50);
    bd_buf_u32(o, 0);
    bd_buf_u16(o, (uint16_t)z->n);
    bd_buf_u16(o, (uint16_t)z->n);
    bd_buf_u32(o, (uint32_t)size);
    bd_buf_u32(o, (uint32_t)at);
    bd_buf_u16(o, 0);
    bd_buf_free(&z->central);
}

#endif
