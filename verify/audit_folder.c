#include "verify/audit_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/nearest.h"
#include "base/sha256.h"

typedef struct scan {
    bd_folder *f;
    uint64_t total;
    bd_err *err;
} scan;

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcasecmp(s + n - k, tail) == 0;
}

static bd_file_role role_of(const char *base) {
    if (ends_with(base, ".json")) return BD_ROLE_JSON;
    if (ends_with(base, ".py")) return BD_ROLE_SCRIPT;
    if (strncasecmp(base, "README", 6) == 0) return BD_ROLE_README;
    if (ends_with(base, ".log")) return BD_ROLE_LOG;
    if (ends_with(base, ".txt") && strncasecmp(base, "requirements", 12) != 0) return BD_ROLE_LOG;
    return BD_ROLE_OTHER;
}

/* All of an open regular file; a file that shrinks meanwhile is read as far as it goes. */
static bd_status read_file(scan *s, bd_folder_file *file, int fd) {
    uint64_t done = 0;
    file->data = malloc(file->size ? (size_t)file->size : 1);
    if (!file->data) return BD_FAIL(s->err, BD_E_NOMEM, "out of memory for %s", file->name);
    while (done < file->size) {
        ssize_t k = read(fd, file->data + done, (size_t)(file->size - done));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return BD_FAIL(s->err, BD_E_IO, "cannot read %s: %s", file->name, strerror(errno));
        if (k == 0) break;
        done += (uint64_t)k;
    }
    file->size = done;
    s->total += done;
    return BD_OK;
}

