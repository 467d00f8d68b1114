/* A second decoder of Birdie artifacts, written from format/SPEC.md alone. It
 * shares no code with the production reader, so that two programs must agree
 * before a file counts as valid. It needs the C library, brotli, zstd, lzma and zlib. */
#ifndef BD_REFDEC_H
#define BD_REFDEC_H

#include <stdint.h>

/* The errors of SPEC.md; numbers as in the table of status codes. */
enum {
    BD_REFDEC_OK = 0,
    BD_REFDEC_TRUNCATED = 20,
    BD_REFDEC_MAGIC = 21,
    BD_REFDEC_VERSION = 22,
    BD_REFDEC_FIELD = 23,
    BD_REFDEC_NONCANON = 24,
    BD_REFDEC_CHECKSUM = 25,
    BD_REFDEC_CODEC = 26,
    BD_REFDEC_LIMIT = 27,
    BD_REFDEC_SYNTAX = 28,
    BD_REFDEC_RANGE = 32,
    BD_REFDEC_NONFINITE = 33,
    BD_REFDEC_REFUSED = 36, /* a section needs an external program, and this decoder runs none */
    BD_REFDEC_NOMEM = 61
};

enum {
    BD_REFDEC_F16,
    BD_REFDEC_ROW,
    BD_REFDEC_TERNARY,
    BD_REFDEC_F32,
    BD_REFDEC_TCQ,
    BD_REFDEC_LOG,
    BD_REFDEC_LQER,
    BD_REFDEC_METHODS
};

typedef struct bd_refdec_tensor {
    uint32_t param, rows, cols, group;
    uint16_t states;
    uint8_t method, bits, kind, levels, rank;
    uint16_t *words; /* F16: (rows, cols) values; others: (n_words) scales, LQER's own after those of the rows */
    uint64_t n_words;
    uint32_t *f32;    /* F32: (rows, cols) bit patterns */
    uint32_t base;    /* TCQ, LOG: bit pattern */
    int8_t *codes;    /* ROW, TERNARY, LQER: (rows, cols) */
    int16_t *index;   /* TCQ: (cols, rows); LOG: (rows, cols) */
    int16_t *row_exp; /* TCQ: (rows) */
    int16_t *col_exp; /* TCQ: (cols) */
    int8_t *left;     /* LQER: (rows, rank) */
    int8_t *right;    /* LQER: (rank, cols) */
} bd_refdec_tensor;

typedef struct bd_refdec_group {
    char name[64];
    uint8_t codec;
    uint32_t n_tensors;
    bd_refdec_tensor *tensors;
} bd_refdec_group;

typedef struct bd_refdec_result {
    int error;       /* 0, or the first check that failed */
    uint64_t offset; /* its place; UINT64_MAX: none */
    uint32_t numerics, vocab;
    char *model, *protocol, *plan; /* terminated */
    uint64_t model_size, protocol_size, plan_size;
    uint8_t model_hash[32], root_hash[32], tokenizer_hash[32], tables_hash[32];
    uint32_t n_groups;
    bd_refdec_group *groups;
    struct {
        uint32_t present, numerics, shards;
        uint64_t first_target, tokens, bytes;
        int64_t nll_q32;
        uint8_t sha256[8][32];
    } claim;
} bd_refdec_result;

/* Decode a whole file in memory. Returns out->error; out holds what was decoded up to there and is freed with
 * bd_refdec_free. */
int bd_refdec_decode(const void *data, uint64_t size, bd_refdec_result *out);
void bd_refdec_free(bd_refdec_result *r);
/* float32 values of a tensor of a valid file; out: (rows, cols). */
void bd_refdec_dequant(const bd_refdec_tensor *t, float *out);

#endif
