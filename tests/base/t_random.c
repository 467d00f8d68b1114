/* SHA-256 against FIPS vectors and OpenSSL, Philox against the vectors of Random123. */
#ifdef HAVE_OPENSSL
#include <openssl/sha.h>
#endif

#include "base/philox.h"
#include "base/sha256.h"
#include "bd_test.h"

static void hex_of(const void *data, size_t n, char out[65]) {
    uint8_t h[32];
    bd_sha256_of(data, n, h);
    bd_sha256_hex(h, out);
}

TEST(sha256_known_answers) {
    char x[65];
    hex_of("", 0, x);
    CHECK_STR(x, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hex_of("abc", 3, x);
    CHECK_STR(x, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, x);
    CHECK_STR(x, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    bd_sha256 s;
    bd_sha256_init(&s);
    for (int i = 0; i < 1000; i++) {
        char a[1000];
        memset(a, 'a', sizeof a);
        bd_sha256_add(&s, a, sizeof a);
    }
    uint8_t h[32];
    bd_sha256_end(&s, h);
    bd_sha256_hex(h, x);
    CHECK_STR(x, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(sha256_any_splitting) {
    uint8_t data[700];
    uint64_t seed = test_seed();
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)test_rand(&seed);
    for (size_t n = 0; n <= sizeof data; n += n < 140 ? 1 : 37) {
        uint8_t whole[32], parts[32];
        bd_sha256_of(data, n, whole);
        bd_sha256 s;
        bd_sha256_init(&s);
        for (size_t at = 0; at < n;) {
            size_t k = test_rand(&seed) % 150;
            if (k > n - at) k = n - at;
            bd_sha256_add(&s, data + at, k);
            at += k;
        }
        bd_sha256_end(&s, parts);
        CHECK(memcmp(whole, parts, 32) == 0);
    }
}

TEST(sha256_equals_openssl) {
#ifdef HAVE_OPENSSL
    uint64_t seed = test_seed();
    static uint8_t data[300000];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)test_rand(&seed);
    for (size_t n = 0; n < sizeof data; n += n < 300 ? 1 : 4999) {
        uint8_t ours[32], theirs[32];
        bd_sha256_of(data, n, ours);
        SHA256(data, n, theirs);
        CHECK_MSG(memcmp(ours, theirs, 32) == 0, "%zu bytes", n);
    }
#else
    SKIP("built without OpenSSL");
#endif
}

TEST(philox_known_answers) {
    /* counter 0..3, key 0..1, output 0..3 (philox4x32, 10 rounds) */
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
         0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *k = kat[i];
        uint32_t out[4];
        bd_philox(k[4] | (uint64_t)k[5] << 32, k[2] | (uint64_t)k[3] << 32, k[0] | (uint64_t)k[1] << 32, out);
        CHECK(memcmp(out, k + 6, 16) == 0);
    }
}

TEST(philox_distributions) {
    enum { N = 200000 };
    double sum = 0, sum2 = 0, nsum = 0, nsum2 = 0, nsum4 = 0;
    int below[7] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double u = bd_philox_uniform(test_seed(), 3, i), z = bd_philox_normal(test_seed(), 4, i);
        CHECK(u >= 0 && u < 1 && isfinite(z));
        sum += u;
        sum2 += u * u;
        nsum += z;
        nsum2 += z * z;
        nsum4 += z * z * z * z;
        uint64_t b = bd_philox_below(test_seed(), 5, i, 7);
        CHECK(b < 7);
        below[b]++;
    }
    CHECK(fabs(sum / N - 0.5) < 0.004 && fabs(sum2 / N - 1.0 / 3) < 0.004);
    CHECK(fabs(nsum / N) < 0.012 && fabs(nsum2 / N - 1) < 0.02 && fabs(nsum4 / N - 3) < 0.15);
    for (int i = 0; i < 7; i++) CHECK(abs(below[i] - N / 7) < 1000);
    /* The multiply-high against its definition on the edges. */
    uint64_t x = bd_philox_u64(1, 2, 3);
    CHECK_EQ_U64(bd_philox_below(1, 2, 3, 1), 0);
    CHECK_EQ_U64(bd_philox_below(1, 2, 3, 2), x >> 63);
    CHECK_EQ_U64(bd_philox_below(1, 2, 3, 1ull << 40), x >> 24);
    CHECK(bd_philox_below(1, 2, 3, UINT64_MAX) <= x);
}

TEST(name_streams_are_fnv1a) {
    CHECK_EQ_U64(bd_name_stream(""), 0xcbf29ce484222325u);
    CHECK_EQ_U64(bd_name_stream("a"), 0xaf63dc4c8601ec8cu);
    CHECK_EQ_U64(bd_name_stream("foobar"), 0x85944171f73967e8u);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
