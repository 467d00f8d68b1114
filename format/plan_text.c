#include "format/plan_text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 1 << 22, MAX_LINES = 65536, MAX_WORDS = 4 + BD_PLAN_PARAMS_MAX + 3 };

#define HEAD "birdie-plan 2"

static const char *const order_names[BD_ORDER_COUNT] = {"natural", "activation", "rising"};

const char *bd_column_order_name(bd_column_order o) { return order_names[o]; }

int bd_column_order_find(const char *name) {
    for (int i = 0; i < BD_ORDER_COUNT; i++)
        if (!strcmp(name, order_names[i])) return i;
    return -1;
}

int bd_codec_find(const char *name) {
    for (int i = 0; i < BD_CODEC_COUNT; i++)
        if (!strcmp(bd_codec_name((bd_codec)i), name)) return i;
    return -1;
}

/* --- what may stand where --- */

static bool is_word(const char *s) {
    if (!s || !*s) return false;
    for (; *s; s++)
        if (*s <= 32 || *s > 126) return false;
    return true;
}

static bool is_value(const char *s) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-";
    return s && *s && !s[strspn(s, allowed)];
}

/* Keys that every tensor line may have are no parameters. */
static bool is_key(const char *s) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    return s && *s && !s[strspn(s, allowed)] && strcmp(s, "bytes") != 0 && strcmp(s, "nats") != 0;
}

static bool is_hash(const char *s) { return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64; }

/* Any text of one line that does not begin or end with a space. */
static bool is_phrase(const char *s) {
    size_t n = strlen(s);
    if (!n || s[0] == ' ' || s[n - 1] == ' ') return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] < 32 || s[i] > 126) return false;
    return true;
}

/* --- printing --- */

/* The fewest digits that read back as the same number; whole numbers as such. */
static void put_real(bd_buf *out, const char *key, double v) {
    char text[40];
    if (v == 0) v = 0; /* no sign */
    if (fabs(v) < 1e15 && v == floor(v)) {
        snprintf(text, sizeof text, "%.0f", v);
    } else {
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v);
            if (strtod(text, NULL) == v) break;
        }
    }
    bd_buf_printf(out, " %s=%s", key, text);
}

static bd_status print_tensor(bd_buf *out, const bd_plan_tensor *t, bd_err *err) {
    if (!is_word(t->name) || !is_word(t->group) || !is_value(t->quantizer))
        return BD_FAIL(err, BD_E_FIELD, "plan: tensor %.64s: names must be printable without spaces",
                       t->name ? t->name : "");
    if (t->n_params < 0 || t->n_params > BD_PLAN_PARAMS_MAX || isinf(t->nats) || !(t->bytes <= 1e300))
        return BD_FAIL(err, BD_E_FIELD, "plan: tensor %.64s has values that cannot be written", t->name);
    bd_buf_printf(out, "tensor %s %s %s", t->name, t->group, t->quantizer);
    for (int i = 0; i < t->n_params; i++) {
        const bd_plan_param *p = &t->params[i];
        if (!is_key(p->key) || !is_value(p->value))
            return BD_FAIL(err, BD_E_FIELD, "plan: tensor %.64s: \"%.32s=%.32s\" cannot be written", t->name,
                           p->key ? p->key : "", p->value ? p->value : "");
        bd_buf_printf(out, " %s=%s", p->key, p->value);
    }
    if (t->fixed) bd_buf_printf(out, " fixed");
    if (t->bytes >= 0) put_real(out, "bytes", t->bytes);
    if (!isnan(t->nats)) put_real(out, "nats", t->nats);
    bd_buf_u8(out, '\n');
    return BD_OK;
}

static const char *yes_no(bool v) { return v ? "yes" : "no"; }

