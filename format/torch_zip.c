#include "format/torch_zip.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/checked.h"
#include "format/inflate_any.h"
#include "format/utf8.h"

enum {
    SIG_LOCAL = 0x04034b50,
    SIG_CENTRAL = 0x02014b50,
    SIG_DESCRIPTOR = 0x08074b50,
    SIG_END = 0x06054b50,
    SIG_END64 = 0x06064b50,
    SIG_LOCATOR64 = 0x07064b50,
    LEN_LOCAL = 30,
    LEN_CENTRAL = 46,
    LEN_END = 22,
    LEN_END64 = 56,
    LEN_LOCATOR64 = 20,
    FLAG_DESCRIPTOR = 1 << 3,
    FLAGS_KNOWN = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 11, /* deflate level, descriptor, UTF-8 names */
};
#define NO32 UINT32_MAX

#define ULL(x) ((unsigned long long)(x))

typedef struct directory {
    uint64_t entries, size, offset, end; /* end: of the central directory */
} directory;

static bd_rd reader_at(const uint8_t *data, uint64_t from, uint64_t to) {
    bd_rd r;
    bd_rd_init(&r, data + from, to - from);
    return r;
}

/* The end record (at the very end: torch writes no comment) and the zip64 records before it. */
static bd_status find_directory(directory *d, const uint8_t *data, uint64_t size, bd_err *err) {
    if (size < LEN_END)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, size, "zip archive of %llu bytes has no end record", ULL(size));
    uint64_t end = size - LEN_END;
    bd_rd r = reader_at(data, end, size);
    if (bd_rd_u32(&r) != SIG_END)
        return BD_FAIL_AT(
            err, BD_E_TRUNCATED, end,
            "no zip end record in the last 22 bytes: the file is cut, or something follows the archive");
    uint16_t disk = bd_rd_u16(&r), dir_disk = bd_rd_u16(&r), here = bd_rd_u16(&r), all = bd_rd_u16(&r);
    uint32_t dir_size = bd_rd_u32(&r), dir_at = bd_rd_u32(&r);
    uint16_t comment = bd_rd_u16(&r);
    if (disk || dir_disk || here != all || comment)
        return BD_FAIL_AT(err, BD_E_FIELD, end,
                          "zip end record: several disks or a comment, which no checkpoint has");
    d->entries = all;
    d->size = dir_size;
    d->offset = dir_at;
    d->end = end;
    bool zip64 = false;
    if (end >= LEN_LOCATOR64) {
        r = reader_at(data, end - LEN_LOCATOR64, end);
        zip64 = bd_rd_u32(&r) == SIG_LOCATOR64;
    }
    if (zip64) {
        uint64_t loc = end - LEN_LOCATOR64;
        uint32_t disk64 = bd_rd_u32(&r);
        uint64_t at = bd_rd_u64(&r);
        uint32_t disks = bd_rd_u32(&r);
        if (disk64 != 0 || disks != 1 || loc < LEN_END64 || at != loc - LEN_END64)
            return BD_FAIL_AT(
                err, BD_E_FIELD, loc,
                "zip64 locator points to byte %llu of disk %u/%u; the zip64 end record must lie right "
                "before it",
                ULL(at), disk64, disks);
        r = reader_at(data, at, loc);
        uint32_t sig = bd_rd_u32(&r);
        uint64_t rest = bd_rd_u64(&r);
        bd_rd_u16(&r); /* made by */
        bd_rd_u16(&r); /* needs */
        uint32_t disk_a = bd_rd_u32(&r), disk_b = bd_rd_u32(&r);
        uint64_t here64 = bd_rd_u64(&r), all64 = bd_rd_u64(&r), size64 = bd_rd_u64(&r), at64 = bd_rd_u64(&r);
        if (sig != SIG_END64 || rest != LEN_END64 - 12 || disk_a || disk_b || here64 != all64)
            return BD_FAIL_AT(err, BD_E_FIELD, at, "the zip64 end record is damaged");
        if ((all != UINT16_MAX && all != all64) || (dir_size != NO32 && dir_size != size64) ||
            (dir_at != NO32 && dir_at != at64))
            return BD_FAIL_AT(err, BD_E_FIELD, at, "zip end record and zip64 end record disagree");
        d->entries = all64;
        d->size = size64;
        d->offset = at64;
        d->end = at;
    }
    uint64_t sum;
    if (!bd_add_u64(d->offset, d->size, &sum) || sum != d->end)
        return BD_FAIL_AT(
            err, BD_E_FIELD, end,
            "zip central directory (%llu bytes at %llu) does not end where the end record begins (%llu)",
            ULL(d->size), ULL(d->offset), ULL(d->end));
    if (d->entries > BD_ZIP_MAX_ENTRIES)
        return BD_FAIL_AT(err, BD_E_LIMIT, end, "zip archive with %llu entries, the limit is %d", ULL(d->entries),
                          (int)BD_ZIP_MAX_ENTRIES);
    if (d->entries == 0 || d->entries > d->size / LEN_CENTRAL)
        return BD_FAIL_AT(err, BD_E_FIELD, end, "zip central directory of %llu bytes cannot hold %llu entries",
                          ULL(d->size), ULL(d->entries));
    return BD_OK;
}

