#include "verify/audit_wrap.h"

#include <brotli/decode.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* --- Python string literals --------------------------------------------------- */

typedef struct bytes {
    uint8_t *data;
    size_t size, cap;
    bool nomem;
} bytes;

static void put(bytes *b, uint8_t c) {
    if (b->size == b->cap && !b->nomem) {
        size_t cap = b->cap ? 2 * b->cap : 4096;
        uint8_t *p = realloc(b->data, cap);
        if (!p) b->nomem = true;
        else {
            b->data = p;
            b->cap = cap;
        }
    }
    if (!b->nomem) b->data[b->size++] = c;
}

static int hex_digit(int c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The escape after a backslash at s[i]; returns the index after it. */
static size_t escape(const char *s, size_t n, size_t i, bytes *out) {
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    char c = s[i];
    const char *name = c ? strchr(names, c) : NULL;
    if (c == '\n') return i + 1;
    if (name) {
        put(out, (uint8_t)values[name - names]);
        return i + 1;
    }
    if (c == 'x' && i + 2 < n && hex_digit(s[i + 1]) >= 0 && hex_digit(s[i + 2]) >= 0) {
        put(out, (uint8_t)(hex_digit(s[i + 1]) << 4 | hex_digit(s[i + 2])));
        return i + 3;
    }
    if (c >= '0' && c <= '7') {
        int v = 0;
        size_t k = i;
        for (; k < n && k < i + 3 && s[k] >= '0' && s[k] <= '7'; k++) v = v << 3 | (s[k] - '0');
        put(out, (uint8_t)v);
        return k;
    }
    put(out, '\\'); /* unknown escapes stand for themselves */
    put(out, (uint8_t)c);
    return i + 1;
}

/* One literal at s[i], prefix included; appends its bytes. Returns the index after it, or i: none or unterminated;
 * *seen is then how far was looked. */
static size_t literal(const char *s, size_t n, size_t i, bytes *out, size_t *seen) {
    size_t k = i;
    bool raw = false;
    *seen = i;
    for (; k < n && k < i + 2 && s[k] && strchr("rRbBuU", s[k]); k++) raw |= s[k] == 'r' || s[k] == 'R';
    if (k >= n || (s[k] != '"' && s[k] != '\'')) return i;
    char q = s[k];
    bool triple = k + 2 < n && s[k + 1] == q && s[k + 2] == q;
    size_t from = out->size;
    k += triple ? 3 : 1;
    while (k < n) {
        if (s[k] == q && (!triple || (k + 2 < n && s[k + 1] == q && s[k + 2] == q))) return k + (triple ? 3 : 1);
        if (s[k] == '\n' && !triple) break;
        if (s[k] == '\\' && k + 1 < n) {
            if (raw) {
                put(out, '\\');
                put(out, (uint8_t)s[k + 1]);
                k += 2;
            } else {
                k = escape(s, n, k + 1, out);
            }
            continue;
        }
        put(out, (uint8_t)s[k++]);
    }
    out->size = from;
    *seen = k;
    return i;
}

static size_t skip_blank(const char *s, size_t n, size_t i) {
    while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n')) i++;
    return i;
}

/* Adjacent literals are one. Returns false if there is none at i. */
static bool literals(const char *s, size_t n, size_t i, bytes *out) {
    bool any = false;
    size_t seen;
    for (;;) {
        i = skip_blank(s, n, i);
        size_t end = literal(s, n, i, out, &seen);
        if (end == i) return any;
        any = true;
        i = end;
    }
}

/* --- text codes ---------------------------------------------------------------- */

static int find_char(const char *alphabet, int c) {
    const char *p = c ? strchr(alphabet, c) : NULL;
    return p ? (int)(p - alphabet) : -1;
}

/* Python's base64.b85decode. */
static bool decode_base85(const bytes *in, bytes *out) {
    static const char alphabet[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    int8_t value[256];
    for (int c = 0; c < 256; c++) value[c] = (int8_t)find_char(alphabet, c);
    for (size_t i = 0; i < in->size; i += 5) {
        size_t n = in->size - i < 5 ? in->size - i : 5;
        uint64_t v = 0;
        for (size_t k = 0; k < 5; k++) {
            int d = k < n ? value[in->data[i + k]] : 84;
            if (d < 0) return false;
            v = v * 85 + (uint64_t)d;
        }
        if (v > UINT32_MAX) return false;
        for (size_t k = 0; k + 1 < n; k++) put(out, (uint8_t)(v >> (24 - 8 * k)));
    }
    return true;
}

/* Both alphabets; blanks are skipped, as Python does with foreign characters. */
static bool decode_base64(const bytes *in, bytes *out) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int8_t value[256];
    for (int c = 0; c < 256; c++) value[c] = (int8_t)find_char(alphabet, c);
    value['-'] = 62;
    value['_'] = 63;
    uint32_t v = 0;
    int bits = 0;
    for (size_t i = 0; i < in->size; i++) {
        int c = in->data[i];
        if (c == '=') break;
        if (c == '\n' || c == '\r' || c == ' ' || c == '\t') continue;
        if (value[c] < 0) return false;
        v = (v << 6 | (uint32_t)value[c]) & 0xffff;
        bits += 6;
        if (bits >= 8) put(out, (uint8_t)(v >> (bits -= 8)));
    }
    return true;
}

/* --- codecs -------------------------------------------------------------------- */

typedef enum outcome { DECODED, DAMAGED, TOO_LONG } outcome;

/* Each grows `out` to at most BD_UNWRAP_MAX_OUTPUT. A raw LZMA2 dictionary need not be larger than the output. */
static bool room(bytes *out) {
    if (out->size < out->cap) return true;
    size_t cap = out->cap ? 2 * out->cap : (size_t)1 << 16;
    if (cap > BD_UNWRAP_MAX_OUTPUT) cap = BD_UNWRAP_MAX_OUTPUT;
    if (cap == out->size) return false;
    uint8_t *p = realloc(out->data, cap);
    if (!p) {
        out->nomem = true;
        return false;
    }
    out->data = p;
    out->cap = cap;
    return true;
}

static outcome run_lzma(const bytes *in, bytes *out, bool raw) {
    lzma_stream z = LZMA_STREAM_INIT;
    lzma_options_lzma o = {.dict_size = BD_UNWRAP_MAX_OUTPUT};
    const lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &o}, {LZMA_VLI_UNKNOWN, NULL}};
    lzma_ret r = raw ? lzma_raw_decoder(&z, filters) : lzma_auto_decoder(&z, (uint64_t)256 << 20, 0);
    if (r != LZMA_OK) {
        out->nomem = true;
        return DAMAGED;
    }
    z.next_in = in->data;
    z.avail_in = in->size;
    outcome result = DAMAGED;
    while (r == LZMA_OK) {
        if (!room(out)) {
            result = TOO_LONG;
            break;
        }
        z.next_out = out->data + out->size;
        z.avail_out = out->cap - out->size;
        size_t had = z.avail_out;
        r = lzma_code(&z, LZMA_FINISH);
        out->size += had - z.avail_out;
    }
    if (r == LZMA_STREAM_END) result = DECODED;
    lzma_end(&z);
    return result;
}

