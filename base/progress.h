/* How libraries talk while they work: they call back, they never print.
 *
 * A bd_progress is passed by pointer (NULL: silent). `stop` is polled at safe
 * points; when it is set a long function saves what its contract says and
 * returns BD_E_INTERRUPTED. */
#ifndef BD_BASE_PROGRESS_H
#define BD_BASE_PROGRESS_H

#include <signal.h>
#include <stdbool.h>

typedef struct bd_progress {
    /* done/total in units of `what` ("windows", "steps"); detail may be "" */
    void (*tick)(void *user, const char *what, double done, double total, const char *detail);
    void (*note)(void *user, const char *line); /* a message worth a line */
    void *user;
    const volatile sig_atomic_t *stop;
} bd_progress;

void bd_tick(const bd_progress *p, const char *what, double done, double total, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
void bd_note(const bd_progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool bd_stopped(const bd_progress *p);

#endif
