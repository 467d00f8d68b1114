/* birdie train: a recipe and shards in, a run directory out. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/backend_args.h"
#include "cli/cli.h"
#include "cli/data_args.h"
#include "kernels/peak.h"
#include "trainer/train.h"

const char bd_cmd_train_summary[] = "train a model from a recipe on training shards";

typedef struct train_args {
    bd_cli_common common;
    bd_cli_list sets;
    const char *data, *out, *replay, *backend, *isa, *mode;
    double time_s;
    bool resume;
} train_args;

/* --- data --- */

typedef struct train_data {
    char **paths;
    size_t n_paths;
    bd_shards train;
    bd_data val;
    bool has_val;
} train_data;

static bd_status open_data(train_data *d, const train_args *a, bd_err *err) {
    const char *arg[1] = {a->data};
    BD_TRY(bd_shard_expand(arg, 1, "train", &d->paths, &d->n_paths, err));
    BD_TRY(bd_shards_open(&d->train, (const char *const *)d->paths, (int)d->n_paths, err));
    if (!bd_path_is_dir(a->data)) return BD_OK;
    char **val = NULL;
    size_t n = 0;
    bd_status st = bd_shard_expand(arg, 1, "val", &val, &n, err);
    if (st == BD_E_MISSING) return BD_OK; /* no validation data is fine */
    if (st) return st;
    bd_names_free(val, n);
    char tok[4096];
    snprintf(tok, sizeof tok, "%s/tokenizer.model", a->data);
    bd_map m;
    bool has_tok = bd_map_open(&m, tok, NULL) == BD_OK;
    if (has_tok) bd_map_close(&m);
    bd_data_args da = {.shards = arg, .n_shards = 1, .split = "val", .tokenizer = has_tok ? tok : NULL};
    st = bd_data_open(&d->val, &da, err);
    if (st == BD_E_USAGE && !has_tok) {
        st = BD_FAIL(err, BD_E_MISSING,
                     "validation shards, but neither tokenizer.model nor sidecars to count their bytes with");
        bd_err_file(err, a->data);
    }
    if (st) return st;
    d->has_val = true;
    return BD_OK;
}

static void close_data(train_data *d) {
    if (d->has_val) bd_data_close(&d->val);
    bd_shards_close(&d->train);
    bd_names_free(d->paths, d->n_paths);
}

/* --- live report --- */

typedef struct live {
    const bd_progress *p;
    double peak;
} live;

static double percent(double gflops, double peak) { return peak > 0 ? 100 * gflops / peak : 0; }

static void on_step(void *user, const bd_train_report *r) {
    live *l = user;
    /* By what will end the run, the clock or the steps; a resumed run counts from where it went on. */
    double s_done = r->elapsed - r->first_elapsed, s_all = r->time_s - r->first_elapsed;
    double n_done = (double)(r->step + 1 - r->first_step), n_all = (double)(r->steps - r->first_step);
    bool timed = r->time_s > 0 && s_done * n_all > n_done * s_all;
    bd_tick(l->p, timed ? "training seconds" : "training steps", timed ? s_done : n_done, timed ? s_all : n_all,
            "step %" PRId64 "  loss %.4f  lr x%.3f  %.0f tokens/s  %.0f%% of peak", r->step + 1, r->loss, r->lr_mul,
            r->tokens_per_s, percent(r->gflops, l->peak));
}

/* --- results --- */

static int print_result(const bd_train_result *r, const train_args *a, double peak, const bd_backend *be) {
    if (a->common.json) {
        json_t *o = json_object(), *t = json_object(), *b = json_object();
        json_object_set_new(o, "out", bd_cli_str(a->out));
        json_object_set_new(o, "steps", bd_cli_i64(r->steps));
        json_object_set_new(o, "tokens", bd_cli_u64(r->tokens));
        json_object_set_new(o, "loss", bd_cli_real(r->loss));
        json_object_set_new(o, "val_loss", bd_cli_real(r->val_loss));
        json_object_set_new(o, "val_bpb", bd_cli_real(r->val_bpb));
        json_object_set_new(o, "parameters", bd_cli_u64(r->param_count));
        json_object_set_new(o, "weights_sha256", json_string(r->weights_sha256));
        if (a->replay) json_object_set_new(o, "replay_equal", json_boolean(r->replay_equal));
        json_object_set_new(b, "parameters", bd_cli_u64(r->bytes_params));
        json_object_set_new(b, "gradients", bd_cli_u64(r->bytes_gradients));
        json_object_set_new(b, "optimizer", bd_cli_u64(r->bytes_optimizer));
        json_object_set_new(b, "activations", bd_cli_u64(r->bytes_activations));
        json_object_set_new(o, "memory_bytes", b);
        json_object_set_new(t, "seconds", bd_cli_real(r->elapsed));
        json_object_set_new(t, "tokens_per_s", bd_cli_real(r->tokens_per_s));
        json_object_set_new(t, "gflops", bd_cli_real(r->gflops));
        json_object_set_new(t, "peak_gflops", bd_cli_real(peak));
        json_object_set_new(t, "backend", json_string(be->vt->name));
        json_object_set_new(t, "threads", json_integer(bd_pool_threads(be->pool)));
        json_object_set_new(o, "measured", t);
        return bd_cli_print_json(o);
    }
    printf("steps      %" PRId64 " (%" PRIu64 " tokens), %" PRIu64 " parameters\n", r->steps, r->tokens,
           r->param_count);
    if (isfinite(r->loss)) printf("loss       %.4f in the last step\n", r->loss);
    if (isfinite(r->val_loss)) printf("val_loss   %.4f nats per token\n", r->val_loss);
    if (isfinite(r->val_bpb)) printf("val_bpb    %.4f\n", r->val_bpb);
    if (a->replay)
        printf("replay     %s\n", r->replay_equal ? "equal to the log, bit for bit" : "DIFFERS from the log");
    printf("time       %.1f s, %.0f tokens/s, %.0f GFLOP/s = %.0f%% of this machine's peak (%.0f)\n", r->elapsed,
           r->tokens_per_s, r->gflops, percent(r->gflops, peak), peak);
    printf("written    %s/model.safetensors, state.safetensors, log.jsonl, recipe.json\n", a->out);
    return 0;
}

