/* Running graphs: golden values, equality of backends, batch grouping, the memory
 * plan against a run without one, and failures. */
#include "base/arena.h"
#include "format/checkpoint.h"
#include "graph_run.h"
#include "runtime/exec.h"
#include "runtime/model_lang.h"

static bd_graph *baseline(const bd_setting *set, int n, const bd_shape_source *src) {
    bd_graph *g = NULL;
    bd_err e = {0};
    bd_limits lim = bd_limits_default();
    for (int i = 0; i < bd_n_builtin_models; i++) {
        const bd_builtin_model *m = &bd_builtin_models[i];
        if (!strcmp(m->name, "baseline"))
            CHECK_OK(bd_model_elaborate(&g, m->text, m->size, m->name, set, n, src, &lim, &e), &e);
    }
    CHECK(g != NULL);
    return g;
}

static bd_graph *small_baseline(void) {
    bd_setting set[] = {{"layers", "3"},  {"dim", "24"},   {"heads", "3"},  {"kv_heads", "1"},
                        {"hidden", "20"}, {"vocab", "37"}, {"slope", "0.5"}};
    return baseline(set, 7, NULL);
}

static bd_graph *derivative(const bd_graph *g) {
    bd_graph *d = NULL;
    bd_err e = {0};
    CHECK_OK(bd_graph_differentiate(&d, g, &e), &e);
    return d;
}

/* NULL when this build or machine lacks the backend. */
static bd_backend *open_backend(const char *spec) {
    bd_backend *be = NULL;
    bd_err e = {0};
    bd_status st = bd_backend_open(&be, spec, 2, &e);
    if (st == BD_E_UNSUPPORTED) return NULL;
    CHECK_OK(st, &e);
    for (int op = 0; op < BD_OP_COUNT; op++) {
        if (be->vt->has(be, (bd_op)op)) continue;
        printf("    %s has no %s: left out\n", spec, bd_op_get((bd_op)op)->name);
        bd_backend_close(be);
        return NULL;
    }
    return be;
}

/* A batch and everything a run of it gives, all on the host. */
typedef struct batch {
    int64_t nseq, T;
    int32_t *tokens, *targets;
    float *params, *grad;
    double *nll;
} batch;

static void batch_make(batch *b, const bd_graph *g, int64_t nseq, int64_t T, uint64_t seed) {
    uint64_t n = (uint64_t)(nseq * T);
    *b = (batch){.nseq = nseq, .T = T};
    b->tokens = calloc(n, sizeof *b->tokens);
    b->targets = calloc(n, sizeof *b->targets);
    b->nll = calloc(n, sizeof *b->nll);
    b->params = bd_alloc_aligned(g->param_floats, sizeof *b->params);
    b->grad = bd_alloc_aligned(g->param_floats, sizeof *b->grad);
    CHECK(b->tokens && b->targets && b->nll && b->params && b->grad);
    bd_graph_init_params(g, seed, b->params);
    for (int i = 0; i < g->n_params; i++)
        for (int64_t k = 0; k < g->params[i].rows * g->params[i].cols; k++)
            b->params[g->params[i].offset + (uint64_t)k] += 0.2f * test_normalf(&seed);
    for (uint64_t i = 0; i < n; i++) {
        b->tokens[i] = (int32_t)(test_rand(&seed) % (uint64_t)g->vocab);
        b->targets[i] = i % 7 == 3 ? -1 : (int32_t)(test_rand(&seed) % (uint64_t)g->vocab);
    }
}

static void batch_free(batch *b) {
    free(b->tokens);
    free(b->targets);
    free(b->nll);
    free(b->params);
    free(b->grad);
}

static void gradient(const bd_graph *d, bd_backend *be, batch *b, int64_t max_seqs) {
    bd_exec *x = NULL;
    bd_gradsum *s = NULL;
    bd_err e = {0};
    uint64_t n = (uint64_t)(b->nseq * b->T);
    CHECK(bd_backend_is_host(be));
    CHECK_OK(bd_exec_create(&x, d, be, max_seqs * b->T, b->T, &e), &e);
    CHECK_EQ_U64(bd_exec_bytes(x), bd_exec_plan_bytes(d, max_seqs * b->T, b->T));
    CHECK_OK(bd_gradsum_create(&s, d, be, &e), &e);
    memset(b->grad, 0xff, d->param_floats * sizeof *b->grad);
    memset(b->nll, 0xff, n * sizeof *b->nll);
    CHECK_OK(bd_batch_gradient(x, s, b->params, b->tokens, b->targets, b->nseq, b->T, b->grad, b->nll, NULL, &e),
             &e);
    bd_gradsum_destroy(s);
    bd_exec_destroy(x);
}

