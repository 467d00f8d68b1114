/* Compile recipes: built-in ones, files, and what is said about wrong ones. */
#include "bd_test.h"

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
    return bd_compile_recipe_open(r, path, &e);
}

static void refused(const char *text, bd_status code, const char *said) {
    bd_compile_recipe *r = NULL;
    CHECK_MSG(open_text(&r, text) == code, "%s gave %s: %s", text, bd_status_name(e.code), e.msg);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK(r == NULL && strstr(e.file, "recipe.json") != NULL);
}

TEST(built_in_recipes) {
    const struct {
        const char *name;
        bd_qmethod matrix;
        int lo, hi;
    } want[] = {{NULL, BD_Q_ROW, 5, 8},         {"gptq", BD_Q_ROW, 5, 8}, {"int8", BD_Q_ROW, 8, 8},
                {"int7", BD_Q_ROW, 7, 7},       {"int6", BD_Q_ROW, 6, 6}, {"int5", BD_Q_ROW, 5, 5},
                {"ternary", BD_Q_TERNARY, 5, 8}};
    for (int i = 0; i < 7; i++) {
        bd_compile_recipe *r;
        CHECK_OK(bd_compile_recipe_open(&r, want[i].name, &e), &e);
        CHECK(r->matrix == want[i].matrix && r->bits_min == want[i].lo && r->bits_max == want[i].hi);
        CHECK_STR(r->name, want[i].name ? want[i].name : "gptq");
        bd_compile_recipe_close(r);
    }
    bd_compile_recipe *r;
    CHECK_EQ_U64(bd_compile_recipe_open(&r, "int9", &e), BD_E_UNKNOWN);
    CHECK(strstr(e.msg, "gptq, int8, int7, int6, int5, ternary") != NULL);
}

TEST(every_key) {
    bd_compile_recipe *r;
    CHECK_OK(
        open_text(&r,
                  "{\"matrix\": \"ternary\", \"bits\": [4, 6], \"group\": 64, \"damp\": 0.25, \"feedback\": false,"
                  "\"order\": \"natural\", \"tensors\": \"equal\", \"rows\": \"deviation\", \"rho\": 0.5,"
                  "\"calib_tokens\": 4096, \"small\": \"int8\", \"steps\": {\"*.attn.*\": 0.5, \"*\": 2}}"),
        &e);
    CHECK(r->matrix == BD_Q_TERNARY && r->bits_min == 4 && r->bits_max == 6 && r->group == 64 && r->damp == 0.25);
    CHECK(!r->feedback && !r->act_order && !r->tensors_by_loss && !r->rows_by_loss && r->rho == 0.5);
    CHECK(r->calib_tokens == 4096 && r->small == BD_Q_ROW && r->n_steps == 2 && r->steps[0].factor == 0.5);
    CHECK_STR(r->steps[0].pattern, "*.attn.*");
    bd_compile_recipe_close(r);
    CHECK_OK(open_text(&r, "{}"), &e); /* the default recipe */
    CHECK(r->tensors_by_loss && r->rows_by_loss && r->feedback && r->bits_min == 5);
    bd_compile_recipe_close(r);
}

TEST(wrong_recipes) {
    refused("{\"dampp\": 1}", BD_E_UNKNOWN, "did you mean \"damp\"");
    refused("{\"orders\": 1}", BD_E_UNKNOWN, "did you mean \"order\"");
    refused("{\"zzzzzzzzzzzz\": 1}", BD_E_UNKNOWN, "unknown key zzzzzzzzzzzz");
    refused("{\"matrix\": \"int4\"}", BD_E_FIELD, "\"row\" or \"ternary\"");
    refused("{\"order\": 3}", BD_E_FIELD, "\"natural\" or \"activation\"");
    refused("{\"bits\": [6, 5]}", BD_E_RANGE, "bits");
    refused("{\"bits\": [1, 5]}", BD_E_RANGE, "from 2 to 8");
    refused("{\"bits\": 5}", BD_E_FIELD, "[fewest, most]");
    refused("{\"damp\": 0}", BD_E_RANGE, "damp");
    refused("{\"damp\": \"a\"}", BD_E_RANGE, "damp");
    refused("{\"steps\": {}}", BD_E_FIELD, "name pattern");
    refused("{\"steps\": {\"*\": -1}}", BD_E_RANGE, "*");
    refused("{\"feedback\": 1}", BD_E_FIELD, "true or false");
    refused("{\"damp\": 1, \"damp\": 2}", BD_E_SYNTAX, "line 1");
    refused("{\"damp\": 1,\n \"rho\" 2}", BD_E_SYNTAX, "line 2");
    refused("[1]", BD_E_FIELD, "JSON object");
    refused("", BD_E_SYNTAX, "line");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
