#include "format/weight_lrzip.h"

#include <stdlib.h>
#include <string.h>

#include "format/codec.h"
#include "format/external.h"

enum { MAX_SORTED = 65536, SECONDS = 3600, SLACK = 1 << 20 };

static const char *const pack_argv[] = {"lrzip", "-z", "-L", "9", "-q", "-f", "codes", NULL};
static const char *const unpack_argv[] = {"lrzip", "-d", "-q", "-f", "codes.lrz", NULL};

static bool has_int8(const bd_qtensor *q) { return q->method == BD_Q_ROW || q->method == BD_Q_LQER; }

/* --- the order of rows --- */

/* Stops early above `bound`: only smaller distances matter. */
static uint32_t distance(const int8_t *a, const int8_t *b, uint32_t n, uint32_t bound) {
    uint32_t sum = 0;
    for (uint32_t at = 0; at < n && sum < bound;) {
        uint32_t end = n - at < 256 ? n : at + 256;
        /* unsigned bytes of the same differences: processors have an instruction for these */
        for (; at < end; at++) sum += (uint32_t)abs((uint8_t)(a[at] ^ 0x80) - (uint8_t)(b[at] ^ 0x80));
    }
    return sum;
}

void bd_similarity_order(uint16_t *order, const int8_t *codes, uint32_t rows, uint32_t cols) {
    for (uint32_t i = 0; i < rows; i++) order[i] = (uint16_t)i;
    for (uint32_t i = 1; i < rows; i++) {
        const int8_t *from = codes + (uint64_t)order[i - 1] * cols;
        uint32_t best = i, least = UINT32_MAX;
        for (uint32_t k = i; k < rows; k++) { /* those left are in increasing order */
            uint32_t d = distance(from, codes + (uint64_t)order[k] * cols, cols, least);
            if (d < least) least = d, best = k;
        }
        uint16_t next = order[best];
        memmove(order + i + 1, order + i, (best - i) * sizeof *order);
        order[i] = next;
    }
}

/* Byte column * rows + k of `stream` is the code in row order[k] (NULL: k) of that column. */
static void columns_of(uint8_t *stream, const int8_t *codes, const uint16_t *order, uint32_t rows, uint32_t cols) {
    for (uint64_t k = 0; k < rows; k++) {
        const int8_t *row = codes + (order ? order[k] : k) * cols;
        for (uint64_t c = 0; c < cols; c++) stream[c * rows + k] = (uint8_t)row[c];
    }
}

static void rows_of(int8_t *codes, const uint8_t *stream, const uint16_t *order, uint32_t rows, uint32_t cols) {
    for (uint64_t k = 0; k < rows; k++) {
        int8_t *row = codes + (order ? order[k] : k) * cols;
        for (uint64_t c = 0; c < cols; c++) {
            uint8_t byte = stream[c * rows + k];
            memcpy(&row[c], &byte, 1);
        }
    }
}

/* --- writing --- */

/* Flags and orders after the layout in `rest`, the codes themselves into `stream`. */
static bd_status put_codes(const bd_qgroup *g, bd_buf *rest, uint8_t *stream, bd_err *err) {
    uint16_t *order = malloc(MAX_SORTED * sizeof *order);
    if (!order) return BD_FAIL(err, BD_E_NOMEM, "no memory for an order of rows");
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        if (!has_int8(q)) continue;
        bool sorted = g->sort_rows && q->rows <= MAX_SORTED, moved = false;
        if (sorted) bd_similarity_order(order, q->codes, q->rows, q->cols);
        for (uint32_t i = 0; i < q->rows && sorted; i++) moved |= order[i] != i;
        bd_buf_u8(rest, moved);
        for (uint32_t i = 0; i < q->rows && moved; i++) bd_buf_u16(rest, order[i]);
        columns_of(stream, q->codes, moved ? order : NULL, q->rows, q->cols);
        stream += bd_qtensor_elements(q);
    }
    free(order);
    return BD_OK;
}

bd_status bd_lrzip_pack(const bd_qgroup *g, bd_buf *out, bd_err *err) {
    uint64_t n = bd_group_int8_codes(g);
    bd_buf rest;
    bd_buf_init(&rest);
    bd_status st = BD_OK;
    uint8_t *stream = malloc(n ? n : 1);
    if (!stream) {
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for %llu codes", (unsigned long long)n);
        goto done;
    }
    bd_group_raw_write(g, BD_RAW_NO_INT8, &rest);
    BD_TRY_DONE(put_codes(g, &rest, stream, err));
    BD_TRY_DONE(bd_buf_check(&rest, err));
    size_t start = out->size;
    bd_buf_u32(out, 0);
    BD_TRY_DONE(bd_codec_pack(BD_CODEC_BROTLI, rest.data, rest.size, out, err));
    uint64_t packed = out->size - start - 4;
    if (packed > UINT32_MAX) {
        st = BD_FAIL(err, BD_E_LIMIT, "weight group %s is too large", g->name);
        goto done;
    }
    for (int i = 0; i < 4; i++) out->data[start + (size_t)i] = (uint8_t)(packed >> (8 * i));
    if (n) {
        bd_external job = {pack_argv, "codes", "codes.lrz", n + n / 8 + SLACK, SECONDS};
        BD_TRY_DONE(bd_external_run(&job, stream, n, out, err));
    }
done:
    bd_buf_free(&rest);
    free(stream);
    return st;
}

/* --- reading --- */

typedef struct reader {
    bd_qgroup *g;
    bd_arena *arena;
    bd_rd rd; /* flags and orders */
    uint64_t place;
    bd_err *err;
} reader;

