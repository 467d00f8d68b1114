/* The three matrix products. All are C[i,j] = chain over k of fma(A[i,k], B[k,j], .)
 * with B's rows contiguous; only linear has to turn its weights for that. */
#include <string.h>

#include "kernels/ref/ref_typed.h"

typedef struct product {
    const real *a; /* A[i,k] = a[i * a_i + k * a_k] */
    int64_t a_i, a_k;
    const real *b; /* B[k,j] = b[k * b_k + j] */
    int64_t b_k;
    real *c; /* C[i,j] = c[i * c_i + j] */
    int64_t c_i;
    int64_t K;
    bool accumulate;
} product;

/* Rows [i0, i1) of C, `cols` <= BD_REF_BLOCK columns. Four steps of every chain
 * are taken at a time; the compiler runs neighbouring chains in one vector. */
static void chains(const product *p, int64_t i0, int64_t i1, int64_t cols) {
    for (int64_t i = i0; i < i1; i++) {
        const real *a = p->a + i * p->a_i;
        real *c = p->c + i * p->c_i;
        real acc[BD_REF_BLOCK];
        for (int64_t j = 0; j < cols; j++) acc[j] = p->accumulate ? c[j] : 0;
        int64_t k = 0;
        for (; k + 4 <= p->K; k += 4) {
            const real *b0 = p->b + k * p->b_k, *b1 = b0 + p->b_k, *b2 = b1 + p->b_k, *b3 = b2 + p->b_k;
            const real a0 = a[k * p->a_k], a1 = a[(k + 1) * p->a_k], a2 = a[(k + 2) * p->a_k],
                       a3 = a[(k + 3) * p->a_k];
            for (int64_t j = 0; j < cols; j++) {
                acc[j] = FMA(a3, b3[j], FMA(a2, b2[j], FMA(a1, b1[j], FMA(a0, b0[j], acc[j]))));
            }
        }
        for (; k < p->K; k++) {
            const real ak = a[k * p->a_k], *b = p->b + k * p->b_k;
            for (int64_t j = 0; j < cols; j++) acc[j] = FMA(ak, b[j], acc[j]);
        }
        for (int64_t j = 0; j < cols; j++) c[j] = acc[j];
    }
}

/* Tasks are tiles: (block of columns, part of the rows). */
enum { ROW_PARTS = 4 };

static void tile(int64_t index, int64_t rows, int64_t width, int64_t *i0, int64_t *i1, int64_t *j0, int64_t *cols) {
    const int64_t part = index % ROW_PARTS;
    *j0 = index / ROW_PARTS * BD_REF_BLOCK;
    *cols = width - *j0 < BD_REF_BLOCK ? width - *j0 : BD_REF_BLOCK;
    *i0 = rows * part / ROW_PARTS;
    *i1 = rows * (part + 1) / ROW_PARTS;
}
static int64_t tiles(int64_t width) { return (width + BD_REF_BLOCK - 1) / BD_REF_BLOCK * ROW_PARTS; }

REF_TASK(linear_tiles) {
    const task *k = arg;
    const bd_call *c = k->c;
    const int64_t n = c->in[0].rows, K = c->in[0].cols, M = c->in[1].rows;
    const real *x = c->in[0].data, *w = c->in[1].data; /* (n,K), (M,K) */
    real *y = c->out[0].data;                          /* (n,M) */
    real *wt = bd_ref_scratch(k->r, worker);           /* (K, BD_REF_BLOCK) */
    int64_t loaded = -1;
    for (int64_t index = begin; index < end; index++) {
        int64_t i0, i1, j0, cols;
        tile(index, n, M, &i0, &i1, &j0, &cols);
        if (loaded != j0) {
            for (int64_t j = 0; j < cols; j++) {
                for (int64_t i = 0; i < K; i++) wt[i * BD_REF_BLOCK + j] = w[(j0 + j) * K + i];
            }
            loaded = j0;
        }
        const product p = {x, K, 1, wt, BD_REF_BLOCK, y + j0, M, K, false};
        chains(&p, i0, i1, cols);
    }
}

bd_status REF_FN(linear)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    task k = {r, c};
    bd_pool_for(r->be.pool, tiles(c->in[1].rows), ROW_PARTS, linear_tiles, &k);
    return BD_OK;
}

REF_TASK(grad_x_tiles) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, M = c->in[1].rows, K = c->in[1].cols;
    const real *dy = c->in[0].data, *w = c->in[1].data; /* (n,M), (M,K) */
    real *dx = c->out[0].data;                          /* (n,K) */
    for (int64_t index = begin; index < end; index++) {
        int64_t i0, i1, j0, cols;
        tile(index, n, K, &i0, &i1, &j0, &cols);
        const product p = {dy, M, 1, w + j0, K, dx + j0, K, M, false};
        chains(&p, i0, i1, cols);
    }
}

bd_status REF_FN(linear_grad_x)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    task k = {r, c};
    bd_pool_for(r->be.pool, tiles(c->in[1].cols), 1, grad_x_tiles, &k);
    return BD_OK;
}

REF_TASK(grad_w_tiles) {
    (void)worker;
    const bd_call *c = ((task *)arg)->c;
    const int64_t n = c->in[0].rows, M = c->in[0].cols, K = c->in[1].cols;
    const real *dy = c->in[0].data, *x = c->in[1].data; /* (n,M), (n,K) */
    real *dw = c->out[0].data;                          /* (M,K) */
    for (int64_t index = begin; index < end; index++) {
        int64_t i0, i1, j0, cols;
        tile(index, M, K, &i0, &i1, &j0, &cols);
        const product p = {dy, 1, M, x + j0, K, dw + j0, K, n, true};
        chains(&p, i0, i1, cols);
    }
}

bd_status REF_FN(linear_grad_w)(bd_ref *r, const bd_call *c, bd_err *err) {
    (void)err;
    task k = {r, c};
    bd_pool_for(r->be.pool, tiles(c->in[1].cols), 1, grad_w_tiles, &k);
    return BD_OK;
}
