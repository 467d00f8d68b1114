/* birdie eval: a model's score on validation shards. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numerics.h"
#include "base/thread.h"
#include "cli/backend_args.h"
#include "cli/cli.h"
#include "cli/data_args.h"
#include "cli/protocol_json.h"
#include "cli/score_json.h"
#include "kernels/backend.h"
#include "kernels/peak.h"
#include "runtime/evaluate.h"

const char bd_cmd_eval_summary[] = "score a model on validation shards (bits per byte)";

typedef struct eval_args {
    bd_cli_common common;
    bd_cli_list sets, data;
    const char *model_file, *tokenizer, *bytes, *protocol, *mode, *isa, *backend, *nll_out;
    int64_t window, stride, max_windows, max_tokens, batch_rows;
    bool drop_tail, allow_external;
} eval_args;

/* ---- the protocol in force ---- */

static bd_status choose_protocol(bd_protocol *p, char name[256], const eval_args *a, const bd_model *m,
                                 bd_err *err) {
    bool override = a->window || a->stride || a->drop_tail;
    if (a->window > UINT32_MAX || a->stride > UINT32_MAX)
        return BD_FAIL(err, BD_E_USAGE, "--window and --stride are at most 65536");
    if (a->protocol) {
        BD_TRY(bd_protocol_load(p, a->protocol, err));
        const char *slash = strrchr(a->protocol, '/');
        snprintf(name, 256, "%.250s", slash ? slash + 1 : a->protocol);
        override |= m->has_protocol;
    } else if (m->has_protocol) {
        *p = m->protocol;
        strcpy(name, "artifact");
    } else {
        bd_protocol_default(p);
        strcpy(name, "default");
    }
    if (a->window) {
        p->window = (uint32_t)a->window;
        p->stride = 0;
    }
    if (a->stride) p->stride = a->stride == (int64_t)p->window ? 0 : (uint32_t)a->stride;
    if (override) strcpy(name, "override");
    return bd_protocol_check(p, err);
}

/* ---- results ---- */

static bd_status write_nll(void *user, uint64_t first, const double *nll, uint64_t n, bd_err *err) {
    bd_out *o = user;
    (void)first;
    for (uint64_t i = 0; i < n; i++) {
        float f = (float)nll[i];
        uint32_t u;
        memcpy(&u, &f, 4);
        uint8_t b[4] = {(uint8_t)u, (uint8_t)(u >> 8), (uint8_t)(u >> 16), (uint8_t)(u >> 24)};
        bd_out_put(o, b, sizeof b);
    }
    return o->failed ? bd_out_commit(o, err) : BD_OK; /* commit of a failed output reports why and removes it */
}

static json_t *score_json(const bd_score *s, const eval_args *a, const bd_protocol *p, const char *protocol,
                          const bd_backend *be) {
    json_t *o = json_object();
    bd_score_json(o, s, a->mode, p, protocol);
    json_object_set_new(o, "measured", bd_measured_json(s, be));
    return o;
}

static void print_score(const bd_score *s, const eval_args *a, const bd_protocol *p, const char *protocol,
                        const bd_backend *be, const bd_model *m) {
    double seconds = s->seconds_score + s->seconds_learn;
    printf("val_bpb   %.6f", s->val_bpb);
    if (isfinite(s->bpb_stderr)) printf("  (standard error %.4f, bootstrap over windows)", s->bpb_stderr);
    printf("\nval_loss  %.6f nats per token\n", s->val_loss);
    printf("tokens    %" PRIu64 " scored targets in %" PRIu64 " windows\n", s->tokens, s->windows);
    printf("bytes     %" PRIu64 "\n", s->bytes);
    printf("nll_q32   %" PRId64 "\n", s->nll_q32);
    printf("model     %s, %" PRIu64 " parameters\n", m->model_name, m->graph->param_count);
    printf("protocol  %s: %s, window %" PRIu32 ", stride %" PRIu32 "\n", protocol, bd_protocol_kind_name(p->kind),
           p->window, p->stride ? p->stride : p->window);
    printf("numerics  %s, version %u\n", a->mode, BD_NUMERICS_VERSION);
    printf("time      %.1f s", seconds);
    if (p->kind == BD_PROTO_SGD) printf(" (%.1f scoring, %.1f learning)", s->seconds_score, s->seconds_learn);
    printf(", %.0f tokens/s, %d threads, %s\n", (double)s->tokens / seconds, bd_pool_threads(be->pool),
           be->vt->name);
}

