/* Wrapped scripts of strangers: decoded within bounds, or not. */
#include <string.h>

#include "verify/audit_wrap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_unwrapped u;
    bd_err err = {0};
    if (size > 1 << 20) return 0;
    BD_ASSERT(bd_unwrap_script(&u, data, size, &err) == BD_OK);
    BD_ASSERT((u.state == BD_UNWRAP_DONE) == (u.text != NULL) && u.size <= BD_UNWRAP_MAX_OUTPUT);
    BD_ASSERT(u.layers <= BD_UNWRAP_MAX_LAYERS && (u.layers > 0) == (u.state == BD_UNWRAP_DONE));
    if (u.text) BD_ASSERT(u.size > 0 && strlen((const char *)u.text) == u.size && u.how[0]);
    BD_ASSERT((u.why[0] != 0) == (u.state == BD_UNWRAP_BROKEN));
    bd_unwrapped_free(&u);
    return 0;
}
