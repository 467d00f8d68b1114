/* birdie audit and --rules NAME as a user meets them: exit codes, one JSON object, errors. */
#include <jansson.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "bd_test.h"

typedef struct outcome {
    int rc;
    char out[16384];
} outcome;

static outcome run(const char *fmt, const char *arg) {
    static outcome o;
    char args[1024], command[2048];
    snprintf(args, sizeof args, fmt, arg);
    snprintf(command, sizeof command, "'%s' audit %s 2>&1", BIRDIE_PROGRAM, args);
    FILE *p = popen(command, "r");
    CHECK(p != NULL);
    size_t n = fread(o.out, 1, sizeof o.out - 1, p);
    o.out[n] = 0;
    int status = pclose(p);
    o.rc = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return o;
}

static const char *empty_folder(void) {
    static char dir[300];
    snprintf(dir, sizeof dir, "%s/folder", test_tmp());
    mkdir(dir, 0700);
    return dir;
}

TEST(verdict_and_exit_code) {
    outcome o = run("'%s'", empty_folder());
    CHECK_MSG(o.rc == 1, "%s", o.out);
    CHECK(strstr(o.out, "FAIL        FILES      0 files:") && strstr(o.out, "verdict     FAIL under rules"));
    const char *real = test_data("records/2026-03-25_ValCalib_GPTQ_XSA_BigramHash3072");
    if (!real) SKIP("no records");
    o = run("'%s'", real);
    CHECK(o.rc == 0 && strstr(o.out, "verdict     WARN under rules \"parameter-golf\""));
    o = run("'%s' --rules cpu-golf", real);
    CHECK(o.rc == 1 && strstr(o.out, "over the cap"));
}

TEST(json) {
    outcome o = run("--json '%s'", empty_folder());
    json_error_t e;
    json_t *j = json_loads(o.out, 0, &e);
    CHECK_MSG(j != NULL, "%s: %s", e.text, o.out);
    CHECK(o.rc == 1 && json_is_null(json_object_get(j, "score")));
    CHECK_STR(json_string_value(json_object_get(j, "verdict")), "FAIL");
    const json_t *checks = json_object_get(j, "checks");
    static const char *const ids[] = {"FILES", "SIZE", "TIME", "HARDWARE", "SCORE", "STATS", "POLICY"};
    CHECK_EQ_U64(json_array_size(checks), 7);
    for (size_t i = 0; i < 7; i++) {
        const json_t *c = json_array_get(checks, i);
        CHECK_STR(json_string_value(json_object_get(c, "id")), ids[i]);
        CHECK(json_is_string(json_object_get(c, "status")) && json_is_string(json_object_get(c, "detail")));
        CHECK(json_object_get(c, "value") && json_object_get(c, "limit"));
    }
    json_decref(j);
}

TEST(errors) {
    outcome o = run("%s/nowhere --json", empty_folder());
    json_t *j = json_loads(o.out, 0, NULL);
    CHECK(o.rc == 2 && j && json_object_get(j, "error"));
    json_decref(j);
    o = run("'%s' --rules parametergolf", empty_folder());
    CHECK(o.rc == 2 && strstr(o.out, "did you mean \"parameter-golf\"?"));
    o = run("%s", "");
    CHECK(o.rc == 2);
    o = run("%s", "--help");
    CHECK(o.rc == 0 && strstr(o.out, "audit DIR [options]"));
    o = run("--dry-run '%s'", empty_folder());
    CHECK(o.rc == 0 && strstr(o.out, "memory"));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
