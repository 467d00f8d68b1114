/* The RANGE codec of weight groups (format/SPEC.md, "RANGE codec"): headers and
 * words over the range coder, and the order of things; the integer arrays are
 * format/code_model.h's.
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
/* Its length in 1/256 bit, without writing: at most 2 bytes less than what encode writes (which may be less when
 * the stream happens to end in zeros: they are not written). */
bd_status bd_weight_price(const bd_qgroup *g, uint64_t *bits_q8, bd_err *err);
/* Length of each tensor's header, words and codes in bits. bits: (n_tensors) */
bd_status bd_weight_price_tensors(const bd_qgroup *g, double *bits, bd_err *err);
/* raw_size: what bd_group_raw_size must give for the group; it bounds what is allocated. */
bd_status bd_weight_decode(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                           bd_group_budget *budget, uint64_t place, bd_err *err);

#endif
