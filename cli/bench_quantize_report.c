/* Table, JSON and chart of birdie bench quantize. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench_quantize.h"
#include "cli/svg.h"

double bd_bq_bits(const bd_bq_result *r, int i) { return 8.0 * (double)r->points[i].bytes / (double)r->weights; }

static const char *spec_of(const bd_bq_result *r, int i) { return r->recipes[r->candidates[i].recipe].spec; }

/* --- what is compared with what --- */

/* A point beside a curve: a peer's beside the reference's curve, or the reference's beside the peers' best. */
typedef struct versus {
    int point;
    bool best; /* a peer that no other peer beats in loss and bytes; the curve of the reference's points */
    bd_bench_comparison c;
} versus;

typedef struct comparisons {
    versus *peers, *own;
    int n_peers, n_own;
    int *curve, *rivals;   /* (n): points of the reference; of other recipes */
    int *front, *kl_front; /* (n): of the rivals the best, by gap and by KL */
    int n_curve, n_rivals, n_front, n_kl_front;
} comparisons;

static void comparisons_free(comparisons *k) {
    free(k->peers);
    free(k->own);
    free(k->curve);
    free(k->rivals);
    free(k->front);
    free(k->kl_front);
}

/* Rivals are the recipes of other names; if there are none, the reference's with other knobs. */
static void find_rivals(comparisons *k, const bd_bq_result *r) {
    const char *base = r->recipes[r->reference].base;
    for (int names = 1; names >= 0 && k->n_rivals == 0; names--)
        for (int i = 0; i < r->n; i++) {
            const bd_bq_recipe *q = &r->recipes[r->candidates[i].recipe];
            if (r->candidates[i].recipe != r->reference && (!names || strcmp(q->base, base) != 0))
                k->rivals[k->n_rivals++] = i;
        }
}

static bool is_in(const int *list, int n, int x) {
    for (int i = 0; i < n; i++)
        if (list[i] == x) return true;
    return false;
}

static bd_status compare_all(comparisons *k, const bd_bq_result *r, bd_err *err) {
    size_t n = (size_t)r->n + 1;
    *k = (comparisons){.peers = calloc(n, sizeof *k->peers),
                       .own = calloc(n, sizeof *k->own),
                       .curve = calloc(n, sizeof *k->curve),
                       .rivals = calloc(n, sizeof *k->rivals),
                       .front = calloc(n, sizeof *k->front),
                       .kl_front = calloc(n, sizeof *k->kl_front)};
    if (!k->peers || !k->own || !k->curve || !k->rivals || !k->front || !k->kl_front)
        return BD_FAIL(err, BD_E_NOMEM, "out of memory for the comparisons");
    for (int i = 0; i < r->n; i++)
        if (r->candidates[i].recipe == r->reference) k->curve[k->n_curve++] = i;
    find_rivals(k, r);
    k->n_front = bd_bench_front(k->front, r->points, k->rivals, k->n_rivals, false);
    k->n_kl_front = bd_bench_front(k->kl_front, r->points, k->rivals, k->n_rivals, true);
    for (int i = 0; i < r->n; i++) {
        if (r->candidates[i].recipe == r->reference) continue;
        versus *v = &k->peers[k->n_peers++];
        *v = (versus){.point = i, .best = is_in(k->front, k->n_front, i)};
        BD_TRY(bd_bench_compare(&v->c, r->points, k->curve, k->n_curve, i, &r->windows, err));
    }
    for (int i = 0; i < k->n_curve && k->n_rivals; i++) {
        versus *v = &k->own[k->n_own++];
        *v = (versus){.point = k->curve[i], .best = true};
        bd_bench_comparison kl;
        BD_TRY(bd_bench_compare(&v->c, r->points, k->front, k->n_front, k->curve[i], &r->windows, err));
        BD_TRY(bd_bench_compare(&kl, r->points, k->kl_front, k->n_kl_front, k->curve[i], &r->windows, err));
        v->c.bytes_at_kl = kl.bytes_at_kl;
        v->c.kl_at_bytes = kl.kl_at_bytes;
        v->c.kl_ratio = kl.kl_ratio;
    }
    return BD_OK;
}

