#include "format/external.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 512 };

/* The program's file, as execvp would find it; found before the fork, so that a missing program is a clear error.
 */
static bd_status find_program(const char *name, char path[PATH_BYTES], bd_err *err) {
    const char *dirs = getenv("PATH");
    if (!dirs || !*dirs) dirs = "/usr/local/bin:/usr/bin:/bin";
    for (const char *p = dirs; *p;) {
        size_t n = strcspn(p, ":");
        int len = snprintf(path, PATH_BYTES, "%.*s/%s", (int)n, p, name);
        struct stat s;
        /* relative entries would mean the job's directory by the time the program starts */
        if (n && *p == '/' && len < PATH_BYTES && !stat(path, &s) && S_ISREG(s.st_mode) && !access(path, X_OK))
            return BD_OK;
        p += n + (p[n] == ':');
    }
    return BD_FAIL(err, BD_E_MISSING, "the program %s is needed and not installed (it is not in PATH)", name);
}

static bd_status write_file(const char *path, const void *data, uint64_t size, bd_err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return BD_FAIL(err, BD_E_IO, "%s: %s", path, strerror(errno));
    const uint8_t *p = data;
    int failed = 0;
    while (size && !failed) {
        ssize_t n = write(fd, p, size < 1u << 30 ? size : 1u << 30);
        if (n < 0 && errno == EINTR) continue;
        failed = n <= 0 ? (n < 0 ? errno : ENOSPC) : 0;
        p += failed ? 0 : n;
        size -= failed ? 0 : (uint64_t)n;
    }
    if (close(fd) && !failed) failed = errno;
    return failed ? BD_FAIL(err, BD_E_IO, "%s: %s", path, strerror(failed)) : BD_OK;
}

static bd_status read_file(const char *path, const char *program, uint64_t most, bd_buf *out, bd_err *err) {
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return BD_FAIL(err, BD_E_CODEC, "%s gave no result", program);
    bd_status st = BD_OK;
    if (fstat(fd, &s) || !S_ISREG(s.st_mode) || (uint64_t)s.st_size > most)
        st = BD_FAIL(err, BD_E_CODEC, "the result of %s has more than %llu bytes", program,
                     (unsigned long long)most);
    else if (!bd_buf_reserve(out, (size_t)s.st_size))
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for %llu bytes", (unsigned long long)s.st_size);
    for (uint64_t left = st == BD_OK ? (uint64_t)s.st_size : 0; left && st == BD_OK;) {
        ssize_t n = read(fd, out->data + out->size, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) st = BD_FAIL(err, BD_E_IO, "%s: %s", path, n ? strerror(errno) : "it shrank");
        else out->size += (size_t)n, left -= (uint64_t)n;
    }
    close(fd);
    return st;
}

/* In the child: only calls that are safe after a fork of a threaded program. */
static _Noreturn void start(const bd_external *job, const char *path, const char *dir, char *const *env,
                            int null_fd) {
    /* Some more than asked for: programs write in blocks. What they leave is measured afterwards. */
    struct rlimit most = {job->most + (1 << 20), job->most + (1 << 20)}, none = {0, 0};
    setpgid(0, 0);
    signal(SIGXFSZ, SIG_DFL);
    if (chdir(dir) || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 ||
        setrlimit(RLIMIT_FSIZE, &most) || setrlimit(RLIMIT_CORE, &none))
        _exit(126);
    execve(path, (char *const *)(uintptr_t)job->argv, env);
    _exit(127);
}

/* Wait for it, at most as long as the job may take. */
static bd_status wait_for(pid_t pid, const bd_external *job, bd_err *err) {
    struct timespec begin, now, nap = {0, 2000000};
    int how;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (;;) {
        pid_t got = waitpid(pid, &how, WNOHANG);
        if (got == pid) break;
        if (got < 0 && errno != EINTR)
            return BD_FAIL(err, BD_E_IO, "waiting for %s: %s", job->argv[0], strerror(errno));
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begin.tv_sec >= (time_t)job->seconds) {
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL);
            while (waitpid(pid, &how, 0) < 0 && errno == EINTR) {}
            return BD_FAIL(err, BD_E_CODEC, "%s took longer than %u seconds", job->argv[0], job->seconds);
        }
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < 50000000) nap.tv_nsec *= 2;
    }
    kill(-pid, SIGKILL); /* what it may have left running */
    if (WIFEXITED(how) && WEXITSTATUS(how) == 0) return BD_OK;
    if (WIFSIGNALED(how)) return BD_FAIL(err, BD_E_CODEC, "%s was ended by signal %d", job->argv[0], WTERMSIG(how));
    return BD_FAIL(err, BD_E_CODEC, "%s failed (exit status %d)", job->argv[0], WEXITSTATUS(how));
}

static bd_status run_in(const bd_external *job, const char *path, const char *dir, bd_err *err) {
    char home[PATH_BYTES], tmp[PATH_BYTES];
    snprintf(home, sizeof home, "HOME=%s", dir);
    snprintf(tmp, sizeof tmp, "TMPDIR=%s", dir);
    /* No settings of the user's: they could change what is written. */
    char *const env[] = {
        home, tmp, (char[]){"PATH=/usr/local/bin:/usr/bin:/bin"}, (char[]){"LC_ALL=C"}, (char[]){"LRZIP=NOCONFIG"},
        NULL};
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0) return BD_FAIL(err, BD_E_IO, "/dev/null: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) start(job, path, dir, env, null_fd);
    int failed = errno;
    close(null_fd);
    if (pid < 0) return BD_FAIL(err, BD_E_IO, "starting %s: %s", job->argv[0], strerror(failed));
    return wait_for(pid, job, err);
}

/* With whatever files an ended program left there. */
static void remove_dir(const char *dir) {
    char path[2 * PATH_BYTES];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

bd_status bd_external_run(const bd_external *job, const void *data, uint64_t size, bd_buf *out, bd_err *err) {
    char program[PATH_BYTES], dir[PATH_BYTES / 2], in[PATH_BYTES], result[PATH_BYTES];
    BD_TRY(find_program(job->argv[0], program, err));
    const char *base = getenv("TMPDIR");
    if (!base || *base != '/' || strlen(base) > 128) base = "/tmp";
    snprintf(dir, sizeof dir, "%s/birdie-XXXXXX", base);
    if (!mkdtemp(dir)) return BD_FAIL(err, BD_E_IO, "%s: %s", dir, strerror(errno));
    snprintf(in, sizeof in, "%s/%s", dir, job->in);
    snprintf(result, sizeof result, "%s/%s", dir, job->out);
    bd_status st = write_file(in, data, size, err);
    if (st == BD_OK) st = run_in(job, program, dir, err);
    if (st == BD_OK) st = read_file(result, job->argv[0], job->most, out, err);
    remove_dir(dir);
    return st;
}
