/* The compression plan: what happens to each tensor, as text that people may
 * read and edit, and that stands in the artifact.
 *
 *     birdie-plan 1
 *     budget 2400000
 *     codecs brotli 1.0.9, zstd 1.5.4, xz 5.4.1
 *     calibration 65536 <sha256 of the calibration tokens>
 *     rounding feedback=yes order=activation damp=0.05 rows=loss rho=0.1
 *     tensor blocks.0.attn.c_q.weight attn.c_q row bits=6 k=12.8500004 lost=0.000312
 *     tensor blocks.0.attn_scale small f16
 *     group attn.c_q range bytes=123456
 *
 * A line is words separated by single spaces; `#` starts a comment line. Every
 * parameter of the graph has one tensor line, in the graph's order; group lines
 * follow and are optional when a plan is read, and so are codecs, calibration and
 * rounding. */
#ifndef BD_FORMAT_PLAN_TEXT_H
#define BD_FORMAT_PLAN_TEXT_H

#include "base/arena.h"
#include "base/buf.h"
#include "format/artifact.h"

typedef struct bd_plan_tensor {
    const char *name, *group;
    bd_qmethod method;
    int bits;        /* row */
    float k;         /* row: SDClip's k, 0: finest */
    uint32_t qgroup; /* ternary: elements per scale */
    double lost;     /* share of the signal lost as predicted; negative: not stated */
    int line;        /* where it was read, 0: it was not */
} bd_plan_tensor;

typedef struct bd_plan_group {
    const char *name;
    bd_codec codec;
    uint64_t bytes; /* in the file */
    int line;
} bd_plan_group;

/* How `row` tensors are rounded: what k alone does not say. */
typedef struct bd_plan_rounding {
    bool given;
    bool feedback;     /* GPTQ error feedback; else round to nearest */
    bool act_order;    /* feedback by falling diagonal of H; else by column number */
    bool rows_by_loss; /* units of rows by what the loss feels of them; else by deviation */
    double damp, rho;
} bd_plan_rounding;

typedef struct bd_plan {
    bd_arena *arena; /* owns the strings and arrays when parsed */
    uint64_t budget;
    char codecs[128];
    uint64_t calib_tokens;
    char calib_sha256[65];
    bd_plan_rounding rounding;
    bd_plan_tensor *tensors;
    int n_tensors;
    bd_plan_group *groups;
    int n_groups;
} bd_plan;

bd_status bd_plan_print(const bd_plan *p, bd_buf *out, bd_err *err);
/* BD_E_SYNTAX, BD_E_UNKNOWN or BD_E_RANGE with line in the message and byte offset. Bytes outside
 * printable ASCII are refused. At most 1 MiB and 65,536 lines. */
bd_status bd_plan_parse(bd_plan **out, const char *text, uint64_t size, bd_err *err);
void bd_plan_close(bd_plan *p);
int bd_qmethod_find(const char *name); /* -1: unknown */
int bd_codec_find(const char *name);   /* -1: unknown */

#endif
