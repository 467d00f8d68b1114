/* The raw layout of weight groups: format/SPEC.md, "Raw layout of a weight group". */
#include <string.h>

#include "format/ternary_pack.h"
#include "format/weight_group.h"

/* Arrays of 16-bit integers of a tensor, in the order of the layout. */
enum { MAX_ARRAYS = 3 };
typedef struct array16 {
    void *at; /* the tensor's pointer: to uint16_t or int16_t, so it is copied as bytes */
    uint64_t n;
} array16;

static uint16_t *get16(const array16 *a) {
    uint16_t *p;
    memcpy(&p, a->at, sizeof p);
    return p;
}

/* Words: binary16 values, then scales. */
static int words16(bd_qtensor *q, array16 out[MAX_ARRAYS]) {
    int n = 0;
    if (q->method == BD_Q_F16) out[n++] = (array16){&q->f16, bd_qtensor_elements(q)};
    if (bd_qtensor_scales(q)) out[n++] = (array16){&q->scales, bd_qtensor_scales(q)};
    if (bd_qtensor_lq_scales(q)) out[n++] = (array16){&q->lq_scales, bd_qtensor_lq_scales(q)};
    return n;
}

static int codes16(bd_qtensor *q, array16 out[MAX_ARRAYS]) {
    int n = 0;
    if (q->method == BD_Q_TCQ) {
        out[n++] = (array16){&q->row_exp, q->rows};
        out[n++] = (array16){&q->col_exp, q->cols};
    }
    if (q->method == BD_Q_TCQ || q->method == BD_Q_LOG) out[n++] = (array16){&q->index, bd_qtensor_elements(q)};
    return n;
}

typedef int arrays_of(bd_qtensor *q, array16 out[MAX_ARRAYS]);

static bool has_int8(const bd_qtensor *q) { return q->method == BD_Q_ROW || q->method == BD_Q_LQER; }

static bool has_base(const bd_qtensor *q) { return q->method == BD_Q_TCQ || q->method == BD_Q_LOG; }

static uint64_t words32(const bd_qtensor *q) {
    return q->method == BD_Q_F32 ? bd_qtensor_elements(q) : has_base(q);
}

static uint64_t factors(const bd_qtensor *q) { return (uint64_t)q->rank * ((uint64_t)q->rows + q->cols); }

/* Cannot overflow when reading: the budget bounds the elements; writing, the arrays are in memory. */
static uint64_t tensor_size(const bd_qtensor *t, bool smallest) {
    bd_qtensor q = *t; /* the lists of arrays want a writable one */
    uint64_t n = bd_qtensor_elements(t), size = BD_GROUP_HEADER + 4 * words32(t), nonzero = 0;
    array16 a[MAX_ARRAYS];
    for (int i = words16(&q, a); i-- > 0;) size += 2 * a[i].n;
    for (int i = codes16(&q, a); i-- > 0;) size += 2 * a[i].n;
    if (has_int8(t)) size += n;
    if (t->method == BD_Q_TERNARY) {
        uint8_t form;
        for (uint64_t i = 0; i < n && !smallest; i++) nonzero += t->codes[i] != 0;
        size += 1 + bd_ternary_size(n, nonzero, &form);
    }
    return size + factors(t);
}

static uint64_t raw_size(const bd_qgroup *g, bool smallest) {
    uint64_t size = 1 + strlen(g->name) + 4;
    for (uint32_t t = 0; t < g->n_tensors; t++) size += tensor_size(&g->tensors[t], smallest);
    return size;
}

uint64_t bd_group_raw_size(const bd_qgroup *g) { return raw_size(g, false); }
uint64_t bd_group_raw_size_min(const bd_qgroup *g) { return raw_size(g, true); }
uint64_t bd_group_raw_size_of(const bd_qtensor *t) { return tensor_size(t, false); }

uint64_t bd_group_int8_codes(const bd_qgroup *g) {
    uint64_t n = 0;
    for (uint32_t t = 0; t < g->n_tensors; t++)
        if (has_int8(&g->tensors[t])) n += bd_qtensor_elements(&g->tensors[t]);
    return n;
}

/* --- writing --- */

/* Low bytes of the arrays of all tensors, then their high bytes. */
static void write16(const bd_qgroup *g, arrays_of *list, bd_buf *out) {
    array16 a[MAX_ARRAYS];
    for (unsigned plane = 0; plane < 2; plane++)
        for (uint32_t t = 0; t < g->n_tensors; t++) {
            bd_qtensor q = g->tensors[t];
            int n = list(&q, a);
            for (int k = 0; k < n; k++) {
                const uint16_t *w = get16(&a[k]);
                for (uint64_t i = 0; i < a[k].n; i++) bd_buf_u8(out, (uint8_t)(w[i] >> (8 * plane)));
            }
        }
}

