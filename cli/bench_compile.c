/* birdie bench compile: how long the compiler takes for a model of a given size, on weights and statistics made of
 * random numbers, and beside it the compressors that others pack with. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/arena.h"
#include "cli/backend_args.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "compiler/compile.h"
#include "compiler/quantizer.h"
#include "compiler/synthetic.h"
#include "runtime/model_lang.h"

enum { MAX_STATES = 8, MAX_SETTINGS = 16, TOKENS = 65536 };

typedef struct compile_args {
    bd_cli_common common;
    bd_cli_list sets, states, knobs;
    const char *model, *backend, *isa;
    double bits;
    int64_t repeat, seed, share;
} compile_args;

/* One whole compilation. */
typedef struct compiled {
    bd_compile_result r;
    double wall, cpu, memory, decode, decode_cpu;
} compiled;

typedef struct compile_bench {
    const compile_args *a;
    bd_backend *be;
    bd_model *m;
    bd_calibration *calibration;
    double make;
    bool json;
    json_t *out;
} compile_bench;

/* Processor seconds of this process and the programs it ran. */
static double cpu_seconds(void) {
    double sum = 0;
    const int who[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        struct rusage u;
        if (getrusage(who[i], &u) != 0) continue;
        sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    }
    return sum;
}

/* --- the model --- */

static bd_status elaborate(bd_graph **g, const compile_args *a, bd_err *err) {
    /* The shapes of the record: 11 layers, hidden 2,048, vocabulary 8,192. */
    bd_setting set[MAX_SETTINGS] = {{"layers", "11"}, {"hidden", "2048"}, {"vocab", "8192"}};
    char text[MAX_SETTINGS][64];
    int n = strcmp(a->model, "baseline") ? 0 : 3;
    for (size_t i = 0; i < a->sets.n; i++) {
        const char *equals = strchr(a->sets.items[i], '=');
        int k = 0;
        if (!equals || strlen(a->sets.items[i]) >= sizeof text[0])
            return BD_FAIL(err, BD_E_USAGE, "--set %.40s is not constant=value", a->sets.items[i]);
        size_t length = (size_t)(equals - a->sets.items[i]);
        while (k < n && (strlen(set[k].name) != length || memcmp(set[k].name, a->sets.items[i], length) != 0)) k++;
        if (k == MAX_SETTINGS) return BD_FAIL(err, BD_E_USAGE, "more than %d constants", MAX_SETTINGS);
        snprintf(text[k], sizeof text[k], "%.*s", (int)length, a->sets.items[i]);
        set[k] = (bd_setting){text[k], equals + 1};
        if (k == n) n++;
    }
    bd_limits lim = bd_limits_default();
    for (int i = 0; i < bd_n_builtin_models; i++) {
        const bd_builtin_model *b = &bd_builtin_models[i];
        if (!strcmp(b->name, a->model))
            return bd_model_elaborate(g, b->text, b->size, b->name, set, n, NULL, &lim, err);
    }
    return BD_FAIL(err, BD_E_UNKNOWN, "there is no built-in model %.40s", a->model);
}

static bd_status make_model(compile_bench *b, bd_err *err) {
    bd_graph *g = NULL;
    const uint64_t seed = (uint64_t)b->a->seed;
    double t0 = bd_now();
    BD_TRY(elaborate(&g, b->a, err));
    float *params = bd_alloc_aligned(g->param_floats, sizeof *params);
    if (!params) {
        bd_graph_destroy(g);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for the model");
    }
    bd_synthetic_params(params, g, seed, b->be->pool);
    BD_TRY(bd_model_create(&b->m, g, params, b->a->model, err));
    BD_TRY(bd_synthetic_calibration(&b->calibration, b->m->graph, TOKENS, seed, b->be->pool, err));
    b->make = bd_now() - t0;
    return BD_OK;
}

/* --- the compiler --- */

static bd_status decode(compiled *c, const bd_buf *file, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
    bd_artifact *art = NULL;
    bd_model *back = NULL;
    double t0 = bd_now(), cpu = cpu_seconds();
    BD_TRY(bd_artifact_parse(&art, file->data, file->size, &lim, err));
    bd_status st = bd_model_from_artifact(&back, art, NULL, err);
    c->decode = bd_now() - t0;
    c->decode_cpu = cpu_seconds() - cpu;
    bd_artifact_close(art);
    bd_model_close(back);
    return st;
}

static bd_status compile_once(const compile_bench *b, compiled *c, const bd_compile_recipe *recipe, bd_buf *file,
                              const bd_progress *progress, bd_err *err) {
    bd_compile_opts o = {.budget = (uint64_t)(b->a->bits / 8 * (double)b->m->graph->param_count),
                         .recipe = recipe,
                         .calibration = b->calibration,
                         .progress = progress};
    bd_protocol_default(&o.protocol);
    bd_bench_peak_reset();
    double t0 = bd_now(), cpu = cpu_seconds();
    BD_TRY(bd_compile(file, &c->r, b->m, b->be, &o, err));
    c->wall = bd_now() - t0;
    c->cpu = cpu_seconds() - cpu;
    c->memory = bd_bench_peak_memory();
    bd_compile_result_free(&c->r);
    return decode(c, file, err);
}

