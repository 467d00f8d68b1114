/* Means, deviations and one-sided t-tests over a few runs. */
#ifndef BD_VERIFY_STATS_H
#define BD_VERIFY_STATS_H

typedef struct bd_stats {
    int n;
    double mean, sd, sd_population; /* sd: of the sample, n - 1; 0 for fewer than two */
} bd_stats;

bd_stats bd_stats_of(const double *x, int n);
/* P(T > t) of Student's distribution; df > 0. */
double bd_student_tail(double t, double df);
/* The t with P(T > t) = p, for 0 < p < 0.5. */
double bd_student_quantile(double p, double df);
/* Welch's test, one-sided: is `better` lower than `worse` by more than margin? Both need n >= 2 and not both sd 0.
 * Returns p; t and df may be NULL. */
double bd_welch(const bd_stats *better, const bd_stats *worse, double margin, double *t, double *df);
/* Nats per token of a difference in bits per byte, and back. */
double bd_nats_of_bpb(double bpb, double bytes_per_token);
double bd_bpb_of_nats(double nats, double bytes_per_token);

#endif
