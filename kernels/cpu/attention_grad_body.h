/* attention_grad: P is recomputed from the stored statistics, block by block.
 *
 * One walk does everything: for a block of keys (ascending), for each query
 * head of the group (ascending), for blocks of queries (ascending): scores and
 * dP from the register tile, P and dS element by element, then
 *     dv += P^T do,   dk += dS^T q,   dq += dS k.
 * The chain of dq runs over keys, and key blocks come in order; those of dk and
 * dv run over (head, query), and for one key these come in order too. Every
 * chain continues from memory, which starts at +0. As in the forward pass the
 * tile takes what all its rows share and the diagonal is added row by row.
 *
 * Tasks are whole (sequence, kv head) pairs where there are enough of them.
 * Otherwise two kinds of tasks walk a part each, one for dk and dv of a block of
 * keys, one for dq of some queries: the scores are computed twice, the sums are
 * the same. */
#include <math.h>

#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/tile_f32.h"
#include "kernels/cpu/vmath.h"

enum { KEYS = SIMD_AVX512 ? 192 : 96, QUERIES = 96, DQ_QUERIES = 2 * QUERIES };

typedef struct grad_job {
    int64_t rows, len, heads, kv_heads, width, padded_width;
    const float *q, *k, *v, *o, *stats, *go;
    float *dq, *dk, *dv, *d; /* d: rows x heads */
    float scale;
    int64_t pairs, key_blocks, query_parts;
    bd_cpu *cpu;
} grad_job;

/* One worker's blocks. Packed ones are panels of NR columns. */
typedef struct grad_work {
    float *keys_t, *values_t; /* [panel of keys][width][NR] */
    float *keys, *q, *go;     /* [panel of width][rows][NR] */
    float *p, *ds;            /* QUERIES x KEYS */
} grad_work;

static int64_t grad_work_floats(const grad_job *a) {
    return 2 * KEYS * a->width + (KEYS + 2 * QUERIES) * a->padded_width + 2 * QUERIES * KEYS;
}

static grad_work grad_work_of(const grad_job *a, int worker) {
    grad_work w;
    w.keys_t = bd_cpu_worker(a->cpu, worker);
    w.values_t = w.keys_t + KEYS * a->width;
    w.p = w.values_t + KEYS * a->width;
    w.ds = w.p + QUERIES * KEYS;
    w.keys = w.ds + QUERIES * KEYS;
    w.q = w.keys + KEYS * a->padded_width;
    w.go = w.q + QUERIES * a->padded_width;
    return w;
}

/* Clears the gradients and computes D. */
static void grad_begin(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job *a = arg;
    int64_t wide = a->heads * a->width, narrow = a->kv_heads * a->width;
    (void)worker;
    memset(a->dq + begin * wide, 0, (size_t)((end - begin) * wide) * sizeof(float));
    memset(a->dk + begin * narrow, 0, (size_t)((end - begin) * narrow) * sizeof(float));
    memset(a->dv + begin * narrow, 0, (size_t)((end - begin) * narrow) * sizeof(float));
    for (int64_t i = begin * a->heads; i < end * a->heads; i++) {
        const float *x = a->go + i * a->width, *y = a->o + i * a->width;
        v16 acc = v16_zero();
        int64_t w = 0;
        for (; w + 16 <= a->width; w += 16) acc = v16_fma(v16_load(x + w), v16_load(y + w), acc);
        if (w < a->width) {
            int64_t n = a->width - w;
            acc = v16_fman(v16_loadn(x + w, n), v16_loadn(y + w, n), acc, n);
        }
        a->d[i] = v16_sum(acc);
    }
}

static void scale_by(float *x, int64_t n, float s) {
    for (int64_t i = 0; i < n; i++) x[i] *= s;
}

static void grad_end(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job *a = arg;
    int64_t wide = a->heads * a->width, narrow = a->kv_heads * a->width;
    (void)worker;
    scale_by(a->dq + begin * wide, (end - begin) * wide, a->scale);
    scale_by(a->dk + begin * narrow, (end - begin) * narrow, a->scale);
}

static void pack_panels(const float *src, int64_t lds, int64_t width, int64_t rows, float *dst) {
    for (int64_t w = 0; w < width; w += NR) pack_rows(src + w, lds, min_i64(NR, width - w), rows, dst + w * rows);
}

/* A block: keys j0 .. j0+jn-1 against queries t0 .. t0+tn-1 (t0 >= j0) of head h; row = the sequence's first row.
 */
typedef struct grad_block {
    int64_t row, g, h, j0, jn, t0, tn;
} grad_block;

