#include "format/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/sha256.h"
#include "format/utf8.h"

/* A .model is a protobuf message: field 1 pieces, 2 trainer spec, 3 normalizer
 * spec. It is read in two flat passes (messages nest only two deep here);
 * fields that scoring does not need are skipped by their wire type. */

enum {
    MAX_PIECES = 1 << 16, /* ids are 16 bits wide */
    MAX_PIECE = 4096,
    WIRE_VARINT = 0,
    WIRE_64 = 1,
    WIRE_BYTES = 2,
    WIRE_32 = 5,
    MODEL_PIECE = 1,
    MODEL_TRAINER = 2,
    PIECE_TEXT = 1,
    PIECE_SCORE = 2,
    PIECE_TYPE = 3,
    TRAINER_UNK = 40,
    TRAINER_BOS = 41,
    TRAINER_EOS = 42,
    TRAINER_PAD = 43,
};
#define MAX_FILE (UINT64_C(64) << 20)
#define SPACE    "\xe2\x96\x81" /* U+2581 */
#define ULL(x)   ((unsigned long long)(x))

/* --- protobuf wire format --- */

typedef struct wire {
    const uint8_t *p; /* the whole file: positions are file offsets */
    uint64_t pos, end;
} wire;

typedef struct field {
    uint32_t number, type;
    uint64_t value;          /* varint or fixed */
    uint64_t at, begin, end; /* where the field's key stands; payload of WIRE_BYTES */
} field;

static bd_status read_varint(wire *w, uint64_t *v, bd_err *err) {
    uint64_t start = w->pos;
    *v = 0;
    for (int i = 0; i < 10; i++) {
        if (w->pos >= w->end)
            return BD_FAIL_AT(err, BD_E_TRUNCATED, w->pos, "tokenizer model: a number is cut at byte %llu",
                              ULL(w->pos));
        uint8_t b = w->p[w->pos++];
        if (i == 9 && b > 1) break;
        *v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) return BD_OK;
    }
    return BD_FAIL_AT(err, BD_E_FIELD, start, "tokenizer model: the number at byte %llu has more than 64 bits",
                      ULL(start));
}

static bd_status read_fixed(wire *w, int bytes, uint64_t *v, bd_err *err) {
    *v = 0;
    if (w->end - w->pos < (uint64_t)bytes)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, w->end, "tokenizer model: a %d-byte value is cut", bytes);
    for (int i = 0; i < bytes; i++) *v |= (uint64_t)w->p[w->pos + (uint64_t)i] << (8 * i);
    w->pos += (uint64_t)bytes;
    return BD_OK;
}

static bd_status next_field(wire *w, field *f, bd_err *err) {
    uint64_t key;
    memset(f, 0, sizeof *f);
    f->at = w->pos;
    BD_TRY(read_varint(w, &key, err));
    f->number = (uint32_t)(key >> 3);
    f->type = (uint32_t)(key & 7);
    if (key >> 3 == 0 || key >> 3 > (1u << 29) - 1)
        return BD_FAIL_AT(err, BD_E_FIELD, f->at, "tokenizer model: field number %llu", ULL(key >> 3));
    switch (f->type) {
        case WIRE_VARINT: return read_varint(w, &f->value, err);
        case WIRE_64: return read_fixed(w, 8, &f->value, err);
        case WIRE_32: return read_fixed(w, 4, &f->value, err);
        case WIRE_BYTES: {
            uint64_t n;
            BD_TRY(read_varint(w, &n, err));
            if (n > w->end - w->pos)
                return BD_FAIL_AT(err, BD_E_TRUNCATED, w->end,
                                  "tokenizer model: field %u of %llu bytes, %llu are left", f->number, ULL(n),
                                  ULL(w->end - w->pos));
            f->begin = w->pos;
            f->end = w->pos += n;
            return BD_OK;
        }
        default:
            return BD_FAIL_AT(err, BD_E_FIELD, f->at, "tokenizer model: field %u has wire type %u", f->number,
                              f->type);
    }
}

