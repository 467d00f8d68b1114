/* Newton-Schulz iteration X <- a X + (b A + c A A) X with A = X X^T, on the
 * smaller side. A tall X is not transposed: with A = X^T X the same polynomial
 * is X <- a X + X (b A + c A A), and every product has its own operation. */
#include <math.h>

#include "trainer/optimizer.h"

static const double fixed_abc[3] = {3.4445, -4.7750, 2.0315};
static const double polar_abc[5][3] = {
    {8.156554524902461, -22.48329292557795, 15.878769915207462},
    {4.042929935166739, -2.808917465908714, 0.5000178451051316},
    {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
    {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
    {2.3465413258596377, -1.7097828382687081, 0.42323551169305323},
};

void bd_ns_coefficient(bd_ns_coefficients kind, int i, double abc[3]) {
    const double *src = kind == BD_NS_FIXED ? fixed_abc : polar_abc[i < 4 ? i : 4];
    for (int k = 0; k < 3; k++) abc[k] = src[k];
}

uint64_t bd_newton_schulz_work(int64_t rows, int64_t cols) {
    int64_t s = rows < cols ? rows : cols;
    return (uint64_t)(rows * cols + 2 * s * s) + 16;
}

static bd_view mat(const float *p, int64_t rows, int64_t cols) {
    return (bd_view){(void *)(uintptr_t)p, BD_F32, rows, cols};
}

static bd_status product(bd_backend *be, bd_op op, float *out, int64_t m, int64_t n, bd_view a, bd_view b,
                         bd_err *err) {
    bd_call c = {.op = op, .in = {a, b}, .out = {mat(out, m, n)}};
    return bd_run(be, &c, err);
}

static bd_status axpby(bd_backend *be, float *out, double a, const float *x, double b, const float *y, int64_t rows,
                       int64_t cols, bd_err *err) {
    bd_call c = {.op = BD_OP_axpby,
                 .in = {mat(x, rows, cols), mat(y, rows, cols)},
                 .out = {mat(out, rows, cols)},
                 .attr.lin = {(float)a, (float)b}};
    return bd_run(be, &c, err);
}

bd_status bd_newton_schulz(bd_backend *be, float *out, const float *u, int64_t rows, int64_t cols, int steps,
                           bd_ns_coefficients coefficients, float *work, bd_err *err) {
    bool wide = rows <= cols;
    int64_t s = wide ? rows : cols;
    float *a = work, *b = a + s * s, *bx = b + s * s;
    double sumsq = 0;
    /* The sum lives in backend memory during the call; `work` has room behind bx. */
    double *dev_sum = (double *)(void *)(((uintptr_t)(bx + rows * cols) + 7) & ~(uintptr_t)7);
    BD_TRY(be->vt->upload(be, dev_sum, &sumsq, sizeof sumsq, err));
    bd_call sum = {.op = BD_OP_sum_squares, .in = {mat(u, rows, cols)}, .out = {{dev_sum, BD_F64, 1, 1}}};
    BD_TRY(bd_run(be, &sum, err));
    BD_TRY(be->vt->download(be, &sumsq, dev_sum, sizeof sumsq, err));
    BD_TRY(axpby(be, out, 1.0 / (sqrt(sumsq) + 1e-7), u, 0, u, rows, cols, err));
    for (int i = 0; i < steps; i++) {
        double abc[3];
        bd_ns_coefficient(coefficients, i, abc);
        bd_view x = mat(out, rows, cols), va = mat(a, s, s), vb = mat(b, s, s);
        if (wide) {
            BD_TRY(product(be, BD_OP_linear, a, s, s, x, x, err));
        } else {
            /* linear_grad_w accumulates: start from zero, made of X because it is finite */
            BD_TRY(axpby(be, a, 0, out, 0, out, s, s, err));
            BD_TRY(product(be, BD_OP_linear_grad_w, a, s, s, x, x, err));
        }
        BD_TRY(product(be, BD_OP_linear_grad_x, b, s, s, va, va, err));
        BD_TRY(axpby(be, b, abc[1], a, abc[2], b, s, s, err));
        if (wide) BD_TRY(product(be, BD_OP_linear_grad_x, bx, rows, cols, vb, x, err));
        else BD_TRY(product(be, BD_OP_linear_grad_x, bx, rows, cols, x, vb, err));
        BD_TRY(axpby(be, out, abc[0], out, 1, bx, rows, cols, err));
    }
    return BD_OK;
}
