/* Model files: whatever the bytes, an error with its place or a finished graph
 * whose canonical text reads back and whose gradient exists. */
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "runtime/model_lang.h"

static int shape(void *user, const char *name, int64_t dim[4]) {
    (void)user;
    if (!bd_glob("*w*", name)) return -1;
    for (int i = 0; i < 4; i++) dim[i] = 4 + i;
    return (int)(strlen(name) % 5);
}
static int64_t count(void *user, const char *pattern) {
    (void)user;
    return (int64_t)(strlen(pattern) % 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_limits lim = bd_limits_default();
    lim.elaboration_steps = 20000;
    lim.nodes = 1000;
    lim.params = 500;
    bd_shape_source src = {shape, count, NULL};
    bd_setting set = {"slope", "0.5"};
    for (int k = 0; k < 2; k++) {
        bd_graph *g = NULL, *h = NULL, *d = NULL;
        bd_err e = {0};
        bd_status st =
            bd_model_elaborate(&g, (const char *)data, size, "fuzz.model", &set, k, k ? &src : NULL, &lim, &e);
        if (st != BD_OK) {
            if (g || e.code != st || !e.msg[0]) abort();
            continue;
        }
        bd_buf text;
        bd_buf_init(&text);
        if (bd_graph_print(g, &text, &e) != BD_OK) abort();
        if (bd_graph_parse(&h, (const char *)text.data, text.size, &lim, &e) != BD_OK) abort();
        if (h->param_count != g->param_count || h->grad_floats != g->grad_floats) abort();
        if (bd_graph_differentiate(&d, g, &e) != BD_OK) abort();
        bd_buf_free(&text);
        bd_graph_destroy(g);
        bd_graph_destroy(h);
        bd_graph_destroy(d);
    }
    return 0;
}
