/* Token shards and tokenizer models. */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/sha256.h"
#include "bd_test.h"
#include "format/shard.h"
#include "format/tokenizer.h"

static const char *hex(const uint8_t h[32]) {
    static char s[65];
    bd_sha256_hex(h, s);
    return s;
}

static const char *tmp_path(const char *name) {
    static char p[4][256];
    static int slot;
    char *s = p[slot++ & 3];
    snprintf(s, sizeof p[0], "%s/%s", test_tmp(), name);
    return s;
}

/* --- shards --- */

static uint8_t *make_shard(uint32_t n, size_t *size) {
    *size = 1024 + 2 * (size_t)n;
    uint8_t *p = calloc(1, *size);
    const uint32_t words[3] = {BD_SHARD_MAGIC, 1, n};
    for (int i = 0; i < 12; i++) p[i] = (uint8_t)(words[i / 4] >> (8 * (i % 4)));
    for (uint32_t i = 0; i < n; i++) p[1024 + 2 * i] = (uint8_t)(i * 7 + 1);
    return p;
}

TEST(shard_round_trip) {
    bd_err e = {0};
    uint16_t tokens[777];
    uint64_t s = test_seed();
    for (int i = 0; i < 777; i++) tokens[i] = (uint16_t)test_rand(&s);
    const char *path = tmp_path("a_val_000.bin");
    for (uint64_t n = 0; n <= 777; n += 259) {
        CHECK_OK(bd_shard_write(path, tokens, n, &e), &e);
        bd_shard sh;
        CHECK_OK(bd_shard_open(&sh, path, &e), &e);
        CHECK_EQ_U64(sh.n, n);
        CHECK(!memcmp(sh.tokens, tokens, n * 2));
        uint8_t want[32];
        bd_sha256_of(sh.map.data, sh.map.size, want);
        CHECK(!memcmp(want, sh.sha256, 32));
        CHECK_STR(sh.path, path);
        bd_shard_close(&sh);
    }
}

TEST(shard_survives_every_cut_and_flip) {
    size_t size;
    uint8_t *p = make_shard(11, &size);
    bd_shard sh;
    for (size_t n = 0; n < size; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, p, n);
        bd_err e = {0};
        CHECK(bd_shard_parse(&sh, cut, n, &e) == BD_E_TRUNCATED);
        CHECK(e.msg[0]);
        free(cut);
    }
    for (size_t bit = 0; bit < size * 8; bit++) {
        bd_err e = {0};
        p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        bd_status st = bd_shard_parse(&sh, p, size, &e);
        CHECK_MSG((st == BD_OK) == (bit >= 1024 * 8), "bit %zu: %d", bit, st);
        p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    uint8_t *longer = calloc(1, size + 2);
    memcpy(longer, p, size);
    bd_err e = {0};
    CHECK(bd_shard_parse(&sh, longer, size + 1, &e) == BD_E_FIELD && e.offset == size);
    CHECK(bd_shard_parse(&sh, longer, size + 2, &e) == BD_E_FIELD);
    free(longer);
    free(p);
}

TEST(shard_vocabulary_error_has_its_place) {
    bd_err e = {0};
    const uint16_t tokens[] = {1, 5, 9, 1023, 1024, 7};
    const char *path = tmp_path("v_val_1.bin");
    CHECK_OK(bd_shard_write(path, tokens, 6, &e), &e);
    bd_shard s;
    CHECK_OK(bd_shard_open(&s, path, &e), &e);
    CHECK_OK(bd_shard_check_vocab(&s, 1025, &e), &e);
    CHECK_OK(bd_shard_check_vocab(&s, 65536, &e), &e);
    CHECK(bd_shard_check_vocab(&s, 1024, &e) == BD_E_RANGE);
    CHECK_EQ_U64(e.offset, 1024 + 8);
    CHECK(strstr(e.msg, "1024 at index 4") && strstr(e.file, "v_val_1.bin"));
    bd_shard_close(&s);
}

