/* The training loop.
 *
 * Writes into out_dir: recipe.json, log.jsonl (a line per step), and at the end,
 * on Ctrl-C and every few minutes state.safetensors; at the end
 * model.safetensors (the EMA weights if the recipe keeps an EMA). A run by
 * steps, resumed or not, gives the same bits; a run by the clock is repeated
 * bit for bit from its log (replay). */
#ifndef BD_TRAINER_TRAIN_H
#define BD_TRAINER_TRAIN_H

#include "base/progress.h"
#include "kernels/backend.h"
#include "runtime/graph.h"
#include "trainer/recipe.h"

/* What the loop reports after every step. */
typedef struct bd_train_report {
    int64_t step, steps;
    int64_t first_step;   /* where this run began: 0 unless resumed */
    double first_elapsed; /* seconds of earlier parts */
    double loss, lr_mul, norm, elapsed, time_s;
    double tokens_per_s, gflops; /* of this step; model FLOPs (3 x forward) */
} bd_train_report;

typedef struct bd_train_opts {
    const char *out_dir;
    const uint16_t *train; /* joined training stream */
    uint64_t n_train;
    const uint16_t *val; /* NULL: no validation */
    uint64_t n_val;
    const uint16_t *val_bytes; /* bytes per target, NULL: no bits per byte */
    bool resume;
    const char *replay;  /* a log.jsonl to repeat, or NULL */
    uint64_t max_memory; /* 0: no limit */
    double t0;           /* bd_now() when the clock of time_s started; 0: now */
    void (*on_step)(void *user, const bd_train_report *r);
    void *user;
    const bd_progress *progress;
} bd_train_opts;

typedef struct bd_train_result {
    int64_t steps;               /* done in all */
    double loss;                 /* of the last step; NaN if none was taken */
    double elapsed;              /* seconds, earlier parts included */
    double tokens_per_s, gflops; /* over this run */
    double val_loss, val_bpb;    /* NaN: not measured */
    uint64_t tokens, param_count, bytes_params, bytes_gradients, bytes_optimizer, bytes_activations;
    char weights_sha256[65]; /* of the raw (not averaged) weights */
    bool replay_equal;       /* every loss and the final hash equal the log's */
} bd_train_result;

/* On BD_E_INTERRUPTED the state has been saved. */
bd_status bd_train(const bd_graph *g, const bd_recipe *r, const bd_train_opts *o, bd_backend *be,
                   bd_train_result *res, bd_err *err);
/* Rows of a micro-batch for this recipe: whole sequences inside one virtual shard. */
int64_t bd_train_rows(const bd_recipe *r);
/* Bytes planned, by class, without running. */
bd_status bd_train_plan(const bd_graph *g, const bd_recipe *r, bd_train_result *res, bd_err *err);

#endif
