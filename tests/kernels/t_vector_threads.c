/* The row and element kernels of the cpu backend at sizes that are split among
 * threads (check_kernels stays below them): the bits of ref with every level and
 * thread count, nothing written beyond an output; and ids that are refused. */
#include "bd_test.h"
#include "kernels/backend.h"

enum { GUARD = 64, MAX_BACKENDS = 4 };

static uint64_t rng;

/* --- operands --- */

static int64_t count(const bd_view *v) { return v->rows * v->cols; }
static size_t elem(bd_dtype t) { return t == BD_F64 || t == BD_I64 ? 8 : 4; }
static size_t bytes(const bd_view *v) { return (size_t)count(v) * elem(v->dtype); }

/* Some magnitudes, signs, zeros of both signs, and a few subnormals. */
static float sample(void) {
    uint64_t r = test_rand(&rng);
    if (r % 31 == 0) return r & 1024 ? 0.0f : -0.0f;
    if (r % 61 == 0) return test_normalf(&rng) * 1e-40f;
    return test_normalf(&rng) * (r % 7 == 0 ? 20.0f : 1.0f);
}

static bd_view empty(bd_dtype t, int64_t rows, int64_t cols) {
    bd_view v = {NULL, t, rows, cols};
    v.data = malloc(bytes(&v) + GUARD);
    if (!v.data) abort();
    memset(v.data, 0xa5, bytes(&v) + GUARD);
    return v;
}
static bd_view random_f32(int64_t rows, int64_t cols) {
    bd_view v = empty(BD_F32, rows, cols);
    for (int64_t i = 0; i < count(&v); i++) ((float *)v.data)[i] = sample();
    return v;
}
static bd_view random_f64(int64_t rows, int64_t cols) {
    bd_view v = empty(BD_F64, rows, cols);
    for (int64_t i = 0; i < count(&v); i++) ((double *)v.data)[i] = (double)sample() + 7.0;
    return v;
}
static bd_view random_ids(int64_t n, int64_t below, bool with_none) {
    bd_view v = empty(BD_I32, 1, n);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t r = test_rand(&rng);
        ((int32_t *)v.data)[i] = with_none && r % 5 == 0 ? -1 : (int32_t)(r / 8 % (uint64_t)below);
    }
    return v;
}
static bd_view copy(const bd_view *v) {
    bd_view w = empty(v->dtype, v->rows, v->cols);
    memcpy(w.data, v->data, bytes(v));
    return w;
}

/* --- comparison --- */

static bd_backend *backend[MAX_BACKENDS];
static int backends;

static bd_backend *reference;

static void open_backends(void) {
    static const struct {
        const char *isa;
        int threads;
    } want[] = {{"avx2", 1}, {"avx2", 3}, {"avx512", 1}, {"avx512", 2}};
    bd_err e = {0};
    if (reference) return;
    CHECK_OK(bd_ref_open(&reference, 1, &e), &e);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        if (bd_cpu_open(&backend[backends], want[i].isa, want[i].threads, &e) == BD_OK) backends++;
    }
}

static bool differs(const bd_view *a, const bd_view *b, int64_t *where) {
    for (int64_t i = 0; i < count(a); i++) {
        const size_t size = elem(a->dtype);
        if (memcmp((char *)a->data + (size_t)i * size, (char *)b->data + (size_t)i * size, size) != 0) {
            *where = i;
            return true;
        }
    }
    return false;
}

/* Runs c (whose views are templates that stay as they are) on every backend; frees the views. alias: input 0 is
 * output 0 as well. */
static void check_call(bd_call *c, const char *name, bool alias) {
    bd_call want = *c;
    for (int k = 0; k < BD_MAX_OUT; k++) {
        if (c->out[k].data) want.out[k] = copy(&c->out[k]);
    }
    bd_err we = {0};
    CHECK_OK(reference->vt->run(reference, &want, &we), &we);
    for (int b = 0; b < backends; b++) {
        bd_call got = *c;
        bd_err e = {0};
        int64_t at = 0;
        for (int k = 0; k < BD_MAX_OUT; k++) {
            if (c->out[k].data) got.out[k] = copy(alias && k == 0 ? &c->in[0] : &c->out[k]);
        }
        if (alias) got.in[0].data = got.out[0].data;
        CHECK_OK(backend[b]->vt->run(backend[b], &got, &e), &e);
        for (int k = 0; k < BD_MAX_OUT; k++) {
            if (!c->out[k].data) continue;
            CHECK_MSG(!differs(&got.out[k], &want.out[k], &at),
                      "%s (%" PRId64 ",%" PRId64 ") on %s: output %d differs at %" PRId64, name, c->in[0].rows,
                      c->in[0].cols, backend[b]->vt->name, k, at);
            const unsigned char *end = (unsigned char *)got.out[k].data + bytes(&got.out[k]);
            for (int i = 0; i < GUARD; i++) CHECK_MSG(end[i] == 0xa5, "%s writes beyond output %d", name, k);
            free(got.out[k].data);
        }
    }
    for (int k = 0; k < BD_MAX_OUT; k++) {
        free(want.out[k].data);
        free(c->out[k].data);
    }
    for (int k = 0; k < BD_MAX_IN; k++) free(c->in[k].data);
}

