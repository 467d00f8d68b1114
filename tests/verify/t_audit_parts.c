/* What the audit is made of: numbers, JSON with lines, log families, wrapped scripts. */
#include <brotli/encode.h>
#include <lzma.h>
#include <zlib.h>

#include "bd_test.h"
#include "verify/audit_json.h"
#include "verify/audit_log.h"
#include "verify/audit_wrap.h"

/* --- numbers and patterns --------------------------------------------------------- */

static bd_number number(const char *s) {
    bd_number x;
    CHECK_EQ_U64(bd_number_scan(&x, s, strlen(s)), strlen(s));
    return x;
}

TEST(numbers_keep_their_precision) {
    CHECK(number("1.21474500").decimals == 8 && number("12").decimals == 0 && number("-1.5e-3").decimals == 4);
    CHECK(number("1.5e3").decimals == -2 && number("+7.").decimals == 0);
    CHECK(number("nan").present && !number("nan").finite && !number("-inf").finite && !number("Infinity").finite);
    CHECK(!number("1e999").finite && number("1e999").v == 0);
    bd_number x;
    CHECK(bd_number_scan(&x, "", 0) == 0 && bd_number_scan(&x, "-", 1) == 0 && bd_number_scan(&x, ".5", 2) == 0);
    CHECK(bd_number_scan(&x, "1.25ms", 6) == 4 && bd_number_scan(&x, "1e", 2) == 1);
    char long_number[100];
    memset(long_number, '9', sizeof long_number);
    CHECK(bd_number_scan(&x, long_number, sizeof long_number) == 0);
    x = number("1.0835");
    CHECK(bd_number_agrees(&x, 1.08354, 0) && bd_number_agrees(&x, 1.08345001, 0) &&
          !bd_number_agrees(&x, 1.0836, 0));
    CHECK(bd_number_agrees(&x, 1.0836, 0.5) && !bd_number_agrees(&x, 1.08361, 0.5) &&
          !bd_number_agrees(&x, NAN, 9));
    CHECK(fabs(bd_number_uncertainty(&x) - 0.00005 / 1.0835) < 1e-12);
}

static int scan(const char *pattern, const char *line, bd_field *f) {
    return bd_scan(pattern, line, strlen(line), f);
}

TEST(patterns) {
    bd_field f[BD_SCAN_FIELDS];
    CHECK(scan("a:%u/%u b:%f", "a:12/1,234 b:1.5e3 rest", f) == 3 && f[1].u == 1234 && f[2].x.v == 1500);
    CHECK(scan("%*tokens:%u%$", "anything at all tokens:5", f) == 1 && f[0].u == 5);
    CHECK(scan("x%_%u", "x   7", f) == 1 && scan("x%_%u", "x7", f) == 1);
    CHECK(scan("%w bytes", "int6+lzma: bytes", f) == 1 && f[0].n == 10);
    CHECK(scan("a%$", "ab", f) == -1 && scan("ab", "a", f) == -1 && scan("%u", "x", f) == -1 &&
          scan("", "x", f) == 0);
    CHECK(scan("%u", "99999999999999999999999999", f) == -1);
    CHECK(scan("100%%", "100%", f) == 0);
}

/* --- JSON --------------------------------------------------------------------------- */

TEST(json_with_lines) {
    static const char text[] =
        "\xef\xbb\xbf{\n \"a\": 1.50,\n \"b\": [true, null,\n  {\"c\": \"x\\u00e9\\n\\ud83d\\ude00\\u0000\"}],\n"
        " \"d\": NaN, \"e\": -Infinity, \"f\": {}, \"g\": []\n}\n";
    bd_json d;
    bd_err e = {0};
    CHECK_OK(bd_json_parse(&d, text, sizeof text - 1, &e), &e);
    int a = bd_json_get(&d, 0, "a"), b = bd_json_get(&d, 0, "b");
    CHECK(d.nodes[0].n_children == 6 && d.nodes[a].line == 2 && d.nodes[b].line == 3);
    CHECK_STR(d.nodes[a].text, "1.50");
    CHECK(d.nodes[b].type == BD_JSON_LIST && d.nodes[b].n_children == 3);
    int o = d.nodes[d.nodes[d.nodes[b].child].next].next, c = bd_json_get(&d, o, "c");
    CHECK(d.nodes[o].line == 4 && d.nodes[o].next == -1);
    CHECK_STR(d.nodes[c].text, "x\xc3\xa9\n\xf0\x9f\x98\x80?");
    CHECK_STR(d.nodes[bd_json_get(&d, 0, "d")].text, "NaN");
    CHECK(bd_json_get(&d, 0, "z") == -1 && bd_json_get(&d, a, "a") == -1 && bd_json_get(&d, -1, "a") == -1);
    bd_json_free(&d);
    bd_json_free(&d);
}

