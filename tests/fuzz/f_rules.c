/* Rules profiles: whatever parses is within its bounds and parses again to the same. */
#include <math.h>
#include <string.h>

#include "verify/rules.h"
#include "verify/verdict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_rules r, again;
    bd_err err = {0};
    bd_status st = bd_rules_parse(&r, (const char *)data, size, &err);
    if (st != BD_OK) {
        BD_ASSERT(err.msg[0] && bd_status_exit(st) == 2);
        return 0;
    }
    BD_ASSERT(r.name[0] && memchr(r.name, 0, sizeof r.name) && r.size_cap > 0);
    BD_ASSERT(isfinite(r.eval_s) && r.eval_s >= 0 && r.tolerance >= 0 && r.tolerance <= 1 && r.processors >= 0);
    BD_ASSERT(r.n_required >= 0 && r.n_required <= BD_RULES_MAX_REQUIRED);
    BD_ASSERT(r.n_audit_required >= 0 && r.n_audit_required <= BD_RULES_MAX_REQUIRED);
    BD_ASSERT(isfinite(r.train_s) && r.tolerance_steps >= 0 && r.tolerance_s >= 0 && r.devices >= 0 && r.tail <= 1);
    BD_ASSERT(r.n_files <= BD_RULES_MAX_NAMES && r.n_keys <= BD_RULES_MAX_NAMES &&
              r.n_counts <= BD_RULES_MAX_COUNTS);
    for (int i = 0; i < r.n_counts; i++) BD_ASSERT(r.counts[i].tokens > 0 && r.counts[i].tokenizer[0]);
    for (int p = 0; p < BD_N_POLICIES; p++) {
        char choice[32];
        BD_ASSERT(bd_policy_is(&r, (bd_policy)p, bd_policy_choice(&r, (bd_policy)p, choice)));
    }
    BD_ASSERT(bd_rules_parse(&again, (const char *)data, size, &err) == BD_OK && !memcmp(&r, &again, sizeof r));
    bd_verdict v = {0};
    BD_ASSERT(bd_verdict_overall(&v, &r) == (r.n_required ? BD_FAILED : BD_PASS));
    return 0;
}
