#include "refdec/refdec.h"

#include <brotli/decode.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "refdec/refdec_impl.h"

#define FILE_LIMIT     ((uint64_t)1 << 29)
#define UNPACKED_LIMIT ((uint64_t)1 << 29)
#define TENSOR_LIMIT   65536u
#define ELEMENT_LIMIT  ((uint64_t)1 << 28)
#define NOWHERE        UINT64_MAX

/* ------------------------------------------------------------------ SHA-256 */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                      sha_k[i] + w[i];
        uint32_t t2 =
            (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof s[0]);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

/* SHA-256 of a followed by b. */
static void sha(const uint8_t *a, uint64_t na, const uint8_t *b, uint64_t nb, uint8_t out[32]) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t block[64];
    uint64_t total = na + nb, at = 0;
    for (bool ended = false;;) {
        if (at + 64 <= na) {
            sha_block(h, a + at);
        } else if (at >= na && at + 64 <= total) {
            sha_block(h, b + (at - na));
        } else {
            memset(block, 0, 64);
            for (uint64_t i = 0; i < 64 && at + i < total; i++) block[i] = at + i < na ? a[at + i] : b[at + i - na];
            bool last = false;
            if (at + 64 > total) {
                if (!ended) block[total - at] = 0x80;
                ended = true;
                last = at > total || total - at < 56;
            }
            if (last)
                for (int i = 0; i < 8; i++) block[56 + i] = (uint8_t)((total * 8) >> (56 - 8 * i));
            sha_block(h, block);
            if (last) break;
        }
        at += 64;
    }
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* ------------------------------------------------------------------ sections */

typedef struct section {
    unsigned type, codec;
    uint64_t offset, stored, raw;
} section;

/* Contents of a section in a byte codec: terminated, malloced. */
static uint8_t *unpack(dec *d, const section *s) {
    const uint8_t *in = d->file + s->offset;
    uint8_t *out = malloc(s->raw + 1);
    bool fine = false;
    d->section = s->offset;
    if (!out) {
        fail(d, BD_REFDEC_NOMEM);
        return NULL;
    }
    out[s->raw] = 0;
    if (s->codec == 0) {
        memcpy(out, in, s->raw);
        fine = true;
    } else if (s->codec == 1) {
        BrotliDecoderState *b = BrotliDecoderCreateInstance(NULL, NULL, NULL);
        size_t left = s->stored, room = s->raw;
        const uint8_t *from = in;
        uint8_t *to = out;
        fine = b &&
               BrotliDecoderDecompressStream(b, &left, &from, &room, &to, NULL) == BROTLI_DECODER_RESULT_SUCCESS &&
               !left && !room;
        if (b) BrotliDecoderDestroyInstance(b);
    } else if (s->codec == 2) {
        fine = s->stored >= 4 && le(in, 4) == 0xfd2fb528 &&
               ZSTD_findFrameCompressedSize(in, s->stored) == s->stored &&
               ZSTD_decompress(out, s->raw, in, s->stored) == s->raw;
    } else if (s->codec == 3) {
        uint64_t memory = (uint64_t)128 << 20;
        size_t from = 0, to = 0;
        fine = lzma_stream_buffer_decode(&memory, 0, NULL, in, &from, s->stored, out, &to, s->raw) == LZMA_OK &&
               from == s->stored && to == s->raw;
    }
    if (s->codec == 5) {
        z_stream z;
        memset(&z, 0, sizeof z);
        z.next_in = (Bytef *)(uintptr_t)in;
        z.avail_in = (uInt)s->stored;
        z.next_out = out;
        z.avail_out = (uInt)s->raw;
        fine = inflateInit(&z) == Z_OK && inflate(&z, Z_FINISH) == Z_STREAM_END && !z.avail_in && !z.avail_out;
        inflateEnd(&z);
    }
    if (fine) return out;
    free(out);
    fail(d, BD_REFDEC_CODEC);
    return NULL;
}

static bool decode_text(dec *d, const section *s, char **text, uint64_t *size) {
    *text = (char *)unpack(d, s);
    if (!*text) return false;
    *size = s->raw;
    for (uint64_t i = 0; i < s->raw; i++) {
        unsigned char ch = (unsigned char)(*text)[i];
        if (ch != 0x0a && (ch < 0x20 || ch > 0x7e)) return fail(d, BD_REFDEC_SYNTAX);
    }
    return true;
}

/* --- protocol text --- */

static bool expect(const char **p, const char *end, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(end - *p) < n || memcmp(*p, word, n)) return false;
    *p += n;
    return true;
}

