/* `inspect --plan`: what was planned beside what the file holds. */
#include "bd_test.h"

#include <jansson.h>
#include <sys/wait.h>

#include "base/file.h"
#include "format/plan_text.h"
#include "tests/verify/tiny_artifact.h"

static bd_err e;
static char out_text[1 << 17], err_text[1 << 14];

static const char *in_tmp(const char *name) {
    static char path[4][256];
    static int slot;
    char *p = path[slot++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static void slurp(const char *name, char *out, size_t size) {
    FILE *f = fopen(in_tmp(name), "rb");
    CHECK(f != NULL);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
}

static int birdie(const char *args) {
    char cmd[1024];
    snprintf(cmd, sizeof cmd, "T=%s; %s %s >$T/stdout 2>$T/stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    slurp("stdout", out_text, sizeof out_text);
    slurp("stderr", err_text, sizeof err_text);
    return WEXITSTATUS(status);
}

static void inspect(const char *args) {
    int rc = birdie(args);
    CHECK_MSG(rc == 0, "birdie %s: exit %d: %s", args, rc, err_text);
}

static json_t *json_report(const char *args) {
    inspect(args);
    json_t *o = json_loads(out_text, 0, NULL);
    CHECK_MSG(o != NULL, "%s", out_text);
    return o;
}

static void says(const char *text) {
    CHECK_MSG(strstr(out_text, text) != NULL, "lacks \"%s\": %s", text, out_text);
}

static int count(const char *text) {
    int n = 0;
    for (const char *s = out_text; (s = strstr(s, text)); s += strlen(text)) n++;
    return n;
}

/* --- an artifact and the plan that fits it --- */

typedef struct fixture {
    bd_arena *a;
    bd_model *m;
    bd_tokenizer *tok;
    bd_artifact *art;
    bd_plan plan;
    char words[64][2][24];
} fixture;

static void param(bd_plan_tensor *t, const char *key, const char *value) {
    t->params[t->n_params++] = (bd_plan_param){key, value};
}

static void open_fixture(fixture *f) {
    memset(f, 0, sizeof *f);
    bd_protocol p;
    bd_protocol_default(&p);
    f->a = bd_arena_create(0);
    f->m = tiny_model(&TA_SPEC, 3);
    f->tok = ta_tokenizer(false);
    f->art = ta_artifact(f->a, f->m, f->tok, &p);
    bd_buf file;
    ta_build(f->art, &file); /* sizes of the groups */
    bd_buf_free(&file);
    int n = f->m->graph->n_params;
    CHECK(n <= 64);
    f->plan = (bd_plan){.budget = 12345, .n_tensors = n};
    snprintf(f->plan.recipe, sizeof f->plan.recipe, "mine");
    f->plan.tensors = bd_arena_alloc(f->a, (uint64_t)n, sizeof *f->plan.tensors);
    for (uint32_t k = 0; k < f->art->n_groups; k++) {
        const bd_qgroup *g = &f->art->groups[k];
        double bytes[64];
        CHECK_OK(bd_qgroup_tensor_bytes(g, bytes, &e), &e);
        for (uint32_t i = 0; i < g->n_tensors; i++) {
            const bd_qtensor *q = &g->tensors[i];
            bd_plan_tensor *t = &f->plan.tensors[q->param];
            *t = (bd_plan_tensor){.name = f->m->graph->params[q->param].name,
                                  .group = g->name,
                                  .quantizer = bd_qmethod_name(q->method),
                                  .bytes = nearbyint(bytes[i]),
                                  .nats = 1e-6};
            char(*w)[24] = f->words[q->param];
            if (q->method == BD_Q_ROW || q->method == BD_Q_LQER) param(t, "bits", "8");
            if (q->method == BD_Q_LQER) param(t, "group", "5");
            if (q->method == BD_Q_LQER) param(t, "rank", "2");
            if (q->method != BD_Q_TCQ) continue;
            snprintf(w[0], sizeof w[0], "%u", q->states);
            snprintf(w[1], sizeof w[1], "%.9g", (double)q->base);
            param(t, "states", w[0]);
            param(t, "step", w[1]);
        }
    }
}

static void close_fixture(fixture *f) {
    bd_arena_destroy(f->a);
    bd_model_close(f->m);
    bd_tokenizer_close(f->tok);
}

/* The artifact with this plan (NULL: the fixture's) and the plan by itself. */
static void save(fixture *f, const char *text) {
    bd_buf plan, file;
    bd_buf_init(&plan);
    if (text) bd_buf_put(&plan, text, strlen(text));
    else CHECK_OK(bd_plan_print(&f->plan, &plan, &e), &e);
    f->art->plan_text = (const char *)plan.data;
    f->art->plan_size = plan.size;
    ta_build(f->art, &file);
    CHECK_OK(bd_file_write(in_tmp("a.birdie"), file.data, file.size, &e), &e);
    CHECK_OK(bd_file_write(in_tmp("a.plan"), plan.data, plan.size, &e), &e);
    bd_buf_free(&plan);
    bd_buf_free(&file);
}

TEST(a_plan_that_fits_its_file) {
    fixture f;
    open_fixture(&f);
    save(&f, NULL);
    inspect("inspect $T/a.birdie --plan");
    says("recipe       mine, budget 12345");
    says("tok_emb.weight ");
    says("1e-06");
    says("\nsum ");
    says("\nfirst                range ");
    says("\nsecond               zstd ");
    CHECK_MSG(!count("!") && !count("say something else"), "%s", out_text);
    json_t *o = json_report("inspect $T/a.birdie --plan --json"), *r = json_object_get(o, "plan_report");
    CHECK(r && json_is_null(json_object_get(o, "plan_error")) && json_is_string(json_object_get(o, "plan")));
    CHECK(json_integer_value(json_object_get(r, "differing_lines")) == 0);
    CHECK(json_array_size(json_object_get(r, "groups")) == 2);
    const json_t *list = json_object_get(r, "tensors");
    CHECK((int)json_array_size(list) == f.plan.n_tensors);
    double sum = 0;
    for (int i = 0; i < f.plan.n_tensors; i++) {
        const json_t *t = json_array_get(list, (size_t)i);
        double planned = json_number_value(json_object_get(t, "planned_bytes"));
        double actual = json_number_value(json_object_get(t, "actual_bytes"));
        CHECK_MSG(planned == f.plan.tensors[i].bytes && fabs(planned - actual) <= 0.5, "%d: %g, %g", i, planned,
                  actual);
        CHECK(json_is_null(json_object_get(t, "differs")) && json_is_object(json_object_get(t, "found")));
        sum += actual;
    }
    double groups = 0;
    for (size_t k = 0; k < 2; k++) {
        const json_t *g = json_array_get(json_object_get(r, "groups"), k);
        groups += atof(json_string_value(json_object_get(g, "actual_bytes")));
        CHECK(json_number_value(json_object_get(g, "planned_bytes")) > 0);
    }
    CHECK_MSG(sum <= groups && sum > groups - 40, "%g of %g", sum, groups); /* names belong to no tensor */
    json_decref(o);
    close_fixture(&f);
}

static void differs(fixture *f, const char *said) {
    save(f, NULL);
    inspect("inspect $T/a.birdie --plan");
    CHECK_MSG(count("  ! ") == 1, "%s", out_text);
    says(said);
    says("\n1 lines of the plan say something else");
}

TEST(lines_that_lie_are_marked) {
    fixture f;
    open_fixture(&f);
    int row = -1, tcq = -1, lqer = -1;
    for (int i = 0; i < f.plan.n_tensors; i++) {
        const char *by = f.plan.tensors[i].quantizer;
        if (row < 0 && !strcmp(by, "row")) row = i;
        if (tcq < 0 && !strcmp(by, "tcq")) tcq = i;
        if (lqer < 0 && !strcmp(by, "lqer")) lqer = i;
    }
    CHECK(row >= 0 && tcq >= 0 && lqer >= 0);
    const struct {
        int at, param;
        const char *value, *said;
    } lies[] = {{row, 0, "6", ": bits=8\n"},
                {tcq, 0, "64", ": states=1\n"},
                {tcq, 1, "0.01", ": step=0.000976562"},
                {lqer, 1, "64", ": group=5\n"},
                {lqer, 2, "4", ": rank=2\n"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        bd_plan_tensor *t = &f.plan.tensors[lies[i].at], was = *t;
        t->params[lies[i].param].value = lies[i].value;
        differs(&f, lies[i].said);
        *t = was;
    }
    bd_plan_tensor *t = &f.plan.tensors[row], was = *t;
    t->quantizer = "tcq";
    differs(&f, ": method=row\n");
    t->quantizer = "magic";
    differs(&f, "no quantizer is called magic");
    *t = was;
    t->group = "third";
    differs(&f, ": in group ");
    *t = was;
    t->name = "other.weight";
    differs(&f, "the model's parameter is ");
    *t = was;
    t->fixed = true; /* that is no lie */
    save(&f, NULL);
    inspect("inspect $T/a.birdie --plan");
    CHECK(!count("!"));
    says("row fixed bits=8");
    *t = was;
    f.plan.n_tensors -= 2;
    save(&f, NULL);
    inspect("inspect $T/a.birdie --plan");
    says("the plan lacks 2 parameters");
    json_t *o = json_report("inspect $T/a.birdie --plan --json");
    CHECK(json_integer_value(json_object_get(json_object_get(o, "plan_report"), "differing_lines")) == 2);
    json_decref(o);
    close_fixture(&f);
}

TEST(a_text_that_is_no_plan) {
    static const char *const texts[] = {"made by a test\n", "", "birdie-plan 1\nbudget 3\n",
                                        "birdie-plan 2\nwhat\n"};
    fixture f;
    open_fixture(&f);
    for (int i = 0; i < 4; i++) {
        save(&f, texts[i]);
        inspect("inspect $T/a.birdie --plan");
        says("this text is no plan (");
        says(texts[i]);
        says("\nfirst ");
        json_t *o = json_report("inspect $T/a.birdie --plan --json");
        CHECK(json_is_null(json_object_get(o, "plan_report")) && json_is_string(json_object_get(o, "plan_error")));
        json_decref(o);
    }
    close_fixture(&f);
}

TEST(a_plan_by_itself) {
    static const char more[] =
        "birdie-plan 2\nbudget 99\nmetric damp=0.001 rho=0.05 order=natural feedback=yes rows=yes cols=no "
        "couple=yes\n"
        "tensor a g tcq step=0.25 states=8 lambda=0.05 fixed bytes=10 nats=2e-5\ntensor b g log levels=8\n"
        "group g range bytes=31\n";
    CHECK_OK(bd_file_write(in_tmp("b.plan"), more, sizeof more - 1, &e), &e);
    for (int i = 0; i < 2; i++) {
        inspect(i ? "inspect $T/b.plan --plan" : "inspect $T/b.plan");
        says("type         plan");
        says("recipe       not named, budget 99");
        says("rho 0.05, order natural, feedback yes, row steps yes, column steps no, coupled rows yes");
        says("tcq fixed step=0.25 states=8 lambda=0.05");
        says("log levels=8");
        says("\ng                    range              10           31");
        CHECK(!count("actual"));
    }
    json_t *o = json_report("inspect $T/b.plan --json"), *r = json_object_get(o, "plan_report");
    const json_t *t = json_array_get(json_object_get(r, "tensors"), 0);
    CHECK(json_is_true(json_object_get(t, "fixed")) && !json_object_get(t, "actual_bytes"));
    CHECK_STR(json_string_value(json_object_get(json_object_get(t, "params"), "lambda")), "0.05");
    CHECK(json_is_null(json_object_get(json_array_get(json_object_get(r, "tensors"), 1), "nats")));
    json_decref(o);
    CHECK_OK(bd_file_write(in_tmp("b.plan"), more, sizeof more - 10, &e), &e);
    CHECK(birdie("inspect $T/b.plan") == 2 && strstr(err_text, "plan line 6") && strstr(err_text, "b.plan"));
    CHECK(birdie("inspect $T/b.plan --tensors") == 2);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
