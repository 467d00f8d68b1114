/* The budget solver: one number, the step, and a file that must not be larger
 * than the budget.
 *
 * The size as written is expensive: quantization with feedback, then every codec's
 * own bytes. So a cheap surrogate (round to nearest on a sample of the rows, the
 * entropy of its codes) says how the size moves with the step, and each real
 * measurement corrects it group by group. A few measurements reach the budget.
 *
 * No guess is trusted: a step counts as fitting only when its file was priced with
 * the codecs it will be written with. Groups are priced one by one, so once a step
 * that fits and a slightly finer one that does not are known, every mix of the two
 * has a known size, and the mix that fills the budget best is taken. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"
#include "base/half.h"
#include "compiler/compile_impl.h"

/* Search range of the step in units of a row. */
#define STEP_MAX 64.0
#define STEP_MIN 1e-5
/* Filled enough, and what the guesses aim at. */
#define FILLED 0.9996
#define AIM    0.9998
/* Ends of a bracket that may be mixed: the finer step is at least this share of the coarser. */
#define MIX_RATIO 0.7
/* Logarithms are our own: the steps tried, and so the bytes, must not depend on the C library's. */
#define LOG2_E 1.4426950408889634
enum { MAX_TRIES = 30, SAMPLE_WEIGHTS = 1 << 20, MIX_GROUPS = 16 };
/* Groups larger than this choose their codec on every fourth tensor. */
enum { CODEC_SAMPLE = 1 << 18 };

/* --- the price of the file --- */

typedef struct price_job {
    bd_compiler *c;
    bd_status *status; /* (groups) */
    bd_err *errs;
} price_job;

static void price_groups(void *arg, int64_t begin, int64_t end, int worker) {
    price_job *p = arg;
    (void)worker;
    for (int64_t k = begin; k < end; k++) {
        bd_group_state *s = &p->c->state[k];
        bd_qgroup *g = &p->c->groups[k];
        if (s->fresh) continue;
        g->codec = s->codec;
        p->status[k] = bd_qgroup_cost(g, &s->cost, &p->errs[k]);
        s->used = g->codec;
        s->fresh = p->status[k] == BD_OK;
    }
}

/* Groups are independent: side by side, first error in their order. */
static bd_status each_group(bd_compiler *c, bd_task_fn *fn, bd_err *err) {
    uint32_t n = c->art.n_groups;
    price_job p = {c, calloc(n, sizeof *p.status), calloc(n, sizeof *p.errs)};
    bd_status st = p.status && p.errs ? BD_OK : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    if (!st) bd_pool_for(c->be->pool, n, 1, fn, &p);
    for (uint32_t k = 0; !st && k < n; k++) {
        st = p.status[k];
        if (st && err) *err = p.errs[k];
    }
    free(p.status);
    free(p.errs);
    if (!st && bd_stopped(c->o->progress)) st = BD_FAIL(err, BD_E_INTERRUPTED, "interrupted while packing");
    return st;
}

bd_status bd_compile_price(bd_compiler *c, uint64_t *bytes, bd_err *err) {
    BD_TRY(bd_jobs_quantize(c, err));
    BD_TRY(bd_compile_write_plan(c, err));
    BD_TRY(bd_artifact_fixed_cost(&c->art, bytes, err));
    BD_TRY(each_group(c, price_groups, err));
    for (uint32_t k = 0; k < c->art.n_groups; k++) *bytes += c->state[k].cost;
    c->tries++;
    return BD_OK;
}

/* --- the surrogate --- */

/* Bits of the codes of one tensor rounded to nearest, from every `stride`th row,
 * for the whole tensor. Rows with large units share a histogram with the others:
 * what that ignores is what the range coder's contexts find, and the ratio of the
 * group carries it. */