/* What the reference gains: share of the other's bytes saved at equal loss, and how many times smaller its loss is
 * at equal bytes. */
typedef struct gain {
    bd_bench_estimate at_gap, at_kl, gap, kl;
} gain;

/* own: the point is the reference's and the curve the others'. */
static bd_bench_estimate saved(bd_bench_estimate curve, uint64_t point_bytes, bool own) {
    double p = (double)point_bytes, c = curve.value;
    return own ? (bd_bench_estimate){1 - p / c, p / c * curve.error / c}
               : (bd_bench_estimate){1 - c / p, curve.error / p};
}

static bd_bench_estimate smaller(bd_bench_estimate ratio, bool own) {
    return own ? (bd_bench_estimate){1 / ratio.value, ratio.error / (ratio.value * ratio.value)} : ratio;
}

static gain gain_of(const bd_bq_result *r, const versus *v, bool own) {
    uint64_t bytes = r->points[v->point].bytes;
    return (gain){saved(v->c.bytes_at_gap, bytes, own), saved(v->c.bytes_at_kl, bytes, own),
                  smaller(v->c.gap_ratio, own), smaller(v->c.kl_ratio, own)};
}

/* --- text --- */

/* "440,123" would be nice; tables that people paste elsewhere need plain digits. */
static const char *cell(char out[32], const char *fmt, double value) {
    if (isfinite(value)) snprintf(out, 32, fmt, value); /* NOLINT: fmt is one of ours */
    else snprintf(out, 32, "-");
    return out;
}

static void print_estimate(const char *fmt, int width, double value, double error) {
    char v[32], e[32], both[72];
    if (!isfinite(value)) {
        printf(" %*s", width, "-");
        return;
    }
    snprintf(both, sizeof both, "%s +- %s", cell(v, fmt, value), cell(e, fmt, error));
    printf(" %*s", width, both);
}

static int name_width(const bd_bq_result *r) {
    int w = 6;
    for (int i = 0; i < r->n_recipes; i++)
        if ((int)strlen(r->recipes[i].spec) > w) w = (int)strlen(r->recipes[i].spec);
    return w;
}

static void print_head(const bd_bq_result *r) {
    double bytes = 0;
    for (uint64_t i = 0; i < r->windows.n; i++) bytes += r->windows.bytes[i];
    printf("model       %s: %" PRIu64 " weights%s", r->checkpoint, r->weights,
           r->partly ? " quantized, the others stay float and are not counted" : "");
    if (r->dithered_rows)
        printf("; noise of one int8 code in %" PRId64 " of %" PRId64 " rows", r->dithered_rows, r->matrix_rows);
    printf("\nscored      %" PRIu64 " windows of %" PRId64 " tokens, %.0f bytes of text; float model %.6f bpb\n",
           r->windows.n, r->window, bytes, bd_bench_float_bpb(&r->windows));
    for (int i = 0; i < r->n_statistics; i++) {
        const bd_bq_statistics *s = &r->statistics[i];
        printf("statistics  %" PRIu64 " tokens%s, %.1f s%s, %.0f MiB\n", s->c->tokens,
               s->plain ? ", H without gradient weights" : "", s->seconds, s->loaded ? " (loaded)" : "",
               s->memory / 1048576);
    }
}

