/* The audit as a whole: real folders, one grade at a time, hostile folders. */
#include <fcntl.h>
#include <limits.h>

#include "tests/verify/audit_fixture.h"
#include "verify/stats.h"

/* --- real folders -------------------------------------------------------------- */

typedef struct real {
    const char *folder;
    const char *grades; /* of FILES, SIZE, TIME, HARDWARE, SCORE */
    const char *says[10][2];
} real;

static const real reals[] = {
    {"2026-03-25_ValCalib_GPTQ_XSA_BigramHash3072",
     "PPWPP",
     {{"SCORE", "mean 1.11473509, sd 0.00035387, n=3"},
      {"SIZE", "15984850"},
      {"TIME", "600.137"},
      {"TIME", "no more than 2 steps"},
      {"TIME", "calibration on self-generated data takes 196.5 to 198.3 s"},
      {"STATS", "0.00035387 is the sample's"}}},
    {"2026-04-06_SP8192_HessianSDClip_ProgressiveRecurrence",
     "PFPPP",
     {{"SIZE", "16054963 (train_seed1337.log:"},
      {"SIZE", "16058494"},
      {"SIZE", "16059704"},
      {"SIZE", "are the model without the code"},
      {"SIZE", "train_gpt.py has 74 bytes, the counted code (80055) is train_gpt_decode.py"},
      {"FILES", "train.log is a copy of train_seed1337.log and counts once"},
      {"SCORE", "claimed 5180 (line 22), log 5178"},
      {"SCORE", "n=3"}}},
    {"2026-03-19_MLP3x_QAT_Int6_SlidingWindow",
     "WWPPF",
     {{"SCORE", "1.15015359"},
      {"SCORE", "1.1666088"},
      {"SCORE", "21778504 parameters"},
      {"SCORE", "26501720 claimed"},
      {"FILES", "claimed seeds without a log: 42, 123"}}},
    {"2026-03-17_LoRA_TTT",
     "PWFFW",
     {{"TIME", "2400.107 s (train_v1.txt:427)"},
      {"HARDWARE", "world size 2 in train_v1.txt"},
      {"SCORE", "one run"},
      {"SCORE", "mean of the 4 logs 1.1928"},
      {"STATS", "no test of significance"}}},
    {"2026-03-20_10L_Int5MLP_MuonWD04_SWA50",
     "WWPPF",
     {{"FILES", "lacks val_bpb"},
      {"SCORE", "val_bpb is missing"},
      {"SCORE", "val_loss 1.14276 (submission.json:3) holds the bits per byte"},
      {"SIZE", "15900000 is rounded"},
      {"SIZE", "15684876"},
      {"SIZE", "15830186"},
      {"SIZE", "15965978"},
      {"SIZE", "the label \"int8+zlib\" is not what was used"}}},
    {"2026-04-29_SmearGateBOSFix_3Seed_1.06141",
     "PWWPP",
     {{"TIME", "599.5 + 3.5 = 603"},
      {"TIME", "timer 525.5 + warm-up 183.9"},
      {"SIZE", "as shipped 15921440 + 152661 = 16074101 > cap"},
      {"SCORE", "the folder's name says 1.06141, the claim 1.06145"},
      {"FILES", "6 different runs"}}},
};

static bd_outcome grade(char c) {
    return c == 'P' ? BD_PASS : c == 'W' ? BD_WARN : c == 'F' ? BD_FAILED : BD_NOT_CHECKED;
}

