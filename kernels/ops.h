/* Every operation Birdie knows, in one list.
 *
 * An operation is a value: a bd_call names it, points at its operands and
 * carries typed attributes. kernels/ref/ is the meaning of each; every other
 * backend gives the same bits in exact mode. docs/numerics.md states each order
 * of summation in words; the short form stands here.
 *
 * Notation. t: row (token), n rows in all; j: column. Tensors are dense, row
 * major, float32 unless stated. "chain": acc = +0 (or the old output where the
 * operation accumulates), then acc = fma(a, b, acc) in increasing index, exactly
 * as many terms as stated. "lanes16": 16 accumulators starting at +0, lane =
 * index mod 16, fma or add in increasing index, then the tree
 * l += l+8, l += l+4, l += l+2, l += l+1 (lower index + higher index).
 *
 * Rows of a batch: n = nseq * T; sequence b owns rows [b*T, (b+1)*T). Only
 * attention, its gradient and rope look at the position inside a sequence.
 */
#ifndef BD_KERNELS_OPS_H
#define BD_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum bd_dtype { BD_F32, BD_F64, BD_I32, BD_I64, BD_BF16, BD_F16, BD_DTYPE_COUNT } bd_dtype;

/* Which past positions an output row may depend on, for operations of a model. */
typedef enum bd_causality {
    BD_CAUSAL_LOCAL, /* this row */
    BD_CAUSAL_SHIFT, /* the row attr.shift.k (k >= 0) before */
    BD_CAUSAL_PAST,  /* this and all earlier rows of its sequence */
    BD_CAUSAL_NONE   /* not an operation of a model: gradients, updates, losses */
} bd_causality;