static void print_points(const bd_bq_result *r) {
    int w = name_width(r);
    printf("\n%-*s %10s %10s %8s %9s %20s %20s %10s %8s\n", w, "recipe", "budget", "bytes", "bits/w", "val_bpb",
           "gap, bpb", "KL, bits per byte", "compile s", "MiB");
    for (int i = 0; i < r->n; i++) {
        const bd_bq_candidate *c = &r->candidates[i];
        const bd_bench_point *p = &r->points[i];
        char budget[32] = "-";
        if (c->budget) snprintf(budget, sizeof budget, "%" PRIu64, c->budget);
        printf("%-*s %10s %10" PRIu64 " %8.3f %9.5f", w, spec_of(r, i), budget, p->bytes, bd_bq_bits(r, i), p->bpb);
        print_estimate("%.5f", 20, p->gap, p->gap_stderr);
        print_estimate("%.5f", 20, p->kl, p->kl_stderr);
        printf(" %10.1f %8.0f\n", c->seconds, c->memory / 1048576);
    }
    for (int i = 0; i < r->n_unreachable; i++) printf("not reached %s\n", r->unreachable[i]);
    printf("comparison %.1f s, all %.1f s, at most %.0f MiB\n", r->seconds_compare, r->seconds_total,
           r->memory / 1048576);
}

static void print_versus(const bd_bq_result *r, const versus *v, int n, bool own) {
    int w = name_width(r) + 2;
    printf("%-*s %10s | %10s %15s | %10s %15s | %16s %16s\n", w, "", "", "same gap", "", "same KL", "",
           "same bytes", "");
    printf("%-*s %10s | %10s %15s | %10s %15s | %16s %16s\n", w, "point", "bytes", "bytes", "saved, %", "bytes",
           "saved, %", "gap, times", "KL, times");
    for (int i = 0; i < n; i++) {
        const bd_bench_comparison *c = &v[i].c;
        gain g = gain_of(r, &v[i], own);
        char t[32];
        printf("%s%-*s %10" PRIu64 " | %10s", own || !v[i].best ? "  " : "* ", w - 2, spec_of(r, v[i].point),
               r->points[v[i].point].bytes, cell(t, "%.0f", c->bytes_at_gap.value));
        print_estimate("%.1f", 15, 100 * g.at_gap.value, 100 * g.at_gap.error);
        printf(" | %10s", cell(t, "%.0f", c->bytes_at_kl.value));
        print_estimate("%.1f", 15, 100 * g.at_kl.value, 100 * g.at_kl.error);
        printf(" |");
        print_estimate("%.2f", 16, g.gap.value, g.gap.error);
        print_estimate("%.2f", 16, g.kl.value, g.kl.error);
        printf("\n");
    }
}

static void print_comparisons(const bd_bq_result *r, const comparisons *k) {
    if (k->n_peers == 0) return;
    const char *ref = r->recipes[r->reference].spec;
    printf(
        "\nwhat %s needs where the others stand: share of their bytes saved, times smaller its loss\n"
        "(*: no other one is better in bytes and gap; -: the curve has no points near there)\n",
        ref);
    print_versus(r, k->peers, k->n_peers, false);
    if (k->n_own == 0) return;
    printf("\nwhat the best of the others need where %s stands, and what it gains on them\n", ref);
    print_versus(r, k->own, k->n_own, true);
}