TEST(real_folders) {
    static const char *const ids[] = {"FILES", "SIZE", "TIME", "HARDWARE", "SCORE"};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        char name[300];
        snprintf(name, sizeof name, "records/%s", reals[i].folder);
        const char *path = test_data(name);
        if (!path) SKIP("no records");
        bd_audit_result r = fx_audit(path);
        CHECK_STR(r.folder, reals[i].folder);
        for (int k = 0; k < 5; k++) FX_EXPECT(&r, ids[k], grade(reals[i].grades[k]), NULL);
        for (int k = 0; k < 10 && reals[i].says[k][0]; k++) {
            const bd_check *c = fx_check(&r, reals[i].says[k][0]);
            CHECK_MSG(strstr(c->detail, reals[i].says[k][1]) || strstr(c->value, reals[i].says[k][1]),
                      "%s %s does not say \"%s\": %s", reals[i].folder, c->id, reals[i].says[k][1], c->detail);
        }
        bool failed = strchr(reals[i].grades, 'F') != NULL;
        CHECK(r.overall == (failed ? BD_FAILED : BD_WARN));
    }
}

/* --- grades ---------------------------------------------------------------------- */

TEST(a_folder_without_fault) {
    fixture f = fx_default();
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    static const char *const ids[] = {"FILES", "SIZE", "TIME", "HARDWARE", "SCORE", "STATS"};
    for (int i = 0; i < 6; i++) {
        CHECK_STR(r.verdict.checks[i].id, ids[i]);
        FX_EXPECT(&r, ids[i], BD_PASS, NULL);
    }
    FX_EXPECT(&r, "POLICY", BD_NOT_CHECKED, "not visible in a folder");
    CHECK(r.overall == BD_PASS && r.n == 3 && r.runs == 3);
    CHECK(fabs(r.val_bpb - 1.2) < 1e-9 && fabs(r.bpb_sd - 0.001) < 1e-9);
    CHECK_EQ_U64(r.largest_total, 15100500);
    FX_EXPECT(&r, "SCORE", BD_PASS, "submission.json:3");
    FX_EXPECT(&r, "SCORE", BD_PASS, "train_seed1.log:");
    FX_EXPECT(&r, "SCORE", BD_PASS, "implied bytes 15108");
    FX_EXPECT(&r, "TIME", BD_PASS, "no more than 2 steps");
    FX_EXPECT(&r, "STATS", BD_PASS, "0.00296 bits per byte");
    /* Twice the same folder, twice the same bytes. */
    bd_audit_result again = fx_audit(f.dir);
    CHECK(!memcmp(&r, &again, sizeof r));
}

TEST(score) {
    static const struct {
        const char *bpb;
        bd_outcome o;
        const char *says;
    } cases[] = {
        {"1.2000001", BD_WARN, "off by one"},
        {"1.2000002", BD_FAILED, "reproduced by no log"},
        {"1.19999999", BD_WARN, "off by one"},
        {"1.20000", BD_PASS, NULL},
        {"1.2000", BD_WARN, "rounded to 4 decimals"},
        {"1.2", BD_WARN, "rounded to 1 decimal"},
        {"1.201", BD_WARN, "one run"},
        {"1.20100000", BD_WARN, "one run"},
        {"1.25", BD_FAILED, "validation line during training"},
        {"NaN", BD_FAILED, "not a finite number"},
        {"Infinity", BD_FAILED, "not a finite number"},
        {"1e999", BD_FAILED, "not a finite number"},
        {"-1.2", BD_FAILED, "no log"},
        {"0", BD_FAILED, "no log"},
        {"123456789012345678901234567890", BD_FAILED, "no log"},
        {"\"1.20000000\"", BD_FAILED, "missing"},
        {"null", BD_FAILED, "missing"},
        {"[1.2]", BD_FAILED, "missing"},
        {NULL, BD_FAILED, "missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = fx_default();
        f.bpb = cases[i].bpb;
        fx_make(&f);
        bd_audit_result r = fx_audit(f.dir);
        const bd_check *c = fx_check(&r, "SCORE");
        CHECK_MSG(c->outcome == cases[i].o, "%s: %s %s", cases[i].bpb ? cases[i].bpb : "(none)",
                  bd_outcome_name(c->outcome), c->detail);
        FX_EXPECT(&r, "SCORE", cases[i].o, cases[i].says);
    }
}

TEST(score_needs_the_artifact) {
    fixture f = fx_default();
    f.middle =
        "DIAGNOSTIC post_ema val_loss:1.9000 val_bpb:1.10000000 eval_time:9ms\n"
        "pre-quantization post-ema val_loss:1.9000 val_bpb:1.10000000 eval_time:9ms\n";
    f.bpb = "1.10000000";
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "SCORE", BD_FAILED, "diagnostic");
}