static bd_status want_type(const field *f, uint32_t type, const char *what, bd_err *err) {
    if (f->type == type) return BD_OK;
    return BD_FAIL_AT(err, BD_E_FIELD, f->at, "tokenizer model: %s has wire type %u instead of %u", what, f->type,
                      type);
}

/* --- the model --- */

static bd_status read_piece(bd_tokenizer *t, wire w, uint32_t id, bd_err *err) {
    bd_piece *p = &t->pieces[id];
    uint64_t at = w.pos;
    field f = {0}, text = {0};
    bool has_text = false;
    p->type = BD_PIECE_NORMAL;
    while (w.pos < w.end) {
        BD_TRY(next_field(&w, &f, err));
        if (f.number == PIECE_TEXT) {
            BD_TRY(want_type(&f, WIRE_BYTES, "a piece's text", err));
            text = f;
            has_text = true;
        } else if (f.number == PIECE_SCORE) {
            BD_TRY(want_type(&f, WIRE_32, "a piece's score", err));
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (f.number == PIECE_TYPE) {
            BD_TRY(want_type(&f, WIRE_VARINT, "a piece's type", err));
            if (f.value < BD_PIECE_NORMAL || f.value > BD_PIECE_BYTE)
                return BD_FAIL_AT(err, BD_E_FIELD, f.at, "tokenizer piece %u: unknown type %llu", id, ULL(f.value));
            p->type = (bd_piece_type)f.value;
        }
    }
    uint64_t n = text.end - text.begin;
    const uint8_t *s = w.p + text.begin;
    if (!has_text || n == 0) return BD_FAIL_AT(err, BD_E_FIELD, at, "tokenizer piece %u has no text", id);
    if (n > MAX_PIECE)
        return BD_FAIL_AT(err, BD_E_LIMIT, at, "tokenizer piece %u has %llu bytes, the limit is %d", id, ULL(n),
                          (int)MAX_PIECE);
    if (!bd_utf8_valid(s, n) || memchr(s, 0, (size_t)n))
        return BD_FAIL_AT(err, BD_E_FIELD, at, "tokenizer piece %u, \"%s\", is not UTF-8 without NUL", id,
                          bd_quote(s, n).s);
    p->text = bd_arena_strdup(t->arena, (const char *)s, (size_t)n);
    p->len = (uint32_t)n;
    return p->text ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for the tokenizer's pieces");
}

/* "<0x41>" is the byte 0x41, with upper-case digits. */
static int byte_of(const bd_piece *p) {
    static const char digits[] = "0123456789ABCDEF";
    if (p->len != 6 || strncmp(p->text, "<0x", 3) || p->text[5] != '>') return -1;
    const char *a = strchr(digits, p->text[3]), *b = strchr(digits, p->text[4]);
    return a && b ? (int)(a - digits) << 4 | (int)(b - digits) : -1;
}

static bool leads(const bd_piece *p) { return p->len >= 3 && !memcmp(p->text, SPACE, 3); }

static bd_status fill_tables(bd_tokenizer *t, bd_err *err) {
    t->base = bd_arena_alloc(t->arena, t->n, sizeof *t->base);
    t->lead = bd_arena_alloc(t->arena, t->n, sizeof *t->lead);
    t->bound = bd_arena_alloc(t->arena, t->n, sizeof *t->bound);
    if (!t->base || !t->lead || !t->bound) return BD_FAIL(err, BD_E_NOMEM, "no memory for the tokenizer's tables");
    bd_sha256 h;
    uint8_t word[4];
    for (int i = 0; i < 4; i++) word[i] = (uint8_t)(t->n >> (8 * i));
    bd_sha256_init(&h);
    bd_sha256_add(&h, word, 4);
    for (uint32_t i = 0; i < t->n; i++) {
        const bd_piece *p = &t->pieces[i];
        switch (p->type) {
            case BD_PIECE_UNKNOWN:
            case BD_PIECE_CONTROL:
            case BD_PIECE_UNUSED: t->bound[i] = 1; break;
            case BD_PIECE_BYTE:
                if (byte_of(p) < 0)
                    return BD_FAIL(err, BD_E_FIELD, "tokenizer piece %u, \"%s\", is of type byte but not <0xHH>", i,
                                   bd_quote(p->text, p->len).s);
                t->base[i] = 1;
                break;
            case BD_PIECE_NORMAL:
            case BD_PIECE_USER:
                t->lead[i] = leads(p);
                t->base[i] = (uint16_t)(p->len - (t->lead[i] ? 3 : 0));
                break;
        }
        uint8_t row[4] = {(uint8_t)t->base[i], (uint8_t)(t->base[i] >> 8), t->lead[i], t->bound[i]};
        bd_sha256_add(&h, row, sizeof row);
    }
    bd_sha256_end(&h, t->tables_hash);
    return BD_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp((*(const bd_piece *const *)a)->text, (*(const bd_piece *const *)b)->text);
}

static bd_status check_distinct(const bd_tokenizer *t, bd_err *err) {
    const bd_piece **p = malloc(t->n * sizeof *p);
    if (!p) return BD_FAIL(err, BD_E_NOMEM, "no memory for the tokenizer's pieces");
    for (uint32_t i = 0; i < t->n; i++) p[i] = &t->pieces[i];
    qsort(p, t->n, sizeof *p, by_text);
    bd_status st = BD_OK;
    for (uint32_t i = 1; st == BD_OK && i < t->n; i++)
        if (!strcmp(p[i - 1]->text, p[i]->text))
            st = BD_FAIL(err, BD_E_FIELD, "tokenizer pieces %u and %u are both \"%s\"",
                         (unsigned)(p[i - 1] - t->pieces), (unsigned)(p[i] - t->pieces),
                         bd_quote(p[i]->text, p[i]->len).s);
    free(p);
    return st;
}

/* An id of the trainer spec counts where the piece has the type that goes with it. */
static int32_t special(const bd_tokenizer *t, int32_t id, bd_piece_type type) {
    return id >= 0 && (uint32_t)id < t->n && t->pieces[id].type == type ? id : -1;
}

static bd_status read_trainer(bd_tokenizer *t, wire w, bd_err *err) {
    while (w.pos < w.end) {
        field f;
        BD_TRY(next_field(&w, &f, err));
        int32_t *id = f.number == TRAINER_UNK   ? &t->unk
                      : f.number == TRAINER_BOS ? &t->bos
                      : f.number == TRAINER_EOS ? &t->eos
                      : f.number == TRAINER_PAD ? &t->pad
                                                : NULL;
        if (!id) continue;
        BD_TRY(want_type(&f, WIRE_VARINT, "a special id", err));
        int64_t v = (int64_t)f.value;
        if (v < INT32_MIN || v >= MAX_PIECES)
            return BD_FAIL_AT(err, BD_E_RANGE, f.at, "tokenizer model: special id %lld", (long long)v);
        *id = (int32_t)v;
    }
    return BD_OK;
}

static bd_status read_model(bd_tokenizer *t, const uint8_t *data, uint64_t size, bd_err *err) {
    wire w = {data, 0, size};
    uint64_t n = 0;
    field f;
    while (w.pos < w.end) {
        BD_TRY(next_field(&w, &f, err));
        if (f.number == MODEL_PIECE) n++;
    }
    if (n == 0) return BD_FAIL_AT(err, BD_E_MAGIC, 0, "not a SentencePiece model: it has no pieces");
    if (n > MAX_PIECES)
        return BD_FAIL(err, BD_E_LIMIT, "tokenizer model with %llu pieces, the limit is %d", ULL(n),
                       (int)MAX_PIECES);
    t->n = (uint32_t)n;
    t->pieces = bd_arena_alloc(t->arena, n, sizeof *t->pieces);
    if (!t->pieces) return BD_FAIL(err, BD_E_NOMEM, "no memory for the tokenizer's pieces");
    t->unk = 0; /* the defaults of the format */
    t->bos = 1;
    t->eos = 2;
    t->pad = -1;
    w.pos = 0;
    for (uint32_t id = 0; w.pos < w.end;) {
        BD_TRY(next_field(&w, &f, err));
        wire in = {data, f.begin, f.end};
        if (f.number == MODEL_PIECE) {
            BD_TRY(want_type(&f, WIRE_BYTES, "a piece", err));
            BD_TRY(read_piece(t, in, id++, err));
        } else if (f.number == MODEL_TRAINER) {
            BD_TRY(want_type(&f, WIRE_BYTES, "the trainer spec", err));
            BD_TRY(read_trainer(t, in, err));
        }
    }
    BD_TRY(check_distinct(t, err));
    t->unk = special(t, t->unk, BD_PIECE_UNKNOWN);
    t->bos = special(t, t->bos, BD_PIECE_CONTROL);
    t->eos = special(t, t->eos, BD_PIECE_CONTROL);
    t->pad = special(t, t->pad, BD_PIECE_CONTROL);
    return fill_tables(t, err);
}

bd_status bd_tokenizer_parse(bd_tokenizer **out, const void *data, uint64_t size, bd_err *err) {
    *out = NULL;
    if (size == 0) return BD_FAIL_AT(err, BD_E_TRUNCATED, 0, "the tokenizer model is empty");
    if (size > MAX_FILE)
        return BD_FAIL(err, BD_E_LIMIT, "tokenizer model of %llu bytes, the limit is %llu", ULL(size),
                       ULL(MAX_FILE));
    bd_tokenizer *t = calloc(1, sizeof *t);
    if (t) t->arena = bd_arena_create(0);
    if (!t || !t->arena) {
        free(t);
        return BD_FAIL(err, BD_E_NOMEM, "no memory for a tokenizer");
    }
    bd_status st = read_model(t, data, size, err);
    if (st != BD_OK) {
        bd_tokenizer_close(t);
        return st;
    }
    bd_sha256_of(data, (size_t)size, t->model_hash);
    *out = t;
    return BD_OK;
}

bd_status bd_tokenizer_open(bd_tokenizer **out, const char *path, bd_err *err) {
    *out = NULL;
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_tokenizer_parse(out, m.data, m.size, err);
    if (st != BD_OK) bd_err_file(err, path);
    bd_map_close(&m);
    return st;
}

void bd_tokenizer_close(bd_tokenizer *t) {
    if (!t) return;
    bd_arena_destroy(t->arena);
    free(t);
}

uint32_t bd_tokenizer_bytes(const bd_tokenizer *t, uint32_t p, uint32_t target) {
    if (target >= t->n) return 0;
    bool open = p < t->n && !t->bound[p]; /* a space before the target counts */
    return t->base[target] + (uint32_t)(t->lead[target] && open);
}

void bd_tokenizer_stream_bytes(const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, uint16_t *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = i ? (uint16_t)bd_tokenizer_bytes(t, tokens[i - 1], tokens[i]) : 0;
}

bd_status bd_tokenizer_decode(const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, bd_buf *out, bd_err *err) {
    bool start = true;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t id = tokens[i];
        if (id >= t->n)
            return BD_FAIL(err, BD_E_RANGE, "token %u at index %llu is outside the vocabulary of %u", id, ULL(i),
                           t->n);
        const bd_piece *p = &t->pieces[id];
        if (t->bound[id]) {
            start = true;
            continue;
        }
        if (p->type == BD_PIECE_BYTE) {
            bd_buf_u8(out, (uint8_t)byte_of(p));
        } else {
            const char *s = p->text, *end = s + p->len;
            if (t->lead[id] && start) s += 3;
            while (s < end) {
                bool space = end - s >= 3 && !memcmp(s, SPACE, 3);
                if (space) bd_buf_u8(out, ' ');
                else bd_buf_u8(out, (uint8_t)*s);
                s += space ? 3 : 1;
            }
        }
        start = false;
    }
    return bd_buf_check(out, err);
}