static bd_status print_head(bd_buf *out, const bd_plan *p, bd_err *err) {
    bd_buf_printf(out, HEAD "\nbudget %" PRIu64 "\n", p->budget);
    if ((p->recipe[0] && !is_word(p->recipe)) || (p->codecs[0] && !is_phrase(p->codecs)))
        return BD_FAIL(err, BD_E_FIELD, "plan: the names of recipe and codecs must be printable");
    if (p->recipe[0]) bd_buf_printf(out, "recipe %s\n", p->recipe);
    if (p->codecs[0]) bd_buf_printf(out, "codecs %s\n", p->codecs);
    if (p->calib_tokens && !is_hash(p->calib_sha256))
        return BD_FAIL(err, BD_E_FIELD, "plan: the calibration tokens lack a hash");
    if (p->calib_tokens) bd_buf_printf(out, "calibration %" PRIu64 " %s\n", p->calib_tokens, p->calib_sha256);
    for (int i = 0; i < p->n_shards; i++) {
        if (!is_hash(p->shards[i])) return BD_FAIL(err, BD_E_FIELD, "plan: shard %d lacks a hash", i);
        bd_buf_printf(out, "shard %s\n", p->shards[i]);
    }
    const bd_plan_metric *m = &p->metric;
    if (!m->given) return BD_OK;
    if (!(m->damp >= 0) || !(m->rho >= 0) || isinf(m->damp) || isinf(m->rho))
        return BD_FAIL(err, BD_E_FIELD, "plan: damp and rho must be finite and not negative");
    bd_buf_printf(out, "metric");
    put_real(out, "damp", m->damp);
    put_real(out, "rho", m->rho);
    bd_buf_printf(out, " order=%s feedback=%s rows=%s cols=%s couple=%s\n", bd_column_order_name(m->order),
                  yes_no(m->feedback), yes_no(m->row_steps), yes_no(m->col_steps), yes_no(m->couple_rows));
    return BD_OK;
}

bd_status bd_plan_print(const bd_plan *p, bd_buf *out, bd_err *err) {
    BD_TRY(print_head(out, p, err));
    for (int i = 0; i < p->n_tensors; i++) BD_TRY(print_tensor(out, &p->tensors[i], err));
    for (int i = 0; i < p->n_groups; i++) {
        const bd_plan_group *g = &p->groups[i];
        if (!is_word(g->name)) return BD_FAIL(err, BD_E_FIELD, "plan: group %d lacks a name", i);
        bd_buf_printf(out, "group %s %s bytes=%" PRIu64 "\n", g->name, bd_codec_name(g->codec), g->bytes);
    }
    return bd_buf_check(out, err);
}

/* --- reading --- */

/* A line cut into words; all point into the parser's own copy of the text. */
typedef struct line {
    char *word[MAX_WORDS];
    int n;
    int number;
    uint64_t offset;
} line;

typedef struct parser {
    bd_plan *p;
    line l;
    bool budget, codecs, calibration; /* seen */
} parser;

/* `fmt` takes one string; what the text says is cut before it is too long to read. */
static bd_status line_fail(bd_err *err, bd_status code, const line *l, const char *fmt, const char *arg) {
    char msg[256], part[81];
    snprintf(part, sizeof part, "%.80s", arg);
    snprintf(msg, sizeof msg, fmt, part);
    return BD_FAIL_AT(err, code, l->offset, "plan line %d: %s", l->number, msg);
}

static bd_status split(line *l, char *s, bd_err *err) {
    l->n = 0;
    while (*s) {
        if (l->n == MAX_WORDS) return line_fail(err, BD_E_SYNTAX, l, "too many words%s", "");
        l->word[l->n++] = s;
        char *space = strchr(s, ' ');
        if (space == s) return line_fail(err, BD_E_SYNTAX, l, "words are separated by single spaces%s", "");
        if (!space) break;
        *space = 0;
        s = space + 1;
        if (!*s || *s == ' ') return line_fail(err, BD_E_SYNTAX, l, "words are separated by single spaces%s", "");
    }
    return BD_OK;
}

static bd_status parse_u64(const line *l, const char *s, uint64_t *out, bd_err *err) {
    if (!*s || s[strspn(s, "0123456789")]) return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not a number", s);
    errno = 0;
    *out = strtoull(s, NULL, 10);
    return errno ? line_fail(err, BD_E_RANGE, l, "%s is too large", s) : BD_OK;
}

static bd_status parse_real(const line *l, const char *s, bool below_zero, double *out, bd_err *err) {
    char *end;
    if (!*s || s[strspn(s, "0123456789+-.eE")]) return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not a number", s);
    *out = strtod(s, &end);
    if (*end) return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not a number", s);
    if (!isfinite(*out)) return line_fail(err, BD_E_RANGE, l, "%s is too large", s);
    if (*out < 0 && !below_zero) return line_fail(err, BD_E_RANGE, l, "%s must be 0 or more", s);
    return BD_OK;
}

/* One of two words. */
static bd_status parse_choice(const line *l, const char *s, const char *no, const char *yes, bool *out,
                              bd_err *err) {
    *out = !strcmp(s, yes);
    if (*out || !strcmp(s, no)) return BD_OK;
    char fmt[96];
    snprintf(fmt, sizeof fmt, "\"%%s\" is not a choice here: %s or %s", yes, no);
    return line_fail(err, BD_E_UNKNOWN, l, fmt, s);
}

