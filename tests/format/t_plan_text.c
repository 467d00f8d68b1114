/* Plan text: what it says, and where it is wrong. */
#include "bd_test.h"

#include "format/plan_text.h"

static bd_err e;

#define HASH  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define HASH2 "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
static const char full[] =
    "birdie-plan 2\n"
    "budget 2400000\n"
    "recipe trellis\n"
    "codecs brotli 1.0.9, zstd 1.5.4, xz 5.4.1\n"
    "calibration 65536 " HASH
    "\n"
    "shard " HASH
    "\n"
    "shard " HASH2
    "\n"
    "metric damp=0.001 rho=0.05 order=natural feedback=yes rows=yes cols=no couple=yes\n"
    "tensor tok_emb.weight matrices tcq step=0.00123 states=8 lambda=0.05 bytes=12345 nats=1.2e-05\n"
    "tensor blocks.0.attn_scale small log levels=8 step=0.01 fixed bytes=33.25 nats=2e-07\n"
    "tensor blocks.0.mlp.fc.weight mlp.fc ternary group=128\n"
    "tensor blocks.0.mlp.proj.weight mlp.proj f32 fixed bytes=0 nats=-1\n"
    "group matrices range bytes=123456\n"
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
    char text[1024];
    snprintf(text, sizeof text, "birdie-plan 2\n# a comment\n\n%s\n", line);
    refused(text, code, "plan line 4: ");
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    CHECK_EQ_U64(e.offset, 27);
}

static void check_print(const bd_plan *p, const char *text) {
    bd_buf b;
    bd_buf_init(&b);
    CHECK_OK(bd_plan_print(p, &b, &e), &e);
    CHECK_MSG(b.size == strlen(text) && !memcmp(b.data, text, b.size), "%.*s", (int)b.size, (char *)b.data);
    bd_buf_free(&b);
}

TEST(says_what_it_reads) {
    bd_plan *p;
    CHECK_OK(bd_plan_parse(&p, full, sizeof full - 1, &e), &e);
    CHECK(p->budget == 2400000 && p->calib_tokens == 65536 && p->n_tensors == 4 && p->n_groups == 2);
    CHECK_STR(p->recipe, "trellis");
    CHECK_STR(p->codecs, "brotli 1.0.9, zstd 1.5.4, xz 5.4.1");
    CHECK_STR(p->calib_sha256, HASH);
    CHECK(p->n_shards == 2);
    CHECK_STR(p->shards[0], HASH);
    CHECK_STR(p->shards[1], HASH2);
    const bd_plan_metric *m = &p->metric;
    CHECK(m->given && m->feedback && m->order == BD_ORDER_NATURAL && m->couple_rows && m->row_steps &&
          !m->col_steps);
    CHECK(m->damp == 0.001 && m->rho == 0.05);
    const bd_plan_tensor *t = p->tensors;
    CHECK_STR(t[0].name, "tok_emb.weight");
    CHECK_STR(t[0].group, "matrices");
    CHECK_STR(t[0].quantizer, "tcq");
    CHECK(t[0].n_params == 3 && !t[0].fixed && t[0].bytes == 12345 && t[0].nats == 1.2e-05 && t[0].line == 9);
    CHECK_STR(t[0].params[0].key, "step");
    CHECK_STR(t[0].params[0].value, "0.00123");
    CHECK_STR(t[0].params[2].key, "lambda");
    CHECK(t[1].fixed && t[1].bytes == 33.25 && t[1].n_params == 2);
    CHECK(!t[2].fixed && t[2].bytes < 0 && isnan(t[2].nats) && t[3].n_params == 0 && t[3].bytes == 0);
    CHECK(t[3].nats == -1);
    CHECK(p->groups[0].codec == BD_CODEC_RANGE && p->groups[0].bytes == 123456 && p->groups[1].line == 14);
    check_print(p, full);
    bd_plan_close(p);
}

