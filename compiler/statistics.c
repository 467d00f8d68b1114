/* Statistics files: calibration results kept as safetensors. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sha256.h"
#include "compiler/calibrate.h"
#include "compiler/compile_impl.h"
#include "format/checkpoint.h"

/* Metadata: birdie_statistics (version), model_sha256, tokens_sha256, tokens, weights (gradient or none), shards
 * (hashes, one space between them), sha256: of these four, a newline after each, and all arrays in the order in
 * which they are written. */
#define STATISTICS_VERSION "3"

enum { MAX_SHARDS = 1024 };

/* An array of the file; both directions go through one list of them. */
typedef struct array {
    char name[32];
    double *data;
    int ndim;
    int64_t dim[2];
    uint64_t n;
    bool moment;     /* square */
    const char *use; /* for messages: the parameter, or "" */
} array;

/* hessian.N, rows.N, coupled.N, elements.N: of moments, uses, uses again and parameters, in this order. */
static array *list_arrays(const bd_calibration *c, const bd_graph *g, int *count) {
    array *list = calloc((size_t)c->n_moments + 2 * (size_t)c->n_uses + (size_t)c->n_params + 1, sizeof *list);
    int n = 0;
    for (int i = 0; list && i < c->n_moments; i++, n++) {
        int64_t k = c->moments[i].n;
        list[n] = (array){"", c->moments[i].h, 2, {k, k}, (uint64_t)k * (uint64_t)k, true, ""};
        snprintf(list[n].name, sizeof list[n].name, "hessian.%d", i);
    }
    for (int i = 0; list && i < c->n_uses; i++, n++) {
        const bd_param *p = &g->params[c->uses[i].param];
        list[n] = (array){"", c->uses[i].rows, 1, {p->rows, 0}, (uint64_t)p->rows, false, p->name};
        snprintf(list[n].name, sizeof list[n].name, "rows.%d", i);
    }
    for (int i = 0; list && i < c->n_uses; i++) {
        const bd_param *p = &g->params[c->uses[i].param];
        if (!c->uses[i].coupled) continue;
        uint64_t k = (uint64_t)p->rows * (uint64_t)p->rows;
        list[n] = (array){"", c->uses[i].coupled, 2, {p->rows, p->rows}, k, true, p->name};
        snprintf(list[n].name, sizeof list[n].name, "coupled.%d", i);
        n++;
    }
    for (int i = 0; list && i < c->n_params; i++) {
        const bd_param *p = &g->params[i];
        if (!c->elements[i]) continue;
        uint64_t k = (uint64_t)p->rows * (uint64_t)p->cols;
        list[n] = (array){"", c->elements[i], 2, {p->rows, p->cols}, k, false, p->name};
        snprintf(list[n].name, sizeof list[n].name, "elements.%d", i);
        n++;
    }
    *count = n;
    return list;
}

enum { META = 4 };
static const char *const meta_keys[META] = {"tokens_sha256", "tokens", "weights", "shards"};

static void hash_all(const char *const values[META], const array *list, int n, char hex[65]) {
    bd_sha256 s;
    uint8_t hash[32];
    bd_sha256_init(&s);
    for (int i = 0; i < META; i++) {
        bd_sha256_add(&s, values[i], strlen(values[i]));
        bd_sha256_add(&s, "\n", 1);
    }
    for (int i = 0; i < n; i++) bd_sha256_add(&s, list[i].data, (size_t)list[i].n * sizeof(double));
    bd_sha256_end(&s, hash);
    bd_sha256_hex(hash, hex);
}

/* --- writing --- */

static bd_status put_meta(bd_st_writer *w, const bd_calibration *c, const bd_model *m, const array *list, int n,
                          const char *shards, bd_err *err) {
    char hex[65], tokens[65], count[32];
    bd_sha256_hex(c->tokens_hash, tokens);
    snprintf(count, sizeof count, "%" PRIu64, c->tokens);
    const char *values[META] = {tokens, count, c->unweighted ? "none" : "gradient", shards};
    BD_TRY(bd_st_meta(w, "birdie_statistics", STATISTICS_VERSION, err));
    bd_sha256_hex(m->model_hash, hex);
    BD_TRY(bd_st_meta(w, "model_sha256", hex, err));
    for (int i = 0; i < META; i++) BD_TRY(bd_st_meta(w, meta_keys[i], values[i], err));
    hash_all(values, list, n, hex);
    return bd_st_meta(w, "sha256", hex, err);
}