TEST(score_counts_bytes_right) {
    static const double factors[] = {1.0004, 1.0006, 0.9994, 1.0413, 1.1746};
    for (int i = 0; i < 5; i++) {
        fixture f = fx_default();
        f.bytes_per_token *= factors[i];
        fx_make(&f);
        bd_audit_result r = fx_audit(f.dir);
        FX_EXPECT(&r, "SCORE", i ? BD_FAILED : BD_PASS, i ? "the score divides by" : "implied bytes");
    }
}

TEST(score_of_claimed_seeds) {
    fixture f = fx_default();
    f.extra =
        "  \"seeds\": [1, 42, 1337],\n  \"seed_results\": {\"1\": {\"val_bpb\": 1.19900000, \"artifact_bytes\": "
        "15100300, \"steps\": 7000}, \"seed_42\": {\"val_bpb\": 1.20}, \"1337\": {\"val_bpb\": 1.201}},\n";
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "SCORE", BD_PASS, "seeds 1, 42, 1337");
    FX_EXPECT(&r, "FILES", BD_PASS, NULL);
    FX_EXPECT(&r, "SIZE", BD_PASS, NULL);
    /* A rerun of each seed beside it does not disturb. */
    fixture g = f;
    for (int i = 0; i < 3; i++) {
        char text[8192], name[64];
        g.val_bpb[i] += 0.005;
        g.train_ms[i] -= 8000;
        fx_log(&g, i, text, sizeof text);
        snprintf(name, sizeof name, "train_seed%d_rerun.log", g.seeds[i]);
        fx_text(&f, name, text);
    }
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "SCORE", BD_PASS, "n=3");
    FX_EXPECT(&r, "POLICY", BD_WARN, "3 of the 6 runs");

    fixture h = fx_default();
    h.extra =
        "  \"seed_results\": {\"1\": {\"val_bpb\": 1.1900}, \"42\": {\"val_bpb\": 1.20}, \"1337\": {\"val_bpb\": "
        "1.201, \"steps\": 6999, \"artifact_bytes\": 15000200}},\n";
    fx_make(&h);
    r = fx_audit(h.dir);
    FX_EXPECT(&r, "SCORE", BD_WARN, "claimed val_bpb of 1 seed stands in no log of its seed");
    FX_EXPECT(&r, "SCORE", BD_WARN, "claimed 6999");
    FX_EXPECT(&r, "SIZE", BD_WARN, "are the model without the code");
}

TEST(stats) {
    fixture f = fx_default();
    f.std = "0.00081650"; /* of the population */
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "STATS", BD_WARN, "the population's 0.00081650");
    f = fx_default();
    f.std = "0.002";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "STATS", BD_WARN, "0.00100000 in the logs");
    f = fx_default();
    f.seeds[1] = f.seeds[2] = 1; /* the last log overwrites the others */
    f.val_bpb[2] = 1.2;
    f.std = NULL;
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "STATS", BD_WARN, "1 seed, the rules ask for 3");
    FX_EXPECT(&r, "SCORE", BD_WARN, "one run");
}