TEST(json_that_is_refused) {
    static const char *const texts[] = {
        "",           " ",         "{",     "[1,",     "[1 2]",       "[1,]",
        "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "[01]",    "[1.]",        "[+1]",
        "[.5]",       "[1e]",      "\"abc", "\"\\x\"", "\"\\u12g4\"", "[\"a\nb\"]",
        "truth",      "nul",       "{}{}",  "[]]",     "}",           "{\"a\":1,\"a\":2}",
        "[\"\\",      "{\"a\":}",  "[,1]",  "{\"a\"}", "-",           "[--1]",
        "NaNs",       "{1:2}",     "[}",    "{]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bd_json d;
        bd_err e = {0};
        CHECK_MSG(
            bd_json_parse(&d, texts[i], strlen(texts[i]), &e) == BD_E_SYNTAX && strstr(e.msg, "line") && !d.nodes,
            "%s", texts[i]);
    }
    char deep[200];
    bd_json d;
    bd_err e = {0};
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    CHECK(bd_json_parse(&d, deep, 200, &e) == BD_E_LIMIT);
    CHECK_OK(bd_json_parse(&d, deep + 100 - BD_JSON_MAX_DEPTH, 2 * BD_JSON_MAX_DEPTH, &e), &e);
    bd_json_free(&d);
    char *many = malloc(40000);
    CHECK(many != NULL);
    many[0] = '[';
    for (int i = 1; i < 39999; i++) many[i] = i % 2 ? '1' : ',';
    many[39999] = ']';
    CHECK(bd_json_parse(&d, many, 40000, &e) == BD_E_LIMIT);
    free(many);
}

/* --- log families -------------------------------------------------------------------- */

static bd_log parse(const char *text) {
    bd_log l;
    bd_err e = {0};
    CHECK_OK(bd_log_parse(&l, text, strlen(text), &e), &e);
    return l;
}

static double bpb_of(const bd_run *r, const char *label) {
    const bd_metric *m = bd_run_metric(r, label);
    CHECK_MSG(m != NULL, "no metric \"%s\"", label);
    return m->bpb.v;
}

