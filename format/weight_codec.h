/* The RANGE codec of weight groups: context models over the range coder
 * (format/SPEC.md, "RANGE"). Contexts of a code are the running mean magnitude
 * of its row and of its column; each gives a probability for every unary bin of
 * the magnitude, and the two are mixed.
 *
 * There is exactly one legal stream for a group. */
#ifndef BD_FORMAT_WEIGHT_CODEC_H
#define BD_FORMAT_WEIGHT_CODEC_H

#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "format/artifact.h"
#include "format/weight_group.h"

/* Append the stream of a group that bd_group_check accepts. */
bd_status bd_weight_encode(const bd_qgroup *g, bd_buf *out, bd_err *err);
/* Its length in 1/256 bit, without writing: within 2 bytes + 0.02 % of what encode writes (which may be less when
 * the stream happens to end in zeros: they are not written). */
bd_status bd_weight_price(const bd_qgroup *g, uint64_t *bits_q8, bd_err *err);
/* raw_size: what bd_group_raw_size must give for the group; it bounds what is allocated. */
bd_status bd_weight_decode(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                           bd_group_budget *budget, uint64_t place, bd_err *err);

#endif
