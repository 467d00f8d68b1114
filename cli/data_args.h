/* What eval, verify and compile share: shards, tokenizer, bytes per target, and
 * opening a model with its settings. */
#ifndef BD_CLI_DATA_ARGS_H
#define BD_CLI_DATA_ARGS_H

#include <stdbool.h>

#include "format/shard.h"
#include "format/tokenizer.h"
#include "runtime/evaluate.h"

typedef struct bd_data_args {
    const char *const *shards; /* files or directories */
    int n_shards;
    const char *split;     /* "val", "train": which files a directory means; NULL: val */
    const char *tokenizer; /* may be NULL if sidecars give the bytes */
    const char *bytes;     /* --bytes, or NULL: X_val_bytes_Y.bin beside each shard if there */
} bd_data_args;

typedef struct bd_data {
    char **paths;
    size_t n_paths;
    bd_shards shards;
    bd_tokenizer *tokenizer; /* NULL if none was given */
    uint16_t *bytes;         /* (total), or NULL */
    bool sidecar;            /* bytes come from sidecars, not from the tokenizer's tables */
    bd_stream stream;        /* borrows the above */
} bd_data;

/* Without --bytes, sidecars count only if every shard has one (a mixture is an
 * error). Without sidecars every token must be a piece of the tokenizer. */
bd_status bd_data_open(bd_data *d, const bd_data_args *a, bd_err *err);
void bd_data_close(bd_data *d); /* safe on a zeroed one */
/* Ids below the model's vocabulary, in every shard; and where the model names
 * its tokenizer (artifacts), the same byte tables. */
bd_status bd_data_check_model(const bd_data *d, const bd_model *m, bd_err *err);

typedef struct bd_model_args {
    const char *path;
    const char *model_file;  /* --model */
    const char *const *sets; /* --set: "constant=value" */
    int n_sets;
    bool allow_external;
    uint64_t max_memory;
} bd_model_args;
/* bd_model_open, with the constants of recipe.json beside a directory's weights. */
bd_status bd_model_args_open(bd_model **out, const bd_model_args *a, bd_err *err);

#endif
