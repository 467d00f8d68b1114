#include "compiler/tcq_rate.h"

#include <math.h>
#include <string.h>

#include "base/fmath.h"

#define LOG2_E 1.4426950408889634
/* Share of the Laplace distribution in the start, and of an even spread over a table's levels: no level costs more
 * than some twenty bits. */
#define LAPLACE 0.15
#define EVEN    0x1p-18
/* How many indices the start is worth. */
#define START_WEIGHT 8.0
/* Magnitudes up to this many means have levels of their own. */
#define SPAN 10.0

/* Mean magnitude in the middle of a bin: bins_body's map from floats to bins turned round. */
static double bin_mean(int bin) {
    double octave = ldexp(1, bin / 4 - 7);
    return octave * (1 + (bin % 4 + 0.5) / 4);
}

/* Weights of levels: the density of the grid's values at a magnitude, two signs, times the values in a level. */
static void start_table(float *out, double mean, bool odd, int shift) {
    double p[BD_RATE_LEVELS], sum = 0, sd = 1.2533 * mean + 0.03, beta = mean + 0.1;
    for (int l = 0; l < BD_RATE_LEVELS; l++) {
        double width = (double)(1 << shift), x = (l + 0.5) * width - 0.5 + (odd ? 0.5 : 0);
        double normal = bd_exp(-0.5 * (x / sd) * (x / sd)) / sd * 0.3989422804,
               laplace = bd_exp(-x / beta) / beta / 2;
        p[l] = ((1 - LAPLACE) * normal + LAPLACE * laplace) * width * (x > 0 ? 2 : 1);
        sum += p[l];
    }
    for (int l = 0; l < BD_RATE_LEVELS; l++) out[l] = (float)(p[l] / sum * (1 - EVEN) + EVEN / BD_RATE_LEVELS);
}

static void update_bin(bd_rate *r, int bin) {
    for (int odd = 0; odd < 2; odd++) {
        const uint32_t *count = r->count[bin][odd];
        const float *start = r->start[bin][odd];
        double total = START_WEIGHT, sum[BD_RATE_LEVELS + 1];
        sum[0] = 0;
        for (int l = 0; l < BD_RATE_LEVELS; l++) {
            total += count[l];
            sum[l + 1] = sum[l] + count[l];
        }
        for (int l = 0; l < BD_RATE_LEVELS; l++) {
            /* Large magnitudes are averaged over neighbours: what chance favoured would favour itself. */
            int reach = l / 4 < BD_RATE_LEVELS - 2 - l ? l / 4 : BD_RATE_LEVELS - 2 - l;
            if (reach < 0) reach = 0;
            double c = (sum[l + reach + 1] - sum[l - reach]) / (2 * reach + 1);
            double p = (c + START_WEIGHT * (double)start[l]) / total;
            /* A wide level says which of its values, and all but an even zero have a sign. */
            bool sign = odd || l > 0 || r->now.shift[bin] > 0;
            double bits = -bd_log(p) * LOG2_E + r->now.shift[bin] + (sign ? 1 : 0);
            r->now.cost[bin][odd][l] = (float)(r->lambda * bits);
        }
    }
}

void bd_rate_init(bd_rate *r, bool scalar, double lambda) {
    memset(r, 0, sizeof *r);
    r->scalar = scalar;
    r->lambda = lambda;
    for (int b = 0; b < BD_RATE_BINS; b++) {
        int shift = 0;
        double mean = bin_mean(b);
        while (SPAN * mean > (double)BD_RATE_LEVELS * (double)(1 << shift)) shift++;
        r->now.shift[b] = shift;
        start_table(r->start[b][0], mean, false, shift);
        start_table(r->start[b][1], mean, true, shift);
        update_bin(r, b);
    }
}

void bd_rate_update(bd_rate *r) {
    for (int b = 0; b < BD_RATE_BINS; b++) {
        if (r->fresh[b]) update_bin(r, b);
        r->fresh[b] = false;
    }
}
