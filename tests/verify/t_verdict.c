/* Rules, the verdict over checks, and the comparison with the original text. */
#include "tests/verify/tiny_artifact.h"
#include "verify/verdict.h"
#include "verify/verify_text.h"

/* --- rules --- */

static bd_rules rules_of(const char *text) {
    bd_rules r;
    bd_err e = {0};
    CHECK_OK(bd_rules_parse(&r, text, strlen(text), &e), &e);
    return r;
}

TEST(profiles_of_the_project) {
    bd_rules r;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&r, NULL, &e), &e);
    CHECK_STR(r.name, "default");
    CHECK_EQ_U64(r.size_cap, 16000000);
    CHECK(r.eval_s == 0 && r.processors == 0 && r.canonical_tokens == 0 && r.canonical_bytes == 0);
    CHECK(bd_rules_requires(&r, "STRUCTURE") && bd_rules_requires(&r, "BYTES") && !bd_rules_requires(&r, "SCORE"));
    bd_rules file;
    CHECK_OK(bd_rules_open(&file, BIRDIE_SOURCE_DIR "/rules/default.json", &e), &e);
    CHECK(!memcmp(&r, &file, sizeof r));
    CHECK_OK(bd_rules_open(&r, BIRDIE_SOURCE_DIR "/rules/cpu-golf.json", &e), &e);
    CHECK_STR(r.name, "cpu-golf");
    CHECK_EQ_U64(r.size_cap, 1000000);
    CHECK_EQ_U64(r.canonical_tokens, 262144);
    CHECK(r.eval_s == 600 && r.processors == 2 && r.tolerance == 0 && bd_rules_requires(&r, "TIME"));
}

TEST(rules_that_are_refused) {
    static const struct {
        const char *text;
        bd_status code;
        const char *says;
    } cases[] = {
        {"", BD_E_SYNTAX, "line"},
        {"[]", BD_E_FIELD, "object"},
        {"{\"name\": \"x\"}", BD_E_MISSING, "size"},
        {"{\"size\": {\"cap\": 1}}", BD_E_MISSING, "name"},
        {"{\"name\": 3, \"size\": {\"cap\": 1}}", BD_E_FIELD, "name"},
        {"{\"name\": \"a\\u001bb\", \"size\": {\"cap\": 1}}", BD_E_FIELD, "printable"},
        {"{\"name\": \"x\", \"size\": {}}", BD_E_MISSING, "size.cap"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 0}}", BD_E_FIELD, "size.cap"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1.5}}", BD_E_FIELD, "size.cap"},
        {"{\"name\": \"x\", \"size\": {\"cap\": -1}}", BD_E_FIELD, "size.cap"},
        {"{\"name\": \"x\", \"size\": {\"cap\": \"1\"}}", BD_E_FIELD, "size.cap"},
        {"{\"name\": \"x\", \"size\": {\"cpa\": 1}}", BD_E_UNKNOWN, "did you mean \"cap\"?"},
        {"{\"name\": \"x\", \"sise\": {\"cap\": 1}}", BD_E_UNKNOWN, "did you mean \"size\"?"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1}, \"time\": {\"evals\": 1}}", BD_E_UNKNOWN,
         "did you mean \"eval_s\"?"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1}, \"time\": {\"hardware\": {\"processors\": 0.5}}}", BD_E_FIELD,
         "processors"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1}, \"canonical\": {\"tolerance\": 2}}", BD_E_FIELD, "tolerance"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1}, \"required\": [\"SCORES\"]}", BD_E_UNKNOWN,
         "did you mean \"SCORE\"?"},
        {"{\"name\": \"x\", \"size\": {\"cap\": 1}, \"required\": [1]}", BD_E_FIELD, "required[0]"},
        {"{\"name\": \"x\", \"name\": \"y\", \"size\": {\"cap\": 1}}", BD_E_SYNTAX, "uplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bd_rules r;
        bd_err e = {0};
        bd_status st = bd_rules_parse(&r, cases[i].text, strlen(cases[i].text), &e);
        CHECK_MSG(st == cases[i].code && strstr(e.msg, cases[i].says), "%s: %s %s", cases[i].text,
                  bd_status_name(st), e.msg);
    }
    bd_rules r;
    bd_err e = {0};
    CHECK(bd_status_exit(bd_rules_open(&r, "/nowhere/rules.json", &e)) == 2 && e.file[0]);
}

/* --- verdict --- */

