#include "format/codec.h"

#include <brotli/decode.h>
#include <brotli/encode.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "format/range_coder.h"

#define XZ_MEMORY (128u << 20)
enum { BROTLI_WINDOW = 24, ZSTD_LEVEL = 19, ZSTD_WINDOW = 24, XZ_PRESET = 6 };

const char *bd_codec_name(bd_codec c) {
    static const char *const names[BD_CODEC_COUNT] = {"raw", "brotli", "zstd", "xz", "range", "zlib", "lrzip"};
    return (unsigned)c < BD_CODEC_COUNT ? names[c] : "unknown";
}

void bd_codec_versions(char *out, int size) {
    uint32_t b = BrotliEncoderVersion();
    snprintf(out, (size_t)size, "brotli %u.%u.%u, zstd %s, xz %s, zlib %s", b >> 24, b >> 12 & 0xfff, b & 0xfff,
             ZSTD_versionString(), lzma_version_string(), zlibVersion());
}

static bd_status pack_brotli(const void *data, size_t size, bd_buf *out, bd_err *err) {
    size_t n = BrotliEncoderMaxCompressedSize(size);
    if (n == 0 || !bd_buf_reserve(out, n)) return BD_FAIL(err, BD_E_NOMEM, "no memory to compress %zu bytes", size);
    if (!BrotliEncoderCompress(BROTLI_MAX_QUALITY, BROTLI_WINDOW, BROTLI_MODE_GENERIC, size, data, &n,
                               out->data + out->size))
        return BD_FAIL(err, BD_E_NOMEM, "brotli could not compress %zu bytes", size);
    out->size += n;
    return BD_OK;
}

static bd_status pack_zstd(const void *data, size_t size, int level, bd_buf *out, bd_err *err) {
    size_t n = ZSTD_compressBound(size);
    if (ZSTD_isError(n) || !bd_buf_reserve(out, n))
        return BD_FAIL(err, BD_E_NOMEM, "no memory to compress %zu bytes", size);
    ZSTD_CCtx *c = ZSTD_createCCtx();
    if (!c) return BD_FAIL(err, BD_E_NOMEM, "no memory for zstd");
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
    if (level == ZSTD_LEVEL) ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, ZSTD_WINDOW);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    n = ZSTD_compress2(c, out->data + out->size, n, data, size);
    ZSTD_freeCCtx(c);
    if (ZSTD_isError(n))
        return BD_FAIL(err, BD_E_NOMEM, "zstd could not compress %zu bytes: %s", size, ZSTD_getErrorName(n));
    out->size += n;
    return BD_OK;
}

static bd_status pack_xz(const void *data, size_t size, bd_buf *out, bd_err *err) {
    size_t n = lzma_stream_buffer_bound(size), pos = 0;
    if (n == 0 || !bd_buf_reserve(out, n)) return BD_FAIL(err, BD_E_NOMEM, "no memory to compress %zu bytes", size);
    lzma_options_lzma o;
    if (lzma_lzma_preset(&o, XZ_PRESET | LZMA_PRESET_EXTREME))
        return BD_FAIL(err, BD_E_UNSUPPORTED, "liblzma lacks its preset");
    lzma_filter chain[2] = {{LZMA_FILTER_LZMA2, &o}, {LZMA_VLI_UNKNOWN, NULL}};
    lzma_ret r =
        lzma_stream_buffer_encode(chain, LZMA_CHECK_NONE, NULL, data, size, out->data + out->size, &pos, n);
    if (r != LZMA_OK) return BD_FAIL(err, BD_E_NOMEM, "liblzma could not compress %zu bytes (%d)", size, (int)r);
    out->size += pos;
    return BD_OK;
}

static bd_status pack_zlib(const void *data, size_t size, bd_buf *out, bd_err *err) {
    uLongf n = compressBound(size);
    if (!bd_buf_reserve(out, n)) return BD_FAIL(err, BD_E_NOMEM, "no memory to compress %zu bytes", size);
    if (compress2(out->data + out->size, &n, data, size, Z_BEST_COMPRESSION) != Z_OK)
        return BD_FAIL(err, BD_E_NOMEM, "zlib could not compress %zu bytes", size);
    out->size += n;
    return BD_OK;
}

bd_status bd_codec_pack(bd_codec codec, const void *data, uint64_t size, bd_buf *out, bd_err *err) {
    switch (codec) {
        case BD_CODEC_RAW: bd_buf_put(out, data, size); return bd_buf_check(out, err);
        case BD_CODEC_BROTLI: return pack_brotli(data, size, out, err);
        case BD_CODEC_ZSTD: return pack_zstd(data, size, ZSTD_LEVEL, out, err);
        case BD_CODEC_XZ: return pack_xz(data, size, out, err);
        case BD_CODEC_ZLIB: return pack_zlib(data, size, out, err);
        default: return BD_FAIL(err, BD_E_FIELD, "codec %s does not pack bytes", bd_codec_name(codec));
    }
}

