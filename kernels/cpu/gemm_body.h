/* linear, linear_grad_x, linear_grad_w: three shapes of one matrix product.
 *
 * c[i][j] is one chain of fma over k in increasing order. K is cut into blocks:
 * a later block takes the old c as the start of its chain, which is the same
 * chain. Work is divided over rows and columns of c only, so neither the number
 * of threads nor the block sizes can change a bit.
 *
 * For each block of K (and, for huge products, of rows and columns): pack the
 * right operand into panels of NR columns, and the left one into panels of MR
 * rows if it lies by columns; then every task multiplies some rows by a group
 * of panels that stays in the second-level cache. */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/tile_f32.h"

enum {
    KC = SIMD_AVX512 ? 512 : 256, /* terms per block */
    GROUP = 256,                  /* columns of a task: KC * GROUP floats fit the second-level cache */
    N_CHUNK = 4096,               /* columns packed at a time */
    M_CHUNK = 4080,               /* rows packed at a time, where the left operand is packed */
    FEW = 24                      /* up to as many rows each panel is packed, used at once and forgotten */
};

typedef struct gemm_job {
    int64_t m, n, k;
    const float *a; /* a(i,k) = a[i * a_row + k * a_col], one of the strides being 1 */
    int64_t a_row, a_col;
    const float *b; /* b(k,j) = b[k * b_row + j * b_col], one of the strides being 1 */
    int64_t b_row, b_col;
    float *c;
    int64_t ldc;
    int accumulate;
    /* the block at hand */
    int64_t i0, im, j0, jn, k0, kn;
    int load; /* the chains continue from c */
    float *b_pack, *a_pack;
    int64_t b_panels, row_block; /* panels to pack (0: done already); rows of a task */
    bd_cpu *cpu;
} gemm_job;

/* Panels of a left operand that lies by columns: dst[panel][k][MR] from
 * a(r,k) = src[k * lds + r]. Rows beyond the last are not read, and what stands
 * for them in the last panel is never used. */
static void pack_left(const float *src, int64_t lds, int64_t rows, int64_t k, float *dst) {
    enum { DEPTH = 16 }; /* a few rows of the source at a time: their lines and pages serve all panels */
    for (int64_t i0 = 0; i0 < k; i0 += DEPTH) {
        int64_t depth = min_i64(DEPTH, k - i0);
        for (int64_t r = 0; r < rows; r += MR) {
            float *d = dst + r * k + i0 * MR;
            const float *s = src + i0 * lds + r;
            int64_t i = 0;
            if (r + 8 <= rows) { /* eight at once; the two too many are overwritten by the next step */
                for (; i + 1 < depth; i++) _mm256_storeu_ps(d + i * MR, _mm256_loadu_ps(s + i * lds));
            }
            size_t bytes = (size_t)min_i64(MR, rows - r) * sizeof *d;
            for (; i < depth; i++) memcpy(d + i * MR, s + i * lds, bytes);
        }
    }
}

static void gemm_pack_panel(const gemm_job *g, int64_t j, int64_t cols, int64_t k0, int64_t kn, float *dst) {
    const float *src = g->b + k0 * g->b_row + j * g->b_col;
    if (g->b_row == 1) pack_transposed(src, g->b_col, cols, kn, dst);
    else pack_rows(src, g->b_row, cols, kn, dst);
}

static void gemm_pack(void *arg, int64_t begin, int64_t end, int worker) {
    const gemm_job *g = arg;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        if (t < g->b_panels) {
            int64_t j = t * NR;
            gemm_pack_panel(g, g->j0 + j, min_i64(NR, g->jn - j), g->k0, g->kn, g->b_pack + j * g->kn);
        } else {
            int64_t i = (t - g->b_panels) * g->row_block, rows = min_i64(g->row_block, g->im - i);
            pack_left(g->a + g->k0 * g->a_col + g->i0 + i, g->a_col, rows, g->kn, g->a_pack + i * g->kn);
        }
    }
}

static void gemm_compute(void *arg, int64_t begin, int64_t end, int worker) {
    const gemm_job *g = arg;
    int64_t row_blocks = (g->im + g->row_block - 1) / g->row_block;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t j_begin = t / row_blocks * GROUP, j_end = min_i64(j_begin + GROUP, g->jn);
        int64_t i_begin = t % row_blocks * g->row_block, i_end = min_i64(i_begin + g->row_block, g->im);
        for (int64_t i = i_begin; i < i_end; i += MR) {
            int rows = (int)min_i64(MR, i_end - i);
            tile_f32_left a = g->a_col == 1 ? (tile_f32_left){g->a + (g->i0 + i) * g->a_row + g->k0, g->a_row, 1}
                                            : (tile_f32_left){g->a_pack + i * g->kn, 1, MR};
            for (int64_t j = j_begin; j < j_end; j += NR) {
                tile_f32_edge(rows, min_i64(NR, j_end - j), g->kn, a, g->b_pack + j * g->kn, NR,
                              g->c + (g->i0 + i) * g->ldc + g->j0 + j, g->ldc, g->load);
            }
        }
    }
}

/* Few rows: a task is a panel. */
static void gemm_few_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const gemm_job *g = arg;
    float *panel = bd_cpu_worker(g->cpu, worker);
    for (int64_t j = begin * NR; j < min_i64(end * NR, g->n); j += NR) {
        int64_t cols = min_i64(NR, g->n - j);
        for (int64_t k0 = 0; k0 < g->k; k0 += KC) {
            int64_t kn = min_i64(KC, g->k - k0);
            gemm_pack_panel(g, j, cols, k0, kn, panel);
            for (int64_t i = 0; i < g->m; i += MR) {
                tile_f32_edge((int)min_i64(MR, g->m - i), cols, kn,
                              (tile_f32_left){g->a + i * g->a_row + k0, g->a_row, 1}, panel, NR,
                              g->c + i * g->ldc + j, g->ldc, k0 > 0);
            }
        }
    }
}