/* Extra fields are (id, length, bytes) records; *wide gets those of id 1 (zip64). */
static bd_status read_extra(const uint8_t *p, uint64_t n, bd_rd *wide, uint64_t at, bd_err *err) {
    bd_rd r;
    bd_rd_init(&r, p, n);
    bd_rd_init(wide, p, 0);
    bool seen = false;
    while (bd_rd_left(&r) > 0) {
        uint16_t id = bd_rd_u16(&r), len = bd_rd_u16(&r);
        const uint8_t *body = bd_rd_bytes(&r, len);
        if (r.failed)
            return BD_FAIL_AT(err, BD_E_FIELD, at, "zip extra field: record 0x%04x of %u bytes does not fit", id,
                              len);
        if (id != 1) continue;
        if (seen) return BD_FAIL_AT(err, BD_E_FIELD, at, "zip extra field: two zip64 records");
        seen = true;
        bd_rd_init(wide, body, len);
    }
    return BD_OK;
}

static bd_status read_central(bd_zip_entry *e, bd_rd *r, uint64_t base, bd_err *err) {
    uint64_t at = base + r->pos;
    uint32_t sig = bd_rd_u32(r);
    bd_rd_u16(r); /* made by */
    bd_rd_u16(r); /* needs */
    e->flags = bd_rd_u16(r);
    e->method = bd_rd_u16(r);
    bd_rd_u32(r); /* time and date */
    e->crc = bd_rd_u32(r);
    uint32_t stored = bd_rd_u32(r), size = bd_rd_u32(r);
    uint16_t name_len = bd_rd_u16(r), extra_len = bd_rd_u16(r), comment_len = bd_rd_u16(r), disk = bd_rd_u16(r);
    bd_rd_u16(r); /* internal attributes */
    bd_rd_u32(r); /* external attributes */
    uint32_t local = bd_rd_u32(r);
    const uint8_t *name = bd_rd_bytes(r, name_len);
    const uint8_t *extra = bd_rd_bytes(r, extra_len);
    BD_TRY(bd_rd_check(r, "zip central directory", err));
    if (sig != SIG_CENTRAL)
        return BD_FAIL_AT(err, BD_E_FIELD, at, "zip central directory: signature 0x%08x instead of 0x%08x", sig,
                          (unsigned)SIG_CENTRAL);
    if (!bd_name_ok(name, name_len, BD_ZIP_MAX_NAME))
        return BD_FAIL_AT(err, BD_E_FIELD, at, "zip entry with the illegal name \"%s\"",
                          bd_quote(name, name_len).s);
    e->name = (const char *)name;
    e->name_len = name_len;
    bd_quoted q = bd_quote(name, name_len);
    if (disk || comment_len) return BD_FAIL_AT(err, BD_E_FIELD, at, "zip entry %s: disk number or comment", q.s);
    if (e->flags & ~FLAGS_KNOWN)
        return BD_FAIL_AT(err, BD_E_REFUSED, at, "zip entry %s: flags 0x%04x (encryption or an extension)", q.s,
                          e->flags);
    if (e->method != 0 && e->method != 8)
        return BD_FAIL_AT(err, BD_E_REFUSED, at,
                          "zip entry %s: compression method %u; stored (0) and deflated (8) "
                          "are read",
                          q.s, e->method);
    bd_rd wide;
    BD_TRY(read_extra(extra, extra_len, &wide, at, err));
    e->size = size == NO32 ? bd_rd_u64(&wide) : size;
    e->stored = stored == NO32 ? bd_rd_u64(&wide) : stored;
    e->local = local == NO32 ? bd_rd_u64(&wide) : local;
    if (wide.failed) return BD_FAIL_AT(err, BD_E_FIELD, at, "zip entry %s: its zip64 sizes are missing", q.s);
    if (e->method == 0 && e->stored != e->size)
        return BD_FAIL_AT(err, BD_E_FIELD, at, "zip entry %s: stored, but %llu bytes for %llu", q.s, ULL(e->stored),
                          ULL(e->size));
    return BD_OK;
}

