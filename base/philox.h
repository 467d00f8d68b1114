/* Philox4x32-10, the counter-based generator of Salmon et al. (SC'11,
 * "Parallel random numbers: as easy as 1, 2, 3"). A value is a pure function of
 * (seed, stream, index), so random numbers do not depend on order or threads. */
#ifndef BD_BASE_PHILOX_H
#define BD_BASE_PHILOX_H

#include <stdint.h>

void bd_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
uint64_t bd_philox_u64(uint64_t seed, uint64_t stream, uint64_t index);
double bd_philox_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 53 bits */
double bd_philox_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* Box-Muller in double */
/* Uniform integer in [0, n), unbiased enough for n < 2^32 (64-bit multiply-high). */
uint64_t bd_philox_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
/* 64-bit FNV-1a of a name: the stream of that parameter's initial values. */
uint64_t bd_name_stream(const char *name);

#endif
