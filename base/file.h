/* Files: read-only maps, and outputs that appear whole or not at all. */
#ifndef BD_BASE_FILE_H
#define BD_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* A whole file mapped read-only. Directories, devices and pipes are refused
 * (a pipe is read into memory up to 1 GiB instead). */
typedef struct bd_map {
    const uint8_t *data;
    uint64_t size;
    bool heap;
} bd_map;

bd_status bd_map_open(bd_map *m, const char *path, bd_err *err);
void bd_map_close(bd_map *m); /* safe on a zeroed or closed map */

/* Output: written to a temporary file in the target directory, synced, then
 * renamed. bd_out_abort (or a crash) leaves the old file or none; where the file
 * system can, the temporary file has no name until it is complete. A target that
 * is a device or a pipe is written in place. Write errors are sticky and
 * reported by commit. */
typedef struct bd_out {
    FILE *f;
    char *path, *tmp;
    bool failed;
    int saved_errno;
    int kind; /* of temporary file; private */
} bd_out;

bd_status bd_out_open(bd_out *o, const char *path, bd_err *err);
void bd_out_put(bd_out *o, const void *data, size_t n);
bd_status bd_out_commit(bd_out *o, bd_err *err);
void bd_out_abort(bd_out *o); /* safe after commit */
/* All in one. */
bd_status bd_file_write(const char *path, const void *data, size_t n, bd_err *err);

bool bd_path_is_dir(const char *path);
bd_status bd_make_dir(const char *path, bd_err *err); /* existing directory is fine */
/* Names (not paths) of regular files in a directory, bytewise sorted. Free each and the list, or use bd_names_free.
 */
bd_status bd_list_dir(const char *path, char ***names, size_t *n, bd_err *err);
void bd_names_free(char **names, size_t n);

#endif
