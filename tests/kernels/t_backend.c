/* Calls, names of backends, and wrappers. */
#include "base/arena.h"
#include "bd_test.h"
#include "kernels/backend.h"
#include "kernels/bench_cases.h"
#include "kernels/ref/ref64.h"

static float mem[32][4096];

static bd_call make(bd_op op, const char *dims) {
    bd_call c;
    bd_dims d;
    memset(&c, 0, sizeof c);
    memset(&d, 0, sizeof d);
    c.op = op;
    for (const char *s = dims; *s;) {
        char *end;
        const int letter = *s & 127;
        d.of[letter] = strtoll(s + 2, &end, 10);
        s = end + (*end == ' ');
    }
    bd_call_shapes(&c, &d);
    for (int i = 0; i < bd_op_get(op)->nin; i++) c.in[i].data = mem[i];
    for (int i = 0; i < bd_op_get(op)->nout; i++) c.out[i].data = mem[16 + i];
    return c;
}

static bool refused(const bd_call *c, bd_status code, const char *part) {
    bd_err err;
    const bd_status st = bd_call_check(c, &err);
    if (st != code || !strstr(err.msg, part)) {
        printf("    got %s: %s\n", bd_status_name(st), st ? err.msg : "");
        return false;
    }
    return true;
}

TEST(list_of_operations) {
    for (int i = 0; i < BD_OP_COUNT; i++) {
        const bd_op_info *info = bd_op_get((bd_op)i);
        CHECK(bd_op_find(info->name, (int)strlen(info->name)) == i);
        CHECK(info->nin <= BD_MAX_IN && info->nout <= BD_MAX_OUT && info->nout >= 1);
    }
    CHECK(bd_op_find("linea", 5) == -1 && bd_op_find("linear_", 7) == -1 && bd_op_find("", 0) == -1);
    CHECK(bd_op_find("linear(", 6) == BD_OP_linear);
    CHECK(bd_op_get(BD_OP_COUNT) == NULL);
    CHECK(bd_op_get(BD_OP_attention)->causality == BD_CAUSAL_PAST);
    CHECK(strcmp(bd_op_get(BD_OP_softcap)->attr_arm, "softcap") == 0);
}

TEST(shapes_are_checked) {
    bd_call c = make(BD_OP_linear, "n=3 K=5 M=7");
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.in[1].cols = 6;
    CHECK(refused(&c, BD_E_SHAPE, "linear: in1 has shape [7,6]"));
    c = make(BD_OP_linear, "n=3 K=5 M=7");
    c.out[0].rows = 4;
    CHECK(refused(&c, BD_E_SHAPE, "out0"));
    c = make(BD_OP_linear, "n=3 K=5 M=7");
    c.in[0].dtype = BD_F64;
    CHECK(refused(&c, BD_E_SHAPE, "in0 is f64, must be f32"));
    c = make(BD_OP_linear, "n=3 K=5 M=7");
    c.in[0].data = NULL;
    CHECK(refused(&c, BD_E_SHAPE, "in0 is absent"));
    c = make(BD_OP_linear, "n=0 K=5 M=7");
    CHECK(refused(&c, BD_E_SHAPE, "in0"));
    c = make(BD_OP_linear, "n=3 K=5 M=7");
    c.in[0].rows = INT64_MAX / 2;
    CHECK(refused(&c, BD_E_SHAPE, "in0"));
    c = make(BD_OP_scale, "n=3 C=5");
    c.in[1].rows = 5;
    c.in[1].cols = 1; /* (n,1) is a vector too */
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c = make(BD_OP_tree_sum8, "N=10");
    CHECK(c.in[0].rows == 8 && bd_call_check(&c, NULL) == BD_OK);
    c.in[0].rows = 7;
    CHECK(refused(&c, BD_E_SHAPE, "in0"));
    c = make(BD_OP_second_moment, "n=3 K=4");
    c.in[1].data = NULL; /* optional */
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.op = BD_OP_COUNT;
    CHECK(bd_call_check(&c, NULL) == BD_E_UNKNOWN);
}

