#include "base/buf.h"
#include "bd_test.h"
#include "tests/format/gen_artifact.h"
#include "tests/format/two_decoders.h"

static bd_buf build(uint64_t seed, int codec, uint32_t max_dim) {
    bd_arena *a = bd_arena_create(0);
    bd_err e;
    bd_buf out;
    bd_buf_init(&out);
    gen_options o = {.seed = seed, .codec = codec, .max_dim = max_dim};
    bd_artifact *art = gen_artifact(a, &o);
    CHECK(art != NULL);
    CHECK_OK(bd_artifact_build(art, &out, &e), &e);
    bd_arena_destroy(a);
    return out;
}

static bd_buf build_example(void) {
    bd_arena *a = bd_arena_create(0);
    bd_err e;
    bd_buf out;
    bd_buf_init(&out);
    CHECK_OK(bd_artifact_build(gen_example(a), &out, &e), &e);
    bd_arena_destroy(a);
    return out;
}

static void agree(const void *data, uint64_t size, int *verdict, const char *what, uint64_t where) {
    const char *bad = two_decoders(data, size, verdict);
    CHECK_MSG(!bad, "%s %" PRIu64 ": %s", what, where, bad);
}

TEST(valid_files_agree) {
    for (uint64_t i = 0; i < 30; i++) {
        int verdict;
        bd_buf f = build(test_seed() * 1000 + i, i % 2 ? -1 : (int)(i / 2 % BD_CODEC_LRZIP), i % 3 ? 24 : 90);
        agree(f.data, f.size, &verdict, "file", i);
        CHECK_EQ_U64(verdict, BD_OK);
        bd_buf_free(&f);
    }
}

TEST(truncations_and_trailing_bytes_agree) {
    bd_buf f = build(test_seed(), BD_CODEC_RANGE, 12);
    int verdict;
    for (uint64_t n = 0; n < f.size; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, f.data, n);
        agree(exact, n, &verdict, "length", n);
        CHECK(verdict != BD_OK);
        if (n >= 60) {
            gen_fix_hashes(exact, n);
            agree(exact, n, &verdict, "repaired length", n);
            CHECK(verdict != BD_OK);
        }
        free(exact);
    }
    bd_buf_u8(&f, 0);
    agree(f.data, f.size, &verdict, "appended byte", 0);
    CHECK_EQ_U64(verdict, BD_E_NONCANON);
    gen_fix_hashes(f.data, f.size);
    agree(f.data, f.size, &verdict, "appended byte", 1);
    CHECK(verdict != BD_OK);
    bd_buf_free(&f);
}

static void flip(const bd_buf *f, uint64_t from, uint64_t to, bool repair, int counts[100]) {
    uint8_t *copy = malloc(f->size);
    int verdict;
    for (uint64_t i = 8 * from; i < 8 * to; i++) {
        memcpy(copy, f->data, f->size);
        copy[i / 8] ^= (uint8_t)(1u << (i % 8));
        if (repair) gen_fix_hashes(copy, f->size);
        agree(copy, f->size, &verdict, repair ? "repaired flip" : "flip", i);
        if (!repair) CHECK_MSG(verdict != BD_OK, "flip %" PRIu64 " is not noticed", i);
        counts[verdict]++;
    }
    free(copy);
}

TEST(bit_flips_agree) {
    int counts[100] = {0};
    bd_buf f = build_example();
    flip(&f, 0, f.size, false, counts);
    flip(&f, 0, f.size, true, counts);
    bd_buf_free(&f);
    CHECK(counts[BD_E_CHECKSUM] > 0 && counts[BD_E_NONCANON] > 0 && counts[BD_E_FIELD] > 0);
}

