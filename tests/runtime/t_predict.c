/* One token at a time gives the bits of whole windows. */
#include "bd_test.h"

#include "runtime/evaluate.h"
#include "runtime/steps.h"
#include "tiny_model.h"

enum { V = 61, L = 40, N = 200 };
static const tiny_spec SPEC = {V, 16, 3, 4, 2, 24};
static const char *const specs[] = {"ref", "cpu:avx2", "cpu:avx512"};

typedef struct fixture {
    bd_model *m;
    bd_backend *be;
    uint16_t stream[N];
    uint64_t seed;
} fixture;

static fixture setup(const char *spec, int threads) {
    fixture f = {.seed = test_seed()};
    bd_err e = {0};
    f.m = tiny_model(&SPEC, test_rand(&f.seed));
    random_tokens(f.stream, N, V, &f.seed);
    if (bd_backend_open(&f.be, spec, threads, &e)) f.be = NULL; /* not on this machine */
    return f;
}

static void teardown(fixture *f) {
    bd_backend_close(f->be);
    bd_model_close(f->m);
}

/* Steps of any cut: the logits of each step's last token are those of one pass over the whole sequence. */
TEST(steps_give_the_logits_of_a_whole_pass) {
    for (int b = 0; b < 3; b++) {
        fixture f = setup(specs[b], 1 + b % 2);
        if (!f.be) continue;
        bd_err e = {0};
        bd_exec *x = NULL;
        bd_steps *s = NULL;
        int32_t tokens[L], target = 5;
        int32_t targets[L];
        double want_nll[L], nll;
        static float want[L * V], got[V];
        for (int i = 0; i < L; i++) tokens[i] = f.stream[i], targets[i] = target;
        CHECK_OK(bd_exec_create(&x, f.m->graph, f.be, L, L, &e), &e);
        CHECK_OK(bd_exec_forward(x, f.m->params, tokens, targets, 1, L, want_nll, &e), &e);
        CHECK_OK(bd_exec_logits(x, 0, L, want, &e), &e);
        CHECK_OK(bd_steps_create(&s, f.m->graph, f.be, 7, L, &e), &e);
        CHECK_EQ_U64(bd_steps_bytes(s), bd_steps_plan_bytes(f.m->graph, 7, L));
        for (int round = 0; round < 6; round++) {
            bd_steps_begin(s);
            for (int64_t at = 0; at < L;) {
                int64_t n = round == 0 ? 1 : 1 + (int64_t)(test_rand(&f.seed) % (round == 1 ? 7 : 20));
                if (n > L - at) n = L - at;
                CHECK_OK(bd_steps_append(s, f.m->params, tokens + at, n, got, &e), &e);
                at += n;
                CHECK_EQ_U64(bd_steps_position(s), at);
                CHECK_MSG(memcmp(got, want + (at - 1) * V, sizeof got) == 0, "%s, position %d", specs[b],
                          (int)at - 1);
                CHECK_OK(bd_steps_nll(s, target, &nll, &e), &e);
                CHECK(nll == want_nll[at - 1]);
            }
            CHECK(bd_steps_append(s, f.m->params, tokens, 1, got, &e) == BD_E_RANGE);
        }
        bd_steps_begin(s);
        tokens[0] = V;
        CHECK(bd_steps_append(s, f.m->params, tokens, 1, got, &e) == BD_E_RANGE);
        bd_steps_destroy(s);
        bd_exec_destroy(x);
        teardown(&f);
    }
}

