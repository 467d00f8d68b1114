/* RANGE streams and raw layouts of weight groups: an error, or a group whose one
 * legal spelling is the input. First byte: which of the two; for RANGE two bytes of
 * declared size follow. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/weight_codec.h"
#include "format/weight_group.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every legal tensor has finite values. */
static void check_values(const bd_qgroup *g) {
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        uint64_t n = bd_qtensor_elements(&g->tensors[t]);
        float *x = malloc(n * sizeof *x);
        if (!x) return;
        bd_qtensor_dequant(&g->tensors[t], x);
        for (uint64_t i = 0; i < n; i++)
            if (!isfinite(x[i])) abort();
        free(x);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    bool range = data[0] & 1;
    uint64_t raw = data[1] | (uint64_t)data[2] << 8;
    const uint8_t *in = data + 3;
    size_t n = size - 3;
    bd_group_budget budget = {4096, 1 << 20};
    bd_arena *arena = bd_arena_create((uint64_t)64 << 20);
    bd_qgroup g = {0};
    bd_err e = {0};
    bd_buf b;
    bd_buf_init(&b);
    if (!arena) return 0;
    bd_status st = range ? bd_weight_decode(&g, arena, in, n, raw, &budget, 9, &e)
                         : bd_group_raw_read(&g, BD_RAW_ALL, arena, in, n, NULL, &budget, 9, &e);
    if (st != BD_OK) {
        if (e.code != st || e.offset != 9 || !e.msg[0]) abort();
    } else {
        uint64_t bits;
        if (bd_group_check(&g, &e) != BD_OK) abort();
        if (range && bd_weight_encode(&g, &b, &e) != BD_OK) abort();
        if (!range) bd_group_raw_write(&g, BD_RAW_ALL, &b);
        if (b.size != n || (n && memcmp(b.data, in, n) != 0)) abort();
        if (bd_group_raw_size(&g) != (range ? raw : n) || bd_group_raw_size_min(&g) > bd_group_raw_size(&g))
            abort();
        if (bd_weight_price(&g, &bits, &e) != BD_OK) abort();
        check_values(&g);
    }
    bd_buf_free(&b);
    bd_arena_destroy(arena);
    return 0;
}