/* "key=value" in place: the key ends where the value begins. */
static bd_status cut_pair(const line *l, char *word, const char **value, bd_err *err) {
    char *eq = strchr(word, '=');
    if (!eq) return line_fail(err, BD_E_SYNTAX, l, "expected key=value, found \"%s\"", word);
    if (!is_value(eq + 1)) return line_fail(err, BD_E_SYNTAX, l, "\"%s\": a value is of A-Z a-z 0-9 _ . + -", word);
    *eq = 0;
    *value = eq + 1;
    return BD_OK;
}

/* Keys of a line that occurred; a second time is an error. */
static bd_status once(const line *l, unsigned *seen, int bit, const char *key, bd_err *err) {
    if (*seen & (1u << bit)) return line_fail(err, BD_E_SYNTAX, l, "%s is given twice", key);
    *seen |= 1u << bit;
    return BD_OK;
}

static bd_status parse_metric(bd_plan_metric *m, const line *l, bd_err *err) {
    static const char *const keys[] = {"damp", "rho", "order", "feedback", "rows", "cols", "couple"};
    enum { N = sizeof keys / sizeof keys[0] };
    if (m->given) return line_fail(err, BD_E_SYNTAX, l, "a second metric line%s", "");
    unsigned seen = 0;
    for (int i = 1; i < l->n; i++) {
        const char *value = "";
        BD_TRY(cut_pair(l, l->word[i], &value, err));
        int k = 0;
        while (k < N && strcmp(keys[k], l->word[i]) != 0) k++;
        if (k == N) return line_fail(err, BD_E_UNKNOWN, l, "unknown key \"%s\" for metric", l->word[i]);
        BD_TRY(once(l, &seen, k, keys[k], err));
        if (k == 0) BD_TRY(parse_real(l, value, false, &m->damp, err));
        if (k == 1) BD_TRY(parse_real(l, value, false, &m->rho, err));
        if (k == 2) {
            int order = bd_column_order_find(value);
            if (order < 0)
                return line_fail(err, BD_E_UNKNOWN, l, "\"%s\" is not a choice here: natural, activation or rising",
                                 value);
            m->order = (bd_column_order)order;
        }
        if (k == 3) BD_TRY(parse_choice(l, value, "no", "yes", &m->feedback, err));
        if (k == 4) BD_TRY(parse_choice(l, value, "no", "yes", &m->row_steps, err));
        if (k == 5) BD_TRY(parse_choice(l, value, "no", "yes", &m->col_steps, err));
        if (k == 6) BD_TRY(parse_choice(l, value, "no", "yes", &m->couple_rows, err));
    }
    for (int k = 0; k < N; k++)
        if (!(seen & (1u << k))) return line_fail(err, BD_E_MISSING, l, "metric lacks %s", keys[k]);
    m->given = true;
    return BD_OK;
}

static bd_status parse_param(bd_plan_tensor *t, const line *l, const char *key, const char *value, bd_err *err) {
    if (!is_key(key)) return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not a key: they are of a-z 0-9 _", key);
    for (int k = 0; k < t->n_params; k++)
        if (!strcmp(t->params[k].key, key)) return line_fail(err, BD_E_SYNTAX, l, "%s is given twice", key);
    if (t->n_params == BD_PLAN_PARAMS_MAX) return line_fail(err, BD_E_LIMIT, l, "more than 12 parameters%s", "");
    t->params[t->n_params++] = (bd_plan_param){key, value};
    return BD_OK;
}

static bd_status parse_tensor(bd_plan_tensor *t, const line *l, bd_err *err) {
    if (l->n < 4) return line_fail(err, BD_E_SYNTAX, l, "expected: tensor NAME GROUP QUANTIZER key=value...%s", "");
    if (!is_value(l->word[3]))
        return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not the name of a quantizer", l->word[3]);
    *t = (bd_plan_tensor){.name = l->word[1],
                          .group = l->word[2],
                          .quantizer = l->word[3],
                          .bytes = -1,
                          .nats = NAN,
                          .line = l->number};
    unsigned seen = 0;
    for (int i = 4; i < l->n; i++) {
        const char *key = l->word[i], *value = "";
        if (!strcmp(key, "fixed")) {
            BD_TRY(once(l, &seen, 0, key, err));
            t->fixed = true;
            continue;
        }
        BD_TRY(cut_pair(l, l->word[i], &value, err));
        if (!strcmp(key, "bytes")) {
            BD_TRY(once(l, &seen, 1, key, err));
            BD_TRY(parse_real(l, value, false, &t->bytes, err));
            if (t->bytes > 1e300) return line_fail(err, BD_E_RANGE, l, "bytes=%s is too large", value);
        } else if (!strcmp(key, "nats")) {
            BD_TRY(once(l, &seen, 2, key, err));
            BD_TRY(parse_real(l, value, true, &t->nats, err));
        } else {
            BD_TRY(parse_param(t, l, key, value, err));
        }
    }
    return BD_OK;
}

