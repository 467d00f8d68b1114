/* The parts of `birdie bench`. Each is a command of its own with its own options;
 * argv[0] is the part's name. Private to cli/. */
#ifndef BD_CLI_BENCH_H
#define BD_CLI_BENCH_H

int bd_bench_coder(int argc, char **argv);    /* bench_coder.c */
int bd_bench_quantize(int argc, char **argv); /* bench_quantize.c */
int bd_bench_compile(int argc, char **argv);  /* bench_compile.c */

/* Bytes, the most this process has held since its start or the last reset (0: not known). */
double bd_bench_peak_memory(void);
void bd_bench_peak_reset(void); /* does nothing where the system cannot */

#endif
