/* Numbers as they are written, and patterns over lines of a log. */
#ifndef BD_VERIFY_AUDIT_SCAN_H
#define BD_VERIFY_AUDIT_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A number with its printed precision: the decimals are part of what is claimed. */
typedef struct bd_number {
    bool present, finite;
    double v;     /* 0 unless finite */
    int decimals; /* after the point, in plain notation; negative for 1e3 */
    int line;
} bd_number;

/* A number at the start of s (n bytes): digits, a point, an exponent; nan and inf are not finite. Returns its
 * length, 0 if there is none. Longer than 40 characters is none. */
size_t bd_number_scan(bd_number *x, const char *s, size_t n);
/* Does `exact` round to what `claimed` prints? slack counts units of the last printed decimal beyond rounding. */
bool bd_number_agrees(const bd_number *claimed, double exact, double slack);
/* Half a unit of the last decimal, relative to the value. */
double bd_number_uncertainty(const bd_number *x);

enum { BD_SCAN_FIELDS = 8 };
typedef struct bd_field {
    const char *s; /* the text */
    size_t n;
    uint64_t u;  /* %u */
    bd_number x; /* %f, %u */
} bd_field;

/* Match a line against a pattern from its first byte. In patterns:
 *   %u digits (with ',' between allowed)   %f a number   %w a word (no blanks)
 *   %* anything up to the literal that follows (its first occurrence) %_ blanks, or none   %$ the end of the line
 * %% a percent sign What follows the pattern is free. Fields are the %u, %f and %w. Returns how many, or -1. */
int bd_scan(const char *pattern, const char *line, size_t n, bd_field out[BD_SCAN_FIELDS]);

#endif
