/* birdie bench quantize: what recipes lose at given sizes, and what it costs to run them. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/nearest.h"
#include "base/thread.h"
#include "cli/backend_args.h"
#include "cli/bench.h"
#include "cli/bench_quantize.h"
#include "cli/data_args.h"
#include "cli/dither.h"
#include "compiler/divergence.h"
#include "compiler/qsetting.h"

typedef struct quantize_args {
    bd_cli_common common;
    bd_cli_list sets, calib, data, recipes, budgets, knobs, tensors;
    const char *model_file, *tokenizer, *stats, *svg, *backend, *isa;
    int64_t calib_tail, window, windows, dither;
} quantize_args;

enum { DEFAULT_WINDOWS = 400, MAX_TOGETHER = 16, NO_DITHER = -1 };
/* Dequantized candidates that wait for the comparison; floats. */
#define WAITING_FLOATS ((uint64_t)256 << 20)

typedef struct bench_run {
    const quantize_args *a;
    bd_model *m;
    bd_protocol proto;
    bd_backend *be;
    bd_data data;
    char **calib_paths;
    size_t n_calib;
    bd_shards calib;
    uint8_t (*calib_hashes)[32];
    const uint16_t *calib_tokens; /* the tail of the stream */
    uint64_t n_calib_tokens;
    bool *quantized; /* (params) */
    /* The model with zeros where tensors stay float: they take no bytes in its files. Borrows all but its params.
     */
    bd_model zeroed;
    uint64_t *budgets;
    int n_budgets;
    bd_bq_result r;
    char **specs; /* (recipes) cut into pieces that the recipes point to */
    double *window_bytes, *nll_float;
    int measured; /* candidates compared so far */
    const bd_progress *progress;
} bench_run;

static bd_status no_memory(bd_err *err) { return BD_FAIL(err, BD_E_NOMEM, "out of memory"); }

/* --- recipes --- */

/* The colon that begins the knobs: the first one after the folders of a path. */
static char *find_knobs(char *spec) {
    char *slash = strrchr(spec, '/'), *equals = strchr(spec, '=');
    if (slash && equals && slash > equals) slash = NULL; /* in a value */
    return strchr(slash ? slash : spec, ':');
}

/* Cut at commas outside of brackets. */
static int split_knobs(char *text, const char **out, int max) {
    int n = 0, depth = 0;
    if (*text && n < max) out[n++] = text;
    for (char *p = text; *p; p++) {
        depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
        if (*p != ',' || depth > 0) continue;
        *p = 0;
        if (n < max) out[n++] = p + 1;
    }
    return n;
}

/* Tensors that are not to be quantized get rules of their own, before all others. */
static bd_status leave_float(bd_compile_recipe *r, const bd_graph *g, const bool *quantized, bd_err *err) {
    int left = 0;
    for (int i = 0; i < g->n_params; i++) left += !quantized[i];
    if (!left) return BD_OK;
    bd_recipe_rule *rules = bd_arena_alloc(r->arena, (uint64_t)(left + r->n_rules), sizeof *rules);
    if (!rules) return no_memory(err);
    int n = 0;
    for (int i = 0; i < g->n_params; i++) {
        if (quantized[i]) continue;
        rules[n] = (bd_recipe_rule){.pattern = g->params[i].name, .min_elements = -1, .factor = 1};
        BD_TRY(bd_qsetting_init(&rules[n++].setting, "f32", err));
    }
    memcpy(rules + n, r->rules, (size_t)r->n_rules * sizeof *rules);
    r->rules = rules;
    r->n_rules += n;
    return BD_OK;
}

static bd_status open_recipe(bench_run *b, bd_bq_recipe *q, char *pieces, bd_err *err) {
    enum { MAX_KNOBS = 64 };
    const char *knobs[MAX_KNOBS];
    int n = 0;
    for (size_t i = 0; i < b->a->knobs.n && n < MAX_KNOBS; i++) knobs[n++] = b->a->knobs.items[i];
    char *at = find_knobs(pieces);
    if (at) {
        *at = 0;
        n += split_knobs(at + 1, knobs + n, MAX_KNOBS - n);
    }
    if (n == MAX_KNOBS) return BD_FAIL(err, BD_E_USAGE, "more than %d knobs for one recipe", MAX_KNOBS - 1);
    const char *slash = strrchr(pieces, '/');
    snprintf(q->base, sizeof q->base, "%.63s", slash ? slash + 1 : pieces);
    bd_status st = bd_compile_recipe_open(&q->r, pieces, knobs, n, err);
    if (st) bd_err_prefix(err, "recipe %.100s: ", q->spec);
    BD_TRY(st);
    return leave_float(q->r, b->m->graph, b->quantized, err);
}

