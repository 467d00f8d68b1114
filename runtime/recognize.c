/* Finding the graph that a checkpoint's tensors belong to. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "runtime/model.h"

/* ---- what infer lines ask ---- */

static int source_shape(void *user, const char *name, int64_t dim[4]) {
    const bd_ckpt *c = user;
    int i = bd_ckpt_find(c, name);
    if (i < 0) return -1;
    const bd_ckpt_tensor *t = &c->tensors[i];
    for (int d = 0; d < t->ndim && d < 4; d++) dim[d] = t->dim[d];
    return t->ndim;
}

static int64_t source_count(void *user, const char *pattern) {
    const bd_ckpt *c = user;
    int64_t n = 0;
    for (int i = 0; i < c->n; i++) n += bd_glob(pattern, c->tensors[i].name) != 0;
    return n;
}

/* ---- comparing a graph with the tensors ---- */

enum { FAULTS_NAMED = 4 }; /* of each kind; the rest is counted */

typedef struct faults {
    int missing, left_over, shape;
    bd_buf missing_text, left_over_text, shape_text;
} faults;

static void faults_free(faults *f) {
    bd_buf_free(&f->missing_text);
    bd_buf_free(&f->left_over_text);
    bd_buf_free(&f->shape_text);
}

static void put_shape(bd_buf *b, int ndim, const int64_t *dim) {
    bd_buf_printf(b, "[");
    for (int d = 0; d < ndim; d++) bd_buf_printf(b, "%s%" PRId64, d ? ", " : "", dim[d]);
    bd_buf_printf(b, "]");
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool shape_fits(const bd_param *p, const bd_ckpt_tensor *t) {
    if (p->ndim != t->ndim) return false;
    if (p->ndim == 1) return t->dim[0] == p->cols;
    return t->dim[0] == p->rows && t->dim[1] == p->cols;
}

static bd_status compare(const bd_graph *g, const bd_ckpt *c, faults *f, bd_err *err) {
    memset(f, 0, sizeof *f);
    bd_buf_init(&f->missing_text);
    bd_buf_init(&f->left_over_text);
    bd_buf_init(&f->shape_text);
    const char **names = malloc((size_t)(g->n_params ? g->n_params : 1) * sizeof *names);
    if (!names) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        names[i] = p->name;
        int at = bd_ckpt_find(c, p->name);
        if (at < 0) {
            if (f->missing++ < FAULTS_NAMED)
                bd_buf_printf(&f->missing_text, "%s%.80s", f->missing > 1 ? ", " : "", p->name);
            continue;
        }
        const bd_ckpt_tensor *t = &c->tensors[at];
        if (shape_fits(p, t)) continue;
        if (f->shape++ < FAULTS_NAMED) {
            int64_t want[2] = {p->ndim == 1 ? p->cols : p->rows, p->cols};
            bd_buf_printf(&f->shape_text, "%s%.80s is ", f->shape > 1 ? ", " : "", p->name);
            put_shape(&f->shape_text, t->ndim, t->dim);
            bd_buf_printf(&f->shape_text, " (the model wants ");
            put_shape(&f->shape_text, p->ndim, want);
            bd_buf_printf(&f->shape_text, ")");
        }
    }
    qsort(names, (size_t)g->n_params, sizeof *names, compare_names);
    for (int i = 0; i < c->n; i++) {
        const char *name = c->tensors[i].name;
        if (c->tensors[i].count == 0) continue;
        if (bsearch(&name, names, (size_t)g->n_params, sizeof *names, compare_names)) continue;
        if (f->left_over++ < FAULTS_NAMED)
            bd_buf_printf(&f->left_over_text, "%s%.80s", f->left_over > 1 ? ", " : "", name);
    }
    free(names);
    if (f->missing_text.failed || f->left_over_text.failed || f->shape_text.failed)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    return BD_OK;
}

static void put_kind(bd_buf *out, const char *kind, int n, const bd_buf *text, bool *first) {
    if (!n) return;
    bd_buf_printf(out, "%s%s: %.*s", *first ? "" : "; ", kind, (int)text->size, (const char *)text->data);
    if (n > FAULTS_NAMED) bd_buf_printf(out, " and %d more", n - FAULTS_NAMED);
    *first = false;
}

