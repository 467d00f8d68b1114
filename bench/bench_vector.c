/* GB/s of the cpu backend's row and element kernels beside memcpy and a stream
 * triad of the same size: bench_vector [isa] [threads]. Bytes are those an
 * operation must read and write; the best of several runs counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "kernels/backend.h"

enum { ROWS = 2048, COLS = 512, VOCAB = 1024, SIDE = 2048 * 1024, REPEAT = 40 };

static uint64_t state = 1;

static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

static void *block(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(3);
    memset(p, 0, bytes);
    return p;
}

typedef struct copy_job {
    float *to;
    const float *a, *b;
} copy_job;

static void copy_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    copy_job *j = arg;
    memcpy(j->to + begin, j->a + begin, (size_t)(end - begin) * sizeof(float));
}
static void triad_task(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    copy_job *j = arg;
    for (int64_t i = begin; i < end; i++) j->to[i] = j->a[i] + 3.0f * j->b[i];
}

static void row(const char *name, double seconds, double bytes, double elements) {
    printf("  %-16s %9.1f us %8.2f GB/s %8.3f ns/element\n", name, seconds * 1e6, bytes / seconds * 1e-9,
           seconds / elements * 1e9);
}

static void bench_copy(bd_pool *pool, const char *name, bd_task_fn *fn, copy_job *j, double streams) {
    const int64_t n = (int64_t)ROWS * COLS;
    double best = 1e9;
    for (int i = 0; i < REPEAT; i++) {
        const double t = bd_now();
        bd_pool_for(pool, n, 65536, fn, j);
        const double s = bd_now() - t;
        if (s < best) best = s;
    }
    row(name, best, streams * 4.0 * (double)n, (double)n);
}

static void bench_op(bd_backend *be, bd_op op, const char *name, bd_call c, double bytes, double elements) {
    double best = 1e9;
    bd_err err = {0};
    c.op = op;
    for (int i = 0; i < REPEAT; i++) {
        const double t = bd_now();
        if (be->vt->run(be, &c, &err) != BD_OK) {
            printf("  %-16s %s\n", name, err.msg);
            return;
        }
        const double s = bd_now() - t;
        if (s < best) best = s;
    }
    row(name, best, bytes, elements);
}

int main(int argc, char **argv) {
    bd_backend *be = NULL;
    bd_err err = {0};
    if (bd_cpu_open(&be, argc > 1 ? argv[1] : NULL, argc > 2 ? atoi(argv[2]) : 1, &err) != BD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 3;
    }
    float *buf[4], *vec[2];
    for (int k = 0; k < 4; k++) {
        buf[k] = block(SIDE * sizeof(float));
        for (int i = 0; i < SIDE; i++) buf[k][i] = uniform() * (k == 0 ? 4.0f : 1.0f);
    }
    for (int i = 0; i < SIDE; i++) buf[3][i] = buf[3][i] * buf[3][i]; /* a second moment is not negative */
    for (int k = 0; k < 2; k++) {
        vec[k] = block(COLS * sizeof(float));
        for (int i = 0; i < COLS; i++) vec[k][i] = uniform();
    }
    float *out = block(SIDE * sizeof(float));
    double *wide = block(ROWS * sizeof(double)), *wide2 = block(ROWS * sizeof(double)),
           *one = block(sizeof(double));
    double *cols64 = block(COLS * sizeof(double));
    int32_t *id = block(ROWS * sizeof(int32_t));
    for (int i = 0; i < ROWS; i++) id[i] = (int32_t)(state = state * 6364136223846793005u + 1, state >> 33) % VOCAB;
    float *table = block((size_t)VOCAB * COLS * sizeof(float));

    const bd_view a = {buf[0], BD_F32, ROWS, COLS}, b = {buf[1], BD_F32, ROWS, COLS}, y = {out, BD_F32, ROWS, COLS};
    const bd_view m = {buf[2], BD_F32, ROWS, COLS}, v = {buf[3], BD_F32, ROWS, COLS};
    const bd_view s = {vec[0], BD_F32, 1, COLS}, s2 = {vec[1], BD_F32, 1, COLS};
    const bd_view tokens = {id, BD_I32, 1, ROWS}, emb = {table, BD_F32, VOCAB, COLS};
    const bd_view logits = {buf[0], BD_F32, ROWS, VOCAB}, dlogits = {out, BD_F32, ROWS, VOCAB};
    const bd_view lse = {wide, BD_F64, 1, ROWS}, nll = {wide2, BD_F64, 1, ROWS};
    const bd_view shards = {buf[0], BD_F32, 8, SIDE / 8}, summed = {out, BD_F32, 1, SIDE / 8};
    const bd_view rope = {buf[1], BD_F32, ROWS, 64}, heads = {vec[0], BD_F32, 1, 8};
    const bd_view moment = {cols64, BD_F64, 1, COLS}, total = {one, BD_F64, 1, 1};
    const double n = (double)ROWS * COLS, nv = (double)ROWS * VOCAB, f = 4.0 * n;

    printf("%s, %d thread%s, (%d, %d), logits (%d, %d)\n", be->vt->name, bd_pool_threads(be->pool),
           bd_pool_threads(be->pool) == 1 ? "" : "s", ROWS, COLS, ROWS, VOCAB);
    copy_job job = {out, buf[0], buf[1]};
    bench_copy(be->pool, "memcpy", copy_task, &job, 2);
    bench_copy(be->pool, "triad", triad_task, &job, 3);
