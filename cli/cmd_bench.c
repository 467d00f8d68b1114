/* birdie bench: what this machine does with Birdie's kernels, training step and coder. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/arena.h"
#include "base/philox.h"
#include "base/thread.h"
#include "cli/backend_args.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "kernels/bench_cases.h"
#include "kernels/peak.h"
#include "runtime/exec.h"
#include "trainer/optimizer.h"
#include "trainer/train.h"

const char bd_cmd_bench_summary[] =
    "measure kernels, the training step, the weight coder, quantization or the compiler";

typedef struct bench_args {
    bd_cli_common common;
    bd_cli_list sets;
    const char *recipe, *backend, *isa;
    int64_t steps;
} bench_args;

double bd_bench_peak_memory(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss * 1024 : 0;
}

void bd_bench_peak_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5\n", f); /* proc(5): the peak of the resident set starts anew */
    fclose(f);
}

/* --- kernels --- */

static bd_status bench_kernels(const bench_args *a, bd_backend *be, double peak, json_t *out, bd_err *err) {
    json_t *list = json_array();
    json_object_set_new(out, "kernels", list);
    if (!a->common.json)
        printf("%-26s %12s %10s %8s %10s   %s\n", "operation", "us/call", "GFLOP/s", "of peak", "GB/s",
               be->vt->name);
    for (const bd_bench_case *c = bd_bench_cases; c->op != BD_OP_COUNT; c++) {
        bd_bench_result r;
        BD_TRY(bd_bench_run(&r, be, c, 0.2, err));
        double gflops = r.flops / r.seconds * 1e-9, gbs = r.bytes / r.seconds * 1e-9;
        if (a->common.json) {
            json_t *o = json_object();
            json_object_set_new(o, "name", json_string(c->name));
            json_object_set_new(o, "seconds", bd_cli_real(r.seconds));
            json_object_set_new(o, "gflops", bd_cli_real(gflops));
            json_object_set_new(o, "gbytes_per_s", bd_cli_real(gbs));
            json_array_append_new(list, o);
        } else {
            printf("%-26s %12.1f %10.1f %7.0f%% %10.1f\n", c->name, r.seconds * 1e6, gflops, 100 * gflops / peak,
                   gbs);
        }
    }
    return BD_OK;
}

/* --- where a step's time goes: a backend that runs another one and keeps the clock --- */

enum { PART_GRADIENT, PART_OPTIMIZER, N_PARTS, OP_TRANSFER = BD_OP_COUNT, N_TIMED };

typedef struct op_time {
    int64_t calls;
    double seconds, flops, bytes;
} op_time;

typedef struct timed_backend {
    bd_backend be;
    bd_backend_vt vt;
    bd_backend *inner; /* borrowed */
    int part;
    op_time ops[N_PARTS][N_TIMED];
} timed_backend;

static bd_backend *inner_of(const bd_backend *be) { return ((const timed_backend *)(const void *)be)->inner; }

static void timed_note(bd_backend *be, int op, double t0, double flops, double bytes) {
    timed_backend *t = (timed_backend *)(void *)be;
    op_time *o = &t->ops[t->part][op];
    o->calls++;
    o->seconds += bd_now() - t0;
    o->flops += flops;
    o->bytes += bytes;
}

static void timed_close(bd_backend *be) { (void)be; }
static bd_status timed_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err) {
    return inner_of(be)->vt->alloc(inner_of(be), out, bytes, err);
}
static void timed_release(bd_backend *be, void *mem) { inner_of(be)->vt->release(inner_of(be), mem); }
static bd_status timed_sync(bd_backend *be, bd_err *err) { return inner_of(be)->vt->sync(inner_of(be), err); }
static bool timed_has(const bd_backend *be, bd_op op) { return inner_of(be)->vt->has(inner_of(be), op); }
static bd_status timed_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    return inner_of(be)->vt->reserve(inner_of(be), c, err);
}
static bd_status timed_upload(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    double t0 = bd_now();
    BD_TRY(inner_of(be)->vt->upload(inner_of(be), dst, src, bytes, err));
    timed_note(be, OP_TRANSFER, t0, 0, (double)bytes);
    return BD_OK;
}
static bd_status timed_download(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    double t0 = bd_now();
    BD_TRY(inner_of(be)->vt->download(inner_of(be), dst, src, bytes, err));
    timed_note(be, OP_TRANSFER, t0, 0, (double)bytes);
    return BD_OK;
}
static bd_status timed_run(bd_backend *be, const bd_call *c, bd_err *err) {
    double t0 = bd_now(), flops, bytes;
    BD_TRY(inner_of(be)->vt->run(inner_of(be), c, err));
    bd_call_cost(c, &flops, &bytes);
    timed_note(be, (int)c->op, t0, flops, bytes);
    return BD_OK;
}

