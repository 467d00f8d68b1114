#include "cli/verdict_report.h"

#include <string.h>

static json_t *text_or_null(const char *s) { return *s ? bd_cli_str(s) : json_null(); }

json_t *bd_verdict_json(const bd_verdict *v) {
    json_t *checks = json_array();
    for (int i = 0; i < v->n; i++) {
        const bd_check *c = &v->checks[i];
        json_t *k = json_object();
        json_object_set_new(k, "id", json_string(c->id));
        json_object_set_new(k, "status", json_string(bd_outcome_name(c->outcome)));
        json_object_set_new(k, "value", text_or_null(c->value));
        json_object_set_new(k, "limit", text_or_null(c->limit));
        json_object_set_new(k, "detail", bd_cli_str(c->detail));
        json_array_append_new(checks, k);
    }
    return checks;
}

enum { INDENT = 23 };

/* Words in lines of at most `columns`, each after INDENT blanks; the first line is begun and holds `at` columns. */
static void print_wrapped(const char *s, int at, int columns) {
    for (; at < INDENT; at++) putchar(' ');
    while (*s) {
        size_t n = strcspn(s, " ");
        if (at > INDENT && at + 1 + (int)n > columns) {
            printf("\n%*s", INDENT, "");
            at = INDENT;
        }
        at += printf("%s%.*s", at > INDENT ? " " : "", (int)n, s);
        s += n;
        while (*s == ' ') s++;
    }
    putchar('\n');
}

void bd_verdict_print(const bd_verdict *v, int columns) {
    for (int i = 0; i < v->n; i++) {
        const bd_check *c = &v->checks[i];
        int at = printf("%-11s %-10s", bd_outcome_name(c->outcome), c->id);
        if (c->value[0]) at += printf(" %s", c->value);
        if (c->limit[0]) at += printf(" (limit %s)", c->limit);
        if (c->value[0]) at += printf(":");
        if (columns) print_wrapped(c->detail, at, columns);
        else printf(" %s\n", c->detail);
    }
}