TEST(shard_names) {
    bd_err e = {0};
    const uint16_t one[] = {1, 2};
    char dir[200];
    snprintf(dir, sizeof dir, "%s/shards", test_tmp());
    CHECK_OK(bd_make_dir(dir, &e), &e);
    static const char *const files[] = {"x_val_002.bin",       "x_val_001.bin",     "x_val_bytes_001.bin",
                                        "x_train_001.bin",     "x_val_001.txt",     "val_001.bin",
                                        "y_val_1.sp.bin",      "x_bytes_val_3.bin", "x_train_000.bin",
                                        "x_train_bytes_0.bin", "x_val.bin"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char p[300];
        snprintf(p, sizeof p, "%s/%s", dir, files[i]);
        CHECK_OK(bd_shard_write(p, one, 2, &e), &e);
    }
    const char *args[] = {dir, "given.bin"};
    char **paths, want[300];
    size_t n;
    CHECK_OK(bd_shard_expand(args, 2, "val", &paths, &n, &e), &e);
    CHECK_EQ_U64(n, 4);
    static const char *const val[] = {"x_val_001.bin", "x_val_002.bin", "y_val_1.sp.bin"};
    for (int i = 0; i < 3; i++) {
        snprintf(want, sizeof want, "%s/%s", dir, val[i]);
        CHECK_STR(paths[i], want);
    }
    CHECK_STR(paths[3], "given.bin");
    bd_shards all;
    CHECK(bd_shards_open(&all, (const char *const *)paths, 4, &e) == BD_E_MISSING);
    CHECK_STR(e.file, "given.bin");
    CHECK_OK(bd_shards_open(&all, (const char *const *)paths, 3, &e), &e);
    CHECK_EQ_U64(all.total, 6);
    CHECK(all.tokens[0] == 1 && all.tokens[3] == 2 && all.tokens[5] == 2 && all.n == 3);
    bd_shards_close(&all);
    char side[1024];
    CHECK(bd_shard_sidecar(paths[0], side));
    snprintf(want, sizeof want, "%s/x_val_bytes_001.bin", dir);
    CHECK_STR(side, want);
    CHECK(!bd_shard_sidecar(paths[1], side)); /* no such file */
    CHECK(!bd_shard_sidecar(side, side));
    bd_names_free(paths, n);
    CHECK_OK(bd_shard_expand(args, 1, "train", &paths, &n, &e), &e);
    CHECK_EQ_U64(n, 2);
    bd_names_free(paths, n);
    CHECK(bd_shard_expand(args, 1, "test", &paths, &n, &e) == BD_E_MISSING);
    CHECK(strstr(e.file, "shards"));
    CHECK(bd_shards_open(&all, NULL, 0, &e) == BD_E_USAGE);
}

/* --- tokenizer --- */

static void varint(bd_buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) bd_buf_u8(b, (uint8_t)(v | 0x80));
    bd_buf_u8(b, (uint8_t)v);
}

static void add_piece(bd_buf *b, const char *text, float score, int type) {
    size_t n = strlen(text);
    bd_buf p;
    bd_buf_init(&p);
    varint(&p, 1 << 3 | 2);
    varint(&p, n);
    bd_buf_put(&p, text, n);
    varint(&p, 2 << 3 | 5);
    uint32_t bits;
    memcpy(&bits, &score, 4);
    bd_buf_u32(&p, bits);
    if (type != 1) {
        varint(&p, 3 << 3);
        varint(&p, (uint64_t)type);
    }
    varint(b, 1 << 3 | 2);
    varint(b, p.size);
    bd_buf_put(b, p.data, p.size);
    bd_buf_free(&p);
}

static void add_spec(bd_buf *b, int bos, int eos, int unk, int pad) {
    bd_buf p;
    bd_buf_init(&p);
    const int ids[4] = {unk, bos, eos, pad};
    varint(&p, 10 << 3 | 5); /* character_coverage: skipped */
    bd_buf_u32(&p, 0x3f7fbe77);
    varint(&p, 30 << 3 | 1); /* a 64-bit field: skipped */
    bd_buf_u64(&p, 1);
    for (int i = 0; i < 4; i++) {
        varint(&p, (uint64_t)(40 + i) << 3);
        varint(&p, (uint64_t)(int64_t)ids[i]);
    }
    varint(b, 2 << 3 | 2);
    varint(b, p.size);
    bd_buf_put(b, p.data, p.size);
    bd_buf_free(&p);
}

/* pad, bos, eos, unk, one byte piece, words */
static void make_model(bd_buf *b) {
    bd_buf_init(b);
    add_piece(b, "<pad>", 0, BD_PIECE_CONTROL);
    add_piece(b, "<s>", 0, BD_PIECE_CONTROL);
    add_piece(b, "</s>", 0, BD_PIECE_CONTROL);
    add_piece(b, "<unk>", 0, BD_PIECE_UNKNOWN);
    add_piece(b, "<0xC3>", 0, BD_PIECE_BYTE);
    add_piece(b, "<0xA9>", 0, BD_PIECE_BYTE);
    add_piece(b, "\xe2\x96\x81the", -1, 1);
    add_piece(b, "s", -2, 1);
    add_piece(b, "\xe2\x96\x81", -3, 1);
    add_piece(b, "\xee\x80\x81", -4, BD_PIECE_USER);
    add_piece(b, "gone", -5, BD_PIECE_UNUSED);
    add_piece(b, "a\xe2\x96\x81z", -6, 1);
    add_spec(b, 1, 2, 3, 0);
    varint(b, 9 << 3 | 2); /* an unknown field */
    varint(b, 3);
    bd_buf_put(b, "xyz", 3);
}

