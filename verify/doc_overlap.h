/* Documents of the validation stream that training shards hold too. */
#ifndef BD_VERIFY_DOC_OVERLAP_H
#define BD_VERIFY_DOC_OVERLAP_H

#include "base/status.h"

typedef struct bd_doc_overlap {
    uint64_t documents; /* whole ones of the validation stream */
    uint64_t found;     /* of them, in training */
    uint64_t trained;   /* whole documents of the training shards */
    uint64_t first;     /* number of the first one found, from 0 */
} bd_doc_overlap;

/* Documents begin at `bos` and are compared by 64-bit hashes of what follows it. Those that the end of the stream
 * or of a shard cuts are left out. */
bd_status bd_doc_overlap_count(bd_doc_overlap *r, const uint16_t *tokens, uint64_t n, int32_t bos,
                               const char *const *train, int n_train, bd_err *err);

#endif
