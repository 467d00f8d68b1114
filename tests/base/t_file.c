/* Outputs appear whole or not at all; inputs of the wrong kind are refused. */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "bd_test.h"

static const char *in_tmp(const char *name) {
    static char path[4][256];
    static int slot;
    char *p = path[slot++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static bool holds(const char *path, const char *text) {
    bd_map m;
    if (bd_map_open(&m, path, NULL)) return false;
    bool same = m.size == strlen(text) && memcmp(m.data, text, m.size) == 0;
    bd_map_close(&m);
    return same;
}

/* Files of the directory, hidden ones included. */
static size_t count_files(const char *dir) {
    char **names;
    size_t n;
    if (bd_list_dir(dir, &names, &n, NULL)) return SIZE_MAX;
    bd_names_free(names, n);
    return n;
}

static const char *fresh_dir(const char *name) {
    const char *dir = in_tmp(name);
    bd_err e = {0};
    CHECK_OK(bd_make_dir(dir, &e), &e);
    return dir;
}

TEST(write_replace_and_abort) {
    const char *dir = fresh_dir("write");
    char path[300];
    snprintf(path, sizeof path, "%s/f", dir);
    bd_err e = {0};
    CHECK_OK(bd_file_write(path, "old", 3, &e), &e);
    CHECK(holds(path, "old"));
    bd_out o;
    CHECK_OK(bd_out_open(&o, path, &e), &e);
    bd_out_put(&o, "new contents", 12);
    CHECK(holds(path, "old")); /* until commit */
    bd_out_abort(&o);
    bd_out_abort(&o);
    CHECK(holds(path, "old") && count_files(dir) == 1);
    CHECK_OK(bd_out_open(&o, path, &e), &e);
    fprintf(o.f, "%d", 42); /* using the stream directly */
    CHECK_OK(bd_out_commit(&o, &e), &e);
    bd_out_abort(&o);
    CHECK(holds(path, "42") && count_files(dir) == 1);
    CHECK_OK(bd_file_write(path, "", 0, &e), &e);
    CHECK(holds(path, ""));
}

TEST(mode_and_links_are_kept) {
    const char *dir = fresh_dir("mode");
    char path[300], link[300];
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(link, sizeof link, "%s/l", dir);
    bd_err e = {0};
    mode_t mask = umask(027);
    bd_status st = bd_file_write(path, "a", 1, &e);
    umask(mask);
    struct stat sb;
    CHECK(st == BD_OK && stat(path, &sb) == 0 && (sb.st_mode & 0777) == 0640);
    CHECK(chmod(path, 0604) == 0 && symlink("f", link) == 0);
    CHECK_OK(bd_file_write(link, "b", 1, &e), &e);
    CHECK(lstat(link, &sb) == 0 && S_ISLNK(sb.st_mode));
    CHECK(holds(path, "b") && stat(path, &sb) == 0 && (sb.st_mode & 0777) == 0604);
}

TEST(killed_while_writing_leaves_the_old_file) {
    const char *dir = fresh_dir("killed");
    char path[300];
    snprintf(path, sizeof path, "%s/f", dir);
    bd_err e = {0};
    CHECK_OK(bd_file_write(path, "old", 3, &e), &e);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        bd_out o;
        if (bd_out_open(&o, path, NULL)) _exit(1);
        for (int i = 0; i < 100000; i++) bd_out_put(&o, "new contents", 12);
        kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(holds(path, "old"));
    if (count_files(dir) != 1)
        printf("    (this file system has no unnamed files: a temporary file stays after kill -9)\n");
}

TEST(full_disk_leaves_the_old_file) {
    const char *dir = fresh_dir("full");
    char path[300];
    snprintf(path, sizeof path, "%s/f", dir);
    bd_err e = {0};
    CHECK_OK(bd_file_write(path, "old", 3, &e), &e);
    struct rlimit saved, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &saved) == 0);
    small = saved;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    static char block[3000];
    bd_status st[2];
    setrlimit(RLIMIT_FSIZE, &small);
    for (int round = 0; round < 2; round++) { /* seen by put (many bytes) and only by commit (few) */
        bd_out o;
        st[round] = bd_out_open(&o, path, &e);
        if (st[round]) break;
        for (int i = 0; i < (round ? 2 : 100); i++) bd_out_put(&o, block, sizeof block);
        st[round] = bd_out_commit(&o, &e);
    }
    setrlimit(RLIMIT_FSIZE, &saved);
    signal(SIGXFSZ, SIG_DFL);
    for (int round = 0; round < 2; round++) CHECK_MSG(st[round] == BD_E_IO, "round %d: %d", round, st[round]);
    CHECK_STR(e.file, path);
    CHECK(strstr(e.msg, strerror(EFBIG)));
    CHECK(holds(path, "old") && count_files(dir) == 1);
}

