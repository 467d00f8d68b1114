/* Opening models: checkpoints, directories written by train, artifacts. */
#include "runtime/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/numerics.h"
#include "base/sha256.h"

void bd_model_close(bd_model *m) {
    if (!m) return;
    bd_graph_destroy(m->graph);
    free(m->params);
    free(m);
}

static bd_status check_finite(const bd_graph *g, const float *params, bd_err *err) {
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        const float *x = params + p->offset;
        for (int64_t k = 0; k < p->rows * p->cols; k++)
            if (!isfinite(x[k]))
                return BD_FAIL(err, BD_E_NONFINITE, "tensor %s: the value at index %" PRId64 " is %s", p->name, k,
                               isnan(x[k]) ? "NaN" : "infinite");
    }
    return BD_OK;
}

static bd_status hash_model(bd_model *m, bd_err *err) {
    bd_buf text;
    bd_buf_init(&text);
    bd_status st = bd_graph_print(m->graph, &text, err);
    if (st == BD_OK) st = bd_buf_check(&text, err);
    if (st == BD_OK) {
        bd_sha256 h;
        bd_sha256_init(&h);
        bd_sha256_add(&h, text.data, text.size);
        for (int i = 0; i < m->graph->n_params; i++) {
            const bd_param *p = &m->graph->params[i];
            bd_sha256_add(&h, m->params + p->offset, (size_t)(p->rows * p->cols) * sizeof(float));
        }
        bd_sha256_end(&h, m->model_hash);
    }
    bd_buf_free(&text);
    return st;
}

bd_status bd_model_create(bd_model **out, bd_graph *graph, float *params, const char *name, bd_err *err) {
    *out = NULL;
    bd_status st = check_finite(graph, params, err);
    bd_model *m = st == BD_OK ? calloc(1, sizeof *m) : NULL;
    if (!m) {
        bd_graph_destroy(graph);
        free(params);
        return st != BD_OK ? st : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    m->graph = graph;
    m->params = params;
    snprintf(m->model_name, sizeof m->model_name, "%s", name);
    st = hash_model(m, err);
    if (st != BD_OK) {
        bd_model_close(m);
        return st;
    }
    *out = m;
    return BD_OK;
}

static bd_status alloc_params(float **out, const bd_graph *g, const bd_model_opts *opts, bd_err *err) {
    uint64_t bytes = g->param_floats * sizeof(float);
    if (opts && opts->max_memory && bytes > opts->max_memory)
        return BD_FAIL(err, BD_E_LIMIT, "the weights need %" PRIu64 " bytes, the memory limit is %" PRIu64, bytes,
                       opts->max_memory);
    *out = bd_alloc_aligned(g->param_floats ? g->param_floats : 1, sizeof(float));
    return *out ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "no memory for %" PRIu64 " bytes of weights", bytes);
}

bd_status bd_model_from_checkpoint(bd_model **out, const bd_ckpt *c, const bd_model_opts *opts, bd_err *err) {
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL;
    float *params = NULL;
    char name[64] = "";
    *out = NULL;
    bd_status st = BD_OK;
    BD_TRY_DONE(bd_recognize(&g, name, c, opts, &lim, err));
    BD_TRY_DONE(alloc_params(&params, g, opts, err));
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        int at = bd_ckpt_find(c, p->name);
        BD_ASSERT(at >= 0 && c->tensors[at].count == p->rows * p->cols);
        st = bd_ckpt_read_f32(c, at, params + p->offset, err);
        if (st != BD_OK) {
            bd_err_prefix(err, "tensor %s: ", p->name);
            goto done;
        }
    }
    return bd_model_create(out, g, params, name, err);
done:
    bd_graph_destroy(g);
    free(params);
    return st;
}

/* Every parameter exactly once, with its shape: asked before memory is taken for what the graph declares. */
static bd_status check_groups(const bd_graph *g, const bd_artifact *a, uint8_t *seen, bd_err *err) {
    for (uint32_t i = 0; i < a->n_groups; i++) {
        const bd_qgroup *q = &a->groups[i];
        for (uint32_t k = 0; k < q->n_tensors; k++) {
            const bd_qtensor *t = &q->tensors[k];
            if (t->param >= (uint32_t)g->n_params)
                return BD_FAIL(err, BD_E_RANGE, "group %s holds parameter %" PRIu32 ", the graph has %d", q->name,
                               t->param, g->n_params);
            const bd_param *p = &g->params[t->param];
            if (seen[t->param])
                return BD_FAIL(err, BD_E_NONCANON, "group %s holds %s a second time", q->name, p->name);
            if ((int64_t)t->rows != p->rows || (int64_t)t->cols != p->cols)
                return BD_FAIL(err, BD_E_SHAPE,
                               "group %s holds %s as %" PRIu32 " x %" PRIu32 ", the graph wants %" PRId64
                               " x %" PRId64,
                               q->name, p->name, t->rows, t->cols, p->rows, p->cols);
            seen[t->param] = 1;
        }
    }
    int missing = 0, first = -1;
    for (int i = 0; i < g->n_params; i++)
        if (!seen[i] && !missing++) first = i;
    if (missing)
        return BD_FAIL(err, BD_E_MISSING, "no weight group holds %s%s", g->params[first].name,
                       missing > 1 ? ", and others are missing too" : "");
    return BD_OK;
}

