/* second_moment: H[i][k] += the chain over t of fma(w[t] * x[t][i], x[t][k], .),
 * in double. The product w * x rounds, so H[i][k] and H[k][i] are two different
 * chains unless w is absent; then, if the old H is symmetric to the bit, only
 * the upper triangle is computed and copied. */
#include <string.h>

#include "kernels/cpu/cpu_impl.h"

#define TILE(name) tile_f64_##name
#define TILE_T     double
#define TILE_V     vd
#define TILE_LANES VD
#if SIMD_AVX512
#define TILE_NV 4
#else
#define TILE_NV 2
#endif
#define TILE_LOAD  vd_load
#define TILE_STORE vd_store
#define TILE_SET1  vd_set1
#define TILE_ZERO  vd_zero
#define TILE_FMA   vd_fma
#include "kernels/cpu/gemm_tile.h"

enum {
    MR = tile_f64_MR,
    NR = tile_f64_NR,
    KC = 256,       /* rows of x per block */
    N_CHUNK = 2048, /* columns of H per packed block */
    M_CHUNK = 2040, /* rows of H per packed block, a multiple of MR */
    ROW_BLOCK = 60, /* rows of H per task, a multiple of MR */
    GROUP = 128     /* columns of H per task, a multiple of NR */
};

typedef struct moment_job {
    int64_t k;
    const float *x;
    const double *w; /* or NULL */
    double *h;
    int upper;                      /* the lower triangle is copied at the end */
    int64_t t0, tn, i0, im, j0, jn; /* the block at hand */
    double *right, *left;           /* [panel][tn][NR], [panel][tn][MR] */
    int64_t right_panels;
} moment_job;

static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static void moment_pack(void *arg, int64_t begin, int64_t end, int worker) {
    const moment_job *m = arg;
    (void)worker;
    for (int64_t p = begin; p < end; p++) {
        int is_right = p < m->right_panels, wide = is_right ? NR : MR;
        int64_t at = (is_right ? p : p - m->right_panels) * wide;
        int64_t cols = min_i64(wide, (is_right ? m->jn : m->im) - at);
        const float *src = m->x + m->t0 * m->k + (is_right ? m->j0 : m->i0) + at;
        double *dst = (is_right ? m->right : m->left) + at * m->tn;
        for (int64_t t = 0; t < m->tn; t++, src += m->k, dst += wide) {
            int64_t c = 0;
            if (is_right || !m->w) {
                for (; c < cols; c++) dst[c] = (double)src[c];
            } else {
                for (; c < cols; c++) dst[c] = m->w[m->t0 + t] * (double)src[c];
            }
            for (; c < wide; c++) dst[c] = 0;
        }
    }
}

static void moment_compute(void *arg, int64_t begin, int64_t end, int worker) {
    const moment_job *m = arg;
    int64_t row_blocks = (m->im + ROW_BLOCK - 1) / ROW_BLOCK;
    (void)worker;
    for (int64_t task = begin; task < end; task++) {
        int64_t i_begin = task % row_blocks * ROW_BLOCK, i_end = min_i64(i_begin + ROW_BLOCK, m->im);
        int64_t j_begin = task / row_blocks * GROUP, j_end = min_i64(j_begin + GROUP, m->jn);
        for (int64_t i = i_begin; i < i_end; i += MR) {
            for (int64_t j = j_begin; j < j_end; j += NR) {
                int64_t cols = min_i64(NR, j_end - j);
                if (m->upper && m->j0 + j + cols <= m->i0 + i) continue; /* wholly below the diagonal */
                tile_f64_edge((int)min_i64(MR, i_end - i), cols, m->tn, (tile_f64_left){m->left + i * m->tn, 1, MR},
                              m->right + j * m->tn, NR, m->h + (m->i0 + i) * m->k + m->j0 + j, m->k, 1);
            }
        }
    }
}

static int symmetric(const double *h, int64_t k) {
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < i; j++) {
            if (memcmp(&h[i * k + j], &h[j * k + i], sizeof *h) != 0) return 0;
        }
    }
    return 1;
}

/* Rows of the lower triangle from columns of the upper one. */
static void moment_mirror(void *arg, int64_t begin, int64_t end, int worker) {
    const moment_job *m = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        for (int64_t j = 0; j < i; j++) m->h[i * m->k + j] = m->h[j * m->k + i];
    }
}

static uint64_t right_bytes(const bd_call *c) {
    return (uint64_t)(round_up(min_i64(c->in[0].cols, N_CHUNK), NR) * min_i64(c->in[0].rows, KC)) * sizeof(double);
}

bd_cpu_need SIMD_FN(second_moment_scratch)(const bd_cpu *cpu, const bd_call *c) {
    uint64_t left = (uint64_t)(round_up(min_i64(c->in[0].cols, M_CHUNK), MR) * min_i64(c->in[0].rows, KC));
    (void)cpu;
    return (bd_cpu_need){right_bytes(c) + left * sizeof(double), 0};
}

bd_status SIMD_FN(second_moment)(bd_cpu *cpu, const bd_call *c, bd_err *err) {
    int64_t n = c->in[0].rows, k = c->in[0].cols;
    moment_job m = {.k = k, .x = c->in[0].data, .w = c->in[1].data, .h = c->out[0].data};
    bd_pool *pool = bd_cpu_pool_for(cpu, (double)n * (double)k * (double)k / 8);
    (void)err;
    m.right = (double *)(void *)cpu->shared;
    m.left = (double *)(void *)(cpu->shared + right_bytes(c));
    m.upper = !m.w && symmetric(m.h, k);
    for (m.j0 = 0; m.j0 < k; m.j0 += N_CHUNK) {
        m.jn = min_i64(N_CHUNK, k - m.j0);
        for (m.t0 = 0; m.t0 < n; m.t0 += KC) {
            m.tn = min_i64(KC, n - m.t0);
            for (m.i0 = 0; m.i0 < k; m.i0 += M_CHUNK) {
                m.im = min_i64(M_CHUNK, k - m.i0);
                m.right_panels = m.i0 == 0 ? (m.jn + NR - 1) / NR : 0;
                bd_pool_for(pool, m.right_panels + (m.im + MR - 1) / MR, 4, moment_pack, &m);
                bd_pool_for(pool, (m.im + ROW_BLOCK - 1) / ROW_BLOCK * ((m.jn + GROUP - 1) / GROUP), 1,
                            moment_compute, &m);
            }
        }
    }
    if (m.upper) bd_pool_for(pool, k, 16, moment_mirror, &m);
    return BD_OK;
}