/* P and dS of the block; of row t only the keys up to t mean anything. */
static void grad_scores(const grad_job *a, const grad_work *w, const grad_block *b) {
    int64_t ldq = a->heads * a->width, at = (b->row + b->t0) * ldq + b->h * a->width;
    for (int64_t c = 0; c < b->jn; c += NR) {
        for (int64_t r = 0; r < b->tn; r += MR) {
            int rows = (int)min_i64(MR, b->tn - r);
            int64_t cols = min_i64(NR, min_i64(b->jn, b->t0 + r + rows - b->j0) - c);
            if (cols <= 0) continue;
            int nv = (int)((cols + VF - 1) / VF);
            tile_f32_run(rows, nv, a->width, (tile_f32_left){a->q + at + r * ldq, ldq, 1}, w->keys_t + c * a->width,
                         NR, w->p + r * KEYS + c, KEYS, 0);
            tile_f32_run(rows, nv, a->width, (tile_f32_left){a->go + at + r * ldq, ldq, 1},
                         w->values_t + c * a->width, NR, w->ds + r * KEYS + c, KEYS, 0);
        }
    }
    const vf scale = vf_set1(a->scale);
    for (int64_t r = 0; r < b->tn; r++) {
        int64_t i = (b->row + b->t0 + r) * a->heads + b->h, n = min_i64(b->jn, b->t0 + r + 1 - b->j0);
        const vf m = vf_set1(a->stats[2 * i]), inv = vf_set1(a->stats[2 * i + 1]), d = vf_set1(a->d[i]);
        float *p = w->p + r * KEYS, *ds = w->ds + r * KEYS;
        for (int64_t j = 0; j < n; j += VF) {
            vf s = vf_mul(vf_load(p + j), scale);
            vf x = vf_mul(vexpf(vf_sub(s, m)), inv);
            vf_store(p + j, x);
            vf_store(ds + j, vf_mul(x, vf_sub(vf_load(ds + j), d)));
        }
    }
}

/* out[j] += the chain over the block's queries t >= j of weight[t][j] * b[t], for all keys of the block. */
static void grad_keys(const grad_job *a, const grad_block *b, const float *weight, const float *right, float *out) {
    int64_t ld = a->kv_heads * a->width, t1 = b->t0 + b->tn;
    float *c = out + (b->row + b->j0) * ld + b->g * a->width;
    for (int64_t p = 0; p < a->width; p += NR) {
        int64_t cols = min_i64(NR, a->width - p);
        const float *panel = right + p * b->tn;
        for (int64_t r = 0; r < b->jn; r += MR) {
            int rows = (int)min_i64(MR, b->jn - r);
            int64_t j = b->j0 + r, last = j + rows - 1, t = max_i64(b->t0, j);
            for (; t < last && t < t1; t++) { /* seen by keys j .. t only */
                tile_f32_edge((int)(t - j + 1), cols, 1, (tile_f32_left){weight + (t - b->t0) * KEYS + r, 1, KEYS},
                              panel + (t - b->t0) * NR, NR, c + r * ld + p, ld, 1);
            }
            if (t < t1) {
                tile_f32_edge(rows, cols, t1 - t, (tile_f32_left){weight + (t - b->t0) * KEYS + r, 1, KEYS},
                              panel + (t - b->t0) * NR, NR, c + r * ld + p, ld, 1);
            }
        }
    }
}

/* dq[t] += the chain over the block's keys j <= t of dS[t][j] * k[j]. */
static void grad_queries(const grad_job *a, const grad_work *w, const grad_block *b) {
    int64_t ld = a->heads * a->width;
    float *c = a->dq + (b->row + b->t0) * ld + b->h * a->width;
    for (int64_t p = 0; p < a->width; p += NR) {
        int64_t cols = min_i64(NR, a->width - p);
        const float *panel = w->keys + p * b->jn;
        for (int64_t r = 0; r < b->tn; r += MR) {
            int rows = (int)min_i64(MR, b->tn - r);
            int64_t first = b->t0 + r - b->j0; /* the diagonal's key of the first row */
            tile_f32_edge(rows, cols, min_i64(b->jn, first + 1), (tile_f32_left){w->ds + r * KEYS, KEYS, 1}, panel,
                          NR, c + r * ld + p, ld, 1);
            for (int s = 1; s < rows && first + s < b->jn; s++) {
                tile_f32_edge(rows - s, cols, 1, (tile_f32_left){w->ds + (r + s) * KEYS + first + s, KEYS, 1},
                              panel + (first + s) * NR, NR, c + (r + s) * ld + p, ld, 1);
            }
        }
    }
}

