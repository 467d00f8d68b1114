#include "format/weight_group.h"

#include <string.h>

#include "base/half.h"
#include "format/ternary_pack.h"

uint64_t bd_qtensor_scales(const bd_qtensor *q) {
    if (q->method == BD_Q_ROW) return q->rows;
    if (q->method != BD_Q_TERNARY || q->group == 0) return 0;
    uint64_t n = bd_qtensor_elements(q);
    return n / q->group + (n % q->group != 0);
}

int bd_qtensor_qmax(const bd_qtensor *q) {
    if (q->method == BD_Q_ROW) return (1 << (q->bits - 1)) - 1;
    return q->method == BD_Q_TERNARY;
}

void bd_qtensor_dequant(const bd_qtensor *q, float *out) {
    uint64_t n = bd_qtensor_elements(q);
    switch (q->method) {
        case BD_Q_F16:
            for (uint64_t i = 0; i < n; i++) out[i] = bd_f16_to_f32(q->f16[i]);
            break;
        case BD_Q_F32: memcpy(out, q->f32, n * sizeof *out); break;
        case BD_Q_ROW:
            for (uint64_t r = 0; r < q->rows; r++) {
                float s = bd_f16_to_f32(q->scales[r]);
                for (uint64_t c = 0; c < q->cols; c++) out[r * q->cols + c] = (float)q->codes[r * q->cols + c] * s;
            }
            break;
        case BD_Q_TERNARY:
            for (uint64_t i = 0; i < n; i++) out[i] = (float)q->codes[i] * bd_f16_to_f32(q->scales[i / q->group]);
            break;
        case BD_Q_COUNT: BD_ASSERT(!"a tensor method");
    }
}

bd_status bd_group_check_name(const char *name, uint64_t len, uint64_t place, bd_err *err) {
    if (len < 1 || len > BD_GROUP_NAME_MAX)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "a weight group's name has 1 to %d bytes, not %llu",
                          BD_GROUP_NAME_MAX, (unsigned long long)len);
    for (uint64_t i = 0; i < len; i++)
        if (name[i] < 0x21 || name[i] > 0x7e)
            return BD_FAIL_AT(err, BD_E_FIELD, place,
                              "byte 0x%02x in a weight group's name: printable ASCII without spaces is allowed",
                              (unsigned char)name[i]);
    return BD_OK;
}

bd_status bd_group_check_count(uint64_t n, bd_group_budget *budget, uint64_t place, bd_err *err) {
    if (n < 1 || n > BD_GROUP_TENSORS_MAX)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "a weight group has 1 to %d tensors, not %llu",
                          BD_GROUP_TENSORS_MAX, (unsigned long long)n);
    if (n > budget->tensors)
        return BD_FAIL_AT(err, BD_E_LIMIT, place, "more tensors than allowed (%llu are left)",
                          (unsigned long long)budget->tensors);
    budget->tensors -= n;
    return BD_OK;
}

bd_status bd_group_check_tensor(const bd_qtensor *t, uint32_t i, bd_group_budget *budget, uint64_t place,
                                bd_err *err) {
    const bd_qtensor *q = &t[i];
    if (i && q->param <= t[i - 1].param)
        return BD_FAIL_AT(err, BD_E_NONCANON, place,
                          "parameter %u after %u: a group's tensors are in increasing order", q->param,
                          t[i - 1].param);
    if (q->param > BD_PARAM_MAX) return BD_FAIL_AT(err, BD_E_FIELD, place, "a parameter index of 2^31 or more");
    if (q->rows == 0 || q->cols == 0)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "parameter %u has no elements", q->param);
    if ((unsigned)q->method >= BD_Q_COUNT)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "parameter %u has the unknown method %u", q->param,
                          (unsigned)q->method);
    if (q->method == BD_Q_ROW ? q->bits < 2 || q->bits > 8 : q->bits != 0)
        return BD_FAIL_AT(err, BD_E_FIELD, place, "parameter %u: %u bits do not go with method %s", q->param,
                          q->bits, bd_qmethod_name(q->method));
    uint64_t n = bd_qtensor_elements(q);
    if (q->method == BD_Q_TERNARY ? q->group < 1 || q->group > n : q->group != 0)
        return BD_FAIL_AT(err, BD_E_FIELD, place,
                          "parameter %u: a group size of %u does not go with method %s and %llu elements", q->param,
                          q->group, bd_qmethod_name(q->method), (unsigned long long)n);
    if (n > budget->elements)
        return BD_FAIL_AT(err, BD_E_LIMIT, place, "parameter %u has %llu elements; %llu are left of the limit",
                          q->param, (unsigned long long)n, (unsigned long long)budget->elements);
    budget->elements -= n;
    return BD_OK;
}

bd_status bd_group_check_scale(uint16_t h, uint64_t place, bd_err *err) {
    BD_TRY(bd_group_check_f16(h, place, err));
    if (h & 0x8000) return BD_FAIL_AT(err, BD_E_NONCANON, place, "a scale has its sign bit set");
    return BD_OK;
}

