/* What changes from step to step: the learning-rate multiplier and the
 * momentum. Both are doubles, logged with every step, so that a run whose
 * schedule follows the clock can be replayed bit for bit. */
#ifndef BD_TRAINER_SCHEDULE_H
#define BD_TRAINER_SCHEDULE_H

#include "trainer/recipe.h"

/* progress: share of the run done, 0..1 (step / steps, or elapsed / time_s).
 * 1 until 1 - warmdown, then linear to 0, never below min_lr; times the linear
 * warm-up over the first warmup_steps steps. step counts from 0. */
double bd_lr_multiplier(const bd_recipe *r, int64_t step, double progress);
/* Linear from momentum_start to momentum over momentum_warmup steps. */
double bd_momentum_at(const bd_opt_group *g, int64_t step);

#endif
