#include "base/sha256.h"
#include "bd_test.h"
#include "format/artifact.h"
#include "format/artifact_layout.h"
#include "format/codec.h"
#include "format/ternary_pack.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"
#include "tests/format/gen_artifact.h"

static bd_artifact *generate(bd_arena *a, uint64_t seed, int codec) {
    gen_options o = {.seed = seed, .codec = codec, .max_dim = 40};
    bd_artifact *art = gen_artifact(a, &o);
    CHECK(art != NULL);
    return art;
}

static bd_buf build(const bd_artifact *art) {
    bd_buf out;
    bd_err e;
    bd_buf_init(&out);
    CHECK_OK(bd_artifact_build(art, &out, &e), &e);
    return out;
}

static void check_same(const bd_artifact *x, const bd_artifact *y) {
    CHECK_EQ_U64(x->graph_size, y->graph_size);
    CHECK(memcmp(x->graph_text, y->graph_text, x->graph_size) == 0);
    CHECK_EQ_U64(x->plan_size, y->plan_size);
    CHECK(memcmp(x->plan_text, y->plan_text, x->plan_size) == 0);
    CHECK(x->protocol.kind == y->protocol.kind && x->protocol.stride == y->protocol.stride &&
          x->protocol.lr == y->protocol.lr);
    CHECK(x->vocab == y->vocab && memcmp(x->tokenizer_model_hash, y->tokenizer_model_hash, 32) == 0);
    CHECK(x->claim.present == y->claim.present && x->claim.nll_q32 == y->claim.nll_q32 &&
          x->claim.n_shards == y->claim.n_shards);
    CHECK_EQ_U64(x->n_groups, y->n_groups);
    for (uint32_t g = 0; g < x->n_groups; g++) {
        CHECK_STR(x->groups[g].name, y->groups[g].name);
        CHECK_EQ_U64(x->groups[g].codec, y->groups[g].codec);
        CHECK_EQ_U64(x->groups[g].stored_bytes, y->groups[g].stored_bytes);
        for (uint32_t t = 0; t < x->groups[g].n_tensors; t++) {
            const bd_qtensor *p = &x->groups[g].tensors[t], *q = &y->groups[g].tensors[t];
            uint64_t n = bd_qtensor_elements(p);
            CHECK(p->param == q->param && p->rows == q->rows && p->cols == q->cols && p->method == q->method);
            CHECK(p->bits == q->bits && p->group == q->group && p->states == q->states && p->kind == q->kind);
            CHECK(p->levels == q->levels && p->rank == q->rank && p->base == q->base);
            if (p->codes) CHECK(memcmp(p->codes, q->codes, n) == 0);
            if (p->scales) CHECK(memcmp(p->scales, q->scales, 2 * bd_qtensor_scales(p)) == 0);
            if (p->f16) CHECK(memcmp(p->f16, q->f16, 2 * n) == 0);
            if (p->f32) CHECK(memcmp(p->f32, q->f32, 4 * n) == 0);
            if (p->index) CHECK(memcmp(p->index, q->index, 2 * n) == 0);
            if (p->row_exp) CHECK(memcmp(p->row_exp, q->row_exp, 2 * (size_t)p->rows) == 0);
            if (p->col_exp) CHECK(memcmp(p->col_exp, q->col_exp, 2 * (size_t)p->cols) == 0);
            if (p->lq_a) CHECK(memcmp(p->lq_a, q->lq_a, (size_t)p->rows * p->rank) == 0);
            if (p->lq_b) CHECK(memcmp(p->lq_b, q->lq_b, (size_t)p->rank * p->cols) == 0);
            if (p->lq_scales) CHECK(memcmp(p->lq_scales, q->lq_scales, 2 * bd_qtensor_lq_scales(p)) == 0);
        }
    }
}