static bd_status open_recipes(bench_run *b, bd_err *err) {
    const char *only[] = {bd_compile_recipe_names[0]};
    const char *const *specs = b->a->recipes.n ? b->a->recipes.items : only;
    int n = b->a->recipes.n ? (int)b->a->recipes.n : 1;
    b->r.recipes = calloc((size_t)n, sizeof *b->r.recipes);
    b->specs = calloc((size_t)n, sizeof *b->specs);
    if (!b->r.recipes || !b->specs) return no_memory(err);
    b->r.n_recipes = n;
    int reference = -1;
    for (int i = 0; i < n; i++) {
        b->r.recipes[i].spec = specs[i];
        b->specs[i] = strdup(specs[i]);
        if (!b->specs[i]) return no_memory(err);
        BD_TRY(open_recipe(b, &b->r.recipes[i], b->specs[i], err));
        if (reference < 0 && !strcmp(b->r.recipes[i].base, bd_compile_recipe_names[0])) reference = i;
    }
    b->r.reference = reference < 0 ? 0 : reference;
    return BD_OK;
}

/* --- inputs --- */

static bd_status refuse_shard(const uint8_t hash[32], const bd_shards *data, const char *from, bd_err *err) {
    for (int k = 0; k < data->n; k++)
        if (!memcmp(hash, data->shards[k].sha256, 32))
            return BD_FAIL(err, BD_E_REFUSED, "%s is given to --data, and %s: never calibrate on what is scored",
                           data->shards[k].path, from);
    return BD_OK;
}

static bd_status open_texts(bench_run *b, bd_err *err) {
    const quantize_args *a = b->a;
    bd_data_args da = {
        .shards = a->data.items, .n_shards = (int)a->data.n, .split = "val", .tokenizer = a->tokenizer};
    BD_TRY(bd_data_open(&b->data, &da, err));
    BD_TRY(bd_data_check_model(&b->data, b->m, err));
    if (!a->calib.n) return BD_OK;
    BD_TRY(bd_shard_expand(a->calib.items, (int)a->calib.n, "train", &b->calib_paths, &b->n_calib, err));
    BD_TRY(bd_shards_open(&b->calib, (const char *const *)b->calib_paths, (int)b->n_calib, err));
    b->calib_hashes = calloc((size_t)b->calib.n + 1, sizeof *b->calib_hashes);
    if (!b->calib_hashes) return no_memory(err);
    for (int i = 0; i < b->calib.n; i++) {
        BD_TRY(refuse_shard(b->calib.shards[i].sha256, &b->data.shards, "to --calib", err));
        memcpy(b->calib_hashes[i], b->calib.shards[i].sha256, 32);
    }
    uint64_t tail = (uint64_t)a->calib_tail;
    b->n_calib_tokens = tail && tail < b->calib.total ? tail : b->calib.total;
    b->calib_tokens = b->calib.tokens + (b->calib.total - b->n_calib_tokens);
    return BD_OK;
}

static bd_status choose_tensors(bench_run *b, bd_err *err) {
    const bd_graph *g = b->m->graph;
    const bd_cli_list *want = &b->a->tensors;
    b->quantized = calloc((size_t)g->n_params + 1, sizeof *b->quantized);
    if (!b->quantized) return no_memory(err);
    for (int i = 0; i < g->n_params; i++) {
        b->quantized[i] = want->n == 0;
        for (size_t k = 0; k < want->n; k++) b->quantized[i] |= bd_glob(want->items[k], g->params[i].name) != 0;
        if (b->quantized[i]) b->r.weights += (uint64_t)(g->params[i].rows * g->params[i].cols);
        else b->r.partly = true;
    }
    for (size_t k = 0; k < want->n; k++) {
        bool any = false;
        for (int i = 0; i < g->n_params; i++) any |= bd_glob(want->items[k], g->params[i].name) != 0;
        if (!any) return BD_FAIL(err, BD_E_UNKNOWN, "--tensors %.100s: no tensor has such a name", want->items[k]);
    }
    return BD_OK;
}

