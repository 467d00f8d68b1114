/* Gradients: every backward operation of the double build against central
 * differences of its forward, and the float build against the double build. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "check_kernels.h"
#include "kernels/ref/ref64.h"

/* L = sum of g * out0 of the forward. Operands of the backward call, by name:
 * x0..x3 the forward's inputs, y0 y1 its outputs, g. `wrt`: the forward's inputs
 * that the backward's outputs are gradients of. */
typedef struct gradient {
    bd_op forward, backward;
    const char *in, *wrt;
} gradient;

static const gradient gradients[] = {
    {BD_OP_embed, BD_OP_embed_grad, "g x1", "0"},
    {BD_OP_rms_norm, BD_OP_rms_norm_grad, "x0 g", "0"},
    {BD_OP_linear, BD_OP_linear_grad_x, "g x1", "0"},
    {BD_OP_linear, BD_OP_linear_grad_w, "g x0", "1"},
    {BD_OP_scale, BD_OP_scale, "g x1", "0"},
    {BD_OP_scale, BD_OP_scale_grad_s, "g x0", "1"},
    {BD_OP_add_scaled, BD_OP_scale_grad_s, "g x1", "2"},
    {BD_OP_add_scaled, BD_OP_scale, "g x2", "1"},
    {BD_OP_mix, BD_OP_scale_grad_s, "g x0", "1"},
    {BD_OP_mix, BD_OP_scale_grad_s, "g x2", "3"},
    {BD_OP_head_scale, BD_OP_head_scale, "g x1", "0"},
    {BD_OP_head_scale, BD_OP_head_scale_grad, "g x0", "1"},
    {BD_OP_rope, BD_OP_rope, "g x1", "0"},
    {BD_OP_attention, BD_OP_attention_grad, "x0 x1 x2 y0 y1 g", "012"},
    {BD_OP_relu2, BD_OP_relu2_grad, "x0 g", "0"},
    {BD_OP_softcap, BD_OP_softcap_grad, "y0 g", "0"},
    {BD_OP_nll, BD_OP_nll_grad, "x0 x1 y1", "0"},
};

enum { ROUNDS = 6, PROBES = 24 };

typedef struct probe {
    kernel_image f; /* forward, double */
    double *g;      /* (shape of out0) */
} probe;

static bool value_of(probe *p, double *L) {
    bd_err err;
    const bd_call *c = &p->f.call;
    if (bd_ref64_run(c, &err) != BD_OK) {
        printf("    forward: %s\n", err.msg);
        return false;
    }
    *L = 0;
    for (int64_t i = 0; i < c->out[0].rows * c->out[0].cols; i++) *L += p->g[i] * kernel_get(&c->out[0], i);
    return true;
}

/* The backward call's operands; outputs are fresh, zeroed memory. */
static bool make_backward(bd_call *b, const gradient *gr, const probe *p) {
    const bd_call *f = &p->f.call;
    memset(b, 0, sizeof *b);
    b->op = gr->backward;
    b->attr = f->attr;
    b->seq_len = f->seq_len;
    if (gr->backward == BD_OP_rope) b->attr.rope.inverse = !f->attr.rope.inverse;
    if (gr->backward == BD_OP_nll_grad) b->attr.loss.gscale = 1;
    int i = 0;
    for (const char *s = gr->in; *s; s += *s == ' ') {
        bd_view *v = &b->in[i++];
        if (*s == 'x') *v = f->in[s[1] - '0'];
        if (*s == 'y') *v = f->out[s[1] - '0'];
        if (*s == 'g') {
            *v = f->out[0];
            v->data = p->g;
        }
        s += *s == 'g' ? 1 : 2;
    }
    for (i = 0; gr->wrt[i]; i++) {
        b->out[i] = f->in[gr->wrt[i] - '0'];
        b->out[i].data = bd_alloc_aligned(kernel_view_bytes(&b->out[i]), 1);
        if (!b->out[i].data) return false;
    }
    return true;
}

/* Elements of one input, by central differences; relative to the gradient's largest value. */
static bool check_input(probe *p, const bd_view *x, const bd_view *dx, uint64_t *rng, double *worst) {
    const int64_t n = x->rows * x->cols;
    double largest = 1e-3;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(kernel_get(dx, i)));
    for (int k = 0; k < PROBES && k < n; k++) {
        const int64_t i = n <= PROBES ? k : (int64_t)(kernel_rand(rng) % (uint64_t)n);
        const double at = kernel_get(x, i), h = 1e-5;
        double up = 0, down = 0;
        kernel_put(x, i, at + h);
        if (!value_of(p, &up)) return false;
        kernel_put(x, i, at - h);
        if (!value_of(p, &down)) return false;
        kernel_put(x, i, at);
        const double want = (up - down) / (2 * h), got = kernel_get(dx, i), e = fabs(want - got) / largest;
        if (e > *worst || e != e) *worst = e != e ? INFINITY : e;
    }
    return true;
}

