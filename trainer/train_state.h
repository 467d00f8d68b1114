/* state.safetensors: all that a resumed run needs beyond the recipe. Flat
 * arrays in the graph's layout, and the counters as metadata. */
#ifndef BD_TRAINER_TRAIN_STATE_H
#define BD_TRAINER_TRAIN_STATE_H

#include "kernels/backend.h"
#include "runtime/graph.h"
#include "trainer/optimizer.h"

typedef struct bd_train_state {
    float *params, *ema; /* backend memory, flat; ema NULL when off */
    bd_optimizer *optimizer;
    int64_t step;   /* steps done */
    double elapsed; /* seconds of training done */
} bd_train_state;

bd_status bd_train_state_save(bd_train_state *s, const bd_graph *g, bd_backend *be, const char *path, bd_err *err);
/* Shapes and the graph must agree with the file's. */
bd_status bd_train_state_load(bd_train_state *s, const bd_graph *g, bd_backend *be, const char *path, bd_err *err);
/* Named float32 tensors, for everyone else. */
bd_status bd_train_model_save(const float *params, const bd_graph *g, bd_backend *be, const char *path,
                              const char *recipe_json, bd_err *err);
/* SHA-256 of the parameters in graph order, without padding. Weights that are not finite are BD_E_NONFINITE. */
bd_status bd_train_weights_hash(const float *params, const bd_graph *g, bd_backend *be, uint8_t out[32],
                                bd_err *err);

#endif
