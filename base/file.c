#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIPE_LIMIT ((size_t)1 << 30)

/* A path that is not there or of the wrong kind is the user's slip; everything
 * else is the environment's. */
static bd_status fail_errno(bd_err *err, const char *path, int e, const char *doing) {
    bd_status code = e == ENOMEM                                                                     ? BD_E_NOMEM
                     : e == ENOENT || e == ENOTDIR || e == EISDIR || e == ENAMETOOLONG || e == ELOOP ? BD_E_MISSING
                                                                                                     : BD_E_IO;
    BD_FAIL(err, code, "%s: %s", doing, strerror(e));
    bd_err_file(err, path);
    return code;
}

static bd_status fail_kind(bd_err *err, const char *path, const char *kind) {
    BD_FAIL(err, BD_E_USAGE, "is a %s; a file is needed", kind);
    bd_err_file(err, path);
    return BD_E_USAGE;
}

/* Reading ------------------------------------------------------------------- */

static bd_status read_pipe(bd_map *m, int fd, const char *path, bd_err *err) {
    size_t cap = 1 << 16, size = 0;
    uint8_t *data = malloc(cap);
    for (;;) {
        if (data && size == cap && cap < PIPE_LIMIT) {
            uint8_t *more = realloc(data, cap *= 2);
            if (!more) free(data);
            data = more;
        }
        if (!data) return fail_errno(err, path, ENOMEM, "cannot read");
        uint8_t extra;
        ssize_t n = size < cap ? read(fd, data + size, cap - size) : read(fd, &extra, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int e = errno;
            free(data);
            return fail_errno(err, path, e, "cannot read");
        }
        if (n == 0) break;
        if (size == cap) {
            free(data);
            BD_FAIL(err, BD_E_LIMIT, "a pipe may carry at most %zu bytes; store the data in a file", PIPE_LIMIT);
            bd_err_file(err, path);
            return BD_E_LIMIT;
        }
        size += (size_t)n;
    }
    *m = (bd_map){.data = data, .size = size, .heap = true};
    return BD_OK;
}

bd_status bd_map_open(bd_map *m, const char *path, bd_err *err) {
    memset(m, 0, sizeof *m);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return fail_errno(err, path, errno, "cannot open");
    struct stat sb;
    bd_status st = BD_OK;
    if (fstat(fd, &sb)) st = fail_errno(err, path, errno, "cannot stat");
    else if (S_ISDIR(sb.st_mode)) st = fail_kind(err, path, "directory");
    else if (S_ISFIFO(sb.st_mode)) st = read_pipe(m, fd, path, err);
    else if (!S_ISREG(sb.st_mode)) st = fail_kind(err, path, "device or socket");
    else if (sb.st_size == 0) m->data = (const uint8_t *)"";
    else {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) st = fail_errno(err, path, errno, "cannot map");
        else *m = (bd_map){.data = p, .size = (uint64_t)sb.st_size, .heap = false};
    }
    close(fd);
    return st;
}

void bd_map_close(bd_map *m) {
    if (m->heap) free((void *)(uintptr_t)m->data);
    else if (m->size) munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    memset(m, 0, sizeof *m);
}

/* Writing ------------------------------------------------------------------- */

enum { OUT_DIRECT, OUT_NAMED, OUT_ANONYMOUS };

/* Where a symbolic link leads, if it leads anywhere: the link stays a link. */
static char *final_path(const char *path) {
    char *real = realpath(path, NULL);
    return real ? real : strdup(path);
}

static char *dir_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static char *temp_name(const char *path, unsigned attempt) {
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) + 1 : 0;
    char *tmp = NULL;
    if (asprintf(&tmp, "%.*s.birdie-%ld-%u.tmp", dir, path, (long)getpid(), attempt) < 0) return NULL;
    return tmp;
}

/* A file without a name disappears by itself when the program dies, so this is
 * tried first; it needs the file system's help and /proc to be named later. */
static int open_anonymous(const char *path) {
    char *dir = dir_of(path);
    if (!dir) return -1;
    int fd = access("/proc/self/fd", X_OK) == 0 ? open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    free(dir);
    return fd;
}