static double sample_bits(const bd_job *j, int64_t stride) {
    double count[256] = {0}, n = 0, bits = 0;
    int qmax = (1 << (j->setting.bits - 1)) - 1;
    for (int64_t r = 0; r < j->p->rows; r += stride) {
        const float *w = j->src.w + r * j->p->cols;
        double unit = j->unit ? j->unit[r] : bd_row_deviation(w, j->p->cols),
               step = (double)j->setting.k * unit / qmax, top = 0;
        for (int64_t i = 0; i < j->p->cols; i++)
            if (fabs((double)w[i]) > top) top = fabs((double)w[i]);
        if ((j->setting.bits == 8 || j->unit) && step < top / qmax) step = top / qmax;
        double inv = step > 0 ? 1 / step : 0;
        for (int64_t i = 0; i < j->p->cols; i++) {
            double q = nearbyint((double)w[i] * inv);
            count[(int)(q > qmax ? qmax : q < -qmax ? -qmax : q) + 128] += 1;
        }
        n += (double)j->p->cols;
    }
    for (int i = 0; i < 256; i++)
        if (count[i] > 0) bits -= count[i] * (bd_log(count[i] / n) * LOG2_E);
    /* Half a bit per row for its scale keeps it above zero and falling. */
    return bits * ((double)(j->p->rows * j->p->cols) / n) + 8;
}

static void set_group(bd_compiler *c, uint32_t k, double step) {
    for (int i = 0; i < c->m->graph->n_params; i++) {
        bd_job *j = &c->jobs[i];
        if (j->matrix && j->group_index == (int)k) bd_job_set(c->o->recipe, j, step * j->factor);
    }
    c->state[k].step = step;
}

static void set_all(bd_compiler *c, double step) {
    for (uint32_t k = 0; k < c->art.n_groups; k++) set_group(c, k, step);
}

/* Bytes of every group's scaled matrices at a step, by the surrogate. Leaves the settings at it. */
static void estimate(bd_compiler *c, double step, double *bytes) {
    int64_t stride = 1 + (int64_t)(c->m->graph->param_count / SAMPLE_WEIGHTS);
    set_all(c, step);
    for (uint32_t k = 0; k < c->art.n_groups; k++) bytes[k] = 0;
    for (int i = 0; i < c->m->graph->n_params; i++) {
        const bd_job *j = &c->jobs[i];
        if (j->matrix && j->setting.method == BD_Q_ROW) bytes[j->group_index] += sample_bits(j, stride) / 8;
    }
}

/* --- the search --- */

typedef struct search {
    bd_compiler *c;
    double *bytes;                /* (groups) scratch of the surrogate */
    double fixed;                 /* bytes of the last measurement outside groups */
    double last_step, last_bytes; /* of the last measurement */
    double gain;                  /* how much further than predicted the step must go, from the last two */
    double lo, hi;                /* steps: lo is known not to fit, hi to fit (0: none known) */
    double lo_bytes, hi_bytes;
    double *best_step; /* (groups) of the best file that fits */
    uint64_t best;     /* its bytes, 0: none */
} search;

/* What the last measurement says of any step: costs scaled as the surrogate moves. */
static double predict(search *s, double step) {
    bd_compiler *c = s->c;
    double sum = s->fixed;
    estimate(c, step, s->bytes);
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        const bd_group_state *g = &c->state[k];
        sum += s->bytes[k] > 0 ? g->ratio * s->bytes[k] : (double)g->cost;
    }
    return sum;
}

static void learn_ratios(search *s, double step, uint64_t bytes) {
    bd_compiler *c = s->c;
    s->fixed = (double)bytes;
    estimate(c, step, s->bytes);
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        bd_group_state *g = &c->state[k];
        g->ratio = s->bytes[k] > 0 ? (double)g->cost / s->bytes[k] : 0;
        s->fixed -= (double)g->cost;
    }
    s->last_step = step;
    s->last_bytes = (double)bytes;
}

/* The step in [lo, hi] at which the prediction falls to `target`. */
static double guess(search *s, double lo, double hi, double target) {
    for (int i = 0; i < 24 && hi / lo > 1 + 1e-6; i++) {
        double mid = sqrt(lo * hi);
        if (predict(s, mid) > target) lo = mid;
        else hi = mid;
    }
    return hi;
}

