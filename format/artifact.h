/* The artifact: format/SPEC.md is normative, this is its production reader and writer.
 *
 * Everything from file bytes to quantized integers is integer arithmetic. One
 * spelling: fixed section order, no padding, nothing after the end. Sections:
 * model (canonical graph text), protocol (canonical text), tokenizer identity,
 * plan (text), one or more weight groups, claims.
 *
 * Rules for what is built: texts hold printable ASCII and newlines; group names
 * printable ASCII without spaces; a group's tensors are in increasing order of
 * parameter, groups in increasing order of their first parameter, no parameter
 * occurs twice; scales are finite and have no sign bit. */
#ifndef BD_FORMAT_ARTIFACT_H
#define BD_FORMAT_ARTIFACT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "format/protocol.h"

/* How a tensor's values are represented. Dequantization (SPEC.md) is float32, a fixed
 * chain of roundings per element, so the weights are the same bits everywhere. */
typedef enum bd_qmethod {
    BD_Q_F16,     /* binary16 values */
    BD_Q_ROW,     /* int codes in [-qmax, qmax], qmax = 2^(bits-1) - 1, bits 2..8; one binary16 scale per row */
    BD_Q_TERNARY, /* codes in {-1, 0, 1}, one binary16 scale per group of `group` consecutive elements (row major)
                   */
    BD_Q_F32,     /* raw float32: lossless, for tests and tiny vectors */
    BD_Q_TCQ,     /* trellis-coded or uniform scalar, steps by row and column in quarter octaves:
                   * index * base * 2^((row_exp + col_exp) / 4), with half the base if there is a trellis */
    BD_Q_LOG,     /* codes c on a logarithmic scale: sign(c) * base * 2^((|c| - 1) / levels), 0 for c = 0 */
    BD_Q_LQER,    /* ROW plus a low-rank correction: code * scale[row] + (A B)[row, col] */
    BD_Q_COUNT
} bd_qmethod;
const char *bd_qmethod_name(bd_qmethod m); /* "f16", "row", "ternary", "f32", "tcq", "log", "lqer" */

enum {
    BD_TCQ_EXP_MAX = 128,     /* |row_exp|, |col_exp| */
    BD_TCQ_INDEX_MAX = 32767, /* |index| */
    BD_TCQ_KINDS = 16,
    BD_LOG_OCTAVES = 81, /* |code| of LOG is at most this many times `levels` */
    BD_LQER_RANK_MAX = 64
};

/* One tensor as it stands in the file: integers only (base is a float32's bits).
 *
 * A trellis runs down each column over the rows in the order of rising row_exp,
 * equal ones as they stand; it starts every column in state 0 (SPEC.md). */
typedef struct bd_qtensor {
    uint32_t param; /* index into the graph's parameter list */
    uint32_t rows, cols;
    bd_qmethod method;
    uint8_t bits;     /* ROW, LQER: 2..8; else 0 */
    uint32_t group;   /* TERNARY: elements per scale; LQER: elements of B per scale; else 0 */
    uint16_t states;  /* TCQ: 1 (uniform scalar), 4, 8, 16, 32, 64, 128 or 256; else 0 */
    uint8_t kind;     /* TCQ: which set of contexts, 0..15: tensors of one role share one; else 0 */
    uint8_t levels;   /* LOG: per octave, 1, 2, 4, 8, 16 or 32; else 0 */
    uint8_t rank;     /* LQER: 1..64; else 0 */
    float base;       /* TCQ, LOG: 2^-40 .. 2^40; else 0 */
    int8_t *codes;    /* (rows, cols): ROW, TERNARY, LQER */
    uint16_t *scales; /* ROW, LQER: (rows); TERNARY: (ceil(rows*cols/group)) */
    uint16_t *f16;    /* F16: (rows, cols) */
    float *f32;       /* F32: (rows, cols) */
    int16_t *index;   /* TCQ: (cols, rows), column after column; LOG: (rows, cols) */
    int16_t *row_exp; /* TCQ: (rows) */
    int16_t *col_exp; /* TCQ: (cols) */
    int8_t *lq_a;     /* LQER: (rows, rank), -2..1; value lq_a * lq_scales[0] */
    int8_t *lq_b;     /* LQER: (rank, cols), -8..7; value lq_b * lq_scales[1 + i / group], i in row-major order */
    uint16_t *lq_scales; /* LQER: (1 + ceil(rank*cols/group)) binary16 */
} bd_qtensor;

/* float32 values of a tensor, (rows, cols). */
void bd_qtensor_dequant(const bd_qtensor *q, float *out);
/* TCQ: the step of an element with row_exp + col_exp = k, a value being float32(index) * step. */
float bd_tcq_step(float base, unsigned states, int k);
/* LOG: the value of a code. */
float bd_log_value(float base, unsigned levels, int code);

/* Section codecs. RANGE is ours: adaptive binary range coder with context models. LRZIP is the external program
 * of the comparison recipe; reading it needs allow_external. */
