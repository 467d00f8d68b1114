#include "format/plan_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1 << 20, MAX_LINES = 65536, MAX_WORDS = 16 };

int bd_qmethod_find(const char *name) {
    for (int i = 0; i < BD_Q_COUNT; i++)
        if (!strcmp(bd_qmethod_name((bd_qmethod)i), name)) return i;
    return -1;
}

int bd_codec_find(const char *name) {
    for (int i = 0; i < BD_CODEC_COUNT; i++)
        if (!strcmp(bd_codec_name((bd_codec)i), name)) return i;
    return -1;
}

bd_status bd_plan_print(const bd_plan *p, bd_buf *out, bd_err *err) {
    bd_buf_printf(out, "birdie-plan 1\nbudget %" PRIu64 "\n", p->budget);
    if (p->codecs[0]) bd_buf_printf(out, "codecs %s\n", p->codecs);
    if (p->calib_tokens) bd_buf_printf(out, "calibration %" PRIu64 " %s\n", p->calib_tokens, p->calib_sha256);
    const bd_plan_rounding *r = &p->rounding;
    if (r->given)
        bd_buf_printf(out, "rounding feedback=%s order=%s damp=%.9g rows=%s rho=%.9g\n", r->feedback ? "yes" : "no",
                      r->act_order ? "activation" : "natural", r->damp, r->rows_by_loss ? "loss" : "deviation",
                      r->rho);
    for (int i = 0; i < p->n_tensors; i++) {
        const bd_plan_tensor *t = &p->tensors[i];
        bd_buf_printf(out, "tensor %s %s %s", t->name, t->group, bd_qmethod_name(t->method));
        /* %.9g gives every float32 back */
        if (t->method == BD_Q_ROW) bd_buf_printf(out, " bits=%d k=%.9g", t->bits, (double)t->k);
        if (t->method == BD_Q_TERNARY) bd_buf_printf(out, " group=%" PRIu32, t->qgroup);
        if (t->lost >= 0) bd_buf_printf(out, " lost=%.3g", t->lost);
        bd_buf_u8(out, '\n');
    }
    for (int i = 0; i < p->n_groups; i++)
        bd_buf_printf(out, "group %s %s bytes=%" PRIu64 "\n", p->groups[i].name, bd_codec_name(p->groups[i].codec),
                      p->groups[i].bytes);
    return bd_buf_check(out, err);
}

/* A line cut into words; all point into the parser's own copy of the text. */
typedef struct line {
    char *word[MAX_WORDS];
    int n;
    int number;
    uint64_t offset;
} line;

#define LINE_FAIL(err, code, l, ...) line_fail((err), (code), (l), __VA_ARGS__)
static bd_status line_fail(bd_err *err, bd_status code, const line *l, const char *fmt, const char *arg) {
    char msg[256];
    snprintf(msg, sizeof msg, fmt, arg);
    return BD_FAIL_AT(err, code, l->offset, "plan line %d: %s", l->number, msg);
}

static bd_status split(line *l, char *s, bd_err *err) {
    l->n = 0;
    while (*s) {
        if (l->n == MAX_WORDS) return LINE_FAIL(err, BD_E_SYNTAX, l, "more than 16 words%s", "");
        l->word[l->n++] = s;
        char *space = strchr(s, ' ');
        if (!space) break;
        *space = 0;
        s = space + 1;
        if (!*s || *s == ' ') return LINE_FAIL(err, BD_E_SYNTAX, l, "words are separated by single spaces%s", "");
    }
    return BD_OK;
}

static bd_status parse_u64(const line *l, const char *s, uint64_t *out, bd_err *err) {
    char *end;
    if (*s < '0' || *s > '9' || strlen(s) > 19) return LINE_FAIL(err, BD_E_SYNTAX, l, "\"%s\" is not a number", s);
    *out = strtoull(s, &end, 10);
    if (*end) return LINE_FAIL(err, BD_E_SYNTAX, l, "\"%s\" is not a number", s);
    return BD_OK;
}

static bd_status parse_real(const line *l, const char *s, double *out, bd_err *err) {
    char *end;
    *out = strtod(s, &end);
    if (!*s || *end || !isfinite(*out) || *out < 0)
        return LINE_FAIL(err, BD_E_SYNTAX, l, "\"%s\" is not a number of 0 or more", s);
    return BD_OK;
}

