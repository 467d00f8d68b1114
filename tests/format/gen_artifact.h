/* Random valid artifacts for tests and fuzzers, and repair of hashes so that
 * mutated files get past them. */
#ifndef BD_TESTS_GEN_ARTIFACT_H
#define BD_TESTS_GEN_ARTIFACT_H

#include <stdint.h>

#include "base/arena.h"
#include "format/artifact.h"

typedef struct gen_options {
    uint64_t seed;
    uint32_t groups;      /* 0: random, 1..4 */
    uint32_t max_tensors; /* per group; 0: 4 */
    uint32_t max_dim;     /* 0: 24 */
    int codec;            /* of every group; -1: random, BD_CODEC_COUNT: best */
} gen_options;

/* Everything lives in the arena. NULL: out of memory. */
bd_artifact *gen_artifact(bd_arena *a, const gen_options *o);
/* The worked example of format/SPEC.md. */
bd_artifact *gen_example(bd_arena *a);

/* Set the header's file size, every section hash whose section lies inside the file, and the root hash. */
void gen_fix_hashes(uint8_t *data, uint64_t size);

/* A file whose only group is given as stored bytes: everything else in it is legal. malloced; NULL: no memory. */
uint8_t *gen_wrap_group(unsigned codec, uint32_t raw, const void *group, uint64_t size, uint64_t *file_size);

#endif
