#include "verify/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bd_outcome_name(bd_outcome o) {
    static const char *const names[] = {"PASS", "WARN", "FAIL", "NOT-CHECKED"};
    return names[o];
}

void bd_verdict_add(bd_verdict *v, const char *id, bd_outcome o, const char *value, const char *limit,
                    const char *fmt, ...) {
    BD_ASSERT(v->n < BD_MAX_CHECKS);
    bd_check *c = &v->checks[v->n++];
    c->outcome = o;
    snprintf(c->id, sizeof c->id, "%s", id);
    snprintf(c->value, sizeof c->value, "%s", value ? value : "");
    snprintf(c->limit, sizeof c->limit, "%s", limit ? limit : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->detail, sizeof c->detail, fmt, ap);
    va_end(ap);
}

bd_outcome bd_verdict_overall(const bd_verdict *v, const bd_rules *r) {
    bd_outcome worst = BD_PASS;
    for (int i = 0; i < v->n; i++) {
        bd_outcome o = v->checks[i].outcome;
        if (o == BD_NOT_CHECKED) o = bd_rules_requires(r, v->checks[i].id) ? BD_FAILED : BD_PASS;
        if (o > worst) worst = o;
    }
    /* A required check that this program did not even list was not done. */
    for (int k = 0; k < r->n_required; k++) {
        int i = 0;
        while (i < v->n && strcmp(v->checks[i].id, r->required[k]) != 0) i++;
        if (i == v->n) worst = BD_FAILED;
    }
    return worst;
}
