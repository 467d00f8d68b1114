/* A compilation under way. Private to compiler/. */
#ifndef BD_COMPILER_COMPILE_IMPL_H
#define BD_COMPILER_COMPILE_IMPL_H

#include "compiler/compile.h"
#include "compiler/qsetting.h"
#include "compiler/quant_util.h"
#include "compiler/quantizer.h"

/* A Hessian's factors; matrices that read the same value share them. */
typedef struct bd_factor {
    int param; /* first that reads it */
    int64_t n;
    double *ldl;
    uint8_t *dead;
    int32_t *order; /* NULL: natural */
} bd_factor;

/* A tensor quantized one way. */
typedef struct bd_variant {
    bool done;      /* q holds `setting` */
    bool corrected; /* `setting` is lqer on top of `before` */
    bd_qsetting setting, before;
    bd_qtensor q;
    bd_qresult res;
    double error; /* squared Frobenius norm of what is lost before a correction; where the recipe has lqer_top */
    double bytes; /* share of the group's section */
} bd_variant;

enum { BD_SURROGATE_BINS = 256 };

/* One parameter on its way. */
typedef struct bd_job {
    const bd_param *p;
    bd_qsource src;    /* borrows from here and from the factor */
    bd_factor *factor; /* NULL: no Hessian is known */
    double *rows, *elements;
    double *coupled,
        *rows_ldl; /* (rows, rows): how errors of rows meet, and its factors in trellis order; or NULL */
    int16_t *row_exp, *col_exp;
    bool matrix;
    bool fixed;       /* its setting stands in the plan */
    bool scaled;      /* the solver's number moves its setting */
    bd_qsetting base; /* as the recipe says: at number 1 */
    double times;     /* on the number for this tensor */
    double finest;    /* least value of the step; 0: none known */
    double coarsest;  /* the step at which nothing is left */
    float *spread;    /* (BD_SURROGATE_BINS) share of the weights by size in steps at number 1: surrogate.c */
    bd_variant slot[3];
    int now, fine, coarse; /* slots: where quantization goes, and the bracket's ends */
    int use;               /* slot that the file is made of */
    char kind[48];         /* "attn.c_q" */
    char group[64];
    int group_index, at; /* in its group */
} bd_job;

typedef struct bd_group_state {
    bool scaled;    /* holds tensors that the number moves */
    bd_codec codec; /* what to build with; BD_CODEC_COUNT: the smallest */
    bool fresh;     /* cost and used belong to the tensors and `codec` as they are */
    bool shares;    /* and so do the tensors' bytes */
    uint64_t cost;  /* in the file, header entry included */
    bd_codec used;
    bd_buf packed;
} bd_group_state;

typedef struct bd_compiler {
    const bd_model *m;
    const bd_compile_opts *o;
    bd_backend *be;
    bd_plan_metric metric; /* the recipe's, the trial's or the plan's */
    bool carry_out;        /* the plan, all of it */
    bd_factor *factors;    /* (n_params) at most */
    int n_factors;
    bd_job *jobs; /* (n_params) */
    bd_artifact art;
    bd_qgroup *groups;
    bd_group_state *state; /* (groups) */
    bd_buf graph_text, plan_text;
    double number; /* as last set; 0: finest */
    int tries;
    double seconds_quantize, seconds_pass, seconds_price;
} bd_compiler;

static inline bd_variant *bd_job_used(bd_job *j) { return &j->slot[j->use]; }
static inline const bd_variant *bd_job_using(const bd_job *j) { return &j->slot[j->use]; }

/* --- metric.c --- */
/* Hessians factorized, row sensitivities, exponents. */
bd_status bd_jobs_metric(bd_compiler *c, bd_err *err);
/* Exponents for c->metric.rho and what else it says; what they change is quantized anew. */
bd_status bd_jobs_exponents(bd_compiler *c, bd_err *err);

