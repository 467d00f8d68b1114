/* Statistics files: calibration results kept as safetensors. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "compiler/calibrate.h"
#include "compiler/compile_impl.h"
#include "format/checkpoint.h"

#define STATISTICS_VERSION "1"

/* Names are copied by the writer; the arrays are borrowed until finish. */
static bd_status put_array(bd_st_writer *w, const char *kind, int index, const double *data, int ndim,
                           const int64_t *dim, bd_err *err) {
    char name[32];
    snprintf(name, sizeof name, "%s.%d", kind, index);
    return bd_st_tensor(w, name, BD_CK_F64, ndim, dim, data, err);
}

bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err) {
    bd_st_writer *w = NULL;
    char model[65], tokens[65], count[32];
    bd_sha256_hex(c->tokens_hash, tokens);
    bd_sha256_hex(m->model_hash, model);
    snprintf(count, sizeof count, "%" PRIu64, c->tokens);
    BD_TRY(bd_st_create(&w, path, err));
    bd_status st = BD_OK;
    BD_TRY_DONE(bd_st_meta(w, "birdie_statistics", STATISTICS_VERSION, err));
    BD_TRY_DONE(bd_st_meta(w, "model_sha256", model, err));
    BD_TRY_DONE(bd_st_meta(w, "tokens_sha256", tokens, err));
    BD_TRY_DONE(bd_st_meta(w, "tokens", count, err));
    for (int i = 0; i < c->n_moments; i++) {
        int64_t dim[2] = {c->moments[i].n, c->moments[i].n};
        BD_TRY_DONE(put_array(w, "hessian", i, c->moments[i].h, 2, dim, err));
    }
    for (int i = 0; i < c->n_uses; i++)
        BD_TRY_DONE(put_array(w, "rows", i, c->uses[i].rows, 1, &m->graph->params[c->uses[i].param].rows, err));
    st = bd_st_finish(w, err);
    w = NULL;
done:
    if (w) bd_st_abort(w);
    return st;
}

static const char *meta(const bd_ckpt *f, const char *key) {
    const char *value = bd_ckpt_meta(f, key);
    return value ? value : "";
}

/* Finite values; where `positive`, none below zero (sums of squares). */
static bd_status get_array(double *out, const bd_ckpt *f, const char *kind, int index, uint64_t n, bool positive,
                           bd_err *err) {
    char name[32];
    snprintf(name, sizeof name, "%s.%d", kind, index);
    int t = bd_ckpt_find(f, name);
    uint64_t bytes = 0;
    const void *raw = t < 0 ? NULL : bd_ckpt_raw(f, t, &bytes);
    if (!raw || f->tensors[t].dtype != BD_CK_F64 || bytes != n * sizeof(double))
        return BD_FAIL(err, BD_E_SHAPE, "the statistics lack %s with %" PRIu64 " doubles", name, n);
    memcpy(out, raw, bytes);
    for (uint64_t k = 0; k < n; k++) {
        if (!isfinite(out[k])) return BD_FAIL(err, BD_E_NONFINITE, "%s[%" PRIu64 "] is not finite", name, k);
        if (positive && out[k] < 0) return BD_FAIL(err, BD_E_RANGE, "%s[%" PRIu64 "] is negative", name, k);
    }
    return BD_OK;
}

static bd_status get_hash(uint8_t out[32], const char *hex, const char *what, bd_err *err) {
    static const char digits[] = "0123456789abcdef";
    bool fine = strlen(hex) == 64 && strspn(hex, digits) == 64;
    for (int i = 0; fine && i < 32; i++)
        out[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 | (strchr(digits, hex[2 * i + 1]) - digits));
    return fine ? BD_OK : BD_FAIL(err, BD_E_FIELD, "the statistics' %s is not a hash", what);
}

static bd_status read_statistics(bd_calibration *c, const bd_ckpt *f, const bd_model *m, bd_err *err) {
    char model[65];
    bd_sha256_hex(m->model_hash, model);
    if (strcmp(meta(f, "birdie_statistics"), STATISTICS_VERSION) != 0)
        return BD_FAIL(err, BD_E_MAGIC,
                       "not a statistics file (its metadata lacks birdie_statistics " STATISTICS_VERSION ")");
    if (strcmp(meta(f, "model_sha256"), model) != 0)
        return BD_FAIL(err, BD_E_CHECKSUM,
                       "the statistics belong to another model; delete the file to collect them anew");
    BD_TRY(get_hash(c->tokens_hash, meta(f, "tokens_sha256"), "tokens_sha256", err));
    const char *count = meta(f, "tokens");
    char *end;
    c->tokens = strtoull(count, &end, 10);
    if (*count < '1' || *count > '9' || *end || strlen(count) > 18)
        return BD_FAIL(err, BD_E_FIELD, "the statistics' number of tokens is \"%.32s\"", count);
    BD_TRY(bd_calibration_layout(c, m->graph, err));
    for (int i = 0; i < c->n_moments; i++) {
        uint64_t n = (uint64_t)c->moments[i].n;
        BD_TRY(get_array(c->moments[i].h, f, "hessian", i, n * n, false, err));
    }
    for (int i = 0; i < c->n_uses; i++)
        BD_TRY(
            get_array(c->uses[i].rows, f, "rows", i, (uint64_t)m->graph->params[c->uses[i].param].rows, true, err));
    return BD_OK;
}

bd_status bd_calibration_load(bd_calibration **out, const bd_model *m, const char *path, bd_err *err) {
    *out = NULL;
    bd_ckpt *f = NULL;
    bd_calibration *c = calloc(1, sizeof *c);
    bd_status st = c ? bd_ckpt_open(&f, path, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    if (!st) st = read_statistics(c, f, m, err);
    bd_ckpt_close(f);
    if (st) {
        bd_calibration_destroy(c);
        bd_err_file(err, path);
    } else {
        *out = c;
    }
    return st;
}
