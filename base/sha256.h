/* SHA-256 (FIPS 180-4). Our own, because the minimal runtime may depend on
 * nothing but the C library; tests compare it with OpenSSL. */
#ifndef BD_BASE_SHA256_H
#define BD_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct bd_sha256 {
    uint32_t h[8];
    uint64_t bytes;
    uint8_t block[64];
} bd_sha256;

void bd_sha256_init(bd_sha256 *s);
void bd_sha256_add(bd_sha256 *s, const void *data, size_t n);
void bd_sha256_end(bd_sha256 *s, uint8_t out[32]);
void bd_sha256_of(const void *data, size_t n, uint8_t out[32]);
void bd_sha256_hex(const uint8_t hash[32], char out[65]);

#endif