TEST(size) {
    fixture f = fx_default();
    f.model[2] = 15900000; /* 16,000,300 */
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "SIZE", BD_FAILED, "over the cap: 16000300 (train_seed1337.log:");

    f = fx_default();
    f.model[2] = 15899700;
    f.total = "16000000";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "SIZE", BD_WARN, "16000000 is rounded"); /* at the cap; round by chance, said all the same */

    static const char *const totals[][2] = {
        {"15100400", NULL}, /* one seed, and the mean */
        {"15100500", NULL}, /* the largest */
        {"15100501", "15100501 stands in no log"},
        {"15000200", "is the model without the code"},
        {"15100000", "15100000 is rounded"},
        {"16777216", "above the cap"},
        {"NaN", "is no size"},
        {"-5", "stands in no log"},
        {"1e300", "above the cap"},
    };
    for (size_t i = 0; i < sizeof totals / sizeof *totals; i++) {
        f = fx_default();
        f.total = totals[i][0];
        fx_make(&f);
        r = fx_audit(f.dir);
        bool fails = totals[i][1] && strstr(totals[i][1], "cap");
        FX_EXPECT(&r, "SIZE", !totals[i][1] ? BD_PASS : fails ? BD_FAILED : BD_WARN, totals[i][1]);
    }

    /* As shipped: the script is larger than what was counted. */
    f = fx_default();
    f.model[2] = 15890000;
    f.total = NULL;
    fx_make(&f);
    char *big = malloc(200001);
    CHECK(big != NULL);
    memset(big, '#', 200000);
    big[200000] = 0;
    fx_text(&f, "train_gpt.py", big);
    free(big);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "SIZE", BD_WARN, "as shipped 15890000 + 200000 = 16090000 > cap");
    bd_rules rules;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, "parameter-golf", &e), &e);
    rules.policy[BD_POLICY_CODE_SIZE] = 1; /* "counted" */
    CHECK(bd_policy_is(&rules, BD_POLICY_CODE_SIZE, "counted"));
    r = fx_audit_with(f.dir, &rules);
    FX_EXPECT(&r, "SIZE", BD_PASS, "as shipped");
}

TEST(size_with_helpers) {
    fixture f = fx_default();
    f.model[2] = 15890000;
    f.total = NULL;
    f.code = 50;
    f.script = "import os;x=1;from tilt import Tilt # 123456789012345678901";
    f.code = (int)strlen(f.script);
    fx_make(&f);
    char *big = calloc(200001, 1);
    CHECK(big != NULL);
    memset(big, '#', 199960);
    memcpy(big, "SRC = \"fused_kernel.cpp\"\n", 25);
    fx_text(&f, "tilt.py", big);
    fx_text(&f, "fused_kernel.cpp", "int x;\n");
    fx_text(&f, "unrelated.py", big);
    free(big);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "SIZE", BD_WARN, "with 2 helper files (tilt.py, ..., 199967 bytes) 160900");
    bd_rules rules;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, "parameter-golf", &e), &e);
    rules.policy[BD_POLICY_HELPER_FILES] = 1;
    r = fx_audit_with(f.dir, &rules);
    FX_EXPECT(&r, "SIZE", BD_PASS, "helper");
}

TEST(time) {
    static const struct {
        double ms, eval_ms;
        const char *middle;
        bd_outcome o;
        const char *says;
    } cases[] = {
        {588000, 70000, "", BD_PASS, "longest training 600.050"},
        {600100, 70000, "", BD_PASS, "3 runs over the limit by no more than 2 steps"}, /* a step takes 85.7 ms */
        {600171, 70000, "", BD_PASS, NULL},
        {600172, 70000, "", BD_FAILED, "2.0 steps"},
        {2400107, 70000, "", BD_FAILED, "longest training 2400.107 s (train_seed1337.log:"},
        {588000, 600001, "", BD_FAILED, "evaluation is above 600 s"},
        {588000, 70000, "GPTQ:collected 67 Hessians in 11.9s\n", BD_WARN, "600.0 + 11.9 = 611.9"},
        {588000, 70000, "gptq:calibrated 68 layers in 3.5s\n", BD_WARN, "603.5 s"},
        {588000, 70000, "gptq:generated 64 sequences in 198.3s\n", BD_WARN, "self-generated data takes 198.3 s"},
        {588000, 70000, "total_eval_time:429.5s\nttt_lora:compile warmup done (188.2s)\n", BD_PASS,
         "timer 429.5 + warm-up 188.2 = 617.7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = fx_default();
        f.train_ms[2] = cases[i].ms;
        f.eval_ms = cases[i].eval_ms;
        f.middle = cases[i].middle;
        fx_make(&f);
        bd_audit_result r = fx_audit(f.dir);
        FX_EXPECT(&r, "TIME", cases[i].o, cases[i].says);
    }
    fixture f = fx_default();
    f.middle = "total_eval_time:429.5s\nttt_lora:compile warmup done (188.2s)\n";
    fx_make(&f);
    bd_rules rules;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, "parameter-golf", &e), &e);
    rules.policy[BD_POLICY_EVAL_CLOCK] = 1;
    bd_audit_result r = fx_audit_with(f.dir, &rules);
    FX_EXPECT(&r, "TIME", BD_FAILED, "evaluation is above 600 s");
}

