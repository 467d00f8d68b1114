/* Any bytes through both directions: text that encodes must come back, and the
 * counter must agree with the decoder. */
#include <string.h>

#include "base/status.h"
#include "format/caseops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok) { BD_ASSERT(ok); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_buf coded, plain;
    bd_caseops_state s = {0}, count = {0};
    uint64_t bytes;
    bd_buf_init(&coded);
    bd_buf_init(&plain);
    if (bd_caseops_encode(data, size, &coded, NULL) == BD_OK) {
        check(bd_caseops_decode(&s, coded.data, coded.size, &plain, NULL) == BD_OK);
        check(bd_caseops_end(&s, NULL) == BD_OK);
        check(plain.size == size && (size == 0 || !memcmp(plain.data, data, size)));
    }
    /* The input as coded text, which it seldom is. */
    s = (bd_caseops_state){0};
    plain.size = 0;
    bd_status st = bd_caseops_decode(&s, data, size, &plain, NULL);
    check(bd_caseops_count(&count, data, size, &bytes, NULL) == st);
    if (st == BD_OK) check(bytes == plain.size);
    bd_buf_free(&coded);
    bd_buf_free(&plain);
    return 0;
}