#define BENCH(op, bytes, elements, ...) bench_op(be, BD_OP_##op, #op, (bd_call){__VA_ARGS__}, (bytes), (elements))
    BENCH(embed, 2 * f, n, .in = {emb, tokens}, .out = {y});
    BENCH(embed_grad, 3 * f, n, .in = {a, tokens}, .out = {emb});
    BENCH(add, 3 * f, n, .in = {a, b}, .out = {y});
    BENCH(scale, 2 * f, n, .in = {a, s}, .out = {y});
    BENCH(add_scaled, 3 * f, n, .in = {a, b, s}, .out = {y});
    BENCH(mix, 3 * f, n, .in = {a, s, b, s2}, .out = {y});
    BENCH(head_scale, 2 * f, n, .in = {a, heads}, .out = {y}, .attr.heads.heads = 8);
    BENCH(relu2, 2 * f, n, .in = {a}, .out = {y}, .attr.relu2.slope = 0.25f);
    BENCH(relu2_grad, 3 * f, n, .in = {a, b}, .out = {y}, .attr.relu2.slope = 0.25f);
    BENCH(rms_norm, 2 * f, n, .in = {a}, .out = {y}, .attr.norm = {COLS, 1e-6f});
    bench_op(be, BD_OP_rms_norm, "rms_norm(64)", (bd_call){.in = {a}, .out = {y}, .attr.norm = {64, 1e-6f}}, 2 * f,
             n);
    BENCH(rms_norm_grad, 3 * f, n, .in = {a, b}, .out = {y}, .attr.norm = {COLS, 1e-6f});
    bench_op(be, BD_OP_rms_norm_grad, "rms_norm_grad(64)",
             (bd_call){.in = {a, b}, .out = {y}, .attr.norm = {64, 1e-6f}}, 3 * f, n);
    BENCH(rope, 2 * f, n, .in = {a, rope}, .out = {y}, .seq_len = 1024, .attr.rope = {64, 0, 10000.0});
    BENCH(scale_grad_s, 2 * f, n, .in = {a, b}, .out = {s});
    BENCH(head_scale_grad, 2 * f, n, .in = {a, b}, .out = {heads}, .attr.heads.heads = 8);
    BENCH(row_moment, f, n, .in = {a}, .out = {moment});
    BENCH(row_norm, 2 * f, n, .in = {a}, .out = {y});
    BENCH(sum_squares, f, n, .in = {a}, .out = {total});
    BENCH(axpby, 3 * f, n, .in = {a, b}, .out = {y}, .attr.lin = {0.9f, 0.1f});
    BENCH(tree_sum8, 4.5 * nv, nv / 8, .in = {shards}, .out = {summed}, .attr.lin = {0.125f, 0});
    BENCH(sgd, 5 * f, n, .in = {b}, .out = {y, m}, .attr.sgd = {0.01f, 0.9f});
    BENCH(adamw, 7 * f, n, .in = {b}, .out = {y, m, v},
          .attr.adamw = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.999f, 1.1f, 1.2f});
    BENCH(softcap, 8 * nv, nv, .in = {logits}, .out = {dlogits}, .attr.softcap.cap = 30.0f);
    BENCH(softcap_grad, 12 * nv, nv, .in = {logits, {buf[1], BD_F32, ROWS, VOCAB}}, .out = {dlogits},
          .attr.softcap.cap = 30.0f);
    BENCH(nll, 4 * nv, nv, .in = {logits, tokens}, .out = {nll, lse});
    BENCH(nll_grad, 8 * nv, nv, .in = {logits, tokens, lse}, .out = {dlogits}, .attr.loss.gscale = 0.01f);
#undef BENCH
    be->vt->close(be);
    for (int k = 0; k < 4; k++) free(buf[k]);
    free(vec[0]), free(vec[1]), free(out), free(wide), free(wide2), free(one), free(cols64), free(id), free(table);
    return 0;
}
