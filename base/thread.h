/* A fixed pool of worker threads and a parallel for.
 *
 * Results must never depend on the number of threads: split work into tasks
 * that write disjoint outputs; never reduce across tasks in completion order.
 * At start every worker (and the caller) is checked for round-to-nearest and
 * denormals on. */
#ifndef BD_BASE_THREAD_H
#define BD_BASE_THREAD_H

#include <stdint.h>

#include "base/status.h"

typedef struct bd_pool bd_pool;
typedef void bd_task_fn(void *arg, int64_t begin, int64_t end, int worker);

/* threads <= 0: the number of usable processors. The calling thread works too. */
bd_status bd_pool_create(bd_pool **out, int threads, bd_err *err);
void bd_pool_destroy(bd_pool *p);
int bd_pool_threads(const bd_pool *p); /* 1 for NULL */
/* Call fn over [0, n) in chunks of `grain` (>= 1) indices; returns when all are
 * done. `worker` < bd_pool_threads(p) names a per-thread scratch slot. p may be
 * NULL (serial). Not re-entrant. */
void bd_pool_for(bd_pool *p, int64_t n, int64_t grain, bd_task_fn *fn, void *arg);
/* Usable processors (affinity and cgroup aware). */
int bd_cpu_count(void);
double bd_now(void); /* monotonic seconds */

#endif
