/* Recipes: what is read, what is refused and how that is said; the log reader. */
#include "bd_test.h"
#include "train_help.h"
#include "trainer/train_log.h"

#define GROUPS                                                                          \
    "\"optimizers\": [{\"kind\": \"muon\", \"match\": [\"a.*\", \"b\"], \"lr\": 0.5}, " \
    "{\"kind\": \"adamw\", \"match\": [\"*\"], \"lr\": 1}]"

static bd_status parse(bd_recipe **r, const char *text, const char *set, bd_err *e) {
    *e = (bd_err){0};
    return bd_recipe_parse(r, text, strlen(text), &set, set != NULL, e);
}

TEST(defaults_and_values) {
    bd_recipe *r = NULL;
    bd_err e;
    CHECK_OK(parse(&r, "{\"model\": \"m\", " GROUPS "}", NULL, &e), &e);
    CHECK_STR(r->model, "m");
    CHECK(r->seed == 1 && r->steps == 1000 && r->stop_step == 0 && r->time_s == 0 && r->seq_len == 1024);
    CHECK(r->batch_tokens == 16384 && r->loader == BD_LOADER_SEQUENTIAL && r->schedule == BD_SCHEDULE_STEPS);
    CHECK(r->warmdown == 0.3 && r->min_lr == 0 && r->warmup_steps == 0 && r->clip == 0 && r->ema == 0 && !r->fast);
    CHECK(r->n_groups == 2 && r->n_constants == 0);
    const bd_opt_group *g = &r->groups[0];
    CHECK(g->kind == BD_OPTIMIZER_MUON && g->n_match == 2 && g->lr == 0.5 && g->decay == 0 && g->momentum == 0.95);
    CHECK(g->momentum_start == 0.95 && g->momentum_warmup == 0 && g->nesterov && !g->row_norm && g->ns_steps == 5);
    CHECK(g->coefficients == BD_NS_FIXED);
    CHECK(r->groups[1].beta1 == 0.9 && r->groups[1].beta2 == 0.95 && r->groups[1].eps == 1e-8);
    CHECK(bd_recipe_group(r, "a.x") == 0 && bd_recipe_group(r, "b") == 0 && bd_recipe_group(r, "c") == 1);
    bd_recipe_close(r);

    CHECK_OK(parse(&r, small_recipe, NULL, &e), &e);
    CHECK(r->seed == 7 && r->steps == 10 && r->loader == BD_LOADER_SHUFFLED && r->warmdown == 0.5 && r->ema == 0.8);
    CHECK(r->groups[0].row_norm && r->groups[0].coefficients == BD_NS_POLAR && r->groups[0].decay == 0.05);
    CHECK(r->groups[0].momentum_start == 0.85 && r->groups[0].momentum_warmup == 6);
    CHECK(r->n_constants == 7);
    /* the normalized text reads back to itself */
    bd_recipe *again = NULL;
    CHECK_OK(parse(&again, r->json, NULL, &e), &e);
    CHECK_STR(again->json, r->json);
    bd_recipe_close(again);
    bd_recipe_close(r);
}

TEST(overrides) {
    const char *sets[] = {"steps=44",
                          "optimizers.0.lr=0.25",
                          "optimizers.1.beta2=0.99",
                          "constants.dim=64",
                          "schedule.min_lr=0.1",
                          "model=other",
                          "loader=sequential",
                          "time_s=2.5",
                          "constants.cap=15.5",
                          "optimizers.0.match=[\"x\"]",
                          "mode=fast",
                          "ema=0"};
    bd_recipe *r = NULL;
    bd_err e = {0};
    CHECK_OK(bd_recipe_parse(&r, small_recipe, strlen(small_recipe), sets, 12, &e), &e);
    CHECK(r->steps == 44 && r->groups[0].lr == 0.25 && r->groups[1].beta2 == 0.99 && r->min_lr == 0.1);
    CHECK_STR(r->model, "other");
    CHECK(r->loader == BD_LOADER_SEQUENTIAL && r->time_s == 2.5 && r->fast && r->ema == 0);
    CHECK(r->groups[0].n_match == 1 && !strcmp(r->groups[0].match[0], "x"));
    bool dim = false, cap = false;
    for (int i = 0; i < r->n_constants; i++) {
        dim |= !strcmp(r->constants[i].name, "dim") && !strcmp(r->constants[i].value, "64");
        cap |= !strcmp(r->constants[i].name, "cap") && !strcmp(r->constants[i].value, "15.5");
    }
    CHECK(dim && cap && strstr(r->json, "15.5"));
    bd_recipe_close(r);
}

