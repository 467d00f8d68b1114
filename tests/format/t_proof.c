/* Proofs: frequencies, their coder, and the container. */
#include "bd_test.h"

#include "base/sha256.h"
#include "format/freq_coder.h"
#include "format/proof.h"

static void random_logits(float *x, int64_t n, int kind, uint64_t *seed) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = test_normalf(seed) * (kind == 1 ? 40.0f : 2.0f);
        if (kind == 2) x[i] = 0;
        if (kind == 3) x[i] = i == n / 2 ? 3e38f : -3e38f;
        if (kind == 4) x[i] = (float)(test_rand(seed) % 2);
    }
}

TEST(frequencies_sum_to_two_to_the_31) {
    static const int64_t sizes[] = {1, 2, 3, 5, 7, 16, 17, 61, 1000, 1024, 65535, 65536};
    static float x[65536];
    static double work[65536];
    static uint32_t freq[65536];
    uint64_t seed = test_seed();
    bd_err e = {0};
    for (int s = 0; s < 12; s++) {
        for (int kind = 0; kind < 5; kind++) {
            int64_t n = sizes[s], best = 0;
            random_logits(x, n, kind, &seed);
            CHECK_OK(bd_freq_from_logits(freq, work, x, n, &e), &e);
            uint64_t sum = 0;
            double total = 0;
            for (int64_t i = 0; i < n; i++) {
                CHECK(freq[i] >= 1);
                sum += freq[i];
                if (x[i] > x[best]) best = i;
            }
            CHECK_EQ_U64(sum, (uint64_t)1 << 31);
            for (int64_t i = 0; i < n; i++) total += exp((double)x[i] - (double)x[best]);
            for (int64_t i = 0; i < n; i++) {
                double p = exp((double)x[i] - (double)x[best]) / total, slack = i == best ? (double)n : 1;
                CHECK(fabs((double)freq[i] - 1 - p * (0x1p31 - (double)n)) <= slack + 1e-3);
            }
        }
    }
}

TEST(the_remainder_goes_to_the_lowest_most_probable) {
    float x[5] = {1, 2, 2, 0, 2};
    double work[5];
    uint32_t f[5];
    bd_err e = {0};
    CHECK_OK(bd_freq_from_logits(f, work, x, 5, &e), &e);
    CHECK(f[1] > f[2] && f[2] == f[4] && f[1] - f[2] < 5);
    x[3] = NAN;
    CHECK(bd_freq_from_logits(f, work, x, 5, &e) == BD_E_NONFINITE && strstr(e.msg, "token 3"));
    x[3] = -INFINITY;
    CHECK(bd_freq_from_logits(f, work, x, 5, &e) == BD_E_NONFINITE);
}