/* ---- golden values ---- */

static int ck_shape(void *user, const char *name, int64_t dim[4]) {
    const bd_ckpt *c = user;
    int i = bd_ckpt_find(c, name);
    if (i < 0) return -1;
    for (int k = 0; k < c->tensors[i].ndim && k < 4; k++) dim[k] = c->tensors[i].dim[k];
    return c->tensors[i].ndim;
}

static int64_t ck_count(void *user, const char *pattern) {
    const bd_ckpt *c = user;
    const char *star = strchr(pattern, '*');
    size_t head = star ? (size_t)(star - pattern) : strlen(pattern), tail = star ? strlen(star + 1) : 0;
    int64_t n = 0;
    for (int i = 0; i < c->n; i++) {
        const char *s = c->tensors[i].name;
        size_t len = strlen(s);
        n += star ? len >= head + tail && !memcmp(s, pattern, head) && !strcmp(s + len - tail, star + 1)
                  : !strcmp(s, pattern);
    }
    return n;
}

static float *tensor(const bd_ckpt *c, const char *name, uint64_t *count) {
    int i = bd_ckpt_find(c, name);
    CHECK_MSG(i >= 0, "no tensor %s", name);
    bd_err e = {0};
    float *v = malloc((size_t)c->tensors[i].count * sizeof *v);
    CHECK(v != NULL);
    CHECK_OK(bd_ckpt_read_f32(c, i, v, &e), &e);
    *count = (uint64_t)c->tensors[i].count;
    return v;
}

/* |a - b| / |b| in the Euclidean norm. */
static double distance_f(const float *a, const float *b, uint64_t n) {
    double up = 0, down = 0;
    for (uint64_t i = 0; i < n; i++) {
        up += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        down += (double)b[i] * (double)b[i];
    }
    return sqrt(up / (down > 0 ? down : 1));
}

typedef struct golden {
    bd_ckpt *weights, *expected;
    bd_graph *g, *d;
    batch b;
} golden;

static bool golden_open(golden *z) {
    const char *w = test_data("golden/tiny_weights.safetensors"),
               *x = test_data("golden/tiny_expected.safetensors");
    if (!w || !x) return false;
    bd_err e = {0};
    CHECK_OK(bd_ckpt_open(&z->weights, w, &e), &e);
    CHECK_OK(bd_ckpt_open(&z->expected, x, &e), &e);
    bd_shape_source src = {ck_shape, ck_count, z->weights};
    z->g = baseline(NULL, 0, &src);
    z->d = derivative(z->g);
    CHECK(z->g->n_params == z->weights->n);
    batch_make(&z->b, z->g, 3, 96, 1);
    uint64_t n;
    for (int i = 0; i < z->g->n_params; i++) {
        float *v = tensor(z->weights, z->g->params[i].name, &n);
        CHECK_EQ_U64(n, z->g->params[i].rows * z->g->params[i].cols);
        memcpy(z->b.params + z->g->params[i].offset, v, n * sizeof *v);
        free(v);
    }
    float *tok = tensor(z->expected, "tokens", &n), *tgt = tensor(z->expected, "targets", &n);
    CHECK_EQ_U64(n, 288);
    for (uint64_t i = 0; i < n; i++) {
        z->b.tokens[i] = (int32_t)tok[i];
        z->b.targets[i] = (int32_t)tgt[i];
    }
    free(tok);
    free(tgt);
    return true;
}

static void golden_close(golden *z) {
    batch_free(&z->b);
    bd_graph_destroy(z->d);
    bd_graph_destroy(z->g);
    bd_ckpt_close(z->weights);
    bd_ckpt_close(z->expected);
}