static int print_plan(const bd_eval_plan *plan, const bd_protocol *p, const char *protocol, int threads,
                      bool json) {
    /* An order of magnitude: about half of the measured peak is reached by a whole evaluation. */
    double seconds = plan->flops / (0.5e9 * bd_peak_gflops(threads));
    if (!json) {
        printf("windows   %" PRIu64 "\ntokens    %" PRIu64 "\nbytes     %" PRIu64 "\n", plan->windows, plan->tokens,
               plan->bytes);
        printf("rows      %" PRIu64 " forward", plan->rows);
        if (plan->learn_rows)
            printf(", %" PRIu64 " learning in %" PRIu64 " chunks", plan->learn_rows, plan->chunks);
        printf("\nFLOPs     %.4g\nmemory    %" PRIu64 " bytes\nseconds   about %.0f\nprotocol  %s\n", plan->flops,
               plan->memory, seconds, protocol);
        return 0;
    }
    json_t *o = json_object();
    json_object_set_new(o, "dry_run", json_true());
    json_object_set_new(o, "windows", bd_cli_u64(plan->windows));
    json_object_set_new(o, "tokens", bd_cli_u64(plan->tokens));
    json_object_set_new(o, "bytes", bd_cli_u64(plan->bytes));
    json_object_set_new(o, "rows", bd_cli_u64(plan->rows));
    json_object_set_new(o, "learn_rows", bd_cli_u64(plan->learn_rows));
    json_object_set_new(o, "flops", bd_cli_real(plan->flops));
    json_object_set_new(o, "memory_bytes", bd_cli_u64(plan->memory));
    json_object_set_new(o, "seconds", bd_cli_real(seconds));
    json_object_set_new(o, "protocol", bd_cli_str(protocol));
    json_object_set_new(o, "protocol_values", bd_protocol_to_json(p));
    return bd_cli_print_json(o);
}

/* ---- the command ---- */

static int eval_run(const eval_args *a, const char *path) {
    bd_err err = {0};
    bd_status st = BD_OK;
    bd_model *m = NULL;
    bd_data data = {0};
    bd_backend *be = NULL;
    bd_out out = {0};
    bd_cli_progress progress;
    bd_protocol proto;
    bd_eval_plan plan;
    bd_score score;
    char protocol[256], spec[32];
    bool out_open = false;
    int rc = 0;

    const bd_backend_args ba = {a->backend, a->isa, a->mode, a->common.threads};
    BD_TRY_DONE(bd_backend_args_spec(spec, &ba, &err));
    bd_data_args da = {
        .shards = a->data.items, .n_shards = (int)a->data.n, .tokenizer = a->tokenizer, .bytes = a->bytes};
    if (da.n_shards == 0) {
        st = BD_FAIL(&err, BD_E_USAGE, "give the validation shards with --data");
        goto done;
    }
    bd_model_args ma = {path,           a->model_file,     a->sets.items,
                        (int)a->sets.n, a->allow_external, bd_memory_limit(a->common.max_memory)};
    BD_TRY_DONE(bd_model_args_open(&m, &ma, &err));
    BD_TRY_DONE(choose_protocol(&proto, protocol, a, m, &err));
    BD_TRY_DONE(bd_data_open(&data, &da, &err));
    BD_TRY_DONE(bd_data_check_model(&data, m, &err));
    bd_eval_opts opts = {
        .max_windows = (uint64_t)a->max_windows,
        .max_tokens = (uint64_t)a->max_tokens,
        .drop_tail = a->drop_tail,
        .batch_rows = a->batch_rows,
        .max_memory = bd_memory_limit(a->common.max_memory),
    };
    BD_TRY_DONE(bd_eval_plan_make(&plan, m, &data.stream, &proto, &opts, &err));
    if (a->common.dry_run) {
        rc = print_plan(&plan, &proto, protocol, (int)a->common.threads, a->common.json);
        goto done;
    }
    BD_TRY_DONE(bd_backend_args_open(&be, &ba, &err));
    if (!strcmp(a->mode, "fast"))
        fprintf(stderr, "birdie: eval: --mode fast is the same arithmetic as exact in this version\n");
    if (a->nll_out) {
        BD_TRY_DONE(bd_out_open(&out, a->nll_out, &err));
        out_open = true;
        opts.on_nll = write_nll;
        opts.user = &out;
    }
    opts.progress = bd_cli_progress_start(&progress);
    st = bd_evaluate(m, be, &data.stream, &proto, &opts, &score, &err);
    bd_cli_progress_end(&progress);
    if (st != BD_OK) goto done;
    if (out_open) BD_TRY_DONE(bd_out_commit(&out, &err));
    if (a->common.json) rc = bd_cli_print_json(score_json(&score, a, &proto, protocol, be));
    else print_score(&score, a, &proto, protocol, be, m);
done:
    if (st != BD_OK) rc = bd_cli_error(&err, a->common.json);
    if (out_open) bd_out_abort(&out);
    bd_backend_close(be);
    bd_data_close(&data);
    bd_model_close(m);
    return rc;
}

