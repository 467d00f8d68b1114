#include "trainer/schedule.h"

double bd_lr_multiplier(const bd_recipe *r, int64_t step, double progress) {
    double mul = 1;
    if (progress > 1) progress = 1;
    if (r->warmdown > 0 && progress >= 1 - r->warmdown) mul = (1 - progress) / r->warmdown;
    if (mul < r->min_lr) mul = r->min_lr;
    if (step < r->warmup_steps) mul *= (double)(step + 1) / (double)(r->warmup_steps + 1);
    return mul;
}

double bd_momentum_at(const bd_opt_group *g, int64_t step) {
    if (step >= g->momentum_warmup) return g->momentum;
    double f = (double)step / (double)g->momentum_warmup;
    return (1 - f) * g->momentum_start + f * g->momentum;
}
