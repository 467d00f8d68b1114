/* Arithmetic that both trellis searches share: they must round alike. Private to
 * trellis_search.c and coupled_search.c. */
#ifndef BD_COMPILER_SEARCH_MATH_H
#define BD_COMPILER_SEARCH_MATH_H

#include "compiler/trellis_search.h"

/* Bodies are compiled once for every instruction set. */
#define BD_SEARCH_INLINE static inline __attribute__((always_inline))

/* Costs are taken down this often, so that float32 keeps telling paths apart. */
enum { BD_SEARCH_RENORM = 32 };
/* No index beyond this: it leaves room for the neighbours within BD_TCQ_INDEX_MAX. */
#define BD_SEARCH_INDEX_LIMIT 32760.0f
#define BD_SEARCH_UNREACHED   1e30f

BD_SEARCH_INLINE int32_t bd_search_below(float y) {
    int32_t t = (int32_t)y;
    return t - ((float)t > y);
}

BD_SEARCH_INLINE float bd_search_clamp(float y) {
    y = y < BD_SEARCH_INDEX_LIMIT ? y : BD_SEARCH_INDEX_LIMIT;
    return y > -BD_SEARCH_INDEX_LIMIT ? y : -BD_SEARCH_INDEX_LIMIT;
}

BD_SEARCH_INLINE int32_t bd_search_level(int32_t magnitude, int32_t shift) {
    int32_t v = magnitude >> shift;
    return v < BD_RATE_LEVELS - 1 ? v : BD_RATE_LEVELS - 1;
}

#endif
