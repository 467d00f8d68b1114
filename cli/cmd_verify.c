/* birdie verify: is this artifact what it claims to be? */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/backend_args.h"
#include "cli/cli.h"
#include "cli/data_args.h"
#include "cli/score_json.h"
#include "cli/sign.h"
#include "cli/verdict_report.h"
#include "verify/verify_artifact.h"

const char bd_cmd_verify_summary[] = "check an artifact: structure, size, causality, distributions, bytes, score";

typedef struct verify_args {
    bd_cli_common common;
    bd_cli_list data;
    bd_cli_list train, runs, incumbent;
    const char *tokenizer, *bytes, *text, *rules, *backend, *isa, *mode, *checks, *seed;
    const char *sign, *signature, *check_signature, *pubkey;
    int64_t max_tokens;
    bool allow_external;
} verify_args;

/* The derivation, a line for each operation. */
static json_t *causality_json(const char *s) {
    if (!s) return json_null();
    json_t *lines = json_array();
    for (; *s; s += *s == '\n') {
        size_t n = strcspn(s, "\n");
        json_array_append_new(lines, json_stringn(s, n));
        s += n;
    }
    return lines;
}

static json_t *result_json(const bd_verify_result *r, const verify_args *a, const bd_rules *rules,
                           const bd_backend *be) {
    json_t *o = json_object();
    json_object_set_new(o, "verdict", json_string(bd_outcome_name(r->overall)));
    json_object_set_new(o, "rules", bd_cli_str(rules->name));
    json_object_set_new(o, "artifact_bytes", bd_cli_u64(r->file_bytes));
    json_object_set_new(o, "model_sha256", bd_cli_hex(r->model_hash, 32));
    json_object_set_new(o, "root_sha256", bd_cli_hex(r->root_hash, 32));
    json_object_set_new(o, "checks", bd_verdict_json(&r->verdict));
    json_t *score = r->scored ? json_object() : json_null();
    if (r->scored) bd_score_json(score, &r->score, a->mode, &r->protocol, "artifact");
    json_object_set_new(o, "score", score);
    json_object_set_new(o, "causality", causality_json(r->causality));
    json_t *measured = bd_measured_json(r->scored ? &r->score : NULL, be);
    json_object_set_new(measured, "seconds_probes", bd_cli_real(r->seconds_probes));
    json_object_set_new(o, "measured", measured);
    return o;
}

static void print_result(const bd_verify_result *r, const bd_rules *rules) {
    bd_verdict_print(&r->verdict, 0);
    if (r->scored) {
        double seconds = r->score.seconds_score + r->score.seconds_learn;
        printf("score       val_bpb %.6f, %" PRIu64 " tokens, nll_q32 %" PRId64 "\n", r->score.val_bpb,
               r->score.tokens, r->score.nll_q32);
        printf("measured    %.1f s (%.1f scoring, %.1f learning), %.0f tokens/s; %.1f s for the other checks\n",
               seconds, r->score.seconds_score, r->score.seconds_learn, (double)r->score.tokens / seconds,
               r->seconds_probes);
    }
    printf("verdict     %s under rules \"%s\"\n", bd_outcome_name(r->overall), rules->name);
}

static int print_plan(const bd_verify_opts *o, const verify_args *a, bd_err *err, bd_status *st) {
    bd_artifact *art = NULL;
    bd_model *m = NULL;
    bd_eval_plan plan;
    bd_stream stream = {o->shards->tokens, NULL, o->shards->total};
    bd_model_opts mo = {.max_memory = o->max_memory};
    bd_eval_opts eo = {.max_tokens = bd_verify_range(o), .max_memory = o->max_memory};
    bd_artifact_limits lim = bd_artifact_limits_default();
    lim.allow_external = a->allow_external;
    *st = bd_artifact_open(&art, o->path, &lim, err);
    if (!*st) *st = bd_model_from_artifact(&m, art, &mo, err);
    if (!*st) *st = bd_eval_plan_make(&plan, m, &stream, &art->protocol, &eo, err);
    int rc = 0;
    if (!*st && a->common.json) {
        json_t *j = json_object();
        json_object_set_new(j, "dry_run", json_true());
        json_object_set_new(j, "tokens", bd_cli_u64(plan.tokens));
        json_object_set_new(j, "flops", bd_cli_real(plan.flops));
        json_object_set_new(j, "memory_bytes", bd_cli_u64(plan.memory));
        rc = bd_cli_print_json(j);
    } else if (!*st) {
        printf("tokens  %" PRIu64 " in %" PRIu64 " windows\nFLOPs   %.4g\nmemory  %" PRIu64 " bytes\n", plan.tokens,
               plan.windows, plan.flops, plan.memory);
    }
    bd_model_close(m);
    bd_artifact_close(art);
    return rc;
}

static bool get_u64(const json_t *o, const char *key, uint64_t *out) {
    const char *s = json_string_value(json_object_get(o, key));
    char *end = NULL;
    errno = 0;
    if (s) *out = strtoull(s, &end, 10);
    return s && *s && !*end && !errno;
}

