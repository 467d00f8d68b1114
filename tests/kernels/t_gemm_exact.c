/* The matrix products and attention of the cpu backend against plain scalar
 * loops of fmaf, to the bit: odd sizes, block borders, several thread counts,
 * poisoned outputs, signed zeros, subnormals and the scratch it says it needs. */
#include <math.h>

#include "base/arena.h"
#include "base/fmath.h"
#include "bd_test.h"
#include "kernels/backend.h"

static const char *const isas[] = {"avx2", "avx512"};
static const int threads[] = {1, 2, 5};
static uint64_t rng;

/* Values where an order or a dropped sign shows: some zeros of both signs, some tiny. */
static float value(void) {
    uint64_t r = test_rand(&rng) % 64;
    if (r == 0) return 0.0f;
    if (r == 1) return -0.0f;
    if (r == 2) return test_normalf(&rng) * 0x1p-80f;
    if (r == 3) return test_normalf(&rng) * 0x1p-140f;
    return test_normalf(&rng);
}

typedef struct tensor {
    bd_view v;
    unsigned char *mem;
    size_t bytes;
} tensor;

enum { GUARD = 64 };

/* Exactly as large as its view, with a guard on both sides; contents random. */
static tensor make(bd_dtype type, int64_t rows, int64_t cols) {
    tensor t = {.bytes = (size_t)(rows * cols) * (type == BD_F64 ? 8 : 4)};
    t.mem = malloc(t.bytes + 2 * GUARD);
    CHECK(t.mem != NULL);
    memset(t.mem, 0xa5, t.bytes + 2 * GUARD);
    t.v = (bd_view){t.mem + GUARD, type, rows, cols};
    for (int64_t i = 0; i < rows * cols; i++) {
        if (type == BD_F64) ((double *)t.v.data)[i] = (double)value();
        else ((float *)t.v.data)[i] = value();
    }
    return t;
}
static tensor copy(const tensor *a) {
    tensor t = *a;
    t.mem = malloc(t.bytes + 2 * GUARD);
    CHECK(t.mem != NULL);
    memcpy(t.mem, a->mem, t.bytes + 2 * GUARD);
    t.v.data = t.mem + GUARD;
    return t;
}
static void poison(tensor *t) { memset(t->v.data, 0xff, t->bytes); }
static void same(const tensor *want, const tensor *got, const char *what) {
    for (int i = 0; i < GUARD; i++)
        CHECK_MSG(got->mem[i] == 0xa5 && got->mem[GUARD + got->bytes + i] == 0xa5, "%s", what);
    if (memcmp(want->v.data, got->v.data, want->bytes) == 0) return;
    size_t size = want->v.dtype == BD_F64 ? 8 : 4;
    for (size_t i = 0; i < want->bytes / size; i++) {
        const char *a = (const char *)want->v.data + i * size, *b = (const char *)got->v.data + i * size;
        double x = size == 8 ? *(const double *)(const void *)a : (double)*(const float *)(const void *)a;
        double y = size == 8 ? *(const double *)(const void *)b : (double)*(const float *)(const void *)b;
        CHECK_MSG(memcmp(a, b, size) == 0, "%s: element %zu (row %zu): %a instead of %a", what, i,
                  i / (size_t)want->v.cols, y, x);
    }
}
static void drop(tensor *t, int n) {
    for (int i = 0; i < n; i++) free(t[i].mem);
}

static float *f(const tensor *t) { return t->v.data; }

