/* Logs of strangers: an error, or steps in order with rates in range. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/train_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_train_log l;
    bd_err e = {0};
    bd_status st = bd_train_log_parse(&l, (const char *)data, size, &e);
    if (st != BD_OK) {
        if (l.steps || l.n || e.code != st || !e.msg[0]) abort();
        return 0;
    }
    for (int64_t i = 0; i < l.n; i++)
        if (l.steps[i].step != i || !(l.steps[i].lr_mul >= 0 && l.steps[i].lr_mul <= 1) ||
            !isfinite(l.steps[i].loss))
            abort();
    const char *hash[3] = {l.weights_sha256, l.recipe_sha256, l.tokens_sha256};
    for (int i = 0; i < 3; i++)
        if (hash[i][0] && strlen(hash[i]) != 64) abort();
    bd_train_log_free(&l);
    return 0;
}
