/* The numerics contract's version and its start-up check. */
#ifndef BD_BASE_NUMERICS_H
#define BD_BASE_NUMERICS_H

#include "base/status.h"

#define BD_NUMERICS_VERSION 1u

/* Refuses (BD_E_NUMERICS / BD_E_UNSUPPORTED) machines without FMA, a rounding
 * mode other than nearest, flushed denormals, and builds that contract a*b+c. */
bd_status bd_numerics_check(bd_err *err);

#endif
