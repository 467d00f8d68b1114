/* STRUCTURE: two decoders written apart must agree on the verdict and on every
 * byte, and what they decode must be a model. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/sha256.h"
#include "format/weight_group.h"
#include "refdec/refdec.h"
#include "runtime/model.h"
#include "verify/verify_artifact.h"

static bool same_text(const char *a, uint64_t na, const char *b, uint64_t nb) {
    return na == nb && !memcmp(a, b, na);
}

static bool differ(const void *a, const void *b, uint64_t bytes) { return a && (!b || memcmp(a, b, bytes) != 0); }

/* First disagreement between the two readings of one tensor, or NULL. */
static const char *compare_tensor(const bd_qtensor *t, const bd_refdec_tensor *r) {
    uint64_t n = (uint64_t)t->rows * t->cols;
    if (t->param != r->param || t->rows != r->rows || t->cols != r->cols || (int)t->method != (int)r->method ||
        t->bits != r->bits || t->group != r->group || t->states != r->states || t->kind != r->kind ||
        t->levels != r->levels || t->rank != r->rank)
        return "header";
    uint64_t scales = bd_qtensor_scales(t), own = bd_qtensor_lq_scales(t);
    if (differ(t->codes, r->codes, n)) return "codes";
    if (t->scales && (r->n_words != scales + own || differ(t->scales, r->words, scales * 2))) return "scales";
    if (t->lq_scales && differ(t->lq_scales, r->words + scales, own * 2)) return "correction's scales";
    if (differ(t->lq_a, r->left, (uint64_t)t->rows * t->rank)) return "left factor";
    if (differ(t->lq_b, r->right, (uint64_t)t->rank * t->cols)) return "right factor";
    if (differ(t->index, r->index, n * 2)) return "indices";
    if (differ(t->row_exp, r->row_exp, (uint64_t)t->rows * 2)) return "row exponents";
    if (differ(t->col_exp, r->col_exp, (uint64_t)t->cols * 2)) return "column exponents";
    if (t->index && bd_float_bits(t->base) != r->base) return "base";
    if (t->f16 && (!r->words || memcmp(t->f16, r->words, n * 2) != 0)) return "binary16 values";
    if (t->f32 && (!r->f32 || memcmp(t->f32, r->f32, n * 4) != 0)) return "float32 values";
    return NULL;
}

static const char no_memory[] = "out of memory";

/* The weights as both decoders see them must be the same bits. */
static const char *compare_weights(const bd_qtensor *t, const bd_refdec_tensor *r) {
    uint64_t n = (uint64_t)t->rows * t->cols;
    float *a = bd_alloc_aligned(n, sizeof *a), *b = bd_alloc_aligned(n, sizeof *b);
    const char *bad = a && b ? NULL : no_memory;
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
    if (c->numerics != r->claim.numerics || c->n_shards != r->claim.shards ||
        c->first_target != r->claim.first_target || c->tokens != r->claim.tokens || c->bytes != r->claim.bytes ||
        c->nll_q32 != r->claim.nll_q32)
        return false;
    for (uint32_t i = 0; i < c->n_shards; i++)
        if (memcmp(c->shard_sha256[i], r->claim.sha256[i], 32) != 0) return false;
    return true;
}

/* What the decoders disagree about, into `why`; "" when they agree. */
static bd_status compare(const bd_artifact *a, const bd_refdec_result *r, char *why, int size, bd_err *err) {
    why[0] = 0;
    bd_buf proto;
    bd_buf_init(&proto);
    bd_status st = bd_protocol_print(&a->protocol, &proto, err);
    if (!st) st = bd_buf_check(&proto, err);
    bool ok = !st && same_text((const char *)proto.data, proto.size, r->protocol, r->protocol_size);
    bd_buf_free(&proto);
    if (st) return st;
    const char *what = !ok                                                                 ? "protocol"
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
        return BD_OK;
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        if (strcmp(a->groups[g].name, r->groups[g].name) != 0 || a->groups[g].n_tensors != r->groups[g].n_tensors) {
            snprintf(why, (size_t)size, "the two decoders disagree about group %" PRIu32, g);
            return BD_OK;
        }
        for (uint32_t i = 0; i < a->groups[g].n_tensors; i++) {
            what = compare_tensor(&a->groups[g].tensors[i], &r->groups[g].tensors[i]);
            if (!what) what = compare_weights(&a->groups[g].tensors[i], &r->groups[g].tensors[i]);
            if (!what) continue;
            if (what == no_memory)
                return BD_FAIL(err, BD_E_NOMEM, "no memory to compare the two decoders' weights");
            snprintf(why, (size_t)size, "the two decoders disagree about the %s of tensor %" PRIu32 " of group %s",
                     what, i, a->groups[g].name);
            return BD_OK;
        }
    }
    return BD_OK;
}

