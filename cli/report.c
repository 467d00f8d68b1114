/* Errors, JSON and progress: everything the program says. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/thread.h"
#include "cli/cli.h"

/* JSON -------------------------------------------------------------------------- */

json_t *bd_cli_i64(int64_t v) {
    char t[24];
    snprintf(t, sizeof t, "%lld", (long long)v);
    return json_string(t);
}

json_t *bd_cli_u64(uint64_t v) {
    char t[24];
    snprintf(t, sizeof t, "%llu", (unsigned long long)v);
    return json_string(t);
}

json_t *bd_cli_real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

json_t *bd_cli_str(const char *s) {
    if (!s) return json_null();
    json_t *j = json_string(s);
    if (j) return j;
    char t[1024];
    snprintf(t, sizeof t, "%s", s);
    for (char *p = t; *p; p++)
        if ((unsigned char)*p >= 0x80) *p = '?';
    return json_string(t);
}

json_t *bd_cli_hex(const uint8_t *bytes, size_t n) {
    char t[129];
    BD_ASSERT(n <= 64);
    for (size_t i = 0; i < n; i++) snprintf(t + 2 * i, 3, "%02x", bytes[i]);
    t[2 * n] = 0;
    return json_string(t);
}

int bd_cli_print_json(json_t *o) {
    bool ok = o && json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) == 0 && putchar('\n') != EOF;
    ok = fflush(stdout) == 0 && ok;
    json_decref(o);
    if (!ok) fprintf(stderr, "birdie: cannot write the result to stdout\n");
    return ok ? 0 : 3;
}

/* Errors ------------------------------------------------------------------------ */

json_t *bd_cli_error_json(const bd_err *err) {
    json_t *o = json_object();
    json_object_set_new(o, "code", json_string(bd_status_name(err->code)));
    json_object_set_new(o, "message", bd_cli_str(err->msg));
    json_object_set_new(o, "file", err->file[0] ? bd_cli_str(err->file) : json_null());
    json_object_set_new(o, "offset", err->offset != BD_NO_OFFSET ? bd_cli_u64(err->offset) : json_null());
    return o;
}

int bd_cli_error(const bd_err *err, bool json) {
    if (json) {
        json_t *o = json_object();
        json_object_set_new(o, "error", bd_cli_error_json(err));
        int rc = bd_cli_print_json(o);
        return rc ? rc : bd_status_exit(err->code);
    }
    fprintf(stderr, "birdie: ");
    if (err->file[0]) fprintf(stderr, "%s: ", err->file);
    fprintf(stderr, "%s", err->msg[0] ? err->msg : bd_status_text(err->code));
    if (err->offset != BD_NO_OFFSET) fprintf(stderr, " (at byte %llu)", (unsigned long long)err->offset);
    fprintf(stderr, "\n");
    return bd_status_exit(err->code);
}

/* Progress ---------------------------------------------------------------------- */

/* The one variable that a signal handler must be able to reach. */
static volatile sig_atomic_t stop_requested;

static void on_signal(int sig) {
    (void)sig; /* SA_RESETHAND: the next one kills */
    static const char text[] = "\nbirdie: stopping at the next safe point; Ctrl-C again to kill\n";
    stop_requested = 1;
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
}

static void clear_line(bd_cli_progress *c) {
    if (c->live) fprintf(stderr, "\r\033[K");
    c->live = false;
}

static void print_time(char *out, size_t size, double s) {
    long t = (long)(s + 0.5);
    if (t >= 3600) snprintf(out, size, "%ld:%02ld:%02ld", t / 3600, t / 60 % 60, t % 60);
    else snprintf(out, size, "%ld:%02ld", t / 60, t % 60);
}

static void on_tick(void *user, const char *what, double done, double total, const char *detail) {
    bd_cli_progress *c = user;
    double now = bd_now();
    if (strncmp(c->what, what, sizeof c->what - 1) != 0) { /* a new phase has its own clock */
        snprintf(c->what, sizeof c->what, "%s", what);
        c->start = now;
    }
    if (now - c->start < 2.0 || now - c->shown < (c->tty ? 0.2 : 10.0)) return;
    c->shown = now;
    char eta[32] = "";
    if (done > 0 && total > done) {
        char t[24];
        print_time(t, sizeof t, (now - c->start) / done * (total - done));
        snprintf(eta, sizeof eta, ", %s left", t);
    }
    char count[96];
    if (total > 0) snprintf(count, sizeof count, "%.0f/%.0f (%.0f %%)", done, total, 100 * done / total);
    else snprintf(count, sizeof count, "%.0f", done);
    char line[480];
    snprintf(line, sizeof line, "%s %s%s%s%.200s", what, count, eta, detail[0] ? "  " : "", detail);
    if (c->tty) {
        fprintf(stderr, "\r%.110s\033[K", line);
        c->live = true;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

static void on_note(void *user, const char *line) {
    clear_line(user);
    fprintf(stderr, "%s\n", line);
}

static void set_handlers(bool ours) {
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sigemptyset(&sa.sa_mask);
    sa.sa_handler = SIG_DFL;
    if (ours) {
        sa.sa_handler = on_signal;
        sa.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
    }
    const int signals[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct sigaction old;
        /* A program started with the signal ignored (nohup, background) keeps it so. */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(signals[i], &sa, NULL);
    }
}

const bd_progress *bd_cli_progress_start(bd_cli_progress *c) {
    memset(c, 0, sizeof *c);
    const char *term = getenv("TERM");
    c->tty = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    c->start = bd_now();
    c->p = (bd_progress){.tick = on_tick, .note = on_note, .user = c, .stop = &stop_requested};
    stop_requested = 0;
    set_handlers(true);
    return &c->p;
}

void bd_cli_progress_end(bd_cli_progress *c) {
    clear_line(c);
    fflush(stderr);
    set_handlers(false);
}
