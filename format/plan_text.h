/* The compression plan: what happens to each tensor, as text that people may
 * read and edit, and that stands in the artifact.
 *
 *     birdie-plan 2
 *     budget 2400000
 *     recipe trellis
 *     codecs brotli 1.0.9, zstd 1.5.4, xz 5.4.1
 *     calibration 65536 <sha256 of the calibration tokens>
 *     shard <sha256 of a calibration shard>
 *     metric damp=0.001 rho=0.05 order=natural feedback=yes rows=yes cols=yes couple=yes
 *     tensor blocks.0.attn.c_q.weight matrices tcq step=0.00123 states=8 lambda=0.05 bytes=12345 nats=1.2e-05
 *     tensor blocks.0.attn_scale small log levels=8 step=0.01 fixed bytes=33 nats=2e-07
 *     group matrices range bytes=123456
 *
 * A line is words separated by single spaces; `#` starts a comment line. Every
 * parameter of the graph has one tensor line, in the graph's order; group lines
 * follow and are optional when a plan is read, and so are recipe, codecs,
 * calibration, shards and metric. `fixed` marks a line that a person set: the
 * others are solved around it. Which keys a quantizer takes is the compiler's
 * business; here values are numbers or words. */
#ifndef BD_FORMAT_PLAN_TEXT_H
#define BD_FORMAT_PLAN_TEXT_H

#include "base/arena.h"
#include "base/buf.h"
#include "format/artifact.h"

enum { BD_PLAN_PARAMS_MAX = 12, BD_PLAN_SHARDS_MAX = 1024 };

/* key=value, the value as it is spelled: [A-Za-z0-9_.+-]+ */
typedef struct bd_plan_param {
    const char *key, *value;
} bd_plan_param;

typedef struct bd_plan_tensor {
    const char *name, *group, *quantizer;
    bd_plan_param params[BD_PLAN_PARAMS_MAX];
    int n_params;
    bool fixed;
    double bytes; /* predicted share of its group's section; negative: not stated */
    double nats;  /* predicted loss increase per token; NAN: not stated */
    int line;     /* where it was read, 0: it was not */
} bd_plan_tensor;

typedef struct bd_plan_group {
    const char *name;
    bd_codec codec;
    uint64_t bytes; /* in the file */
    int line;
} bd_plan_group;

/* In which order feedback takes the columns: as they stand, or by the diagonal of H. Never stored with the weights.
 */
typedef enum bd_column_order {
    BD_ORDER_NATURAL,
    BD_ORDER_FALLING, /* "activation": GPTQ's act-order */
    BD_ORDER_RISING,
    BD_ORDER_COUNT
} bd_column_order;
const char *bd_column_order_name(bd_column_order o); /* "natural", "activation", "rising" */
int bd_column_order_find(const char *name);          /* -1: unknown */

/* What the settings rest on. */
typedef struct bd_plan_metric {
    bool given;
    double damp, rho;
    bd_column_order order;
    bool feedback, row_steps, col_steps, couple_rows;
} bd_plan_metric;

typedef struct bd_plan {
    bd_arena *arena; /* owns the strings and arrays when parsed */
    uint64_t budget;
    char recipe[64]; /* base name without spaces, or empty */
    char codecs[128];
    uint64_t calib_tokens;
    char calib_sha256[65];
    char (*shards)[65];
    int n_shards;
    bd_plan_metric metric;
    bd_plan_tensor *tensors;
    int n_tensors;
    bd_plan_group *groups;
    int n_groups;
} bd_plan;

bd_status bd_plan_print(const bd_plan *p, bd_buf *out, bd_err *err);
/* BD_E_SYNTAX, BD_E_UNKNOWN or BD_E_RANGE with line in the message and byte offset. Bytes outside
 * printable ASCII are refused. At most 4 MiB and 65,536 lines. */
bd_status bd_plan_parse(bd_plan **out, const char *text, uint64_t size, bd_err *err);
void bd_plan_close(bd_plan *p);
int bd_codec_find(const char *name); /* -1: unknown */

#endif