TEST(tokenizer_tables) {
    bd_buf b;
    bd_err e = {0};
    bd_tokenizer *t;
    make_model(&b);
    CHECK_OK(bd_tokenizer_parse(&t, b.data, b.size, &e), &e);
    CHECK_EQ_U64(t->n, 12);
    CHECK(t->pad == 0 && t->bos == 1 && t->eos == 2 && t->unk == 3);
    static const uint16_t base[] = {0, 0, 0, 0, 1, 1, 3, 1, 0, 3, 0, 5};
    static const uint8_t lead[] = {0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0},
                         bound[] = {1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0};
    CHECK(!memcmp(t->base, base, sizeof base) && !memcmp(t->lead, lead, 12) && !memcmp(t->bound, bound, 12));
    CHECK(t->pieces[7].score == -2.0f && t->pieces[9].type == BD_PIECE_USER);
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 7, 6), 4);
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 1, 6), 3);
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 10, 8), 0);
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 4, 8), 1);
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 12, 6), 3); /* beyond the vocabulary: boundary */
    CHECK_EQ_U64(bd_tokenizer_bytes(t, 6, 12), 0);
    const uint16_t ids[] = {1, 6, 7, 6, 8, 4, 5, 11, 1, 8, 6, 2};
    uint16_t bytes[12];
    bd_tokenizer_stream_bytes(t, ids, 12, bytes);
    bd_buf text;
    bd_buf_init(&text);
    CHECK_OK(bd_tokenizer_decode(t, ids, 12, &text, &e), &e);
    bd_buf_u8(&text, 0);
    CHECK_STR((const char *)text.data,
              "thes the \xc3\xa9"
              "a z the");
    uint64_t sum = 0;
    for (int i = 0; i < 12; i++) sum += bytes[i];
    CHECK_EQ_U64(sum, text.size - 1 + 2); /* the inner U+2581 counts three */
    const uint16_t bad[] = {1, 12};
    CHECK(bd_tokenizer_decode(t, bad, 2, &text, &e) == BD_E_RANGE);
    CHECK(strstr(e.msg, "index 1"));
    bd_buf_free(&text);
    bd_tokenizer_close(t);
    bd_buf_free(&b);
}

TEST(tokenizer_defaults_and_refusals) {
    bd_err e = {0};
    bd_tokenizer *t;
    bd_buf b;
    bd_buf_init(&b); /* no trainer spec: unk 0, bos 1, eos 2 where the types agree */
    add_piece(&b, "<unk>", 0, BD_PIECE_UNKNOWN);
    add_piece(&b, "<s>", 0, BD_PIECE_CONTROL);
    add_piece(&b, "a", 0, 1);
    CHECK_OK(bd_tokenizer_parse(&t, b.data, b.size, &e), &e);
    CHECK(t->unk == 0 && t->bos == 1 && t->eos == -1 && t->pad == -1);
    bd_tokenizer_close(t);
    add_piece(&b, "a", 0, 1);
    CHECK(bd_tokenizer_parse(&t, b.data, b.size, &e) == BD_E_FIELD && strstr(e.msg, "pieces 2 and 3"));
    static const struct {
        const char *text;
        int type;
    } bad[] = {{"", 1}, {"\xff", 1}, {"<0x4g>", 6}, {"<0x4>", 6}, {"A", 6}, {"b", 0}, {"b", 7}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b.size = 0;
        add_piece(&b, bad[i].text, 0, bad[i].type);
        CHECK_MSG(bd_tokenizer_parse(&t, b.data, b.size, &e) == BD_E_FIELD, "case %zu", i);
    }
    b.size = 0;
    add_spec(&b, 1, 2, 3, -1);
    CHECK(bd_tokenizer_parse(&t, b.data, b.size, &e) == BD_E_MAGIC);
    bd_buf_free(&b);
}

TEST(tokenizer_survives_every_cut_and_flip) {
    bd_buf b;
    bd_tokenizer *t;
    make_model(&b);
    int good = 0;
    for (size_t n = 0; n <= b.size; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, b.data, n);
        bd_err e = {0};
        if (bd_tokenizer_parse(&t, cut, n, &e) == BD_OK) {
            good++;
            bd_tokenizer_close(t);
        } else {
            CHECK(e.code != BD_OK && e.msg[0]);
        }
        free(cut);
    }
    CHECK(good >= 2 && good <= 15); /* cuts between fields leave a smaller model */
    const uint16_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        bd_err e = {0};
        b.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (bd_tokenizer_parse(&t, b.data, b.size, &e) == BD_OK) {
            bd_buf text;
            bd_buf_init(&text);
            bd_status st = bd_tokenizer_decode(t, ids, 12, &text, &e);
            CHECK(st == BD_OK || st == BD_E_RANGE);
            bd_buf_free(&text);
            bd_tokenizer_close(t);
        } else {
            CHECK(e.code != BD_OK && e.msg[0]);
        }
        b.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    bd_buf_free(&b);
}

