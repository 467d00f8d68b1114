/* The graph: a model as a flat list of operations in SSA form.
 *
 * Made by elaborating a model file (runtime/model_lang.h) or by parsing the
 * canonical text that stands in an artifact; both pass the same checks (shapes,
 * causality, limits). Differentiation (runtime/autodiff.h) makes a second graph
 * with the loss and the gradient operations appended; training, calibration,
 * test-time training and evaluation run these same graphs.
 *
 * Every value is a matrix of n rows (tokens of the batch) and `width` columns.
 */
#ifndef BD_RUNTIME_GRAPH_H
#define BD_RUNTIME_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "kernels/ops.h"

typedef enum bd_role {
    BD_ROLE_MATRIX,    /* weight of a linear: Muon, quantized with its Hessian */
    BD_ROLE_EMBEDDING, /* lookup table, perhaps also the head */
    BD_ROLE_HEAD,      /* untied head */
    BD_ROLE_VECTOR,    /* scales, gains, mixes: small, Adam */
    BD_ROLE_COUNT
} bd_role;
const char *bd_role_name(bd_role r); /* "matrix" ... */

typedef enum bd_init_kind {
    BD_INIT_ZEROS,
    BD_INIT_CONST,   /* a */
    BD_INIT_NORMAL,  /* standard deviation a */
    BD_INIT_UNIFORM, /* [-a, a) */
    BD_INIT_ROWS     /* row 0 = a, all other rows = b (residual mixes) */
} bd_init_kind;

typedef struct bd_param {
    const char *name;
    int ndim;           /* 1 or 2 */
    int64_t rows, cols; /* a vector is (1, n) */
    bd_role role;
    bd_init_kind init; /* not part of the canonical text */
    double init_a, init_b;
    uint64_t offset; /* first float in the flat parameter array; multiple of 16 */
    /* Gradient buffers of the parameter's size: the most often any one row of it is read by forward nodes (reading
     * the whole reads every row). Reads of different rows share a buffer, since they write disjoint parts of it. */
    int uses;
    uint64_t grad_offset; /* first float of use 0 in the flat gradient array; use u at + u * grad_stride */
    uint64_t grad_stride; /* size rounded up to 16 floats; the uses of a parameter are neighbours */
} bd_param;

typedef enum bd_operand_kind {
    BD_OPD_NONE,
    BD_OPD_VALUE,   /* id: value */
    BD_OPD_PARAM,   /* id: parameter; row >= 0: that row as a vector, -1: whole; use: which use this is */
    BD_OPD_GRAD,    /* gradient buffer of parameter id (row, use): accumulated into */
    BD_OPD_TOKENS,  /* int32 (n) */
    BD_OPD_TARGETS, /* int32 (n), -1 = not scored */
    BD_OPD_ROPE     /* the cos/sin table of the node's rope attribute */
} bd_operand_kind;

typedef struct bd_operand {
    bd_operand_kind kind;
    int32_t id;
    int32_t row;
    int32_t use;
} bd_operand;

typedef struct bd_node {
    bd_op op;
    bd_operand in[BD_MAX_IN], out[BD_MAX_OUT];
    bd_attr attr; /* attn.T and loss.gscale are filled in at run time */
    int line; /* line of the model file, 0 if parsed from canonical text; backward nodes: that of their forward node
               */
} bd_node;

typedef struct bd_value {
    int32_t width;
    bd_dtype dtype;
    int32_t node; /* that writes it */
} bd_value;

typedef struct bd_graph {
    bd_arena *arena; /* owns everything below */
    const char *name;
    bd_param *params;
    int n_params;
    bd_value *values;
    int n_values;
    bd_node *nodes;
    int n_nodes;
    int n_forward;    /* nodes [0, n_forward) are the model; the rest loss and gradients */
    int32_t logits;   /* value id */
    int32_t nll, lse; /* value ids in a differentiated graph, else -1 */
    int32_t vocab;
    uint64_t param_floats, grad_floats; /* lengths of the flat arrays; gaps between parameters stay zero */
    uint64_t param_count;               /* sum of true sizes, without padding */
} bd_graph;

/* Limits on what a file may ask for; defaults in bd_limits_default. */
typedef struct bd_limits {
    uint64_t nodes, params, elements_per_tensor, total_elements, elaboration_steps, text_bytes, width;
} bd_limits;
bd_limits bd_limits_default(void);

void bd_graph_destroy(bd_graph *g); /* accepts NULL */
/* The canonical spelling of the forward part (docs/models.md). parse(print(g)) == g and print(parse(t)) == t, byte
 * for byte; anything else is BD_E_NONCANON with the offset of the first difference. Initial values are not part of
 * it: a parsed graph has BD_INIT_ZEROS everywhere. */
bd_status bd_graph_print(const bd_graph *g, bd_buf *out, bd_err *err);
bd_status bd_graph_parse(bd_graph **out, const char *text, uint64_t size, const bd_limits *lim, bd_err *err);
/* Check a forward graph (operands, shapes, limits, nothing unused, parameters in the order of their first use,
 * logits depend on tokens <= t only) and assign parameter offsets, uses and gradient offsets. Both makers of graphs
 * call it. */
bd_status bd_graph_finish(bd_graph *g, const bd_limits *lim, bd_err *err);
/* The causal derivation for the logits, as text: what each step adds to the set of positions seen. */
bd_status bd_graph_causality(const bd_graph *g, bd_buf *out, bd_err *err);
int bd_graph_find_param(const bd_graph *g, const char *name); /* -1: none */
/* Forward FLOPs per token at sequence length T. */
double bd_graph_flops(const bd_graph *g, int64_t T);
/* Initial values, from (seed, name, index) alone: Philox. */
void bd_graph_init_params(const bd_graph *g, uint64_t seed, float *params);

/* Reverse-mode differentiation (runtime/autodiff.c): loss = sum over rows of nll * gscale. Needs a finished graph.
 */
bd_status bd_graph_differentiate(bd_graph **out, const bd_graph *g, bd_err *err);

#endif
