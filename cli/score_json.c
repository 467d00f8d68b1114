#include "cli/score_json.h"

#include <math.h>

#include "base/numerics.h"
#include "cli/cli.h"
#include "cli/protocol_json.h"

void bd_score_json(json_t *o, const bd_score *s, const char *mode, const bd_protocol *p, const char *protocol) {
    json_object_set_new(o, "val_bpb", bd_cli_real(s->val_bpb));
    json_object_set_new(o, "val_loss", bd_cli_real(s->val_loss));
    json_object_set_new(o, "tokens", bd_cli_u64(s->tokens));
    json_object_set_new(o, "bytes", bd_cli_u64(s->bytes));
    json_object_set_new(o, "windows", bd_cli_u64(s->windows));
    json_object_set_new(o, "nll_q32", bd_cli_i64(s->nll_q32));
    json_object_set_new(o, "mode", json_string(mode));
    json_object_set_new(o, "numerics", json_integer(BD_NUMERICS_VERSION));
    json_object_set_new(o, "protocol", bd_cli_str(protocol));
    json_object_set_new(o, "protocol_values", bd_protocol_to_json(p));
    json_object_set_new(o, "bpb_stderr", bd_cli_real(s->bpb_stderr));
}

json_t *bd_measured_json(const bd_score *s, const bd_backend *be) {
    json_t *t = json_object();
    double seconds = s ? s->seconds_score + s->seconds_learn : NAN;
    json_object_set_new(t, "seconds", bd_cli_real(seconds));
    json_object_set_new(t, "seconds_score", bd_cli_real(s ? s->seconds_score : NAN));
    json_object_set_new(t, "seconds_learn", bd_cli_real(s ? s->seconds_learn : NAN));
    json_object_set_new(t, "tokens_per_s", bd_cli_real(s ? (double)s->tokens / seconds : NAN));
    json_object_set_new(t, "threads", json_integer(bd_pool_threads(be->pool)));
    json_object_set_new(t, "backend", json_string(be->vt->name));
    return t;
}

json_t *bd_claim_json(const bd_claim *c) {
    if (!c->present) return json_null();
    json_t *o = json_object(), *shards = json_array();
    for (uint32_t i = 0; i < c->n_shards && i < BD_CLAIM_MAX_SHARDS; i++)
        json_array_append_new(shards, bd_cli_hex(c->shard_sha256[i], 32));
    json_object_set_new(o, "numerics", json_integer(c->numerics));
    json_object_set_new(o, "shards", shards);
    json_object_set_new(o, "first_target", bd_cli_u64(c->first_target));
    json_object_set_new(o, "tokens", bd_cli_u64(c->tokens));
    json_object_set_new(o, "bytes", bd_cli_u64(c->bytes));
    json_object_set_new(o, "nll_q32", bd_cli_i64(c->nll_q32));
    return o;
}
