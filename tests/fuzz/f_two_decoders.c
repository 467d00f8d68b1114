/* The production reader and refdec must agree on verdict, place and contents. The
 * first byte says what follows: a whole file (as it is, and with repaired hashes),
 * or one weights section in a file made around it, so that the fuzzer's work goes
 * into the contents. */
#include <stdlib.h>
#include <string.h>

#include "tests/format/gen_artifact.c"
#include "tests/format/two_decoders.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { UNPACKED_MAX = 1 << 16 };

/* Sum of declared raw sizes, so that no input takes seconds. */
static bool too_large(const uint8_t *p, size_t size) {
    uint64_t n = size >= 28 ? get_u32(p + 16) : 0, sum = 0;
    for (uint64_t i = 0; i < n && 28 + 42 * (i + 1) <= size; i++) sum += get_u32(p + 28 + 42 * i + 6);
    return sum > UNPACKED_MAX;
}

static void check(const uint8_t *data, size_t size) {
    int verdict;
    if (too_large(data, size)) return;
    const char *bad = two_decoders(data, size, &verdict);
    if (!bad) return;
    fprintf(stderr, "the decoders disagree: %s\n", bad);
    abort();
}

static void check_group(unsigned codec, uint32_t raw, const uint8_t *group, size_t size) {
    uint64_t total;
    uint8_t *f = gen_wrap_group(codec, raw, group, size, &total);
    if (f) check(f, total);
    free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    if (data[0] == 0) {
        uint8_t *copy = malloc(size);
        if (!copy) return 0;
        memcpy(copy, data + 1, size - 1);
        check(copy, size - 1);
        gen_fix_hashes(copy, size - 1);
        check(copy, size - 1);
        free(copy);
    } else if (data[0] % 2) {
        check_group(BD_CODEC_RAW, (uint32_t)(size - 1), data + 1, size - 1);
    } else if (size >= 3) {
        check_group(BD_CODEC_RANGE, data[1] | (uint32_t)data[2] << 8, data + 3, size - 3);
    }
    return 0;
}
