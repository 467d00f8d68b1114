/* How short the integer arrays could be coded with more work: a floating-point
 * logistic mix of six contexts, an ideal length without a stream. What format/code_model.h
 * is measured against; far too slow and too inexact for a file. */
#ifndef BD_CLI_BENCH_REFERENCE_H
#define BD_CLI_BENCH_REFERENCE_H

#include "base/status.h"
#include "format/artifact.h"

/* Bits of the codes (ROW, TERNARY) or the index (TCQ) of a tensor alone, nothing known before. */
bd_status bd_bench_reference(double *bits, const bd_qtensor *q, bd_err *err);

#endif
