/* A weight group's tensors: checks that hold for every codec, and the raw layout
 * that the byte codecs compress (format/SPEC.md, "Weight groups"). */
#ifndef BD_FORMAT_WEIGHT_GROUP_H
#define BD_FORMAT_WEIGHT_GROUP_H

#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "format/artifact.h"

enum {
    BD_GROUP_NAME_MAX = 63,
    BD_GROUP_TENSORS_MAX = 65536,
    BD_PARAM_MAX = INT32_MAX,
    BD_GROUP_HEADER = 18 /* bytes of a tensor's header in the raw layout */
};

/* What a file may still ask for; every tensor that is read takes its part. */
typedef struct bd_group_budget {
    uint64_t tensors, elements;
} bd_group_budget;

static inline uint64_t bd_qtensor_elements(const bd_qtensor *q) { return (uint64_t)q->rows * q->cols; }
uint64_t bd_qtensor_scales(const bd_qtensor *q); /* number of scales; 0 for F16 and F32 */
int bd_qtensor_qmax(const bd_qtensor *q);        /* largest code; 0 for F16 and F32 */

/* Pieces shared by both readers. `place` is the file offset that errors name. */
bd_status bd_group_check_name(const char *name, uint64_t len, uint64_t place, bd_err *err);
bd_status bd_group_check_count(uint64_t n, bd_group_budget *budget, uint64_t place, bd_err *err);
/* Fields of tensor i, whose predecessors are fine; takes its elements from the budget. */
bd_status bd_group_check_tensor(const bd_qtensor *t, uint32_t i, bd_group_budget *budget, uint64_t place,
                                bd_err *err);
bd_status bd_group_check_scale(uint16_t h, uint64_t place, bd_err *err);
bd_status bd_group_check_f16(uint16_t h, uint64_t place, bd_err *err);
bd_status bd_group_check_f32(uint32_t bits, uint64_t place, bd_err *err);

/* Everything a group must satisfy before it can be written. */
bd_status bd_group_check(const bd_qgroup *g, bd_err *err);

uint64_t bd_group_raw_size(const bd_qgroup *g);
/* The same, from the headers alone, with ternary codes at their smallest: what the contents take at least. */
uint64_t bd_group_raw_size_min(const bd_qgroup *g);
void bd_group_raw_write(const bd_qgroup *g, bd_buf *out);
bd_status bd_group_raw_read(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size,
                            bd_group_budget *budget, uint64_t place, bd_err *err);

#endif