typedef enum bd_codec {
    BD_CODEC_RAW,
    BD_CODEC_BROTLI,
    BD_CODEC_ZSTD,
    BD_CODEC_XZ,
    BD_CODEC_RANGE,
    BD_CODEC_ZLIB,
    BD_CODEC_LRZIP,
    BD_CODEC_COUNT
} bd_codec;
const char *bd_codec_name(bd_codec c);

/* A weight group: tensors coded together. */
typedef struct bd_qgroup {
    const char *name; /* short ASCII name for people, for example "mlp.fc" */
    bd_qtensor *tensors;
    uint32_t n_tensors;
    bd_codec codec;
    bool sort_rows;        /* LRZIP, writing: each tensor's rows in the order of a greedy similarity sort */
    uint64_t stored_bytes; /* reader: size of the coded section; writer: filled in by cost and build */
    /* NULL, or the caller's buffer, in which cost and build leave the coded section: while it is not empty, both
     * take it instead of coding again. Who changes anything else of the group empties it (size = 0). */
    bd_buf *packed;
} bd_qgroup;

enum { BD_CLAIM_MAX_SHARDS = 8 };
typedef struct bd_claim {
    bool present;
    uint32_t numerics;
    uint32_t n_shards; /* shards whose joined stream was scored */
    uint8_t shard_sha256[BD_CLAIM_MAX_SHARDS][32];
    uint64_t first_target, tokens, bytes; /* first_target: stream index of the first scored token */
    int64_t nll_q32;
} bd_claim;

typedef struct bd_section_info {
    const char *name; /* "model", "protocol", "tokenizer", "plan", "claims", or a weight group's own */
    bd_codec codec;
    uint64_t offset, stored, raw;
    uint8_t sha256[32]; /* of the stored bytes */
} bd_section_info;

typedef struct bd_artifact {
    bd_arena *arena; /* owns everything when opened by the reader */
    uint32_t version, numerics;
    const char *graph_text; /* canonical; not validated here: runtime/graph.h does that */
    uint64_t graph_size;
    bd_protocol protocol;
    uint8_t tokenizer_model_hash[32], tokenizer_tables_hash[32];
    uint32_t vocab;
    const char *plan_text;
    uint64_t plan_size;
    bd_qgroup *groups;
    uint32_t n_groups;
    bd_claim claim;
    uint8_t model_hash[32]; /* everything but the claims, their table entry and the root hash */
    uint8_t root_hash[32];  /* everything before it: the file's last 32 bytes */
    bd_section_info *sections;
    uint32_t n_sections;
} bd_artifact;

typedef struct bd_artifact_limits {
    uint64_t file_bytes, decoded_bytes, tensors, elements;
    bool allow_external; /* run external programs (LRZIP sections); otherwise BD_E_REFUSED */
} bd_artifact_limits;
bd_artifact_limits bd_artifact_limits_default(void);

/* True if the bytes begin with the artifact's magic. */
bool bd_artifact_is(const void *data, uint64_t size);
bd_status bd_artifact_open(bd_artifact **out, const char *path, const bd_artifact_limits *lim, bd_err *err);
bd_status bd_artifact_parse(bd_artifact **out, const void *data, uint64_t size, const bd_artifact_limits *lim,
                            bd_err *err);
void bd_artifact_close(bd_artifact *a);

/* Serialize. Group codec BD_CODEC_COUNT means: try RANGE, and the byte codecs where
 * they could find more than it (bd_codec_worth_trying); keep the smallest (ties:
 * lowest number); ZLIB and LRZIP are never tried. Any other codec is taken as asked, except that a form no smaller
 * than the raw one becomes RAW. Fills codec and stored_bytes of every group.
 * Deterministic for given codec libraries. */
bd_status bd_artifact_build(const bd_artifact *a, bd_buf *out, bd_err *err);
/* Size a group would take in the file with its best codec, header entries
 * included; fills g->codec and g->stored_bytes. */
bd_status bd_qgroup_cost(bd_qgroup *g, uint64_t *bytes, bd_err *err);
/* Bytes of the coded section that each tensor takes: under RANGE (and BD_CODEC_COUNT) the length of its header,
 * words and codes in the stream; under other codecs its share of stored_bytes (0: of the raw layout) by raw size.
 * The sum is short of the section by what belongs to no tensor, the name above all. bytes: (n_tensors) */
bd_status bd_qgroup_tensor_bytes(const bd_qgroup *g, double *bytes, bd_err *err);
/* Size of everything but the groups: the file is this plus the cost of every group. */
bd_status bd_artifact_fixed_cost(const bd_artifact *a, uint64_t *bytes, bd_err *err);
/* Put a claim (or remove it: present == false) into the bytes of a valid artifact. Only the claims section, its
 * table entry and the root hash change; the model hash does not. */
bd_status bd_artifact_set_claim(void *data, uint64_t size, const bd_claim *claim, bd_err *err);
/* "brotli 1.0.9, zstd 1.5.4, xz 5.4.1, zlib 1.2.13": recorded in plans. */
void bd_codec_versions(char *out, int size);

#endif
