/* Artifacts, as they are and with repaired hashes: an error, or contents that are
 * written back as the same bytes (byte codecs have several spellings; those only
 * have to give the same contents again). */
#include <stdlib.h>
#include <string.h>

#include "format/artifact.h"
#include "tests/format/gen_artifact.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, size_t size) {
    const bd_artifact_limits lim = {
        .file_bytes = 1 << 20, .decoded_bytes = 1 << 19, .tensors = 1 << 12, .elements = 1 << 20};
    bd_artifact *a, *b;
    bd_err e = {0};
    if (bd_artifact_parse(&a, data, size, &lim, &e) != BD_OK) {
        if (a || !e.msg[0]) abort();
        return;
    }
    bd_buf f;
    bd_buf_init(&f);
    if (bd_artifact_build(a, &f, &e) != BD_OK) abort();
    if (bd_artifact_parse(&b, f.data, f.size, NULL, &e) != BD_OK) abort();
    for (uint32_t g = 0; g < a->n_groups; g++) {
        /* A group that was built as it was read has the same bytes, unless a byte codec had another spelling. */
        const bd_section_info *x = &a->sections[4 + g], *y = &b->sections[4 + g];
        if (x->codec != BD_CODEC_RAW && x->codec != BD_CODEC_RANGE) continue;
        if (x->codec != y->codec || x->stored != y->stored || memcmp(x->sha256, y->sha256, 32) != 0) abort();
    }
    if (a->n_groups != b->n_groups || a->plan_size != b->plan_size ||
        memcmp(a->plan_text, b->plan_text, a->plan_size))
        abort();
    bd_artifact_close(b);
    bd_artifact_close(a);
    bd_buf_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check(data, size);
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return 0;
    memcpy(copy, data, size);
    gen_fix_hashes(copy, size);
    check(copy, size);
    free(copy);
    return 0;
}