TEST(hardware) {
    fixture f = fx_default();
    f.world = 2;
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "HARDWARE", BD_FAILED, "world size 2 in train_seed1.log:");
    f = fx_default();
    f.gpu = "NVIDIA A100-SXM4-80GB";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "HARDWARE", BD_FAILED, "A100");
    f = fx_default();
    f.gpu = NULL;
    f.hardware = "1xRTX5090";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "HARDWARE", BD_FAILED, "1xRTX5090");
    f = fx_default();
    f.hardware = "H100 \\u001b[31m\\n \\u00fc";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "HARDWARE", BD_PASS, "H100 ?[31m? ??");
}

TEST(files) {
    bd_audit_result r;
    static const char *const required[] = {"README.md", "submission.json", "train_gpt.py"};
    for (int i = 0; i < 3; i++)
        for (int empty = 0; empty < 2; empty++) {
            fixture f = fx_default();
            fx_make(&f);
            if (empty) fx_text(&f, required[i], "");
            else fx_remove(&f, required[i]);
            r = fx_audit(f.dir);
            FX_EXPECT(&r, "FILES", BD_FAILED, empty ? "is empty" : "is missing");
            CHECK(r.overall == BD_FAILED);
        }
    fixture f = fx_default();
    f.n_runs = 0;
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_FAILED, "no training log");
    FX_EXPECT(&r, "TIME", BD_NOT_CHECKED, NULL);
    FX_EXPECT(&r, "STATS", BD_NOT_CHECKED, NULL);
    CHECK(r.n == 0);
    f = fx_default();
    f.extra = "  \"seeds\": [1, 42, 7, 8],\n";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "claimed seeds without a log: 7, 8 (submission.json:3)");
    f = fx_default();
    f.extra = "  \"n_seeds\": 5,\n";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "n_seeds is 5");
    f = fx_default();
    f.script = "exec(open(\"missing_part.py\").read())";
    fx_make(&f);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "missing_part.py");
    f = fx_default();
    fx_make(&f);
    fx_text(&f, "submission.json", "{\"author\": \"a\", \"val_bpb\": 1.2,}");
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_FAILED, "line 1");
    FX_EXPECT(&r, "SCORE", BD_FAILED, "no claim that can be read");
}

TEST(copies_count_once) {
    fixture f = fx_default();
    fx_make(&f);
    char text[8192], twice[16384];
    fx_log(&f, 1, text, sizeof text);
    fx_text(&f, "train.log", text);
    snprintf(twice, sizeof twice, "%s%s", text, text); /* and one file with the same run twice */
    fx_text(&f, "zz_all.txt", twice);
    bd_audit_result r = fx_audit(f.dir);
    CHECK(r.n == 3 && r.runs == 3 && r.overall == BD_PASS);
    FX_EXPECT(&r, "FILES", BD_PASS, "train.log is a copy of train_seed42.log");
}