static bool number(const char **p, const char *end, uint64_t *v) {
    const char *start = *p;
    *v = 0;
    while (*p < end && **p >= '0' && **p <= '9' && *v <= UINT32_MAX) *v = *v * 10 + (uint64_t)(*(*p)++ - '0');
    return *p > start && *v <= UINT32_MAX && (*start != '0' || *p == start + 1);
}

static bool hex_number(const char **p, const char *end, double *v) {
    uint64_t fraction = 0, exponent;
    int digits = 0;
    *v = 0;
    if (expect(p, end, "0x0p+0")) return true;
    if (!expect(p, end, "0x1")) return false;
    if (expect(p, end, ".")) {
        while (digits < 13 && *p < end && **p && strchr("0123456789abcdef", **p)) {
            fraction = fraction * 16 + (uint64_t)(strchr("0123456789abcdef", **p) - "0123456789abcdef");
            digits++;
            ++*p;
        }
        if (digits == 0 || fraction % 16 == 0) return false;
    }
    bool minus = expect(p, end, "p-");
    if (!minus && !expect(p, end, "p+")) return false;
    if (!number(p, end, &exponent) || exponent > (minus ? 1022 : 1023) || (minus && exponent == 0)) return false;
    uint64_t bits = (minus ? 1023 - exponent : 1023 + exponent) << 52 | fraction << (4 * (13 - digits));
    memcpy(v, &bits, 8);
    return true;
}

static bool decode_protocol(dec *d, const section *s) {
    static const struct {
        const char *key;
        bool sgd, real;
        double low, high;
    } rule[9] = {{"window ", false, false, 1, 65536},  {"stride ", false, false, 0, 65536},
                 {"chunk ", true, false, 1, 16777216}, {"epochs ", true, false, 1, 1000},
                 {"batch ", true, false, 1, 65536},    {"lr ", true, true, 0, 1000},
                 {"momentum ", true, true, 0, 1},      {"clip ", true, true, 0, 1e6},
                 {"freeze ", true, false, 0, 65536}};
    double value[9] = {0};
    d->out->protocol = (char *)unpack(d, s);
    if (!d->out->protocol) return false;
    d->out->protocol_size = s->raw;
    const char *p = d->out->protocol, *end = p + s->raw;
    if (!expect(&p, end, "kind ")) return fail(d, BD_REFDEC_SYNTAX);
    bool sgd = expect(&p, end, "sgd");
    if (!sgd && !expect(&p, end, "window")) return fail(d, BD_REFDEC_SYNTAX);
    if (!expect(&p, end, "\n")) return fail(d, BD_REFDEC_SYNTAX);
    for (int i = 0; i < 9; i++) {
        if (rule[i].sgd && !sgd) continue;
        uint64_t integer = 0;
        bool fine = expect(&p, end, rule[i].key);
        if (fine) fine = rule[i].real ? hex_number(&p, end, &value[i]) : number(&p, end, &integer);
        if (!fine || !expect(&p, end, "\n")) return fail(d, BD_REFDEC_SYNTAX);
        if (!rule[i].real) value[i] = (double)integer;
    }
    if (p != end) return fail(d, BD_REFDEC_SYNTAX);
    for (int i = 0; i < 9; i++)
        if ((sgd || !rule[i].sgd) && (value[i] < rule[i].low || value[i] > rule[i].high))
            return fail(d, BD_REFDEC_RANGE);
    if (value[1] > value[0]) return fail(d, BD_REFDEC_RANGE);
    return value[1] < value[0] ? true : fail(d, BD_REFDEC_NONCANON);
}

static bool decode_tokenizer(dec *d, const section *s) {
    const uint8_t *p = d->file + s->offset;
    memcpy(d->out->tokenizer_hash, p, 32);
    memcpy(d->out->tables_hash, p + 32, 32);
    d->out->vocab = (uint32_t)le(p + 64, 4);
    return d->out->vocab >= 1 && d->out->vocab <= 65536 ? true : fail_at(d, BD_REFDEC_FIELD, s->offset + 64);
}

static bool decode_group(dec *d, const section *s, bd_refdec_group *g) {
    bool fine;
    d->section = s->offset;
    g->codec = (uint8_t)s->codec;
    if (s->codec == 4) {
        fine = bd_refdec_range_group(d, g, d->file + s->offset, s->stored, s->raw);
    } else {
        uint8_t *raw = unpack(d, s);
        if (!raw) return false;
        fine = bd_refdec_raw_group(d, g, raw, s->raw);
        free(raw);
    }
    return fine;
}

