/* Zip archives as torch writes them: stored or deflated entries one after
 * another without gaps, central directory, zip64 records, end record, nothing
 * else. Local headers, data descriptors and central records must agree, and
 * every entry's CRC is checked when the archive is opened. */
#ifndef BD_FORMAT_TORCH_ZIP_H
#define BD_FORMAT_TORCH_ZIP_H

#include <stdint.h>

#include "base/status.h"

enum { BD_ZIP_MAX_ENTRIES = 1 << 18, BD_ZIP_MAX_NAME = 1024 };
#define BD_ZIP_MAX_INFLATED (UINT64_C(4) << 30)

typedef struct bd_zip_entry {
    const char *name; /* inside the archive's bytes, not terminated */
    uint32_t name_len;
    uint32_t crc;
    uint16_t method, flags;
    uint64_t local, offset; /* of the local header and of the data */
    uint64_t stored, size;  /* bytes in the archive, bytes after inflating */
    const uint8_t *data;    /* (size): inside the archive, or inflated */
    uint8_t *heap;
} bd_zip_entry;

typedef struct bd_zip {
    bd_zip_entry *entries; /* sorted bytewise by name */
    uint32_t n;
} bd_zip;

/* data must outlive the archive. */
bd_status bd_zip_open(bd_zip **out, const uint8_t *data, uint64_t size, bd_err *err);
void bd_zip_close(bd_zip *z);                                                          /* accepts NULL */
const bd_zip_entry *bd_zip_find(const bd_zip *z, const char *name, uint32_t name_len); /* NULL: none */

#endif
