/* Torch checkpoints. Input that begins like a pickle is wrapped in a zip with
 * right checksums and two storages, so that the pickle machine is reached;
 * anything else is a file: zip, or compressed zip. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "format/checkpoint.h"
#include "tests/format/make_torch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const uint8_t *data, size_t size) {
    bd_ckpt *c;
    bd_err err;
    if (bd_ckpt_open_memory(&c, data, size, &err) != BD_OK) return;
    for (int i = 0; i < c->n; i++) {
        uint64_t bytes;
        volatile uint8_t sum = 0;
        float *out = malloc((size_t)c->tensors[i].count * sizeof *out + 1);
        if (!out || bd_ckpt_read_f32(c, i, out, &err) != BD_OK) abort();
        free(out);
        const uint8_t *raw = bd_ckpt_raw(c, i, &bytes);
        for (uint64_t k = 0; raw && k < bytes; k++) sum ^= raw[k];
        (void)sum;
    }
    bd_ckpt_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t storage[64];
    if (size < 2 || data[0] != 0x80) {
        read_all(data, size);
        return 0;
    }
    zip_maker z;
    for (int i = 0; i < 64; i++) storage[i] = (uint8_t)(i * 5);
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", data, size, ZIP_DESCRIPTOR);
    zip_add(&z, "m/data/0", storage, 64, ZIP_DESCRIPTOR);
    zip_add(&z, "m/data/1", storage, 32, ZIP_DEFLATE);
    zip_end(&z, true);
    read_all(z.out.data, z.out.size);
    bd_buf_free(&z.out);
    return 0;
}
