/* What the operations of a model look like from the outside: operand slots,
 * attributes and the shape rule. Private to runtime: the language, the canonical
 * text and the checks all read these tables, so they cannot disagree. */
#ifndef BD_RUNTIME_GRAPH_OPS_H
#define BD_RUNTIME_GRAPH_OPS_H

#include "runtime/graph.h"

typedef enum bd_slot {
    BD_SLOT_NONE,
    BD_SLOT_VALUE,  /* the result of an earlier operation */
    BD_SLOT_MATRIX, /* a whole parameter of two dimensions */
    BD_SLOT_VECTOR, /* a whole parameter of one dimension, or a row of one of two */
    BD_SLOT_TOKENS,
    BD_SLOT_ROPE /* implied by the attributes; never written down */
} bd_slot;

typedef enum bd_attr_type { BD_ATTR_I32, BD_ATTR_F32, BD_ATTR_F64 } bd_attr_type;

typedef struct bd_attr_field {
    const char *name;
    bd_attr_type type;
    uint8_t offset; /* in bd_attr */
} bd_attr_field;

enum { BD_MAX_FIELDS = 3 };

/* Of a forward operation; NULL for any other. */
typedef struct bd_op_shape {
    bd_slot in[BD_MAX_IN];
    bd_attr_field field[BD_MAX_FIELDS];
    int n_fields;
} bd_op_shape;
const bd_op_shape *bd_op_shape_get(bd_op op);

double bd_attr_read(const bd_attr *a, const bd_attr_field *f);
void bd_attr_write(bd_attr *a, const bd_attr_field *f, double v);

/* Check one forward node against g->values and g->params and give the widths of
 * its outputs. Every operand must exist already (values come from earlier nodes). */
bd_status bd_node_check(const bd_graph *g, const bd_node *n, int32_t out_width[BD_MAX_OUT], bd_err *err);

/* --- building --- */

typedef struct bd_builder {
    bd_graph *g;
    bd_limits lim;
    int cap_params, cap_values, cap_nodes;
    uint64_t elements;
} bd_builder;

bd_status bd_builder_init(bd_builder *b, const char *name, uint64_t name_len, const bd_limits *lim, bd_err *err);
void bd_builder_drop(bd_builder *b); /* safe after take */
/* Index of the new parameter. Names are checked for their characters here and for repetition by bd_graph_finish. */
bd_status bd_builder_param(bd_builder *b, const char *name, uint64_t name_len, int ndim, int64_t rows, int64_t cols,
                           bd_role role, int *index, bd_err *err);
/* Appends the node with outputs; *value is its first. in[] and attr are filled in by the caller. */
bd_status bd_builder_node(bd_builder *b, const bd_node *node, int32_t *value, bd_err *err);
/* The last node's first output becomes the logits; finishes and hands over. */
bd_status bd_builder_take(bd_builder *b, bd_graph **out, bd_err *err);

/* Appends without checks or limits, for transformations of graphs. */
bd_status bd_builder_push_value(bd_builder *b, int32_t width, bd_dtype dtype, int32_t node, int32_t *id,
                                bd_err *err);
bd_status bd_builder_push_node(bd_builder *b, const bd_node *node, int32_t *id, bd_err *err);

#endif
