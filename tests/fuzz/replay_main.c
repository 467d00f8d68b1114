/* Runs a fuzz target without libFuzzer: on every seed of its corpus, on the seed's
 * prefixes and on small deterministic mutations. With arguments: on those files only. */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_FILES 512
#define MAX_SIZE  ((size_t)1 << 24)
#define MUTATIONS 400
#define SECONDS   10.0 /* for all mutations together */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t next_random(uint64_t *s) { /* splitmix64 */
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* An exact copy on the heap, so that the sanitizer sees reads past the end. */
static void run_copy(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static uint8_t *load(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    uint8_t *data = f ? malloc(MAX_SIZE) : NULL;
    if (data) *size = fread(data, 1, MAX_SIZE, f);
    if (f) fclose(f);
    return data;
}

static void mutate(const uint8_t *data, size_t size, double deadline) {
    static const uint8_t interesting[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    size_t step = size / 600 + 1;
    for (size_t n = 0; n < size && now() < deadline; n += step) run_copy(data, n);
    uint8_t *copy = malloc(size + 8);
    if (!copy) abort();
    uint64_t seed = size;
    for (int i = 0; i < MUTATIONS && size && now() < deadline; i++) {
        memcpy(copy, data, size);
        memset(copy + size, 0, 8);
        size_t n = size;
        for (uint64_t k = 1 + next_random(&seed) % 3; k; k--) {
            uint64_t r = next_random(&seed);
            size_t at = (size_t)(r >> 8) % size;
            switch (r % 4) {
                case 0: copy[at] ^= (uint8_t)(1u << (r >> 4 & 7)); break;
                case 1: copy[at] = interesting[(r >> 4) % sizeof interesting]; break;
                case 2: copy[at] = (uint8_t)(r >> 40); break;
                default: n = size + (r >> 4 & 7); break;
            }
        }
        run_copy(copy, n);
    }
    free(copy);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int passed = 0, failed = 0, skipped = 0, n = 0;
    char *names[MAX_FILES], dir[1024];
    for (int i = 1; i < argc; i++) {
        size_t size;
        uint8_t *data = load(argv[i], &size);
        printf("%s\n", argv[i]); /* before, so that a crash shows its input */
        if (data) {
            run_copy(data, size);
            passed++;
        } else {
            failed++;
        }
        free(data);
    }
    snprintf(dir, sizeof dir, "%s/tests/fuzz/corpus/%s", BIRDIE_SOURCE_DIR, FUZZ_TARGET);
    DIR *d = argc == 1 ? opendir(dir) : NULL;
    struct dirent *entry;
    while (d && n < MAX_FILES && (entry = readdir(d)))
        if (entry->d_name[0] != '.') names[n++] = strdup(entry->d_name);
    if (d) closedir(d);
    if (n) qsort(names, (size_t)n, sizeof names[0], by_name);
    double start = now();
    for (int i = 0; i < n; i++) {
        char path[1400];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        size_t size = 0;
        uint8_t *data = load(path, &size);
        printf("%s\n", path);
        if (data) {
            run_copy(data, size);
            mutate(data, size, start + SECONDS * (i + 1) / n); /* a fair share of the time for each */
            passed++;
        } else {
            failed++;
        }
        free(data);
        free(names[i]);
    }
    if (argc == 1) {
        printf("empty input\n");
        run_copy(NULL, 0);
        passed++;
        if (n == 0) {
            printf("    skipped: no seeds in %s\nskip corpus\n", dir);
            skipped++;
        }
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
