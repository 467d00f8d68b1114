/* Evaluators against brute force, and the score's arithmetic. */
#include "bd_test.h"

#include "base/fmath.h"
#include "runtime/evaluate.h"
#include "runtime/score.h"
#include "tiny_model.h"

enum { V = 37 };
static const tiny_spec SPEC = {V, 16, 2, 2, 1, 16};

/* ---- score ---- */

TEST(fixed_point_rounds_to_nearest) {
    CHECK(bd_score_q32(0) == 0);
    CHECK(bd_score_q32(1) == (int64_t)1 << 32);
    CHECK(bd_score_q32(0.5 * 0x1p-32) == 0); /* ties to even */
    CHECK(bd_score_q32(1.5 * 0x1p-32) == 2);
    CHECK(bd_score_q32(3.5e3) == (int64_t)3500 << 32);
}

TEST(totals_and_spread) {
    bd_score_sum s;
    bd_err e = {0};
    CHECK_OK(bd_score_sum_init(&s, 3, &e), &e);
    CHECK_EQ_U64(s.n_groups, 3);
    double nll[4] = {1, 2, 3, 4};
    CHECK_OK(bd_score_sum_add(&s, nll, 4, 10, &e), &e);
    CHECK_OK(bd_score_sum_add(&s, nll, 4, 10, &e), &e);
    CHECK_OK(bd_score_sum_add(&s, nll, 4, 10, &e), &e);
    CHECK(s.nll_q32 == (int64_t)30 << 32);
    CHECK_EQ_U64(s.tokens, 12);
    CHECK(bd_score_loss(s.nll_q32, s.tokens) == 2.5);
    CHECK(fabs(bd_score_bpb(s.nll_q32, s.bytes) - 1 / log(2)) < 1e-15);
    CHECK(bd_score_stderr(&s) < 1e-12); /* equal windows: no spread */
    bd_score_sum_free(&s);
    CHECK(isnan(bd_score_bpb(5, 0)) && isnan(bd_score_loss(5, 0)));
}

TEST(bootstrap_matches_the_known_spread) {
    /* Windows of one target and one byte with independent losses: the spread of the mean is sd / sqrt(W). */
    enum { W = 2000 };
    uint64_t seed = test_seed();
    bd_score_sum s;
    bd_err e = {0};
    double sum = 0, sum2 = 0;
    CHECK_OK(bd_score_sum_init(&s, W, &e), &e);
    for (int i = 0; i < W; i++) {
        double x = 3 + 2 * test_uniform(&seed);
        sum += x;
        sum2 += x * x;
        CHECK_OK(bd_score_sum_add(&s, &x, 1, 1, &e), &e);
    }
    double sd = sqrt(sum2 / W - sum / W * (sum / W)), want = sd / sqrt(W) / log(2), got = bd_score_stderr(&s);
    CHECK_MSG(fabs(got - want) < 0.1 * want, "%g, expected about %g", got, want);
    CHECK(bd_score_stderr(&s) == got);
    bd_score_sum_free(&s);
}

TEST(many_windows_share_groups) {
    bd_score_sum s;
    bd_err e = {0};
    const uint64_t windows = 3 * BD_SCORE_GROUPS + 5;
    CHECK_OK(bd_score_sum_init(&s, windows, &e), &e);
    CHECK(s.n_groups <= BD_SCORE_GROUPS && s.n_groups * s.per_group >= windows);
    double x = 1e4;
    for (uint64_t i = 0; i < windows; i++) CHECK_OK(bd_score_sum_add(&s, &x, 1, 1, &e), &e);
    CHECK_EQ_U64(s.windows, windows);
    bd_score_sum_free(&s);
    /* overflow is an error, not a wrapped total */
    CHECK_OK(bd_score_sum_init(&s, 2, &e), &e);
    s.nll_q32 = INT64_MAX - 5;
    CHECK(bd_score_sum_add(&s, &x, 1, 1, &e) == BD_E_RANGE);
    bd_score_sum_free(&s);
}

/* ---- evaluators ---- */

typedef struct bench {
    bd_model *m;
    bd_backend *be;
    uint16_t tokens[600], bytes[600];
    bd_stream stream;
    uint64_t seed;
} bench;

