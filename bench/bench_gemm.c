/* Speed of the matrix products and of attention, as a share of the measured
 * float32 FMA peak of the same vector width on as many threads.
 *
 *     bench_gemm [avx2|avx512] [threads] [filter]
 *
 * Best of many runs of at least 2 ms, each beside a run of the peak loop; 2 flops
 * per multiply-add that the operation's definition holds (causal attention: only
 * keys j <= t). With one thread the clock is the thread's processor time, so that
 * other programs on the machine disturb less. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"

static volatile float sink;
static int own_clock; /* one thread: its processor time */

static double now(void) {
    struct timespec t;
    if (!own_clock) return bd_now();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Twelve chains hide the latency; the compiler may not fold them, floating point being what it is. */
#define PEAK_LOOP(NAME, TARGET, VEC, SET1, FMA, ADD, STORE, LANES)   \
    __attribute__((target(TARGET))) static double NAME(void) {       \
        enum { CHAINS = 12, ROUNDS = 20000 };                        \
        VEC a[CHAINS], x = SET1(0.999f), z = SET1(0.001f);           \
        float out[LANES];                                            \
        double t = now();                                            \
        for (int i = 0; i < CHAINS; i++) a[i] = SET1((float)i);      \
        for (int r = 0; r < ROUNDS; r++) {                           \
            for (int i = 0; i < CHAINS; i++) a[i] = FMA(a[i], x, z); \
        }                                                            \
        for (int i = 1; i < CHAINS; i++) a[0] = ADD(a[0], a[i]);     \
        STORE(out, a[0]);                                            \
        sink = out[0];                                               \
        t = now() - t;                                               \
        return 2.0 * CHAINS * LANES * (double)ROUNDS / t * 1e-9;     \
    }
PEAK_LOOP(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_storeu_ps, 8)
PEAK_LOOP(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_storeu_ps, 16)

typedef struct peak_arg {
    int wide;
    double rate[256];
} peak_arg;

static void peak_task(void *arg, int64_t begin, int64_t end, int worker) {
    peak_arg *p = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++) p->rate[i & 255] = p->wide ? peak_avx512() : peak_avx2();
}

/* All threads at once: the sum of their rates. */
static double measure_peak(bd_backend *be) {
    peak_arg p = {.wide = strstr(be->vt->name, "512") != NULL};
    int n = bd_pool_threads(be->pool) < 256 ? bd_pool_threads(be->pool) : 256;
    bd_pool_for(be->pool, n, 1, peak_task, &p);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += p.rate[i];
    return sum;
}

static void *operand(bd_view *v, bd_dtype type, int64_t rows, int64_t cols) {
    size_t size = type == BD_F64 ? 8 : 4, count = (size_t)(rows * cols);
    void *p = aligned_alloc(64, (count * size + 63) / 64 * 64);
    if (!p) exit(3);
    uint32_t s = 12345;
    for (size_t i = 0; i < count; i++) {
        s = s * 1664525u + 1013904223u;
        double x = ((double)(s >> 8) * 0x1p-24 - 0.5) * 0.1;
        if (type == BD_F64) ((double *)p)[i] = x;
        else ((float *)p)[i] = (float)x;
    }
    *v = (bd_view){p, type, rows, cols};
    return p;
}

static void time_call(bd_backend *be, const bd_call *c, const char *shape, double flops, double share) {
    bd_err err = {0};
    double best = 1e30, peak = 0;
    if (!be->vt->has(be, c->op)) return;
    double start = bd_now();
    for (int rep = 0; rep < 3 || bd_now() - start < 0.4; rep++) {
        int runs = 0;
        double rate = measure_peak(be);
        if (rate > peak) peak = rate;
        double t0 = now(), t;
        do {
            if (be->vt->run(be, c, &err) != BD_OK) {
                printf("%s\n", err.msg);
                exit(3);
            }
            runs++;
            t = now() - t0;
        } while (t < 0.002);
        if (rep > 0 && t / runs < best) best = t / runs;
    }
    printf("  %-22s %9.3f ms %9.1f GFLOP/s %6.1f %% of %.1f\n", shape, best * 1e3, flops / best * 1e-9,
           flops / best * 1e-7 / (peak * share), peak * share);
}

