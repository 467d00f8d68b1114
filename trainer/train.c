#include "trainer/train.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/sha256.h"
#include "runtime/exec.h"
#include "trainer/loader.h"
#include "trainer/optimizer.h"
#include "trainer/schedule.h"
#include "trainer/train_log.h"
#include "trainer/train_state.h"

enum { SAVE_EVERY_S = 300, MICRO_ROWS = 4096 };

typedef struct trainer {
    const bd_graph *g; /* forward */
    bd_graph *dg;      /* differentiated */
    const bd_recipe *r;
    const bd_train_opts *o;
    bd_backend *be;
    bd_exec *exec;
    bd_gradsum *sum;
    bd_train_state s;
    bd_loader loader;
    float *grad;    /* backend memory, flat */
    int32_t *x, *y; /* (nseq, seq_len) */
    double *nll;
    int64_t nseq;
    FILE *log;
    bd_train_log replay;
    double last_save, t0, elapsed_before;
    bd_progress quiet; /* only the stop flag: a step's inside is too fine to show */
} trainer;

int64_t bd_train_rows(const bd_recipe *r) {
    int64_t nseq = r->batch_tokens / r->seq_len, per_shard = (nseq + 7) / 8;
    int64_t fit = MICRO_ROWS / r->seq_len;
    if (fit < 1) fit = 1;
    return (per_shard < fit ? per_shard : fit) * r->seq_len;
}

static void out_path(const trainer *t, const char *name, char out[4096]) {
    snprintf(out, 4096, "%s/%s", t->o->out_dir, name);
}

static double elapsed(const trainer *t) { return t->elapsed_before + bd_now() - t->t0; }

static bd_status take(bd_backend *be, float **out, uint64_t floats, bd_err *err) {
    void *mem = NULL;
    BD_TRY(be->vt->alloc(be, &mem, floats * sizeof(float), err));
    *out = mem;
    return BD_OK;
}

/* --- log --- */

static bd_status log_put(trainer *t, json_t *line, bd_err *err) {
    char *s = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(line);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "out of memory writing the log");
    bool bad = fprintf(t->log, "%s\n", s) < 0 || fflush(t->log) != 0;
    free(s);
    if (bad) return BD_FAIL(err, BD_E_IO, "writing %s/log.jsonl: %s", t->o->out_dir, strerror(errno));
    return BD_OK;
}

/* What decides a run, as the log's first line carries it. */
static bd_status run_identity(const trainer *t, char recipe[65], char tokens[65], bd_err *err) {
    uint8_t h[32];
    BD_TRY(bd_recipe_identity(t->r->json, strlen(t->r->json), h, err));
    bd_sha256_hex(h, recipe);
    bd_sha256_of(t->o->train, t->o->n_train * sizeof *t->o->train, h);
    bd_sha256_hex(h, tokens);
    return BD_OK;
}

static bd_status log_start(trainer *t, bd_err *err) {
    char tokens[65], recipe[65];
    BD_TRY(run_identity(t, recipe, tokens, err));
    return log_put(t,
                   json_pack("{s:s, s:I, s:f, s:s, s:s, s:I, s:s}", "event", "start", "step", (json_int_t)t->s.step,
                             "elapsed", t->s.elapsed, "recipe_sha256", recipe, "train_tokens_sha256", tokens,
                             "param_count", (json_int_t)t->g->param_count, "backend", t->be->vt->name),
                   err);
}

static bd_status open_replay(trainer *t, bd_err *err) {
    char tokens[65], recipe[65];
    BD_TRY(bd_train_log_open(&t->replay, t->o->replay, err));
    BD_TRY(run_identity(t, recipe, tokens, err));
    bd_status st = BD_OK;
    if (t->replay.n == 0) st = BD_FAIL(err, BD_E_MISSING, "the log holds no steps to replay");
    else if (t->replay.recipe_sha256[0] && strcmp(t->replay.recipe_sha256, recipe) != 0)
        st = BD_FAIL(err, BD_E_FIELD, "the log belongs to another recipe; replay with the recipe.json beside it");
    else if (t->replay.tokens_sha256[0] && strcmp(t->replay.tokens_sha256, tokens) != 0)
        st = BD_FAIL(err, BD_E_FIELD, "the log was made from other training tokens");
    if (st) bd_err_file(err, t->o->replay);
    return st;
}