static outcome run_zlib(const bytes *in, bytes *out) {
    z_stream z;
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, 47) != Z_OK) { /* zlib or gzip */
        out->nomem = true;
        return DAMAGED;
    }
    z.next_in = in->data;
    z.avail_in = (uInt)in->size;
    int r = Z_OK;
    outcome result = DAMAGED;
    while (r == Z_OK) {
        if (!room(out)) {
            result = TOO_LONG;
            break;
        }
        z.next_out = out->data + out->size;
        z.avail_out = (uInt)(out->cap - out->size);
        uInt had = z.avail_out;
        r = inflate(&z, Z_NO_FLUSH);
        out->size += had - z.avail_out;
    }
    if (r == Z_STREAM_END) result = DECODED;
    inflateEnd(&z);
    return result;
}

static outcome run_brotli(const bytes *in, bytes *out) {
    BrotliDecoderState *s = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    if (!s) {
        out->nomem = true;
        return DAMAGED;
    }
    const uint8_t *next = in->data;
    size_t left = in->size;
    BrotliDecoderResult r = BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
    outcome result = DAMAGED;
    while (r == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT) {
        if (!room(out)) {
            result = TOO_LONG;
            break;
        }
        uint8_t *to = out->data + out->size;
        size_t free_bytes = out->cap - out->size, had = free_bytes;
        r = BrotliDecoderDecompressStream(s, &left, &next, &free_bytes, &to, NULL);
        out->size += had - free_bytes;
    }
    if (r == BROTLI_DECODER_RESULT_SUCCESS) result = DECODED;
    BrotliDecoderDestroyInstance(s);
    return result;
}

