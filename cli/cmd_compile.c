/* birdie compile: a checkpoint and a byte budget in, an artifact out. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/numerics.h"
#include "base/sha256.h"
#include "base/thread.h"
#include "cli/backend_args.h"
#include "cli/cli.h"
#include "cli/data_args.h"
#include "cli/protocol_json.h"
#include "cli/score_json.h"
#include "compiler/compile.h"
#include "kernels/peak.h"

const char bd_cmd_compile_summary[] = "quantize and pack a checkpoint under a byte budget";

typedef struct compile_args {
    bd_cli_common common;
    bd_cli_list sets, calib, claim, knobs;
    const char *model_file, *recipe, *out, *protocol, *plan, *stats, *tokenizer, *backend, *isa, *mode;
    int64_t budget, max_tokens;
} compile_args;

/* What the run made, for the report. */
typedef struct compile_report {
    bd_compile_result res;
    bd_claim claim;
    bd_score score;
    uint8_t sha256[32];
    double seconds_calibrate, seconds_compile, seconds_claim;
    uint64_t calib_tokens;
    double tokens_per_byte; /* of the calibration text; 0: no tokenizer */
    double weights;         /* of matrices */
} compile_report;

static bool file_exists(const char *path) { return path && access(path, F_OK) == 0; }

/* --- stages --- */

static bd_status read_plan(bd_plan **plan, const char *path, bd_err *err) {
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_plan_parse(plan, (const char *)m.data, m.size, err);
    bd_map_close(&m);
    if (st) bd_err_file(err, path);
    return st;
}

static bd_status write_plan(const bd_plan *plan, const char *path, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_plan_print(plan, &text, err);
    if (!st) st = bd_file_write(path, text.data, text.size, err);
    bd_buf_free(&text);
    return st;
}

/* A text that decides quantization must not be the text that is scored. */
static bd_status refuse_overlap(const bd_shards *calib, const bd_shards *claim, bd_err *err) {
    for (int i = 0; i < calib->n; i++)
        for (int k = 0; k < claim->n; k++)
            if (!memcmp(calib->shards[i].sha256, claim->shards[k].sha256, 32))
                return BD_FAIL(err, BD_E_REFUSED,
                               "%s is given both to --calib and to --claim: never calibrate on what is scored",
                               calib->shards[i].path);
    return BD_OK;
}

/* The same of statistics that were collected before. */
static bd_status refuse_scored(const bd_calibration *c, const bd_shards *claim, const char *stats, bd_err *err) {
    for (int i = 0; c && i < c->n_shards; i++)
        for (int k = 0; k < claim->n; k++)
            if (!memcmp(c->shards[i], claim->shards[k].sha256, 32))
                return BD_FAIL(err, BD_E_REFUSED,
                               "%s is given to --claim, and the statistics in %s come from it: never calibrate on "
                               "what is scored",
                               claim->shards[k].path, stats ? stats : "--stats");
    return BD_OK;
}

/* Does the recipe have something to try on held-out text? */
static bool wants_trial(const bd_compile_recipe *r) {
    return r->n_tune_lambda > 1 || r->n_tune_rho > 1 || r->n_tune_states > 1;
}

/* Can the recipe do without statistics? */
static bool needs_statistics(const bd_compile_recipe *r) {
    bool steps = false;
    for (int i = 0; i < r->n_rules; i++)
        if (r->rules[i].setting.by->method == BD_Q_TCQ) steps = true;
    return steps || r->feedback || r->small_by_sensitivity;
}

static bd_status calibrate(bd_calibration **c, const compile_args *a, const bd_model *m, bd_backend *be,
                           const bd_shards *calib, const bd_compile_recipe *r, const bd_protocol *proto, bool trial,
                           const bd_progress *p, bd_err *err) {
    if (file_exists(a->stats)) {
        BD_TRY(bd_calibration_load(c, m, a->stats, err));
        return bd_calibration_check_kind(*c, r->plain_h, err);
    }
    if (!calib->n && !needs_statistics(r)) return BD_OK;
    if (!calib->n)
        return BD_FAIL(err, BD_E_USAGE, "give training shards with --calib (or collected ones with --stats)");
    uint8_t(*hashes)[32] = calloc((size_t)calib->n, sizeof *hashes);
    if (!hashes) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < calib->n; i++) memcpy(hashes[i], calib->shards[i].sha256, 32);
    bd_calib_opts o = {.tokens = calib->tokens,
                       .n = calib->total,
                       .window = (int64_t)proto->window,
                       .max_tokens = r->calib_tokens,
                       .holdout = trial ? r->holdout : 0,
                       .unweighted = r->plain_h,
                       .shards = (const uint8_t(*)[32])hashes,
                       .n_shards = calib->n,
                       .progress = p};
    bd_status st = bd_calibrate(c, m, be, &o, err);
    free(hashes);
    if (st) return st;
    return a->stats ? bd_calibration_save(*c, m, a->stats, err) : BD_OK;
}

