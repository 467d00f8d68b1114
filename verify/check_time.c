/* TIME: planned work everywhere, seconds where the rules' hardware is. */
#include <stdio.h>

#include "base/thread.h"
#include "verify/verify_impl.h"

void bd_check_time(const bd_verification *x, const bd_score *s, double flops) {
    bd_verdict *v = x->v;
    const bd_rules *r = x->o->rules;
    char value[64], limit[64] = "";
    snprintf(value, sizeof value, "%.4g FLOPs", flops);
    if (r->eval_s <= 0) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, NULL, "the rules only report times: see measured");
        return;
    }
    snprintf(limit, sizeof limit, "%g s", r->eval_s);
    if (r->devices) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, limit, "the limit is for %d x %s", r->devices, r->device);
        return;
    }
    if (r->processors && r->processors != bd_cpu_count()) {
        bd_verdict_add(v, "TIME", BD_NOT_CHECKED, value, limit,
                       "the limit is for %d processors, this program may use %d (taskset limits them)",
                       r->processors, bd_cpu_count());
        return;
    }
    bool ok = s->seconds_score + s->seconds_learn <= r->eval_s;
    bd_verdict_add(v, "TIME", ok ? BD_PASS : BD_FAILED, value, limit, "evaluation took %s the limit: see measured",
                   ok ? "no longer than" : "longer than");
}
