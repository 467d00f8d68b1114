/* Verification of one artifact against a validation stream. */
#ifndef BD_VERIFY_VERIFY_ARTIFACT_H
#define BD_VERIFY_VERIFY_ARTIFACT_H

#include "base/progress.h"
#include "format/artifact.h"
#include "format/shard.h"
#include "format/tokenizer.h"
#include "runtime/evaluate.h"
#include "verify/predictor.h"
#include "verify/verdict.h"

/* Which checks are asked for, by name. */
enum { BD_CHECKS_ALL = 1 << 0, BD_CHECKS_RANDOM = 1 << 1 };
/* "all", or names of checks with commas between. RANDOM is the only one that has to be asked for (or required by
 * the rules): it costs more than a look at the evaluation that is carried out anyway. */
bd_status bd_verify_checks_parse(unsigned *mask, const char *list, bd_err *err);

/* What another run scored on the same text. */
enum { BD_RUNS_MAX = 64 };
typedef struct bd_run_result {
    double val_bpb;
    uint64_t tokens, bytes;
    int64_t nll_q32;
} bd_run_result;

typedef struct bd_verify_opts {
    const char *path;        /* the artifact */
    const bd_shards *shards; /* validation shards, joined; NULL: only STRUCTURE and SIZE */
    const bd_tokenizer *tokenizer;
    const uint16_t *sidecar; /* bytes per target from sidecar files, (total), or NULL */
    const char *text;        /* original text of the stream, documents joined by a blank line; NULL: not given */
    uint64_t text_size;
    uint64_t max_tokens;      /* 0: the rules' canonical range if they have one, else all */
    uint64_t max_memory;      /* of the model and of the evaluation; 0: no limit */
    bool allow_external;      /* run external programs (lrzip sections): STRUCTURE is WARN at best then */
    bool fast;                /* not in exact mode: no claim is compared */
    const char *const *train; /* training shards, whose documents must not be those of the stream */
    int n_train;
    const bd_run_result *runs, *incumbent; /* STATS: other seeds of this recipe, and what it is to beat */
    int n_runs, n_incumbent;               /* up to BD_RUNS_MAX each */
    unsigned checks;                       /* besides the usual and the required ones */
    bool has_seed; /* else the places that are looked at follow from the artifact, and RANDOM asks the system */
    uint64_t seed;
    const bd_rules *rules;
    const bd_progress *progress;
    /* For tests of the verifier: puts a predictor of one's own before the artifact's, and owns it. May be NULL. */
    bd_status (*wrap)(bd_predictor **out, bd_predictor *inner, void *user, bd_err *err);
    void *wrap_user;
} bd_verify_opts;

typedef struct bd_verify_result {
    bd_verdict verdict;
    bd_outcome overall;
    bool scored; /* score is set */
    bd_score score;
    bd_protocol protocol;
    uint8_t model_hash[32], root_hash[32];
    uint64_t file_bytes;
    double flops;          /* planned for the evaluation */
    char *causality;       /* the derivation, operation by operation; NULL: not reached */
    double seconds_probes; /* of the checks besides the evaluation */
} bd_verify_result;
void bd_verify_result_free(bd_verify_result *r); /* safe on a zeroed one */

/* A defective artifact is no error: it is STRUCTURE FAIL, and one that scores NaN
 * is SCORE FAIL. Errors are trouble with the other inputs (an id above the
 * vocabulary), no memory, or Ctrl-C. A file without the artifact's magic is
 * BD_E_MAGIC. The checks are always the same fourteen: STRUCTURE and SIZE, then
 * the others in an order of their own. *r is to be freed, also after a failure. */
bd_status bd_verify_artifact(bd_verify_result *r, bd_backend *be, const bd_verify_opts *o, bd_err *err);

/* Targets that would be scored at most, 0: all. Rules that name a canonical number
 * of tokens need no max_tokens. */
uint64_t bd_verify_range(const bd_verify_opts *o);

/* STRUCTURE alone, over bytes in memory: both decoders, their agreement, the
 * graph, and that tensors and graph fit each other. A section that needs an
 * external program is read by the first decoder alone, if allowed: WARN. *out is the parsed artifact
 * (to be closed), or NULL with the check failed. The only errors are
 * no memory and a missing program. */
bd_status bd_verify_structure(bd_artifact **out, bd_verdict *v, const void *data, uint64_t size,
                              bool allow_external, bd_err *err);

#endif
