#include "format/ternary_pack.h"

static uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

uint64_t bd_ternary_size(uint64_t n, uint64_t nonzero, uint8_t *form) {
    uint64_t base3 = ceil_div(n, 5), mask = ceil_div(n, 8) + ceil_div(nonzero, 8);
    *form = mask < base3 ? BD_TERNARY_MASK : BD_TERNARY_BASE3;
    return mask < base3 ? mask : base3;
}

static uint64_t count_nonzero(const int8_t *codes, uint64_t n) {
    uint64_t nz = 0;
    for (uint64_t i = 0; i < n; i++) nz += codes[i] != 0;
    return nz;
}

void bd_ternary_write(bd_buf *out, const int8_t *codes, uint64_t n) {
    uint8_t form;
    bd_ternary_size(n, count_nonzero(codes, n), &form);
    bd_buf_u8(out, form);
    if (form == BD_TERNARY_BASE3) {
        static const uint8_t weight[5] = {1, 3, 9, 27, 81};
        for (uint64_t i = 0; i < n; i += 5) {
            unsigned byte = 0;
            for (unsigned k = 0; k < 5 && i + k < n; k++)
                byte += weight[k] * (codes[i + k] == 0 ? 0u : codes[i + k] > 0 ? 1u : 2u);
            bd_buf_u8(out, (uint8_t)byte);
        }
        return;
    }
    for (uint64_t i = 0; i < n; i += 8) {
        unsigned byte = 0;
        for (unsigned k = 0; k < 8 && i + k < n; k++) byte |= (unsigned)(codes[i + k] != 0) << k;
        bd_buf_u8(out, (uint8_t)byte);
    }
    unsigned byte = 0, k = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (codes[i] == 0) continue;
        byte |= (unsigned)(codes[i] < 0) << k;
        if (++k == 8) {
            bd_buf_u8(out, (uint8_t)byte);
            byte = k = 0;
        }
    }
    if (k) bd_buf_u8(out, (uint8_t)byte);
}

static bd_status read_base3(const uint8_t *p, int8_t *codes, uint64_t n, uint64_t place, bd_err *err) {
    static const int8_t digit[3] = {0, 1, -1};
    for (uint64_t i = 0; i < n; i += 5) {
        unsigned byte = p[i / 5];
        if (byte > 242) return BD_FAIL_AT(err, BD_E_RANGE, place, "byte %u does not hold five base-3 digits", byte);
        for (unsigned k = 0; k < 5; k++, byte /= 3) {
            if (i + k < n) codes[i + k] = digit[byte % 3];
            else if (byte % 3)
                return BD_FAIL_AT(err, BD_E_NONCANON, place, "padding digits of ternary codes are not zero");
        }
    }
    return BD_OK;
}

bd_status bd_ternary_read(bd_rd *r, int8_t **codes, uint64_t n, int8_t *(*alloc)(void *user, uint64_t n),
                          void *user, uint64_t place, bd_err *err) {
    uint8_t form = bd_rd_u8(r), best;
    if (r->failed) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends before ternary codes");
    if (form > BD_TERNARY_MASK) return BD_FAIL_AT(err, BD_E_FIELD, place, "unknown form %u of ternary codes", form);
    const uint8_t *p = bd_rd_bytes(r, ceil_div(n, form == BD_TERNARY_BASE3 ? 5 : 8));
    if (!p) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside ternary codes");
    int8_t *c = *codes = alloc(user, n);
    if (!c) return BD_FAIL_AT(err, BD_E_NOMEM, place, "no memory for %llu ternary codes", (unsigned long long)n);
    uint64_t nz = 0;
    if (form == BD_TERNARY_BASE3) {
        BD_TRY(read_base3(p, c, n, place, err));
        nz = count_nonzero(c, n);
    } else {
        for (uint64_t i = 0; i < n; i++) nz += (c[i] = p[i / 8] >> (i % 8) & 1);
        if (n % 8 && p[n / 8] >> (n % 8))
            return BD_FAIL_AT(err, BD_E_NONCANON, place, "padding bits of a ternary mask are not zero");
        const uint8_t *sign = bd_rd_bytes(r, ceil_div(nz, 8));
        if (!sign) return BD_FAIL_AT(err, BD_E_TRUNCATED, place, "the group ends inside ternary signs");
        uint64_t k = 0;
        for (uint64_t i = 0; i < n; i++) {
            if (!c[i]) continue;
            if (sign[k / 8] >> (k % 8) & 1) c[i] = -1;
            k++;
        }
        if (nz % 8 && sign[nz / 8] >> (nz % 8))
            return BD_FAIL_AT(err, BD_E_NONCANON, place, "padding bits of ternary signs are not zero");
    }
    bd_ternary_size(n, nz, &best);
    if (best != form) return BD_FAIL_AT(err, BD_E_NONCANON, place, "ternary codes are not in their smaller form");
    return BD_OK;
}
