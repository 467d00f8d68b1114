/* Arena: many small objects with one lifetime. Allocations are 64-byte
 * aligned and zeroed; everything is freed by destroy. `limit` bounds the total
 * (0: none), so a hostile file cannot make a parser eat the machine. */
#ifndef BD_BASE_ARENA_H
#define BD_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct bd_arena bd_arena;

bd_arena *bd_arena_create(uint64_t limit);                        /* NULL: out of memory */
void bd_arena_destroy(bd_arena *a);                               /* accepts NULL */
void *bd_arena_alloc(bd_arena *a, uint64_t count, uint64_t size); /* NULL: overflow, limit or memory */
char *bd_arena_strdup(bd_arena *a, const char *s, size_t n);      /* copies n bytes, adds a terminator */
uint64_t bd_arena_used(const bd_arena *a);

/* Plain 64-byte-aligned heap blocks for tensors; zeroed. Free with free(). */
void *bd_alloc_aligned(uint64_t count, uint64_t size);

#endif
