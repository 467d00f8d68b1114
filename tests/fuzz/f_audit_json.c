/* submission.json of strangers: the tree is sound, and what is claimed is within its bounds. */
#include <math.h>
#include <string.h>

#include "verify/audit_claim.h"
#include "verify/audit_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tree(const bd_json *d) {
    BD_ASSERT(d->n > 0 && d->n <= BD_JSON_MAX_NODES && d->nodes[0].parent == -1);
    for (int i = 0; i < d->n; i++) {
        const bd_json_node *v = &d->nodes[i];
        int n = 0;
        for (int k = v->child; k >= 0; k = d->nodes[k].next, n++) {
            BD_ASSERT(k > i && k < d->n && d->nodes[k].parent == i);
            BD_ASSERT((d->nodes[k].key != NULL) == (v->type == BD_JSON_OBJECT));
        }
        BD_ASSERT(n == v->n_children && v->line > 0);
        if (v->key) BD_ASSERT(bd_json_get(d, v->parent, v->key) == i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bd_rules rules;
    bd_json d;
    bd_claim c;
    bd_err err = {0};
    if (!rules.name[0]) BD_ASSERT(bd_rules_open(&rules, "parameter-golf", &err) == BD_OK);
    bd_status st = bd_json_parse(&d, data, size, &err);
    if (st == BD_OK) {
        check_tree(&d);
        bd_json_free(&d);
    } else {
        BD_ASSERT(err.msg[0] && bd_status_exit(st) == 2);
    }
    if (bd_claim_parse(&c, data, size, &rules, &err) != BD_OK) return 0;
    BD_ASSERT(st == BD_OK && isfinite(c.bpb.v) && isfinite(c.loss.v) && isfinite(c.bpb_std.v));
    BD_ASSERT(c.bpb.present == (c.bpb_key[0] != 0));
    BD_ASSERT(c.n_totals >= 0 && c.n_totals <= BD_CLAIM_MAX_TOTALS && c.n_seeds_listed <= BD_CLAIM_MAX_SEEDS);
    for (int i = 0; i < c.n_totals; i++) BD_ASSERT(isfinite(c.totals[i].x.v) && c.totals[i].key[0]);
    BD_ASSERT(memchr(c.hardware, 0, sizeof c.hardware) && memchr(c.missing, 0, sizeof c.missing));
    return 0;
}
