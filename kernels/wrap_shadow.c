/* Shadow: two backends run every call and must agree bit for bit.
 *
 * b goes first, on copies of the outputs, because a's run may overwrite an
 * input that is also an output. Host memory only. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "kernels/wrap.h"

typedef struct shadow {
    bd_wrap w;
    unsigned char *copy[BD_MAX_OUT];
    uint64_t room[BD_MAX_OUT];
} shadow;

static uint64_t bytes_of(const bd_view *v) { return (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype)); }

static bd_status shadow_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    shadow *s = (shadow *)be;
    for (int i = 0; i < bd_op_get(c->op)->nout; i++) {
        const uint64_t need = bytes_of(&c->out[i]);
        if (need <= s->room[i]) continue;
        free(s->copy[i]);
        s->room[i] = 0;
        s->copy[i] = bd_alloc_aligned(need, 1);
        if (!s->copy[i]) {
            return BD_FAIL(err, BD_E_NOMEM, "shadow: cannot allocate %" PRIu64 " bytes for a copy", need);
        }
        s->room[i] = need;
    }
    return bd_wrap_reserve(be, c, err);
}

static double value_at(const void *p, bd_dtype type, int64_t i) {
    if (type == BD_F32) return (double)((const float *)p)[i];
    if (type == BD_F64) return ((const double *)p)[i];
    if (type == BD_I32) return (double)((const int32_t *)p)[i];
    return (double)((const int64_t *)p)[i];
}

/* Equal bits, or both NaN. */
static bool same(const unsigned char *a, const unsigned char *b, bd_dtype type, int64_t i) {
    const size_t size = (size_t)bd_dtype_size(type), at = (size_t)i * size;
    if (memcmp(a + at, b + at, size) == 0) return true;
    if (type != BD_F32 && type != BD_F64) return false;
    const double x = value_at(a, type, i), y = value_at(b, type, i);
    return x != x && y != y;
}

static bd_status compare(const shadow *s, const bd_call *c, int i, bd_err *err) {
    const bd_view *v = &c->out[i];
    const int64_t n = v->rows * v->cols;
    if (memcmp(v->data, s->copy[i], bytes_of(v)) == 0) return BD_OK;
    for (int64_t e = 0; e < n; e++) {
        if (same(v->data, s->copy[i], v->dtype, e)) continue;
        char line[400];
        bd_call_print(c, line, sizeof line);
        const double x = value_at(v->data, v->dtype, e), y = value_at(s->copy[i], v->dtype, e);
        return BD_FAIL(err, BD_E_MISMATCH,
                       "%s: out%d row %" PRId64 " column %" PRId64
                       ": %s gives %.17g (%a), %s gives %.17g (%a) in %s",
                       bd_op_get(c->op)->name, i, e / v->cols, e % v->cols, s->w.inner[0]->vt->name, x, x,
                       s->w.inner[1]->vt->name, y, y, line);
    }
    return BD_OK;
}

static bd_status shadow_run(bd_backend *be, const bd_call *c, bd_err *err) {
    shadow *s = (shadow *)be;
    bd_backend *a = s->w.inner[0], *b = s->w.inner[1];
    const int nout = bd_op_get(c->op)->nout;
    BD_TRY(shadow_reserve(be, c, err));
    bd_call copy = *c;
    for (int i = 0; i < nout; i++) {
        memcpy(s->copy[i], c->out[i].data, bytes_of(&c->out[i]));
        copy.out[i].data = s->copy[i];
    }
    BD_TRY(b->vt->run(b, &copy, err));
    BD_TRY(a->vt->run(a, c, err));
    for (int i = 0; i < nout; i++) BD_TRY(compare(s, c, i, err));
    return BD_OK;
}

static void shadow_close(bd_backend *be) {
    shadow *s = (shadow *)be;
    bd_wrap_close_inner(&s->w);
    for (int i = 0; i < BD_MAX_OUT; i++) free(s->copy[i]);
    free(s);
}

const bd_backend_vt bd_shadow_vt = {"shadow",         shadow_close, bd_wrap_alloc, bd_wrap_release, bd_wrap_upload,
                                    bd_wrap_download, bd_wrap_sync, bd_wrap_has,   shadow_reserve,  shadow_run};

bd_status bd_shadow_open(bd_backend **out, bd_backend *a, bd_backend *b, bd_err *err) {
    *out = NULL;
    if (!bd_backend_is_host(a) || !bd_backend_is_host(b)) {
        return BD_FAIL(err, BD_E_UNSUPPORTED, "shadow compares in host memory: %s and %s cannot be shadowed",
                       a->vt->name, b->vt->name);
    }
    shadow *s = calloc(1, sizeof *s);
    if (!s) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate a backend");
    s->w = (bd_wrap){{&bd_shadow_vt, a->pool}, {a, b}, 2};
    *out = &s->w.be;
    return BD_OK;
}
