/* A training recipe: everything that decides the result, as one JSON object.
 * configs/ holds examples, docs/training.md explains every key. An unknown key
 * is an error that names the nearest known one. */
#ifndef BD_TRAINER_RECIPE_H
#define BD_TRAINER_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"
#include "runtime/model_lang.h"

typedef enum bd_optimizer_kind { BD_OPTIMIZER_MUON, BD_OPTIMIZER_ADAMW } bd_optimizer_kind;
typedef enum bd_ns_coefficients { BD_NS_FIXED, BD_NS_POLAR } bd_ns_coefficients;
typedef enum bd_loader_kind { BD_LOADER_SEQUENTIAL, BD_LOADER_SHUFFLED } bd_loader_kind;
typedef enum bd_schedule_kind { BD_SCHEDULE_STEPS, BD_SCHEDULE_TIME } bd_schedule_kind;

/* Parameters go to the first group with a matching pattern; one without a group is an error. */
typedef struct bd_opt_group {
    bd_optimizer_kind kind;
    const char **match; /* name patterns with `*` */
    int n_match;
    double lr, decay; /* decoupled: p *= 1 - lr * decay before the update */
    /* muon */
    double momentum, momentum_start;
    int64_t momentum_warmup; /* steps from momentum_start to momentum, linear */
    bool nesterov, row_norm;
    int ns_steps;
    bd_ns_coefficients coefficients;
    /* adamw */
    double beta1, beta2, eps;
} bd_opt_group;

typedef struct bd_recipe {
    bd_arena *arena;
    const char *model; /* builtin name, or path ending in .model */
    bd_setting *constants;
    int n_constants;
    uint64_t seed;
    int64_t steps;     /* length of the step schedule, and the most steps taken */
    int64_t stop_step; /* stop here without moving the schedule; 0: steps */
    double time_s;     /* wall-clock cap of the training loop; 0: none */
    int64_t seq_len, batch_tokens;
    bd_loader_kind loader;
    bd_schedule_kind schedule; /* `time`: progress is elapsed / time_s */
    int64_t warmup_steps;      /* linear from 1/(n+1) */
    double warmdown, min_lr;   /* last share of the run, linear to min_lr */
    bd_opt_group *groups;
    int n_groups;
    double clip, ema;              /* 0: off */
    int64_t val_every, val_tokens; /* 0: only at the end (if there is validation data) */
    bool fast;
    const char *json; /* normalized text, as written to recipe.json */
} bd_recipe;

/* overrides: "key=value" with dots for nesting ("schedule.warmdown=0.4",
 * "optimizers.0.lr=0.03", "constants.layers=5"); values are JSON, or strings. */
bd_status bd_recipe_parse(bd_recipe **out, const char *text, uint64_t size, const char *const *overrides,
                          int n_overrides, bd_err *err);
bd_status bd_recipe_open(bd_recipe **out, const char *path, const char *const *overrides, int n_overrides,
                         bd_err *err);
void bd_recipe_close(bd_recipe *r);
/* The recipe's model: a built-in one, or the file it names. */
bd_status bd_recipe_graph(bd_graph **g, const bd_recipe *r, bd_err *err);
/* Hash of all keys that shape the steps: everything but stop_step, time_s, val_every and val_tokens. `json` is a
 * recipe's normalized text. Runs with equal identity (and the same log of rates, if by the clock) have equal steps.
 */
bd_status bd_recipe_identity(const char *json, uint64_t size, uint8_t hash[32], bd_err *err);
/* Index of the group a parameter belongs to, or -1. */
int bd_recipe_group(const bd_recipe *r, const char *param_name);

#endif
