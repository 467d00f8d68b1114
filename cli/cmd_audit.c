/* birdie audit: does a submission folder show what it claims? */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/verdict_report.h"
#include "verify/audit.h"

const char bd_cmd_audit_summary[] = "check a submission folder: json, logs and scripts against each other";

static json_t *result_json(const bd_audit_result *r, const bd_rules *rules) {
    json_t *o = json_object(), *score = json_null();
    json_object_set_new(o, "verdict", json_string(bd_outcome_name(r->overall)));
    json_object_set_new(o, "rules", bd_cli_str(rules->name));
    json_object_set_new(o, "folder", bd_cli_str(r->folder));
    json_object_set_new(o, "files", json_integer(r->files));
    json_object_set_new(o, "logs", json_integer(r->logs));
    json_object_set_new(o, "runs", json_integer(r->runs));
    json_object_set_new(o, "checks", bd_verdict_json(&r->verdict));
    if (r->n) {
        score = json_object();
        json_object_set_new(score, "metric", bd_cli_str(r->metric));
        json_object_set_new(score, "runs", json_integer(r->n));
        json_object_set_new(score, "val_bpb", bd_cli_real(r->val_bpb));
        json_object_set_new(score, "val_bpb_sd", r->n > 1 ? bd_cli_real(r->bpb_sd) : json_null());
        json_object_set_new(score, "val_loss", r->val_loss > 0 ? bd_cli_real(r->val_loss) : json_null());
        json_object_set_new(score, "bytes_per_token",
                            r->bytes_per_token > 0 ? bd_cli_real(r->bytes_per_token) : json_null());
    }
    json_object_set_new(o, "score", score);
    json_object_set_new(o, "largest_total", r->largest_total ? bd_cli_u64(r->largest_total) : json_null());
    return o;
}

int bd_cmd_audit(int argc, char **argv) {
    bd_cli_common common = {0};
    bd_cli_list args = {0};
    const char *rules_name = "parameter-golf";
    const bd_cli_opt opts[] = {
        {"rules", BD_CLI_STRING, &rules_name, "FILE.json|NAME",
         "rules profile: a file, or default, cpu-golf or parameter-golf"},
    };
    const bd_cli_spec spec = {
        .name = "audit",
        .summary = bd_cmd_audit_summary,
        .usage = "audit DIR [options]",
        .text =
            "Reads submission.json, training logs and scripts of a submission folder and recomputes what they "
            "claim: "
            "totals, means and deviations over seeds, times, the bytes that the score divides by, hardware. "
            "Wrapped "
            "scripts are decoded as data; nothing is executed and no link is followed. Every check prints PASS, "
            "FAIL, "
            "WARN or NOT-CHECKED with its numbers and the file and line they stand in; the verdict is the worst of "
            "them.\n"
            "Exit code 0: PASS or WARN; 1: FAIL.",
        .examples =
            "  birdie audit records/2026-03-25_MyRun\n"
            "  birdie audit records/2026-03-25_MyRun --rules my-contest.json --json\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .common = &common,
    };
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    bd_err err = {0};
    bd_rules rules;
    bd_audit_result r;
    bd_status st = bd_rules_open(&rules, rules_name, &err);
    if (!st && !common.dry_run) st = bd_audit_folder(&r, args.items[0], &rules, &err);
    if (st) {
        rc = bd_cli_error(&err, common.json);
    } else if (common.dry_run) {
        json_t *o = json_object();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "rules", bd_cli_str(rules.name));
        if (common.json) {
            rc = bd_cli_print_json(o);
        } else {
            json_decref(o);
            printf("rules   %s\nmemory  at most 300 MB; a folder takes less than a second\n", rules.name);
            rc = 0;
        }
    } else {
        rc = 0;
        if (common.json) {
            rc = bd_cli_print_json(result_json(&r, &rules));
        } else {
            bd_verdict_print(&r.verdict, 100);
            printf("verdict     %s under rules \"%s\": %s, %d files, %d runs\n", bd_outcome_name(r.overall),
                   rules.name, r.folder, r.files, r.runs);
        }
        if (!rc && r.overall == BD_FAILED) rc = 1;
    }
    bd_cli_free(&spec, &args);
    return rc;
}
