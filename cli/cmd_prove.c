/* birdie prove: compress validation tokens with an artifact's own predictions, and get them back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/numerics.h"
#include "base/thread.h"
#include "cli/backend_args.h"
#include "cli/cli.h"
#include "cli/protocol_json.h"
#include "cli/score_json.h"
#include "kernels/peak.h"
#include "verify/prove.h"

const char bd_cmd_prove_summary[] = "compress tokens with an artifact's predictions, and check it by decoding";

typedef struct prove_args {
    bd_cli_common common;
    bd_cli_list data;
    const char *check, *out, *backend, *isa;
    int64_t max_tokens;
    bool allow_external;
} prove_args;

typedef struct proving {
    const prove_args *a;
    const char *artifact;
    bd_artifact *art;
    bd_model *m;
    char **paths;
    size_t n_paths;
    bd_shards shards;
    bd_backend *be;
    bd_prove_opts opts;
    bd_cli_progress progress;
} proving;

/* ---- what both halves need ---- */

static bd_status open_model(proving *w, bd_err *err) {
    bd_artifact_limits lim = bd_artifact_limits_default();
    bd_model_opts mo = {.allow_external = w->a->allow_external, .max_memory = w->opts.max_memory};
    lim.allow_external = w->a->allow_external;
    BD_TRY(bd_artifact_open(&w->art, w->artifact, &lim, err));
    bd_status st = bd_model_from_artifact(&w->m, w->art, &mo, err);
    if (st != BD_OK) bd_err_file(err, w->artifact);
    return st;
}

static bd_status open_data(proving *w, bd_err *err) {
    const bd_cli_list *d = &w->a->data;
    BD_TRY(bd_shard_expand(d->items, (int)d->n, "val", &w->paths, &w->n_paths, err));
    BD_TRY(bd_shards_open(&w->shards, (const char *const *)w->paths, (int)w->n_paths, err));
    for (int i = 0; i < w->shards.n; i++)
        BD_TRY(bd_shard_check_vocab(&w->shards.shards[i], (uint32_t)w->m->graph->vocab, err));
    return BD_OK;
}

static bd_status open_backend(proving *w, bd_err *err) {
    bd_backend_args ba = {w->a->backend, w->a->isa, "exact", w->a->common.threads};
    return bd_backend_args_open(&w->be, &ba, err);
}

static json_t *hashes_json(const uint8_t (*hash)[32], uint32_t n) {
    json_t *o = json_array();
    for (uint32_t i = 0; i < n; i++) json_array_append_new(o, bd_cli_hex(hash[i], 32));
    return o;
}

static void put_proof(json_t *o, const bd_proof *p) {
    json_object_set_new(o, "model_sha256", bd_cli_hex(p->model_hash, 32));
    json_object_set_new(o, "tokens_sha256", bd_cli_hex(p->tokens_hash, 32));
    json_object_set_new(o, "shards", hashes_json(p->shard_sha256, p->n_shards));
    json_object_set_new(o, "tokens", bd_cli_u64(p->tokens));
    json_object_set_new(o, "nll_q32", bd_cli_i64(p->nll_q32));
    json_object_set_new(o, "code_bytes", bd_cli_u64(p->code_size));
    json_object_set_new(o, "ideal_bytes", bd_cli_real(bd_prove_ideal_bytes(p->nll_q32)));
    json_object_set_new(o, "numerics", json_integer(p->numerics));
    json_object_set_new(o, "protocol_values", bd_protocol_to_json(&p->protocol));
}

/* Rows in large batches reach about half of the peak. A token alone uses every weight once: it waits for memory. */
static double plan_seconds(const proving *w, const bd_eval_plan *plan, bool check) {
    double peak = 1e9 * bd_peak_gflops((int)w->a->common.threads), learn = 0;
    const bd_protocol *p = &w->m->protocol;
    if (plan->learn_rows) {
        int64_t T = p->window < p->chunk ? p->window : p->chunk;
        learn = 3.0 * (double)plan->learn_rows * bd_graph_flops(w->m->graph, T);
    }
    double alone = 0.05e9 * bd_peak_gflops(1);
    return learn / (0.5 * peak) + (plan->flops - learn) / (check ? alone : 0.5 * peak);
}

