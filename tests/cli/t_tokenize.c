/* birdie tokenize, run as a user runs it, and the documents it reads. */
#include "bd_test.h"

#include <jansson.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/file.h"
#include "cli/documents.h"
#include "cli/sp_shim.h"
#include "format/caseops.h"
#include "format/shard.h"
#include "format/tokenizer.h"

static char out_text[1 << 16], err_text[1 << 14];

static void slurp(const char *name, char *out, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
}

/* birdie tokenize ARGUMENTS; $T in them stands for the test's directory. Returns the exit code. */
static int tokenize(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int tokenize(const char *fmt, ...) {
    char args[4096], cmd[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    snprintf(cmd, sizeof cmd, "T=%s; %s tokenize %s >$T/stdout 2>$T/stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    slurp("stdout", out_text, sizeof out_text);
    slurp("stderr", err_text, sizeof err_text);
    return WEXITSTATUS(status);
}
#define TOKENIZES(...) CHECK_MSG(tokenize(__VA_ARGS__) == 0, "%s%s", out_text, err_text)

static const char *in_tmp(const char *name) {
    static char path[8][256];
    static int slot;
    char *p = path[slot++ & 7];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static void put_file(const char *name, const char *text) {
    bd_err err = {0};
    CHECK_OK(bd_file_write(in_tmp(name), text, strlen(text), &err), &err);
}

static bool exists(const char *name) { return access(in_tmp(name), F_OK) == 0; }

static bool same_file(const char *a, const char *b) {
    bd_map x, y;
    bd_err err = {0};
    CHECK_OK(bd_map_open(&x, in_tmp(a), &err), &err);
    CHECK_OK(bd_map_open(&y, in_tmp(b), &err), &err);
    bool same = x.size == y.size && !memcmp(x.data, y.data, x.size);
    bd_map_close(&x);
    bd_map_close(&y);
    return same;
}

static uint64_t number(const char *part, const char *key) {
    json_t *o = json_loads(out_text, 0, NULL);
    CHECK_MSG(o != NULL, "%s", out_text);
    const json_t *in = part ? json_object_get(o, part) : o;
    const char *s = json_string_value(json_object_get(in, key));
    CHECK_MSG(s != NULL, "no %s in %s", key, out_text);
    uint64_t v = strtoull(s, NULL, 10);
    json_decref(o);
    return v;
}

#define NEEDS_SENTENCEPIECE() \
    if (!bd_sp_available()) SKIP("this build has no SentencePiece")

/* 60 documents of made-up words, with capitals, digits and some Unicode. */
static void make_corpus(void) {
    static bool done;
    if (done) return;
    static const char *const syllables[] = {"ka", "ro", "mi", "tel", "sun", "dar", "ne", "vo", "\xc3\xa9l", "qu"};
    uint64_t seed = test_seed();
    bd_buf b;
    bd_buf_init(&b);
    for (int d = 0; d < 60; d++) {
        if (d) bd_buf_put(&b, "\n\n", 2);
        for (int w = 0; w < 200; w++) {
            if (w) bd_buf_u8(&b, w % 40 ? ' ' : '\n');
            if (test_rand(&seed) % 15 == 0) bd_buf_printf(&b, "%u", (unsigned)(test_rand(&seed) % 10000));
            size_t start = b.size;
            for (int s = 0; s < 1 + (int)(test_rand(&seed) % 4); s++)
                bd_buf_printf(&b, "%s", syllables[test_rand(&seed) % 10]);
            if (test_rand(&seed) % 6 == 0 && b.data[start] >= 'a')
                b.data[start] &= b.data[start] < 0x80 ? 0xdf : 0xff;
        }
    }
    bd_err err = {0};
    CHECK_OK(bd_file_write(in_tmp("corpus.txt"), b.data, b.size, &err), &err);
    bd_buf_free(&b);
    done = true;
}

/* ---- against the official files ---- */

static void compare_head(const char *official, const char *ours, bool whole) {
    bd_shard a, b;
    bd_err err = {0};
    CHECK_OK(bd_shard_open(&a, official, &err), &err);
    CHECK_OK(bd_shard_open(&b, in_tmp(ours), &err), &err);
    CHECK(whole ? a.n == b.n : a.n <= b.n);
    for (uint64_t i = 0; i < a.n; i++) CHECK_MSG(a.tokens[i] == b.tokens[i], "first difference at %" PRIu64, i);
    bd_shard_close(&a);
    bd_shard_close(&b);
}

TEST(official_shards_are_reproduced) {
    const char *tok = test_data("tokenizers/fineweb_1024_bpe.model"), *val = test_data("text/fineweb_val_head.txt");
    const char *train = test_data("text/fineweb_train_head.txt");
    if (!tok || !val || !train) SKIP("no data");
    NEEDS_SENTENCEPIECE();
    TOKENIZES("--tokenizer %s --val-docs 902 --out $T/official %s %s --json", tok, val, train);
    CHECK_EQ_U64(number("val", "documents"), 902);
    compare_head(test_data("tokens/fineweb_val_000000.sp1024.bin"), "official/data_val_000000.bin", true);
    compare_head(test_data("tokens/fineweb_train_000000.sp1024.bin"), "official/data_train_000000.bin", false);
    bd_map a, b;
    bd_err err = {0};
    CHECK_OK(bd_map_open(&a, test_data("text/fineweb_val_head.txt"), &err), &err);
    CHECK_OK(bd_map_open(&b, in_tmp("official/data_val.txt"), &err), &err);
    CHECK(a.size == b.size && !memcmp(a.data, b.data, a.size));
    bd_map_close(&a);
    bd_map_close(&b);
}

TEST(caseops_sidecar_counts_every_byte_of_real_documents) {
    const char *tok = test_data("tokenizers/fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model");
    const char *docs = test_data("text/fineweb_verify_docs200.jsonl");
    if (!tok || !docs) SKIP("no data");
    NEEDS_SENTENCEPIECE();
    TOKENIZES("--caseops --tokenizer %s --val-docs 200 --out $T/caps %s --json", tok, docs);
    bd_shard ids, bytes;
    bd_err err = {0};
    CHECK_OK(bd_shard_open(&ids, in_tmp("caps/data_val_000000.bin"), &err), &err);
    CHECK_OK(bd_shard_open(&bytes, in_tmp("caps/data_val_bytes_000000.bin"), &err), &err);
    CHECK_EQ_U64(ids.n, bytes.n);
    bd_documents *d;
    bd_document doc;
    bool more;
    CHECK_OK(bd_documents_open(&d, &docs, 1, NULL, &err), &err);
    uint64_t at = 0;
    for (int i = 0; i < 200; i++) {
        CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
        CHECK(more && ids.tokens[at] == 1 && bytes.tokens[at] == 0);
        uint64_t sum = 0;
        for (at++; at < ids.n && ids.tokens[at] != 1; at++) sum += bytes.tokens[at];
        CHECK_EQ_U64(sum, doc.size);
        bd_buf coded, plain;
        bd_caseops_state s = {0};
        bd_buf_init(&coded);
        bd_buf_init(&plain);
        CHECK_OK(bd_caseops_encode(doc.text, doc.size, &coded, &err), &err);
        CHECK_OK(bd_caseops_decode(&s, coded.data, coded.size, &plain, &err), &err);
        CHECK(plain.size == doc.size && !memcmp(plain.data, doc.text, doc.size));
        bd_buf_free(&coded);
        bd_buf_free(&plain);
    }
    CHECK_EQ_U64(at, ids.n);
    bd_documents_close(d);
    bd_shard_close(&ids);
    bd_shard_close(&bytes);
}

TEST(caseops_refuses_a_tokenizer_without_controls) {
    const char *tok = test_data("tokenizers/fineweb_1024_bpe.model");
    if (!tok) SKIP("no data");
    NEEDS_SENTENCEPIECE();
    make_corpus();
    CHECK(tokenize("--caseops --tokenizer %s --out $T/nocaps $T/corpus.txt", tok) == 2);
    CHECK(strstr(err_text, "U+E001") != NULL);
    CHECK(!exists("nocaps/data_val_000000.bin"));
}

/* ---- own tokenizer ---- */

TEST(training_repeats_on_any_thread_count) {
    NEEDS_SENTENCEPIECE();
    make_corpus();
    TOKENIZES("--train-tokenizer 400 --threads 1 --out $T/a $T/corpus.txt --json");
    CHECK_EQ_U64(number(NULL, "documents"), 60);
    CHECK(number("val", "documents") > 0 && number("val", "documents") < 15);
    TOKENIZES("--train-tokenizer 400 --threads 3 --out $T/b $T/corpus.txt");
    static const char *const names[] = {"tokenizer.model", "data_train_000000.bin", "data_val_000000.bin",
                                        "data_val.txt"};
    for (int i = 0; i < 4; i++) {
        char a[64], b[64];
        snprintf(a, sizeof a, "a/%s", names[i]);
        snprintf(b, sizeof b, "b/%s", names[i]);
        CHECK_MSG(same_file(a, b), "%s", names[i]);
    }
    CHECK(!exists("a/data_val_bytes_000000.bin"));
}

TEST(tokens_decode_to_the_validation_text) {
    NEEDS_SENTENCEPIECE();
    make_corpus();
    TOKENIZES("--train-tokenizer 400 --val-docs 7 --out $T/c $T/corpus.txt --json");
    CHECK_EQ_U64(number("val", "documents"), 7);
    CHECK_EQ_U64(number("train", "documents"), 53);
    bd_tokenizer *t;
    bd_shard s;
    bd_map text;
    bd_buf back;
    bd_err err = {0};
    CHECK_OK(bd_tokenizer_open(&t, in_tmp("c/tokenizer.model"), &err), &err);
    CHECK(t->pad == 0 && t->bos == 1 && t->eos == 2 && t->unk == 3 && t->n <= 400 && t->n > 261);
    CHECK_OK(bd_shard_open(&s, in_tmp("c/data_val_000000.bin"), &err), &err);
    CHECK_OK(bd_map_open(&text, in_tmp("c/data_val.txt"), &err), &err);
    bd_buf_init(&back);
    CHECK_OK(bd_tokenizer_decode(t, s.tokens, s.n, &back, &err), &err);
    /* Normalisation made each newline inside a document a space; between documents decode puts nothing. */
    size_t at = 0, bos = 0;
    for (uint64_t i = 0; i < s.n; i++) bos += s.tokens[i] == 1;
    CHECK_EQ_U64(bos, 7);
    for (uint64_t i = 0; i < text.size; i++) {
        if (i + 1 < text.size && text.data[i] == '\n' && text.data[i + 1] == '\n') {
            i++;
            continue;
        }
        CHECK(at < back.size);
        CHECK(back.data[at++] == (text.data[i] == '\n' ? ' ' : text.data[i]));
    }
    CHECK_EQ_U64(at, back.size);
    uint64_t counted = 0;
    for (uint64_t i = 1; i < s.n; i++) counted += bd_tokenizer_bytes(t, s.tokens[i - 1], s.tokens[i]);
    CHECK_EQ_U64(counted, back.size);
    bd_buf_free(&back);
    bd_map_close(&text);
    bd_shard_close(&s);
    bd_tokenizer_close(t);
}

TEST(shards_split_and_old_ones_go) {
    NEEDS_SENTENCEPIECE();
    make_corpus();
    TOKENIZES("--train-tokenizer 400 --caseops --val-docs 9 --out $T/whole $T/corpus.txt");
    TOKENIZES(
        "--tokenizer $T/whole/tokenizer.model --caseops --val-docs 9 --shard-tokens 777 --out $T/cut "
        "$T/corpus.txt");
    static const char *const kinds[] = {"val", "train", "val_bytes"};
    for (int k = 0; k < 3; k++) {
        char name[64];
        bd_shard one, part;
        bd_err err = {0};
        snprintf(name, sizeof name, "whole/data_%s_000000.bin", kinds[k]);
        CHECK_OK(bd_shard_open(&one, in_tmp(name), &err), &err);
        uint64_t at = 0;
        for (int i = 0; at < one.n; i++) {
            snprintf(name, sizeof name, "cut/data_%s_%06d.bin", kinds[k], i);
            CHECK_OK(bd_shard_open(&part, in_tmp(name), &err), &err);
            CHECK(part.n == 777 || at + part.n == one.n);
            CHECK(!memcmp(part.tokens, one.tokens + at, 2 * part.n));
            at += part.n;
            bd_shard_close(&part);
        }
        bd_shard_close(&one);
    }
    CHECK(exists("cut/data_val_bytes_000001.bin") && exists("cut/data_val_000001.bin"));
    TOKENIZES("--tokenizer $T/whole/tokenizer.model --val-docs 0 --out $T/cut $T/corpus.txt");
    CHECK(!exists("cut/data_val_bytes_000000.bin") && !exists("cut/data_val_000000.bin"));
    CHECK(!exists("cut/data_val.txt") && !exists("cut/data_train_000001.bin"));
    TOKENIZES("--tokenizer $T/whole/tokenizer.model --val-docs 60 --split file --out $T/file $T/corpus.txt --json");
    CHECK_EQ_U64(number("val", "documents"), 1);
}

/* ---- wrong input ---- */

TEST(wrong_use_and_wrong_files) {
    NEEDS_SENTENCEPIECE();
    make_corpus();
    put_file("bad.txt", "one\n\ntwo\nthree \xff here\n");
    put_file("bad.jsonl", "{\"text\": \"fine\"}\n{\"txet\": \"no\"}\n");
    put_file("syntax.jsonl", "{\"text\": \"fine\"}\n\n{\"text\": \"open\n");
    put_file("empty.txt", " \n\n");
    put_file("not.model", "this is no tokenizer");
    static const struct {
        const char *args, *says;
        int rc;
    } cases[] = {
        {"--out $T/x $T/corpus.txt", "--train-tokenizer", 2},
        {"--train-tokenizer 400 --tokenizer t --out $T/x $T/corpus.txt", "either", 2},
        {"--train-tokenizer 100 --out $T/x $T/corpus.txt", "261", 2},
        {"--train-tokenizer 70000 --out $T/x $T/corpus.txt", "65536", 2},
        {"--train-tokenizer 400 $T/corpus.txt", "--out", 2},
        {"--train-tokenizer 400 --out $T/x", "FILE", 2},
        {"--train-tokenizer 400 --out $T/x --val-docs many $T/corpus.txt", "--val-docs", 2},
        {"--train-tokenizer 400 --out $T/x --val-fraction 1 $T/corpus.txt", "--val-fraction", 2},
        {"--train-tokenizer 400 --out $T/x --split line $T/corpus.txt", "--split", 2},
        {"--train-tokenizer 400 --out $T/x --val-docs 60 $T/corpus.txt", "validation", 2},
        {"--train-tokenizer 400 --out $T/x $T/nothing.txt", "nothing.txt", 2},
        {"--train-tokenizer 400 --out $T/x $T/bad.txt", "line 4", 2},
        {"--train-tokenizer 400 --out $T/x $T/bad.txt", "at byte 15", 2},
        {"--train-tokenizer 400 --out $T/x $T/bad.jsonl", "line 2", 2},
        {"--train-tokenizer 400 --out $T/x $T/syntax.jsonl", "line 3", 2},
        {"--train-tokenizer 400 --out $T/x $T/empty.txt", "no document", 2},
        {"--tokenizer $T/not.model --out $T/x $T/corpus.txt", "not.model", 2},
        {"--train-tokenizer 400 --out $T/nodir/x $T/corpus.txt", "nodir", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = tokenize("%s", cases[i].args);
        CHECK_MSG(rc == cases[i].rc, "%s: exit %d: %s", cases[i].args, rc, err_text);
        CHECK_MSG(strstr(err_text, cases[i].says), "%s: \"%s\" lacks \"%s\"", cases[i].args, err_text,
                  cases[i].says);
    }
    CHECK(!exists("x/tokenizer.model") && !exists("x/data_train_000000.bin"));
    CHECK(tokenize("--train-tokenizer 400 --out $T/x $T/bad.txt --json") == 2);
    json_t *o = json_loads(out_text, 0, NULL);
    CHECK(o && json_object_get(json_object_get(o, "error"), "message"));
    json_decref(o);
    TOKENIZES("--train-tokenizer 300 --replace-invalid --out $T/x $T/bad.txt $T/corpus.txt --json");
    CHECK_EQ_U64(number(NULL, "replaced"), 1);
}

TEST(dry_run_writes_nothing) {
    make_corpus();
    TOKENIZES("--train-tokenizer 400 --val-docs 10 --dry-run --out $T/dry $T/corpus.txt --json");
    CHECK_EQ_U64(number("val", "documents"), 10);
    CHECK(!exists("dry"));
}

/* ---- documents ---- */

TEST(documents_of_text) {
    static const char text[] = "\xef\xbb\xbf\n one\r\ntwo \r\n \t\r\n\nthree";
    bd_documents *d;
    bd_document doc;
    bool more;
    bd_err err = {0};
    CHECK_OK(bd_documents_parse(&d, "x.txt", text, sizeof text - 1, NULL, &err), &err);
    for (int round = 0; round < 2; round++) {
        CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
        CHECK(more && doc.index == 0 && doc.line == 2 && doc.size == 10 && !memcmp(doc.text, " one\r\ntwo ", 10));
        CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
        CHECK(more && doc.index == 1 && doc.line == 6 && doc.size == 5 && !memcmp(doc.text, "three", 5));
        CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
        CHECK(!more);
        bd_documents_rewind(d);
    }
    bd_documents_close(d);
    bd_documents_opts o = {.whole_files = true};
    CHECK_OK(bd_documents_parse(&d, "x.txt", text, sizeof text - 1, &o, &err), &err);
    CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
    CHECK(more && doc.size == sizeof text - 1 - 4);
    bd_documents_close(d);
}

TEST(documents_of_json_lines) {
    static const char text[] =
        "{\"id\": 1, \"text\": \"a\\n\\nb\"}\n\n{\"text\": \"\"}\n{\"text\": \"\\u00e9\\u0000\"}";
    bd_documents *d;
    bd_document doc;
    bool more;
    bd_err err = {0};
    CHECK_OK(bd_documents_parse(&d, "x.jsonl", text, sizeof text - 1, NULL, &err), &err);
    CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
    CHECK(more && doc.size == 4 && !memcmp(doc.text, "a\n\nb", 4));
    CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
    CHECK(more && doc.size == 0 && doc.line == 3);
    CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
    CHECK(more && doc.size == 3 && !memcmp(doc.text, "\xc3\xa9", 3));
    CHECK_OK(bd_documents_next(d, &doc, &more, &err), &err);
    CHECK(!more);
    bd_documents_close(d);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