static void print_forecast(const bd_bq_result *r) {
    const bd_forecast *f = &r->forecast;
    if (!f->n) return;
    printf(
        "\nforecast, bits per weight: 0.5 log2 of arithmetic over geometric mean of what the loss feels of rows "
        "(r) "
        "and columns (d);\nrows: what steps by r + rho * mean r save of it at equal loss\n%-36s %10s %8s %8s %8s "
        "%10s %12s\n",
        "tensor", "weights", "level", "r", "d", "rows, even", "rows, SDClip");
    double level = 0;
    for (int i = 0; i < f->n; i++)
        level += 0.5 * log2(f->tensors[i].level) * (double)f->tensors[i].weights / (double)f->weights;
    for (int i = 0; i < f->n; i++) {
        const bd_forecast_tensor *t = &f->tensors[i];
        printf("%-36s %10" PRId64 " %+8.3f %8.3f %8.3f %10.3f %12.3f\n", r->m->graph->params[t->param].name,
               t->weights, 0.5 * log2(t->level) - level, t->r, t->d, t->even, t->deviation);
    }
    printf(
        "level: half the logarithm of a weight's mean sensitivity, beside the mean of all; %.1f %% of the rows are "
        "not felt\n",
        100 * f->unheard);
    printf(
        "against one step for all:       tensors %.3f + rows %.3f + columns %.3f = %.3f bits: %.0f bytes, or a "
        "loss "
        "%.1f times smaller\n",
        f->even_tensors, f->even_rows, f->columns, f->even, f->even * (double)f->weights / 8, exp2(2 * f->even));
    printf(
        "against steps by row deviation: tensors %.3f + rows %.3f + columns %.3f = %.3f bits: %.0f bytes, or a "
        "loss "
        "%.1f times smaller\n",
        f->deviation_tensors, f->deviation_rows, f->columns, f->deviation, f->deviation * (double)f->weights / 8,
        exp2(2 * f->deviation));
}

/* --- JSON --- */

static void put_estimate(json_t *o, const char *name, bd_bench_estimate e) {
    char with[64];
    json_object_set_new(o, name, bd_cli_real(e.value));
    snprintf(with, sizeof with, "%s_stderr", name);
    json_object_set_new(o, with, bd_cli_real(isfinite(e.value) ? e.error : (double)NAN));
}

static json_t *point_json(const bd_bq_result *r, int i) {
    const bd_bq_candidate *c = &r->candidates[i];
    const bd_bench_point *p = &r->points[i];
    json_t *o = json_object();
    json_object_set_new(o, "recipe", bd_cli_str(spec_of(r, i)));
    json_object_set_new(o, "budget", c->budget ? bd_cli_u64(c->budget) : json_null());
    json_object_set_new(o, "bytes", bd_cli_u64(p->bytes));
    json_object_set_new(o, "bits_per_weight", bd_cli_real(bd_bq_bits(r, i)));
    json_object_set_new(o, "val_bpb", bd_cli_real(p->bpb));
    put_estimate(o, "gap", (bd_bench_estimate){p->gap, p->gap_stderr});
    put_estimate(o, "kl", (bd_bench_estimate){p->kl, p->kl_stderr});
    json_object_set_new(o, "limit", json_string(bd_compile_limit_name(c->limit)));
    json_object_set_new(o, "number", bd_cli_real(c->number));
    json_object_set_new(o, "predicted_nats", bd_cli_real(c->nats));
    json_object_set_new(o, "nats_per_byte", bd_cli_real(c->nats_per_byte));
    json_t *t = json_object();
    json_object_set_new(t, "seconds", bd_cli_real(c->seconds));
    json_object_set_new(t, "seconds_prepare", bd_cli_real(c->seconds_prepare));
    json_object_set_new(t, "seconds_tune", bd_cli_real(c->seconds_tune));
    json_object_set_new(t, "seconds_solve", bd_cli_real(c->seconds_solve));
    json_object_set_new(t, "seconds_pack", bd_cli_real(c->seconds_pack));
    json_object_set_new(t, "files_priced", json_integer(c->tries));
    json_object_set_new(t, "peak_memory_bytes", bd_cli_real(c->memory));
    json_object_set_new(o, "measured", t);
    return o;
}