TEST(verdict_is_the_worst) {
    bd_rules r = rules_of("{\"name\": \"x\", \"size\": {\"cap\": 1}, \"required\": [\"SCORE\"]}");
    bd_rules none = rules_of("{\"name\": \"x\", \"size\": {\"cap\": 1}}");
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            bd_verdict v = {0};
            bd_verdict_add(&v, "SCORE", (bd_outcome)a, "1", NULL, "x");
            bd_verdict_add(&v, "TIME", (bd_outcome)b, NULL, NULL, "x");
            int ea = a == BD_NOT_CHECKED ? BD_FAILED : a, eb = b == BD_NOT_CHECKED ? BD_PASS : b;
            CHECK(bd_verdict_overall(&v, &r) == (bd_outcome)(ea > eb ? ea : eb));
            ea = a == BD_NOT_CHECKED ? BD_PASS : a;
            CHECK(bd_verdict_overall(&v, &none) == (bd_outcome)(ea > eb ? ea : eb));
        }
    bd_verdict v = {0};
    bd_verdict_add(&v, "TIME", BD_PASS, NULL, NULL, "x");
    CHECK(bd_verdict_overall(&v, &r) == BD_FAILED); /* a required check that was not even listed */
    CHECK(v.checks[0].value[0] == 0 && v.checks[0].limit[0] == 0);
}

/* --- text --- */

enum { A = TA_FIRST /* " a" */, K = TA_FIRST + 10 /* "k" */, NL = TA_FIRST + TA_LETTERS };

static bd_text_match compare_whole(const uint16_t *tokens, uint64_t n, bool whole, const char *text) {
    bd_tokenizer *t = ta_tokenizer(false);
    uint16_t bytes[64];
    bd_text_match m;
    bd_tokenizer_stream_bytes(t, tokens, n, bytes);
    bd_text_compare(&m, t, tokens, bytes, n, whole, text, strlen(text));
    CHECK(m.documents <= m.equal + m.white + m.different);
    bd_tokenizer_close(t);
    return m;
}

static void expect(const uint16_t *tokens, uint64_t n, const char *text, uint64_t equal, uint64_t white,
                   uint64_t different) {
    bd_text_match m = compare_whole(tokens, n, true, text);
    CHECK_MSG(m.equal == equal && m.white == white && m.different == different,
              "\"%s\": %" PRIu64 " %" PRIu64 " %" PRIu64, text, m.equal, m.white, m.different);
    CHECK_EQ_U64(m.counted, m.original);
    CHECK((m.first_different == UINT64_MAX) == (m.documents == m.equal + m.white));
}

TEST(text_comparison) {
    /* "a b kl", "k", "c d" */
    const uint16_t s[] = {1, A, A + 1, A, K + 1, 1, K, 1, A + 2, A + 3};
    const uint64_t n = sizeof s / sizeof *s;
    expect(s, n, "a b al\n\nk\n\nc d", 3, 0, 0);
    expect(s, n, "a b al\n\nk\n\nc d\n", 3, 0, 0);
    expect(s, n, "a  b\nal\n\nk\n\n\nc d", 2, 1, 0);
    expect(s, n, "\n a b al \n\nk\n\nc\td", 1, 2, 0);
    expect(s, n, "a b\n\nal\n\nk\n\nc d", 2, 1, 0); /* a blank line inside a document */
    expect(s, n, "a b aX\n\nk\n\nc d", 2, 0, 1);
    expect(s, n, "a b alX\n\nk\n\nc d", 2, 0, 1);
    expect(s, n, "a b a\n\nk\n\nc d", 2, 0, 1);
    expect(s, n, "a b al\n\nk\n\nc", 2, 0, 1);
    expect(s, n, "a b al\n\nk", 2, 0, 1);
    expect(s, n, "", 0, 0, 3);
    expect(s, n, "nothing of it", 0, 0, 3);
    expect(s, n, "a b al\n\nextra\n\nk\n\nc d", 3, 0, 1);
    bd_text_match m = compare_whole(s, n, true, "a b aX\n\nk\n\nc e");
    CHECK(m.documents == 3 && m.different == 2 && m.first_different == 0);
}

TEST(a_cut_document_is_not_compared) {
    const uint16_t s[] = {1, A, A + 1, 1, A + 2};
    bd_text_match m = compare_whole(s, 5, false, "a b\n\nc and more");
    CHECK(m.documents == 1 && m.equal == 1 && m.different == 0);
    m = compare_whole(s, 5, true, "a b\n\nc and more");
    CHECK(m.documents == 2 && m.equal == 1 && m.different == 1 && m.first_different == 1);
    const uint16_t no_bos[] = {A, A + 1};
    m = compare_whole(no_bos, 2, true, "a b");
    CHECK(m.documents == 0 && m.equal == 0);
    CHECK(compare_whole(s, 0, true, "a").documents == 0);
}

TEST(wrong_byte_counts_show) {
    const uint16_t s[] = {1, A, A + 1, K, NL, 1, A + 2};
    uint16_t bytes[7];
    bd_tokenizer *t = ta_tokenizer(false);
    bd_text_match m;
    bd_tokenizer_stream_bytes(t, s, 7, bytes);
    const char *text = "a bk\n\n\nc";
    bd_text_compare(&m, t, s, bytes, 7, true, text, strlen(text));
    CHECK(m.documents == 2 && m.equal == 2 && m.counted == 6 && m.original == 6);
    bytes[2]++;
    bd_text_compare(&m, t, s, bytes, 7, true, text, strlen(text));
    CHECK(m.counted == 7 && m.original == 6);
    bd_tokenizer_close(t);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