TEST(round_trip_every_codec) {
    for (uint64_t i = 0; i < 60; i++) {
        bd_arena *a = bd_arena_create(0);
        int codec = (int)(i % BD_CODEC_COUNT);
        bd_artifact *art = generate(a, test_seed() * 100 + i, codec == BD_CODEC_LRZIP ? BD_CODEC_COUNT : codec);
        bd_artifact *back;
        bd_buf f = build(art), again;
        bd_err e;
        CHECK(bd_artifact_is(f.data, f.size));
        CHECK_OK(bd_artifact_parse(&back, f.data, f.size, NULL, &e), &e);
        check_same(art, back);
        again = build(back);
        CHECK(again.size == f.size && memcmp(again.data, f.data, f.size) == 0);
        CHECK_EQ_U64(back->n_sections, 5 + art->n_groups);
        CHECK_STR(back->sections[4].name, "group.0");
        bd_buf_free(&f);
        bd_buf_free(&again);
        bd_artifact_close(back);
        bd_arena_destroy(a);
    }
}

TEST(costs_are_what_build_writes) {
    for (uint64_t i = 0; i < 12; i++) {
        bd_arena *a = bd_arena_create(0);
        bd_artifact *art = generate(a, test_seed() * 50 + i, BD_CODEC_COUNT);
        bd_err e;
        uint64_t sum, cost;
        CHECK_OK(bd_artifact_fixed_cost(art, &sum, &e), &e);
        for (uint32_t g = 0; g < art->n_groups; g++) {
            CHECK_OK(bd_qgroup_cost(&art->groups[g], &cost, &e), &e);
            CHECK(art->groups[g].codec < BD_CODEC_COUNT && cost == 42 + art->groups[g].stored_bytes);
            sum += cost;
        }
        bd_buf f = build(art);
        CHECK_EQ_U64(f.size, sum);
        bd_buf_free(&f);
        bd_arena_destroy(a);
    }
}

TEST(best_codec_is_the_smallest) {
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = generate(a, test_seed(), BD_CODEC_COUNT);
    for (uint32_t g = 0; g < art->n_groups; g++) {
        bd_err e;
        uint64_t best, cost;
        bd_codec chosen;
        CHECK_OK(bd_qgroup_cost(&art->groups[g], &best, &e), &e);
        chosen = art->groups[g].codec;
        for (int c = 0; c <= BD_CODEC_RANGE; c++) {
            art->groups[g].codec = (bd_codec)c;
            CHECK_OK(bd_qgroup_cost(&art->groups[g], &cost, &e), &e);
            CHECK(cost >= best);
            if (art->groups[g].codec == (bd_codec)c && c < (int)chosen) CHECK(cost > best);
        }
    }
    bd_arena_destroy(a);
}

TEST(overhead_is_small) {
    bd_arena *a = bd_arena_create(0);
    gen_options o = {.seed = 3, .codec = BD_CODEC_RANGE, .groups = 8};
    bd_artifact *art = gen_artifact(a, &o);
    bd_buf f = build(art);
    bd_artifact *back;
    bd_err e;
    CHECK_OK(bd_artifact_parse(&back, f.data, f.size, NULL, &e), &e);
    uint64_t contents = 0;
    for (uint32_t i = 0; i < back->n_sections; i++) contents += back->sections[i].stored;
    CHECK_EQ_U64(f.size - contents, 28 + 13 * 42 + 32);
    bd_artifact_close(back);
    bd_buf_free(&f);
    bd_arena_destroy(a);
}

TEST(claims_can_be_patched) {
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = generate(a, test_seed() + 9, BD_CODEC_RANGE), *back;
    bd_err e;
    bd_claim claim = {
        .present = true, .numerics = 1, .n_shards = 2, .first_target = 1, .tokens = 10, .bytes = 22, .nll_q32 = 77};
    memset(claim.shard_sha256[1], 9, 32);
    art->claim = (bd_claim){0};
    bd_buf without = build(art), patched;
    bd_buf_init(&patched);
    bd_buf_put(&patched, without.data, without.size);
    CHECK_OK(bd_artifact_set_claim(patched.data, patched.size, &claim, &e), &e);
    art->claim = claim;
    bd_buf with = build(art);
    CHECK(with.size == patched.size && memcmp(with.data, patched.data, with.size) == 0);
    uint8_t hash[32];
    CHECK_OK(bd_artifact_parse(&back, without.data, without.size, NULL, &e), &e);
    memcpy(hash, back->model_hash, 32);
    bd_artifact_close(back);
    CHECK_OK(bd_artifact_parse(&back, patched.data, patched.size, NULL, &e), &e);
    CHECK(memcmp(hash, back->model_hash, 32) == 0 && back->claim.present && back->claim.shard_sha256[1][0] == 9);
    bd_artifact_close(back);
    claim.tokens = 0;
    CHECK_EQ_U64(bd_artifact_set_claim(patched.data, patched.size, &claim, &e), BD_E_FIELD);
    bd_buf_free(&with);
    bd_buf_free(&without);
    bd_buf_free(&patched);
    bd_arena_destroy(a);
}

