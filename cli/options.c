/* The option parser and the help pages made from the same table. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "cli/cli.h"

#define N_COMMON 4
#define WIDTH    90

static void common_opts(bd_cli_common *c, bd_cli_opt out[N_COMMON]) {
    const bd_cli_opt table[N_COMMON] = {
        {"json", BD_CLI_FLAG, &c->json, NULL, "print exactly one JSON object on stdout, also on failure"},
        {"threads", BD_CLI_COUNT, &c->threads, "N",
         "threads (default: all usable processors); never changes a result"},
        {"max-memory", BD_CLI_COUNT, &c->max_memory, "BYTES", "refuse to start when the plan needs more memory"},
        {"dry-run", BD_CLI_FLAG, &c->dry_run, NULL, "say what would be done: bytes, FLOPs, seconds; then stop"},
    };
    memcpy(out, table, sizeof table);
}

/* Parsing ----------------------------------------------------------------------- */

static const bd_cli_opt *find(const bd_cli_spec *s, const bd_cli_opt *common, const char *name, size_t n) {
    for (size_t i = 0; i < s->n_opts + N_COMMON; i++) {
        const bd_cli_opt *o = i < s->n_opts ? &s->opts[i] : &common[i - s->n_opts];
        if (strncmp(o->name, name, n) == 0 && o->name[n] == 0) return o;
    }
    return NULL;
}

static bd_status unknown_option(const bd_cli_spec *s, const bd_cli_opt *common, const char *name, size_t n,
                                bd_err *err) {
    char word[64];
    snprintf(word, sizeof word, "%.*s", n < 63 ? (int)n : 63, name);
    const char **names = calloc(s->n_opts + N_COMMON + 1, sizeof *names);
    const char *near = NULL;
    if (names) {
        for (size_t i = 0; i < s->n_opts; i++) names[i] = s->opts[i].name;
        for (size_t i = 0; i < N_COMMON; i++) names[s->n_opts + i] = common[i].name;
        names[s->n_opts + N_COMMON] = "help";
        near = bd_nearest(word, names, (int)s->n_opts + N_COMMON + 1);
        free(names);
    }
    if (near) return BD_FAIL(err, BD_E_USAGE, "unknown option --%s; did you mean --%s?", word, near);
    return BD_FAIL(err, BD_E_USAGE, "unknown option --%s; see birdie %s --help", word, s->name);
}

static bd_status append(bd_cli_list *l, const char *value, bd_err *err) {
    const char **more = realloc(l->items, (l->n + 1) * sizeof *more);
    if (!more) return BD_FAIL(err, BD_E_NOMEM, "no memory for the arguments");
    l->items = more;
    l->items[l->n++] = value;
    return BD_OK;
}

static bd_status set_value(const bd_cli_opt *o, const char *value, bd_err *err) {
    char *end;
    errno = 0;
    switch (o->kind) {
        case BD_CLI_STRING:
            if (!*value) return BD_FAIL(err, BD_E_USAGE, "--%s: %s is empty", o->name, o->metavar);
            *(const char **)o->target = value;
            return BD_OK;
        case BD_CLI_INT:
        case BD_CLI_COUNT: {
            long long v = strtoll(value, &end, 10);
            if (end == value || *end || errno == ERANGE) {
                bool suffix = end != value && errno != ERANGE;
                return BD_FAIL(
                    err, BD_E_USAGE, "--%s: '%s' is not a whole number%s", o->name, value,
                    suffix ? " (digits only; suffixes are refused because MB and MiB get confused)" : "");
            }
            if (o->kind == BD_CLI_COUNT && v < 0)
                return BD_FAIL(err, BD_E_USAGE, "--%s: %s is negative", o->name, value);
            *(int64_t *)o->target = v;
            return BD_OK;
        }
        case BD_CLI_DOUBLE: {
            double v = strtod(value, &end);
            if (end == value || *end || !isfinite(v))
                return BD_FAIL(err, BD_E_USAGE, "--%s: '%s' is not a number", o->name, value);
            *(double *)o->target = v;
            return BD_OK;
        }
        case BD_CLI_EACH:
        case BD_CLI_LIST:
            if (!*value) return BD_FAIL(err, BD_E_USAGE, "--%s: %s is empty", o->name, o->metavar);
            return append(o->target, value, err);
        case BD_CLI_FLAG: break;
    }
    BD_ASSERT(!"a flag has no value");
    return BD_E_USAGE;
}