static int by_value(const void *a, const void *b) {
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return x < y ? -1 : x > y;
}

static bool check_params(dec *d, uint64_t first_group) {
    const bd_refdec_result *o = d->out;
    uint64_t n = 0, k = 0;
    d->section = first_group;
    for (uint32_t g = 0; g < o->n_groups; g++) {
        if (g > 0 && o->groups[g].tensors[0].param <= o->groups[g - 1].tensors[0].param)
            return fail(d, BD_REFDEC_NONCANON);
        n += o->groups[g].n_tensors;
    }
    uint32_t *all = malloc(n * sizeof *all);
    if (!all) return fail(d, BD_REFDEC_NOMEM);
    for (uint32_t g = 0; g < o->n_groups; g++)
        for (uint32_t t = 0; t < o->groups[g].n_tensors; t++) all[k++] = o->groups[g].tensors[t].param;
    qsort(all, n, sizeof *all, by_value);
    bool twice = false;
    for (k = 1; k < n; k++) twice |= all[k] == all[k - 1];
    free(all);
    return twice ? fail(d, BD_REFDEC_NONCANON) : true;
}

static bool decode_claims(dec *d, const section *s) {
    const uint8_t *p = d->file + s->offset;
    bd_refdec_result *o = d->out;
    d->section = s->offset;
    o->claim.present = (uint32_t)le(p, 4);
    o->claim.numerics = (uint32_t)le(p + 4, 4);
    o->claim.shards = (uint32_t)le(p + 8, 4);
    o->claim.first_target = le(p + 12, 8);
    o->claim.tokens = le(p + 20, 8);
    o->claim.bytes = le(p + 28, 8);
    o->claim.nll_q32 = (int64_t)le(p + 36, 8);
    memcpy(o->claim.sha256, p + 44, 256);
    if (o->claim.present > 1) return fail(d, BD_REFDEC_FIELD);
    uint64_t used = 0;
    if (o->claim.present) {
        if (!o->claim.numerics || !o->claim.tokens || !o->claim.bytes || o->claim.nll_q32 < 0)
            return fail(d, BD_REFDEC_FIELD);
        if (o->claim.shards < 1 || o->claim.shards > 8) return fail(d, BD_REFDEC_FIELD);
        used = 44 + 32 * o->claim.shards;
    }
    for (; used < 300; used++)
        if (p[used]) return fail_at(d, BD_REFDEC_NONCANON, s->offset + used);
    return true;
}

/* ---------------------------------------------------------------- the file */

static bool check_header(dec *d, uint32_t *sections) {
    static const uint8_t magic[8] = {0x89, 0x42, 0x52, 0x44, 0x0d, 0x0a, 0x1a, 0x0a};
    const uint8_t *f = d->file;
    if (d->size > FILE_LIMIT) return fail_at(d, BD_REFDEC_LIMIT, NOWHERE);
    for (uint64_t i = 0; i < 8 && i < d->size; i++)
        if (f[i] != magic[i]) return fail_at(d, BD_REFDEC_MAGIC, 0);
    if (d->size < 28) return fail_at(d, BD_REFDEC_TRUNCATED, d->size);
    if (le(f + 8, 4) != 2) return fail_at(d, BD_REFDEC_VERSION, 8);
    d->out->numerics = (uint32_t)le(f + 12, 4);
    if (d->out->numerics == 0) return fail_at(d, BD_REFDEC_FIELD, 12);
    uint64_t n = le(f + 16, 4), stated = le(f + 20, 8);
    if (n < 6 || n > 1005) return fail_at(d, BD_REFDEC_FIELD, 16);
    if (stated > d->size) return fail_at(d, BD_REFDEC_TRUNCATED, d->size);
    if (stated < d->size) return fail_at(d, BD_REFDEC_NONCANON, stated);
    if (d->size < 28 + 42 * n + 32) return fail_at(d, BD_REFDEC_FIELD, 16);
    *sections = (uint32_t)n;
    return true;
}

