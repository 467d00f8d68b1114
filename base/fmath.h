/* Our own elementary functions: fixed sequences of IEEE operations and fma, so
 * every backend gives the same bits. docs/numerics.md states the algorithms;
 * vector twins live in kernels/cpu. Errors: float versions within 2 ulp,
 * double versions within 4 ulp (tests/base). */
#ifndef BD_BASE_FMATH_H
#define BD_BASE_FMATH_H

float bd_expf(float x);
float bd_tanhf(float x);
double bd_exp(double x);
double bd_log(double x); /* x > 0, finite */
/* For tables, schedules and initial values (computed once, handed on as data). */
double bd_sin(double x);
double bd_cos(double x);
double bd_pow(double x, double y); /* x > 0 */
double bd_tanh(double x);

#endif