TEST(policy) {
    fixture f = fx_default();
    f.middle = "ngram_tilt:precompute hints elapsed=3.2s\nfinal_ttt_lora val_loss:2.0 val_bpb:1.3 eval_time:9ms\n";
    f.header = "  compressor: pergroup_lrzip\n  caseops_enabled: True\ntrain_loader:dataset:x train_shards:1499\n";
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "POLICY", BD_WARN, "learns at test time");
    FX_EXPECT(&r, "POLICY", BD_WARN, "n-gram");
    FX_EXPECT(&r, "POLICY", BD_WARN, "lrzip");
    FX_EXPECT(&r, "POLICY", BD_WARN, "lossless");
    FX_EXPECT(&r, "POLICY", BD_WARN, "1499");
    bd_rules rules;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, "parameter-golf", &e), &e);
    rules.policy[BD_POLICY_SYSTEM_BINARIES] = 2; /* "forbid" */
    r = fx_audit_with(f.dir, &rules);
    FX_EXPECT(&r, "POLICY", BD_FAILED, "lrzip");
    /* Under rules that name nothing, nothing is asked. */
    CHECK_OK(bd_rules_open(&rules, "default", &e), &e);
    r = fx_audit_with(f.dir, &rules);
    FX_EXPECT(&r, "HARDWARE", BD_NOT_CHECKED, "name no device");
    FX_EXPECT(&r, "SIZE", BD_PASS, NULL);
}

/* --- hostile folders ------------------------------------------------------------- */

TEST(links_and_devices_are_not_followed) {
    fixture f = fx_default();
    fx_make(&f);
    char path[600];
    snprintf(path, sizeof path, "%s/train_extra.log", f.dir);
    CHECK(symlink("/etc/passwd", path) == 0);
    snprintf(path, sizeof path, "%s/loop", f.dir);
    CHECK(symlink(".", path) == 0);
    snprintf(path, sizeof path, "%s/pipe.log", f.dir);
    CHECK(mkfifo(path, 0600) == 0);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "2 symbolic links not followed; 1 entries are no files");
    fx_remove(&f, "README.md");
    snprintf(path, sizeof path, "%s/README.md", f.dir);
    CHECK(symlink("/etc/passwd", path) == 0);
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_FAILED, "README.md is missing");
    /* The folder itself may be named by a link: that is the user's word. */
    snprintf(path, sizeof path, "%s-link", f.dir);
    CHECK(symlink(f.dir, path) == 0);
    r = fx_audit(path);
    CHECK(r.runs == 3);
    bd_rules rules;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, NULL, &e), &e);
    CHECK(bd_audit_folder(&r, "/nowhere/at/all", &rules, &e) == BD_E_MISSING && e.file[0]);
    snprintf(path, sizeof path, "%s/submission.json", f.dir);
    CHECK(bd_audit_folder(&r, path, &rules, &e) == BD_E_MISSING);
}

TEST(names_are_only_shown) {
    fixture f = fx_default();
    fx_make(&f);
    fx_text(&f, "\x1b[31m evil\n\xff.log", "seed:5\nfinal_x val_loss:1 val_bpb:1.2\n");
    bd_audit_result r = fx_audit(f.dir);
    CHECK(r.logs == 4);
    char path[600];
    snprintf(path, sizeof path, "%s", f.dir);
    for (int i = 0; i < 8; i++) {
        snprintf(path + strlen(path), sizeof path - strlen(path), "/d");
        CHECK(mkdir(path, 0700) == 0);
    }
    r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "1 folders too deep");
}

TEST(too_many_files) {
    fixture f = fx_default();
    char name[32];
    for (int i = 0; i < 1030; i++) {
        snprintf(name, sizeof name, "f%d.log", i);
        fx_text(&f, name, "");
    }
    bd_rules rules;
    bd_audit_result r;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&rules, NULL, &e), &e);
    CHECK(bd_audit_folder(&r, f.dir, &rules, &e) == BD_E_LIMIT);
}

