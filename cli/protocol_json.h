/* Evaluation protocols as JSON files, the form people write; artifacts hold the
 * canonical text of format/protocol.h. */
#ifndef BD_CLI_PROTOCOL_JSON_H
#define BD_CLI_PROTOCOL_JSON_H

#include <jansson.h>

#include "base/status.h"
#include "format/protocol.h"

/* Keys: kind ("window", "sgd"), window, stride; for sgd also chunk, epochs,
 * optimizer ("sgd"), batch, lr, momentum, clip, freeze. Missing keys have the
 * defaults of bd_protocol_defaults_for. An unknown key is an error that names
 * the nearest. */
bd_status bd_protocol_from_json(bd_protocol *p, const json_t *object, bd_err *err);
bd_status bd_protocol_load(bd_protocol *p, const char *path, bd_err *err);
json_t *bd_protocol_to_json(const bd_protocol *p); /* NULL: out of memory */
/* window: 1,024, non-overlapping. sgd: chunks of 32,768, 3 epochs, steps of 16 sequences, rate 0.002, momentum 0.9,
 * clip 1. */
void bd_protocol_defaults_for(bd_protocol *p, bd_protocol_kind kind);

/* A JSON file as an object: size limit 16 MiB, duplicate keys refused; errors carry file, line and column. */
bd_status bd_json_load_object(json_t **out, const char *path, bd_err *err);
/* Every key of `object` must be one of `keys` (n); `what` names the object in the message. */
bd_status bd_json_check_keys(const json_t *object, const char *const *keys, int n, const char *what, bd_err *err);

#endif