TEST(family_spaces_and_parameters) {
    bd_log l = parse(
        "Hyperparameters:\n  seed: 42\n  world_size: 8\n  caseops_enabled: True\n  compressor: pergroup_lrzip\n"
        "val_tokens: 47851520\nmodel_params:35943512\ntrain_shards: 80\n"
        "1/20000 train_loss: 9.0121 train_time: 0.0m tok/s: 8297317\n5000/20000 train_loss: 2.8 train_time: 9.4m "
        "tok/s: 1\n"
        "5178/20000 val_loss: 2.8133 val_bpb: 1.0891\nstopping_early: wallclock_cap train_time: 588098ms step: "
        "5178/20000\n"
        "pre-quantization post-ema val_loss:2.81078864 val_bpb:1.08815657 eval_time:6623ms\n"
        "Code size (uncompressed): 152661 bytes\nCode size (compressed): 31385 bytes\n"
        "GPTQ:collected 67 Hessians in 11.4s\nSerialized model quantized+brotli: 15920392 bytes\n"
        "Total submission size quantized+brotli: 15951777 bytes\nartifact_production_wallclock: 844.584s (must be "
        "< 600.0)\n"
        "diagnostic quantized val_loss:2.34967561 val_bpb:1.07364034 eval_time:11036ms\n"
        "ttt_lora:compile warmup done (108.7s)\nquantized_ttt_phased val_loss:2.32165882 val_bpb:1.06090748 "
        "eval_time:429520ms\ntotal_eval_time:429.5s");
    CHECK_EQ_U64(l.n, 1);
    const bd_run *r = &l.runs[0];
    CHECK(r->has_seed && r->seed == 42 && r->world.v == 8 && r->val_tokens.v == 47851520 &&
          r->params.v == 35943512);
    CHECK(r->train_shards.v == 80 && r->caseops && r->lrzip && r->learns && !r->ngram);
    CHECK(r->stopped && r->train_ms.v == 588098 && r->train_ms.line == 12 && r->steps.v == 5178);
    CHECK(r->code.v == 31385 && r->code_raw.v == 152661 && r->model.v == 15920392 && r->total.v == 15951777);
    CHECK(r->calibration_s == 11.4 && !r->self_generated && r->warmup_s == 108.7 && r->eval_s == 429.5);
    CHECK(r->production_s == 844.584 && r->last_bpb.v == 1.0891);
    CHECK_STR(r->model_label, "quantized+brotli");
    CHECK(bpb_of(r, "quantized_ttt_phased") == 1.06090748 && bpb_of(r, "diagnostic quantized") == 1.07364034);
    CHECK(bd_run_metric(r, "pre-quantization post-ema")->diagnostic);
    CHECK(bd_run_metric(r, "quantized_ttt_phased")->bpb.line == 22);
    CHECK(bd_run_metric(r, "quantized_ttt_phased")->eval_s == 429.52);
    bd_log_free(&l);
}

TEST(family_with_times_before_lines) {
    bd_log l = parse(
        "1776040000.123   seed: 3\n1776040000.123 val_tokens: 40540160\n"
        "1776040001.123 stopping_early: wallclock_cap train_time: 587193ms step: 4800/20000\n"
        "1776040002.500 quantized_ttt_lora val_loss:2.77 val_bpb:1.0733 eval_time:1ms   \r\n");
    CHECK(l.n == 1 && l.runs[0].seed == 3 && l.runs[0].train_ms.v == 587193);
    CHECK(bpb_of(&l.runs[0], "quantized_ttt_lora") == 1.0733);
    bd_log_free(&l);
}

TEST(family_ternary) {
    bd_log l = parse(
        "activation=relu2 model=x | params:73,685,840 cfg ws:8 ga:1 s:42\n"
        "step:10/5000 loss:7.1 t:900ms avg:90.0ms\nstep:5000/5000 loss:2.1 aux:1.0 t:599000ms step_avg:119.8ms\n"
        "stopping_early: wallclock_cap train_time:599652ms\n"
        "artifact:15.99MB ternary:64290816(13048036B) fp:2526312(2530628B) code:66129\n"
        "budget:15993853/16000000 (15.99/16.00MB) FITS\n"
        "final_ternary_roundtrip val_loss:3.0 val_bpb:1.18\n"
        "final_sliding val_loss:2.9869 val_bpb:1.1565 (stride=16, T=0.90) eval_time:429300ms\n");
    CHECK_EQ_U64(l.n, 1);
    const bd_run *r = &l.runs[0];
    CHECK(r->params.v == 73685840 && r->world.v == 8 && r->train_ms.v == 599652 && r->steps.v == 5000);
    CHECK(fabs(r->step_ms - 599652.0 / 5000) < 1e-9 && r->code.v == 66129 && r->total.v == 15993853);
    CHECK(bpb_of(r, "final_sliding") == 1.1565 && bd_run_metric(r, "final_sliding")->eval_s == 429.3);
    bd_log_free(&l);
}

