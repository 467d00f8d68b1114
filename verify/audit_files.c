/* FILES and HARDWARE. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "verify/audit_impl.h"

/* A required file that is missing or empty. */
static bd_outcome required_files(bd_audit *a) {
    bd_outcome o = BD_PASS;
    const bd_rules *r = a->rules;
    for (int k = 0; k < r->n_files; k++) {
        int i = bd_folder_find(&a->folder, r->files[k]);
        if (i < 0) {
            bd_audit_say(a, "%s is missing", r->files[k]);
            o = BD_FAILED;
        } else if (a->folder.files[i].size == 0) {
            bd_audit_say(a, "%s is empty", a->folder.files[i].name);
            o = BD_FAILED;
        }
    }
    if (!a->n_runs) {
        bd_audit_say(a, "no training log");
        o = BD_FAILED;
    }
    return o;
}

static bool seed_has_log(const bd_audit *a, int64_t seed) {
    for (int i = 0; i < a->n_runs; i++)
        if (a->runs[i].seed == seed) return true;
    return false;
}

static bd_outcome claimed_seeds(bd_audit *a) {
    char list[256] = "";
    size_t used = 0;
    int missing = 0;
    for (int s = 0; s < a->claim.n_seeds_listed; s++) {
        if (seed_has_log(a, a->claim.seeds[s].seed)) continue;
        missing++;
        if (used < sizeof list - 32)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%" PRId64, used ? ", " : "",
                                     a->claim.seeds[s].seed);
    }
    if (missing)
        bd_audit_say(a, "claimed seed%s without a log: %s (%s:%d)", missing > 1 ? "s" : "", list,
                     a->folder.files[a->claim_file].name, a->claim.seeds[0].line);
    else if (a->claim.n_seeds.finite && a->claim.n_seeds.v > a->n_runs) {
        bd_audit_say(a, "n_seeds is %.0f, the logs hold %d runs", a->claim.n_seeds.v, a->n_runs);
        missing = 1;
    }
    return missing ? BD_WARN : BD_PASS;
}

static bd_outcome claim_file(bd_audit *a) {
    if (a->claim_file < 0) return BD_PASS; /* said as missing, if it is required */
    const char *name = a->folder.files[a->claim_file].name;
    if (a->claim_bad[0]) {
        bd_audit_say(a, "%s cannot be read: %s", name, a->claim_bad);
        return BD_FAILED;
    }
    if (a->claim.missing[0]) {
        bd_audit_say(a, "%s lacks %s", name, a->claim.missing);
        return BD_WARN;
    }
    return BD_PASS;
}

static bd_outcome scripts(bd_audit *a) {
    bd_outcome o = BD_PASS;
    const bd_script *s = &a->script;
    if (s->file < 0) return o;
    const bd_folder_file *f = &a->folder.files[s->file];
    if (s->wrapped.state == BD_UNWRAP_DONE)
        bd_audit_say(a, "%s is a wrapper of %" PRIu64 " bytes (%s) around %zu bytes of code", f->name, f->size,
                     s->wrapped.how, s->wrapped.size);
    if (s->wrapped.state == BD_UNWRAP_BROKEN) {
        bd_audit_say(a, "%s looks like a wrapper and cannot be decoded: %s", f->name, s->wrapped.why);
        o = BD_WARN;
    }
    for (int i = 0; i < s->n_absent; i++) {
        bd_audit_say(a, "the script names \"%s\", which is not in the folder", s->absent[i]);
        o = BD_WARN;
    }
    return o;
}