/* Results as `verify --json` and `eval --json` print them. */
static bd_status read_runs(bd_run_result **out, const bd_cli_list *files, bd_err *err) {
    *out = NULL;
    if (!files->n) return BD_OK;
    if (files->n > BD_RUNS_MAX) return BD_FAIL(err, BD_E_USAGE, "at most %d results can be compared", BD_RUNS_MAX);
    bd_run_result *r = calloc(files->n, sizeof *r);
    if (!r) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    *out = r;
    for (size_t i = 0; i < files->n; i++) {
        bd_map m;
        json_error_t je;
        BD_TRY(bd_map_open(&m, files->items[i], err));
        json_t *root =
            m.size < 1 << 24 ? json_loadb((const char *)m.data, m.size, JSON_REJECT_DUPLICATES, &je) : NULL;
        bd_map_close(&m);
        const json_t *o = json_object_get(root, "score") ? json_object_get(root, "score") : root;
        const char *q32 = json_string_value(json_object_get(o, "nll_q32"));
        r[i].val_bpb = json_number_value(json_object_get(o, "val_bpb"));
        bool ok = get_u64(o, "tokens", &r[i].tokens) && get_u64(o, "bytes", &r[i].bytes) && r[i].bytes && q32 &&
                  r[i].val_bpb > 0;
        if (ok) r[i].nll_q32 = (int64_t)strtoll(q32, NULL, 10);
        json_decref(root);
        if (ok) continue;
        bd_status st = BD_FAIL(err, BD_E_FIELD, "this is no result of verify --json or eval --json with a val_bpb");
        bd_err_file(err, files->items[i]);
        return st;
    }
    return BD_OK;
}

static bd_status parse_seed(uint64_t *seed, const char *s, bd_err *err) {
    char *end = NULL;
    errno = 0;
    unsigned long long v = *s >= '0' && *s <= '9' ? strtoull(s, &end, 10) : 0;
    if (!end || *end || errno) return BD_FAIL(err, BD_E_USAGE, "--seed: \"%.40s\" is no number below 2^64", s);
    *seed = v;
    return BD_OK;
}

static int verify_run(const verify_args *a, const char *path) {
    bd_err err = {0};
    bd_rules rules;
    bd_data data = {0};
    bd_map text = {0};
    bd_backend *be = NULL;
    bd_verify_result r = {0};
    bd_cli_progress progress;
    char **train = NULL;
    size_t n_train = 0;
    bd_run_result *runs = NULL, *incumbent = NULL;
    unsigned checks = 0;
    uint64_t seed = 0;
    int rc = 0;
    bd_status st = a->data.n ? BD_OK : BD_FAIL(&err, BD_E_USAGE, "give the validation shards with --data");
    if (!st && (!a->sign != !a->signature || (a->sign && !a->common.json)))
        st = BD_FAIL(&err, BD_E_USAGE,
                     "--sign KEY.pem, --signature FILE and --json go together: what is signed is the "
                     "object that is printed");
    if (!st) st = bd_rules_open(&rules, a->rules, &err);
    bd_data_args da = {.shards = a->data.items,
                       .n_shards = (int)a->data.n,
                       .split = "val",
                       .tokenizer = a->tokenizer,
                       .bytes = a->bytes};
    if (!st) st = bd_data_open(&data, &da, &err);
    if (!st && a->text) st = bd_map_open(&text, a->text, &err);
    if (!st && a->checks) st = bd_verify_checks_parse(&checks, a->checks, &err);
    if (!st) st = read_runs(&runs, &a->runs, &err);
    if (!st) st = read_runs(&incumbent, &a->incumbent, &err);
    if (!st && a->seed) st = parse_seed(&seed, a->seed, &err);
    if (!st && a->train.n) st = bd_shard_expand(a->train.items, (int)a->train.n, "train", &train, &n_train, &err);
    bd_verify_opts o = {.path = path,
                        .shards = &data.shards,
                        .tokenizer = data.tokenizer,
                        .sidecar = data.sidecar ? data.bytes : NULL,
                        .text = (const char *)text.data,
                        .text_size = text.size,
                        .max_tokens = (uint64_t)a->max_tokens,
                        .max_memory = bd_memory_limit(a->common.max_memory),
                        .allow_external = a->allow_external,
                        .fast = strcmp(a->mode, "exact") != 0,
                        .train = (const char *const *)train,
                        .n_train = (int)n_train,
                        .runs = runs,
                        .n_runs = (int)a->runs.n,
                        .incumbent = incumbent,
                        .n_incumbent = (int)a->incumbent.n,
                        .checks = checks,
                        .has_seed = a->seed != NULL,
                        .seed = seed,
                        .rules = &rules};
    if (!st && a->common.dry_run) {
        rc = print_plan(&o, a, &err, &st);
        goto done;
    }
    bd_backend_args ba = {a->backend, a->isa, a->mode, a->common.threads};
    if (!st) st = bd_backend_args_open(&be, &ba, &err);
    if (!st) {
        o.progress = bd_cli_progress_start(&progress);
        st = bd_verify_artifact(&r, be, &o, &err);
        bd_cli_progress_end(&progress);
    }
    if (!st) {
        json_t *verdict = a->common.json ? result_json(&r, a, &rules, be) : NULL;
        if (a->sign) st = bd_sign_verdict(verdict, a->sign, a->signature, &err);
        if (st) json_decref(verdict);
        else if (a->common.json) rc = bd_cli_print_json(verdict);
        else print_result(&r, &rules);
        if (!st && !rc && r.overall == BD_FAILED) rc = 1;
    }
done:
    if (st) rc = bd_cli_error(&err, a->common.json);
    bd_verify_result_free(&r);
    for (size_t i = 0; i < n_train; i++) free(train[i]);
    free(train);
    free(runs);
    free(incumbent);
    bd_backend_close(be);
    bd_map_close(&text);
    bd_data_close(&data);
    return rc;
}

