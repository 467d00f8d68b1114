/* Shared by the checks of an audit; not for others. */
#ifndef BD_VERIFY_AUDIT_IMPL_H
#define BD_VERIFY_AUDIT_IMPL_H

#include "base/buf.h"
#include "verify/audit.h"
#include "verify/audit_claim.h"
#include "verify/audit_folder.h"
#include "verify/audit_log.h"
#include "verify/audit_script.h"
#include "verify/stats.h"

enum { BD_AUDIT_MAX_RUNS = 128 };

typedef struct bd_audit_run {
    bd_run r;
    int file;      /* in the folder */
    bool of_claim; /* one of the runs behind the claimed score: set by bd_audit_match */
    int64_t seed;  /* of the log, else of the file's name; -1: unknown */
} bd_audit_run;

/* Which runs reproduce the claimed score, and how. */
typedef enum bd_match_kind {
    BD_MATCH_NONE,
    BD_MATCH_SEEDS, /* the mean over the claimed seeds */
    BD_MATCH_ALL,   /* the mean over all runs with this result */
    BD_MATCH_GROUP, /* the mean over the logs of one naming scheme */
    BD_MATCH_ONE,   /* a single run */
} bd_match_kind;

typedef struct bd_match {
    bd_match_kind kind;
    bool near; /* off by up to one unit of the last printed decimal: a mean of rounded values */
    char label[48];
    int runs[BD_AUDIT_MAX_RUNS], n;
    /* Nothing matched: the closest result. */
    int closest_run, closest_metric; /* -1 */
} bd_match;

typedef struct bd_audit {
    const bd_rules *rules;
    bd_audit_result *out;
    bd_folder folder;
    bd_claim claim;
    int claim_file;               /* -1: none */
    char claim_bad[256];          /* why it could not be read; "" */
    bd_audit_run *runs;           /* different ones, by file name */
    int n_runs, n_logs, n_copies; /* copies: of files and of runs */
    int copy_file, copy_of;       /* the first copied file; -1 */
    bool cut;                     /* more runs than fit */
    bd_script script;
    bd_match match;
    bd_buf text; /* the detail of the check at work */
} bd_audit;

/* A phrase of the detail; phrases are joined by "; ". */
void bd_audit_say(bd_audit *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "train.log:12" in out. */
const char *bd_audit_place(const bd_audit *a, const bd_audit_run *run, int line, char out[300]);
/* The check with what was said; begins the next. */
bd_status bd_audit_add(bd_audit *a, const char *id, bd_outcome o, const char *value, const char *limit,
                       bd_err *err);

/* Find the runs behind the claim; runs without a claim that matches are compared by the last result of each. */
void bd_audit_match(bd_audit *a);
/* Share of the profile's bytes that a run's counting is off by; false: cannot be computed. */
bool bd_audit_implied_bytes(const bd_audit *a, const bd_run *r, const bd_metric *m, double *bytes, double *off,
                            double *uncertainty);

bd_status bd_audit_files(bd_audit *a, bd_err *err);
bd_status bd_audit_hardware(bd_audit *a, bd_err *err);
bd_status bd_audit_size(bd_audit *a, bd_err *err);
bd_status bd_audit_time(bd_audit *a, bd_err *err);
bd_status bd_audit_score(bd_audit *a, bd_err *err);
bd_status bd_audit_stats(bd_audit *a, bd_err *err);
bd_status bd_audit_policy(bd_audit *a, bd_err *err);

static inline bd_outcome bd_worse(bd_outcome a, bd_outcome b) {
    if (a == BD_NOT_CHECKED) return b;
    if (b == BD_NOT_CHECKED) return a;
    return a > b ? a : b;
}

#endif
