#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define ALIGN         64u
#define FIRST_BLOCK   (16u << 10)
#define LARGEST_BLOCK (1u << 20)

typedef struct block {
    struct block *next;
    uint64_t size, used; /* of the payload, which begins ALIGN bytes after the header's start */
} block;
_Static_assert(sizeof(block) <= ALIGN, "the block header fits before the payload");

struct bd_arena {
    block *blocks; /* the newest first; only it is filled further */
    uint64_t limit, used, next_size;
};

bd_arena *bd_arena_create(uint64_t limit) {
    bd_arena *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->limit = limit;
    a->next_size = FIRST_BLOCK;
    return a;
}

void bd_arena_destroy(bd_arena *a) {
    if (!a) return;
    while (a->blocks) {
        block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
    free(a);
}

void *bd_arena_alloc(bd_arena *a, uint64_t count, uint64_t size) {
    uint64_t bytes, total, used;
    if (!bd_mul_u64(count, size, &bytes) || !bd_add_u64(bytes, ALIGN - 1, &bytes)) return NULL;
    bytes &= ~(uint64_t)(ALIGN - 1);
    if (bytes == 0) bytes = ALIGN; /* distinct pointers for empty objects */
    if (!bd_add_u64(a->used, bytes, &used) || (a->limit && used > a->limit)) return NULL;
    block *b = a->blocks;
    if (!b || bytes > b->size - b->used) {
        uint64_t payload = bytes > a->next_size ? bytes : a->next_size;
        if (!bd_add_u64(payload, ALIGN, &total) || total > SIZE_MAX) return NULL;
        b = aligned_alloc(ALIGN, (size_t)total);
        if (!b) return NULL;
        b->size = payload;
        b->used = 0;
        b->next = a->blocks;
        a->blocks = b;
        if (a->next_size < LARGEST_BLOCK) a->next_size *= 2;
    }
    uint8_t *p = (uint8_t *)b + ALIGN + b->used;
    b->used += bytes;
    a->used = used;
    return memset(p, 0, (size_t)bytes);
}

char *bd_arena_strdup(bd_arena *a, const char *s, size_t n) {
    if (n == SIZE_MAX) return NULL;
    char *p = bd_arena_alloc(a, n + 1, 1);
    if (p && n) memcpy(p, s, n);
    return p;
}

uint64_t bd_arena_used(const bd_arena *a) { return a->used; }

void *bd_alloc_aligned(uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (!bd_mul_u64(count, size, &bytes) || !bd_add_u64(bytes, ALIGN - 1, &bytes) || bytes > SIZE_MAX) return NULL;
    bytes &= ~(uint64_t)(ALIGN - 1);
    if (bytes == 0) bytes = ALIGN;
    void *p = aligned_alloc(ALIGN, (size_t)bytes);
    return p ? memset(p, 0, (size_t)bytes) : NULL;
}