/* Windows that start anew, windows with context, and a learning step between them. */
TEST(predict_and_reveal_are_score) {
    for (int b = 0; b < 3; b++) {
        fixture f = setup(specs[b], 1 + b % 2);
        if (!f.be) continue;
        bd_err e = {0};
        bd_session *a = NULL, *p = NULL;
        float logits[V], asked[V];
        double want[L], got;
        uint8_t ha[32], hp[32];
        CHECK_OK(bd_session_create(&a, f.m, f.be, 2 * L, L, true, &e), &e);
        CHECK_OK(bd_session_create(&p, f.m, f.be, L, L, true, &e), &e);
        CHECK_OK(bd_session_allow_predict(p, &e), &e);
        CHECK_OK(bd_session_begin(a, f.stream[0], N, &e), &e);
        CHECK_OK(bd_session_begin(p, f.stream[0], 1, &e), &e);
        const uint64_t starts[] = {0, 40, 57, 74, 97}, firsts[] = {1, 41, 81, 98, 115};
        const uint32_t counts[] = {40, 40, 17, 17, 22};
        for (int w = 0; w < 5; w++) {
            bd_window win = {starts[w], firsts[w], f.stream + firsts[w], counts[w]};
            uint64_t ask = firsts[w] + counts[w] / 2;
            bd_session_ask(a, &ask, 1, asked);
            CHECK_OK(bd_session_score(a, &win, 1, want, &e), &e);
            for (uint32_t i = 0; i < counts[w]; i++) {
                CHECK_OK(bd_session_predict(p, starts[w], logits, &e), &e);
                if (firsts[w] + i == ask) CHECK(memcmp(logits, asked, sizeof logits) == 0);
                CHECK_OK(bd_session_reveal(p, f.stream[firsts[w] + i], &got, &e), &e);
                CHECK_MSG(got == want[i], "%s, window %d, target %u", specs[b], w, i);
            }
            if (w == 1 || w == 3) {
                bd_learn l = {firsts[w] - 20, firsts[w] + counts[w], 16, 2, 0.05, 0.9, 1, 0};
                CHECK_OK(bd_session_learn(a, &l, &e), &e);
                CHECK_OK(bd_session_learn(p, &l, &e), &e);
            }
            CHECK_OK(bd_session_state_hash(a, ha, &e), &e);
            CHECK_OK(bd_session_state_hash(p, hp, &e), &e);
            CHECK(memcmp(ha, hp, 32) == 0);
        }
        bd_session_destroy(a);
        bd_session_destroy(p);
        teardown(&f);
    }
}

/* Learning in the middle of a window: the kept keys and values belong to other weights and are dropped. */
TEST(learning_drops_what_is_kept) {
    fixture f = setup("cpu", 2);
    CHECK(f.be != NULL);
    bd_err e = {0};
    bd_session *s = NULL, *fresh = NULL;
    float a[V], b[V];
    double nll;
    bd_learn l = {0, 12, 8, 1, 0.1, 0, 0, 0};
    bd_session *both[2];
    CHECK_OK(bd_session_create(&s, f.m, f.be, L, L, true, &e), &e);
    CHECK_OK(bd_session_create(&fresh, f.m, f.be, L, L, true, &e), &e);
    both[0] = s, both[1] = fresh;
    for (int k = 0; k < 2; k++) {
        CHECK_OK(bd_session_allow_predict(both[k], &e), &e);
        CHECK_OK(bd_session_begin(both[k], f.stream[0], 1, &e), &e);
        for (int i = 1; i < 20; i++) {
            CHECK_OK(bd_session_predict(both[k], k ? (uint64_t)i - 1 : 0, a, &e), &e);
            CHECK_OK(bd_session_reveal(both[k], f.stream[i], &nll, &e), &e);
        }
        CHECK_OK(bd_session_learn(both[k], &l, &e), &e);
    }
    CHECK_OK(bd_session_predict(s, 0, a, &e), &e);
    CHECK_OK(bd_session_predict(fresh, 0, b, &e), &e);
    CHECK(memcmp(a, b, sizeof a) == 0);
    CHECK(bd_session_predict(s, 20, a, &e) == BD_E_RANGE);
    CHECK_OK(bd_session_predict(s, 3, a, &e), &e);
    CHECK(bd_session_reveal(s, V, &nll, &e) == BD_E_RANGE);
    bd_session_destroy(s);
    bd_session_destroy(fresh);
    teardown(&f);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
