#include "format/utf8.h"

#include <stdio.h>

int bd_utf8_next(const uint8_t *s, uint64_t n, uint32_t *cp) {
    if (n == 0) return 0;
    uint32_t c = s[0];
    int len;
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
        c &= 0x1f;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        c &= 0x0f;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        c &= 0x07;
    } else {
        return 0;
    }
    if (n < (uint64_t)len) return 0;
    for (int i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (len == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))) return 0;
    if (len == 4 && (c < 0x10000 || c > 0x10ffff)) return 0;
    *cp = c;
    return len;
}

bool bd_utf8_valid(const void *s, uint64_t n) {
    const uint8_t *p = s;
    uint32_t cp;
    while (n > 0) {
        int len = bd_utf8_next(p, n, &cp);
        if (len == 0) return false;
        p += len;
        n -= (uint64_t)len;
    }
    return true;
}

int bd_utf8_put(uint32_t cp, uint8_t out[4]) {
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xc0 | cp >> 6);
        out[1] = (uint8_t)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xe0 | cp >> 12);
        out[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | cp >> 18);
    out[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

bool bd_name_ok(const void *s, uint64_t n, uint64_t limit) {
    const uint8_t *p = s;
    if (n == 0 || n > limit || !bd_utf8_valid(s, n)) return false;
    for (uint64_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f) return false;
    return true;
}

bd_quoted bd_quote(const void *s, uint64_t n) {
    bd_quoted q;
    const uint8_t *p = s;
    size_t at = 0;
    uint64_t shown = n > 60 ? 60 : n;
    for (uint64_t i = 0; i < shown; i++) {
        if (p[i] >= 0x20 && p[i] < 0x7f) q.s[at++] = (char)p[i];
        else at += (size_t)snprintf(q.s + at, sizeof q.s - at, "\\x%02x", p[i]);
    }
    q.s[at] = 0;
    if (shown < n) snprintf(q.s + at, sizeof q.s - at, "...");
    return q;
}