bd_status bd_group_check_f16(uint16_t h, uint64_t place, bd_err *err) {
    if ((h & 0x7c00) == 0x7c00)
        return BD_FAIL_AT(err, BD_E_NONFINITE, place, "binary16 value 0x%04x is not finite", h);
    return BD_OK;
}

bd_status bd_group_check_f32(uint32_t bits, uint64_t place, bd_err *err) {
    if ((bits & 0x7f800000) == 0x7f800000)
        return BD_FAIL_AT(err, BD_E_NONFINITE, place, "float value 0x%08x is not finite", bits);
    return BD_OK;
}

static uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

bd_status bd_group_check(const bd_qgroup *g, bd_err *err) {
    bd_group_budget all = {UINT64_MAX, UINT64_MAX};
    if (!g->name) return BD_FAIL(err, BD_E_FIELD, "a weight group has no name");
    BD_TRY(bd_group_check_name(g->name, strlen(g->name), BD_NO_OFFSET, err));
    BD_TRY(bd_group_check_count(g->n_tensors, &all, BD_NO_OFFSET, err));
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        BD_TRY(bd_group_check_tensor(g->tensors, t, &all, BD_NO_OFFSET, err));
        uint64_t n = bd_qtensor_elements(q), scales = bd_qtensor_scales(q);
        for (uint64_t i = 0; i < scales; i++) BD_TRY(bd_group_check_scale(q->scales[i], BD_NO_OFFSET, err));
        if (q->method == BD_Q_F16)
            for (uint64_t i = 0; i < n; i++) BD_TRY(bd_group_check_f16(q->f16[i], BD_NO_OFFSET, err));
        else if (q->method == BD_Q_F32)
            for (uint64_t i = 0; i < n; i++) BD_TRY(bd_group_check_f32(float_bits(q->f32[i]), BD_NO_OFFSET, err));
        int qmax = bd_qtensor_qmax(q);
        for (uint64_t i = 0; qmax && i < n; i++)
            if (q->codes[i] < -qmax || q->codes[i] > qmax)
                return BD_FAIL(err, BD_E_RANGE, "code %d of parameter %u is outside [-%d, %d]", q->codes[i],
                               q->param, qmax, qmax);
    }
    return BD_OK;
}

static uint64_t count_nonzero(const int8_t *codes, uint64_t n) {
    uint64_t nz = 0;
    for (uint64_t i = 0; i < n; i++) nz += codes[i] != 0;
    return nz;
}

/* Cannot overflow: at most 65,536 tensors of less than 2^32 x 2^32 elements are refused by the budget first. */
static uint64_t raw_size(const bd_qgroup *g, bool smallest) {
    uint64_t size = 1 + strlen(g->name) + 4 + (uint64_t)g->n_tensors * BD_GROUP_HEADER;
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        uint64_t n = bd_qtensor_elements(q);
        uint8_t form;
        size += 2 * bd_qtensor_scales(q);
        switch (q->method) {
            case BD_Q_F16: size += 2 * n; break;
            case BD_Q_F32: size += 4 * n; break;
            case BD_Q_ROW: size += n; break;
            default: size += 1 + bd_ternary_size(n, smallest ? 0 : count_nonzero(q->codes, n), &form); break;
        }
    }
    return size;
}

uint64_t bd_group_raw_size(const bd_qgroup *g) { return raw_size(g, false); }
uint64_t bd_group_raw_size_min(const bd_qgroup *g) { return raw_size(g, true); }

/* 16-bit words of a tensor in the group's word planes. */
static const uint16_t *words16(const bd_qtensor *q, uint64_t *n) {
    *n = q->method == BD_Q_F16 ? bd_qtensor_elements(q) : bd_qtensor_scales(q);
    return q->method == BD_Q_F16 ? q->f16 : q->scales;
}

void bd_group_raw_write(const bd_qgroup *g, bd_buf *out) {
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
    }
    for (unsigned plane = 0; plane < 2; plane++)
        for (uint32_t t = 0; t < g->n_tensors; t++) {
            uint64_t n;
            const uint16_t *w = words16(&g->tensors[t], &n);
            for (uint64_t i = 0; i < n; i++) bd_buf_u8(out, (uint8_t)(w[i] >> (8 * plane)));
        }
    for (unsigned plane = 0; plane < 4; plane++)
        for (uint32_t t = 0; t < g->n_tensors; t++) {
            const bd_qtensor *q = &g->tensors[t];
            if (q->method != BD_Q_F32) continue;
            for (uint64_t i = 0; i < bd_qtensor_elements(q); i++)
                bd_buf_u8(out, (uint8_t)(float_bits(q->f32[i]) >> (8 * plane)));
        }
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        if (q->method == BD_Q_ROW) bd_buf_put(out, q->codes, bd_qtensor_elements(q));
        if (q->method == BD_Q_TERNARY) bd_ternary_write(out, q->codes, bd_qtensor_elements(q));
    }
}