static void faults_print(const faults *f, bd_buf *out) {
    bool first = true;
    put_kind(out, "missing", f->missing, &f->missing_text, &first);
    put_kind(out, "wrong shape", f->shape, &f->shape_text, &first);
    put_kind(out, "left over", f->left_over, &f->left_over_text, &first);
}

static bd_status faults_code(const faults *f) {
    return f->missing ? BD_E_MISSING : f->shape ? BD_E_SHAPE : BD_E_UNKNOWN;
}

/* ---- candidates ---- */

static void copy_name(char name[64], const char *from) { snprintf(name, 64, "%s", from); }

/* A graph known by other means: it must consume the tensors. Takes g over. */
static bd_status accept_or_fail(bd_graph **out, bd_graph *g, const bd_ckpt *c, const char *what, bd_err *err) {
    faults f;
    bd_status st = compare(g, c, &f, err);
    if (st == BD_OK && (f.missing || f.left_over || f.shape)) {
        bd_buf text;
        bd_buf_init(&text);
        faults_print(&f, &text);
        st = BD_FAIL(err, faults_code(&f), "the checkpoint does not fit %s: %.*s", what, (int)text.size,
                     text.data ? (const char *)text.data : "");
        bd_buf_free(&text);
    }
    faults_free(&f);
    if (st != BD_OK) {
        bd_graph_destroy(g);
        return st;
    }
    *out = g;
    return BD_OK;
}

static bd_status from_file(bd_graph **out, char name[64], const bd_ckpt *c, const bd_model_opts *opts,
                           const bd_limits *lim, bd_err *err) {
    bd_shape_source src = {source_shape, source_count, (void *)(uintptr_t)c};
    bd_graph *g = NULL;
    char what[160];
    const bd_builtin_model *builtin = NULL;
    for (int i = 0; i < bd_n_builtin_models; i++)
        if (!strcmp(bd_builtin_models[i].name, opts->model_file)) builtin = &bd_builtin_models[i];
    if (builtin) {
        BD_TRY(bd_model_elaborate(&g, builtin->text, builtin->size, builtin->name, opts->settings, opts->n_settings,
                                  &src, lim, err));
        copy_name(name, builtin->name);
    } else {
        bd_map m;
        BD_TRY(bd_map_open(&m, opts->model_file, err));
        if (m.size > lim->text_bytes) {
            bd_status st = BD_FAIL(err, BD_E_LIMIT, "the model file has %" PRIu64 " bytes, the limit is %" PRIu64,
                                   m.size, lim->text_bytes);
            bd_err_file(err, opts->model_file);
            bd_map_close(&m);
            return st;
        }
        bd_status st = bd_model_elaborate(&g, (const char *)m.data, m.size, opts->model_file, opts->settings,
                                          opts->n_settings, &src, lim, err);
        bd_map_close(&m);
        if (st != BD_OK) return st;
        copy_name(name, g->name && *g->name ? g->name : "model");
    }
    snprintf(what, sizeof what, "model '%s'", name);
    return accept_or_fail(out, g, c, what, err);
}

/* An infer line failed, so there is no graph to compare with: say what there is instead. */
static void put_holdings(bd_buf *out, const bd_ckpt *c) {
    bd_buf_printf(out, "; it holds %d tensors", c->n);
    for (int i = 0; i < c->n && i < FAULTS_NAMED; i++)
        bd_buf_printf(out, "%s%.80s", i ? ", " : ": ", c->tensors[i].name);
    if (c->n > FAULTS_NAMED) bd_buf_printf(out, " and %d more", c->n - FAULTS_NAMED);
}

