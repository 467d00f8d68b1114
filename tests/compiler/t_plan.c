/* Plans: carried out, edited, solved around. */
#include "tests/compiler/compile_bench.h"

static const tiny_spec TINY = {48, 16, 3, 4, 2, 24};
static bd_err e;

static void plan_text(const bd_plan *p, char *out, size_t size) {
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_plan_print(p, &b, &e), &e);
    CHECK(b.size < size);
    memcpy(out, b.data, b.size);
    out[b.size] = 0;
    bd_buf_free(&b);
}

static double param_of(const bd_plan_tensor *t, const char *key) {
    for (int i = 0; i < t->n_params; i++)
        if (!strcmp(t->params[i].key, key)) return strtod(t->params[i].value, NULL);
    return -1;
}

TEST(plan_gives_the_same_bytes) {
    static const char *const recipes[] = {"trellis", "int6", "gptq-lqer-pgrp", "ternary-g128"};
    static const char *const knobs[] = {"codec=range"};
    static char text[65536], again_text[65536];
    for (int i = 0; i < 4; i++) {
        bench *b = bench_open(&TINY, "cpu", 1, recipes[i], knobs, 1);
        bd_compile_opts o = bench_options(b, 9000);
        bd_compile_result r, again;
        bd_buf file, copy;
        bd_buf_init(&file);
        bd_buf_init(&copy);
        CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
        plan_text(r.plan, text, sizeof text);
        CHECK(strstr(text, "\nshard 010203") && strstr(text, "\nrecipe ") && strstr(text, "\nmetric "));
        bd_plan *plan;
        CHECK_OK(bd_plan_parse(&plan, text, strlen(text), &e), &e);
        /* another recipe of that name: a plan says everything itself */
        bench_recipe(b, "int8", NULL, 0);
        const char *name = b->r->name;
        b->r->name = recipes[i];
        o.recipe = b->r;
        o.plan = plan;
        CHECK_OK(bd_compile(&copy, &again, b->m, b->be, &o, &e), &e);
        CHECK(again.limit == BD_LIMIT_PLAN);
        CHECK_MSG(copy.size == file.size && !memcmp(copy.data, file.data, file.size),
                  "recipe %s: %zu and %zu bytes", recipes[i], file.size, copy.size);
        plan_text(again.plan, again_text, sizeof again_text);
        CHECK_STR(again_text, text);
        b->r->name = name;
        bd_plan_close(plan);
        bd_compile_result_free(&r);
        bd_compile_result_free(&again);
        bd_buf_free(&file);
        bd_buf_free(&copy);
        bench_close(b);
    }
}

TEST(edited_plans_are_carried_out) {
    bench *b = bench_open(&TINY, "cpu", 1, NULL, NULL, 0);
    bd_compile_opts o = bench_options(b, 7000);
    bd_compile_result r, again;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
    bd_plan edited = *r.plan;
    int at = bd_graph_find_param(b->m->graph, "blocks.1.attn.c_q.weight");
    bd_plan_tensor *t = &edited.tensors[at];
    t->quantizer = "ternary";
    t->n_params = 1;
    t->params[0] = (bd_plan_param){"group", "32"};
    t->group = "mine";
    edited.n_groups = 0;
    edited.metric.feedback = false;
    o.plan = &edited;
    o.budget = 8000; /* of another group, and without feedback */
    CHECK_OK(bd_compile(&file, &again, b->m, b->be, &o, &e), &e);
    bd_artifact *a = bench_check_file(b, &file, &again, 8000);
    bool seen = false;
    for (uint32_t k = 0; k < a->n_groups; k++)
        if (!strcmp(a->groups[k].name, "mine")) {
            seen = true;
            CHECK(a->groups[k].n_tensors == 1 && a->groups[k].tensors[0].param == (uint32_t)at);
            CHECK(a->groups[k].tensors[0].method == BD_Q_TERNARY && a->groups[k].tensors[0].group == 32);
        }
    CHECK(seen && !again.plan->metric.feedback);
    bd_artifact_close(a);
    bd_compile_result_free(&again);
    /* what cannot be done */
    t->line = 17;
    t->params[0].value = "4096";
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_RANGE);
    CHECK_MSG(strstr(e.msg, "plan line 17") != NULL, "%s", e.msg);
    t->params[0] = (bd_plan_param){"states", "8"};
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_UNKNOWN);
    CHECK_MSG(strstr(e.msg, "plan line 17") && strstr(e.msg, "states"), "%s", e.msg);
    t->quantizer = "ternery";
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_UNKNOWN);
    CHECK_MSG(strstr(e.msg, "plan line 17") && strstr(e.msg, "ternery"), "%s", e.msg);
    t->quantizer = "ternary";
    t->params[0] = (bd_plan_param){"group", "x"};
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_RANGE);
    t->params[0].value = "32";
    t->name = "other";
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_FIELD);
    CHECK(strstr(e.msg, "plan line 17") != NULL && strstr(e.msg, "other") != NULL);
    edited.n_tensors--;
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_SHAPE);
    edited.n_tensors++;
    t->name = "blocks.1.attn.c_q.weight";
    o.budget = 2000;
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_BUDGET);
    o.budget = 7000;
    bd_plan_group group = {"nothing", BD_CODEC_RAW, 0, 33};
    edited.groups = &group;
    edited.n_groups = 1;
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_UNKNOWN);
    CHECK(strstr(e.msg, "plan line 33") != NULL);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    bench_close(b);
}