/* In table and weights; the other sections are the same for all. */
TEST(repaired_bit_flips_agree_for_every_codec) {
    for (int codec = 0; codec < BD_CODEC_LRZIP; codec++) {
        int counts[100] = {0};
        bd_buf f = build(test_seed() + 77 + (uint64_t)codec, codec, 3);
        bd_artifact *a;
        bd_err e;
        CHECK_OK(bd_artifact_parse(&a, f.data, f.size, NULL, &e), &e);
        uint64_t first = a->sections[4].offset, end = a->sections[a->n_sections - 1].offset;
        uint64_t entries = 28 + 4 * 42, last = 28 + 42 * (uint64_t)a->n_sections;
        bd_artifact_close(a);
        flip(&f, entries, last, true, counts);
        flip(&f, first, end, true, counts);
        bd_buf_free(&f);
    }
}

TEST(random_damage_agrees) {
    uint64_t s = test_seed();
    for (int file = 0; file < 20; file++) {
        bd_buf f = build(test_rand(&s), file % BD_CODEC_LRZIP, 10);
        uint8_t *copy = malloc(f.size);
        for (int round = 0; round < 100; round++) {
            int verdict;
            memcpy(copy, f.data, f.size);
            for (uint64_t k = 1 + test_rand(&s) % 4; k > 0; k--)
                copy[test_rand(&s) % f.size] = (uint8_t)test_rand(&s);
            gen_fix_hashes(copy, f.size);
            agree(copy, f.size, &verdict, "file", (uint64_t)file);
        }
        free(copy);
        bd_buf_free(&f);
    }
}

TEST(swapped_sections_agree) {
    bd_buf f = build(test_seed() + 5, BD_CODEC_RAW, 8);
    uint64_t n = f.data[16];
    int verdict;
    for (uint64_t i = 0; i + 1 < n; i++) {
        uint8_t *copy = malloc(f.size), entry[42];
        memcpy(copy, f.data, f.size);
        uint8_t *e = copy + 28 + 42 * i;
        memcpy(entry, e, 42);
        memcpy(e, e + 42, 42);
        memcpy(e + 42, entry, 42);
        agree(copy, f.size, &verdict, "swapped entries", i);
        CHECK(verdict != BD_OK);
        gen_fix_hashes(copy, f.size);
        agree(copy, f.size, &verdict, "swapped entries", i);
        CHECK(verdict != BD_OK);
        free(copy);
    }
    bd_buf_free(&f);
}

/* A small group in this codec that holds the method (BD_Q_COUNT: any), found by trying seeds: its section. */
static bd_buf small_group(unsigned method, int codec, uint32_t tensors, uint64_t most, uint64_t *raw) {
    for (uint64_t seed = test_seed() + 1000 * method;; seed++) {
        bd_arena *a = bd_arena_create(0);
        gen_options o = {.seed = seed, .codec = codec, .groups = 1, .max_tensors = tensors, .max_dim = 9};
        bd_artifact *art = gen_artifact(a, &o), *back;
        bd_qgroup *g = &art->groups[0];
        bool fine = method == BD_Q_COUNT;
        for (uint32_t t = 0; t < g->n_tensors; t++) fine |= g->tensors[t].method == method;
        bd_buf f, section;
        bd_err e;
        bd_buf_init(&f);
        bd_buf_init(&section);
        CHECK_OK(bd_artifact_build(art, &f, &e), &e);
        CHECK_OK(bd_artifact_parse(&back, f.data, f.size, NULL, &e), &e);
        const bd_section_info *s = &back->sections[4];
        fine = fine && s->codec == (bd_codec)codec && s->raw < most;
        bd_buf_put(&section, f.data + s->offset, s->stored);
        *raw = s->raw;
        bd_artifact_close(back);
        bd_buf_free(&f);
        bd_arena_destroy(a);
        if (fine) return section;
        bd_buf_free(&section);
    }
}

static int agree_on_group(int codec, uint64_t raw, const void *data, uint64_t size, const char *what,
                          uint64_t where) {
    uint64_t total;
    int verdict;
    uint8_t *f =
        gen_wrap_group((unsigned)codec, codec == BD_CODEC_RAW ? (uint32_t)size : (uint32_t)raw, data, size, &total);
    CHECK(f != NULL);
    agree(f, total, &verdict, what, where);
    free(f);
    return verdict;
}

