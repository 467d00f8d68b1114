/* SIZE: bytes of the file against the cap. */
#include <inttypes.h>

#include "verify/verify_impl.h"

void bd_check_size(const bd_verification *x, uint64_t bytes) {
    bd_verdict *v = x->v;
    const bd_rules *r = x->o->rules;
    char value[32], limit[32];
    bd_u64_text(value, bytes);
    bd_u64_text(limit, r->size_cap);
    if (bytes <= r->size_cap)
        bd_verdict_add(v, "SIZE", BD_PASS, value, limit, "file is %" PRIu64 " bytes below the cap of rules \"%s\"",
                       r->size_cap - bytes, r->name);
    else
        bd_verdict_add(v, "SIZE", BD_FAILED, value, limit,
                       "file is %" PRIu64 " bytes above the cap of rules \"%s\"", bytes - r->size_cap, r->name);
}