static void keep_best(search *s, uint64_t bytes) {
    if (bytes > s->c->o->budget || bytes <= s->best) return;
    s->best = bytes;
    for (uint32_t k = 0; k < s->c->art.n_groups; k++) s->best_step[k] = s->c->state[k].step;
}

static void move_bracket(search *s, double step, uint64_t bytes) {
    bd_compiler *c = s->c;
    bool fits = bytes <= c->o->budget;
    if (fits ? s->hi > 0 && step >= s->hi : step <= s->lo) return;
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        bd_group_state *g = &c->state[k];
        if (fits) g->hi_cost = g->cost;
        else g->lo_cost = g->cost;
    }
    *(fits ? &s->hi : &s->lo) = step;
    *(fits ? &s->hi_bytes : &s->lo_bytes) = (double)bytes;
}

/* Price the file at a step with the codecs as chosen: a real size. */
static bd_status measure(search *s, double step, uint64_t *bytes, bd_err *err) {
    bd_compiler *c = s->c;
    double predicted = s->last_bytes > 0 && step > 0 ? predict(s, step) : 0;
    set_all(c, step);
    BD_TRY(bd_compile_price(c, bytes, err));
    bd_tick(c->o->progress, "files priced", c->tries, MAX_TRIES, "step %.5g: %" PRIu64 " bytes of %" PRIu64, step,
            *bytes, c->o->budget);
    if (predicted > 0) {
        double moved = bd_log((double)*bytes / s->last_bytes), asked = bd_log(predicted / s->last_bytes);
        double gain = moved * asked > 0 ? asked / moved : 1;
        s->gain = gain < 1 ? 1 : gain > 4 ? 4 : gain;
    }
    if (step > 0) learn_ratios(s, step, *bytes);
    return BD_OK;
}

static bd_status measure_and_keep(search *s, double step, uint64_t *bytes, bd_err *err) {
    BD_TRY(measure(s, step, bytes, err));
    set_all(s->c, step);
    keep_best(s, *bytes);
    move_bracket(s, step > 0 ? step : STEP_MIN, *bytes);
    return BD_OK;
}

static bd_status too_small(bd_compiler *c, uint64_t bytes, bd_err *err) {
    uint64_t largest = 0, sum = 0;
    const char *name = "";
    for (uint32_t k = 0; k < c->art.n_groups; k++) {
        sum += c->state[k].cost;
        if (c->state[k].cost <= largest) continue;
        largest = c->state[k].cost;
        name = c->groups[k].name;
    }
    if (bytes - sum >= largest)
        return BD_FAIL(err, BD_E_BUDGET,
                       "the budget of %" PRIu64 " bytes is too small: the smallest reachable file has %" PRIu64
                       " bytes, of which header, model and plan take %" PRIu64,
                       c->o->budget, bytes, bytes - sum);
    return BD_FAIL(err, BD_E_BUDGET,
                   "the budget of %" PRIu64 " bytes is too small: the smallest reachable file has %" PRIu64
                   " bytes, of which group %s takes %" PRIu64,
                   c->o->budget, bytes, name, largest);
}

static void choose_codec(void *arg, int64_t begin, int64_t end, int worker) {
    price_job *p = arg;
    (void)worker;
    for (int64_t k = begin; k < end; k++) {
        bd_group_state *s = &p->c->state[k];
        bd_qgroup part = p->c->groups[k];
        uint64_t cost, elements = 0;
        if (!s->coded) continue;
        for (uint32_t i = 0; i < part.n_tensors; i++)
            elements += (uint64_t)part.tensors[i].rows * part.tensors[i].cols;
        if (elements > CODEC_SAMPLE && part.n_tensors > 1) {
            part.tensors = malloc(part.n_tensors * sizeof *part.tensors);
            if (!part.tensors) {
                p->status[k] = BD_FAIL(&p->errs[k], BD_E_NOMEM, "out of memory");
                continue;
            }
            part.n_tensors = 0;
            for (uint32_t i = 0; i < p->c->groups[k].n_tensors; i += 4)
                part.tensors[part.n_tensors++] = p->c->groups[k].tensors[i];
        }
        part.codec = BD_CODEC_COUNT;
        p->status[k] = bd_qgroup_cost(&part, &cost, &p->errs[k]);
        if (part.tensors != p->c->groups[k].tensors) free(part.tensors);
        if (s->codec != part.codec) s->fresh = false;
        s->codec = part.codec;
    }
}

