/* check_kernels [check|grad|bench|support] [--op NAME] [--seed N] [--rounds N] [--backend SPEC] [--threads N]
 *
 * check    every backend here against ref: equal bits on odd sizes and odd values,
 *          at several thread counts, guard bands and inputs untouched
 * grad     backward operations against finite differences, and float against double
 * bench    GFLOP/s and GB/s of every operation at the shapes of the baseline model
 * support  which backend has which operation, as CSV
 * Without a mode: check and grad, as `make test` runs it. */
#include "check_kernels.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/bench_cases.h"
#include "kernels/peak.h"

enum { MAX_BACKENDS = 12 };

typedef struct options {
    const char *mode, *op, *backend;
    uint64_t seed;
    int rounds, threads;
} options;

/* Backends here ---------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *spec;
    int threads;
} wanted[] = {{"ref", 3}, {"cpu:avx2", 1}, {"cpu:avx2", 2}, {"cpu:avx512", 1}, {"cpu:avx512", 3}, {"cuda", 1}};

typedef struct opened {
    bd_backend *be;
    char name[48];
} opened;

static int open_all(opened *list, tally *t) {
    int n = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        bd_err err;
        const bd_status st = bd_backend_open(&list[n].be, wanted[i].spec, wanted[i].threads, &err);
        if (st == BD_OK) {
            snprintf(list[n].name, sizeof list[n].name, "%s, %d threads", wanted[i].spec, wanted[i].threads);
            n++;
        } else if (st == BD_E_UNSUPPORTED) {
            printf("skip %s: %s\n", wanted[i].spec, err.msg);
            t->skipped++;
        } else {
            printf("FAIL opening %s: %s\n", wanted[i].spec, err.msg);
            t->failed++;
        }
    }
    return n;
}

/* check -----------------------------------------------------------------------------------------------------------
 */

static bd_backend *reference; /* ref with one thread: what `prepare` runs, too */
static bd_status run_reference(const bd_call *c, bd_err *err) { return bd_run(reference, c, err); }

/* Run the call on a backend, in its own memory; the slab afterwards goes to `after`. */
static bd_status run_on(bd_backend *be, const kernel_image *k, unsigned char *after, bd_err *err) {
    void *mem = NULL;
    BD_TRY(be->vt->alloc(be, &mem, k->bytes, err));
    bd_status st = be->vt->upload(be, mem, k->slab, k->bytes, err);
    const bd_call c = kernel_image_bind(k, mem);
    if (st == BD_OK) st = be->vt->reserve(be, &c, err);
    if (st == BD_OK) st = bd_call_check(&c, err);
    /* Not bd_run: under BIRDIE_VERIFY that refuses the infinities wanted here. */
    if (st == BD_OK) st = be->vt->run(be, &c, err);
    if (st == BD_OK) st = be->vt->download(be, after, mem, k->bytes, err);
    be->vt->release(be, mem);
    return st;
}

static bool same_value(double a, double b) { return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b); }

static bool compare(const kernel_image *k, unsigned char *want, unsigned char *got, const char *who) {
    const bd_call w = kernel_image_bind(k, want), g = kernel_image_bind(k, got);
    for (int i = 0; i < bd_op_get(w.op)->nout; i++) {
        for (int64_t e = 0; e < w.out[i].rows * w.out[i].cols; e++) {
            const double x = kernel_get(&w.out[i], e), y = kernel_get(&g.out[i], e);
            if (same_value(x, y)) continue;
            char line[600];
            bd_call_print(&w, line, sizeof line);
            printf("    out%d row %" PRId64 " column %" PRId64 ": ref %a, %s %a\n    %s\n", i, e / w.out[i].cols,
                   e % w.out[i].cols, x, who, y, line);
            return false;
        }
    }
    return true;
}

/* One random call on every backend; false after the first difference. */
static bool check_one(const kernel_case *kc, const opened *list, int n, uint64_t seed, int round) {
    uint64_t rng = seed ^ ((uint64_t)kc->op << 32) ^ (uint64_t)round * 0x9e3779b97f4a7c15u;
    kernel_image k;
    bd_err err;
    const int kind = round % 4 == 3 ? 2 : round % 4 == 2 ? 1 : 0;
    if (kernel_image_make(&k, kc, BD_F32, &rng, round, kind, run_reference, &err) != BD_OK) {
        printf("    making a call: %s\n", err.msg);
        kernel_image_free(&k);
        return false;
    }
    unsigned char *want = bd_alloc_aligned(k.bytes, 1), *got = bd_alloc_aligned(k.bytes, 1);
    bool ok = want && got;
    if (ok && run_on(reference, &k, want, &err) != BD_OK) {
        printf("    ref: %s\n", err.msg);
        ok = false;
    }
    const char *damage = ok ? kernel_image_damage(&k, want) : NULL;
    if (damage) printf("    ref: %s\n", damage), ok = false;
    for (int i = 0; ok && i < n; i++) {
        if (!list[i].be->vt->has(list[i].be, kc->op)) continue;
        if (run_on(list[i].be, &k, got, &err) != BD_OK) {
            printf("    %s: %s\n", list[i].name, err.msg);
            ok = false;
        } else if ((damage = kernel_image_damage(&k, got)) != NULL) {
            char line[600];
            bd_call_print(&k.call, line, sizeof line);
            printf("    %s: %s\n    %s\n", list[i].name, damage, line);
            ok = false;
        } else {
            ok = compare(&k, want, got, list[i].name);
        }
    }
    if (!ok) printf("    round %d, values of kind %d\n", round, kind);
    free(want);
    free(got);
    kernel_image_free(&k);
    return ok;
}

