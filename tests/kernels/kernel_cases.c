#include "kernel_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

enum { GUARD = 128 };

/* Random numbers (splitmix64) -----------------------------------------------------------------------------------
 */

uint64_t kernel_rand(uint64_t *rng) {
    uint64_t z = (*rng += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static int64_t below(uint64_t *rng, int64_t n) { return (int64_t)(kernel_rand(rng) % (uint64_t)n); }
int64_t kernel_pick(uint64_t *rng, const int64_t *list, int n) { return list[below(rng, n)]; }
double kernel_normal(uint64_t *rng) {
    double a = 0;
    for (int i = 0; i < 12; i++) a += (double)(kernel_rand(rng) >> 11) * 0x1p-53;
    return (double)(float)(a - 6);
}

#define COUNT(list)     ((int)(sizeof(list) / sizeof *(list)))
#define PICK(rng, list) kernel_pick(rng, list, COUNT(list))

static const int64_t odd_sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 97, 127, 130};
static const int64_t few[] = {1, 2, 3, 4};

/* Shapes ----------------------------------------------------------------------------------------------------------
 */

static void shape_matrix(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const char letters[] = "nCKMDVR";
    (void)c;
    for (const char *l = letters; *l; l++) d->of[(unsigned char)*l] = PICK(rng, odd_sizes);
    /* Now and then one long dimension, to cross the borders of every blocking. */
    if (round % 8 == 7) d->of[(unsigned char)letters[below(rng, 4)]] = 250 + below(rng, 600);
    if (round % 16 == 15) d->of[(unsigned char)letters[1 + below(rng, 3)]] = 1024 + below(rng, 70);
}

static void shape_norm(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const float eps[] = {0x1p-23f, 1e-5f, 0.0f, 0.25f};
    shape_matrix(rng, round, d, c);
    c->attr.norm.width = (int32_t)d->of['C'];
    c->attr.norm.eps = eps[below(rng, 4)];
    if (round & 1) d->of['C'] *= PICK(rng, few);
}

static void shape_heads(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const int64_t heads[] = {1, 2, 3, 8, 17};
    shape_matrix(rng, round, d, c);
    d->of['H'] = PICK(rng, heads);
    d->of['A'] = d->of['H'] * PICK(rng, odd_sizes);
    c->attr.heads.heads = (int32_t)d->of['H'];
}

static void shape_rope(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    (void)round;
    const int64_t T = PICK(rng, odd_sizes);
    d->of['W'] = 2 * PICK(rng, odd_sizes);
    d->of['n'] = T * PICK(rng, few);
    d->of['A'] = d->of['W'] * PICK(rng, few);
    d->of['P'] = T + below(rng, 5);
    c->seq_len = T;
    c->attr.rope.width = (int32_t)d->of['W'];
    c->attr.rope.inverse = (int32_t)below(rng, 2);
    c->attr.rope.base = 10000;
}

static void shape_attention(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const int64_t widths[] = {16, 48, 64, 64, 1, 5, 8, 33}, groups[] = {1, 2, 4, 3};
    const int64_t T = round % 8 == 7 ? 150 + below(rng, 60) : PICK(rng, odd_sizes);
    const int64_t G = PICK(rng, few), H = G * PICK(rng, groups), W = PICK(rng, widths);
    d->of['n'] = T * (T > 100 ? 1 : PICK(rng, few));
    d->of['A'] = H * W;
    d->of['B'] = G * W;
    d->of['S'] = 2 * H;
    c->seq_len = T;
    c->attr.attn.T = (int32_t)T;
    c->attr.attn.heads = (int32_t)H;
    c->attr.attn.kv_heads = (int32_t)G;
}

static void shape_attention_step(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    shape_attention(rng, round, d, c);
    d->of['P'] = c->seq_len;
    d->of['n'] = 1 + below(rng, round & 1 ? c->seq_len : 1);
}

static void shape_relu2(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const float slopes[] = {0, 0.5f, 1, -0.25f};
    shape_matrix(rng, round, d, c);
    c->attr.relu2.slope = slopes[below(rng, 4)];
}

static void shape_softcap(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const float caps[] = {30, 15, 1, 0.3f};
    shape_matrix(rng, round, d, c);
    c->attr.softcap.cap = caps[below(rng, 4)];
}

static void shape_loss(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    shape_matrix(rng, round, d, c);
    c->attr.loss.gscale = round & 1 ? 1.0f : 0x1.3p-9f;
}

static void shape_array(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    static const int64_t border[] = {65535, 65536, 65537, 131073, 4096, 1000};
    (void)c;
    d->of['N'] = round % 4 == 3 ? PICK(rng, border) : PICK(rng, odd_sizes);
}

static void shape_lin(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    shape_array(rng, round, d, c);
    c->attr.lin.a = (float)kernel_normal(rng);
    c->attr.lin.b = (float)kernel_normal(rng);
}

static void shape_adamw(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    shape_array(rng, round, d, c);
    const double k = (double)(1 + below(rng, 50));
    c->attr.adamw.lr = 0.04f;
    c->attr.adamw.beta1 = 0.9f;
    c->attr.adamw.beta2 = 0.95f;
    c->attr.adamw.eps = 1e-8f;
    c->attr.adamw.decay = round & 1 ? 1.0f : 0.999f;
    c->attr.adamw.c1 = (float)(1 / (1 - pow(0.9, k)));
    c->attr.adamw.c2 = (float)(1 / (1 - pow(0.95, k)));
}

static void shape_sgd(uint64_t *rng, int round, bd_dims *d, bd_call *c) {
    shape_array(rng, round, d, c);
    c->attr.sgd.lr = 0.002f;
    c->attr.sgd.momentum = round & 1 ? 0.9f : 0.0f;
}

/* Inputs that must fit each other ---------------------------------------------------------------------------------
 */

/* in2 = lse of in0. */
static bd_status prepare_lse(kernel_image *k, uint64_t *rng, bd_status (*run)(const bd_call *, bd_err *),
                             bd_err *err) {
    (void)rng;
    bd_call c = {.op = BD_OP_nll};
    c.in[0] = k->call.in[0];
    c.in[1] = k->call.in[1];
    c.out[1] = k->call.in[2];
    c.out[0] = k->call.in[2];
    c.out[0].data = bd_alloc_aligned((uint64_t)c.in[0].rows, 8);
    if (!c.out[0].data) return BD_FAIL(err, BD_E_NOMEM, "test memory");
    const bd_status st = run(&c, err);
    free(c.out[0].data);
    return st;
}

/* in3 = o, in4 = stats of attention. */
static bd_status prepare_attention(kernel_image *k, uint64_t *rng, bd_status (*run)(const bd_call *, bd_err *),
                                   bd_err *err) {
    (void)rng;
    bd_call c = k->call;
    c.op = BD_OP_attention;
    c.out[0] = k->call.in[3];
    c.out[1] = k->call.in[4];
    return run(&c, err);
}

/* Second moments are not negative. */
static bd_status prepare_adamw(kernel_image *k, uint64_t *rng, bd_status (*run)(const bd_call *, bd_err *),
                               bd_err *err) {
    (void)rng, (void)run, (void)err;
    const bd_view *v = &k->call.out[2];
    for (int64_t i = 0; i < v->rows * v->cols; i++) kernel_put(v, i, fabs(kernel_get(v, i)));
    return BD_OK;
}

/* Softcapped values stay inside the cap. */
static bd_status prepare_softcap(kernel_image *k, uint64_t *rng, bd_status (*run)(const bd_call *, bd_err *),
                                 bd_err *err) {
    (void)rng, (void)run, (void)err;
    const bd_view *v = &k->call.in[0];
    const double cap = (double)k->call.attr.softcap.cap;
    for (int64_t i = 0; i < v->rows * v->cols; i++) {
        const double y = kernel_get(v, i);
        if (fabs(y) > cap) kernel_put(v, i, y > 0 ? cap : -cap);
    }
    return BD_OK;
}

/* --- the table: one row is one operation --- */
static const kernel_case cases[] = {
    {BD_OP_embed, shape_matrix, NULL, 127, 0},
    {BD_OP_rms_norm, shape_norm, NULL, 60, 2e-6},
    {BD_OP_linear, shape_matrix, NULL, 50, 5e-6},
    {BD_OP_add, shape_matrix, NULL, 127, 1e-6},
    {BD_OP_scale, shape_matrix, NULL, 60, 1e-6},
    {BD_OP_add_scaled, shape_matrix, NULL, 60, 1e-6},
    {BD_OP_mix, shape_matrix, NULL, 60, 1e-6},
    {BD_OP_head_scale, shape_heads, NULL, 60, 1e-6},
    {BD_OP_rope, shape_rope, NULL, 60, 1e-6},
    {BD_OP_attention, shape_attention, NULL, 12, 1e-5},
    {BD_OP_attention_step, shape_attention_step, NULL, 12, 1e-5},
    {BD_OP_relu2, shape_relu2, NULL, 70, 1e-6},
    {BD_OP_softcap, shape_softcap, NULL, 127, 1e-6},
    {BD_OP_nll, shape_matrix, NULL, 100, 1e-6},
    {BD_OP_nll_grad, shape_loss, prepare_lse, 100, 2e-6},
    {BD_OP_embed_grad, shape_matrix, NULL, 100, 2e-6},
    {BD_OP_rms_norm_grad, shape_norm, NULL, 30, 2e-5},
    {BD_OP_linear_grad_x, shape_matrix, NULL, 50, 5e-6},
    {BD_OP_linear_grad_w, shape_matrix, NULL, 50, 5e-6},
    {BD_OP_scale_grad_s, shape_matrix, NULL, 50, 5e-6},
    {BD_OP_head_scale_grad, shape_heads, NULL, 50, 3e-5}, /* one chain over a head of all rows: it cancels */
    {BD_OP_attention_grad, shape_attention, prepare_attention, 8, 5e-5},
    {BD_OP_relu2_grad, shape_relu2, NULL, 60, 1e-6},
    {BD_OP_softcap_grad, shape_softcap, prepare_softcap, 60, 2e-6},
    {BD_OP_axpby, shape_lin, NULL, 60, 1e-6},
    {BD_OP_tree_sum8, shape_lin, NULL, 60, 2e-6},
    {BD_OP_sum_squares, shape_array, NULL, 60, 1e-12},
    {BD_OP_row_norm, shape_matrix, NULL, 50, 2e-6},
    {BD_OP_adamw, shape_adamw, prepare_adamw, 30, 2e-6},
    {BD_OP_sgd, shape_sgd, NULL, 60, 1e-6},
    {BD_OP_second_moment, shape_matrix, NULL, 60, 1e-12},
    {BD_OP_row_moment, shape_matrix, NULL, 60, 1e-12},
};

const kernel_case *kernel_case_of(bd_op op) {
    for (int i = 0; i < COUNT(cases); i++) {
        if (cases[i].op == op) return &cases[i];
    }
    return NULL;
}

/* Images ----------------------------------------------------------------------------------------------------------
 */

uint64_t kernel_view_bytes(const bd_view *v) { return (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype)); }

