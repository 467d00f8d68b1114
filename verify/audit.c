#include "verify/audit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/audit_impl.h"

void bd_audit_say(bd_audit *a, const char *fmt, ...) {
    char phrase[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(phrase, sizeof phrase, fmt, ap);
    va_end(ap);
    for (char *c = phrase; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
    bd_buf_printf(&a->text, "%s%s", a->text.size ? "; " : "", phrase);
}

const char *bd_audit_place(const bd_audit *a, const bd_audit_run *run, int line, char out[300]) {
    snprintf(out, 300, "%s:%d", a->folder.files[run->file].name, line);
    return out;
}

bd_status bd_audit_add(bd_audit *a, const char *id, bd_outcome o, const char *value, const char *limit,
                       bd_err *err) {
    BD_TRY(bd_buf_check(&a->text, err));
    bd_verdict_add(&a->out->verdict, id, o, value, limit, "%.*s", (int)a->text.size,
                   a->text.size ? (const char *)a->text.data : "");
    bd_buf_free(&a->text);
    bd_buf_init(&a->text);
    return BD_OK;
}

/* --- gathering --------------------------------------------------------------- */

/* "train_seed42.log": the number after "seed", else -1. */
static int64_t seed_of_name(const char *base) {
    const char *p = strcasestr(base, "seed");
    if (!p) return -1;
    p += strcspn(p, "0123456789");
    size_t n = strspn(p, "0123456789");
    return n && n <= 18 ? strtoll(p, NULL, 10) : -1;
}

static bd_status add_runs(bd_audit *a, int file, const bd_log *l) {
    for (int i = 0; i < l->n; i++) {
        bool copy = false;
        for (int k = 0; k < a->n_runs && !copy; k++) copy = bd_run_same(&a->runs[k].r, &l->runs[i]);
        a->n_copies += copy;
        if (copy) continue;
        if (a->n_runs == BD_AUDIT_MAX_RUNS) {
            a->cut = true;
            return BD_OK;
        }
        bd_audit_run *run = &a->runs[a->n_runs++];
        run->r = l->runs[i];
        run->file = file;
        run->of_claim = false;
        run->seed = run->r.has_seed ? run->r.seed : seed_of_name(a->folder.files[file].base);
    }
    a->cut |= l->cut;
    return BD_OK;
}

static bd_status gather_logs(bd_audit *a, bd_err *err) {
    a->runs = calloc(BD_AUDIT_MAX_RUNS, sizeof *a->runs);
    if (!a->runs) return BD_FAIL(err, BD_E_NOMEM, "out of memory for runs");
    a->copy_file = -1;
    for (int i = 0; i < a->folder.n; i++) {
        const bd_folder_file *f = &a->folder.files[i];
        if (f->role != BD_ROLE_LOG || !f->data) continue;
        if (f->same_as >= 0) {
            if (a->copy_file < 0) {
                a->copy_file = i;
                a->copy_of = f->same_as;
            }
            a->n_copies++;
            continue;
        }
        bd_log l;
        BD_TRY(bd_log_parse(&l, f->data, f->size, err));
        a->n_logs += l.n > 0;
        bd_status st = add_runs(a, i, &l);
        bd_log_free(&l);
        if (st) return st;
    }
    return BD_OK;
}

/* submission.json, else the first submission*.json. What is wrong with it is a verdict. */
static bd_status gather_claim(bd_audit *a, bd_err *err) {
    bd_err bad = {0};
    a->claim_file = bd_folder_find(&a->folder, "submission.json");
    if (a->claim_file < 0) a->claim_file = bd_folder_find(&a->folder, "submission*.json");
    if (a->claim_file < 0) return BD_OK;
    const bd_folder_file *f = &a->folder.files[a->claim_file];
    bd_status st = f->data ? bd_claim_parse(&a->claim, f->data, f->size, a->rules, &bad)
                           : BD_FAIL(&bad, BD_E_LIMIT, "too large to read");
    if (st == BD_E_NOMEM) return BD_FAIL(err, BD_E_NOMEM, "%s", bad.msg);
    if (st) snprintf(a->claim_bad, sizeof a->claim_bad, "%.250s", bad.msg);
    return BD_OK;
}

static void folder_name(char out[96], const char *path) {
    char *real = realpath(path, NULL);
    const char *name = real ? real : path, *slash = strrchr(name, '/');
    snprintf(out, 96, "%s", slash && slash[1] ? slash + 1 : name);
    for (char *c = out; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
    free(real);
}

/* The verdict, with the checks that the rules ask of a folder. */
static bd_outcome overall(const bd_verdict *v, const bd_rules *r) {
    bd_rules asked = *r;
    memcpy(asked.required, r->audit_required, sizeof asked.required);
    asked.n_required = r->n_audit_required;
    return bd_verdict_overall(v, &asked);
}

bd_status bd_audit_folder(bd_audit_result *out, const char *path, const bd_rules *r, bd_err *err) {
    memset(out, 0, sizeof *out);
    bd_audit a = {.rules = r, .out = out, .claim_file = -1};
    bd_buf_init(&a.text);
    folder_name(out->folder, path);
    bd_status st = bd_folder_read(&a.folder, path, err);
    if (st) return st;
    BD_TRY_DONE(gather_claim(&a, err));
    BD_TRY_DONE(gather_logs(&a, err));
    BD_TRY_DONE(bd_script_read(&a.script, &a.folder, r->script[0] ? r->script : "train_gpt.py", err));
    bd_audit_match(&a);
    out->files = a.folder.n;
    out->logs = a.n_logs;
    out->runs = a.n_runs;
    BD_TRY_DONE(bd_audit_files(&a, err));
    BD_TRY_DONE(bd_audit_size(&a, err));
    BD_TRY_DONE(bd_audit_time(&a, err));
    BD_TRY_DONE(bd_audit_hardware(&a, err));
    BD_TRY_DONE(bd_audit_score(&a, err));
    BD_TRY_DONE(bd_audit_stats(&a, err));
    BD_TRY_DONE(bd_audit_policy(&a, err));
    out->overall = overall(&out->verdict, r);
done:
    bd_script_free(&a.script);
    bd_folder_free(&a.folder);
    bd_buf_free(&a.text);
    free(a.runs);
    return st;
}
