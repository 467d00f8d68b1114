#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bd_rd_init(bd_rd *r, const void *data, uint64_t size) {
    r->data = data;
    r->size = size;
    r->pos = 0;
    r->failed = false;
}

const uint8_t *bd_rd_bytes(bd_rd *r, uint64_t n) {
    if (r->failed || n > r->size - r->pos) {
        r->failed = true;
        return NULL;
    }
    /* A valid view of nothing is not NULL, even over an empty input. */
    const uint8_t *p = r->data ? r->data + r->pos : (const uint8_t *)"";
    r->pos += n;
    return p;
}

static uint64_t rd_le(bd_rd *r, unsigned bytes) {
    const uint8_t *p = bd_rd_bytes(r, bytes);
    if (!p) return 0;
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t bd_rd_u8(bd_rd *r) { return (uint8_t)rd_le(r, 1); }
uint16_t bd_rd_u16(bd_rd *r) { return (uint16_t)rd_le(r, 2); }
uint32_t bd_rd_u32(bd_rd *r) { return (uint32_t)rd_le(r, 4); }
uint64_t bd_rd_u64(bd_rd *r) { return rd_le(r, 8); }
uint64_t bd_rd_left(const bd_rd *r) { return r->failed ? 0 : r->size - r->pos; }

bd_status bd_rd_check(const bd_rd *r, const char *what, bd_err *err) {
    if (!r->failed) return BD_OK;
    return BD_FAIL_AT(err, BD_E_TRUNCATED, r->pos, "the data ends inside %s", what);
}

void bd_buf_init(bd_buf *b) { memset(b, 0, sizeof *b); }

void bd_buf_free(bd_buf *b) {
    free(b->data);
    bd_buf_init(b);
}

bool bd_buf_reserve(bd_buf *b, size_t more) {
    if (b->failed) return false;
    if (more <= b->cap - b->size) return true;
    size_t need;
    if (__builtin_add_overflow(b->size, more, &need)) {
        b->failed = true;
        return false;
    }
    size_t cap = b->cap < SIZE_MAX / 2 ? b->cap * 2 : need;
    if (cap < need) cap = need;
    if (cap < 64) cap = 64;
    uint8_t *p = realloc(b->data, cap);
    if (!p && cap > need) p = realloc(b->data, cap = need);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void bd_buf_put(bd_buf *b, const void *data, size_t n) {
    if (n == 0 || !bd_buf_reserve(b, n)) return;
    memcpy(b->data + b->size, data, n);
    b->size += n;
}

static void put_le(bd_buf *b, uint64_t v, unsigned bytes) {
    uint8_t t[8];
    for (unsigned i = 0; i < bytes; i++) t[i] = (uint8_t)(v >> (8 * i));
    bd_buf_put(b, t, bytes);
}

void bd_buf_u8(bd_buf *b, uint8_t v) { put_le(b, v, 1); }
void bd_buf_u16(bd_buf *b, uint16_t v) { put_le(b, v, 2); }
void bd_buf_u32(bd_buf *b, uint32_t v) { put_le(b, v, 4); }
void bd_buf_u64(bd_buf *b, uint64_t v) { put_le(b, v, 8); }

void bd_buf_printf(bd_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) b->failed = true;
    else if (bd_buf_reserve(b, (size_t)n + 1)) {
        vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, again);
        b->size += (size_t)n; /* the terminator is not part of the contents */
    }
    va_end(again);
}

bd_status bd_buf_check(const bd_buf *b, bd_err *err) {
    if (!b->failed) return BD_OK;
    return BD_FAIL(err, BD_E_NOMEM, "no memory for an output buffer beyond %zu bytes", b->size);
}
