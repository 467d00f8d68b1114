/* The program: finds the command and runs it. */
#include <brotli/decode.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/nearest.h"
#include "base/numerics.h"
#include "birdie_version.h"
#include "cli/cli.h"

#define X(name)                               \
    int bd_cmd_##name(int argc, char **argv); \
    extern const char bd_cmd_##name##_summary[];
#include "birdie_commands.inc"
#undef X

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
#define X(name) {#name, bd_cmd_##name##_summary, bd_cmd_##name},
#include "birdie_commands.inc"
#undef X
    {NULL, NULL, NULL},
};
enum { N_COMMANDS = (int)(sizeof commands / sizeof commands[0]) - 1 };

static const command *find_command(const char *name) {
    for (const command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static int unknown_command(const char *name, bool json) {
    const char *names[N_COMMANDS + 1];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    names[N_COMMANDS] = "help";
    const char *near = bd_nearest(name, names, N_COMMANDS + 1);
    bd_err err = {0};
    if (near) BD_FAIL(&err, BD_E_USAGE, "unknown command '%s'; did you mean '%s'?", name, near);
    else BD_FAIL(&err, BD_E_USAGE, "unknown command '%s'; birdie --help lists them", name);
    return bd_cli_error(&err, json);
}

static void print_help(void) {
    printf(
        "birdie turns a trained language model into the smallest, best-scoring artifact under a\n"
        "byte cap, and checks such artifacts bit for bit.\n\n"
        "Usage: birdie COMMAND [arguments] [options]\n\nCommands:\n");
    for (const command *c = commands; c->name; c++) printf("  %-10s %s\n", c->name, c->summary);
    printf(
        "\n  birdie help COMMAND   explains a command with examples (or: birdie COMMAND --help)\n"
        "  birdie --version      release, commit, numerics, libraries, instruction sets (--json)\n\n"
        "Exit codes: 0 done, PASS or WARN; 1 checked and FAIL; 2 wrong usage or input;\n"
        "            3 environment (I/O, memory, device); 130 after Ctrl-C.\n");
}

/* The instruction-set levels of the cpu backend that this machine can run. */
static int isa_levels(const char *out[3]) {
    int n = 0;
    out[n++] = "ref";
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        out[n++] = "avx2";
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            out[n++] = "avx512";
    }
#endif
    return n;
}

static int print_version(bool json) {
    char brotli[32];
    uint32_t b = BrotliDecoderVersion();
    snprintf(brotli, sizeof brotli, "%u.%u.%u", b >> 24, b >> 12 & 0xfff, b & 0xfff);
    const char *libraries[][2] = {{"zlib", zlibVersion()},
                                  {"brotli", brotli},
                                  {"zstd", ZSTD_versionString()},
                                  {"xz", lzma_version_string()},
                                  {"jansson", jansson_version_str()}};
    const char *isa[3];
    int n_isa = isa_levels(isa), n_libraries = (int)(sizeof libraries / sizeof libraries[0]);
    if (json) {
        json_t *o = json_object(), *l = json_object(), *levels = json_array();
        json_object_set_new(o, "version", json_string(BIRDIE_VERSION));
        json_object_set_new(o, "commit", json_string(BIRDIE_COMMIT));
        json_object_set_new(o, "numerics", json_integer(BD_NUMERICS_VERSION));
        json_object_set_new(o, "compiler", json_string(BIRDIE_COMPILER));
        json_object_set_new(o, "build", json_string(BIRDIE_BUILD));
        for (int i = 0; i < n_libraries; i++) json_object_set_new(l, libraries[i][0], json_string(libraries[i][1]));
        json_object_set_new(o, "libraries", l);
        for (int i = 0; i < n_isa; i++) json_array_append_new(levels, json_string(isa[i]));
        json_object_set_new(o, "isa", levels);
        return bd_cli_print_json(o);
    }
    printf("birdie %s (commit %s, %s, %s)\n", BIRDIE_VERSION, BIRDIE_COMMIT, BIRDIE_COMPILER, BIRDIE_BUILD);
    printf("numerics %u\nlibraries", BD_NUMERICS_VERSION);
    for (int i = 0; i < n_libraries; i++) printf("%s %s %s", i ? "," : "", libraries[i][0], libraries[i][1]);
    printf("\nisa");
    for (int i = 0; i < n_isa; i++) printf(" %s", isa[i]);
    printf("\n");
    return 0;
}

static int run(int argc, char **argv) {
    bool json = false;
    for (int i = 1; i < argc; i++) json |= strcmp(argv[i], "--json") == 0;
    const char *name = argc > 1 ? argv[1] : NULL;
    if (name && strcmp(name, "--json") == 0 && argc > 2) name = argv[2]; /* birdie --json --version */
    if (!name || strcmp(name, "--json") == 0) {
        bd_err err = {0};
        BD_FAIL(&err, BD_E_USAGE, "a command is needed; birdie --help lists them");
        return bd_cli_error(&err, json);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && argc == 2)) {
        print_help();
        return 0;
    }
    if (strcmp(name, "--version") == 0) return print_version(json);
    bool help = strcmp(name, "help") == 0;
    const command *c = find_command(help ? argv[2] : name);
    if (!c) return unknown_command(help ? argv[2] : name, json);
    if (help) {
        char text[] = "--help";
        char *page[] = {argv[2], text, NULL};
        return c->run(2, page);
    }
    bd_err err = {0};
    if (bd_numerics_check(&err)) return bd_cli_error(&err, json);
    return c->run(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    int rc = run(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && rc == 0) {
        fprintf(stderr, "birdie: cannot write to stdout\n");
        rc = 3;
    }
    return rc;
}
