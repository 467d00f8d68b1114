/* The evaluation protocol: how a stream is cut into windows and what is learned
 * at test time. In an artifact it is canonical text, one `key value` line per
 * key in the order of the list below; numbers are integers or C99 hex floats,
 * so that there is one spelling. */
#ifndef BD_FORMAT_PROTOCOL_H
#define BD_FORMAT_PROTOCOL_H

#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef enum bd_protocol_kind { BD_PROTO_WINDOW, BD_PROTO_SGD, BD_PROTO_KIND_COUNT } bd_protocol_kind;

typedef struct bd_protocol {
    bd_protocol_kind kind;
    uint32_t window; /* inputs of a window, 1..65,536 */
    uint32_t stride; /* 0 or window: non-overlapping; else every target is scored with at least window - stride
                        context */
    /* kind sgd: score-first full-model test-time training (chunks of scored tokens) */
    uint32_t chunk; /* tokens per chunk */
    uint32_t epochs;
    uint32_t batch; /* sequences per step; seq_len of training is `window` */
    double lr;      /* at chunk c of C: lr * 0.5 * (1 + cos(pi c / (C - 1))) */
    double momentum, clip;
    uint32_t freeze; /* blocks that do not learn */
} bd_protocol;

void bd_protocol_default(bd_protocol *p); /* window 1024, stride 0, kind window */
const char *bd_protocol_kind_name(bd_protocol_kind k);
int bd_protocol_kind_find(const char *name); /* -1: unknown */
/* Ranges of every field; BD_E_RANGE names the field. */
bd_status bd_protocol_check(const bd_protocol *p, bd_err *err);
bd_status bd_protocol_print(const bd_protocol *p, bd_buf *out, bd_err *err);
bd_status bd_protocol_parse(bd_protocol *p, const char *text, uint64_t size, bd_err *err);

#endif
