/* Checks and the verdict over them.
 *
 * A check ends as PASS, FAIL, WARN or NOT-CHECKED, with its number, its limit and
 * a sentence. The verdict is the worst of FAIL > WARN > PASS; NOT-CHECKED counts
 * (as FAIL) only where the rules require the check. */
#ifndef BD_VERIFY_VERDICT_H
#define BD_VERIFY_VERDICT_H

#include "verify/rules.h"

typedef enum bd_outcome { BD_PASS, BD_WARN, BD_FAILED, BD_NOT_CHECKED } bd_outcome;
const char *bd_outcome_name(bd_outcome o); /* "PASS", "WARN", "FAIL", "NOT-CHECKED" */

typedef struct bd_check {
    char id[16];
    bd_outcome outcome;
    char value[64], limit[64]; /* "" where there is none */
    char detail[4096];         /* longer text is cut */
} bd_check;

enum { BD_MAX_CHECKS = 32 };
typedef struct bd_verdict {
    bd_check checks[BD_MAX_CHECKS];
    int n;
} bd_verdict;

/* Append a check; value and limit may be NULL. */
void bd_verdict_add(bd_verdict *v, const char *id, bd_outcome o, const char *value, const char *limit,
                    const char *fmt, ...) __attribute__((format(printf, 6, 7)));
bd_outcome bd_verdict_overall(const bd_verdict *v, const bd_rules *r);

#endif