static void write32(const bd_qgroup *g, bd_buf *out) {
    for (unsigned plane = 0; plane < 4; plane++)
        for (uint32_t t = 0; t < g->n_tensors; t++) {
            const bd_qtensor *q = &g->tensors[t];
            const float *x = q->method == BD_Q_F32 ? q->f32 : &q->base;
            for (uint64_t i = 0; i < words32(q); i++) bd_buf_u8(out, (uint8_t)(bd_float_bits(x[i]) >> (8 * plane)));
        }
}

void bd_group_raw_write(const bd_qgroup *g, bd_raw_form form, bd_buf *out) {
    size_t len = strlen(g->name);
    bd_buf_u8(out, (uint8_t)len);
    bd_buf_put(out, g->name, len);
    bd_buf_u32(out, g->n_tensors);
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        bd_buf_u32(out, q->param);
        bd_buf_u32(out, q->rows);
        bd_buf_u32(out, q->cols);
        bd_buf_u8(out, (uint8_t)q->method);
        bd_buf_u8(out, q->bits);
        bd_buf_u32(out, q->group);
        bd_buf_u16(out, q->states);
        bd_buf_u8(out, q->kind);
        bd_buf_u8(out, q->levels);
        bd_buf_u8(out, q->rank);
    }
    write16(g, words16, out);
    write32(g, out);
    write16(g, codes16, out);
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        uint64_t n = bd_qtensor_elements(q);
        if (has_int8(q) && form == BD_RAW_ALL) bd_buf_put(out, q->codes, n);
        if (q->method == BD_Q_TERNARY) bd_ternary_write(out, q->codes, n);
        if (q->method != BD_Q_LQER) continue;
        bd_buf_put(out, q->lq_a, (uint64_t)q->rows * q->rank);
        bd_buf_put(out, q->lq_b, (uint64_t)q->rank * q->cols);
    }
}

/* --- reading --- */

typedef struct reader {
    bd_qgroup *g;
    bd_arena *arena;
    bd_rd rd;
    uint64_t place;
    bd_err *err;
} reader;

static bd_status no_memory(reader *r, uint64_t n) {
    return BD_FAIL_AT(r->err, BD_E_NOMEM, r->place, "no memory for %llu weights or scales", (unsigned long long)n);
}

static bd_status read16(reader *r, arrays_of *list, const char *what) {
    uint64_t total = 0;
    array16 a[MAX_ARRAYS];
    for (uint32_t t = 0; t < r->g->n_tensors; t++)
        for (int k = list(&r->g->tensors[t], a); k-- > 0;) total += a[k].n;
    const uint8_t *p = bd_rd_bytes(&r->rd, 2 * total);
    if (!p) return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends inside its %s", what);
    for (uint32_t t = 0; t < r->g->n_tensors; t++) {
        int n = list(&r->g->tensors[t], a);
        for (int k = 0; k < n; k++) {
            uint16_t *w = bd_arena_alloc(r->arena, a[k].n, sizeof *w);
            if (!w) return no_memory(r, a[k].n);
            memcpy(a[k].at, &w, sizeof w);
            for (uint64_t i = 0; i < a[k].n; i++) w[i] = (uint16_t)(p[i] | p[total + i] << 8);
            p += a[k].n;
        }
    }
    return BD_OK;
}

static bd_status read32(reader *r) {
    uint64_t total = 0;
    for (uint32_t t = 0; t < r->g->n_tensors; t++) total += words32(&r->g->tensors[t]);
    const uint8_t *p = bd_rd_bytes(&r->rd, 4 * total);
    if (!p) return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends inside its 32-bit words");
    for (uint32_t t = 0; t < r->g->n_tensors; t++) {
        bd_qtensor *q = &r->g->tensors[t];
        uint64_t n = words32(q);
        float *x = &q->base;
        if (q->method == BD_Q_F32) {
            x = q->f32 = bd_arena_alloc(r->arena, n, sizeof *x);
            if (!x) return no_memory(r, n);
        }
        for (uint64_t i = 0; i < n; i++) {
            uint32_t u = p[i] | (uint32_t)p[total + i] << 8 | (uint32_t)p[2 * total + i] << 16 |
                         (uint32_t)p[3 * total + i] << 24;
            memcpy(&x[i], &u, sizeof u);
        }
        p += n;
    }
    return BD_OK;
}

/* 16-bit and 32-bit words, tensor by tensor. */
static bd_status check_words(reader *r) {
    for (uint32_t t = 0; t < r->g->n_tensors; t++) {
        const bd_qtensor *q = &r->g->tensors[t];
        uint64_t n = bd_qtensor_elements(q);
        for (uint64_t i = 0; i < n && q->method == BD_Q_F16; i++)
            BD_TRY(bd_group_check_f16(q->f16[i], r->place, r->err));
        for (uint64_t i = 0; i < bd_qtensor_scales(q); i++)
            BD_TRY(bd_group_check_scale(q->scales[i], r->place, r->err));
        for (uint64_t i = 0; i < bd_qtensor_lq_scales(q); i++)
            BD_TRY(bd_group_check_scale(q->lq_scales[i], r->place, r->err));
        for (uint64_t i = 0; i < n && q->method == BD_Q_F32; i++)
            BD_TRY(bd_group_check_f32(bd_float_bits(q->f32[i]), r->place, r->err));
        if (has_base(q)) BD_TRY(bd_group_check_base(bd_float_bits(q->base), r->place, r->err));
    }
    return BD_OK;
}