static int print_plan(const proving *w, const bd_eval_plan *plan, bool check) {
    double seconds = plan_seconds(w, plan, check);
    if (w->a->common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "tokens", bd_cli_u64(plan->tokens));
        json_object_set_new(o, "windows", bd_cli_u64(plan->windows));
        json_object_set_new(o, "learn_rows", bd_cli_u64(plan->learn_rows));
        json_object_set_new(o, "flops", bd_cli_real(plan->flops));
        json_object_set_new(o, "memory_bytes", bd_cli_u64(plan->memory));
        json_object_set_new(o, "seconds", bd_cli_real(seconds));
        return bd_cli_print_json(o);
    }
    printf("tokens  %" PRIu64 " in %" PRIu64 " windows\nFLOPs   %.4g\nmemory  %" PRIu64
           " bytes\nseconds about %.0f\n",
           plan->tokens, plan->windows, plan->flops, plan->memory, seconds);
    return 0;
}

/* ---- making ---- */

static bool same_range(const bd_proof *p, const bd_claim *c) {
    return c->present && c->numerics == p->numerics && c->first_target == p->first_target &&
           c->tokens == p->tokens && c->n_shards == p->n_shards &&
           memcmp(c->shard_sha256, p->shard_sha256, (size_t)p->n_shards * 32) == 0;
}

static const char *claim_word(const bd_proof *p, const bd_claim *c) {
    if (!same_range(p, c)) return c->present ? "other range" : "none";
    return c->nll_q32 == p->nll_q32 ? "equal" : "different";
}

static int report_made(const proving *w, const bd_proof *p, const bd_score *s, uint64_t file_bytes) {
    double ideal = bd_prove_ideal_bytes(p->nll_q32), seconds = s->seconds_score + s->seconds_learn;
    if (w->a->common.json) {
        json_t *o = json_object();
        put_proof(o, p);
        json_object_set_new(o, "proof_bytes", bd_cli_u64(file_bytes));
        json_object_set_new(o, "val_loss", bd_cli_real(s->val_loss));
        json_object_set_new(o, "claim", json_string(claim_word(p, &w->art->claim)));
        json_object_set_new(o, "measured", bd_measured_json(s, w->be));
        return bd_cli_print_json(o);
    }
    printf("proof     %s, %" PRIu64 " bytes\n", w->a->out, file_bytes);
    printf("code      %" PRIu64 " bytes for %" PRIu64 " tokens; nll / (8 ln 2) is %.1f (%+.1f bytes)\n",
           p->code_size, p->tokens, ideal, (double)p->code_size - ideal);
    printf("val_loss  %.6f nats per token, nll_q32 %" PRId64 " (claim: %s)\n", s->val_loss, p->nll_q32,
           claim_word(p, &w->art->claim));
    printf("time      %.1f s (%.1f scoring, %.1f learning), %.0f tokens/s, %d threads, %s\n", seconds,
           s->seconds_score, s->seconds_learn, (double)s->tokens / seconds, bd_pool_threads(w->be->pool),
           w->be->vt->name);
    return 0;
}

static bd_status make(proving *w, int *rc, bd_err *err) {
    bd_proof p;
    bd_score score;
    bd_buf code, file;
    bd_eval_plan plan;
    bd_status st;
    bd_buf_init(&code);
    bd_buf_init(&file);
    w->opts.max_tokens = (uint64_t)w->a->max_tokens;
    if (w->a->data.n == 0) BD_TRY_DONE(BD_FAIL(err, BD_E_USAGE, "give the validation shards with --data"));
    BD_TRY_DONE(open_model(w, err));
    BD_TRY_DONE(open_data(w, err));
    BD_TRY_DONE(bd_prove_plan(&plan, w->m, w->shards.total, false, &w->opts, err));
    if (w->a->common.dry_run) {
        *rc = print_plan(w, &plan, false);
        goto done;
    }
    if (!w->a->out) BD_TRY_DONE(BD_FAIL(err, BD_E_USAGE, "name the proof to write with --out"));
    BD_TRY_DONE(open_backend(w, err));
    w->opts.progress = bd_cli_progress_start(&w->progress);
    st = bd_prove(&p, &code, &file, &score, w->m, w->be, &w->shards, &w->opts, err);
    bd_cli_progress_end(&w->progress);
    if (st != BD_OK) goto done;
    BD_TRY_DONE(bd_file_write(w->a->out, file.data, file.size, err));
    *rc = report_made(w, &p, &score, file.size);
done:
    bd_buf_free(&code);
    bd_buf_free(&file);
    return st;
}

