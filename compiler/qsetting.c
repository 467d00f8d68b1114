#include "compiler/qsetting.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"

typedef enum kind { INT, UINT, REAL } kind;

static const struct {
    const char *key;
    unsigned bit;
    kind kind;
    size_t at;
} fields[] = {
    {"bits", BD_QF_BITS, INT, offsetof(bd_qsetting, bits)},
    {"k", BD_QF_K, REAL, offsetof(bd_qsetting, k)},
    {"group", BD_QF_GROUP, UINT, offsetof(bd_qsetting, group)},
    {"states", BD_QF_STATES, INT, offsetof(bd_qsetting, states)},
    {"step", BD_QF_STEP, REAL, offsetof(bd_qsetting, step)},
    {"lambda", BD_QF_LAMBDA, REAL, offsetof(bd_qsetting, lambda)},
    {"levels", BD_QF_LEVELS, INT, offsetof(bd_qsetting, levels)},
    {"rank", BD_QF_RANK, INT, offsetof(bd_qsetting, rank)},
    {"quantile", BD_QF_QUANTILE, REAL, offsetof(bd_qsetting, quantile)},
    {"floor", BD_QF_FLOOR, REAL, offsetof(bd_qsetting, floor)},
    {"multiple", BD_QF_MULTIPLE, INT, offsetof(bd_qsetting, multiple)},
    {"threshold", BD_QF_THRESHOLD, REAL, offsetof(bd_qsetting, threshold)},
    {"mult", BD_QF_MULT, REAL, offsetof(bd_qsetting, mult)},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static void *at(bd_qsetting *s, int f) { return (char *)s + fields[f].at; }
static const void *at_const(const bd_qsetting *s, int f) { return (const char *)s + fields[f].at; }

bd_status bd_qsetting_init(bd_qsetting *s, const char *quantizer, bd_err *err) {
    const bd_quantizer *by = bd_quantizer_find(quantizer);
    if (!by) {
        char names[256] = "";
        for (int i = 0; bd_quantizers[i]; i++) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", bd_quantizers[i]->name);
        }
        return BD_FAIL(err, BD_E_UNKNOWN, "no quantizer \"%.40s\"; there are %s", quantizer, names);
    }
    *s = by->defaults;
    s->by = by;
    return BD_OK;
}

static bd_status unknown_key(const bd_qsetting *s, const char *key, bd_err *err) {
    const char *own[N_FIELDS];
    int n = 0;
    for (int f = 0; f < N_FIELDS; f++)
        if (s->by->fields & fields[f].bit) own[n++] = fields[f].key;
    const char *near = bd_nearest(key, own, n);
    return BD_FAIL(err, BD_E_UNKNOWN, "quantizer %s has no setting %.40s%s%s%s", s->by->name, key,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

bd_status bd_qsetting_set(bd_qsetting *s, const char *key, double v, bd_err *err) {
    int f = 0;
    while (f < N_FIELDS && !(s->by->fields & fields[f].bit && !strcmp(fields[f].key, key))) f++;
    if (f == N_FIELDS) return unknown_key(s, key, err);
    if (fields[f].kind == REAL) {
        float x = (float)v;
        if (!isfinite(x)) return BD_FAIL(err, BD_E_RANGE, "%s=%g is out of range", key, v);
        memcpy(at(s, f), &x, sizeof x);
    } else {
        if (!(v >= (fields[f].kind == INT ? -1e9 : 0) && v <= 1e9) || nearbyint(v) != v)
            return BD_FAIL(err, BD_E_RANGE, "%s=%g is not an integer in range", key, v);
        int i = (int)v;
        uint32_t u = (uint32_t)v;
        if (fields[f].kind == INT) memcpy(at(s, f), &i, sizeof i);
        else memcpy(at(s, f), &u, sizeof u);
    }
    return BD_OK;
}

bd_status bd_qsetting_set_text(bd_qsetting *s, const char *key, const char *value, bd_err *err) {
    char *end;
    /* No spaces, no hexadecimal, no words like nan. */
    bool plain = *value && strspn(value, "0123456789+-.eE") == strlen(value);
    double v = plain ? strtod(value, &end) : 0;
    if (!plain || *end) {
        if (!bd_qsetting_field(key)) return unknown_key(s, key, err);
        return BD_FAIL(err, BD_E_RANGE, "%.40s=%.40s is not a number", key, value);
    }
    return bd_qsetting_set(s, key, v, err);
}

bd_status bd_qsetting_read(bd_qsetting *s, const char *text, bd_err *err) {
    while (*text) {
        char key[32] = "", value[32] = "";
        int used = 0;
        if (sscanf(text, "%31[^= ]=%31[^ ]%n", key, value, &used) != 2)
            return BD_FAIL(err, BD_E_SYNTAX, "\"%.60s\" is not key=value", text);
        BD_TRY(bd_qsetting_set_text(s, key, value, err));
        text += used;
        while (*text == ' ') text++;
    }
    return BD_OK;
}

unsigned bd_qsetting_field(const char *key) {
    for (int f = 0; f < N_FIELDS; f++)
        if (!strcmp(fields[f].key, key)) return fields[f].bit;
    return 0;
}

bool bd_qsetting_same(const bd_qsetting *a, const bd_qsetting *b) {
    if (a->by != b->by) return false;
    for (int f = 0; a->by && f < N_FIELDS; f++)
        if (a->by->fields & fields[f].bit && memcmp(at_const(a, f), at_const(b, f), 4) != 0) return false;
    return true;
}

void bd_qsetting_print(bd_qsetting_words *out, const bd_qsetting *s) {
    out->n = 0;
    for (int f = 0; f < N_FIELDS && out->n < BD_PLAN_PARAMS_MAX; f++) {
        if (!(s->by->fields & fields[f].bit)) continue;
        char *text = out->text[out->n];
        float x;
        int i;
        uint32_t u;
        if (fields[f].kind == REAL) {
            memcpy(&x, at_const(s, f), sizeof x);
            /* The shortest that reads back the same. */
            for (int digits = 6; digits <= 9; digits++) {
                snprintf(text, BD_QSETTING_TEXT, "%.*g", digits, (double)x);
                if ((float)strtod(text, NULL) == x) break;
            }
        } else if (fields[f].kind == INT) {
            memcpy(&i, at_const(s, f), sizeof i);
            snprintf(text, BD_QSETTING_TEXT, "%d", i);
        } else {
            memcpy(&u, at_const(s, f), sizeof u);
            snprintf(text, BD_QSETTING_TEXT, "%u", u);
        }
        out->params[out->n] = (bd_plan_param){fields[f].key, text};
        out->n++;
    }
}