static void golden_check(const char *spec, golden *z) {
    bd_backend *be = open_backend(spec);
    if (!be) return;
    bd_err e = {0};
    uint64_t n;
    gradient(z->d, be, &z->b, 3);
    double worst = 0;
    for (int i = 0; i < z->g->n_params; i++) {
        const bd_param *p = &z->g->params[i];
        char name[160];
        snprintf(name, sizeof name, "grad.%s", p->name);
        float *want = tensor(z->expected, name, &n);
        double r = distance_f(z->b.grad + p->offset, want, n);
        CHECK_MSG(r < 1e-4, "%s: %s is off by %.3g", spec, name, r);
        if (r > worst) worst = r;
        free(want);
    }
    float nll[288];
    for (int i = 0; i < 288; i++) nll[i] = (float)z->b.nll[i];
    float *want = tensor(z->expected, "nll", &n);
    double rn = distance_f(nll, want, n);
    CHECK_MSG(rn < 1e-4, "%s: nll is off by %.3g", spec, rn);
    free(want);

    bd_exec *x = NULL;
    float *logits = malloc(8 * 1024 * sizeof *logits);
    CHECK(logits != NULL);
    CHECK_OK(bd_exec_create(&x, z->g, be, 3 * 96, 96, &e), &e);
    CHECK_OK(bd_exec_forward(x, z->b.params, z->b.tokens, NULL, 3, 96, NULL, &e), &e);
    CHECK_OK(bd_exec_logits(x, 0, 8, logits, &e), &e);
    want = tensor(z->expected, "logits_first_row", &n);
    CHECK_EQ_U64(n, 8 * 1024);
    double rl = distance_f(logits, want, n);
    CHECK_MSG(rl < 1e-4, "%s: logits are off by %.3g", spec, rl);
    printf("    %s: gradients within %.2g, nll %.2g, logits %.2g\n", spec, worst, rn, rl);
    free(want);
    free(logits);
    bd_exec_destroy(x);
    bd_backend_close(be);
}

TEST(golden_values) {
    golden z = {0};
    if (!golden_open(&z)) SKIP("no golden data");
    golden_check("ref", &z);
    golden_check("cpu", &z);
    golden_close(&z);
}

/* ---- equality of bits ---- */

static bool same_results(const batch *a, const batch *b, const bd_graph *g) {
    return !memcmp(a->grad, b->grad, g->param_floats * sizeof *a->grad) &&
           !memcmp(a->nll, b->nll, (size_t)(a->nseq * a->T) * sizeof *a->nll);
}

TEST(backends_agree_to_the_bit) {
    bd_graph *g = small_baseline(), *d = derivative(g);
    const int64_t shapes[][2] = {{3, 19}, {8, 5}, {1, 33}, {11, 1}};
    const char *specs[] = {"cpu", "cpu:avx2", "cpu:avx512"};
    for (int k = 0; k < 4; k++) {
        batch a, b;
        batch_make(&a, g, shapes[k][0], shapes[k][1], test_seed() + (uint64_t)k);
        batch_make(&b, g, shapes[k][0], shapes[k][1], test_seed() + (uint64_t)k);
        bd_backend *ref = open_backend("ref");
        CHECK(ref != NULL);
        gradient(d, ref, &a, 2);
        for (int s = 0; s < 3; s++) {
            bd_backend *be = open_backend(specs[s]);
            if (!be) continue;
            gradient(d, be, &b, 2);
            CHECK_MSG(same_results(&a, &b, g), "%s differs from ref", specs[s]);
            bd_backend_close(be);
        }
        bd_backend_close(ref);
        batch_free(&a);
        batch_free(&b);
    }
    bd_graph_destroy(d);
    bd_graph_destroy(g);
}

/* However sequences are grouped into calls, the bits are the same. */
static void grouping(const char *spec) {
    bd_backend *be = open_backend(spec);
    if (!be) return;
    bd_graph *g = small_baseline(), *d = derivative(g);
    const int64_t counts[] = {1, 3, 8, 13, 26};
    for (int k = 0; k < 5; k++) {
        batch a, b;
        batch_make(&a, g, counts[k], 9, test_seed());
        batch_make(&b, g, counts[k], 9, test_seed());
        gradient(d, be, &a, 1);
        for (int64_t most = 2; most <= 5; most++) {
            gradient(d, be, &b, most);
            CHECK_MSG(same_results(&a, &b, g), "%s: %lld sequences, %lld at once", spec, (long long)counts[k],
                      (long long)most);
        }
        batch_free(&a);
        batch_free(&b);
    }
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_backend_close(be);
}
TEST(grouping_does_not_matter_ref) { grouping("ref"); }
TEST(grouping_does_not_matter_cpu) { grouping("cpu"); }

