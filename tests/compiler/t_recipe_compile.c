/* Compile recipes: built-in ones, files, knobs, and what is said about wrong ones. */
#include "bd_test.h"

#include "compiler/recipe_builtin.h"
#include "compiler/recipe_compile.h"

static bd_err e;

static bd_status open_text(bd_compile_recipe **r, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/recipe.json", test_tmp());
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    fputs(text, f);
    fclose(f);
    memset(&e, 0, sizeof e);
    return bd_compile_recipe_open(r, path, NULL, 0, &e);
}

static void refused(const char *text, bd_status code, const char *said) {
    bd_compile_recipe *r = NULL;
    CHECK_MSG(open_text(&r, text) == code, "%s gave %s: %s", text, bd_status_name(e.code), e.msg);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK(r == NULL && strstr(e.file, "recipe.json") != NULL);
}

static void knob_refused(const char *knob, bd_status code, const char *said) {
    bd_compile_recipe *r = NULL;
    memset(&e, 0, sizeof e);
    CHECK_MSG(bd_compile_recipe_open(&r, NULL, &knob, 1, &e) == code, "%s gave %s: %s", knob,
              bd_status_name(e.code), e.msg);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK(r == NULL);
}

TEST(built_in_recipes) {
    int n = 0;
    for (; bd_compile_recipe_names[n]; n++) {
        bd_compile_recipe *r;
        CHECK_OK(bd_compile_recipe_open(&r, bd_compile_recipe_names[n], NULL, 0, &e), &e);
        CHECK_STR(r->name, bd_compile_recipe_names[n]);
        CHECK_STR(bd_builtin_recipes[n].r.name, r->name);
        CHECK(r->n_rules > 0 && r->damp > 0 && r->rho > 0 && r->calib_tokens > 0 && r->summary);
        const bd_recipe_rule *last = &r->rules[r->n_rules - 1];
        CHECK_MSG(!strcmp(last->pattern, "*") && !last->role && last->min_elements < 0,
                  "%s: the last rule does not match everything", r->name);
        for (int i = 0; i < r->n_rules; i++) CHECK(r->rules[i].setting.by && r->rules[i].factor > 0);
        bd_compile_recipe_close(r);
    }
    CHECK_EQ_U64(n, bd_n_builtin_recipes);
    bd_compile_recipe *r;
    CHECK_OK(bd_compile_recipe_open(&r, NULL, NULL, 0, &e), &e);
    CHECK_STR(r->name, "trellis");
    CHECK(r->fill && r->feedback && r->order == BD_ORDER_RISING && r->row_steps && r->col_steps &&
          r->small_by_sensitivity);
    bd_compile_recipe_close(r);
    CHECK_EQ_U64(bd_compile_recipe_open(&r, "int9", NULL, 0, &e), BD_E_UNKNOWN);
    CHECK(strstr(e.msg, "trellis, int8-zlib") != NULL);
}