/* --- jobs.c --- */
bd_status bd_jobs_prepare(bd_compiler *c, bd_err *err);
/* Ends of the steps of scaled tensors, anew when exponents or settings changed. */
void bd_jobs_limits(bd_compiler *c);
void bd_jobs_free(bd_compiler *c);
/* Settings of all scaled tensors for a number; 0: the finest there are. All jobs use slot `now`. */
void bd_jobs_set(bd_compiler *c, double number);
/* The setting of one tensor at a number. */
bd_qsetting bd_job_setting(const bd_job *j, double number);
void bd_job_choose(bd_compiler *c, bd_job *j, const bd_qsetting *s);
/* Number at and above which every scaled tensor is at its coarsest; at and below which at its finest. */
double bd_jobs_coarsest(const bd_compiler *c);
double bd_jobs_finest(const bd_compiler *c);
/* Quantize what changed since the last time, put it into the groups. */
bd_status bd_jobs_quantize(bd_compiler *c, bd_err *err);
/* Put what the jobs use into the groups. */
void bd_jobs_place(bd_compiler *c);
/* A tensor of it changed: its price is not known any more. */
void bd_group_changed(bd_compiler *c, int group);
/* Predicted nats per token of all tensors as used; NAN where one is not known. scaled_only: of the scaled ones. */
double bd_jobs_nats(const bd_compiler *c, bool scaled_only);
double bd_jobs_scaled_weights(const bd_compiler *c);

/* --- surrogate.c --- */
bd_status bd_surrogate_prepare(bd_compiler *c, bd_err *err);
/* Estimated bytes of all scaled tensors at a number. */
double bd_surrogate_bytes(const bd_compiler *c, double number);

/* --- small.c --- */
/* Settings for the vectors at `rate` nats a byte, if the recipe leaves them to sensitivity. */
bd_status bd_small_choose(bd_compiler *c, double rate, bd_err *err);

/* --- compile.c --- */
/* Text of the plan as it stands in the artifact. */
bd_status bd_compile_write_plan(bd_compiler *c, bd_err *err);

/* --- price.c --- */
/* Bytes of the file as set now: quantizes, then prices every group with its codec. */
bd_status bd_compile_price(bd_compiler *c, uint64_t *bytes, bd_err *err);
/* Bytes of the groups that hold scaled tensors, as priced last. */
double bd_compile_scaled_bytes(const bd_compiler *c);
/* The part of `bytes` that each kind of content takes, for the message about budgets that are too small. */
bd_status bd_compile_too_small(bd_compiler *c, uint64_t bytes, bd_err *err);

/* --- solve.c --- */
/* Find the settings that fill the budget; leaves the jobs at them. */
bd_status bd_compile_solve(bd_compiler *c, bd_compile_result *res, bd_err *err);
/* A number whose file is within `tolerance` (a share) of the budget; *bytes as priced. Budgets that cannot be met
 * end at the nearest number. */
bd_status bd_compile_solve_roughly(bd_compiler *c, double start, double tolerance, uint64_t *bytes, bd_err *err);
/* What a byte is worth now: nats saved by one more, from the matrices' rate-distortion slope. NAN: not known. */
double bd_compile_rate(const bd_compiler *c);

/* --- refine.c --- */
typedef struct bd_bracket {
    double fine, coarse; /* numbers; the slots `fine` and `coarse` of the scaled jobs hold them */
    uint64_t fine_bytes, coarse_bytes;
} bd_bracket;
/* Tensors with the best gain per byte take the finer end (*bytes: of the best file that fits, which the jobs use).
 */
bd_status bd_compile_refine(bd_compiler *c, const bd_bracket *b, uint64_t *bytes, bd_err *err);

/* --- tune.c --- */
/* Tries the recipe's candidates and sets the best. */
bd_status bd_compile_tune(bd_compiler *c, bd_compile_result *res, bd_err *err);

/* --- plan_apply.c --- */
bd_status bd_plan_settings(bd_compiler *c, bd_err *err);
bd_status bd_plan_codecs(bd_compiler *c, bd_err *err);
bd_status bd_plan_of(const bd_compiler *c, bool with_groups, bd_buf *out, bd_err *err);

/* --- calibrate.c --- */
/* Moments and uses of a graph, with zeroed arrays. */
bd_status bd_calibration_layout(bd_calibration *c, const bd_graph *g, bd_err *err);

#endif