TEST(devices_are_written_in_place) {
    bd_err e = {0};
    CHECK_OK(bd_file_write("/dev/null", "x", 1, &e), &e);
    struct stat sb;
    CHECK(stat("/dev/null", &sb) == 0 && S_ISCHR(sb.st_mode));
    if (access("/dev/full", W_OK) != 0) SKIP("no /dev/full");
    CHECK(bd_file_write("/dev/full", "x", 1, &e) == BD_E_IO);
    CHECK_STR(e.file, "/dev/full");
    CHECK(strstr(e.msg, strerror(ENOSPC)));
    CHECK(stat("/dev/full", &sb) == 0 && S_ISCHR(sb.st_mode));
}

TEST(bad_targets_are_refused) {
    bd_err e = {0};
    CHECK(bd_file_write(test_tmp(), "x", 1, &e) == BD_E_USAGE && strstr(e.msg, "directory"));
    CHECK(bd_file_write(in_tmp("absent/f"), "x", 1, &e) == BD_E_MISSING && strstr(e.file, "absent/f"));
    CHECK(bd_file_write("", "x", 1, &e) == BD_E_MISSING);
    CHECK(bd_file_write(in_tmp("slash/"), "x", 1, &e) == BD_E_MISSING);
    const char *dir = fresh_dir("readonly");
    char path[300];
    snprintf(path, sizeof path, "%s/f", dir);
    CHECK(chmod(dir, 0555) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        /* Permissions do not bind root, so become nobody. */
        if (getuid() == 0 && setuid(65534) != 0) _exit(99);
        _exit((int)bd_file_write(path, "x", 1, NULL));
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    chmod(dir, 0755);
    CHECK_MSG(WEXITSTATUS(status) == BD_E_IO, "%d", WEXITSTATUS(status));
    CHECK(count_files(dir) == 0);
}

TEST(maps_refuse_what_is_not_a_file) {
    bd_map m;
    bd_err e = {0};
    CHECK(bd_map_open(&m, in_tmp("nothing here"), &e) == BD_E_MISSING && strstr(e.file, "nothing here"));
    bd_map_close(&m);
    CHECK(bd_map_open(&m, test_tmp(), &e) == BD_E_USAGE && strstr(e.msg, "directory"));
    CHECK(bd_map_open(&m, "/dev/zero", &e) == BD_E_USAGE);
    CHECK_OK(bd_file_write(in_tmp("empty"), "", 0, &e), &e);
    CHECK_OK(bd_map_open(&m, in_tmp("empty"), &e), &e);
    CHECK(m.size == 0 && m.data);
    bd_map_close(&m);
    bd_map_close(&m);
}

TEST(pipes_are_read_to_the_end) {
    const char *path = in_tmp("pipe");
    CHECK(mkfifo(path, 0600) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        FILE *f = fopen(path, "wb");
        for (uint32_t i = 0; f && i < 200000; i++) fwrite(&i, 4, 1, f);
        if (f) fclose(f);
        _exit(0);
    }
    bd_map m;
    bd_err e = {0};
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    waitpid(child, NULL, 0);
    CHECK_EQ_U64(m.size, 800000);
    for (uint32_t i = 0; i < 200000; i++) CHECK(memcmp(m.data + 4 * i, &i, 4) == 0);
    bd_map_close(&m);
}

TEST(directories_are_listed_in_order) {
    const char *dir = fresh_dir("list");
    static const char *const names[] = {"b", "a_1", "\xc3\xa9", "B", "a"};
    bd_err e = {0};
    char path[300];
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        CHECK_OK(bd_file_write(path, "", 0, &e), &e);
    }
    snprintf(path, sizeof path, "%s/subdir", dir);
    CHECK_OK(bd_make_dir(path, &e), &e);
    CHECK_OK(bd_make_dir(path, &e), &e);
    CHECK(bd_path_is_dir(path));
    char **found;
    size_t n;
    CHECK_OK(bd_list_dir(dir, &found, &n, &e), &e);
    static const char *const sorted[] = {"B", "a", "a_1", "b", "\xc3\xa9"};
    CHECK(n == 5);
    for (int i = 0; i < 5; i++) CHECK_STR(found[i], sorted[i]);
    bd_names_free(found, n);
    CHECK(bd_list_dir(in_tmp("absent"), &found, &n, &e) == BD_E_MISSING && !found && n == 0);
    snprintf(path, sizeof path, "%s/a", dir);
    CHECK(bd_make_dir(path, &e) == BD_E_IO && !bd_path_is_dir(path));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