static bd_status put_shards(bd_buf *text, const bd_calibration *c, bd_err *err) {
    char hex[65];
    for (int i = 0; i < c->n_shards; i++) {
        bd_sha256_hex(c->shards[i], hex);
        bd_buf_printf(text, "%s%s", i ? " " : "", hex);
    }
    bd_buf_u8(text, 0);
    return bd_buf_check(text, err);
}

bd_status bd_calibration_save(const bd_calibration *c, const bd_model *m, const char *path, bd_err *err) {
    bd_st_writer *w = NULL;
    int n = 0;
    array *list = list_arrays(c, m->graph, &n);
    bd_buf shards;
    bd_buf_init(&shards);
    bd_status st = list ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    if (!st) st = put_shards(&shards, c, err);
    if (!st) st = bd_st_create(&w, path, err);
    if (!st) st = put_meta(w, c, m, list, n, (const char *)shards.data, err);
    for (int i = 0; !st && i < n; i++)
        st = bd_st_tensor(w, list[i].name, BD_CK_F64, list[i].ndim, list[i].dim, list[i].data, err);
    if (!st) {
        st = bd_st_finish(w, err);
        w = NULL;
    }
    if (w) bd_st_abort(w);
    bd_buf_free(&shards);
    free(list);
    return st;
}

/* --- reading --- */

static const char *meta(const bd_ckpt *f, const char *key) {
    const char *value = bd_ckpt_meta(f, key);
    return value ? value : "";
}

/* A second moment: symmetric but for rounding, and no entry above what its diagonal allows. */
static bd_status check_moment(const array *a, bd_err *err) {
    int64_t n = a->dim[0];
    for (int64_t i = 0; i < n; i++) {
        double d = a->data[i * n + i];
        if (d < 0)
            return BD_FAIL(err, BD_E_RANGE, "%s[%" PRId64 ", %" PRId64 "] is negative: no second moment", a->name,
                           i, i);
        for (int64_t k = 0; k < i; k++) {
            double h = a->data[i * n + k], t = a->data[k * n + i], most = sqrt(d) * sqrt(a->data[k * n + k]);
            if (fabs(h - t) > 1e-6 * most || fabs(h) > (1 + 1e-6) * most)
                return BD_FAIL(err, BD_E_RANGE, "%s[%" PRId64 ", %" PRId64 "] is no second moment's", a->name, i,
                               k);
        }
    }
    return BD_OK;
}

static bd_status get_array(const array *a, const bd_ckpt *f, bd_err *err) {
    const char *of = *a->use ? " of " : "";
    int t = bd_ckpt_find(f, a->name);
    if (t < 0)
        return BD_FAIL(err, BD_E_MISSING, "the statistics lack %s%s%s; delete the file to collect them anew",
                       a->name, of, a->use);
    const bd_ckpt_tensor *x = &f->tensors[t];
    bool fine = x->dtype == BD_CK_F64 && x->ndim == a->ndim;
    for (int d = 0; fine && d < a->ndim; d++) fine = x->dim[d] == a->dim[d];
    uint64_t bytes = 0;
    const void *raw = fine ? bd_ckpt_raw(f, t, &bytes) : NULL;
    if (!raw || bytes != a->n * sizeof(double))
        return BD_FAIL(err, BD_E_SHAPE, "%s%s%s in the statistics is not of %" PRIu64 " doubles in the right shape",
                       a->name, of, a->use, a->n);
    memcpy(a->data, raw, bytes);
    for (uint64_t k = 0; k < a->n; k++) {
        if (!isfinite(a->data[k]))
            return BD_FAIL(err, BD_E_NONFINITE, "%s[%" PRIu64 "]%s%s is not finite", a->name, k, of, a->use);
        if (!a->moment && a->data[k] < 0)
            return BD_FAIL(err, BD_E_RANGE, "%s[%" PRIu64 "]%s%s is negative: no sum of squares", a->name, k, of,
                           a->use);
    }
    return a->moment ? check_moment(a, err) : BD_OK;
}

