/* A small baseline model with random weights, for tests of the runtime. */
#ifndef BD_TESTS_TINY_MODEL_H
#define BD_TESTS_TINY_MODEL_H

#include <stdio.h>

#include "base/arena.h"
#include "bd_test.h"
#include "runtime/model.h"

typedef struct tiny_spec {
    int vocab, dim, layers, heads, kv, hidden;
} tiny_spec;

static inline bd_graph *tiny_graph(const tiny_spec *t) {
    char v[6][16];
    const int value[6] = {t->vocab, t->dim, t->layers, t->heads, t->kv, t->hidden};
    const char *name[6] = {"vocab", "dim", "layers", "heads", "kv_heads", "hidden"};
    bd_setting set[6];
    for (int i = 0; i < 6; i++) {
        snprintf(v[i], sizeof v[i], "%d", value[i]);
        set[i] = (bd_setting){name[i], v[i]};
    }
    const bd_builtin_model *b = NULL;
    for (int i = 0; i < bd_n_builtin_models; i++)
        if (!strcmp(bd_builtin_models[i].name, "baseline")) b = &bd_builtin_models[i];
    CHECK(b != NULL);
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    CHECK_OK(bd_model_elaborate(&g, b->text, b->size, b->name, set, 6, NULL, &lim, &e), &e);
    return g;
}

/* Every weight is random, also those that training starts at zero or one. */
static inline bd_model *tiny_model(const tiny_spec *t, uint64_t seed) {
    bd_graph *g = tiny_graph(t);
    float *params = bd_alloc_aligned(g->param_floats, sizeof(float));
    CHECK(params != NULL);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        bool vector = p->role == BD_ROLE_VECTOR;
        float scale = vector ? 0.2f : 1.0f / sqrtf((float)p->cols);
        for (int64_t k = 0; k < p->rows * p->cols; k++)
            params[p->offset + (uint64_t)k] = (vector ? 0.8f : 0.0f) + scale * test_normalf(&seed);
    }
    bd_model *m = NULL;
    bd_err e = {0};
    CHECK_OK(bd_model_create(&m, g, params, "tiny", &e), &e);
    return m;
}

static inline void random_tokens(uint16_t *out, uint64_t n, int vocab, uint64_t *seed) {
    for (uint64_t i = 0; i < n; i++) out[i] = (uint16_t)(test_rand(seed) % (uint64_t)vocab);
}

static inline bd_backend *test_backend(const char *spec, int threads) {
    bd_backend *be = NULL;
    bd_err e = {0};
    CHECK_OK(bd_backend_open(&be, spec, threads, &e), &e);
    return be;
}

#endif