TEST(families_of_few_lines) {
    bd_log l = parse(
        "INT4+fp8+brotli: 15.67MB model + 0.077MB code = 15.75/16.00MB FITS\nfinal_sliding val_loss:3 "
        "val_bpb:1.2064\n");
    CHECK(l.n == 1 && l.runs[0].total_is_rounded && fabs(l.runs[0].total.v - 15750000) < 1);
    bd_log_free(&l);
    l = parse("INT7+zlib model: 15642333 bytes | Total submission: 15702333 bytes\n");
    CHECK(l.n == 1 && l.runs[0].total.v == 15702333 && l.runs[0].model.v == 15642333);
    bd_log_free(&l);
    l = parse("val_bpb:          1.234567\nartifact_bytes:   15999999\n");
    CHECK(l.n == 1 && l.runs[0].total.v == 15999999 && bpb_of(&l.runs[0], "val_bpb") == 1.234567);
    bd_log_free(&l);
    l = parse(
        "Seed 1: val_loss=2.0 val_bpb=1.21 artifact=15000001\nSeed 22: x val_loss=2.1 val_bpb=1.22 "
        "artifact=15000002\n");
    CHECK(l.n == 2 && l.runs[1].seed == 22 && l.runs[1].total.v == 15000002 &&
          bpb_of(&l.runs[0], "summary") == 1.21);
    bd_log_free(&l);
    /* Totals without a codec: the first is the raw model, the second the artifact. */
    l = parse("Code size: 80288 bytes\nTotal submission size: 111648442 bytes\n");
    CHECK(l.n == 0);
    bd_log_free(&l);
    l = parse(
        "Total submission size: 111648442 bytes\nSerialized model x+zstd: 16558180 bytes\nTotal submission size: "
        "16638468 bytes\n");
    CHECK(l.n == 1 && l.runs[0].total.v == 16638468);
    bd_log_free(&l);
}

TEST(labels_of_results) {
    bd_log l = parse(
        "final_int8_zlib_roundtrip val_loss:2.0569 val_bpb:1.2182 eval_time:2306ms\n"
        "final_int8_zlib_roundtrip_exact val_loss:2.05689911 val_bpb:1.21821151\n"
        "final_int8_zlib_roundtrip_exact sliding val_loss:2.02 sliding val_bpb:1.19692464\n"
        "final_sliding_window_eval_exact stride:64 val_loss:2.0 val_bpb:1.19500000\n"
        "final_x val_bpb:1.14775606\nfinal_y val_loss:2.0139 val_bpb:1.1927 exact:1.19272562 eval_time:7ms\n"
        "ttt_sliding:done val_loss=1.891102 val_bpb=1.120020 elapsed=407.5s\n"
        "  indented val_loss:1 val_bpb:1\nlog0(f\"final_z val_loss:{x} val_bpb:{y}\")\n"
        "some=thing val_loss:1 val_bpb:1\n");
    CHECK_EQ_U64(l.n, 1);
    const bd_run *r = &l.runs[0];
    CHECK_EQ_U64(r->n_metrics, 7);
    CHECK(bpb_of(r, "final_zlib_roundtrip") == 1.21821151 &&
          bpb_of(r, "final_zlib_roundtrip sliding") == 1.19692464);
    CHECK(bpb_of(r, "final_sliding_window_eval") == 1.195 && bpb_of(r, "final_x") == 1.14775606);
    CHECK(bpb_of(r, "final_y") == 1.19272562 && !bd_run_metric(r, "final_x")->loss.present);
    CHECK(bpb_of(r, "ttt_sliding") == 1.12002 && bd_run_metric(r, "ttt_sliding")->eval_s == 407.5);
    bd_log_free(&l);
}

TEST(several_runs_in_a_file) {
    bd_log l = parse(
        "seed:1\nworld_size:8 grad_accum_steps:1\nfinal_x val_loss:2 val_bpb:1.2\nmodel_params:5\nseed:2\n"
        "final_x val_loss:2 val_bpb:1.3\nseed:2\nfinal_x val_loss:2 val_bpb:1.3\n");
    CHECK(l.n == 3 && l.runs[0].seed == 1 && l.runs[1].seed == 2 && l.runs[1].params.v == 5 &&
          l.runs[1].first_line == 4);
    CHECK(!bd_run_same(&l.runs[0], &l.runs[1]));
    l.runs[2].params = l.runs[1].params;
    CHECK(bd_run_same(&l.runs[1], &l.runs[2]));
    bd_log_free(&l);
    char *many = malloc(100 * 64);
    CHECK(many != NULL);
    many[0] = 0;
    for (int i = 0; i < 100; i++)
        snprintf(many + strlen(many), 64, "seed:%d\nfinal_x val_loss:2 val_bpb:1.%d\n", i, 100 + i);
    l = parse(many);
    CHECK(l.n == BD_LOG_MAX_RUNS && l.cut);
    bd_log_free(&l);
    free(many);
    l = parse("");
    CHECK(l.n == 0);
    bd_log_free(&l);
}