typedef struct group_size {
    uint64_t tensors, params;
} group_size;

/* What each optimizer group takes, so that a pattern that misses its tensors is seen before the run. */
static void group_sizes(group_size *out, const bd_graph *g, const bd_recipe *r) {
    for (int i = 0; i < g->n_params; i++) {
        int k = bd_recipe_group(r, g->params[i].name);
        if (k < 0) continue;
        out[k].tensors++;
        out[k].params += (uint64_t)(g->params[i].rows * g->params[i].cols);
    }
}

static int print_plan(const bd_graph *g, const bd_recipe *r, const bd_train_result *p, const train_args *a,
                      double peak) {
    double flops = 3 * bd_graph_flops(g, r->seq_len) * (double)r->batch_tokens;
    double seconds = peak > 0 ? flops / (0.5e9 * peak) : NAN;
    uint64_t total = p->bytes_params + p->bytes_gradients + p->bytes_optimizer + p->bytes_activations;
    group_size sizes[64] = {{0, 0}};
    group_sizes(sizes, g, r);
    if (a->common.json) {
        json_t *o = json_object(), *groups = json_array();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "parameters", bd_cli_u64(p->param_count));
        json_object_set_new(o, "memory_bytes", bd_cli_u64(total));
        json_object_set_new(o, "flops_per_step", bd_cli_real(flops));
        json_object_set_new(o, "seconds_per_step", bd_cli_real(seconds));
        json_object_set_new(o, "optimizers", groups);
        for (int i = 0; i < r->n_groups; i++) {
            json_t *e = json_object();
            json_object_set_new(e, "kind", json_string(r->groups[i].kind == BD_OPTIMIZER_MUON ? "muon" : "adamw"));
            json_object_set_new(e, "match", bd_cli_str(r->groups[i].match[0]));
            json_object_set_new(e, "tensors", bd_cli_u64(sizes[i].tensors));
            json_object_set_new(e, "parameters", bd_cli_u64(sizes[i].params));
            json_array_append_new(groups, e);
        }
        return bd_cli_print_json(o);
    }
    printf("parameters  %" PRIu64 "\n", p->param_count);
    for (int i = 0; i < r->n_groups; i++)
        printf("  %-5s lr %-8g %8" PRIu64 " in %" PRIu64 " tensors   %s%s\n",
               r->groups[i].kind == BD_OPTIMIZER_MUON ? "muon" : "adamw", r->groups[i].lr, sizes[i].params,
               sizes[i].tensors, r->groups[i].match[0], r->groups[i].n_match > 1 ? " ..." : "");
    printf("memory      %" PRIu64 " bytes: parameters %" PRIu64 ", gradients %" PRIu64 ", optimizer %" PRIu64
           ", activations %" PRIu64 "\n",
           total, p->bytes_params, p->bytes_gradients, p->bytes_optimizer, p->bytes_activations);
    printf("step        %.4g FLOPs, about %.2f s at half of this machine's peak (%.0f GFLOP/s)\n", flops, seconds,
           peak);
    return 0;
}

/* --- the command --- */

static bd_status open_recipe(bd_recipe **r, const train_args *a, const char *path, bd_err *err) {
    const char **sets = malloc((a->sets.n + 2) * sizeof *sets);
    if (!sets) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    char time[64];
    int n = 0;
    for (size_t i = 0; i < a->sets.n; i++) sets[n++] = a->sets.items[i];
    if (a->time_s > 0) {
        snprintf(time, sizeof time, "time_s=%.17g", a->time_s);
        sets[n++] = time;
    }
    bd_status st = bd_recipe_open(r, path, sets, n, err);
    free(sets);
    return st;
}