/* Tokens per byte of calibration text, of up to a million tokens at its beginning. */
static double tokens_per_byte(const bd_shards *calib, const bd_tokenizer *tok) {
    uint64_t n = calib->total < 1000000 ? calib->total : 1000000, bytes = 0, tokens = 0;
    if (!tok) return 0;
    for (uint64_t i = 1; i < n; i++) {
        if (calib->tokens[i] >= tok->n || calib->tokens[i - 1] >= tok->n) return 0;
        bytes += bd_tokenizer_bytes(tok, calib->tokens[i - 1], calib->tokens[i]);
        tokens++;
    }
    return bytes ? (double)tokens / (double)bytes : 0;
}

/* Score the bytes as they stand, then put the claim into them. */
static bd_status make_claim(bd_buf *file, compile_report *rep, const compile_args *a, const bd_data *data,
                            const bd_protocol *proto, bd_backend *be, const bd_progress *p, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
    lim.allow_external = true; /* these bytes are our own */
    bd_artifact *art = NULL;
    bd_model *m = NULL;
    bd_status st = bd_artifact_parse(&art, file->data, file->size, &lim, err);
    if (!st) st = bd_model_from_artifact(&m, art, NULL, err);
    if (!st) {
        bd_eval_opts o = {.max_tokens = (uint64_t)a->max_tokens, .progress = p};
        st = bd_evaluate(m, be, &data->stream, proto, &o, &rep->score, err);
    }
    bd_model_close(m);
    bd_artifact_close(art);
    if (st) return st;
    bd_claim *c = &rep->claim;
    *c = (bd_claim){.present = true,
                    .numerics = BD_NUMERICS_VERSION,
                    .n_shards = (uint32_t)data->shards.n,
                    .first_target = 1,
                    .tokens = rep->score.tokens,
                    .bytes = rep->score.bytes,
                    .nll_q32 = rep->score.nll_q32};
    for (int i = 0; i < data->shards.n; i++) memcpy(c->shard_sha256[i], data->shards.shards[i].sha256, 32);
    return bd_artifact_set_claim(file->data, file->size, c, err);
}

/* --- reports --- */

static double bpb(const compile_report *r, double nats) {
    return r->tokens_per_byte > 0 ? nats / 0.6931471805599453 * r->tokens_per_byte : NAN;
}

static double peak_memory(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss * 1024 : 0;
}

/* Tensors of one kind in all layers: what they take. */
typedef struct kind_sum {
    char name[64];
    int tensors;
    double weights, bytes, nats;
} kind_sum;

/* "blocks.3.attn.c_q.weight" -> "attn.c_q" */
static void kind_of(char *out, size_t size, const char *name) {
    if (!strncmp(name, "blocks.", 7)) {
        name += 7;
        while (*name >= '0' && *name <= '9') name++;
        if (*name == '.') name++;
    }
    size_t n = strlen(name);
    if (n > 7 && !strcmp(name + n - 7, ".weight")) n -= 7;
    snprintf(out, size, "%.*s", n < size ? (int)n : (int)size - 1, name);
}

/* Kinds in order of appearance; small tensors are one of them. */
static kind_sum *sum_kinds(const bd_plan *p, const bd_graph *g, int *n) {
    kind_sum *k = calloc((size_t)p->n_tensors + 1, sizeof *k);
    *n = 0;
    for (int i = 0; k && i < p->n_tensors; i++) {
        char name[64];
        const bd_plan_tensor *t = &p->tensors[i];
        if (g->params[i].role == BD_ROLE_VECTOR) snprintf(name, sizeof name, "small tensors");
        else kind_of(name, sizeof name, t->name);
        int at = 0;
        while (at < *n && strcmp(k[at].name, name) != 0) at++;
        if (at == *n) memcpy(k[(*n)++].name, name, sizeof name);
        k[at].tensors++;
        k[at].weights += (double)(g->params[i].rows * g->params[i].cols);
        k[at].bytes += t->bytes > 0 ? t->bytes : 0;
        k[at].nats += t->nats;
    }
    return k;
}