/* The bytes between an entry's data and the next entry: nothing, or its data descriptor. */
static bd_status read_descriptor(const bd_zip_entry *e, const uint8_t *data, uint64_t from, uint64_t to,
                                 bd_err *err) {
    bd_quoted q = bd_quote(e->name, e->name_len);
    uint64_t n = to - from;
    if (!(e->flags & FLAG_DESCRIPTOR)) {
        if (n == 0) return BD_OK;
        return BD_FAIL_AT(err, BD_E_FIELD, from, "zip entry %s: %llu unused bytes after its data", q.s, ULL(n));
    }
    bd_rd r = reader_at(data, from, to);
    if ((n == 16 || n == 24) && bd_rd_u32(&r) != SIG_DESCRIPTOR) n = 0;
    bool known = n == 12 || n == 16 || n == 20 || n == 24, wide = n == 20 || n == 24;
    uint32_t crc = bd_rd_u32(&r);
    uint64_t stored = wide ? bd_rd_u64(&r) : bd_rd_u32(&r), size = wide ? bd_rd_u64(&r) : bd_rd_u32(&r);
    if (!known || crc != e->crc || stored != e->stored || size != e->size)
        return BD_FAIL_AT(err, BD_E_FIELD, from,
                          "zip entry %s: the %llu bytes after its data are no data descriptor that agrees with the "
                          "central directory",
                          q.s, ULL(to - from));
    return BD_OK;
}

/* Check the local header against the central record and find the data; `next` is where the next entry begins. */
static bd_status read_local(bd_zip_entry *e, const uint8_t *data, uint64_t next, bd_err *err) {
    bd_quoted q = bd_quote(e->name, e->name_len);
    bd_rd r = reader_at(data, e->local, next);
    uint32_t sig = bd_rd_u32(&r);
    bd_rd_u16(&r); /* needs */
    uint16_t flags = bd_rd_u16(&r), method = bd_rd_u16(&r);
    bd_rd_u32(&r); /* time and date */
    uint32_t crc = bd_rd_u32(&r), stored = bd_rd_u32(&r), size = bd_rd_u32(&r);
    uint16_t name_len = bd_rd_u16(&r), extra_len = bd_rd_u16(&r);
    const uint8_t *name = bd_rd_bytes(&r, name_len), *extra = bd_rd_bytes(&r, extra_len);
    if (r.failed || sig != SIG_LOCAL)
        return BD_FAIL_AT(err, BD_E_FIELD, e->local, "zip entry %s: no local header where the directory says", q.s);
    bd_rd wide;
    BD_TRY(read_extra(extra, extra_len, &wide, e->local, err));
    bool has_wide = wide.size > 0;
    uint64_t size64 = size, stored64 = stored;
    if (has_wide && size == NO32) size64 = bd_rd_u64(&wide);
    if (has_wide && stored == NO32) stored64 = bd_rd_u64(&wide);
    /* with a descriptor the header may leave all three at zero (sizes also at the zip64 mark) */
    bool late = (flags & FLAG_DESCRIPTOR) != 0;
    bool crc_ok = crc == e->crc || (late && crc == 0);
    bool size_ok = size64 == e->size || (late && (size == 0 || size == NO32));
    bool stored_ok = stored64 == e->stored || (late && (stored == 0 || stored == NO32));
    if (name_len != e->name_len || memcmp(name, e->name, name_len) || flags != e->flags || method != e->method ||
        !crc_ok || !size_ok || !stored_ok || wide.failed)
        return BD_FAIL_AT(err, BD_E_FIELD, e->local, "zip entry %s: local header and central directory disagree",
                          q.s);
    e->offset = e->local + r.pos;
    uint64_t end;
    if (!bd_add_u64(e->offset, e->stored, &end) || end > next)
        return BD_FAIL_AT(err, BD_E_FIELD, e->local,
                          "zip entry %s: its %llu bytes at %llu run into what begins at %llu", q.s, ULL(e->stored),
                          ULL(e->offset), ULL(next));
    return read_descriptor(e, data, end, next, err);
}

