/* birdie bench coder: the coder of integer arrays beside byte codecs and ideal lengths, and the quantizer with it
 * on a source whose limit is known. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/half.h"
#include "base/philox.h"
#include "base/thread.h"
#include "cli/bench.h"
#include "cli/bench_reference.h"
#include "cli/cli.h"
#include "compiler/gaussian_test.h"
#include "compiler/quantizer.h"
#include "format/codec.h"
#include "format/weight_codec.h"
#include "format/weight_group.h"

typedef struct coder_args {
    bd_cli_common common;
    int64_t symbols, samples, repeat;
} coder_args;

typedef struct measured {
    uint64_t bytes;
    double encode, decode; /* seconds, the best of some */
} measured;

/* Gaussian int6 codes as a clipped GPTQ makes them, row deviations log-normal; and what they cost ideally. */
static double synthetic_codes(bd_qtensor *q, double spread) {
    double bits = 0;
    for (uint32_t r = 0; r < q->rows; r++) {
        double sd = 31 / 12.85 * exp(spread * bd_philox_normal(7, 1, r));
        q->scales[r] = bd_f32_to_f16((float)(0.01 * sd));
        for (uint32_t c = 0; c < q->cols; c++) {
            uint64_t i = (uint64_t)r * q->cols + c;
            double v = nearbyint(sd * bd_philox_normal(7, 2, i));
            v = v > 31 ? 31 : v < -31 ? -31 : v;
            q->codes[i] = (int8_t)v;
            double lo = v <= -31 ? -INFINITY : (v - 0.5) / sd, hi = v >= 31 ? INFINITY : (v + 0.5) / sd;
            double p = 0.5 * (erfc(lo / sqrt(2)) - erfc(hi / sqrt(2)));
            bits -= log2(p > 1e-300 ? p : 1e-300);
        }
    }
    return bits / 8;
}

static bool same(const bd_qtensor *x, const bd_qtensor *y) {
    uint64_t n = bd_qtensor_elements(x);
    return x->codes ? memcmp(x->codes, y->codes, n) == 0 : memcmp(x->index, y->index, n * sizeof *x->index) == 0;
}

