#include "verify/audit_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_LINE = 4096 }; /* a longer line is looked at so far */

typedef struct reader {
    bd_log *log;
    bd_run *run;  /* the last one */
    bool results; /* it has some: a new header begins another run */
    int line, plain_totals;
    double first_plain;
} reader;

static void set_number(bd_number *to, const bd_field *f, int line) {
    *to = f->x;
    to->line = line;
}

/* Without the ':' after it. */
static void set_text(char *out, size_t size, const bd_field *f) {
    size_t n = f->n - (f->n && f->s[f->n - 1] == ':');
    snprintf(out, size, "%.*s", (int)(n < size ? n : size - 1), f->s);
    for (char *c = out; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
}

/* Runs ---------------------------------------------------------------------- */

static bool new_run(reader *r) {
    bd_log *l = r->log;
    if (l->n == BD_LOG_MAX_RUNS) {
        l->cut = true;
        return false;
    }
    bd_run *p = realloc(l->runs, (size_t)(l->n + 1) * sizeof *p);
    if (!p) return false;
    l->runs = p;
    r->run = &l->runs[l->n++];
    memset(r->run, 0, sizeof *r->run);
    r->run->first_line = r->line;
    r->results = false;
    r->plain_totals = 0;
    return true;
}

/* A line that stands before training. */
static void header(reader *r) {
    if (r->results && !new_run(r)) r->results = false;
}

static void result(reader *r) { r->results = true; }

static void set_train(reader *r, const bd_field *ms, const bd_field *step, bool stop) {
    bd_run *run = r->run;
    if (!ms->x.finite || (run->stopped && !stop)) return;
    if (!stop && run->train_ms.present && ms->x.v < run->train_ms.v) return;
    set_number(&run->train_ms, ms, r->line);
    run->stopped |= stop;
    if (step) set_number(&run->steps, step, r->line);
    if (run->steps.present && run->steps.v > 0) run->step_ms = run->train_ms.v / run->steps.v;
}

/* Metrics ------------------------------------------------------------------- */

static bool contains(const char *s, const char *word) { return strcasestr(s, word) != NULL; }

static bool is_diagnostic(const char *label) {
    static const char *const words[] = {"pre-quant", "prequant", "pre_quant", "post_ema", "post-ema"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (contains(label, words[i])) return true;
    return false;
}

/* "final_int8_ttt" and "final_int6_ttt" are one kind of result. */
static void drop_width(char *label) {
    char *p = strstr(label, "_int");
    if (!p || p[4] < '0' || p[4] > '9') return;
    char *q = p + 4;
    while (*q >= '0' && *q <= '9') q++;
    if (*q == '_') memmove(p, q, strlen(q) + 1);
}

static bd_metric *add_metric(reader *r, const char *label, size_t n, const bd_field *loss, const bd_field *bpb,
                             double eval_s) {
    bd_run *run = r->run;
    result(r);
    if (run->n_metrics == BD_RUN_MAX_METRICS) { /* keep the last ones */
        memmove(run->metrics, run->metrics + 1, sizeof run->metrics - sizeof *run->metrics);
        run->n_metrics--;
    }
    bd_metric *m = &run->metrics[run->n_metrics++];
    memset(m, 0, sizeof *m);
    if (n >= 6 && !memcmp(label + n - 6, "_exact", 6)) n -= 6;
    const bd_field f = {.s = label, .n = n};
    set_text(m->label, sizeof m->label, &f);
    drop_width(m->label);
    m->diagnostic = is_diagnostic(m->label);
    if (loss) set_number(&m->loss, loss, r->line);
    set_number(&m->bpb, bpb, r->line);
    m->eval_s = eval_s;
    if (contains(m->label, "ttt") && !run->learns) {
        run->learns = true;
        run->learns_line = r->line;
    }
    return m;
}

/* Length of the label of a result: words of letters, digits, _ + - up to s[end], of which " stride:N" is not part;
 * 0: none. */
static size_t label_length(const char *s, size_t end) {
    size_t n = 0;
    while (n < end && s[n] &&
           (strchr("_+- ", s[n]) || (s[n] >= '0' && s[n] <= '9') || ((s[n] | 32) >= 'a' && (s[n] | 32) <= 'z')))
        n++;
    if (n == end) return n;
    bd_field f[BD_SCAN_FIELDS];
    const char *stride = memmem(s, end, " stride:", 8);
    if (!stride || (size_t)(stride - s) > n) return 0;
    size_t at = (size_t)(stride - s);
    if (bd_scan(" stride:%u", stride, end - at, f) != 1 || f[0].s + f[0].n != s + end) return 0;
    return at;
}

/* "LABEL[ stride:N][ sliding] [val_loss:X[ sliding] ]val_bpb:Y ...[ exact:Z] ...[eval_]time:Tms" */
static void metric_line(reader *r, const char *s, size_t n) {
    bd_field f[BD_SCAN_FIELDS], t[BD_SCAN_FIELDS];
    if (!n || !((s[0] | 32) >= 'a' && (s[0] | 32) <= 'z')) return;
    const char *at = memmem(s, n, " val_loss:", 10);
    bool loss = at != NULL;
    if (!loss) at = memmem(s, n, " val_bpb:", 9);
    if (!at) return;
    size_t i = (size_t)(at - s), label = label_length(s, i);
    if (!label) return;
    bool sliding = label >= 8 && !memcmp(s + label - 8, " sliding", 8);
    if (sliding) label -= 8;
    if (loss ? bd_scan(" val_loss:%f val_bpb:%f", at, n - i, f) != 2 &&
                   bd_scan(" val_loss:%f sliding val_bpb:%f", at, n - i, f) != 2
             : bd_scan(" val_bpb:%f", at, n - i, f) != 1)
        return;
    bd_field *bpb = &f[loss];
    const char *rest = bpb->s + bpb->n;
    size_t left = n - (size_t)(rest - s);
    double eval = bd_scan("%*eval_time:%fms", rest, left, t) == 1 || bd_scan("%* time:%fms", rest, left, t) == 1
                      ? t[0].x.v / 1000
                      : 0;
    if (bd_scan(" exact:%f", rest, left, t) == 1 && t[0].x.finite) bpb = &t[0];
    bd_metric *m = add_metric(r, s, label, loss ? &f[0] : NULL, bpb, eval);
    if (sliding) snprintf(m->label + strlen(m->label), sizeof m->label - strlen(m->label), " sliding");
}

/* Sizes --------------------------------------------------------------------- */

static void total_line(reader *r, const bd_field *label, const bd_field *bytes) {
    bd_run *run = r->run;
    result(r);
    if (label) {
        set_number(&run->total, bytes, r->line);
        set_text(run->total_label, sizeof run->total_label, label);
        return;
    }
    /* Without a codec: the first is the raw model with the code, a later smaller one is the artifact. */
    if (r->plain_totals++ == 0) r->first_plain = bytes->x.v;
    else if (!run->total_label[0] && bytes->x.v < r->first_plain) set_number(&run->total, bytes, r->line);
}

static void set_mb(reader *r, bd_number *to, const bd_field *mb) {
    set_number(to, mb, r->line);
    to->v *= 1e6;
    to->decimals -= 6;
}

static void calibration(reader *r, const bd_field *seconds, bool self) {
    if (!seconds->x.finite) return;
    r->run->calibration_s += seconds->x.v;
    r->run->calibration_line = r->line;
    r->run->self_generated |= self;
}

static void timer(double *to, int *line, const bd_field *seconds, const reader *r) {
    if (!seconds->x.finite) return;
    *to = seconds->x.v;
    *line = r->line;
}

/* Lines ---------------------------------------------------------------------- */

/* X(id, pattern) in the order in which they are tried. */
#define LINES(X)                                                          \
    X(STEP_VAL_A, "step:%u/%u val_loss:%f val_bpb:%f train_time:%u")      \
    X(STEP_A, "step:%u/%u train_loss:%f train_time:%u")                   \
    X(STEP_T, "step:%u/%u loss:%f%* t:%ums")                              \
    X(STEP_VAL_B, "%u/%u val_loss: %f val_bpb: %f")                       \
    X(STEP_B, "%u/%u train_loss: %f train_time: %fm")                     \
    X(STOP_A, "stopping_early: wallclock_cap train_time:%ums step:%u/")   \
    X(STOP_B, "stopping_early: wallclock_cap train_time: %ums step: %u/") \
    X(STOP_C, "stopping_early: wallclock_cap train_time:%ums")            \
    X(SEED_A, "seed:%u%$")                                                \
    X(SEED_B, "  seed: %u%$")                                             \
    X(WORLD_A, "world_size:%u")                                           \
    X(WORLD_B, "  world_size: %u%$")                                      \
    X(TOKENS_A, "val_loader:shards %*tokens:%u")                          \
    X(TOKENS_B, "val_tokens: %u%$")                                       \
    X(TOKENS_C, "val tokens: %u%$")                                       \
    X(PARAMS_A, "model_params:%u")                                        \
    X(PARAMS_B, "params:%u %*ws:%u")                                      \
    X(PARAMS_C, "%*| params:%u %*ws:%u")                                  \
    X(SHARDS_A, "train_loader:%*train_shards:%u")                         \
    X(SHARDS_B, "train_shards: %u%$")                                     \
    X(MODEL_RAW, "Serialized model: %u bytes")                            \
    X(MODEL, "Serialized model %w %u bytes")                              \
    X(CODE_RAW, "Code size (uncompressed): %u bytes")                     \
    X(CODE_PACKED, "Code size (compressed): %u bytes")                    \
    X(CODE, "Code size: %u bytes")                                        \
    X(TOTAL_PLAIN, "Total submission size: %u bytes")                     \
    X(TOTAL, "Total submission size %w %u bytes")                         \
    X(TERNARY, "artifact:%fMB %w fp:%w code:%u")                          \
    X(BUDGET, "budget:%u/%u ")                                            \
    X(MODEL_MB, "%w %fMB model + %fMB code = %f/")                        \
    X(MODEL_PIPE, "%w model: %u bytes | Total submission: %u bytes")      \
    X(AUTO_BYTES, "artifact_bytes:%_%u%$")                                \
    X(AUTO_BPB, "val_bpb:%_%f%$")                                         \
    X(EVAL_TOTAL, "total_eval_time:%fs")                                  \
    X(WARMUP, "ttt_lora:compile warmup done (%fs)")                       \
    X(TTT_DONE, "ttt_sliding:done val_loss=%f val_bpb=%f elapsed=%fs")    \
    X(GENERATED, "gptq:generated %u seq%*in %fs")                         \
    X(CALIBRATED, "gptq:calibrated %u layers in %fs")                     \
    X(HESSIANS_A, "GPTQ:collected %u Hessians in %fs")                    \
    X(HESSIANS_B, "gptq:collected hessians for %u layers in %fs")         \
    X(PRODUCTION, "artifact_production_wallclock: %fs")                   \
    X(SUMMARY, "Seed %u: %*val_loss=%f val_bpb=%f artifact=%u")           \
    X(CASEOPS, "  caseops_enabled: True")                                 \
    X(LRZIP, "  compressor: %*lrzip")                                     \
    X(NGRAM, "ngram_tilt:%w")

typedef enum line_id {
#define X(id, pattern) L_##id,
    LINES(X)
#undef X
        N_LINES
} line_id;
static const char *const patterns[N_LINES] = {
#define X(id, pattern) pattern,
    LINES(X)
#undef X
};

static void take(reader *r, line_id id, const bd_field *f) {
    bd_field ms;
    switch (id) {
        case L_STEP_VAL_A:
            set_number(&r->run->last_bpb, &f[3], r->line);
            set_train(r, &f[4], &f[0], false);
            break;
        case L_STEP_A: set_train(r, &f[3], &f[0], false); break;
        case L_STEP_T: set_train(r, &f[3], &f[0], false); break;
        case L_STEP_VAL_B: set_number(&r->run->last_bpb, &f[3], r->line); break;
        case L_STEP_B: /* minutes with one decimal */
            ms = f[3];
            ms.x.v *= 60000;
            set_train(r, &ms, &f[0], false);
            break;
        case L_STOP_A:
        case L_STOP_B: set_train(r, &f[0], &f[1], true); break;
        case L_STOP_C: set_train(r, &f[0], NULL, true); break;
        case L_SEED_A:
        case L_SEED_B:
            header(r);
            r->run->has_seed = true;
            r->run->seed = (int64_t)f[0].u;
            break;
        case L_WORLD_A:
        case L_WORLD_B:
            header(r);
            set_number(&r->run->world, &f[0], r->line);
            break;
        case L_TOKENS_A:
        case L_TOKENS_B:
        case L_TOKENS_C:
            header(r);
            set_number(&r->run->val_tokens, &f[0], r->line);
            break;
        case L_PARAMS_A:
            header(r);
            set_number(&r->run->params, &f[0], r->line);
            break;
        case L_PARAMS_B:
        case L_PARAMS_C:
            header(r);
            set_number(&r->run->params, &f[0], r->line);
            set_number(&r->run->world, &f[1], r->line);
            break;
        case L_SHARDS_A:
        case L_SHARDS_B:
            header(r);
            set_number(&r->run->train_shards, &f[0], r->line);
            break;
        case L_MODEL_RAW: break;
        case L_MODEL:
            set_number(&r->run->model, &f[1], r->line);
            set_text(r->run->model_label, sizeof r->run->model_label, &f[0]);
            break;
        case L_CODE_RAW: set_number(&r->run->code_raw, &f[0], r->line); break;
        case L_CODE_PACKED:
        case L_CODE: set_number(&r->run->code, &f[0], r->line); break;
        case L_TOTAL_PLAIN: total_line(r, NULL, &f[0]); break;
        case L_TOTAL: total_line(r, &f[0], &f[1]); break;
        case L_TERNARY: set_number(&r->run->code, &f[3], r->line); break;
        case L_BUDGET: total_line(r, &f[1], &f[0]); break;
        case L_MODEL_MB:
            set_mb(r, &r->run->model, &f[1]);
            set_mb(r, &r->run->total, &f[3]);
            r->run->total_is_rounded = true;
            set_text(r->run->total_label, sizeof r->run->total_label, &f[0]);
            result(r);
            break;
        case L_MODEL_PIPE:
            set_number(&r->run->model, &f[1], r->line);
            total_line(r, &f[0], &f[2]);
            break;
        case L_AUTO_BYTES: total_line(r, &(bd_field){.s = "artifact", .n = 8}, &f[0]); break;
        case L_AUTO_BPB: add_metric(r, "val_bpb", 7, NULL, &f[0], 0); break;
        case L_EVAL_TOTAL: timer(&r->run->eval_s, &r->run->eval_line, &f[0], r); break;
        case L_WARMUP: timer(&r->run->warmup_s, &r->run->warmup_line, &f[0], r); break;
        case L_TTT_DONE: add_metric(r, "ttt_sliding", 11, &f[0], &f[1], f[2].x.v); break;
        case L_GENERATED: calibration(r, &f[1], true); break;
        case L_CALIBRATED:
        case L_HESSIANS_A:
        case L_HESSIANS_B: calibration(r, &f[1], false); break;
        case L_PRODUCTION: timer(&r->run->production_s, &r->run->production_line, &f[0], r); break;
        case L_SUMMARY: /* each line is a run of its own */
            r->results = r->results || r->run->n_metrics;
            header(r);
            r->run->has_seed = true;
            r->run->seed = (int64_t)f[0].u;
            add_metric(r, "summary", 7, &f[1], &f[2], 0);
            set_number(&r->run->total, &f[3], r->line);
            break;
        case L_CASEOPS: r->run->caseops = true; break;
        case L_LRZIP:
            r->run->lrzip = true;
            r->run->lrzip_line = r->line;
            break;
        case L_NGRAM:
            if (!r->run->ngram) r->run->ngram_line = r->line;
            r->run->ngram = true;
            break;
        case N_LINES: break;
    }
}

/* "|   0  NVIDIA H100 80GB HBM3          On  | ..." */
static void gpu_line(reader *r, const char *s, size_t n) {
    bd_field f[BD_SCAN_FIELDS];
    size_t i = 1;
    while (i < n && s[i] == ' ') i++;
    if (bd_scan("%u  NVIDIA ", s + i, n - i, f) != 1) return;
    const char *name = memmem(s, n, "NVIDIA ", 7), *end = memmem(name, n - (size_t)(name - s), "  ", 2);
    if (!end) return;
    header(r);
    const bd_field text = {.s = name, .n = (size_t)(end - name)};
    char gpu[48];
    set_text(gpu, sizeof gpu, &text);
    /* The weakest statement is kept: one device of another kind shows. */
    if (!r->run->gpu[0] || contains(r->run->gpu, gpu)) set_text(r->run->gpu, sizeof r->run->gpu, &text);
    else if (!contains(gpu, r->run->gpu)) snprintf(r->run->gpu, sizeof r->run->gpu, "several kinds");
    r->run->gpu_line = r->line;
    r->run->n_gpus++;
}

static void one_line(reader *r, const char *s, size_t n) {
    bd_field f[BD_SCAN_FIELDS];
    if (n > MAX_LINE) n = MAX_LINE;
    while (n && strchr(" \t\r", s[n - 1]) && s[n - 1]) n--;
    /* "1776040000.123 " before the line. */
    if (n > 15 && s[10] == '.' && s[14] == ' ' && bd_scan("%u.%u ", s, n, f) == 2 && f[0].n == 10 && f[1].n == 3) {
        s += 15;
        n -= 15;
    }
    if (!n) return;
    if (s[0] == '|') {
        gpu_line(r, s, n);
        return;
    }
    for (int id = 0; id < N_LINES; id++)
        if (bd_scan(patterns[id], s, n, f) >= 0) {
            take(r, (line_id)id, f);
            return;
        }
    metric_line(r, s, n);
}

/* Did the run say anything that an auditor can use? */
static bool is_run(const bd_run *r) {
    return r->n_metrics || r->total.present || r->train_ms.present || r->last_bpb.present;
}

bd_status bd_log_parse(bd_log *l, const void *text, uint64_t size, bd_err *err) {
    memset(l, 0, sizeof *l);
    reader r = {.log = l, .line = 1};
    const char *s = text, *end = s + size;
    if (!new_run(&r)) return BD_FAIL(err, BD_E_NOMEM, "out of memory for a log");
    for (; s < end; r.line++) {
        const char *eol = memchr(s, '\n', (size_t)(end - s));
        if (!eol) eol = end;
        one_line(&r, s, (size_t)(eol - s));
        s = eol + (eol < end);
    }
    int n = 0;
    for (int i = 0; i < l->n; i++)
        if (is_run(&l->runs[i])) {
            if (n != i) l->runs[n] = l->runs[i];
            n++;
        }
    l->n = n;
    return BD_OK;
}

void bd_log_free(bd_log *l) {
    free(l->runs);
    memset(l, 0, sizeof *l);
}

const bd_metric *bd_run_metric(const bd_run *r, const char *label) {
    const bd_metric *best = NULL;
    for (int i = 0; i < r->n_metrics; i++) {
        const bd_metric *m = &r->metrics[i];
        if (!strcmp(m->label, label) && (!best || m->bpb.decimals >= best->bpb.decimals)) best = m;
    }
    return best;
}

bool bd_run_same(const bd_run *a, const bd_run *b) {
    if (!a->n_metrics || a->n_metrics != b->n_metrics || a->has_seed != b->has_seed || a->seed != b->seed)
        return false;
    if (a->train_ms.v != b->train_ms.v || a->total.v != b->total.v) return false;
    for (int i = 0; i < a->n_metrics; i++)
        if (a->metrics[i].bpb.v != b->metrics[i].bpb.v || a->metrics[i].loss.v != b->metrics[i].loss.v)
            return false;
    return true;
}