int bd_cmd_verify(int argc, char **argv) {
    verify_args a = {.backend = "cpu", .mode = "exact"};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"data", BD_CLI_LIST, &a.data, "SHARD...", "validation shards; a folder means its *_val_*.bin"},
        {"tokenizer", BD_CLI_STRING, &a.tokenizer, "TOK.model", "SentencePiece model: bytes per token"},
        {"bytes", BD_CLI_STRING, &a.bytes, "SIDECAR",
         "byte counts of the shard (default: X_val_bytes_Y.bin beside it)"},
        {"max-tokens", BD_CLI_COUNT, &a.max_tokens, "N",
         "score only the first N targets, as the claim did (default: the range that the rules name, else all)"},
        {"text", BD_CLI_STRING, &a.text, "FILE",
         "original text, documents joined by a blank line, to compare with"},
        {"train", BD_CLI_LIST, &a.train, "SHARD...",
         "training shards: their documents must not be validation documents (DATA)"},
        {"runs", BD_CLI_LIST, &a.runs, "RESULT.json...",
         "results (--json) of other seeds of the same recipe, to be judged together (STATS)"},
        {"incumbent", BD_CLI_LIST, &a.incumbent, "RESULT.json...", "results that they are to beat"},
        {"checks", BD_CLI_STRING, &a.checks, "LIST|all",
         "checks to carry out besides the usual and the required ones: names with commas between. RANDOM evaluates "
         "three random streams of at least 4096 tokens and two learning chunks, and is left out otherwise"},
        {"seed", BD_CLI_STRING, &a.seed, "N",
         "of the random streams and of the places looked at, for a report that can be repeated byte for byte "
         "(default: RANDOM draws a secret one, and prints it)"},
        {"rules", BD_CLI_STRING, &a.rules, "FILE.json|NAME",
         "rules profile: a file, or default, cpu-golf or parameter-golf (default: default)"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512",
         "instruction set of the cpu backend; never changes the score"},
        {"mode", BD_CLI_STRING, &a.mode, "exact|fast", "numerics"},
        {"sign", BD_CLI_STRING, &a.sign, "KEY.pem",
         "with --json: sign the verdict with this Ed25519 key, into the file of --signature"},
        {"signature", BD_CLI_STRING, &a.signature, "FILE", "where the signature goes: 64 bytes"},
        {"check-signature", BD_CLI_STRING, &a.check_signature, "FILE",
         "only this: is FILE the signature of VERDICT.json by the key of --pubkey?"},
        {"pubkey", BD_CLI_STRING, &a.pubkey, "KEY.pem", "the public key for --check-signature"},
        {"allow-external", BD_CLI_FLAG, &a.allow_external, NULL,
         "allow sections that need an external program (lrzip)"},
    };
    const bd_cli_spec spec = {
        .name = "verify",
        .summary = bd_cmd_verify_summary,
        .usage =
            "verify FILE.birdie --data SHARD... --tokenizer TOK.model [options]\n"
            "       birdie verify --check-signature FILE --pubkey KEY.pem VERDICT.json",
        .text =
            "Decodes the artifact with two independent decoders, scores it by its own protocol (test-time training "
            "included) and compares the result with the claim, as 64-bit integers. Every check prints PASS, FAIL, "
            "WARN or "
            "NOT-CHECKED with its numbers; the verdict is the worst of them.\n"
            "Exit code 0: PASS or WARN; 1: FAIL.",
        .examples =
            "  birdie verify m.birdie --data val.bin --tokenizer tok.model --max-tokens 102400\n"
            "  birdie verify m.birdie --data shards --tokenizer shards/tokenizer.model --threads 1 --json\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = a.check_signature ? bd_sign_check_command(a.check_signature, a.pubkey, args.items[0], a.common.json)
                           : verify_run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