static bd_status parse_group(bd_plan_group *g, const line *l, bd_err *err) {
    if (l->n != 4 || strncmp(l->word[3], "bytes=", 6) != 0)
        return line_fail(err, BD_E_SYNTAX, l, "expected: group NAME CODEC bytes=N%s", "");
    int codec = bd_codec_find(l->word[2]);
    if (codec < 0) return line_fail(err, BD_E_UNKNOWN, l, "unknown codec \"%s\"", l->word[2]);
    *g = (bd_plan_group){.name = l->word[1], .codec = (bd_codec)codec, .line = l->number};
    return parse_u64(l, l->word[3] + 6, &g->bytes, err);
}

static bd_status parse_calibration(parser *s, bd_err *err) {
    const line *l = &s->l;
    if (s->calibration) return line_fail(err, BD_E_SYNTAX, l, "a second calibration line%s", "");
    s->calibration = true;
    if (!is_hash(l->word[2]))
        return line_fail(err, BD_E_SYNTAX, l, "\"%s\" is not a SHA-256 in hexadecimal", l->word[2]);
    memcpy(s->p->calib_sha256, l->word[2], 65);
    BD_TRY(parse_u64(l, l->word[1], &s->p->calib_tokens, err));
    return s->p->calib_tokens ? BD_OK : line_fail(err, BD_E_RANGE, l, "calibration with %s tokens", "0");
}

static bd_status parse_shard(parser *s, bd_err *err) {
    bd_plan *p = s->p;
    if (!is_hash(s->l.word[1]))
        return line_fail(err, BD_E_SYNTAX, &s->l, "\"%s\" is not a SHA-256 in hexadecimal", s->l.word[1]);
    if (p->n_shards == BD_PLAN_SHARDS_MAX) return line_fail(err, BD_E_LIMIT, &s->l, "more than 1,024 shards%s", "");
    memcpy(p->shards[p->n_shards++], s->l.word[1], 65);
    return BD_OK;
}

static bd_status parse_line(parser *s, bd_err *err) {
    bd_plan *p = s->p;
    const line *l = &s->l;
    const char *kind = l->word[0];
    if (!strcmp(kind, "tensor")) return parse_tensor(&p->tensors[p->n_tensors++], l, err);
    if (!strcmp(kind, "group")) return parse_group(&p->groups[p->n_groups++], l, err);
    if (!strcmp(kind, "metric")) return parse_metric(&p->metric, l, err);
    if (!strcmp(kind, "calibration") && l->n == 3) return parse_calibration(s, err);
    if (!strcmp(kind, "shard") && l->n == 2) return parse_shard(s, err);
    if (!strcmp(kind, "budget") && l->n == 2) {
        if (s->budget) return line_fail(err, BD_E_SYNTAX, l, "a second budget line%s", "");
        s->budget = true;
        return parse_u64(l, l->word[1], &p->budget, err);
    }
    if (!strcmp(kind, "recipe") && l->n == 2) {
        if (p->recipe[0]) return line_fail(err, BD_E_SYNTAX, l, "a second recipe line%s", "");
        if (strlen(l->word[1]) >= sizeof p->recipe)
            return line_fail(err, BD_E_LIMIT, l, "the recipe's name is longer than 63 characters%s", "");
        memcpy(p->recipe, l->word[1], strlen(l->word[1]) + 1);
        return BD_OK;
    }
    return line_fail(err, BD_E_SYNTAX, l, "cannot read a line that starts with \"%s\"", kind);
}

static bd_status parse_codecs(parser *s, const char *text, bd_err *err) {
    if (s->codecs) return line_fail(err, BD_E_SYNTAX, &s->l, "a second codecs line%s", "");
    s->codecs = true;
    if (!is_phrase(text)) return line_fail(err, BD_E_SYNTAX, &s->l, "expected: codecs NAMES AND VERSIONS%s", "");
    if (strlen(text) >= sizeof s->p->codecs)
        return line_fail(err, BD_E_LIMIT, &s->l, "the codecs' names are longer than 127 characters%s", "");
    memcpy(s->p->codecs, text, strlen(text) + 1);
    return BD_OK;
}