/* One of two words. */
static bd_status parse_choice(const line *l, const char *s, const char *no, const char *yes, bool *out,
                              bd_err *err) {
    *out = !strcmp(s, yes);
    if (!*out && strcmp(s, no) != 0) return LINE_FAIL(err, BD_E_UNKNOWN, l, "\"%s\" is not a choice here", s);
    return BD_OK;
}

/* "key=value" in place: the key ends where the value begins. */
static bd_status cut_pair(const line *l, char *word, const char **value, bd_err *err) {
    char *eq = strchr(word, '=');
    if (!eq) return LINE_FAIL(err, BD_E_SYNTAX, l, "expected key=value, found \"%s\"", word);
    *eq = 0;
    *value = eq + 1;
    return BD_OK;
}

static bd_status parse_rounding(bd_plan_rounding *r, const line *l, bd_err *err) {
    *r = (bd_plan_rounding){.given = true, .feedback = true, .damp = 0.01, .rho = 0.1};
    for (int i = 1; i < l->n; i++) {
        const char *key = l->word[i], *value = "";
        BD_TRY(cut_pair(l, l->word[i], &value, err));
        if (!strcmp(key, "feedback")) BD_TRY(parse_choice(l, value, "no", "yes", &r->feedback, err));
        else if (!strcmp(key, "order")) BD_TRY(parse_choice(l, value, "natural", "activation", &r->act_order, err));
        else if (!strcmp(key, "rows")) BD_TRY(parse_choice(l, value, "deviation", "loss", &r->rows_by_loss, err));
        else if (!strcmp(key, "damp")) BD_TRY(parse_real(l, value, &r->damp, err));
        else if (!strcmp(key, "rho")) BD_TRY(parse_real(l, value, &r->rho, err));
        else return LINE_FAIL(err, BD_E_UNKNOWN, l, "unknown key \"%s\" for rounding", key);
    }
    if (r->damp < 1e-9 || r->damp > 10) return LINE_FAIL(err, BD_E_RANGE, l, "damp must be from 1e-9 to 10%s", "");
    if (r->rho < 1e-6 || r->rho > 1e6) return LINE_FAIL(err, BD_E_RANGE, l, "rho must be from 1e-6 to 1e6%s", "");
    return BD_OK;
}

static bd_status parse_tensor(bd_plan_tensor *t, const line *l, bd_err *err) {
    if (l->n < 4) return LINE_FAIL(err, BD_E_SYNTAX, l, "expected: tensor NAME GROUP METHOD key=value...%s", "");
    int method = bd_qmethod_find(l->word[3]);
    if (method < 0)
        return LINE_FAIL(err, BD_E_UNKNOWN, l, "unknown method \"%s\" (f16, row, ternary, f32)", l->word[3]);
    *t = (bd_plan_tensor){.name = l->word[1],
                          .group = l->word[2],
                          .method = (bd_qmethod)method,
                          .bits = 6,
                          .qgroup = 128,
                          .lost = -1,
                          .line = l->number};
    for (int i = 4; i < l->n; i++) {
        const char *key = l->word[i], *value = "";
        BD_TRY(cut_pair(l, l->word[i], &value, err));
        uint64_t u = 0;
        double d = 0;
        if (!strcmp(key, "bits") && t->method == BD_Q_ROW) {
            BD_TRY(parse_u64(l, value, &u, err));
            if (u < 2 || u > 8) return LINE_FAIL(err, BD_E_RANGE, l, "bits=%s, must be 2 to 8", value);
            t->bits = (int)u;
        } else if (!strcmp(key, "k") && t->method == BD_Q_ROW) {
            BD_TRY(parse_real(l, value, &d, err));
            if (d > 1e6) return LINE_FAIL(err, BD_E_RANGE, l, "k=%s is too large", value);
            t->k = (float)d;
        } else if (!strcmp(key, "group") && t->method == BD_Q_TERNARY) {
            BD_TRY(parse_u64(l, value, &u, err));
            if (u < 1 || u > 65536) return LINE_FAIL(err, BD_E_RANGE, l, "group=%s, must be 1 to 65536", value);
            t->qgroup = (uint32_t)u;
        } else if (!strcmp(key, "lost")) {
            BD_TRY(parse_real(l, value, &t->lost, err));
        } else {
            return LINE_FAIL(err, BD_E_UNKNOWN, l, "unknown key \"%s\" for this method", key);
        }
    }
    return BD_OK;
}

