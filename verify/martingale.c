#include "verify/martingale.h"

#include <string.h>

#include "base/fmath.h"

static const double LN2 = 0.69314718055994530942;

void bd_martingale_init(bd_martingale *m, uint64_t n) {
    memset(m, 0, sizeof *m);
    m->n = n;
    uint64_t parts = 2, odd = 1;
    for (int j = 1; j < BD_MARTINGALE_STARTS; j++) {
        m->start[j] = n / parts * odd + n % parts * odd / parts;
        odd += 2;
        if (odd < parts) continue;
        parts *= 2;
        odd = 1;
    }
}

void bd_martingale_add(bd_martingale *m, double nll, double source_nll) {
    double term[BD_MARTINGALE_STARTS], top = -1e300, sum = 0;
    m->ours += nll;
    m->theirs += source_nll;
    m->at++;
    for (int j = 0; j < BD_MARTINGALE_STARTS; j++) {
        if (m->at > m->start[j]) m->log_product[j] += source_nll - nll;
        term[j] = m->log_product[j] - (j + 1) * LN2;
        top = term[j] > top ? term[j] : top;
    }
    for (int j = 0; j < BD_MARTINGALE_STARTS; j++)
        if (term[j] - top > -700) sum += bd_exp(term[j] - top);
    double mixture = top + bd_log(sum);
    if (mixture <= m->excess) return;
    m->excess = mixture;
    m->when = m->at;
}

double bd_martingale_detectable(const bd_martingale *m, double alpha) {
    double least = 1e300, need = -bd_log(alpha);
    for (int j = 0; j < BD_MARTINGALE_STARTS; j++) {
        if (m->start[j] >= m->n) continue;
        double x = (need + (j + 1) * LN2 - m->log_product[j]) / (double)(m->n - m->start[j]);
        least = x < least ? x : least;
    }
    return least > 0 ? least : 0;
}