double kernel_get(const bd_view *v, int64_t i) {
    if (v->dtype == BD_F32) return (double)((const float *)v->data)[i];
    if (v->dtype == BD_F64) return ((const double *)v->data)[i];
    return (double)((const int32_t *)v->data)[i];
}
void kernel_put(const bd_view *v, int64_t i, double x) {
    if (v->dtype == BD_F32) ((float *)v->data)[i] = (float)x;
    else if (v->dtype == BD_F64) ((double *)v->data)[i] = x;
    else ((int32_t *)v->data)[i] = (int32_t)x;
}

static double random_value(uint64_t *rng, int kind, int max_log2) {
    const double x = kernel_normal(rng);
    if (kind == 0) return x;
    if (kind == 1) {
        switch (below(rng, 8)) {
            case 0: return 0;
            case 1: return -0.0;
            case 2: return (double)(float)ldexp(x, -140);
            case 3: return 1;
            default: return x;
        }
    }
    const int exponent = (int)below(rng, max_log2 + 1);
    const double y = ldexp(1 + (double)below(rng, 1 << 23) * 0x1p-23, below(rng, 2) ? exponent : -exponent);
    return x < 0 ? -y : y;
}

static void fill(const bd_view *v, uint64_t *rng, int kind, int max_log2) {
    for (int64_t i = 0; i < v->rows * v->cols; i++) kernel_put(v, i, random_value(rng, kind, max_log2));
}