/* The planned memory gives what separate memory gives; forward-only reuse included. */
TEST(plan_keeps_what_is_needed) {
    bd_backend *be = open_backend("ref");
    bd_graph *g = small_baseline(), *d = derivative(g);
    bd_err e = {0};
    batch b;
    batch_make(&b, g, 1, 23, test_seed());
    gradient(d, be, &b, 1);
    simple_run r;
    simple_init(&r, d, be, 1, 23);
    memcpy(r.params, b.params, g->param_floats * sizeof(float));
    memcpy(r.tokens, b.tokens, 23 * sizeof(int32_t));
    memcpy(r.targets, b.targets, 23 * sizeof(int32_t));
    int scored = 0;
    for (int i = 0; i < 23; i++) scored += b.targets[i] >= 0;
    r.gscale = (float)(1.0 / scored);
    simple_nodes(&r, 0, d->n_nodes);
    CHECK(!memcmp(r.value[d->nll], b.nll, 23 * sizeof(double)));
    for (int p = 0; p < g->n_params; p++)
        for (int64_t k = 0; k < g->params[p].rows * g->params[p].cols; k++) {
            const bd_param *q = &d->params[p];
            float sum = ((float *)r.grads)[q->grad_offset + (uint64_t)(q->uses - 1) * q->grad_stride + (uint64_t)k];
            for (int u = q->uses - 2; u >= 0; u--)
                sum += ((float *)r.grads)[q->grad_offset + (uint64_t)u * q->grad_stride + (uint64_t)k];
            float have = b.grad[q->offset + (uint64_t)k];
            CHECK_MSG(have <= sum && have >= sum, "%s[%lld]: %a, %a", q->name, (long long)k, (double)have,
                      (double)sum);
        }
    bd_exec *x = NULL;
    CHECK_OK(bd_exec_create(&x, g, be, 50, 30, &e), &e);
    double nll[23];
    float logits[37 * 2];
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, b.targets, 1, 23, nll, &e), &e);
    CHECK(!memcmp(nll, b.nll, sizeof nll));
    CHECK_OK(bd_exec_logits(x, 21, 2, logits, &e), &e);
    CHECK(!memcmp(logits, (float *)r.value[g->logits] + 21 * 37, sizeof logits));
    CHECK(bd_exec_logits(x, 22, 2, logits, &e) == BD_E_RANGE);
    /* other shapes afterwards, then the first again */
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, NULL, 7, 3, NULL, &e), &e);
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, b.targets, 1, 23, nll, &e), &e);
    CHECK(!memcmp(nll, b.nll, sizeof nll));
    bd_exec_destroy(x);
    CHECK_MSG(bd_exec_plan_bytes(g, 50, 30) * 3 < bd_exec_plan_bytes(d, 50, 30),
              "forward %llu, with gradients %llu", (unsigned long long)bd_exec_plan_bytes(g, 50, 30),
              (unsigned long long)bd_exec_plan_bytes(d, 50, 30));
    simple_free(&r);
    batch_free(&b);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_backend_close(be);
}

/* ---- failures ---- */

/* A backend that counts allocations and reservations. */
typedef struct counting {
    bd_backend be;
    bd_backend *inner;
    int allocs, reserves, live;
    int fail_at; /* the n-th call of any kind fails; 0: none */
    int calls;
} counting;
static counting *cb(bd_backend *be) { return (counting *)be; }
static bool fails(counting *c) { return ++c->calls == c->fail_at; }
static bd_status c_alloc(bd_backend *be, void **out, uint64_t n, bd_err *err) {
    counting *c = cb(be);
    if (fails(c)) return BD_FAIL(err, BD_E_NOMEM, "test");
    c->allocs++;
    c->live++;
    return c->inner->vt->alloc(c->inner, out, n, err);
}
static void c_release(bd_backend *be, void *p) {
    cb(be)->live--;
    cb(be)->inner->vt->release(cb(be)->inner, p);
}
static bd_status c_upload(bd_backend *be, void *d, const void *s, uint64_t n, bd_err *err) {
    if (fails(cb(be))) return BD_FAIL(err, BD_E_IO, "test");
    return cb(be)->inner->vt->upload(cb(be)->inner, d, s, n, err);
}
static bd_status c_download(bd_backend *be, void *d, const void *s, uint64_t n, bd_err *err) {
    if (fails(cb(be))) return BD_FAIL(err, BD_E_IO, "test");
    return cb(be)->inner->vt->download(cb(be)->inner, d, s, n, err);
}
static bd_status c_sync(bd_backend *be, bd_err *err) { return cb(be)->inner->vt->sync(cb(be)->inner, err); }
static bool c_has(const bd_backend *be, bd_op op) {
    const counting *c = (const counting *)(const void *)be;
    return op != BD_OP_softcap || c->fail_at != -1;
}
static bd_status c_reserve(bd_backend *be, const bd_call *call, bd_err *err) {
    if (fails(cb(be))) return BD_FAIL(err, BD_E_NOMEM, "test");
    cb(be)->reserves++;
    return cb(be)->inner->vt->reserve(cb(be)->inner, call, err);
}
static bd_status c_run(bd_backend *be, const bd_call *call, bd_err *err) {
    if (fails(cb(be))) return BD_FAIL(err, BD_E_NOMEM, "test");
    return cb(be)->inner->vt->run(cb(be)->inner, call, err);
}
static const bd_backend_vt counting_vt = {.name = "counting",
                                          .alloc = c_alloc,
                                          .release = c_release,
                                          .upload = c_upload,
                                          .download = c_download,
                                          .sync = c_sync,
                                          .has = c_has,
                                          .reserve = c_reserve,
                                          .run = c_run};

