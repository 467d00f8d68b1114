/* Plan text: what it says, and where it is wrong. */
#include "bd_test.h"

#include "format/plan_text.h"

static bd_err e;

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static const char full[] =
    "birdie-plan 1\n"
    "budget 2400000\n"
    "codecs brotli 1.0.9, zstd 1.5.4, xz 5.4.1\n"
    "calibration 65536 " HASH
    "\n"
    "rounding feedback=yes order=activation damp=0.03 rows=loss rho=0.1\n"
    "tensor tok_emb.weight tok_emb row bits=8 k=16.25 lost=0.000312\n"
    "tensor blocks.0.attn_scale small f16\n"
    "tensor blocks.0.mlp.fc.weight mlp.fc ternary group=128 lost=0.25\n"
    "tensor blocks.0.mlp.proj.weight mlp.proj f32 lost=0\n"
    "group tok_emb range bytes=123456\n"
    "group small brotli bytes=0\n";

static void refused(const char *text, bd_status code, const char *said) {
    bd_plan *p = NULL;
    memset(&e, 0, sizeof e);
    bd_status st = bd_plan_parse(&p, text, strlen(text), &e);
    CHECK_MSG(st == code, "%s gave %s: %s", text, bd_status_name(st), e.msg);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK(p == NULL);
}

static void refused_line(const char *line, bd_status code, const char *said) {
    char text[512];
    snprintf(text, sizeof text, "birdie-plan 1\n# a comment\n\n%s\n", line);
    refused(text, code, "plan line 4: ");
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK_EQ_U64(e.offset, 27);
}

TEST(says_what_it_reads) {
    bd_plan *p;
    CHECK_OK(bd_plan_parse(&p, full, sizeof full - 1, &e), &e);
    CHECK(p->budget == 2400000 && p->calib_tokens == 65536 && p->n_tensors == 4 && p->n_groups == 2);
    CHECK_STR(p->codecs, "brotli 1.0.9, zstd 1.5.4, xz 5.4.1");
    CHECK_STR(p->calib_sha256, HASH);
    CHECK(p->rounding.given && p->rounding.feedback && p->rounding.act_order && p->rounding.rows_by_loss);
    CHECK(p->rounding.damp == 0.03 && p->rounding.rho == 0.1);
    const bd_plan_tensor *t = p->tensors;
    CHECK(t[0].method == BD_Q_ROW && t[0].bits == 8 && t[0].k == 16.25f && t[0].lost == 0.000312 && t[0].line == 6);
    CHECK(t[1].method == BD_Q_F16 && t[1].lost < 0 && t[2].qgroup == 128 && t[3].method == BD_Q_F32);
    CHECK(p->groups[0].codec == BD_CODEC_RANGE && p->groups[0].bytes == 123456 && p->groups[1].line == 11);
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_plan_print(p, &b, &e), &e);
    CHECK(b.size == sizeof full - 1 && !memcmp(b.data, full, b.size));
    bd_buf_free(&b);
    bd_plan_close(p);
}

TEST(every_float_comes_back) {
    uint64_t seed = test_seed();
    for (int i = 0; i < 2000; i++) {
        uint32_t bits = (uint32_t)test_rand(&seed) & 0x7fffffff;
        float k;
        memcpy(&k, &bits, sizeof k);
        if (!(k <= 1e6f)) continue;
        bd_plan_tensor t = {.name = "a", .group = "g", .method = BD_Q_ROW, .bits = 6, .k = k, .lost = -1};
        bd_plan p = {.tensors = &t, .n_tensors = 1}, *q;
        bd_buf b;
        bd_buf_init(&b);
        CHECK_OK(bd_plan_print(&p, &b, &e), &e);
        CHECK_OK(bd_plan_parse(&q, (const char *)b.data, b.size, &e), &e);
        CHECK(q->tensors[0].k == k);
        bd_plan_close(q);
        bd_buf_free(&b);
    }
}