/* A file with bytes changed and hashes repaired gives this error at this offset. */
static void expect_error(const bd_buf *f, uint64_t at, const void *bytes, size_t n, int code, uint64_t offset) {
    uint8_t *copy = malloc(f->size);
    bd_artifact *a;
    bd_err e = {0};
    memcpy(copy, f->data, f->size);
    memcpy(copy + at, bytes, n);
    if (at < 20 || at >= 28) gen_fix_hashes(copy, f->size);
    int st = (int)bd_artifact_parse(&a, copy, f->size, NULL, &e);
    CHECK_MSG(st == code && e.offset == offset, "byte %" PRIu64 ": %s at %lld: %s", at,
              bd_status_name((bd_status)st), (long long)e.offset, e.msg);
    free(copy);
}

TEST(illegal_fields) {
    bd_arena *a = bd_arena_create(0);
    bd_err e;
    bd_artifact *art = gen_example(a), *back;
    art->groups[0].codec = BD_CODEC_RAW;
    bd_buf f = build(art);
    CHECK_OK(bd_artifact_parse(&back, f.data, f.size, NULL, &e), &e);
    uint64_t protocol = back->sections[1].offset, tok = back->sections[2].offset;
    uint64_t group = back->sections[4].offset, claims = back->sections[5].offset;
    bd_artifact_close(back);
    uint32_t zero = 0, one = 1, two = 2, big = 0x7fffffff;
    expect_error(&f, 0, "x", 1, BD_E_MAGIC, 0);
    expect_error(&f, 8, &one, 4, BD_E_VERSION, 8);
    expect_error(&f, 12, &zero, 4, BD_E_FIELD, 12);
    expect_error(&f, 16, &two, 4, BD_E_FIELD, 16);
    expect_error(&f, 16, &big, 4, BD_E_FIELD, 16);
    expect_error(&f, 20, &zero, 4, BD_E_NONCANON, 0);
    expect_error(&f, 20, &big, 4, BD_E_TRUNCATED, f.size);
    expect_error(&f, 28, "\x02", 1, BD_E_FIELD, 28);
    expect_error(&f, 29, "\x04", 1, BD_E_FIELD, 29);
    expect_error(&f, 28 + 2 * 42 + 1, "\x01", 1, BD_E_FIELD, 28 + 2 * 42 + 1);
    expect_error(&f, 28 + 4 * 42 + 1, "\x07", 1, BD_E_FIELD, 28 + 4 * 42 + 1);
    expect_error(&f, 28 + 4 * 42 + 1, "\x06", 1, BD_E_REFUSED, 28 + 4 * 42 + 1);
    expect_error(&f, 28 + 4 * 42 + 1, "\x05", 1, BD_E_NONCANON, 28 + 4 * 42 + 2);
    expect_error(&f, 28 + 4 * 42 + 1, "\x04", 1, BD_E_NONCANON, 28 + 4 * 42 + 2);
    expect_error(&f, 28 + 4 * 42 + 6, &zero, 4, BD_E_FIELD, 28 + 4 * 42 + 6);
    expect_error(&f, 28 + 4 * 42 + 6, &two, 4, BD_E_FIELD, 28 + 4 * 42 + 2);
    expect_error(&f, tok + 64, &zero, 4, BD_E_FIELD, tok + 64);
    expect_error(&f, claims, &two, 4, BD_E_FIELD, claims);
    expect_error(&f, claims + 40, &two, 4, BD_E_NONCANON, claims + 40);
    CHECK_EQ_U64(f.data[28 + 42 + 1], BD_CODEC_RAW); /* the protocol is too short to compress */
    expect_error(&f, protocol, "K", 1, BD_E_SYNTAX, protocol);
    /* raw group: 03 "all", T, three headers of 23, words (7 + 7), base (4), exponents and indices (19 + 19), codes
     * (12) */
    enum {
        ROWS = 4,
        METHOD = 12,
        BITS = 13,
        GROUP = 14,
        STATES = 18,
        KIND = 20,
        LEVELS = 21,
        RANK = 22,
        HEADER = 23
    };
    uint64_t h = group + 8, h2 = h + 2 * HEADER, words = h + 3 * HEADER, base = words + 14, index = base + 4,
             codes = index + 38;
    expect_error(&f, group, "\xff", 1, BD_E_TRUNCATED, group);
    expect_error(&f, group + 1, " ", 1, BD_E_FIELD, group);
    expect_error(&f, group + 4, &zero, 4, BD_E_FIELD, group);
    expect_error(&f, h + ROWS, &zero, 4, BD_E_FIELD, group);
    expect_error(&f, h + ROWS, &big, 4, BD_E_LIMIT, group);
    expect_error(&f, h + METHOD, "\x07", 1, BD_E_FIELD, group);
    expect_error(&f, h + BITS, "\x01", 1, BD_E_FIELD, group);
    for (uint64_t field = GROUP; field < HEADER; field++) /* fields of other methods */
        if (field != STATES + 1) expect_error(&f, h + field, "\x01", 1, BD_E_FIELD, group);
    expect_error(&f, h2 + BITS, "\x01", 1, BD_E_FIELD, group);
    expect_error(&f, h2 + STATES, "\x00", 1, BD_E_FIELD, group);
    expect_error(&f, h2 + STATES, "\x02", 1, BD_E_FIELD, group);
    expect_error(&f, h2 + STATES, "\x00\x02", 2, BD_E_FIELD, group);
    expect_error(&f, h2 + KIND, "\x10", 1, BD_E_FIELD, group);
    expect_error(&f, h + HEADER, &zero, 4, BD_E_NONCANON, group);
    expect_error(&f, words + 7, "\x7c", 1, BD_E_NONFINITE, group);
    expect_error(&f, words + 7, "\xa4", 1, BD_E_NONCANON, group);
    expect_error(&f, base, "\x00\x00\xc0\x7f", 4, BD_E_NONFINITE, group);
    expect_error(&f, base, "\x00\x00\x00\x00", 4, BD_E_RANGE, group);
    expect_error(&f, base, "\xff\xff\x7f\x2b", 4, BD_E_RANGE, group);
    expect_error(&f, base, "\x01\x00\x80\x53", 4, BD_E_RANGE, group);
    expect_error(&f, base, "\x00\x00\x00\xbe", 4, BD_E_RANGE, group);
    expect_error(&f, index, "\x81", 1, BD_E_RANGE, group);      /* row exponent 129 */
    expect_error(&f, index + 3, "\x81", 1, BD_E_RANGE, group);  /* column exponent */
    expect_error(&f, index + 7, "\x01", 1, BD_E_FIELD, group);  /* an odd index in a state for even ones */
    expect_error(&f, index + 19, "\x01", 1, BD_E_RANGE, group); /* high byte of a row exponent */
    expect_error(&f, index + 26, "\x80", 1, BD_E_RANGE, group); /* index -32768 */
    expect_error(&f, codes, "\x08", 1, BD_E_RANGE, group);
    expect_error(&f, codes, "\x80", 1, BD_E_RANGE, group);
    /* one section hash, then the root hash */
    f.data[group] ^= 1;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, NULL, &e), BD_E_CHECKSUM);
    CHECK_EQ_U64(e.offset, group);
    f.data[group] ^= 1;
    f.data[12] = 2;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, NULL, &e), BD_E_CHECKSUM);
    CHECK_EQ_U64(e.offset, f.size - 32);
    bd_buf_free(&f);
    bd_arena_destroy(a);
}