/* A program is text: no control characters but blanks. */
static bool is_text(const bytes *b) {
    for (size_t i = 0; i < b->size; i++)
        if (b->data[i] < 0x20 && !strchr("\t\n\r\f", b->data[i])) return false;
    return b->size > 0 && !memchr(b->data, 0, b->size);
}

typedef struct codec {
    const char *name, *hint; /* the hint stands in the script that uses it */
    outcome (*run)(const bytes *in, bytes *out);
} codec;

static outcome run_xz(const bytes *in, bytes *out) { return run_lzma(in, out, false); }
static outcome run_lzma2(const bytes *in, bytes *out) { return run_lzma(in, out, true); }

/* What may be tried, in order: a long magic, what the script names, short magics (brotli and raw LZMA2 have none).
 */
static int candidates(const bytes *in, const char *script, size_t n, const codec *out[5]) {
    static const codec xz = {"xz", "", run_xz}, alone = {"LZMA", "", run_xz}, gz = {"zlib", "", run_zlib};
    static const codec hinted[] = {{"raw LZMA2", "FILTER_LZMA2", run_lzma2}, {"brotli", "brotli", run_brotli}};
    const uint8_t *p = in->data;
    int k = 0;
    if (in->size >= 6 && !memcmp(p, "\xfd\x37zXZ", 6)) out[k++] = &xz;
    for (int i = 0; i < 2; i++)
        if (memmem(script, n, hinted[i].hint, strlen(hinted[i].hint))) out[k++] = &hinted[i];
    if (in->size >= 2 && ((p[0] == 0x1f && p[1] == 0x8b) || ((p[0] & 15) == 8 && (p[0] * 256 + p[1]) % 31 == 0)))
        out[k++] = &gz;
    if (in->size >= 13 && p[0] == 0x5d && p[1] == 0) out[k++] = &alone;
    return k;
}

/* --- one layer ----------------------------------------------------------------- */

enum { SHORTEST = 64, MAX_CALLS = 16 }; /* characters, a wrapper holds more; calls that are looked at */

/* The coded text of a call of NAME( : its literal, or, if it takes a variable, the longest literal of the script.
 */
static bool payload(const char *s, size_t n, const char *call, bytes *out) {
    size_t k = strlen(call);
    const char *p = s;
    int calls = 0;
    while (calls < MAX_CALLS && (p = memmem(p, n - (size_t)(p - s), call, k))) {
        calls++;
        p += k;
        out->size = 0;
        if (literals(s, n, (size_t)(p - s), out) && out->size >= SHORTEST) return true;
    }
    if (!calls) return false;
    bytes best = {0};
    for (size_t i = 0; i < n && !best.nomem;) {
        if (s[i] == '#') { /* a comment */
            while (i < n && s[i] != '\n') i++;
            continue;
        }
        bytes one = {0};
        size_t seen, end = literal(s, n, i, &one, &seen);
        if (one.nomem) best.nomem = true;
        if (end > i && one.size > best.size) {
            bytes t = best;
            best = one;
            one = t;
        }
        free(one.data);
        i = end > i ? end : seen > i ? seen : i + 1;
    }
    bytes t = *out;
    *out = best;
    free(t.data);
    return out->size >= 8 * SHORTEST;
}

