/* Status codes and errors.
 *
 * Every function that can fail returns bd_status (0 is success) and takes a
 * `bd_err *err` as its last argument (NULL is allowed). Libraries never print
 * and never exit. Three kinds of trouble, three treatments:
 *   input is wrong   a BD_E_* code of the 2x..5x range, with the byte offset or
 *                    line and a message that says what to do;
 *   world is wrong   BD_E_IO, BD_E_NOMEM, ... ;
 *   we are wrong     BD_ASSERT: message and abort.
 * docs/errors.md is generated from the list below. */
#ifndef BD_BASE_STATUS_H
#define BD_BASE_STATUS_H

#include <stdint.h>

/* X(name, number, exit code of the program, description) */
#define BD_STATUS_LIST(X)                                                   \
    X(OK, 0, 0, "success")                                                  \
    X(E_USAGE, 1, 2, "wrong option or argument")                            \
    X(E_TRUNCATED, 20, 2, "input ends too early")                           \
    X(E_MAGIC, 21, 2, "not a file of the expected type")                    \
    X(E_VERSION, 22, 2, "unknown format version")                           \
    X(E_FIELD, 23, 2, "a field has an illegal value")                       \
    X(E_NONCANON, 24, 2, "legal value, illegal spelling")                   \
    X(E_CHECKSUM, 25, 2, "stored and computed hash differ")                 \
    X(E_CODEC, 26, 2, "compressed data is damaged")                         \
    X(E_LIMIT, 27, 2, "input exceeds a limit")                              \
    X(E_SYNTAX, 28, 2, "text does not parse")                               \
    X(E_SHAPE, 29, 2, "wrong shape")                                        \
    X(E_MISSING, 30, 2, "a required item is missing")                       \
    X(E_UNKNOWN, 31, 2, "an item is not known")                             \
    X(E_RANGE, 32, 2, "a value is out of range")                            \
    X(E_NONFINITE, 33, 2, "NaN or infinity")                                \
    X(E_CAUSAL, 34, 2, "the model could see the future")                    \
    X(E_BUDGET, 35, 2, "the byte budget cannot be met")                     \
    X(E_REFUSED, 36, 2, "input asks for something that is not allowed")     \
    X(E_IO, 60, 3, "reading or writing failed")                             \
    X(E_NOMEM, 61, 3, "out of memory")                                      \
    X(E_UNSUPPORTED, 62, 3, "this machine or build cannot do that")         \
    X(E_NUMERICS, 63, 3, "floating point does not follow the rules needed") \
    X(E_INTERRUPTED, 64, 130, "interrupted")                                \
    X(E_MISMATCH, 65, 3, "two implementations disagree")

typedef enum bd_status {
#define BD_X(name, number, exit_code, text) BD_##name = number,
    BD_STATUS_LIST(BD_X)
#undef BD_X
} bd_status;

#define BD_NO_OFFSET UINT64_MAX

typedef struct bd_err {
    bd_status code;
    uint64_t offset; /* byte offset in `file`, or BD_NO_OFFSET */
    char file[256];  /* the user's file at fault, or "" */
    char msg[768];   /* one line, no trailing newline */
    const char *src; /* where it was raised, for developers */
    int src_line;
} bd_err;

/* Fill err (if not NULL) and return code. Use the macros. */
bd_status bd_err_set(bd_err *err, bd_status code, uint64_t offset, const char *src, int line, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* Name the file at fault unless one is named already; keeps long paths' tails. */
void bd_err_file(bd_err *err, const char *path);
/* Put a prefix ("reading tensor x: ") before the message. */
void bd_err_prefix(bd_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *bd_status_name(bd_status s); /* "E_TRUNCATED" */
const char *bd_status_text(bd_status s); /* "input ends too early" */
int bd_status_exit(bd_status s);         /* exit code of the program */

#define BD_FAIL(err, code, ...)            bd_err_set((err), (code), BD_NO_OFFSET, __FILE__, __LINE__, __VA_ARGS__)
#define BD_FAIL_AT(err, code, offset, ...) bd_err_set((err), (code), (offset), __FILE__, __LINE__, __VA_ARGS__)
/* Forward a failure. */
#define BD_TRY(expr)                          \
    do {                                      \
        bd_status bd_try_ = (expr);           \
        if (bd_try_ != BD_OK) return bd_try_; \
    } while (0)
/* Forward a failure through the function's single exit `done:`; needs `bd_status st`. */
#define BD_TRY_DONE(expr)           \
    do {                            \
        st = (expr);                \
        if (st != BD_OK) goto done; \
    } while (0)

_Noreturn void bd_assert_fail(const char *cond, const char *src, int line);
#define BD_ASSERT(cond) ((cond) ? (void)0 : bd_assert_fail(#cond, __FILE__, __LINE__))

#endif
