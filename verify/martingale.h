/* The martingale test: has a predictor compressed a stream from a known source
 * better than anyone can?
 *
 * If x is drawn from a source q and p is any predictor that fixes its distribution
 * before it sees the token, the product of p(x_t) / q(x_t) has mean at most 1 at all
 * times. So has every such product begun later, and every mixture of them with
 * weights that sum to at most 1; and by Ville's inequality the mixture ever exceeds
 * 1/a with probability at most a. Products begun at several points, with weights
 * 2^-j, find a leak that follows on a long stretch of losses. */
#ifndef BD_VERIFY_MARTINGALE_H
#define BD_VERIFY_MARTINGALE_H

#include <stdint.h>

enum { BD_MARTINGALE_STARTS = 16 };

typedef struct bd_martingale {
    uint64_t n, at;                       /* tokens in all, and seen */
    uint64_t start[BD_MARTINGALE_STARTS]; /* product j begins at token start[j], weight 2^-(j + 1) */
    double log_product[BD_MARTINGALE_STARTS];
    double excess;       /* largest logarithm of the mixture at any time; at least 0 */
    uint64_t when;       /* tokens seen then */
    double ours, theirs; /* nats in all: of the predictor, of the source */
} bd_martingale;

/* Starts: 0, then 1/2, 1/4, 3/4, 1/8, ... of n. */
void bd_martingale_init(bd_martingale *m, uint64_t n);
/* One token's cost in nats under the predictor and under the source. */
void bd_martingale_add(bd_martingale *m, double nll, double source_nll);
/* The least steady gain in nats per token that would have been proven, had this run's predictor had it besides. */
double bd_martingale_detectable(const bd_martingale *m, double alpha);

#endif