typedef struct text_code {
    const char *call, *name;
    bool (*decode)(const bytes *in, bytes *out);
} text_code;

/* The coded text into a program, or BROKEN with the reason of the first that was tried. */
static bool decode_layer(bd_unwrapped *u, const text_code *code, const bytes *coded, const char *s, size_t n,
                         bytes *packed, bytes *plain) {
    const codec *tried[5];
    const char *how = NULL;
    u->state = BD_UNWRAP_BROKEN;
    if (!code->decode(coded, packed)) {
        snprintf(u->why, sizeof u->why, "the text is no %s", code->name);
        return false;
    }
    int k = candidates(packed, s, n, tried);
    if (!k && is_text(packed)) {
        bytes t = *plain;
        *plain = *packed;
        *packed = t;
        how = "not compressed";
    } else if (!k) {
        snprintf(u->why, sizeof u->why, "%s of data in no known compression", code->name);
    }
    for (int i = 0; i < k && !how; i++) {
        plain->size = 0;
        outcome o = tried[i]->run(packed, plain);
        if (o == DECODED && is_text(plain)) how = tried[i]->name;
        else if (i == 0 && o == TOO_LONG)
            snprintf(u->why, sizeof u->why, "%s, %s: more than %d bytes inside", code->name, tried[i]->name,
                     BD_UNWRAP_MAX_OUTPUT);
        else if (i == 0)
            snprintf(u->why, sizeof u->why, "%s, %s: %s", code->name, tried[i]->name,
                     o == DECODED ? "what is inside is no text" : "the data is damaged");
    }
    if (!how) return false;
    u->state = BD_UNWRAP_DONE;
    u->why[0] = 0;
    snprintf(u->how, sizeof u->how, "%s, %s", code->name, how);
    return true;
}

static bd_status unwrap_layer(bd_unwrapped *u, const char *s, size_t n, bd_err *err) {
    static const text_code codes[] = {{"b85decode(", "base85", decode_base85},
                                      {"b64decode(", "base64", decode_base64}};
    bytes coded = {0}, packed = {0}, plain = {0};
    int i = 0;
    while (i < 2 && !payload(s, n, codes[i].call, &coded)) i++;
    if (i < 2 && !coded.nomem && decode_layer(u, &codes[i], &coded, s, n, &packed, &plain)) {
        put(&plain, 0);
        if (!plain.nomem) {
            u->size = plain.size - 1;
            u->text = plain.data;
            plain.data = NULL;
        }
    }
    bool nomem = coded.nomem || packed.nomem || plain.nomem;
    free(plain.data);
    free(coded.data);
    free(packed.data);
    return nomem ? BD_FAIL(err, BD_E_NOMEM, "out of memory for a script") : BD_OK;
}

bd_status bd_unwrap_script(bd_unwrapped *u, const void *text, size_t size, bd_err *err) {
    memset(u, 0, sizeof *u);
    bd_status st = unwrap_layer(u, text, size, err);
    while (!st && u->state == BD_UNWRAP_DONE && ++u->layers < BD_UNWRAP_MAX_LAYERS) {
        bd_unwrapped inner = {0};
        st = unwrap_layer(&inner, (const char *)u->text, u->size, err);
        if (st || inner.state != BD_UNWRAP_DONE) {
            /* A program may well decode data of its own: that is no wrapper. */
            bd_unwrapped_free(&inner);
            break;
        }
        free(u->text);
        u->text = inner.text;
        u->size = inner.size;
    }
    if (st) bd_unwrapped_free(u);
    return st;
}

void bd_unwrapped_free(bd_unwrapped *u) {
    free(u->text);
    memset(u, 0, sizeof *u);
}