/* Every codec tries on the codes of this step; winners stay for the rest of the search. */
static bd_status choose_codecs(bd_compiler *c, double step, bd_err *err) {
    set_all(c, step);
    BD_TRY(bd_jobs_quantize(c, err));
    return each_group(c, choose_codec, err);
}

/* --- mixing the two ends --- */

/* Bit k of the result: group k takes the finer step. Groups that shrink with it do;
 * of the others the subset that comes closest to `room` bytes without exceeding it. */
static uint32_t choose_mix(const bd_compiler *c, double room) {
    double more[MIX_GROUPS];
    uint32_t n = c->art.n_groups, index[MIX_GROUPS], m = 0, always = 0, best = 0;
    for (uint32_t k = 0; k < n && k < MIX_GROUPS; k++) {
        double d = (double)c->state[k].lo_cost - (double)c->state[k].hi_cost;
        if (d <= 0) {
            room -= d;
            always |= 1u << k;
        } else {
            index[m] = k;
            more[m++] = d;
        }
    }
    double best_sum = -1;
    for (uint32_t set = 0; set < 1u << m; set++) {
        double sum = 0;
        for (uint32_t i = 0; i < m; i++)
            if (set >> i & 1) sum += more[i];
        if (sum <= room && sum > best_sum) {
            best_sum = sum;
            best = set;
        }
    }
    for (uint32_t i = 0; i < m; i++)
        if (best >> i & 1) always |= 1u << index[i];
    return always;
}

/* Costs of both ends are known, so nothing is packed: only the plan's own text is new. */
static bd_status try_mix(search *s, bd_err *err) {
    bd_compiler *c = s->c;
    double room = (double)c->o->budget - s->hi_bytes;
    for (int attempt = 0; attempt < 3 && room > 0; attempt++) {
        uint32_t mix = choose_mix(c, room);
        uint64_t bytes;
        for (uint32_t k = 0; k < c->art.n_groups; k++) {
            bool fine = k < MIX_GROUPS && mix >> k & 1;
            set_group(c, k, fine ? s->lo : s->hi);
        }
        BD_TRY(bd_jobs_quantize(c, err));
        for (uint32_t k = 0; k < c->art.n_groups; k++) {
            bd_group_state *g = &c->state[k];
            g->cost = k < MIX_GROUPS && mix >> k & 1 ? g->lo_cost : g->hi_cost;
            g->fresh = true;
        }
        BD_TRY(bd_compile_price(c, &bytes, err));
        c->tries--; /* nothing was packed */
        keep_best(s, bytes);
        if (bytes <= c->o->budget) break;
        room -= (double)(bytes - c->o->budget) + 8;
    }
    return BD_OK;
}

/* --- putting it together --- */

/* Next step to measure. With one end known: where the predictor says, with the last
 * error made good and a little beyond, to find the other end. Between two: the same
 * if it lies well inside, else the secant of log size; every third time the middle. */
static double next_step(search *s, int round) {
    double target = (double)s->c->o->budget, both = s->lo > 0 && s->hi > 0;
    if (!both) {
        double over = s->hi > 0 ? 1.003 : 0.997;
        target = s->last_bytes * bd_pow(target * over / s->last_bytes, s->gain);
    }
    double lo = s->lo > 0 ? s->lo : STEP_MIN, hi = s->hi > 0 ? s->hi : STEP_MAX;
    double g = guess(s, lo, hi, target * (both ? AIM : 1)), a = bd_log(lo), b = bd_log(hi),
           t = (bd_log(g) - a) / (b - a);
    if (both) {
        if (!(t > 0.02 && t < 0.98)) t = bd_log(s->lo_bytes / target) / bd_log(s->lo_bytes / s->hi_bytes);
        if (round % 3 == 2 || !(t > 0.02 && t < 0.98)) t = 0.5;
        return bd_exp(a + t * (b - a));
    }
    /* Never stand still. */
    if (s->lo > 0 && g < lo * 1.001) g = lo * 1.001;
    if (s->hi > 0 && g > hi / 1.001) g = hi / 1.001;
    return g;
}

