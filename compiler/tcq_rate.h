/* What an index will cost in the file, guessed while it is chosen: one adaptive table
 * of magnitudes per superset and predicted magnitude. It stands in for the coder
 * (format/code_model), whose contexts are finer but lie in the future.
 *
 * Starting values are the same for every tensor: a mix of a normal and a Laplace
 * distribution of the bin's mean. Counts of the tensor's own indices take over. */
#ifndef BD_COMPILER_TCQ_RATE_H
#define BD_COMPILER_TCQ_RATE_H

#include "compiler/trellis_search.h"

typedef struct bd_rate {
    bd_rate_cost now; /* lambda times the bits of the last update, the sign's bit included */
    bool scalar;
    double lambda;
    float start[BD_RATE_BINS][2][BD_RATE_LEVELS]; /* probabilities */
    uint32_t count[BD_RATE_BINS][2][BD_RATE_LEVELS];
    bool fresh[BD_RATE_BINS]; /* counted since the last update */
} bd_rate;

void bd_rate_init(bd_rate *r, bool scalar, double lambda);
static inline void bd_rate_count(bd_rate *r, int32_t bin, int index) {
    unsigned magnitude = (unsigned)(index < 0 ? -index : index), odd = r->scalar ? 0 : magnitude & 1;
    unsigned level = (r->scalar ? magnitude : magnitude >> 1) >> r->now.shift[bin];
    r->count[bin][odd][level < BD_RATE_LEVELS - 1 ? level : BD_RATE_LEVELS - 1]++;
    r->fresh[bin] = true;
}
/* Bring `now` up to the counts. */
void bd_rate_update(bd_rate *r);

#endif