static double rest_bytes(const compile_report *r, const kind_sum *k, int n) {
    double rest = (double)r->res.artifact_bytes;
    for (int i = 0; i < n; i++) rest -= k[i].bytes;
    return rest;
}

static json_t *groups_json(const bd_plan *p) {
    json_t *list = json_array();
    for (int g = 0; g < p->n_groups; g++) {
        const bd_plan_tensor *first = NULL;
        int tensors = 0;
        for (int i = 0; i < p->n_tensors; i++)
            if (!strcmp(p->tensors[i].group, p->groups[g].name)) {
                if (!first) first = &p->tensors[i];
                tensors++;
            }
        json_t *o = json_object(), *params = json_object();
        const bd_quantizer *by = first ? bd_quantizer_find(first->quantizer) : NULL;
        json_object_set_new(o, "name", bd_cli_str(p->groups[g].name));
        json_object_set_new(o, "method", json_string(by ? bd_qmethod_name(by->method) : "none"));
        json_object_set_new(params, "quantizer", json_string(first ? first->quantizer : "none"));
        for (int i = 0; first && i < first->n_params; i++)
            json_object_set_new(params, first->params[i].key, bd_cli_real(strtod(first->params[i].value, NULL)));
        json_object_set_new(params, "codec", json_string(bd_codec_name(p->groups[g].codec)));
        json_object_set_new(params, "tensors", json_integer(tensors));
        json_object_set_new(o, "params", params);
        json_object_set_new(o, "bytes", bd_cli_u64(p->groups[g].bytes));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *kinds_json(const kind_sum *k, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "name", bd_cli_str(k[i].name));
        json_object_set_new(o, "tensors", json_integer(k[i].tensors));
        json_object_set_new(o, "weights", bd_cli_real(k[i].weights));
        json_object_set_new(o, "bytes", bd_cli_real(k[i].bytes));
        json_object_set_new(o, "bits_per_weight", bd_cli_real(8 * k[i].bytes / k[i].weights));
        json_object_set_new(o, "nats", bd_cli_real(k[i].nats));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *trials_json(const bd_compile_result *r) {
    json_t *list = json_array();
    for (int i = 0; i < r->n_trials; i++) {
        const bd_trial *t = &r->trials[i];
        json_t *o = json_object();
        json_object_set_new(o, "states", json_integer(t->states));
        json_object_set_new(o, "lambda", bd_cli_real(t->lambda));
        json_object_set_new(o, "rho", bd_cli_real(t->rho));
        json_object_set_new(o, "nll", bd_cli_real(t->nll));
        json_object_set_new(o, "nll_stderr", bd_cli_real(t->stderr_nll));
        json_object_set_new(o, "kl", bd_cli_real(t->kl));
        json_object_set_new(o, "chosen", json_boolean(t->chosen));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *measured_json(const compile_report *r) {
    json_t *t = json_object();
    json_object_set_new(t, "seconds_calibrate", bd_cli_real(r->seconds_calibrate));
    json_object_set_new(t, "seconds_prepare", bd_cli_real(r->res.seconds_prepare));
    json_object_set_new(t, "seconds_tune", bd_cli_real(r->res.seconds_tune));
    json_object_set_new(t, "seconds_solve", bd_cli_real(r->res.seconds_solve));
    json_object_set_new(t, "seconds_pack", bd_cli_real(r->res.seconds_pack));
    json_object_set_new(t, "seconds_claim", bd_cli_real(r->seconds_claim));
    json_object_set_new(t, "files_priced", json_integer(r->res.tries));
    json_object_set_new(t, "peak_memory_bytes", bd_cli_real(peak_memory()));
    return t;
}

static json_t *report_json(const compile_report *r, const compile_args *a, const kind_sum *k, int n) {
    char hex[65];
    bd_sha256_hex(r->sha256, hex);
    json_t *o = json_object(), *p = json_object();
    json_object_set_new(o, "artifact_bytes", bd_cli_u64(r->res.artifact_bytes));
    json_object_set_new(o, "budget", bd_cli_i64(a->budget));
    json_object_set_new(o, "predicted_bytes", bd_cli_u64(r->res.predicted_bytes));
    json_object_set_new(o, "sha256", json_string(hex));
    json_object_set_new(o, "limit", json_string(bd_compile_limit_name(r->res.limit)));
    json_object_set_new(o, "number", bd_cli_real(r->res.number));
    json_object_set_new(o, "bits_per_weight", bd_cli_real(8 * (double)r->res.artifact_bytes / r->weights));
    json_object_set_new(o, "groups", groups_json(r->res.plan));
    json_object_set_new(o, "kinds", kinds_json(k, n));
    json_object_set_new(p, "nats", bd_cli_real(r->res.nats));
    json_object_set_new(p, "val_bpb", bd_cli_real(bpb(r, r->res.nats)));
    json_object_set_new(p, "nats_per_byte", bd_cli_real(r->res.nats_per_byte));
    json_object_set_new(p, "val_bpb_per_1000_bytes", bd_cli_real(bpb(r, -1000 * r->res.nats_per_byte)));
    json_object_set_new(o, "predicted_loss", p);
    json_object_set_new(o, "trials", trials_json(&r->res));
    json_t *claim = bd_claim_json(&r->claim);
    if (r->claim.present) json_object_set_new(claim, "val_bpb", bd_cli_real(r->score.val_bpb));
    json_object_set_new(o, "claim", claim);
    json_object_set_new(o, "measured", measured_json(r));
    return o;
}

static void print_sizes(const compile_report *r, const kind_sum *k, int n) {
    printf("%-24s %9s %12s %8s %12s\n", "tensors", "weights", "bytes", "bits", "loss, nats");
    for (int i = 0; i < n; i++)
        printf("%-24s %9.0f %12.0f %8.3f %12.3g\n", k[i].name, k[i].weights, k[i].bytes,
               8 * k[i].bytes / k[i].weights, k[i].nats);
    printf("%-24s %9s %12.0f\n", "text, plan and header", "", rest_bytes(r, k, n));
    printf("%-24s %9.0f %12" PRIu64 " %8.3f %12.3g\n", "all", r->weights, r->res.artifact_bytes,
           8 * (double)r->res.artifact_bytes / r->weights, r->res.nats);
}

static void print_trials(const bd_compile_result *r) {
    for (int i = 0; i < r->n_trials; i++) {
        const bd_trial *t = &r->trials[i];
        printf("%s states %-3d lambda %-6g rho %-6g cross-entropy %.5f (+-%.5f), KL %.5f%s\n",
               i ? "          " : "trial     ", t->states, t->lambda, t->rho, t->nll, t->stderr_nll, t->kl,
               t->chosen ? "  chosen" : "");
    }
}

static void print_loss(const compile_report *r) {
    if (!isfinite(r->res.nats)) return;
    printf("predicted  loss +%.5f nats per token", r->res.nats);
    if (r->tokens_per_byte > 0) printf(", val_bpb +%.5f", bpb(r, r->res.nats));
    if (isfinite(r->res.nats_per_byte)) {
        printf("; 1,000 more bytes: %.3g nats", -1000 * r->res.nats_per_byte);
        if (r->tokens_per_byte > 0) printf(", val_bpb %.3g", bpb(r, -1000 * r->res.nats_per_byte));
    }
    printf("\n");
}

static int print_report(const compile_report *r, const compile_args *a, const bd_graph *g) {
    char hex[65];
    bd_sha256_hex(r->sha256, hex);
    int n = 0;
    kind_sum *k = sum_kinds(r->res.plan, g, &n);
    if (a->common.json) {
        int rc = bd_cli_print_json(report_json(r, a, k, n));
        free(k);
        return rc;
    }
    printf("artifact   %s: %" PRIu64 " bytes of %" PRId64 " (%.3f%% filled", a->out, r->res.artifact_bytes,
           a->budget, 100.0 * (double)r->res.artifact_bytes / (double)a->budget);
    if (r->res.limit != BD_LIMIT_BUDGET) printf(", limit: %s", bd_compile_limit_name(r->res.limit));
    printf(")\nsha256     %s\n", hex);
    print_sizes(r, k, n);
    free(k);
    for (int i = 0; i < r->res.plan->n_groups; i++)
        printf("%s %-14s %10" PRIu64 " bytes  %s\n", i ? "          " : "groups    ", r->res.plan->groups[i].name,
               r->res.plan->groups[i].bytes, bd_codec_name(r->res.plan->groups[i].codec));
    print_trials(&r->res);
    print_loss(r);
    if (r->claim.present)
        printf("claim      val_bpb %.6f on %" PRIu64 " tokens, nll_q32 %" PRId64 "\n", r->score.val_bpb,
               r->claim.tokens, r->claim.nll_q32);
    printf(
        "time       calibrate %.1f s, prepare %.1f s, tune %.1f s, solve %.1f s (%d files priced), pack %.1f s, "
        "claim %.1f s; peak memory %.0f MB\n",
        r->seconds_calibrate, r->res.seconds_prepare, r->res.seconds_tune, r->res.seconds_solve, r->res.tries,
        r->res.seconds_pack, r->seconds_claim, peak_memory() / 1e6);
    return 0;
}

static int print_dry_run(const compile_args *a, const bd_model *m, const bd_compile_recipe *r,
                         const bd_protocol *p) {
    double flops = 3 * bd_graph_flops(m->graph, p->window) * (double)r->calib_tokens; /* forward and backward */
    double seconds = flops / (0.5e9 * bd_peak_gflops((int)a->common.threads));
    /* Weights, three sets of codes, and twice the Hessians: of the statistics and factorized. */
    uint64_t bytes = m->graph->param_count * 10;
    for (int i = 0; i < m->graph->n_params; i++)
        if (m->graph->params[i].role != BD_ROLE_VECTOR)
            bytes += (uint64_t)(m->graph->params[i].cols * m->graph->params[i].cols) * 16;
    if (a->common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "parameters", bd_cli_u64(m->graph->param_count));
        json_object_set_new(o, "bits_per_weight",
                            bd_cli_real(8.0 * (double)a->budget / (double)m->graph->param_count));
        json_object_set_new(o, "flops", bd_cli_real(flops));
        json_object_set_new(o, "memory_bytes", bd_cli_u64(bytes));
        json_object_set_new(o, "seconds", bd_cli_real(seconds));
        return bd_cli_print_json(o);
    }
    printf("parameters  %" PRIu64 ", %.3f bits each under the budget\n", m->graph->param_count,
           8.0 * (double)a->budget / (double)m->graph->param_count);
    printf("calibration %.4g FLOPs, about %.0f s; memory about %" PRIu64 " bytes\n", flops, seconds, bytes);
    return 0;
}

/* --- the command --- */

static bd_status check_args(const compile_args *a, bd_err *err) {
    if (a->budget <= 0) return BD_FAIL(err, BD_E_USAGE, "give the size allowed with --budget BYTES");
    if (!a->out && !a->common.dry_run) return BD_FAIL(err, BD_E_USAGE, "give the file to write with --out");
    if (a->max_tokens && !a->claim.n)
        return BD_FAIL(err, BD_E_USAGE, "--max-tokens cuts the claim; give its shards with --claim");
    if (a->claim.n > BD_CLAIM_MAX_SHARDS)
        return BD_FAIL(err, BD_E_USAGE, "a claim names at most %d shards", BD_CLAIM_MAX_SHARDS);
    return BD_OK;
}

typedef struct compile_run {
    bd_model *m;
    bd_compile_recipe *recipe;
    bd_tokenizer *tok;
    bd_calibration *calibration;
    bd_plan *plan;
    bd_backend *be;
    bd_data claim;
    char **calib_paths;
    size_t n_calib;
    bd_shards calib;
    bd_buf file;
    bd_protocol proto;
} compile_run;

static bd_status open_inputs(compile_run *c, const compile_args *a, const char *path, bd_err *err) {
    bd_model_args ma = {path, a->model_file, a->sets.items, (int)a->sets.n, false, (uint64_t)a->common.max_memory};
    BD_TRY(bd_compile_recipe_open(&c->recipe, a->recipe, a->knobs.items, (int)a->knobs.n, err));
    BD_TRY(bd_model_args_open(&c->m, &ma, err));
    bd_protocol_default(&c->proto);
    if (c->m->has_protocol) c->proto = c->m->protocol;
    if (a->protocol) BD_TRY(bd_protocol_load(&c->proto, a->protocol, err));
    BD_TRY(bd_protocol_check(&c->proto, err));
    if (a->tokenizer) BD_TRY(bd_tokenizer_open(&c->tok, a->tokenizer, err));
    if (file_exists(a->plan)) BD_TRY(read_plan(&c->plan, a->plan, err));
    if (a->calib.n) {
        BD_TRY(bd_shard_expand(a->calib.items, (int)a->calib.n, "train", &c->calib_paths, &c->n_calib, err));
        BD_TRY(bd_shards_open(&c->calib, (const char *const *)c->calib_paths, (int)c->n_calib, err));
    }
    if (a->claim.n) {
        bd_data_args da = {
            .shards = a->claim.items, .n_shards = (int)a->claim.n, .split = "val", .tokenizer = a->tokenizer};
        BD_TRY(bd_data_open(&c->claim, &da, err));
        BD_TRY(bd_data_check_model(&c->claim, c->m, err));
        if (!c->claim.stream.bytes)
            return BD_FAIL(err, BD_E_USAGE, "a claim needs the bytes of its tokens: give --tokenizer");
        BD_TRY(refuse_overlap(&c->calib, &c->claim.shards, err));
    }
    return BD_OK;
}

static void close_run(compile_run *c) {
    bd_calibration_destroy(c->calibration);
    bd_plan_close(c->plan);
    bd_tokenizer_close(c->tok);
    bd_data_close(&c->claim);
    bd_shards_close(&c->calib);
    bd_names_free(c->calib_paths, c->n_calib);
    bd_backend_close(c->be);
    bd_model_close(c->m);
    bd_compile_recipe_close(c->recipe);
    bd_buf_free(&c->file);
}

static bd_status compile_stages(compile_run *c, const compile_args *a, compile_report *rep, const bd_progress *p,
                                bd_err *err) {
    double t0 = bd_now();
    /* Statistics from a file say nothing of what they left out. */
    bool trial = c->calib.n && wants_trial(c->recipe) && !file_exists(a->stats) && !c->plan;
    BD_TRY(calibrate(&c->calibration, a, c->m, c->be, &c->calib, c->recipe, &c->proto, trial, p, err));
    BD_TRY(refuse_scored(c->calibration, &c->claim.shards, a->stats, err));
    rep->calib_tokens = c->calibration ? c->calibration->tokens : 0;
    rep->seconds_calibrate = bd_now() - t0;
    rep->tokens_per_byte = tokens_per_byte(&c->calib, c->tok);
    for (int i = 0; i < c->m->graph->n_params; i++)
        if (c->m->graph->params[i].role != BD_ROLE_VECTOR)
            rep->weights += (double)(c->m->graph->params[i].rows * c->m->graph->params[i].cols);
    bd_compile_opts o = {.budget = (uint64_t)a->budget,
                         .recipe = c->recipe,
                         .calibration = c->calibration,
                         .plan = c->plan,
                         .tokens = trial ? c->calib.tokens : NULL,
                         .n_tokens = trial ? c->calib.total : 0,
                         .protocol = c->proto,
                         .progress = p};
    if (c->tok) {
        memcpy(o.tokenizer_model_hash, c->tok->model_hash, 32);
        memcpy(o.tokenizer_tables_hash, c->tok->tables_hash, 32);
    }
    t0 = bd_now();
    BD_TRY(bd_compile(&c->file, &rep->res, c->m, c->be, &o, err));
    rep->seconds_compile = bd_now() - t0;
    t0 = bd_now();
    if (a->claim.n) BD_TRY(make_claim(&c->file, rep, a, &c->claim, &c->proto, c->be, p, err));
    rep->seconds_claim = bd_now() - t0;
    bd_sha256_of(c->file.data, c->file.size, rep->sha256);
    bool new_plan = a->plan && !c->plan;
    if (new_plan) BD_TRY(write_plan(rep->res.plan, a->plan, err));
    bd_status st = bd_file_write(a->out, c->file.data, c->file.size, err);
    if (st && new_plan) unlink(a->plan);
    return st;
}

static int compile_run_all(const compile_args *a, const char *path) {
    bd_err err = {0};
    compile_run c = {0};
    compile_report rep = {0};
    bd_cli_progress progress;
    int rc = 0;
    bd_buf_init(&c.file);
    bd_status st = check_args(a, &err);
    if (!st) st = open_inputs(&c, a, path, &err);
    if (!st && a->common.dry_run) {
        rc = print_dry_run(a, c.m, c.recipe, &c.proto);
        goto done;
    }
    bd_backend_args ba = {a->backend, a->isa, a->mode, a->common.threads};
    if (!st) st = bd_backend_args_open(&c.be, &ba, &err);
    if (!st) {
        st = compile_stages(&c, a, &rep, bd_cli_progress_start(&progress), &err);
        bd_cli_progress_end(&progress);
    }
    if (!st) rc = print_report(&rep, a, c.m->graph);
done:
    if (st) rc = bd_cli_error(&err, a->common.json);
    bd_compile_result_free(&rep.res);
    close_run(&c);
    return rc;
}

/* Every built-in recipe with its line. */
static void list_recipes(char *out, size_t size) {
    snprintf(out, size, "a recipe file, or one of");
    for (int i = 0; bd_compile_recipe_names[i]; i++) {
        bd_compile_recipe *r = NULL;
        if (bd_compile_recipe_open(&r, bd_compile_recipe_names[i], NULL, 0, NULL)) continue;
        size_t n = strlen(out);
        snprintf(out + n, size - n, "\n%s: %s", r->name, r->summary ? r->summary : "");
        bd_compile_recipe_close(r);
    }
}

int bd_cmd_compile(int argc, char **argv) {
    compile_args a = {.backend = "cpu", .mode = "exact"};
    bd_cli_list args = {0};
    char recipes[2048] = "";
    list_recipes(recipes, sizeof recipes);
    const bd_cli_opt opts[] = {
        {"budget", BD_CLI_COUNT, &a.budget, "BYTES", "size the artifact may have at most"},
        {"calib", BD_CLI_LIST, &a.calib, "SHARD...",
         "training shards for calibration; a folder means its *_train_*.bin"},
        {"out", BD_CLI_STRING, &a.out, "FILE.birdie", "artifact to write"},
        {"recipe", BD_CLI_STRING, &a.recipe, "NAME|FILE.json", recipes},
        {"knob", BD_CLI_EACH, &a.knobs, "key=value",
         "one key of a recipe file, for example states=64 or 'lambda=[0.03,0.05]'; may be given again"},
        {"protocol", BD_CLI_STRING, &a.protocol, "FILE.json",
         "evaluation protocol to freeze into the artifact (default: windows of 1024)"},
        {"claim", BD_CLI_LIST, &a.claim, "SHARD...",
         "score the result on these validation shards and write the score into the artifact"},
        {"max-tokens", BD_CLI_COUNT, &a.max_tokens, "N", "claim only the first N targets"},
        {"tokenizer", BD_CLI_STRING, &a.tokenizer, "TOK.model",
         "names the tokenizer in the artifact; gives the claim its bytes"},
        {"plan", BD_CLI_STRING, &a.plan, "FILE",
         "carry out this plan if the file exists, else write the plan found there"},
        {"stats", BD_CLI_STRING, &a.stats, "FILE",
         "use these calibration statistics if the file exists, else keep them there"},
        {"model", BD_CLI_STRING, &a.model_file, "FILE.model", "model file (default: recognise the checkpoint)"},
        {"set", BD_CLI_EACH, &a.sets, "constant=value",
         "constant of the model that a checkpoint does not tell, for example slope=0.5"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512",
         "instruction set of the cpu backend; never changes the bytes"},
    };
    const bd_cli_spec spec = {
        .name = "compile",
        .summary = bd_cmd_compile_summary,
        .usage = "compile CHECKPOINT --calib SHARD... --budget BYTES --out FILE.birdie [options]",
        .text =
            "Collects calibration statistics on training text, then searches the quantization step on the size of "
            "the file as written: never above the budget. The same inputs give the same bytes on any machine. The "
            "plan is a text file: write it with --plan, edit it, run again. A line that ends in \"fixed\" is kept, "
            "and everything else is solved around it.",
        .examples =
            "  birdie compile run --calib shards --budget 600000 --out m.birdie --tokenizer "
            "shards/tokenizer.model\n"
            "  birdie compile model.pt --calib train.bin --budget 2400000 --out m.birdie \\\n"
            "      --claim val.bin --max-tokens 102400 --tokenizer tok.model\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = compile_run_all(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