/* The best of several runs, stage by stage. */
static void keep_best(compiled *best, const compiled *c) {
    double *to[] = {&best->r.seconds_prepare,
                    &best->r.seconds_solve,
                    &best->r.seconds_pack,
                    &best->r.seconds_pass,
                    &best->r.seconds_quantize,
                    &best->r.seconds_price,
                    &best->wall,
                    &best->cpu,
                    &best->decode,
                    &best->decode_cpu};
    const double from[] = {c->r.seconds_prepare,
                           c->r.seconds_solve,
                           c->r.seconds_pack,
                           c->r.seconds_pass,
                           c->r.seconds_quantize,
                           c->r.seconds_price,
                           c->wall,
                           c->cpu,
                           c->decode,
                           c->decode_cpu};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++)
        if (from[i] < *to[i]) *to[i] = from[i];
}

static void report_compiled(const compile_bench *b, const compiled *c, int states) {
    const bd_compile_result *r = &c->r;
    double price = r->seconds_price / r->tries;
    if (b->json) {
        json_t *o = json_object();
        json_object_set_new(o, "states", json_integer(states));
        json_object_set_new(o, "bytes", bd_cli_u64(r->artifact_bytes));
        json_object_set_new(o, "pricings", json_integer(r->tries));
        json_object_set_new(o, "seconds", bd_cli_real(c->wall));
        json_object_set_new(o, "cpu_seconds", bd_cli_real(c->cpu));
        json_object_set_new(o, "seconds_prepare", bd_cli_real(r->seconds_prepare));
        json_object_set_new(o, "seconds_search", bd_cli_real(r->seconds_solve));
        json_object_set_new(o, "seconds_pass", bd_cli_real(r->seconds_pass));
        json_object_set_new(o, "seconds_quantize", bd_cli_real(r->seconds_quantize));
        json_object_set_new(o, "seconds_price", bd_cli_real(price));
        json_object_set_new(o, "seconds_pack", bd_cli_real(r->seconds_pack));
        json_object_set_new(o, "seconds_decode", bd_cli_real(c->decode));
        json_object_set_new(o, "cpu_seconds_decode", bd_cli_real(c->decode_cpu));
        json_object_set_new(o, "peak_memory_bytes", bd_cli_real(c->memory));
        json_array_append_new(json_object_get(b->out, "compilations"), o);
    } else {
        printf("%6d %11" PRIu64 " %8.2f %8.2f %8d %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %7.0f\n", states,
               r->artifact_bytes, c->wall, c->cpu, r->tries, r->seconds_prepare, r->seconds_solve, r->seconds_pass,
               r->seconds_quantize, price, r->seconds_pack, c->decode, c->memory / 1048576);
        fflush(stdout);
    }
}

static bd_status measure_states(const compile_bench *b, int states, bd_buf *file, const bd_progress *progress,
                                bd_err *err) {
    enum { MAX_KNOBS = 32 };
    const char *knobs[MAX_KNOBS];
    char text[32];
    int n = 0;
    snprintf(text, sizeof text, "states=%d", states);
    knobs[n++] = text;
    for (size_t i = 0; i < b->a->knobs.n && n < MAX_KNOBS; i++) knobs[n++] = b->a->knobs.items[i];
    bd_compile_recipe *recipe = NULL;
    BD_TRY(bd_compile_recipe_open(&recipe, NULL, knobs, n, err));
    compiled best = {.wall = 0};
    bd_status st = BD_OK;
    for (int64_t k = 0; k < b->a->repeat && !st; k++) {
        compiled c = {.wall = 0};
        file->size = 0;
        st = compile_once(b, &c, recipe, file, progress, err);
        if (k == 0) best = c;
        else keep_best(&best, &c);
    }
    bd_compile_recipe_close(recipe);
    if (!st) report_compiled(b, &best, states);
    return st;
}

/* --- packing alone --- */

static void report_packing(const compile_bench *b, const char *what, uint64_t weights, uint64_t bytes, double wall,
                           double cpu) {
    double all = (double)b->m->graph->param_count / (double)weights;
    if (b->json) {
        json_t *o = json_object();
        json_object_set_new(o, "what", json_string(what));
        json_object_set_new(o, "weights", bd_cli_u64(weights));
        json_object_set_new(o, "bytes", bd_cli_u64(bytes));
        json_object_set_new(o, "seconds", bd_cli_real(wall));
        json_object_set_new(o, "cpu_seconds", bd_cli_real(cpu));
        json_object_set_new(o, "seconds_all", bd_cli_real(wall * all));
        json_array_append_new(json_object_get(b->out, "packing"), o);
    } else {
        printf("%-28s %10" PRIu64 " %10" PRIu64 " %8.2f %8.2f %12.1f %12.1f\n", what, weights, bytes, wall, cpu,
               wall * all, cpu * all);
        fflush(stdout);
    }
}