/* clang-format off */
/* X(name, inputs, outputs, causality, attribute arm, backward needs)
 *
 * --- operations of a model (the model language may call exactly these) ---
 * embed        in: table (V,D), tokens i32 (n)             out: y (n,D)
 *              y[t] = table[tokens[t]]
 * rms_norm     in: x (n,C)                                 out: y (n,C)     attr norm{width, eps}
 *              groups of `width` columns (width divides C); per group
 *              ss = lanes16 fma(x,x); r = 1 / sqrt(ss / (float)width + eps); y = x * r
 * linear       in: x (n,K), w (M,K)                        out: y (n,M)
 *              y[t,m] = chain over k of fma(x[t,k], w[m,k], .)
 * add          in: a (n,C), b (n,C)                        out: a + b
 * scale        in: x (n,C), s (C)                          out: x[t,j] * s[j]
 * add_scaled   in: x (n,C), y (n,C), s (C)                 out: fma(s[j], y[t,j], x[t,j])
 * mix          in: x (n,C), a (C), y (n,C), b (C)          out: fma(a[j], x[t,j], b[j] * y[t,j])
 * head_scale   in: x (n,H*W), g (H)                        out: x[t,h,i] * g[h]      attr heads{heads}
 * rope         in: x (n,H*W), table (T', W/2, 2) cos,sin   out: y           attr rope{width, inverse, base}
 *              position = t mod T; halves pair up (i, i + W/2):
 *              y1 = fma(x1, c, x2 * s);  y2 = fma(x2, c, -(x1 * s))
 *              inverse: y1 = fma(x1, c, -(x2 * s));  y2 = fma(x2, c, x1 * s)
 *              the table is computed once in double: angle = pos * base^(-2i/W), rounded to float
 * attention    in: q (n,H*W), k (n,G*W), v (n,G*W)         out: o (n,H*W), stats (n,H,2)   attr attn{heads, kv_heads, T}
 *              query head h reads kv head h / (H/G); per (sequence, t, h), over keys j = 0..t:
 *              s_j = (chain over i of fma(q[i], k[j,i], .)) * scale,  scale = (float)(1 / sqrt((double)W))
 *              m = max s_j;  p_j = expf(s_j - m);  l = lanes16 add p_j;  inv = 1 / l
 *              o[i] = (chain over j of fma(p_j, v[j,i], .)) * inv;   stats = {m, inv}
 * relu2        in: z (n,C)                                 out: y           attr relu2{slope}
 *              u = z > 0 ? z : slope * z;  y = u * u
 * softcap      in: x (n,C)                                 out: y           attr softcap{cap}
 *              y = cap * tanhf(x / cap)
 *
 * --- loss ---
 * nll          in: logits (n,V), targets i32 (n)           out: nll f64 (n), lse f64 (n)
 *              m = max; s = lanes16 add exp((double)l - (double)m) in double; lse = (double)m + log(s);
 *              nll = lse - (double)l[target].  target -1: row is not scored, nll = 0 (lse still written)
 * nll_grad     in: logits, targets, lse f64 (n)            out: d (n,V)     attr loss{gscale}
 *              p = (float)exp((double)l - lse); d = (j == target ? p - 1 : p) * gscale; 0 for target -1
 *
 * --- one token at a time; not an operation of a model ---
 * attention_step   in: q (n,H*W), k (P,G*W), v (P,G*W)     out: o (n,H*W)      attr attn{heads, kv_heads, T = P}
 *                  rows P-n .. P-1 of attention over one sequence of P tokens, whose last n rows q holds: the same chains,
 *                  so the same bits
 *
 * --- gradients. "accumulates" means the chain starts from the old output ---
 * embed_grad       in: dy (n,D), tokens                    out: dtable (V,D)   accumulates: row v is the chain (plain adds)
 *                  over t increasing with tokens[t] == v
 * rms_norm_grad    in: x, dy                               out: dx             attr norm
 *                  r as forward; dot = lanes16 fma(dy, x); c = (dot / (float)width) * (r * r); dx = fma(-x, c, dy) * r
 * linear_grad_x    in: dy (n,M), w (M,K)                   out: dx (n,K) = chain over m of fma(dy[t,m], w[m,k], .)
 * linear_grad_w    in: dy (n,M), x (n,K)                   out: dw (M,K)       accumulates: chain over t of fma(dy[t,m], x[t,k], .)
 * scale_grad_s     in: dy (n,C), x (n,C)                   out: ds (C)         accumulates: chain over t of fma(dy, x, .)
 *                  (also the gradient of the vectors of add_scaled and mix)
 * head_scale_grad  in: dy (n,H*W), x (n,H*W)               out: dg (H)         accumulates: over t plain add of
 *                  lanes16 fma(dy, x) over the head's W columns                attr heads{heads}
 * attention_grad   in: q, k, v, o, stats, do               out: dq, dk, dv     attr attn
 *                  s_j, p_j recomputed as forward; P_j = p_j * inv; D = lanes16 fma(do, o) over i;
 *                  dP_j = chain over i of fma(do[i], v[j,i], .);  dS_j = P_j * (dP_j - D);
 *                  dq[i] = (chain over j of fma(dS_j, k[j,i], .)) * scale;
 *                  dk[j,i] = (chain over (h in the kv head's group ascending, then t = j..T-1) of fma(dS, q[t,h,i], .)) * scale;
 *                  dv[j,i] = chain in the same order of fma(P, do[t,h,i], .)
 * relu2_grad       in: z, dy                               out: dz = dy * (z > 0 ? 2 * z : c * z),  c = 2 * (slope * slope)   attr relu2
 * softcap_grad     in: y (the forward's output), dy        out: u = y / cap; dx = dy * fma(-u, u, 1)      attr softcap
 *
 * --- updates, element wise over n = count of out[0]; scalars are floats computed in double by the caller ---
 * axpby            in: x, y                                out: z = fma(a, x, b * y)     attr lin{a, b}; out may alias an input
 * tree_sum8        in: 8 shard buffers, contiguous (8,count) out: z             lanes tree: x[l] += x[l+4], +2, +1, then * a   attr lin{a}
 * sum_squares      in: x                                   out: f64 (1): blocks of 65,536 elements, in a block lanes16 fma
 *                  in double, block sums added in increasing order (chain of plain adds from the old output: accumulates)
 * row_norm         in: x (R,C)                             out: y = x * (1 / max(sqrt(lanes16 fma(x,x)), 1e-7f)) per row; may alias
 * adamw            in/out: p, m, v (out 0..2)  in: g       attr adamw{lr, beta1, beta2, eps, decay, c1, c2}
 *                  p *= decay (= 1 - lr*wd); m = fma(beta1, m, (1-beta1)*g); v = fma(beta2, v, ((1-beta2)*g)*g);
 *                  p = p - (lr * (m * c1)) / (sqrt(v * c2) + eps),   c1 = 1/(1-beta1^k), c2 = 1/(1-beta2^k)
 * sgd              in/out: p, b (out 0..1)     in: g       attr sgd{lr, momentum}
 *                  b = fma(momentum, b, g);  p = fma(-lr, b, p)
 * second_moment    in: x (n,K), w f64 (n) or none          out: H f64 (K,K)    accumulates: H[i,k] = chain over t in double of
 *                  fma(w[t] * (double)x[t,i], (double)x[t,k], .); w absent: 1. Both triangles written.
 * row_moment       in: g (n,M)                             out: r f64 (M)      accumulates: chain over t in double of fma(g,g,.)
 *
 * A maximum is m = x_0, then m = x_j > m ? x_j : m for increasing j (this fixes the sign of a zero maximum).
 */