static void check_backends(tally *t, const options *o) {
    opened list[MAX_BACKENDS];
    const int n = open_all(list, t);
    for (int op = 0; op < BD_OP_COUNT; op++) {
        const char *name = bd_op_get((bd_op)op)->name;
        if (o->op && strcmp(o->op, name) != 0) continue;
        const kernel_case *kc = kernel_case_of((bd_op)op);
        bool ok = kc != NULL;
        if (!kc) printf("    tests/kernels/kernel_cases.c has no row for %s\n", name);
        for (int round = 0; ok && round < o->rounds; round++) ok = check_one(kc, list, n, o->seed, round);
        printf("%s check %s\n", ok ? "ok  " : "FAIL", name);
        if (ok) t->passed++;
        else t->failed++;
    }
    for (int i = 0; i < n; i++) bd_backend_close(list[i].be);
}

/* bench and support -----------------------------------------------------------------------------------------------
 */

static void bench(tally *t, const options *o) {
    static const char *const specs[] = {"ref", "cpu:avx2", "cpu:avx512", "cuda"};
    printf("fp32 FMA peak: %.1f GFLOP/s (1 thread), %.1f GFLOP/s (%d threads)\n", bd_peak_gflops(1),
           bd_peak_gflops(o->threads), o->threads > 0 ? o->threads : bd_cpu_count());
    printf("%-26s %-12s %10s %10s %9s\n", "case", "backend", "ms", "GFLOP/s", "GB/s");
    for (const bd_bench_case *b = bd_bench_cases; b->op != BD_OP_COUNT; b++) {
        if (o->op && strcmp(o->op, bd_op_get(b->op)->name) != 0) continue;
        for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
            if (o->backend && strcmp(o->backend, specs[i]) != 0) continue;
            bd_backend *be;
            bd_err err;
            if (bd_backend_open(&be, specs[i], o->threads, &err) != BD_OK) continue;
            bd_bench_result r;
            if (!be->vt->has(be, b->op)) {
                bd_backend_close(be);
                continue;
            }
            if (bd_bench_run(&r, be, b, 0.1, &err) != BD_OK) {
                printf("FAIL %s: %s\n", b->name, err.msg);
                t->failed++;
            } else {
                printf("%-26s %-12s %10.4f %10.2f %9.2f\n", b->name, specs[i], r.seconds * 1e3,
                       r.flops / r.seconds * 1e-9, r.bytes / r.seconds * 1e-9);
                t->passed++;
            }
            bd_backend_close(be);
        }
    }
}

static void support(void) {
    static const char *const specs[] = {"ref", "cpu:avx2", "cpu:avx512", "cuda"};
    bd_backend *be[4] = {0};
    printf("op");
    for (int i = 0; i < 4; i++) {
        printf(",%s", specs[i]);
        if (bd_backend_open(&be[i], specs[i], 1, NULL) != BD_OK) be[i] = NULL;
    }
    printf("\n");
    for (int op = 0; op < BD_OP_COUNT; op++) {
        printf("%s", bd_op_get((bd_op)op)->name);
        for (int i = 0; i < 4; i++) {
            printf(",%s", !be[i] ? "absent" : be[i]->vt->has(be[i], (bd_op)op) ? "yes" : "no");
        }
        printf("\n");
    }
    for (int i = 0; i < 4; i++) bd_backend_close(be[i]);
}

int main(int argc, char **argv) {
    options o = {.mode = "", .seed = 1, .rounds = 32};
    tally t = {0};
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--op") && more) o.op = argv[++i];
        else if (!strcmp(argv[i], "--backend") && more) o.backend = argv[++i];
        else if (!strcmp(argv[i], "--seed") && more) o.seed = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--rounds") && more) o.rounds = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--threads") && more) o.threads = atoi(argv[++i]);
        else o.mode = argv[i];
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    bd_err err;
    if (!strcmp(o.mode, "support")) return support(), 0;
    if (bd_ref_open(&reference, 1, &err) != BD_OK) {
        printf("ref: %s\n", err.msg);
        return 1;
    }
    if (!strcmp(o.mode, "bench")) {
        bench(&t, &o);
    } else if (!*o.mode || !strcmp(o.mode, "check") || !strcmp(o.mode, "grad")) {
        printf("seed %" PRIu64 "\n", o.seed);
        if (strcmp(o.mode, "grad") != 0) check_backends(&t, &o);
        if (strcmp(o.mode, "check") != 0) {
            check_gradients(&t, o.seed, o.op);
            check_tolerances(&t, o.seed, o.op);
        }
    } else {
        printf("unknown mode %s (check, grad, bench, support)\n", o.mode);
        t.failed++;
    }
    bd_backend_close(reference);
    printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped);
    return t.failed ? 1 : 0;
}
