/* The register tile of every matrix product, written once for float and double.
 *
 * Before including, define TILE(name), TILE_T (element), TILE_V (vector),
 * TILE_LANES, TILE_NV (vectors per row) and the operations TILE_LOAD, _STORE,
 * _SET1, _ZERO, _FMA. Gives
 *
 *     void TILE(run)(int rows, int nv, int64_t k, A, b, ldb, c, ldc, load)
 *
 * c[r][j] = the chain over k of fma(a(r,k), b[k][j], .), for rows <= TILE_MR and
 * nv vectors of columns, starting at +0 or, with `load`, at the old c. Every
 * output is one chain of exactly k terms; the tile only interleaves chains. */

enum { TILE(MR) = 6, TILE(NR) = TILE_NV * TILE_LANES };

/* The left operand: element (r, k) at p[r * rs + k * cs]; cs is 1 (it lies by
 * rows) or else rs is 1 (it lies by columns). */
typedef struct TILE(left) {
    const TILE_T *p;
    int64_t rs, cs;
} TILE(left);

SIMD_INLINE void TILE(body)(const int rows, const int nv, const int by_rows, int64_t k, const TILE_T *a,
                            int64_t stride, const TILE_T *b, int64_t ldb, TILE_T *c, int64_t ldc, int load) {
    TILE_V acc[TILE(MR)][TILE_NV];
    const TILE_T *row[TILE(MR)];
    SIMD_UNROLL for (int r = 0; r < rows; r++) {
        row[r] = by_rows ? a + r * stride : a;
        SIMD_UNROLL for (int v = 0; v < nv; v++) {
            acc[r][v] = load ? TILE_LOAD(c + r * ldc + v * TILE_LANES) : TILE_ZERO();
        }
    }
    SIMD_UNROLL_SOME for (int64_t i = 0; i < k; i++) {
        TILE_V bv[TILE_NV];
        SIMD_UNROLL for (int v = 0; v < nv; v++) bv[v] = TILE_LOAD(b + v * TILE_LANES);
        SIMD_UNROLL for (int r = 0; r < rows; r++) {
            TILE_V x = TILE_SET1(by_rows ? row[r][i] : a[r]);
            SIMD_UNROLL for (int v = 0; v < nv; v++) acc[r][v] = TILE_FMA(x, bv[v], acc[r][v]);
        }
        b += ldb;
        if (!by_rows) a += stride;
    }
    SIMD_UNROLL for (int r = 0; r < rows; r++) {
        SIMD_UNROLL for (int v = 0; v < nv; v++) TILE_STORE(c + r * ldc + v * TILE_LANES, acc[r][v]);
    }
}

#define TILE_CASE(R, V)                                                         \
    case (R)*8 + (V):                                                           \
        if (a.cs == 1) TILE(body)(R, V, 1, k, a.p, a.rs, b, ldb, c, ldc, load); \
        else TILE(body)(R, V, 0, k, a.p, a.cs, b, ldb, c, ldc, load);           \
        break;
#if TILE_NV == 4
#define TILE_CASES(R) TILE_CASE(R, 1) TILE_CASE(R, 2) TILE_CASE(R, 3) TILE_CASE(R, 4)
#else
#define TILE_CASES(R) TILE_CASE(R, 1) TILE_CASE(R, 2)
#endif

static void TILE(run)(int rows, int nv, int64_t k, TILE(left) a, const TILE_T *b, int64_t ldb, TILE_T *c,
                      int64_t ldc, int load) {
    switch (rows * 8 + nv) {
        TILE_CASES(6)
        TILE_CASES(5)
        TILE_CASES(4)
        TILE_CASES(3)
        TILE_CASES(2)
        TILE_CASES(1)
        default: break;
    }
}

/* The same for a tile whose last vector is partial: `cols` columns, the others
 * neither read nor written in c (b must be padded). */
static void TILE(edge)(int rows, int64_t cols, int64_t k, TILE(left) a, const TILE_T *b, int64_t ldb, TILE_T *c,
                       int64_t ldc, int load) {
    int nv = (int)((cols + TILE_LANES - 1) / TILE_LANES);
    if (cols == (int64_t)nv * TILE_LANES) {
        TILE(run)(rows, nv, k, a, b, ldb, c, ldc, load);
        return;
    }
    TILE_T t[TILE(MR) * TILE(NR)];
    if (load) {
        for (int r = 0; r < rows; r++) {
            for (int64_t j = 0; j < cols; j++) t[r * TILE(NR) + j] = c[r * ldc + j];
            for (int64_t j = cols; j < TILE(NR); j++) t[r * TILE(NR) + j] = 0;
        }
    }
    TILE(run)(rows, nv, k, a, b, ldb, t, TILE(NR), load);
    for (int r = 0; r < rows; r++) {
        for (int64_t j = 0; j < cols; j++) c[r * ldc + j] = t[r * TILE(NR) + j];
    }
}

#undef TILE_CASE
#undef TILE_CASES
