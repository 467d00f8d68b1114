/* Verdicts as JSON and as lines: the same for every command that judges. */
#ifndef BD_CLI_VERDICT_REPORT_H
#define BD_CLI_VERDICT_REPORT_H

#include "cli/cli.h"
#include "verify/verdict.h"

/* The list under "checks": id, status, value, limit, detail. */
json_t *bd_verdict_json(const bd_verdict *v);
/* A line for each check; wrapped at `columns` if that is not 0. */
void bd_verdict_print(const bd_verdict *v, int columns);

#endif