static void timed_init(timed_backend *t, bd_backend *inner) {
    *t = (timed_backend){.inner = inner};
    t->vt = (bd_backend_vt){inner->vt->name, timed_close, timed_alloc, timed_release, timed_upload,
                            timed_download,  timed_sync,  timed_has,   timed_reserve, timed_run};
    t->be = (bd_backend){&t->vt, inner->pool};
}

/* The parts by falling time; what no operation accounts for comes last. */
static void report_ops(const timed_backend *t, double total, double steps, double peak, json_t *out, bool json) {
    static const char *const part_names[N_PARTS] = {"gradient", "optimizer"};
    int order[N_PARTS * N_TIMED], n = 0;
    double sum = 0;
    for (int k = 0; k < N_PARTS * N_TIMED; k++) {
        const op_time *o = &t->ops[k / N_TIMED][k % N_TIMED];
        if (!o->calls) continue;
        sum += o->seconds;
        int at = n++;
        for (; at > 0 && t->ops[order[at - 1] / N_TIMED][order[at - 1] % N_TIMED].seconds < o->seconds; at--)
            order[at] = order[at - 1];
        order[at] = k;
    }
    json_t *list = json_array();
    json_object_set_new(out, "operations", list);
    if (!json)
        printf("%-10s %-18s %8s %10s %7s %10s %8s %10s\n", "part", "operation", "calls", "ms/step", "share",
               "GFLOP/s", "of peak", "GB/s");
    for (int i = 0; i < n; i++) {
        int part = order[i] / N_TIMED, op = order[i] % N_TIMED;
        const op_time *o = &t->ops[part][op];
        const char *name = op == OP_TRANSFER ? "(transfers)" : bd_op_get((bd_op)op)->name;
        double gflops = o->flops / o->seconds * 1e-9;
        if (json) {
            json_t *e = json_object();
            json_object_set_new(e, "part", json_string(part_names[part]));
            json_object_set_new(e, "name", json_string(name));
            json_object_set_new(e, "calls_per_step", bd_cli_real((double)o->calls / steps));
            json_object_set_new(e, "seconds_per_step", bd_cli_real(o->seconds / steps));
            json_object_set_new(e, "gflops", bd_cli_real(gflops));
            json_array_append_new(list, e);
        } else {
            printf("%-10s %-18s %8.0f %10.1f %6.1f%% %10.1f %7.0f%% %10.1f\n", part_names[part], name,
                   (double)o->calls / steps, o->seconds / steps * 1e3, 100 * o->seconds / total, gflops,
                   peak > 0 ? 100 * gflops / peak : 0, o->bytes / o->seconds * 1e-9);
        }
    }
    if (!json)
        printf("%-10s %-18s %8s %10.1f %6.1f%%\n", "", "(outside)", "", (total - sum) / steps * 1e3,
               100 * (total - sum) / total);
}

/* --- train --- */

/* The official baseline: 17,059,912 parameters, windows of 1,024, 16,384 tokens a step. */
static const char baseline_recipe[] =
    "{\"model\": \"baseline\", \"steps\": 20000, \"seq_len\": 1024, \"batch_tokens\": 16384, \"optimizers\": ["
    "{\"kind\": \"muon\", \"match\": [\"blocks.*.weight\"], \"lr\": 0.04},"
    "{\"kind\": \"adamw\", \"match\": [\"tok_emb.weight\"], \"lr\": 0.05},"
    "{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 0.04}]}";

typedef struct bench_train_state {
    bd_recipe *r;
    bd_graph *g, *dg;
    bd_exec *x;
    bd_gradsum *sum;
    bd_optimizer *opt;
    float *params, *grad, *init;
    int32_t *tokens, *targets;
    double *nll;
} bench_train_state;

static bd_status open_graph(bench_train_state *s, const bench_args *a, bd_err *err) {
    if (a->recipe) BD_TRY(bd_recipe_open(&s->r, a->recipe, a->sets.items, (int)a->sets.n, err));
    else
        BD_TRY(
            bd_recipe_parse(&s->r, baseline_recipe, strlen(baseline_recipe), a->sets.items, (int)a->sets.n, err));
    return bd_recipe_graph(&s->g, s->r, err);
}