/* As people write them: any order of keys, comments, no header lines. */
TEST(order_and_comments_are_free) {
    static const char text[] =
        "birdie-plan 2\n\n# mine\nmetric cols=yes rows=no order=rising feedback=no rho=1e0 couple=no damp=0\n"
        "tensor a g row nats=1e-3 fixed bits=6 bytes=1e3 k=12.85";
    bd_plan *p;
    CHECK_OK(bd_plan_parse(&p, text, sizeof text - 1, &e), &e);
    check_print(p,
                "birdie-plan 2\nbudget 0\nmetric damp=0 rho=1 order=rising feedback=no rows=no cols=yes couple=no\n"
                "tensor a g row bits=6 k=12.85 fixed bytes=1000 nats=0.001\n");
    bd_plan_close(p);
}

/* --- random plans come back --- */

static uint64_t seed;

static uint64_t below(uint64_t n) { return test_rand(&seed) % n; }

static double random_real(bool negative) {
    double v;
    switch (below(4)) {
        case 0: return (double)below(1000000);
        case 1: return (double)below(1000) / 8;
        case 2: return 0;
        default: break;
    }
    do {
        uint64_t bits = test_rand(&seed);
        if (!negative) bits &= INT64_MAX;
        memcpy(&v, &bits, sizeof v);
    } while (!isfinite(v) || fabs(v) > 1e300);
    return v;
}

static char *random_word(bd_arena *a, const char *letters, unsigned most, int unique) {
    char text[80];
    size_t n = 1 + below(most), k = strlen(letters);
    for (size_t i = 0; i < n; i++) text[i] = letters[below(k)];
    n += (size_t)snprintf(text + n, sizeof text - n, "_%d", unique);
    return bd_arena_strdup(a, text, n);
}

static void random_hash(char out[65]) {
    for (int i = 0; i < 64; i++) out[i] = "0123456789abcdef"[below(16)];
    out[64] = 0;
}

static const char letters[] =
    "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~";

static bd_plan *random_plan(bd_arena *a) {
    bd_plan *p = bd_arena_alloc(a, 1, sizeof *p);
    p->budget = test_rand(&seed) >> below(64);
    if (below(2)) snprintf(p->recipe, sizeof p->recipe, "%s", random_word(a, letters, 50, 0));
    if (below(2)) snprintf(p->codecs, sizeof p->codecs, "%s and  %s", random_word(a, letters, 50, 1), "x");
    if (below(2)) {
        p->calib_tokens = 1 + (test_rand(&seed) >> (1 + below(63)));
        random_hash(p->calib_sha256);
    }
    p->n_shards = (int)below(4);
    p->shards = bd_arena_alloc(a, 4, sizeof *p->shards);
    for (int i = 0; i < p->n_shards; i++) random_hash(p->shards[i]);
    if (below(2))
        p->metric = (bd_plan_metric){.given = true,
                                     .damp = random_real(false),
                                     .rho = random_real(false),
                                     .order = (bd_column_order)below(3),
                                     .couple_rows = below(2),
                                     .feedback = below(2),
                                     .row_steps = below(2),
                                     .col_steps = below(2)};
    p->n_tensors = (int)below(12);
    p->tensors = bd_arena_alloc(a, 12, sizeof *p->tensors);
    for (int i = 0; i < p->n_tensors; i++) {
        bd_plan_tensor *t = &p->tensors[i];
        t->name = random_word(a, letters, 60, i);
        t->group = random_word(a, letters, 10, (int)below(3));
        t->quantizer = random_word(a, "abcABC0189_.+-", 10, 0);
        t->n_params = (int)below(BD_PLAN_PARAMS_MAX + 1);
        for (int k = 0; k < t->n_params; k++)
            t->params[k] = (bd_plan_param){random_word(a, "abcxyz0189_", 8, k),
                                           random_word(a, "abcABCXYZ01239_.+-", 20, (int)below(1000))};
        t->fixed = below(2);
        t->bytes = below(3) ? random_real(false) : -1;
        t->nats = below(3) ? random_real(true) : NAN;
    }
    p->n_groups = (int)below(5);
    p->groups = bd_arena_alloc(a, 5, sizeof *p->groups);
    for (int i = 0; i < p->n_groups; i++)
        p->groups[i] = (bd_plan_group){random_word(a, letters, 20, i), (bd_codec)below(BD_CODEC_COUNT),
                                       test_rand(&seed) >> below(64), 0};
    return p;
}

