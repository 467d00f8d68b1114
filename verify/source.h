/* Sources of random token streams whose probabilities are known. Everything is a
 * function of the seed. */
#ifndef BD_VERIFY_SOURCE_H
#define BD_VERIFY_SOURCE_H

#include "base/progress.h"
#include "format/protocol.h"
#include "runtime/model.h"

typedef enum bd_source_kind {
    BD_SOURCE_MODEL,   /* drawn from the frozen model itself, window by window as the protocol cuts them */
    BD_SOURCE_UNIFORM, /* every token alike */
    BD_SOURCE_MARKOV,  /* sixteen tokens, each by the three before it, and copies of earlier pieces */
    BD_SOURCES
} bd_source_kind;
const char *bd_source_name(bd_source_kind k);

/* tokens (n + 1): tokens[0] = first, the rest drawn; nll (n + 1): what each drawn token costs under the source,
 * nll[0] = 0. max_memory: bytes that drawing from the model may take; 0: no limit. */
bd_status bd_source_draw(bd_source_kind kind, const bd_model *m, bd_backend *be, const bd_protocol *proto,
                         uint64_t seed, uint16_t first, uint16_t *tokens, double *nll, uint64_t n,
                         uint64_t max_memory, const bd_progress *progress, bd_err *err);

#endif