TEST(devices_of_a_table) {
    bd_log l = parse(
        "|   0  NVIDIA H100 80GB HBM3          On  |   00000000:18:00.0 Off |                    0 |\n"
        "| N/A   26C    P0            116W /  700W |    1519MiB /  81559MiB |      0%      Default |\n"
        "|   1  NVIDIA H100 80GB HBM3          On  |   0 |\nfinal_x val_loss:2 val_bpb:1.2\n"
        "|   0  NVIDIA H100 PCIe          On  |  x |\n|   1  NVIDIA A100          On  |  x |\n"
        "final_x val_loss:2 val_bpb:1.3\n");
    CHECK_EQ_U64(l.n, 2);
    CHECK_STR(l.runs[0].gpu, "NVIDIA H100 80GB HBM3");
    CHECK(l.runs[0].n_gpus == 2 && l.runs[0].gpu_line == 3);
    CHECK_STR(l.runs[1].gpu, "several kinds");
    bd_log_free(&l);
}

/* --- wrapped scripts ------------------------------------------------------------------- */

typedef enum pack { XZ, ALONE, RAW, ZLIB, GZIP, BROTLI, PLAIN } pack;

static uint8_t *compress_as(pack how, const void *data, size_t n, size_t *size) {
    size_t cap = n + n / 8 + 4096, at = 0;
    uint8_t *out = malloc(cap);
    CHECK(out != NULL);
    lzma_options_lzma o;
    CHECK(!lzma_lzma_preset(&o, 6));
    const lzma_filter raw[] = {{LZMA_FILTER_LZMA2, &o}, {LZMA_VLI_UNKNOWN, NULL}};
    if (how == XZ) {
        CHECK(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, NULL, data, n, out, &at, cap) == LZMA_OK);
    } else if (how == RAW) {
        CHECK(lzma_raw_buffer_encode(raw, NULL, data, n, out, &at, cap) == LZMA_OK);
    } else if (how == ALONE) {
        lzma_stream z = LZMA_STREAM_INIT;
        CHECK(lzma_alone_encoder(&z, &o) == LZMA_OK);
        z.next_in = data;
        z.avail_in = n;
        z.next_out = out;
        z.avail_out = cap;
        CHECK(lzma_code(&z, LZMA_FINISH) == LZMA_STREAM_END);
        at = cap - z.avail_out;
        lzma_end(&z);
    } else if (how == BROTLI) {
        at = cap;
        CHECK(BrotliEncoderCompress(11, 22, BROTLI_MODE_TEXT, n, data, &at, out));
    } else if (how == PLAIN) {
        memcpy(out, data, n);
        at = n;
    } else {
        z_stream z;
        memset(&z, 0, sizeof z);
        CHECK(deflateInit2(&z, 9, Z_DEFLATED, how == GZIP ? 31 : 15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        z.next_in = (uint8_t *)(uintptr_t)data;
        z.avail_in = (uInt)n;
        z.next_out = out;
        z.avail_out = (uInt)cap;
        CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
        at = cap - z.avail_out;
        deflateEnd(&z);
    }
    *size = at;
    return out;
}

static char *base85(const uint8_t *data, size_t n) {
    static const char alphabet[] =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    char *out = malloc(n / 4 * 5 + 10), *p = out;
    CHECK(out != NULL);
    for (size_t i = 0; i < n; i += 4) {
        uint32_t v = 0;
        char digits[5];
        size_t k = n - i < 4 ? n - i : 4;
        for (size_t j = 0; j < 4; j++) v = v << 8 | (j < k ? data[i + j] : 0);
        for (int j = 4; j >= 0; j--, v /= 85) digits[j] = alphabet[v % 85];
        memcpy(p, digits, k + 1);
        p += k + 1;
    }
    *p = 0;
    return out;
}

static char *base64(const uint8_t *data, size_t n) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((n + 2) / 3 * 4 + 1), *p = out;
    CHECK(out != NULL);
    for (size_t i = 0; i < n; i += 3) {
        size_t k = n - i < 3 ? n - i : 3;
        uint32_t v = 0;
        for (size_t j = 0; j < 3; j++) v = v << 8 | (j < k ? data[i + j] : 0);
        for (size_t j = 0; j < 4; j++) *p++ = j <= k ? alphabet[v >> (18 - 6 * j) & 63] : '=';
    }
    *p = 0;
    return out;
}

