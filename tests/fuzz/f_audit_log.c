/* Logs of strangers: whatever is in a file, its runs are within their bounds and finite. */
#include <math.h>
#include <string.h>

#include "verify/audit_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_number(const bd_number *x) { BD_ASSERT(isfinite(x->v) && (x->present || !x->finite)); }

static void check_text(const char *s, size_t size) {
    BD_ASSERT(memchr(s, 0, size));
    for (; *s; s++) BD_ASSERT(*s >= 0x20 && *s <= 0x7e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_log l;
    bd_err err = {0};
    BD_ASSERT(bd_log_parse(&l, data, size, &err) == BD_OK);
    BD_ASSERT(l.n >= 0 && l.n <= BD_LOG_MAX_RUNS);
    for (int i = 0; i < l.n; i++) {
        const bd_run *r = &l.runs[i];
        BD_ASSERT(r->n_metrics >= 0 && r->n_metrics <= BD_RUN_MAX_METRICS && r->first_line > 0);
        BD_ASSERT(isfinite(r->calibration_s) && isfinite(r->eval_s) && isfinite(r->warmup_s) &&
                  isfinite(r->step_ms));
        check_number(&r->train_ms);
        check_number(&r->total);
        check_text(r->gpu, sizeof r->gpu);
        check_text(r->model_label, sizeof r->model_label);
        check_text(r->total_label, sizeof r->total_label);
        for (int k = 0; k < r->n_metrics; k++) {
            check_number(&r->metrics[k].bpb);
            check_number(&r->metrics[k].loss);
            check_text(r->metrics[k].label, sizeof r->metrics[k].label);
            BD_ASSERT(bd_run_metric(r, r->metrics[k].label));
        }
        if (r->n_metrics) BD_ASSERT(bd_run_same(r, r));
    }
    bd_log_free(&l);
    return 0;
}