TEST(every_key) {
    bd_compile_recipe *r;
    CHECK_OK(open_text(&r,
                       "{\"base\": \"trellis\", \"fill\": false, \"damp\": 0.25, \"feedback\": false,"
                       "\"order\": \"activation\", \"rho\": 0.5, \"row_steps\": false, \"col_steps\": false,"
                       "\"calib_tokens\": 4096, \"small_by_sensitivity\": false, \"plain_h\": true,"
                       "\"states\": 64, \"lambda\": [0.03, 0.05], \"holdout\": 0.25, \"lqer_top\": 2,"
                       "\"lqer\": {\"rank\": 3, \"group\": 32}, \"grouping\": \"kind\", \"codec\": \"xz\","
                       "\"sort\": [\"mlp.fc\", \"tok_emb\"], \"steps\": {\"*.attn.*\": 0.5, \"*\": 2},"
                       "\"rules\": [{\"tensors\": \"*.mlp.*\", \"role\": \"matrix\", \"min_elements\": 100,"
                       "\"quantizer\": \"row\", \"bits\": 7, \"k\": 11.5, \"factor\": 1.5}]}"),
             &e);
    CHECK(!r->fill && r->damp == 0.25 && !r->feedback && r->order == BD_ORDER_FALLING && r->rho == 0.5 &&
          !r->row_steps);
    CHECK(!r->col_steps && r->calib_tokens == 4096 && !r->small_by_sensitivity && r->plain_h);
    CHECK(r->n_tune_lambda == 2 && r->tune_lambda[1] == 0.05 && r->n_tune_states == 0 && r->n_tune_rho == 0);
    CHECK(r->holdout == 0.25 && r->lqer_top == 2 && r->lqer.rank == 3 && r->lqer.group == 32);
    CHECK(r->grouping == BD_GROUP_KIND && r->codec == BD_CODEC_XZ);
    CHECK_STR(r->sort[1], "tok_emb");
    CHECK(r->sort[2] == NULL && r->n_steps == 2 && r->steps[1].factor == 2);
    CHECK_STR(r->steps[0].pattern, "*.attn.*");
    const bd_recipe_rule *rule = &r->rules[0];
    CHECK_STR(rule->pattern, "*.mlp.*");
    CHECK_STR(rule->role, "matrix");
    CHECK_STR(rule->setting.by->name, "row");
    CHECK(rule->min_elements == 100 && rule->setting.bits == 7 && rule->setting.k == 11.5f && rule->factor == 1.5);
    rule = &r->rules[r->n_rules - 1];
    CHECK(rule->setting.states == 64 && fabsf(rule->setting.lambda - 0.03f) < 1e-9f);
    bd_compile_recipe_close(r);
    CHECK_OK(open_text(&r, "{}"), &e); /* the default recipe */
    CHECK(r->fill && r->rules[r->n_rules - 1].setting.by->method == BD_Q_TCQ);
    bd_compile_recipe_close(r);
}

static const bd_recipe_rule *rule_of(const bd_compile_recipe *r, const char *pattern, const char *role) {
    for (int i = 0; i < r->n_rules; i++)
        if (!strcmp(r->rules[i].pattern, pattern) && r->rules[i].role && !strcmp(r->rules[i].role, role))
            return &r->rules[i];
    return NULL;
}

TEST(knobs) {
    static const char *const knobs[] = {"k=9",       "k_embedding=15", "k_mlp=12",      "bits_attention=5",
                                        "damp=0.02", "codec=range",    "order=natural", "lqer_top=0"};
    bd_compile_recipe *r;
    CHECK_OK(bd_compile_recipe_open(&r, "gptq-lqer-pgrp", knobs, 8, &e), &e);
    const bd_recipe_rule *emb = rule_of(r, "*", "embedding"), *mlp = rule_of(r, "*.mlp.*", "matrix"),
                         *attn = rule_of(r, "*.attn.*", "matrix");
    CHECK(emb && mlp && attn);
    CHECK(emb->setting.k == 15 && emb->setting.bits == 7 && mlp->setting.k == 12 && mlp->setting.bits == 6);
    CHECK(attn->setting.k == 9 && attn->setting.bits == 5);
    CHECK(r->damp == 0.02 && r->codec == BD_CODEC_RANGE && r->order == BD_ORDER_NATURAL && r->lqer_top == 0);
    bd_compile_recipe_close(r);
    /* A rule for all matrices gets a finer one before it; later knobs win. */
    static const char *const more[] = {"bits_mlp=4", "bits_mlp=7", "small_by_sensitivity=true"};
    CHECK_OK(bd_compile_recipe_open(&r, "int6", more, 3, &e), &e);
    mlp = rule_of(r, "*.mlp.*", "matrix");
    CHECK(mlp && mlp->setting.bits == 7 && r->rules[r->n_rules - 1].setting.bits == 6 && r->small_by_sensitivity);
    bd_compile_recipe_close(r);
    static const char *const other[] = {"quantizer=row", "bits=7", "states=8"};
    CHECK_OK(bd_compile_recipe_open(&r, NULL, other, 2, &e), &e);
    CHECK(r->rules[r->n_rules - 1].setting.by->method == BD_Q_ROW && r->rules[r->n_rules - 1].setting.bits == 7);
    bd_compile_recipe_close(r);
    CHECK_EQ_U64(bd_compile_recipe_open(&r, NULL, other, 3, &e), BD_E_FIELD);
    CHECK_MSG(strstr(e.msg, "states"), "%s", e.msg);
}