static bd_status load_entry(bd_zip_entry *e, const uint8_t *data, uint64_t *inflated, bd_err *err) {
    bd_quoted q = bd_quote(e->name, e->name_len);
    e->data = data + e->offset;
    if (e->method == 8) {
        /* deflate makes at most 1,032 bytes of one, so this bounds memory by the file's own size */
        if (e->size / BD_INFLATE_RATIO > e->stored || e->size > BD_ZIP_MAX_INFLATED - *inflated)
            return BD_FAIL_AT(err, BD_E_LIMIT, e->local, "zip entry %s: %llu bytes from %llu", q.s, ULL(e->size),
                              ULL(e->stored));
        *inflated += e->size;
        e->heap = malloc(e->size ? (size_t)e->size : 1);
        if (!e->heap) return BD_FAIL(err, BD_E_NOMEM, "no memory for zip entry %s", q.s);
        bd_status st = bd_inflate_raw(e->heap, e->size, data + e->offset, e->stored, err);
        if (st != BD_OK) {
            bd_err_prefix(err, "zip entry %s: ", q.s);
            if (err) err->offset = e->offset;
            return st;
        }
        e->data = e->heap;
    }
    uLong crc = crc32_z(0, NULL, 0);
    crc = crc32_z(crc, e->data, (z_size_t)e->size);
    if ((uint32_t)crc != e->crc)
        return BD_FAIL_AT(err, BD_E_CHECKSUM, e->offset, "zip entry %s: CRC-32 is %08x, the directory says %08x",
                          q.s, (unsigned)crc, e->crc);
    return BD_OK;
}

static int by_place(const void *a, const void *b) {
    uint64_t x = ((const bd_zip_entry *)a)->local, y = ((const bd_zip_entry *)b)->local;
    return x < y ? -1 : x > y;
}

static int compare_names(const char *a, uint32_t na, const char *b, uint32_t nb) {
    int d = memcmp(a, b, na < nb ? na : nb);
    return d ? d : na < nb ? -1 : na > nb;
}

static int by_entry_name(const void *a, const void *b) {
    const bd_zip_entry *x = a, *y = b;
    return compare_names(x->name, x->name_len, y->name, y->name_len);
}

static bd_status open_archive(bd_zip *z, const uint8_t *data, uint64_t size, bd_err *err) {
    directory d = {0, 0, 0, 0};
    BD_TRY(find_directory(&d, data, size, err));
    z->entries = calloc((size_t)d.entries, sizeof *z->entries);
    if (!z->entries) return BD_FAIL(err, BD_E_NOMEM, "no memory for %llu zip entries", ULL(d.entries));
    z->n = (uint32_t)d.entries;
    bd_rd r = reader_at(data, d.offset, d.end);
    for (uint32_t i = 0; i < z->n; i++) BD_TRY(read_central(&z->entries[i], &r, d.offset, err));
    if (bd_rd_left(&r))
        return BD_FAIL_AT(err, BD_E_FIELD, d.offset + r.pos,
                          "zip central directory: %llu bytes after its last entry", ULL(bd_rd_left(&r)));

    qsort(z->entries, z->n, sizeof *z->entries, by_place);
    if (z->entries[0].local != 0)
        return BD_FAIL_AT(err, BD_E_FIELD, 0, "zip archive: the first entry begins at byte %llu",
                          ULL(z->entries[0].local));
    uint64_t inflated = 0;
    for (uint32_t i = 0; i < z->n; i++) {
        bd_zip_entry *e = &z->entries[i];
        uint64_t next = i + 1 < z->n ? z->entries[i + 1].local : d.offset;
        if (e->local >= d.offset || next > d.offset || e->local >= next)
            return BD_FAIL_AT(err, BD_E_FIELD, d.offset, "zip entry %s: overlaps another entry or the directory",
                              bd_quote(e->name, e->name_len).s);
        BD_TRY(read_local(e, data, next, err));
        BD_TRY(load_entry(e, data, &inflated, err));
    }

    qsort(z->entries, z->n, sizeof *z->entries, by_entry_name);
    for (uint32_t i = 1; i < z->n; i++)
        if (by_entry_name(&z->entries[i - 1], &z->entries[i]) == 0)
            return BD_FAIL_AT(err, BD_E_FIELD, z->entries[i].local, "zip entry %s occurs twice",
                              bd_quote(z->entries[i].name, z->entries[i].name_len).s);
    return BD_OK;
}

bd_status bd_zip_open(bd_zip **out, const uint8_t *data, uint64_t size, bd_err *err) {
    *out = NULL;
    bd_zip *z = calloc(1, sizeof *z);
    if (!z) return BD_FAIL(err, BD_E_NOMEM, "no memory for a zip archive");
    bd_status st = open_archive(z, data, size, err);
    if (st == BD_OK) *out = z;
    else bd_zip_close(z);
    return st;
}

void bd_zip_close(bd_zip *z) {
    if (!z) return;
    for (uint32_t i = 0; i < z->n; i++) free(z->entries[i].heap);
    free(z->entries);
    free(z);
}

const bd_zip_entry *bd_zip_find(const bd_zip *z, const char *name, uint32_t name_len) {
    uint32_t lo = 0, hi = z->n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const bd_zip_entry *e = &z->entries[mid];
        int d = compare_names(e->name, e->name_len, name, name_len);
        if (d == 0) return e;
        if (d < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}
