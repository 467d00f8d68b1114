/* Small tensors: which setting is worth its bytes. */
#ifndef BD_COMPILER_VECTOR_CHOICE_H
#define BD_COMPILER_VECTOR_CHOICE_H

#include "compiler/quantizer.h"

typedef struct bd_vector_choice {
    bd_qsetting setting; /* f16, log or row */
    double nats;         /* what it loses per token; NAN without a metric */
    double bytes;        /* header, words and codes by the range coder, the tensor coded by itself */
} bd_vector_choice;

/* The setting with the least nats + bytes * price, price in nats per token and byte (INFINITY: the fewest bytes):
 * binary16, integers by row with 3 to 8 bits, logarithmic codes with 1 to 32 levels from several bases. src is a
 * vector; without rows_metric it gets f16, and f32 if binary16 cannot hold its values. The same inputs give the
 * same choice on every machine. */
bd_status bd_vector_choose(bd_vector_choice *out, const bd_qsource *src, double price, bd_pool *pool, bd_err *err);

#endif