static bd_status make_zeroed(bench_run *b, bd_err *err) {
    const bd_graph *g = b->m->graph;
    if (!b->r.partly) return BD_OK;
    b->zeroed = *b->m;
    b->zeroed.params = bd_alloc_aligned(g->param_floats, sizeof(float));
    if (!b->zeroed.params) return no_memory(err);
    for (int i = 0; i < g->n_params; i++) {
        uint64_t at = g->params[i].offset;
        if (b->quantized[i])
            memcpy(b->zeroed.params + at, b->m->params + at,
                   (size_t)(g->params[i].rows * g->params[i].cols) * sizeof(float));
    }
    return BD_OK;
}

/* As given, or 2, 2.5, 3 and 3.5 bits per weight. */
static bd_status read_budgets(bench_run *b, bd_err *err) {
    const bd_cli_list *l = &b->a->budgets;
    b->n_budgets = l->n ? (int)l->n : 4;
    b->budgets = calloc((size_t)b->n_budgets, sizeof *b->budgets);
    if (!b->budgets) return no_memory(err);
    for (int i = 0; i < b->n_budgets; i++) {
        if (!l->n) {
            b->budgets[i] = b->r.weights * (uint64_t)(4 + i) / 16;
            continue;
        }
        const char *text = l->items[i];
        size_t digits = strspn(text, "0123456789");
        if (!digits || text[digits] || digits > 15 || !(b->budgets[i] = strtoull(text, NULL, 10)))
            return BD_FAIL(err, BD_E_USAGE, "--budget: '%.40s' is not a number of bytes", text);
    }
    return BD_OK;
}

static bd_status open_inputs(bench_run *b, const char *path, bd_err *err) {
    const quantize_args *a = b->a;
    bd_model_args ma = {path, a->model_file, a->sets.items, (int)a->sets.n, false, (uint64_t)a->common.max_memory};
    BD_TRY(bd_model_args_open(&b->m, &ma, err));
    if (a->dither != NO_DITHER)
        BD_TRY(bd_dither(&b->m, (uint64_t)a->dither, a->tensors.items, (int)a->tensors.n, &b->r.dithered_rows,
                         &b->r.matrix_rows, err));
    bd_protocol_default(&b->proto);
    if (b->m->has_protocol) b->proto = b->m->protocol;
    if (a->window) b->proto.window = (uint32_t)(a->window < UINT32_MAX ? a->window : UINT32_MAX);
    BD_TRY(bd_protocol_check(&b->proto, err));
    b->r.checkpoint = path;
    b->r.m = b->m;
    b->r.window = (int64_t)b->proto.window;
    BD_TRY(choose_tensors(b, err));
    BD_TRY(make_zeroed(b, err));
    BD_TRY(read_budgets(b, err));
    BD_TRY(open_recipes(b, err));
    return open_texts(b, err);
}

/* --- statistics --- */

static bool file_exists(const char *path) { return path[0] && access(path, F_OK) == 0; }

/* The file given is the default recipe's; others are beside it, named for what they differ in. */
static bd_status statistics_path(bd_bq_statistics *s, const char *file, bd_err *err) {
    if (!file) return BD_OK;
    bd_compile_recipe *usual = NULL;
    BD_TRY(bd_compile_recipe_open(&usual, NULL, NULL, 0, err));
    char tokens[32] = "", holdout[32] = "";
    if (s->tokens != usual->calib_tokens) snprintf(tokens, sizeof tokens, ".tokens%" PRIu64, s->tokens);
    if (s->holdout != usual->holdout) snprintf(holdout, sizeof holdout, ".holdout%g", s->holdout);
    const char *plain = s->plain == usual->plain_h ? "" : s->plain ? ".plain" : ".weighted";
    bd_compile_recipe_close(usual);
    int n = snprintf(s->path, sizeof s->path, "%s%s%s%s", file, plain, tokens, holdout);
    return n < (int)sizeof s->path ? BD_OK : BD_FAIL(err, BD_E_USAGE, "--stats: the path is too long");
}

