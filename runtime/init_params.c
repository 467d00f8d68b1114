/* Initial values: pure functions of (seed, parameter name, element index), so
 * they depend neither on the order of parameters nor on threads. */
#include <string.h>

#include "base/philox.h"
#include "runtime/graph.h"

void bd_graph_init_params(const bd_graph *g, uint64_t seed, float *params) {
    memset(params, 0, (size_t)g->param_floats * sizeof *params);
    for (int i = 0; i < g->n_params; i++) {
        const bd_param *p = &g->params[i];
        float *v = params + p->offset;
        uint64_t n = (uint64_t)p->rows * (uint64_t)p->cols, stream = bd_name_stream(p->name);
        switch (p->init) {
            case BD_INIT_ZEROS: break;
            case BD_INIT_CONST:
                for (uint64_t k = 0; k < n; k++) v[k] = (float)p->init_a;
                break;
            case BD_INIT_NORMAL:
                for (uint64_t k = 0; k < n; k++) v[k] = (float)(p->init_a * bd_philox_normal(seed, stream, k));
                break;
            case BD_INIT_UNIFORM:
                for (uint64_t k = 0; k < n; k++)
                    v[k] = (float)(p->init_a * (2.0 * bd_philox_uniform(seed, stream, k) - 1.0));
                break;
            case BD_INIT_ROWS:
                for (uint64_t k = 0; k < n; k++) v[k] = (float)(k < (uint64_t)p->cols ? p->init_a : p->init_b);
                break;
        }
    }
}