TEST(nothing_allocates_after_creation) {
    counting c = {.be = {.vt = &counting_vt}, .inner = open_backend("ref")};
    bd_graph *g = small_baseline(), *d = derivative(g);
    batch b;
    batch_make(&b, g, 5, 7, 3);
    bd_exec *x = NULL;
    bd_gradsum *s = NULL;
    bd_err e = {0};
    CHECK_OK(bd_exec_create(&x, d, &c.be, 14, 7, &e), &e);
    CHECK(c.allocs == 1 && c.reserves >= d->n_nodes);
    CHECK_OK(bd_gradsum_create(&s, d, &c.be, &e), &e);
    int allocs = c.allocs, reserves = c.reserves;
    CHECK_OK(bd_batch_gradient(x, s, b.params, b.tokens, b.targets, 5, 7, b.grad, b.nll, NULL, &e), &e);
    CHECK(c.allocs == allocs && c.reserves == reserves);
    bd_gradsum_destroy(s);
    bd_exec_destroy(x);
    CHECK(c.live == 0);
    batch_free(&b);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_backend_close(c.inner);
}

TEST(every_failure_is_clean) {
    bd_graph *g = small_baseline(), *d = derivative(g);
    batch b;
    batch_make(&b, g, 3, 5, 3);
    int reached = 0;
    for (int at = 1; at < 100000; at += at < 40 ? 1 : 61) {
        counting c = {.be = {.vt = &counting_vt}, .inner = open_backend("ref"), .fail_at = at};
        bd_exec *x = NULL;
        bd_gradsum *s = NULL;
        bd_err e = {0};
        bd_status st = bd_exec_create(&x, d, &c.be, 10, 5, &e);
        if (st == BD_OK) st = bd_gradsum_create(&s, d, &c.be, &e);
        if (st == BD_OK) st = bd_batch_gradient(x, s, b.params, b.tokens, b.targets, 3, 5, b.grad, b.nll, NULL, &e);
        CHECK((st == BD_OK) == (c.calls < at));
        bd_gradsum_destroy(s);
        bd_exec_destroy(x);
        CHECK(c.live == 0);
        bd_backend_close(c.inner);
        reached = at;
        if (st == BD_OK) break;
    }
    CHECK(reached > 500);
    counting c = {.be = {.vt = &counting_vt}, .inner = open_backend("ref"), .fail_at = -1};
    bd_exec *x = NULL;
    bd_err e = {0};
    CHECK(bd_exec_create(&x, g, &c.be, 10, 5, &e) == BD_E_UNSUPPORTED && strstr(e.msg, "softcap"));
    bd_backend_close(c.inner);
    batch_free(&b);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
}

