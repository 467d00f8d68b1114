/* The project's test header. One program per area:
 *
 *     TEST(reads_empty_file) { CHECK(...); CHECK_EQ_U64(a, b); }
 *     TEST(needs_data) { const char *p = test_data("tokens/x.bin"); if (!p) SKIP("no data"); ... }
 *     int main(int argc, char **argv) { return test_main(argc, argv); }
 *
 * Options: --list, --seed N, and name filters (substring). The seed is printed,
 * and test_seed() gives it. The last line is "N passed, N failed, N skipped". */
#ifndef BD_TEST_H
#define BD_TEST_H

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
} test_case;

static test_case *test_first, **test_tail = &test_first;
static jmp_buf test_jump;
static uint64_t test_seed_value = 1;
static int test_failed_here, test_skipped_here;

#define TEST(id)                                                   \
    static void test_fn_##id(void);                                \
    static test_case test_case_##id = {#id, test_fn_##id, NULL};   \
    __attribute__((constructor)) static void test_add_##id(void) { \
        *test_tail = &test_case_##id;                              \
        test_tail = &test_case_##id.next;                          \
    }                                                              \
    static void test_fn_##id(void)

#define CHECK(cond)                                                      \
    do {                                                                 \
        if (!(cond)) {                                                   \
            printf("    %s:%d: CHECK(%s)\n", __FILE__, __LINE__, #cond); \
            test_failed_here = 1;                                        \
            longjmp(test_jump, 1);                                       \
        }                                                                \
    } while (0)
#define CHECK_MSG(cond, ...)                                             \
    do {                                                                 \
        if (!(cond)) {                                                   \
            printf("    %s:%d: CHECK(%s): ", __FILE__, __LINE__, #cond); \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
            test_failed_here = 1;                                        \
            longjmp(test_jump, 1);                                       \
        }                                                                \
    } while (0)
#define CHECK_EQ_U64(a, b)                                          \
    do {                                                            \
        uint64_t ca_ = (uint64_t)(a), cb_ = (uint64_t)(b);          \
        CHECK_MSG(ca_ == cb_, "%" PRIu64 " != %" PRIu64, ca_, cb_); \
    } while (0)
#define CHECK_STR(a, b)                                                 \
    do {                                                                \
        const char *sa_ = (a), *sb_ = (b);                              \
        CHECK_MSG(strcmp(sa_, sb_) == 0, "\"%s\" != \"%s\"", sa_, sb_); \
    } while (0)
/* The call must succeed; prints the error otherwise. */
#define CHECK_OK(expr, e)                               \
    do {                                                \
        int st_ = (int)(expr);                          \
        CHECK_MSG(st_ == 0, "%s: %s", #expr, (e)->msg); \
    } while (0)
#define SKIP(why)                           \
    do {                                    \
        printf("    skipped: %s\n", (why)); \
        test_skipped_here = 1;              \
        longjmp(test_jump, 1);              \
    } while (0)

static inline uint64_t test_seed(void) { return test_seed_value; }

/* splitmix64 */
static inline uint64_t test_rand(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline double test_uniform(uint64_t *s) { return (double)(test_rand(s) >> 11) * 0x1p-53; }
static inline float test_normalf(uint64_t *s) {
    double a = 0;
    for (int i = 0; i < 12; i++) a += test_uniform(s);
    return (float)(a - 6.0);
}

/* Path of a file of the shared test data, or NULL when it is absent: the folder
 * named by BIRDIE_DATA, else ../shared/data beside the source tree. */
static inline const char *test_data(const char *name) {
    static char path[4][1024];
    static int slot;
    char *p = path[slot++ & 3];
    const char *dir = getenv("BIRDIE_DATA");
    if (dir && *dir) snprintf(p, sizeof path[0], "%s/%s", dir, name);
    else snprintf(p, sizeof path[0], "%s/../shared/data/%s", BIRDIE_SOURCE_DIR, name);
    return access(p, R_OK) == 0 ? p : NULL;
}
/* A private temporary directory for this process, made on first use. */
static inline const char *test_tmp(void) {
    static char dir[64];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/tmp/birdie-test-XXXXXX");
        if (!mkdtemp(dir)) abort();
    }
    return dir;
}
static inline void test_tmp_remove(void) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", test_tmp());
    if (system(cmd)) printf("    could not remove %s\n", test_tmp());
}

static inline int test_main(int argc, char **argv) {
    volatile int passed = 0, failed = 0, skipped = 0; /* they live across longjmp */
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--list")) list = true;
        if (!strcmp(argv[i], "--seed") && i + 1 < argc) test_seed_value = strtoull(argv[++i], NULL, 0);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!list) printf("seed %" PRIu64 "\n", test_seed_value);
    for (test_case *t = test_first; t; t = t->next) {
        bool want = true, filtered = false;
        for (int i = 1; i < argc; i++) {
            if (!strcmp(argv[i], "--seed")) {
                i++;
                continue;
            }
            if (argv[i][0] == '-') continue;
            if (!filtered) want = false;
            filtered = true;
            if (strstr(t->name, argv[i])) want = true;
        }
        if (!want) continue;
        if (list) {
            puts(t->name);
            continue;
        }
        test_failed_here = test_skipped_here = 0;
        if (setjmp(test_jump) == 0) t->fn();
        if (test_failed_here) {
            failed++;
            printf("FAIL %s\n", t->name);
        } else if (test_skipped_here) {
            skipped++;
            printf("skip %s\n", t->name);
        } else {
            passed++;
            printf("ok   %s\n", t->name);
        }
    }
    if (!list) {
        test_tmp_remove();
        printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    }
    return failed ? 1 : 0;
}

#endif