static void bench_init(bench *b, uint64_t n) {
    b->seed = test_seed() ^ n;
    b->m = tiny_model(&SPEC, test_rand(&b->seed));
    b->be = test_backend("cpu", 2);
    random_tokens(b->tokens, 600, V, &b->seed);
    for (int i = 0; i < 600; i++) b->bytes[i] = (uint16_t)(1 + test_rand(&b->seed) % 5);
    b->stream = (bd_stream){b->tokens, b->bytes, n};
}

static void bench_free(bench *b) {
    bd_backend_close(b->be);
    bd_model_close(b->m);
}

typedef struct sink {
    double nll[600];
    uint64_t next;
} sink;

static bd_status collect(void *user, uint64_t first, const double *nll, uint64_t n, bd_err *err) {
    sink *s = user;
    (void)err;
    CHECK_EQ_U64(first, s->next); /* stream order without gaps */
    CHECK(s->next + n <= 600);
    memcpy(s->nll + s->next, nll, n * sizeof *nll);
    s->next += n;
    return BD_OK;
}

static bd_score evaluate(bench *b, const bd_protocol *p, bd_eval_opts o, sink *out) {
    bd_score score;
    bd_err e = {0};
    memset(out, 0xff, sizeof *out);
    out->next = 1;
    o.on_nll = collect;
    o.user = out;
    CHECK_OK(bd_evaluate(b->m, b->be, &b->stream, p, &o, &score, &e), &e);
    CHECK_EQ_U64(out->next, score.tokens + 1);
    int64_t q = 0;
    uint64_t bytes = 0;
    for (uint64_t i = 1; i < out->next; i++) {
        q += bd_score_q32(out->nll[i]);
        bytes += b->bytes[i];
    }
    CHECK(q == score.nll_q32);
    CHECK_EQ_U64(bytes, score.bytes);
    CHECK(score.val_bpb == bd_score_bpb(q, bytes));
    return score;
}

static bd_protocol windows(uint32_t L, uint32_t S) {
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = L;
    p.stride = S;
    return p;
}

/* The loss of the target at index i with inputs from `start`, computed alone. */
static double loss_alone(const bench *b, const float *params, uint64_t start, uint64_t i) {
    int64_t T = (int64_t)(i - start);
    int32_t tokens[64], targets[64];
    double nll[64];
    bd_exec *x = NULL;
    bd_err e = {0};
    CHECK(T >= 1 && T <= 64);
    for (int64_t t = 0; t < T; t++) {
        tokens[t] = b->tokens[start + (uint64_t)t];
        targets[t] = t == T - 1 ? b->tokens[i] : -1;
    }
    CHECK_OK(bd_exec_create(&x, b->m->graph, b->be, T, T, &e), &e);
    CHECK_OK(bd_exec_forward(x, params, tokens, targets, 1, T, nll, &e), &e);
    bd_exec_destroy(x);
    return nll[T - 1];
}

/* Window start for target index i by the definition: the first window whose scored part holds position i - 1. */
static uint64_t start_of(uint64_t i, uint64_t L, uint64_t S) {
    uint64_t p = i - 1;
    if (p < L) return 0;
    uint64_t ws = 0;
    while (!(ws > 0 && p >= ws + L - S && p < ws + L)) ws += S;
    return ws;
}

TEST(windows_and_strides_score_each_target_once_in_its_context) {
    const uint32_t cases[][3] = {/* tokens, window, stride */
                                 {98, 16, 0}, {97, 16, 0}, {97, 16, 5}, {97, 16, 1}, {17, 16, 3},  {18, 16, 3},
                                 {9, 16, 0},  {9, 16, 4},  {2, 1, 0},   {40, 1, 0},  {33, 16, 16}, {60, 31, 30}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        bench b;
        sink out;
        bench_init(&b, cases[c][0]);
        uint32_t L = cases[c][1], S = cases[c][2] ? cases[c][2] : L;
        bd_protocol p = windows(L, cases[c][2]);
        bd_score s = evaluate(&b, &p, (bd_eval_opts){0}, &out);
        CHECK_EQ_U64(s.tokens, cases[c][0] - 1);
        uint64_t N = cases[c][0] - 1, count = 0;
        for (uint64_t ws = 0; ws == 0 || ws + L - S < N; ws += S) count++;
        CHECK_EQ_U64(s.windows, count);
        for (uint64_t i = 1; i <= N; i += 1 + i % 3) {
            double want = loss_alone(&b, b.m->params, start_of(i, L, S), i);
            CHECK_MSG(out.nll[i] == want, "case %zu target %d: %g, alone %g", c, (int)i, out.nll[i], want);
        }
        bench_free(&b);
    }
}

