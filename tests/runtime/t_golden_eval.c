/* Scores of real checkpoints against reference values computed in float64 by
 * the official module. Skipped where the data folder is absent. */
#include "bd_test.h"

#include "base/file.h"
#include "format/shard.h"
#include "format/tokenizer.h"
#include "runtime/evaluate.h"

/* Sanitizers make the kernels many times slower: fewer windows then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif
enum { W = SLOW ? 1 : 3 };

typedef struct golden {
    bd_model *m;
    bd_shard *shard;
    bd_tokenizer *tok;
    uint16_t *bytes;
    bd_stream stream;
} golden;

static bool open_golden(golden *g, const char *checkpoint) {
    const char *path = test_data(checkpoint), *shard = test_data("tokens/fineweb_val_000000.sp1024.bin");
    const char *tok = test_data("tokenizers/fineweb_1024_bpe.model");
    bd_err e = {0};
    memset(g, 0, sizeof *g);
    if (!path || !shard || !tok) return false;
    g->shard = calloc(1, sizeof *g->shard);
    CHECK_OK(bd_model_open(&g->m, path, NULL, &e), &e);
    CHECK_STR(g->m->model_name, "baseline");
    CHECK_OK(bd_shard_open(g->shard, shard, &e), &e);
    CHECK_OK(bd_tokenizer_open(&g->tok, tok, &e), &e);
    g->bytes = malloc(g->shard->n * sizeof *g->bytes);
    bd_tokenizer_stream_bytes(g->tok, g->shard->tokens, g->shard->n, g->bytes);
    g->stream = (bd_stream){g->shard->tokens, g->bytes, g->shard->n};
    return true;
}

static void close_golden(golden *g) {
    bd_model_close(g->m);
    bd_shard_close(g->shard);
    bd_tokenizer_close(g->tok);
    free(g->shard);
    free(g->bytes);
}

static bd_status collect(void *user, uint64_t first, const double *nll, uint64_t n, bd_err *err) {
    (void)err;
    memcpy((double *)user + first - 1, nll, n * sizeof *nll);
    return BD_OK;
}

static bd_score evaluate(const golden *g, const char *backend, int threads, uint32_t window, bd_eval_opts o) {
    bd_protocol p;
    bd_score s;
    bd_backend *be = NULL;
    bd_err e = {0};
    bd_protocol_default(&p);
    p.window = window;
    CHECK_OK(bd_backend_open(&be, backend, threads, &e), &e);
    CHECK_OK(bd_evaluate(g->m, be, &g->stream, &p, &o, &s, &e), &e);
    bd_backend_close(be);
    return s;
}

TEST(samtruss_three_windows_on_every_backend) {
    golden g;
    const char *path = test_data("golden/samtruss_384d_val_T1024_w30.nll.f32");
    if (!path || !open_golden(&g, "checkpoints/samtruss_384d_20260413.int8.ptz")) SKIP("no data");
    bd_map want;
    bd_err e = {0};
    static double nll[3072];
    CHECK_EQ_U64(g.m->graph->param_count, 7630520);
    CHECK_OK(bd_map_open(&want, path, &e), &e);
    bd_eval_opts o = {.max_windows = W, .on_nll = collect, .user = nll};
    bd_score first = evaluate(&g, "cpu", 2, 1024, o);
    CHECK_EQ_U64(first.tokens, W * 1024);
    for (int i = 0; i < W * 1024; i++) {
        float x;
        memcpy(&x, want.data + 4 * (size_t)i, 4);
        CHECK_MSG(fabs(nll[i] - (double)x) <= 2e-4, "target %d: %g, reference %g", i + 1, nll[i], (double)x);
    }
    bd_map_close(&want);
    const char *specs[] = {"cpu", "cpu:avx2", "cpu:avx512", "ref"};
    for (int i = 0; i < 4; i++) {
        bd_backend *be = NULL;
        if (bd_backend_open(&be, specs[i], 1, &e)) continue; /* not on this machine */
        bd_backend_close(be);
        o.batch_rows = i % 2 ? 1024 : 3072;
        bd_score s = evaluate(&g, specs[i], 1 + i % 2, 1024, o);
        CHECK_MSG(s.nll_q32 == first.nll_q32, "%s: %" PRId64 " and %" PRId64, specs[i], s.nll_q32, first.nll_q32);
    }
    close_golden(&g);
}

TEST(own_192d_twelve_windows) {
    golden g;
    if (!open_golden(&g, "checkpoints/own_192d.pt")) SKIP("no data");
    CHECK_EQ_U64(g.m->graph->param_count, 1491092);
    bd_score a = evaluate(&g, "cpu", 2, 512, (bd_eval_opts){.max_windows = 12});
    bd_score b = evaluate(&g, "cpu", 1, 512, (bd_eval_opts){.max_windows = 12, .batch_rows = 512});
    CHECK_EQ_U64(a.tokens, 12 * 512);
    CHECK(a.nll_q32 == b.nll_q32);
    CHECK_MSG(a.val_bpb > 2.0 && a.val_bpb < 2.5, "%g", a.val_bpb);
    close_golden(&g);
}

TEST(own_192d_all_hundred_windows) {
    golden g;
    if (SLOW) SKIP("too slow with sanitizers");
    if (!open_golden(&g, "checkpoints/own_192d.pt")) SKIP("no data");
    bd_score s = evaluate(&g, "cpu", 2, 512, (bd_eval_opts){.max_windows = 100});
    CHECK_EQ_U64(s.tokens, 51200);
    CHECK_EQ_U64(s.bytes, 126277);
    CHECK_MSG(fabs(s.val_bpb - 2.221923) <= 0.000002, "%.7f", s.val_bpb);
    close_golden(&g);
}

TEST(float_and_int8_exports_are_recognised) {
    const char *names[] = {"checkpoints/nolanvild_128d.pt", "checkpoints/nolanvild_128d.int8.ptz",
                           "checkpoints/taleef7_64d.pt", "checkpoints/taleef7_64d.int8.ptz"};
    for (int i = 0; i < 4; i++) {
        const char *path = test_data(names[i]);
        if (!path) SKIP("no data");
        bd_model *m = NULL;
        bd_err e = {0};
        CHECK_OK(bd_model_open(&m, path, NULL, &e), &e);
        CHECK_STR(m->model_name, "baseline");
        bd_model_close(m);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
