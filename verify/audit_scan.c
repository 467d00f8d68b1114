#include "verify/audit_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static size_t digits(const char *s, size_t n) {
    size_t k = 0;
    while (k < n && s[k] >= '0' && s[k] <= '9') k++;
    return k;
}

size_t bd_number_scan(bd_number *x, const char *s, size_t n) {
    static const char *const words[] = {"nan", "infinity", "inf"};
    char text[48];
    *x = (bd_number){0};
    size_t i = n && (s[0] == '-' || s[0] == '+');
    for (int w = 0; w < 3; w++) {
        size_t k = strlen(words[w]);
        if (n - i >= k && strncasecmp(s + i, words[w], k) == 0) {
            x->present = true;
            return i + k;
        }
    }
    size_t whole = digits(s + i, n - i), part = 0;
    if (!whole) return 0;
    i += whole;
    if (i < n && s[i] == '.') {
        part = digits(s + i + 1, n - i - 1);
        i += 1 + part;
    }
    long exponent = 0;
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        size_t k = i + 1 + (i + 1 < n && (s[i + 1] == '-' || s[i + 1] == '+')), d = digits(s + k, n - k);
        if (d && d < 6) {
            memcpy(text, s + i + 1, k + d - i - 1);
            text[k + d - i - 1] = 0;
            exponent = strtol(text, NULL, 10);
            i = k + d;
        }
    }
    if (i > 40) return 0;
    memcpy(text, s, i);
    text[i] = 0;
    x->present = true;
    x->v = strtod(text, NULL);
    x->finite = isfinite(x->v);
    if (!x->finite) x->v = 0;
    x->decimals = (int)part - (int)exponent;
    return i;
}

static double unit(const bd_number *x) {
    double u = 1;
    int d = x->decimals < -300 ? -300 : x->decimals > 300 ? 300 : x->decimals;
    for (; d > 0; d--) u /= 10;
    for (; d < 0; d++) u *= 10;
    return u;
}

bool bd_number_agrees(const bd_number *claimed, double exact, double slack) {
    if (!claimed->present || !claimed->finite || !isfinite(exact)) return false;
    double u = unit(claimed);
    return fabs(claimed->v - exact) <= u * (0.5 + slack) + 1e-12 * fabs(exact);
}

double bd_number_uncertainty(const bd_number *x) { return x->finite && x->v != 0 ? fabs(unit(x) / 2 / x->v) : 0; }

static size_t scan_digits(bd_field *f, const char *s, size_t n) {
    size_t i = 0;
    uint64_t v = 0;
    while (i < n && ((s[i] >= '0' && s[i] <= '9') ||
                     (s[i] == ',' && i && i + 1 < n && s[i + 1] >= '0' && s[i + 1] <= '9'))) {
        if (s[i] != ',') {
            uint64_t d = (uint64_t)(s[i] - '0');
            if (v > (UINT64_MAX >> 1) / 10 - 1) return 0; /* such a number means nothing */
            v = v * 10 + d;
        }
        i++;
    }
    f->u = v;
    f->x = (bd_number){.present = true, .finite = true, .v = (double)v};
    return i;
}

int bd_scan(const char *pattern, const char *line, size_t n, bd_field out[BD_SCAN_FIELDS]) {
    size_t i = 0;
    int k = 0;
    for (const char *p = pattern; *p; p++) {
        if (*p != '%' || p[1] == '%') {
            p += *p == '%';
            if (i >= n || line[i] != *p) return -1;
            i++;
            continue;
        }
        char kind = *++p;
        if (kind == '$') return i == n ? k : -1;
        if (kind == '_') {
            while (i < n && (line[i] == ' ' || line[i] == '\t')) i++;
            continue;
        }
        if (kind == '*') {
            size_t len = strcspn(p + 1, "%");
            const char *at = n - i >= len ? memmem(line + i, n - i, p + 1, len) : NULL;
            if (!at) return -1;
            i = (size_t)(at - line);
            continue;
        }
        bd_field *f = &out[k];
        memset(f, 0, sizeof *f);
        size_t used = 0;
        if (kind == 'u') used = scan_digits(f, line + i, n - i);
        else if (kind == 'f') used = bd_number_scan(&f->x, line + i, n - i);
        else
            while (i + used < n && line[i + used] != ' ' && line[i + used] != '\t') used++;
        if (!used || ++k > BD_SCAN_FIELDS - 1) return -1;
        f->s = line + i;
        f->n = used;
        i += used;
    }
    return k;
}