/* Vocabulary of the ids of a call: rows of the table, or columns of the logits. */
static void fill_ids(const bd_call *c, uint64_t *rng) {
    const bool target = c->op == BD_OP_nll || c->op == BD_OP_nll_grad;
    const int64_t vocab = target ? c->in[0].cols : c->op == BD_OP_embed ? c->in[0].rows : c->out[0].rows;
    const bd_view *v = &c->in[1];
    for (int64_t i = 0; i < v->rows * v->cols; i++) {
        kernel_put(v, i, target && below(rng, 5) == 0 ? -1.0 : (double)below(rng, vocab));
    }
}

/* Offsets of all operands: guards between them, starts aligned to an element only. */
static void lay_out(kernel_image *k, uint64_t *rng) {
    const bd_op_info *info = bd_op_get(k->call.op);
    uint64_t at = GUARD;
    for (int i = 0; i < info->nin + info->nout; i++) {
        const bool out = i >= info->nin;
        const bd_view *v = out ? &k->call.out[i - info->nin] : &k->call.in[i];
        uint64_t *slot = out ? &k->at_out[i - info->nin] : &k->at_in[i];
        *slot = 0;
        if (out && i == info->nin && k->alias >= 0) {
            *slot = k->at_in[k->alias];
            continue;
        }
        at = (at + 63) & ~(uint64_t)63;
        if (rng) at += (uint64_t)below(rng, 3) * (uint64_t)below(rng, 8) * 8; /* often 64-byte aligned, often not */
        if (rng && v->dtype == BD_F32) at += (uint64_t)below(rng, 2) * 4;
        *slot = at;
        at += kernel_view_bytes(v) + GUARD;
    }
    k->bytes = (at + 63) & ~(uint64_t)63;
}

