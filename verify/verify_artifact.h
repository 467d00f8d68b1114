/* Verification of one artifact against a validation stream. */
#ifndef BD_VERIFY_VERIFY_ARTIFACT_H
#define BD_VERIFY_VERIFY_ARTIFACT_H

#include "base/progress.h"
#include "format/artifact.h"
#include "format/shard.h"
#include "format/tokenizer.h"
#include "runtime/evaluate.h"
#include "verify/verdict.h"

typedef struct bd_verify_opts {
    const char *path;        /* the artifact */
    const bd_shards *shards; /* validation shards, joined; NULL: only STRUCTURE and SIZE */
    const bd_tokenizer *tokenizer;
    const uint16_t *sidecar; /* bytes per target from sidecar files, (total), or NULL */
    const char *text;        /* original text of the stream, documents joined by a blank line; NULL: not given */
    uint64_t text_size;
    uint64_t max_tokens; /* 0: the rules' canonical range if they have one, else all */
    uint64_t max_memory; /* of the model and of the evaluation; 0: no limit */
    bool allow_external; /* run external programs (lrzip sections): STRUCTURE is WARN at best then */
    bool fast;           /* not in exact mode: no claim is compared */
    const bd_rules *rules;
    const bd_progress *progress;
} bd_verify_opts;

typedef struct bd_verify_result {
    bd_verdict verdict;
    bd_outcome overall;
    bool scored; /* score is set */
    bd_score score;
    bd_protocol protocol;
    uint8_t model_hash[32], root_hash[32];
    uint64_t file_bytes;
    double flops; /* planned for the evaluation */
} bd_verify_result;

/* A defective artifact is no error: it is STRUCTURE FAIL, and one that scores NaN
 * is SCORE FAIL. Errors are trouble with the other inputs (an id above the
 * vocabulary), no memory, or Ctrl-C. A file without the artifact's magic is
 * BD_E_MAGIC. The checks are always the same six, in the order STRUCTURE, SIZE,
 * then the others. */
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