static int8_t *alloc_codes(void *user, uint64_t n) { return bd_arena_alloc(user, n, 1); }

static bd_status read_words(bd_qgroup *g, bd_arena *arena, bd_rd *r, uint64_t place, bd_err *err) {
    uint64_t n16 = 0, n32 = 0;
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        uint64_t n;
        words16(&g->tensors[t], &n);
        n16 += n;
        if (g->tensors[t].method == BD_Q_F32) n32 += bd_qtensor_elements(&g->tensors[t]);
    }
    const uint8_t *p16 = bd_rd_bytes(r, 2 * n16), *p32 = bd_rd_bytes(r, 4 * n32);
    if (!p16 || !p32) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside scales or values");
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        bd_qtensor *q = &g->tensors[t];
        uint64_t n;
        words16(q, &n);
        if (n) {
            uint16_t *w = bd_arena_alloc(arena, n, sizeof *w);
            if (!w) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %llu scales", (unsigned long long)n);
            if (q->method == BD_Q_F16) q->f16 = w;
            else q->scales = w;
            for (uint64_t i = 0; i < n; i++) {
                w[i] = (uint16_t)(p16[i] | p16[n16 + i] << 8);
                BD_TRY(q->method == BD_Q_F16 ? bd_group_check_f16(w[i], place, err)
                                             : bd_group_check_scale(w[i], place, err));
            }
            p16 += n;
        }
        if (q->method != BD_Q_F32) continue;
        n = bd_qtensor_elements(q);
        q->f32 = bd_arena_alloc(arena, n, sizeof *q->f32);
        if (!q->f32) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %llu values", (unsigned long long)n);
        for (uint64_t i = 0; i < n; i++) {
            uint32_t u = p32[i] | (uint32_t)p32[n32 + i] << 8 | (uint32_t)p32[2 * n32 + i] << 16 |
                         (uint32_t)p32[3 * n32 + i] << 24;
            BD_TRY(bd_group_check_f32(u, place, err));
            memcpy(&q->f32[i], &u, sizeof u);
        }
        p32 += n;
    }
    return BD_OK;
}

bd_status bd_group_raw_read(bd_qgroup *g, bd_arena *arena, const uint8_t *data, uint64_t size,
                            bd_group_budget *budget, uint64_t place, bd_err *err) {
    bd_rd r;
    bd_rd_init(&r, data, size);
    uint8_t len = bd_rd_u8(&r);
    const uint8_t *name = bd_rd_bytes(&r, len);
    if (!name) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside its name");
    BD_TRY(bd_group_check_name((const char *)name, len, place, err));
    uint32_t n = bd_rd_u32(&r);
    if (r.failed) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends before its tensors");
    BD_TRY(bd_group_check_count(n, budget, place, err));
    if (bd_rd_left(&r) < (uint64_t)n * BD_GROUP_HEADER)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside the headers of %u tensors", n);
    g->name = bd_arena_strdup(arena, (const char *)name, len);
    g->tensors = bd_arena_alloc(arena, n, sizeof *g->tensors);
    if (!g->name || !g->tensors) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %u tensors", n);
    g->n_tensors = n;
    for (uint32_t t = 0; t < n; t++) {
        bd_qtensor *q = &g->tensors[t];
        q->param = bd_rd_u32(&r);
        q->rows = bd_rd_u32(&r);
        q->cols = bd_rd_u32(&r);
        q->method = (bd_qmethod)bd_rd_u8(&r);
        q->bits = bd_rd_u8(&r);
        q->group = bd_rd_u32(&r);
        BD_TRY(bd_group_check_tensor(g->tensors, t, budget, place, err));
    }
    BD_TRY(read_words(g, arena, &r, place, err));
    for (uint32_t t = 0; t < n; t++) {
        bd_qtensor *q = &g->tensors[t];
        uint64_t count = bd_qtensor_elements(q);
        if (q->method == BD_Q_TERNARY)
            BD_TRY(bd_ternary_read(&r, &q->codes, count, alloc_codes, arena, place, err));
        if (q->method != BD_Q_ROW) continue;
        const uint8_t *p = bd_rd_bytes(&r, count);
        if (!p)
            return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside the codes of parameter %u",
                              q->param);
        q->codes = bd_arena_alloc(arena, count, 1);
        if (!q->codes)
            return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %llu codes", (unsigned long long)count);
        memcpy(q->codes, p, count);
        int qmax = bd_qtensor_qmax(q);
        for (uint64_t i = 0; i < count; i++)
            if (q->codes[i] < -qmax || q->codes[i] > qmax)
                return BD_FAIL_AT(err, BD_E_RANGE, place, "code %d of parameter %u is outside [-%d, %d]",
                                  q->codes[i], q->param, qmax, qmax);
    }
    if (bd_rd_left(&r))
        return BD_FAIL_AT(err, BD_E_NONCANON, place, "%llu bytes after the group's last code",
                          (unsigned long long)bd_rd_left(&r));
    return BD_OK;
}