/* {text or NULL for the small recipe, override or NULL, status, part of the message} */
static const struct refusal {
    const char *text, *set;
    bd_status code;
    const char *says;
} refusals[] = {
    {"", NULL, BD_E_SYNTAX, "line 1"},
    {"{\"model\": \"m\",\n \"steps\": }", NULL, BD_E_SYNTAX, "line 2"},
    {"[1]", NULL, BD_E_FIELD, "object"},
    {"{\"seed\": 1, \"seed\": 2}", NULL, BD_E_SYNTAX, "duplicate"},
    {"{" GROUPS "}", NULL, BD_E_MISSING, "model"},
    {"{\"model\": \"m\"}", NULL, BD_E_MISSING, "optimizers"},
    {NULL, "stepz=3", BD_E_UNKNOWN, "did you mean \"steps\""},
    {NULL, "schedule.warmdwn=0.3", BD_E_UNKNOWN, "schedule.warmdwn; did you mean \"warmdown\""},
    {NULL, "optimizers.1.beta3=0.3", BD_E_UNKNOWN, "optimizers[1].beta3; did you mean \"beta"},
    {NULL, "steps=0", BD_E_RANGE, "steps is 0"},
    {NULL, "steps=1.5", BD_E_FIELD, "steps must be an integer"},
    {NULL, "seq_len=0", BD_E_RANGE, "seq_len"},
    {NULL, "seq_len=25", BD_E_RANGE, "multiple of seq_len (25)"},
    {NULL, "stop_step=11", BD_E_RANGE, "stop_step (11)"},
    {NULL, "seed=-1", BD_E_RANGE, "seed"},
    {NULL, "ema=1", BD_E_RANGE, "ema"},
    {NULL, "clip=-1", BD_E_RANGE, "clip"},
    {NULL, "loader=random", BD_E_FIELD, "loader must be one of \"sequential\", \"shuffled\""},
    {NULL, "schedule=linear", BD_E_FIELD, "schedule must be an object"},
    {NULL, "schedule.kind=time", BD_E_MISSING, "time_s"},
    {NULL, "schedule.kind=clock", BD_E_FIELD, "schedule.kind must be one of"},
    {NULL, "optimizers=3", BD_E_FIELD, "optimizers must be a list"},
    {NULL, "optimizers.0=3", BD_E_FIELD, "optimizers[0] must be an object"},
    {NULL, "optimizers.0.kind=sgd", BD_E_FIELD, "optimizers[0].kind must be one of \"muon\", \"adamw\""},
    {NULL, "optimizers.0.beta1=0.9", BD_E_FIELD, "optimizers[0].beta1 has no meaning for muon"},
    {NULL, "optimizers.1.nesterov=true", BD_E_FIELD, "optimizers[1].nesterov has no meaning for adamw"},
    {NULL, "optimizers.0.nesterov=1", BD_E_FIELD, "true or false"},
    {NULL, "optimizers.0.coefficients=best", BD_E_FIELD, "coefficients"},
    {NULL, "optimizers.0.match=x", BD_E_MISSING, "optimizers[0].match"},
    {NULL, "optimizers.0.match=[]", BD_E_MISSING, "optimizers[0].match"},
    {NULL, "optimizers.0.match=[1]", BD_E_FIELD, "optimizers[0].match[0]"},
    {NULL, "optimizers.0.lr=-1", BD_E_RANGE, "optimizers[0].lr"},
    {NULL, "optimizers.0={\"kind\": \"muon\", \"match\": [\"*\"]}", BD_E_MISSING, "optimizers[0].lr"},
    {NULL, "optimizers.2.lr=1", BD_E_USAGE, "no element \"2\""},
    {NULL, "optimizers.x.lr=1", BD_E_USAGE, "no element \"x\""},
    {NULL, "steps.x=1", BD_E_USAGE, "inside a plain value"},
    {NULL, "novalue", BD_E_USAGE, "key=value"},
    {NULL, "=3", BD_E_USAGE, "key=value"},
    {NULL, "\xff.x=3", BD_E_USAGE, "key"},
    {NULL, "\xff=3", BD_E_USAGE, "key"},
    {NULL, "model=\xff", BD_E_USAGE, "not valid text"},
    {NULL, "model=3", BD_E_FIELD, "model must be a string"},
    {NULL, "constants=3", BD_E_FIELD, "constants must be an object"},
    {NULL, "constants.dim=wide", BD_E_FIELD, "constants.dim must be a number"},
    {NULL, "mode=loose", BD_E_FIELD, "mode must be one of"},
    {NULL, "qat=int6", BD_E_FIELD, "qat"},
    {NULL, "val_tokens=0", BD_E_RANGE, "val_tokens"},
};

