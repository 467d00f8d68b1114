/* Both decoders on the same bytes: NULL if they agree, else what differs. */
#ifndef BD_TESTS_TWO_DECODERS_H
#define BD_TESTS_TWO_DECODERS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/artifact.h"
#include "refdec/refdec.h"

static inline bool two_arrays(const void *x, const void *y, uint64_t bytes) {
    return x ? !y || memcmp(x, y, bytes) != 0 : y != NULL;
}

static inline const char *two_tensors(const bd_qtensor *x, const bd_refdec_tensor *y) {
    uint64_t n = (uint64_t)x->rows * x->cols;
    if (x->param != y->param || x->rows != y->rows || x->cols != y->cols || (unsigned)x->method != y->method ||
        x->bits != y->bits || x->group != y->group || x->states != y->states || x->kind != y->kind ||
        x->levels != y->levels || x->rank != y->rank)
        return "tensor header";
    if (two_arrays(x->codes, y->codes, n)) return "codes";
    if (two_arrays(x->index, y->index, 2 * n)) return "indices";
    if (two_arrays(x->row_exp, y->row_exp, 2 * (uint64_t)x->rows)) return "row exponents";
    if (two_arrays(x->col_exp, y->col_exp, 2 * (uint64_t)x->cols)) return "column exponents";
    if (two_arrays(x->lq_a, y->left, (uint64_t)x->rows * x->rank)) return "left factor";
    if (two_arrays(x->lq_b, y->right, (uint64_t)x->rank * x->cols)) return "right factor";
    const uint16_t *words = x->method == BD_Q_F16 ? x->f16 : x->scales;
    uint64_t first = x->lq_scales ? x->rows : y->n_words;
    if (y->n_words && memcmp(words, y->words, 2 * first) != 0) return "words";
    if (x->lq_scales && memcmp(x->lq_scales, y->words + first, 2 * (y->n_words - first)) != 0) return "scales";
    if (x->index && memcmp(&x->base, &y->base, 4) != 0) return "base";
    if (n > 65536) return NULL;
    float *a = malloc(n * 4), *b = malloc(n * 4);
    const char *bad = NULL;
    if (a && b) {
        bd_qtensor_dequant(x, a);
        bd_refdec_dequant(y, b);
        if (memcmp(a, b, n * 4) != 0) bad = "values";
    }
    free(a);
    free(b);
    return bad;
}

static inline const char *two_contents(const bd_artifact *a, const bd_refdec_result *r) {
    if (a->numerics != r->numerics || a->vocab != r->vocab || a->n_groups != r->n_groups) return "numbers";
    if (memcmp(a->root_hash, r->root_hash, 32) || memcmp(a->model_hash, r->model_hash, 32)) return "hashes";
    if (memcmp(a->tokenizer_model_hash, r->tokenizer_hash, 32) ||
        memcmp(a->tokenizer_tables_hash, r->tables_hash, 32))
        return "tokenizer";
    if (a->graph_size != r->model_size || memcmp(a->graph_text, r->model, a->graph_size)) return "model text";
    if (a->plan_size != r->plan_size || memcmp(a->plan_text, r->plan, a->plan_size)) return "plan text";
    bd_buf p;
    bd_buf_init(&p);
    bool same = bd_protocol_print(&a->protocol, &p, NULL) == BD_OK && p.size == r->protocol_size &&
                !memcmp(p.data, r->protocol, p.size);
    bd_buf_free(&p);
    if (!same) return "protocol text";
    const bd_claim *c = &a->claim;
    if (c->present != r->claim.present || c->numerics != r->claim.numerics || c->n_shards != r->claim.shards ||
        c->first_target != r->claim.first_target || c->tokens != r->claim.tokens || c->bytes != r->claim.bytes ||
        c->nll_q32 != r->claim.nll_q32 || memcmp(c->shard_sha256, r->claim.sha256, sizeof r->claim.sha256))
        return "claim";
    for (uint32_t g = 0; g < a->n_groups; g++) {
        if (strcmp(a->groups[g].name, r->groups[g].name) || (unsigned)a->groups[g].codec != r->groups[g].codec ||
            a->groups[g].n_tensors != r->groups[g].n_tensors)
            return "group";
        for (uint32_t t = 0; t < a->groups[g].n_tensors; t++) {
            const char *bad = two_tensors(&a->groups[g].tensors[t], &r->groups[g].tensors[t]);
            if (bad) return bad;
        }
    }
    return NULL;
}

/* *verdict: the common one. */
static inline const char *two_decoders(const void *data, uint64_t size, int *verdict) {
    static char text[1024];
    bd_artifact *a;
    bd_err e = {0};
    bd_refdec_result r;
    int st = bd_artifact_parse(&a, data, size, NULL, &e);
    int st2 = bd_refdec_decode(data, size, &r);
    const char *bad = NULL;
    *verdict = st;
    if (st != st2 || (st && e.offset != r.offset)) {
        snprintf(text, sizeof text, "reader: %s at %lld (%s); refdec: %s at %lld", bd_status_name((bd_status)st),
                 st ? (long long)e.offset : 0, st ? e.msg : "", bd_status_name((bd_status)st2),
                 (long long)r.offset);
        bad = text;
    } else if (st == BD_OK) {
        bad = two_contents(a, &r);
    }
    if (st == BD_OK) bd_artifact_close(a);
    bd_refdec_free(&r);
    return bad;
}

#endif
