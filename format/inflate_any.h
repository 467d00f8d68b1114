/* Unwrapping of compressed files (.ptz): zlib, xz and zstd, told apart by their
 * first bytes. Output grows in pieces and is bounded by `limit` and by a ratio
 * to the input, so a decompression bomb costs little memory; xz's dictionary and
 * zstd's window are limited too. One stream, nothing after it. */
#ifndef BD_FORMAT_INFLATE_ANY_H
#define BD_FORMAT_INFLATE_ANY_H

#include <stdint.h>

#include "base/status.h"

#define BD_INFLATE_LIMIT    (UINT64_C(4) << 30) /* default output limit */
#define BD_INFLATE_RATIO    UINT64_C(1032)      /* deflate cannot exceed it; the others may not */
#define BD_INFLATE_SLACK    (UINT64_C(1) << 20) /* allowed beyond the ratio */
#define BD_INFLATE_XZ_MEM   (UINT64_C(256) << 20)
#define BD_INFLATE_ZSTD_LOG 27 /* window of 128 MiB */

typedef enum bd_wrap { BD_WRAP_NONE, BD_WRAP_ZLIB, BD_WRAP_XZ, BD_WRAP_ZSTD } bd_wrap;

bd_wrap bd_wrap_detect(const void *data, uint64_t size);
const char *bd_wrap_name(bd_wrap w); /* "none", "zlib", "xz", "zstd" */
/* Decompress all of data. limit 0: BD_INFLATE_LIMIT. *out is malloc'ed. */
bd_status bd_inflate_any(uint8_t **out, uint64_t *out_size, const void *data, uint64_t size, uint64_t limit,
                         bd_err *err);
/* Raw deflate (as in zip) of exactly out_size bytes into out. */
bd_status bd_inflate_raw(uint8_t *out, uint64_t out_size, const void *data, uint64_t size, bd_err *err);

#endif
