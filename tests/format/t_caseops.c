/* CaseOps: the transform both ways, and the byte counter over any cuts. */
#include "bd_test.h"
#include "format/caseops.h"
#include "format/utf8.h"

#define T "\xee\x80\x81"
#define C "\xee\x80\x82"
#define N "\xee\x80\x83"
#define E "\xee\x80\x84"

static const struct {
    const char *plain, *coded;
} pairs[] = {
    {"", ""},
    {"The NASA Launch A iPhone", T "the " C "nasa " T "launch " T "a i" N "phone"},
    {"A", T "a"},
    {"AB", C "ab"},
    {"NASAs", T "n" N "a" N "s" N "as"},
    {"McDonald", T "mc" N "donald"},
    {"aB Cd", "a" N "b " T "cd"},
    {"\xc3\x89"
     "COLE \xc3\xa9"
     "Cole",
     "\xc3\x89" C "cole \xc3\xa9" T "cole"},
    {"x" T "Y", "x" E T T "y"},
    {E E, E E E E},
    {"3D4DD", "3" T "d4" C "dd"},
};

static bd_buf encode(const void *s, size_t n) {
    bd_buf out;
    bd_err err = {0};
    bd_buf_init(&out);
    CHECK_OK(bd_caseops_encode(s, n, &out, &err), &err);
    return out;
}

TEST(known_pairs) {
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        bd_buf coded = encode(pairs[i].plain, strlen(pairs[i].plain)), plain;
        bd_caseops_state s = {0};
        bd_err err = {0};
        bd_buf_init(&plain);
        CHECK_EQ_U64(coded.size, strlen(pairs[i].coded));
        CHECK(coded.size == 0 || !memcmp(coded.data, pairs[i].coded, coded.size));
        CHECK_OK(bd_caseops_decode(&s, coded.data, coded.size, &plain, &err), &err);
        CHECK_OK(bd_caseops_end(&s, &err), &err);
        CHECK_EQ_U64(plain.size, strlen(pairs[i].plain));
        CHECK(plain.size == 0 || !memcmp(plain.data, pairs[i].plain, plain.size));
        bd_buf_free(&coded);
        bd_buf_free(&plain);
    }
}

/* Mostly letters, some of everything else. */
static size_t random_text(uint64_t *seed, uint8_t *out, size_t limit) {
    size_t n = 0, want = test_rand(seed) % limit;
    while (n + 4 < want) {
        uint32_t cp;
        switch (test_rand(seed) % 12) {
            case 0: cp = 0xe001 + (uint32_t)(test_rand(seed) % 4); break;
            case 1: cp = (uint32_t)(test_rand(seed) % 0x80); break;
            case 2: cp = 0x80 + (uint32_t)(test_rand(seed) % 0x780); break;
            case 3: cp = 0xdff0 + (uint32_t)(test_rand(seed) % 0x40); break;
            case 4: cp = 0x10000 + (uint32_t)(test_rand(seed) % 0x100000); break;
            case 5: cp = ' '; break;
            case 6:
            case 7:
            case 8: cp = 'A' + (uint32_t)(test_rand(seed) % 26); break;
            default: cp = 'a' + (uint32_t)(test_rand(seed) % 26); break;
        }
        if (cp >= 0xd800 && cp <= 0xdfff) continue;
        n += (size_t)bd_utf8_put(cp, out + n);
    }
    return n;
}

/* Pieces are cut between code points, as a tokenizer cuts. */
TEST(random_texts_return_and_are_counted_whole) {
    uint64_t seed = test_seed();
    for (int round = 0; round < 50000; round++) {
        uint8_t text[96];
        size_t n = random_text(&seed, text, sizeof text);
        bd_buf coded = encode(text, n), plain;
        bd_caseops_state a = {0}, b = {0};
        bd_err err = {0};
        uint64_t total = 0;
        bd_buf_init(&plain);
        for (size_t at = 0; at < coded.size;) {
            size_t end = at;
            do {
                uint32_t cp;
                end += (size_t)bd_utf8_next(coded.data + end, coded.size - end, &cp);
            } while (end < coded.size && test_rand(&seed) % 3);
            uint64_t bytes;
            CHECK_OK(bd_caseops_count(&a, coded.data + at, end - at, &bytes, &err), &err);
            CHECK_OK(bd_caseops_decode(&b, coded.data + at, end - at, &plain, &err), &err);
            total += bytes;
            CHECK_EQ_U64(total, plain.size);
            at = end;
        }
        CHECK_OK(bd_caseops_end(&a, &err), &err);
        CHECK_EQ_U64(total, n);
        CHECK(n == 0 || !memcmp(plain.data, text, n));
        bd_buf_free(&coded);
        bd_buf_free(&plain);
    }
}

TEST(text_that_is_not_utf8_is_an_error_with_its_place) {
    static const char *const bad[] = {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xf5\x80\x80\x80", "ab\xc0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bd_buf out;
        bd_err err = {0};
        bd_buf_init(&out);
        CHECK(bd_caseops_encode(bad[i], strlen(bad[i]), &out, &err) == BD_E_FIELD);
        CHECK_EQ_U64(err.offset, 2);
        bd_caseops_state s = {0};
        uint64_t bytes;
        CHECK(bd_caseops_count(&s, bad[i], strlen(bad[i]), &bytes, &err) == BD_E_FIELD);
        bd_buf_free(&out);
    }
}

TEST(controls_out_of_place_are_errors) {
    static const struct {
        const char *text;
        uint64_t offset;
    } bad[] = {{T " ", 3},     {C "1", 3},  {N N "a", 3}, {T T "a", 3}, {"a" T "b", 1},
               {"a" C "b", 1}, {N "\n", 3}, {T E "a", 3}, {N T "a", 3}, {N E E "a", 3}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bd_caseops_state s = {0};
        bd_err err = {0};
        bd_buf out;
        bd_buf_init(&out);
        CHECK_MSG(bd_caseops_decode(&s, bad[i].text, strlen(bad[i].text), &out, &err) == BD_E_FIELD, "case %zu", i);
        CHECK_EQ_U64(err.offset, bad[i].offset);
        bd_buf_free(&out);
    }
    static const char *const open[] = {T, C, N, E, "ab" N, "a " E};
    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        bd_caseops_state s = {0};
        bd_err err = {0};
        uint64_t bytes;
        CHECK_OK(bd_caseops_count(&s, open[i], strlen(open[i]), &bytes, &err), &err);
        CHECK(bd_caseops_end(&s, &err) == BD_E_TRUNCATED);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
