/* Which indices may follow each other down a column (format/SPEC.md, "The trellis"). */
#ifndef BD_REFDEC_TRELLIS_H
#define BD_REFDEC_TRELLIS_H

#include <stdlib.h>

#include "refdec/refdec_impl.h"

typedef struct trellis {
    unsigned states;
    unsigned allowed[256]; /* by state: the parity of the indices it allows */
    unsigned other[256];   /* by state: what its two successors are told apart by */
} trellis;

static inline unsigned parity(unsigned x) {
    unsigned p = 0;
    for (; x; x >>= 1) p ^= x & 1;
    return p;
}

static inline void trellis_begin(trellis *t, unsigned states) {
    static const unsigned h[7][2] = {{5, 2}, {11, 4}, {19, 4}, {37, 8}, {67, 20}, {157, 86}, {333, 242}};
    unsigned i = 0;
    while (4u << i < states) i++;
    t->states = states;
    for (unsigned s = 0; s < states; s++) {
        t->allowed[s] = parity(2 * s & h[i][1]);
        t->other[s] = parity(2 * s & h[i][0]);
    }
}

static inline unsigned state_after(const trellis *t, unsigned s, int index) {
    unsigned upper = (unsigned)(index + 32768) / 2 % 2;
    return (2 * s + (upper ^ t->other[s])) % t->states;
}

/* Rows in the trellis's order: malloced. */
static inline uint32_t *trellis_order(const bd_refdec_tensor *t) {
    uint32_t *order = malloc((uint64_t)t->rows * sizeof *order), n = 0;
    for (int e = -128; order && e <= 128; e++)
        for (uint32_t r = 0; r < t->rows; r++)
            if (t->row_exp[r] == e) order[n++] = r;
    return order;
}

#endif
