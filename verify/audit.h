/* Audit of a stranger's submission folder: submission.json, logs and scripts, by
 * arithmetic. Nothing is executed and nothing outside the folder is read. Seven
 * checks, in this order: FILES, SIZE, TIME, HARDWARE, SCORE, STATS, POLICY. */
#ifndef BD_VERIFY_AUDIT_H
#define BD_VERIFY_AUDIT_H

#include "verify/audit_scan.h"
#include "verify/verdict.h"

typedef struct bd_audit_result {
    char folder[96]; /* its name; bytes that are not printable ASCII show as '?' */
    bd_verdict verdict;
    bd_outcome overall;
    int files, logs, runs; /* runs: different ones */
    /* What was recomputed; n 0: nothing. */
    int n;
    char metric[48];
    double val_bpb, val_loss, bpb_sd; /* means; val_loss 0: not printed */
    double bytes_per_token;           /* 0: unknown */
    uint64_t largest_total;           /* 0: unknown */
} bd_audit_result;

/* Errors: the folder cannot be read, no memory. Whatever it holds is a verdict. */
bd_status bd_audit_folder(bd_audit_result *out, const char *path, const bd_rules *r, bd_err *err);

#endif