static bd_status measure_range(measured *m, const bd_qgroup *g, int64_t repeat, bd_err *err) {
    bd_status st = BD_OK;
    *m = (measured){0, INFINITY, INFINITY};
    for (int64_t k = 0; k < repeat && !st; k++) {
        bd_group_budget budget = {1, UINT64_MAX};
        bd_qgroup back = {0};
        bd_arena *arena = bd_arena_create(0);
        bd_buf out;
        bd_buf_init(&out);
        double t0 = bd_now();
        st = arena ? bd_weight_encode(g, &out, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
        double t1 = bd_now();
        if (!st) st = bd_weight_decode(&back, arena, out.data, out.size, bd_group_raw_size(g), &budget, 0, err);
        double t2 = bd_now();
        if (!st && !same(&g->tensors[0], &back.tensors[0]))
            st = BD_FAIL(err, BD_E_MISMATCH, "range does not give its input back");
        m->bytes = out.size;
        m->encode = fmin(m->encode, t1 - t0);
        m->decode = fmin(m->decode, t2 - t1);
        bd_buf_free(&out);
        bd_arena_destroy(arena);
    }
    return st;
}

/* A byte codec on the raw layout, once. */
static bd_status measure_bytes(measured *m, bd_codec codec, const bd_qgroup *g, bd_err *err) {
    bd_buf raw, out;
    bd_buf_init(&raw);
    bd_buf_init(&out);
    bd_group_raw_write(g, BD_RAW_ALL, &raw);
    uint8_t *back = malloc(raw.size ? raw.size : 1);
    bd_status st = back ? bd_buf_check(&raw, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    double t0 = bd_now();
    if (!st) st = bd_codec_pack(codec, raw.data, raw.size, &out, err);
    double t1 = bd_now();
    if (!st) st = bd_codec_unpack(codec, out.data, out.size, back, raw.size, 0, err);
    double t2 = bd_now();
    if (!st && memcmp(back, raw.data, raw.size) != 0)
        st = BD_FAIL(err, BD_E_MISMATCH, "%s does not give its input back", bd_codec_name(codec));
    *m = (measured){out.size, t1 - t0, t2 - t1};
    free(back);
    bd_buf_free(&raw);
    bd_buf_free(&out);
    return st;
}

static void report_codec(const char *name, const measured *m, double ideal, double n, bool as_json, json_t *list) {
    if (as_json) {
        json_t *o = json_object();
        json_object_set_new(o, "codec", json_string(name));
        json_object_set_new(o, "bytes", bd_cli_u64(m->bytes));
        json_object_set_new(o, "over_ideal", bd_cli_real((double)m->bytes / ideal - 1));
        json_object_set_new(o, "encode_msym_per_s", bd_cli_real(n / m->encode * 1e-6));
        json_object_set_new(o, "decode_msym_per_s", bd_cli_real(n / m->decode * 1e-6));
        json_array_append_new(list, o);
    } else {
        printf("%-8s %12" PRIu64 " bytes  %+6.2f%% over ideal   encode %8.2f Msym/s   decode %8.2f Msym/s\n", name,
               m->bytes, 100 * ((double)m->bytes / ideal - 1), n / m->encode * 1e-6, n / m->decode * 1e-6);
    }
}

static bd_status bench_codecs(const coder_args *a, json_t *out, bd_err *err) {
    static const double spreads[] = {0, 0.25};
    static const bd_codec byte_codecs[] = {BD_CODEC_BROTLI, BD_CODEC_ZSTD, BD_CODEC_XZ, BD_CODEC_ZLIB};
    const uint32_t cols = 1024, rows = (uint32_t)(a->symbols / cols);
    const bool as_json = a->common.json;
    bd_qtensor q = {.rows = rows, .cols = cols, .method = BD_Q_ROW, .bits = 6};
    q.codes = bd_alloc_aligned((uint64_t)rows * cols, 1);
    q.scales = bd_alloc_aligned(rows, 2);
    bd_status st = q.codes && q.scales ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    json_t *cases = json_array();
    json_object_set_new(out, "cases", cases);
    for (int i = 0; i < 2 && !st; i++) {
        double ideal = synthetic_codes(&q, spreads[i]), n = (double)bd_qtensor_elements(&q), reference = 0;
        bd_qgroup g = {.name = "bench", .tensors = &q, .n_tensors = 1};
        json_t *o = json_object(), *codecs = json_array();
        measured m;
        st = bd_bench_reference(&reference, &q, err);
        json_object_set_new(o, "spread", bd_cli_real(spreads[i]));
        json_object_set_new(o, "symbols", bd_cli_u64(bd_qtensor_elements(&q)));
        json_object_set_new(o, "ideal_bytes", bd_cli_real(ideal));
        json_object_set_new(o, "reference_bytes", bd_cli_real(reference / 8));
        json_object_set_new(o, "codecs", codecs);
        json_array_append_new(cases, o);
        if (!as_json)
            printf(
                "%u x %u Gaussian int6 codes, row deviations log-normal with spread %.2f: ideal %.0f bytes (row "
                "deviations known for free), heavy mix of contexts %.0f (codes alone); one thread\n",
                rows, cols, spreads[i], ideal, reference / 8);
        for (size_t k = 0; k < sizeof byte_codecs / sizeof byte_codecs[0] && !st; k++) {
            st = measure_bytes(&m, byte_codecs[k], &g, err);
            if (!st) report_codec(bd_codec_name(byte_codecs[k]), &m, ideal, n, as_json, codecs);
        }
        if (!st) st = measure_range(&m, &g, a->repeat, err);
        if (!st) report_codec(bd_codec_name(BD_CODEC_RANGE), &m, ideal, n, as_json, codecs);
    }
    free(q.codes);
    free(q.scales);
    return st;
}

static bd_status gaussian_point(const coder_args *a, int states, float step, float lambda, json_t *list,
                                bd_err *err) {
    const uint32_t rows = 1024, cols = (uint32_t)(a->samples / rows);
    bd_qtensor q = {.param = 0};
    bd_qgroup g = {.name = "bench", .tensors = &q, .n_tensors = 1};
    double mse = 1, reference = 0, t0 = bd_now();
    measured m = {0, 0, 0};
    bd_status st = bd_gaussian_indices(&q, &mse, rows, cols, states, step, lambda, 11, err);
    double search = bd_now() - t0, n = (double)rows * cols;
    if (!st) st = measure_range(&m, &g, a->repeat, err);
    if (!st) st = bd_bench_reference(&reference, &q, err);
    bd_qtensor_free(&q);
    if (st) return st;
    double bits = 8 * (double)m.bytes / n, gap = bits - 0.5 * log2(1 / mse);
    if (a->common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "states", json_integer(states));
        json_object_set_new(o, "bits_per_sample", bd_cli_real(bits));
        json_object_set_new(o, "mse", bd_cli_real(mse));
        json_object_set_new(o, "gap_bits", bd_cli_real(gap));
        json_object_set_new(o, "over_reference", bd_cli_real(8 * (double)m.bytes / reference - 1));
        json_object_set_new(o, "search_seconds", bd_cli_real(search));
        json_object_set_new(o, "encode_msym_per_s", bd_cli_real(n / m.encode * 1e-6));
        json_object_set_new(o, "decode_msym_per_s", bd_cli_real(n / m.decode * 1e-6));
        json_array_append_new(list, o);
    } else {
        printf("%6d %10.4f %10.6f %9.4f %11.2f%% %12.2f %12.2f %10.2f\n", states, bits, mse, gap,
               100 * (8 * (double)m.bytes / reference - 1), n / m.encode * 1e-6, n / m.decode * 1e-6, search);
    }
    return BD_OK;
}

static bd_status bench_gaussian(const coder_args *a, json_t *out, bd_err *err) {
    static const int states[] = {1, 4, 8, 64, 256};
    /* About 1, 2, 3 and 3.8 bits; lambda (scalar, trellis) near the slope of distortion over rate. */
    static const float steps[] = {1.8f, 1.0f, 0.5f, 0.285f};
    static const float lambdas[][2] = {{0.13f, 0.12f}, {0.13f, 0.09f}, {0.12f, 0.08f}, {0.12f, 0.08f}};
    json_t *list = json_array();
    json_object_set_new(out, "gaussian", list);
    if (!a->common.json)
        printf(
            "\n%u x %u independent N(0, 1), quantizer tcq; gap: bits of the file above R(D)\n%6s %10s %10s %9s "
            "%12s "
            "%12s %12s %10s\n",
            1024u, (unsigned)(a->samples / 1024), "states", "bits", "mse", "gap", "over mix", "enc Msym/s",
            "dec Msym/s", "search s");
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 4; k++)
            BD_TRY(gaussian_point(a, states[i], steps[k], lambdas[k][states[i] > 1], list, err));
    return BD_OK;
}

