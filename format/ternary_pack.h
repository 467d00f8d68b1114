/* Ternary codes in bytes, for sections that go through a byte codec: five
 * base-3 digits per byte, or a bitmask of nonzeros with one sign bit for each.
 * The smaller one is the only legal one; equal sizes mean base 3. */
#ifndef BD_FORMAT_TERNARY_PACK_H
#define BD_FORMAT_TERNARY_PACK_H

#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

enum { BD_TERNARY_BASE3 = 0, BD_TERNARY_MASK = 1 };

/* Size of n codes with `nonzero` nonzeros, and the form that gives it; without the form byte. */
uint64_t bd_ternary_size(uint64_t n, uint64_t nonzero, uint8_t *form);
/* Form byte and packed codes. */
void bd_ternary_write(bd_buf *out, const int8_t *codes, uint64_t n);
/* Reads what write wrote; advances r. `place` is the file offset that errors name. codes: (n); it is written only
 * after the input was found long enough, so `alloc` gets it. */
bd_status bd_ternary_read(bd_rd *r, int8_t **codes, uint64_t n, int8_t *(*alloc)(void *user, uint64_t n),
                          void *user, uint64_t place, bd_err *err);

#endif