int bd_cmd_eval(int argc, char **argv) {
    eval_args a = {.mode = "exact", .backend = "cpu"};
    const bd_cli_opt opts[] = {
        {"data", BD_CLI_LIST, &a.data, "SHARD...", "validation shards in order; a directory means its *_val_*.bin"},
        {"tokenizer", BD_CLI_STRING, &a.tokenizer, "TOK.model", "SentencePiece model; its tables count the bytes"},
        {"bytes", BD_CLI_STRING, &a.bytes, "SIDECAR",
         "bytes of each token (default: X_val_bytes_Y.bin beside X_val_Y.bin where it exists)"},
        {"model", BD_CLI_STRING, &a.model_file, "FILE.model",
         "model file or name (default: recognise the checkpoint)"},
        {"set", BD_CLI_EACH, &a.sets, "CONSTANT=VALUE", "a constant of the model file, for example slope=0.5"},
        {"window", BD_CLI_COUNT, &a.window, "N",
         "inputs per window (checkpoints: 1024; artifacts: their protocol)"},
        {"stride", BD_CLI_COUNT, &a.stride, "N",
         "sliding window: every target is scored once with at least window - stride tokens of context"},
        {"max-windows", BD_CLI_COUNT, &a.max_windows, "N", "only the first N windows"},
        {"max-tokens", BD_CLI_COUNT, &a.max_tokens, "N", "only the first N targets"},
        {"drop-tail", BD_CLI_FLAG, &a.drop_tail, NULL, "leave out a last window that is not full"},
        {"protocol", BD_CLI_STRING, &a.protocol, "FILE.json", "evaluation protocol (kind window or sgd)"},
        {"mode", BD_CLI_STRING, &a.mode, "MODE", "exact or fast (the same arithmetic in this version)"},
        {"isa", BD_CLI_STRING, &a.isa, "ISA", "ref, avx2 or avx512 (default: the best); never changes the score"},
        {"backend", BD_CLI_STRING, &a.backend, "NAME", "cpu or cuda"},
        {"batch-rows", BD_CLI_COUNT, &a.batch_rows, "N", "tokens per forward call; never changes the score"},
        {"nll-out", BD_CLI_STRING, &a.nll_out, "FILE",
         "write each target's loss: raw little-endian float32, stream order"},
        {"allow-external", BD_CLI_FLAG, &a.allow_external, NULL, "allow sections that need an external program"},
    };
    const bd_cli_spec spec = {
        .name = "eval",
        .summary = bd_cmd_eval_summary,
        .usage = "eval MODEL --data SHARD... --tokenizer TOK.model [options]",
        .text =
            "MODEL is a checkpoint (.safetensors, .pt, .ptz), an artifact (.birdie) or a directory that train "
            "wrote. "
            "The same model and data give the same nll_q32 on every thread count, instruction set and batch size.",
        .examples =
            "  birdie eval model.pt --data val/ --tokenizer tok.model --window 1024 --stride 64\n"
            "  birdie eval out.birdie --data fineweb_val_000000.bin --tokenizer tok.model --json\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof *opts,
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    bd_cli_list args;
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = eval_run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