/* Fixed lines stay as a person set them, to the last digit; the rest fills the budget. */
TEST(solved_around_fixed_lines) {
    static const uint64_t budgets[] = {5500, 7000, 9000};
    bench *b = bench_open(&TINY, "cpu", 2, NULL, NULL, 0);
    bd_compile_opts o = bench_options(b, 7000);
    bd_compile_result r, again;
    bd_buf file;
    bd_buf_init(&file);
    CHECK_OK(bd_compile(&file, &r, b->m, b->be, &o, &e), &e);
    bd_plan edited = *r.plan;
    int q = bd_graph_find_param(b->m->graph, "blocks.1.attn.c_q.weight"),
        v = bd_graph_find_param(b->m->graph, "blocks.0.attn_scale");
    CHECK(q >= 0 && v >= 0);
    edited.tensors[q].quantizer = "row";
    edited.tensors[q].n_params = 2;
    edited.tensors[q].params[0] = (bd_plan_param){"bits", "4"};
    edited.tensors[q].params[1] = (bd_plan_param){"k", "3.25"};
    edited.tensors[q].fixed = true;
    edited.tensors[v].quantizer = "f32";
    edited.tensors[v].n_params = 0;
    edited.tensors[v].fixed = true;
    edited.n_groups = 0;
    o.plan = &edited;
    for (int i = 0; i < 3; i++) {
        o.budget = budgets[i];
        CHECK_OK(bd_compile(&file, &again, b->m, b->be, &o, &e), &e);
        bd_artifact_close(bench_check_file(b, &file, &again, budgets[i]));
        CHECK(again.limit == BD_LIMIT_BUDGET && again.plan->tensors[q].fixed && again.plan->tensors[v].fixed);
        CHECK_STR(again.plan->tensors[q].quantizer, "row");
        CHECK(param_of(&again.plan->tensors[q], "bits") == 4 && param_of(&again.plan->tensors[q], "k") == 3.25);
        CHECK_STR(again.plan->tensors[v].quantizer, "f32");
        bd_compile_result_free(&again);
    }
    /* All lines fixed: nothing to search. */
    for (int i = 0; i < edited.n_tensors; i++) edited.tensors[i].fixed = true;
    o.budget = 20000;
    CHECK_OK(bd_compile(&file, &again, b->m, b->be, &o, &e), &e);
    CHECK(again.limit == BD_LIMIT_RECIPE);
    bd_compile_result_free(&again);
    o.budget = 3000;
    CHECK_EQ_U64(bd_compile(&file, &again, b->m, b->be, &o, &e), BD_E_BUDGET);
    CHECK_MSG(strstr(e.msg, "fixed lines"), "%s", e.msg);
    bd_compile_result_free(&r);
    bd_buf_free(&file);
    bench_close(b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