static bd_status pack(const compile_bench *b, const char *what, bd_qgroup *g, bd_codec codec, bd_err *err) {
    uint64_t bytes = 0, weights = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++) weights += (uint64_t)g->tensors[i].rows * g->tensors[i].cols;
    g->codec = codec;
    double t0 = bd_now(), cpu = cpu_seconds();
    BD_TRY(bd_qgroup_cost(g, &bytes, err));
    report_packing(b, what, weights, bytes, bd_now() - t0, cpu_seconds() - cpu);
    return BD_OK;
}

/* The trellis-coded matrices as they stand in the file, coded once more. */
static bd_status pack_ours(const compile_bench *b, const bd_buf *file, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
    bd_artifact *art = NULL;
    bd_status st = bd_artifact_parse(&art, file->data, file->size, &lim, err);
    for (uint32_t k = 0; !st && k < art->n_groups; k++)
        if (!strcmp(art->groups[k].name, "matrices"))
            st = pack(b, "range, trellis indices", &art->groups[k], BD_CODEC_RANGE, err);
    bd_artifact_close(art);
    return st;
}

/* Every 1/share of the weights, matrix by matrix, as int6 codes with SDClip. */
static bd_status peer_codes(const compile_bench *b, bd_qgroup *g, bd_err *err) {
    const bd_graph *graph = b->m->graph;
    const bd_quantizer *by = bd_quantizer_find("row");
    bd_qsetting s = by->defaults;
    s.by = by;
    s.bits = 6;
    s.k = 12.85f;
    double taken = 0, seen = 0;
    for (int i = 0; i < graph->n_params; i++) {
        const bd_param *p = &graph->params[i];
        double n = (double)(p->rows * p->cols);
        if (p->role == BD_ROLE_VECTOR) continue;
        seen += n;
        if (taken + n / 2 > seen / (double)b->a->share) continue;
        taken += n;
        bd_qsource src = {.name = p->name, .w = b->m->params + p->offset, .rows = p->rows, .cols = p->cols};
        bd_qresult res;
        bd_qtensor *q = &g->tensors[g->n_tensors++];
        q->param = (uint32_t)i;
        BD_TRY(by->quantize(q, &src, &s, b->be->pool, &res, err));
    }
    if (!g->n_tensors) return BD_FAIL(err, BD_E_USAGE, "--share leaves no matrix");
    return BD_OK;
}

static bd_status pack_peers(const compile_bench *b, bd_err *err) {
    bd_qgroup g = {.name = "peers", .tensors = calloc((size_t)b->m->graph->n_params + 1, sizeof *g.tensors)};
    bd_status st = g.tensors ? peer_codes(b, &g, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!st) st = pack(b, "range, int6 codes", &g, BD_CODEC_RANGE, err);
    if (!st) st = pack(b, "lrzip -z -L 9, int6 codes", &g, BD_CODEC_LRZIP, err);
    if (st == BD_E_MISSING) {
        if (!b->json) printf("lrzip is not installed\n");
        st = BD_OK;
    }
    if (!st) st = pack(b, "brotli 11, int6 codes", &g, BD_CODEC_BROTLI, err);
    for (uint32_t i = 0; g.tensors && i < g.n_tensors; i++) bd_qtensor_free(&g.tensors[i]);
    free(g.tensors);
    return st;
}

/* --- the command --- */

static bd_status read_states(const compile_args *a, int *states, int *n, bd_err *err) {
    static const int usual[] = {8, 64};
    *n = a->states.n ? (int)a->states.n : 2;
    if (*n > MAX_STATES) return BD_FAIL(err, BD_E_USAGE, "--states takes at most %d numbers", MAX_STATES);
    for (int i = 0; i < *n; i++) {
        const char *text = a->states.n ? a->states.items[i] : "";
        states[i] = a->states.n ? atoi(text) : usual[i];
        if (a->states.n && (strspn(text, "0123456789") != strlen(text) || strlen(text) > 3 || states[i] < 1))
            return BD_FAIL(err, BD_E_USAGE, "--states: '%.20s' is not a number of states", text);
    }
    return BD_OK;
}

