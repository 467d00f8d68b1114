/* A compilation under way. Private to compiler/. */
#ifndef BD_COMPILER_COMPILE_IMPL_H
#define BD_COMPILER_COMPILE_IMPL_H

#include "compiler/compile.h"
#include "compiler/quantize.h"

/* One parameter on its way. */
typedef struct bd_job {
    const bd_param *p;
    bd_qsource src;
    double *ldl, *unit; /* owned; src borrows them */
    uint8_t *dead;
    int32_t *order;
    double top; /* largest weight in units of its row, where unit is given */
    double signal;
    double metric; /* loss per squared step of one unit, per weight; 0: nothing is known */
    double factor; /* step relative to the other matrices */
    bool matrix;   /* scaled by the solver */
    bool done;     /* q holds `setting` */
    bd_qsetting setting, had;
    bd_qtensor q;
    double lost;
    char group[64];
    int group_index;
    int at; /* index in its group */
} bd_job;

typedef struct bd_group_state {
    bool coded;     /* holds int codes, so it has a codec to choose */
    bd_codec codec; /* what to build with; BD_CODEC_COUNT: try all */
    bool fresh;     /* cost and used belong to the tensors and `codec` as they are */
    uint64_t cost;  /* in the file, header entry included */
    bd_codec used;
    double ratio;              /* cost / the surrogate's estimate, at the last measured step */
    double step;               /* of its matrices */
    uint64_t lo_cost, hi_cost; /* at the ends of the search's bracket */
} bd_group_state;

typedef struct bd_compiler {
    const bd_model *m;
    const bd_compile_opts *o;
    bd_backend *be;
    bd_plan_rounding rounding; /* the recipe's, or the plan's */
    bd_job *jobs;              /* (n_params) */
    bd_artifact art;
    bd_qgroup *groups;
    bd_group_state *state; /* (groups) */
    bd_buf graph_text, plan_text;
    int tries;
} bd_compiler;

/* --- jobs.c --- */
bd_status bd_jobs_prepare(bd_compiler *c, bd_err *err);
void bd_jobs_free(bd_compiler *c);
/* The setting for a step of `d` units; d = 0: the finest there is. */
void bd_job_set(const bd_compile_recipe *r, bd_job *j, double d);
/* Quantize what changed since the last time. */
bd_status bd_jobs_quantize(bd_compiler *c, bd_err *err);

/* --- compile.c --- */
/* Text of the plan as it stands in the artifact. */
bd_status bd_compile_write_plan(bd_compiler *c, bd_err *err);

/* --- solve.c --- */
/* Bytes of the file as set now: quantizes, then prices every group with its codec. */
bd_status bd_compile_price(bd_compiler *c, uint64_t *bytes, bd_err *err);
/* Find the settings that fill the budget; leaves the jobs and codecs at them. */
bd_status bd_compile_solve(bd_compiler *c, bd_compile_result *res, bd_err *err);

/* --- calibrate.c --- */
/* Moments and uses of a graph, with zeroed arrays. */
bd_status bd_calibration_layout(bd_calibration *c, const bd_graph *g, bd_err *err);

#endif
