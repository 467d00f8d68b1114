/* Opening backends by name, running calls, and what all wrappers share. */
#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/wrap.h"

/* Names ---------------------------------------------------------------------------------------------------------
 * spec = "ref" | "cpu" [":" isa] | "cuda" [":" device] | "trace:" spec | "fault:" N ":" spec | "shadow:" spec ","
 * spec */

enum { MAX_DEPTH = 8 };

typedef struct parser {
    const char *spec, *p;
    int threads, depth;
    bd_err *err;
} parser;

static bool take(parser *s, const char *word) {
    const size_t n = strlen(word);
    if (strncmp(s->p, word, n) != 0) return false;
    const char next = s->p[n];
    /* A word ends where the text does, or before ':' or ','; "x:" has its end in it. */
    if (word[n - 1] != ':' && word[n - 1] != ',' && next != 0 && next != ':' && next != ',') return false;
    s->p += n;
    return true;
}

static bd_status bad_spec(const parser *s, const char *want) {
    return BD_FAIL(s->err, BD_E_USAGE, "backend \"%s\": %s at \"%s\"", s->spec, want, s->p);
}

static bd_status take_number(parser *s, int64_t max, int64_t *out) {
    int64_t v = 0;
    if (*s->p < '0' || *s->p > '9') return bad_spec(s, "expected a number");
    for (; *s->p >= '0' && *s->p <= '9'; s->p++) {
        v = v * 10 + (*s->p - '0');
        if (v > max) return bad_spec(s, "number too large");
    }
    *out = v;
    return BD_OK;
}

static bd_status parse(parser *s, bd_backend **out);

static bd_status parse_cpu(parser *s, bd_backend **out) {
    const char *isa = NULL;
    if (take(s, ":")) {
        if (take(s, "avx2")) isa = "avx2";
        else if (take(s, "avx512")) isa = "avx512";
        else return bad_spec(s, "expected avx2 or avx512");
    }
    return bd_cpu_open(out, isa, s->threads, s->err);
}

static bd_status parse_cuda(parser *s, bd_backend **out) {
    int64_t device = 0;
    if (take(s, ":")) BD_TRY(take_number(s, 1023, &device));
    return bd_cuda_open(out, (int)device, s->err);
}

static bd_status parse_shadow(parser *s, bd_backend **out) {
    bd_backend *a = NULL, *b = NULL;
    BD_TRY(parse(s, &a));
    bd_status st = take(s, ",") ? parse(s, &b) : bad_spec(s, "expected \",\" and a second backend");
    if (st == BD_OK) st = bd_shadow_open(out, a, b, s->err);
    if (st != BD_OK) {
        bd_backend_close(b);
        bd_backend_close(a);
    }
    return st;
}

static bd_status parse_trace(parser *s, bd_backend **out) {
    bd_backend *inner = NULL;
    BD_TRY(parse(s, &inner));
    const bd_status st = bd_trace_open(out, inner, s->err);
    if (st != BD_OK) bd_backend_close(inner);
    return st;
}

static bd_status parse_fault(parser *s, bd_backend **out) {
    int64_t at = 0;
    bd_backend *inner = NULL;
    BD_TRY(take_number(s, INT64_MAX / 16, &at));
    if (!take(s, ":")) return bad_spec(s, "expected \":\" and a backend");
    BD_TRY(parse(s, &inner));
    const bd_status st = bd_fault_open(out, inner, at, s->err);
    if (st != BD_OK) bd_backend_close(inner);
    return st;
}

static bd_status parse(parser *s, bd_backend **out) {
    if (s->depth == MAX_DEPTH) return bad_spec(s, "too many wrappers");
    s->depth++;
    if (take(s, "ref")) return bd_ref_open(out, s->threads, s->err);
    if (take(s, "cpu")) return parse_cpu(s, out);
    if (take(s, "cuda")) return parse_cuda(s, out);
    if (take(s, "shadow:")) return parse_shadow(s, out);
    if (take(s, "trace:")) return parse_trace(s, out);
    if (take(s, "fault:")) return parse_fault(s, out);
    return bad_spec(s, "expected ref, cpu, cuda, shadow:A,B, trace:A or fault:N:A");
}

bd_status bd_backend_open(bd_backend **out, const char *spec, int threads, bd_err *err) {
    parser s = {spec, spec, threads, 0, err};
    *out = NULL;
    bd_backend *be = NULL;
    BD_TRY(parse(&s, &be));
    if (*s.p) {
        bd_backend_close(be);
        return bad_spec(&s, "unexpected text");
    }
    *out = be;
    return BD_OK;
}

void bd_backend_close(bd_backend *be) {
    if (be) be->vt->close(be);
}