static bd_status group_statistics(bench_run *b, bd_err *err) {
    b->r.statistics = calloc((size_t)b->r.n_recipes, sizeof *b->r.statistics);
    if (!b->r.statistics) return no_memory(err);
    for (int i = 0; i < b->r.n_recipes; i++) {
        const bd_compile_recipe *r = b->r.recipes[i].r;
        int k = 0;
        for (; k < b->r.n_statistics; k++) {
            const bd_bq_statistics *s = &b->r.statistics[k];
            if (s->tokens == r->calib_tokens && s->holdout == r->holdout && s->plain == r->plain_h) break;
        }
        b->r.recipes[i].statistics = k;
        if (k < b->r.n_statistics) continue;
        bd_bq_statistics *s = &b->r.statistics[b->r.n_statistics++];
        *s = (bd_bq_statistics){.tokens = r->calib_tokens, .holdout = r->holdout, .plain = r->plain_h};
        BD_TRY(statistics_path(s, b->a->stats, err));
        if (!b->calib.n && !file_exists(s->path))
            return BD_FAIL(err, BD_E_USAGE, "recipe %.100s: give training shards with --calib%s%.900s",
                           b->r.recipes[i].spec, s->path[0] ? ", or its statistics in " : "", s->path);
    }
    return BD_OK;
}

static bd_status collect(bench_run *b, bd_bq_statistics *s, bd_err *err) {
    double t0 = bd_now();
    bd_bench_peak_reset();
    if (file_exists(s->path)) {
        s->loaded = true;
        BD_TRY(bd_calibration_load(&s->c, b->m, s->path, err));
    } else {
        bd_calib_opts o = {.tokens = b->calib_tokens,
                           .n = b->n_calib_tokens,
                           .window = b->r.window,
                           .max_tokens = s->tokens,
                           .holdout = s->holdout,
                           .unweighted = s->plain,
                           .shards = (const uint8_t(*)[32])b->calib_hashes,
                           .n_shards = b->calib.n,
                           .progress = b->progress};
        BD_TRY(bd_calibrate(&s->c, b->m, b->be, &o, err));
        if (s->path[0]) BD_TRY(bd_calibration_save(s->c, b->m, s->path, err));
    }
    for (int i = 0; i < s->c->n_shards; i++)
        BD_TRY(refuse_shard(s->c->shards[i], &b->data.shards, "the statistics rest on it", err));
    s->seconds = bd_now() - t0;
    s->memory = bd_bench_peak_memory();
    if (s->memory > b->r.memory) b->r.memory = s->memory;
    return BD_OK;
}

/* --- candidates --- */

/* The model that the file holds, with the tensors that are not part of the comparison as they were. */
static bd_status dequantize(const bench_run *b, bd_model **out, const bd_buf *file, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
    bd_artifact *art = NULL;
    lim.allow_external = true;
    BD_TRY(bd_artifact_parse(&art, file->data, file->size, &lim, err));
    bd_model_opts mo = {.allow_external = true};
    bd_status st = bd_model_from_artifact(out, art, &mo, err);
    bd_artifact_close(art);
    const bd_graph *g = b->m->graph;
    if (!st && (*out)->graph->param_floats != g->param_floats)
        st = BD_FAIL(err, BD_E_MISMATCH, "the artifact's weights are laid out differently");
    for (int i = 0; i < g->n_params && !st; i++) {
        const bd_param *p = &g->params[i];
        if (!b->quantized[i])
            memcpy((*out)->params + p->offset, b->m->params + p->offset,
                   (size_t)(p->rows * p->cols) * sizeof(float));
    }
    if (st) {
        bd_model_close(*out);
        *out = NULL;
    }
    return st;
}

static bd_status compile_once(bench_run *b, bd_bq_candidate *c, const bd_model *m, uint64_t budget,
                              const bd_plan *plan, bd_buf *file, bd_compile_result *res, bd_err *err) {
    const bd_bq_recipe *q = &b->r.recipes[c->recipe];
    bd_compile_opts o = {.budget = budget,
                         .recipe = q->r,
                         .calibration = b->r.statistics[q->statistics].c,
                         .plan = plan,
                         .tokens = b->calib_tokens,
                         .n_tokens = b->n_calib_tokens,
                         .protocol = b->proto,
                         .progress = b->progress};
    if (b->data.tokenizer) {
        memcpy(o.tokenizer_model_hash, b->data.tokenizer->model_hash, 32);
        memcpy(o.tokenizer_tables_hash, b->data.tokenizer->tables_hash, 32);
    }
    *res = (bd_compile_result){0};
    bd_bench_peak_reset();
    double t0 = bd_now();
    bd_status st = bd_compile(file, res, m, b->be, &o, err);
    c->seconds += bd_now() - t0;
    double peak = bd_bench_peak_memory();
    if (peak > c->memory) c->memory = peak;
    return st;
}