static bd_status take(bd_backend *be, float **out, uint64_t floats, bd_err *err) {
    void *mem = NULL;
    BD_TRY(be->vt->alloc(be, &mem, floats * sizeof(float), err));
    *out = mem;
    return BD_OK;
}

static bd_status open_train(bench_train_state *s, const bench_args *a, bd_backend *be, bd_err *err) {
    BD_TRY(open_graph(s, a, err));
    int64_t n = s->r->batch_tokens;
    BD_TRY(bd_graph_differentiate(&s->dg, s->g, err));
    BD_TRY(bd_exec_create(&s->x, s->dg, be, bd_train_rows(s->r), s->r->seq_len, err));
    BD_TRY(bd_gradsum_create(&s->sum, s->dg, be, err));
    BD_TRY(bd_optimizer_create(&s->opt, s->g, s->r, be, err));
    BD_TRY(take(be, &s->params, s->g->param_floats, err));
    BD_TRY(take(be, &s->grad, s->g->param_floats, err));
    s->init = bd_alloc_aligned(s->g->param_floats, sizeof(float));
    s->tokens = malloc((size_t)n * sizeof *s->tokens);
    s->targets = malloc((size_t)n * sizeof *s->targets);
    s->nll = malloc((size_t)n * sizeof *s->nll);
    if (!s->init || !s->tokens || !s->targets || !s->nll) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        s->tokens[i] = (int32_t)bd_philox_below(1, 1, (uint64_t)i, (uint64_t)s->g->vocab);
        s->targets[i] = (int32_t)bd_philox_below(1, 2, (uint64_t)i, (uint64_t)s->g->vocab);
    }
    bd_graph_init_params(s->g, 1, s->init);
    return be->vt->upload(be, s->params, s->init, s->g->param_floats * sizeof(float), err);
}

static void close_train(bench_train_state *s, bd_backend *be) {
    bd_exec_destroy(s->x);
    bd_gradsum_destroy(s->sum);
    bd_optimizer_destroy(s->opt);
    if (s->params) be->vt->release(be, s->params);
    if (s->grad) be->vt->release(be, s->grad);
    bd_graph_destroy(s->dg);
    bd_graph_destroy(s->g);
    bd_recipe_close(s->r);
    free(s->init);
    free(s->tokens);
    free(s->targets);
    free(s->nll);
}

static bd_status time_steps(bench_train_state *s, const bench_args *a, timed_backend *timed, double peak,
                            json_t *out, bd_err *err) {
    double best = INFINITY, sum = 0, gradient = 0;
    for (int64_t k = 0; k <= a->steps; k++) { /* step 0 warms up */
        if (k == 1) memset(timed->ops, 0, sizeof timed->ops);
        timed->part = PART_GRADIENT;
        double t0 = bd_now();
        BD_TRY(bd_batch_gradient(s->x, s->sum, s->params, s->tokens, s->targets, s->r->batch_tokens / s->r->seq_len,
                                 s->r->seq_len, s->grad, s->nll, NULL, err));
        double t1 = bd_now();
        timed->part = PART_OPTIMIZER;
        BD_TRY(bd_optimizer_step(s->opt, s->params, s->grad, k, 1, NULL, err));
        BD_TRY(timed->be.vt->sync(&timed->be, err));
        double t = bd_now() - t0;
        if (k == 0) continue;
        sum += t;
        gradient += t1 - t0;
        if (t < best) best = t;
    }
    double n = (double)a->steps, mean = sum / n, tokens = (double)s->r->batch_tokens;
    double flops = 3 * bd_graph_flops(s->g, s->r->seq_len) * tokens;
    double gflops = flops / mean * 1e-9, share = gradient / sum;
    if (a->common.json) {
        json_object_set_new(out, "parameters", bd_cli_u64(s->g->param_count));
        json_object_set_new(out, "tokens_per_step", bd_cli_i64(s->r->batch_tokens));
        json_object_set_new(out, "seq_len", bd_cli_i64(s->r->seq_len));
        json_object_set_new(out, "steps", bd_cli_i64(a->steps));
        json_object_set_new(out, "seconds_per_step", bd_cli_real(mean));
        json_object_set_new(out, "best_seconds_per_step", bd_cli_real(best));
        json_object_set_new(out, "tokens_per_s", bd_cli_real(tokens / mean));
        json_object_set_new(out, "gflops", bd_cli_real(gflops));
        json_object_set_new(out, "gradient_share", bd_cli_real(share));
        json_object_set_new(out, "peak_memory_bytes", bd_cli_real(bd_bench_peak_memory()));
    } else {
        printf("model       %s, %" PRIu64 " parameters, %" PRId64 " tokens a step in windows of %" PRId64 "\n",
               s->r->model, s->g->param_count, s->r->batch_tokens, s->r->seq_len);
        printf("step        %.3f s mean of %" PRId64 ", %.3f s best; %.1f%% gradient, %.1f%% optimizer\n", mean,
               a->steps, best, 100 * share, 100 * (1 - share));
        printf("speed       %.0f tokens/s, %.1f GFLOP/s (model FLOPs) = %.0f%% of the measured fp32 peak %.1f\n",
               tokens / mean, gflops, peak > 0 ? 100 * gflops / peak : 0, peak);
        printf("memory      %.0f MiB at most\n", bd_bench_peak_memory() / 1048576);
    }
    report_ops(timed, sum, n, peak, out, a->common.json);
    return BD_OK;
}

