/* NORM: at places all along the evaluation the whole distribution is asked for. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fmath.h"
#include "base/philox.h"
#include "verify/verify_impl.h"

enum { LEAST = 1000 };
static const double TOLERANCE = 1e-9;

/* One place in each of so many equal parts of the range. */
bd_status bd_norm_choose(bd_norm *m, const bd_verification *x, bd_err *err) {
    static const uint64_t STREAM = 0x4e4f524d; /* "NORM" */
    uint64_t want = x->o->rules->norm_positions > LEAST ? x->o->rules->norm_positions : LEAST;
    if (want > 1u << 20) want = 1u << 20;
    uint64_t n = x->targets < want ? x->targets : want;
    m->at = malloc((size_t)n * sizeof *m->at);
    if (!m->at) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t a = i * (x->targets / n) + i * (x->targets % n) / n,
                 b = (i + 1) * (x->targets / n) + (i + 1) * (x->targets % n) / n;
        m->at[i] = 1 + a + bd_philox_u64(x->seed, STREAM, i) % (b - a);
    }
    m->n = (int)n;
    m->first_bad = UINT64_MAX;
    return BD_OK;
}

static double tolerance(const bd_verification *x) {
    return x->o->rules->norm_tolerance > 0 ? x->o->rules->norm_tolerance : TOLERANCE;
}

void bd_norm_look(bd_norm *m, const bd_verification *x, uint64_t target, double nll, const double *logp,
                  bool learned) {
    double sum = 0;
    bool value = false;
    for (int32_t i = 0; i < x->p->vocab; i++) {
        if (!(logp[i] <= 1e300)) value = true; /* NaN, or no logarithm of anything */
        else if (logp[i] > -700) sum += bd_exp(logp[i]);
    }
    double off = fabs(sum - 1), gather = fabs(logp[x->tokens[target]] + nll);
    bool bad_sum = !(off <= tolerance(x)), bad_gather = !(gather <= tolerance(x));
    m->seen++;
    *(learned ? &m->after_learning : &m->before_learning) += 1;
    m->bad_value += value;
    m->bad_sum += bad_sum;
    m->bad_gather += bad_gather;
    if (off > m->worst_sum) m->worst_sum = off;
    if (gather > m->worst_gather) m->worst_gather = gather;
    if ((bad_sum || bad_gather || value) && m->first_bad == UINT64_MAX) m->first_bad = target;
}

void bd_check_norm(const bd_verification *x, const bd_norm *m) {
    char value[64], limit[32];
    double worst = m->worst_sum > m->worst_gather ? m->worst_sum : m->worst_gather;
    snprintf(value, sizeof value, "%.3g", worst);
    snprintf(limit, sizeof limit, "%.3g", tolerance(x));
    if (!m->seen) {
        bd_verdict_add(x->v, "NORM", BD_NOT_CHECKED, NULL, limit, "no target was scored where it was looked for");
    } else if (m->bad_value || m->bad_sum || m->bad_gather) {
        bd_verdict_add(
            x->v, "NORM", BD_FAILED, value, limit,
            "of %d distributions over %d tokens %d do not sum to 1 (worst: off by %.3g), %d give the target "
            "another probability than was scored (worst: %.3g nats), %d hold no numbers; first at target "
            "%" PRIu64,
            m->seen, (int)x->p->vocab, m->bad_sum, m->worst_sum, m->bad_gather, m->worst_gather, m->bad_value,
            m->first_bad);
    } else {
        bd_verdict_add(x->v, "NORM", BD_PASS, value, limit,
                       "%d distributions over %d tokens (%d before any learning, %d after), non-negative: sums are "
                       "off by at most %.3g, and the target's own entry by at most %.3g nats from what was scored",
                       m->seen, (int)x->p->vocab, m->before_learning, m->after_learning, m->worst_sum,
                       m->worst_gather);
    }
}
