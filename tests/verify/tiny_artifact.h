/* A tiny tokenizer, stream and artifact, for tests of the verifier. */
#ifndef BD_TESTS_TINY_ARTIFACT_H
#define BD_TESTS_TINY_ARTIFACT_H

#include "base/half.h"
#include "format/artifact.h"
#include "format/shard.h"
#include "format/tokenizer.h"
#include "tests/runtime/tiny_model.h"

enum { TA_VOCAB = 32, TA_BOS = 1, TA_FIRST = 4, TA_LETTERS = 26 };
static const tiny_spec TA_SPEC = {TA_VOCAB, 16, 2, 2, 1, 24};

static inline void ta_add_piece(bd_buf *b, const char *text, int type) {
    size_t n = strlen(text);
    bd_buf_u8(b, 0x0a); /* piece */
    bd_buf_u8(b, (uint8_t)(2 + n + 2));
    bd_buf_u8(b, 0x0a);
    bd_buf_u8(b, (uint8_t)n);
    bd_buf_put(b, text, n);
    bd_buf_u8(b, 0x18);
    bd_buf_u8(b, (uint8_t)type);
}

/* The file of a tokenizer: pad, bos, eos, unk, ten pieces with a leading space, sixteen letters, two bytes.
 * `other`: another byte table. */
static inline void ta_model_file(bd_buf *b, bool other) {
    ta_add_piece(b, "<pad>", BD_PIECE_CONTROL);
    ta_add_piece(b, "<s>", BD_PIECE_CONTROL);
    ta_add_piece(b, "</s>", BD_PIECE_CONTROL);
    ta_add_piece(b, "<unk>", BD_PIECE_UNKNOWN);
    for (int i = 0; i < TA_LETTERS; i++) {
        char s[8];
        if (i < 10) snprintf(s, sizeof s, "\xe2\x96\x81%c", 'a' + i);
        else snprintf(s, sizeof s, other && i == 20 ? "%c%c" : "%c", 'a' + i, 'q');
        ta_add_piece(b, s, BD_PIECE_NORMAL);
    }
    ta_add_piece(b, "<0x0A>", BD_PIECE_BYTE);
    ta_add_piece(b, "<0xC3>", BD_PIECE_BYTE);
    CHECK(!b->failed);
}

static inline bd_tokenizer *ta_tokenizer(bool other) {
    bd_buf b;
    bd_buf_init(&b);
    ta_model_file(&b, other);
    bd_tokenizer *t = NULL;
    bd_err e = {0};
    CHECK_OK(bd_tokenizer_parse(&t, b.data, b.size, &e), &e);
    CHECK(t->n == TA_VOCAB && t->bos == TA_BOS);
    bd_buf_free(&b);
    return t;
}

/* Documents of 20 to 40 tokens. */
static inline void ta_tokens(uint16_t *out, uint64_t n, uint64_t seed) {
    uint64_t left = 0;
    for (uint64_t i = 0; i < n; i++) {
        out[i] = left ? (uint16_t)(TA_FIRST + test_rand(&seed) % TA_LETTERS) : TA_BOS;
        left = left ? left - 1 : 20 + test_rand(&seed) % 20;
    }
}

/* Column after column on a grid of 1/1024, all exponents 0. */
static inline void ta_tcq(bd_arena *a, bd_qtensor *q, const float *x) {
    q->method = BD_Q_TCQ;
    q->states = 1;
    q->base = 0x1p-10f;
    q->index = bd_arena_alloc(a, (uint64_t)q->rows * q->cols, 2);
    q->row_exp = bd_arena_alloc(a, q->rows, 2);
    q->col_exp = bd_arena_alloc(a, q->cols, 2);
    CHECK(q->index && q->row_exp && q->col_exp);
    for (uint64_t r = 0; r < q->rows; r++)
        for (uint64_t c = 0; c < q->cols; c++)
            q->index[c * q->rows + r] = (int16_t)lrintf(1024 * x[r * q->cols + c]);
}

/* Matrices as 8-bit rows, some of them with a correction (of zeros), every third one as TCQ; vectors as binary16.
 * Everything lives in the arena. */
