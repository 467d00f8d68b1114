/* Self-extracting scripts: a few lines of Python around a compressed program. What is
 * inside is decoded as data; nothing of a script is ever executed.
 *
 * Known: base85 and base64 around xz, LZMA alone, raw LZMA2, brotli, zlib and gzip,
 * also several times inside one another. Output is bounded. */
#ifndef BD_VERIFY_AUDIT_WRAP_H
#define BD_VERIFY_AUDIT_WRAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    BD_UNWRAP_MAX_OUTPUT = 8 << 20, /* bytes of decoded text */
    BD_UNWRAP_MAX_LAYERS = 3,
};

typedef enum bd_unwrap_state {
    BD_UNWRAP_NONE, /* no wrapper: the text is the program */
    BD_UNWRAP_DONE,
    BD_UNWRAP_BROKEN, /* looks like one and cannot be decoded: see why */
} bd_unwrap_state;

typedef struct bd_unwrapped {
    bd_unwrap_state state;
    int layers;
    char how[48];  /* of the outermost layer: "base85, raw LZMA2" */
    char why[128]; /* if broken */
    uint8_t *text; /* if done: size bytes, terminated by a zero that is not counted */
    size_t size;
} bd_unwrapped;

/* The only error is no memory. */
bd_status bd_unwrap_script(bd_unwrapped *u, const void *text, size_t size, bd_err *err);
void bd_unwrapped_free(bd_unwrapped *u); /* safe on a zeroed or freed one */

#endif