static void bench_product(bd_backend *be, bd_op op, int64_t n, int64_t k, int64_t m) {
    bd_call c = {.op = op};
    bd_dtype out = BD_F32;
    char shape[64];
    double flops = 2.0 * (double)n * (double)k * (double)m;
    void *p[3];
    if (op == BD_OP_linear) {
        p[0] = operand(&c.in[0], BD_F32, n, k), p[1] = operand(&c.in[1], BD_F32, m, k);
        p[2] = operand(&c.out[0], BD_F32, n, m);
    } else if (op == BD_OP_linear_grad_x) {
        p[0] = operand(&c.in[0], BD_F32, n, m), p[1] = operand(&c.in[1], BD_F32, m, k);
        p[2] = operand(&c.out[0], BD_F32, n, k);
    } else if (op == BD_OP_linear_grad_w) {
        p[0] = operand(&c.in[0], BD_F32, n, m), p[1] = operand(&c.in[1], BD_F32, n, k);
        p[2] = operand(&c.out[0], BD_F32, m, k);
    } else { /* second_moment: k x k in double, half the rate at best */
        p[0] = operand(&c.in[0], BD_F32, n, k), p[1] = operand(&c.in[1], BD_F64, 1, n);
        p[2] = operand(&c.out[0], out = BD_F64, k, k);
        flops = 2.0 * (double)n * (double)k * (double)k;
    }
    snprintf(shape, sizeof shape, "%lld x %lld x %lld", (long long)n, (long long)k, (long long)m);
    time_call(be, &c, shape, flops, out == BD_F64 ? 0.5 : 1);
    for (int i = 0; i < 3; i++) free(p[i]);
}

static void bench_attention(bd_backend *be, bd_op op, int64_t batch, int64_t len, int heads, int kv,
                            int64_t width) {
    int64_t n = batch * len;
    bd_call c = {.op = op, .seq_len = len, .attr.attn = {heads, kv, (int32_t)len}};
    bd_call f = c;
    char shape[64];
    bd_err err = {0};
    void *p[11];
    f.op = BD_OP_attention;
    p[0] = operand(&f.in[0], BD_F32, n, heads * width);
    p[1] = operand(&f.in[1], BD_F32, n, kv * width);
    p[2] = operand(&f.in[2], BD_F32, n, kv * width);
    p[3] = operand(&f.out[0], BD_F32, n, heads * width);
    p[4] = operand(&f.out[1], BD_F32, n, heads * 2);
    for (int i = 0; i < 3; i++) c.in[i] = f.in[i];
    c.in[3] = f.out[0], c.in[4] = f.out[1];
    p[5] = operand(&c.in[5], BD_F32, n, heads * width);
    p[6] = operand(&c.out[0], BD_F32, n, heads * width);
    p[7] = operand(&c.out[1], BD_F32, n, kv * width);
    p[8] = operand(&c.out[2], BD_F32, n, kv * width);
    snprintf(shape, sizeof shape, "B%lld T%lld H%d/%d W%lld", (long long)batch, (long long)len, heads, kv,
             (long long)width);
    double pairs = (double)(batch * heads) * (double)len * (double)(len + 1) / 2 * (double)width;
    if (be->vt->has(be, BD_OP_attention)) {
        if (op == BD_OP_attention) {
            time_call(be, &f, shape, 4 * pairs, 1);
        } else if (be->vt->run(be, &f, &err) == BD_OK) {
            time_call(be, &c, shape, 10 * pairs, 1);
        }
    }
    for (int i = 0; i < 9; i++) free(p[i]);
}

int main(int argc, char **argv) {
    static const int64_t shapes[][3] = {{1024, 512, 512}, {1024, 512, 2048}, {4096, 2048, 512}, {4096, 512, 1024},
                                        {96, 64, 64},     {96, 512, 512},    {16, 512, 512},    {1, 512, 1024}};
    static const bd_op ops[] = {BD_OP_linear, BD_OP_linear_grad_x, BD_OP_linear_grad_w, BD_OP_second_moment};
    static const char *const names[] = {"linear", "linear_grad_x", "linear_grad_w", "second_moment"};
    const char *isa = argc > 1 ? argv[1] : "avx512", *filter = argc > 3 ? argv[3] : "";
    bd_backend *be = NULL;
    bd_err err = {0};
    if (bd_cpu_open(&be, isa, argc > 2 ? atoi(argv[2]) : 1, &err) != BD_OK) {
        printf("%s\n", err.msg);
        return 3;
    }
    own_clock = bd_pool_threads(be->pool) == 1;
    printf("%s, %d threads\n", be->vt->name, bd_pool_threads(be->pool));
    for (int o = 0; o < 4; o++) {
        if (!strstr(names[o], filter)) continue;
        printf("%s (rows x in x out)\n", names[o]);
        for (int i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) {
            bench_product(be, ops[o], shapes[i][0], shapes[i][1], shapes[i][2]);
        }
    }
    if (strstr("attention", filter)) {
        printf("attention\n");
        bench_attention(be, BD_OP_attention, 1, 1024, 8, 8, 64);
        bench_attention(be, BD_OP_attention, 4, 1024, 8, 4, 64);
        bench_attention(be, BD_OP_attention, 8, 128, 8, 4, 64);
        printf("attention_grad\n");
        bench_attention(be, BD_OP_attention_grad, 1, 1024, 8, 8, 64);
        bench_attention(be, BD_OP_attention_grad, 4, 1024, 8, 4, 64);
        bench_attention(be, BD_OP_attention_grad, 8, 128, 8, 4, 64);
    }
    be->vt->close(be);
    return 0;
}