TEST(truncated_anywhere) {
    for (size_t n = 0; n < sizeof full - 1; n++) {
        bd_plan *p = NULL;
        memset(&e, 0, sizeof e);
        if (bd_plan_parse(&p, full, n, &e) == BD_OK) bd_plan_close(p);
        else CHECK(p == NULL && e.msg[0]);
    }
}

TEST(wrong_lines) {
    refused("", BD_E_TRUNCATED, "empty");
    refused("birdie-plan 2\n", BD_E_MAGIC, "birdie-plan 1");
    refused_line("tensor a b", BD_E_SYNTAX, "tensor NAME GROUP METHOD");
    refused_line("tensor a b int6", BD_E_UNKNOWN, "unknown method \"int6\"");
    refused_line("tensor a b row bits=9", BD_E_RANGE, "2 to 8");
    refused_line("tensor a b row bits=x", BD_E_SYNTAX, "not a number");
    refused_line("tensor a b row k=-1", BD_E_SYNTAX, "0 or more");
    refused_line("tensor a b row k=nan", BD_E_SYNTAX, "0 or more");
    refused_line("tensor a b row k=1e30", BD_E_RANGE, "too large");
    refused_line("tensor a b row group=3", BD_E_UNKNOWN, "unknown key \"group\"");
    refused_line("tensor a b ternary group=0", BD_E_RANGE, "1 to 65536");
    refused_line("tensor a b f16 6", BD_E_SYNTAX, "key=value");
    refused_line("tensor  a b f16", BD_E_SYNTAX, "single spaces");
    refused_line("tensor a b f16 ", BD_E_SYNTAX, "single spaces");
    refused_line("group a range", BD_E_SYNTAX, "group NAME CODEC");
    refused_line("group a gzip bytes=3", BD_E_UNKNOWN, "unknown codec \"gzip\"");
    refused_line("group a range bytes=99999999999999999999", BD_E_SYNTAX, "not a number");
    refused_line("budget -3", BD_E_SYNTAX, "not a number");
    refused_line("rounding order=random", BD_E_UNKNOWN, "\"random\" is not a choice");
    refused_line("rounding damp=0", BD_E_RANGE, "damp");
    refused_line("rounding rho=1e9", BD_E_RANGE, "rho");
    refused_line("rounding seed=1", BD_E_UNKNOWN, "unknown key \"seed\"");
    refused_line("calibration 5 abc", BD_E_SYNTAX, "starts with \"calibration\"");
    refused_line("hello", BD_E_SYNTAX, "starts with \"hello\"");
    refused("birdie-plan 1\ngroup a range bytes=1\ngroup a range bytes=1\n", BD_E_SYNTAX,
            "plan line 3: a second line");
    refused("birdie-plan 1\nbudget\t3\n", BD_E_SYNTAX, "plan line 2: byte 9");
    refused("birdie-plan 1\n\n# caf\xc3\xa9\n", BD_E_SYNTAX, "plan line 3: byte 195");
}

TEST(limits) {
    size_t n = (1 << 20) + 1;
    char *big = malloc(n);
    memset(big, '\n', n);
    bd_plan *p = NULL;
    CHECK_EQ_U64(bd_plan_parse(&p, big, n, &e), BD_E_LIMIT);
    CHECK_EQ_U64(bd_plan_parse(&p, big, 100000, &e), BD_E_LIMIT);
    free(big);
}

TEST(names_of_methods_and_codecs) {
    for (int i = 0; i < BD_Q_COUNT; i++) CHECK(bd_qmethod_find(bd_qmethod_name((bd_qmethod)i)) == i);
    for (int i = 0; i < BD_CODEC_COUNT; i++) CHECK(bd_codec_find(bd_codec_name((bd_codec)i)) == i);
    CHECK(bd_qmethod_find("x") < 0 && bd_codec_find("") < 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