/* A stream of `count` symbols, the kind of distribution changing on the way. */
static void round_trip(int64_t vocab, int count, int kind, uint64_t seed) {
    float *x = malloc((size_t)vocab * sizeof *x);
    double *work = malloc((size_t)vocab * sizeof *work);
    uint32_t *freq = malloc((size_t)vocab * sizeof *freq), *symbol = malloc((size_t)count * sizeof *symbol);
    CHECK(x && work && freq && symbol);
    bd_buf out;
    bd_err e = {0};
    bd_freq_coder c;
    bd_buf_init(&out);
    bd_buf_u8(&out, 0xab); /* a stream may begin anywhere in a buffer */
    bd_freq_encode_begin(&c, &out);
    double bits = 0;
    uint64_t rng = seed;
    for (int i = 0; i < count; i++) {
        random_logits(x, vocab, kind < 0 ? i % 5 : kind, &rng);
        CHECK_OK(bd_freq_from_logits(freq, work, x, vocab, &e), &e);
        uint64_t at = test_rand(&rng) >> 33, below = 0;
        symbol[i] = 0;
        if (i % 7 == 3) symbol[i] = (uint32_t)(test_rand(&rng) % (uint64_t)vocab); /* also improbable ones */
        else
            while (below + freq[symbol[i]] <= at) below += freq[symbol[i]++];
        bits += 31 - log2((double)freq[symbol[i]]);
        bd_freq_encode(&c, freq, symbol[i]);
    }
    bd_freq_encode_end(&c);
    CHECK(!out.failed && out.data[0] == 0xab);
    double bytes = (double)(out.size - 1);
    CHECK_MSG(bytes <= bits / 8 + 1.01 && bytes >= bits / 8 - 1.01 - 0.01 * count, "%g for %g", bytes, bits / 8);
    for (int wrong = 0; wrong < 2; wrong++) {
        if (wrong && out.size > 1)
            out.data[1 + test_rand(&rng) % (out.size - 1)] ^= (uint8_t)(1u << test_rand(&rng) % 8);
        uint64_t again = seed;
        int same = 0, i = 0;
        bd_freq_decode_begin(&c, out.data + 1, out.size - 1);
        for (; i < count; i++) {
            uint32_t got;
            random_logits(x, vocab, kind < 0 ? i % 5 : kind, &again);
            CHECK_OK(bd_freq_from_logits(freq, work, x, vocab, &e), &e);
            test_rand(&again);
            if (i % 7 == 3) test_rand(&again);
            if (bd_freq_decode(&c, freq, vocab, &got, &e) != BD_OK) break;
            CHECK(got < vocab);
            same += got == symbol[i];
        }
        if (!wrong) CHECK(same == count && bd_freq_decode_end(&c));
        else CHECK(out.size == 1 || same < count || i < count || !bd_freq_decode_end(&c));
    }
    bd_buf_free(&out);
    free(x);
    free(work);
    free(freq);
    free(symbol);
}

TEST(symbols_come_back) {
    uint64_t seed = test_seed();
    static const int64_t sizes[] = {1, 2, 3, 61, 1024, 5000};
    for (int s = 0; s < 6; s++)
        for (int kind = -1; kind < 5; kind++)
            for (int n = 0; n < 4; n++)
                round_trip(sizes[s], n == 3 ? (sizes[s] > 1000 ? 60 : 400) : n, kind, test_rand(&seed));
}

/* ---- container ---- */

static bd_proof sample(uint64_t *seed) {
    static uint8_t code[100];
    bd_proof p = {
        .numerics = 1, .tokens = 300, .first_target = 1, .first_token = 7, .n_shards = 2, .nll_q32 = 12345};
    bd_protocol_default(&p.protocol);
    for (size_t i = 0; i < sizeof code; i++) code[i] = (uint8_t)(1 + test_rand(seed) % 255);
    for (int i = 0; i < 32; i++) {
        p.shard_sha256[0][i] = (uint8_t)test_rand(seed);
        p.shard_sha256[1][i] = (uint8_t)test_rand(seed);
        p.model_hash[i] = (uint8_t)test_rand(seed);
        p.tokens_hash[i] = (uint8_t)test_rand(seed);
    }
    p.code = code;
    p.code_size = sizeof code;
    return p;
}

/* The same with a fitting hash at its end. */
static void rehash(bd_buf *b) { bd_sha256_of(b->data, b->size - 32, b->data + b->size - 32); }

static bd_status parse(const bd_buf *b, bd_err *e) {
    bd_proof p;
    memset(e, 0, sizeof *e);
    return bd_proof_parse(&p, b->data, b->size, 0, e);
}

