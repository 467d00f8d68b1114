/* What the parts of the second decoder share; for them alone. */
#ifndef BD_REFDEC_IMPL_H
#define BD_REFDEC_IMPL_H

#include <stdbool.h>

#include "refdec/refdec.h"

/* Everything a check needs: the file, the result, what may still be asked for. */
typedef struct dec {
    const uint8_t *file;
    uint64_t size;
    bd_refdec_result *out;
    uint64_t tensors_left, elements_left;
    uint64_t section; /* offset of the section being decoded */
} dec;

static inline bool fail_at(dec *d, int error, uint64_t offset) {
    d->out->error = error;
    d->out->offset = offset;
    return false;
}
static inline bool fail(dec *d, int error) { return fail_at(d, error, d->section); }

static inline uint64_t le(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    while (bytes-- > 0) v = v * 256 + p[bytes];
    return v;
}

static inline uint64_t up(uint64_t a, uint64_t b) { return a / b + (a % b ? 1 : 0); }

static inline uint64_t elements(const bd_refdec_tensor *t) { return (uint64_t)t->rows * t->cols; }
static inline bool is(const bd_refdec_tensor *t, unsigned method) { return t->method == method; }
/* Fields and arrays that methods share. */
static inline bool has_bits(const bd_refdec_tensor *t) { return is(t, BD_REFDEC_ROW) || is(t, BD_REFDEC_LQER); }
static inline bool has_codes(const bd_refdec_tensor *t) { return has_bits(t) || is(t, BD_REFDEC_TERNARY); }
static inline bool has_index(const bd_refdec_tensor *t) { return is(t, BD_REFDEC_TCQ) || is(t, BD_REFDEC_LOG); }
static inline int largest(const bd_refdec_tensor *t) { return has_bits(t) ? (1 << (t->bits - 1)) - 1 : 1; }
static inline int largest_index(const bd_refdec_tensor *t) { return is(t, BD_REFDEC_TCQ) ? 32767 : 81 * t->levels; }
static inline uint64_t left_size(const bd_refdec_tensor *t) { return (uint64_t)t->rows * t->rank; }
static inline uint64_t right_size(const bd_refdec_tensor *t) { return (uint64_t)t->rank * t->cols; }

/* One weight group from its raw layout (refdec_group.c), or from its RANGE stream (refdec_range.c). */
bool bd_refdec_raw_group(dec *d, bd_refdec_group *g, const uint8_t *data, uint64_t size);
bool bd_refdec_range_group(dec *d, bd_refdec_group *g, const uint8_t *data, uint64_t size, uint64_t raw);

/* Checks and memory that both share. */
bool bd_refdec_check_name(dec *d, bd_refdec_group *g, const uint8_t *name, unsigned len);
bool bd_refdec_check_count(dec *d, uint64_t n);
bool bd_refdec_check_tensor(dec *d, const bd_refdec_group *g, uint32_t i);
bool bd_refdec_check_word(dec *d, const bd_refdec_tensor *t, uint16_t w);
bool bd_refdec_check_f32(dec *d, uint32_t w);
bool bd_refdec_check_base(dec *d, uint32_t w);
bool bd_refdec_make_tensors(dec *d, bd_refdec_group *g, uint32_t n);
bool bd_refdec_make_words(dec *d, bd_refdec_tensor *t);
bool bd_refdec_make_codes(dec *d, bd_refdec_tensor *t); /* all integer arrays */
/* Size of the raw layout; `as_zeros`: as if all ternary codes were zero. */
uint64_t bd_refdec_raw_size(const bd_refdec_group *g, bool as_zeros);

#endif