/* --- names that may occur once --- */

typedef struct named {
    const char *name;
    int line;
} named;

static int by_name(const void *a, const void *b) {
    const named *x = a, *y = b;
    int d = strcmp(x->name, y->name);
    return d ? d : (x->line > y->line) - (x->line < y->line);
}

/* Sorts `list`; the first line, from above, that repeats a name is the error. */
static bd_status check_once(named *list, int n, const char *what, const char *text, bd_err *err) {
    qsort(list, (size_t)n, sizeof *list, by_name);
    const named *bad = NULL;
    for (int i = 1; i < n; i++)
        if (!strcmp(list[i].name, list[i - 1].name) && (!bad || list[i].line < bad->line)) bad = &list[i];
    if (!bad) return BD_OK;
    char fmt[48];
    snprintf(fmt, sizeof fmt, "a second line for %s %%s", what);
    return line_fail(err, BD_E_SYNTAX,
                     &(line){.number = bad->line, .offset = (uint64_t)(bad->name - text) - strlen(what) - 1}, fmt,
                     bad->name);
}

static bd_status check_names(const bd_plan *p, const char *text, bd_err *err) {
    int most = p->n_tensors > p->n_groups ? p->n_tensors : p->n_groups;
    named *list = bd_arena_alloc(p->arena, (uint64_t)most + 1, sizeof *list);
    if (!list) return BD_FAIL(err, BD_E_NOMEM, "out of memory reading the plan");
    for (int i = 0; i < p->n_tensors; i++) list[i] = (named){p->tensors[i].name, p->tensors[i].line};
    BD_TRY(check_once(list, p->n_tensors, "tensor", text, err));
    for (int i = 0; i < p->n_groups; i++) list[i] = (named){p->groups[i].name, p->groups[i].line};
    return check_once(list, p->n_groups, "group", text, err);
}

static int count_lines(const char *text, const char *start) {
    int n = 0;
    size_t len = strlen(start);
    for (const char *s = text; s; s = strchr(s, '\n')) {
        s += *s == '\n';
        n += !strncmp(s, start, len);
        if (!*s) break;
    }
    return n;
}

static bd_status parse_text(bd_plan *p, char *text, bd_err *err) {
    parser s = {.p = p};
    int shards = count_lines(text, "shard");
    if (shards > BD_PLAN_SHARDS_MAX) shards = BD_PLAN_SHARDS_MAX;
    p->tensors = bd_arena_alloc(p->arena, (uint64_t)count_lines(text, "tensor") + 1, sizeof *p->tensors);
    p->groups = bd_arena_alloc(p->arena, (uint64_t)count_lines(text, "group") + 1, sizeof *p->groups);
    p->shards = bd_arena_alloc(p->arena, (uint64_t)shards + 1, sizeof *p->shards);
    if (!p->tensors || !p->groups || !p->shards) return BD_FAIL(err, BD_E_NOMEM, "out of memory reading the plan");
    for (char *at = text; *at;) {
        char *end = strchr(at, '\n');
        if (end) *end = 0;
        s.l.number++;
        s.l.offset = (uint64_t)(at - text);
        if (s.l.number == 1) {
            if (!strncmp(at, "birdie-plan ", 12) && strcmp(at, HEAD) != 0)
                return BD_FAIL_AT(err, BD_E_VERSION, 0, "this is a \"%.40s\"; only \"" HEAD "\" is read", at);
            if (strcmp(at, HEAD) != 0)
                return BD_FAIL_AT(err, BD_E_MAGIC, 0, "a plan begins with the line \"" HEAD "\"");
        } else if (!strncmp(at, "codecs ", 7)) {
            BD_TRY(parse_codecs(&s, at + 7, err));
        } else if (*at && *at != '#') {
            BD_TRY(split(&s.l, at, err));
            BD_TRY(parse_line(&s, err));
        }
        if (!end) break;
        at = end + 1;
    }
    if (!s.l.number) return BD_FAIL_AT(err, BD_E_TRUNCATED, 0, "the plan is empty");
    return check_names(p, text, err);
}

bd_status bd_plan_parse(bd_plan **out, const char *text, uint64_t size, bd_err *err) {
    *out = NULL;
    if (size > MAX_TEXT) return BD_FAIL(err, BD_E_LIMIT, "a plan is at most 4 MiB");
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
    bd_status st = parse_text(p, copy, err);
    if (st) bd_arena_destroy(arena);
    else *out = p;
    return st;
}

void bd_plan_close(bd_plan *p) {
    if (p) bd_arena_destroy(p->arena);
}
