/* Token shards. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1); /* aligned */
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    bd_shard s;
    bd_err err;
    if (bd_shard_parse(&s, copy, size, &err) == BD_OK) {
        if (size != 1024 + 2 * s.n) abort();
        uint32_t top = 0;
        for (uint64_t i = 0; i < s.n; i++)
            if (s.tokens[i] > top) top = s.tokens[i];
        if (bd_shard_check_vocab(&s, top + 1, &err) != BD_OK) abort();
        if (s.n && bd_shard_check_vocab(&s, top, &err) == BD_OK) abort();
        bd_shard_close(&s);
    }
    free(copy);
    return 0;
}