/* The one built-in model that fits. */
static bd_status try_builtins(bd_graph **out, char name[64], const bd_ckpt *c, const bd_setting *settings,
                              int n_settings, const bd_limits *lim, bd_err *err) {
    bd_shape_source src = {source_shape, source_count, (void *)(uintptr_t)c};
    bd_graph *best = NULL;
    bd_status code = BD_E_UNKNOWN, st = BD_OK;
    int accepted = 0;
    bd_buf why, who;
    bd_buf_init(&why);
    bd_buf_init(&who);
    for (int i = 0; i < bd_n_builtin_models && st == BD_OK; i++) {
        const bd_builtin_model *b = &bd_builtin_models[i];
        bd_graph *g = NULL;
        bd_err e = {0};
        const char *sep = why.size ? "; " : "";
        bd_status es = bd_model_elaborate(&g, b->text, b->size, b->name, settings, n_settings, &src, lim, &e);
        if (es == BD_E_NOMEM) {
            st = BD_FAIL(err, es, "%s", e.msg);
        } else if (es != BD_OK) {
            code = bd_n_builtin_models == 1 ? es : BD_E_UNKNOWN;
            bd_buf_printf(&why, "%s%s: %s", sep, b->name, e.msg);
            if (es == BD_E_MISSING) put_holdings(&why, c);
        } else {
            faults f;
            st = compare(g, c, &f, err);
            if (st == BD_OK && (f.missing || f.left_over || f.shape)) {
                if (bd_n_builtin_models == 1) code = faults_code(&f);
                bd_buf_printf(&why, "%s%s: ", sep, b->name);
                faults_print(&f, &why);
            } else if (st == BD_OK) {
                bd_buf_printf(&who, "%s%s", accepted ? ", " : "", b->name);
                if (!accepted++) {
                    best = g;
                    g = NULL;
                    copy_name(name, b->name);
                }
            }
            faults_free(&f);
            bd_graph_destroy(g);
        }
    }
    if (st == BD_OK && accepted > 1) {
        st = BD_FAIL(err, BD_E_UNKNOWN, "several models fit this checkpoint (%.*s): choose with --model",
                     (int)who.size, (const char *)who.data);
    } else if (st == BD_OK && accepted == 0) {
        st = BD_FAIL(err, code, "no known model fits this checkpoint (give --model FILE). %.*s", (int)why.size,
                     why.data ? (const char *)why.data : "");
    }
    bd_buf_free(&why);
    bd_buf_free(&who);
    if (st != BD_OK) {
        bd_graph_destroy(best);
        return st;
    }
    *out = best;
    return BD_OK;
}

static bool is_set(const bd_model_opts *opts, const char *name) {
    for (int i = 0; i < opts->n_settings; i++)
        if (!strcmp(opts->settings[i].name, name)) return true;
    return false;
}

bd_status bd_recognize(bd_graph **out, char name[64], const bd_ckpt *c, const bd_model_opts *opts,
                       const bd_limits *lim, bd_err *err) {
    static const bd_model_opts no_opts;
    *out = NULL;
    if (!opts) opts = &no_opts;
    if (opts->model_file) return from_file(out, name, c, opts, lim, err);

    const char *text = bd_ckpt_meta(c, BD_META_GRAPH);
    if (text && !opts->n_settings) {
        bd_graph *g = NULL;
        bd_status st = bd_graph_parse(&g, text, strlen(text), lim, err);
        if (st != BD_OK) {
            bd_err_prefix(err, "graph in the metadata: ");
            return st;
        }
        const char *known = bd_ckpt_meta(c, BD_META_MODEL);
        copy_name(name, known ? known : g->name && *g->name ? g->name : "model");
        return accept_or_fail(out, g, c, "the graph in its metadata", err);
    }

    bd_setting *merged = NULL;
    int n = 0;
    if (opts->n_defaults) {
        merged = calloc((size_t)opts->n_defaults + (size_t)opts->n_settings, sizeof *merged);
        if (!merged) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
        for (int i = 0; i < opts->n_defaults; i++)
            if (!is_set(opts, opts->defaults[i].name)) merged[n++] = opts->defaults[i];
        for (int i = 0; i < opts->n_settings; i++) merged[n++] = opts->settings[i];
    }
    bd_status st = merged ? try_builtins(out, name, c, merged, n, lim, err)
                          : try_builtins(out, name, c, opts->settings, opts->n_settings, lim, err);
    free(merged);
    return st;
}