TEST(refusals_name_the_key) {
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *f = &refusals[i];
        bd_recipe *r = (bd_recipe *)(uintptr_t)1;
        bd_err e;
        bd_status st = parse(&r, f->text ? f->text : small_recipe, f->set, &e);
        CHECK_MSG(st == f->code && r == NULL, "%zu: %s: status %s, %s", i, f->set ? f->set : f->text,
                  bd_status_name(st), e.msg);
        CHECK_MSG(strstr(e.msg, f->says) != NULL, "%zu: \"%s\" does not say \"%s\"", i, e.msg, f->says);
    }
}

TEST(broken_text_never_crashes) {
    size_t n = strlen(small_recipe);
    for (size_t cut = 0; cut < n; cut++) {
        bd_recipe *r = NULL;
        bd_err e = {0};
        CHECK(bd_recipe_parse(&r, small_recipe, cut, NULL, 0, &e) != BD_OK && !r && e.msg[0]);
    }
    char text[sizeof small_recipe];
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            memcpy(text, small_recipe, sizeof text);
            text[i] = (char)(text[i] ^ (1 << bit));
            bd_recipe *r = NULL;
            bd_err e = {0};
            bd_status st = bd_recipe_parse(&r, text, n, NULL, 0, &e);
            CHECK((st == BD_OK) == (r != NULL));
            bd_recipe_close(r);
        }
}

TEST(identity_leaves_out_where_the_run_ends) {
    const char *free_set[] = {"stop_step=5", "time_s=3", "val_every=2", "val_tokens=100"};
    const char *set[] = {"seed=8", "optimizers.0.lr=0.031", "steps=11", "constants.slope=0"};
    bd_recipe *r = recipe_with(small_recipe, NULL, 0), *s;
    uint8_t a[32], b[32];
    bd_err e = {0};
    CHECK_OK(bd_recipe_identity(r->json, strlen(r->json), a, &e), &e);
    s = recipe_with(small_recipe, free_set, 4);
    CHECK_OK(bd_recipe_identity(s->json, strlen(s->json), b, &e), &e);
    CHECK(!memcmp(a, b, 32));
    bd_recipe_close(s);
    for (int i = 0; i < 4; i++) {
        s = recipe_with(small_recipe, &set[i], 1);
        CHECK_OK(bd_recipe_identity(s->json, strlen(s->json), b, &e), &e);
        CHECK(memcmp(a, b, 32) != 0);
        bd_recipe_close(s);
    }
    CHECK(bd_recipe_identity("[1]", 3, b, &e) == BD_E_SYNTAX);
    CHECK(bd_recipe_identity("", 0, b, &e) == BD_E_SYNTAX);
    bd_recipe_close(r);
}

