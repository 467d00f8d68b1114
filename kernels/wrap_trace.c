/* Trace: one line for each call, with its time and a hash of its outputs. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/thread.h"
#include "kernels/wrap.h"

enum { CHUNK = 1 << 16 };

typedef struct trace {
    bd_wrap w;
    FILE *f;
    int64_t calls;
    unsigned char chunk[CHUNK];
} trace;

/* 64-bit FNV-1a over the bytes of all outputs, in order. */
static bd_status hash_outputs(trace *t, const bd_call *c, uint64_t *out, bd_err *err) {
    bd_backend *be = t->w.inner[0];
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < bd_op_get(c->op)->nout; i++) {
        const bd_view *v = &c->out[i];
        const uint64_t bytes = (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype));
        for (uint64_t at = 0; at < bytes; at += CHUNK) {
            const uint64_t n = bytes - at < CHUNK ? bytes - at : CHUNK;
            BD_TRY(be->vt->download(be, t->chunk, (const unsigned char *)v->data + at, n, err));
            for (uint64_t k = 0; k < n; k++) h = (h ^ t->chunk[k]) * 0x100000001b3u;
        }
    }
    *out = h;
    return BD_OK;
}

static bd_status trace_run(bd_backend *be, const bd_call *c, bd_err *err) {
    trace *t = (trace *)be;
    bd_backend *inner = t->w.inner[0];
    if (!t->f) return inner->vt->run(inner, c, err);
    const double start = bd_now();
    BD_TRY(inner->vt->run(inner, c, err));
    BD_TRY(inner->vt->sync(inner, err));
    const double ms = (bd_now() - start) * 1e3;
    uint64_t hash;
    BD_TRY(hash_outputs(t, c, &hash, err));
    char line[1024];
    bd_call_print(c, line, sizeof line);
    fprintf(t->f, "%" PRId64 " %s ms=%.3f hash=%016" PRIx64 "\n", t->calls++, line, ms, hash);
    return BD_OK;
}

static void trace_close(bd_backend *be) {
    bd_wrap_close_inner(bd_wrap_of(be));
    free(be);
}

void bd_trace_set_file(bd_backend *be, FILE *f) { ((trace *)be)->f = f; }

const bd_backend_vt bd_trace_vt = {"trace",          trace_close,  bd_wrap_alloc, bd_wrap_release, bd_wrap_upload,
                                   bd_wrap_download, bd_wrap_sync, bd_wrap_has,   bd_wrap_reserve, trace_run};

bd_status bd_trace_open(bd_backend **out, bd_backend *inner, bd_err *err) {
    *out = NULL;
    trace *t = calloc(1, sizeof *t);
    if (!t) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate a backend");
    t->w = (bd_wrap){{&bd_trace_vt, inner->pool}, {inner, NULL}, 1};
    *out = &t->w.be;
    return BD_OK;
}
