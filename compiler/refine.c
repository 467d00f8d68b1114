/* The last bytes: between a number that fits and a slightly finer one that does not,
 * both quantized, tensors take the finer end one by one, those first that gain most
 * for their bytes. Mixtures are priced as files. What is left then goes to one tensor,
 * which is quantized between its two ends. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fmath.h"
#include "compiler/compile_impl.h"

/* Filled to this share there is nothing more to do. */
#define FILLED 0.9998
/* How far the last tensor may go towards the bytes that are left. */
#define REACH 0.97
enum { MAX_MIXES = 6, MAX_PARTS = 4 };

typedef struct item {
    int job;
    double bytes, gain; /* of its finer end */
    bool fine;
} item;

typedef struct mix {
    bd_compiler *c;
    const bd_bracket *b;
    item *items; /* by falling gain per byte */
    int n;
    uint64_t now, best; /* bytes of the file as it is, and of the best that fits */
    bool *best_fine;    /* (n) */
    int part;           /* item between its ends in the best file, -1: none */
    bd_qsetting part_setting;
    bool priced; /* the file is what `now` says */
} mix;

static bool better(const item *a, const item *b) {
    /* Those that cost nothing go first. */
    bool free_a = a->bytes <= 0 && a->gain >= 0, free_b = b->bytes <= 0 && b->gain >= 0;
    if (free_a != free_b) return free_a;
    double ra = a->gain / (a->bytes > 0.125 ? a->bytes : 0.125),
           rb = b->gain / (b->bytes > 0.125 ? b->bytes : 0.125);
    return ra > rb;
}

static void list_items(mix *m) {
    for (int i = 0; i < m->c->m->graph->n_params; i++) {
        const bd_job *j = &m->c->jobs[i];
        const bd_variant *f = &j->slot[j->fine], *k = &j->slot[j->coarse];
        if (!j->scaled) continue;
        item it = {.job = i, .bytes = f->bytes - k->bytes, .gain = k->res.nats - f->res.nats};
        /* Without statistics every byte is worth the same. */
        if (isnan(it.gain)) it.gain = it.bytes;
        int at = m->n++;
        for (; at > 0 && better(&it, &m->items[at - 1]); at--) m->items[at] = m->items[at - 1];
        m->items[at] = it;
    }
}

static void use(mix *m, const item *it, int slot) {
    bd_job *j = &m->c->jobs[it->job];
    if (j->use == slot) return;
    j->use = slot;
    bd_group_changed(m->c, j->group_index);
}

static bd_status price(mix *m, bd_err *err) {
    BD_TRY(bd_compile_price(m->c, &m->now, err));
    m->priced = true;
    bd_tick(m->c->o->progress, "mixtures priced", m->c->tries, 0, "%llu bytes of %llu", (unsigned long long)m->now,
            (unsigned long long)m->c->o->budget);
    return BD_OK;
}

static void keep(mix *m, int part) {
    if (m->now > m->c->o->budget || m->now <= m->best) return;
    m->best = m->now;
    m->part = part;
    for (int i = 0; i < m->n; i++) m->best_fine[i] = m->items[i].fine;
    if (part >= 0) {
        const bd_job *j = &m->c->jobs[m->items[part].job];
        m->part_setting = j->slot[j->now].setting;
    }
}

static void apply(mix *m) {
    for (int i = 0; i < m->n; i++) {
        const bd_job *j = &m->c->jobs[m->items[i].job];
        use(m, &m->items[i], m->items[i].fine ? j->fine : j->coarse);
    }
}

/* Items in order as long as they fit into `room` more bytes; true if any was taken. */
static bool take(mix *m, double room) {
    bool any = false;
    for (int i = 0; i < m->n; i++) {
        item *it = &m->items[i];
        if (it->fine || (it->bytes <= 0 && it->gain < 0) || it->bytes > room) continue;
        it->fine = true;
        if (it->bytes > 0) room -= it->bytes;
        any = true;
    }
    return any;
}

