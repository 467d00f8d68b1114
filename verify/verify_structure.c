/* STRUCTURE: two decoders written apart must agree on the verdict and on every
 * byte, and what they decode must be a model. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/sha256.h"
#include "refdec/refdec.h"
#include "runtime/model.h"
#include "verify/verify_artifact.h"

static bool same_text(const char *a, uint64_t na, const char *b, uint64_t nb) { return na == nb && !memcmp(a, b, na); }

/* First disagreement between the two readings of one tensor, or NULL. */
static const char *compare_tensor(const bd_qtensor *t, const bd_refdec_tensor *r) {
    uint64_t n = (uint64_t)t->rows * t->cols;
    if (t->param != r->param || t->rows != r->rows || t->cols != r->cols || (int)t->method != (int)r->method ||
        t->bits != r->bits || t->group != r->group)
        return "header";
    uint64_t scales = t->method == BD_Q_ROW ? t->rows : t->method == BD_Q_TERNARY ? (n + t->group - 1) / t->group : 0;
    if (t->codes && (!r->codes || memcmp(t->codes, r->codes, n) != 0)) return "codes";
    if (t->scales && (!r->words || r->n_words != scales || memcmp(t->scales, r->words, scales * 2) != 0)) return "scales";
    if (t->f16 && (!r->words || memcmp(t->f16, r->words, n * 2) != 0)) return "binary16 values";
    if (t->f32 && (!r->f32 || memcmp(t->f32, r->f32, n * 4) != 0)) return "float32 values";
    return NULL;
}

/* The weights as both decoders see them must be the same bits. */
static const char *compare_weights(const bd_qtensor *t, const bd_refdec_tensor *r) {
    uint64_t n = (uint64_t)t->rows * t->cols;
    float *a = bd_alloc_aligned(n, sizeof *a), *b = bd_alloc_aligned(n, sizeof *b);
    const char *bad = a && b ? NULL : "weights (out of memory)";
    if (!bad) {
        bd_qtensor_dequant(t, a);
        bd_refdec_dequant(r, b);
        if (memcmp(a, b, n * sizeof *a) != 0) bad = "weights";
    }
    free(a);
    free(b);
    return bad;
}

static bool same_claim(const bd_claim *c, const bd_refdec_result *r) {
    if (c->present != (r->claim.present != 0)) return false;
    if (!c->present) return true;
    if (c->numerics != r->claim.numerics || c->n_shards != r->claim.shards || c->first_target != r->claim.first_target ||
        c->tokens != r->claim.tokens || c->bytes != r->claim.bytes || c->nll_q32 != r->claim.nll_q32)
        return false;
    for (uint32_t i = 0; i < c->n_shards; i++)
        if (memcmp(c->shard_sha256[i], r->claim.sha256[i], 32) != 0) return false;
    return true;
}

/* What the decoders disagree about, into `why`; false when they agree. */
static bool disagree(const bd_artifact *a, const bd_refdec_result *r, char *why, int size) {
    bd_buf proto;
    bd_buf_init(&proto);
    bool ok = bd_protocol_print(&a->protocol, &proto, NULL) == BD_OK &&
              same_text((const char *)proto.data, proto.size, r->protocol, r->protocol_size);
    bd_buf_free(&proto);
    const char *what = !ok ? "protocol"
                       : !same_text(a->graph_text, a->graph_size, r->model, r->model_size) ? "model text"
                       : !same_text(a->plan_text, a->plan_size, r->plan, r->plan_size)     ? "plan"
                       : memcmp(a->model_hash, r->model_hash, 32) != 0                     ? "model hash"
                       : memcmp(a->root_hash, r->root_hash, 32) != 0                       ? "root hash"
                       : memcmp(a->tokenizer_model_hash, r->tokenizer_hash, 32) != 0       ? "tokenizer hash"
                       : memcmp(a->tokenizer_tables_hash, r->tables_hash, 32) != 0         ? "tokenizer tables hash"
                       : a->vocab != r->vocab || a->numerics != r->numerics                ? "header"
                       : !same_claim(&a->claim, r)                                         ? "claim"
                       : a->n_groups != r->n_groups                                        ? "number of groups"
                                                                                           : NULL;
    if (what) {
        snprintf(why, (size_t)size, "the two decoders disagree about the %s", what);
        return true;
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        if (strcmp(a->groups[g].name, r->groups[g].name) != 0 || a->groups[g].n_tensors != r->groups[g].n_tensors) {
            snprintf(why, (size_t)size, "the two decoders disagree about group %" PRIu32, g);
            return true;
        }
        for (uint32_t i = 0; i < a->groups[g].n_tensors; i++) {
            what = compare_tensor(&a->groups[g].tensors[i], &r->groups[g].tensors[i]);
            if (!what) what = compare_weights(&a->groups[g].tensors[i], &r->groups[g].tensors[i]);
            if (!what) continue;
            snprintf(why, (size_t)size, "the two decoders disagree about the %s of tensor %" PRIu32 " of group %s", what, i,
                     a->groups[g].name);
            return true;
        }
    }
    return false;
}

/* Only a model when graph and tensors fit each other and the weights are finite. */
static bool is_model(const bd_artifact *a, bd_err *err, uint64_t *params) {
    bd_model *m = NULL;
    if (bd_model_from_artifact(&m, a, NULL, err)) return false;
    *params = m->graph->param_count;
    bd_model_close(m);
    return true;
}

static void fail(bd_verdict *v, const bd_err *err) {
    if (err->offset != BD_NO_OFFSET)
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, NULL, NULL, "%s (at byte %" PRIu64 ")", err->msg, err->offset);
    else
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, NULL, NULL, "%s", err->msg);
}

bd_artifact *bd_verify_structure(bd_verdict *v, const void *data, uint64_t size) {
    bd_err err = {0};
    bd_artifact *a = NULL;
    bd_refdec_result r;
    char why[256], root[65];
    uint64_t params = 0;
    bd_artifact_limits lim = bd_artifact_limits_default();
    bd_status st = bd_artifact_parse(&a, data, size, &lim, &err);
    int second = bd_refdec_decode(data, size, &r);
    if ((st == BD_OK) != (second == BD_REFDEC_OK)) {
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, NULL, NULL, "the first decoder says %s, the second %s", bd_status_name(st),
                       bd_status_name((bd_status)second));
    } else if (st) {
        fail(v, &err);
    } else if (disagree(a, &r, why, sizeof why)) {
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, NULL, NULL, "%s", why);
    } else if (!is_model(a, &err, &params)) {
        fail(v, &err);
    } else {
        bd_sha256_hex(a->root_hash, root);
        bd_verdict_add(v, "STRUCTURE", BD_PASS, NULL, NULL,
                       "two decoders agree on every byte; %" PRIu32 " sections, %" PRIu32 " weight groups, %" PRIu64
                       " parameters; root hash %s",
                       a->n_sections, a->n_groups, params, root);
        bd_refdec_free(&r);
        return a;
    }
    bd_refdec_free(&r);
    bd_artifact_close(a);
    return NULL;
}