static bd_status measure(compile_bench *b, const bd_progress *progress, bd_err *err) {
    int states[MAX_STATES], n;
    bd_buf file;
    bd_buf_init(&file);
    BD_TRY(read_states(b->a, states, &n, err));
    BD_TRY(make_model(b, err));
    if (b->json) {
        json_object_set_new(b->out, "parameters", bd_cli_u64(b->m->graph->param_count));
        json_object_set_new(b->out, "threads", json_integer(bd_pool_threads(b->be->pool)));
        json_object_set_new(b->out, "bits_per_weight", bd_cli_real(b->a->bits));
    } else {
        printf("%s, %" PRIu64
               " parameters of random numbers (made in %.1f s), %g bits per weight, %d threads, best "
               "of %" PRId64 "\n%6s %11s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %7s\n",
               b->a->model, b->m->graph->param_count, b->make, b->a->bits, bd_pool_threads(b->be->pool),
               b->a->repeat, "states", "bytes", "whole s", "cpu s", "pricings", "factors", "search", "a pass",
               "quantize", "a price", "packing", "decode", "MiB");
        fflush(stdout);
    }
    bd_status st = BD_OK;
    for (int i = 0; i < n && !st; i++) st = measure_states(b, states[i], &file, progress, err);
    if (!st && !b->json)
        printf("\n%-28s %10s %10s %8s %8s %12s %12s\n", "packing alone", "weights", "bytes", "s", "cpu s", "s, all",
               "cpu s, all");
    if (!st) st = pack_ours(b, &file, err);
    if (!st && b->a->share) st = pack_peers(b, err);
    bd_buf_free(&file);
    return st;
}

static int run(const compile_args *a) {
    bd_err err = {0};
    bd_cli_progress progress;
    compile_bench b = {.a = a, .json = a->common.json, .out = json_object()};
    bd_status st = BD_OK;
    if (a->repeat < 1) st = BD_FAIL(&err, BD_E_USAGE, "--repeat must be at least 1");
    else if (!(a->bits > 0 && a->bits <= 32)) st = BD_FAIL(&err, BD_E_USAGE, "--bits must be above 0, at most 32");
    if (!st && a->common.dry_run) {
        printf("would measure the compiler for some minutes\n");
        json_decref(b.out);
        return 0;
    }
    json_object_set_new(b.out, "bench", json_string("compile"));
    json_object_set_new(b.out, "compilations", json_array());
    json_object_set_new(b.out, "packing", json_array());
    bd_backend_args ba = {a->backend, a->isa, "exact", a->common.threads};
    if (!st) st = bd_backend_args_open(&b.be, &ba, &err);
    if (!st) {
        const bd_progress *p = bd_cli_progress_start(&progress);
        st = measure(&b, p, &err);
        bd_cli_progress_end(&progress);
    }
    bd_calibration_destroy(b.calibration);
    bd_model_close(b.m);
    bd_backend_close(b.be);
    if (st) {
        json_decref(b.out);
        return bd_cli_error(&err, a->common.json);
    }
    if (a->common.json) return bd_cli_print_json(b.out);
    json_decref(b.out);
    return 0;
}

int bd_bench_compile(int argc, char **argv) {
    compile_args a = {.model = "baseline", .backend = "cpu", .bits = 3.2, .repeat = 1, .seed = 1, .share = 8};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"model", BD_CLI_STRING, &a.model, "NAME", "built-in model whose shapes are taken"},
        {"set", BD_CLI_EACH, &a.sets, "constant=value",
         "constant of the model (baseline, unless said otherwise: layers=11, hidden=2048, vocab=8192)"},
        {"bits", BD_CLI_DOUBLE, &a.bits, "N", "the budget, in bits per weight"},
        {"states", BD_CLI_LIST, &a.states, "N...", "states of the trellis to measure (default: 8 and 64)"},
        {"knob", BD_CLI_EACH, &a.knobs, "key=value", "knob for the default recipe"},
        {"share", BD_CLI_COUNT, &a.share, "N",
         "the other compressors pack every Nth part of the weights, and their times are multiplied; 0: none"},
        {"repeat", BD_CLI_COUNT, &a.repeat, "N", "compilations, of which the best times count"},
        {"seed", BD_CLI_COUNT, &a.seed, "N", "of the random numbers"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512", "instruction set of the cpu backend"},
    };
    const bd_cli_spec spec = {
        .name = "bench compile",
        .summary = "how long the compiler takes for a model of a given size",
        .usage = "bench compile [options]",
        .text =
            "Random weights and statistics with the spreads and correlations of real ones: no checkpoint, no "
            "shards, "
            "no model is run. The default recipe fills a budget: factorizing, the whole search, one pass of "
            "quantization over all matrices, one price of the file, packing, and decoding what came out. Beside it "
            "packing alone: our coder on those indices, and lrzip and brotli on int6 codes as the peer recipes "
            "make "
            "them.",
        .examples =
            "  birdie bench compile --states 1 8 64\n  birdie bench compile --set layers=2 --share 0 --json\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = run(&a);
    bd_cli_free(&spec, &args);
    return rc;
}
