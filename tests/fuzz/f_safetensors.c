/* Checkpoint reader on bytes that are, or nearly are, safetensors. */
#include <stdint.h>
#include <stdlib.h>

#include "format/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_ckpt *c;
    bd_err err;
    if (bd_ckpt_open_memory(&c, data, size, &err) != BD_OK) return 0;
    for (int i = 0; i < c->n; i++) {
        uint64_t bytes;
        float *out = malloc((size_t)c->tensors[i].count * sizeof *out + 1);
        if (!out || bd_ckpt_read_f32(c, i, out, &err) != BD_OK) abort();
        free(out);
        const uint8_t *raw = bd_ckpt_raw(c, i, &bytes);
        if (!raw || (bytes && (raw < data || raw + bytes > data + size))) abort();
        if (bd_ckpt_find(c, c->tensors[i].name) != i) abort();
    }
    bd_ckpt_close(c);
    return 0;
}
