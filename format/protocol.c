#include "format/protocol.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Keys in the order of the text; `sgd`: only for that kind. */
typedef enum key_type { T_U32, T_F64 } key_type;
typedef struct key {
    const char *name;
    size_t offset;
    key_type type;
    bool sgd;
    double low, high; /* inclusive */
} key;

#define FIELD(f) offsetof(bd_protocol, f)
static const key keys[] = {
    {"window", FIELD(window), T_U32, false, 1, 65536}, {"stride", FIELD(stride), T_U32, false, 0, 65536},
    {"chunk", FIELD(chunk), T_U32, true, 1, 16777216}, {"epochs", FIELD(epochs), T_U32, true, 1, 1000},
    {"batch", FIELD(batch), T_U32, true, 1, 65536},    {"lr", FIELD(lr), T_F64, true, 0, 1000},
    {"momentum", FIELD(momentum), T_F64, true, 0, 1},  {"clip", FIELD(clip), T_F64, true, 0, 1e6},
    {"freeze", FIELD(freeze), T_U32, true, 0, 65536},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

static const char *const kinds[BD_PROTO_KIND_COUNT] = {"window", "sgd"};

void bd_protocol_default(bd_protocol *p) {
    memset(p, 0, sizeof *p);
    p->window = 1024;
}

const char *bd_protocol_kind_name(bd_protocol_kind k) {
    return (unsigned)k < BD_PROTO_KIND_COUNT ? kinds[k] : "unknown";
}

int bd_protocol_kind_find(const char *name) {
    for (int k = 0; k < BD_PROTO_KIND_COUNT; k++)
        if (strcmp(kinds[k], name) == 0) return k;
    return -1;
}

static uint32_t get_u32(const bd_protocol *p, const key *k) {
    uint32_t v;
    memcpy(&v, (const char *)p + k->offset, sizeof v);
    return v;
}
static double get_f64(const bd_protocol *p, const key *k) {
    double v;
    memcpy(&v, (const char *)p + k->offset, sizeof v);
    return v;
}

bd_status bd_protocol_check(const bd_protocol *p, bd_err *err) {
    if ((unsigned)p->kind >= BD_PROTO_KIND_COUNT)
        return BD_FAIL(err, BD_E_RANGE, "protocol: unknown kind %u", (unsigned)p->kind);
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (k->sgd && p->kind != BD_PROTO_SGD) continue;
        double v = k->type == T_U32 ? get_u32(p, k) : get_f64(p, k);
        if (!(v >= k->low && v <= k->high))
            return BD_FAIL(err, BD_E_RANGE, "protocol: %s is %.17g; it must be in [%.17g, %.17g]", k->name, v,
                           k->low, k->high);
        if (k->type == T_F64 && v != 0 && v < 0x1p-1022)
            return BD_FAIL(err, BD_E_RANGE, "protocol: %s is too close to zero", k->name);
    }
    if (p->stride > p->window)
        return BD_FAIL(err, BD_E_RANGE, "protocol: stride %u exceeds window %u", p->stride, p->window);
    return BD_OK;
}

/* The shortest C99 hex float of a normal, nonnegative double: independent of locale and C library. */
static void print_hex(bd_buf *out, double v) {
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    if (u << 1 == 0) {
        bd_buf_printf(out, "0x0p+0");
        return;
    }
    int exponent = (int)(u >> 52 & 2047) - 1023;
    uint64_t fraction = u & (((uint64_t)1 << 52) - 1);
    bd_buf_printf(out, "0x1");
    if (fraction) {
        char digits[14];
        int n = 13;
        for (int i = 0; i < 13; i++) digits[i] = "0123456789abcdef"[fraction >> (48 - 4 * i) & 15];
        while (digits[n - 1] == '0') n--;
        digits[n] = 0;
        bd_buf_printf(out, ".%s", digits);
    }
    bd_buf_printf(out, "p%c%d", exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
}

bd_status bd_protocol_print(const bd_protocol *p, bd_buf *out, bd_err *err) {
    BD_TRY(bd_protocol_check(p, err));
    bd_buf_printf(out, "kind %s\n", kinds[p->kind]);
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (k->sgd && p->kind != BD_PROTO_SGD) continue;
        bd_buf_printf(out, "%s ", k->name);
        /* A stride of the whole window and none at all mean the same; 0 is the spelling. */
        if (k->type == T_F64) print_hex(out, get_f64(p, k));
        else if (k->offset == FIELD(stride) && p->stride == p->window) bd_buf_printf(out, "0");
        else bd_buf_printf(out, "%u", get_u32(p, k));
        bd_buf_printf(out, "\n");
    }
    return bd_buf_check(out, err);
}

