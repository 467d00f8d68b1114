/* Byte reader over borrowed memory, and a growable byte buffer.
 *
 * The reader is sticky: past the end it returns zeros and sets `failed`, so a
 * parser asks once per structure (bd_rd_check). All integers are little endian
 * and assembled by shifts. The buffer's failure to grow is sticky as well. */
#ifndef BD_BASE_BUF_H
#define BD_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bd_rd {
    const uint8_t *data;
    uint64_t size, pos;
    bool failed;
} bd_rd;

void bd_rd_init(bd_rd *r, const void *data, uint64_t size);
uint8_t bd_rd_u8(bd_rd *r);
uint16_t bd_rd_u16(bd_rd *r);
uint32_t bd_rd_u32(bd_rd *r);
uint64_t bd_rd_u64(bd_rd *r);
/* View of n bytes, or NULL past the end. */
const uint8_t *bd_rd_bytes(bd_rd *r, uint64_t n);
uint64_t bd_rd_left(const bd_rd *r);
/* BD_E_TRUNCATED with the offset if anything was read past the end; `what` names the structure. */
bd_status bd_rd_check(const bd_rd *r, const char *what, bd_err *err);

typedef struct bd_buf {
    uint8_t *data;
    size_t size, cap;
    bool failed;
} bd_buf;

void bd_buf_init(bd_buf *b);
void bd_buf_free(bd_buf *b);
bool bd_buf_reserve(bd_buf *b, size_t more);
void bd_buf_put(bd_buf *b, const void *data, size_t n);
void bd_buf_u8(bd_buf *b, uint8_t v);
void bd_buf_u16(bd_buf *b, uint16_t v);
void bd_buf_u32(bd_buf *b, uint32_t v);
void bd_buf_u64(bd_buf *b, uint64_t v);
void bd_buf_printf(bd_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* BD_E_NOMEM if the buffer ever failed to grow. */
bd_status bd_buf_check(const bd_buf *b, bd_err *err);

#endif