TEST(large_logs) {
    fixture f = fx_default();
    fx_make(&f);
    char path[600];
    snprintf(path, sizeof path, "%s/huge.log", f.dir);
    fx_text(&f, "huge.log", "x");
    CHECK(truncate(path, 100 << 20) == 0); /* one line of 100 MB: not read */
    size_t n = 20 << 20;
    char *line = malloc(n);
    CHECK(line != NULL);
    memset(line, 'a', n); /* one line of 20 MB: read, and no result */
    fx_write(&f, "long.log", line, n);
    uint64_t seed = test_seed();
    for (size_t i = 0; i < n; i++) line[i] = (char)test_rand(&seed);
    fx_write(&f, "binary.log", line, 1 << 20);
    free(line);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_WARN, "1 files too large");
    CHECK(r.runs == 3);
}

TEST(hostile_numbers_in_logs) {
    fixture f = fx_default();
    f.std = NULL;
    f.header =
        "step:99999999999999999999999/1 val_loss:nan val_bpb:nan train_time:99999999999999999999ms\n"
        "stopping_early: wallclock_cap train_time:18446744073709551615ms step:0/0\n";
    f.middle =
        "final_x val_loss:nan val_bpb:inf\nfinal_y val_loss:1e308 val_bpb:1e-308\n"
        "final_z val_loss:-1 val_bpb:-1.5\nSerialized model a: 9223372036854775807 bytes\n"
        "total_eval_time:infs\nGPTQ:collected 1 Hessians in nans\nseed:99999999999999999999\n";
    fx_make(&f);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "SCORE", BD_PASS, "n=3");
    CHECK(r.runs >= 3);
}

TEST(deep_json) {
    fixture f = fx_default();
    fx_make(&f);
    size_t n = 200000;
    char *text = malloc(n + 1);
    CHECK(text != NULL);
    memset(text, '[', n);
    fx_write(&f, "submission.json", text, n);
    free(text);
    bd_audit_result r = fx_audit(f.dir);
    FX_EXPECT(&r, "FILES", BD_FAILED, "deeper than 32");
}

/* --- statistics -------------------------------------------------------------------- */

TEST(student) {
    static const double tails[][3] = {{2, 5, 0.05096973941492917},    {6.964556734283, 2, 0.01},
                                      {0.5, 3.3, 0.3242675381997785}, {11.8339, 3.3063, 0.00040338552827},
                                      {-1, 4, 0.8130495168499705},    {0, 7, 0.5}};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        double p = bd_student_tail(tails[i][0], tails[i][1]);
        CHECK_MSG(fabs(p - tails[i][2]) < 1e-8, "t %g df %g: %.12g", tails[i][0], tails[i][1], p);
    }
    CHECK(fabs(bd_student_quantile(0.01, 2) - 6.964556734) < 1e-6);
    CHECK(fabs(bd_student_quantile(0.05, 10) - 1.812461123) < 1e-6);
    CHECK(bd_student_tail(INFINITY, 3) == 0 && bd_student_tail(-INFINITY, 3) == 1);
    const double a[] = {1.11508120, 1.11437394, 1.11475014}, b[] = {1.1190, 1.1195, 1.1199};
    bd_stats sa = bd_stats_of(a, 3), sb = bd_stats_of(b, 3);
    double t, df;
    CHECK(fabs(bd_welch(&sa, &sb, 0, &t, &df) - 9.809126e-05) < 1e-9);
    CHECK(fabs(t - 14.297517426) < 1e-6 && fabs(df - 3.786023) < 1e-5);
    CHECK(fabs(bd_welch(&sa, &sb, 0.003, NULL, NULL) - 0.00370357584) < 1e-9);
    CHECK(fabs(bd_nats_of_bpb(0.00283, 3.7266) - 0.00731) < 1e-5);
    CHECK(fabs(bd_bpb_of_nats(0.005, 2.4359) - 0.00296) < 1e-5);
    bd_stats one = bd_stats_of(a, 1);
    CHECK(one.n == 1 && one.sd == 0 && one.mean == a[0] && bd_stats_of(a, 0).n == 0);
}

/* --- rules ------------------------------------------------------------------------- */