static int train_run(const train_args *a, const char *path) {
    bd_err err = {0};
    bd_status st = BD_OK;
    bd_recipe *r = NULL;
    bd_graph *g = NULL;
    bd_backend *be = NULL;
    train_data data = {0};
    bd_train_result res;
    bd_cli_progress progress;
    int rc = 0;

    if (!a->data || (!a->out && !a->common.dry_run)) {
        st = BD_FAIL(&err, BD_E_USAGE, "%s",
                     a->data ? "give the run directory with --out" : "give the shards with --data");
        goto done;
    }
    if (a->time_s < 0) {
        st = BD_FAIL(&err, BD_E_USAGE, "--time must not be negative");
        goto done;
    }
    if (a->resume && a->replay) {
        st = BD_FAIL(&err, BD_E_USAGE, "--resume and --replay exclude each other");
        goto done;
    }
    BD_TRY_DONE(open_recipe(&r, a, path, &err));
    BD_TRY_DONE(bd_recipe_graph(&g, r, &err));
    double peak = bd_peak_gflops((int)a->common.threads);
    if (a->common.dry_run) {
        BD_TRY_DONE(bd_train_plan(g, r, &res, &err));
        rc = print_plan(g, r, &res, a, peak);
        goto done;
    }
    BD_TRY_DONE(open_data(&data, a, &err));
    bd_backend_args ba = {a->backend, a->isa, a->mode ? a->mode : r->fast ? "fast" : "exact", a->common.threads};
    BD_TRY_DONE(bd_backend_args_open(&be, &ba, &err));
    live l = {bd_cli_progress_start(&progress), peak};
    bd_train_opts o = {.out_dir = a->out,
                       .train = data.train.tokens,
                       .n_train = data.train.total,
                       .val = data.has_val ? data.val.stream.tokens : NULL,
                       .n_val = data.has_val ? data.val.stream.n : 0,
                       .val_bytes = data.has_val ? data.val.stream.bytes : NULL,
                       .resume = a->resume,
                       .replay = a->replay,
                       .max_memory = (uint64_t)a->common.max_memory,
                       .on_step = on_step,
                       .user = &l,
                       .progress = l.p};
    st = bd_train(g, r, &o, be, &res, &err);
    bd_cli_progress_end(&progress);
    if (!st) rc = print_result(&res, a, peak, be);
    if (!st && a->replay && !res.replay_equal) rc = 1;
done:
    if (st) rc = bd_cli_error(&err, a->common.json);
    bd_backend_close(be);
    close_data(&data);
    bd_graph_destroy(g);
    bd_recipe_close(r);
    return rc;
}

int bd_cmd_train(int argc, char **argv) {
    train_args a = {.backend = "cpu"};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"data", BD_CLI_STRING, &a.data, "DIR",
         "training shards: a folder (its *_train_*.bin; *_val_*.bin and "
         "tokenizer.model there serve validation) or one shard"},
        {"out", BD_CLI_STRING, &a.out, "DIR", "run directory to write"},
        {"set", BD_CLI_EACH, &a.sets, "key=value", "override a key of the recipe, for example constants.layers=5"},
        {"time", BD_CLI_DOUBLE, &a.time_s, "SECONDS", "wall-clock cap of the training loop (the recipe's time_s)"},
        {"resume", BD_CLI_FLAG, &a.resume, NULL, "continue the run in --out from its state"},
        {"replay", BD_CLI_STRING, &a.replay, "LOG",
         "repeat a run from its log.jsonl bit for bit; exit code 1 if it differs"},
        {"mode", BD_CLI_STRING, &a.mode, "exact|fast",
         "numerics; the recipe's, else exact (fast equals exact on this backend)"},
        {"backend", BD_CLI_STRING, &a.backend, "cpu|cuda", "where to compute"},
        {"isa", BD_CLI_STRING, &a.isa, "ref|avx2|avx512", "instruction set of the cpu backend; the best there is"},
    };
    const bd_cli_spec spec = {
        .name = "train",
        .summary = bd_cmd_train_summary,
        .usage = "train RECIPE.json --data DIR --out DIR [options]",
        .text =
            "Trains the recipe's model and writes DIR/model.safetensors (the EMA weights if the recipe keeps "
            "them), "
            "state.safetensors, log.jsonl and recipe.json. Ctrl-C saves the state; --resume goes on from it. A run "
            "by "
            "steps repeats bit for bit; a run by the clock is repeated bit for bit from its log with --replay.",
        .examples =
            "  birdie train configs/demo.json --data shards --out run --time 90\n"
            "  birdie train configs/demo.json --data shards --out again --replay run/log.jsonl\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = train_run(&a, args.items[0]);
    bd_cli_free(&spec, &args);
    return rc;
}
