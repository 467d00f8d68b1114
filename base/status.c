#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Messages quote names from files; a hostile name must not reach a terminal as
 * control codes or split the line. */
static void make_printable(char *s) {
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20 || c == 0x7f) *s = '?';
        if (c == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0)
            s[0] = s[1] = '?'; /* C1 in UTF-8 */
    }
}

bd_status bd_err_set(bd_err *err, bd_status code, uint64_t offset, const char *src, int line, const char *fmt,
                     ...) {
    if (!err) return code;
    /* The arguments may point into *err (a message that quotes the old one). */
    char msg[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    make_printable(msg);
    err->code = code;
    err->offset = offset;
    err->file[0] = 0;
    memcpy(err->msg, msg, sizeof msg);
    err->src = src;
    err->src_line = line;
    return code;
}

void bd_err_file(bd_err *err, const char *path) {
    if (!err || err->file[0] || !path) return;
    size_t n = strlen(path), room = sizeof err->file - 1;
    if (n <= room) memcpy(err->file, path, n + 1);
    else snprintf(err->file, sizeof err->file, "...%s", path + (n - (room - 3)));
    make_printable(err->file);
}

void bd_err_prefix(bd_err *err, const char *fmt, ...) {
    if (!err) return;
    char msg[sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    size_t used = (size_t)n < sizeof msg - 1 ? (size_t)n : sizeof msg - 1;
    size_t rest = strlen(err->msg), room = sizeof msg - 1 - used;
    if (rest > room) rest = room;
    memcpy(msg + used, err->msg, rest);
    msg[used + rest] = 0;
    make_printable(msg);
    memcpy(err->msg, msg, used + rest + 1);
}

const char *bd_status_name(bd_status s) {
    switch (s) {
#define BD_X(name, number, exit_code, text) \
    case BD_##name: return #name;
        BD_STATUS_LIST(BD_X)
#undef BD_X
    }
    return "E_UNLISTED";
}

const char *bd_status_text(bd_status s) {
    switch (s) {
#define BD_X(name, number, exit_code, text) \
    case BD_##name: return text;
        BD_STATUS_LIST(BD_X)
#undef BD_X
    }
    return "unlisted status";
}

int bd_status_exit(bd_status s) {
    switch (s) {
#define BD_X(name, number, exit_code, text) \
    case BD_##name: return exit_code;
        BD_STATUS_LIST(BD_X)
#undef BD_X
    }
    return 3;
}

_Noreturn void bd_assert_fail(const char *cond, const char *src, int line) {
    fprintf(stderr, "birdie: internal error: %s:%d: %s\n", src, line, cond);
    abort();
}