static int gemm_is_few(const gemm_job *g) { return !g->accumulate && g->m <= FEW; }

/* Rows of a task: large enough to use a panel group well, small enough that
 * every thread gets several tasks. */
static int64_t gemm_row_block(const bd_cpu *cpu, int64_t m, int64_t n) {
    int64_t groups = (n + GROUP - 1) / GROUP, want = 4 * (int64_t)cpu->threads;
    int64_t blocks = (want + groups - 1) / groups;
    return min_i64(96, round_up((m + blocks - 1) / blocks, MR));
}

static uint64_t gemm_b_bytes(const gemm_job *g) {
    return (uint64_t)(round_up(min_i64(g->n, N_CHUNK), NR) * min_i64(g->k, KC)) * sizeof(float);
}

static bd_cpu_need gemm_need(const gemm_job *g) {
    if (gemm_is_few(g)) return (bd_cpu_need){0, (uint64_t)(NR * min_i64(g->k, KC)) * sizeof(float)};
    uint64_t bytes = gemm_b_bytes(g);
    if (g->a_col != 1)
        bytes += (uint64_t)(round_up(min_i64(g->m, M_CHUNK), MR) * min_i64(g->k, KC)) * sizeof(float);
    return (bd_cpu_need){bytes, 0};
}

static void gemm(bd_cpu *cpu, gemm_job *g) {
    bd_pool *pool = bd_cpu_pool_for(cpu, (double)(g->m + 8) * (double)g->n * (double)g->k / 16);
    if (gemm_is_few(g)) {
        g->cpu = cpu;
        bd_pool_for(pool, (g->n + NR - 1) / NR, 1, gemm_few_rows, g);
        return;
    }
    g->b_pack = (float *)(void *)cpu->shared;
    g->a_pack = (float *)(void *)(cpu->shared + gemm_b_bytes(g));
    int packs_a = g->a_col != 1;
    for (g->j0 = 0; g->j0 < g->n; g->j0 += N_CHUNK) {
        g->jn = min_i64(N_CHUNK, g->n - g->j0);
        for (g->k0 = 0; g->k0 < g->k; g->k0 += KC) {
            g->kn = min_i64(KC, g->k - g->k0);
            g->load = g->accumulate || g->k0 > 0;
            int64_t chunk = packs_a ? M_CHUNK : g->m;
            for (g->i0 = 0; g->i0 < g->m; g->i0 += chunk) {
                g->im = min_i64(chunk, g->m - g->i0);
                g->row_block = gemm_row_block(cpu, g->im, g->jn);
                int64_t row_blocks = (g->im + g->row_block - 1) / g->row_block;
                g->b_panels = g->i0 == 0 ? (g->jn + NR - 1) / NR : 0;
                bd_pool_for(pool, g->b_panels + (packs_a ? row_blocks : 0), 1, gemm_pack, g);
                bd_pool_for(pool, (g->jn + GROUP - 1) / GROUP * row_blocks, 1, gemm_compute, g);
            }
        }
    }
}

/* y[t,m] = sum x[t,k] w[m,k] */
static gemm_job linear_job(const bd_call *c) {
    int64_t n = c->in[0].rows, k = c->in[0].cols, m = c->in[1].rows;
    return (gemm_job){.m = n,
                      .n = m,
                      .k = k,
                      .a = c->in[0].data,
                      .a_row = k,
                      .a_col = 1,
                      .b = c->in[1].data,
                      .b_row = 1,
                      .b_col = k,
                      .c = c->out[0].data,
                      .ldc = m};
}

/* dx[t,k] = sum dy[t,m] w[m,k] */
static gemm_job linear_grad_x_job(const bd_call *c) {
    int64_t n = c->in[0].rows, m = c->in[0].cols, k = c->in[1].cols;
    return (gemm_job){.m = n,
                      .n = k,
                      .k = m,
                      .a = c->in[0].data,
                      .a_row = m,
                      .a_col = 1,
                      .b = c->in[1].data,
                      .b_row = k,
                      .b_col = 1,
                      .c = c->out[0].data,
                      .ldc = k};
}

/* dw[m,k] += sum dy[t,m] x[t,k] */
static gemm_job linear_grad_w_job(const bd_call *c) {
    int64_t n = c->in[0].rows, m = c->in[0].cols, k = c->in[1].cols;
    return (gemm_job){.m = m,
                      .n = k,
                      .k = n,
                      .a = c->in[0].data,
                      .a_row = 1,
                      .a_col = m,
                      .b = c->in[1].data,
                      .b_row = k,
                      .b_col = 1,
                      .c = c->out[0].data,
                      .ldc = k,
                      .accumulate = 1};
}

#define GEMM_OP(op)                                                          \
    bd_cpu_need SIMD_FN(op##_scratch)(const bd_cpu *cpu, const bd_call *c) { \
        gemm_job g = op##_job(c);                                            \
        (void)cpu;                                                           \
        return gemm_need(&g);                                                \
    }                                                                        \
    bd_status SIMD_FN(op)(bd_cpu * cpu, const bd_call *c, bd_err *err) {     \
        gemm_job g = op##_job(c);                                            \
        (void)err;                                                           \
        gemm(cpu, &g);                                                       \
        return BD_OK;                                                        \
    }
GEMM_OP(linear)
GEMM_OP(linear_grad_x)
GEMM_OP(linear_grad_w)
#undef GEMM_OP
