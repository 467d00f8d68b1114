/* Sessions: the recorded stream, scoring, learning. */
#include "bd_test.h"

#include "runtime/session.h"
#include "tiny_model.h"

enum { V = 61, L = 24 };
static const tiny_spec SPEC = {V, 16, 3, 4, 2, 24};

typedef struct fixture {
    bd_model *m;
    bd_backend *be;
    uint16_t stream[400];
    uint64_t seed;
} fixture;

static fixture setup(void) {
    fixture f = {.seed = test_seed()};
    f.m = tiny_model(&SPEC, test_rand(&f.seed));
    f.be = test_backend("cpu", 2);
    random_tokens(f.stream, 400, V, &f.seed);
    return f;
}

static void teardown(fixture *f) {
    bd_backend_close(f->be);
    bd_model_close(f->m);
}

static bd_session *session(const fixture *f, int64_t rows, bool learn) {
    bd_session *s = NULL;
    bd_err e = {0};
    CHECK_OK(bd_session_create(&s, f->m, f->be, rows, L, learn, &e), &e);
    CHECK_OK(bd_session_begin(s, f->stream[0], 10, &e), &e);
    CHECK_EQ_U64(bd_session_length(s), 1);
    return s;
}

static bd_window window(const fixture *f, uint64_t start, uint64_t first, uint32_t n) {
    return (bd_window){start, first, f->stream + first, n};
}

/* The loss of targets [first, first + n) with inputs from `start`, by a forward pass of its own. */
static void direct(const fixture *f, const float *params, uint64_t start, uint64_t first, uint32_t n, double *nll) {
    int64_t T = (int64_t)(first + n - 1 - start);
    int32_t tokens[L], targets[L];
    double all[L];
    bd_exec *x = NULL;
    bd_err e = {0};
    for (int64_t t = 0; t < T; t++) {
        tokens[t] = f->stream[start + (uint64_t)t];
        targets[t] = f->stream[start + (uint64_t)t + 1];
    }
    CHECK_OK(bd_exec_create(&x, f->m->graph, f->be, T, T, &e), &e);
    CHECK_OK(bd_exec_forward(x, params, tokens, targets, 1, T, all, &e), &e);
    memcpy(nll, all + T - n, n * sizeof *nll);
    bd_exec_destroy(x);
}

/* A mixture: full windows, overlapping ones, a short one. */
static int mixed_windows(const fixture *f, bd_window w[8]) {
    int n = 0;
    w[n++] = window(f, 0, 1, 24);
    w[n++] = window(f, 24, 25, 24);
    w[n++] = window(f, 30, 49, 6);
    w[n++] = window(f, 36, 55, 6);
    w[n++] = window(f, 42, 61, 6);
    w[n++] = window(f, 66, 67, 24);
    w[n++] = window(f, 85, 91, 7);
    return n;
}

