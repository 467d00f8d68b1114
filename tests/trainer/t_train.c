/* The loop: the same bits however a run is cut, threaded, vectorized or repeated. */
#include <signal.h>

#include "train_help.h"
#include "trainer/train_log.h"

TEST(ten_steps_are_five_and_five) {
    run_hash whole = run_ok(&(run_args){.out = "whole"});
    run_ok(&(run_args){.out = "half", .set = {"stop_step=5"}});
    CHECK_RUN(whole, run_ok(&(run_args){.out = "half", .resume = true}));
    run_ok(&(run_args){.out = "bits", .set = {"stop_step=1"}});
    for (int k = 2; k < 10; k++) {
        char stop[32];
        snprintf(stop, sizeof stop, "stop_step=%d", k);
        run_ok(&(run_args){.out = "bits", .resume = true, .set = {stop}});
    }
    CHECK_RUN(whole, run_ok(&(run_args){.out = "bits", .resume = true}));
    /* going on with a finished run changes nothing */
    CHECK_RUN(whole, run_ok(&(run_args){.out = "bits", .resume = true}));
    /* and the log of the pieced run replays as one */
    bd_train_log l;
    bd_err e = {0};
    CHECK_OK(bd_train_log_open(&l, tmp_path("bits/log.jsonl"), &e), &e);
    CHECK(l.n == 10);
    CHECK_STR(l.weights_sha256, whole.weights);
    bd_train_log_free(&l);
    bd_train_result res;
    CHECK_OK(run_train(&(run_args){.out = "bits2", .replay = tmp_path("bits/log.jsonl")}, &res, &e), &e);
    CHECK(res.replay_equal && res.steps == 10);
    CHECK_STR(res.weights_sha256, whole.weights);
}

TEST(threads_and_vector_width_change_nothing) {
    run_hash one = run_ok(&(run_args){.out = "t1", .threads = 1});
    CHECK_RUN(one, run_ok(&(run_args){.out = "t2", .threads = 2}));
    CHECK_RUN(one, run_ok(&(run_args){.out = "t3", .threads = 3}));
    const char *specs[] = {"cpu:avx2", "cpu:avx512"};
    for (int i = 0; i < 2; i++) {
        bd_backend *be = backend_or_null(specs[i], 1);
        if (!be) continue;
        bd_backend_close(be);
        CHECK_RUN(one, run_ok(&(run_args){.out = specs[i] + 4, .spec = specs[i], .threads = 2}));
    }
    run_hash two = run_ok(&(run_args){.out = "cpu2", .set = {"stop_step=2"}});
    CHECK_RUN(two, run_ok(&(run_args){.out = "ref2", .spec = "ref", .threads = 2, .set = {"stop_step=2"}}));
}

/* Micro-batches follow from the row limit alone; several sequences of a shard share a call or not. */
TEST(odd_batches) {
    const char *sets[] = {"batch_tokens=24", "batch_tokens=72", "batch_tokens=408"};
    for (int i = 0; i < 3; i++) {
        char a[16], b[16];
        snprintf(a, sizeof a, "o%d", i);
        snprintf(b, sizeof b, "p%d", i);
        run_hash x = run_ok(&(run_args){.out = a, .set = {sets[i], "stop_step=3"}});
        CHECK_RUN(x, run_ok(&(run_args){.out = b, .threads = 2, .set = {sets[i], "stop_step=3"}}));
    }
}

TEST(switches_make_a_difference) {
    run_hash base = run_ok(&(run_args){.out = "d", .set = {"stop_step=4"}});
    const char *sets[] = {"clip=0", "seed=8", "optimizers.0.row_norm=false", "loader=sequential",
                          "schedule.warmup_steps=0"};
    for (int i = 0; i < 5; i++) {
        char out[16];
        snprintf(out, sizeof out, "d%d", i);
        run_hash h = run_ok(&(run_args){.out = out, .set = {"stop_step=4", sets[i]}});
        CHECK_MSG(strcmp(h.weights, base.weights) != 0, "%s has no effect", sets[i]);
    }
    /* averaging moves the model file, not the weights */
    run_hash h = run_ok(&(run_args){.out = "d_ema", .set = {"stop_step=4", "ema=0"}});
    CHECK_STR(h.weights, base.weights);
    CHECK(h.model != base.model);
}