/* `where`: what offsets count in. */
static void fail(bd_verdict *v, const bd_err *err, const char *where, int second) {
    char place[64] = "", other[64] = "";
    if (err->offset != BD_NO_OFFSET) snprintf(place, sizeof place, " (at byte %" PRIu64 "%s)", err->offset, where);
    if (second != (int)err->code)
        snprintf(other, sizeof other, "; the second decoder says %s", bd_status_name((bd_status)second));
    bd_verdict_add(v, "STRUCTURE", BD_FAILED, bd_status_name(err->code), NULL, "%s%s%s", err->msg, place, other);
}

/* Out of memory says nothing about the file. */
static bool environment(bd_status st) { return st == BD_E_NOMEM || st == BD_E_IO; }

static bd_status judge(bd_verdict *v, const bd_artifact *a, bd_status first, const bd_refdec_result *r,
                       bd_err *err) {
    char why[256], root[65];
    /* The second decoder runs no external programs; where they are allowed, the first one stands alone. */
    bool alone = first == BD_OK && r->error == BD_REFDEC_REFUSED;
    if (!alone && (first == BD_OK) != (r->error == BD_REFDEC_OK)) {
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, bd_status_name(first ? first : (bd_status)r->error), NULL,
                       "the first decoder says %s, the second %s", bd_status_name(first),
                       bd_status_name((bd_status)r->error));
        return BD_OK;
    }
    if (first) {
        fail(v, err, "", r->error);
        return BD_OK;
    }
    why[0] = 0;
    if (!alone) BD_TRY(compare(a, r, why, sizeof why, err));
    if (why[0]) {
        bd_verdict_add(v, "STRUCTURE", BD_FAILED, NULL, NULL, "%s", why);
        return BD_OK;
    }
    /* Only a model when graph and tensors fit each other and the weights are finite. */
    bd_model *m = NULL;
    bd_status st = bd_model_from_artifact(&m, a, NULL, err);
    if (environment(st)) return st;
    if (st) {
        fail(v, err, " of the model text", (int)st);
        return BD_OK;
    }
    bd_sha256_hex(a->root_hash, root);
    bd_verdict_add(v, "STRUCTURE", alone ? BD_WARN : BD_PASS, NULL, NULL,
                   "%s; %" PRIu32 " sections, %" PRIu32 " weight groups, %" PRIu64 " parameters; root hash %s",
                   alone ? "read by one decoder only: a section needs an external program"
                         : "two decoders agree on every byte",
                   a->n_sections, a->n_groups, m->graph->param_count, root);
    bd_model_close(m);
    return BD_OK;
}

bd_status bd_verify_structure(bd_artifact **out, bd_verdict *v, const void *data, uint64_t size,
                              bool allow_external, bd_err *err) {
    bd_err own = {0};
    bd_artifact *a = NULL;
    bd_refdec_result r;
    bd_artifact_limits lim = bd_artifact_limits_default();
    lim.allow_external = allow_external;
    *out = NULL;
    if (!err) err = &own;
    bd_status st = bd_artifact_parse(&a, data, size, &lim, err), first = st;
    if (environment(first) || first == BD_E_MISSING) return first; /* missing: an external program */
    if (bd_refdec_decode(data, size, &r) == BD_REFDEC_NOMEM)
        st = BD_FAIL(err, BD_E_NOMEM, "no memory for the second decoder");
    else st = judge(v, a, first, &r, err);
    bd_refdec_free(&r);
    if (!st && v->checks[v->n - 1].outcome != BD_FAILED) *out = a;
    else bd_artifact_close(a);
    return st;
}