/* --- set-up --- */

static bd_status check_resumed_recipe(trainer *t, bd_err *err) {
    char path[4096];
    uint8_t old[32], new[32];
    out_path(t, "recipe.json", path);
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_recipe_identity((const char *)m.data, m.size, old, err);
    bd_map_close(&m);
    if (!st) st = bd_recipe_identity(t->r->json, strlen(t->r->json), new, err);
    if (!st && memcmp(old, new, sizeof old) != 0)
        st = BD_FAIL(
            err, BD_E_FIELD,
            "this run was started with another recipe; only stop_step, time_s, val_every and val_tokens may "
            "change on --resume");
    if (st) bd_err_file(err, path);
    return st;
}

/* Before anything is computed: is --out fit for this run? */
static bd_status check_output(trainer *t, bd_err *err) {
    static const char *const made[] = {"state.safetensors", "model.safetensors"};
    char path[4096];
    if (strlen(t->o->out_dir) > 4000) return BD_FAIL(err, BD_E_USAGE, "the run directory's name is too long");
    out_path(t, made[0], path);
    if (t->o->resume) {
        if (access(path, F_OK) != 0)
            return BD_FAIL(err, BD_E_MISSING, "%s holds no state to resume from: %s", t->o->out_dir,
                           strerror(errno));
        return check_resumed_recipe(t, err);
    }
    for (int i = 0; i < 2; i++) {
        out_path(t, made[i], path);
        if (access(path, F_OK) == 0)
            return BD_FAIL(err, BD_E_USAGE,
                           "%s already holds a run; continue it with --resume, or choose another --out",
                           t->o->out_dir);
    }
    return bd_make_dir(t->o->out_dir, err);
}

static bd_status open_output(trainer *t, bd_err *err) {
    char path[4096];
    if (t->o->resume) {
        out_path(t, "state.safetensors", path);
        BD_TRY(bd_train_state_load(&t->s, t->g, t->be, path, err));
    }
    out_path(t, "recipe.json", path);
    BD_TRY(bd_file_write(path, t->r->json, strlen(t->r->json), err));
    out_path(t, "log.jsonl", path);
    if (t->o->resume) BD_TRY(bd_train_log_mend(path, err));
    t->log = fopen(path, t->o->resume ? "ab" : "wb");
    if (!t->log) return BD_FAIL(err, BD_E_IO, "cannot open %s: %s", path, strerror(errno));
    return BD_OK;
}

static bd_status check_tokens(const char *what, const uint16_t *tokens, uint64_t n, int32_t vocab, bd_err *err) {
    for (uint64_t i = 0; i < n; i++)
        if (tokens[i] >= vocab)
            return BD_FAIL(err, BD_E_RANGE, "%s token %" PRIu64 " is %u, the vocabulary ends at %d", what, i,
                           tokens[i], vocab - 1);
    return BD_OK;
}

static bd_status set_up(trainer *t, bd_err *err) {
    const bd_recipe *r = t->r;
    t->nseq = r->batch_tokens / r->seq_len;
    BD_TRY(check_tokens("training", t->o->train, t->o->n_train, t->g->vocab, err));
    if (t->o->val) BD_TRY(check_tokens("validation", t->o->val, t->o->n_val, t->g->vocab, err));
    BD_TRY(bd_loader_init(&t->loader, t->o->train, t->o->n_train, r->seq_len, r->loader, r->seed, err));
    BD_TRY(bd_graph_differentiate(&t->dg, t->g, err));
    BD_TRY(bd_exec_create(&t->exec, t->dg, t->be, bd_train_rows(r), r->seq_len, err));
    BD_TRY(bd_gradsum_create(&t->sum, t->dg, t->be, err));
    BD_TRY(bd_optimizer_create(&t->s.optimizer, t->g, r, t->be, err));
    uint64_t floats = t->g->param_floats;
    BD_TRY(take(t->be, &t->s.params, floats, err));
    BD_TRY(take(t->be, &t->grad, floats, err));
    if (r->ema > 0) BD_TRY(take(t->be, &t->s.ema, floats, err));
    int64_t rows = t->nseq * r->seq_len, val_rows = bd_train_rows(r);
    if (rows < val_rows) rows = val_rows;
    t->x = malloc((size_t)rows * sizeof *t->x);
    t->y = malloc((size_t)rows * sizeof *t->y);
    t->nll = malloc((size_t)rows * sizeof *t->nll);
    float *init = bd_alloc_aligned(floats, sizeof(float));
    bd_status st = BD_OK;
    if (!t->x || !t->y || !t->nll || !init) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory for a batch");
    } else {
        bd_graph_init_params(t->g, r->seed, init);
        st = t->be->vt->upload(t->be, t->s.params, init, floats * sizeof(float), err);
        if (!st && t->s.ema) st = t->be->vt->upload(t->be, t->s.ema, init, floats * sizeof(float), err);
    }
    free(init);
    BD_TRY(st);
    BD_TRY(open_output(t, err));
    return log_start(t, err);
}