/* The coarsest file does not fit: an error. The finest does: the answer (*done). */
static bd_status check_ends(search *s, bool *done, bd_err *err) {
    uint64_t bytes;
    if (s->hi == 0) {
        BD_TRY(measure_and_keep(s, STEP_MAX, &bytes, err));
        if (bytes > s->c->o->budget) return too_small(s->c, bytes, err);
    }
    if (s->lo == 0) {
        BD_TRY(measure_and_keep(s, 0, &bytes, err));
        *done = bytes <= s->c->o->budget;
    }
    return BD_OK;
}

static bd_status narrow(search *s, bool *finest, bd_err *err) {
    bd_compiler *c = s->c;
    double budget = (double)c->o->budget;
    uint64_t bytes;
    /* Budgets far outside what the model can be: ask the ends first. */
    bool doubt = (s->hi == 0 && predict(s, STEP_MAX) > budget * 0.98) ||
                 (s->lo == 0 && predict(s, STEP_MIN) < budget * 1.02);
    if (doubt) BD_TRY(check_ends(s, finest, err));
    for (int round = 0; !*finest && (double)s->best < budget * FILLED; round++) {
        bool both = s->lo > 0 && s->hi > 0;
        if (both && s->lo / s->hi > MIX_RATIO) {
            BD_TRY(try_mix(s, err));
            if ((double)s->best >= budget * FILLED) break;
        }
        if (both && s->lo / s->hi > 1 - 1e-6) break;
        if (c->tries >= MAX_TRIES && s->best) break;
        double step = next_step(s, round);
        if (!both && (step >= STEP_MAX * 0.99 || step <= STEP_MIN * 1.01 || round > 12)) {
            BD_TRY(check_ends(s, finest, err));
            continue;
        }
        BD_TRY(measure_and_keep(s, step, &bytes, err));
    }
    return BD_OK;
}

static double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

static bd_status find_steps(search *s, bd_compile_result *res, bd_err *err) {
    bd_compiler *c = s->c;
    double budget = (double)c->o->budget;
    uint64_t bytes;
    bool finest = false;
    /* First with the range coder alone, where the plain entropy says; then the codecs choose. */
    for (uint32_t k = 0; k < c->art.n_groups; k++) c->state[k].ratio = 1;
    double first = clamp(guess(s, STEP_MIN, STEP_MAX, budget * 0.97), 1e-3, 8);
    BD_TRY(measure(s, first, &bytes, err));
    first = clamp(guess(s, STEP_MIN, STEP_MAX, budget * AIM), 1e-3, 8);
    BD_TRY(choose_codecs(c, first, err));
    s->last_bytes = 0;
    BD_TRY(measure_and_keep(s, first, &bytes, err));
    BD_TRY(narrow(s, &finest, err));
    res->limit = finest ? BD_LIMIT_FINEST : BD_LIMIT_BUDGET;
    res->step = finest ? 0 : s->hi;
    res->predicted_bytes = s->best;
    /* Back to the best, if something else was tried after it. */
    for (uint32_t k = 0; k < c->art.n_groups; k++) set_group(c, k, s->best_step[k]);
    BD_TRY(bd_compile_price(c, &bytes, err));
    if (bytes != s->best)
        return BD_FAIL(err, BD_E_MISMATCH, "the same steps gave %" PRIu64 " bytes and then %" PRIu64, s->best,
                       bytes);
    return BD_OK;
}

bd_status bd_compile_solve(bd_compiler *c, bd_compile_result *res, bd_err *err) {
    search s = {.c = c, .gain = 1};
    s.bytes = calloc(c->art.n_groups, sizeof *s.bytes);
    s.best_step = calloc(c->art.n_groups, sizeof *s.best_step);
    bd_status st = s.bytes && s.best_step ? find_steps(&s, res, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    free(s.bytes);
    free(s.best_step);
    return st;
}
