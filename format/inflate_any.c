#include "format/inflate_any.h"

#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* Input and output are handed to the libraries in pieces of at most this size,
 * which also keeps zlib's 32-bit counters in range. */
#define PIECE ((uint64_t)1 << 26)

typedef struct sink {
    uint8_t *data;
    uint64_t size, cap, limit;
} sink;

bd_wrap bd_wrap_detect(const void *data, uint64_t size) {
    const uint8_t *p = data;
    if (size >= 6 && !memcmp(p,
                             "\xfd"
                             "7zXZ\0",
                             6))
        return BD_WRAP_XZ;
    if (size >= 4 && !memcmp(p, "\x28\xb5\x2f\xfd", 4)) return BD_WRAP_ZSTD;
    if (size >= 2 && (p[0] & 0x0f) == 8 && p[0] >> 4 <= 7 && (p[0] * 256u + p[1]) % 31 == 0 && !(p[1] & 0x20))
        return BD_WRAP_ZLIB;
    return BD_WRAP_NONE;
}

const char *bd_wrap_name(bd_wrap w) {
    static const char *const names[] = {"none", "zlib", "xz", "zstd"};
    return names[w];
}

/* Room for more output: at least one byte, at most PIECE. */
static bd_status make_room(sink *s, uint64_t *room, uint64_t at, bd_err *err) {
    if (s->size == s->cap) {
        if (s->cap >= s->limit)
            return BD_FAIL_AT(err, BD_E_LIMIT, at, "the data decompresses to more than the limit of %llu bytes",
                              (unsigned long long)s->limit);
        uint64_t cap = s->cap ? s->cap * 2 : (uint64_t)1 << 16;
        if (cap > s->limit) cap = s->limit;
        uint8_t *p = realloc(s->data, (size_t)cap);
        if (!p) return BD_FAIL(err, BD_E_NOMEM, "no memory for %llu decompressed bytes", (unsigned long long)cap);
        s->data = p;
        s->cap = cap;
    }
    *room = s->cap - s->size;
    if (*room > PIECE) *room = PIECE;
    return BD_OK;
}

static bd_status run_zlib(sink *s, const uint8_t *in, uint64_t size, bd_err *err) {
    z_stream z;
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, 15) != Z_OK) return BD_FAIL(err, BD_E_NOMEM, "no memory for the zlib decoder");
    bd_status st = BD_OK;
    uint64_t used = 0;
    int rc = Z_OK;
    while (rc != Z_STREAM_END) {
        uint64_t room = 0, feed = size - used > PIECE ? PIECE : size - used;
        BD_TRY_DONE(make_room(s, &room, used, err));
        z.next_in = (Bytef *)(uintptr_t)(in + used);
        z.avail_in = (uInt)feed;
        z.next_out = s->data + s->size;
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH);
        uint64_t took = feed - z.avail_in, gave = room - z.avail_out;
        used += took;
        s->size += gave;
        if (rc == Z_MEM_ERROR) {
            st = BD_FAIL(err, BD_E_NOMEM, "no memory for the zlib decoder");
            goto done;
        }
        if ((rc == Z_OK || rc == Z_BUF_ERROR) && used == size && z.avail_out > 0) {
            st = BD_FAIL_AT(err, BD_E_TRUNCATED, size, "the zlib stream ends too early, after %llu output bytes",
                            (unsigned long long)s->size);
            goto done;
        }
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) {
            st = BD_FAIL_AT(err, BD_E_CODEC, used, "the zlib stream is damaged (%s)",
                            z.msg ? z.msg : "unknown error");
            goto done;
        }
    }
    if (used != size)
        st = BD_FAIL_AT(err, BD_E_CODEC, used, "%llu bytes follow the end of the zlib stream",
                        (unsigned long long)(size - used));
done:
    inflateEnd(&z);
    return st;
}

static bd_status run_xz(sink *s, const uint8_t *in, uint64_t size, bd_err *err) {
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&z, BD_INFLATE_XZ_MEM, 0) != LZMA_OK)
        return BD_FAIL(err, BD_E_NOMEM, "no memory for the xz decoder");
    bd_status st = BD_OK;
    lzma_ret rc = LZMA_OK;
    z.next_in = in;
    z.avail_in = (size_t)size;
    while (rc != LZMA_STREAM_END) {
        uint64_t room = 0, used = size - z.avail_in;
        BD_TRY_DONE(make_room(s, &room, used, err));
        z.next_out = s->data + s->size;
        z.avail_out = (size_t)room;
        rc = lzma_code(&z, LZMA_FINISH);
        used = size - z.avail_in;
        s->size += room - z.avail_out;
        if (rc == LZMA_OK || rc == LZMA_STREAM_END) continue;
        if (rc == LZMA_MEM_ERROR) st = BD_FAIL(err, BD_E_NOMEM, "no memory for the xz decoder");
        else if (rc == LZMA_MEMLIMIT_ERROR)
            st = BD_FAIL_AT(err, BD_E_LIMIT, used, "the xz stream needs a decoder of more than %llu bytes",
                            (unsigned long long)BD_INFLATE_XZ_MEM);
        else if (rc == LZMA_BUF_ERROR && z.avail_in == 0)
            st = BD_FAIL_AT(err, BD_E_TRUNCATED, size, "the xz stream ends too early, after %llu output bytes",
                            (unsigned long long)s->size);
        else st = BD_FAIL_AT(err, BD_E_CODEC, used, "the xz stream is damaged (liblzma error %d)", (int)rc);
        goto done;
    }
    if (z.avail_in != 0)
        st = BD_FAIL_AT(err, BD_E_CODEC, size - z.avail_in, "%llu bytes follow the end of the xz stream",
                        (unsigned long long)z.avail_in);
