#include "format/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/sha256.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token views need a little-endian machine"
#endif

enum { HEADER = 1024, VERSION = 1, SUFFIX = 4 /* ".bin" */ };
#define ULL(x) ((unsigned long long)(x))

bd_status bd_shard_parse(bd_shard *s, const void *data, uint64_t size, bd_err *err) {
    memset(s, 0, sizeof *s);
    if (size < HEADER)
        return BD_FAIL_AT(err, BD_E_TRUNCATED, size, "a token shard of %llu bytes; its header alone has %d",
                          ULL(size), (int)HEADER);
    bd_rd r;
    bd_rd_init(&r, data, HEADER);
    uint32_t magic = bd_rd_u32(&r), version = bd_rd_u32(&r), n = bd_rd_u32(&r);
    if (magic != BD_SHARD_MAGIC)
        return BD_FAIL_AT(err, BD_E_MAGIC, 0, "not a token shard: magic %u instead of %d", magic, BD_SHARD_MAGIC);
    if (version != VERSION)
        return BD_FAIL_AT(err, BD_E_VERSION, 4, "token shard of version %u, this reader knows %d", version,
                          (int)VERSION);
    if (n > INT32_MAX)
        return BD_FAIL_AT(err, BD_E_FIELD, 8, "token shard: the number of tokens is %d", (int)(int32_t)n);
    for (int i = 3; i < HEADER / 4; i++) {
        uint64_t at = r.pos;
        uint32_t word = bd_rd_u32(&r);
        if (word)
            return BD_FAIL_AT(err, BD_E_FIELD, at, "token shard: header word %d is 0x%08x, not zero", i, word);
    }
    uint64_t want = HEADER + 2 * (uint64_t)n;
    if (size != want)
        return BD_FAIL_AT(err, size < want ? BD_E_TRUNCATED : BD_E_FIELD, size < want ? size : want,
                          "token shard: %u tokens need a file of %llu bytes, it has %llu", n, ULL(want), ULL(size));
    s->tokens = (const uint16_t *)((const uint8_t *)data + HEADER);
    s->n = n;
    bd_sha256_of(data, (size_t)size, s->sha256);
    return BD_OK;
}

bd_status bd_shard_open(bd_shard *s, const char *path, bd_err *err) {
    memset(s, 0, sizeof *s);
    if (strlen(path) >= sizeof s->path)
        return BD_FAIL(err, BD_E_USAGE, "a shard's path may have at most %zu bytes", sizeof s->path - 1);
    bd_map map;
    BD_TRY(bd_map_open(&map, path, err));
    bd_status st = bd_shard_parse(s, map.data, map.size, err);
    if (st != BD_OK) {
        bd_err_file(err, path);
        bd_map_close(&map);
        return st;
    }
    s->map = map;
    memcpy(s->path, path, strlen(path) + 1);
    return BD_OK;
}

void bd_shard_close(bd_shard *s) {
    bd_map_close(&s->map);
    memset(s, 0, sizeof *s);
}

bd_status bd_shard_check_vocab(const bd_shard *s, uint32_t vocab, bd_err *err) {
    if (vocab > UINT16_MAX) return BD_OK;
    for (uint64_t i = 0; i < s->n; i++)
        if (s->tokens[i] >= vocab) {
            BD_FAIL_AT(err, BD_E_RANGE, HEADER + 2 * i, "token %u at index %llu is outside the vocabulary of %u",
                       s->tokens[i], ULL(i), vocab);
            bd_err_file(err, s->path);
            return BD_E_RANGE;
        }
    return BD_OK;
}

bd_status bd_shard_write(const char *path, const uint16_t *tokens, uint64_t n, bd_err *err) {
    if (n > INT32_MAX)
        return BD_FAIL(err, BD_E_LIMIT, "%llu tokens do not fit in one shard, the limit is %d", ULL(n), INT32_MAX);
    uint8_t header[HEADER] = {0};
    const uint32_t words[3] = {BD_SHARD_MAGIC, VERSION, (uint32_t)n};
    for (int i = 0; i < 12; i++) header[i] = (uint8_t)(words[i / 4] >> (8 * (i % 4)));
    bd_out o;
    BD_TRY(bd_out_open(&o, path, err));
    bd_out_put(&o, header, sizeof header);
    if (n) bd_out_put(&o, tokens, (size_t)n * 2);
    return bd_out_commit(&o, err);
}

/* --- names --- */

