/* Byte codecs of sections: raw, brotli, zstd, xz and zlib. Declared sizes are hard
 * bounds: a stream that gives fewer or more bytes, or is followed by others, is
 * damaged. */
#ifndef BD_FORMAT_CODEC_H
#define BD_FORMAT_CODEC_H

#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "format/artifact.h"

/* Append the compressed form of data. */
bd_status bd_codec_pack(bd_codec codec, const void *data, uint64_t size, bd_buf *out, bd_err *err);
/* Append the smallest form of RAW to XZ (ties: lowest number; a form that is no smaller than the data counts as
 * RAW) and say which it was. */
bd_status bd_codec_pack_best(const void *data, uint64_t size, bd_buf *out, bd_codec *codec, bd_err *err);
/* Exactly raw bytes into out. `place` is the file offset that errors name. */
bd_status bd_codec_unpack(bd_codec codec, const void *data, uint64_t size, void *out, uint64_t raw, uint64_t place,
                          bd_err *err);
/* Append what a brotli stream holds, at most `most` bytes of it; false if it is damaged, too large or does not end
 * with the data. */
bool bd_brotli_unpack(const void *data, uint64_t size, bd_buf *out, uint64_t most);
/* False if a quick trial says that the byte codecs find nothing beyond the frequencies of single bytes. Depends on
 * the bytes and the zstd version only. */
bool bd_codec_worth_trying(const void *data, uint64_t size);

#endif
