/* DATA: does the artifact hold pieces of the validation stream, and did training
 * see its documents? */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/weight_group.h"
#include "verify/doc_overlap.h"
#include "verify/seed_match.h"
#include "verify/verify_impl.h"

enum { MATCH = 64 };
static const double OVERLAP = 0.001;

typedef struct search {
    const bd_seed_index *index;
    bd_seed_hit best;
    const char *where;
    uint64_t bytes; /* looked through */
} search;

static void look(search *s, const char *where, const void *data, uint64_t size) {
    bd_seed_hit hit;
    bd_seed_scan(s->index, data, size, &hit);
    s->bytes += size;
    if (!bd_seed_better(&hit, &s->best)) return;
    s->best = hit;
    s->where = where;
}

static bd_status look_at_buf(search *s, const char *where, bd_buf *b, bd_err *err) {
    BD_TRY(bd_buf_check(b, err));
    look(s, where, b->data, b->size);
    b->size = 0;
    return BD_OK;
}

/* --- the integers of all tensors, one after another, written down in several ways --- */

typedef enum spelling { BYTES, WORDS, BYTES_FROM_LEAST, WORDS_FROM_LEAST, N_SPELLINGS } spelling;
static const char *const spelling_names[N_SPELLINGS] = {
    "the codes as bytes",
    "the codes as 16-bit values",
    "the codes above each tensor's least as bytes",
    "the codes above each tensor's least as 16-bit values",
};

static void put_codes8(bd_buf *b, const int8_t *c, uint64_t n, spelling how) {
    if (!c || !bd_buf_reserve(b, (size_t)n * 2)) return;
    int least = 127;
    for (uint64_t i = 0; i < n; i++) least = c[i] < least ? c[i] : least;
    if (how == BYTES || how == WORDS) least = 0;
    for (uint64_t i = 0; i < n; i++) {
        unsigned v = (unsigned)(c[i] - least);
        if (how == BYTES || how == BYTES_FROM_LEAST) bd_buf_u8(b, (uint8_t)v);
        else bd_buf_u16(b, (uint16_t)v);
    }
}

static void put_codes16(bd_buf *b, const int16_t *c, uint64_t n, spelling how) {
    if (!c || !bd_buf_reserve(b, (size_t)n * 2)) return;
    int least = 32767;
    for (uint64_t i = 0; i < n; i++) least = c[i] < least ? c[i] : least;
    if (how == BYTES || how == WORDS) least = 0;
    for (uint64_t i = 0; i < n; i++) {
        unsigned v = (unsigned)(c[i] - least);
        if (how == BYTES || how == BYTES_FROM_LEAST) bd_buf_u8(b, (uint8_t)v); /* the low one */
        else bd_buf_u16(b, (uint16_t)v);
    }
}

static void put_tensor(bd_buf *b, const bd_qtensor *q, spelling how) {
    uint64_t n = (uint64_t)q->rows * q->cols;
    put_codes8(b, q->codes, n, how);
    put_codes16(b, q->index, n, how);
    put_codes8(b, q->lq_a, (uint64_t)q->rows * q->rank, how);
    put_codes8(b, q->lq_b, (uint64_t)q->rank * q->cols, how);
    if (how != WORDS) return;
    put_codes16(b, q->row_exp, q->rows, how);
    put_codes16(b, q->col_exp, q->cols, how);
}

static void put_words(bd_buf *b, const bd_qtensor *q) {
    uint64_t n = (uint64_t)q->rows * q->cols;
    uint64_t scales = q->scales ? bd_qtensor_scales(q) : 0, own = q->lq_scales ? bd_qtensor_lq_scales(q) : 0;
    if (!bd_buf_reserve(b, (size_t)(4 * n + 2 * (scales + own)))) return;
    for (uint64_t i = 0; i < scales; i++) bd_buf_u16(b, q->scales[i]);
    for (uint64_t i = 0; i < own; i++) bd_buf_u16(b, q->lq_scales[i]);
    for (uint64_t i = 0; q->f16 && i < n; i++) bd_buf_u16(b, q->f16[i]);
    for (uint64_t i = 0; q->f32 && i < n; i++) {
        union {
            float f;
            uint32_t u;
        } bits = {q->f32[i]};
        bd_buf_u32(b, bits.u);
    }
}