static void tear_down(trainer *t) {
    if (t->log) fclose(t->log);
    bd_train_log_free(&t->replay);
    bd_loader_free(&t->loader);
    bd_gradsum_destroy(t->sum);
    bd_exec_destroy(t->exec);
    bd_optimizer_destroy(t->s.optimizer);
    float *mem[] = {t->s.params, t->s.ema, t->grad};
    for (int i = 0; i < 3; i++)
        if (mem[i]) t->be->vt->release(t->be, mem[i]);
    bd_graph_destroy(t->dg);
    free(t->x);
    free(t->y);
    free(t->nll);
}

/* --- one step --- */

static bd_status average(trainer *t, bd_err *err) {
    if (!t->s.ema) return BD_OK;
    bd_view e = {t->s.ema, BD_F32, 1, (int64_t)t->g->param_floats};
    bd_view w = {t->s.params, BD_F32, 1, (int64_t)t->g->param_floats};
    double d = t->r->ema;
    bd_call c = {.op = BD_OP_axpby, .in = {e, w}, .out = {e}, .attr.lin = {(float)d, (float)(1 - d)}};
    return bd_run(t->be, &c, err);
}

static bd_status one_step(trainer *t, double lr_mul, double *loss, double *norm, bd_err *err) {
    int64_t n = t->nseq * t->r->seq_len;
    bd_loader_batch(&t->loader, t->s.step, t->nseq, t->x, t->y);
    BD_TRY(bd_batch_gradient(t->exec, t->sum, t->s.params, t->x, t->y, t->nseq, t->r->seq_len, t->grad, t->nll,
                             &t->quiet, err));
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += t->nll[i];
    *loss = sum / (double)n;
    if (!isfinite(*loss))
        return BD_FAIL(err, BD_E_NONFINITE,
                       "the loss of step %" PRId64 " is not finite; lower the learning rates or clip", t->s.step);
    BD_TRY(bd_optimizer_step(t->s.optimizer, t->s.params, t->grad, t->s.step, lr_mul, norm, err));
    BD_TRY(average(t, err));
    t->s.step++;
    return BD_OK;
}