TEST(limits_hold) {
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = gen_example(a), *back;
    bd_buf f = build(art);
    bd_err e;
    bd_artifact_limits all = bd_artifact_limits_default(), l = all;
    l.file_bytes = f.size - 1;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, &l, &e), BD_E_LIMIT);
    l = all;
    l.tensors = 2;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, &l, &e), BD_E_LIMIT);
    l = all;
    l.elements = 27;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, &l, &e), BD_E_LIMIT);
    l.elements = 28;
    CHECK_OK(bd_artifact_parse(&back, f.data, f.size, &l, &e), &e);
    bd_artifact_close(back);
    l.decoded_bytes = 400;
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, &l, &e), BD_E_LIMIT);
    bd_buf_free(&f);
    bd_arena_destroy(a);
}

static int try_build(const bd_artifact *art) {
    bd_buf f;
    bd_err e;
    bd_buf_init(&f);
    int st = (int)bd_artifact_build(art, &f, &e);
    bd_buf_free(&f);
    return st;
}

TEST(the_writer_refuses_what_the_reader_would) {
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = gen_example(a);
    bd_qtensor *q = art->groups[0].tensors;
    CHECK_EQ_U64(try_build(art), BD_OK);
    q[0].codes[3] = 8;
    CHECK_EQ_U64(try_build(art), BD_E_RANGE);
    q[0].codes[3] = -7;
    q[0].scales[1] = 0x7e00;
    CHECK_EQ_U64(try_build(art), BD_E_NONFINITE);
    q[0].scales[1] = 0x8000;
    CHECK_EQ_U64(try_build(art), BD_E_NONCANON);
    q[0].scales[1] = 0;
    q[1].param = 0;
    CHECK_EQ_U64(try_build(art), BD_E_NONCANON);
    q[1].param = 1;
    q[2].index[1] = 3;
    CHECK_EQ_U64(try_build(art), BD_E_FIELD);
    q[2].index[1] = INT16_MIN;
    CHECK_EQ_U64(try_build(art), BD_E_RANGE);
    q[2].index[1] = 2;
    q[2].col_exp[0] = -129;
    CHECK_EQ_U64(try_build(art), BD_E_RANGE);
    q[2].col_exp[0] = 3;
    q[2].base = NAN;
    CHECK_EQ_U64(try_build(art), BD_E_NONFINITE);
    q[2].base = 0x1.000002p+40f;
    CHECK_EQ_U64(try_build(art), BD_E_RANGE);
    q[2].base = 0x1p-40f;
    CHECK_EQ_U64(try_build(art), BD_OK);
    q[2].states = 2;
    CHECK_EQ_U64(try_build(art), BD_E_FIELD);
    q[2].states = 8;
    art->groups[0].name = "two words";
    CHECK_EQ_U64(try_build(art), BD_E_FIELD);
    art->groups[0].name = "all";
    art->plan_text = "a\tb";
    art->plan_size = 3;
    CHECK_EQ_U64(try_build(art), BD_E_SYNTAX);
    art->plan_size = 0;
    bd_qgroup two[2] = {art->groups[0], art->groups[0]};
    art->groups = two;
    art->n_groups = 2;
    CHECK_EQ_U64(try_build(art), BD_E_NONCANON);
    two[0].n_tensors = 2;
    two[1].tensors = &q[1]; /* first parameters 0 and 1, but 1 occurs twice */
    two[1].n_tensors = 1;
    CHECK_EQ_U64(try_build(art), BD_E_NONCANON);
    two[0].n_tensors = 1;
    CHECK_EQ_U64(try_build(art), BD_OK);
    bd_arena_destroy(a);
}