/* The last "_<split>_" in a name that ends in ".bin", or NULL. */
static const char *find_split(const char *name, const char *split) {
    size_t len = strlen(name), n = strlen(split);
    if (len < SUFFIX + n + 2 || strcmp(name + len - SUFFIX, ".bin")) return NULL;
    for (size_t i = len - SUFFIX - n - 1; i-- > 0;)
        if (name[i] == '_' && !strncmp(name + i + 1, split, n) && name[i + n + 1] == '_') return name + i;
    return NULL;
}

static bd_status add_path(char ***paths, size_t *n, size_t *cap, const char *dir, const char *name, bd_err *err) {
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 16;
        void *p = realloc(*paths, more * sizeof **paths);
        if (!p) return BD_FAIL(err, BD_E_NOMEM, "no memory for %zu paths", more);
        *paths = p;
        *cap = more;
    }
    size_t len = strlen(dir) + strlen(name) + 2;
    char *path = malloc(len);
    if (!path) return BD_FAIL(err, BD_E_NOMEM, "no memory for a path");
    bool slash = *dir && dir[strlen(dir) - 1] != '/';
    snprintf(path, len, "%s%s%s", dir, slash ? "/" : "", name);
    (*paths)[(*n)++] = path;
    return BD_OK;
}

static bd_status add_dir(char ***paths, size_t *n, size_t *cap, const char *dir, const char *split, bd_err *err) {
    char **names;
    size_t n_names, before = *n;
    BD_TRY(bd_list_dir(dir, &names, &n_names, err));
    bd_status st = BD_OK;
    for (size_t i = 0; st == BD_OK && i < n_names; i++)
        if (find_split(names[i], split) && !strstr(names[i], "_bytes_"))
            st = add_path(paths, n, cap, dir, names[i], err);
    bd_names_free(names, n_names);
    if (st == BD_OK && *n == before) {
        BD_FAIL(err, BD_E_MISSING, "the directory has no shards named *_%s_*.bin", split);
        bd_err_file(err, dir);
        return BD_E_MISSING;
    }
    return st;
}

bd_status bd_shard_expand(const char *const *args, int n_args, const char *split, char ***paths, size_t *n,
                          bd_err *err) {
    size_t cap = 0;
    bd_status st = BD_OK;
    *paths = NULL;
    *n = 0;
    for (int i = 0; st == BD_OK && i < n_args; i++)
        st = bd_path_is_dir(args[i]) ? add_dir(paths, n, &cap, args[i], split, err)
                                     : add_path(paths, n, &cap, "", args[i], err);
    if (st != BD_OK) {
        bd_names_free(*paths, *n);
        *paths = NULL;
        *n = 0;
    }
    return st;
}

bool bd_shard_sidecar(const char *path, char out[1024]) {
    static const char mark[] = "_val_", insert[] = "bytes_";
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *at = find_split(name, "val");
    if (!at || strstr(name, "_bytes_")) return false;
    at += sizeof mark - 1;
    if (strlen(path) + sizeof insert > 1024) return false;
    snprintf(out, 1024, "%.*s%s%s", (int)(at - path), path, insert, at);
    struct stat sb;
    return stat(out, &sb) == 0 && S_ISREG(sb.st_mode);
}

/* --- several shards --- */

bd_status bd_shards_open(bd_shards *s, const char *const *paths, int n, bd_err *err) {
    memset(s, 0, sizeof *s);
    if (n <= 0) return BD_FAIL(err, BD_E_USAGE, "no token shard was given");
    s->shards = calloc((size_t)n, sizeof *s->shards);
    if (!s->shards) return BD_FAIL(err, BD_E_NOMEM, "no memory for %d shards", n);
    bd_status st = BD_OK;
    for (int i = 0; i < n; i++) {
        BD_TRY_DONE(bd_shard_open(&s->shards[i], paths[i], err));
        s->n++;
        if (!bd_add_u64(s->total, s->shards[i].n, &s->total)) {
            st = BD_FAIL(err, BD_E_LIMIT, "the shards hold too many tokens");
            goto done;
        }
    }
    s->tokens = bd_alloc_aligned(s->total, sizeof *s->tokens);
    if (!s->tokens) {
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for %llu tokens", ULL(s->total));
        goto done;
    }
    uint64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (s->shards[i].n) memcpy(s->tokens + at, s->shards[i].tokens, (size_t)s->shards[i].n * sizeof *s->tokens);
        at += s->shards[i].n;
    }
done:
    if (st != BD_OK) bd_shards_close(s);
    return st;
}

void bd_shards_close(bd_shards *s) {
    for (int i = 0; i < s->n; i++) bd_shard_close(&s->shards[i]);
    free(s->shards);
    free(s->tokens);
    memset(s, 0, sizeof *s);
}
