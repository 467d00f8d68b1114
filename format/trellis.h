/* The trellis of trellis-coded quantization (format/SPEC.md, "TCQ"): which indices
 * may follow each other down a column. Entropy-coded TCQ of Marcellin & Fischer
 * (1990) and Fischer & Wang (1992) with Ungerboeck's one-dimensional codes.
 *
 * The grid is index * step / 2. Subset d = index mod 4. A state allows the indices of
 * one parity (its superset); the choice between that superset's two subsets is the
 * bit that moves the state. With one state there is no trellis: the grid is
 * index * step and every index is allowed. */
#ifndef BD_FORMAT_TRELLIS_H
#define BD_FORMAT_TRELLIS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct bd_trellis {
    uint32_t states, h0, h1; /* parity-check polynomials; h0 is odd, h1 even */
} bd_trellis;

/* False if there is no code with that many states (4, 8, 16, 32, 64, 128, 256). */
static inline bool bd_trellis_init(bd_trellis *t, uint32_t states) {
    static const uint16_t codes[][3] = {{4, 05, 02},     {8, 013, 04},      {16, 023, 04},    {32, 045, 010},
                                        {64, 0103, 024}, {128, 0235, 0126}, {256, 0515, 0362}};
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i][0] == states) {
            *t = (bd_trellis){states, codes[i][1], codes[i][2]};
            return true;
        }
    return false;
}

/* Parity of the indices that state s allows. */
static inline unsigned bd_trellis_superset(const bd_trellis *t, uint32_t s) {
    return (unsigned)__builtin_parity((s << 1) & t->h1);
}

/* The state after an index that s allows. */
static inline uint32_t bd_trellis_next(const bd_trellis *t, uint32_t s, int index) {
    unsigned upper = ((unsigned)index >> 1) & 1, b = upper ^ (unsigned)__builtin_parity((s << 1) & t->h0);
    return ((s << 1) | b) & (t->states - 1);
}

/* Rows in the order in which the trellis takes them: rising row_exp, equal ones as they stand. order: (n) */
void bd_trellis_order(int32_t *order, const int16_t *row_exp, uint32_t n);

#endif
