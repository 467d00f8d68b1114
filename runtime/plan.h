/* Where everything of an exec lies inside its one allocation. Private to runtime. */
#ifndef BD_RUNTIME_PLAN_H
#define BD_RUNTIME_PLAN_H

#include "kernels/backend.h"
#include "runtime/graph.h"

typedef struct bd_rope_table {
    int32_t width;
    double base;
    uint64_t offset; /* float32 (max_len, width): cos, sin of pair 0, cos, sin of pair 1, ... */
} bd_rope_table;

typedef struct bd_plan {
    int64_t max_rows, max_len;
    uint64_t *value;          /* byte offset of each value, values of the graph in order */
    bool *cached;             /* plan of steps: keys and values of attention, max_len rows that outlive a step */
    uint64_t tokens, targets; /* int32 (max_rows) */
    uint64_t nll, lse;        /* float64 (max_rows), when the graph has no loss of its own */
    bd_rope_table *rope;
    int n_rope;
    uint64_t bytes; /* of the allocation */
} bd_plan;

/* BD_E_LIMIT when the sizes overflow. */
bd_status bd_plan_make(bd_plan *p, const bd_graph *g, int64_t max_rows, int64_t max_len, bd_err *err);
/* For runtime/steps.h: steps of up to max_rows rows of one sequence of up to max_len. Forward graphs only. */
bd_status bd_plan_make_steps(bd_plan *p, const bd_graph *g, int64_t max_rows, int64_t max_len, bd_err *err);
/* Compute the position tables and store them; mem: the plan's allocation. */
bd_status bd_plan_upload_rope(const bd_plan *p, bd_backend *be, char *mem, bd_err *err);
void bd_plan_free(bd_plan *p);
int bd_plan_rope(const bd_plan *p, int32_t width, double base); /* -1: none */

#endif