bd_call kernel_image_bind(const kernel_image *k, void *base) {
    bd_call c = k->call;
    const bd_op_info *info = bd_op_get(c.op);
    for (int i = 0; i < info->nin; i++) {
        if (k->call.in[i].data) c.in[i].data = (unsigned char *)base + k->at_in[i];
    }
    for (int i = 0; i < info->nout; i++) c.out[i].data = (unsigned char *)base + k->at_out[i];
    return c;
}

static void set_real(bd_call *c, bd_dtype real) {
    const bd_op_info *info = bd_op_get(c->op);
    for (int i = 0; i < info->nin; i++) {
        if (c->in[i].dtype == BD_F32) c->in[i].dtype = real;
    }
    for (int i = 0; i < info->nout; i++) {
        if (c->out[i].dtype == BD_F32) c->out[i].dtype = real;
    }
}

static bd_status allocate(kernel_image *k, bd_err *err) {
    k->slab = bd_alloc_aligned(k->bytes, 1);
    if (!k->slab) return BD_FAIL(err, BD_E_NOMEM, "test memory");
    memset(k->slab, 0xa5, k->bytes);
    return BD_OK;
}

bd_status kernel_image_make(kernel_image *k, const kernel_case *kc, bd_dtype real, uint64_t *rng, int round,
                            int kind, bd_status (*run)(const bd_call *c, bd_err *err), bd_err *err) {
    memset(k, 0, sizeof *k);
    bd_dims d;
    memset(&d, 0, sizeof d);
    bd_call *c = &k->call;
    const bd_op_info *info = bd_op_get(kc->op);
    c->op = kc->op;
    kc->shape(rng, round, &d, c);
    bd_call_shapes(c, &d);
    set_real(c, real);
    k->alias = -1;
    if (kc->op == BD_OP_axpby) k->alias = (int)below(rng, 3) - 1;
    if (kc->op == BD_OP_row_norm) k->alias = (int)below(rng, 2) - 1;
    lay_out(k, rng);
    BD_TRY(allocate(k, err));
    for (int i = 0; i < info->nin; i++) c->in[i].data = k->slab + k->at_in[i];
    *c = kernel_image_bind(k, k->slab);
    for (int i = 0; i < info->nin; i++) {
        if (c->in[i].dtype == BD_I32) fill_ids(c, rng);
        else fill(&c->in[i], rng, kind, kc->max_log2);
    }
    for (int i = 0; i < info->nout; i++) {
        if (i == 0 && k->alias >= 0) continue;
        if (bd_op_reads_out(c->op, i)) fill(&c->out[i], rng, kind, kc->max_log2);
        else memset(c->out[i].data, 0xff, kernel_view_bytes(&c->out[i]));
    }
    if (kc->op == BD_OP_second_moment && round % 2 == 0) c->in[1].data = NULL;
    if (kc->prepare) BD_TRY(kc->prepare(k, rng, run, err));
    return BD_OK;
}

