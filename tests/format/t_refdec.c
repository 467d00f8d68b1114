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
        bd_buf f = build(test_seed() * 1000 + i, i % 2 ? -1 : (int)(i / 2 % (BD_CODEC_COUNT + 1)), i % 3 ? 24 : 90);
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

static void flip_all(bd_buf *f, bool repair, int counts[100]) {
    uint8_t *copy = malloc(f->size);
    int verdict;
    for (uint64_t i = 0; i < f->size * 8; i++) {
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
    flip_all(&f, false, counts);
    flip_all(&f, true, counts);
    bd_buf_free(&f);
    CHECK(counts[BD_E_CHECKSUM] > 0 && counts[BD_E_NONCANON] > 0 && counts[BD_E_FIELD] > 0);
}

TEST(repaired_bit_flips_agree_for_every_codec) {
    for (int codec = 0; codec < BD_CODEC_COUNT; codec++) {
        int counts[100] = {0};
        bd_buf f = build(test_seed() + 77 + (uint64_t)codec, codec, 3);
        flip_all(&f, true, counts);
        bd_buf_free(&f);
    }
}

TEST(random_damage_agrees) {
    uint64_t s = test_seed();
    for (int file = 0; file < 20; file++) {
        bd_buf f = build(test_rand(&s), file % BD_CODEC_COUNT, 10);
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

int main(int argc, char **argv) { return test_main(argc, argv); }
