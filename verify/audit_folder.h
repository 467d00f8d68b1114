/* A stranger's folder, read safely: symbolic links, devices and pipes are listed and
 * never opened, sizes and counts are bounded, and names are only shown, never used
 * as paths again (what is needed is read while the directory is open). */
#ifndef BD_VERIFY_AUDIT_FOLDER_H
#define BD_VERIFY_AUDIT_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    BD_FOLDER_MAX_FILES = 1024,
    BD_FOLDER_MAX_DEPTH = 4,         /* folders inside folders */
    BD_FOLDER_MAX_FILE = 32 << 20,   /* bytes; a larger file is listed, not read */
    BD_FOLDER_MAX_TOTAL = 128 << 20, /* bytes read */
};

typedef enum bd_file_kind { BD_FILE_REGULAR, BD_FILE_LINK, BD_FILE_SPECIAL } bd_file_kind;
/* By name: what an auditor does with it. */
typedef enum bd_file_role { BD_ROLE_OTHER, BD_ROLE_JSON, BD_ROLE_LOG, BD_ROLE_SCRIPT, BD_ROLE_README } bd_file_role;

typedef struct bd_folder_file {
    char name[256];   /* below the folder, '/' between; bytes that are not printable ASCII show as '?' */
    const char *base; /* the part after the last '/' */
    bd_file_kind kind;
    bd_file_role role;
    uint64_t size;
    uint8_t *data; /* size bytes of a regular file with a role, or NULL: not read */
    int same_as;   /* the file of the same bytes that counts instead of this one, or -1 */
} bd_folder_file;

typedef struct bd_folder {
    bd_folder_file *files; /* sorted by name */
    int n;
    int links, specials, unread; /* unread: had a role and was too large */
    int too_deep;                /* folders that were not entered */
} bd_folder;

/* path is the user's own word and may be a link. Files and folders that begin with '.' are left out. */
bd_status bd_folder_read(bd_folder *f, const char *path, bd_err *err);
void bd_folder_free(bd_folder *f); /* safe on a zeroed or freed one */
/* First regular file in the folder itself (not below) that matches the pattern (bd_glob), or -1. */
int bd_folder_find(const bd_folder *f, const char *pattern);

#endif