bd_status bd_model_from_artifact(bd_model **out, const bd_artifact *a, const bd_model_opts *opts, bd_err *err) {
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL;
    float *params = NULL;
    uint8_t *seen = NULL;
    *out = NULL;
    bd_status st = BD_OK;
    if (opts && (opts->model_file || opts->n_settings))
        return BD_FAIL(err, BD_E_USAGE, "an artifact carries its graph: --model and --set do not apply");
    if (a->numerics != BD_NUMERICS_VERSION)
        return BD_FAIL(err, BD_E_VERSION,
                       "the artifact was made for numerics version %" PRIu32 ", this program has %u", a->numerics,
                       BD_NUMERICS_VERSION);
    st = bd_graph_parse(&g, a->graph_text, a->graph_size, &lim, err);
    if (st != BD_OK) {
        bd_err_prefix(err, "graph: ");
        goto done;
    }
    if ((uint32_t)g->vocab != a->vocab) {
        st = BD_FAIL(err, BD_E_FIELD, "the graph's vocabulary is %d, the tokenizer section says %" PRIu32, g->vocab,
                     a->vocab);
        goto done;
    }
    seen = calloc((size_t)g->n_params + 1, 1);
    if (!seen) {
        st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        goto done;
    }
    BD_TRY_DONE(check_groups(g, a, seen, err));
    BD_TRY_DONE(alloc_params(&params, g, opts, err));
    for (uint32_t i = 0; i < a->n_groups; i++)
        for (uint32_t k = 0; k < a->groups[i].n_tensors; k++)
            bd_qtensor_dequant(&a->groups[i].tensors[k], params + g->params[a->groups[i].tensors[k].param].offset);
    free(seen);
    char name[64];
    snprintf(name, sizeof name, "%s", g->name && *g->name ? g->name : "artifact");
    BD_TRY(bd_model_create(out, g, params, name, err));
    bd_model *m = *out;
    m->source = BD_SOURCE_ARTIFACT;
    m->has_protocol = true;
    m->protocol = a->protocol;
    memcpy(m->model_hash, a->model_hash, 32);
    memcpy(m->tokenizer_hash, a->tokenizer_tables_hash, 32);
    /* All zero: compiled without a tokenizer, so any will do. */
    for (int i = 0; i < 32; i++) m->has_tokenizer_hash |= m->tokenizer_hash[i] != 0;
    return BD_OK;
done:
    free(seen);
    bd_graph_destroy(g);
    free(params);
    return st;
}

static bd_status open_file(bd_model **out, const char *path, const bd_model_opts *opts, bd_err *err) {
    bd_map map;
    BD_TRY(bd_map_open(&map, path, err));
    bd_status st;
    if (bd_artifact_is(map.data, map.size)) {
        bd_artifact *a = NULL;
        bd_artifact_limits lim = bd_artifact_limits_default();
        lim.allow_external = opts && opts->allow_external;
        if (opts && opts->max_memory && lim.decoded_bytes > opts->max_memory) lim.decoded_bytes = opts->max_memory;
        st = bd_artifact_parse(&a, map.data, map.size, &lim, err);
        if (st == BD_OK) {
            st = bd_model_from_artifact(out, a, opts, err);
            bd_artifact_close(a);
        }
        bd_map_close(&map);
    } else {
        bd_map_close(&map);
        bd_ckpt *c = NULL;
        st = bd_ckpt_open(&c, path, err);
        if (st == BD_OK) {
            st = bd_model_from_checkpoint(out, c, opts, err);
            bd_ckpt_close(c);
        }
    }
    if (st != BD_OK) bd_err_file(err, path);
    return st;
}

bd_status bd_model_open(bd_model **out, const char *path, const bd_model_opts *opts, bd_err *err) {
    *out = NULL;
    if (!bd_path_is_dir(path)) return open_file(out, path, opts, err);
    char inside[1024];
    int n = snprintf(inside, sizeof inside, "%s/model.safetensors", path);
    if (n < 0 || (size_t)n >= sizeof inside) return BD_FAIL(err, BD_E_USAGE, "the path is too long");
    FILE *f = fopen(inside, "rb");
    if (!f) {
        bd_status st =
            BD_FAIL(err, BD_E_MISSING, "the directory has no readable model.safetensors (train writes one)");
        bd_err_file(err, path);
        return st;
    }
    fclose(f);
    return open_file(out, inside, opts, err);
}