/* A script that would run `program`. shape 0: a literal in the call; 1: split in two; 2: a variable. */
static char *wrap(pack how, bool b64, int shape, const char *program, size_t n) {
    static const char *const calls[] = {"L.decompress(%s)",
                                        "L.decompress(%s)",
                                        "L.decompress(%s,format=L.FORMAT_RAW,filters=[{\"id\":L.FILTER_LZMA2}])",
                                        "zlib.decompress(%s)",
                                        "gzip.decompress(%s)",
                                        "brotli.decompress(%s)",
                                        "(%s)"};
    size_t size;
    uint8_t *packed = compress_as(how, program, n, &size);
    char *coded = b64 ? base64(packed, size) : base85(packed, size);
    size_t len = strlen(coded), cap = len + 400, half = len / 2 / 20 * 20;
    char *call = malloc(cap), *out = malloc(2 * cap);
    const char *name = b64 ? "b64decode" : "b85decode";
    CHECK(call && out);
    if (shape == 0) snprintf(call, cap, "B.%s(\"%s\")", name, coded);
    if (shape == 1) snprintf(call, cap, "B.%s(b'%.*s'\n  r\"\"\"%s\"\"\")", name, (int)half, coded, coded + half);
    if (shape == 2) snprintf(call, cap, "B.%s(D)", name);
    snprintf(out, 2 * cap, "# it's a wrapper\nimport lzma as L,base64 as B\n");
    if (shape == 2) snprintf(out + strlen(out), 2 * cap - strlen(out), "D='%s'\n", coded);
    size_t used = strlen(out);
    used += (size_t)snprintf(out + used, 2 * cap - used, "exec(");
    const char *hole = strstr(calls[how], "%s");
    snprintf(out + used, 2 * cap - used, "%.*s%s%s)\n", (int)(hole - calls[how]), calls[how], call, hole + 2);
    free(packed);
    free(coded);
    free(call);
    return out;
}

static char *program_text(uint64_t *seed, size_t n) {
    static const char *const words[] = {"import torch\n", "def f(x):\n", "    return x + 1\n",
                                        "print(",         ")\n",         "\t# note\n"};
    char *out = malloc(n + 32);
    CHECK(out != NULL);
    out[0] = 0;
    size_t used = 0;
    while (used < n) {
        size_t k =
            (size_t)snprintf(out + used, 32, "%s%d", words[test_rand(seed) % 6], (int)(test_rand(seed) % 1000));
        used += k;
    }
    out[n] = 0;
    return out;
}

static bd_unwrapped unwrap(const char *text) {
    bd_unwrapped u;
    bd_err e = {0};
    CHECK_OK(bd_unwrap_script(&u, text, strlen(text), &e), &e);
    return u;
}

TEST(wrappers) {
    uint64_t seed = test_seed();
    static const char *const names[] = {"xz", "LZMA", "raw LZMA2", "zlib", "zlib", "brotli", "not compressed"};
    for (int how = XZ; how <= PLAIN; how++)
        for (int b64 = 0; b64 < 2; b64++)
            for (int shape = 0; shape < 3; shape++) {
                size_t n = 3000 + test_rand(&seed) % 5000;
                char *program = program_text(&seed, n), *script = wrap((pack)how, b64, shape, program, n), want[64];
                bd_unwrapped u = unwrap(script);
                snprintf(want, sizeof want, "%s, %s", b64 ? "base64" : "base85", names[how]);
                CHECK_MSG(u.state == BD_UNWRAP_DONE, "%s shape %d: %s", want, shape, u.why);
                CHECK_STR(u.how, want);
                CHECK_EQ_U64(u.size, n);
                CHECK(u.layers == 1 && !memcmp(u.text, program, n));
                bd_unwrapped_free(&u);
                bd_unwrapped_free(&u);
                free(program);
                free(script);
            }
}

