/* Token shards of the challenge (1,024-byte header: magic 20240520, version 1,
 * N; then N uint16), their byte sidecars, and streams of several shards. */
#ifndef BD_FORMAT_SHARD_H
#define BD_FORMAT_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

#define BD_SHARD_MAGIC 20240520

typedef struct bd_shard {
    bd_map map;
    const uint16_t *tokens; /* (n); on a little-endian host a view of the map */
    uint64_t n;
    uint8_t sha256[32]; /* of the whole file */
    char path[1024];
} bd_shard;

bd_status bd_shard_open(bd_shard *s, const char *path, bd_err *err);
/* The same from memory, which must be 2-byte aligned and outlive the shard. */
bd_status bd_shard_parse(bd_shard *s, const void *data, uint64_t size, bd_err *err);
void bd_shard_close(bd_shard *s);
/* First id at or above vocab, with shard and index, is BD_E_RANGE. */
bd_status bd_shard_check_vocab(const bd_shard *s, uint32_t vocab, bd_err *err);
bd_status bd_shard_write(const char *path, const uint16_t *tokens, uint64_t n, bd_err *err);

/* Expand arguments: files as given; a directory means its *_<split>_*.bin by
 * name, without names containing "_bytes_". split: "val" or "train". */
bd_status bd_shard_expand(const char *const *args, int n_args, const char *split, char ***paths, size_t *n,
                          bd_err *err);
/* Path of the byte sidecar of X_val_Y.bin (X_val_bytes_Y.bin) if that file exists: true. */
bool bd_shard_sidecar(const char *path, char out[1024]);

/* Several shards joined. */
typedef struct bd_shards {
    bd_shard *shards;
    int n;
    uint16_t *tokens; /* joined copy, (total) */
    uint64_t total;
} bd_shards;
bd_status bd_shards_open(bd_shards *s, const char *const *paths, int n, bd_err *err);
void bd_shards_close(bd_shards *s);

#endif