static bool read_hash(uint8_t out[32], const char *hex) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 64; i++)
        if (!hex[i] || !strchr(digits, hex[i])) return false;
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 | (strchr(digits, hex[2 * i + 1]) - digits));
    return true;
}

static bd_status read_shards(bd_calibration *c, const char *text, bd_err *err) {
    size_t length = strlen(text), n = (length + 1) / 65;
    if (length && (length + 1) % 65 != 0) n = MAX_SHARDS + 1;
    c->shards = calloc(n <= MAX_SHARDS ? n + 1 : 1, sizeof *c->shards);
    if (!c->shards) return BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    bool fine = n <= MAX_SHARDS;
    for (size_t i = 0; fine && i < n; i++, text += 65)
        fine = read_hash(c->shards[i], text) && text[64] == (i + 1 < n ? ' ' : 0);
    c->n_shards = fine ? (int)n : 0;
    return fine ? BD_OK : BD_FAIL(err, BD_E_FIELD, "the statistics' list of shards is damaged");
}

static bd_status read_meta(bd_calibration *c, const bd_ckpt *f, const bd_model *m, bd_err *err) {
    char model[65];
    const char *version = meta(f, "birdie_statistics"), *count = meta(f, "tokens"), *weights = meta(f, "weights");
    if (!*version) return BD_FAIL(err, BD_E_MAGIC, "not a statistics file (its metadata lacks birdie_statistics)");
    if (strcmp(version, STATISTICS_VERSION) != 0)
        return BD_FAIL(err, BD_E_VERSION,
                       "the statistics are of version %.16s, this program reads " STATISTICS_VERSION
                       "; delete the file to collect them anew",
                       version);
    bd_sha256_hex(m->model_hash, model);
    if (strcmp(meta(f, "model_sha256"), model) != 0)
        return BD_FAIL(err, BD_E_CHECKSUM,
                       "the statistics belong to another model; delete the file to collect them anew");
    if (strlen(meta(f, "tokens_sha256")) != 64 || !read_hash(c->tokens_hash, meta(f, "tokens_sha256")))
        return BD_FAIL(err, BD_E_FIELD, "the statistics' tokens_sha256 is not a hash");
    char *end;
    c->tokens = strtoull(count, &end, 10);
    if (*count < '1' || *count > '9' || *end || strlen(count) > 18)
        return BD_FAIL(err, BD_E_FIELD, "the statistics' number of tokens is \"%.32s\"", count);
    c->unweighted = !strcmp(weights, "none");
    if (!c->unweighted && strcmp(weights, "gradient") != 0)
        return BD_FAIL(err, BD_E_FIELD, "the statistics' weights are \"%.32s\": neither gradient nor none",
                       weights);
    return read_shards(c, meta(f, "shards"), err);
}

static bd_status read_statistics(bd_calibration *c, const bd_ckpt *f, const bd_model *m, bd_err *err) {
    BD_TRY(read_meta(c, f, m, err));
    BD_TRY(bd_calibration_layout(c, m->graph, err));
    int n = 0;
    array *list = list_arrays(c, m->graph, &n);
    bd_status st = list ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory for the statistics");
    for (int i = 0; !st && i < n; i++) st = get_array(&list[i], f, err);
    if (!st && f->n != n)
        st = BD_FAIL(err, BD_E_SHAPE, "the statistics hold %d arrays, this model has %d", f->n, n);
    const char *values[META];
    for (int i = 0; i < META; i++) values[i] = meta(f, meta_keys[i]);
    char hex[65];
    if (!st) hash_all(values, list, n, hex);
    if (!st && strcmp(hex, meta(f, "sha256")) != 0)
        st = BD_FAIL(err, BD_E_CHECKSUM, "the statistics are damaged: they do not have the hash they state");
    free(list);
    return st;
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
