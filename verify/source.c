#include "verify/source.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/fmath.h"
#include "base/philox.h"
#include "runtime/steps.h"

const char *bd_source_name(bd_source_kind k) {
    static const char *const names[BD_SOURCES] = {"model", "uniform", "markov"};
    return names[k];
}

/* --- the frozen model --- */

/* By inversion; the cost is the exact one of what was drawn. */
static uint16_t draw(const float *logits, int32_t vocab, double u, double *nll) {
    double top = logits[0], sum = 0, at = 0;
    for (int32_t i = 1; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    for (int32_t i = 0; i < vocab; i++) sum += bd_exp(logits[i] - top);
    int32_t pick = 0;
    for (; pick < vocab - 1; pick++) {
        at += bd_exp(logits[pick] - top) / sum;
        if (u < at) break;
    }
    *nll = top + bd_log(sum) - logits[pick];
    return (uint16_t)pick;
}

enum { ROWS = 256 };

/* Context [start, first) goes in by rows, then token by token. */
static bd_status draw_window(bd_steps *s, const bd_model *m, uint64_t seed, uint64_t start, uint64_t first,
                             uint64_t end, uint16_t *tokens, double *nll, float *logits, bd_err *err) {
    int32_t in[ROWS];
    bd_steps_begin(s);
    for (uint64_t t = start; t < first;) {
        int64_t k = 0;
        for (; k < ROWS && t < first; t++) in[k++] = tokens[t];
        BD_TRY(bd_steps_append(s, m->params, in, k, t < first ? NULL : logits, err));
    }
    for (uint64_t t = first; t < end; t++) {
        tokens[t] = draw(logits, m->graph->vocab, bd_philox_uniform(seed, BD_SOURCE_MODEL, t), &nll[t]);
        int32_t next = tokens[t];
        if (t + 1 < end) BD_TRY(bd_steps_append(s, m->params, &next, 1, logits, err));
    }
    return BD_OK;
}

static bd_status from_model(const bd_model *m, bd_backend *be, const bd_protocol *proto, uint64_t seed,
                            uint16_t *tokens, double *nll, uint64_t n, uint64_t max_memory,
                            const bd_progress *progress, bd_err *err) {
    uint64_t L = proto->window < n ? proto->window : n, S = proto->stride ? proto->stride : proto->window;
    bd_steps *s = NULL;
    float *params = m->params, *logits = malloc((size_t)m->graph->vocab * sizeof *logits);
    void *device = NULL;
    bd_status st = logits ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (st) goto done;
    bd_model at = *m; /* with its parameters where the backend wants them */
    if (!bd_backend_is_host(be)) {
        uint64_t bytes = m->graph->param_floats * sizeof(float);
        BD_TRY_DONE(be->vt->alloc(be, &device, bytes, err));
        BD_TRY_DONE(be->vt->upload(be, device, params, bytes, err));
        at.params = device;
    }
    int64_t rows = L < ROWS ? (int64_t)L : ROWS;
    uint64_t need = bd_steps_plan_bytes(m->graph, rows, (int64_t)L);
    if (max_memory && need > max_memory)
        BD_TRY_DONE(BD_FAIL(err, BD_E_LIMIT,
                            "drawing tokens from the model needs %" PRIu64 " bytes, the memory limit is %" PRIu64,
                            need, max_memory));
    BD_TRY_DONE(bd_steps_create(&s, m->graph, be, rows, (int64_t)L, err));
    for (uint64_t i = 0, done = 0; done < n; i++) {
        uint64_t start = i * S, first = start + (i ? L - S : 0) + 1, end = start + L + 1;
        if (end > n + 1) end = n + 1;
        if (bd_stopped(progress)) BD_TRY_DONE(BD_FAIL(err, BD_E_INTERRUPTED, "interrupted"));
        BD_TRY_DONE(draw_window(s, &at, seed, start, first, end, tokens, nll, logits, err));
        done = end - 1;
        bd_tick(progress, "tokens drawn", (double)done, (double)n, "%s", "");
    }
done:
    bd_steps_destroy(s);
    if (device) be->vt->release(be, device);
    free(logits);
    return st;
}

/* --- order 3 with repeats --- */

enum { LETTERS = 16, FAVOURITES = 4, BEGIN_AFTER = 64, COPY_ONE_IN = 48, COPY_LEAST = 16, COPY_MORE = 48 };
static const double FAVOUR[FAVOURITES] = {0.6, 0.2, 0.1, 0.05}, REST = 0.05, COPY = 0.95;

typedef struct markov {
    uint64_t seed;
    uint64_t letters, vocab;
    uint16_t letter[LETTERS];
} markov;

static void markov_init(markov *k, uint64_t seed, int32_t vocab) {
    k->seed = seed;
    k->vocab = (uint64_t)vocab;
    k->letters = k->vocab < LETTERS ? k->vocab : LETTERS;
    for (uint64_t i = 0, draws = 0; i < k->letters; draws++) {
        uint16_t t = (uint16_t)(bd_philox_u64(seed, 0x4c455454, draws) % k->vocab);
        uint64_t j = 0;
        while (j < i && k->letter[j] != t) j++;
        if (j == i) k->letter[i++] = t;
    }
}

static uint16_t favourite(const markov *k, const uint16_t *before, int rank) {
    uint64_t context = (uint64_t)before[0] << 32 | (uint64_t)before[1] << 16 | before[2];
    return k->letter[bd_philox_u64(k->seed ^ (uint64_t)rank, context, 0x4d41524b) % k->letters];
}

/* Probability of t after the three tokens before it. */
static double markov_p(const markov *k, const uint16_t *before, uint16_t t) {
    double p = REST / (double)k->vocab;
    for (int r = 0; r < FAVOURITES; r++)
        if (favourite(k, before, r) == t) p += FAVOUR[r];
    return p;
}

static uint16_t markov_draw(const markov *k, const uint16_t *before, double u, double v) {
    for (int r = 0; r < FAVOURITES; r++) {
        if (u < FAVOUR[r]) return favourite(k, before, r);
        u -= FAVOUR[r];
    }
    return (uint16_t)(v * (double)k->vocab);
}

/* Where copies begin and end is nobody's business but ours: the probabilities are those given that we know, and so
 * are at least as sharp as any that a predictor can have. */
static void from_markov(const markov *k, uint16_t *tokens, double *nll, uint64_t n) {
    uint64_t copy_from = 0, left = 0;
    for (uint64_t t = 1; t <= n; t++) {
        uint16_t before[3];
        for (uint64_t i = 0; i < 3; i++) before[i] = t > i ? tokens[t - 1 - i] : 0;
        double u = bd_philox_uniform(k->seed, 1, 3 * t), v = bd_philox_uniform(k->seed, 1, 3 * t + 1);
        uint64_t w = bd_philox_u64(k->seed, 2, t);
        if (!left && t > BEGIN_AFTER && w % COPY_ONE_IN == 0) {
            left = COPY_LEAST + (w >> 8) % COPY_MORE;
            copy_from = 1 + (w >> 20) % (t - BEGIN_AFTER / 2);
        }
        bool copy = left && copy_from < t;
        if (copy && bd_philox_uniform(k->seed, 1, 3 * t + 2) < COPY) tokens[t] = tokens[copy_from];
        else tokens[t] = markov_draw(k, before, u, v);
        double p = markov_p(k, before, tokens[t]);
        if (copy) p = (tokens[t] == tokens[copy_from] ? COPY : 0) + (1 - COPY) * p;
        nll[t] = -bd_log(p);
        if (left) {
            left--;
            copy_from++;
        }
    }
}

bd_status bd_source_draw(bd_source_kind kind, const bd_model *m, bd_backend *be, const bd_protocol *proto,
                         uint64_t seed, uint16_t first, uint16_t *tokens, double *nll, uint64_t n,
                         uint64_t max_memory, const bd_progress *progress, bd_err *err) {
    uint64_t vocab = (uint64_t)m->graph->vocab;
    tokens[0] = first;
    nll[0] = 0;
    if (kind == BD_SOURCE_MODEL) return from_model(m, be, proto, seed, tokens, nll, n, max_memory, progress, err);
    if (kind == BD_SOURCE_MARKOV) {
        markov k;
        markov_init(&k, seed, m->graph->vocab);
        from_markov(&k, tokens, nll, n);
        return BD_OK;
    }
    for (uint64_t t = 1; t <= n; t++) {
        tokens[t] = (uint16_t)bd_philox_below(seed, BD_SOURCE_UNIFORM, t, vocab);
        nll[t] = bd_log((double)vocab);
    }
    return BD_OK;
}