/* Every cut and every flip of a bit, of groups of every method. */
TEST(damaged_groups_of_every_method_agree) {
    for (unsigned method = 0; method < BD_Q_COUNT; method++)
        for (int codec = BD_CODEC_RAW; codec <= BD_CODEC_RANGE; codec += BD_CODEC_RANGE) {
            uint64_t raw;
            bd_buf g = small_group(method, codec, 2, 220, &raw);
            CHECK_EQ_U64(agree_on_group(codec, raw, g.data, g.size, "whole", method), BD_OK);
            for (uint64_t n = 0; n < g.size; n++) /* a cut RANGE stream may be that of other values */
                CHECK(agree_on_group(codec, raw, g.data, n, "cut", n) != BD_OK || codec == BD_CODEC_RANGE);
            for (uint64_t i = 0; i < 8 * g.size; i++) {
                g.data[i / 8] ^= (uint8_t)(1u << (i % 8));
                agree_on_group(codec, raw, g.data, g.size, "flip", i);
                g.data[i / 8] ^= (uint8_t)(1u << (i % 8));
            }
            bd_buf_free(&g);
        }
}

/* --- seeds of the fuzzers --- */

static void write_seed(const char *dir, const char *folder, const char *name, unsigned n, const void *head,
                       size_t head_size, const void *data, size_t size) {
    char path[1024], number[16] = "";
    if (!strchr(name, '.')) snprintf(number, sizeof number, "%u", n);
    snprintf(path, sizeof path, "%s/%s/%s%s", dir, folder, name, number);
    FILE *f = fopen(path, "wb");
    CHECK_MSG(f && fwrite(head, 1, head_size, f) == head_size && fwrite(data, 1, size, f) == size && !fclose(f),
              "%s cannot be written", path);
}

/* All seeds that are artifacts or weight groups: to be written again when the format changes. */
static void write_seeds(const char *dir) {
    static const char *const names[] = {"raw.birdie", "brotli.birdie", "zstd.birdie",
                                        "xz.birdie",  "range.birdie",  "zlib.birdie"};
    bd_buf f = build_example();
    write_seed(dir, "artifact", "example.birdie", 0, "", 0, f.data, f.size);
    write_seed(dir, "two_decoders", "example.birdie", 0, "\0", 1, f.data, f.size);
    bd_buf_free(&f);
    for (int codec = 0; codec < BD_CODEC_LRZIP; codec++) {
        uint64_t seed = 1;
        for (f = build(seed, codec, 12); f.size > 1400; f = build(++seed, codec, 12)) bd_buf_free(&f);
        write_seed(dir, "artifact", names[codec], 0, "", 0, f.data, f.size);
        write_seed(dir, "two_decoders", names[codec], 0, "\0", 1, f.data, f.size);
        bd_buf_free(&f);
    }
    for (unsigned method = 0; method <= BD_Q_COUNT; method++) {
        uint64_t raw;
        f = small_group(method, BD_CODEC_RAW, 3, 600, &raw);
        write_seed(dir, "range", "raw", method, (uint8_t[]){0, (uint8_t)raw, (uint8_t)(raw >> 8)}, 3, f.data,
                   f.size);
        write_seed(dir, "two_decoders", "raw", method, (uint8_t[]){1}, 1, f.data, f.size);
        bd_buf_free(&f);
        f = small_group(method, BD_CODEC_RANGE, 3, 600, &raw);
        write_seed(dir, "range", "range", method, (uint8_t[]){1, (uint8_t)raw, (uint8_t)(raw >> 8)}, 3, f.data,
                   f.size);
        write_seed(dir, "two_decoders", "range", method, (uint8_t[]){2, (uint8_t)raw, (uint8_t)(raw >> 8)}, 3,
                   f.data, f.size);
        bd_buf_free(&f);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        write_seeds(argv[2]); /* tests/fuzz/corpus */
        return 0;
    }
    return test_main(argc, argv);
}