TEST(wrong_knobs) {
    knob_refused("damp", BD_E_USAGE, "key=value");
    knob_refused("=3", BD_E_USAGE, "key=value");
    knob_refused("lamda=0.1", BD_E_UNKNOWN, "did you mean \"lambda\"");
    knob_refused("states=7", BD_E_RANGE, "states");
    knob_refused("states=many", BD_E_RANGE, "states");
    knob_refused("lambda=[0.1,0.2,0.3,0.1,0.2,0.3,0.1,0.2,0.3]", BD_E_FIELD, "1 to 8");
    knob_refused("lambda=[\"a\"]", BD_E_RANGE, "lambda");
    knob_refused("states=[8,7]", BD_E_RANGE, "states");
    knob_refused("bits=6", BD_E_FIELD, "bits");
    knob_refused("k_mlp=6", BD_E_FIELD, "k");
    knob_refused("codec=gzip", BD_E_FIELD, "brotli");
    knob_refused("base=int8", BD_E_USAGE, "--recipe");
    knob_refused("quantizer=tcqq", BD_E_UNKNOWN, "tcq");
}

TEST(wrong_recipes) {
    refused("{\"dampp\": 1}", BD_E_UNKNOWN, "did you mean \"damp\"");
    refused("{\"orders\": 1}", BD_E_UNKNOWN, "did you mean \"order\"");
    refused("{\"zzzzzzzzzzzzzzzzzzzz\": 1}", BD_E_UNKNOWN, "unknown key zzzz");
    refused("{\"base\": \"gptq\"}", BD_E_UNKNOWN, "base must be one of trellis");
    refused("{\"order\": 3}", BD_E_FIELD, "\"natural\", \"activation\"");
    refused("{\"damp\": 0}", BD_E_RANGE, "damp");
    refused("{\"damp\": \"a\"}", BD_E_RANGE, "damp");
    refused("{\"steps\": {}}", BD_E_FIELD, "name pattern");
    refused("{\"steps\": {\"*\": -1}}", BD_E_RANGE, "*");
    refused("{\"feedback\": 1}", BD_E_FIELD, "true or false");
    refused("{\"damp\": 1, \"damp\": 2}", BD_E_SYNTAX, "line 1");
    refused("{\"damp\": 1,\n \"rho\" 2}", BD_E_SYNTAX, "line 2");
    refused("{\"rules\": 3}", BD_E_FIELD, "list");
    refused("{\"rules\": [3]}", BD_E_FIELD, "rule 1");
    refused("{\"rules\": [{\"quantizer\": \"int4\"}]}", BD_E_UNKNOWN, "no quantizer \"int4\"");
    refused("{\"rules\": [{\"quantizer\": \"row\", \"states\": 4}]}", BD_E_UNKNOWN, "no setting states");
    refused("{\"rules\": [{\"quantizer\": \"row\", \"bit\": 4}]}", BD_E_UNKNOWN, "did you mean \"bits\"");
    refused("{\"rules\": [{\"quantizer\": \"row\", \"bits\": 4.5}]}", BD_E_RANGE, "not an integer");
    refused("{\"rules\": [{\"quantizer\": \"row\", \"bits\": 40}]}", BD_E_RANGE, "bits");
    refused("{\"rules\": [{\"quantizer\": \"row\", \"role\": \"bias\"}]}", BD_E_FIELD, "role must be one of");
    refused("{\"sort\": \"mlp.fc\"}", BD_E_FIELD, "sort");
    refused("{\"lqer\": 3}", BD_E_FIELD, "lqer");
    refused("[1]", BD_E_FIELD, "JSON object");
    refused("", BD_E_SYNTAX, "line");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
