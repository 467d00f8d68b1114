/* Training logs of the public challenge: what a run says about itself.
 *
 * Several families of log lines are known (docs/auditing.md). Patterns are anchored at
 * the start of a line, so that listings of source code inside a log are not taken for
 * results. One file may hold several runs. Anything else is skipped. */
#ifndef BD_VERIFY_AUDIT_LOG_H
#define BD_VERIFY_AUDIT_LOG_H

#include "base/status.h"
#include "verify/audit_scan.h"

enum { BD_RUN_MAX_METRICS = 24, BD_LOG_MAX_RUNS = 64 };

/* A result line: "LABEL val_loss:X val_bpb:Y ...". */
typedef struct bd_metric {
    char label[48]; /* without a trailing "_exact" and an inner "_int8" */
    bd_number loss, bpb;
    double eval_s;   /* 0: not said */
    bool diagnostic; /* before quantization, or called so: never the score of an artifact */
} bd_metric;

typedef struct bd_run {
    int first_line;
    bool has_seed;
    int64_t seed;
    bd_number world; /* processes; one device each */
    char gpu[48];    /* device names of an nvidia-smi table; "" */
    int gpu_line, n_gpus;
    bd_number val_tokens, params, train_shards;
    /* Training. */
    bd_number train_ms; /* of the stopping line, else the largest seen */
    bool stopped;       /* by the wall clock, as the log says */
    bd_number steps;    /* at that time; not present: not said */
    double step_ms;     /* 0: not said */
    /* Calibration of the quantizer, after training. */
    double calibration_s;
    int calibration_line;
    bool self_generated;
    /* Size. */
    bd_number model, code, total; /* the compressed model, the code that was counted, their sum as printed */
    bd_number code_raw;           /* "uncompressed" code */
    char model_label[32], total_label[32];
    bool total_is_rounded; /* printed in MB */
    /* Evaluation. */
    double eval_s, warmup_s, production_s; /* the log's own timers; 0: not said */
    int eval_line, warmup_line, production_line;
    bool learns, ngram, lrzip, caseops; /* words that ask for review */
    int learns_line, ngram_line, lrzip_line;
    bd_metric metrics[BD_RUN_MAX_METRICS];
    int n_metrics;
    bd_number last_bpb; /* of a validation line during training */
} bd_run;

typedef struct bd_log {
    bd_run *runs;
    int n;
    bool cut; /* more runs than fit */
} bd_log;

/* The only error is no memory. A file that is no log has no runs. */
bd_status bd_log_parse(bd_log *l, const void *text, uint64_t size, bd_err *err);
void bd_log_free(bd_log *l); /* safe on a zeroed or freed one */
/* The metric with this label and the most decimals, the last of equals; NULL. */
const bd_metric *bd_run_metric(const bd_run *r, const char *label);
/* Two reports of one run? */
bool bd_run_same(const bd_run *a, const bd_run *b);

#endif