static bool same_real(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static void check_same(const bd_plan *a, const bd_plan *b) {
    CHECK(a->budget == b->budget && a->calib_tokens == b->calib_tokens && a->n_shards == b->n_shards);
    CHECK_STR(b->recipe, a->recipe);
    CHECK_STR(b->codecs, a->codecs);
    CHECK_STR(b->calib_sha256, a->calib_sha256);
    for (int i = 0; i < a->n_shards; i++) CHECK_STR(b->shards[i], a->shards[i]);
    const bd_plan_metric *m = &a->metric, *n = &b->metric;
    CHECK(m->given == n->given && m->damp == n->damp && m->rho == n->rho && m->order == n->order &&
          m->couple_rows == n->couple_rows);
    CHECK(m->feedback == n->feedback && m->row_steps == n->row_steps && m->col_steps == n->col_steps);
    CHECK(a->n_tensors == b->n_tensors && a->n_groups == b->n_groups);
    for (int i = 0; i < a->n_tensors; i++) {
        const bd_plan_tensor *s = &a->tensors[i], *t = &b->tensors[i];
        CHECK_STR(t->name, s->name);
        CHECK_STR(t->group, s->group);
        CHECK_STR(t->quantizer, s->quantizer);
        CHECK(s->n_params == t->n_params && s->fixed == t->fixed);
        CHECK(same_real(s->bytes, t->bytes) && same_real(s->nats, t->nats) && t->line > 0);
        for (int k = 0; k < s->n_params; k++) {
            CHECK_STR(t->params[k].key, s->params[k].key);
            CHECK_STR(t->params[k].value, s->params[k].value);
        }
    }
    for (int i = 0; i < a->n_groups; i++) {
        CHECK_STR(b->groups[i].name, a->groups[i].name);
        CHECK(a->groups[i].codec == b->groups[i].codec && a->groups[i].bytes == b->groups[i].bytes);
    }
}

TEST(what_is_printed_is_read_back) {
    seed = test_seed();
    for (int i = 0; i < 3000; i++) {
        bd_arena *a = bd_arena_create(0);
        bd_plan *p = random_plan(a), *q = NULL;
        bd_buf b;
        bd_buf_init(&b);
        CHECK_OK(bd_plan_print(p, &b, &e), &e);
        bd_status st = bd_plan_parse(&q, (const char *)b.data, b.size, &e);
        CHECK_MSG(!st, "plan %d: %s\n%.*s", i, e.msg, (int)b.size, (char *)b.data);
        check_same(p, q);
        bd_buf_u8(&b, 0);
        check_print(q, (const char *)b.data);
        bd_plan_close(q);
        bd_buf_free(&b);
        bd_arena_destroy(a);
    }
}

/* --- what cannot be printed --- */

static void not_printed(const bd_plan *p, const char *said) {
    bd_buf b;
    bd_buf_init(&b);
    memset(&e, 0, sizeof e);
    CHECK(bd_plan_print(p, &b, &e) == BD_E_FIELD);
    CHECK_MSG(strstr(e.msg, said) != NULL, "\"%s\" lacks \"%s\"", e.msg, said);
    bd_buf_free(&b);
}

TEST(printer_refuses_what_would_not_come_back) {
    bd_plan_tensor good = {.name = "a", .group = "g", .quantizer = "row", .bytes = -1, .nats = NAN}, t = good;
    bd_plan p = {.tensors = &t, .n_tensors = 1};
    t.name = "a b";
    not_printed(&p, "names");
    t = good, t.group = "";
    not_printed(&p, "tensor a");
    t = good, t.quantizer = "r\n";
    not_printed(&p, "tensor a");
    t = good, t.nats = INFINITY;
    not_printed(&p, "tensor a");
    t = good, t.bytes = INFINITY;
    not_printed(&p, "tensor a");
    t = good, t.bytes = NAN;
    not_printed(&p, "tensor a");
    t = good, t.n_params = 1, t.params[0] = (bd_plan_param){"bytes", "3"};
    not_printed(&p, "\"bytes=3\"");
    t.params[0] = (bd_plan_param){"k", "a b"};
    not_printed(&p, "\"k=a b\"");
    t.params[0] = (bd_plan_param){"k", ""};
    not_printed(&p, "\"k=\"");
    t = good;
    p.metric = (bd_plan_metric){.given = true, .damp = NAN};
    not_printed(&p, "damp");
    p.metric.given = false;
    p.calib_tokens = 3;
    not_printed(&p, "hash");
    p.calib_tokens = 0;
    snprintf(p.recipe, sizeof p.recipe, "a b");
    not_printed(&p, "recipe");
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
    refused("birdie-plan 1\n", BD_E_VERSION, "birdie-plan 2");
    refused("{}", BD_E_MAGIC, "birdie-plan 2");
    refused_line("tensor a b", BD_E_SYNTAX, "tensor NAME GROUP QUANTIZER");
    refused_line("tensor a b in/t6", BD_E_SYNTAX, "not the name of a quantizer");
    refused_line("tensor a b row bits", BD_E_SYNTAX, "key=value");
    refused_line("tensor a b row bits=", BD_E_SYNTAX, "a value is of");
    refused_line("tensor a b row bits=6,5", BD_E_SYNTAX, "a value is of");
    refused_line("tensor a b row bits=6 k=1 bits=5", BD_E_SYNTAX, "bits is given twice");
    refused_line("tensor a b row Bits=6", BD_E_SYNTAX, "not a key");
    refused_line("tensor a b row =6", BD_E_SYNTAX, "not a key");
    refused_line("tensor a b row fixed fixed", BD_E_SYNTAX, "fixed is given twice");
    refused_line("tensor a b row bytes=1 bytes=1", BD_E_SYNTAX, "bytes is given twice");
    refused_line("tensor a b row nats=1 nats=1", BD_E_SYNTAX, "nats is given twice");
    refused_line("tensor a b row bytes=-1", BD_E_RANGE, "0 or more");
    refused_line("tensor a b row bytes=1e301", BD_E_RANGE, "too large");
    refused_line("tensor a b row bytes=1e999", BD_E_RANGE, "too large");
    refused_line("tensor a b row nats=nan", BD_E_SYNTAX, "not a number");
    refused_line("tensor a b row nats=inf", BD_E_SYNTAX, "not a number");
    refused_line("tensor a b row nats=0x10", BD_E_SYNTAX, "not a number");
    refused_line("tensor a b row nats=1e", BD_E_SYNTAX, "not a number");
    refused_line("tensor a b row a=1 b=1 c=1 d=1 e=1 f=1 g=1 h=1 i=1 j=1 k=1 l=1 m=1", BD_E_LIMIT, "more than 12");
    refused_line("tensor a b row a=1 b=1 c=1 d=1 e=1 f=1 g=1 h=1 i=1 j=1 k=1 l=1 fixed bytes=1 nats=1 m=1",
                 BD_E_SYNTAX, "too many words");
    refused_line("tensor  a b f16", BD_E_SYNTAX, "single spaces");
    refused_line(" tensor a b f16", BD_E_SYNTAX, "single spaces");
    refused_line("tensor a b f16 ", BD_E_SYNTAX, "single spaces");
    refused_line("group a range", BD_E_SYNTAX, "group NAME CODEC");
    refused_line("group a gzip bytes=3", BD_E_UNKNOWN, "unknown codec \"gzip\"");
    refused_line("group a range bytes=18446744073709551616", BD_E_RANGE, "too large");
    refused_line("group a range bytes=", BD_E_SYNTAX, "not a number");
    refused_line("budget -3", BD_E_SYNTAX, "not a number");
    refused_line("budget 3 4", BD_E_SYNTAX, "starts with \"budget\"");
    refused_line("metric damp=0.1 rho=0.1 order=natural feedback=yes rows=yes", BD_E_MISSING, "lacks cols");
    refused_line("metric order=random", BD_E_UNKNOWN, "natural, activation or rising");
    refused_line("metric damp=-1", BD_E_RANGE, "0 or more");
    refused_line("metric damp=1 damp=1", BD_E_SYNTAX, "damp is given twice");
    refused_line("metric seed=1", BD_E_UNKNOWN, "unknown key \"seed\"");
    refused_line("calibration 5 abc", BD_E_SYNTAX, "SHA-256");
    refused_line("calibration 0 " HASH, BD_E_RANGE, "0 tokens");
    refused_line("shard abc", BD_E_SYNTAX, "SHA-256");
    refused_line("shard " HASH " x", BD_E_SYNTAX, "starts with \"shard\"");
    refused_line("codecs  brotli", BD_E_SYNTAX, "codecs NAMES");
    refused_line("recipe 0123456789012345678901234567890123456789012345678901234567890123", BD_E_LIMIT, "63");
    refused_line("hello", BD_E_SYNTAX, "starts with \"hello\"");
    refused("birdie-plan 2\nbudget\t3\n", BD_E_SYNTAX, "plan line 2: byte 9");
    refused("birdie-plan 2\n\n# caf\xc3\xa9\n", BD_E_SYNTAX, "plan line 3: byte 195");
}

TEST(lines_that_occur_once) {
    static const char *const lines[] = {"budget 1", "recipe a", "codecs a", ("calibration 1 " HASH),
                                        "metric damp=1 rho=1 order=natural feedback=no rows=no cols=no couple=no"};
    for (int i = 0; i < 5; i++) {
        char text[512];
        snprintf(text, sizeof text, "birdie-plan 2\n%s\n%s\n", lines[i], lines[i]);
        refused(text, BD_E_SYNTAX, "plan line 3: a second");
    }
    refused("birdie-plan 2\ngroup a range bytes=1\ngroup a range bytes=1\n", BD_E_SYNTAX,
            "plan line 3: a second line for group a");
    CHECK_EQ_U64(e.offset, 36);
    refused("birdie-plan 2\ntensor b g f16\ntensor a g f16\ntensor c g f16\ntensor a g f32\ntensor b g f16\n",
            BD_E_SYNTAX, "plan line 5: a second line for tensor a");
    CHECK_EQ_U64(e.offset, 59);
}

TEST(limits) {
    size_t n = (1 << 22) + 1;
    char *big = malloc(n);
    memset(big, '\n', n);
    bd_plan *p = NULL;
    CHECK_EQ_U64(bd_plan_parse(&p, big, n, &e), BD_E_LIMIT);
    CHECK_EQ_U64(bd_plan_parse(&p, big, 100000, &e), BD_E_LIMIT);
    /* Many lines of every kind that takes memory, and none of them slow. */
    bd_buf b;
    bd_buf_init(&b);
    bd_buf_printf(&b, "birdie-plan 2\n");
    for (int i = 0; i < 30000; i++) bd_buf_printf(&b, "group %d raw bytes=1\ntensor %d g f16\n", i, i);
    CHECK_OK(bd_plan_parse(&p, (const char *)b.data, b.size, &e), &e);
    CHECK(p->n_groups == 30000 && p->n_tensors == 30000);
    bd_plan_close(p);
    bd_buf_free(&b);
    bd_buf_init(&b);
    bd_buf_printf(&b, "birdie-plan 2\n");
    for (int i = 0; i <= BD_PLAN_SHARDS_MAX; i++) bd_buf_printf(&b, "shard " HASH "\n");
    CHECK_EQ_U64(bd_plan_parse(&p, (const char *)b.data, b.size, &e), BD_E_LIMIT);
    bd_buf_free(&b);
    free(big);
}

TEST(names_of_codecs) {
    for (int i = 0; i < BD_CODEC_COUNT; i++) CHECK(bd_codec_find(bd_codec_name((bd_codec)i)) == i);
    CHECK(bd_codec_find("") < 0);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