done:
    lzma_end(&z);
    return st;
}

static bd_status run_zstd(sink *s, const uint8_t *in, uint64_t size, bd_err *err) {
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z) return BD_FAIL(err, BD_E_NOMEM, "no memory for the zstd decoder");
    bd_status st = BD_OK;
    ZSTD_inBuffer src = {in, (size_t)size, 0};
    size_t rc = ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, BD_INFLATE_ZSTD_LOG);
    if (ZSTD_isError(rc)) {
        st = BD_FAIL(err, BD_E_UNSUPPORTED, "zstd: %s", ZSTD_getErrorName(rc));
        goto done;
    }
    do {
        uint64_t room = 0;
        BD_TRY_DONE(make_room(s, &room, src.pos, err));
        ZSTD_outBuffer dst = {s->data + s->size, (size_t)room, 0};
        rc = ZSTD_decompressStream(z, &dst, &src);
        s->size += dst.pos;
        if (ZSTD_isError(rc)) {
            bool window = strstr(ZSTD_getErrorName(rc), "memory") != NULL;
            st = BD_FAIL_AT(err, window ? BD_E_LIMIT : BD_E_CODEC, src.pos,
                            "the zstd stream cannot be decoded (%s)", ZSTD_getErrorName(rc));
            goto done;
        }
        if (rc != 0 && src.pos == src.size && dst.pos < dst.size) {
            st = BD_FAIL_AT(err, BD_E_TRUNCATED, size, "the zstd stream ends too early, after %llu output bytes",
                            (unsigned long long)s->size);
            goto done;
        }
    } while (rc != 0);
    if (src.pos != src.size)
        st = BD_FAIL_AT(err, BD_E_CODEC, src.pos, "%llu bytes follow the end of the zstd frame",
                        (unsigned long long)(src.size - src.pos));
done:
    ZSTD_freeDCtx(z);
    return st;
}

bd_status bd_inflate_any(uint8_t **out, uint64_t *out_size, const void *data, uint64_t size, uint64_t limit,
                         bd_err *err) {
    *out = NULL;
    *out_size = 0;
    sink s = {NULL, 0, 0, limit ? limit : BD_INFLATE_LIMIT};
    if (size < s.limit / BD_INFLATE_RATIO) {
        uint64_t by_ratio = size * BD_INFLATE_RATIO + BD_INFLATE_SLACK;
        if (by_ratio < s.limit) s.limit = by_ratio;
    }
    bd_status st;
    switch (bd_wrap_detect(data, size)) {
        case BD_WRAP_ZLIB: st = run_zlib(&s, data, size, err); break;
        case BD_WRAP_XZ: st = run_xz(&s, data, size, err); break;
        case BD_WRAP_ZSTD: st = run_zstd(&s, data, size, err); break;
        default: st = BD_FAIL_AT(err, BD_E_MAGIC, 0, "neither a zlib, an xz nor a zstd stream"); break;
    }
    if (st != BD_OK) {
        free(s.data);
        return st;
    }
    *out = s.data;
    *out_size = s.size;
    return BD_OK;
}

bd_status bd_inflate_raw(uint8_t *out, uint64_t out_size, const void *data, uint64_t size, bd_err *err) {
    const uint8_t *in = data;
    uint8_t none; /* zlib wants a valid pointer even for no output */
    z_stream z;
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, -15) != Z_OK) return BD_FAIL(err, BD_E_NOMEM, "no memory for the deflate decoder");
    uint64_t used = 0, made = 0;
    int rc = Z_OK;
    while (rc == Z_OK) {
        uint64_t feed = size - used > PIECE ? PIECE : size - used;
        uint64_t room = out_size - made > PIECE ? PIECE : out_size - made;
        z.next_in = (Bytef *)(uintptr_t)(in + used);
        z.avail_in = (uInt)feed;
        z.next_out = out_size ? out + made : &none;
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH);
        used += feed - z.avail_in;
        made += room - z.avail_out;
    }
    inflateEnd(&z);
    if (rc == Z_MEM_ERROR) return BD_FAIL(err, BD_E_NOMEM, "no memory for the deflate decoder");
    if (rc != Z_STREAM_END || used != size || made != out_size)
        return BD_FAIL(err, BD_E_CODEC,
                       "deflated data is damaged: %llu of %llu bytes read, %llu of %llu bytes made",
                       (unsigned long long)used, (unsigned long long)size, (unsigned long long)made,
                       (unsigned long long)out_size);
    return BD_OK;
}