/* Rows and columns: small ones run in one piece, the others have 200,000 elements and more. */
static const int64_t shape[][2] = {{5, 33}, {1023, 259}, {4099, 64}, {61, 4100}};
enum { SHAPES = sizeof shape / sizeof *shape };

#define FOR_SHAPES                   \
    open_backends();                 \
    rng = test_seed();               \
    for (int i = 0; i < SHAPES; i++) \
        for (int64_t n = shape[i][0], cols = shape[i][1], once = 1; once; once = 0)

TEST(embed) {
    FOR_SHAPES {
        bd_call c = {.op = BD_OP_embed,
                     .in = {random_f32(37, cols), random_ids(n, 37, false)},
                     .out = {empty(BD_F32, n, cols)}};
        check_call(&c, "embed", false);
    }
}
TEST(embed_grad) {
    FOR_SHAPES {
        bd_call c = {.op = BD_OP_embed_grad,
                     .in = {random_f32(n, cols), random_ids(n, 11, false)},
                     .out = {random_f32(11, cols)}};
        check_call(&c, "embed_grad", false);
    }
}
TEST(wrong_ids_are_refused) {
    open_backends();
    rng = test_seed();
    for (int b = 0; b < backends; b++) {
        const int32_t bad[] = {-2, -1, 9, INT32_MAX};
        for (int k = 0; k < 4; k++) {
            bd_view table = random_f32(9, 5), id = random_ids(4, 9, false), y = empty(BD_F32, 4, 5),
                    s = empty(BD_F64, 1, 4), l = random_f32(4, 9);
            ((int32_t *)id.data)[2] = bad[k];
            bd_call c[] = {{.op = BD_OP_embed, .in = {table, id}, .out = {y}},
                           {.op = BD_OP_embed_grad, .in = {y, id}, .out = {table}},
                           {.op = BD_OP_nll, .in = {l, id}, .out = {s, s}}};
            for (int q = 0; q < 3; q++) {
                if (q == 2 && bad[k] == -1) continue;
                CHECK(backend[b]->vt->run(backend[b], &c[q], NULL) == BD_E_RANGE);
            }
            free(table.data), free(id.data), free(y.data), free(s.data), free(l.data);
        }
    }
}

static void with_attr(bd_op op, const char *name, bd_attr attr, int vectors, int inputs, int outputs, bool alias) {
    FOR_SHAPES {
        bd_call c = {.op = op, .attr = attr};
        for (int k = 0; k < inputs; k++) c.in[k] = vectors >> k & 1 ? random_f32(1, cols) : random_f32(n, cols);
        for (int k = 0; k < outputs; k++)
            c.out[k] = op == BD_OP_adamw || op == BD_OP_sgd ? random_f32(n, cols) : empty(BD_F32, n, cols);
        if (op == BD_OP_adamw) {
            float *v = c.out[2].data;
            for (int64_t q = 0; q < n * cols; q++) v[q] = fabsf(v[q]);
        }
        check_call(&c, name, alias);
    }
}