/* Running -------------------------------------------------------------------------------------------------------
 */

const bd_wrap *bd_wrap_of_const(const bd_backend *be) {
    const bool is = be->vt == &bd_shadow_vt || be->vt == &bd_trace_vt || be->vt == &bd_fault_vt;
    return is ? (const bd_wrap *)be : NULL;
}
bd_wrap *bd_wrap_of(bd_backend *be) { return bd_wrap_of_const(be) ? (bd_wrap *)be : NULL; }

bool bd_backend_is_host(const bd_backend *be) {
    const bd_wrap *w = bd_wrap_of_const(be);
    if (w) return bd_backend_is_host(w->inner[0]);
    return strncmp(be->vt->name, "cuda", 4) != 0;
}

#ifdef BIRDIE_VERIFY
static bool all_finite(const bd_view *v) {
    const int64_t n = v->rows * v->cols;
    for (int64_t i = 0; v->data && i < n; i++) {
        const double x = v->dtype == BD_F32   ? (double)((const float *)v->data)[i]
                         : v->dtype == BD_F64 ? ((const double *)v->data)[i]
                                              : 0;
        if (x - x != 0) return false;
    }
    return true;
}

/* Finite operands in, something else out: the operation that did it is named. */
static bd_status run_verified(bd_backend *be, const bd_call *c, bd_err *err) {
    const bd_op_info *info = bd_op_get(c->op);
    bool before = bd_backend_is_host(be);
    for (int i = 0; before && i < info->nin; i++) before = all_finite(&c->in[i]);
    for (int i = 0; before && i < info->nout; i++) before = !bd_op_reads_out(c->op, i) || all_finite(&c->out[i]);
    BD_TRY(be->vt->run(be, c, err));
    for (int i = 0; before && i < info->nout; i++) {
        if (!all_finite(&c->out[i])) {
            char line[512];
            bd_call_print(c, line, sizeof line);
            return BD_FAIL(err, BD_E_NONFINITE, "out%d is not finite although all operands were: %s", i, line);
        }
    }
    return BD_OK;
}
#endif

bd_status bd_run(bd_backend *be, const bd_call *c, bd_err *err) {
    BD_TRY(bd_call_check(c, err));
    if (!be->vt->has(be, c->op)) {
        return BD_FAIL(err, BD_E_UNSUPPORTED, "backend %s has no operation %s", be->vt->name,
                       bd_op_get(c->op)->name);
    }
#ifdef BIRDIE_VERIFY
    return run_verified(be, c, err);
#else
    return be->vt->run(be, c, err);
#endif
}

void bd_backend_trace_to(bd_backend *be, FILE *f) {
    if (be->vt == &bd_trace_vt) bd_trace_set_file(be, f);
    bd_wrap *w = bd_wrap_of(be);
    for (int i = 0; w && i < w->n; i++) bd_backend_trace_to(w->inner[i], f);
}

/* What wrappers share -------------------------------------------------------------------------------------------
 */

static bd_backend *first(bd_backend *be) { return ((bd_wrap *)be)->inner[0]; }

bd_status bd_wrap_alloc(bd_backend *be, void **out, uint64_t bytes, bd_err *err) {
    return first(be)->vt->alloc(first(be), out, bytes, err);
}
void bd_wrap_release(bd_backend *be, void *mem) { first(be)->vt->release(first(be), mem); }
bd_status bd_wrap_upload(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    return first(be)->vt->upload(first(be), dst, src, bytes, err);
}
bd_status bd_wrap_download(bd_backend *be, void *dst, const void *src, uint64_t bytes, bd_err *err) {
    return first(be)->vt->download(first(be), dst, src, bytes, err);
}
bd_status bd_wrap_sync(bd_backend *be, bd_err *err) { return first(be)->vt->sync(first(be), err); }
bool bd_wrap_has(const bd_backend *be, bd_op op) {
    const bd_wrap *w = bd_wrap_of_const(be);
    for (int i = 0; i < w->n; i++) {
        if (!w->inner[i]->vt->has(w->inner[i], op)) return false;
    }
    return true;
}
bd_status bd_wrap_reserve(bd_backend *be, const bd_call *c, bd_err *err) {
    bd_wrap *w = bd_wrap_of(be);
    for (int i = 0; i < w->n; i++) BD_TRY(w->inner[i]->vt->reserve(w->inner[i], c, err));
    return BD_OK;
}
bd_status bd_wrap_run(bd_backend *be, const bd_call *c, bd_err *err) {
    return first(be)->vt->run(first(be), c, err);
}
void bd_wrap_close_inner(bd_wrap *w) {
    for (int i = 0; i < w->n; i++) bd_backend_close(w->inner[i]);
}
