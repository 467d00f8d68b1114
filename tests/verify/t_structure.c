/* STRUCTURE: every defect of a small artifact is found, and both decoders find it. */
#include "base/arena.h"
#include "refdec/refdec.h"
#include "tests/format/gen_artifact.h"
#include "tests/verify/tiny_artifact.h"
#include "verify/verify_artifact.h"

static const tiny_spec SMALL = {TA_VOCAB, 8, 1, 1, 1, 8};

typedef struct sample {
    bd_arena *arena;
    bd_model *model;
    bd_tokenizer *tokenizer;
    bd_artifact *art;
    bd_buf file;
} sample;

static void sample_open(sample *s) {
    bd_protocol p;
    bd_protocol_default(&p);
    p.window = 16;
    s->arena = bd_arena_create(0);
    CHECK(s->arena != NULL);
    s->model = tiny_model(&SMALL, 3);
    s->tokenizer = ta_tokenizer(false);
    s->art = ta_artifact(s->arena, s->model, s->tokenizer, &p);
    ta_build(s->art, &s->file);
}

static void sample_close(sample *s) {
    bd_buf_free(&s->file);
    bd_tokenizer_close(s->tokenizer);
    bd_model_close(s->model);
    bd_arena_destroy(s->arena);
}

/* The STRUCTURE check over a copy of exactly this size. */
static bd_check structure_with(const uint8_t *data, uint64_t size, bool allow_external) {
    bd_verdict v = {0};
    bd_artifact *a = NULL;
    bd_err e = {0};
    uint8_t *copy = malloc(size ? size : 1);
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    CHECK_OK(bd_verify_structure(&a, &v, copy, size, allow_external, &e), &e);
    CHECK(v.n == 1 && !strcmp(v.checks[0].id, "STRUCTURE") && v.checks[0].detail[0]);
    CHECK((a != NULL) == (v.checks[0].outcome != BD_FAILED));
    bd_artifact_close(a);
    free(copy);
    return v.checks[0];
}

static bd_check structure(const uint8_t *data, uint64_t size) { return structure_with(data, size, false); }

static void expect_fail(const uint8_t *data, uint64_t size, const char *what, uint64_t at) {
    bd_check c = structure(data, size);
    CHECK_MSG(c.outcome == BD_FAILED, "%s at %" PRIu64 " passed", what, at);
    CHECK_MSG(!strstr(c.detail, "decoder"), "%s at %" PRIu64 ": %s", what, at, c.detail);
}

TEST(a_good_artifact_passes) {
    sample s;
    sample_open(&s);
    bd_check c = structure(s.file.data, s.file.size);
    CHECK_MSG(c.outcome == BD_PASS, "%s", c.detail);
    CHECK(strstr(c.detail, "two decoders agree") != NULL);
    sample_close(&s);
}

TEST(every_flipped_bit_fails) {
    sample s;
    sample_open(&s);
    for (uint64_t bit = 0; bit < 8 * s.file.size; bit++) {
        s.file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_fail(s.file.data, s.file.size, "flip", bit);
        s.file.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    sample_close(&s);
}

/* With the hashes made right again some flips are other models; the decoders never disagree. */
TEST(flipped_bits_with_right_hashes_are_judged_alike) {
    sample s;
    sample_open(&s);
    int passed = 0, failed = 0;
    uint64_t seed = test_seed();
    uint8_t *f = malloc(s.file.size);
    CHECK(f != NULL);
    for (uint64_t i = 0; i < s.file.size; i++) { /* one bit of each byte */
        uint64_t bit = 8 * i + test_rand(&seed) % 8;
        memcpy(f, s.file.data, s.file.size);
        f[bit / 8] ^= (uint8_t)(1u << bit % 8);
        gen_fix_hashes(f, s.file.size);
        if (!memcmp(f, s.file.data, s.file.size)) continue; /* a bit of a hash */
        bd_check c = structure(f, s.file.size);
        bool alike = c.outcome == BD_PASS || !strstr(c.detail, "decoder");
        CHECK_MSG(alike, "bit %" PRIu64 ": %s", bit, c.detail);
        c.outcome == BD_PASS ? passed++ : failed++;
    }
    CHECK_MSG(passed > 0 && failed > 0, "%d passed, %d failed", passed, failed);
    free(f);
    sample_close(&s);
}

TEST(every_cut_fails) {
    sample s;
    sample_open(&s);
    for (uint64_t n = 0; n < s.file.size; n++) expect_fail(s.file.data, n, "cut", n);
    sample_close(&s);
}

TEST(more_bytes_fail) {
    sample s;
    sample_open(&s);
    uint64_t n = s.file.size;
    bd_buf_u8(&s.file, 0);
    expect_fail(s.file.data, s.file.size, "a byte more", n);
    s.file.size = n;
    gen_fix_hashes(s.file.data, n); /* unchanged: the helper writes what the writer wrote */
    CHECK(structure(s.file.data, n).outcome == BD_PASS);
    sample_close(&s);
}

/* Two weight sections and their entries exchanged, all hashes right: the order is part of the spelling. */
TEST(exchanged_sections_fail) {
    sample s;
    sample_open(&s);
    bd_artifact *a = NULL;
    bd_err e = {0};
    CHECK_OK(bd_artifact_parse(&a, s.file.data, s.file.size, NULL, &e), &e);
    for (uint32_t i = 0; i + 1 < a->n_sections; i++) {
        const bd_section_info *x = &a->sections[i], *y = &a->sections[i + 1];
        uint8_t *f = malloc(s.file.size), entry[42];
        CHECK(f != NULL);
        memcpy(f, s.file.data, s.file.size);
        memcpy(entry, f + 28 + 42 * i, 42);
        memmove(f + 28 + 42 * i, f + 28 + 42 * (i + 1), 42);
        memcpy(f + 28 + 42 * (i + 1), entry, 42);
        memcpy(f + x->offset, s.file.data + y->offset, y->stored);
        memcpy(f + x->offset + y->stored, s.file.data + x->offset, x->stored);
        gen_fix_hashes(f, s.file.size);
        expect_fail(f, s.file.size, "exchange", i);
        free(f);
    }
    bd_artifact_close(a);
    sample_close(&s);
}

/* Well-formed files that hold no model. */
TEST(graph_and_tensors_must_fit) {
    sample s;
    sample_open(&s);
    bd_buf f;
    bd_check c;
    const bd_artifact good = *s.art;

    s.art->n_groups = 1;
    ta_build(s.art, &f);
    c = structure(f.data, f.size);
    CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "no weight group holds"), "%s", c.detail);
    bd_buf_free(&f);
    *s.art = good;

    s.art->vocab = TA_VOCAB - 1;
    ta_build(s.art, &f);
    c = structure(f.data, f.size);
    CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "vocabulary"), "%s", c.detail);
    bd_buf_free(&f);
    *s.art = good;

    s.art->numerics = 99;
    ta_build(s.art, &f);
    c = structure(f.data, f.size);
    CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "numerics"), "%s", c.detail);
    bd_buf_free(&f);
    *s.art = good;

    s.art->graph_text = "model nothing\n";
    s.art->graph_size = strlen(s.art->graph_text);
    ta_build(s.art, &f);
    c = structure(f.data, f.size);
    CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "graph"), "%s", c.detail);
    bd_buf_free(&f);
    *s.art = good;

    bd_qtensor *last = &s.art->groups[1].tensors[s.art->groups[1].n_tensors - 1];
    uint32_t rows = last->rows;
    last->rows = last->cols; /* the same number of values when it is a vector */
    last->cols = rows;
    if (last->rows != last->cols && last->method == BD_Q_F16) {
        ta_build(s.art, &f);
        c = structure(f.data, f.size);
        CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "the graph wants"), "%s", c.detail);
        bd_buf_free(&f);
    }
    sample_close(&s);
}

