/* UTF-8 checks, and safe quoting of foreign names in messages. */
#ifndef BD_FORMAT_UTF8_H
#define BD_FORMAT_UTF8_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the well-formed sequence at s (1..4; no overlong forms, no surrogates), 0 if there is none. */
int bd_utf8_next(const uint8_t *s, uint64_t n, uint32_t *cp);
bool bd_utf8_valid(const void *s, uint64_t n);
/* Encode a code point (not a surrogate, at most 0x10ffff); returns its bytes. */
int bd_utf8_put(uint32_t cp, uint8_t out[4]);

/* A name from a file is nonempty UTF-8 of at most `limit` bytes without control characters. */
bool bd_name_ok(const void *s, uint64_t n, uint64_t limit);

/* At most 60 bytes of s as printable ASCII, the rest as \xNN; a cut is shown as "...". */
typedef struct bd_quoted {
    char s[256];
} bd_quoted;
bd_quoted bd_quote(const void *s, uint64_t n);

#endif
