#include "tests/format/gen_artifact.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/sha256.h"
#include "format/trellis.h"

static uint64_t gen_rand(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static uint32_t gen_below(uint64_t *s, uint32_t n) { return (uint32_t)(gen_rand(s) % n); }

/* Roughly normal, standard deviation 1. */
static double gen_normal(uint64_t *s) {
    double x = 0;
    for (int i = 0; i < 12; i++) x += (double)(gen_rand(s) >> 11) * 0x1p-53;
    return x - 6;
}

static char *gen_text(bd_arena *a, uint64_t *s, uint32_t lines, uint64_t *size) {
    char text[4096];
    int n = 0;
    for (uint32_t i = 0; i < lines; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "v%u = op%u(v%u, p%u)\n", i, gen_below(s, 9),
                      gen_below(s, i + 1), gen_below(s, 50));
    *size = (uint64_t)n;
    return bd_arena_strdup(a, text, (size_t)n);
}

static uint16_t *gen_scales(bd_arena *a, uint64_t *s, uint64_t n) {
    uint16_t *w = bd_arena_alloc(a, n, 2);
    for (uint64_t i = 0; w && i < n; i++) w[i] = bd_f32_to_f16(0.01f * (float)(1 + gen_below(s, 20)));
    return w;
}

static int gen_clipped(uint64_t *s, double spread, int low, int high) {
    double x = gen_normal(s) * spread;
    return x < low ? low : x > high ? high : (int)x;
}

/* Indices that follow the trellis, on the grid nearest to a normal value. */
static void fill_tcq(bd_arena *a, uint64_t *s, bd_qtensor *q) {
    static const uint16_t states[8] = {1, 4, 8, 16, 32, 64, 128, 256};
    uint64_t n = (uint64_t)q->rows * q->cols;
    q->states = states[gen_below(s, 8)];
    q->kind = (uint8_t)gen_below(s, BD_TCQ_KINDS);
    q->base = (float)(1 + gen_below(s, 1000)) * 0x1p-12f;
    q->row_exp = bd_arena_alloc(a, q->rows, 2);
    q->col_exp = bd_arena_alloc(a, q->cols, 2);
    q->index = bd_arena_alloc(a, n, 2);
    int32_t *order = bd_arena_alloc(a, q->rows, sizeof *order);
    if (!q->row_exp || !q->col_exp || !q->index || !order) return;
    int wide = gen_below(s, 8) ? 6 : BD_TCQ_EXP_MAX;
    for (uint32_t r = 0; r < q->rows; r++)
        q->row_exp[r] = (int16_t)((int)gen_below(s, (uint32_t)(2 * wide + 1)) - wide);
    for (uint32_t c = 0; c < q->cols; c++)
        q->col_exp[c] = (int16_t)((int)gen_below(s, (uint32_t)(2 * wide + 1)) - wide);
    bd_trellis_order(order, q->row_exp, q->rows);
    double spread = gen_below(s, 6) ? 1 + gen_below(s, 12) : 20000;
    bd_trellis t;
    bool coded = bd_trellis_init(&t, q->states);
    for (uint64_t c = 0; c < q->cols; c++) {
        uint32_t state = 0;
        for (uint32_t i = 0; i < q->rows; i++) {
            int x = gen_clipped(s, spread, -BD_TCQ_INDEX_MAX + 1, BD_TCQ_INDEX_MAX - 1);
            if (coded && ((unsigned)x & 1) != bd_trellis_superset(&t, state)) x += gen_below(s, 2) ? 1 : -1;
            if (coded) state = bd_trellis_next(&t, state, x);
            q->index[c * q->rows + (uint64_t)order[i]] = (int16_t)x;
        }
    }
}

static void fill_log(bd_arena *a, uint64_t *s, bd_qtensor *q) {
    uint64_t n = (uint64_t)q->rows * q->cols;
    q->levels = (uint8_t)(1 << gen_below(s, 6));
    q->base = (float)(1 + gen_below(s, 1000)) * 0x1p-20f;
    q->index = bd_arena_alloc(a, n, 2);
    int most = BD_LOG_OCTAVES * q->levels;
    for (uint64_t i = 0; q->index && i < n; i++)
        q->index[i] = (int16_t)(gen_below(s, 5) ? gen_clipped(s, 6 * q->levels, -most, most) : 0);
}

static void fill_tensor(bd_arena *a, uint64_t *s, bd_qtensor *q, uint32_t max_dim) {
    q->rows = 1 + gen_below(s, max_dim);
    q->cols = 1 + gen_below(s, max_dim);
    q->method = (bd_qmethod)gen_below(s, BD_Q_COUNT);
    uint64_t n = (uint64_t)q->rows * q->cols, scales = q->rows;
    uint32_t repeat;
    switch (q->method) {
        case BD_Q_F16:
            q->f16 = bd_arena_alloc(a, n, 2);
            repeat = gen_below(s, 3);
            for (uint64_t i = 0; q->f16 && i < n; i++)
                q->f16[i] = repeat && i ? q->f16[i - 1] : bd_f32_to_f16((float)gen_normal(s));
            return;
        case BD_Q_F32:
            q->f32 = bd_arena_alloc(a, n, 4);
            for (uint64_t i = 0; q->f32 && i < n; i++) q->f32[i] = gen_below(s, 4) ? (float)gen_normal(s) : 1.0f;
            return;
        case BD_Q_TCQ: fill_tcq(a, s, q); return;
        case BD_Q_LOG: fill_log(a, s, q); return;
        case BD_Q_TERNARY:
            q->group = 1 + gen_below(s, (uint32_t)n);
            scales = n / q->group + (n % q->group != 0);
            break;
        case BD_Q_LQER: {
            q->bits = (uint8_t)(2 + gen_below(s, 7));
            q->rank = (uint8_t)(1 + gen_below(s, 5));
            uint64_t left = (uint64_t)q->rows * q->rank, right = (uint64_t)q->rank * q->cols;
            q->group = 1 + gen_below(s, (uint32_t)right);
            q->lq_a = bd_arena_alloc(a, left, 1);
            q->lq_b = bd_arena_alloc(a, right, 1);
            for (uint64_t i = 0; q->lq_a && i < left; i++) q->lq_a[i] = (int8_t)gen_clipped(s, 1, -2, 1);
            for (uint64_t i = 0; q->lq_b && i < right; i++) q->lq_b[i] = (int8_t)gen_clipped(s, 3, -8, 7);
            q->lq_scales = gen_scales(a, s, 1 + right / q->group + (right % q->group != 0));
            break;
        }
        default: q->bits = (uint8_t)(2 + gen_below(s, 7)); break;
    }
    int qmax = q->method == BD_Q_TERNARY ? 1 : (1 << (q->bits - 1)) - 1;
    double spread = qmax / 4.0 * (1 + gen_below(s, 8)) / 4.0;
    q->scales = gen_scales(a, s, scales);
    q->codes = bd_arena_alloc(a, n, 1);
    for (uint64_t i = 0; q->codes && i < n; i++) q->codes[i] = (int8_t)gen_clipped(s, spread, -qmax, qmax);
}

bd_artifact *gen_artifact(bd_arena *a, const gen_options *o) {
    uint64_t s = o->seed;
    bd_artifact *art = bd_arena_alloc(a, 1, sizeof *art);
    if (!art) return NULL;
    art->version = 2;
    art->numerics = 1;
    art->graph_text = gen_text(a, &s, 1 + gen_below(&s, 40), &art->graph_size);
    art->plan_text = gen_text(a, &s, gen_below(&s, 20), &art->plan_size);
    bd_protocol_default(&art->protocol);
    art->protocol.window = 1 + gen_below(&s, 2048);
    art->protocol.stride = gen_below(&s, art->protocol.window);
    if (gen_below(&s, 2)) {
        art->protocol.kind = BD_PROTO_SGD;
        art->protocol.chunk = 1 + gen_below(&s, 65536);
        art->protocol.epochs = 1 + gen_below(&s, 4);
        art->protocol.batch = 1 + gen_below(&s, 64);
        art->protocol.lr = 0.001 * (1 + gen_below(&s, 9));
        art->protocol.momentum = 0.9;
        art->protocol.clip = gen_below(&s, 3);
        art->protocol.freeze = gen_below(&s, 3);
    }
    for (int i = 0; i < 32; i++) {
        art->tokenizer_model_hash[i] = (uint8_t)gen_rand(&s);
        art->tokenizer_tables_hash[i] = (uint8_t)gen_rand(&s);
    }
    art->vocab = 1 + gen_below(&s, 65536);
    art->n_groups = o->groups ? o->groups : 1 + gen_below(&s, 4);
    art->groups = bd_arena_alloc(a, art->n_groups, sizeof *art->groups);
    if (!art->graph_text || !art->plan_text || !art->groups) return NULL;
    for (uint32_t g = 0; g < art->n_groups; g++) {
        char name[32];
        int len = snprintf(name, sizeof name, "group.%u", g);
        bd_qgroup *q = &art->groups[g];
        q->name = bd_arena_strdup(a, name, (size_t)len);
        q->n_tensors = 1 + gen_below(&s, o->max_tensors ? o->max_tensors : 4);
        q->tensors = bd_arena_alloc(a, q->n_tensors, sizeof *q->tensors);
        q->codec = o->codec < 0 ? (bd_codec)gen_below(&s, BD_CODEC_LRZIP) : (bd_codec)o->codec;
        if (!q->name || !q->tensors) return NULL;
        for (uint32_t t = 0; t < q->n_tensors; t++) {
            /* Groups interleave: param mod groups = g. */
            bd_qtensor *x = &q->tensors[t];
            if (t && gen_below(&s, 3) == 0) *x = q->tensors[t - 1];
            else fill_tensor(a, &s, x, o->max_dim ? o->max_dim : 24);
            x->param = t * art->n_groups + g;
        }
    }
    if (gen_below(&s, 2)) {
        bd_claim *c = &art->claim;
        c->present = true;
        c->numerics = 1;
        c->n_shards = 1 + gen_below(&s, BD_CLAIM_MAX_SHARDS);
        for (uint32_t i = 0; i < c->n_shards; i++) memset(c->shard_sha256[i], (int)(i + 1), 32);
        c->first_target = 1;
        c->tokens = 1 + gen_rand(&s) % 1000000;
        c->bytes = 1 + gen_rand(&s) % 1000000;
        c->nll_q32 = (int64_t)(gen_rand(&s) >> 8);
    }
    return art;
}

bd_artifact *gen_example(bd_arena *a) {
    static const int8_t codes[12] = {3, 0, -1, 2, -4, 1, 0, 0, 7, -2, 1, -1};
    static const int16_t index[12] = {0, 2, -1, 2, -2, 3, 0, 0, 2, -2, 0, 0}, exponent[7] = {0, -2, 0, 3, 0, 0, 1};
    static const char graph[] = "model tiny\nw 3 4\ngain 1 4\nv 3 4\n";
    bd_artifact *art = bd_arena_alloc(a, 1, sizeof *art);
    bd_qtensor *q = bd_arena_alloc(a, 3, sizeof *q);
    bd_qgroup *g = bd_arena_alloc(a, 1, sizeof *g);
    int8_t *c = bd_arena_alloc(a, 12, 1);
    uint16_t *w = bd_arena_alloc(a, 7, 2);
    int16_t *x = bd_arena_alloc(a, 12, 2), *e = bd_arena_alloc(a, 7, 2);
    if (!art || !q || !g || !c || !w || !x || !e) return NULL;
    art->version = 2;
    art->numerics = 1;
    art->graph_text = graph;
    art->graph_size = sizeof graph - 1;
    art->plan_text = "";
    bd_protocol_default(&art->protocol);
    memset(art->tokenizer_model_hash, 0x11, 32);
    memset(art->tokenizer_tables_hash, 0x22, 32);
    art->vocab = 2;
    memcpy(c, codes, sizeof codes);
    memcpy(x, index, sizeof index);
    memcpy(e, exponent, sizeof exponent);
    for (int i = 0; i < 3; i++) w[i] = (uint16_t)(0x2400 + 0x80 * i);
    for (int i = 3; i < 7; i++) w[i] = 0x3c00;
    q[0] = (bd_qtensor){.param = 0, .rows = 3, .cols = 4, .method = BD_Q_ROW, .bits = 4, .codes = c, .scales = w};
    q[1] = (bd_qtensor){.param = 1, .rows = 1, .cols = 4, .method = BD_Q_F16, .f16 = w + 3};
    q[2] = (bd_qtensor){.param = 2,
                        .rows = 3,
                        .cols = 4,
                        .method = BD_Q_TCQ,
                        .states = 8,
                        .kind = 2,
                        .base = 0.125f,
                        .index = x,
                        .row_exp = e,
                        .col_exp = e + 3};
    *g = (bd_qgroup){.name = "all", .tensors = q, .n_tensors = 3, .codec = BD_CODEC_RANGE};
    art->groups = g;
    art->n_groups = 1;
    return art;
}

static uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void gen_fix_hashes(uint8_t *data, uint64_t size) {
    if (size < 28 + 32) return;
    for (int i = 0; i < 8; i++) data[20 + i] = (uint8_t)(size >> (8 * i));
    uint64_t n = get_u32(data + 16), at = 28 + 42 * n;
    for (uint64_t i = 0; i < n && n <= 1005 && 28 + 42 * (i + 1) <= size; i++) {
        uint8_t *e = data + 28 + 42 * i;
        uint64_t stored = get_u32(e + 2);
        if (at + stored > size) break;
        bd_sha256_of(data + at, stored, e + 10);
        at += stored;
    }
    bd_sha256_of(data, size - 32, data + size - 32);
}

uint8_t *gen_wrap_group(unsigned codec, uint32_t raw, const void *group, uint64_t size, uint64_t *file_size) {
    uint64_t total = 28 + 42 * 6 + 2 + 33 + 68 + size + 300 + 32, at = 28 + 42 * 6;
    uint8_t *f = calloc(1, total);
    if (!f) return NULL;
    const uint32_t stored[6] = {2, 33, 68, 0, (uint32_t)size, 300};
    memcpy(f,
           "\x89"
           "BRD\r\n\x1a\n\x02\0\0\0\x01\0\0\0\x06",
           17);
    for (unsigned i = 0; i < 6; i++) {
        uint8_t *e = f + 28 + 42 * i;
        uint32_t declared = i == 4 ? raw : stored[i];
        e[0] = (uint8_t)(i + 1);
        e[1] = (uint8_t)(i == 4 ? codec : 0);
        for (int k = 0; k < 4; k++) {
            e[2 + k] = (uint8_t)(stored[i] >> (8 * k));
            e[6 + k] = (uint8_t)(declared >> (8 * k));
        }
    }
    memcpy(f + at, "m\n", 2);
    memcpy(f + at + 2, "kind window\nwindow 1024\nstride 0\n", 33);
    f[at + 2 + 33 + 64] = 1;
    if (size) memcpy(f + at + 2 + 33 + 68, group, size);
    gen_fix_hashes(f, total);
    *file_size = total;
    return f;
}