TEST(elementwise) {
    const bd_attr none = {0};
    with_attr(BD_OP_add, "add", none, 0, 2, 1, false);
    with_attr(BD_OP_scale, "scale", none, 2, 2, 1, false);
    with_attr(BD_OP_add_scaled, "add_scaled", none, 4, 3, 1, false);
    with_attr(BD_OP_mix, "mix", none, 10, 4, 1, false);
    const float slope[] = {0.0f, 0.25f};
    for (int k = 0; k < 2; k++) {
        with_attr(BD_OP_relu2, "relu2", (bd_attr){.relu2 = {slope[k]}}, 0, 1, 1, false);
        with_attr(BD_OP_relu2_grad, "relu2_grad", (bd_attr){.relu2 = {slope[k]}}, 0, 2, 1, false);
    }
    with_attr(BD_OP_softcap, "softcap", (bd_attr){.softcap = {30.0f}}, 0, 1, 1, false);
    with_attr(BD_OP_softcap, "softcap", (bd_attr){.softcap = {3.0f}}, 0, 1, 1, false);
    with_attr(BD_OP_softcap_grad, "softcap_grad", (bd_attr){.softcap = {30.0f}}, 0, 2, 1, false);
}
TEST(updates) {
    for (int alias = 0; alias < 2; alias++) {
        with_attr(BD_OP_axpby, "axpby", (bd_attr){.lin = {0.7f, -1.3f}}, 0, 2, 1, alias);
        with_attr(BD_OP_row_norm, "row_norm", (bd_attr){0}, 0, 1, 1, alias);
    }
    const bd_attr adamw = {.adamw = {3e-3f, 0.9f, 0.95f, 1e-8f, 0.999f, 1.5f, 3.1f}};
    with_attr(BD_OP_adamw, "adamw", adamw, 0, 1, 3, false);
    with_attr(BD_OP_sgd, "sgd", (bd_attr){.sgd = {0.03f, 0.95f}}, 0, 1, 2, false);
}
TEST(tree_sum8) {
    FOR_SHAPES {
        bd_call c = {.op = BD_OP_tree_sum8, .in = {random_f32(8, n * cols)}, .out = {empty(BD_F32, 1, n * cols)}};
        c.attr.lin.a = 0.3f;
        check_call(&c, "tree_sum8", false);
    }
}
/* More than one wave of blocks. */
TEST(sum_squares) {
    open_backends();
    rng = test_seed();
    bd_call c = {.op = BD_OP_sum_squares, .in = {random_f32(3, 6000011)}, .out = {random_f64(1, 1)}};
    check_call(&c, "sum_squares", false);
}
TEST(column_sums) {
    FOR_SHAPES {
        bd_call c = {.op = BD_OP_scale_grad_s,
                     .in = {random_f32(n, cols), random_f32(n, cols)},
                     .out = {random_f32(1, cols)}};
        check_call(&c, "scale_grad_s", false);
        bd_call m = {.op = BD_OP_row_moment, .in = {random_f32(n, cols)}, .out = {random_f64(1, cols)}};
        check_call(&m, "row_moment", false);
    }
}
TEST(heads) {
    FOR_SHAPES {
        for (int32_t heads = 1; heads <= 3; heads += 2) {
            bd_call c = {.op = BD_OP_head_scale,
                         .in = {random_f32(n, cols * heads), random_f32(1, heads)},
                         .out = {empty(BD_F32, n, cols * heads)}};
            c.attr.heads.heads = heads;
            check_call(&c, "head_scale", false);
            bd_call g = {.op = BD_OP_head_scale_grad,
                         .in = {random_f32(n, cols * heads), random_f32(n, cols * heads)},
                         .out = {random_f32(1, heads)}};
            g.attr.heads.heads = heads;
            check_call(&g, "head_scale_grad", false);
        }
    }
}
TEST(norms) {
    FOR_SHAPES {
        for (int groups = 1; groups <= 3; groups += 2) {
            bd_call c = {.op = BD_OP_rms_norm,
                         .in = {random_f32(n, cols * groups)},
                         .out = {empty(BD_F32, n, cols * groups)}};
            c.attr.norm.width = (int32_t)cols;
            c.attr.norm.eps = 1e-6f;
            check_call(&c, "rms_norm", false);
            bd_call g = {.op = BD_OP_rms_norm_grad,
                         .in = {random_f32(n, cols * groups), random_f32(n, cols * groups)},
                         .out = {empty(BD_F32, n, cols * groups)},
                         .attr = c.attr};
            check_call(&g, "rms_norm_grad", false);
        }
    }
}
TEST(rope) {
    FOR_SHAPES {
        for (int32_t inverse = 0; inverse < 2; inverse++) {
            const int64_t half = cols / 2 + 1, heads = 1 + n % 3, T = n < 50 ? n : 50;
            bd_call c = {.op = BD_OP_rope,
                         .in = {random_f32(T * 3, 2 * half * heads), random_f32(T + 2, 2 * half)},
                         .out = {empty(BD_F32, T * 3, 2 * half * heads)},
                         .seq_len = T};
            c.attr.rope.width = (int32_t)(2 * half);
            c.attr.rope.inverse = inverse;
            check_call(&c, "rope", false);
        }
    }
}
TEST(loss) {
    FOR_SHAPES {
        bd_call c = {.op = BD_OP_nll,
                     .in = {random_f32(n, cols), random_ids(n, cols, true)},
                     .out = {empty(BD_F64, 1, n), empty(BD_F64, 1, n)}};
        check_call(&c, "nll", false);
        bd_call g = {.op = BD_OP_nll_grad,
                     .in = {random_f32(n, cols), random_ids(n, cols, true), random_f64(1, n)},
                     .out = {empty(BD_F32, n, cols)}};
        g.attr.loss.gscale = 0.125f / 3;
        check_call(&g, "nll_grad", false);
    }
}

int main(int argc, char **argv) {
    const int failed = test_main(argc, argv);
    bd_backend_close(reference);
    while (backends-- > 0) bd_backend_close(backend[backends]);
    return failed;
}