TEST(attributes_are_checked) {
    bd_call c = make(BD_OP_rms_norm, "n=3 C=6");
    c.attr.norm.width = 4;
    CHECK(refused(&c, BD_E_SHAPE, "width 4"));
    c.attr.norm.width = 3;
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.attr.norm.eps = -1;
    CHECK(refused(&c, BD_E_RANGE, "eps"));
    c = make(BD_OP_attention, "n=6 A=16 B=8 S=8");
    c.attr.attn.heads = 4;
    c.attr.attn.kv_heads = 2;
    c.attr.attn.T = 3;
    c.seq_len = 3;
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.attr.attn.kv_heads = 3;
    CHECK(refused(&c, BD_E_SHAPE, "kv heads"));
    c.attr.attn.kv_heads = 2;
    c.seq_len = 4;
    CHECK(refused(&c, BD_E_SHAPE, "whole sequences"));
    c.seq_len = 2;
    CHECK(refused(&c, BD_E_SHAPE, "seq_len"));
    c = make(BD_OP_attention_step, "n=2 A=16 B=8 P=5");
    c.attr.attn.heads = 4;
    c.attr.attn.kv_heads = 2;
    c.attr.attn.T = 5;
    c.seq_len = 5;
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.seq_len = 4;
    CHECK(refused(&c, BD_E_SHAPE, "2 queries and 5 keys"));
    c = make(BD_OP_attention_step, "n=6 A=16 B=8 P=5");
    c.attr.attn.heads = 4;
    c.attr.attn.kv_heads = 2;
    c.attr.attn.T = 5;
    c.seq_len = 5;
    CHECK(refused(&c, BD_E_SHAPE, "6 queries and 5 keys"));
    c = make(BD_OP_rope, "n=6 A=8 P=2 W=4");
    c.attr.rope.width = 4;
    c.seq_len = 3;
    CHECK(refused(&c, BD_E_SHAPE, "exceeds the table"));
    c = make(BD_OP_softcap, "n=1 C=1");
    CHECK(refused(&c, BD_E_RANGE, "cap"));
    c = make(BD_OP_head_scale, "n=1 A=9 H=2");
    c.attr.heads.heads = 2;
    CHECK(refused(&c, BD_E_SHAPE, "heads"));
}

TEST(overlaps_are_refused) {
    bd_call c = make(BD_OP_add, "n=2 C=8");
    c.out[0].data = c.in[1].data;
    CHECK(refused(&c, BD_E_SHAPE, "overlaps in1"));
    c = make(BD_OP_axpby, "N=16");
    c.out[0].data = c.in[1].data; /* allowed: exactly an input */
    CHECK(bd_call_check(&c, NULL) == BD_OK);
    c.out[0].data = (float *)c.in[1].data + 1;
    CHECK(refused(&c, BD_E_SHAPE, "overlaps"));
    c = make(BD_OP_adamw, "N=16");
    c.out[2].data = c.out[0].data;
    CHECK(refused(&c, BD_E_SHAPE, "out2 overlaps out0"));
}

TEST(calls_print_and_cost) {
    bd_call c = make(BD_OP_linear, "n=3 K=5 M=7");
    char line[200];
    bd_call_print(&c, line, sizeof line);
    CHECK(strcmp(line, "linear in0=f32[3,5] in1=f32[7,5] out0=f32[3,7]") == 0);
    bd_call_print(&c, line, 10); /* cut, terminated */
    CHECK(strlen(line) == 9);
    double flops, bytes;
    bd_call_cost(&c, &flops, &bytes);
    CHECK(flops == 2 * 3 * 5 * 7 && bytes == 4 * (15 + 35 + 21));
}

TEST(names_of_backends) {
    static const char *const good[] = {"ref",
                                       "trace:ref",
                                       "shadow:ref,ref",
                                       "trace:shadow:ref,trace:ref",
                                       "fault:3:ref",
                                       "shadow:shadow:ref,ref,ref"};
    static const char *const bad[] = {"",
                                      "reff",
                                      "ref:",
                                      "cpu:sse",
                                      "shadow:ref",
                                      "trace:",
                                      "fault:ref",
                                      "fault:1,ref",
                                      "fault::ref",
                                      "ref,ref",
                                      "gpu",
                                      "cpu:",
                                      "shadow:ref,ref,ref",
                                      "fault:99999999999999999999:ref",
                                      "trace:trace:trace:trace:trace:trace:trace:trace:trace:ref"};
    bd_err err;
    bd_backend *be;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK_MSG(bd_backend_open(&be, good[i], 1, &err) == BD_OK, "%s: %s", good[i], err.msg);
        CHECK(bd_backend_is_host(be));
        bd_backend_close(be);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_MSG(bd_backend_open(&be, bad[i], 1, &err) == BD_E_USAGE && !be, "%s", bad[i]);
    }
    bd_backend_close(NULL);
}

/* A backend that is ref, but wrong in one element of every output of one operation. */
static const bd_backend_vt *true_vt;
static bd_status wrong_run(bd_backend *be, const bd_call *c, bd_err *err) {
    BD_TRY(true_vt->run(be, c, err));
    if (c->op == BD_OP_add) ((float *)c->out[0].data)[9] += 0x1p-20f;
    return BD_OK;
}

