#include "base/progress.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

void bd_tick(const bd_progress *p, const char *what, double done, double total, const char *fmt, ...) {
    if (!p || !p->tick) return;
    char detail[256] = "";
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(detail, sizeof detail, fmt, ap);
        va_end(ap);
    }
    p->tick(p->user, what, done, total, detail);
}

void bd_note(const bd_progress *p, const char *fmt, ...) {
    if (!p || !p->note) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    p->note(p->user, line);
}

bool bd_stopped(const bd_progress *p) { return p && p->stop && *p->stop; }
