#include "kernels/bench_cases.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/thread.h"

#define ATTN .attr.attn = {8, 4, 1024}
#define ADAM .attr.adamw = {0.04f, 0.9f, 0.95f, 1e-8f, 1.0f, 2.0f, 3.0f}

const bd_bench_case bd_bench_cases[] = {
    {"linear 512x512", BD_OP_linear, "n=1024 K=512 M=512", .attr.relu2 = {0}},
    {"linear 512x1024", BD_OP_linear, "n=1024 K=512 M=1024", .attr.relu2 = {0}},
    {"linear 1024x512", BD_OP_linear, "n=1024 K=1024 M=512", .attr.relu2 = {0}},
    {"linear_grad_x 1024x512", BD_OP_linear_grad_x, "n=1024 M=1024 K=512", .attr.relu2 = {0}},
    {"linear_grad_w 1024x512", BD_OP_linear_grad_w, "n=1024 M=1024 K=512", .attr.relu2 = {0}},
    {"attention T=1024", BD_OP_attention, "n=1024 A=512 B=256 S=16 T=1024", ATTN},
    {"attention_step T=1024", BD_OP_attention_step, "n=1 A=512 B=256 P=1024 T=1024", ATTN},
    {"attention_grad T=1024", BD_OP_attention_grad, "n=1024 A=512 B=256 S=16 T=1024", ATTN},
    {"embed", BD_OP_embed, "n=1024 V=1024 D=512", .attr.relu2 = {0}},
    {"embed_grad", BD_OP_embed_grad, "n=1024 V=1024 D=512", .attr.relu2 = {0}},
    {"rms_norm", BD_OP_rms_norm, "n=1024 C=512", .attr.norm = {512, 0x1p-23f}},
    {"rms_norm heads", BD_OP_rms_norm, "n=1024 C=512", .attr.norm = {64, 0x1p-23f}},
    {"rms_norm_grad", BD_OP_rms_norm_grad, "n=1024 C=512", .attr.norm = {512, 0x1p-23f}},
    {"add", BD_OP_add, "n=1024 C=512", .attr.relu2 = {0}},
    {"scale", BD_OP_scale, "n=1024 C=512", .attr.relu2 = {0}},
    {"add_scaled", BD_OP_add_scaled, "n=1024 C=512", .attr.relu2 = {0}},
    {"mix", BD_OP_mix, "n=1024 C=512", .attr.relu2 = {0}},
    {"scale_grad_s", BD_OP_scale_grad_s, "n=1024 C=512", .attr.relu2 = {0}},
    {"head_scale", BD_OP_head_scale, "n=1024 A=512 H=8", .attr.heads = {8}},
    {"head_scale_grad", BD_OP_head_scale_grad, "n=1024 A=512 H=8", .attr.heads = {8}},
    {"rope", BD_OP_rope, "n=1024 A=512 P=1024 W=64 T=1024", .attr.rope = {64, 0, 10000}},
    {"relu2", BD_OP_relu2, "n=1024 C=1024", .attr.relu2 = {0.5f}},
    {"relu2_grad", BD_OP_relu2_grad, "n=1024 C=1024", .attr.relu2 = {0.5f}},
    {"softcap", BD_OP_softcap, "n=1024 C=1024", .attr.softcap = {30}},
    {"softcap_grad", BD_OP_softcap_grad, "n=1024 C=1024", .attr.softcap = {30}},
    {"nll", BD_OP_nll, "n=1024 V=1024", .attr.relu2 = {0}},
    {"nll_grad", BD_OP_nll_grad, "n=1024 V=1024", .attr.loss = {1}},
    {"axpby 1M", BD_OP_axpby, "N=1048576", .attr.lin = {0.5f, 0.5f}},
    {"tree_sum8 1M", BD_OP_tree_sum8, "N=1048576", .attr.lin = {1, 0}},
    {"sum_squares 1M", BD_OP_sum_squares, "N=1048576", .attr.relu2 = {0}},
    {"row_norm 512x512", BD_OP_row_norm, "R=512 C=512", .attr.relu2 = {0}},
    {"adamw 1M", BD_OP_adamw, "N=1048576", ADAM},
    {"sgd 1M", BD_OP_sgd, "N=1048576", .attr.sgd = {1e-6f, 0.9f}},
    {"second_moment 512", BD_OP_second_moment, "n=1024 K=512", .attr.relu2 = {0}},
    {"row_moment 512", BD_OP_row_moment, "n=1024 M=512", .attr.relu2 = {0}},
    {NULL, BD_OP_COUNT, NULL, .attr.relu2 = {0}},
};