/* The reference: one chain for each output. */
static void plain(bd_op op, const tensor *in, tensor *out) {
    int64_t n = in[0].v.rows, c0 = in[0].v.cols, c1 = in[1].v.cols;
    if (op == BD_OP_linear) {
        for (int64_t t = 0; t < n; t++) {
            for (int64_t m = 0; m < in[1].v.rows; m++) {
                float acc = 0;
                for (int64_t k = 0; k < c0; k++) acc = fmaf(f(in)[t * c0 + k], f(in + 1)[m * c0 + k], acc);
                f(out)[t * in[1].v.rows + m] = acc;
            }
        }
    } else if (op == BD_OP_linear_grad_x) {
        for (int64_t t = 0; t < n; t++) {
            for (int64_t k = 0; k < c1; k++) {
                float acc = 0;
                for (int64_t m = 0; m < c0; m++) acc = fmaf(f(in)[t * c0 + m], f(in + 1)[m * c1 + k], acc);
                f(out)[t * c1 + k] = acc;
            }
        }
    } else if (op == BD_OP_linear_grad_w) {
        for (int64_t m = 0; m < c0; m++) {
            for (int64_t k = 0; k < c1; k++) {
                float acc = f(out)[m * c1 + k];
                for (int64_t t = 0; t < n; t++) acc = fmaf(f(in)[t * c0 + m], f(in + 1)[t * c1 + k], acc);
                f(out)[m * c1 + k] = acc;
            }
        }
    } else {
        const double *w = in[1].v.data;
        double *h = out->v.data;
        for (int64_t i = 0; i < c0; i++) {
            for (int64_t k = 0; k < c0; k++) {
                double acc = h[i * c0 + k];
                for (int64_t t = 0; t < n; t++) {
                    acc = fma((w ? w[t] : 1.0) * (double)f(in)[t * c0 + i], (double)f(in)[t * c0 + k], acc);
                }
                h[i * c0 + k] = acc;
            }
        }
    }
}

/* Run on every level and thread count and compare with what is expected.
 * `start`: the outputs before the call. */
static void against(const bd_call *call, int nin, const tensor *in, int nout, const tensor *start,
                    const tensor *want, const char *what) {
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 3; j++) {
            bd_backend *be;
            bd_err err = {0};
            bd_status st = bd_cpu_open(&be, isas[i], threads[j], &err);
            if (st == BD_E_UNSUPPORTED) continue;
            CHECK_OK(st, &err);
            CHECK(be->vt->has(be, call->op));
            tensor out[BD_MAX_OUT];
            bd_call c = *call;
            for (int k = 0; k < nin; k++) c.in[k] = in[k].v;
            for (int k = 0; k < nout; k++) {
                out[k] = copy(&start[k]);
                c.out[k] = out[k].v;
            }
            if (j == 0) CHECK_OK(be->vt->reserve(be, &c, &err), &err);
            CHECK_OK(be->vt->run(be, &c, &err), &err);
            char where[160];
            snprintf(where, sizeof where, "%s, %s, %d threads", what, isas[i], threads[j]);
            for (int k = 0; k < nout; k++) same(&want[k], &out[k], where);
            drop(out, nout);
            be->vt->close(be);
        }
    }
}

static void product(bd_op op, int64_t n, int64_t k, int64_t m) {
    tensor in[2], start, want;
    char what[96];
    snprintf(what, sizeof what, "op %d, %d x %d x %d", (int)op, (int)n, (int)k, (int)m);
    if (op == BD_OP_linear) {
        in[0] = make(BD_F32, n, k), in[1] = make(BD_F32, m, k), start = make(BD_F32, n, m);
    } else if (op == BD_OP_linear_grad_x) {
        in[0] = make(BD_F32, n, m), in[1] = make(BD_F32, m, k), start = make(BD_F32, n, k);
    } else {
        in[0] = make(BD_F32, n, m), in[1] = make(BD_F32, n, k), start = make(BD_F32, m, k);
    }
    if (op != BD_OP_linear_grad_w) poison(&start);
    want = copy(&start);
    plain(op, in, &want);
    bd_call c = {.op = op};
    against(&c, 2, in, 1, &start, &want, what);
    drop(in, 2);
    drop(&start, 1);
    drop(&want, 1);
}

