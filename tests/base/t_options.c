/* The option parser of the program. */
#include "bd_test.h"
#include "cli/cli.h"

static bd_cli_common common;
static bool tail;
static const char *tokenizer;
static int64_t window, shift;
static double lr;
static bd_cli_list data, set, args;
static bd_err err;
static bool help;

static const bd_cli_opt opts[] = {
    {"drop-tail", BD_CLI_FLAG, &tail, NULL, "leave the short window out"},
    {"tokenizer", BD_CLI_STRING, &tokenizer, "TOK.model", "tokenizer"},
    {"window", BD_CLI_COUNT, &window, "N", "tokens per window"},
    {"shift", BD_CLI_INT, &shift, "N", "signed"},
    {"lr", BD_CLI_DOUBLE, &lr, "X", "learning rate"},
    {"data", BD_CLI_LIST, &data, "SHARD...",
     "validation shards, in the order in which they are to be read one after the other"},
    {"set", BD_CLI_EACH, &set, "NAME=VALUE", "constant"},
};
static const bd_cli_spec spec = {.name = "eval",
                                 .summary = "score a model",
                                 .usage = "eval MODEL --data SHARD... [options]",
                                 .text = "First paragraph.\n\nSecond one.",
                                 .examples = "  birdie eval x.birdie --data v.bin\n",
                                 .opts = opts,
                                 .n_opts = sizeof opts / sizeof opts[0],
                                 .min_args = 1,
                                 .max_args = 2,
                                 .common = &common};

static bd_status parse(const char *line) {
    static char text[512];
    static char *argv[64];
    int argc = 0;
    bd_cli_free(&spec, &args);
    common = (bd_cli_common){0};
    tail = false;
    tokenizer = NULL;
    window = 1024;
    shift = 0;
    lr = 0;
    snprintf(text, sizeof text, "eval %s", line);
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " ")) argv[argc++] = p;
    memset(&err, 0, sizeof err);
    return bd_cli_parse(&spec, argc, argv, &args, &help, &err);
}

TEST(values_lists_and_arguments) {
    CHECK_OK(parse("m.bin --window 512 --lr=-1e-3 --shift -5 --tokenizer=a=b --data x y z --drop-tail --set a=1 "
                   "--set=b=2 --json --threads 3 n.bin"),
             &err);
    CHECK(window == 512 && lr == -1e-3 && shift == -5 && tail && common.json && common.threads == 3);
    CHECK_STR(tokenizer, "a=b");
    CHECK(data.n == 3 && set.n == 2 && args.n == 2);
    CHECK_STR(data.items[2], "z");
    CHECK_STR(set.items[0], "a=1");
    CHECK_STR(set.items[1], "b=2");
    CHECK_STR(args.items[1], "n.bin");
    CHECK_OK(parse("--data x y -- m.bin --window"), &err);
    CHECK(data.n == 2 && args.n == 2 && window == 1024);
    CHECK_STR(args.items[1], "--window");
    CHECK_OK(parse("--data=x m.bin --data y"), &err);
    CHECK(data.n == 2 && args.n == 1);
    CHECK_OK(parse("-"), &err);
    CHECK_STR(args.items[0], "-");
    CHECK_OK(parse("m --max-memory 16000000000 --dry-run"), &err);
    CHECK(common.max_memory == 16000000000 && common.dry_run);
    bd_cli_free(&spec, &args);
    CHECK(!data.items && !set.items && !args.items);
}

TEST(mistakes_are_explained) {
    static const char *const cases[][2] = {
        {"m --windw 3", "unknown option --windw; did you mean --window?"},
        {"m --qqqqqqqqqqqq", "unknown option --qqqqqqqqqqqq; see birdie eval --help"},
        {"m --window", "--window needs a value: --window N"},
        {"m --window --json", "--window needs a value: --window N"},
        {"m --data --json", "--data needs a value: --data SHARD..."},
        {"m --window 16MB", "suffixes are refused"},
        {"m --window x", "'x' is not a whole number"},
        {"m --window -1", "-1 is negative"},
        {"m --window 99999999999999999999", "is not a whole number"},
        {"m --window 1 --window 2", "--window is given twice"},
        {"m --lr nan", "'nan' is not a number"},
        {"m --lr 1e", "'1e' is not a number"},
        {"m --json=1", "--json takes no value"},
        {"m --tokenizer=", "TOK.model is empty"},
        {"m -x", "unknown option -x"},
        {"--json", "an argument is missing: birdie eval MODEL"},
        {"a b c", "unexpected argument 'c'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_MSG(parse(cases[i][0]) == BD_E_USAGE, "%s", cases[i][0]);
        CHECK_MSG(strstr(err.msg, cases[i][1]), "%s gave: %s", cases[i][0], err.msg);
    }
    bd_cli_free(&spec, &args);
}

TEST(help_wins_and_is_aligned) {
    CHECK_OK(parse("--nonsense --help"), &err);
    CHECK(help);
    CHECK_OK(parse("m -- --help"), &err);
    CHECK(!help);
    window = 1024;
    char *page = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&page, &size);
    bd_cli_help(&spec, f);
    fclose(f);
    CHECK(strstr(page, "Usage: birdie eval MODEL") && strstr(page, "(default: 1024)"));
    CHECK(strstr(page, "First paragraph.\n\nSecond one.\n") && strstr(page, "--max-memory BYTES"));
    CHECK(strstr(page, "Exit codes:"));
    const char *a = strstr(page, "leave the short"), *b = strstr(page, "learning rate");
    CHECK(a && b);
    int column_a = 0, column_b = 0;
    while (a[-1 - column_a] != '\n') column_a++;
    while (b[-1 - column_b] != '\n') column_b++;
    CHECK(column_a == column_b);
    for (char *line = strtok(page, "\n"); line; line = strtok(NULL, "\n"))
        CHECK_MSG(strlen(line) <= 90, "%s", line);
    free(page);
    bd_cli_free(&spec, &args);
}

TEST(json_values) {
    json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:o}", "a", bd_cli_i64(INT64_MIN), "b", bd_cli_u64(UINT64_MAX), "c",
                          bd_cli_real(0.1), "d", bd_cli_real(NAN), "e", bd_cli_str("x\xffy"));
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17) | JSON_SORT_KEYS);
    CHECK_STR(text,
              "{\"a\":\"-9223372036854775808\",\"b\":\"18446744073709551615\",\"c\":0.10000000000000001,\"d\":null,"
              "\"e\":\"x?y\"}");
    free(text);
    json_decref(o);
    bd_err e = {0};
    BD_FAIL_AT(&e, BD_E_MAGIC, 12, "not this");
    bd_err_file(&e, "f.bin");
    o = bd_cli_error_json(&e);
    text = json_dumps(o, JSON_COMPACT);
    CHECK_STR(text, "{\"code\":\"E_MAGIC\",\"message\":\"not this\",\"file\":\"f.bin\",\"offset\":\"12\"}");
    free(text);
    json_decref(o);
}

TEST(interrupt_asks_to_stop) {
    bd_cli_progress c;
    const bd_progress *p = bd_cli_progress_start(&c);
    CHECK(!bd_stopped(p));
    bd_tick(p, "windows", 1, 2, NULL); /* silent so early */
    raise(SIGINT);
    CHECK(bd_stopped(p));
    struct sigaction now;
    CHECK(sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == SIG_DFL); /* the second one kills */
    bd_cli_progress_end(&c);
    p = bd_cli_progress_start(&c);
    CHECK(!bd_stopped(p));
    bd_cli_progress_end(&c);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