bd_status bd_audit_files(bd_audit *a, bd_err *err) {
    char value[64];
    bd_outcome o = required_files(a);
    o = bd_worse(o, claim_file(a));
    o = bd_worse(o, claimed_seeds(a));
    o = bd_worse(o, scripts(a));
    if (a->folder.links) {
        bd_audit_say(a, "%d symbolic link%s not followed", a->folder.links, a->folder.links > 1 ? "s" : "");
        o = bd_worse(o, BD_WARN);
    }
    if (a->folder.specials) {
        bd_audit_say(a, "%d entries are no files", a->folder.specials);
        o = bd_worse(o, BD_WARN);
    }
    if (a->folder.unread || a->folder.too_deep || a->cut) {
        bd_audit_say(a, "%d files too large and %d folders too deep to read%s", a->folder.unread,
                     a->folder.too_deep, a->cut ? ", more runs than are compared" : "");
        o = bd_worse(o, BD_WARN);
    }
    if (a->copy_file >= 0)
        bd_audit_say(a, "%s is a copy of %s and counts once", a->folder.files[a->copy_file].name,
                     a->folder.files[a->copy_of].name);
    else if (a->n_copies)
        bd_audit_say(a, "%d run%s reported twice, counted once", a->n_copies, a->n_copies > 1 ? "s" : "");
    bd_audit_say(a, "%d different run%s in %d log%s", a->n_runs, a->n_runs == 1 ? "" : "s", a->n_logs,
                 a->n_logs == 1 ? "" : "s");
    snprintf(value, sizeof value, "%d files", a->folder.n);
    return bd_audit_add(a, "FILES", o, value, NULL, err);
}

/* --- HARDWARE ------------------------------------------------------------------ */

/* "8xH100", "8x NVIDIA H100": the count before an x; 0 if there is none. */
static int devices_of(const char *s) {
    bd_field f[BD_SCAN_FIELDS];
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if ((i == 0 || s[i - 1] == ' ') && bd_scan("%ux", s + i, n - i, f) == 1 && f[0].u > 0 && f[0].u < 100000)
            return (int)f[0].u;
    return 0;
}

bd_status bd_audit_hardware(bd_audit *a, bd_err *err) {
    const bd_rules *r = a->rules;
    char limit[64] = "", value[64] = "", place[300];
    if (!r->devices && !r->device[0]) {
        bd_audit_say(a, "the rules name no device");
        return bd_audit_add(a, "HARDWARE", BD_NOT_CHECKED, NULL, NULL, err);
    }
    snprintf(limit, sizeof limit, "%d x %s", r->devices, r->device);
    bd_outcome o = BD_NOT_CHECKED;
    int said = 0, named = 0, counted = 0;
    for (int i = 0; i < a->n_runs; i++) {
        const bd_audit_run *run = &a->runs[i];
        const bd_number *w = &run->r.world;
        if (w->present) {
            bool ok = !r->devices || w->v == r->devices;
            counted++;
            o = bd_worse(o, ok ? BD_PASS : BD_FAILED);
            if (!ok && said++ < 4) {
                bd_audit_say(a, "world size %.0f in %s", w->v, bd_audit_place(a, run, w->line, place));
                if (!value[0]) snprintf(value, sizeof value, "%.0f", w->v);
            }
        }
        if (run->r.gpu[0]) {
            bool ok = strstr(run->r.gpu, r->device) != NULL;
            named++;
            o = bd_worse(o, ok ? BD_PASS : BD_FAILED);
            if (!ok && said++ < 4)
                bd_audit_say(a, "device \"%s\" in %s", run->r.gpu, bd_audit_place(a, run, run->r.gpu_line, place));
        }
    }
    const bd_claim *c = &a->claim;
    if (c->hardware[0]) {
        int n = devices_of(c->hardware);
        bool ok = strstr(c->hardware, r->device) && (!n || !r->devices || n == r->devices);
        o = bd_worse(o, ok ? BD_PASS : BD_FAILED);
        bd_audit_say(a, "%s:%d says \"%s\"", a->folder.files[a->claim_file].name, c->hardware_line, c->hardware);
    }
    if (o == BD_NOT_CHECKED) bd_audit_say(a, "neither logs nor claim say on what this ran");
    else bd_audit_say(a, "world size in %d of %d runs, device name in %d", counted, a->n_runs, named);
    if (!value[0] && counted) snprintf(value, sizeof value, "%d", r->devices);
    return bd_audit_add(a, "HARDWARE", o, value, limit, err);
}
