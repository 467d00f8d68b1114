#include "verify/doc_overlap.h"

#include <stdlib.h>
#include <string.h>

#include "format/shard.h"

typedef struct doc {
    uint64_t hash, number;
} doc;

/* Of the tokens [from, to): two multiplications a token, well mixed at the end. */
static uint64_t hash_of(const uint16_t *t, uint64_t from, uint64_t to) {
    uint64_t h = 0xcbf29ce484222325u ^ (to - from);
    for (uint64_t i = from; i < to; i++) {
        h = (h ^ t[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ h >> 32;
}

/* The next whole document from *at on; false: there is none. */
static bool next_document(const uint16_t *t, uint64_t n, int32_t bos, uint64_t *at, uint64_t *hash) {
    while (*at < n && t[*at] != bos) ++*at;
    uint64_t from = ++*at;
    while (*at < n && t[*at] != bos) ++*at;
    if (*at >= n) return false;
    *hash = hash_of(t, from, *at);
    return true;
}

static int by_hash(const void *a, const void *b) {
    const doc *x = a, *y = b;
    return x->hash != y->hash ? (x->hash > y->hash) - (x->hash < y->hash)
                              : (x->number > y->number) - (x->number < y->number);
}

static void mark(const doc *docs, uint64_t n, uint64_t hash, uint8_t *found) {
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        if (docs[mid].hash < hash) low = mid + 1;
        else high = mid;
    }
    for (; low < n && docs[low].hash == hash && !found[docs[low].number]; low++) found[docs[low].number] = 1;
}

bd_status bd_doc_overlap_count(bd_doc_overlap *r, const uint16_t *tokens, uint64_t n, int32_t bos,
                               const char *const *train, int n_train, bd_err *err) {
    memset(r, 0, sizeof *r);
    uint64_t starts = 0, hash;
    for (uint64_t i = 0; i < n; i++) starts += tokens[i] == bos;
    doc *docs = malloc((size_t)(starts + 1) * sizeof *docs);
    uint8_t *found = calloc((size_t)starts + 1, 1);
    bd_status st = docs && found ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for the documents");
    for (uint64_t at = 0; !st && next_document(tokens, n, bos, &at, &hash); r->documents++)
        docs[r->documents] = (doc){hash, r->documents};
    if (!st) qsort(docs, (size_t)r->documents, sizeof *docs, by_hash);
    for (int i = 0; !st && i < n_train; i++) {
        bd_shard s;
        st = bd_shard_open(&s, train[i], err);
        if (st) break;
        for (uint64_t at = 0; next_document(s.tokens, s.n, bos, &at, &hash); r->trained++)
            mark(docs, r->documents, hash, found);
        bd_shard_close(&s);
    }
    for (uint64_t i = r->documents; !st && i-- > 0;) {
        r->found += found[i];
        if (found[i]) r->first = i;
    }
    free(docs);
    free(found);
    return st;
}