static void products(bd_op op) {
    static const int64_t fixed[][3] = {{1, 1, 1},     {1, 2, 1},     {6, 64, 64},   {7, 65, 17},   {13, 3, 129},
                                       {96, 64, 64},  {97, 513, 15}, {2, 1025, 70}, {5, 256, 300}, {260, 66, 130},
                                       {530, 34, 31}, {25, 30, 520}, {1, 70, 4100}, {3, 4101, 2}};
    rng = test_seed();
    for (int i = 0; i < (int)(sizeof fixed / sizeof fixed[0]); i++)
        product(op, fixed[i][0], fixed[i][1], fixed[i][2]);
    for (int i = 0; i < 12; i++) {
        int64_t d[3];
        for (int j = 0; j < 3; j++) d[j] = 1 + (int64_t)(test_rand(&rng) % 150);
        product(op, d[0], d[1], d[2]);
    }
}

TEST(linear_is_one_chain) { products(BD_OP_linear); }
TEST(linear_grad_x_is_one_chain) { products(BD_OP_linear_grad_x); }
TEST(linear_grad_w_continues_the_chain) { products(BD_OP_linear_grad_w); }

TEST(second_moment_in_double) {
    static const int64_t shapes[][2] = {{1, 1}, {3, 2}, {40, 33}, {300, 70}, {257, 131}, {5, 200}, {1, 2070}};
    rng = test_seed();
    for (int i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) {
        for (int kind = 0; kind < 3; kind++) { /* weighted; plain with any H; plain with a symmetric H */
            int64_t n = shapes[i][0], k = shapes[i][1];
            tensor in[2] = {make(BD_F32, n, k), make(BD_F64, 1, n)}, start = make(BD_F64, k, k), want;
            double *h = start.v.data;
            if (kind == 2) {
                for (int64_t a = 0; a < k * k; a++) h[a] = h[a % k * k + a / k];
                for (int64_t a = 0; a < k; a++) {
                    for (int64_t b = 0; b < a; b++) h[a * k + b] = h[b * k + a];
                }
            }
            void *weights = in[1].v.data;
            if (kind != 0) in[1].v.data = NULL;
            want = copy(&start);
            plain(BD_OP_second_moment, in, &want);
            bd_call c = {.op = BD_OP_second_moment};
            against(&c, 2, in, 1, &start, &want, kind == 0 ? "weighted" : "plain");
            in[1].v.data = weights;
            drop(in, 2);
            drop(&start, 1);
            drop(&want, 1);
        }
    }
}

static float tree(float *l) {
    for (int h = 8; h > 0; h /= 2) {
        for (int i = 0; i < h; i++) l[i] += l[i + h];
    }
    return l[0];
}

typedef struct heads {
    int64_t seqs, len;
    int h, g;
    int64_t w;
} heads;

