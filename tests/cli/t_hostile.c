/* What every command does with wrong files, wrong numbers and a world that fails:
 * one clear line on stderr (with --json one object on stdout), exit code 2 or 3,
 * nothing half-written, no crash. */
#include <dirent.h>
#include <jansson.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "bd_test.h"
#include "cli/sp_shim.h"
#include "format/shard.h"
#include "tests/verify/tiny_artifact.h"

enum { VOCAB = TA_VOCAB, TOKENS = 1500 };

static char out_text[1 << 16], err_text[1 << 16];

static const char *in_tmp(const char *name) {
    static char path[8][256];
    static int slot;
    char *p = path[slot++ & 7];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static void slurp(const char *name, char *out, size_t size) {
    FILE *f = fopen(in_tmp(name), "rb");
    CHECK(f != NULL);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
}

static void put(const char *name, const void *data, size_t n) {
    bd_err e = {0};
    CHECK_OK(bd_file_write(in_tmp(name), data, n, &e), &e);
}
static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

static bd_buf get(const char *name) {
    bd_map m;
    bd_err e = {0};
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_map_open(&m, in_tmp(name), &e), &e);
    bd_buf_put(&b, m.data, m.size);
    bd_map_close(&m);
    CHECK(!b.failed);
    return b;
}

/* Not the end of the test: a table shows all its faults at once. */
static int faults;
#define EXPECT(cond, ...)                      \
    do {                                       \
        if (!(cond)) {                         \
            printf("    line %d: ", __LINE__); \
            printf(__VA_ARGS__);               \
            printf("\n");                      \
            faults++;                          \
        }                                      \
    } while (0)

/* `birdie ARGS` in the test's directory; `before`: shell commands that go first. Exit code, or 128 + signal. */
static int birdie(const char *before, const char *args) {
    char cmd[8192];
    const char *program = getenv("BIRDIE_PROGRAM");
    snprintf(cmd, sizeof cmd, "cd %s && { %s timeout 60 %s %s; } >stdout 2>stderr </dev/null", test_tmp(), before,
             program && *program ? program : BIRDIE_PROGRAM, args);
    int status = system(cmd);
    slurp("stdout", out_text, sizeof out_text);
    slurp("stderr", err_text, sizeof err_text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* All files below; not the recipe and the log that a training run keeps from its first step on. */
static void count_files(const char *path, int *n) {
    DIR *d = opendir(path);
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));) {
        char inside[1024];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (!strcmp(e->d_name, "recipe.json") || !strcmp(e->d_name, "log.jsonl")) continue;
        snprintf(inside, sizeof inside, "%s/%s", path, e->d_name);
        if (bd_path_is_dir(inside)) count_files(inside, n);
        else ++*n;
    }
    closedir(d);
}

/* Outputs of all cases go below o/: folders may be left there, files may not. */
static void check_nothing_left(const char *args) {
    int n = 0;
    char cmd[512];
    count_files(in_tmp("o"), &n);
    EXPECT(n == 0, "birdie %s: left %d files", args, n);
    snprintf(cmd, sizeof cmd, "rm -rf %s/o && mkdir %s/o", test_tmp(), test_tmp());
    CHECK(system(cmd) == 0);
}

static bool is_line(const char *text) {
    const char *nl = strchr(text, '\n');
    if (strncmp(text, "birdie: ", 8) != 0 || !nl || nl[1]) return false;
    for (const char *c = text; c < nl; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) return false;
    return true;
}

/* {"error": {"code", "message", "file", "offset"}}; the message, or NULL. */
static const char *error_object(const char *text) {
    static char message[1024];
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *err = json_object_get(o, "error");
    const char *code = json_string_value(json_object_get(err, "code")),
               *msg = json_string_value(json_object_get(err, "message"));
    bool ok = json_object_size(o) == 1 && json_object_size(err) == 4 && code && !strncmp(code, "E_", 2) && msg &&
              *msg && !strchr(msg, '\n') && json_object_get(err, "file") && json_object_get(err, "offset");
    if (ok) snprintf(message, sizeof message, "%s", msg);
    json_decref(o);
    return ok ? message : NULL;
}

