/* Rules profiles: what a contest asks, as data (rules/ holds the files). */
#ifndef BD_VERIFY_RULES_H
#define BD_VERIFY_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { BD_RULES_MAX_REQUIRED = 32 };

typedef struct bd_rules {
    char name[64];
    uint64_t size_cap;                          /* bytes of the artifact file */
    double eval_s;                              /* 0: times are reported only */
    int processors;                             /* the hardware that eval_s is about; 0: none named */
    uint64_t canonical_tokens, canonical_bytes; /* of the whole evaluation; 0: none */
    double tolerance;                           /* relative, for the canonical counts */
    char required[BD_RULES_MAX_REQUIRED][16];   /* checks that must have been done */
    int n_required;
} bd_rules;

/* path NULL: rules/default.json, which is part of the program. */
bd_status bd_rules_open(bd_rules *r, const char *path, bd_err *err);
bd_status bd_rules_parse(bd_rules *r, const char *text, uint64_t size, bd_err *err);
bool bd_rules_requires(const bd_rules *r, const char *check);

#endif
