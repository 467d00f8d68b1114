/* attention: whole score rows, no online rescaling.
 *
 * A task is a block of queries of one head. Scores against all keys they can
 * see come from the register tile with the packed, transposed keys; then each
 * row goes through maximum, exp and the 16-lane sum; then P.V is the tile again
 * with a chain over keys. Row t has exactly the keys 0..t: the tile multiplies
 * the keys that all its rows share, and the last few are added row by row (a
 * product with a zero weight is not nothing: it could turn -0 into +0). */
#include <math.h>

#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/tile_f32.h"
#include "kernels/cpu/vmath.h"

enum { QUERIES = 24, LANE_VECTORS = 16 / VF };

typedef struct attn_job {
    int64_t len, heads, kv_heads, width;
    int64_t first, queries; /* q, o and stats hold the rows first .. first + queries - 1 of each sequence */
    int64_t padded_len, padded_width; /* rounded up to panels */
    const float *q, *k, *v;
    float *o, *stats;
    float scale;
    int64_t pair0; /* first (sequence, kv head) of the pairs at hand */
    float *packs;  /* for each pair: keys [panel][width][NR], values [panel][len][NR] */
    bd_cpu *cpu;
} attn_job;

static int64_t attn_pack_floats(const attn_job *a) { return a->padded_len * a->width + a->len * a->padded_width; }

static void attn_pack(void *arg, int64_t begin, int64_t end, int worker) {
    const attn_job *a = arg;
    int64_t ld = a->kv_heads * a->width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t pair = a->pair0 + i, b = pair / a->kv_heads, g = pair % a->kv_heads;
        int64_t at = b * a->len * ld + g * a->width;
        float *keys = a->packs + i * attn_pack_floats(a), *values = keys + a->padded_len * a->width;
        for (int64_t j = 0; j < a->len; j += NR) {
            pack_transposed(a->k + at + j * ld, ld, min_i64(NR, a->len - j), a->width, keys + j * a->width);
        }
        for (int64_t w = 0; w < a->width; w += NR) {
            pack_rows(a->v + at + w, ld, min_i64(NR, a->width - w), a->len, values + w * a->len);
        }
    }
}

static inline v16 v16_of(const vf *acc) {
#if SIMD_AVX512
    return acc[0];
#else
    return (v16){acc[0], acc[1]};
#endif
}

/* s[0..n) become p; returns 1 / sum and the maximum. s is readable and writable
 * up to the next multiple of 16. */
static float attn_softmax(float *s, int64_t n, float scale, float *max_out) {
    const vf vs = vf_set1(scale), low = vf_set1(-INFINITY);
    vf top = low;
    int64_t j = 0;
    for (; j + VF <= n; j += VF) {
        vf x = vf_mul(vf_load(s + j), vs);
        vf_store(s + j, x);
        top = vf_max(x, top);
    }
    if (j < n) {
        vf x = vf_mul(vf_load(s + j), vs);
        vf_store(s + j, x);
        top = vf_max(vf_select(vm_first(n - j), x, low), top);
    }
    float m = vf_max_all(top);
    if (s[0] != s[0]) m = s[0]; /* comparisons with NaN are false: a first NaN stays, a later one is passed over */
    if (m == 0) {               /* of zeros of both signs the first counts */
        for (j = 0; s[j] != 0; j++) {}
        m = s[j];
    }
    const vf vmax = vf_set1(m);
    vf acc[LANE_VECTORS];
    SIMD_UNROLL for (int u = 0; u < LANE_VECTORS; u++) acc[u] = vf_zero();
    for (j = 0; j + 16 <= n; j += 16) {
        SIMD_UNROLL for (int u = 0; u < LANE_VECTORS; u++) {
            vf p = vexpf(vf_sub(vf_load(s + j + u * VF), vmax));
            vf_store(s + j + u * VF, p);
            acc[u] = vf_add(acc[u], p);
        }
    }
    if (j < n) {
        SIMD_UNROLL for (int u = 0; u < LANE_VECTORS; u++) {
            vf p = vexpf(vf_sub(vf_load(s + j + u * VF), vmax));
            vf_store(s + j + u * VF, p);
            acc[u] = vf_select(vm_first(n - j - u * VF), vf_add(acc[u], p), acc[u]);
        }
    }
    *max_out = m;
    return 1.0f / v16_sum(v16_of(acc));
}