/* The averaged model is d*e + (1-d)*w from the initial weights: one step of it by hand. */
TEST(average_of_the_weights) {
    enum { STEPS = 3 };
    run_ok(&(run_args){.out = "ema", .set = {"stop_step=3"}});
    bd_recipe *r = recipe_with(small_recipe, NULL, 0);
    bd_graph *g = NULL;
    bd_err e = {0};
    CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
    float *w = bd_alloc_aligned(g->param_floats, 4);
    double *avg = calloc(g->param_floats, sizeof *avg);
    CHECK(w && avg);
    bd_graph_init_params(g, r->seed, w);
    for (uint64_t i = 0; i < g->param_floats; i++) avg[i] = w[i];
    for (int k = 1; k <= STEPS + 1; k++) {
        char set[32], out[32];
        bool ema = k > STEPS; /* last: read the averaged file itself */
        snprintf(set, sizeof set, "stop_step=%d", k);
        snprintf(out, sizeof out, ema ? "ema" : "raw%d", k);
        if (!ema) run_ok(&(run_args){.out = out, .set = {set, "ema=0"}});
        char path[300];
        snprintf(path, sizeof path, "%s/model.safetensors", tmp_path(out));
        FILE *f = fopen(path, "rb");
        uint64_t head = 0;
        CHECK(f && fread(&head, 1, 8, f) == 8 && fseek(f, (long)head, SEEK_CUR) == 0);
        for (int i = 0; i < g->n_params; i++) { /* tensors lie in the order they were added */
            size_t n = (size_t)(g->params[i].rows * g->params[i].cols);
            CHECK(fread(w + g->params[i].offset, 4, n, f) == n);
        }
        fclose(f);
        for (uint64_t i = 0; i < g->param_floats; i++) {
            if (ema) CHECK(fabs(avg[i] - w[i]) < 1e-6);
            else avg[i] = 0.8 * avg[i] + (1 - 0.8) * w[i];
        }
    }
    free(w);
    free(avg);
    bd_graph_destroy(g);
    bd_recipe_close(r);
}

TEST(overfits_one_batch) {
    const char *sets[] = {"steps=250", "loader=sequential", "ema=0", "clip=0"};
    bd_recipe *r = recipe_with(small_recipe, sets, 4);
    bd_graph *g = NULL;
    bd_err e = {0};
    CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
    bd_backend *be = backend_or_null("cpu", 1);
    bd_train_result res;
    /* as many tokens as one batch holds, so each step sees the same ten sequences; random, to be learnt by heart */
    static uint16_t t[241];
    uint64_t seed = test_seed();
    for (int i = 0; i < 241; i++) t[i] = (uint16_t)(test_rand(&seed) % 61);
    bd_train_opts o = {.out_dir = tmp_path("overfit"), .train = t, .n_train = 241};
    CHECK_OK(bd_train(g, r, &o, be, &res, &e), &e);
    printf("    loss %.4f after %d steps\n", res.loss, (int)res.steps);
    CHECK(res.loss < 0.05);
    bd_backend_close(be);
    bd_graph_destroy(g);
    bd_recipe_close(r);
}

/* ---- by the clock ---- */

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    char *s = calloc(1, 1 << 20);
    CHECK(s != NULL);
    *n = fread(s, 1, (1 << 20) - 1, f);
    fclose(f);
    return s;
}

static void spill(const char *path, const char *s, size_t n) {
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(s, 1, n, f) == n && fclose(f) == 0);
}

TEST(timed_run_replays_from_its_log) {
    run_args timed = {.out = "timed", .set = {"time_s=1.0", "schedule.kind=time", "steps=100000"}, .threads = 2};
    bd_train_result res, again;
    bd_err e = {0};
    CHECK_OK(run_train(&timed, &res, &e), &e);
    printf("    %d steps in %.2f s\n", (int)res.steps, res.elapsed);
    CHECK(res.steps > 3 && res.elapsed > 0.3 && res.elapsed < 30);
    run_args replay = timed;
    replay.out = "timed2";
    replay.replay = tmp_path("timed/log.jsonl");
    replay.threads = 1;
    CHECK_OK(run_train(&replay, &again, &e), &e);
    CHECK(again.replay_equal && again.steps == res.steps);
    CHECK_STR(res.weights_sha256, again.weights_sha256);

    /* the time may be another, the recipe and the tokens may not */
    replay.out = "timed3";
    replay.set[0] = "time_s=77";
    CHECK_OK(run_train(&replay, &again, &e), &e);
    CHECK(again.replay_equal);
    replay.out = "timed4";
    replay.set[3] = "seed=1";
    CHECK(run_train(&replay, &again, &e) == BD_E_FIELD && strstr(e.msg, "another recipe"));
    replay.set[3] = NULL;

    /* a changed loss, a changed rate, a changed hash */
    size_t n;
    char *log = slurp(tmp_path("timed/log.jsonl"), &n);
    char *step = strstr(log, "\"step\":1,\"lr_mul\""), *loss = strstr(step, "\"loss\":"),
         *mul = strstr(step, "lr_mul\":");
    char *hash = strstr(log, "weights_sha256\":\"");
    CHECK(step && loss && mul && hash);
    char *at[3] = {loss + 12, strchr(mul, '.') + 2, hash + 20};
    for (int i = 0; i < 3; i++) {
        char old = *at[i];
        *at[i] = old == '3' ? '4' : '3';
        char path[32], out[32];
        snprintf(path, sizeof path, "tampered%d.jsonl", i);
        snprintf(out, sizeof out, "tampered%d", i);
        spill(tmp_path(path), log, n);
        *at[i] = old;
        replay.replay = tmp_path(path);
        replay.out = out;
        CHECK_OK(run_train(&replay, &again, &e), &e);
        CHECK(!again.replay_equal && again.steps == res.steps);
    }
    free(log);
    replay.out = "nothing";
    replay.replay = "/dev/null";
    CHECK(run_train(&replay, &again, &e) != BD_OK);
}