static bd_status bench_train(const bench_args *a, bd_backend *be, double peak, json_t *out, bd_err *err) {
    bench_train_state s = {0};
    timed_backend timed;
    timed_init(&timed, be);
    bd_status st = open_train(&s, a, &timed.be, err);
    if (!st) st = time_steps(&s, a, &timed, peak, out, err);
    close_train(&s, &timed.be);
    return st;
}

/* --- the command --- */

static int bench_run(const bench_args *a, const char *what) {
    bd_err err = {0};
    bd_backend *be = NULL;
    json_t *out = json_object();
    bd_status st = BD_OK;
    bool kernels = !strcmp(what, "kernels"), train = !strcmp(what, "train");
    if (!kernels && !train)
        st = BD_FAIL(&err, BD_E_USAGE, "bench what? kernels, train, coder, quantize or compile, not %.40s", what);
    if (!st && a->steps < 1) st = BD_FAIL(&err, BD_E_USAGE, "--steps must be at least 1");
    if (!st && a->common.dry_run) {
        printf("would measure %s for about %d s\n", what, kernels ? 10 : 30);
        json_decref(out);
        return 0;
    }
    json_object_set_new(out, "bench", json_string(what));
    if (!st) {
        double peak = bd_peak_gflops((int)a->common.threads);
        bd_backend_args ba = {a->backend, a->isa, "exact", a->common.threads};
        st = bd_backend_args_open(&be, &ba, &err);
        if (!st) {
            json_object_set_new(out, "backend", json_string(be->vt->name));
            json_object_set_new(out, "threads", json_integer(bd_pool_threads(be->pool)));
            st = kernels ? bench_kernels(a, be, peak, out, &err) : bench_train(a, be, peak, out, &err);
            double after =
                bd_peak_gflops((int)a->common.threads); /* the machine may be shared: the better of both */
            json_object_set_new(out, "peak_gflops", bd_cli_real(after > peak ? after : peak));
        }
    }
    bd_backend_close(be);
    if (st) {
        json_decref(out);
        return bd_cli_error(&err, a->common.json);
    }
    if (a->common.json) return bd_cli_print_json(out);
    json_decref(out);
    return 0;
}

int bd_cmd_bench(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "coder")) return bd_bench_coder(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "compile")) return bd_bench_compile(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "quantize")) return bd_bench_quantize(argc - 1, argv + 1);
    bench_args a = {.backend = "cpu", .steps = 2};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"recipe", BD_CLI_STRING, &a.recipe, "FILE.json",
         "train: recipe to time (default: the 17,059,912-parameter baseline)"},
        {"set", BD_CLI_EACH, &a.sets, "key=value", "train: override a key of the recipe"},
        {"steps", BD_CLI_COUNT, &a.steps, "N", "train: timed steps, after one that warms up"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512", "instruction set of the cpu backend"},
    };
    const bd_cli_spec spec = {
        .name = "bench",
        .summary = bd_cmd_bench_summary,
        .usage = "bench kernels|train|coder|quantize|compile [options]",
        .text =
            "kernels: every operation at the shapes of the official baseline, beside the machine's measured fp32 "
            "peak.\n"
            "train: whole training steps, optimizer included, on random tokens, and where their time goes.\n"
            "coder: the coder of weights beside byte codecs and ideal lengths; see birdie bench coder --help.\n"
            "quantize: what recipes lose at given sizes; see birdie bench quantize --help.\n"
            "compile: how long the compiler takes; see birdie bench compile --help.\n"
            "Machines are shared and noisy: compare ratios from one run, not seconds from two.",
        .examples = "  birdie bench train --json\n  birdie bench kernels --threads 1 --isa avx2\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = bench_run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
