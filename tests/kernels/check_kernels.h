/* The modes of check_kernels. Each adds to the tally. */
#ifndef BD_TESTS_CHECK_KERNELS_H
#define BD_TESTS_CHECK_KERNELS_H

#include "kernel_cases.h"

typedef struct tally {
    int passed, failed, skipped;
} tally;

void check_gradients(tally *t, uint64_t seed, const char *only);
/* Float ref against double ref, every operation. */
void check_tolerances(tally *t, uint64_t seed, const char *only);

#endif