TEST(time_cap_ends_a_run_by_steps) {
    bd_train_result res;
    bd_err e = {0};
    CHECK_OK(run_train(&(run_args){.out = "cap", .set = {"time_s=0.3", "steps=1000000"}}, &res, &e), &e);
    CHECK(res.steps > 0 && res.steps < 1000000);
    /* the time is used up: resuming takes no step and gives the same weights */
    bd_train_result more;
    CHECK_OK(
        run_train(&(run_args){.out = "cap", .resume = true, .set = {"time_s=0.0001", "steps=1000000"}}, &more, &e),
        &e);
    CHECK(more.steps == res.steps && isnan(more.loss));
    CHECK_STR(more.weights_sha256, res.weights_sha256);
}

/* ---- interruption ---- */

typedef struct stopper {
    volatile sig_atomic_t stop;
    int64_t after;
} stopper;

static void stop_after(void *user, const bd_train_report *r) {
    stopper *s = user;
    if (r->step + 1 == s->after) s->stop = 1;
}

TEST(interrupted_run_goes_on) {
    run_hash whole = run_ok(&(run_args){.out = "calm", .val = test_stream()});
    stopper s = {0, 4};
    bd_progress p = {.stop = &s.stop};
    bd_train_result res;
    bd_err e = {0};
    run_args a = {.out = "torn", .progress = &p, .on_step = stop_after, .user = &s, .val = test_stream()};
    CHECK(run_train(&a, &res, &e) == BD_E_INTERRUPTED && strstr(e.msg, "--resume") && res.steps == 4);
    CHECK(bd_status_exit(BD_E_INTERRUPTED) == 130);
    CHECK(access(tmp_path("torn/model.safetensors"), F_OK) != 0);
    /* without --resume it is not touched */
    s.stop = 0;
    CHECK(run_train(&a, &res, &e) == BD_E_USAGE && strstr(e.msg, "already holds a run"));
    /* another recipe is refused */
    run_args other = {.out = "torn", .resume = true, .set = {"optimizers.0.lr=0.5"}};
    CHECK(run_train(&other, &res, &e) == BD_E_FIELD && strstr(e.msg, "another recipe"));
    a.resume = true;
    /* at the very start, in the middle of a step: nothing is lost, nothing is repeated */
    s.stop = 1;
    CHECK(run_train(&a, &res, &e) == BD_E_INTERRUPTED && res.steps == 4);
    /* in the validation that follows step 6 */
    s.stop = 0;
    s.after = 6;
    a.set[0] = "val_every=6";
    CHECK(run_train(&a, &res, &e) == BD_E_INTERRUPTED && res.steps == 6);
    /* in the last validation, when all is written */
    s.stop = 0;
    s.after = 10;
    a.set[0] = NULL;
    CHECK(run_train(&a, &res, &e) == BD_E_INTERRUPTED && res.steps == 10);
    s.stop = 0;
    s.after = 0;
    CHECK_RUN(whole, run_ok(&a));
    /* a step that began before the signal is thrown away whole: stopped at once, state of no step */
    s.stop = 1;
    run_args first = {.out = "first", .progress = &p};
    CHECK(run_train(&first, &res, &e) == BD_E_INTERRUPTED && res.steps == 0);
    s.stop = 0;
    first.resume = true;
    CHECK_RUN(whole, run_ok(&first));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