TEST(tokenizer_real_models) {
    static const struct {
        const char *file, *tables;
        uint32_t n;
    } want[] = {{"tokenizers/fineweb_1024_bpe.model",
                 "6935a58f9ff6c258f5ba43a4e30bedc9f723ec3d6be04c677c9842f5df05b221", 1024},
                {"tokenizers/fineweb_8192_bpe.records.model",
                 "864f0c3a060b70380e794d463b610a790cb8d547843b54e3ed421fc47850495e", 8192},
                {"tokenizers/fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model",
                 "785a4a6c68c8d121a37abbf6199f0571b301133ee6561af14a68f01818c68a9b", 8192}};
    for (int i = 0; i < 3; i++) {
        const char *path = test_data(want[i].file);
        if (!path) SKIP("no tokenizer models");
        bd_err e = {0};
        bd_tokenizer *t;
        CHECK_OK(bd_tokenizer_open(&t, path, &e), &e);
        CHECK_EQ_U64(t->n, want[i].n);
        CHECK(t->pad == 0 && t->bos == 1 && t->eos == 2 && t->unk == 3);
        CHECK_STR(hex(t->tables_hash), want[i].tables);
        bd_tokenizer_close(t);
    }
}

TEST(real_stream_bytes_and_text) {
    const char *shard = test_data("tokens/fineweb_val_000000.sp1024.bin"),
               *text = test_data("text/fineweb_val_head.txt"),
               *model = test_data("tokenizers/fineweb_1024_bpe.model");
    if (!shard || !text || !model) SKIP("no validation data");
    bd_err e = {0};
    bd_tokenizer *t;
    bd_shard s;
    bd_map m;
    CHECK_OK(bd_tokenizer_open(&t, model, &e), &e);
    CHECK_OK(bd_shard_open(&s, shard, &e), &e);
    CHECK_OK(bd_map_open(&m, text, &e), &e);
    CHECK_EQ_U64(s.n, 1040298);
    CHECK_OK(bd_shard_check_vocab(&s, t->n, &e), &e);
    uint16_t *bytes = malloc(s.n * 2);
    bd_tokenizer_stream_bytes(t, s.tokens, s.n, bytes);
    uint64_t sum = 0;
    for (uint64_t i = 1; i <= 51200; i++) {
        sum += bytes[i];
        if (i == 30720) CHECK_EQ_U64(sum, 76761);
    }
    CHECK_EQ_U64(sum, 126277);
    /* documents in turn; the text file has a blank line between them */
    uint64_t at = 0, docs = 0, same = 0;
    const char *from = (const char *)m.data, *end = from + m.size;
    bd_buf doc;
    bd_buf_init(&doc);
    while (at < s.n && from < end) {
        CHECK(s.tokens[at] == t->bos);
        uint64_t next = at + 1, counted = 0;
        while (next < s.n && s.tokens[next] != t->bos) counted += bytes[next++];
        doc.size = 0;
        CHECK_OK(bd_tokenizer_decode(t, s.tokens + at, next - at, &doc, &e), &e);
        CHECK_EQ_U64(doc.size, counted);
        const char *stop = memmem(from, (size_t)(end - from), "\n\n", 2);
        size_t len = stop ? (size_t)(stop - from) : (size_t)(end - from);
        if (!stop && len && from[len - 1] == '\n') len--;
        docs++;
        if (doc.size == len && !memcmp(doc.data, from, len)) same++;
        from += stop ? len + 2 : len;
        at = next;
    }
    printf("    %" PRIu64 " documents, %" PRIu64 " equal to the text file\n", docs, same);
    CHECK_EQ_U64(docs, 902);
    CHECK(at == s.n);
    CHECK_EQ_U64(same, docs);
    bd_buf_free(&doc);
    free(bytes);
    bd_map_close(&m);
    bd_shard_close(&s);
    bd_tokenizer_close(t);
}

TEST(real_model_cuts) {
    const char *path = test_data("tokenizers/fineweb_1024_bpe.model");
    if (!path) SKIP("no tokenizer models");
    bd_err e = {0};
    bd_map m;
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    uint64_t s = test_seed();
    for (int i = 0; i < 300; i++) {
        uint64_t n = test_rand(&s) % m.size;
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, m.data, n);
        if (n) cut[test_rand(&s) % n] ^= (uint8_t)(1u << (test_rand(&s) % 8));
        bd_tokenizer *t;
        if (bd_tokenizer_parse(&t, cut, n, &e) == BD_OK) bd_tokenizer_close(t);
        free(cut);
    }
    bd_map_close(&m);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
