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
    BD_GROUP_HEADER = 23 /* bytes of a tensor's header in the raw layout */
};

/* What a file may still ask for; every tensor that is read takes its part. */
typedef struct bd_group_budget {
    uint64_t tensors, elements;
} bd_group_budget;

static inline uint64_t bd_qtensor_elements(const bd_qtensor *q) { return (uint64_t)q->rows * q->cols; }
uint64_t bd_qtensor_scales(const bd_qtensor *q);    /* number of scales: ROW, TERNARY, LQER; else 0 */
uint64_t bd_qtensor_lq_scales(const bd_qtensor *q); /* LQER: of the correction; else 0 */
int bd_qtensor_qmax(const bd_qtensor *q);           /* largest code: ROW, TERNARY, LQER; else 0 */
int bd_qtensor_index_max(const bd_qtensor *q);      /* largest |index|: TCQ, LOG; else 0 */

/* Pieces shared by both readers. `place` is the file offset that errors name. */
bd_status bd_group_check_name(const char *name, uint64_t len, uint64_t place, bd_err *err);
bd_status bd_group_check_count(uint64_t n, bd_group_budget *budget, uint64_t place, bd_err *err);
/* Fields of tensor i, whose predecessors are fine; takes its elements from the budget. */
bd_status bd_group_check_tensor(const bd_qtensor *t, uint32_t i, bd_group_budget *budget, uint64_t place,
                                bd_err *err);
bd_status bd_group_check_scale(uint16_t h, uint64_t place, bd_err *err);
bd_status bd_group_check_f16(uint16_t h, uint64_t place, bd_err *err);
bd_status bd_group_check_f32(uint32_t bits, uint64_t place, bd_err *err);
bd_status bd_group_check_base(uint32_t bits, uint64_t place, bd_err *err);
/* All integer arrays of a tensor: ranges, and indices that the trellis allows. */
bd_status bd_group_check_codes(const bd_qtensor *q, uint64_t place, bd_err *err);

/* Everything a group must satisfy before it can be written. */
bd_status bd_group_check(const bd_qgroup *g, bd_err *err);

static inline uint32_t bd_float_bits(float x) {
    union {
        float f;
        uint32_t u;
    } v = {.f = x};
    return v.u;
}

/* --- the raw layout (weight_raw.c) --- */

uint64_t bd_group_raw_size(const bd_qgroup *g);
/* Contribution of tensor t. */
uint64_t bd_group_raw_size_of(const bd_qtensor *t);
/* The same, from the headers alone, with ternary codes at their smallest: what the contents take at least. */
uint64_t bd_group_raw_size_min(const bd_qgroup *g);
/* int8 codes of ROW and LQER tensors, which LRZIP keeps apart. */
uint64_t bd_group_int8_codes(const bd_qgroup *g);

/* BD_RAW_NO_INT8: without the codes of ROW and LQER tensors (the factors of LQER stay). */
typedef enum bd_raw_form { BD_RAW_ALL, BD_RAW_NO_INT8 } bd_raw_form;
void bd_group_raw_write(const bd_qgroup *g, bd_raw_form form, bd_buf *out);
/* All of `data`; for BD_RAW_NO_INT8 up to the layout's end, with *used bytes taken, and codes allocated but not
 * filled in: they are still to be checked. */
bd_status bd_group_raw_read(bd_qgroup *g, bd_raw_form form, bd_arena *arena, const uint8_t *data, uint64_t size,
                            uint64_t *used, bd_group_budget *budget, uint64_t place, bd_err *err);

#endif