TEST(wrong_batches) {
    bd_backend *be = open_backend("ref");
    bd_graph *g = small_baseline(), *d = derivative(g);
    batch b;
    batch_make(&b, g, 4, 5, 3);
    bd_exec *x = NULL;
    bd_gradsum *s = NULL;
    bd_err e = {0};
    CHECK(bd_exec_create(&x, g, be, 3, 5, &e) == BD_E_RANGE && !x);
    CHECK(bd_exec_create(&x, g, be, INT64_MAX, 5, &e) != BD_OK && !x);
    CHECK(bd_exec_plan_bytes(g, 0, 0) == UINT64_MAX);
    CHECK_OK(bd_exec_create(&x, d, be, 12, 5, &e), &e);
    CHECK_OK(bd_gradsum_create(&s, d, be, &e), &e);
    CHECK(bd_gradsum_bytes(s) > 9 * 4 * d->grad_floats);
    CHECK(bd_exec_max_rows(x) == 12 && bd_exec_max_len(x) == 5);
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 1, 6, NULL, &e) == BD_E_RANGE);
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 3, 5, NULL, &e) == BD_E_RANGE);
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 0, 5, NULL, &e) == BD_E_RANGE);
    CHECK(bd_batch_gradient(x, s, b.params, b.tokens, b.targets, 1, 13, b.grad, NULL, NULL, &e) == BD_E_RANGE);
    float one[37];
    CHECK(bd_exec_logits(x, 0, 1, one, &e) == BD_E_RANGE); /* nothing has run */
    int32_t keep = b.tokens[3];
    b.tokens[3] = 37;
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 1, 5, NULL, &e) == BD_E_RANGE &&
          strstr(e.msg, "37 at index 3"));
    b.tokens[3] = -1;
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 1, 5, NULL, &e) == BD_E_RANGE);
    b.tokens[3] = keep;
    b.targets[0] = -2;
    CHECK(bd_exec_forward(x, b.params, b.tokens, b.targets, 1, 5, b.nll, &e) == BD_E_RANGE);
    for (int i = 0; i < 20; i++) b.targets[i] = -1;
    CHECK(bd_batch_gradient(x, s, b.params, b.tokens, b.targets, 4, 5, b.grad, NULL, NULL, &e) == BD_E_RANGE);
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, b.targets, 1, 5, b.nll, &e), &e);
    for (int i = 0; i < 5; i++) CHECK(fabs(b.nll[i]) <= 0);
    bd_gradsum_destroy(s);
    bd_exec_destroy(x);
    batch_free(&b);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_backend_close(be);
}

/* ---- taps and interruption ---- */

typedef struct tapped {
    int seen, linear, last_ok, stop_at;
    const bd_node *first;
} tapped;
static bd_status on_call(void *user, const bd_node *n, const bd_call *c, bd_err *err) {
    tapped *t = user;
    if (!t->seen) t->first = n;
    t->last_ok = n->op == c->op && c->in[0].data != NULL;
    t->linear += n->op == BD_OP_linear;
    if (++t->seen == t->stop_at) return BD_FAIL(err, BD_E_REFUSED, "enough");
    return BD_OK;
}

TEST(taps) {
    bd_backend *be = open_backend("ref");
    bd_graph *g = small_baseline(), *d = derivative(g);
    batch b;
    batch_make(&b, g, 2, 5, 3);
    bd_exec *x = NULL;
    bd_err e = {0};
    CHECK_OK(bd_exec_create(&x, d, be, 10, 5, &e), &e);
    tapped t = {0};
    bd_exec_set_tap(x, on_call, &t);
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, NULL, 2, 5, NULL, &e), &e);
    CHECK(t.seen == d->n_forward && t.linear == 3 * 6 + 1 && t.last_ok && t.first == &d->nodes[0]);
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, b.targets, 2, 5, NULL, &e), &e);
    float *grads = bd_alloc_aligned(d->grad_floats, sizeof *grads);
    CHECK(grads != NULL);
    CHECK_OK(bd_exec_backward(x, b.params, 1.0f, grads, &e), &e);
    CHECK(t.seen == d->n_forward + d->n_nodes);
    t = (tapped){.stop_at = 4};
    CHECK(bd_exec_forward(x, b.params, b.tokens, NULL, 2, 5, NULL, &e) == BD_E_REFUSED && t.seen == 4);
    bd_exec_set_tap(x, NULL, NULL);
    CHECK_OK(bd_exec_forward(x, b.params, b.tokens, NULL, 2, 5, NULL, &e), &e);
    volatile sig_atomic_t stop = 1;
    bd_progress p = {.stop = &stop};
    bd_gradsum *s = NULL;
    CHECK_OK(bd_gradsum_create(&s, d, be, &e), &e);
    CHECK(bd_batch_gradient(x, s, b.params, b.tokens, b.targets, 2, 5, b.grad, NULL, &p, &e) == BD_E_INTERRUPTED);
    bd_gradsum_destroy(s);
    free(grads);
    bd_exec_destroy(x);
    batch_free(&b);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    bd_backend_close(be);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
