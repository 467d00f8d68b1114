/* Prints docs/errors.md from the list in base/status.h. */
#include <stdio.h>

#include "base/status.h"

int main(void) {
    puts(
        "# Errors\n\n"
        "Generated from `base/status.h` by `gen_errors`; do not edit.\n\n"
        "Every failure has one of these codes. On a terminal the program prints one line,\n"
        "`birdie: FILE: MESSAGE (at byte N)`; with `--json` it prints one object,\n"
        "`{\"error\": {\"code\", \"message\", \"file\", \"offset\"}}`, where `offset` is a decimal string or "
        "null.\n\n"
        "| code | number | exit code | meaning |\n"
        "|---|---|---|---|");
#define X(name, number, exit_code, text) printf("| `%s` | %d | %d | %s |\n", #name, number, exit_code, text);
    BD_STATUS_LIST(X)
#undef X
    puts(
        "\n"
        "Codes 20 to 59 mean that an input is wrong: the message says where and what to do. Codes from 60 on\n"
        "mean that the machine, the disk or the build is. A failed internal assertion prints the place and "
        "aborts;\n"
        "that is always a bug worth reporting. Exit code 1 is not an error: something was checked and failed.");
    return 0;
}