static bool is_list(const bd_cli_opt *o) { return o->kind == BD_CLI_LIST || o->kind == BD_CLI_EACH; }
static bool is_option(const char *arg) { return arg[0] == '-' && arg[1] == '-'; }

/* The option at argv[*i]; moves *i to the last argument that was used. */
static bd_status parse_option(const bd_cli_spec *s, const bd_cli_opt *common, int argc, char **argv, int *i,
                              bool *seen, bd_err *err) {
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    const bd_cli_opt *o = find(s, common, name, n);
    if (!o) return unknown_option(s, common, name, n, err);
    bool *mark =
        &seen[o >= common && o < common + N_COMMON ? s->n_opts + (size_t)(o - common) : (size_t)(o - s->opts)];
    if (*mark && !is_list(o)) return BD_FAIL(err, BD_E_USAGE, "--%s is given twice", o->name);
    *mark = true;
    if (o->kind == BD_CLI_FLAG) {
        if (eq) return BD_FAIL(err, BD_E_USAGE, "--%s takes no value", o->name);
        *(bool *)o->target = true;
        return BD_OK;
    }
    if (eq) return set_value(o, eq + 1, err);
    if (*i + 1 >= argc || is_option(argv[*i + 1]))
        return BD_FAIL(err, BD_E_USAGE, "--%s needs a value: --%s %s", o->name, o->name, o->metavar);
    do {
        BD_TRY(set_value(o, argv[++*i], err));
    } while (o->kind == BD_CLI_LIST && *i + 1 < argc && !is_option(argv[*i + 1]));
    return BD_OK;
}

bd_status bd_cli_parse(const bd_cli_spec *s, int argc, char **argv, bd_cli_list *args, bool *help, bd_err *err) {
    *args = (bd_cli_list){0};
    *help = false;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *help = true;
            return BD_OK;
        }
    bd_cli_opt common[N_COMMON];
    common_opts(s->common, common);
    bool *seen = calloc(s->n_opts + N_COMMON, sizeof *seen), only_args = false;
    bd_status st = seen ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for the arguments");
    for (int i = 1; i < argc && st == BD_OK; i++) {
        const char *a = argv[i];
        if (only_args || a[0] != '-' || a[1] == 0) st = append(args, a, err);
        else if (strcmp(a, "--") == 0) only_args = true;
        else if (is_option(a)) st = parse_option(s, common, argc, argv, &i, seen, err);
        else st = BD_FAIL(err, BD_E_USAGE, "unknown option %s; options begin with two dashes", a);
    }
    free(seen);
    BD_TRY(st);
    if (args->n < (size_t)s->min_args)
        return BD_FAIL(err, BD_E_USAGE, "an argument is missing: birdie %s", s->usage);
    if (s->max_args >= 0 && args->n > (size_t)s->max_args)
        return BD_FAIL(err, BD_E_USAGE, "unexpected argument '%s': birdie %s", args->items[s->max_args], s->usage);
    return BD_OK;
}

void bd_cli_free(const bd_cli_spec *s, bd_cli_list *args) {
    for (size_t i = 0; i < s->n_opts; i++)
        if (is_list(&s->opts[i])) {
            bd_cli_list *l = s->opts[i].target;
            free(l->items);
            *l = (bd_cli_list){0};
        }
    free(args->items);
    *args = (bd_cli_list){0};
}

bool bd_cli_begin(const bd_cli_spec *s, int argc, char **argv, bd_cli_list *args, int *rc) {
    bd_err err = {0};
    bool help, json = false;
    /* Wrong usage is reported as JSON too, wherever --json stands. */
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) json |= strcmp(argv[i], "--json") == 0;
    bd_status st = bd_cli_parse(s, argc, argv, args, &help, &err);
    if (st == BD_OK && !help) return true;
    if (st != BD_OK) {
        if (!json) bd_err_prefix(&err, "%s: ", s->name);
        *rc = bd_cli_error(&err, json);
    } else {
        bd_cli_help(s, stdout);
        *rc = 0;
    }
    bd_cli_free(s, args);
    return false;
}

