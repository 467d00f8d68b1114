/* A model: graph and weights, immutable and shared. Opened from a checkpoint
 * (.safetensors, .pt, .ptz), a directory that `train` wrote, or an artifact. */
#ifndef BD_RUNTIME_MODEL_H
#define BD_RUNTIME_MODEL_H

#include "format/artifact.h"
#include "format/checkpoint.h"
#include "format/protocol.h"
#include "kernels/backend.h"
#include "runtime/graph.h"
#include "runtime/model_lang.h"

typedef enum bd_model_source { BD_SOURCE_CHECKPOINT, BD_SOURCE_ARTIFACT } bd_model_source;

typedef struct bd_model {
    bd_graph *graph; /* forward graph */
    float *params;   /* flat, host, 64-byte aligned; the gaps between parameters are zero */
    bd_model_source source;
    char model_name[64];
    bool has_protocol; /* artifacts carry theirs */
    bd_protocol protocol;
    uint8_t model_hash[32]; /* artifacts: hash of everything but claims; checkpoints: of graph text and weights */
    uint8_t tokenizer_hash[32]; /* artifacts: of the tokenizer's byte tables; else zero */
    bool has_tokenizer_hash;
} bd_model;

typedef struct bd_model_opts {
    const char *model_file;     /* --model: a file, or the name of a built-in model; NULL: recognise */
    const bd_setting *settings; /* --set */
    int n_settings;
    const bd_setting
        *defaults; /* constants noted beside a checkpoint (recipe.json): below `settings`, above inference;
                    * not used where the metadata holds the graph or a model file is named */
    int n_defaults;
    bool allow_external; /* run external decoders (lrzip sections) */
    uint64_t max_memory; /* 0: default limits */
} bd_model_opts;

/* opts may be NULL. Directories mean the model.safetensors inside. */
bd_status bd_model_open(bd_model **out, const char *path, const bd_model_opts *opts, bd_err *err);
/* From an artifact that is open already; nothing of it is borrowed. */
bd_status bd_model_from_artifact(bd_model **out, const bd_artifact *a, const bd_model_opts *opts, bd_err *err);
bd_status bd_model_from_checkpoint(bd_model **out, const bd_ckpt *c, const bd_model_opts *opts, bd_err *err);
/* Takes the graph and the parameters (from bd_alloc_aligned) over, also on
 * failure. Weights that are not finite are refused with tensor and index. */
bd_status bd_model_create(bd_model **out, bd_graph *graph, float *params, const char *name, bd_err *err);
void bd_model_close(bd_model *m); /* accepts NULL */

/* Which graph a checkpoint's tensors belong to (runtime/recognize.c):
 *   opts->model_file: that model file, its infer lines asked of the checkpoint;
 *   else, without settings, the canonical graph text in a safetensors file's
 *   metadata (BD_META_GRAPH), which `train` and `convert` write;
 *   else every built-in model: the one that consumes every tensor with its shape.
 * Otherwise an error that lists what is missing, left over or of another shape.
 * Empty tensors (zero elements) are ignored. */
#define BD_META_GRAPH "birdie.graph"
#define BD_META_MODEL "birdie.model"
bd_status bd_recognize(bd_graph **out, char name[64], const bd_ckpt *c, const bd_model_opts *opts,
                       const bd_limits *lim, bd_err *err);

#endif