static bd_status read_i8(reader *r, int8_t **out, uint64_t n, const char *what, uint32_t param) {
    const uint8_t *p = bd_rd_bytes(&r->rd, n);
    if (!p)
        return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends inside the %s of parameter %u", what,
                          param);
    *out = bd_arena_alloc(r->arena, n, 1);
    if (!*out) return no_memory(r, n);
    memcpy(*out, p, n);
    return BD_OK;
}

static int8_t *alloc_codes(void *user, uint64_t n) { return bd_arena_alloc(user, n, 1); }

static bd_status read_codes8(reader *r, bd_qtensor *q, bd_raw_form form) {
    uint64_t n = bd_qtensor_elements(q);
    if (q->method == BD_Q_TERNARY)
        return bd_ternary_read(&r->rd, &q->codes, n, alloc_codes, r->arena, r->place, r->err);
    if (has_int8(q) && form == BD_RAW_ALL) BD_TRY(read_i8(r, &q->codes, n, "codes", q->param));
    if (has_int8(q) && form != BD_RAW_ALL) {
        q->codes = bd_arena_alloc(r->arena, n, 1);
        if (!q->codes) return no_memory(r, n);
    }
    if (q->method == BD_Q_LQER) {
        BD_TRY(read_i8(r, &q->lq_a, (uint64_t)q->rows * q->rank, "left factor", q->param));
        BD_TRY(read_i8(r, &q->lq_b, (uint64_t)q->rank * q->cols, "right factor", q->param));
    }
    return has_int8(q) ? bd_group_check_codes(q, r->place, r->err) : BD_OK;
}

static bd_status read_headers(reader *r, bd_group_budget *budget) {
    bd_rd *rd = &r->rd;
    uint8_t len = bd_rd_u8(rd);
    const uint8_t *name = bd_rd_bytes(rd, len);
    if (!name) return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends inside its name");
    BD_TRY(bd_group_check_name((const char *)name, len, r->place, r->err));
    uint32_t n = bd_rd_u32(rd);
    if (rd->failed) return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends before its tensors");
    BD_TRY(bd_group_check_count(n, budget, r->place, r->err));
    if (bd_rd_left(rd) < (uint64_t)n * BD_GROUP_HEADER)
        return BD_FAIL_AT(r->err, BD_E_TRUNCATED, r->place, "the group ends inside the headers of %u tensors", n);
    bd_qgroup *g = r->g;
    g->name = bd_arena_strdup(r->arena, (const char *)name, len);
    g->tensors = bd_arena_alloc(r->arena, n, sizeof *g->tensors);
    if (!g->name || !g->tensors) return BD_FAIL_AT(r->err, BD_E_NOMEM, r->place, "no memory for %u tensors", n);
    g->n_tensors = n;
    for (uint32_t t = 0; t < n; t++) {
        bd_qtensor *q = &g->tensors[t];
        q->param = bd_rd_u32(rd);
        q->rows = bd_rd_u32(rd);
        q->cols = bd_rd_u32(rd);
        q->method = (bd_qmethod)bd_rd_u8(rd);
        q->bits = bd_rd_u8(rd);
        q->group = bd_rd_u32(rd);
        q->states = bd_rd_u16(rd);
        q->kind = bd_rd_u8(rd);
        q->levels = bd_rd_u8(rd);
        q->rank = bd_rd_u8(rd);
        BD_TRY(bd_group_check_tensor(g->tensors, t, budget, r->place, r->err));
    }
    return BD_OK;
}

bd_status bd_group_raw_read(bd_qgroup *g, bd_raw_form form, bd_arena *arena, const uint8_t *data, uint64_t size,
                            uint64_t *used, bd_group_budget *budget, uint64_t place, bd_err *err) {
    reader r = {.g = g, .arena = arena, .place = place, .err = err};
    bd_rd_init(&r.rd, data, size);
    BD_TRY(read_headers(&r, budget));
    BD_TRY(read16(&r, words16, "16-bit words"));
    BD_TRY(read32(&r));
    BD_TRY(check_words(&r));
    BD_TRY(read16(&r, codes16, "exponents and indices"));
    for (uint32_t t = 0; t < g->n_tensors; t++)
        if (has_base(&g->tensors[t])) BD_TRY(bd_group_check_codes(&g->tensors[t], place, err));
    for (uint32_t t = 0; t < g->n_tensors; t++) BD_TRY(read_codes8(&r, &g->tensors[t], form));
    if (form == BD_RAW_NO_INT8) {
        *used = r.rd.pos;
        return BD_OK;
    }
    if (bd_rd_left(&r.rd))
        return BD_FAIL_AT(err, BD_E_NONCANON, place, "%llu bytes after the group's last code",
                          (unsigned long long)bd_rd_left(&r.rd));
    return BD_OK;
}
