/* birdie compile: a checkpoint and a byte budget in, an artifact out. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
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
    bd_cli_list sets, calib, claim;
    const char *model_file, *recipe, *out, *protocol, *plan, *stats, *tokenizer, *backend, *isa, *mode;
    int64_t budget, max_tokens;
} compile_args;

/* What the run made, for the report. */
typedef struct compile_report {
    bd_compile_result res;
    bd_claim claim;
    bd_score score;
    uint8_t sha256[32];
    double seconds_calibrate, seconds_solve, seconds_claim;
    uint64_t calib_tokens;
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

static bd_status calibrate(bd_calibration **c, const compile_args *a, const bd_model *m, bd_backend *be,
                           const bd_shards *calib, const bd_compile_recipe *r, const bd_protocol *proto,
                           const bd_progress *p, bd_err *err) {
    if (file_exists(a->stats)) return bd_calibration_load(c, m, a->stats, err);
    if (!calib->n)
        return BD_FAIL(err, BD_E_USAGE, "give training shards with --calib (or collected ones with --stats)");
    bd_calib_opts o = {calib->tokens, calib->total, (int64_t)proto->window, r->calib_tokens, p};
    BD_TRY(bd_calibrate(c, m, be, &o, err));
    return a->stats ? bd_calibration_save(*c, m, a->stats, err) : BD_OK;
}

/* Score the bytes as they stand, then put the claim into them. */
static bd_status make_claim(bd_buf *file, compile_report *rep, const compile_args *a, const bd_data *data,
                            const bd_protocol *proto, bd_backend *be, const bd_progress *p, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
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
        json_object_set_new(o, "name", bd_cli_str(p->groups[g].name));
        json_object_set_new(o, "method", json_string(first ? bd_qmethod_name(first->method) : "none"));
        if (first && first->method == BD_Q_ROW) {
            json_object_set_new(params, "bits", json_integer(first->bits));
            json_object_set_new(params, "k", bd_cli_real((double)first->k));
        }
        if (first && first->method == BD_Q_TERNARY)
            json_object_set_new(params, "group", json_integer(first->qgroup));
        json_object_set_new(params, "codec", json_string(bd_codec_name(p->groups[g].codec)));
        json_object_set_new(params, "tensors", json_integer(tensors));
        json_object_set_new(o, "params", params);
        json_object_set_new(o, "bytes", bd_cli_u64(p->groups[g].bytes));
        json_array_append_new(list, o);
    }
    return list;
}

static int print_report(const compile_report *r, const compile_args *a) {
    char hex[65];
    bd_sha256_hex(r->sha256, hex);
    if (a->common.json) {
        json_t *o = json_object(), *t = json_object();
        json_object_set_new(o, "artifact_bytes", bd_cli_u64(r->res.artifact_bytes));
        json_object_set_new(o, "budget", bd_cli_i64(a->budget));
        json_object_set_new(o, "predicted_bytes", bd_cli_u64(r->res.predicted_bytes));
        json_object_set_new(o, "sha256", json_string(hex));
        json_object_set_new(o, "limit", json_string(bd_compile_limit_name(r->res.limit)));
        json_object_set_new(o, "step", bd_cli_real(r->res.step));
        json_object_set_new(o, "groups", groups_json(r->res.plan));
        json_t *claim = bd_claim_json(&r->claim);
        if (r->claim.present) json_object_set_new(claim, "val_bpb", bd_cli_real(r->score.val_bpb));
        json_object_set_new(o, "claim", claim);
        json_object_set_new(t, "seconds_calibrate", bd_cli_real(r->seconds_calibrate));
        json_object_set_new(t, "seconds_solve", bd_cli_real(r->seconds_solve));
        json_object_set_new(t, "seconds_claim", bd_cli_real(r->seconds_claim));
        json_object_set_new(t, "files_built", json_integer(r->res.tries));
        json_object_set_new(o, "measured", t);
        return bd_cli_print_json(o);
    }
    printf("artifact   %s: %" PRIu64 " bytes of %" PRId64 " (%.2f%% filled", a->out, r->res.artifact_bytes,
           a->budget, 100.0 * (double)r->res.artifact_bytes / (double)a->budget);
    printf("%s)\n", r->res.limit == BD_LIMIT_FINEST ? ", limit: finest" : "");
    printf("sha256     %s\n", hex);
    for (int g = 0; g < r->res.plan->n_groups; g++)
        printf("%s %-14s %10" PRIu64 " bytes  %s\n", g ? "          " : "groups    ", r->res.plan->groups[g].name,
               r->res.plan->groups[g].bytes, bd_codec_name(r->res.plan->groups[g].codec));
    if (r->claim.present)
        printf("claim      val_bpb %.6f on %" PRIu64 " tokens, nll_q32 %" PRId64 "\n", r->score.val_bpb,
               r->claim.tokens, r->claim.nll_q32);
    printf("time       calibrate %.1f s, solve %.1f s (%d files built), claim %.1f s\n", r->seconds_calibrate,
           r->seconds_solve, r->res.tries, r->seconds_claim);
    return 0;
}

static int print_dry_run(const compile_args *a, const bd_model *m, const bd_compile_recipe *r,
                         const bd_protocol *p) {
    double flops = 3 * bd_graph_flops(m->graph, p->window) * (double)r->calib_tokens; /* forward and backward */
    double seconds = flops / (0.5e9 * bd_peak_gflops((int)a->common.threads));
    uint64_t bytes = m->graph->param_count * 13; /* weights, codes, and doubles of one factorization at a time */
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
    BD_TRY(bd_compile_recipe_open(&c->recipe, a->recipe, err));
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
    BD_TRY(calibrate(&c->calibration, a, c->m, c->be, &c->calib, c->recipe, &c->proto, p, err));
    rep->calib_tokens = c->calibration->tokens;
    rep->seconds_calibrate = bd_now() - t0;
    bd_compile_opts o = {.budget = (uint64_t)a->budget,
                         .recipe = c->recipe,
                         .calibration = c->calibration,
                         .plan = c->plan,
                         .protocol = c->proto,
                         .progress = p};
    if (c->tok) {
        memcpy(o.tokenizer_model_hash, c->tok->model_hash, 32);
        memcpy(o.tokenizer_tables_hash, c->tok->tables_hash, 32);
    }
    t0 = bd_now();
    BD_TRY(bd_compile(&c->file, &rep->res, c->m, c->be, &o, err));
    rep->seconds_solve = bd_now() - t0;
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
    if (!st) rc = print_report(&rep, a);
done:
    if (st) rc = bd_cli_error(&err, a->common.json);
    bd_compile_result_free(&rep.res);
    close_run(&c);
    return rc;
}

int bd_cmd_compile(int argc, char **argv) {
    compile_args a = {.backend = "cpu", .mode = "exact"};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"budget", BD_CLI_COUNT, &a.budget, "BYTES", "size the artifact may have at most"},
        {"calib", BD_CLI_LIST, &a.calib, "SHARD...",
         "training shards for calibration; a folder means its *_train_*.bin"},
        {"out", BD_CLI_STRING, &a.out, "FILE.birdie", "artifact to write"},
        {"recipe", BD_CLI_STRING, &a.recipe, "NAME|FILE.json",
         "gptq (default), int8, int7, int6, int5, ternary, or a file"},
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
            "the "
            "file as written: never above the budget. The same inputs give the same bytes on any machine. The plan "
            "is "
            "a text file: write it with --plan, edit it, run again.",
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