/* in: q k v o stats do; out: dq dk dv. Writes o and stats, then the gradients. */
static void plain_attention(const heads *s, tensor *in, tensor *out) {
    int64_t lq = s->h * s->w, lk = s->g * s->w, w = s->w;
    const float *q = f(in), *k = f(in + 1), *v = f(in + 2), *go = f(in + 5);
    float *o = f(in + 3), *stats = f(in + 4), *dq = f(out), *dk = f(out + 1), *dv = f(out + 2);
    float scale = (float)(1.0 / sqrt((double)w));
    float *p = malloc(sizeof(float) * (size_t)(2 * s->len)), *ds = p + s->len;
    CHECK(p != NULL);
    memset(dk, 0, out[1].bytes);
    memset(dv, 0, out[2].bytes);
    for (int64_t b = 0; b < s->seqs; b++) {
        for (int h = 0; h < s->h; h++) {
            int g = h / (s->h / s->g);
            for (int64_t t = 0; t < s->len; t++) {
                int64_t row = b * s->len + t, at = row * lq + h * w, kat = b * s->len * lk + g * w;
                float m = 0, lane[16] = {0}, dlane[16] = {0};
                for (int64_t j = 0; j <= t; j++) {
                    float acc = 0;
                    for (int64_t i = 0; i < w; i++) acc = fmaf(q[at + i], k[kat + j * lk + i], acc);
                    p[j] = acc * scale;
                    m = j == 0 || p[j] > m ? p[j] : m;
                }
                for (int64_t j = 0; j <= t; j++) {
                    p[j] = bd_expf(p[j] - m);
                    lane[j % 16] += p[j];
                }
                float inv = 1.0f / tree(lane);
                for (int64_t i = 0; i < w; i++) {
                    float acc = 0;
                    for (int64_t j = 0; j <= t; j++) acc = fmaf(p[j], v[kat + j * lk + i], acc);
                    o[at + i] = acc * inv;
                }
                stats[(row * s->h + h) * 2] = m;
                stats[(row * s->h + h) * 2 + 1] = inv;
                for (int64_t i = 0; i < w; i++) dlane[i % 16] = fmaf(go[at + i], o[at + i], dlane[i % 16]);
                float d = tree(dlane);
                for (int64_t j = 0; j <= t; j++) {
                    float acc = 0;
                    for (int64_t i = 0; i < w; i++) acc = fmaf(go[at + i], v[kat + j * lk + i], acc);
                    p[j] = p[j] * inv;
                    ds[j] = p[j] * (acc - d);
                }
                for (int64_t i = 0; i < w; i++) {
                    float acc = 0;
                    for (int64_t j = 0; j <= t; j++) acc = fmaf(ds[j], k[kat + j * lk + i], acc);
                    dq[at + i] = acc * scale;
                }
                for (int64_t j = 0; j <= t; j++) {
                    for (int64_t i = 0; i < w; i++) {
                        float *x = &dk[kat + j * lk + i], *y = &dv[kat + j * lk + i];
                        *x = fmaf(ds[j], q[at + i], *x);
                        *y = fmaf(p[j], go[at + i], *y);
                    }
                }
            }
        }
    }
    for (size_t i = 0; i < out[1].bytes / sizeof(float); i++) dk[i] *= scale;
    free(p);
}

static void attention(heads s, int special) {
    int64_t n = s.seqs * s.len;
    tensor in[6] = {make(BD_F32, n, s.h * s.w), make(BD_F32, n, s.g * s.w), make(BD_F32, n, s.g * s.w),
                    make(BD_F32, n, s.h * s.w), make(BD_F32, n, s.h * 2),   make(BD_F32, n, s.h * s.w)};
    tensor start[3] = {make(BD_F32, n, s.h * s.w), make(BD_F32, n, s.g * s.w), make(BD_F32, n, s.g * s.w)};
    tensor want[3], empty[2];
    if (special == 1) memset(f(in), 0, in[0].bytes); /* all scores are zeros of one sign or the other */
    if (special == 2) {
        for (size_t i = 0; i < in[0].bytes / 4; i++) f(in)[i] *= 60; /* most weights underflow */
    }
    char what[128];
    for (int i = 0; i < 3; i++) {
        poison(&start[i]);
        want[i] = copy(&start[i]);
    }
    plain_attention(&s, in, want);
    for (int i = 0; i < 2; i++) {
        empty[i] = copy(&in[3 + i]);
        poison(&empty[i]);
    }
    bd_call c = {.op = BD_OP_attention, .seq_len = s.len, .attr.attn = {s.h, s.g, (int32_t)s.len}};
    snprintf(what, sizeof what, "%d sequences of %d, heads %d/%d of %d, case %d", (int)s.seqs, (int)s.len, s.h, s.g,
             (int)s.w, special);
    against(&c, 3, in, 2, empty, in + 3, what);
    c.op = BD_OP_attention_grad;
    against(&c, 6, in, 3, start, want, what);
    drop(in, 6);
    drop(start, 3);
    drop(want, 3);
    drop(empty, 2);
}