TEST(container_round_trip) {
    uint64_t seed = test_seed();
    bd_proof p = sample(&seed), q;
    bd_buf b, c;
    bd_err e = {0};
    bd_buf_init(&b);
    bd_buf_init(&c);
    CHECK_OK(bd_proof_build(&p, &b, &e), &e);
    CHECK_OK(bd_proof_parse(&q, b.data, b.size, 0, &e), &e);
    CHECK(q.tokens == 300 && q.first_token == 7 && q.n_shards == 2 && q.nll_q32 == 12345 && q.code_size == 100);
    CHECK_OK(bd_proof_build(&q, &c, &e), &e);
    CHECK(b.size == c.size && memcmp(b.data, c.data, b.size) == 0);
    CHECK(bd_proof_parse(&q, b.data, b.size, 299, &e) == BD_E_LIMIT && e.offset == 16);
    p.n_shards = 9;
    CHECK(bd_proof_build(&p, &c, &e) == BD_E_FIELD);
    bd_buf_free(&b);
    bd_buf_free(&c);
}

TEST(every_damage_is_refused) {
    uint64_t seed = test_seed();
    bd_proof p = sample(&seed);
    bd_buf b;
    bd_err e = {0};
    bd_buf_init(&b);
    CHECK_OK(bd_proof_build(&p, &b, &e), &e);
    for (size_t i = 0; i < b.size; i++) {
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1u << bit);
            bd_status st = parse(&b, &e);
            CHECK_MSG(st != BD_OK && e.offset <= b.size, "byte %zu", i);
            b.data[i] ^= (uint8_t)(1u << bit);
        }
    }
    size_t whole = b.size;
    for (b.size = 0; b.size < whole; b.size++) CHECK(parse(&b, &e) != BD_OK);
    CHECK(parse(&b, &e) == BD_OK);
    bd_buf_u8(&b, 0);
    CHECK(parse(&b, &e) == BD_E_NONCANON && e.offset == whole);
    bd_buf_free(&b);
}

typedef struct edit {
    size_t at;
    uint8_t value;
    bd_status want;
    uint64_t offset;
} edit;

TEST(illegal_fields_have_their_error_and_place) {
    uint64_t seed = test_seed();
    const edit edits[] = {
        {0, 0x88, BD_E_MAGIC, 0},     {8, 2, BD_E_VERSION, 8},    {12, 0, BD_E_FIELD, 12},
        {21, 2, BD_E_FIELD, 16},      {20, 1, BD_E_LIMIT, 16},    {24, 0, BD_E_FIELD, 24},
        {34, 0, BD_E_FIELD, 34},      {34, 9, BD_E_FIELD, 34},    {38, 0, BD_E_FIELD, 38},
        {40, 1, BD_E_FIELD, 38},      {49, 0x80, BD_E_FIELD, 42}, {52, 1, BD_E_FIELD, 50},
        {50, 101, BD_E_TRUNCATED, 0}, {50, 99, BD_E_NONCANON, 0}, {186, 'K', BD_E_SYNTAX, 186},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        bd_proof p = sample(&seed);
        bd_buf b;
        bd_err e = {0};
        bd_buf_init(&b);
        CHECK_OK(bd_proof_build(&p, &b, &e), &e);
        b.data[edits[i].at] = edits[i].value;
        rehash(&b);
        uint64_t offset = edits[i].offset ? edits[i].offset : edits[i].want == BD_E_MAGIC ? 0 : b.size;
        if (edits[i].want == BD_E_NONCANON) offset = b.size - 1;
        bd_status st = parse(&b, &e);
        CHECK_MSG(st == edits[i].want && e.offset == offset, "edit %zu: %s at %" PRIu64 " (%s)", i,
                  bd_status_name(st), e.offset, e.msg);
        bd_buf_free(&b);
    }
    bd_proof p = sample(&seed);
    bd_buf b;
    bd_err e = {0};
    bd_buf_init(&b);
    CHECK_OK(bd_proof_build(&p, &b, &e), &e);
    b.data[b.size - 33] = 0; /* a last byte of code that the encoder would not write */
    rehash(&b);
    CHECK(parse(&b, &e) == BD_E_NONCANON && e.offset == b.size - 33);
    b.data[b.size - 33] = 1;
    CHECK(parse(&b, &e) == BD_E_CHECKSUM && e.offset == b.size - 32);
    bd_buf_free(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
