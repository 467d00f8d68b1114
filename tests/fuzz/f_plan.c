/* Plan texts: an error with its place, or a plan whose print is a plan that prints the same. */
#include <stdlib.h>
#include <string.h>

#include "format/plan_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_plan *p = NULL, *q = NULL;
    bd_err e = {0};
    if (bd_plan_parse(&p, (const char *)data, size, &e) != BD_OK) {
        if (!e.msg[0] || p) abort();
        return 0;
    }
    bd_buf a, b;
    bd_buf_init(&a);
    bd_buf_init(&b);
    if (bd_plan_print(p, &a, &e) != BD_OK) abort();
    if (bd_plan_parse(&q, (const char *)a.data, a.size, &e) != BD_OK) abort();
    if (bd_plan_print(q, &b, &e) != BD_OK || a.size != b.size || memcmp(a.data, b.data, a.size) != 0) abort();
    bd_buf_free(&a);
    bd_buf_free(&b);
    bd_plan_close(p);
    bd_plan_close(q);
    return 0;
}