TEST(codecs_are_bounded) {
    static const uint8_t extra[4] = {0};
    uint8_t text[3000], out[3001];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "abcab"[i * i % 5];
    for (int c = BD_CODEC_BROTLI; c <= BD_CODEC_ZLIB; c++) {
        if (c == BD_CODEC_RANGE) continue;
        bd_buf p;
        bd_err e;
        bd_buf_init(&p);
        CHECK_OK(bd_codec_pack((bd_codec)c, text, sizeof text, &p, &e), &e);
        CHECK_OK(bd_codec_unpack((bd_codec)c, p.data, p.size, out, sizeof text, 0, &e), &e);
        CHECK(memcmp(out, text, sizeof text) == 0);
        CHECK_EQ_U64(bd_codec_unpack((bd_codec)c, p.data, p.size, out, sizeof text - 1, 0, &e), BD_E_CODEC);
        CHECK_EQ_U64(bd_codec_unpack((bd_codec)c, p.data, p.size, out, sizeof text + 1, 0, &e), BD_E_CODEC);
        for (size_t n = 0; n < p.size; n++)
            CHECK_EQ_U64(bd_codec_unpack((bd_codec)c, p.data, n, out, sizeof text, 0, &e), BD_E_CODEC);
        for (size_t n = 1; n <= 4; n++) {
            bd_buf_put(&p, extra, 1);
            CHECK_EQ_U64(bd_codec_unpack((bd_codec)c, p.data, p.size, out, sizeof text, 7, &e), BD_E_CODEC);
            CHECK_EQ_U64(e.offset, 7);
        }
        bd_buf_free(&p);
    }
    char versions[100];
    bd_codec_versions(versions, sizeof versions);
    CHECK(strstr(versions, "brotli ") && strstr(versions, "zstd ") && strstr(versions, "xz ") &&
          strstr(versions, "zlib "));
}

