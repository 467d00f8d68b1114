/* MEMORY: long runs of targets that cost next to nothing are text known by heart. */
#include <inttypes.h>

#include "verify/verify_impl.h"

static const double KNOWN = 0.05; /* nats */

void bd_memory_count(bd_memory *m, uint64_t first, const double *nll, uint64_t n) {
    if (first != m->next) m->run = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!(nll[i] < KNOWN)) {
            m->run = 0;
            continue;
        }
        m->below++;
        if (++m->run <= m->longest) continue;
        m->longest = m->run;
        m->at = first + i + 1 - m->run;
    }
    m->next = first + n;
}

void bd_check_memory(const bd_verification *x, const bd_memory *m) {
    char value[32], limit[32];
    bd_u64_text(value, m->longest);
    bd_u64_text(limit, BD_MEMORY_RUN);
    if (!m->longest)
        bd_verdict_add(x->v, "MEMORY", BD_PASS, value, limit, "no target costs less than %g nats", KNOWN);
    else
        bd_verdict_add(x->v, "MEMORY", m->longest < BD_MEMORY_RUN ? BD_PASS : BD_WARN, value, limit,
                       "longest run of targets below %g nats each: %" PRIu64 ", from target %" PRIu64 "; %" PRIu64
                       " targets in all are below%s",
                       KNOWN, m->longest, m->at, m->below,
                       m->longest < BD_MEMORY_RUN ? "" : ": text that the model may know by heart");
}