TEST(scores_are_those_of_a_plain_forward_pass) {
    fixture f = setup();
    bd_session *s = session(&f, 3 * L, false);
    bd_window w[8];
    bd_err e = {0};
    double got[200], want[L];
    int n = mixed_windows(&f, w);
    CHECK_OK(bd_session_score(s, w, n, got, &e), &e);
    const double *at = got;
    for (int i = 0; i < n; i++) {
        direct(&f, f.m->params, w[i].start, w[i].first, w[i].n, want);
        CHECK_MSG(memcmp(at, want, w[i].n * sizeof *at) == 0, "window %d", i);
        at += w[i].n;
    }
    CHECK_EQ_U64(bd_session_length(s), 98);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(batching_threads_and_isa_change_nothing) {
    fixture f = setup();
    bd_window w[8];
    bd_err e = {0};
    int n = mixed_windows(&f, w);
    double want[200], got[200];
    bd_session *s = session(&f, L, false);
    double *at = want;
    for (int i = 0; i < n; i++) {
        CHECK_OK(bd_session_score(s, &w[i], 1, at, &e), &e);
        at += w[i].n;
    }
    bd_session_destroy(s);
    size_t count = (size_t)(at - want);
    const char *specs[] = {"ref", "cpu", "cpu:avx2", "cpu:avx512"};
    for (int b = 0; b < 4; b++) {
        bd_backend *be = NULL;
        if (bd_backend_open(&be, specs[b], 1 + b % 2, &e)) continue; /* not on this machine */
        fixture g = f;
        g.be = be;
        s = session(&g, 2 * L + 11, false);
        for (size_t i = 0; i < 200; i++) got[i] = -77;
        CHECK_OK(bd_session_score(s, w, n, got, &e), &e);
        CHECK_MSG(memcmp(got, want, count * sizeof *got) == 0, "%s", specs[b]);
        bd_session_destroy(s);
        bd_backend_close(be);
    }
    teardown(&f);
}

TEST(earlier_scores_do_not_see_later_tokens) {
    fixture f = setup();
    bd_window w[8];
    bd_err e = {0};
    int n = mixed_windows(&f, w);
    double a[200], b[200];
    bd_session *s = session(&f, 2 * L, false);
    CHECK_OK(bd_session_score(s, w, n, a, &e), &e);
    for (int i = 60; i < 200; i++) f.stream[i] = (uint16_t)((f.stream[i] + 7) % V);
    CHECK_OK(bd_session_begin(s, f.stream[0], 0, &e), &e);
    CHECK_OK(bd_session_score(s, w, n, b, &e), &e);
    CHECK(memcmp(a, b, 59 * sizeof *a) == 0); /* targets 1..59 */
    CHECK(memcmp(a, b, 98 * sizeof *a) != 0);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(wrong_windows_are_refused_and_leave_no_trace) {
    fixture f = setup();
    bd_session *s = session(&f, 2 * L, false);
    bd_err e = {0};
    double nll[100];
    uint8_t before[32], after[32];
    CHECK_OK(bd_session_state_hash(s, before, &e), &e);
    bd_window gap = window(&f, 0, 2, 4), empty = window(&f, 0, 1, 0), late = window(&f, 1, 1, 4);
    bd_window longer = window(&f, 0, 1, L + 1), good = window(&f, 0, 1, L), again = window(&f, 0, 1, 3);
    CHECK(bd_session_score(s, &gap, 1, nll, &e) == BD_E_RANGE);
    CHECK(bd_session_score(s, &empty, 1, nll, &e) == BD_E_RANGE);
    CHECK(bd_session_score(s, &late, 1, nll, &e) == BD_E_RANGE);
    CHECK(bd_session_score(s, &longer, 1, nll, &e) == BD_E_RANGE);
    bd_window two[2] = {good, again}; /* the second scores positions a second time */
    CHECK(bd_session_score(s, two, 2, nll, &e) == BD_E_RANGE);
    uint16_t bad[3] = {1, V, 2};
    bd_window vocab = {0, 1, bad, 3};
    CHECK(bd_session_score(s, &vocab, 1, nll, &e) == BD_E_RANGE);
    CHECK_MSG(strstr(e.msg, "index 2") != NULL, "%s", e.msg);
    CHECK(bd_session_begin(s, V, 0, &e) == BD_E_RANGE);
    CHECK_OK(bd_session_begin(s, f.stream[0], 0, &e), &e);
    CHECK_OK(bd_session_state_hash(s, after, &e), &e);
    CHECK(memcmp(before, after, 32) == 0);
    CHECK_OK(bd_session_score(s, &good, 1, nll, &e), &e);
    CHECK_OK(bd_session_state_hash(s, after, &e), &e);
    CHECK(memcmp(before, after, 32) != 0);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(a_loss_that_is_not_finite_is_an_error) {
    fixture f = setup();
    const bd_param *p = &f.m->graph->params[bd_graph_find_param(f.m->graph, "blocks.1.mlp.fc.weight")];
    f.m->params[p->offset + 5] = 3e38f;
    f.m->params[p->offset + 6] = -3e38f;
    bd_session *s = session(&f, L, false);
    bd_err e = {0};
    double nll[L];
    bd_window w = window(&f, 0, 1, L);
    CHECK(bd_session_score(s, &w, 1, nll, &e) == BD_E_NONFINITE);
    CHECK_EQ_U64(bd_session_length(s), 1);
    bd_session_destroy(s);
    teardown(&f);
}

/* ---- learning ---- */

static bool is_frozen(const char *name, int blocks) {
    int i;
    char dot;
    return sscanf(name, "blocks.%d%c", &i, &dot) == 2 && dot == '.' && i < blocks;
}

/* The contract of bd_session_learn in plain loops; params and momentum are flat. */
static void learn_by_hand(const fixture *f, const bd_learn *l, float *params, float *momentum) {
    const bd_graph *g = f->m->graph;
    bd_graph *d = NULL;
    bd_exec *x = NULL;
    bd_gradsum *sum = NULL;
    bd_err e = {0};
    CHECK_OK(bd_graph_differentiate(&d, g, &e), &e);
    CHECK_OK(bd_exec_create(&x, d, f->be, 4 * L, L, &e), &e);
    CHECK_OK(bd_gradsum_create(&sum, d, f->be, &e), &e);
    float *grad = bd_alloc_aligned(g->param_floats, sizeof *grad);
    uint64_t inputs = l->end - l->begin - 1, T = (uint64_t)l->seq_len, n = inputs / T;
    if (n == 0) {
        n = 1;
        T = inputs;
    }
    for (uint64_t k = 0; k < n; k += (uint64_t)l->batch) {
        uint64_t nseq = n - k < (uint64_t)l->batch ? n - k : (uint64_t)l->batch;
        int32_t tokens[4 * L], targets[4 * L];
        double nll[4 * L], norm = 0;
        for (uint64_t r = 0; r < nseq * T; r++) {
            tokens[r] = f->stream[l->begin + k * T + r];
            targets[r] = f->stream[l->begin + k * T + r + 1];
        }
        CHECK_OK(bd_batch_gradient(x, sum, params, tokens, targets, (int64_t)nseq, (int64_t)T, grad, nll, NULL, &e),
                 &e);
        for (int i = 0; i < g->n_params; i++) {
            const bd_param *p = &g->params[i];
            if (is_frozen(p->name, l->freeze_blocks)) continue;
            for (int64_t j = 0; j < p->rows * p->cols; j++) norm += pow((double)grad[p->offset + (uint64_t)j], 2);
        }
        double factor = l->clip > 0 ? l->clip / (sqrt(norm) + 1e-6) : 1;
        for (int i = 0; i < g->n_params; i++) {
            const bd_param *p = &g->params[i];
            if (is_frozen(p->name, l->freeze_blocks)) continue;
            for (int64_t j = 0; j < p->rows * p->cols; j++) {
                uint64_t at = p->offset + (uint64_t)j;
                float v = factor < 1 ? (float)factor * grad[at] : grad[at];
                momentum[at] = fmaf((float)l->momentum, momentum[at], v);
                params[at] = fmaf(-(float)l->lr, momentum[at], params[at]);
            }
        }
    }
    free(grad);
    bd_gradsum_destroy(sum);
    bd_exec_destroy(x);
    bd_graph_destroy(d);
}

TEST(learning_is_sgd_with_momentum_and_clipping) {
    fixture f = setup();
    bd_err e = {0};
    bd_session *s = session(&f, 2 * L, true);
    uint64_t floats = f.m->graph->param_floats;
    float *params = bd_alloc_aligned(floats, sizeof *params),
          *momentum = bd_alloc_aligned(floats, sizeof *momentum);
    memcpy(params, f.m->params, floats * sizeof *params);
    bd_window w[5];
    double nll[5 * L], want[L];
    for (uint64_t i = 0; i < 4; i++) w[i] = window(&f, i * L, i * L + 1, L);
    CHECK_OK(bd_session_score(s, w, 4, nll, &e), &e);
    const bd_learn steps[] = {
        {.begin = 0, .end = 4 * L + 1, .seq_len = L, .batch = 3, .lr = 0.01, .momentum = 0.9, .clip = 0.05},
        {.begin = 5,
         .end = 80,
         .seq_len = 20,
         .batch = 2,
         .lr = 0.02,
         .momentum = 0.9,
         .clip = 0,
         .freeze_blocks = 2},
        {.begin = 70, .end = 83, .seq_len = L, .batch = 4, .lr = 0.02, .momentum = 0.5, .clip = 100},
    };
    for (int i = 0; i < 3; i++) {
        CHECK_OK(bd_session_learn(s, &steps[i], &e), &e);
        learn_by_hand(&f, &steps[i], params, momentum);
    }
    CHECK(memcmp(params, f.m->params, floats * sizeof *params) != 0);
    w[4] = window(&f, 4 * L, 4 * L + 1, L);
    CHECK_OK(bd_session_score(s, &w[4], 1, nll, &e), &e);
    direct(&f, params, 4 * L, 4 * L + 1, L, want);
    /* The norm is summed in another order, which may move the clip factor by an ulp. */
    for (int i = 0; i < L; i++) CHECK_MSG(fabs(nll[i] - want[i]) < 1e-5, "%d: %g and %g", i, nll[i], want[i]);
    free(params);
    free(momentum);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(learning_repeats_and_begin_forgets_it) {
    fixture f = setup();
    bd_err e = {0};
    bd_session *s = session(&f, 2 * L, true);
    bd_window w[3];
    for (uint64_t i = 0; i < 3; i++) w[i] = window(&f, i * L, i * L + 1, L);
    const bd_learn l = {
        .begin = 0, .end = 2 * L + 1, .seq_len = L, .batch = 2, .lr = 0.05, .momentum = 0.9, .clip = 1};
    uint8_t hash[2][4][32];
    double nll[2][3 * L];
    for (int round = 0; round < 2; round++) {
        CHECK_OK(bd_session_begin(s, f.stream[0], 500, &e), &e);
        CHECK_OK(bd_session_state_hash(s, hash[round][0], &e), &e);
        CHECK_OK(bd_session_score(s, w, 2, nll[round], &e), &e);
        CHECK_OK(bd_session_state_hash(s, hash[round][1], &e), &e);
        CHECK_OK(bd_session_learn(s, &l, &e), &e);
        CHECK_OK(bd_session_learn(s, &l, &e), &e);
        CHECK_OK(bd_session_state_hash(s, hash[round][2], &e), &e);
        CHECK_OK(bd_session_score(s, w + 2, 1, nll[round] + 2 * L, &e), &e);
        CHECK_OK(bd_session_state_hash(s, hash[round][3], &e), &e);
    }
    CHECK(memcmp(hash[0], hash[1], sizeof hash[0]) == 0);
    CHECK(memcmp(nll[0], nll[1], sizeof nll[0]) == 0);
    for (int i = 0; i < 3; i++) CHECK(memcmp(hash[0][i], hash[0][i + 1], 32) != 0);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(only_recorded_tokens_can_be_learnt_from) {
    fixture f = setup();
    bd_err e = {0};
    bd_session *s = session(&f, 2 * L, true);
    bd_window w = window(&f, 0, 1, L);
    double nll[L];
    bd_learn l = {.begin = 0, .end = L + 1, .seq_len = L, .batch = 2, .lr = 0.05, .momentum = 0.9, .clip = 1};
    CHECK(bd_session_learn(s, &l, &e) == BD_E_RANGE);
    CHECK_OK(bd_session_score(s, &w, 1, nll, &e), &e);
    l.end = L + 2;
    CHECK(bd_session_learn(s, &l, &e) == BD_E_RANGE);
    l.end = 0;
    CHECK(bd_session_learn(s, &l, &e) == BD_E_RANGE);
    l.end = L + 1;
    l.seq_len = L + 1;
    CHECK(bd_session_learn(s, &l, &e) == BD_E_RANGE);
    l.seq_len = L;
    l.batch = 0;
    CHECK(bd_session_learn(s, &l, &e) == BD_E_RANGE);
    l.batch = 1;
    CHECK_OK(bd_session_learn(s, &l, &e), &e);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(everything_frozen_but_the_embedding_still_learns) {
    fixture f = setup();
    bd_err e = {0};
    bd_session *s = session(&f, 2 * L, true);
    bd_window w = window(&f, 0, 1, L);
    double nll[L];
    uint8_t a[32], b[32];
    CHECK_OK(bd_session_score(s, &w, 1, nll, &e), &e);
    CHECK_OK(bd_session_state_hash(s, a, &e), &e);
    bd_learn l = {.begin = 0,
                  .end = L + 1,
                  .seq_len = L,
                  .batch = 1,
                  .lr = 0.05,
                  .momentum = 0,
                  .clip = 1,
                  .freeze_blocks = 99};
    CHECK_OK(bd_session_learn(s, &l, &e), &e);
    CHECK_OK(bd_session_state_hash(s, b, &e), &e);
    CHECK(memcmp(a, b, 32) != 0);
    CHECK(bd_session_bytes(s) > f.m->graph->param_count * sizeof(float));
    bd_session_destroy(s);
    teardown(&f);
}

TEST(stop_interrupts) {
    fixture f = setup();
    bd_err e = {0};
    volatile sig_atomic_t stop = 1;
    bd_progress p = {.stop = &stop};
    bd_session *s = session(&f, 2 * L, false);
    bd_session_set_progress(s, &p);
    bd_window w = window(&f, 0, 1, L);
    double nll[L];
    CHECK(bd_session_score(s, &w, 1, nll, &e) == BD_E_INTERRUPTED);
    CHECK_EQ_U64(bd_session_length(s), 1);
    bd_session_destroy(s);
    teardown(&f);
}

TEST(every_failed_allocation_is_an_error_and_leaks_nothing) {
    fixture f = setup();
    bd_err e = {0};
    int n = 1;
    for (; n < 5000; n += 1 + n / 8) {
        char spec[32];
        snprintf(spec, sizeof spec, "fault:%d:cpu", n);
        bd_backend *be = test_backend(spec, 1);
        bd_session *s = NULL;
        bd_status st = bd_session_create(&s, f.m, be, 2 * L, L, true, &e);
        if (st == BD_OK) st = bd_session_begin(s, 1, 10, &e);
        CHECK(st == BD_OK || st == BD_E_NOMEM);
        bd_session_destroy(s);
        bd_backend_close(be);
        if (st == BD_OK) break;
    }
    CHECK_MSG(n > 4 && n < 5000, "%d allocations", n);
    teardown(&f);
}

TEST(planned_memory_covers_what_is_used) {
    fixture f = setup();
    bd_err e = {0};
    for (int learn = 0; learn < 2; learn++) {
        bd_session *s = session(&f, 3 * L, learn);
        uint64_t planned, used = bd_session_bytes(s);
        CHECK_OK(bd_session_plan_bytes(&planned, f.m, 3 * L, L, learn, &e), &e);
        CHECK_MSG(planned + 1000 >= used && planned < 2 * used, "planned %" PRIu64 ", used %" PRIu64, planned,
                  used);
        bd_session_destroy(s);
    }
    teardown(&f);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
