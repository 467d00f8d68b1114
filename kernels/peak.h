/* What this machine can do at most: measured, not looked up. */
#ifndef BD_KERNELS_PEAK_H
#define BD_KERNELS_PEAK_H

/* Float32 fused-multiply-add rate in GFLOP/s of `threads` threads together
 * (<= 0: all processors), with the widest vectors at hand: independent register
 * chains, no memory. Takes about 60 ms; the best of several short runs. */
double bd_peak_gflops(int threads);

#endif
