/* The pool's hot path has no lock: one 64-bit word holds (job number, next
 * chunk), and a worker claims a chunk by compare-and-swap. Odd job numbers mean
 * "closed": the caller closes the word before it describes the next job, so a
 * worker that read a half-written description can never claim with it. Workers
 * spin for a short while after a job and then sleep. */
#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/numerics.h"

#define MAX_THREADS 1024
#define SPINS       4000 /* roughly 50 microseconds: longer than the serial gaps between operations */

struct bd_pool {
    int threads, started, spins;
    pthread_t *ids;
    _Atomic uint64_t state;   /* job number in the high half, next chunk in the low half */
    _Atomic int64_t n, grain; /* the job: atomics, because a late worker may read while they are rewritten */
    _Atomic uint32_t chunks;
    _Atomic(bd_task_fn *) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t done;
    _Atomic int sleepers;
    _Atomic bool caller_sleeps, quit, busy;
    pthread_mutex_t lock;
    pthread_cond_t wake, finished, ready;
    int checked; /* workers that have run the numerics check */
    bd_status check;
    bd_err check_err;
};

typedef struct worker_arg {
    bd_pool *p;
    int index;
} worker_arg;

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Run chunks of the current job until none is left; returns the job seen. */
static uint32_t run_chunks(bd_pool *p, int worker) {
    for (;;) {
        uint64_t s = atomic_load(&p->state);
        uint32_t job = (uint32_t)(s >> 32), chunk = (uint32_t)s;
        if (job & 1u) return job;
        uint32_t chunks = atomic_load(&p->chunks);
        if (chunk >= chunks) return job;
        int64_t n = atomic_load(&p->n), grain = atomic_load(&p->grain);
        bd_task_fn *fn = atomic_load(&p->fn);
        void *arg = atomic_load(&p->arg);
        if (!atomic_compare_exchange_weak(&p->state, &s, s + 1)) continue;
        int64_t begin = (int64_t)chunk * grain, end = n - begin < grain ? n : begin + grain;
        fn(arg, begin, end, worker);
        if (atomic_fetch_add(&p->done, 1) + 1 == chunks && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static bool is_new(bd_pool *p, uint32_t seen) {
    uint32_t job = (uint32_t)(atomic_load(&p->state) >> 32);
    return job != seen && !(job & 1u);
}

static void *worker_main(void *raw) {
    worker_arg a = *(worker_arg *)raw;
    free(raw);
    bd_pool *p = a.p;
    bd_err e = {0};
    bd_status st = bd_numerics_check(&e);
    pthread_mutex_lock(&p->lock);
    if (st != BD_OK && p->check == BD_OK) {
        p->check = st;
        p->check_err = e;
    }
    p->checked++;
    pthread_cond_signal(&p->ready);
    pthread_mutex_unlock(&p->lock);
    uint32_t seen = 0;
    for (;;) {
        int spin = p->spins;
        while (!is_new(p, seen) && !atomic_load(&p->quit) && spin > 0) {
            cpu_relax();
            spin--;
        }
        if (spin <= 0) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleepers, 1);
            while (!is_new(p, seen) && !atomic_load(&p->quit)) pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleepers, 1);
            pthread_mutex_unlock(&p->lock);
        }
        if (atomic_load(&p->quit)) return NULL;
        seen = run_chunks(p, a.index);
    }
}

bd_status bd_pool_create(bd_pool **out, int threads, bd_err *err) {
    *out = NULL;
    BD_TRY(bd_numerics_check(err));
    int cpus = bd_cpu_count();
    if (threads <= 0) threads = cpus;
    if (threads > MAX_THREADS) return BD_FAIL(err, BD_E_USAGE, "%d threads: at most %d", threads, MAX_THREADS);
    bd_pool *p = calloc(1, sizeof *p);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    if (!p || !ids) {
        free(p);
        free(ids);
        return BD_FAIL(err, BD_E_NOMEM, "no memory for %d threads", threads);
    }
    p->threads = threads;
    p->ids = ids;
    p->spins = threads <= cpus ? SPINS : 0; /* spinning only helps on a processor of one's own */
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    pthread_cond_init(&p->ready, NULL);
    bd_status st = BD_OK;
    for (int i = 1; i < threads && st == BD_OK; i++) {
        worker_arg *a = malloc(sizeof *a);
        int e = -1;
        if (a) {
            *a = (worker_arg){p, i};
            e = pthread_create(&ids[p->started], NULL, worker_main, a);
        }
        if (e == 0) p->started++;
        else {
            free(a);
            st = BD_FAIL(err, BD_E_NOMEM, "cannot start thread %d of %d: %s", i + 1, threads,
                         e > 0 ? strerror(e) : "out of memory");
        }
    }
    pthread_mutex_lock(&p->lock);
    while (p->checked < p->started) pthread_cond_wait(&p->ready, &p->lock);
    if (st == BD_OK && p->check != BD_OK) {
        st = p->check;
        if (err) *err = p->check_err;
    }
    pthread_mutex_unlock(&p->lock);
    if (st != BD_OK) {
        bd_pool_destroy(p);
        return st;
    }
    *out = p;
    return BD_OK;
}

