/* The pool: every index once, any number of threads, thousands of small loops. */
#include <sched.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "bd_test.h"

typedef struct job {
    uint8_t *count;
    int64_t n, grain;
    int threads;
    _Atomic int bad;
    _Atomic int64_t sum;
} job;

static void mark(void *arg, int64_t begin, int64_t end, int worker) {
    job *j = arg;
    if (begin >= end || begin % j->grain || (end - begin != j->grain && end != j->n) || worker < 0 ||
        worker >= j->threads)
        atomic_store(&j->bad, 1);
    for (int64_t i = begin; i < end; i++) j->count[i]++;
    atomic_fetch_add(&j->sum, end - begin);
}

static void check_loops(bd_pool *p, int loops, int64_t largest) {
    uint64_t seed = test_seed();
    uint8_t *count = malloc((size_t)largest + 1);
    for (int k = 0; k < loops; k++) {
        job j = {.count = count,
                 .n = (int64_t)(test_rand(&seed) % (uint64_t)(largest + 1)),
                 .threads = bd_pool_threads(p)};
        j.grain = 1 + (int64_t)(test_rand(&seed) % 9);
        memset(count, 0, (size_t)j.n);
        bd_pool_for(p, j.n, j.grain, mark, &j);
        CHECK(!j.bad && j.sum == j.n);
        for (int64_t i = 0; i < j.n; i++) CHECK(count[i] == 1);
    }
    free(count);
}

TEST(serial_without_a_pool) {
    CHECK(bd_pool_threads(NULL) == 1);
    check_loops(NULL, 100, 200);
    bd_pool_destroy(NULL);
}

TEST(every_index_once) {
    static const int threads[] = {1, 2, 3, 7, 16};
    for (int i = 0; i < 5; i++) {
        bd_pool *p;
        bd_err e = {0};
        CHECK_OK(bd_pool_create(&p, threads[i], &e), &e);
        CHECK(bd_pool_threads(p) == threads[i]);
        check_loops(p, threads[i] <= 3 ? 20000 : 3000, 60);
        check_loops(p, 20, 20000);
        bd_pool_destroy(p);
    }
}

static void sleepy(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    usleep((useconds_t)(200 * (begin % 3)));
    atomic_fetch_add((_Atomic int64_t *)arg, end - begin);
}

/* Long enough gaps that workers and caller go to sleep and must be woken. */
TEST(sleepers_wake) {
    bd_pool *p;
    bd_err e = {0};
    CHECK_OK(bd_pool_create(&p, 4, &e), &e);
    for (int i = 0; i < 200; i++) {
        _Atomic int64_t sum = 0;
        bd_pool_for(p, 13, 2, sleepy, &sum);
        CHECK(sum == 13);
        if (i % 4 == 0) usleep(1000);
    }
    bd_pool_destroy(p);
}

TEST(pools_come_and_go) {
    for (int i = 0; i < 200; i++) {
        bd_pool *p;
        bd_err e = {0};
        CHECK_OK(bd_pool_create(&p, 1 + i % 5, &e), &e);
        if (i % 3) check_loops(p, 3, 50);
        bd_pool_destroy(p);
    }
    bd_pool *p;
    bd_err e = {0};
    CHECK(bd_pool_create(&p, 1 << 20, &e) == BD_E_USAGE && !p);
}

static void nothing(void *arg, int64_t begin, int64_t end, int worker) {
    (void)arg;
    (void)begin;
    (void)end;
    (void)worker;
}

TEST(small_loops_are_cheap) {
    bd_pool *p;
    bd_err e = {0};
    CHECK_OK(bd_pool_create(&p, 0, &e), &e);
    double start = bd_now();
    for (int i = 0; i < 20000; i++) bd_pool_for(p, 8, 1, nothing, NULL);
    double each = (bd_now() - start) / 20000;
    printf("    %d threads, %.2f microseconds per loop of 8 tasks\n", bd_pool_threads(p), 1e6 * each);
    bd_pool_destroy(p);
    CHECK(each < 1e-3); /* generous: the machine may be busy */
}

TEST(processors_are_counted) {
    int n = bd_cpu_count();
    CHECK(n >= 1);
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CHECK(n <= CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    int bound = bd_cpu_count();
    sched_setaffinity(0, sizeof all, &all);
    CHECK(bound == 1);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