TEST(models_by_name) {
    bd_graph *g = NULL;
    bd_err e = {0};
    const char *set = "model=baselime";
    bd_recipe *r = recipe_with(small_recipe, &set, 1);
    CHECK(bd_recipe_graph(&g, r, &e) == BD_E_UNKNOWN && strstr(e.msg, "did you mean \"baseline\""));
    bd_recipe_close(r);
    set = "model=/nowhere/at/all.model";
    r = recipe_with(small_recipe, &set, 1);
    CHECK(bd_recipe_graph(&g, r, &e) == BD_E_MISSING && !g);
    bd_recipe_close(r);
    set = "constants.dimm=3";
    r = recipe_with(small_recipe, &set, 1);
    CHECK(bd_recipe_graph(&g, r, &e) != BD_OK && strstr(e.msg, "dimm"));
    bd_recipe_close(r);
    char path[1100];
    snprintf(path, sizeof path, "model=%s/models/baseline.model", BIRDIE_SOURCE_DIR);
    set = path;
    r = recipe_with(small_recipe, &set, 1);
    CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
    bd_graph_destroy(g);
    bd_recipe_close(r);
}

/* The recipes that ship: parsed, elaborated, every parameter in the group it should be in. */
TEST(shipped_recipes) {
    const char *names[] = {"baseline", "tiny"};
    for (int i = 0; i < 2; i++) {
        char path[1100];
        snprintf(path, sizeof path, "%s/configs/%s.json", BIRDIE_SOURCE_DIR, names[i]);
        bd_recipe *r = NULL;
        bd_graph *g = NULL;
        bd_err e = {0};
        CHECK_OK(bd_recipe_open(&r, path, NULL, 0, &e), &e);
        CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
        if (!i) CHECK_EQ_U64(g->param_count, 17059912);
        for (int k = 0; k < g->n_params; k++) {
            const bd_param *p = &g->params[k];
            const bd_opt_group *o = &r->groups[bd_recipe_group(r, p->name)];
            CHECK((o->kind == BD_OPTIMIZER_MUON) == (p->role == BD_ROLE_MATRIX));
            double lr = p->role == BD_ROLE_EMBEDDING ? 0.05 : p->role == BD_ROLE_HEAD ? 0.008 : 0.04;
            CHECK(o->lr == lr && o->decay == 0);
            if (o->kind == BD_OPTIMIZER_MUON)
                CHECK(o->nesterov && !o->row_norm && o->ns_steps == 5 && o->coefficients == BD_NS_FIXED);
            else CHECK(o->beta1 == 0.9 && o->beta2 == 0.95 && o->eps == 1e-8);
        }
        bd_graph_destroy(g);
        bd_recipe_close(r);
    }
}

/* Initial values of the official baseline, by name. */
TEST(initial_values_of_the_baseline) {
    bd_recipe *r = recipe_with("{\"model\": \"baseline\", \"constants\": {\"layers\": 2}, " GROUPS "}", NULL, 0);
    bd_graph *g = NULL;
    bd_err e = {0};
    CHECK_OK(bd_recipe_graph(&g, r, &e), &e);
    float *v = bd_alloc_aligned(g->param_floats, sizeof *v);
    CHECK(v != NULL);
    bd_graph_init_params(g, 1, v);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        const float *w = v + p->offset;
        int64_t n = p->rows * p->cols;
        double sum = 0, sq = 0, most = 0;
        for (int64_t k = 0; k < n; k++) {
            sum += w[k];
            sq += (double)w[k] * w[k];
            if (fabs(w[k]) > most) most = fabs(w[k]);
        }
        double mean = sum / (double)n, sd = sqrt(sq / (double)n - mean * mean);
        if (strstr(p->name, "tok_emb")) {
            CHECK(fabs(sd / 0.005 - 1) < 0.01 && fabs(mean) < 1e-4);
        } else if (strstr(p->name, "proj.weight")) {
            CHECK(most == 0);
        } else if (p->role == BD_ROLE_MATRIX) { /* uniform in +-1/sqrt(512) */
            double b = 1 / sqrt(512.0);
            CHECK(most <= b && most > 0.999 * b && fabs(sd / (b / sqrt(3.0)) - 1) < 0.01 && fabs(mean) < 1e-3);
        } else if (strstr(p->name, "resid_mix")) {
            CHECK(p->rows == 2 && w[0] == 1 && w[p->cols - 1] == 1 && w[p->cols] == 0 && sum == (double)p->cols);
        } else {
            double c = strstr(p->name, "q_gain") ? 1.5 : 1;
            CHECK(fabs(mean - c) < 1e-12 && sd < 1e-6);
        }
    }
    free(v);
    bd_graph_destroy(g);
    bd_recipe_close(r);
}