static int8_t *heap(void *user, uint64_t n) { return *(int8_t **)user = malloc(n); }

TEST(ternary_forms) {
    uint64_t s = test_seed();
    for (uint64_t n = 1; n < 400; n += 1 + n / 7)
        for (int density = 0; density <= 10; density++) {
            int8_t codes[400], *back = NULL, *keep = NULL;
            uint64_t nz = 0;
            uint8_t form;
            for (uint64_t i = 0; i < n; i++) {
                codes[i] = (int8_t)(test_rand(&s) % 10 < (uint64_t)density ? 1 - 2 * (int)(test_rand(&s) & 1) : 0);
                nz += codes[i] != 0;
            }
            bd_buf b;
            bd_err e;
            bd_rd r;
            bd_buf_init(&b);
            bd_ternary_write(&b, codes, n);
            CHECK_EQ_U64(b.size, 1 + bd_ternary_size(n, nz, &form));
            CHECK_EQ_U64(b.data[0], form);
            bd_rd_init(&r, b.data, b.size);
            CHECK_OK(bd_ternary_read(&r, &back, n, heap, &keep, 0, &e), &e);
            CHECK(bd_rd_left(&r) == 0 && memcmp(back, codes, n) == 0);
            free(keep);
            bd_buf_free(&b);
        }
    CHECK(bd_ternary_size(1000, 10, &(uint8_t){0}) == 125 + 2);
    CHECK(bd_ternary_size(1000, 900, &(uint8_t){0}) == 200);
}

TEST(dequantization) {
    int8_t codes[6] = {1, -2, 3, 0, -1, 127};
    uint16_t scales[3] = {0x3c00, 0x3800, 0x0001}, f16[2] = {0x3555, 0x8001};
    float out[6];
    bd_qtensor row = {.rows = 2, .cols = 3, .method = BD_Q_ROW, .bits = 8, .codes = codes, .scales = scales};
    bd_qtensor_dequant(&row, out);
    CHECK(out[0] == 1 && out[1] == -2 && out[2] == 3 && out[3] == 0 && !signbit(out[3]) && out[4] == -0.5f &&
          out[5] == 63.5f);
    bd_qtensor ternary = {.rows = 2,
                          .cols = 3,
                          .method = BD_Q_TERNARY,
                          .group = 2,
                          .codes = (int8_t[]){1, 0, -1, 1, 0, -1},
                          .scales = scales};
    bd_qtensor_dequant(&ternary, out);
    CHECK(out[0] == 1 && out[2] == -0.5f && out[3] == 0.5f && out[5] == -0x1p-24f);
    bd_qtensor half = {.rows = 1, .cols = 2, .method = BD_Q_F16, .f16 = f16};
    bd_qtensor_dequant(&half, out);
    CHECK(out[0] == 0x1.554p-2f && out[1] == -0x1p-24f);
}

