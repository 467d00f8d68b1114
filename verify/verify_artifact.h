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
    const char *path;           /* the artifact */
    const bd_shards *shards;    /* validation shards, joined; NULL: only STRUCTURE and SIZE */
    const bd_tokenizer *tokenizer;
    const uint16_t *sidecar;    /* bytes per target from sidecar files, (total), or NULL */
    const char *text;           /* original text of the stream, documents joined by a blank line; NULL: not given */
    uint64_t text_size;
    uint64_t max_tokens;        /* 0: all */
    uint64_t max_memory;
    const bd_rules *rules;
    const bd_progress *progress;
} bd_verify_opts;

typedef struct bd_verify_result {
    bd_verdict verdict;
    bd_outcome overall;
    bool scored;                /* score is set */
    bd_score score;
    bd_protocol protocol;
    uint8_t model_hash[32], root_hash[32];
    uint64_t file_bytes;
    double flops;               /* planned for the evaluation */
} bd_verify_result;

/* A defective artifact is no error: it is STRUCTURE FAIL. Errors are trouble with
 * the other inputs (an id above the vocabulary, no memory), or Ctrl-C. A file
 * without the artifact's magic is BD_E_MAGIC. */
bd_status bd_verify_artifact(bd_verify_result *r, bd_backend *be, const bd_verify_opts *o, bd_err *err);

/* STRUCTURE alone, over bytes in memory: both decoders, their agreement, the
 * graph, and that tensors and graph fit each other. Returns the parsed artifact
 * (to be closed) or NULL with the check failed. */
bd_artifact *bd_verify_structure(bd_verdict *v, const void *data, uint64_t size);

#endif