/* ---- the log ---- */

static bd_status read_log(bd_train_log *l, const char *text, bd_err *e) {
    *e = (bd_err){0};
    return bd_train_log_parse(l, text, strlen(text), e);
}

#define START(k) "{\"event\":\"start\",\"step\":" #k "}\n"
#define STEP(k)  "{\"event\":\"step\",\"step\":" #k ",\"lr_mul\":0.5,\"loss\":" #k ".25,\"more\":[1]}\n"
#define HASH     "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define END      "{\"event\":\"end\",\"weights_sha256\":\"" HASH "\"}\n"

TEST(logs) {
    bd_train_log l;
    bd_err e;
    CHECK_OK(read_log(&l, START(0) STEP(0) "{\"event\":\"val\"}\n" STEP(1) END "{\"ev", &e), &e);
    CHECK(l.n == 2 && l.steps[1].loss == 1.25 && l.steps[1].lr_mul == 0.5);
    CHECK_STR(l.weights_sha256, HASH);
    bd_train_log_free(&l);
    /* a resumed run: what lay beyond its start is taken back, an end before more steps is none */
    CHECK_OK(read_log(&l, START(0) STEP(0) STEP(1) STEP(2) START(1) STEP(1), &e), &e);
    CHECK(l.n == 2);
    bd_train_log_free(&l);
    CHECK_OK(read_log(&l, START(0) STEP(0) END START(1) STEP(1), &e), &e);
    CHECK(l.n == 2 && !l.weights_sha256[0]);
    bd_train_log_free(&l);
    CHECK_OK(read_log(&l, START(0) STEP(0) END START(1), &e), &e);
    CHECK(l.n == 1 && l.weights_sha256[0]);
    bd_train_log_free(&l);
    CHECK_OK(read_log(&l, START(0) STEP(0) STEP(1) END START(1), &e), &e);
    CHECK(l.n == 1 && !l.weights_sha256[0]);
    bd_train_log_free(&l);
    CHECK_OK(read_log(&l, "", &e), &e);
    CHECK(l.n == 0);
    bd_train_log_free(&l);
    static const struct refusal bad[] = {
        {START(0) STEP(1), NULL, BD_E_RANGE, "line 2: step 1 where step 0"},
        {START(0) STEP(0) STEP(0), NULL, BD_E_RANGE, "line 3"},
        {START(3), NULL, BD_E_RANGE, "line 1: a start at step 3"},
        {"{\"event\":\"start\"}\n", NULL, BD_E_RANGE, "line 1"},
        {"nonsense\n", NULL, BD_E_SYNTAX, "line 1"},
        {"[1]\n", NULL, BD_E_SYNTAX, "line 1"},
        {START(0) "{\"event\":\"step\",\"step\":0,\"loss\":1}\n", NULL, BD_E_FIELD, "line 2"},
        {START(0) "{\"event\":\"step\",\"step\":0,\"loss\":1,\"lr_mul\":-1}\n", NULL, BD_E_RANGE, "lr_mul"},
        {START(0) "{\"event\":\"step\",\"step\":0,\"loss\":1,\"lr_mul\":2}\n", NULL, BD_E_RANGE, "lr_mul"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bd_status st = read_log(&l, bad[i].text, &e);
        CHECK_MSG(st == bad[i].code && strstr(e.msg, bad[i].says), "%zu: %s %s", i, bd_status_name(st), e.msg);
        CHECK(!l.steps && !l.n);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