/* Values of the new methods, against arithmetic in double. */
TEST(dequantization_by_steps) {
    int16_t index[6] = {4, -3, 0, 32767, 1, -2}, rows[2] = {3, -128}, cols[3] = {-128, 0, 2};
    float out[6];
    for (unsigned states = 1; states <= 8; states *= 8) {
        bd_qtensor t = {.rows = 2,
                        .cols = 3,
                        .method = BD_Q_TCQ,
                        .states = (uint16_t)states,
                        .base = 0.3f,
                        .index = index,
                        .row_exp = rows,
                        .col_exp = cols};
        bd_qtensor_dequant(&t, out);
        for (int r = 0; r < 2; r++)
            for (int c = 0; c < 3; c++) {
                double want = index[2 * c + r] * 0.3f * pow(2, (rows[r] + cols[c]) / 4.0) * (states > 1 ? 0.5 : 1);
                CHECK_MSG(fabs(out[3 * r + c] - want) <= fabs(want) * 2e-7, "%g %g", (double)out[3 * r + c], want);
            }
        CHECK(out[1] == 0 && !signbit(out[1]));
    }
    for (int k = -256; k <= 256; k++) {
        float s = bd_tcq_step(0x1p+40f, 1, k);
        CHECK(isfinite(s) && fabs(s / pow(2, 40 + k / 4.0) - 1) < 1e-7);
        CHECK(isfinite(s * 32767) && bd_tcq_step(0x1p-40f, 4, k) >= 0x1p-126f);
    }
    for (unsigned levels = 1; levels <= 32; levels *= 2) {
        int most = BD_LOG_OCTAVES * (int)levels;
        for (int c = -most; c <= most; c++) {
            float v = bd_log_value(0x1p+40f, levels, c);
            double want = c ? pow(2, 40 + (double)(abs(c) - 1) / levels) * (c < 0 ? -1 : 1) : 0;
            CHECK(isfinite(v) && fabs(v - want) <= fabs(want) * 1e-7);
        }
        CHECK(!signbit(bd_log_value(1, levels, 0)));
    }
}

TEST(dequantization_with_a_correction) {
    int8_t codes[6] = {1, -2, 3, 0, -1, 7}, left[4] = {1, -2, 0, 1}, right[6] = {7, -8, 3, 1, 0, -1};
    uint16_t scales[2] = {0x3c00, 0x3800},
             own[5] = {0x3400, 0x3c00, 0x3000, 0x3800, 0x0001}; /* .25; 1 .125 .5 2^-24 */
    const float b[6] = {7, -8, .375f, .125f, 0, -.5f};
    float out[6];
    bd_qtensor t = {.rows = 2,
                    .cols = 3,
                    .method = BD_Q_LQER,
                    .bits = 4,
                    .group = 2,
                    .rank = 2,
                    .codes = codes,
                    .scales = scales,
                    .lq_a = left,
                    .lq_b = right,
                    .lq_scales = own};
    CHECK_EQ_U64(bd_qtensor_lq_scales(&t), 4);
    bd_qtensor_dequant(&t, out);
    for (int r = 0; r < 2; r++)
        for (int c = 0; c < 3; c++) {
            float want = codes[3 * r + c] * (r ? 0.5f : 1);
            for (int k = 0; k < 2; k++) want += left[2 * r + k] * .25f * b[3 * k + c]; /* exact here */
            CHECK(out[3 * r + c] == want);
        }
}

TEST(a_packed_section_is_used_again) {
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = gen_example(a);
    bd_qgroup *g = &art->groups[0];
    bd_buf plain = build(art), packed;
    bd_err e;
    uint64_t cost, again;
    bd_buf_init(&packed);
    g->packed = &packed;
    g->codec = BD_CODEC_COUNT;
    CHECK_OK(bd_qgroup_cost(g, &cost, &e), &e);
    CHECK_EQ_U64(packed.size, cost - 42);
    CHECK(g->codec < BD_CODEC_COUNT && g->stored_bytes == packed.size);
    bd_buf f = build(art);
    CHECK_EQ_U64(g->stored_bytes, packed.size);
    CHECK(g->codec != BD_CODEC_RANGE || (f.size == plain.size && memcmp(f.data, plain.data, f.size) == 0));
    packed.data[0] ^= 1; /* seen in the file: nothing was coded again */
    bd_buf changed = build(art);
    CHECK(changed.size == f.size && memcmp(changed.data, f.data, f.size) != 0);
    packed.size = 0;
    CHECK_OK(bd_qgroup_cost(g, &again, &e), &e);
    CHECK_EQ_U64(again, cost);
    g->tensors[0].codes[0] = 99; /* an illegal group gets no price, packed or not */
    CHECK_EQ_U64(bd_qgroup_cost(g, &again, &e), BD_E_RANGE);
    bd_buf_free(&plain);
    bd_buf_free(&f);
    bd_buf_free(&changed);
    bd_buf_free(&packed);
    bd_arena_destroy(a);
}