static void take_result(bd_bq_candidate *c, const bd_compile_result *res) {
    c->limit = res->limit;
    c->number = res->number;
    c->nats = res->nats;
    c->nats_per_byte = res->nats_per_byte;
    c->tries = res->tries;
    c->seconds_prepare = res->seconds_prepare;
    c->seconds_tune = res->seconds_tune;
    c->seconds_solve = res->seconds_solve;
    c->seconds_pack = res->seconds_pack;
}

/* A budget that limits nothing. */
static uint64_t plenty(const bench_run *b) { return b->m->graph->param_count * 2 * sizeof(float) + (1 << 20); }

static bool has_trial(const bench_run *b, const bd_compile_recipe *r) {
    return b->calib_tokens && (r->n_tune_lambda > 1 || r->n_tune_rho > 1 || r->n_tune_states > 1);
}

/* A trial needs the tensors that stay float as they are, the count of bytes must not have them: compile, and carry
 * out the plan on the model without them. What they take is known only then, so the budget is approached. */
static bd_status compile_around(bench_run *b, bd_bq_candidate *c, uint64_t budget, bd_buf *out, bd_err *err) {
    bd_bq_recipe *q = &b->r.recipes[c->recipe];
    uint64_t left = q->left_bytes ? q->left_bytes : (b->m->graph->param_count - b->r.weights) * sizeof(float);
    bd_status st = BD_OK;
    for (int tries = 0; tries < 4 && !st; tries++) {
        bd_buf whole, part;
        bd_compile_result res = {0}, carried = {0};
        bd_buf_init(&whole);
        bd_buf_init(&part);
        c->seconds = 0;
        st = compile_once(b, c, b->m, budget ? budget + left : plenty(b), NULL, &whole, &res, err);
        if (!st) st = compile_once(b, c, &b->zeroed, plenty(b), res.plan, &part, &carried, err);
        if (!st) {
            take_result(c, &res);
            left = whole.size - (part.size < whole.size ? part.size : whole.size);
        }
        bool hit = part.size <= budget && part.size >= budget / 200 * 199;
        /* the finest setting is an answer if what it left room for was known */
        bool near = !budget || hit || (res.limit == BD_LIMIT_FINEST && tries > 0 && part.size <= budget);
        bd_buf_free(&whole);
        bd_buf_free(out);
        *out = part;
        bd_compile_result_free(&res);
        bd_compile_result_free(&carried);
        if (near) break;
    }
    q->left_bytes = left;
    return st;
}

/* budget 0: the recipe's own point. */
static bd_status compile_file(bench_run *b, bd_bq_candidate *c, uint64_t budget, bd_buf *file, bd_err *err) {
    if (b->r.partly && has_trial(b, b->r.recipes[c->recipe].r)) return compile_around(b, c, budget, file, err);
    bd_compile_result res;
    bd_status st =
        compile_once(b, c, b->r.partly ? &b->zeroed : b->m, budget ? budget : plenty(b), NULL, file, &res, err);
    take_result(c, &res);
    bd_compile_result_free(&res);
    return st;
}