static json_t *versus_json(const bd_bq_result *r, const versus *v, int n, bool own) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "point", json_integer(v[i].point));
        json_object_set_new(o, "recipe", bd_cli_str(spec_of(r, v[i].point)));
        json_object_set_new(o, "bytes", bd_cli_u64(r->points[v[i].point].bytes));
        json_object_set_new(o, "best", json_boolean(v[i].best));
        put_estimate(o, "bytes_at_same_gap", v[i].c.bytes_at_gap);
        put_estimate(o, "bytes_at_same_kl", v[i].c.bytes_at_kl);
        put_estimate(o, "gap_at_same_bytes", v[i].c.gap_at_bytes);
        put_estimate(o, "kl_at_same_bytes", v[i].c.kl_at_bytes);
        gain g = gain_of(r, &v[i], own);
        put_estimate(o, "saved_at_same_gap", g.at_gap);
        put_estimate(o, "saved_at_same_kl", g.at_kl);
        put_estimate(o, "gap_times_smaller", g.gap);
        put_estimate(o, "kl_times_smaller", g.kl);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *forecast_json(const bd_bq_result *r) {
    const bd_forecast *f = &r->forecast;
    json_t *o = json_object(), *list = json_array();
    for (int i = 0; i < f->n; i++) {
        const bd_forecast_tensor *t = &f->tensors[i];
        json_t *e = json_object();
        json_object_set_new(e, "name", bd_cli_str(r->m->graph->params[t->param].name));
        json_object_set_new(e, "weights", bd_cli_i64(t->weights));
        json_object_set_new(e, "level", bd_cli_real(t->level));
        json_object_set_new(e, "r", bd_cli_real(t->r));
        json_object_set_new(e, "d", bd_cli_real(t->d));
        json_object_set_new(e, "rows_even", bd_cli_real(t->even));
        json_object_set_new(e, "rows_deviation", bd_cli_real(t->deviation));
        json_array_append_new(list, e);
    }
    json_object_set_new(o, "tensors", list);
    const struct {
        const char *name;
        double rows, tensors, all;
    } against[] = {{"against_even", f->even_rows, f->even_tensors, f->even},
                   {"against_deviation", f->deviation_rows, f->deviation_tensors, f->deviation}};
    for (int i = 0; i < 2; i++) {
        json_t *e = json_object();
        json_object_set_new(e, "tensors", bd_cli_real(against[i].tensors));
        json_object_set_new(e, "rows", bd_cli_real(against[i].rows));
        json_object_set_new(e, "columns", bd_cli_real(f->columns));
        json_object_set_new(e, "bits_per_weight", bd_cli_real(against[i].all));
        json_object_set_new(o, against[i].name, e);
    }
    json_object_set_new(o, "rows_not_felt", bd_cli_real(f->unheard));
    return o;
}

static json_t *result_json(const bd_bq_result *r, const comparisons *k) {
    json_t *o = json_object(), *stats = json_array(), *points = json_array(), *lost = json_array();
    double bytes = 0;
    for (uint64_t i = 0; i < r->windows.n; i++) bytes += r->windows.bytes[i];
    json_object_set_new(o, "bench", json_string("quantize"));
    json_object_set_new(o, "checkpoint", bd_cli_str(r->checkpoint));
    json_object_set_new(o, "weights", bd_cli_u64(r->weights));
    json_object_set_new(o, "dithered_rows", bd_cli_i64(r->dithered_rows));
    json_object_set_new(o, "windows", bd_cli_u64(r->windows.n));
    json_object_set_new(o, "window", bd_cli_i64(r->window));
    json_object_set_new(o, "text_bytes", bd_cli_real(bytes));
    json_object_set_new(o, "float_bpb", bd_cli_real(bd_bench_float_bpb(&r->windows)));
    for (int i = 0; i < r->n_statistics; i++) {
        const bd_bq_statistics *s = &r->statistics[i];
        json_t *e = json_object();
        json_object_set_new(e, "tokens", bd_cli_u64(s->c->tokens));
        json_object_set_new(e, "unweighted", json_boolean(s->plain));
        json_object_set_new(e, "loaded", json_boolean(s->loaded));
        json_object_set_new(e, "seconds", bd_cli_real(s->seconds));
        json_object_set_new(e, "peak_memory_bytes", bd_cli_real(s->memory));
        json_array_append_new(stats, e);
    }
    json_object_set_new(o, "statistics", stats);
    for (int i = 0; i < r->n; i++) json_array_append_new(points, point_json(r, i));
    json_object_set_new(o, "points", points);
    for (int i = 0; i < r->n_unreachable; i++) json_array_append_new(lost, bd_cli_str(r->unreachable[i]));
    json_object_set_new(o, "not_reached", lost);
    json_object_set_new(o, "reference", bd_cli_str(r->recipes[r->reference].spec));
    json_object_set_new(o, "others_beside_reference", versus_json(r, k->peers, k->n_peers, false));
    json_object_set_new(o, "reference_beside_best", versus_json(r, k->own, k->n_own, true));
    json_object_set_new(o, "forecast", forecast_json(r));
    json_object_set_new(o, "seconds_compare", bd_cli_real(r->seconds_compare));
    json_object_set_new(o, "seconds", bd_cli_real(r->seconds_total));
    json_object_set_new(o, "peak_memory_bytes", bd_cli_real(r->memory));
    return o;
}