TEST(cuts_and_batches) {
    bench b;
    sink out, ref;
    bench_init(&b, 251); /* 250 targets */
    bd_protocol p = windows(32, 0);
    bd_score all = evaluate(&b, &p, (bd_eval_opts){0}, &ref);
    CHECK_EQ_U64(all.windows, 8);
    CHECK(isfinite(all.bpb_stderr) && all.bpb_stderr > 0);
    const int64_t rows[] = {1, 32, 33, 64, 200, 100000};
    for (int i = 0; i < 6; i++) {
        bd_score s = evaluate(&b, &p, (bd_eval_opts){.batch_rows = rows[i]}, &out);
        CHECK(s.nll_q32 == all.nll_q32 && s.bpb_stderr == all.bpb_stderr);
        CHECK(memcmp(out.nll + 1, ref.nll + 1, 250 * sizeof(double)) == 0);
    }
    bd_score s = evaluate(&b, &p, (bd_eval_opts){.drop_tail = true}, &out);
    CHECK_EQ_U64(s.tokens, 224);
    CHECK_EQ_U64(s.windows, 7);
    s = evaluate(&b, &p, (bd_eval_opts){.max_windows = 3}, &out);
    CHECK_EQ_U64(s.tokens, 96);
    s = evaluate(&b, &p, (bd_eval_opts){.max_tokens = 100}, &out);
    CHECK_EQ_U64(s.tokens, 100);
    CHECK_EQ_U64(s.windows, 4);
    CHECK(memcmp(out.nll + 1, ref.nll + 1, 100 * sizeof(double)) == 0);
    s = evaluate(&b, &p, (bd_eval_opts){.max_tokens = 100, .drop_tail = true}, &out);
    CHECK_EQ_U64(s.tokens, 96);
    s = evaluate(&b, &p, (bd_eval_opts){.max_tokens = 100000, .max_windows = 100000}, &out);
    CHECK_EQ_U64(s.tokens, 250);
    p = windows(32, 10);
    s = evaluate(&b, &p, (bd_eval_opts){.drop_tail = true},
                 &out); /* the last of 23 windows starts at 220: 30 inputs */
    CHECK_EQ_U64(s.windows, 22);
    CHECK_EQ_U64(s.tokens, 242);
    bd_eval_plan plan;
    bd_err e = {0};
    CHECK_OK(bd_eval_plan_make(&plan, b.m, &b.stream, &p, NULL, &e), &e);
    CHECK_EQ_U64(plan.windows, 23);
    CHECK_EQ_U64(plan.rows, 22 * 32 + 30);
    CHECK(plan.flops > 0 && plan.memory > 0);
    bench_free(&b);
}

TEST(memory_limit_chooses_smaller_batches_or_refuses) {
    bench b;
    sink out;
    bench_init(&b, 251);
    bd_protocol p = windows(32, 0);
    bd_eval_plan one, all;
    bd_err e = {0};
    bd_eval_opts o = {.batch_rows = 32};
    CHECK_OK(bd_eval_plan_make(&one, b.m, &b.stream, &p, &o, &e), &e);
    CHECK_OK(bd_eval_plan_make(&all, b.m, &b.stream, &p, NULL, &e), &e);
    CHECK(one.memory < all.memory);
    bd_score s = evaluate(&b, &p, (bd_eval_opts){0}, &out),
             t = evaluate(&b, &p, (bd_eval_opts){.max_memory = one.memory}, &out);
    CHECK(s.nll_q32 == t.nll_q32);
    o = (bd_eval_opts){.max_memory = one.memory - 1};
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, &o, &s, &e) == BD_E_LIMIT);
    bench_free(&b);
}