TEST(attention_and_its_gradient) {
    static const heads cases[] = {{1, 1, 1, 1, 1},    {2, 3, 2, 1, 4},    {1, 17, 2, 2, 8},   {1, 64, 1, 1, 64},
                                  {2, 65, 4, 2, 16},  {1, 97, 3, 1, 20},  {1, 193, 2, 1, 64}, {1, 200, 2, 2, 33},
                                  {3, 130, 2, 2, 48}, {1, 300, 2, 1, 80}, {1, 401, 1, 1, 6},  {5, 24, 4, 4, 128},
                                  {8, 31, 2, 1, 70}};
    rng = test_seed();
    for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) attention(cases[i], 0);
    for (int i = 0; i < 8; i++) {
        heads s = {1 + (int64_t)(test_rand(&rng) % 3), 1 + (int64_t)(test_rand(&rng) % 140), 0,
                   1 + (int)(test_rand(&rng) % 3), 1 + (int64_t)(test_rand(&rng) % 70)};
        s.h = s.g * (1 + (int)(test_rand(&rng) % 3));
        attention(s, 0);
    }
}

TEST(attention_with_zero_scores) {
    rng = test_seed();
    attention((heads){1, 70, 2, 1, 24}, 1);
}
TEST(attention_with_vanishing_weights) {
    rng = test_seed();
    attention((heads){2, 90, 2, 2, 32}, 2);
}

/* Infinity or NaN of a later key must not reach an earlier row. */
TEST(attention_ignores_later_keys) {
    enum { LEN = 77, WIDTH = 20, BAD = 41 };
    rng = test_seed();
    heads s = {1, LEN, 1, 1, WIDTH};
    tensor in[6] = {make(BD_F32, LEN, WIDTH), make(BD_F32, LEN, WIDTH), make(BD_F32, LEN, WIDTH),
                    make(BD_F32, LEN, WIDTH), make(BD_F32, LEN, 2),     make(BD_F32, LEN, WIDTH)};
    tensor out[3] = {make(BD_F32, LEN, WIDTH), make(BD_F32, LEN, WIDTH), make(BD_F32, LEN, WIDTH)};
    plain_attention(&s, in, out);
    for (int i = 0; i < WIDTH; i++)
        f(in + 1)[BAD * WIDTH + i] = f(in + 2)[BAD * WIDTH + i] = i % 2 ? NAN : INFINITY;
    for (int i = 0; i < 2; i++) {
        bd_backend *be;
        bd_err err = {0};
        bd_status st = bd_cpu_open(&be, isas[i], 2, &err);
        if (st == BD_E_UNSUPPORTED) continue;
        CHECK_OK(st, &err);
        tensor o = make(BD_F32, LEN, WIDTH), stats = make(BD_F32, LEN, 2);
        bd_call c = {.op = BD_OP_attention,
                     .in = {in[0].v, in[1].v, in[2].v},
                     .out = {o.v, stats.v},
                     .seq_len = LEN,
                     .attr.attn = {1, 1, LEN}};
        CHECK_OK(be->vt->run(be, &c, &err), &err);
        CHECK(memcmp(f(&o), f(in + 3), sizeof(float) * BAD * WIDTH) == 0);
        CHECK(memcmp(f(&stats), f(in + 4), sizeof(float) * BAD * 2) == 0);
        be->vt->close(be);
        drop(&o, 1);
        drop(&stats, 1);
    }
    drop(in, 6);
    drop(out, 3);
}

TEST(unknown_levels_are_refused) {
    bd_backend *be = NULL;
    bd_err err = {0};
    CHECK(bd_cpu_open(&be, "sse9", 1, &err) == BD_E_UNSUPPORTED);
    CHECK(be == NULL && strstr(err.msg, "sse9") != NULL);
    CHECK(bd_cpu_open(&be, "", 1, &err) == BD_E_UNSUPPORTED);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