static inline bd_artifact *ta_artifact(bd_arena *a, const bd_model *m, const bd_tokenizer *t,
                                       const bd_protocol *p) {
    const bd_graph *g = m->graph;
    bd_artifact *art = bd_arena_alloc(a, 1, sizeof *art);
    bd_qgroup *groups = bd_arena_alloc(a, 2, sizeof *groups);
    bd_qtensor *q = bd_arena_alloc(a, (uint64_t)g->n_params, sizeof *q);
    CHECK(art && groups && q);
    memset(art, 0, sizeof *art);
    memset(groups, 0, 2 * sizeof *groups);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *pa = &g->params[i];
        const float *x = m->params + pa->offset;
        q[i] = (bd_qtensor){
            .param = (uint32_t)i, .rows = (uint32_t)pa->rows, .cols = (uint32_t)pa->cols, .method = BD_Q_F16};
        if (pa->rows == 1) {
            q[i].f16 = bd_arena_alloc(a, (uint64_t)pa->cols, 2);
            CHECK(q[i].f16 != NULL);
            for (int64_t k = 0; k < pa->cols; k++) q[i].f16[k] = bd_f32_to_f16(x[k]);
            continue;
        }
        if (i % 3 == 2) {
            ta_tcq(a, &q[i], x);
            continue;
        }
        q[i].method = BD_Q_ROW;
        q[i].bits = 8;
        if (i % 3 == 1) {
            q[i].method = BD_Q_LQER;
            q[i].rank = 2;
            q[i].group = 5;
            q[i].lq_a = bd_arena_alloc(a, 2 * (uint64_t)pa->rows, 1);
            q[i].lq_b = bd_arena_alloc(a, 2 * (uint64_t)pa->cols, 1);
            q[i].lq_scales = bd_arena_alloc(a, 1 + (2 * (uint64_t)pa->cols + 4) / 5, 2);
            CHECK(q[i].lq_a && q[i].lq_b && q[i].lq_scales);
        }
        q[i].codes = bd_arena_alloc(a, (uint64_t)(pa->rows * pa->cols), 1);
        q[i].scales = bd_arena_alloc(a, (uint64_t)pa->rows, 2);
        CHECK(q[i].codes && q[i].scales);
        for (int64_t r = 0; r < pa->rows; r++) {
            float most = 1e-3f;
            for (int64_t k = 0; k < pa->cols; k++) most = fmaxf(most, fabsf(x[r * pa->cols + k]));
            q[i].scales[r] = bd_f32_to_f16(most / 120);
            for (int64_t k = 0; k < pa->cols; k++)
                q[i].codes[r * pa->cols + k] = (int8_t)lrintf(x[r * pa->cols + k] / bd_f16_to_f32(q[i].scales[r]));
        }
    }
    bd_buf text;
    bd_err e = {0};
    bd_buf_init(&text);
    CHECK_OK(bd_graph_print(g, &text, &e), &e);
    char *copy = bd_arena_alloc(a, text.size, 1);
    CHECK(copy != NULL);
    memcpy(copy, text.data, text.size);
    art->version = 2;
    art->numerics = 1;
    art->graph_text = copy;
    art->graph_size = text.size;
    bd_buf_free(&text);
    art->plan_text = "made by a test\n";
    art->plan_size = strlen(art->plan_text);
    art->protocol = *p;
    memcpy(art->tokenizer_model_hash, t->model_hash, 32);
    memcpy(art->tokenizer_tables_hash, t->tables_hash, 32);
    art->vocab = TA_VOCAB;
    uint32_t half = (uint32_t)g->n_params / 2;
    groups[0] = (bd_qgroup){.name = "first", .tensors = q, .n_tensors = half, .codec = BD_CODEC_RANGE};
    groups[1] = (bd_qgroup){
        .name = "second", .tensors = q + half, .n_tensors = (uint32_t)g->n_params - half, .codec = BD_CODEC_ZSTD};
    art->groups = groups;
    art->n_groups = 2;
    return art;
}

static inline void ta_build(const bd_artifact *art, bd_buf *out) {
    bd_err e = {0};
    bd_buf_init(out);
    CHECK_OK(bd_artifact_build(art, out, &e), &e);
}

#endif
