/* submission.json: what a folder claims. The keys of the public challenge with their
 * many spellings (docs/auditing.md); values of another type count as missing. */
#ifndef BD_VERIFY_AUDIT_CLAIM_H
#define BD_VERIFY_AUDIT_CLAIM_H

#include "base/status.h"
#include "verify/audit_scan.h"
#include "verify/rules.h"

enum { BD_CLAIM_MAX_SEEDS = 64, BD_CLAIM_MAX_TOTALS = 16 };

typedef struct bd_seed_claim {
    int64_t seed;
    int line;
    bd_number bpb, loss, total, steps, train_s, eval_s;
} bd_seed_claim;

/* What a claimed size is about, by its key. */
typedef enum bd_total_kind { BD_TOTAL_PLAIN, BD_TOTAL_MEAN, BD_TOTAL_MAX } bd_total_kind;

typedef struct bd_claim {
    bd_number bpb, loss, bpb_std, loss_std, code, n_seeds, params, train_s, eval_s, baseline;
    char bpb_key[32]; /* "" if the score's key is missing */
    struct {
        bd_number x;
        bd_total_kind kind;
        char key[32];
    } totals[BD_CLAIM_MAX_TOTALS];
    int n_totals;
    bd_seed_claim seeds[BD_CLAIM_MAX_SEEDS];
    int n_seeds_listed;
    char hardware[96]; /* "" */
    int hardware_line;
    char missing[256]; /* required keys that are missing or empty: "name, date" */
} bd_claim;

bd_status bd_claim_parse(bd_claim *c, const void *text, uint64_t size, const bd_rules *r, bd_err *err);

#endif