static bd_status parse_group(const bd_plan *p, bd_plan_group *g, const line *l, bd_err *err) {
    if (l->n != 4 || strncmp(l->word[3], "bytes=", 6) != 0)
        return LINE_FAIL(err, BD_E_SYNTAX, l, "expected: group NAME CODEC bytes=N%s", "");
    int codec = bd_codec_find(l->word[2]);
    if (codec < 0) return LINE_FAIL(err, BD_E_UNKNOWN, l, "unknown codec \"%s\"", l->word[2]);
    for (const bd_plan_group *o = p->groups; o < g; o++)
        if (!strcmp(o->name, l->word[1]))
            return LINE_FAIL(err, BD_E_SYNTAX, l, "a second line for group %s", l->word[1]);
    g->name = l->word[1];
    g->line = l->number;
    g->codec = (bd_codec)codec;
    return parse_u64(l, l->word[3] + 6, &g->bytes, err);
}

static bd_status parse_line(bd_plan *p, line *l, bd_err *err) {
    const char *kind = l->word[0];
    if (!strcmp(kind, "tensor")) return parse_tensor(&p->tensors[p->n_tensors++], l, err);
    if (!strcmp(kind, "group")) return parse_group(p, &p->groups[p->n_groups++], l, err);
    if (!strcmp(kind, "rounding")) return parse_rounding(&p->rounding, l, err);
    if (!strcmp(kind, "budget") && l->n == 2) return parse_u64(l, l->word[1], &p->budget, err);
    if (!strcmp(kind, "calibration") && l->n == 3 && strlen(l->word[2]) == 64) {
        memcpy(p->calib_sha256, l->word[2], 65);
        return parse_u64(l, l->word[1], &p->calib_tokens, err);
    }
    return LINE_FAIL(err, BD_E_SYNTAX, l, "cannot read a line that starts with \"%s\"", kind);
}

static bd_status parse_text(bd_plan *p, char *text, int lines, bd_err *err) {
    char *s = text;
    line l = {.number = 0};
    p->tensors = bd_arena_alloc(p->arena, (uint64_t)lines, sizeof *p->tensors);
    p->groups = bd_arena_alloc(p->arena, (uint64_t)lines, sizeof *p->groups);
    if (!p->tensors || !p->groups) return BD_FAIL(err, BD_E_NOMEM, "out of memory reading the plan");
    while (*s) {
        char *end = strchr(s, '\n');
        if (end) *end = 0;
        l.number++;
        l.offset = (uint64_t)(s - text);
        if (l.number == 1) {
            if (strcmp(s, "birdie-plan 1") != 0)
                return BD_FAIL_AT(err, BD_E_MAGIC, 0, "a plan begins with the line \"birdie-plan 1\"");
        } else if (!strncmp(s, "codecs ", 7)) {
            snprintf(p->codecs, sizeof p->codecs, "%s", s + 7);
        } else if (*s && *s != '#') {
            BD_TRY(split(&l, s, err));
            BD_TRY(parse_line(p, &l, err));
        }
        if (!end) break;
        s = end + 1;
    }
    if (!l.number) return BD_FAIL_AT(err, BD_E_TRUNCATED, 0, "the plan is empty");
    return BD_OK;
}

bd_status bd_plan_parse(bd_plan **out, const char *text, uint64_t size, bd_err *err) {
    *out = NULL;
    if (size > MAX_TEXT) return BD_FAIL(err, BD_E_LIMIT, "a plan is at most 1 MiB");
    int lines = 1;
    for (uint64_t i = 0; i < size; i++) {
        unsigned char b = (unsigned char)text[i];
        if ((b < 32 || b > 126) && b != '\n')
            return BD_FAIL_AT(err, BD_E_SYNTAX, i, "plan line %d: byte %d is not text", lines, b);
        lines += b == '\n';
    }
    if (lines > MAX_LINES) return BD_FAIL(err, BD_E_LIMIT, "a plan has at most 65,536 lines");
    bd_arena *arena = bd_arena_create(1 << 26);
    bd_plan *p = arena ? bd_arena_alloc(arena, 1, sizeof *p) : NULL;
    char *copy = p ? bd_arena_strdup(arena, text, size) : NULL;
    if (!copy) {
        bd_arena_destroy(arena);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory reading the plan");
    }
    p->arena = arena;
    bd_status st = parse_text(p, copy, lines, err);
    if (st) bd_arena_destroy(arena);
    else *out = p;
    return st;
}

void bd_plan_close(bd_plan *p) {
    if (p) bd_arena_destroy(p->arena);
}
