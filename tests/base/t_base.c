/* Status, reader and buffer, arena, checked arithmetic, names, start-up check. */
#include <fenv.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/nearest.h"
#include "base/numerics.h"
#include "base/progress.h"
#include "base/status.h"
#include "bd_test.h"

TEST(status_list_is_consistent) {
    static const bd_status all[] = {
#define X(name, number, exit_code, text) BD_##name,
        BD_STATUS_LIST(X)
#undef X
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        int rc = bd_status_exit(all[i]);
        CHECK(all[i] == BD_OK ? rc == 0 : rc == 2 || rc == 3 || rc == 130);
        CHECK((all[i] < 60) == (rc == 0 || rc == 2));
        CHECK(bd_status_name(all[i])[0] && bd_status_text(all[i])[0]);
        for (size_t k = 0; k < i; k++) CHECK(all[k] < all[i]);
    }
    CHECK_STR(bd_status_name(BD_E_TRUNCATED), "E_TRUNCATED");
    CHECK(bd_status_exit((bd_status)99) == 3);
}

TEST(error_is_filled_named_and_prefixed) {
    bd_err e = {0};
    CHECK(BD_FAIL_AT(&e, BD_E_FIELD, 17, "width %d", 5) == BD_E_FIELD);
    CHECK(e.code == BD_E_FIELD && e.offset == 17 && e.file[0] == 0);
    CHECK_STR(e.msg, "width 5");
    bd_err_prefix(&e, "tensor %s: ", "a.b");
    CHECK_STR(e.msg, "tensor a.b: width 5");
    bd_err_file(&e, "x.bin");
    bd_err_file(&e, "outer.bin");
    CHECK_STR(e.file, "x.bin");
    CHECK(BD_FAIL(NULL, BD_E_IO, "nobody listens") == BD_E_IO);
    bd_err_prefix(NULL, "nothing");
    bd_err_file(NULL, "nothing");
    BD_FAIL(&e, BD_E_FIELD, "again: %s", e.msg); /* quoting oneself */
    CHECK_STR(e.msg, "again: tensor a.b: width 5");
}