/* Fails with exit code 2 or 3 (`code` 0: either), one line or one object. */
static void fails_as(bool json, int code, const char *says, const char *before, const char *args) {
    char full[4096];
    snprintf(full, sizeof full, "%s%s", args, json ? " --json" : "");
    int rc = birdie(before, full);
    const char *msg = json ? error_object(out_text) : is_line(err_text) ? err_text : NULL;
    const char *wrong = (code ? rc != code : rc != 2 && rc != 3) ? "exit code"
                        : !msg                                   ? "no message"
                        : (json ? err_text[0] : out_text[0])     ? "output on the other stream"
                        : says && !strstr(msg, says)             ? "another message"
                                                                 : NULL;
    EXPECT(!wrong, "birdie %s: %s: exit %d, stdout \"%.160s\", stderr \"%.300s\"", full, wrong, rc, out_text,
           err_text);
    check_nothing_left(full);
}

static void fails(int code, const char *says, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void fails(int code, const char *says, const char *fmt, ...) {
    char args[4000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    fails_as(false, code, says, "", args);
    fails_as(true, code, says, "", args);
}

/* The same, in turn with --json and without: for long tables. */
static void refuses(int code, const char *says, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void refuses(int code, const char *says, const char *fmt, ...) {
    static bool json;
    char args[4000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    json = !json;
    fails_as(json, code, says, "", args);
}

static void works(const char *args) {
    int rc = birdie("", args);
    CHECK_MSG(rc == 0, "birdie %s: %d %s%s", args, rc, out_text, err_text);
}

/* --- the files --- */

static const char RECIPE[] =
    "{\"model\": \"baseline\", \"constants\": {\"vocab\": 32, \"dim\": 16, \"layers\": 2, \"heads\": 2, "
    "\"kv_heads\": 1, "
    "\"hidden\": 24}, \"seed\": 1, \"steps\": 2, \"seq_len\": 16, \"batch_tokens\": 64, \"loader\": "
    "\"sequential\", "
    "\"schedule\": {\"kind\": \"steps\", \"warmdown\": 0.5}, \"optimizers\": [{\"kind\": \"adamw\", \"match\": "
    "[\"*\"], \"lr\": "
    "0.01}]}";

static void halve(const char *from, const char *to) {
    bd_buf b = get(from);
    put(to, b.data, b.size / 2);
    bd_buf_free(&b);
}

/* A copy with the text `a` replaced by the equally long `b`. */
static void patch(const char *from, const char *to, const char *a, const char *b) {
    bd_buf f = get(from);
    size_t n = strlen(a);
    uint8_t *at = memmem(f.data, f.size, a, n);
    CHECK_MSG(at && strlen(b) == n, "no %s in %s", a, from);
    memcpy(at, b, n);
    put(to, f.data, f.size);
    bd_buf_free(&f);
}

static void make_tokens(const char *name, uint64_t seed, int bad_at) {
    uint16_t t[TOKENS];
    bd_err e = {0};
    ta_tokens(t, TOKENS, seed);
    if (bad_at >= 0) t[bad_at] = VOCAB;
    CHECK_OK(bd_shard_write(in_tmp(name), t, TOKENS, &e), &e);
}

static void make_tokenizer(const char *name) {
    bd_buf b;
    bd_buf_init(&b);
    ta_model_file(&b, false);
    put(name, b.data, b.size);
    bd_buf_free(&b);
}

static bool made;
static void make(void) {
    if (made) return;
    uint64_t seed = 77;
    uint8_t noise[4000];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)test_rand(&seed);
    CHECK(mkdir(in_tmp("o"), 0755) == 0 && mkdir(in_tmp("data"), 0755) == 0 &&
          mkdir(in_tmp("empty_dir"), 0755) == 0);
    put("empty", "", 0);
    put("noise", noise, sizeof noise);
    put_text("text", "a bad cafe\n\na deaf bee\n\nfed a jig\n");
    bd_buf words;
    bd_buf_init(&words);
    for (int i = 0; i < 4000; i++) {
        int n = 1 + (int)(test_rand(&seed) % 7);
        while (n--) bd_buf_u8(&words, (uint8_t)('a' + test_rand(&seed) % 13));
        bd_buf_put(&words, i % 40 ? " " : "\n\n", i % 40 ? 1 : 2);
    }
    put("words", words.data, words.size);
    bd_buf_free(&words);
    if (bd_sp_available()) works("tokenize --train-tokenizer 300 --out sp words");
    put_text("recipe", RECIPE);
    put_text("protocol", "{\"kind\": \"window\", \"window\": 64}");
    put_text("model", "model x(vocab=32) nonsense\n");
    put_text("rules", "{\"name\": \"mine\", \"size\": {\"cap\": 100000}}");
    make_tokens("data/x_train_0.bin", 11, -1);
    make_tokens("data/x_val_0.bin", 12, -1);
    make_tokens("high", 13, 700);
    make_tokenizer("tok");
    make_tokenizer("data/tokenizer.model");
    works("train recipe --data data --out run --threads 1");
    works("convert run --out ckpt.safetensors");
    works(
        "compile run --calib data --budget 60000 --tokenizer tok --claim data --protocol protocol --out art.birdie "
        "--threads 1");
    halve("data/x_val_0.bin", "half_shard");
    halve("tok", "half_tok");
    halve("ckpt.safetensors", "half_ckpt");
    halve("art.birdie", "half_art");
    patch("ckpt.safetensors", "absent", "blocks.1.attn.proj.weight", "blocks.1.attn.qroj.weight");
    patch("ckpt.safetensors", "shape", "[24,16]", "[16,24]");
    bd_buf b = get("ckpt.safetensors");
    memcpy(b.data + b.size - 4, "\0\0\xc0\x7f", 4); /* NaN */
    put("nan", b.data, b.size);
    bd_buf_free(&b);
    b = get("art.birdie");
    b.data[b.size / 2] ^= 1;
    put("flipped_art", b.data, b.size);
    bd_buf_free(&b);
    made = true;
}

/* --- every file argument with every wrong file --- */

typedef struct kind {
    char letter;
    const char *name;
} kind;
static const kind KINDS[] = {
    {'0', "missing"},
    {'e', "empty"},
    {'d', "data"},
    {'D', "empty_dir"},
    {'b', "noise"},
    {'x', "text"},
    {'s', "data/x_val_0.bin"},
    {'S', "half_shard"},
    {'t', "tok"},
    {'T', "half_tok"},
    {'c', "ckpt.safetensors"},
    {'C', "half_ckpt"},
    {'a', "art.birdie"},
    {'A', "half_art"},
    {'F', "flipped_art"},
    {'r', "recipe"},
    {'p', "protocol"},
    {'R', "rules"},
    {'n', "run"},
    {'N', "nan"},
    {'M', "absent"},
    {'H', "shape"},
    {'h', "high"},
    {'m', "model"},
};

typedef struct place {
    const char *args;   /* %s: the file */
    const char *accept; /* kinds that are right there, or not wrong */
    const char *judged; /* kinds that `verify` judges: exit code 1 */
} place;
static const place PLACES[] = {
    {"tokenize --tokenizer %s --out o/x text", "t", ""},
    {"tokenize --tokenizer sp/tokenizer.model --out o/x %s", "xrpRmtT", ""},
    {"train %s --data data --out o/x", "r", ""},
    {"train recipe --data %s --out o/x", "dsn", ""},
    {"train recipe --data data --out o/x --replay %s", "", ""},
    {"eval %s --data data --tokenizer tok --window 64", "acnN", ""},
    {"eval run --data %s --tokenizer tok --window 64", "dsh", ""},
    {"eval run --data data --tokenizer %s --window 64", "t", ""},
    {"eval run --data data --tokenizer tok --bytes %s --window 64", "sh", ""},
    {"eval run --data data --tokenizer tok --model %s --window 64", "", ""},
    {"eval run --data data --tokenizer tok --protocol %s", "p", ""},
    {"compile %s --calib data --budget 60000 --out o/x", "cna", ""},
    {"compile run --calib %s --budget 60000 --out o/x", "ds", ""},
    {"compile run --calib data --budget 60000 --out o/x --protocol %s", "p", ""},
    {"compile run --calib data --budget 60000 --out o/x --claim %s --tokenizer tok", "ds", ""},
    {"compile run --calib data --budget 60000 --out o/x --tokenizer %s", "t", ""},
    {"compile run --calib data --budget 60000 --out o/x --recipe %s", "", ""},
    {"compile run --calib data --budget 60000 --out o/x --stats %s", "0", ""},
    {"compile run --calib data --budget 60000 --out o/x --plan %s", "0", ""},
    {"verify %s --data data --tokenizer tok", "a", "AF"},
    {"verify art.birdie --data %s --tokenizer tok", "dsh", ""},
    {"verify art.birdie --data data --tokenizer %s", "t", ""},
    {"verify art.birdie --data data --tokenizer tok --bytes %s", "sh", ""},
    {"verify art.birdie --data data --tokenizer tok --rules %s", "R", ""},
    {"verify art.birdie --data data --tokenizer tok --text %s", "ebxsStTcCaAFrpRNMHhm", ""},
    {"inspect %s", "sthcanrpRNMHm", ""},
    {"convert %s --out o/x", "acnNMHt", ""},
    {"diff %s run", "acnNMH", ""},
    {"diff run %s", "acnNMH", ""},
    {"bench train --steps 1 --recipe %s", "r", ""},
};

TEST(every_file_argument_with_every_wrong_file) {
    make();
    faults = 0;
    int n = 0;
    for (size_t p = 0; p < sizeof PLACES / sizeof *PLACES; p++)
        for (size_t k = 0; k < sizeof KINDS / sizeof *KINDS; k++, n++) {
            const char *at = strstr(PLACES[p].args, "%s");
            char args[512];
            if (strchr(PLACES[p].accept, KINDS[k].letter)) continue;
            /* Broken checkpoints are only more of the same where no checkpoint belongs. */
            if (strchr("NMHC", KINDS[k].letter) && !strchr(PLACES[p].accept, 'c')) continue;
            if (!bd_sp_available() && !strncmp(PLACES[p].args, "tokenize", 8)) continue;
            snprintf(args, sizeof args, "%.*s%s%s", (int)(at - PLACES[p].args), PLACES[p].args, KINDS[k].name,
                     at + 2);
            if (!strchr(PLACES[p].judged, KINDS[k].letter)) {
                fails_as(n & 1, 0, NULL, "", args); /* in turn with --json and without */
                continue;
            }
            strcat(args, " --json");
            int rc = birdie("", args);
            EXPECT(rc == 1 && !err_text[0] && strstr(out_text, "\"verdict\": \"FAIL\""),
                   "birdie %s: %d %.200s%.200s", args, rc, out_text, err_text);
        }
    CHECK_EQ_U64(faults, 0);
}

/* --- options --- */

TEST(options_that_are_wrong) {
    make();
    faults = 0;
    static const char *const commands[] = {"tokenize", "train",   "eval", "compile", "verify",
                                           "inspect",  "convert", "diff", "bench"};
    for (int i = 0; i < 9; i++) {
        refuses(2, "threds", "%s --threds 1", commands[i]);
        refuses(2, "threads", "%s --threads x", commands[i]);
        refuses(2, "threads", "%s --threads -1", commands[i]);
        refuses(2, "max-memory", "%s --max-memory 99999999999999999999999", commands[i]);
        refuses(2, NULL, "%s", commands[i]);
    }
    refuses(2, NULL, "verfiy art.birdie");
    refuses(2, NULL, "eval run --data data --tokenizer tok --threads 100000");
    refuses(2, NULL, "eval run --data data --tokenizer tok --isa mmx");
    refuses(2, NULL, "eval run --data data --tokenizer tok --mode slow");
    refuses(2, NULL, "eval run --data data --tokenizer tok --backend gpu");
    refuses(0, NULL, "eval run --data data --tokenizer tok --backend cuda");
    refuses(2, NULL, "eval run --data data --tokenizer tok --window 65537");
    refuses(2, NULL, "eval run --data data --tokenizer tok --window 99999999999");
    refuses(2, NULL, "eval run --data data --tokenizer tok --window 64 --stride 65");
    refuses(2, NULL, "eval run --data data --tokenizer tok --max-tokens 1e3");
    refuses(2, NULL, "eval run --data data --tokenizer tok --set slope");
    refuses(2, NULL, "eval run --data data --tokenizer tok --set nonsense=1");
    refuses(2, NULL, "eval run --data data");
    refuses(2, NULL, "eval run run --data data --tokenizer tok");
    refuses(2, NULL, "eval art.birdie --data data --tokenizer tok --set dim=16");
    refuses(2, NULL, "eval run --data data --tokenizer tok --window 2000 --drop-tail");
    refuses(2, "twice", "eval run --data data --tokenizer tok --window 64 --window 65");
    refuses(2, NULL, "train recipe --data data --out o/x --resume --replay run/log.jsonl");
    refuses(2, NULL, "train recipe --data data --out o/x --resume");
    refuses(2, NULL, "train recipe --data data --out o/x --set steps=-1");
    refuses(2, NULL, "train recipe --data data --out o/x --set sepal=3");
    refuses(2, NULL, "train recipe --data data --out o/x --set seed");
    refuses(2, NULL, "train recipe --data data --out o/x --set constants.vocab=8");
    refuses(2, NULL, "train recipe --data data --out o/x --set constants.dim=0");
    refuses(2, NULL, "train recipe --data data --out o/x --set constants.layers=1000000000");
    refuses(2, NULL, "train recipe --data data --out o/x --time -1");
    refuses(2, NULL, "compile run --calib data --budget 0 --out o/x");
    refuses(2, NULL, "compile run --calib data --budget -5 --out o/x");
    refuses(2, NULL, "compile run --calib data --budget lots --out o/x");
    refuses(2, NULL, "compile run --calib data --budget 60000 --out o/x --recipe gtpq");
    refuses(2, NULL,
            "compile run --calib data --budget 60000 --out o/x --claim data --tokenizer tok --max-tokens -1");
    refuses(2, NULL, "verify art.birdie --tokenizer tok");
    refuses(2, NULL, "verify art.birdie --data data");
    refuses(2, NULL, "verify art.birdie --data data --tokenizer tok --max-tokens -3");
    refuses(2, NULL, "verify art.birdie --data data --tokenizer tok --isa sse");
    refuses(2, NULL, "inspect art.birdie --model --tensors");
    refuses(2, NULL, "inspect run --plan");
    refuses(2, NULL, "convert run");
    refuses(2, NULL, "diff run");
    refuses(2, NULL, "diff run run run");
    refuses(2, NULL, "bench gold");
    refuses(2, NULL, "bench train --steps 0");
    refuses(2, NULL, "bench coder --symbols 0");
    if (bd_sp_available()) {
        refuses(2, NULL, "tokenize --tokenizer sp/tokenizer.model --train-tokenizer 300 --out o/x text");
        refuses(2, NULL, "tokenize --out o/x text");
        refuses(2, NULL, "tokenize --tokenizer sp/tokenizer.model --out o/x");
        refuses(0, NULL, "tokenize --train-tokenizer 0 --out o/x text");
        refuses(0, NULL, "tokenize --train-tokenizer 70000 --out o/x text");
        refuses(0, NULL, "tokenize --tokenizer sp/tokenizer.model --val-docs 1 --val-fraction 0.5 --out o/x text");
        refuses(0, NULL, "tokenize --tokenizer sp/tokenizer.model --val-fraction 1.5 --out o/x text");
        refuses(0, NULL, "tokenize --tokenizer sp/tokenizer.model --shard-tokens 0 --out o/x text");
        refuses(0, NULL, "tokenize --tokenizer sp/tokenizer.model --split words --out o/x text");
    }
    CHECK_EQ_U64(faults, 0);
}

/* --- contents --- */

TEST(contents_that_are_wrong) {
    make();
    faults = 0;
    fails(2, "700", "eval run --data high --tokenizer tok");
    fails(2, "700", "verify art.birdie --data high --tokenizer tok");
    fails(2, "700", "compile run --calib high --budget 60000 --out o/x");
    fails(2, "700", "compile run --calib data --budget 60000 --out o/x --claim high --tokenizer tok");
    fails(2, "700", "train recipe --data high --out o/x");
    fails(2, "NaN", "eval nan --data data --tokenizer tok");
    fails(2, "NaN", "compile nan --calib data --budget 60000 --out o/x");
    fails(2, "blocks.1.attn.proj.weight", "eval absent --data data --tokenizer tok");
    fails(2, "blocks.1.attn.proj.weight", "compile absent --calib data --budget 60000 --out o/x");
    fails(2, "16", "eval shape --data data --tokenizer tok");
    fails(2, "16", "compile shape --calib data --budget 60000 --out o/x");
    fails(2, "smallest", "compile run --calib data --budget 100 --out o/x");
    fails(2, "smallest", "compile run --calib data --budget 1500 --out o/x");
    fails(2, NULL, "eval run --data data --tokenizer tok --max-memory 1000");
    fails(2, NULL, "eval run --data data --tokenizer tok --max-memory 30000 --window 64");
    fails(2, NULL, "verify art.birdie --data data --tokenizer tok --max-memory 1000");
    fails(2, NULL, "train recipe --data data --out o/x --max-memory 1000");
    fails(2, NULL, "convert run --out o/x --max-memory 1000");
    CHECK_EQ_U64(faults, 0);
}

/* --- outputs --- */

static const char *const WRITERS[] = {
    "convert run --out %s",
    "compile run --calib data --budget 60000 --out %s",
    "eval run --data data --tokenizer tok --nll-out %s",
    "train recipe --data data --out %s",
    "compile run --calib data --budget 60000 --out o/y --stats %s",
};
enum { N_WRITERS = sizeof WRITERS / sizeof *WRITERS };

static void writer_fails(int i, int code, const char *before, const char *target) {
    char args[512];
    const char *at = strstr(WRITERS[i], "%s");
    snprintf(args, sizeof args, "%.*s%s%s", (int)(at - WRITERS[i]), WRITERS[i], target, at + 2);
    fails_as(false, code, NULL, before, args);
    fails_as(true, code, NULL, before, args);
}

TEST(outputs_that_cannot_be_written) {
    make();
    faults = 0;
    for (int i = 0; i < N_WRITERS; i++) {
        writer_fails(i, 0, "", "text/below_a_file");
        writer_fails(i, 0, "", "o/no/such/folder/x");
        if (i != 3) writer_fails(i, 0, "", "data"); /* a folder where a file should be */
        if (access("/proc/self", F_OK) == 0) writer_fails(i, 0, "", "/proc/x");
        if (i != 3 && i != 4 && access("/dev/full", W_OK) == 0) writer_fails(i, 3, "", "/dev/full");
    }
    if (bd_sp_available()) {
        fails(0, NULL, "tokenize --tokenizer sp/tokenizer.model --out text/x text");
        fails(0, NULL, "tokenize --tokenizer sp/tokenizer.model --out text text");
    }
    if (geteuid() != 0) {
        CHECK(mkdir(in_tmp("locked"), 0555) == 0);
        for (int i = 0; i < N_WRITERS; i++) writer_fails(i, 3, "", "locked/x");
    }
    int rc = birdie("", "inspect run --json >/dev/full");
    EXPECT(rc == 3 && err_text[0], "stdout full: %d %s", rc, err_text);
    rc = birdie("", "inspect run >/dev/full");
    EXPECT(rc == 3 && err_text[0], "stdout full: %d %s", rc, err_text);
    CHECK_EQ_U64(faults, 0);
}

TEST(a_file_size_limit) {
    make();
    faults = 0;
    /* The signal is ignored, so that write fails as it does on a full disk. */
    const char *before = "trap '' XFSZ; ulimit -f 2; ";
    CHECK(birdie(before, "--version") == 0);
    for (int i = 0; i < N_WRITERS; i++) writer_fails(i, 3, before, "o/x");
    if (bd_sp_available()) {
        fails_as(false, 3, NULL, before, "tokenize --tokenizer sp/tokenizer.model --out o/x words");
    }
    CHECK_EQ_U64(faults, 0);
}

TEST(a_full_disk) {
    make();
    faults = 0;
    char cmd[512];
    snprintf(cmd, sizeof cmd, "mkdir %s/full && mount -t tmpfs -o size=4k none %s/full 2>/dev/null", test_tmp(),
             test_tmp());
    if (system(cmd) != 0) SKIP("no permission to mount a small file system");
    for (int i = 0; i < N_WRITERS; i++) {
        int n = 0;
        writer_fails(i, 3, "", "full/x");
        count_files(in_tmp("full"), &n);
        EXPECT(n == 0, "%s left %d files", WRITERS[i], n);
        snprintf(cmd, sizeof cmd, "rm -rf %s/full/*", test_tmp());
        if (system(cmd) != 0) break;
    }
    snprintf(cmd, sizeof cmd, "umount %s/full", test_tmp());
    CHECK(system(cmd) == 0);
    CHECK_EQ_U64(faults, 0);
}

/* An old result survives a run that fails. */
TEST(the_old_file_stays) {
    make();
    put_text("old", "precious");
    CHECK(birdie("trap '' XFSZ; ulimit -f 2; ", "convert run --out old") == 3);
    CHECK(birdie("", "compile run --calib data --budget 100 --out old") == 2);
    bd_buf b = get("old");
    CHECK(b.size == 8 && !memcmp(b.data, "precious", 8));
    bd_buf_free(&b);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