static int open_named(bd_out *o) {
    for (unsigned attempt = 0; attempt < 10000; attempt++) {
        free(o->tmp);
        o->tmp = temp_name(o->path, attempt);
        if (!o->tmp) {
            errno = ENOMEM;
            return -1;
        }
        int fd = open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

/* Give the anonymous file a name beside the target. */
static int name_anonymous(bd_out *o) {
    char from[64];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fileno(o->f));
    for (unsigned attempt = 0; attempt < 10000; attempt++) {
        free(o->tmp);
        o->tmp = temp_name(o->path, attempt);
        if (!o->tmp) return ENOMEM;
        if (linkat(AT_FDCWD, from, AT_FDCWD, o->tmp, AT_SYMLINK_FOLLOW) == 0) return 0;
        if (errno != EEXIST) break;
    }
    int e = errno;
    free(o->tmp);
    o->tmp = NULL;
    return e;
}

bd_status bd_out_open(bd_out *o, const char *path, bd_err *err) {
    memset(o, 0, sizeof *o);
    struct stat sb;
    bool exists = stat(path, &sb) == 0;
    size_t n = strlen(path);
    if (exists && S_ISDIR(sb.st_mode)) return fail_kind(err, path, "directory");
    if (n == 0 || path[n - 1] == '/') return fail_errno(err, path, n ? EISDIR : ENOENT, "cannot write");
    o->path = final_path(path);
    if (!o->path) return fail_errno(err, path, ENOMEM, "cannot write");
    int fd;
    if (exists && !S_ISREG(sb.st_mode)) {
        o->kind = OUT_DIRECT; /* /dev/null, a pipe: renaming over it would destroy it */
        fd = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    } else {
        o->kind = OUT_ANONYMOUS;
        fd = open_anonymous(o->path);
        if (fd < 0) {
            o->kind = OUT_NAMED;
            fd = open_named(o);
        }
        if (fd >= 0 && exists && fchmod(fd, sb.st_mode & 0777) != 0) errno = 0; /* best effort */
    }
    int e = errno;
    if (fd >= 0 && !(o->f = fdopen(fd, "wb"))) {
        e = errno;
        close(fd);
        if (o->kind == OUT_NAMED) unlink(o->tmp);
        fd = -1;
    }
    if (fd < 0) {
        free(o->path);
        free(o->tmp);
        memset(o, 0, sizeof *o);
        return fail_errno(err, path, e, "cannot create");
    }
    return BD_OK;
}

void bd_out_put(bd_out *o, const void *data, size_t n) {
    if (n == 0 || o->failed) return;
    if (fwrite(data, 1, n, o->f) != n) {
        o->failed = true;
        o->saved_errno = errno;
    }
}

static void sync_dir(const char *path) {
    char *dir = dir_of(path);
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    /* Some file systems cannot sync a directory; the data itself is safe by now. */
    if (fd >= 0) {
        if (fsync(fd) != 0) errno = 0;
        close(fd);
    }
    free(dir);
}

bd_status bd_out_commit(bd_out *o, bd_err *err) {
    BD_ASSERT(o->f);
    int e = 0;
    const char *doing = "cannot write";
    if (o->failed) e = o->saved_errno ? o->saved_errno : EIO;
    else if (ferror(o->f)) e = EIO; /* somebody used o->f directly */
    if (!e && fflush(o->f) != 0) e = errno;
    if (!e && fsync(fileno(o->f)) != 0 && !(o->kind == OUT_DIRECT && (errno == EINVAL || errno == EROFS)))
        e = errno;
    if (!e && o->kind == OUT_ANONYMOUS) e = name_anonymous(o);
    if (fclose(o->f) != 0 && !e) e = errno;
    o->f = NULL;
    if (!e && o->kind != OUT_DIRECT && rename(o->tmp, o->path) != 0) {
        e = errno;
        doing = "cannot rename the finished file into place";
    }
    bd_status st = BD_OK;
    if (e) st = fail_errno(err, o->path, e, doing);
    else if (o->kind != OUT_DIRECT) {
        sync_dir(o->path);
        free(o->tmp);
        o->tmp = NULL; /* it is the target now */
    }
    bd_out_abort(o);
    return st;
}

void bd_out_abort(bd_out *o) {
    if (o->f) fclose(o->f);
    if (o->tmp) unlink(o->tmp);
    free(o->tmp);
    free(o->path);
    memset(o, 0, sizeof *o);
}

bd_status bd_file_write(const char *path, const void *data, size_t n, bd_err *err) {
    bd_out o;
    BD_TRY(bd_out_open(&o, path, err));
    bd_out_put(&o, data, n);
    return bd_out_commit(&o, err);
}

/* Directories --------------------------------------------------------------- */

bool bd_path_is_dir(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bd_status bd_make_dir(const char *path, bd_err *err) {
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && bd_path_is_dir(path))) return BD_OK;
    return fail_errno(err, path, errno, "cannot make the directory");
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b); /* strcmp compares bytes as unsigned */
}

bd_status bd_list_dir(const char *path, char ***names, size_t *n, bd_err *err) {
    *names = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (!d) return fail_errno(err, path, errno, "cannot list the directory");
    size_t cap = 0;
    int e = 0;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(d)) != NULL) {
        struct stat sb;
        if (fstatat(dirfd(d), entry->d_name, &sb, 0) != 0 || !S_ISREG(sb.st_mode)) continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 16;
            char **more = realloc(*names, cap * sizeof *more);
            if (!more) {
                e = ENOMEM;
                break;
            }
            *names = more;
        }
        char *name = strdup(entry->d_name);
        if (!name) {
            e = ENOMEM;
            break;
        }
        (*names)[(*n)++] = name;
    }
    if (!e) e = errno;
    closedir(d);
    if (e) {
        bd_names_free(*names, *n);
        *names = NULL;
        *n = 0;
        return fail_errno(err, path, e, "cannot list the directory");
    }
    if (*n) qsort(*names, *n, sizeof **names, compare_names);
    return BD_OK;
}

void bd_names_free(char **names, size_t n) {
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
}