static bd_status compile_point(bench_run *b, int recipe, uint64_t budget, bd_err *err) {
    const bd_bq_recipe *q = &b->r.recipes[recipe];
    bd_bq_candidate *c = &b->r.candidates[b->r.n];
    bd_buf file;
    *c = (bd_bq_candidate){.recipe = recipe, .budget = budget};
    b->r.points[b->r.n] = (bd_bench_point){0};
    if (bd_stopped(b->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
    if (budget) bd_note(b->progress, "compile %.100s, %" PRIu64 " bytes", q->spec, budget);
    else bd_note(b->progress, "compile %.100s", q->spec);
    bd_buf_init(&file);
    bd_status st = compile_file(b, c, budget, &file, err);
    if (c->memory > b->r.memory) b->r.memory = c->memory;
    b->r.points[b->r.n].bytes = file.size;
    if (st == BD_E_BUDGET && budget) {
        snprintf(b->r.unreachable[b->r.n_unreachable], sizeof *b->r.unreachable, "%.60s, %" PRIu64 " bytes: %.220s",
                 q->spec, budget, err ? err->msg : "");
        bd_note(b->progress, "%s", b->r.unreachable[b->r.n_unreachable++]);
        bd_buf_free(&file);
        return BD_OK;
    }
    if (!st) st = dequantize(b, &c->m, &file, err);
    bd_buf_free(&file);
    if (st) bd_err_prefix(err, "%.60s: ", q->spec);
    else b->r.n++;
    return st;
}

/* --- comparison --- */

static bd_status keep_windows(bench_run *b, bd_divergence *d, bd_err *err) {
    if (b->nll_float) return BD_OK; /* the same windows again */
    b->window_bytes = calloc(d->windows, sizeof *b->window_bytes);
    if (!b->window_bytes) return no_memory(err);
    for (uint64_t w = 0; w < d->windows; w++)
        for (int64_t t = 1; t <= b->r.window; t++)
            b->window_bytes[w] += b->data.stream.bytes[w * (uint64_t)b->r.window + (uint64_t)t];
    b->nll_float = d->nll_float;
    d->nll_float = NULL;
    b->r.windows = (bd_bench_windows){d->windows, b->nll_float, b->window_bytes};
    double bytes = 0;
    for (uint64_t w = 0; w < d->windows; w++) bytes += b->window_bytes[w];
    return bytes > 0 ? BD_OK : BD_FAIL(err, BD_E_RANGE, "the targets of these windows stand for no bytes of text");
}

/* All candidates that were not measured yet, in one run. */
static bd_status measure(bench_run *b, bd_err *err) {
    const float *params[MAX_TOGETHER] = {NULL};
    int n = b->r.n - b->measured;
    if (n == 0) return BD_OK;
    for (int i = 0; i < n; i++) params[i] = b->r.candidates[b->measured + i].m->params;
    bd_divergence_opts o = {.tokens = b->data.stream.tokens,
                            .n = b->data.stream.n,
                            .window = b->r.window,
                            .max_windows = (uint64_t)b->a->windows,
                            .progress = b->progress};
    bd_divergence d;
    double t0 = bd_now();
    BD_TRY(bd_divergence_measure(&d, b->m, b->be, params, n, &o, err));
    b->r.seconds_compare += bd_now() - t0;
    if (bd_bench_peak_memory() > b->r.memory) b->r.memory = bd_bench_peak_memory();
    bd_status st = keep_windows(b, &d, err);
    for (int i = 0; i < n && !st; i++) {
        int k = b->measured + i;
        b->r.points[k].nll = d.nll[i];
        b->r.points[k].divergence = d.kl[i];
        d.nll[i] = d.kl[i] = NULL;
        bd_bench_score(&b->r.points[k], &b->r.windows);
        bd_model_close(b->r.candidates[k].m);
        b->r.candidates[k].m = NULL;
    }
    bd_divergence_free(&d);
    b->measured += n;
    return st;
}

static bd_status run_points(bench_run *b, bd_err *err) {
    int most = b->r.n_recipes * (b->n_budgets + 1);
    b->r.candidates = calloc((size_t)most, sizeof *b->r.candidates);
    b->r.points = calloc((size_t)most, sizeof *b->r.points);
    b->r.unreachable = calloc((size_t)most, sizeof *b->r.unreachable);
    if (!b->r.candidates || !b->r.points || !b->r.unreachable) return no_memory(err);
    uint64_t fit = WAITING_FLOATS / (b->m->graph->param_floats + 1);
    int together = fit < 1 ? 1 : fit > MAX_TOGETHER ? MAX_TOGETHER : (int)fit;
    for (int i = 0; i < b->r.n_recipes; i++)
        for (int k = 0; k < (b->r.recipes[i].r->fill ? b->n_budgets : 1); k++) {
            BD_TRY(compile_point(b, i, b->r.recipes[i].r->fill ? b->budgets[k] : 0, err));
            if (b->r.n - b->measured == together) BD_TRY(measure(b, err));
        }
    BD_TRY(measure(b, err));
    if (b->r.n == 0) return BD_FAIL(err, BD_E_BUDGET, "no budget can be reached: %.300s", b->r.unreachable[0]);
    return BD_OK;
}

static bd_status run_all(bench_run *b, bd_err *err) {
    double t0 = bd_now();
    for (int i = 0; i < b->r.n_statistics; i++) BD_TRY(collect(b, &b->r.statistics[i], err));
    const bd_bq_recipe *ref = &b->r.recipes[b->r.reference];
    BD_TRY(bd_forecast_make(&b->r.forecast, b->r.statistics[ref->statistics].c, b->m, ref->r->damp, ref->r->rho,
                            b->quantized, err));
    BD_TRY(run_points(b, err));
    b->r.seconds_total = bd_now() - t0;
    return BD_OK;
}

static void close_run(bench_run *b) {
    for (int i = 0; i < b->r.n_recipes; i++) {
        bd_compile_recipe_close(b->r.recipes[i].r);
        free(b->specs[i]);
    }
    for (int i = 0; i < b->r.n_statistics; i++) bd_calibration_destroy(b->r.statistics[i].c);
    for (int i = 0; i < b->r.n; i++) {
        bd_model_close(b->r.candidates[i].m);
        free(b->r.points[i].nll);
        free(b->r.points[i].divergence);
    }
    free(b->r.recipes);
    free(b->specs);
    free(b->r.statistics);
    free(b->r.candidates);
    free(b->r.points);
    free(b->r.unreachable);
    bd_forecast_free(&b->r.forecast);
    free(b->budgets);
    free(b->quantized);
    free(b->zeroed.params);
    free(b->calib_hashes);
    free(b->window_bytes);
    free(b->nll_float);
    bd_data_close(&b->data);
    bd_shards_close(&b->calib);
    bd_names_free(b->calib_paths, b->n_calib);
    bd_backend_close(b->be);
    bd_model_close(b->m);
}

/* --- the command --- */

static bd_status check_args(const quantize_args *a, bd_err *err) {
    if (!a->data.n) return BD_FAIL(err, BD_E_USAGE, "give shards to score with --data");
    if (!a->calib.n && !a->stats) return BD_FAIL(err, BD_E_USAGE, "give training shards with --calib");
    if (a->windows < 1) return BD_FAIL(err, BD_E_USAGE, "--windows must be at least 1");
    if (a->budgets.n > 100 || a->recipes.n > 100)
        return BD_FAIL(err, BD_E_USAGE, "at most 100 recipes and 100 budgets");
    return BD_OK;
}

static int print_dry_run(const bench_run *b) {
    int points = 0;
    for (int i = 0; i < b->r.n_recipes; i++) points += b->r.recipes[i].r->fill ? b->n_budgets : 1;
    double forward = bd_graph_flops(b->m->graph, b->r.window), calib = 0;
    for (int i = 0; i < b->r.n_statistics; i++) calib += 3 * forward * (double)b->r.statistics[i].tokens;
    double compare = forward * (double)b->a->windows * (double)b->r.window * (points + 1.0);
    if (b->a->common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "points", json_integer(points));
        json_object_set_new(o, "weights", bd_cli_u64(b->r.weights));
        json_object_set_new(o, "statistics_flops", bd_cli_real(calib));
        json_object_set_new(o, "compare_flops", bd_cli_real(compare));
        return bd_cli_print_json(o);
    }
    printf("points      %d, of %" PRIu64 " weights\n", points, b->r.weights);
    printf("statistics  %d passes, %.4g FLOPs\n", b->r.n_statistics, calib);
    printf("comparison  %.4g FLOPs, in windows of %" PRId64 "; compilations come on top\n", compare, b->r.window);
    return 0;
}

static int run(const quantize_args *a, const char *path) {
    bd_err err = {0};
    bench_run b = {.a = a};
    bd_cli_progress progress;
    bd_out svg = {0};
    int rc = 0;
    bd_status st = check_args(a, &err);
    if (!st) st = open_inputs(&b, path, &err);
    if (!st) st = group_statistics(&b, &err);
    if (!st && a->common.dry_run) {
        rc = print_dry_run(&b);
        goto done;
    }
    if (!st && a->svg) st = bd_out_open(&svg, a->svg, &err); /* now: not after an hour */
    bd_backend_args ba = {a->backend, a->isa, "exact", a->common.threads};
    if (!st) st = bd_backend_args_open(&b.be, &ba, &err);
    if (!st) {
        b.progress = bd_cli_progress_start(&progress);
        st = run_all(&b, &err);
        bd_cli_progress_end(&progress);
    }
    if (!st && a->svg) {
        bd_buf text;
        bd_buf_init(&text);
        bd_bq_svg(&b.r, &text);
        st = bd_buf_check(&text, &err);
        bd_out_put(&svg, text.data, text.size);
        if (!st) st = bd_out_commit(&svg, &err);
        bd_buf_free(&text);
    }
    if (!st) st = bd_bq_print(&b.r, a->common.json, &rc, &err);
done:
    if (svg.path) bd_out_abort(&svg);
    if (st) rc = bd_cli_error(&err, a->common.json);
    close_run(&b);
    return rc;
}

int bd_bench_quantize(int argc, char **argv) {
    quantize_args a = {.backend = "cpu", .windows = DEFAULT_WINDOWS, .dither = NO_DITHER};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"calib", BD_CLI_LIST, &a.calib, "SHARD...", "training shards for the statistics and for tuning"},
        {"calib-tail", BD_CLI_COUNT, &a.calib_tail, "N", "use only the last N tokens of the training shards"},
        {"data", BD_CLI_LIST, &a.data, "SHARD...", "validation shards to score on"},
        {"tokenizer", BD_CLI_STRING, &a.tokenizer, "TOK.model", "gives the tokens their bytes"},
        {"recipe", BD_CLI_EACH, &a.recipes, "NAME|FILE[:key=value,...]",
         "recipe to measure, with knobs (default: the default recipe)"},
        {"budget", BD_CLI_LIST, &a.budgets, "BYTES...",
         "sizes for recipes that fill a budget (default: 2, 2.5, 3 and 3.5 bits per weight); others have one "
         "point"},
        {"knob", BD_CLI_EACH, &a.knobs, "key=value", "knob for every recipe, before its own"},
        {"window", BD_CLI_COUNT, &a.window, "N", "tokens per window (default: the model's, or 1024)"},
        {"windows", BD_CLI_COUNT, &a.windows, "N", "windows to score, from the start"},
        {"tensors", BD_CLI_LIST, &a.tensors, "PATTERN...",
         "quantize only these; the others stay float and are not counted"},
        {"dither", BD_CLI_INT, &a.dither, "SEED",
         "the checkpoint came from int8 codes: add noise of one code's width before anything else"},
        {"stats", BD_CLI_STRING, &a.stats, "FILE",
         "use these statistics if the file exists, else keep them there; recipes that need other ones have them "
         "beside it"},
        {"svg", BD_CLI_STRING, &a.svg, "FILE.svg", "chart of gap and divergence over bytes"},
        {"model", BD_CLI_STRING, &a.model_file, "FILE.model", "model file (default: recognise the checkpoint)"},
        {"set", BD_CLI_EACH, &a.sets, "constant=value", "constant of the model that a checkpoint does not tell"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512", "instruction set of the cpu backend"},
    };
    const bd_cli_spec spec = {
        .name = "bench quantize",
        .summary = "what recipes lose at given sizes, against the float model",
        .usage = "bench quantize CHECKPOINT --calib SHARD... --data SHARD... [options]",
        .text =
            "Compiles the checkpoint with every recipe at every budget and compares what comes out with the float "
            "model on the same windows: loss (gap, in bits per byte of text) and KL divergence, which is several "
            "times less noisy, each with its standard error over windows. Then what each recipe needs where the "
            "default one stands, by log-linear interpolation, errors from resampling the windows. Before that, the "
            "forecast: what the spread of sensitivities over tensors, rows and columns promises.\n"
            "The validation shards decide nothing: a shard that is also one of --calib is refused.",
        .examples =
            "  birdie bench quantize model.pt --calib train.bin --data val.bin --tokenizer tok.model \\\n"
            "      --recipe trellis --recipe gptq-lqer-pgrp:k=10 --budget 440000 525000 --svg curve.svg\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
