/* Checked 64-bit arithmetic for sizes that come from files. Each returns true
 * and stores the result, or returns false on overflow. */
#ifndef BD_BASE_CHECKED_H
#define BD_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bd_add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool bd_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool bd_add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool bd_sub_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_sub_overflow(a, b, out); }
static inline bool bd_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

#endif
