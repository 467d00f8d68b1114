/* A score as JSON: the keys that `eval` prints at the top level and `verify` under "score". */
#ifndef BD_CLI_SCORE_JSON_H
#define BD_CLI_SCORE_JSON_H

#include <jansson.h>

#include "format/artifact.h"
#include "runtime/evaluate.h"

/* Add the keys to an object. protocol: "artifact", "default", "override" or a file's name. */
void bd_score_json(json_t *o, const bd_score *s, const char *mode, const bd_protocol *p, const char *protocol);
/* Seconds, tokens per second, threads, backend: what may differ from run to run. NULL score: not run. */
json_t *bd_measured_json(const bd_score *s, const bd_backend *be);

/* An artifact's claim, or null where there is none. */
json_t *bd_claim_json(const bd_claim *c);

#endif