TEST(shadow_finds_a_difference) {
    bd_backend *a, *b, *s;
    bd_err err;
    CHECK(bd_ref_open(&a, 1, NULL) == BD_OK && bd_ref_open(&b, 1, NULL) == BD_OK);
    true_vt = a->vt;
    bd_backend_vt wrong = *a->vt;
    wrong.name = "wrong";
    wrong.run = wrong_run;
    a->vt = &wrong;
    CHECK(bd_shadow_open(&s, a, b, NULL) == BD_OK);
    for (int i = 0; i < 16; i++) mem[0][i] = (float)i, mem[1][i] = 0.5f;
    bd_call c = make(BD_OP_axpby, "N=16"); /* in place: b must see the old input */
    c.attr.lin.a = 1;
    c.attr.lin.b = 1;
    c.out[0].data = c.in[0].data;
    CHECK(bd_run(s, &c, &err) == BD_OK);
    CHECK(mem[0][3] == 3.5f);
    c = make(BD_OP_add, "n=4 C=4");
    mem[0][0] = NAN; /* equal to NaN */
    CHECK(bd_run(s, &c, &err) == BD_E_MISMATCH);
    CHECK_MSG(strstr(err.msg, "add: out0 row 2 column 1: wrong gives"), "%s", err.msg);
    bd_backend_close(s);
}

TEST(trace_writes_lines) {
    bd_backend *be;
    CHECK(bd_backend_open(&be, "shadow:trace:ref,ref", 1, NULL) == BD_OK);
    bd_call c = make(BD_OP_add, "n=2 C=3");
    CHECK(bd_run(be, &c, NULL) == BD_OK); /* silent until told where to write */
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    bd_backend_trace_to(be, f);
    CHECK(bd_run(be, &c, NULL) == BD_OK && bd_run(be, &c, NULL) == BD_OK);
    fclose(f);
    CHECK(strncmp(text, "0 add in0=f32[2,3]", 18) == 0);
    char *first = strstr(text, "hash="), *second = strstr(first + 1, "hash=");
    CHECK(first && second && memcmp(first, second, 21) == 0);
    free(text);
    bd_backend_close(be);
}

TEST(fault_fails_once) {
    bd_backend *be;
    bd_err err;
    CHECK(bd_backend_open(&be, "fault:2:ref", 1, NULL) == BD_OK);
    void *p = NULL, *q = NULL;
    CHECK(be->vt->alloc(be, &p, 100, &err) == BD_OK && ((uintptr_t)p & 63) == 0);
    bd_call c = make(BD_OP_linear, "n=3 K=5 M=7");
    CHECK(be->vt->reserve(be, &c, &err) == BD_E_NOMEM);
    CHECK(be->vt->reserve(be, &c, &err) == BD_OK && be->vt->alloc(be, &q, 1, &err) == BD_OK);
    be->vt->release(be, p);
    be->vt->release(be, q);
    bd_backend_close(be);
}

TEST(ids_outside_the_vocabulary) {
    bd_backend *be;
    bd_err err;
    CHECK(bd_ref_open(&be, 1, NULL) == BD_OK);
    int32_t *ids = (int32_t *)mem[1];
    memset(mem[0], 0, sizeof mem[0]);
    bd_call c = make(BD_OP_embed, "n=3 V=4 D=2");
    ids[0] = 0, ids[1] = 3, ids[2] = 4;
    CHECK(bd_run(be, &c, &err) == BD_E_RANGE && strstr(err.msg, "token 4 at index 2"));
    c = make(BD_OP_nll, "n=2 V=4");
    ids[0] = -1, ids[1] = -2;
    CHECK(bd_run(be, &c, &err) == BD_E_RANGE);
    ids[1] = 3;
    CHECK(bd_run(be, &c, &err) == BD_OK);
    CHECK(((double *)mem[16])[0] == 0 && ((double *)mem[17])[0] > 0);
    bd_backend_close(be);
}

TEST(double_build_wants_doubles) {
    bd_call c = make(BD_OP_add, "n=2 C=3");
    bd_err err;
    CHECK(bd_ref64_run(&c, &err) == BD_E_SHAPE);
    c.in[0].dtype = c.in[1].dtype = c.out[0].dtype = BD_F64;
    ((double *)mem[0])[5] = 0x1p-40;
    ((double *)mem[1])[5] = 1;
    CHECK(bd_ref64_run(&c, &err) == BD_OK && ((double *)mem[16])[5] == 1 + 0x1p-40);
}

TEST(bench_cases_run) {
    bd_backend *be;
    bd_err err;
    CHECK(bd_ref_open(&be, 1, NULL) == BD_OK);
    bool seen[BD_OP_COUNT] = {false};
    for (const bd_bench_case *b = bd_bench_cases; b->op != BD_OP_COUNT; b++) seen[b->op] = true;
    for (int i = 0; i < BD_OP_COUNT; i++) CHECK_MSG(seen[i], "%s has no bench case", bd_op_get((bd_op)i)->name);
    for (const bd_bench_case *b = bd_bench_cases; b->op != BD_OP_COUNT; b++) {
        if (b->op != BD_OP_add && b->op != BD_OP_embed && b->op != BD_OP_adamw && b->op != BD_OP_rope) continue;
        bd_bench_result r;
        CHECK_MSG(bd_bench_run(&r, be, b, 0, &err) == BD_OK, "%s", err.msg);
        CHECK(r.seconds > 0 && r.bytes > 0);
    }
    bd_backend_close(be);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