static bd_status add_entry(scan *s, int dir, const char *prefix, const char *raw, int depth);

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Takes over dir. */
static bd_status scan_dir(scan *s, int dir, const char *prefix, int depth) {
    char **names = NULL;
    size_t n = 0;
    bd_status st = BD_OK;
    DIR *d = fdopendir(dir);
    if (!d) {
        close(dir);
        return BD_FAIL(s->err, BD_E_IO, "cannot list a folder: %s", strerror(errno));
    }
    names = malloc((BD_FOLDER_MAX_FILES + 1) * sizeof *names);
    struct dirent *e;
    while (!st && names && (e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        if (n == BD_FOLDER_MAX_FILES) st = BD_FAIL(s->err, BD_E_LIMIT, "more than %d files", BD_FOLDER_MAX_FILES);
        else if (!(names[n] = strdup(e->d_name))) st = BD_FAIL(s->err, BD_E_NOMEM, "out of memory for file names");
        else n++;
    }
    if (!names) st = BD_FAIL(s->err, BD_E_NOMEM, "out of memory for file names");
    if (!st && n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n && !st; i++) st = add_entry(s, dirfd(d), prefix, names[i], depth);
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    closedir(d);
    return st;
}

static void show_name(char out[256], const char *prefix, const char *raw) {
    snprintf(out, 256, "%s%s%.200s", prefix, *prefix ? "/" : "", raw);
    for (char *c = out; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
}

static bd_status add_entry(scan *s, int dir, const char *prefix, const char *raw, int depth) {
    struct stat sb;
    char name[256];
    bd_folder *f = s->f;
    show_name(name, prefix, raw);
    if (fstatat(dir, raw, &sb, AT_SYMLINK_NOFOLLOW) != 0)
        return BD_FAIL(s->err, BD_E_IO, "cannot look at %s: %s", name, strerror(errno));
    if (S_ISDIR(sb.st_mode)) {
        if (depth == BD_FOLDER_MAX_DEPTH) {
            f->too_deep++;
            return BD_OK;
        }
        int sub = openat(dir, raw, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0) return BD_FAIL(s->err, BD_E_IO, "cannot open %s: %s", name, strerror(errno));
        return scan_dir(s, sub, name, depth + 1);
    }
    if (f->n == BD_FOLDER_MAX_FILES) return BD_FAIL(s->err, BD_E_LIMIT, "more than %d files", BD_FOLDER_MAX_FILES);
    bd_folder_file *file = &f->files[f->n++];
    memset(file, 0, sizeof *file);
    file->same_as = -1;
    snprintf(file->name, sizeof file->name, "%s", name);
    const char *slash = strrchr(file->name, '/');
    file->base = slash ? slash + 1 : file->name;
    file->kind = S_ISREG(sb.st_mode) ? BD_FILE_REGULAR : S_ISLNK(sb.st_mode) ? BD_FILE_LINK : BD_FILE_SPECIAL;
    file->role = role_of(file->base);
    f->links += file->kind == BD_FILE_LINK;
    f->specials += file->kind == BD_FILE_SPECIAL;
    if (file->kind != BD_FILE_REGULAR) return BD_OK;
    file->size = sb.st_size < 0 ? 0 : (uint64_t)sb.st_size;
    if (file->role == BD_ROLE_OTHER) return BD_OK;
    if (file->size > BD_FOLDER_MAX_FILE || s->total + file->size > BD_FOLDER_MAX_TOTAL) {
        f->unread++;
        return BD_OK;
    }
    /* Not a link, and still the regular file that it was a moment ago. */
    int fd = openat(dir, raw, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat now;
    if (fd < 0 || fstat(fd, &now) != 0 || !S_ISREG(now.st_mode)) {
        bd_status st = BD_FAIL(s->err, BD_E_IO, "cannot open %s: %s", name, strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    bd_status st = read_file(s, file, fd);
    close(fd);
    return st;
}

static int file_order(const void *a, const void *b) {
    return strcmp(((const bd_folder_file *)a)->name, ((const bd_folder_file *)b)->name);
}

static void find_copies(bd_folder *f) {
    uint8_t(*hash)[32] = malloc((size_t)f->n * sizeof *hash + 1);
    if (!hash) return; /* copies are then counted twice, as they would be without this */
    for (int i = 0; i < f->n; i++) {
        bd_folder_file *a = &f->files[i];
        if (!a->data || !a->size) continue;
        bd_sha256_of(a->data, (size_t)a->size, hash[i]);
        for (int k = 0; k < i && a->same_as < 0; k++) {
            bd_folder_file *b = &f->files[k];
            if (!b->data || b->size != a->size || b->same_as >= 0 || memcmp(hash[i], hash[k], 32) != 0) continue;
            /* The name that says a seed says more. */
            if (strcasestr(a->base, "seed") && !strcasestr(b->base, "seed")) {
                b->same_as = i;
                for (int q = 0; q < k; q++)
                    if (f->files[q].same_as == k) f->files[q].same_as = i;
                break;
            }
            a->same_as = k;
        }
    }
    free(hash);
}

bd_status bd_folder_read(bd_folder *f, const char *path, bd_err *err) {
    memset(f, 0, sizeof *f);
    f->files = calloc(BD_FOLDER_MAX_FILES, sizeof *f->files);
    if (!f->files) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a folder");
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scan s = {.f = f, .err = err};
    bd_status st = dir < 0 ? BD_FAIL(err, errno == ENOENT || errno == ENOTDIR ? BD_E_MISSING : BD_E_IO,
                                     "cannot open the folder: %s", strerror(errno))
                           : scan_dir(&s, dir, "", 0);
    if (st) {
        bd_err_file(err, path);
        bd_folder_free(f);
        return st;
    }
    qsort(f->files, (size_t)f->n, sizeof *f->files, file_order);
    for (int i = 0; i < f->n; i++) { /* base points into the entry, which was moved */
        const char *slash = strrchr(f->files[i].name, '/');
        f->files[i].base = slash ? slash + 1 : f->files[i].name;
    }
    find_copies(f);
    return BD_OK;
}

void bd_folder_free(bd_folder *f) {
    for (int i = 0; i < f->n; i++) free(f->files[i].data);
    free(f->files);
    memset(f, 0, sizeof *f);
}

int bd_folder_find(const bd_folder *f, const char *pattern) {
    for (int i = 0; i < f->n; i++)
        if (f->files[i].kind == BD_FILE_REGULAR && !strchr(f->files[i].name, '/') &&
            bd_glob(pattern, f->files[i].name))
            return i;
    return -1;
}