/* The walk over key blocks [kb0, kb1), heads [h0, h1) and queries [q0, q1) of one pair. */
static void grad_walk(const grad_job *a, const grad_work *w, int64_t pair, int64_t kb0, int64_t kb1, int64_t h0,
                      int64_t h1, int64_t q0, int64_t q1, int want_dkv, int want_dq) {
    grad_block b = {.row = pair / a->kv_heads * a->len, .g = pair % a->kv_heads};
    int64_t ldk = a->kv_heads * a->width, ldq = a->heads * a->width;
    for (int64_t kb = kb0; kb < kb1; kb++) {
        b.j0 = kb * KEYS;
        if (b.j0 >= q1) break;
        b.jn = min_i64(KEYS, a->len - b.j0);
        int64_t at = (b.row + b.j0) * ldk + b.g * a->width;
        for (int64_t j = 0; j < b.jn; j += NR) {
            int64_t cols = min_i64(NR, b.jn - j);
            pack_transposed(a->k + at + j * ldk, ldk, cols, a->width, w->keys_t + j * a->width);
            pack_transposed(a->v + at + j * ldk, ldk, cols, a->width, w->values_t + j * a->width);
        }
        if (want_dq) pack_panels(a->k + at, ldk, a->width, b.jn, w->keys);
        for (b.h = h0; b.h < h1; b.h++) {
            for (b.t0 = max_i64(q0, b.j0); b.t0 < q1; b.t0 += QUERIES) {
                b.tn = min_i64(QUERIES, q1 - b.t0);
                grad_scores(a, w, &b);
                if (want_dkv) {
                    int64_t from = (b.row + b.t0) * ldq + b.h * a->width;
                    pack_panels(a->q + from, ldq, a->width, b.tn, w->q);
                    pack_panels(a->go + from, ldq, a->width, b.tn, w->go);
                    grad_keys(a, &b, w->p, w->go, a->dv);
                    grad_keys(a, &b, w->ds, w->q, a->dk);
                }
                if (want_dq) grad_queries(a, w, &b);
            }
        }
    }
}

static void grad_whole(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job *a = arg;
    grad_work w = grad_work_of(a, worker);
    int64_t group = a->heads / a->kv_heads;
    for (int64_t pair = begin; pair < end; pair++) {
        int64_t h0 = pair % a->kv_heads * group;
        grad_walk(a, &w, pair, 0, a->key_blocks, h0, h0 + group, 0, a->len, 1, 1);
    }
}

static void grad_part(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job *a = arg;
    grad_work w = grad_work_of(a, worker);
    int64_t group = a->heads / a->kv_heads, key_tasks = a->pairs * a->key_blocks;
    for (int64_t i = begin; i < end; i++) {
        if (i < key_tasks) {
            int64_t pair = i % a->pairs, kb = i / a->pairs, h0 = pair % a->kv_heads * group;
            grad_walk(a, &w, pair, kb, kb + 1, h0, h0 + group, 0, a->len, 1, 0);
        } else {
            int64_t t = i - key_tasks, member = t % group, pair = t / group % a->pairs;
            int64_t part = a->query_parts - 1 - t / group / a->pairs; /* the longest first */
            int64_t h = pair % a->kv_heads * group + member, q0 = part * DQ_QUERIES;
            grad_walk(a, &w, pair, 0, a->key_blocks, h, h + 1, q0, min_i64(q0 + DQ_QUERIES, a->len), 0, 1);
        }
    }
}

static grad_job grad_job_of(const bd_call *c) {
    grad_job a = {.rows = c->in[0].rows, .len = c->attr.attn.T};
    a.heads = c->attr.attn.heads, a.kv_heads = c->attr.attn.kv_heads;
    a.width = c->in[0].cols / a.heads;
    a.padded_width = round_up(a.width, NR);
    a.q = c->in[0].data, a.k = c->in[1].data, a.v = c->in[2].data;
    a.o = c->in[3].data, a.stats = c->in[4].data, a.go = c->in[5].data;
    a.dq = c->out[0].data, a.dk = c->out[1].data, a.dv = c->out[2].data;
    a.scale = (float)(1.0 / sqrt((double)a.width));
    a.pairs = a.rows / a.len * a.kv_heads;
    a.key_blocks = (a.len + KEYS - 1) / KEYS;
    a.query_parts = (a.len + DQ_QUERIES - 1) / DQ_QUERIES;
    return a;
}

bd_cpu_need SIMD_FN(attention_grad_scratch)(const bd_cpu *cpu, const bd_call *c) {
    grad_job a = grad_job_of(c);
    (void)cpu;
    return (bd_cpu_need){(uint64_t)(a.rows * a.heads) * sizeof(float),
                         (uint64_t)grad_work_floats(&a) * sizeof(float)};
}

bd_status SIMD_FN(attention_grad)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    grad_job a = grad_job_of(c);
    bd_pool *pool = bd_cpu_pool_for(cpu, (double)(a.rows * a.len) * (double)(a.heads * a.width) / 8);
    (void)err;
    a.cpu = cpu;
    a.d = (float *)(void *)cpu->shared;
    bd_pool_for(pool, a.rows, 64, grad_begin, &a);
    if (!pool || a.pairs % cpu->threads == 0 || a.pairs >= 4 * cpu->threads) {
        bd_pool_for(pool, a.pairs, 1, grad_whole, &a);
    } else {
        int64_t group = a.heads / a.kv_heads;
        bd_pool_for(pool, a.pairs * (a.key_blocks + group * a.query_parts), 1, grad_part, &a);
    }
    bd_pool_for(pool, a.rows, 64, grad_end, &a);
    return BD_OK;
}