/* Help -------------------------------------------------------------------------- */

/* Print text wrapped to WIDTH; following lines begin at column `indent`, `column` is where we stand. */
static void wrap(FILE *f, const char *text, int indent, int column) {
    for (bool first = true; *text;) {
        if (*text == '\n') {
            fprintf(f, "\n");
            text++;
            column = 0;
            if (*text && *text != '\n') column = fprintf(f, "%*s", indent, "");
            first = true;
            continue;
        }
        if (*text == ' ' && !first) {
            text++;
            continue;
        }
        size_t n = strcspn(text + (*text == ' '), " \n") + (*text == ' ');
        if (!first && column + 1 + (int)n > WIDTH) {
            fprintf(f, "\n%*s", indent, "");
            column = indent;
            first = true;
        }
        column += fprintf(f, "%s%.*s", first ? "" : " ", (int)n, text);
        first = false;
        text += n;
    }
    fprintf(f, "\n");
}

static int label_width(const bd_cli_opt *o) {
    return 2 + (int)strlen(o->name) + (o->metavar ? 1 + (int)strlen(o->metavar) : 0);
}

static void help_option(const bd_cli_opt *o, int column, FILE *f) {
    int at = fprintf(f, "  --%s%s%s", o->name, o->metavar ? " " : "", o->metavar ? o->metavar : "");
    if (at + 2 > column) {
        fprintf(f, "\n");
        at = 0;
    }
    fprintf(f, "%*s", column - at, "");
    char more[128] = "", text[2048];
    switch (o->kind) {
        case BD_CLI_STRING:
            if (*(const char *const *)o->target)
                snprintf(more, sizeof more, " (default: %s)", *(const char *const *)o->target);
            break;
        case BD_CLI_INT:
        case BD_CLI_COUNT:
            if (*(const int64_t *)o->target)
                snprintf(more, sizeof more, " (default: %lld)", (long long)*(const int64_t *)o->target);
            break;
        case BD_CLI_DOUBLE:
            if (*(const double *)o->target != 0)
                snprintf(more, sizeof more, " (default: %g)", *(const double *)o->target);
            break;
        case BD_CLI_EACH: snprintf(more, sizeof more, " (may be given several times)"); break;
        case BD_CLI_FLAG:
        case BD_CLI_LIST: break;
    }
    snprintf(text, sizeof text, "%s%s", o->help, more);
    wrap(f, text, column, column);
}

void bd_cli_help(const bd_cli_spec *s, FILE *f) {
    bd_cli_opt common[N_COMMON];
    common_opts(s->common, common);
    fprintf(f, "birdie %s: %s\n\nUsage: birdie %s\n", s->name, s->summary, s->usage);
    if (s->text) {
        fprintf(f, "\n");
        wrap(f, s->text, 0, 0);
    }
    int column = 0;
    for (size_t i = 0; i < s->n_opts + N_COMMON; i++) {
        int w = label_width(i < s->n_opts ? &s->opts[i] : &common[i - s->n_opts]);
        if (w > column && w <= 24) column = w;
    }
    column += 4;
    if (s->n_opts) fprintf(f, "\nOptions:\n");
    for (size_t i = 0; i < s->n_opts; i++) help_option(&s->opts[i], column, f);
    fprintf(f, "\nOptions of every command:\n");
    for (size_t i = 0; i < N_COMMON; i++) help_option(&common[i], column, f);
    const bd_cli_opt help = {"help", BD_CLI_FLAG, NULL, NULL, "this page"};
    help_option(&help, column, f);
    fprintf(f, "  A list of values (\"...\") ends at the next option or at a lone --.\n");
    if (s->examples)
        fprintf(f, "\nExamples:\n%s%s", s->examples, s->examples[strlen(s->examples) - 1] == '\n' ? "" : "\n");
    fprintf(f,
            "\nExit codes: 0 done, PASS or WARN; 1 checked and FAIL; 2 wrong usage or input;\n"
            "            3 environment (I/O, memory, device); 130 after Ctrl-C.\n");
}
