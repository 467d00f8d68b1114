/* JSON as an auditor reads it: every value with its line, and numbers with the text
 * they are written in, because the number of decimals is part of a claim. NaN and
 * Infinity, which Python writes, are numbers here that say "not finite". */
#ifndef BD_VERIFY_AUDIT_JSON_H
#define BD_VERIFY_AUDIT_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { BD_JSON_MAX_SIZE = 1 << 20, BD_JSON_MAX_NODES = 8192, BD_JSON_MAX_DEPTH = 32 };

typedef enum bd_json_type {
    BD_JSON_NULL,
    BD_JSON_BOOL,
    BD_JSON_NUMBER,
    BD_JSON_STRING,
    BD_JSON_LIST,
    BD_JSON_OBJECT
} bd_json_type;

typedef struct bd_json_node {
    bd_json_type type;
    int parent, child, next; /* node numbers; -1: none. Children are in the order of the text */
    int line;                /* of the value; from 1 */
    int n_children;
    const char *key;  /* of a member of an object, else NULL; UTF-8, a NUL inside shows as '?' */
    const char *text; /* of a string: its value; of a number or a bool: as written; else NULL */
} bd_json_node;

typedef struct bd_json {
    bd_json_node *nodes; /* node 0 is the whole */
    int n;
    char *pool;
} bd_json;

/* Syntax errors name line and byte. Duplicate keys are errors: two readers would see two claims. */
bd_status bd_json_parse(bd_json *d, const void *text, uint64_t size, bd_err *err);
void bd_json_free(bd_json *d); /* safe on a zeroed or freed one */
/* Member of an object, or -1 (also if `object` is -1 or is none). */
int bd_json_get(const bd_json *d, int object, const char *key);

#endif
