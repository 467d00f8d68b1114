/* Canonical graph texts: an error with its offset, or a graph that prints the very
 * same bytes, has a causal derivation, a gradient and a memory plan. */
#include <stdlib.h>
#include <string.h>

#include "runtime/exec.h"
#include "runtime/graph.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_limits lim = bd_limits_default();
    bd_graph *g = NULL, *d = NULL;
    bd_err e = {0};
    bd_status st = bd_graph_parse(&g, (const char *)data, size, &lim, &e);
    if (st != BD_OK) {
        if (g || e.code != st || !e.msg[0]) abort();
        return 0;
    }
    bd_buf text;
    bd_buf_init(&text);
    if (bd_graph_print(g, &text, &e) != BD_OK || text.size != size || memcmp(text.data, data, size) != 0) abort();
    text.size = 0;
    if (bd_graph_causality(g, &text, &e) != BD_OK) abort();
    if (bd_graph_differentiate(&d, g, &e) != BD_OK) abort();
    if (bd_exec_plan_bytes(g, 64, 16) > bd_exec_plan_bytes(d, 64, 16)) abort();
    if (!(bd_graph_flops(g, 16) >= 0)) abort();
    bd_buf_free(&text);
    bd_graph_destroy(d);
    bd_graph_destroy(g);
    return 0;
}