static bd_status look_at_weights(search *s, const bd_artifact *a, bd_err *err) {
    bd_buf b;
    bd_buf_init(&b);
    bd_status st = BD_OK;
    for (int how = 0; how <= N_SPELLINGS && !st; how++) {
        for (uint32_t g = 0; g < a->n_groups; g++)
            for (uint32_t i = 0; i < a->groups[g].n_tensors; i++) {
                if (how < N_SPELLINGS) put_tensor(&b, &a->groups[g].tensors[i], (spelling)how);
                else put_words(&b, &a->groups[g].tensors[i]);
            }
        st = look_at_buf(s, how < N_SPELLINGS ? spelling_names[how] : "the scales and floating-point weights", &b,
                         err);
    }
    bd_buf_free(&b);
    return st;
}

/* --- the check --- */

static bd_outcome add_overlap(const bd_verification *x, char *out, size_t size, bd_status *st, bd_err *err) {
    const bd_verify_opts *o = x->o;
    bd_doc_overlap d;
    double limit = o->rules->document_overlap > 0 ? o->rules->document_overlap : OVERLAP;
    if (!o->n_train) {
        snprintf(out, size, "; training shards were not given (--train)");
        return BD_PASS;
    }
    if (x->bos < 0) {
        snprintf(out, size, "; without the tokenizer documents cannot be compared with training shards");
        return BD_WARN;
    }
    *st = bd_doc_overlap_count(&d, x->tokens, x->total, x->bos, o->train, o->n_train, err);
    if (*st) return BD_PASS;
    int n = snprintf(out, size,
                     "; %" PRIu64 " of %" PRIu64 " validation documents are among the %" PRIu64
                     " whole documents of %d training shards (limit %g %%)",
                     d.found, d.documents, d.trained, o->n_train, 100 * limit);
    if (d.found && n > 0 && (size_t)n < size)
        snprintf(out + n, size - (size_t)n, ", the first is document %" PRIu64, d.first);
    return (double)d.found > limit * (double)d.documents ? BD_FAILED : BD_PASS;
}

bd_status bd_check_data(const bd_verification *x, const void *file, uint64_t size, bd_err *err) {
    static const char caution[] = "Storage that is encrypted or coded in another way cannot be excluded by looking";
    bd_seed_index *index = NULL;
    char value[32], limit[32], overlap[300] = "";
    uint64_t most = x->o->rules->data_match_tokens ? x->o->rules->data_match_tokens : MATCH;
    bd_status st = BD_OK;
    BD_TRY(bd_seed_index_open(&index, x->tokens, x->total, err));
    search s = {.index = index, .where = "nothing"};
    look(&s, "the file", file, size);
    look(&s, "the model text", x->art->graph_text, x->art->graph_size);
    look(&s, "the plan", x->art->plan_text, x->art->plan_size);
    BD_TRY_DONE(look_at_weights(&s, x->art, err));
    bd_outcome training = add_overlap(x, overlap, sizeof overlap, &st, err);
    if (st) goto done;
    bool plain = s.best.different < 4;
    bd_u64_text(value, s.best.tokens);
    bd_u64_text(limit, most);
    if (s.best.tokens >= most) {
        bd_verdict_add(x->v, "DATA", plain && training != BD_FAILED ? BD_WARN : BD_FAILED, value, limit,
                       "%" PRIu64 " tokens of the validation stream from %" PRIu64
                       " on stand in %s at byte %" PRIu64 "%s%s",
                       s.best.tokens, s.best.at_token, s.where, s.best.at_byte,
                       plain ? ", but they are a repetition of one to three tokens" : "", overlap);
    } else {
        bd_verdict_add(x->v, "DATA", training, value, limit,
                       "longest piece of the %" PRIu64
                       " validation tokens in the file, its texts, codes and words (%" PRIu64
                       " bytes at every offset): %s%s%s%s. %s",
                       x->total, s.bytes, s.best.tokens ? value : "none of 13 tokens or more",
                       s.best.tokens ? " tokens, in " : "", s.best.tokens ? s.where : "", overlap, caution);
    }
done:
    bd_seed_index_close(index);
    return st;
}