/* Queries t .. t+rows-1 of one head: o = (P.V) / l. p is the first row's weights. */
static void attn_values(const attn_job *a, const float *p, const float *values, int64_t t, int rows,
                        const float *inv, float *o) {
    int64_t ldo = a->heads * a->width, ldp = a->padded_len;
    for (int64_t w = 0; w < a->width; w += NR) {
        int64_t cols = min_i64(NR, a->width - w);
        const float *b = values + w * a->len;
        tile_f32_edge(rows, cols, t + 1, (tile_f32_left){p, ldp, 1}, b, NR, o + w, ldo, 0);
        for (int r = 1; r < rows; r++) { /* key t + r is seen by rows r and later */
            tile_f32_edge(rows - r, cols, 1, (tile_f32_left){p + r * ldp + t + r, ldp, 1}, b + (t + r) * NR, NR,
                          o + r * ldo + w, ldo, 1);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *x = o + r * ldo;
        for (int64_t w = 0; w < a->width; w++) x[w] *= inv[r];
    }
}

static void attn_compute(void *arg, int64_t begin, int64_t end, int worker) {
    const attn_job *a = arg;
    float *s = bd_cpu_worker(a->cpu, worker);
    int64_t group = a->heads / a->kv_heads, blocks = (a->queries + QUERIES - 1) / QUERIES;
    int64_t lds = a->padded_len, ldq = a->heads * a->width;
    for (int64_t i = begin; i < end; i++) {
        /* the longest blocks first, so that threads end together */
        int64_t block = blocks - 1 - i % blocks, member = i / blocks % group, pair_at = i / blocks / group;
        int64_t pair = a->pair0 + pair_at, seq = pair / a->kv_heads, h = pair % a->kv_heads * group + member;
        int64_t t0 = a->first + block * QUERIES, t1 = min_i64(t0 + QUERIES, a->len);
        int64_t row = seq * a->queries - a->first; /* row + t: where query t stands */
        const float *keys = a->packs + pair_at * attn_pack_floats(a), *values = keys + a->padded_len * a->width;
        for (int64_t j = 0; j < t1; j += NR) {
            for (int64_t t = t0; t < t1; t += MR) {
                int rows = (int)min_i64(MR, t1 - t);
                int64_t cols = min_i64(NR, t + rows - j);
                if (cols <= 0) continue;
                tile_f32_run(rows, (int)((cols + VF - 1) / VF), a->width,
                             (tile_f32_left){a->q + (row + t) * ldq + h * a->width, ldq, 1}, keys + j * a->width,
                             NR, s + (t - t0) * lds + j, lds, 0);
            }
        }
        for (int64_t t = t0; t < t1; t += MR) {
            int rows = (int)min_i64(MR, t1 - t);
            float inv[MR];
            for (int r = 0; r < rows; r++) {
                float top;
                inv[r] = attn_softmax(s + (t + r - t0) * lds, t + r + 1, a->scale, &top);
                if (!a->stats) continue;
                float *stats = a->stats + ((row + t + r) * a->heads + h) * 2;
                stats[0] = top;
                stats[1] = inv[r];
            }
            attn_values(a, s + (t - t0) * lds, values, t, rows, inv, a->o + (row + t) * ldq + h * a->width);
        }
    }
}

static attn_job attn_job_of(const bd_call *c) {
    attn_job a = {.len = c->attr.attn.T, .heads = c->attr.attn.heads, .kv_heads = c->attr.attn.kv_heads};
    a.width = c->in[0].cols / a.heads;
    a.padded_len = round_up(a.len, NR);
    a.padded_width = round_up(a.width, NR);
    a.q = c->in[0].data, a.k = c->in[1].data, a.v = c->in[2].data;
    a.o = c->out[0].data, a.stats = c->out[1].data; /* a step has no stats */
    a.queries = c->op == BD_OP_attention_step ? c->in[0].rows : a.len;
    a.first = a.len - a.queries;
    a.scale = (float)(1.0 / sqrt((double)a.width));
    return a;
}

/* Pairs packed at a time: enough work for every thread, yet a bounded block. */
static int64_t attn_chunk(const bd_cpu *cpu, const bd_call *c) {
    int64_t pairs = c->in[1].rows / c->attr.attn.T * c->attr.attn.kv_heads;
    return min_i64(pairs, 4 * (int64_t)cpu->threads);
}

bd_cpu_need SIMD_FN(attention_scratch)(const bd_cpu *cpu, const bd_call *c) {
    attn_job a = attn_job_of(c);
    return (bd_cpu_need){(uint64_t)(attn_chunk(cpu, c) * attn_pack_floats(&a)) * sizeof(float),
                         (uint64_t)(QUERIES * a.padded_len) * sizeof(float)};
}

static bd_status attn_run(bd_cpu *cpu, const bd_call *c) {
    attn_job a = attn_job_of(c);
    int64_t pairs = c->in[1].rows / a.len * a.kv_heads, chunk = attn_chunk(cpu, c);
    int64_t tasks = a.heads / a.kv_heads * ((a.queries + QUERIES - 1) / QUERIES);
    bd_pool *pool = bd_cpu_pool_for(cpu, (double)(c->in[0].rows * a.len) * (double)(a.heads * a.width) / 16);
    a.cpu = cpu;
    a.packs = (float *)(void *)cpu->shared;
    for (a.pair0 = 0; a.pair0 < pairs; a.pair0 += chunk) {
        int64_t now = min_i64(chunk, pairs - a.pair0);
        bd_pool_for(pool, now, 1, attn_pack, &a);
        bd_pool_for(pool, now * tasks, 1, attn_compute, &a);
    }
    return BD_OK;
}

bd_status SIMD_FN(attention)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    return attn_run(cpu, c);
}

bd_cpu_need SIMD_FN(attention_step_scratch)(const bd_cpu *cpu, const bd_call *c) {
    return SIMD_FN(attention_scratch)(cpu, c);
}

bd_status SIMD_FN(attention_step)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    (void)err;
    return attn_run(cpu, c);
}