static bool gradient_once(const gradient *gr, uint64_t seed, int round, double *worst) {
    uint64_t rng = seed * 77 + (uint64_t)round * 1000003u + (uint64_t)gr->backward;
    probe p;
    bd_err err;
    bd_call b;
    memset(&b, 0, sizeof b);
    bool ok = true;
    /* Rounds 0..6 of the shapes are the small ones. */
    if (kernel_image_make(&p.f, kernel_case_of(gr->forward), BD_F64, &rng, round, 0, bd_ref64_run, &err) != BD_OK) {
        printf("    making a call: %s\n", err.msg);
        return false;
    }
    const bd_view y = p.f.call.out[0];
    p.g = bd_alloc_aligned((uint64_t)(y.rows * y.cols), sizeof *p.g);
    double L;
    if (!p.g) abort();
    for (int64_t i = 0; i < y.rows * y.cols; i++) p.g[i] = gr->forward == BD_OP_nll ? 1 : kernel_normal(&rng);
    ok = value_of(&p, &L) && make_backward(&b, gr, &p);
    if (ok && bd_ref64_run(&b, &err) != BD_OK) {
        printf("    backward: %s\n", err.msg);
        ok = false;
    }
    for (int i = 0; ok && gr->wrt[i]; i++) {
        ok = check_input(&p, &p.f.call.in[gr->wrt[i] - '0'], &b.out[i], &rng, worst);
    }
    for (int i = 0; gr->wrt[i]; i++) free(b.out[i].data);
    free(p.g);
    kernel_image_free(&p.f);
    return ok;
}

void check_gradients(tally *t, uint64_t seed, const char *only) {
    for (size_t i = 0; i < sizeof gradients / sizeof *gradients; i++) {
        const gradient *gr = &gradients[i];
        const char *name = bd_op_get(gr->backward)->name;
        if (only && strcmp(only, name) != 0) continue;
        double worst = 0;
        bool ok = true;
        for (int round = 0; ok && round < ROUNDS; round++) ok = gradient_once(gr, seed, round, &worst);
        if (worst > 2e-6) ok = false;
        printf("%s grad %s of %s: %.1e\n", ok ? "ok  " : "FAIL", name, bd_op_get(gr->forward)->name, worst);
        if (ok) t->passed++;
        else t->failed++;
    }
}

/* float against double --------------------------------------------------------------------------------------------
 */

static bd_backend *ref32;
static bd_status run32(const bd_call *c, bd_err *err) { return bd_run(ref32, c, err); }

static bool tolerance_once(const kernel_case *kc, uint64_t seed, int round, double *worst) {
    uint64_t rng = seed * 131 + (uint64_t)round * 7919u + (uint64_t)kc->op;
    kernel_image k, wide;
    bd_err err;
    if (kernel_image_make(&k, kc, BD_F32, &rng, round, 0, run32, &err) != BD_OK) {
        printf("    making a call: %s\n", err.msg);
        return false;
    }
    kernel_image_widen(&wide, &k);
    bool ok = bd_run(ref32, &k.call, &err) == BD_OK && bd_ref64_run(&wide.call, &err) == BD_OK;
    if (!ok) printf("    %s\n", err.msg);
    for (int i = 0; ok && i < bd_op_get(kc->op)->nout; i++) {
        double diff = 0, norm = 0;
        for (int64_t e = 0; e < k.call.out[i].rows * k.call.out[i].cols; e++) {
            const double a = kernel_get(&k.call.out[i], e), b = kernel_get(&wide.call.out[i], e);
            diff += (a - b) * (a - b);
            norm += b * b;
        }
        /* Relative to the norm; where all cancels (one key: dS = 0) to a root mean square of 0.1. */
        const double count = (double)(k.call.out[i].rows * k.call.out[i].cols);
        const double e = sqrt(diff / (norm + 0.01 * count));
        if (!(e <= *worst)) *worst = e;
    }
    kernel_image_free(&k);
    kernel_image_free(&wide);
    return ok;
}

void check_tolerances(tally *t, uint64_t seed, const char *only) {
    bd_err err;
    if (bd_ref_open(&ref32, 1, &err) != BD_OK) {
        printf("FAIL ref: %s\n", err.msg);
        t->failed++;
        return;
    }
    for (int op = 0; op < BD_OP_COUNT; op++) {
        const kernel_case *kc = kernel_case_of((bd_op)op);
        if (!kc || (only && strcmp(only, bd_op_get((bd_op)op)->name) != 0)) continue;
        double worst = 0;
        bool ok = true;
        for (int round = 0; ok && round < 16; round++) ok = tolerance_once(kc, seed, round, &worst);
        if (!(worst <= kc->tolerance)) ok = false;
        printf("%s float/double %s: %.1e (limit %.0e)\n", ok ? "ok  " : "FAIL", bd_op_get((bd_op)op)->name, worst,
               kc->tolerance);
        if (ok) t->passed++;
        else t->failed++;
    }
    bd_backend_close(ref32);
}
