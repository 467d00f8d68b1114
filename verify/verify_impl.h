/* Shared by the checks of an artifact; not for others. */
#ifndef BD_VERIFY_VERIFY_IMPL_H
#define BD_VERIFY_VERIFY_IMPL_H

#include "verify/predictor.h"
#include "verify/verify_artifact.h"

/* What one verification knows. The checks read it and add to the verdict. */
typedef struct bd_verification {
    const bd_verify_opts *o;
    bd_verdict *v;
    const bd_artifact *art;
    const bd_model *model;
    bd_backend *be;
    const uint16_t *tokens; /* of the joined stream */
    const uint16_t *bytes;  /* per token, or NULL: not counted */
    uint64_t total;         /* tokens of the stream */
    uint64_t targets;       /* 1 .. targets should be scored */
    bd_predictor *p;        /* under test */
    uint64_t seed;          /* of the places that are looked at */
    int32_t bos;            /* -1: not known */
    char *derivation;       /* of causality; owned by the result */
} bd_verification;

/* --- what is seen of the evaluation that gives the score --- */

enum { BD_FLIPS_MAX = 12, BD_ORDER_SEEN = 24, BD_MEMORY_RUN = 64 };

typedef struct bd_cover {
    uint8_t *seen;    /* one bit per target, target t at bit t - 1 */
    uint64_t targets; /* that should be scored: 1..targets */
    uint64_t scored, twice, outside, first_bad;
} bd_cover;
void bd_cover_count(bd_cover *c, uint64_t first, uint64_t n);

typedef struct bd_memory {
    uint64_t run, longest, at, below; /* at: first target of the longest run; below: targets under the bound */
    uint64_t next;                    /* target that would continue the run */
} bd_memory;
void bd_memory_count(bd_memory *m, uint64_t first, const double *nll, uint64_t n);

/* Places where the whole distribution is asked for. */
typedef struct bd_norm {
    uint64_t *at; /* targets, rising */
    int n, next;
    int seen, before_learning, after_learning;
    int bad_sum, bad_gather, bad_value;
    double worst_sum, worst_gather; /* |sum - 1|, |log p + nll| */
    uint64_t first_bad;             /* target, or UINT64_MAX */
} bd_norm;

typedef struct bd_order {
    uint8_t initial[32], last[32];
    bool have_last; /* `last` is the state after the step before */
    uint64_t scores, learns;
    int seen_scores, seen_learns;                   /* hashed */
    int changed_by_score, changed_between, learned; /* learned: learning steps that changed the state */
    uint64_t first_bad;                             /* target */
    bool kept;                                      /* a new run does not begin where the first did */
} bd_order;

typedef struct bd_flips {
    uint64_t at[BD_FLIPS_MAX]; /* targets from which on the stream is replaced, rising */
    int n;
    uint64_t keep; /* nll of the targets below this are kept */
    double *nll;   /* (keep + 1), by target; NaN: not scored yet */
    double *logp;  /* (n, vocab): the distributions at `at` */
    bool have[BD_FLIPS_MAX];
} bd_flips;

typedef struct bd_watch {
    bd_cover cover;
    bd_memory memory;
    bd_norm norm;
    bd_order order;
    bd_flips flips;
    int64_t nll_q32;
    bool overflow;
    double *nll, *logp; /* of a step */
    uint64_t *ask;
    uint64_t room; /* targets in nll */
    int ask_room;
} bd_watch;

bd_status bd_watch_init(bd_watch *w, const bd_verification *x, bd_err *err);
void bd_watch_free(bd_watch *w); /* safe on a zeroed one */
/* The whole evaluation, looked at. */
bd_status bd_watch_run(bd_watch *w, const bd_verification *x, bd_err *err);

/* Positions for NORM and the flips, by the seed alone. */
bd_status bd_norm_choose(bd_norm *m, const bd_verification *x, bd_err *err);
void bd_norm_look(bd_norm *m, const bd_verification *x, uint64_t target, double nll, const double *logp,
                  bool learned);
void bd_flips_choose(bd_flips *f, const bd_verification *x);

/* --- checks --- */

void bd_check_size(const bd_verification *x, uint64_t file_bytes);
void bd_check_cover(const bd_verification *x, const bd_cover *c);
void bd_check_bytes(const bd_verification *x, const bd_score *s);
void bd_check_score(const bd_verification *x, const bd_score *s);
void bd_check_time(const bd_verification *x, const bd_score *s, double flops);
void bd_check_stats(const bd_verification *x, const bd_score *s);
void bd_check_memory(const bd_verification *x, const bd_memory *m);
void bd_check_norm(const bd_verification *x, const bd_norm *m);
void bd_check_order(const bd_verification *x, const bd_order *r);
bd_status bd_check_causal(bd_verification *x, const bd_watch *w, bd_err *err);
bd_status bd_check_data(const bd_verification *x, const void *file, uint64_t size, bd_err *err);
bd_status bd_check_random(const bd_verification *x, bd_err *err);
void bd_check_policy(const bd_verification *x);

/* A number as text, in out. */
const char *bd_u64_text(char out[32], uint64_t v);

#endif
