#include "kernels/peak.h"

#include <immintrin.h>
#include <pthread.h>

#include "base/thread.h"

enum { CHAINS = 12, ROUNDS = 20000, MAX_THREADS = 256, REPEATS = 5 };

__attribute__((target("avx512f"))) static float burn_avx512(void) {
    __m512 acc[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
    for (int i = 1; i < CHAINS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return _mm512_cvtss_f32(acc[0]);
}

__attribute__((target("avx2,fma"))) static float burn_avx2(void) {
    __m256 acc[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
    for (int i = 1; i < CHAINS; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    return _mm256_cvtss_f32(acc[0]);
}

typedef struct burn {
    double gflops;
    volatile float sink; /* keeps the work alive */
} burn;

static void *burn_thread(void *arg) {
    burn *b = arg;
    int wide = __builtin_cpu_supports("avx512f");
    double flops = 2.0 * CHAINS * ROUNDS * (wide ? 16 : 8);
    for (int i = 0; i < REPEATS; i++) {
        double t0 = bd_now();
        b->sink = wide ? burn_avx512() : burn_avx2();
        double g = flops / (bd_now() - t0) * 1e-9;
        if (g > b->gflops) b->gflops = g;
    }
    return NULL;
}

double bd_peak_gflops(int threads) {
    if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) return 0;
    if (threads <= 0) threads = bd_cpu_count();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    pthread_t id[MAX_THREADS];
    burn b[MAX_THREADS] = {{0, 0}};
    int started = 0;
    while (started < threads - 1 && pthread_create(&id[started], NULL, burn_thread, &b[started]) == 0) started++;
    burn_thread(&b[started]);
    double sum = b[started].gflops;
    for (int i = 0; i < started; i++) {
        pthread_join(id[i], NULL);
        sum += b[i].gflops;
    }
    return sum;
}