TEST(profile_of_the_challenge) {
    bd_rules r, file;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&r, "parameter-golf", &e), &e);
    CHECK_OK(bd_rules_open(&file, BIRDIE_SOURCE_DIR "/rules/parameter-golf.json", &e), &e);
    CHECK(!memcmp(&r, &file, sizeof r));
    CHECK(r.size_cap == 16000000 && r.train_s == 600 && r.eval_s == 600 && r.tolerance_steps == 2);
    CHECK(r.devices == 8 && !strcmp(r.device, "H100") && r.processors == 0);
    CHECK(r.canonical_bytes == 151080000 && r.tolerance == 0.0005 && r.documents == 50000);
    CHECK(r.bar_nats == 0.005 && r.bar_p == 0.01 && r.seeds == 3);
    CHECK(r.n_counts == 7 && r.counts[0].tokens == 62021632 && bd_rules_requires(&r, "CAUSAL"));
    CHECK(bd_policy_is(&r, BD_POLICY_CODE_SIZE, "shipped") && bd_policy_is(&r, BD_POLICY_EVAL_CLOCK, "timer"));
    char choice[32];
    CHECK_STR(bd_policy_choice(&r, BD_POLICY_DOCUMENT_BOUNDARY, choice), "isolate-mixers");
    for (int p = 0; p < BD_N_POLICIES; p++)
        CHECK_MSG(r.source[p][0], "%s has no source", bd_policy_name((bd_policy)p));
    CHECK_OK(bd_rules_open(&r, "cpu-golf", &e), &e);
    CHECK(r.size_cap == 1000000 && r.train_s == 600 && r.processors == 2);
    CHECK_OK(bd_rules_open(&r, "default", &e), &e);
    CHECK(bd_rules_open(&r, "paramter-golf", &e) == BD_E_USAGE &&
          strstr(e.msg, "did you mean \"parameter-golf\"?"));
}

TEST(policies_that_are_refused) {
    static const char *const cases[][2] = {
        {"\"policy\": {\"code-sise\": {\"choice\": \"shipped\"}}", "did you mean \"code-size\"?"},
        {"\"policy\": {\"code-size\": {\"choice\": \"shiped\"}}", "did you mean \"shipped\"?"},
        {"\"policy\": {\"code-size\": {\"choise\": \"shipped\"}}", "did you mean \"choice\"?"},
        {"\"policy\": {\"code-size\": {}}", "policy.code-size.choice must be one of: shipped counted"},
        {"\"policy\": {\"code-size\": \"shipped\"}", "must be an object"},
        {"\"canonical\": {\"by_tokenizer\": [{\"tokeniser\": \"a\", \"tokens\": 5}]}",
         "did you mean \"tokenizer\"?"},
        {"\"canonical\": {\"by_tokenizer\": [{\"tokenizer\": \"a\", \"tokens\": -5}]}", "by_tokenizer[0].tokens"},
        {"\"canonical\": {\"by_tokenizer\": [{\"tokenizer\": \"\", \"tokens\": 5}]}", "by_tokenizer[0].tokenizer"},
        {"\"folder\": {\"file\": []}", "did you mean \"files\"?"},
        {"\"folder\": {\"files\": [\"a\\u0007\"]}", "folder.files[0]"},
        {"\"time\": {\"hardware\": {\"device\": \"\"}}", "time.hardware.device"},
        {"\"significance\": {\"seed\": 3}", "did you mean \"seeds\"?"},
        {"\"audit_required\": [\"STRUCTURE\"]", "unknown check"},
        {"\"probes\": {\"random_alpha\": 2}", "probes.random_alpha"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[300];
        bd_rules r;
        bd_err e = {0};
        snprintf(text, sizeof text, "{\"name\": \"x\", \"size\": {\"cap\": 1}, %s}", cases[i][0]);
        CHECK(bd_rules_parse(&r, text, strlen(text), &e) != BD_OK);
        CHECK_MSG(strstr(e.msg, cases[i][1]), "%s: %s", cases[i][0], e.msg);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
