/* A session one token at a time: predict, then reveal. */
#include <inttypes.h>

#include "runtime/session_impl.h"

enum { STEP_ROWS = 64 }; /* of the context that a window starts with */

static int64_t step_rows(int64_t max_len) { return max_len < STEP_ROWS ? max_len : STEP_ROWS; }

bd_status bd_session_predict_plan_bytes(uint64_t *bytes, const bd_model *m, int64_t max_len, bd_err *err) {
    *bytes = bd_steps_plan_bytes(m->graph, step_rows(max_len), max_len);
    return *bytes == UINT64_MAX ? BD_FAIL(err, BD_E_LIMIT, "the plan exceeds any memory") : BD_OK;
}

bd_status bd_session_allow_predict(bd_session *s, bd_err *err) {
    if (s->steps) return BD_OK;
    return bd_steps_create(&s->steps, s->model->graph, s->be, step_rows(s->max_len), s->max_len, err);
}

bd_status bd_session_predict(bd_session *s, uint64_t start, float *logits, bd_err *err) {
    BD_ASSERT(s->begun && !s->broken && s->steps);
    if (start >= s->length || s->length - start > (uint64_t)s->max_len)
        return BD_FAIL(err, BD_E_RANGE,
                       "a window from %" PRIu64 " for the token at %" PRIu64 ": 1 to %" PRId64
                       " inputs are possible",
                       start, s->length, s->max_len);
    uint64_t end = start + (uint64_t)bd_steps_position(s->steps);
    if (!s->step_valid || s->step_start != start || end >= s->length) {
        bd_steps_begin(s->steps);
        s->step_start = end = start;
        s->step_valid = true;
    }
    s->predicted = false;
    while (end < s->length) {
        int32_t tokens[STEP_ROWS];
        int64_t n = 0;
        while (n < STEP_ROWS && end < s->length) tokens[n++] = s->stream[end++];
        if (bd_stopped(s->progress)) return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted");
        bd_status st = bd_steps_append(s->steps, s->params, tokens, n, end == s->length ? logits : NULL, err);
        if (st != BD_OK) {
            s->step_valid = false;
            return st;
        }
    }
    s->predicted = true;
    return BD_OK;
}

bd_status bd_session_reveal(bd_session *s, uint16_t token, double *nll, bd_err *err) {
    BD_ASSERT(s->begun && !s->broken && s->predicted);
    if (token >= s->model->graph->vocab)
        return BD_FAIL(err, BD_E_RANGE, "token %u at index %" PRIu64 " is not below the vocabulary size %d", token,
                       s->length, s->model->graph->vocab);
    BD_TRY(bd_steps_nll(s->steps, token, nll, err));
    BD_TRY(bd_session_check_nll(*nll, s->length, err));
    bd_window w = {s->step_start, s->length, &token, 1};
    BD_TRY(bd_session_record(s, &w, err));
    s->predicted = false;
    return BD_OK;
}