/* ---- checking ---- */

/* With --data: these shards, in this order, are what the proof names. */
static bd_status check_data(const proving *w, const bd_proof *p, bd_err *err) {
    bd_status st = BD_OK;
    for (int i = 0; st == BD_OK && i < w->shards.n && (uint32_t)i < p->n_shards; i++)
        if (memcmp(w->shards.shards[i].sha256, p->shard_sha256[i], 32) != 0) {
            st = BD_FAIL(err, BD_E_CHECKSUM, "shard %d is not the one that the proof names (its hash differs)",
                         i + 1);
            bd_err_file(err, w->shards.shards[i].path);
        }
    if (st == BD_OK && (uint32_t)w->shards.n != p->n_shards)
        st =
            BD_FAIL(err, BD_E_CHECKSUM, "%d shards were given, the proof names %" PRIu32, w->shards.n, p->n_shards);
    return st;
}

/* A proof of one whole shard: is TOKENS.bin, byte for byte, that shard? */
static bd_status compare_shard(const proving *w, const bd_proof *p, const char **word, bd_err *err) {
    bd_shard s;
    *word = "part of the data";
    if (p->n_shards != 1) return BD_OK;
    BD_TRY(bd_shard_open(&s, w->a->out, err));
    if (memcmp(s.sha256, p->shard_sha256[0], 32) == 0) *word = "the whole shard, byte for byte";
    bd_shard_close(&s);
    return BD_OK;
}

static int report_checked(const proving *w, const bd_proof *p, const bd_prove_result *r, const char *covers) {
    const bd_score *s = &r->score;
    double seconds = s->seconds_score + s->seconds_learn;
    int rc = 0;
    if (w->a->common.json) {
        json_t *o = json_object();
        put_proof(o, p);
        json_object_set_new(o, "verdict", json_string(r->ok ? "PASS" : "FAIL"));
        json_object_set_new(o, "detail", bd_cli_str(r->detail));
        json_object_set_new(o, "decoded", bd_cli_u64(r->decoded));
        json_object_set_new(o, "covers", bd_cli_str(r->ok ? covers : NULL));
        json_object_set_new(o, "measured", bd_measured_json(r->score.tokens ? s : NULL, w->be));
        rc = bd_cli_print_json(o);
    } else if (r->ok) {
        printf("PASS      %" PRIu64 " tokens decoded from %" PRIu64
               " bytes: the hash, the score and the end of the "
               "code agree\n",
               r->decoded, p->code_size);
        printf("tokens    %s (%s)\n", w->a->out ? w->a->out : "not written", covers);
        printf("val_loss  %.6f nats per token, nll_q32 %" PRId64 "\n", s->val_loss, s->nll_q32);
        printf("time      %.1f s (%.1f decoding, %.1f learning), %.0f tokens/s, %d threads, %s\n", seconds,
               s->seconds_score, s->seconds_learn, (double)s->tokens / seconds, bd_pool_threads(w->be->pool),
               w->be->vt->name);
    } else {
        printf("FAIL      %s\n", r->detail);
    }
    return rc ? rc : r->ok ? 0 : 1;
}

