#include "format/weight_group.h"

#include <stdlib.h>
#include <string.h>

#include "format/trellis.h"

static uint64_t up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

uint64_t bd_qtensor_scales(const bd_qtensor *q) {
    if (q->method == BD_Q_ROW || q->method == BD_Q_LQER) return q->rows;
    return q->method == BD_Q_TERNARY && q->group ? up(bd_qtensor_elements(q), q->group) : 0;
}

uint64_t bd_qtensor_lq_scales(const bd_qtensor *q) {
    return q->method == BD_Q_LQER && q->group ? 1 + up((uint64_t)q->rank * q->cols, q->group) : 0;
}

int bd_qtensor_qmax(const bd_qtensor *q) {
    if (q->method == BD_Q_ROW || q->method == BD_Q_LQER) return (1 << (q->bits - 1)) - 1;
    return q->method == BD_Q_TERNARY;
}

int bd_qtensor_index_max(const bd_qtensor *q) {
    if (q->method == BD_Q_LOG) return BD_LOG_OCTAVES * q->levels;
    return q->method == BD_Q_TCQ ? BD_TCQ_INDEX_MAX : 0;
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

static bd_status misfit(const bd_qtensor *q, const char *what, unsigned value, uint64_t place, bd_err *err) {
    return BD_FAIL_AT(err, BD_E_FIELD, place, "parameter %u: a %s of %u does not go with method %s and %u x %u",
                      q->param, what, value, bd_qmethod_name(q->method), q->rows, q->cols);
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
    bool int8 = q->method == BD_Q_ROW || q->method == BD_Q_LQER, lqer = q->method == BD_Q_LQER;
    if (int8 ? q->bits < 2 || q->bits > 8 : q->bits != 0) return misfit(q, "bits", q->bits, place, err);
    uint64_t n = bd_qtensor_elements(q);
    /* before the group: its limit depends on it */
    if (lqer ? q->rank < 1 || q->rank > BD_LQER_RANK_MAX : q->rank != 0)
        return misfit(q, "rank", q->rank, place, err);
    uint64_t grouped = q->method == BD_Q_TERNARY ? n : (uint64_t)q->rank * q->cols;
    if (grouped ? q->group < 1 || q->group > grouped : q->group != 0)
        return misfit(q, "group size", q->group, place, err);
    bd_trellis any;
    if (q->method == BD_Q_TCQ ? q->states != 1 && !bd_trellis_init(&any, q->states) : q->states != 0)
        return misfit(q, "number of states", q->states, place, err);
    if (q->kind >= (q->method == BD_Q_TCQ ? BD_TCQ_KINDS : 1)) return misfit(q, "kind", q->kind, place, err);
    bool power = q->levels && q->levels <= 32 && (q->levels & (q->levels - 1)) == 0;
    if (q->method == BD_Q_LOG ? !power : q->levels != 0)
        return misfit(q, "number of levels", q->levels, place, err);
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

bd_status bd_group_check_base(uint32_t bits, uint64_t place, bd_err *err) {
    BD_TRY(bd_group_check_f32(bits, place, err));
    /* 2^-40 .. 2^40; bit patterns of positive floats are in their order */
    if (bits < (uint32_t)(127 - 40) << 23 || bits > (uint32_t)(127 + 40) << 23)
        return BD_FAIL_AT(err, BD_E_RANGE, place, "base 0x%08x is outside 2^-40 .. 2^40", bits);
    return BD_OK;
}

static bd_status check_i8(const bd_qtensor *q, const int8_t *x, uint64_t n, int low, int high, const char *what,
                          uint64_t place, bd_err *err) {
    for (uint64_t i = 0; i < n; i++)
        if (x[i] < low || x[i] > high)
            return BD_FAIL_AT(err, BD_E_RANGE, place, "%s %d of parameter %u is outside [%d, %d]", what, x[i],
                              q->param, low, high);
    return BD_OK;
}

static bd_status check_i16(const bd_qtensor *q, const int16_t *x, uint64_t n, int most, const char *what,
                           uint64_t place, bd_err *err) {
    for (uint64_t i = 0; i < n; i++)
        if (x[i] < -most || x[i] > most)
            return BD_FAIL_AT(err, BD_E_RANGE, place, "%s %d of parameter %u is outside [%d, %d]", what, x[i],
                              q->param, -most, most);
    return BD_OK;
}

/* Every index has the parity that its state allows. */
static bd_status check_trellis(const bd_qtensor *q, uint64_t place, bd_err *err) {
    bd_trellis t;
    if (!bd_trellis_init(&t, q->states)) return BD_OK;
    int32_t *order = malloc((uint64_t)q->rows * sizeof *order);
    if (!order) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for the order of %u rows", q->rows);
    bd_trellis_order(order, q->row_exp, q->rows);
    bd_status st = BD_OK;
    for (uint64_t c = 0; c < q->cols && st == BD_OK; c++) {
        const int16_t *column = q->index + c * q->rows;
        uint32_t s = 0;
        for (uint32_t i = 0; i < q->rows; i++) {
            int x = column[order[i]];
            if (((unsigned)x & 1) != bd_trellis_superset(&t, s)) {
                st = BD_FAIL_AT(err, BD_E_FIELD, place,
                                "parameter %u, column %llu: the trellis does not allow index %d in row %d",
                                q->param, (unsigned long long)c, x, order[i]);
                break;
            }
            s = bd_trellis_next(&t, s, x);
        }
    }
    free(order);
    return st;
}

bd_status bd_group_check_codes(const bd_qtensor *q, uint64_t place, bd_err *err) {
    uint64_t n = bd_qtensor_elements(q);
    int qmax = bd_qtensor_qmax(q), most = bd_qtensor_index_max(q);
    if (q->method == BD_Q_TCQ) {
        BD_TRY(check_i16(q, q->row_exp, q->rows, BD_TCQ_EXP_MAX, "row exponent", place, err));
        BD_TRY(check_i16(q, q->col_exp, q->cols, BD_TCQ_EXP_MAX, "column exponent", place, err));
    }
    if (most) BD_TRY(check_i16(q, q->index, n, most, "index", place, err));
    if (q->method == BD_Q_TCQ) BD_TRY(check_trellis(q, place, err));
    if (qmax) BD_TRY(check_i8(q, q->codes, n, -qmax, qmax, "code", place, err));
    if (q->method != BD_Q_LQER) return BD_OK;
    BD_TRY(check_i8(q, q->lq_a, (uint64_t)q->rows * q->rank, -2, 1, "left factor", place, err));
    return check_i8(q, q->lq_b, (uint64_t)q->rank * q->cols, -8, 7, "right factor", place, err);
}

bd_status bd_group_check(const bd_qgroup *g, bd_err *err) {
    const uint64_t place = BD_NO_OFFSET;
    bd_group_budget all = {UINT64_MAX, UINT64_MAX};
    if (!g->name) return BD_FAIL(err, BD_E_FIELD, "a weight group has no name");
    BD_TRY(bd_group_check_name(g->name, strlen(g->name), place, err));
    BD_TRY(bd_group_check_count(g->n_tensors, &all, place, err));
    for (uint32_t t = 0; t < g->n_tensors; t++) {
        const bd_qtensor *q = &g->tensors[t];
        BD_TRY(bd_group_check_tensor(g->tensors, t, &all, place, err));
        uint64_t n = bd_qtensor_elements(q), scales = bd_qtensor_scales(q), lq = bd_qtensor_lq_scales(q);
        for (uint64_t i = 0; i < scales; i++) BD_TRY(bd_group_check_scale(q->scales[i], place, err));
        for (uint64_t i = 0; i < lq; i++) BD_TRY(bd_group_check_scale(q->lq_scales[i], place, err));
        if (q->method == BD_Q_F16)
            for (uint64_t i = 0; i < n; i++) BD_TRY(bd_group_check_f16(q->f16[i], place, err));
        if (q->method == BD_Q_F32)
            for (uint64_t i = 0; i < n; i++) BD_TRY(bd_group_check_f32(bd_float_bits(q->f32[i]), place, err));
        if (q->method == BD_Q_TCQ || q->method == BD_Q_LOG)
            BD_TRY(bd_group_check_base(bd_float_bits(q->base), place, err));
        BD_TRY(bd_group_check_codes(q, place, err));
    }
    return BD_OK;
}