TEST(error_text_is_one_printable_line) {
    bd_err e = {0};
    BD_FAIL(&e, BD_E_FIELD, "name %s", "a\nb\x1b[2J\x7f\xc2\x9b");
    CHECK_STR(e.msg, "name a?b?[2J???");
    BD_FAIL(&e, BD_E_FIELD, "%s", "gr\xc3\xbc\xc3\x9f"); /* other UTF-8 stays */
    CHECK_STR(e.msg, "gr\xc3\xbc\xc3\x9f");
    char longer[4000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    BD_FAIL(&e, BD_E_FIELD, "%s", longer);
    CHECK(strlen(e.msg) == sizeof e.msg - 1);
    bd_err_prefix(&e, "%s", longer);
    bd_err_prefix(&e, "p: ");
    CHECK(strlen(e.msg) == sizeof e.msg - 1 && strncmp(e.msg, "p: x", 4) == 0);
    memcpy(longer + 3990, "tail.bin", 9);
    bd_err_file(&e, longer);
    CHECK(strlen(e.file) == sizeof e.file - 1 && strncmp(e.file, "...x", 4) == 0);
    CHECK_STR(e.file + strlen(e.file) - 8, "tail.bin");
}

/* One structure with every kind of field, cut at every length. */
static void read_all(bd_rd *r, uint64_t out[5]) {
    out[0] = bd_rd_u8(r);
    out[1] = bd_rd_u16(r);
    out[2] = bd_rd_u32(r);
    out[3] = bd_rd_u64(r);
    const uint8_t *p = bd_rd_bytes(r, 3);
    out[4] = p ? p[0] : 0;
}

TEST(reader_reports_truncation_at_every_length) {
    uint8_t bytes[18];
    for (int i = 0; i < 18; i++) bytes[i] = (uint8_t)(i + 1);
    static const uint64_t starts[] = {0, 1, 3, 7, 15, 18};
    for (uint64_t n = 0; n <= 18; n++) {
        uint8_t *exact = malloc(n ? n : 1); /* the sanitizer sees any read past it */
        memcpy(exact, bytes, n);
        bd_rd r;
        bd_rd_init(&r, n ? exact : NULL, n);
        uint64_t v[5];
        read_all(&r, v);
        bd_err e = {0};
        bd_status st = bd_rd_check(&r, "the example", &e);
        if (n == 18) {
            CHECK(st == BD_OK && bd_rd_left(&r) == 0);
            CHECK(v[0] == 0x01 && v[1] == 0x0302 && v[2] == 0x07060504 && v[4] == 16);
            CHECK_EQ_U64(v[3], 0x0f0e0d0c0b0a0908u);
            CHECK(bd_rd_u8(&r) == 0 && r.failed);
        } else {
            uint64_t start = 0;
            for (int i = 0; i < 6; i++)
                if (starts[i] <= n) start = starts[i];
            CHECK(st == BD_E_TRUNCATED && e.offset == start && bd_rd_left(&r) == 0);
            CHECK(v[4] == 0);
        }
        free(exact);
    }
    bd_rd r;
    bd_rd_init(&r, bytes, 18);
    CHECK(bd_rd_u16(&r) == 0x0201 && !bd_rd_bytes(&r, UINT64_MAX) && r.failed);
    bd_rd_init(&r, NULL, 0);
    CHECK(bd_rd_bytes(&r, 0) && !r.failed);
}

TEST(buffer_round_trip_and_growth) {
    bd_buf b;
    bd_buf_init(&b);
    uint64_t seed = test_seed();
    for (int i = 0; i < 5000; i++) {
        uint64_t v = test_rand(&seed);
        bd_buf_u8(&b, (uint8_t)v);
        bd_buf_u16(&b, (uint16_t)v);
        bd_buf_u32(&b, (uint32_t)v);
        bd_buf_u64(&b, v);
    }
    bd_buf_printf(&b, "%s-%d", "end", 7);
    CHECK(bd_buf_check(&b, NULL) == BD_OK && b.size == 5000 * 15 + 5);
    bd_rd r;
    bd_rd_init(&r, b.data, b.size);
    seed = test_seed();
    for (int i = 0; i < 5000; i++) {
        uint64_t v = test_rand(&seed);
        CHECK(bd_rd_u8(&r) == (uint8_t)v && bd_rd_u16(&r) == (uint16_t)v);
        CHECK(bd_rd_u32(&r) == (uint32_t)v && bd_rd_u64(&r) == v);
    }
    CHECK(memcmp(bd_rd_bytes(&r, 5), "end-7", 5) == 0 && bd_rd_left(&r) == 0 && !r.failed);
    bd_err e = {0};
    CHECK(!bd_buf_reserve(&b, SIZE_MAX - 10));
    bd_buf_u8(&b, 1); /* the failure sticks, the contents stay */
    CHECK(bd_buf_check(&b, &e) == BD_E_NOMEM && b.size == 5000 * 15 + 5);
    bd_buf_free(&b);
    bd_buf_free(&b);
}

TEST(arena_is_aligned_zeroed_and_limited) {
    bd_arena *a = bd_arena_create(1 << 20);
    uint64_t seed = test_seed(), total = 0;
    for (int i = 0; i < 300; i++) {
        uint64_t n = test_rand(&seed) % 3000;
        uint8_t *p = bd_arena_alloc(a, n, 1);
        CHECK(p && (uintptr_t)p % 64 == 0);
        for (uint64_t k = 0; k < n; k++) CHECK(p[k] == 0);
        memset(p, 0xee, n);
        total += n;
        CHECK(bd_arena_used(a) >= total);
    }
    uint64_t used = bd_arena_used(a);
    CHECK(!bd_arena_alloc(a, 1 << 20, 1));
    CHECK(!bd_arena_alloc(a, UINT64_MAX / 2, 4) && !bd_arena_alloc(a, UINT64_MAX, 1));
    CHECK(bd_arena_used(a) == used); /* a refusal takes nothing */
    char *s = bd_arena_strdup(a, "abcdef", 3);
    CHECK_STR(s, "abc");
    CHECK(bd_arena_alloc(a, (1 << 20) - bd_arena_used(a), 1)); /* exactly to the limit */
    CHECK(!bd_arena_alloc(a, 1, 1));
    bd_arena_destroy(a);
    bd_arena_destroy(NULL);
    float *f = bd_alloc_aligned(1001, sizeof *f);
    CHECK(f && (uintptr_t)f % 64 == 0 && f[0] == 0 && f[1000] == 0);
    free(f);
    CHECK(!bd_alloc_aligned(UINT64_MAX / 2, 3));
}

TEST(arithmetic_is_checked) {
    uint64_t u;
    int64_t i;
    CHECK(bd_add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX && !bd_add_u64(UINT64_MAX, 1, &u));
    CHECK(bd_mul_u64(1ull << 32, (1ull << 32) - 1, &u) && !bd_mul_u64(1ull << 32, 1ull << 32, &u));
    CHECK(!bd_add_i64(INT64_MAX, 1, &i) && !bd_sub_i64(INT64_MIN, 1, &i) && !bd_mul_i64(INT64_MIN, -1, &i));
    CHECK(bd_sub_i64(-1, INT64_MAX, &i) && i == INT64_MIN);
}

TEST(nearest_names_and_patterns) {
    static const char *const names[] = {"data", "window", "stride", "tokenizer"};
    CHECK_STR(bd_nearest("windw", names, 4), "window");
    CHECK_STR(bd_nearest("tokeniser", names, 4), "tokenizer");
    CHECK(!bd_nearest("zzzzzz", names, 4) && !bd_nearest("x", names, 0));
    CHECK(bd_glob("blocks.*.weight", "blocks.3.attn.weight") && !bd_glob("blocks.*.weight", "blocks.3.bias"));
    CHECK(bd_glob("*", "") && bd_glob("a*b*c", "axxbyyc") && !bd_glob("a*b", "ac") && !bd_glob("", "a"));
}

TEST(numerics_check_sees_a_changed_environment) {
    bd_err e = {0};
    CHECK_OK(bd_numerics_check(&e), &e);
    fesetround(FE_UPWARD);
    bd_status st = bd_numerics_check(&e);
    fesetround(FE_TONEAREST);
    CHECK(st == BD_E_NUMERICS);
#if defined(__x86_64__)
    static const unsigned flags[] = {0x8000u, 0x0040u};
    for (int i = 0; i < 2; i++) {
        unsigned saved = _mm_getcsr();
        _mm_setcsr(saved | flags[i]);
        st = bd_numerics_check(&e);
        _mm_setcsr(saved);
        CHECK(st == BD_E_NUMERICS && strstr(e.msg, "denormal"));
    }
#endif
    CHECK_OK(bd_numerics_check(&e), &e);
}

static char heard[512];
static void hear_tick(void *user, const char *what, double done, double total, const char *detail) {
    (void)user;
    snprintf(heard, sizeof heard, "%s %g/%g %s", what, done, total, detail);
}
static void hear_note(void *user, const char *line) {
    (void)user;
    snprintf(heard, sizeof heard, "%s", line);
}

TEST(progress_is_optional) {
    bd_tick(NULL, "x", 1, 2, NULL);
    bd_note(NULL, "x");
    CHECK(!bd_stopped(NULL));
    volatile sig_atomic_t stop = 0;
    bd_progress p = {.tick = hear_tick, .note = hear_note, .stop = &stop};
    bd_tick(&p, "steps", 3, 10, "loss %.2f", 1.5);
    CHECK_STR(heard, "steps 3/10 loss 1.50");
    bd_note(&p, "line %d", 4);
    CHECK_STR(heard, "line 4");
    CHECK(!bd_stopped(&p));
    stop = 1;
    CHECK(bd_stopped(&p));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