TEST(bad_input) {
    bench b;
    bench_init(&b, 100);
    bd_protocol p = windows(16, 0);
    bd_score s;
    bd_err e = {0};
    b.stream.n = 1;
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, NULL, &s, &e) == BD_E_RANGE);
    b.stream.n = 10;
    bd_eval_opts o = {.drop_tail = true};
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, &o, &s, &e) == BD_E_RANGE);
    b.stream.n = 100;
    b.tokens[73] = V;
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, NULL, &s, &e) == BD_E_RANGE);
    CHECK_MSG(strstr(e.msg, "index 73") != NULL, "%s", e.msg);
    p.stride = 17;
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, NULL, &s, &e) == BD_E_RANGE);
    volatile sig_atomic_t stop = 1;
    bd_progress progress = {.stop = &stop};
    p.stride = 0;
    b.tokens[73] = 0;
    o = (bd_eval_opts){.progress = &progress};
    CHECK(bd_evaluate(b.m, b.be, &b.stream, &p, &o, &s, &e) == BD_E_INTERRUPTED);
    b.stream.bytes = NULL;
    CHECK_OK(bd_evaluate(b.m, b.be, &b.stream, &p, NULL, &s, &e), &e);
    CHECK(isnan(s.val_bpb) && isfinite(s.val_loss) && s.bytes == 0);
    bench_free(&b);
}

/* ---- test-time training ---- */

static bd_protocol sgd(uint32_t L, uint32_t S, uint32_t chunk) {
    bd_protocol p = windows(L, S);
    p.kind = BD_PROTO_SGD;
    p.chunk = chunk;
    p.epochs = 2;
    p.batch = 2;
    p.lr = 0.05;
    p.momentum = 0.9;
    p.clip = 1;
    return p;
}

TEST(ttt_is_score_then_learn_chunk_by_chunk) {
    const uint32_t cases[][4] = {/* tokens, window, stride, chunk */
                                 {257, 32, 0, 64},
                                 {250, 32, 8, 64},
                                 {200, 32, 0, 50},
                                 {150, 40, 7, 33},
                                 {60, 16, 0, 1000}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        bench b;
        sink got, small;
        bench_init(&b, cases[c][0]);
        uint32_t L = cases[c][1], S = cases[c][2] ? cases[c][2] : L, K = cases[c][3];
        bd_protocol p = sgd(L, cases[c][2], K);
        bd_score score = evaluate(&b, &p, (bd_eval_opts){0}, &got);
        bd_score again = evaluate(&b, &p, (bd_eval_opts){.batch_rows = L}, &small);
        CHECK(score.nll_q32 == again.nll_q32);
        /* by the rule in stack order, window by window */
        bd_session *s = NULL;
        bd_err e = {0};
        uint64_t N = cases[c][0] - 1, C = (N + K - 1) / K, done = 0;
        double nll[64];
        CHECK_OK(bd_session_create(&s, b.m, b.be, L, L, true, &e), &e);
        CHECK_OK(bd_session_begin(s, b.tokens[0], N + 1, &e), &e);
        uint64_t chunk = 0;
        for (uint64_t ws = 0; ws == 0 || ws + L - S < N; ws += S) {
            uint64_t first = ws ? ws + L - S + 1 : 1, len = N - ws < L ? N - ws : L;
            uint64_t mine = (first - 1) / K < C - 1 ? (first - 1) / K : C - 1;
            for (; chunk < mine; chunk++) {
                bd_learn l = {
                    .begin = chunk * K,
                    .end = (chunk + 1) * K + 1,
                    .seq_len = L < K ? L : K,
                    .batch = p.batch,
                    .lr = p.lr * 0.5 * (1 + bd_cos(3.14159265358979323846 * (double)chunk / (double)(C - 1))),
                    .momentum = p.momentum,
                    .clip = p.clip};
                for (uint32_t k = 0; k < p.epochs; k++) CHECK_OK(bd_session_learn(s, &l, &e), &e);
            }
            bd_window w = {ws, first, b.tokens + first, (uint32_t)(ws + len + 1 - first)};
            CHECK_OK(bd_session_score(s, &w, 1, nll, &e), &e);
            for (uint32_t k = 0; k < w.n; k++)
                CHECK_MSG(got.nll[first + k] == nll[k], "case %zu target %d: %g and %g", c, (int)(first + k),
                          got.nll[first + k], nll[k]);
            done += w.n;
        }
        CHECK_EQ_U64(done, score.tokens);
        bd_session_destroy(s);
        bench_free(&b);
    }
}