static bd_status validate(trainer *t, bd_train_result *res, bd_err *err) {
    const float *w = t->s.ema ? t->s.ema : t->s.params;
    int64_t T = t->r->seq_len, per = bd_train_rows(t->r) / T;
    uint64_t want = t->o->n_val ? t->o->n_val - 1 : 0;
    if (want > (uint64_t)t->r->val_tokens) want = (uint64_t)t->r->val_tokens;
    int64_t windows = (int64_t)(want / (uint64_t)T);
    if (windows < 1) return BD_OK;
    double sum = 0;
    uint64_t bytes = 0;
    for (int64_t first = 0; first < windows; first += per) {
        int64_t n = windows - first < per ? windows - first : per;
        for (int64_t i = 0; i < n * T; i++) {
            uint64_t at = (uint64_t)(first * T + i);
            t->x[i] = t->o->val[at];
            t->y[i] = t->o->val[at + 1];
            if (t->o->val_bytes) bytes += t->o->val_bytes[at + 1];
        }
        BD_TRY(bd_exec_forward(t->exec, w, t->x, t->y, n, T, t->nll, err));
        for (int64_t i = 0; i < n * T; i++) sum += t->nll[i];
        if (bd_stopped(t->o->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted during validation");
    }
    res->val_loss = sum / (double)(windows * T);
    res->val_bpb = bytes ? sum / (log(2.0) * (double)bytes) : NAN;
    json_t *line = json_pack("{s:s, s:I, s:f, s:I}", "event", "val", "step", (json_int_t)t->s.step, "val_loss",
                             res->val_loss, "tokens", (json_int_t)(windows * T));
    if (line && bytes) json_object_set_new(line, "val_bpb", json_real(res->val_bpb));
    return log_put(t, line, err);
}

static bd_status save_state(trainer *t, bd_err *err) {
    char path[4096];
    out_path(t, "state.safetensors", path);
    t->s.elapsed = elapsed(t);
    BD_TRY(bd_train_state_save(&t->s, t->g, t->be, path, err));
    t->last_save = bd_now();
    return BD_OK;
}

/* --- the loop --- */

/* Where the run stands on its schedule before this step. */
static double schedule_progress(const trainer *t) {
    if (t->r->schedule == BD_SCHEDULE_TIME) return elapsed(t) / t->r->time_s;
    return (double)t->s.step / (double)t->r->steps;
}

static int64_t last_step(const trainer *t) {
    if (t->o->replay) return t->replay.n;
    return t->r->stop_step ? t->r->stop_step : t->r->steps;
}

static bd_status log_step(trainer *t, const bd_train_report *p, bd_err *err) {
    json_t *line =
        json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "event", "step", "step", (json_int_t)p->step, "lr_mul",
                  p->lr_mul, "loss", p->loss, "elapsed", p->elapsed, "tokens_per_s", p->tokens_per_s);
    if (line && t->r->clip > 0) json_object_set_new(line, "norm", json_real(p->norm));
    return log_put(t, line, err);
}

static bd_status run_steps(trainer *t, bd_train_result *res, bd_err *err) {
    double flops = 3 * bd_graph_flops(t->g, t->r->seq_len) * (double)(t->nseq * t->r->seq_len);
    double step_s = 0, run0 = bd_now();
    int64_t first = t->s.step, end = last_step(t);
    if (first > 0) step_s = t->elapsed_before / (double)first; /* the best guess for a resumed run */
    while (t->s.step < end) {
        /* Never begin a step that would end beyond the cap. */
        if (!t->o->replay && t->r->time_s > 0 && elapsed(t) + step_s > t->r->time_s) break;
        int64_t k = t->s.step;
        double lr_mul = t->o->replay ? t->replay.steps[k].lr_mul : bd_lr_multiplier(t->r, k, schedule_progress(t));
        double t0 = bd_now(), loss, norm;
        BD_TRY(one_step(t, lr_mul, &loss, &norm, err));
        step_s = bd_now() - t0;
        if (step_s < 1e-9) step_s = 1e-9; /* a coarse clock */
        if (t->o->replay && loss != t->replay.steps[k].loss) {
            if (res->replay_equal)
                bd_note(t->o->progress, "step %" PRId64 ": loss %.17g, the log says %.17g", k, loss,
                        t->replay.steps[k].loss);
            res->replay_equal = false;
        }
        bd_train_report p = {.step = k,
                             .steps = end,
                             .first_step = first,
                             .first_elapsed = t->elapsed_before,
                             .loss = loss,
                             .lr_mul = lr_mul,
                             .norm = norm,
                             .elapsed = elapsed(t),
                             .time_s = t->o->replay ? 0 : t->r->time_s,
                             .tokens_per_s = (double)(t->nseq * t->r->seq_len) / step_s,
                             .gflops = flops / step_s * 1e-9};
        BD_TRY(log_step(t, &p, err));
        if (t->o->on_step) t->o->on_step(t->o->user, &p);
        res->loss = loss;
        if (t->r->val_every && t->s.step % t->r->val_every == 0 && t->s.step < end) BD_TRY(validate(t, res, err));
        if (bd_stopped(t->o->progress))
            return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted after step %" PRId64, t->s.step);
        if (bd_now() - t->last_save > SAVE_EVERY_S) BD_TRY(save_state(t, err));
    }
    int64_t done = t->s.step - first;
    double seconds = bd_now() - run0;
    if (done > 0 && seconds > 0) {
        res->tokens_per_s = (double)(done * t->nseq * t->r->seq_len) / seconds;
        res->gflops = flops * (double)done / seconds * 1e-9;
    }
    return BD_OK;
}

static bd_status finish(trainer *t, bd_train_result *res, bd_err *err) {
    char path[4096];
    uint8_t hash[32];
    BD_TRY(bd_train_weights_hash(t->s.params, t->g, t->be, hash, err));
    bd_sha256_hex(hash, res->weights_sha256);
    if (t->o->replay && t->replay.weights_sha256[0] && strcmp(t->replay.weights_sha256, res->weights_sha256) != 0)
        res->replay_equal = false;
    res->elapsed = elapsed(t);
    out_path(t, "model.safetensors", path);
    BD_TRY(bd_train_model_save(t->s.ema ? t->s.ema : t->s.params, t->g, t->be, path, t->r->json, err));
    BD_TRY(save_state(t, err));
    BD_TRY(log_put(t,
                   json_pack("{s:s, s:I, s:f, s:s}", "event", "end", "step", (json_int_t)t->s.step, "elapsed",
                             res->elapsed, "weights_sha256", res->weights_sha256),
                   err));
    if (t->o->val) BD_TRY(validate(t, res, err));
    return BD_OK;
}

/* The gradient of one shard and use each, the sums, and what bd_gradsum keeps beside them. */
static uint64_t gradient_bytes(const bd_graph *dg) { return 9 * dg->grad_floats * sizeof(float) + (1u << 20); }

bd_status bd_train_plan(const bd_graph *g, const bd_recipe *r, bd_train_result *res, bd_err *err) {
    *res = (bd_train_result){.loss = NAN, .val_loss = NAN, .val_bpb = NAN, .replay_equal = true};
    bd_graph *dg = NULL;
    BD_TRY(bd_optimizer_plan(&res->bytes_optimizer, g, r, err));
    BD_TRY(bd_graph_differentiate(&dg, g, err));
    uint64_t flat = g->param_floats * sizeof(float), batch = (uint64_t)r->batch_tokens,
             rows = (uint64_t)bd_train_rows(r);
    res->param_count = g->param_count;
    res->bytes_params = flat * (r->ema > 0 ? 2 : 1);
    res->bytes_gradients = flat + gradient_bytes(dg);
    uint64_t exec = bd_exec_plan_bytes(dg, (int64_t)rows, r->seq_len);
    bd_graph_destroy(dg);
    if (exec == UINT64_MAX)
        return BD_FAIL(err, BD_E_LIMIT, "the activations of %" PRIu64 " rows exceed any memory", rows);
    /* tokens, targets and losses of the batch on the host */
    res->bytes_activations = exec + (batch > rows ? batch : rows) * (2 * sizeof(int32_t) + sizeof(double));
    return BD_OK;
}

bd_status bd_train(const bd_graph *g, const bd_recipe *r, const bd_train_opts *o, bd_backend *be,
                   bd_train_result *res, bd_err *err) {
    BD_TRY(bd_train_plan(g, r, res, err));
    uint64_t total = res->bytes_params + res->bytes_gradients + res->bytes_optimizer + res->bytes_activations;
    if (o->max_memory && total > o->max_memory)
        return BD_FAIL(err, BD_E_LIMIT, "training needs %" PRIu64 " bytes, --max-memory allows %" PRIu64, total,
                       o->max_memory);
    trainer t = {.g = g, .r = r, .o = o, .be = be, .t0 = o->t0 > 0 ? o->t0 : bd_now()};
    if (o->progress) t.quiet.stop = o->progress->stop;
    t.last_save = t.t0;
    bd_status st = check_output(&t, err);
    if (!st && o->replay) st = open_replay(&t, err);
    if (!st) st = set_up(&t, err);
    if (!st) {
        t.elapsed_before = t.s.elapsed;
        st = run_steps(&t, res, err);
        if (!st) st = finish(&t, res, err);
        if (st == BD_E_INTERRUPTED) {
            bd_status saved = save_state(&t, err);
            if (saved) st = saved;
            else
                st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted after step %" PRId64 "; continue with --resume",
                             t.s.step);
        }
        BD_ASSERT(res->bytes_optimizer == bd_optimizer_bytes(t.s.optimizer));
        BD_ASSERT(gradient_bytes(t.dg) == bd_gradsum_bytes(t.sum));
    }
    res->steps = t.s.step;
    res->tokens = (uint64_t)(t.s.step * t.nseq * r->seq_len);
    tear_down(&t);
    return st;
}
