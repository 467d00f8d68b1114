#include "trainer/loader.h"

#include <stdlib.h>

#include "base/philox.h"

/* Philox streams of the loader; initial weights use name hashes. */
enum { STREAM_ORDER = 0x4c4f4144, STREAM_PHASE = 0x50484153 };

bd_status bd_loader_init(bd_loader *l, const uint16_t *tokens, uint64_t n, int64_t seq_len, bd_loader_kind kind,
                         uint64_t seed, bd_err *err) {
    *l = (bd_loader){.tokens = tokens, .n = n, .seq_len = seq_len, .kind = kind, .seed = seed, .epoch = -1};
    /* A shuffled epoch starts up to seq_len - 1 tokens in, so it has one window less. */
    uint64_t usable = n ? n - 1 : 0;
    uint64_t lost = kind == BD_LOADER_SHUFFLED ? (uint64_t)seq_len - 1 : 0;
    l->windows = usable > lost ? (int64_t)((usable - lost) / (uint64_t)seq_len) : 0;
    if (l->windows < 1)
        return BD_FAIL(err, BD_E_MISSING, "the training shards hold %llu tokens, too few for one window of %lld",
                       (unsigned long long)n, (long long)seq_len);
    if (kind == BD_LOADER_SHUFFLED) {
        if (l->windows > UINT32_MAX) return BD_FAIL(err, BD_E_LIMIT, "too many windows to shuffle");
        l->order = malloc((size_t)l->windows * sizeof *l->order);
        if (!l->order) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the window order");
    }
    return BD_OK;
}

void bd_loader_free(bd_loader *l) {
    free(l->order);
    l->order = NULL;
}

static void shuffle_epoch(bd_loader *l, int64_t epoch) {
    uint64_t stream = STREAM_ORDER + ((uint64_t)epoch << 32);
    for (int64_t i = 0; i < l->windows; i++) l->order[i] = (uint32_t)i;
    for (int64_t i = l->windows - 1; i > 0; i--) {
        int64_t j = (int64_t)bd_philox_below(l->seed, stream, (uint64_t)i, (uint64_t)i + 1);
        uint32_t t = l->order[i];
        l->order[i] = l->order[j];
        l->order[j] = t;
    }
    l->phase = bd_philox_below(l->seed, STREAM_PHASE, (uint64_t)epoch, (uint64_t)l->seq_len);
    l->epoch = epoch;
}

void bd_loader_batch(bd_loader *l, int64_t step, int64_t nseq, int32_t *x, int32_t *y) {
    for (int64_t b = 0; b < nseq; b++) {
        int64_t index = step * nseq + b, window = index % l->windows;
        uint64_t start = 0;
        if (l->kind == BD_LOADER_SHUFFLED) {
            if (index / l->windows != l->epoch) shuffle_epoch(l, index / l->windows);
            window = l->order[window];
            start = l->phase;
        }
        const uint16_t *src = l->tokens + start + (uint64_t)window * (uint64_t)l->seq_len;
        for (int64_t t = 0; t < l->seq_len; t++) {
            x[b * l->seq_len + t] = src[t];
            y[b * l->seq_len + t] = src[t + 1];
        }
    }
}