TEST(ttt_never_learns_from_what_is_not_scored) {
    bench b;
    sink a, c;
    bench_init(&b, 257);
    bd_protocol p = sgd(32, 8, 64);
    evaluate(&b, &p, (bd_eval_opts){0}, &a);
    for (int i = 150; i < 257; i++) b.tokens[i] = (uint16_t)((b.tokens[i] + 1) % V);
    evaluate(&b, &p, (bd_eval_opts){0}, &c);
    CHECK(memcmp(a.nll + 1, c.nll + 1, 149 * sizeof(double)) == 0);
    CHECK(a.nll[150] != c.nll[150]);
    bench_free(&b);
}

TEST(ttt_helps_on_repeated_text) {
    bench b;
    sink out;
    bench_init(&b, 577);
    for (int i = 64; i < 600; i++) b.tokens[i] = b.tokens[i - 64];
    bd_protocol plain = windows(32, 0), p = sgd(32, 0, 64);
    bd_score before = evaluate(&b, &plain, (bd_eval_opts){0}, &out),
             after = evaluate(&b, &p, (bd_eval_opts){0}, &out);
    CHECK_MSG(after.val_loss < before.val_loss - 0.05, "%g without, %g with learning", before.val_loss,
              after.val_loss);
    CHECK(after.seconds_learn > 0);
    bd_eval_plan plan;
    bd_err e = {0};
    CHECK_OK(bd_eval_plan_make(&plan, b.m, &b.stream, &p, NULL, &e), &e);
    CHECK_EQ_U64(plan.chunks, 9);
    CHECK_EQ_U64(plan.learn_rows, 8 * 64 * 2);
    bench_free(&b);
}

/* ---- step by step ---- */

TEST(steps_are_the_evaluation_and_logits_explain_it) {
    bench b;
    bd_err e = {0};
    bench_init(&b, 600);
    for (int kind = 0; kind < 3; kind++) {
        bd_protocol p;
        bd_protocol_default(&p);
        p.window = kind == 1 ? 48 : 32;
        p.stride = kind == 1 ? 20 : 0;
        if (kind == 2) p.kind = BD_PROTO_SGD, p.chunk = 96, p.epochs = 1, p.batch = 2, p.lr = 0.05;
        bd_eval_opts o = {.batch_rows = 100};
        static sink whole;
        bd_score want = evaluate(&b, &p, o, &whole), got;
        for (uint64_t given = 600; given > 2; given = given * 2 / 3) { /* the rest of the tokens is not there */
            uint16_t *head = malloc(given * sizeof *head);
            CHECK(head != NULL);
            memcpy(head, b.tokens, given * sizeof *head);
            bd_stream stream = {head, NULL, 600};
            o.given = given;
            bd_evaluator *ev = NULL;
            CHECK_OK(bd_evaluator_open(&ev, b.m, b.be, &stream, &p, &o, &e), &e);
            CHECK(bd_evaluator_most(ev) <= 100);
            uint64_t next = 1, ask[3];
            double nll[100];
            float logits[3 * V];
            for (bd_step s; (s = bd_evaluator_next(ev)).kind != BD_STEP_END;) {
                bool score = s.kind == BD_STEP_SCORE;
                int n = 0;
                for (uint64_t t = s.first; score && n < 3 && t < s.first + s.n; t += 1 + s.n / 3) ask[n++] = t;
                CHECK_OK(bd_evaluator_run(ev, nll, ask, n, logits, &e), &e);
                if (!score) continue;
                CHECK_EQ_U64(s.first, next);
                for (uint64_t i = 0; i < s.n; i++) CHECK(nll[i] == whole.nll[next + i]);
                for (int k = 0; k < n; k++) {
                    double sum = 0;
                    for (int i = 0; i < V; i++) sum += exp(logits[k * V + i]);
                    double direct = log(sum) - logits[k * V + b.tokens[ask[k]]];
                    CHECK_MSG(fabs(direct - whole.nll[ask[k]]) < 1e-9, "%g %g", direct, whole.nll[ask[k]]);
                }
                next += s.n;
            }
            bd_evaluator_score(ev, &got);
            CHECK(got.tokens == next - 1 && (given < 600 || got.nll_q32 == want.nll_q32));
            CHECK_MSG(kind == 1 || next >= given / 32 * 32, "%d of %d", (int)next, (int)given);
            if (kind == 0) CHECK_EQ_U64(next, given);
            bd_evaluator_close(ev);
            free(head);
        }
    }
    bench_free(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
