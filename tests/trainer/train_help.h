/* What the trainer's tests share: a small recipe, a stream of tokens with
 * structure, and runs of bd_train. */
#ifndef BD_TESTS_TRAIN_HELP_H
#define BD_TESTS_TRAIN_HELP_H

#include <sys/stat.h>

#include "base/arena.h"
#include "bd_test.h"
#include "trainer/train.h"

/* A 3-layer model: 24 wide, tall, wide and square matrices, clipping and averaging on. */
static const char small_recipe[] =
    "{\"model\": \"baseline\", \"constants\": {\"vocab\": 61, \"dim\": 32, \"layers\": 3, \"heads\": 4, "
    "\"kv_heads\": 2,"
    " \"hidden\": 48, \"slope\": 0.5}, \"seed\": 7, \"steps\": 10, \"seq_len\": 24, \"batch_tokens\": 240,"
    " \"loader\": \"shuffled\", \"schedule\": {\"kind\": \"steps\", \"warmdown\": 0.5, \"warmup_steps\": 2},"
    " \"optimizers\": ["
    "{\"kind\": \"muon\", \"match\": [\"blocks.*.weight\"], \"lr\": 0.03, \"decay\": 0.05, \"row_norm\": true,"
    " \"momentum\": 0.95, \"momentum_start\": 0.85, \"momentum_warmup\": 6, \"coefficients\": \"polar\"},"
    "{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 0.02, \"decay\": 0.01}],"
    " \"clip\": 0.5, \"ema\": 0.8}";

enum { STREAM_TOKENS = 5000 };

/* Tokens that follow from the two before, mostly: there is something to learn. */
static inline const uint16_t *test_stream(void) {
    static uint16_t t[STREAM_TOKENS];
    uint64_t s = 99;
    t[0] = 1;
    t[1] = 2;
    for (int i = 2; i < STREAM_TOKENS; i++)
        t[i] = (uint16_t)(test_rand(&s) % 8 == 0 ? test_rand(&s) % 61 : (t[i - 1] * 7u + t[i - 2] * 3u + 1) % 61);
    return t;
}

static inline bd_recipe *recipe_with(const char *text, const char *const *sets, int n) {
    bd_recipe *r = NULL;
    bd_err e = {0};
    CHECK_OK(bd_recipe_parse(&r, text, strlen(text), sets, n, &e), &e);
    return r;
}

static inline bd_backend *backend_or_null(const char *spec, int threads) {
    bd_backend *be = NULL;
    bd_err e = {0};
    bd_status st = bd_backend_open(&be, spec, threads, &e);
    if (st == BD_E_UNSUPPORTED) return NULL;
    CHECK_OK(st, &e);
    return be;
}

static inline const char *tmp_path(const char *name) {
    static char p[8][256];
    static int slot;
    char *out = p[slot++ & 7];
    snprintf(out, sizeof p[0], "%s/%s", test_tmp(), name);
    return out;
}

typedef struct run_args {
    const char *recipe, *out, *replay, *spec;
    const char *set[4];
    int threads;
    bool resume;
    const uint16_t *val;
    const bd_progress *progress;
    void (*on_step)(void *user, const bd_train_report *r);
    void *user;
    uint64_t max_memory;
} run_args;

static inline bd_status run_train(const run_args *a, bd_train_result *res, bd_err *e) {
    int n = 0;
    while (n < 4 && a->set[n]) n++;
    bd_recipe *r = recipe_with(a->recipe ? a->recipe : small_recipe, a->set, n);
    bd_graph *g = NULL;
    bd_backend *be = NULL;
    bd_status st = bd_recipe_graph(&g, r, e);
    if (!st) st = bd_backend_open(&be, a->spec ? a->spec : "cpu", a->threads ? a->threads : 1, e);
    if (!st) {
        bd_train_opts o = {.out_dir = tmp_path(a->out),
                           .train = test_stream(),
                           .n_train = STREAM_TOKENS,
                           .val = a->val,
                           .n_val = a->val ? 1000 : 0,
                           .resume = a->resume,
                           .replay = a->replay,
                           .progress = a->progress,
                           .on_step = a->on_step,
                           .user = a->user,
                           .max_memory = a->max_memory};
        st = bd_train(g, r, &o, be, res, e);
    }
    bd_backend_close(be);
    bd_graph_destroy(g);
    bd_recipe_close(r);
    return st;
}

/* Must succeed; the hash of the weights and of the averaged model file. */
typedef struct run_hash {
    char weights[65];
    uint64_t model; /* FNV-1a of model.safetensors, whose metadata holds the recipe: 0 where it is missing */
} run_hash;

static inline uint64_t file_fnv(const char *path, long skip_to_data) {
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    uint64_t h = 0xcbf29ce484222325u, head = 0;
    if (skip_to_data && fread(&head, 1, 8, f) == 8) fseek(f, (long)head, SEEK_CUR);
    for (int c; (c = fgetc(f)) != EOF;) h = (h ^ (uint64_t)c) * 0x100000001b3u;
    fclose(f);
    return h;
}

static inline run_hash run_ok(const run_args *a) {
    bd_train_result res;
    bd_err e = {0};
    run_hash h = {"", 0};
    CHECK_OK(run_train(a, &res, &e), &e);
    memcpy(h.weights, res.weights_sha256, sizeof h.weights);
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", tmp_path(a->out));
    h.model = file_fnv(path, 1);
    CHECK(h.model != 0);
    return h;
}

#define CHECK_RUN(a, b)                      \
    do {                                     \
        run_hash ha_ = (a), hb_ = (b);       \
        CHECK_STR(ha_.weights, hb_.weights); \
        CHECK_EQ_U64(ha_.model, hb_.model);  \
    } while (0)

#endif