TEST(bytes_of_tensors) {
    for (uint64_t i = 0; i < 20; i++) {
        bd_arena *a = bd_arena_create(0);
        bd_artifact *art = generate(a, test_seed() * 70 + i, i % 2 ? BD_CODEC_RANGE : BD_CODEC_ZSTD);
        for (uint32_t g = 0; g < art->n_groups; g++) {
            bd_qgroup *q = &art->groups[g];
            double *bytes = malloc(q->n_tensors * sizeof *bytes), sum = 0;
            uint64_t cost;
            bd_err e;
            CHECK_OK(bd_qgroup_cost(q, &cost, &e), &e);
            CHECK_OK(bd_qgroup_tensor_bytes(q, bytes, &e), &e);
            for (uint32_t t = 0; t < q->n_tensors; t++) {
                CHECK(bytes[t] > 0);
                sum += bytes[t];
            }
            /* the name, its length and the count are nobody's */
            double rest = 1 + (double)strlen(q->name) + 4, stored = (double)q->stored_bytes;
            CHECK_MSG(sum <= stored + 1 + stored * 3e-4 &&
                          sum >= (stored - rest - 3) * (1 - 3e-4) - stored / 4 * (i % 2 == 0),
                      "%f of %f", sum, stored);
            free(bytes);
        }
        bd_arena_destroy(a);
    }
}

/* --- the worked example --- */

static void dump(const uint8_t *data, uint64_t from, uint64_t to, const char *what) {
    for (uint64_t at = from; at < to; at += 16) {
        printf("%04x ", (unsigned)at);
        for (uint64_t i = at; i < at + 16; i++)
            if (i < to) printf(" %02x", data[i]);
            else if (at == from) printf("   ");
        if (at == from) printf("  | %s", what);
        printf("\n");
    }
}

static void print_example(void) {
    bd_arena *arena = bd_arena_create(0);
    bd_buf f = build(gen_example(arena));
    bd_artifact *a;
    bd_err e;
    CHECK_OK(bd_artifact_parse(&a, f.data, f.size, NULL, &e), &e);
    dump(f.data, 0, 8, "magic");
    dump(f.data, 8, 12, "version");
    dump(f.data, 12, 16, "numerics");
    dump(f.data, 16, 20, "sections");
    dump(f.data, 20, 28, "file size");
    for (uint64_t i = 0; i < 6; i++) {
        char what[64];
        snprintf(what, sizeof what, "entry: %s, %s; stored, raw", i == 4 ? "weights" : a->sections[i].name,
                 bd_codec_name(a->sections[i].codec));
        dump(f.data, 28 + 42 * i, 38 + 42 * i, what);
        dump(f.data, 38 + 42 * i, 70 + 42 * i, "its SHA-256");
    }
    for (uint32_t i = 0; i < 6; i++) {
        const bd_section_info *s = &a->sections[i];
        dump(f.data, s->offset, s->offset + s->stored, i == 4 ? "weights" : s->name);
    }
    dump(f.data, f.size - 32, f.size, "root hash");
    bd_artifact_close(a);
    bd_buf_free(&f);
    bd_arena_destroy(arena);
}

TEST(the_worked_example_is_true) {
    bd_arena *arena = bd_arena_create(0);
    bd_buf f = build(gen_example(arena)), text;
    bd_buf_init(&text);
    char path[1024], line[512];
    snprintf(path, sizeof path, "%s/format/SPEC.md", BIRDIE_SOURCE_DIR);
    FILE *spec = fopen(path, "r");
    CHECK_MSG(spec, "%s is missing", path);
    bool inside = false;
    while (fgets(line, sizeof line, spec)) {
        if (strncmp(line, "```", 3) == 0) inside = strncmp(line, "```hex", 6) == 0;
        else if (inside) {
            unsigned at, byte;
            int n = 0;
            char *p = line;
            CHECK(sscanf(p, "%4x%n", &at, &n) == 1);
            CHECK_EQ_U64(at, text.size);
            while (p += n, sscanf(p, " %2x%n", &byte, &n) == 1) bd_buf_u8(&text, (uint8_t)byte);
        }
    }
    fclose(spec);
    CHECK_MSG(text.size == f.size && memcmp(text.data, f.data, f.size) == 0,
              "format/SPEC.md's example differs; put there what t_artifact --print-example prints");
    bd_buf_free(&f);
    bd_buf_free(&text);
    bd_arena_destroy(arena);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--print-example") == 0) {
        print_example();
        return 0;
    }
    return test_main(argc, argv);
}
