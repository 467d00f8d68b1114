/* What the commands of the program share: the option parser, error reports,
 * progress on stderr and JSON output.
 *
 * A command is one file cli/cmd_NAME.c with
 *     const char bd_cmd_NAME_summary[] = "one line";
 *     int bd_cmd_NAME(int argc, char **argv);       argv[0] is "NAME"
 * and an entry in BIRDIE_COMMANDS in cli/CMakeLists.txt. Its shape is:
 *
 *     bd_cli_common common = {0};
 *     bd_cli_list data = {0}, args;
 *     int64_t window = 1024;
 *     const bd_cli_opt opts[] = {{"data", BD_CLI_LIST, &data, "SHARD...", "validation shards"},
 *                                {"window", BD_CLI_COUNT, &window, "N", "tokens per window"}};
 *     const bd_cli_spec spec = {.name = "eval", .summary = ..., .opts = opts, .n_opts = 2, ...};
 *     int rc;
 *     if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
 *     ... st = work(..., bd_cli_progress_start(&progress), &err);
 *     bd_cli_progress_end(&progress);
 *     rc = st ? bd_cli_error(&err, common.json) : bd_cli_print_json(result);
 *     bd_cli_free(&spec, &args);
 *     return rc;
 */
#ifndef BD_CLI_H
#define BD_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/progress.h"
#include "base/status.h"

/* Options --------------------------------------------------------------------- */

typedef enum bd_cli_kind {
    BD_CLI_FLAG,   /* bool */
    BD_CLI_STRING, /* const char *, points into argv */
    BD_CLI_INT,    /* int64_t */
    BD_CLI_COUNT,  /* int64_t, not negative; plain digits */
    BD_CLI_DOUBLE, /* double, finite */
    BD_CLI_EACH,   /* bd_cli_list: one value per use, may be used again (--set a=1 --set b=2) */
    BD_CLI_LIST,   /* bd_cli_list: all values up to the next argument that begins with -- */
} bd_cli_kind;

typedef struct bd_cli_list {
    const char **items; /* pointing into argv */
    size_t n;
} bd_cli_list;

/* `target` holds the default, which the help prints unless it is zero or NULL.
 * Help text is wrapped; a '\n' in it begins a new line. */
typedef struct bd_cli_opt {
    const char *name; /* without the dashes */
    bd_cli_kind kind;
    void *target;
    const char *metavar; /* NULL for a flag */
    const char *help;
} bd_cli_opt;

/* Options that every command has: --help, --json, --dry-run, --threads, --max-memory. */
typedef struct bd_cli_common {
    bool json, dry_run;
    int64_t threads;    /* 0: all usable processors */
    int64_t max_memory; /* bytes; 0: no limit */
} bd_cli_common;

typedef struct bd_cli_spec {
    const char *name;     /* "eval" */
    const char *summary;  /* the command's one line */
    const char *usage;    /* without "birdie ": "eval MODEL --data SHARD... [options]" */
    const char *text;     /* paragraphs that teach, or NULL; wrapped, "\n" begins a new line */
    const char *examples; /* lines, printed as they are; or NULL */
    const bd_cli_opt *opts;
    size_t n_opts;
    int min_args, max_args; /* positional arguments; max_args < 0: any number */
    bd_cli_common *common;
} bd_cli_spec;

/* Parse argv[1..]; all errors are BD_E_USAGE. *help: --help was given, nothing else is checked. `args` receives
 * the positional arguments. Free with bd_cli_free after success or failure. */
bd_status bd_cli_parse(const bd_cli_spec *s, int argc, char **argv, bd_cli_list *args, bool *help, bd_err *err);
void bd_cli_free(const bd_cli_spec *s, bd_cli_list *args);
void bd_cli_help(const bd_cli_spec *s, FILE *f);
/* Parse; false when there is nothing more to do (help was printed, or usage was wrong and reported): return *rc. */
bool bd_cli_begin(const bd_cli_spec *s, int argc, char **argv, bd_cli_list *args, int *rc);

/* Reports --------------------------------------------------------------------- */

/* "birdie: FILE: MESSAGE (at byte N)" on stderr or, with json, {"error": {...}} on stdout. Returns the exit code.
 */
int bd_cli_error(const bd_err *err, bool json);
/* {"code", "message", "file", "offset"}: offset a decimal string or null. */
json_t *bd_cli_error_json(const bd_err *err);

json_t *bd_cli_i64(int64_t v);     /* decimal string */
json_t *bd_cli_u64(uint64_t v);    /* decimal string */
json_t *bd_cli_real(double v);     /* null when not finite */
json_t *bd_cli_str(const char *s); /* NULL gives null; bytes that are not UTF-8 become '?' */
json_t *bd_cli_hex(const uint8_t *bytes, size_t n);
/* Print the one object of a --json run on stdout, release it, and return the exit code (0, or 3 when stdout fails).
 */
int bd_cli_print_json(json_t *o);

/* Progress -------------------------------------------------------------------- */

/* A live line where stderr is a terminal, a line every ten seconds elsewhere,
 * nothing in the first two seconds. The first Ctrl-C (or SIGTERM) sets `stop`;
 * the second one kills. */
typedef struct bd_cli_progress {
    bd_progress p;
    bool tty, live; /* live: an unfinished line is on the terminal */
    double start, shown;
    char what[64];
} bd_cli_progress;

const bd_progress *bd_cli_progress_start(bd_cli_progress *c);
void bd_cli_progress_end(bd_cli_progress *c); /* clears the live line, restores the signals */

#endif
