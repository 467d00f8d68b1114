/* Proofs by compression: an artifact and a bitstream that decode to the text.
 *
 * bd_prove runs the artifact's whole evaluation, test-time training included, and
 * codes every target with the distribution that scored it. bd_prove_check runs the
 * same evaluation without the targets: each comes out of the bitstream, by the
 * same distribution, before it can be learnt from. What decodes was predicted from
 * earlier tokens alone, by probabilities that sum to one, and its length is the
 * score. */
#ifndef BD_VERIFY_PROVE_H
#define BD_VERIFY_PROVE_H

#include "format/proof.h"
#include "format/shard.h"
#include "runtime/evaluate.h"

typedef struct bd_prove_opts {
    uint64_t max_tokens; /* making a proof: targets, from the start of the stream; 0: all */
    uint64_t max_memory; /* bytes; 0: no limit */
    const bd_progress *progress;
} bd_prove_opts;

/* Length of a code for a score: nll_q32 / 2^32 / (8 ln 2). */
double bd_prove_ideal_bytes(int64_t nll_q32);

/* What making or checking will do; opts may be NULL. tokens: of the stream, targets + 1. */
bd_status bd_prove_plan(bd_eval_plan *plan, const bd_model *m, uint64_t tokens, bool check,
                        const bd_prove_opts *opts, bd_err *err);

/* m must come from an artifact. *p refers to `code`, which receives the code; out: the file. */
bd_status bd_prove(bd_proof *p, bd_buf *code, bd_buf *out, bd_score *score, const bd_model *m, bd_backend *be,
                   const bd_shards *shards, const bd_prove_opts *opts, bd_err *err);

typedef struct bd_prove_result {
    bool ok;
    char detail[512]; /* why not; "" if ok */
    uint64_t decoded; /* targets */
    bool code_ended, tokens_match, score_matches;
    uint8_t tokens_hash[32]; /* of what was decoded, if all was */
    bd_score score;
} bd_prove_result;

/* Is this proof about this artifact, in these numerics? BD_E_CHECKSUM, BD_E_FIELD, BD_E_VERSION. */
bd_status bd_prove_matches(const bd_proof *p, const bd_model *m, bd_err *err);
/* tokens: (p->tokens + 1), receives the stream. A code that does not decode to what the proof states is a result,
 * not a failure of the call. */
bd_status bd_prove_check(bd_prove_result *r, uint16_t *tokens, const bd_proof *p, const bd_model *m, bd_backend *be,
                         const bd_prove_opts *opts, bd_err *err);

#endif