static bd_status damaged(const reader *r, const char *what) {
    return BD_FAIL_AT(r->err, BD_E_CODEC, r->place, "the lrzip section: %s", what);
}

/* The order of one tensor's rows, NULL for none. */
static bd_status read_order(reader *r, const bd_qtensor *q, uint16_t **order) {
    *order = NULL;
    uint8_t flag = bd_rd_u8(&r->rd);
    const uint8_t *p = flag == 1 ? bd_rd_bytes(&r->rd, 2 * (uint64_t)q->rows) : NULL;
    if (r->rd.failed)
        return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place,
                          "the group ends before the order of rows of parameter %u", q->param);
    if (flag > 1 || (flag && q->rows > MAX_SORTED))
        return BD_FAIL_AT(r->err, BD_E_FIELD, r->place, "parameter %u: flag %u for an order of %u rows", q->param,
                          flag, q->rows);
    if (!flag) return BD_OK;
    uint16_t *o = bd_arena_alloc(r->arena, q->rows, sizeof *o);
    uint8_t *seen = calloc(q->rows, 1);
    bool fine = o && seen, moved = false;
    for (uint32_t i = 0; i < q->rows && fine; i++) {
        uint32_t v = p[2 * i] | (uint32_t)p[2 * i + 1] << 8;
        fine = v < q->rows && !seen[v];
        if (fine) seen[v] = 1;
        o[i] = (uint16_t)v;
        moved |= v != i;
    }
    bool memory = o && seen;
    free(seen);
    if (!memory) return BD_FAIL_AT(r->err, BD_E_NOMEM, r->place, "no memory for an order of %u rows", q->rows);
    if (!fine) return BD_FAIL_AT(r->err, BD_E_FIELD, r->place, "parameter %u: not an order of its rows", q->param);
    if (!moved)
        return BD_FAIL_AT(r->err, BD_E_NONCANON, r->place, "parameter %u: an order that moves no row", q->param);
    *order = o;
    return BD_OK;
}

static bd_status read_orders(reader *r, uint16_t **orders) {
    for (uint32_t t = 0; t < r->g->n_tensors; t++)
        if (has_int8(&r->g->tensors[t])) BD_TRY(read_order(r, &r->g->tensors[t], &orders[t]));
    if (bd_rd_left(&r->rd))
        return BD_FAIL_AT(r->err, BD_E_NONCANON, r->place, "%llu bytes after the last order of rows",
                          (unsigned long long)bd_rd_left(&r->rd));
    return BD_OK;
}

static bd_status read_codes(reader *r, const uint8_t *data, uint64_t size, uint64_t n, uint16_t *const *orders) {
    if (n == 0) return size ? damaged(r, "bytes after a group without int8 codes") : BD_OK;
    bd_buf stream;
    bd_buf_init(&stream);
    bd_external job = {unpack_argv, "codes.lrz", "codes", n, SECONDS};
    bd_status st = bd_external_run(&job, data, size, &stream, r->err);
    if (st != BD_OK && r->err) r->err->offset = r->place;
    if (st == BD_OK && stream.size != n) st = damaged(r, "lrzip gives fewer codes than the tensors have");
    const uint8_t *p = stream.data;
    for (uint32_t t = 0; t < r->g->n_tensors && st == BD_OK; t++) {
        bd_qtensor *q = &r->g->tensors[t];
        if (!has_int8(q)) continue;
        rows_of(q->codes, p, orders[t], q->rows, q->cols);
        p += bd_qtensor_elements(q);
        st = bd_group_check_codes(q, r->place, r->err);
    }
    bd_buf_free(&stream);
    return st;
}

bd_status bd_lrzip_unpack(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size, uint64_t raw_size,
                          bd_group_budget *budget, uint64_t place, bd_err *err) {
    reader r = {.g = g, .arena = arena, .place = place, .err = err};
    bd_rd head;
    bd_rd_init(&head, data, size);
    uint64_t packed = bd_rd_u32(&head), used = 0;
    const uint8_t *brotli = bd_rd_bytes(&head, packed);
    if (!brotli) return damaged(&r, "it ends inside its brotli stream");
    bd_buf rest;
    bd_buf_init(&rest);
    bd_status st = BD_OK;
    /* The layout without the codes, at most two bytes per row (there are fewer than codes) and a flag per tensor.
     */
    if (!bd_brotli_unpack(brotli, packed, &rest, 3 * raw_size)) {
        st = damaged(&r, "its brotli stream is damaged or too large");
        goto done;
    }
    BD_TRY_DONE(bd_group_raw_read(g, BD_RAW_NO_INT8, arena, rest.data, rest.size, &used, budget, place, err));
    uint16_t **orders = bd_arena_alloc(arena, g->n_tensors, sizeof *orders);
    if (!orders) {
        st = BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for the orders of %u tensors", g->n_tensors);
        goto done;
    }
    bd_rd_init(&r.rd, rest.data + used, rest.size - used);
    BD_TRY_DONE(read_orders(&r, orders));
    uint64_t declared = bd_group_raw_size(g);
    if (declared != raw_size) {
        st = BD_FAIL_AT(err, BD_E_FIELD, place, "the group takes %llu bytes unpacked, %llu are declared",
                        (unsigned long long)declared, (unsigned long long)raw_size);
        goto done;
    }
    st = read_codes(&r, data + head.pos, bd_rd_left(&head), bd_group_int8_codes(g), orders);
done:
    bd_buf_free(&rest);
    return st;
}
