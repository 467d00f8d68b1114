/* Folders for the audit's tests: a submission without fault, and a hook for each value of it. Everything is made
 * here. */
#ifndef BD_AUDIT_FIXTURE_H
#define BD_AUDIT_FIXTURE_H

#include <stdarg.h>
#include <sys/stat.h>

#include "bd_test.h"
#include "verify/audit.h"

/* The values of a submission of three runs that passes. */
typedef struct fixture {
    char dir[256];
    const char *bpb, *std, *hardware, *total; /* of submission.json, as written; NULL: no such key */
    const char *extra;                        /* more members, with a comma after each */
    double val_bpb[3], bytes_per_token;
    double train_ms[3], eval_ms;
    int steps, world, seeds[3], n_runs;
    int model[3], code;
    const char *gpu;    /* NULL: no table */
    const char *middle; /* lines after training, or "" */
    const char *header; /* lines before training, or "" */
    const char *script; /* NULL: comments that fill `code` bytes */
} fixture;

static inline void fx_write(const fixture *f, const char *name, const void *data, size_t n) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    FILE *o = fopen(path, "wb");
    CHECK(o && fwrite(data, 1, n, o) == n && fclose(o) == 0);
}
static inline void fx_text(const fixture *f, const char *name, const char *text) {
    fx_write(f, name, text, strlen(text));
}
static inline void fx_remove(const fixture *f, const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    CHECK(remove(path) == 0);
}

static inline fixture fx_default(void) {
    static int count;
    fixture f = {.bpb = "1.20000000",
                 .std = "0.00100000",
                 .hardware = "8xH100 SXM",
                 .total = "15100500",
                 .extra = "",
                 .val_bpb = {1.199, 1.2, 1.201},
                 .bytes_per_token = 151080000.0 / 62021632,
                 .train_ms = {600040, 600050, 600060},
                 .eval_ms = 70000,
                 .steps = 7000,
                 .world = 8,
                 .seeds = {1, 42, 1337},
                 .n_runs = 3,
                 .model = {15000000, 15000100, 15000200},
                 .code = 100300,
                 .gpu = "NVIDIA H100 80GB HBM3",
                 .middle = "",
                 .header = ""};
    snprintf(f.dir, sizeof f.dir, "%s/audit%d", test_tmp(), count++);
    CHECK(mkdir(f.dir, 0700) == 0);
    return f;
}

/* A log of the first family. */
static inline void fx_log(const fixture *f, int i, char *out, size_t size) {
    double loss = f->val_bpb[i] * 0.6931471805599453 * f->bytes_per_token;
    char table[400] = "";
    if (f->gpu)
        for (int g = 0; g < 2; g++)
            snprintf(table + strlen(table), sizeof table - strlen(table),
                     "|   %d  %s          On  |   00000000:0%d:00.0 Off |                    0 |\n", g, f->gpu, g);
    snprintf(out, size,
             "%sval_loader:shards pattern=./data/val_*.bin tokens:62021632\nmodel_params:20000000\n"
             "world_size:%d grad_accum_steps:1\nseed:%d\n%s"
             "step:0/20000 val_loss:6.9 val_bpb:4.1 train_time:0ms step_avg:0.01ms\n"
             "step:%d/20000 val_loss:2.1 val_bpb:1.25 train_time:%.0fms step_avg:85.7ms\n"
             "stopping_early: wallclock_cap train_time:%.0fms step:%d/20000\n%s"
             "Serialized model: 90000000 bytes\nCode size: %d bytes\n"
             "Serialized model int6+zstd: %d bytes\nTotal submission size int6+zstd: %d bytes\n"
             "final_int6_sliding val_loss:%.4f val_bpb:%.4f stride:64 eval_time:%.0fms\n"
             "final_int6_sliding_exact val_loss:%.8f val_bpb:%.8f\n",
             table, f->world, f->seeds[i], f->header, f->steps, f->train_ms[i], f->train_ms[i], f->steps, f->middle,
             f->code, f->model[i], f->model[i] + f->code, loss, f->val_bpb[i], f->eval_ms, loss, f->val_bpb[i]);
}

static inline void fx_member(char *out, size_t size, const char *key, const char *value) {
    if (value) snprintf(out + strlen(out), size - strlen(out), "  \"%s\": %s,\n", key, value);
}

static inline void fx_make(const fixture *f) {
    char text[8192], name[64];
    fx_text(f, "README.md", "A submission.\n");
    char *script = malloc((size_t)f->code + 1);
    CHECK(script != NULL);
    memset(script, '#', (size_t)f->code);
    if (f->script) fx_text(f, "train_gpt.py", f->script);
    else fx_write(f, "train_gpt.py", script, (size_t)f->code);
    free(script);
    snprintf(text, sizeof text, "{\n  \"author\": \"a\", \"github_id\": \"b\", \"date\": \"2026-01-01\",\n%s",
             f->extra);
    fx_member(text, sizeof text, "val_bpb", f->bpb);
    fx_member(text, sizeof text, "val_bpb_std", f->std);
    fx_member(text, sizeof text, "bytes_total", f->total);
    char quoted[100];
    snprintf(quoted, sizeof quoted, "\"%s\"", f->hardware ? f->hardware : "");
    fx_member(text, sizeof text, "hardware", f->hardware ? quoted : NULL);
    snprintf(text + strlen(text), sizeof text - strlen(text), "  \"name\": \"c\"\n}\n");
    fx_text(f, "submission.json", text);
    for (int i = 0; i < f->n_runs; i++) {
        fx_log(f, i, text, sizeof text);
        snprintf(name, sizeof name, "train_seed%d.log", f->seeds[i]);
        fx_text(f, name, text);
    }
}

/* The profile, or another. */
static inline bd_audit_result fx_audit_with(const char *dir, const bd_rules *r) {
    static bd_audit_result out;
    bd_err e = {0};
    CHECK_OK(bd_audit_folder(&out, dir, r, &e), &e);
    CHECK_EQ_U64(out.verdict.n, 7);
    for (int i = 0; i < out.verdict.n; i++)
        for (const char *c = out.verdict.checks[i].detail; *c; c++) CHECK(*c >= 0x20 && *c <= 0x7e);
    return out;
}
static inline bd_audit_result fx_audit(const char *dir) {
    static bd_rules r;
    bd_err e = {0};
    CHECK_OK(bd_rules_open(&r, "parameter-golf", &e), &e);
    return fx_audit_with(dir, &r);
}

static inline const bd_check *fx_check(const bd_audit_result *r, const char *id) {
    for (int i = 0; i < r->verdict.n; i++)
        if (!strcmp(r->verdict.checks[i].id, id)) return &r->verdict.checks[i];
    CHECK_MSG(0, "no check %s", id);
    return NULL;
}

/* The check has this outcome and its detail (or value) says `text` (NULL: anything). */
#define FX_EXPECT(r, id, o, text)                                                                                  \
    do {                                                                                                           \
        const bd_check *fc_ = fx_check((r), (id));                                                                 \
        const char *ft_ = (text);                                                                                  \
        CHECK_MSG(fc_->outcome == (o), "%s is %s: %s %s", (id), bd_outcome_name(fc_->outcome), fc_->value,         \
                  fc_->detail);                                                                                    \
        CHECK_MSG(!ft_ || strstr(fc_->detail, ft_) || strstr(fc_->value, ft_), "%s does not say \"%s\": %s", (id), \
                  ft_, fc_->detail);                                                                               \
    } while (0)

#endif