/* --- parsing --- */

typedef struct text {
    const char *p;
    uint64_t size, pos;
} text;

/* Skips `word` if it comes next. */
static bool skip(text *t, const char *word) {
    size_t n = strlen(word);
    if (t->size - t->pos < n || memcmp(t->p + t->pos, word, n) != 0) return false;
    t->pos += n;
    return true;
}

static bool read_u32(text *t, uint32_t *v) {
    uint64_t x = 0, start = t->pos;
    while (t->pos < t->size && t->p[t->pos] >= '0' && t->p[t->pos] <= '9' && x <= UINT32_MAX)
        x = x * 10 + (uint64_t)(t->p[t->pos++] - '0');
    if (t->pos == start || x > UINT32_MAX || (t->p[start] == '0' && t->pos > start + 1)) return false;
    *v = (uint32_t)x;
    return true;
}

static int hex_digit(const text *t) {
    if (t->pos == t->size) return -1;
    char c = t->p[t->pos];
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(text *t, double *v) {
    *v = 0;
    if (skip(t, "0x0p+0")) return true;
    if (!skip(t, "0x1")) return false;
    uint64_t fraction = 0;
    if (skip(t, ".")) {
        int n = 0, d, last = 0;
        for (; n < 13 && (d = hex_digit(t)) >= 0; n++, t->pos++) fraction = fraction << 4 | (unsigned)(last = d);
        if (n == 0 || last == 0) return false;
        fraction <<= 4 * (13 - n);
    }
    bool negative;
    uint32_t e;
    if (skip(t, "p+")) negative = false;
    else if (skip(t, "p-")) negative = true;
    else return false;
    if (!read_u32(t, &e) || e > (negative ? 1022 : 1023) || (negative && e == 0)) return false;
    uint64_t u = (uint64_t)(negative ? 1023 - e : 1023 + e) << 52 | fraction;
    memcpy(v, &u, sizeof u);
    return true;
}

bd_status bd_protocol_parse(bd_protocol *p, const char *source, uint64_t size, bd_err *err) {
    text t = {source, size, 0};
    bd_protocol_default(p);
    if (!skip(&t, "kind ")) return BD_FAIL_AT(err, BD_E_SYNTAX, t.pos, "protocol: expected \"kind\"");
    int kind = 0;
    while (kind < BD_PROTO_KIND_COUNT && !skip(&t, kinds[kind])) kind++;
    if (kind == BD_PROTO_KIND_COUNT || !skip(&t, "\n"))
        return BD_FAIL_AT(err, BD_E_SYNTAX, t.pos, "protocol: unknown kind");
    p->kind = (bd_protocol_kind)kind;
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (k->sgd && kind != BD_PROTO_SGD) continue;
        if (!skip(&t, k->name) || !skip(&t, " "))
            return BD_FAIL_AT(err, BD_E_SYNTAX, t.pos, "protocol: expected \"%s\"", k->name);
        char *field = (char *)p + k->offset;
        uint32_t u = 0;
        double d = 0;
        bool fine = k->type == T_U32 ? read_u32(&t, &u) : read_hex(&t, &d);
        if (!fine || !skip(&t, "\n"))
            return BD_FAIL_AT(err, BD_E_SYNTAX, t.pos, "protocol: %s needs %s in its canonical spelling", k->name,
                              k->type == T_U32 ? "an integer" : "a hex float");
        if (k->type == T_U32) memcpy(field, &u, sizeof u);
        else memcpy(field, &d, sizeof d);
    }
    if (t.pos != t.size) return BD_FAIL_AT(err, BD_E_SYNTAX, t.pos, "protocol: text after its last line");
    BD_TRY(bd_protocol_check(p, err));
    if (p->stride == p->window)
        return BD_FAIL_AT(err, BD_E_NONCANON, 0, "protocol: a stride equal to the window is spelled 0");
    return BD_OK;
}