bd_status bd_codec_pack_best(const void *data, uint64_t size, bd_buf *out, bd_codec *codec, bd_err *err) {
    bd_buf best;
    bd_status st = BD_OK;
    bd_buf_init(&best);
    *codec = BD_CODEC_RAW;
    for (int c = BD_CODEC_BROTLI; c <= BD_CODEC_XZ && size > 0; c++) {
        bd_buf b;
        bd_buf_init(&b);
        st = bd_codec_pack((bd_codec)c, data, size, &b, err);
        if (st == BD_OK && b.size < (*codec == BD_CODEC_RAW ? size : best.size)) {
            bd_buf_free(&best);
            best = b;
            *codec = (bd_codec)c;
        } else {
            bd_buf_free(&b);
        }
        if (st != BD_OK) break;
    }
    if (st == BD_OK) {
        if (*codec == BD_CODEC_RAW) bd_buf_put(out, data, size);
        else bd_buf_put(out, best.data, best.size);
        st = bd_buf_check(out, err);
    }
    bd_buf_free(&best);
    return st;
}

static bool unpack_brotli(const uint8_t *data, size_t size, uint8_t *out, size_t raw) {
    BrotliDecoderState *s = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    if (!s) return false;
    size_t left = raw;
    BrotliDecoderResult r = BrotliDecoderDecompressStream(s, &size, &data, &left, &out, NULL);
    BrotliDecoderDestroyInstance(s);
    return r == BROTLI_DECODER_RESULT_SUCCESS && size == 0 && left == 0;
}

static bool unpack_zstd(const uint8_t *data, size_t size, uint8_t *out, size_t raw) {
    /* One ordinary frame, so no skippable frames and nothing after it. */
    static const uint8_t magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
    if (size < 4 || memcmp(data, magic, 4) != 0 || ZSTD_findFrameCompressedSize(data, size) != size) return false;
    return ZSTD_decompress(out, raw, data, size) == raw;
}

static bool unpack_xz(const uint8_t *data, size_t size, uint8_t *out, size_t raw) {
    uint64_t memory = XZ_MEMORY;
    size_t in = 0, at = 0;
    lzma_ret r = lzma_stream_buffer_decode(&memory, 0, NULL, data, &in, size, out, &at, raw);
    return r == LZMA_OK && in == size && at == raw;
}

/* A stream without a preset dictionary. Sections are below 4 GiB, so the sizes fit zlib's. */
static bool unpack_zlib(const uint8_t *data, size_t size, uint8_t *out, size_t raw) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .next_out = out};
    if (size > UINT32_MAX || raw > UINT32_MAX || inflateInit(&z) != Z_OK) return false;
    z.avail_in = (uInt)size;
    z.avail_out = (uInt)raw;
    bool fine = inflate(&z, Z_FINISH) == Z_STREAM_END && z.avail_in == 0 && z.avail_out == 0;
    inflateEnd(&z);
    return fine;
}

bool bd_brotli_unpack(const void *data, uint64_t size, bd_buf *out, uint64_t most) {
    BrotliDecoderState *s = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    const uint8_t *in = data;
    size_t left = size, given = 0;
    BrotliDecoderResult r = s ? BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT : BROTLI_DECODER_RESULT_ERROR;
    while (r == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT && given < most) {
        size_t room = most - given < 1 << 16 ? (size_t)(most - given) : 1 << 16;
        if (!bd_buf_reserve(out, room)) break;
        uint8_t *to = out->data + out->size;
        size_t free_bytes = room;
        r = BrotliDecoderDecompressStream(s, &left, &in, &free_bytes, &to, NULL);
        out->size += room - free_bytes;
        given += room - free_bytes;
    }
    if (s) BrotliDecoderDestroyInstance(s);
    return r == BROTLI_DECODER_RESULT_SUCCESS && left == 0;
}

bd_status bd_codec_unpack(bd_codec codec, const void *data, uint64_t size, void *out, uint64_t raw, uint64_t place,
                          bd_err *err) {
    bool fine = false;
    switch (codec) {
        case BD_CODEC_RAW:
            fine = size == raw;
            if (fine && raw) memcpy(out, data, raw);
            break;
        case BD_CODEC_BROTLI: fine = unpack_brotli(data, size, out, raw); break;
        case BD_CODEC_ZSTD: fine = unpack_zstd(data, size, out, raw); break;
        case BD_CODEC_XZ: fine = unpack_xz(data, size, out, raw); break;
        case BD_CODEC_ZLIB: fine = unpack_zlib(data, size, out, raw); break;
        default: break;
    }
    if (fine) return BD_OK;
    return BD_FAIL_AT(err, BD_E_CODEC, place, "the %s data does not give exactly the %llu bytes declared",
                      bd_codec_name(codec), (unsigned long long)raw);
}

bool bd_codec_worth_trying(const void *data, uint64_t size) {
    if (size <= 65536) return true;
    bd_buf trial;
    bd_buf_init(&trial);
    if (pack_zstd(data, size, 3, &trial, NULL) != BD_OK) {
        bd_buf_free(&trial);
        return true;
    }
    uint64_t found = trial.size, count[256] = {0}, bits = 0;
    bd_buf_free(&trial);
    for (uint64_t i = 0; i < size; i++) count[((const uint8_t *)data)[i]]++;
    for (int b = 0; b < 256; b++) {
        if (!count[b]) continue;
        uint64_t p = count[b] * 4096 / size;
        bits += count[b] * bd_log2_cost(p ? (uint32_t)p : 1);
    }
    return found < bits / (8 * 4096) / 100 * 97;
}
