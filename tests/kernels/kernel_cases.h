/* Random calls of every operation. One row of the table in kernel_cases.c is one
 * operation; check_kernels does the rest, for every backend. */
#ifndef BD_TESTS_KERNEL_CASES_H
#define BD_TESTS_KERNEL_CASES_H

#include "kernels/backend.h"

/* A call with all its operands in one slab, guard bands around each. The slab is
 * the image of the memory a backend gets; bind() points the call into a copy. */
typedef struct kernel_image {
    bd_call call;
    unsigned char *slab;
    uint64_t bytes;
    uint64_t at_in[BD_MAX_IN], at_out[BD_MAX_OUT];
    int alias; /* out0 is exactly this input; -1: none */
} kernel_image;

typedef struct kernel_case {
    bd_op op;
    void (*shape)(uint64_t *rng, int round, bd_dims *d, bd_call *c); /* dimensions, seq_len, attributes */
    /* Inputs that must fit each other are made by running other operations. */
    bd_status (*prepare)(kernel_image *k, uint64_t *rng, bd_status (*run)(const bd_call *c, bd_err *err),
                         bd_err *err);
    int max_log2;     /* wild values stay below 2^max_log2 in magnitude */
    double tolerance; /* float against double, relative to the norm of the output */
} kernel_case;

const kernel_case *kernel_case_of(bd_op op); /* NULL: the table lacks a row */

/* Values: 0 normal, 1 with zeros, subnormals and repeated values, 2 wild exponents. */
enum { KERNEL_VALUE_KINDS = 3 };

/* Make a call; outputs are NaN (0xff bytes) unless the operation reads them.
 * real: BD_F32 or BD_F64, the same values (all exact floats). Outputs only are
 * poisoned; `run` serves prepare. */
bd_status kernel_image_make(kernel_image *k, const kernel_case *kc, bd_dtype real, uint64_t *rng, int round,
                            int kind, bd_status (*run)(const bd_call *c, bd_err *err), bd_err *err);
void kernel_image_free(kernel_image *k);
/* The call with its pointers into `base`, a copy of the slab. */
bd_call kernel_image_bind(const kernel_image *k, void *base);
/* The same call and values with real operands widened to double. */
void kernel_image_widen(kernel_image *out, const kernel_image *k);
/* Everything but the outputs must be as it was: NULL, or what was damaged. */
const char *kernel_image_damage(const kernel_image *k, const unsigned char *after);

uint64_t kernel_view_bytes(const bd_view *v);
double kernel_get(const bd_view *v, int64_t i);
void kernel_put(const bd_view *v, int64_t i, double x);
uint64_t kernel_rand(uint64_t *rng);
int64_t kernel_pick(uint64_t *rng, const int64_t *list, int n);
double kernel_normal(uint64_t *rng);

#endif