/* Give back at least `over` bytes: the least gain per byte first, but one that suffices alone rather than many. */
static bool give_back(mix *m, double over) {
    int alone = -1;
    for (int i = 0; i < m->n; i++)
        if (m->items[i].fine && m->items[i].bytes >= over &&
            (alone < 0 || m->items[i].bytes < m->items[alone].bytes))
            alone = i;
    if (alone >= 0) {
        m->items[alone].fine = false;
        return true;
    }
    bool any = false;
    for (int i = m->n - 1; i >= 0 && over > 0; i--) {
        if (!m->items[i].fine || m->items[i].bytes <= 0) continue;
        m->items[i].fine = false;
        over -= m->items[i].bytes;
        any = true;
    }
    return any;
}

static bool full(const mix *m) { return (double)m->best >= FILLED * (double)m->c->o->budget; }

static bd_status whole_tensors(mix *m, bd_err *err) {
    double budget = (double)m->c->o->budget, margin = 0;
    if (!take(m, budget - (double)m->now)) return BD_OK;
    for (int round = 0; round < MAX_MIXES; round++) {
        apply(m);
        BD_TRY(price(m, err));
        keep(m, -1);
        if (full(m)) break;
        if (m->now > m->c->o->budget) {
            margin += 4;
            if (!give_back(m, (double)m->now - budget + margin)) break;
        } else if (!take(m, budget - (double)m->now - margin)) {
            break;
        }
    }
    return BD_OK;
}

static void restore(mix *m) {
    for (int i = 0; i < m->n; i++) m->items[i].fine = m->best_fine[i];
    apply(m);
    if (m->part < 0) return;
    bd_job *j = &m->c->jobs[m->items[m->part].job];
    bd_job_choose(m->c, j, &m->part_setting);
}

/* One more tensor goes as far as the bytes left allow. */
static bd_status part_of_tensor(mix *m, bd_err *err) {
    double left = (double)m->c->o->budget - (double)m->best, t = 0, reach = REACH;
    int at = -1;
    for (int i = 0; i < m->n && at < 0; i++)
        if (!m->items[i].fine && m->items[i].bytes > left && m->items[i].gain > 0) at = i;
    if (at < 0) return BD_OK;
    bd_job *j = &m->c->jobs[m->items[at].job];
    double lo = bd_log(m->b->fine), hi = bd_log(m->b->coarse), cost = m->items[at].bytes, t_fits = 0, t_over = 1;
    double before = (double)m->best;
    for (int round = 0; round < MAX_PARTS && !full(m); round++) {
        t = round ? t : reach * left / cost;
        if (!(t > t_fits && t < t_over)) t = 0.5 * (t_fits + t_over);
        bd_qsetting s = bd_job_setting(j, bd_exp(hi + t * (lo - hi)));
        bd_job_choose(m->c, j, &s);
        BD_TRY(price(m, err));
        keep(m, at);
        if (m->now > m->c->o->budget) t_over = t;
        else t_fits = t;
        double moved = (double)m->now - before;
        t = moved > 0 ? t * reach * left / moved : 0.5 * (t + t_over);
    }
    return BD_OK;
}

static bd_status refine(mix *m, bd_err *err) {
    list_items(m);
    for (int i = 0; i < m->n; i++) use(m, &m->items[i], m->c->jobs[m->items[i].job].coarse);
    m->now = m->best = m->b->coarse_bytes;
    m->part = -1;
    BD_TRY(whole_tensors(m, err));
    if (!full(m)) {
        restore(m);
        for (int i = 0; i < m->n; i++) m->items[i].fine = m->best_fine[i];
        BD_TRY(part_of_tensor(m, err));
    }
    if (m->priced && m->now == m->best) return BD_OK;
    restore(m);
    BD_TRY(price(m, err));
    if (m->now != m->best)
        return BD_FAIL(err, BD_E_MISMATCH, "the same settings gave %llu bytes and then %llu",
                       (unsigned long long)m->best, (unsigned long long)m->now);
    return BD_OK;
}

bd_status bd_compile_refine(bd_compiler *c, const bd_bracket *b, uint64_t *bytes, bd_err *err) {
    size_t n = (size_t)c->m->graph->n_params + 1;
    mix m = {.c = c, .b = b, .items = calloc(n, sizeof *m.items), .best_fine = calloc(n, sizeof *m.best_fine)};
    bd_status st = m.items && m.best_fine ? refine(&m, err) : BD_FAIL(err, BD_E_NOMEM, "out of memory");
    *bytes = m.best;
    free(m.items);
    free(m.best_fine);
    return st;
}