void bd_pool_destroy(bd_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->quit, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->ids[i], NULL);
    pthread_cond_destroy(&p->ready);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->ids);
    free(p);
}

int bd_pool_threads(const bd_pool *p) { return p ? p->threads : 1; }

static void run_serial(int64_t n, int64_t grain, bd_task_fn *fn, void *arg) {
    for (int64_t i = 0; i < n;) {
        int64_t end = n - i < grain ? n : i + grain;
        fn(arg, i, end, 0);
        i = end;
    }
}

static void wait_done(bd_pool *p, uint32_t chunks) {
    for (int spin = p->spins; spin > 0; spin--) {
        if (atomic_load(&p->done) == chunks) return;
        cpu_relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->done) != chunks) pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

void bd_pool_for(bd_pool *p, int64_t n, int64_t grain, bd_task_fn *fn, void *arg) {
    BD_ASSERT(n >= 0 && grain >= 1);
    int64_t chunks = n / grain + (n % grain != 0);
    if (!p || p->threads == 1 || chunks <= 1) {
        run_serial(n, grain, fn, arg);
        return;
    }
    BD_ASSERT(chunks < INT32_MAX); /* a grain that small for so much work is a bug */
    BD_ASSERT(!atomic_exchange(&p->busy, true));
    uint32_t closed = (uint32_t)(atomic_load(&p->state) >> 32) | 1u;
    atomic_store(&p->state, (uint64_t)closed << 32);
    atomic_store(&p->n, n);
    atomic_store(&p->grain, grain);
    atomic_store(&p->fn, fn);
    atomic_store(&p->arg, arg);
    atomic_store(&p->chunks, (uint32_t)chunks);
    atomic_store(&p->done, 0);
    atomic_store(&p->state, (uint64_t)(closed + 1u) << 32);
    /* A worker counts itself before it looks at the job a last time, and we look
     * at the count after publishing: one of the two sees the other. */
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        if (chunks >= p->threads) pthread_cond_broadcast(&p->wake);
        else
            for (int64_t i = 1; i < chunks; i++) pthread_cond_signal(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    run_chunks(p, 0);
    wait_done(p, (uint32_t)chunks);
    atomic_store(&p->busy, false);
}

/* Processors ---------------------------------------------------------------- */

static bool read_line(const char *path, char *buf, size_t size) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(buf, (int)size, f) != NULL;
    fclose(f);
    return ok;
}

/* ceil(quota / period), or `cpus` when there is no quota. */
static int apply_quota(int cpus, double quota, double period) {
    if (quota <= 0 || period <= 0) return cpus;
    double limit = quota / period;
    int whole = limit >= 1e6 ? cpus : (int)limit;
    if ((double)whole < limit) whole++;
    if (whole < 1) whole = 1;
    return whole < cpus ? whole : cpus;
}

static int cgroup_limit(int cpus) {
    char line[512], path[768];
    /* Version 1, as containers see it. */
    double quota = 0, period = 0;
    if (read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line)) quota = atof(line);
    if (read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof line)) period = atof(line);
    cpus = apply_quota(cpus, quota, period);
    /* Version 2: our group and all groups above it. */
    char group[512] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = 0;
            snprintf(group, sizeof group, "%s", line + 3);
        }
    if (f) fclose(f);
    for (;;) {
        while (group[0] && group[strlen(group) - 1] == '/') group[strlen(group) - 1] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        if (read_line(path, line, sizeof line) && sscanf(line, "%lf %lf", &quota, &period) == 2)
            cpus = apply_quota(cpus, quota, period);
        char *slash = strrchr(group, '/');
        if (!slash) return cpus;
        *slash = 0;
    }
}

int bd_cpu_count(void) {
    int cpus = 1;
    for (int possible = 1024; possible <= 1 << 20; possible *= 4) {
        cpu_set_t *set = CPU_ALLOC(possible);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE(possible);
        bool ok = sched_getaffinity(0, size, set) == 0;
        if (ok) cpus = CPU_COUNT_S(size, set);
        CPU_FREE(set);
        if (ok) break;
    }
    if (cpus < 1) cpus = 1;
    return cgroup_limit(cpus);
}

double bd_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