/* clang-format on */
#define BD_OP_LIST(X)                     \
    X(embed, 2, 1, LOCAL, none)           \
    X(rms_norm, 1, 1, LOCAL, norm)        \
    X(linear, 2, 1, LOCAL, none)          \
    X(add, 2, 1, LOCAL, none)             \
    X(scale, 2, 1, LOCAL, none)           \
    X(add_scaled, 3, 1, LOCAL, none)      \
    X(mix, 4, 1, LOCAL, none)             \
    X(head_scale, 2, 1, LOCAL, heads)     \
    X(rope, 2, 1, LOCAL, rope)            \
    X(attention, 3, 2, PAST, attn)        \
    X(relu2, 1, 1, LOCAL, relu2)          \
    X(softcap, 1, 1, LOCAL, softcap)      \
    X(nll, 2, 2, NONE, none)              \
    X(attention_step, 3, 1, NONE, attn)   \
    X(nll_grad, 3, 1, NONE, loss)         \
    X(embed_grad, 2, 1, NONE, none)       \
    X(rms_norm_grad, 2, 1, NONE, norm)    \
    X(linear_grad_x, 2, 1, NONE, none)    \
    X(linear_grad_w, 2, 1, NONE, none)    \
    X(scale_grad_s, 2, 1, NONE, none)     \
    X(head_scale_grad, 2, 1, NONE, heads) \
    X(attention_grad, 6, 3, NONE, attn)   \
    X(relu2_grad, 2, 1, NONE, relu2)      \
    X(softcap_grad, 2, 1, NONE, softcap)  \
    X(axpby, 2, 1, NONE, lin)             \
    X(tree_sum8, 1, 1, NONE, lin)         \
    X(sum_squares, 1, 1, NONE, none)      \
    X(row_norm, 1, 1, NONE, none)         \
    X(adamw, 1, 3, NONE, adamw)           \
    X(sgd, 1, 2, NONE, sgd)               \
    X(second_moment, 2, 1, NONE, none)    \
    X(row_moment, 1, 1, NONE, none)

typedef enum bd_op {
#define BD_X(name, nin, nout, causal, attr) BD_OP_##name,
    BD_OP_LIST(BD_X)
#undef BD_X
        BD_OP_COUNT
} bd_op;

enum { BD_MAX_IN = 6, BD_MAX_OUT = 3 };

typedef union bd_attr {
    struct {
        int32_t width;
        float eps;
    } norm;
    struct {
        int32_t heads;
    } heads;
    struct {
        int32_t width, inverse;
        double base;
    } rope;
    struct {
        int32_t heads, kv_heads, T;
    } attn;
    struct {
        float slope;
    } relu2;
    struct {
        float cap;
    } softcap;
    struct {
        float gscale;
    } loss;
    struct {
        float a, b;
    } lin;
    struct {
        float lr, beta1, beta2, eps, decay, c1, c2;
    } adamw;
    struct {
        float lr, momentum;
    } sgd;
} bd_attr;

/* A dense, row-major view: (rows, cols), both at least 1. Vectors are (1, n) or
 * (n, 1), which is the same memory; stats (n,H,2) is (n, 2H) and a rope table
 * (T', W/2, 2) is (T', W). Owns nothing. data == NULL marks an absent optional
 * operand. Outputs never overlap an operand, except that where "may alias" is
 * said an output may be exactly an input. Attention needs seq_len == attr.attn.T. */
typedef struct bd_view {
    void *data;
    bd_dtype dtype;
    int64_t rows, cols;
} bd_view;

typedef struct bd_call {
    bd_op op;
    bd_view in[BD_MAX_IN], out[BD_MAX_OUT];
    int64_t seq_len; /* T of this batch, for operations that look at positions; else 0 */
    bd_attr attr;
} bd_call;

typedef struct bd_op_info {
    const char *name;
    int nin, nout;
    bd_causality causality;
    const char *attr_arm;
} bd_op_info;

const bd_op_info *bd_op_get(bd_op op);
/* -1 if there is no such operation. */
int bd_op_find(const char *name, int name_len);
/* Check operand shapes, types and attributes of a call: BD_E_SHAPE names the operand. Backends may assume it
 * passed. */
bd_status bd_call_check(const bd_call *c, bd_err *err);
/* The same with `real` (BD_F32 or BD_F64) in the place of every float32 operand: for the double build of ref. */
bd_status bd_call_check_real(const bd_call *c, bd_dtype real, bd_err *err);
/* Dimensions by the letters of the list above: n rows, K, M, C, V, D columns; R rows; A = H*W and B = G*W widths,
 * S = 2*H stats, P = T' positions, W width, H heads, N elements. For tests and benchmarks. */
typedef struct bd_dims {
    int64_t of[128]; /* by character */
} bd_dims;
/* Set type and shape of every operand of c->op; data stays as it is. */
void bd_call_shapes(bd_call *c, const bd_dims *d);
/* True if the operation starts from the old contents of output i: it accumulates into it or updates it. */
bool bd_op_reads_out(bd_op op, int i);
/* Planned cost of a call. */
void bd_call_cost(const bd_call *c, double *flops, double *bytes);
/* One line: "linear in0=f32[1024,512] ... " for logs and messages. */
void bd_call_print(const bd_call *c, char *out, int size);
int64_t bd_dtype_size(bd_dtype t);

#endif