TEST(wrappers_inside_wrappers) {
    uint64_t seed = test_seed();
    char *program = program_text(&seed, 20000), *inner = wrap(XZ, false, 0, program, 20000);
    char *outer = wrap(ZLIB, true, 0, inner, strlen(inner));
    bd_unwrapped u = unwrap(outer);
    CHECK(u.state == BD_UNWRAP_DONE && u.layers == 2 && u.size == 20000 && !memcmp(u.text, program, 20000));
    CHECK_STR(u.how, "base64, zlib");
    bd_unwrapped_free(&u);
    for (int i = 0; i < 4; i++) { /* deeper than is followed: what is inside then is still a wrapper */
        char *next = wrap(BROTLI, false, 0, outer, strlen(outer));
        free(outer);
        outer = next;
    }
    u = unwrap(outer);
    CHECK(u.state == BD_UNWRAP_DONE && u.layers == BD_UNWRAP_MAX_LAYERS);
    bd_unwrapped_free(&u);
    free(program);
    free(inner);
    free(outer);
}

TEST(no_wrappers) {
    static const char *const texts[] = {
        "",
        "import torch\nprint('b85decode')\n",
        "import base64\nx = base64.b64decode(arg)\n",
        "import base64\nx = base64.b85decode(\"abc\")\n",
        "'''unterminated\n",
        "b85decode(\"",
        "b85decode('\\",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bd_unwrapped u = unwrap(texts[i]);
        CHECK_MSG(u.state == BD_UNWRAP_NONE && !u.text, "%s: %s", texts[i], u.why);
        bd_unwrapped_free(&u);
    }
}

TEST(broken_wrappers) {
    uint64_t seed = test_seed();
    char *program = program_text(&seed, 4000);
    for (int how = XZ; how <= BROTLI; how++) {
        char *script = wrap((pack)how, false, 0, program, 4000);
        char *start = strstr(script, "decode(\"") + 8, *end = strrchr(script, '"');
        if (how == RAW) end = strstr(start, "\")");
        memmove(end - 100, end, strlen(end) + 1); /* cut in the middle */
        bd_unwrapped u = unwrap(script);
        CHECK_MSG(u.state == BD_UNWRAP_BROKEN && u.why[0] && !u.text, "%d: state %d %s", how, u.state, u.how);
        bd_unwrapped_free(&u);
        start[20] = ' ';
        u = unwrap(script);
        CHECK(u.state == BD_UNWRAP_BROKEN && strstr(u.why, "the text is no base85"));
        bd_unwrapped_free(&u);
        free(script);
    }
    free(program);
}

TEST(bombs) {
    size_t n = (size_t)64 << 20;
    char *big = malloc(n);
    CHECK(big != NULL);
    memset(big, 'a', n);
    static const pack kinds[] = {XZ, ALONE, RAW, ZLIB, GZIP, BROTLI};
    for (int i = 0; i < 6; i++) {
        size_t size = i >= 3 ? n : n / 4;
        char *script = wrap(kinds[i], false, 0, big, size);
        CHECK(strlen(script) < size / 100);
        bd_unwrapped u = unwrap(script);
        CHECK_MSG(u.state == BD_UNWRAP_BROKEN && strstr(u.why, "bytes inside"), "%d: %d %s", i, u.state, u.why);
        bd_unwrapped_free(&u);
        free(script);
    }
    free(big);
}

TEST(scripts_that_cost_time) {
    /* Unterminated literals, calls and escapes: quadratic for a careless reader. */
    static const char *const units[] = {"b85decode('\\'", "b85decode(\"\\\"", "'\\'",
                                        "\"'''",          "b64decode(b'x' ",  "r'\\"};
    size_t n = 2 << 20;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t k = strlen(units[i]);
        char *text = malloc(n + 16);
        CHECK(text != NULL);
        memcpy(text, "b85decode(x)", 12);
        for (size_t at = 12; at < n; at += k) memcpy(text + at, units[i], n - at < k ? n - at : k);
        text[n] = 0;
        bd_unwrapped u = unwrap(text);
        bd_unwrapped_free(&u);
        free(text);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
