#include "runtime/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/philox.h"

static const double LN2 = 0.69314718055994530942;

int64_t bd_score_q32(double nll) { return (int64_t)llrint(nll * 0x1p32); }

bd_status bd_score_sum_init(bd_score_sum *s, uint64_t windows, bd_err *err) {
    memset(s, 0, sizeof *s);
    s->per_group = (windows + BD_SCORE_GROUPS - 1) / BD_SCORE_GROUPS;
    if (s->per_group == 0) s->per_group = 1;
    s->n_groups = (uint32_t)((windows + s->per_group - 1) / s->per_group);
    s->group_q32 = calloc((size_t)s->n_groups + 1, sizeof *s->group_q32);
    s->group_bytes = calloc((size_t)s->n_groups + 1, sizeof *s->group_bytes);
    if (s->group_q32 && s->group_bytes) return BD_OK;
    bd_score_sum_free(s);
    return BD_FAIL(err, BD_E_NOMEM, "out of memory");
}

void bd_score_sum_free(bd_score_sum *s) {
    free(s->group_q32);
    free(s->group_bytes);
    memset(s, 0, sizeof *s);
}

bd_status bd_score_sum_add(bd_score_sum *s, const double *nll, uint64_t n, uint64_t bytes, bd_err *err) {
    uint64_t group = s->windows / s->per_group;
    BD_ASSERT(group < s->n_groups);
    int64_t sum = 0, total;
    bool ok = true;
    for (uint64_t i = 0; i < n; i++) ok &= bd_add_i64(sum, bd_score_q32(nll[i]), &sum);
    ok &= bd_add_i64(s->nll_q32, sum, &total);
    if (!ok) return BD_FAIL(err, BD_E_RANGE, "the sum of the losses exceeds 2^31 nats");
    s->nll_q32 = total;
    s->group_q32[group] += sum;
    s->group_bytes[group] += bytes;
    s->tokens += n;
    s->bytes += bytes;
    s->windows++;
    return BD_OK;
}

double bd_score_loss(int64_t nll_q32, uint64_t tokens) {
    return tokens ? (double)nll_q32 * 0x1p-32 / (double)tokens : (double)NAN;
}

double bd_score_bpb(int64_t nll_q32, uint64_t bytes) {
    return bytes ? (double)nll_q32 * 0x1p-32 / (LN2 * (double)bytes) : (double)NAN;
}

double bd_score_stderr(const bd_score_sum *s) {
    if (s->n_groups < 2 || s->bytes == 0) return (double)NAN;
    double mean = 0, m2 = 0;
    int used = 0;
    for (uint64_t r = 0; r < BD_SCORE_RESAMPLES; r++) {
        double q = 0, bytes = 0;
        for (uint64_t i = 0; i < s->n_groups; i++) {
            uint64_t k = bd_philox_below(0, r, i, s->n_groups);
            q += (double)s->group_q32[k];
            bytes += (double)s->group_bytes[k];
        }
        if (bytes <= 0) continue;
        double x = q * 0x1p-32 / (LN2 * bytes), d = x - mean;
        used++;
        mean += d / used;
        m2 += d * (x - mean);
    }
    return used > 1 ? sqrt(m2 / (used - 1)) : (double)NAN;
}
