/* Small tensors by sensitivity: each vector gets the setting that loses least, bytes
 * counted at the matrices' exchange rate. */
#include <math.h>

#include "compiler/compile_impl.h"
#include "compiler/vector_choice.h"

bd_status bd_small_choose(bd_compiler *c, double rate, bd_err *err) {
    if (!c->o->recipe->small_by_sensitivity || c->carry_out || isnan(rate)) return BD_OK;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        bd_vector_choice best;
        if (j->matrix || j->fixed || !j->elements) continue;
        BD_TRY(bd_vector_choose(&best, &j->src, rate, c->be->pool, err));
        bd_job_choose(c, j, &best.setting);
    }
    return BD_OK;
}