void kernel_image_free(kernel_image *k) {
    free(k->slab);
    k->slab = NULL;
}

void kernel_image_widen(kernel_image *out, const kernel_image *k) {
    const bd_op_info *info = bd_op_get(k->call.op);
    *out = *k;
    out->slab = NULL;
    set_real(&out->call, BD_F64);
    lay_out(out, NULL);
    if (allocate(out, NULL) != BD_OK) abort();
    const bd_call from = kernel_image_bind(k, k->slab);
    out->call = kernel_image_bind(out, out->slab);
    for (int i = 0; i < info->nin; i++) {
        const bd_view *v = &from.in[i];
        for (int64_t e = 0; v->data && e < v->rows * v->cols; e++)
            kernel_put(&out->call.in[i], e, kernel_get(v, e));
    }
    for (int i = 0; i < info->nout; i++) {
        const bd_view *v = &from.out[i];
        for (int64_t e = 0; e < v->rows * v->cols; e++) kernel_put(&out->call.out[i], e, kernel_get(v, e));
    }
}

const char *kernel_image_damage(const kernel_image *k, const unsigned char *after) {
    const bd_op_info *info = bd_op_get(k->call.op);
    /* Skip the outputs, compare the rest: outputs lie in increasing order after the inputs, or alias one. */
    uint64_t at = 0;
    for (int pass = 0; pass <= info->nout; pass++) {
        uint64_t skip = k->bytes, skip_end = k->bytes;
        for (int i = 0; i < info->nout; i++) {
            if (k->at_out[i] >= at && k->at_out[i] < skip) {
                skip = k->at_out[i];
                skip_end = skip + kernel_view_bytes(&k->call.out[i]);
            }
        }
        for (uint64_t b = at; b < skip; b++) {
            if (k->slab[b] == after[b]) continue;
            for (int i = 0; i < info->nin; i++) {
                const uint64_t start = k->at_in[i];
                if (b >= start && b < start + kernel_view_bytes(&k->call.in[i])) return "an input was changed";
            }
            return "memory outside the operands was changed";
        }
        at = skip_end;
    }
    return NULL;
}