bd_status bd_bq_print(const bd_bq_result *r, bool json, int *rc, bd_err *err) {
    comparisons k = {0};
    bd_status st = compare_all(&k, r, err);
    if (!st && json) {
        *rc = bd_cli_print_json(result_json(r, &k));
    } else if (!st) {
        print_head(r);
        print_points(r);
        print_comparisons(r, &k);
        print_forecast(r);
    }
    comparisons_free(&k);
    return st;
}

/* --- chart --- */

/* Points of a recipe by bytes, into arrays that begin at `at`; returns how many. */
static int recipe_points(const bd_bq_result *r, int recipe, int *order) {
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        if (r->candidates[i].recipe != recipe) continue;
        int k = n++;
        for (; k > 0 && r->points[order[k - 1]].bytes > r->points[i].bytes; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    return n;
}

void bd_bq_svg(const bd_bq_result *r, bd_buf *out) {
    size_t n = (size_t)r->n + 1, recipes = (size_t)r->n_recipes;
    double *v = calloc(5 * n, sizeof *v), *bytes = v, *gap = v + n, *gap_e = v + 2 * n, *kl = v + 3 * n,
           *kl_e = v + 4 * n;
    bd_svg_series *series = calloc(2 * recipes + 1, sizeof *series);
    int *order = calloc(n, sizeof *order), at = 0;
    if (!v || !series || !order) {
        out->failed = true;
        goto done;
    }
    for (int i = 0; i < r->n_recipes; i++) {
        int count = recipe_points(r, i, order);
        for (int k = 0; k < count; k++) {
            const bd_bench_point *p = &r->points[order[k]];
            bytes[at + k] = (double)p->bytes;
            gap[at + k] = p->gap;
            gap_e[at + k] = p->gap_stderr;
            kl[at + k] = p->kl;
            kl_e[at + k] = p->kl_stderr;
        }
        const char *name = r->recipes[i].spec;
        series[i] = (bd_svg_series){.name = name, .x = bytes + at, .y = gap + at, .err = gap_e + at, .n = count};
        series[recipes + (size_t)i] =
            (bd_svg_series){.name = name, .x = bytes + at, .y = kl + at, .err = kl_e + at, .n = count};
        at += count;
    }
    const bd_svg_panel panels[] = {
        {"Loss: val_bpb above the float model", "bytes", "gap, bits per byte", series, r->n_recipes, true},
        {"Divergence of the predictions: KL(float || quantized)", "bytes", "KL, bits per byte", series + recipes,
         r->n_recipes, true},
    };
    char title[400];
    const char *slash = strrchr(r->checkpoint, '/');
    snprintf(title, sizeof title, "%.200s: %" PRIu64 " weights, %" PRIu64 " windows of %" PRId64 " tokens",
             slash && slash[1] ? slash + 1 : r->checkpoint, r->weights, r->windows.n, r->window);
    bd_svg_chart(out, title, panels, 2);
done:
    free(v);
    free(series);
    free(order);
}