static void read_dims(bd_dims *d, const char *s) {
    memset(d, 0, sizeof *d);
    while (*s) {
        const unsigned char letter = (unsigned char)*s;
        char *end;
        d->of[letter & 127] = strtoll(s + 2, &end, 10);
        s = end + (*end == ' ');
    }
}

/* Host contents of an operand: reals in [-1, 1), ids below the smallest vocabulary. */
static void fill(void *mem, const bd_view *v) {
    uint32_t x = 12345;
    for (int64_t i = 0; i < v->rows * v->cols; i++) {
        x = x * 1664525u + 1013904223u;
        const double u = (double)(x >> 8) * 0x1p-23 - 1.0;
        if (v->dtype == BD_F32) ((float *)mem)[i] = (float)u;
        else if (v->dtype == BD_F64) ((double *)mem)[i] = u;
        else ((int32_t *)mem)[i] = (int32_t)(x >> 22); /* below 1,024 */
    }
}

static bd_status give_memory(bd_backend *be, bd_view *v, bd_err *err) {
    const uint64_t bytes = (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype));
    BD_TRY(be->vt->alloc(be, &v->data, bytes, err));
    void *host = bd_alloc_aligned(bytes, 1);
    if (!host) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes", (unsigned long long)bytes);
    fill(host, v);
    const bd_status st = be->vt->upload(be, v->data, host, bytes, err);
    free(host);
    return st;
}

/* adamw's v must not be negative, or it measures NaN arithmetic. */
static bd_status zero_output(bd_backend *be, const bd_view *v, bd_err *err) {
    const uint64_t bytes = (uint64_t)(v->rows * v->cols * bd_dtype_size(v->dtype));
    void *host = bd_alloc_aligned(bytes, 1);
    if (!host) return BD_FAIL(err, BD_E_NOMEM, "cannot allocate %llu bytes", (unsigned long long)bytes);
    const bd_status st = be->vt->upload(be, v->data, host, bytes, err);
    free(host);
    return st;
}

static bd_status measure(bd_bench_result *out, bd_backend *be, const bd_call *c, double budget, bd_err *err) {
    const double start = bd_now();
    int batch = 1;
    out->seconds = 1e300;
    BD_TRY(bd_run(be, c, err)); /* warm-up */
    do {
        const double t0 = bd_now();
        for (int i = 0; i < batch; i++) BD_TRY(be->vt->run(be, c, err));
        BD_TRY(be->vt->sync(be, err));
        const double t = bd_now() - t0;
        if (t / batch < out->seconds) out->seconds = t / batch;
        if (t < 0.002) batch *= 2;
    } while (bd_now() - start < budget);
    return BD_OK;
}

bd_status bd_bench_run(bd_bench_result *out, bd_backend *be, const bd_bench_case *bc, double budget, bd_err *err) {
    const bd_op_info *info = bd_op_get(bc->op);
    bd_dims d;
    bd_call c;
    memset(&c, 0, sizeof c);
    memset(out, 0, sizeof *out);
    read_dims(&d, bc->dims);
    c.op = bc->op;
    c.attr = bc->attr;
    c.seq_len = d.of['T'];
    bd_call_shapes(&c, &d);
    bd_status st = BD_OK;
    for (int i = 0; i < info->nin && st == BD_OK; i++) st = give_memory(be, &c.in[i], err);
    for (int i = 0; i < info->nout && st == BD_OK; i++) {
        st = give_memory(be, &c.out[i], err);
        if (st == BD_OK) st = zero_output(be, &c.out[i], err);
    }
    if (st == BD_OK) st = be->vt->reserve(be, &c, err);
    if (st == BD_OK) st = measure(out, be, &c, budget, err);
    bd_call_cost(&c, &out->flops, &out->bytes);
    for (int i = 0; i < info->nin; i++) be->vt->release(be, c.in[i].data);
    for (int i = 0; i < info->nout; i++) be->vt->release(be, c.out[i].data);
    return st;
}