static int run(const coder_args *a) {
    bd_err err = {0};
    json_t *out = json_object();
    bd_status st = BD_OK;
    if (a->symbols < 1024 || a->symbols > (int64_t)1 << 30)
        st = BD_FAIL(&err, BD_E_USAGE, "--symbols must be 1,024 to 2^30");
    if (!st && (a->samples < 1024 || a->samples > (int64_t)1 << 28))
        st = BD_FAIL(&err, BD_E_USAGE, "--samples must be 1,024 to 2^28");
    if (!st && a->repeat < 1) st = BD_FAIL(&err, BD_E_USAGE, "--repeat must be at least 1");
    if (!st && a->common.dry_run) {
        printf("would measure coder for about 30 s\n");
        json_decref(out);
        return 0;
    }
    json_object_set_new(out, "bench", json_string("coder"));
    if (!st) st = bench_codecs(a, out, &err);
    if (!st) st = bench_gaussian(a, out, &err);
    if (st) {
        json_decref(out);
        return bd_cli_error(&err, a->common.json);
    }
    if (a->common.json) return bd_cli_print_json(out);
    json_decref(out);
    return 0;
}

int bd_bench_coder(int argc, char **argv) {
    coder_args a = {.symbols = 4194304, .samples = 393216, .repeat = 3};
    bd_cli_list args = {0};
    const bd_cli_opt opts[] = {
        {"symbols", BD_CLI_COUNT, &a.symbols, "N", "int6 codes to pack"},
        {"samples", BD_CLI_COUNT, &a.samples, "N", "normal numbers to quantize and pack"},
        {"repeat", BD_CLI_COUNT, &a.repeat, "N", "runs of the range coder, the fastest counts"},
    };
    const bd_cli_spec spec = {
        .name = "bench coder",
        .summary = "the coder of integer arrays: speed, and how close it comes to ideal lengths",
        .usage = "bench coder [options]",
        .text =
            "First section codecs on synthetic int6 codes, beside the ideal code length and that of a heavy mix of "
            "contexts. Then independent normal numbers, quantized and coded: how many bits above the "
            "rate-distortion bound that takes, for every number of trellis states and several rates.",
        .examples = "  birdie bench coder --json\n  birdie bench coder --samples 1000000 --repeat 10\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .common = &a.common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = run(&a);
    bd_cli_free(&spec, &args);
    return rc;
}