static bd_status check(proving *w, int *rc, bd_err *err) {
    bd_map file = {0};
    bd_proof p;
    bd_prove_result r;
    bd_eval_plan plan;
    bd_status st;
    uint16_t *tokens = NULL;
    const char *covers = "tokens were not written";
    if (w->a->max_tokens)
        BD_TRY_DONE(BD_FAIL(err, BD_E_USAGE, "--max-tokens is for making a proof; --check decodes all of it"));
    BD_TRY_DONE(bd_map_open(&file, w->a->check, err));
    st = bd_proof_parse(&p, file.data, file.size, 0, err);
    if (st != BD_OK) bd_err_file(err, w->a->check);
    if (st != BD_OK) goto done;
    BD_TRY_DONE(open_model(w, err));
    st = bd_prove_matches(&p, w->m, err);
    if (st != BD_OK) bd_err_file(err, w->a->check);
    if (st != BD_OK) goto done;
    if (w->a->data.n) {
        BD_TRY_DONE(open_data(w, err));
        BD_TRY_DONE(check_data(w, &p, err));
    }
    BD_TRY_DONE(bd_prove_plan(&plan, w->m, p.tokens + 1, true, &w->opts, err));
    if (w->a->common.dry_run) {
        *rc = print_plan(w, &plan, true);
        goto done;
    }
    if (!w->a->out) BD_TRY_DONE(BD_FAIL(err, BD_E_USAGE, "name the file for the decoded tokens with --out"));
    BD_TRY_DONE(open_backend(w, err));
    tokens = malloc((size_t)(p.tokens + 1) * sizeof *tokens);
    if (!tokens) BD_TRY_DONE(BD_FAIL(err, BD_E_NOMEM, "no memory for %" PRIu64 " tokens", p.tokens));
    w->opts.progress = bd_cli_progress_start(&w->progress);
    bd_note(w->opts.progress, "decoding %" PRIu64 " tokens: about %.3g FLOPs, %.0f MB, %.0f s", plan.tokens,
            plan.flops, (double)plan.memory / 1e6, plan_seconds(w, &plan, true));
    st = bd_prove_check(&r, tokens, &p, w->m, w->be, &w->opts, err);
    bd_cli_progress_end(&w->progress);
    if (st != BD_OK) goto done;
    if (r.ok) {
        BD_TRY_DONE(bd_shard_write(w->a->out, tokens, p.tokens + 1, err));
        BD_TRY_DONE(compare_shard(w, &p, &covers, err));
    }
    *rc = report_checked(w, &p, &r, covers);
done:
    free(tokens);
    bd_map_close(&file);
    return st;
}

/* ---- the command ---- */

static int prove_run(const prove_args *a, const char *path) {
    bd_err err = {0};
    int rc = 0;
    proving w = {.a = a, .artifact = path, .opts.max_memory = bd_memory_limit(a->common.max_memory)};
    bd_status st = a->check ? check(&w, &rc, &err) : make(&w, &rc, &err);
    if (st != BD_OK) rc = bd_cli_error(&err, a->common.json);
    bd_backend_close(w.be);
    bd_shards_close(&w.shards);
    bd_names_free(w.paths, w.n_paths);
    bd_model_close(w.m);
    bd_artifact_close(w.art);
    return rc;
}

int bd_cmd_prove(int argc, char **argv) {
    prove_args a = {.backend = "cpu"};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"data", BD_CLI_LIST, &a.data, "SHARD...",
         "validation shards; a folder means its *_val_*.bin. With --check: only compare their hashes"},
        {"max-tokens", BD_CLI_COUNT, &a.max_tokens, "N", "code only the first N targets"},
        {"check", BD_CLI_STRING, &a.check, "FILE.proof", "decode this proof with the artifact"},
        {"out", BD_CLI_STRING, &a.out, "FILE", "the proof; with --check the decoded tokens, as a shard"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512", "instruction set of the cpu backend; changes no bit"},
        {"allow-external", BD_CLI_FLAG, &a.allow_external, NULL,
         "allow sections that need an external program (lrzip)"},
    };
    const bd_cli_spec spec = {
        .name = "prove",
        .summary = bd_cmd_prove_summary,
        .usage =
            "prove FILE.birdie --data SHARD... [--max-tokens N] --out FILE.proof\n"
            "       birdie prove --check FILE.proof FILE.birdie --out TOKENS.bin",
        .text =
            "Runs the artifact's own evaluation, test-time training included, and range-codes every target with "
            "the "
            "distribution that scored it. --check decodes the tokens from the artifact and the proof alone, "
            "learning from them as it goes. What comes back was predicted from earlier tokens only, and the length "
            "of the code is the score.\n"
            "Decoding goes token by token and is slower than scoring; --dry-run says by how much. The two halves "
            "may "
            "run with any number of threads and any instruction set.\n"
            "Exit code 0: the proof was written, or holds; 1: it decodes to something else.",
        .examples =
            "  birdie prove m.birdie --data val.bin --max-tokens 16384 --out m.proof\n"
            "  birdie prove --check m.proof m.birdie --out tokens.bin --threads 1\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = prove_run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
