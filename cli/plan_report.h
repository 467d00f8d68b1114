/* A plan, and where it stands in an artifact, what the weights say beside it. */
#ifndef BD_CLI_PLAN_REPORT_H
#define BD_CLI_PLAN_REPORT_H

#include <jansson.h>

#include "format/artifact.h"
#include "format/plan_text.h"
#include "runtime/graph.h"

/* Prints, or with `o` adds an object "plan_report" to it. a and g: the artifact and its graph, or NULL: the plan
 * stands alone. Lines that say something else than the weights are marked. */
bd_status bd_plan_report(const bd_plan *p, const bd_artifact *a, const bd_graph *g, json_t *o, bd_err *err);

#endif