static bool check_table(dec *d, section *s, uint32_t n) {
    static const struct {
        unsigned codecs;
        uint64_t low, high;
    } rule[7] = {{0, 0, 0},       {3, 1, 1 << 24},    {3, 1, 4096}, {0, 68, 68},
                 {3, 0, 1 << 24}, {6, 1, UINT32_MAX}, {0, 300, 300}};
    uint64_t at = 28 + 42 * (uint64_t)n, total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t e = 28 + 42 * (uint64_t)i;
        const uint8_t *p = d->file + e;
        unsigned type = i == n - 1 ? 6 : i < 4 ? i + 1 : 5;
        s[i] = (section){p[0], p[1], at, le(p + 2, 4), le(p + 6, 4)};
        if (s[i].type != type) return fail_at(d, BD_REFDEC_FIELD, e);
        if (s[i].codec > rule[type].codecs) return fail_at(d, BD_REFDEC_FIELD, e + 1);
        if (s[i].codec == 6) return fail_at(d, BD_REFDEC_REFUSED, e + 1);
        if (s[i].raw < rule[type].low || s[i].raw > rule[type].high) return fail_at(d, BD_REFDEC_FIELD, e + 6);
        if (s[i].codec == 0 && s[i].stored != s[i].raw) return fail_at(d, BD_REFDEC_FIELD, e + 2);
        if (s[i].codec != 0 && (s[i].stored == 0 || s[i].stored >= s[i].raw))
            return fail_at(d, BD_REFDEC_NONCANON, e + 2);
        at += s[i].stored;
        total += s[i].raw;
        if (total > UNPACKED_LIMIT) return fail_at(d, BD_REFDEC_LIMIT, e + 6);
    }
    return at + 32 == d->size ? true : fail_at(d, BD_REFDEC_FIELD, 20);
}

static bool check_hashes(dec *d, const section *s, uint32_t n) {
    uint8_t hash[32];
    for (uint32_t i = 0; i < n; i++) {
        sha(d->file + s[i].offset, s[i].stored, NULL, 0, hash);
        if (memcmp(hash, d->file + 28 + 42 * (uint64_t)i + 10, 32))
            return fail_at(d, BD_REFDEC_CHECKSUM, s[i].offset);
    }
    sha(d->file, d->size - 32, NULL, 0, d->out->root_hash);
    if (memcmp(d->out->root_hash, d->file + d->size - 32, 32)) return fail_at(d, BD_REFDEC_CHECKSUM, d->size - 32);
    uint64_t table = 28 + 42 * (uint64_t)n;
    sha(d->file, table - 42, d->file + table, s[n - 1].offset - table, d->out->model_hash);
    return true;
}

static bool decode_file(dec *d, section *s, uint32_t n) {
    bd_refdec_result *o = d->out;
    if (!check_table(d, s, n) || !check_hashes(d, s, n)) return false;
    if (!decode_text(d, &s[0], &o->model, &o->model_size)) return false;
    if (!decode_protocol(d, &s[1])) return false;
    if (!decode_tokenizer(d, &s[2])) return false;
    if (!decode_text(d, &s[3], &o->plan, &o->plan_size)) return false;
    o->groups = calloc(n - 5, sizeof *o->groups);
    if (!o->groups) return fail_at(d, BD_REFDEC_NOMEM, NOWHERE);
    o->n_groups = n - 5;
    for (uint32_t g = 0; g < n - 5; g++)
        if (!decode_group(d, &s[4 + g], &o->groups[g])) return false;
    return check_params(d, s[4].offset) && decode_claims(d, &s[n - 1]);
}

int bd_refdec_decode(const void *data, uint64_t size, bd_refdec_result *out) {
    dec d = {.file = data, .size = size, .out = out, .tensors_left = TENSOR_LIMIT, .elements_left = ELEMENT_LIMIT};
    uint32_t n = 0;
    memset(out, 0, sizeof *out);
    out->offset = NOWHERE;
    if (!check_header(&d, &n)) return out->error;
    section *s = calloc(n, sizeof *s);
    if (!s) fail_at(&d, BD_REFDEC_NOMEM, NOWHERE);
    else decode_file(&d, s, n);
    free(s);
    return out->error;
}

void bd_refdec_free(bd_refdec_result *r) {
    for (uint32_t g = 0; r->groups && g < r->n_groups; g++) {
        for (uint32_t t = 0; r->groups[g].tensors && t < r->groups[g].n_tensors; t++) {
            bd_refdec_tensor *q = &r->groups[g].tensors[t];
            free(q->words);
            free(q->f32);
            free(q->codes);
            free(q->index);
            free(q->row_exp);
            free(q->col_exp);
            free(q->left);
            free(q->right);
        }
        free(r->groups[g].tensors);
    }
    free(r->groups);
    free(r->model);
    free(r->protocol);
    free(r->plan);
    memset(r, 0, sizeof *r);
}