static void append(char *out, size_t size, const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    CHECK_MSG(at != NULL, "no %s in %s", from, text);
    snprintf(out, size, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

/* A graph may declare more than the groups hold: refused for it. Larger than the limits: refused too. */
TEST(declared_sizes_are_checked) {
    sample s;
    sample_open(&s);
    const struct {
        const char *fc, *proj, *says;
    } cases[] = {{"fc.weight 262144x8 ", "proj.weight 8x262144 ", "the graph wants"},
                 {"fc.weight 1000000000x8 ", "proj.weight 8x1000000000 ", ""},
                 {"fc.weight 99999999999999999999x8 ", "proj.weight 8x99999999999999999999 ", ""}};
    char text[8192], one[8192], both[8192];
    CHECK(s.art->graph_size < sizeof text);
    memcpy(text, s.art->graph_text, s.art->graph_size);
    text[s.art->graph_size] = 0;
    for (int i = 0; i < 3; i++) {
        char mlp[64];
        snprintf(mlp, sizeof mlp, "mlp.%s", cases[i].proj);
        append(one, sizeof one, text, "fc.weight 8x8 ", cases[i].fc);
        append(both, sizeof both, one, "mlp.proj.weight 8x8 ", mlp);
        s.art->graph_text = both;
        s.art->graph_size = strlen(both);
        bd_buf f;
        ta_build(s.art, &f);
        bd_check c = structure(f.data, f.size);
        CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, cases[i].says), "%s", c.detail);
        bd_buf_free(&f);
    }
    sample_close(&s);
}

TEST(external_programs_need_permission) {
    if (access("/usr/bin/lrzip", X_OK)) SKIP("lrzip is not installed");
    sample s;
    sample_open(&s);
    s.art->groups[0].codec = BD_CODEC_LRZIP;
    bd_qtensor *q = s.art->groups[0].tensors;
    for (uint32_t t = 0; t < s.art->groups[0].n_tensors; t++) /* or the group would be no smaller than raw */
        if (q[t].codes) memset(q[t].codes, 1, (size_t)q[t].rows * q[t].cols);
    bd_buf f;
    ta_build(s.art, &f);
    CHECK_EQ_U64(s.art->groups[0].codec, BD_CODEC_LRZIP);
    bd_check c = structure(f.data, f.size);
    CHECK_MSG(c.outcome == BD_FAILED && strstr(c.detail, "--allow-external"), "%s", c.detail);
    c = structure_with(f.data, f.size, true);
    CHECK_MSG(c.outcome == BD_WARN && strstr(c.detail, "one decoder"), "%s", c.detail);
    f.data[f.size / 2] ^= 1;
    c = structure_with(f.data, f.size, true);
    CHECK(c.outcome == BD_FAILED);
    bd_buf_free(&f);
    sample_close(&s);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
