/* Codec LRZIP of weight groups: the int8 codes go through the external program
 * lrzip (ZPAQ back end), everything else through brotli (format/SPEC.md,
 * "LRZIP"). It exists to reproduce a published pipeline and to be compared with. */
#ifndef BD_FORMAT_WEIGHT_LRZIP_H
#define BD_FORMAT_WEIGHT_LRZIP_H

#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "format/weight_group.h"

/* Append the section of a group that bd_group_check accepts. BD_E_MISSING: lrzip is not installed. */
bd_status bd_lrzip_pack(const bd_qgroup *g, bd_buf *out, bd_err *err);
/* Runs lrzip: the caller has asked for permission. raw_size: what bd_group_raw_size must give. */
bd_status bd_lrzip_unpack(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                          bd_group_budget *budget, uint64_t place, bd_err *err);

/* Rows in the order of a greedy walk: from row 0 always to the nearest row left in L1, the lowest one of equals.
 * order: (rows), rows <= 65,536 */
void bd_similarity_order(uint16_t *order, const int8_t *codes, uint32_t rows, uint32_t cols);

#endif
