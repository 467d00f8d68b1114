/* birdie tokenize: text files in, token shards and a tokenizer out. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/philox.h"
#include "base/sha256.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "cli/documents.h"
#include "cli/sp_shim.h"
#include "format/caseops.h"
#include "format/shard.h"
#include "format/tokenizer.h"

const char bd_cmd_tokenize_summary[] = "turn text into token shards, training a tokenizer on request";

enum {
    SHARD_HEADER = 1024,
    SHARD_TOKENS = 100000000,
    MIN_PIECES = 261,        /* pad, bos, eos, unk, 256 bytes and one more */
    SENTENCE_MAX = 4096,     /* a longer line is cut at spaces for tokenizer training */
    TRAIN_SAMPLE = 64 << 20, /* bytes of text a tokenizer is trained on */
    BATCH_BYTES = 4 << 20,   /* text encoded at a time */
    BATCH_DOCS = 1024,
    STREAM_SPLIT = 0,
    STREAM_SAMPLE = 1, /* Philox streams */
};

static const double DEFAULT_FRACTION = 0.05;

typedef struct tokenize_args {
    bd_cli_common common;
    const char *tokenizer, *out, *split, *val_docs;
    double val_fraction;
    int64_t train_tokenizer, shard_tokens, n_val_docs; /* n_val_docs < 0: by fraction */
    bool caseops, replace_invalid;
} tokenize_args;

typedef struct part {
    uint64_t documents, text_bytes, tokens, unknown;
} part;
enum { TRAIN, VAL, N_PARTS };
static const char *const part_names[N_PARTS] = {"train", "val"};

/* ---- shards: written as they come, named all together at the end ---- */

typedef struct shard_writer {
    const char *dir, *name; /* DIR/data_NAME_NNNNNN.bin */
    uint64_t limit;         /* tokens of one shard */
    bd_out *outs;
    uint64_t *counts;
    uint32_t n;
} shard_writer;

static void shard_path(const shard_writer *w, uint32_t i, char path[4096]) {
    snprintf(path, 4096, "%s/data_%s_%06" PRIu32 ".bin", w->dir, w->name, i);
}

static bd_status shard_begin(shard_writer *w, bd_err *err) {
    bd_out *outs = realloc(w->outs, (w->n + 1) * sizeof *outs);
    if (outs) w->outs = outs;
    uint64_t *counts = realloc(w->counts, (w->n + 1) * sizeof *counts);
    if (counts) w->counts = counts;
    if (!outs || !counts) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    char path[4096];
    static const uint8_t header[SHARD_HEADER];
    shard_path(w, w->n, path);
    BD_TRY(bd_out_open(&w->outs[w->n], path, err));
    w->counts[w->n] = 0;
    bd_out_put(&w->outs[w->n++], header, sizeof header);
    return BD_OK;
}

static bd_status shard_put(shard_writer *w, const uint16_t *v, uint64_t n, bd_err *err) {
    while (n) {
        if (w->n == 0 || w->counts[w->n - 1] == w->limit) BD_TRY(shard_begin(w, err));
        uint64_t room = w->limit - w->counts[w->n - 1], k = n < room ? n : room;
        bd_out_put(&w->outs[w->n - 1], v, k * sizeof *v);
        w->counts[w->n - 1] += k;
        v += k;
        n -= k;
    }
    return BD_OK;
}

/* The header of a shard knows its length last. */
static bd_status shard_commit(shard_writer *w, bd_err *err) {
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t words[3] = {BD_SHARD_MAGIC, 1, (uint32_t)w->counts[i]};
        bd_out *o = &w->outs[i];
        if (!o->failed && fseeko(o->f, 0, SEEK_SET) != 0) {
            o->failed = true;
            o->saved_errno = errno;
        }
        bd_out_put(o, words, sizeof words);
        BD_TRY(bd_out_commit(o, err));
    }
    /* Shards of an earlier, longer run under the same name would join these. */
    for (uint32_t i = w->n;; i++) {
        char path[4096];
        shard_path(w, i, path);
        if (unlink(path) != 0) return BD_OK;
    }
}

static void shard_abort(shard_writer *w) {
    for (uint32_t i = 0; i < w->n; i++) bd_out_abort(&w->outs[i]);
    free(w->outs);
    free(w->counts);
}

static uint64_t shard_total(const shard_writer *w) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < w->n; i++) n += w->counts[i];
    return n;
}

/* ---- one document of a batch ---- */

typedef struct job {
    bd_buf text, changed; /* as read; after CaseOps */
    bd_buf ids, bytes;    /* uint16 */
    int where;            /* TRAIN or VAL */
    bd_status st;
    bd_err err;
} job;

typedef struct run {
    const tokenize_args *a;
    const bd_progress *p;
    bd_documents *docs;
    bd_sp *sp;
    bd_tokenizer *tok;
    bd_pool *pool;
    bd_buf model; /* the tokenizer's file */
    job *jobs;
    shard_writer shards[N_PARTS], sidecar;
    bd_out text, model_out;
    bool text_open, model_open;
    uint64_t largest; /* bytes of a document */
    part census[N_PARTS], parts[N_PARTS];
    uint64_t replaced;
    double seconds_train, seconds;
    /* tokenizer training */
    double keep; /* share of the lines */
    uint64_t lines, fed;
    const uint8_t *rest;
    uint64_t rest_size;
    bd_buf line;
} run;

static int part_of(const tokenize_args *a, uint64_t index) {
    if (a->n_val_docs >= 0) return index < (uint64_t)a->n_val_docs ? VAL : TRAIN;
    return bd_philox_uniform(0, STREAM_SPLIT, index) < a->val_fraction ? VAL : TRAIN;
}

static bd_status interrupted(bd_err *err) {
    return BD_FAIL(err, BD_E_INTERRUPTED, "interrupted; nothing was written");
}

typedef struct side {
    bd_buf *ids, *bytes;
    bd_caseops_state state;
} side;

static bd_status put_piece(void *user, uint32_t id, const void *surface, size_t n, bd_err *err) {
    side *s = user;
    uint64_t bytes;
    if (id > UINT16_MAX) return BD_FAIL(err, BD_E_RANGE, "token %" PRIu32 " does not fit in a shard", id);
    BD_TRY(bd_caseops_count(&s->state, surface, n, &bytes, err));
    if (bytes > UINT16_MAX)
        return BD_FAIL(err, BD_E_LIMIT, "one token stands for %" PRIu64 " bytes of text", bytes);
    uint16_t v[2] = {(uint16_t)id, (uint16_t)bytes};
    bd_buf_put(s->ids, &v[0], 2);
    bd_buf_put(s->bytes, &v[1], 2);
    return BD_OK;
}

static bd_status encode_job(const run *r, job *j) {
    const bd_buf *text = &j->text;
    uint16_t bos = (uint16_t)r->tok->bos, none = 0;
    j->ids.size = j->bytes.size = j->changed.size = 0;
    bd_buf_put(&j->ids, &bos, 2);
    if (r->a->caseops) {
        BD_TRY(bd_caseops_encode(text->data, text->size, &j->changed, &j->err));
        text = &j->changed;
    }
    if (!r->a->caseops || j->where == TRAIN) return bd_sp_encode(r->sp, text->data, text->size, &j->ids, &j->err);
    side s = {&j->ids, &j->bytes, {0}};
    bd_buf_put(&j->bytes, &none, 2);
    BD_TRY(bd_sp_encode_pieces(r->sp, text->data, text->size, put_piece, &s, &j->err));
    return bd_buf_check(&j->bytes, &j->err);
}

static void encode_jobs(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    run *r = arg;
    for (int64_t i = begin; i < end; i++) r->jobs[i].st = encode_job(r, &r->jobs[i]);
}

/* ---- reading ---- */

static bd_status take_census(run *r, bd_err *err) {
    double total = (double)bd_documents_size(r->docs);
    bd_document doc;
    bool more;
    bd_documents_rewind(r->docs);
    for (;;) {
        BD_TRY(bd_documents_next(r->docs, &doc, &more, err));
        if (!more) break;
        part *p = &r->census[part_of(r->a, doc.index)];
        p->documents++;
        p->text_bytes += doc.size;
        if (doc.size > r->largest) r->largest = doc.size;
        if (bd_stopped(r->p)) return interrupted(err);
        bd_tick(r->p, "reading", (double)bd_documents_position(r->docs), total, "%" PRIu64 " documents",
                doc.index + 1);
    }
    r->replaced = bd_documents_replaced(r->docs);
    if (r->census[TRAIN].documents + r->census[VAL].documents == 0)
        return BD_FAIL(err, BD_E_MISSING, "the input holds no document");
    return BD_OK;
}

/* ---- the tokenizer ---- */

/* The next line of at most SENTENCE_MAX bytes, cut behind a space where it can be. */
static bool next_line(run *r, const void **text, size_t *n) {
    while (r->rest_size) {
        const uint8_t *s = r->rest, *nl = memchr(s, '\n', r->rest_size);
        uint64_t len = nl ? (uint64_t)(nl - s) : r->rest_size, skip = nl ? 1 : 0;
        if (len > SENTENCE_MAX) {
            len = SENTENCE_MAX;
            skip = 0;
            uint64_t cut = len;
            while (cut > 1 && s[cut - 1] != ' ') cut--;
            if (cut > 1) len = cut;
            else
                while (len > 1 && (s[len] & 0xc0) == 0x80) len--; /* not inside a code point */
        }
        r->rest += len + skip;
        r->rest_size -= len + skip;
        if (len == 0) continue;
        if (r->keep < 1 && bd_philox_uniform(0, STREAM_SAMPLE, r->lines++) >= r->keep) continue;
        *text = s;
        *n = (size_t)len;
        return true;
    }
    return false;
}

static bd_status next_sentence(void *user, const void **text, size_t *n, bd_err *err) {
    run *r = user;
    bd_document doc;
    bool more;
    *n = 0;
    while (!next_line(r, text, n)) {
        if (bd_stopped(r->p)) return interrupted(err);
        do {
            BD_TRY(bd_documents_next(r->docs, &doc, &more, err));
            if (!more) return BD_OK;
        } while (part_of(r->a, doc.index) != TRAIN);
        r->rest = doc.text;
        r->rest_size = doc.size;
        if (r->a->caseops) {
            r->line.size = 0;
            BD_TRY(bd_caseops_encode(doc.text, doc.size, &r->line, err));
            r->rest = r->line.data;
            r->rest_size = r->line.size;
        }
    }
    r->fed += *n;
    return BD_OK;
}

static bd_status train_tokenizer(run *r, bd_err *err) {
    if (r->census[TRAIN].text_bytes == 0)
        return BD_FAIL(err, BD_E_MISSING,
                       "no training text to train a tokenizer on: all %" PRIu64 " documents are validation",
                       r->census[VAL].documents);
    double t0 = bd_now();
    r->keep = (double)TRAIN_SAMPLE / (double)r->census[TRAIN].text_bytes;
    bd_documents_rewind(r->docs);
    bd_note(r->p, "training a tokenizer of %" PRId64 " pieces on the training documents", r->a->train_tokenizer);
    bd_sp_train_opts o = {(uint32_t)r->a->train_tokenizer, r->a->caseops ? BD_CASEOPS_SYMBOLS : NULL,
                          4 * SENTENCE_MAX};
    bd_status st = bd_sp_train(&o, next_sentence, r, &r->model, err);
    if (st == BD_OK && bd_stopped(r->p)) st = interrupted(err);
    r->seconds_train = bd_now() - t0;
    return st;
}

static bd_status load_tokenizer(run *r, bd_err *err) {
    bd_map m;
    BD_TRY(bd_map_open(&m, r->a->tokenizer, err));
    bd_buf_put(&r->model, m.data, m.size);
    bd_map_close(&m);
    return bd_buf_check(&r->model, err);
}

static bool has_piece(const bd_tokenizer *t, const char *text, size_t n, bd_piece_type type) {
    for (uint32_t i = 0; i < t->n; i++)
        if (t->pieces[i].type == type && t->pieces[i].len == n && !memcmp(t->pieces[i].text, text, n)) return true;
    return false;
}

static bd_status check_tokenizer(run *r, bd_err *err) {
    BD_TRY(bd_tokenizer_parse(&r->tok, r->model.data, r->model.size, err));
    if (r->tok->bos < 0)
        return BD_FAIL(err, BD_E_MISSING, "the tokenizer has no BOS piece, which begins every document");
    if (r->tok->n > UINT16_MAX + 1)
        return BD_FAIL(err, BD_E_LIMIT, "the tokenizer has %" PRIu32 " pieces; shards hold ids below 65536",
                       r->tok->n);
    for (const char *s = BD_CASEOPS_SYMBOLS; r->a->caseops && *s; s += s[3] ? 4 : 3)
        if (!has_piece(r->tok, s, 3, BD_PIECE_USER))
            return BD_FAIL(err, BD_E_MISSING,
                           "--caseops needs a tokenizer with the user-defined pieces U+E001..U+E004");
    return bd_sp_open(&r->sp, r->model.data, r->model.size, err);
}

static bd_status make_tokenizer(run *r, bd_err *err) {
    if (!bd_sp_available()) return bd_sp_open(&r->sp, NULL, 0, err); /* says why */
    if (!r->a->tokenizer) {
        BD_TRY(train_tokenizer(r, err));
        return check_tokenizer(r, err);
    }
    bd_status st = load_tokenizer(r, err);
    if (st == BD_OK) st = check_tokenizer(r, err);
    if (st != BD_OK && st != BD_E_UNSUPPORTED && st != BD_E_NOMEM) bd_err_file(err, r->a->tokenizer);
    return st;
}

/* ---- encoding ---- */

static bd_status write_job(run *r, const job *j, bd_err *err) {
    part *p = &r->parts[j->where];
    uint64_t n = j->ids.size / 2;
    const uint16_t *ids = (const uint16_t *)(const void *)j->ids.data;
    if (j->where == VAL) {
        if (p->documents) bd_out_put(&r->text, "\n\n", 2);
        bd_out_put(&r->text, j->text.data, j->text.size);
        if (r->a->caseops) BD_TRY(shard_put(&r->sidecar, (const uint16_t *)(const void *)j->bytes.data, n, err));
    }
    for (uint64_t i = 0; i < n; i++) p->unknown += ids[i] == r->tok->unk;
    p->documents++;
    p->text_bytes += j->text.size;
    p->tokens += n;
    return shard_put(&r->shards[j->where], ids, n, err);
}

static bd_status encode_all(run *r, bd_err *err) {
    double total = (double)bd_documents_size(r->docs);
    bd_document doc;
    bool more = true;
    bd_documents_rewind(r->docs);
    while (more) {
        int n = 0;
        uint64_t bytes = 0, first = 0;
        while (n < BATCH_DOCS && bytes < BATCH_BYTES) {
            BD_TRY(bd_documents_next(r->docs, &doc, &more, err));
            if (!more) break;
            job *j = &r->jobs[n];
            if (n++ == 0) first = doc.index;
            j->where = part_of(r->a, doc.index);
            j->text.size = 0;
            bd_buf_put(&j->text, doc.text, doc.size);
            BD_TRY(bd_buf_check(&j->text, err));
            bytes += doc.size;
        }
        bd_pool_for(r->pool, n, 1, encode_jobs, r);
        for (int i = 0; i < n; i++) {
            const job *j = &r->jobs[i];
            if (j->st != BD_OK) {
                if (err) *err = j->err;
                bd_err_prefix(err, "document %" PRIu64 ": ", first + (uint64_t)i);
                return j->st;
            }
            BD_TRY(write_job(r, j, err));
        }
        if (bd_stopped(r->p)) return interrupted(err);
        bd_tick(r->p, "tokenizing", (double)bd_documents_position(r->docs), total, "%" PRIu64 " tokens",
                r->parts[TRAIN].tokens + r->parts[VAL].tokens);
    }
    return BD_OK;
}

/* A full disk should be found while no file has its name yet. */
static bd_status flush_out(bd_out *o, bd_err *err) {
    if (!o->failed && fflush(o->f) != 0) {
        o->failed = true;
        o->saved_errno = errno;
    }
    return o->failed ? bd_out_commit(o, err) : BD_OK; /* which says why, and removes it */
}

static bd_status flush_all(run *r, bd_err *err) {
    shard_writer *const writers[] = {&r->shards[TRAIN], &r->shards[VAL], &r->sidecar};
    for (int k = 0; k < 3; k++)
        for (uint32_t i = 0; i < writers[k]->n; i++) BD_TRY(flush_out(&writers[k]->outs[i], err));
    BD_TRY(flush_out(&r->text, err));
    return flush_out(&r->model_out, err);
}

static bd_status commit_all(run *r, bd_err *err) {
    BD_TRY(flush_all(r, err));
    for (int i = 0; i < N_PARTS; i++) BD_TRY(shard_commit(&r->shards[i], err));
    BD_TRY(shard_commit(&r->sidecar, err));
    if (r->parts[VAL].documents) {
        BD_TRY(bd_out_commit(&r->text, err));
    } else {
        char path[4096];
        snprintf(path, sizeof path, "%s/data_val.txt", r->a->out);
        if (unlink(path) != 0) errno = 0; /* there was none */
    }
    return bd_out_commit(&r->model_out, err);
}

static bd_status open_out(bd_out *o, bool *open, const char *dir, const char *name, bd_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    BD_TRY(bd_out_open(o, path, err));
    *open = true;
    return BD_OK;
}

static bd_status tokenize(run *r, bd_err *err) {
    const tokenize_args *a = r->a;
    double t0 = bd_now();
    BD_TRY(make_tokenizer(r, err));
    r->jobs = calloc(BATCH_DOCS, sizeof *r->jobs);
    if (!r->jobs) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    BD_TRY(bd_make_dir(a->out, err));
    for (int i = 0; i < N_PARTS; i++)
        r->shards[i] = (shard_writer){.dir = a->out, .name = part_names[i], .limit = (uint64_t)a->shard_tokens};
    r->sidecar = (shard_writer){.dir = a->out, .name = "val_bytes", .limit = (uint64_t)a->shard_tokens};
    BD_TRY(open_out(&r->text, &r->text_open, a->out, "data_val.txt", err));
    BD_TRY(open_out(&r->model_out, &r->model_open, a->out, "tokenizer.model", err));
    bd_out_put(&r->model_out, r->model.data, r->model.size);
    BD_TRY(encode_all(r, err));
    BD_TRY(commit_all(r, err));
    r->seconds = bd_now() - t0;
    return BD_OK;
}

/* ---- results ---- */

static json_t *shards_json(const shard_writer *w) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < w->n; i++) {
        char path[4096];
        shard_path(w, i, path);
        json_t *o = json_object();
        json_object_set_new(o, "path", bd_cli_str(path));
        json_object_set_new(o, "tokens", bd_cli_u64(w->counts[i]));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *part_json(const part *p, const shard_writer *w) {
    json_t *o = json_object();
    json_object_set_new(o, "documents", bd_cli_u64(p->documents));
    json_object_set_new(o, "text_bytes", bd_cli_u64(p->text_bytes));
    if (!w) return o;
    json_object_set_new(o, "tokens", bd_cli_u64(p->tokens));
    json_object_set_new(o, "unknown", bd_cli_u64(p->unknown));
    json_object_set_new(o, "shards", shards_json(w));
    return o;
}

static int print_result(const run *r) {
    const tokenize_args *a = r->a;
    char hex[65], path[4096];
    bd_sha256_hex(r->tok->model_hash, hex);
    snprintf(path, sizeof path, "%s/tokenizer.model", a->out);
    uint64_t tokens = r->parts[TRAIN].tokens + r->parts[VAL].tokens;
    uint64_t bytes = r->parts[TRAIN].text_bytes + r->parts[VAL].text_bytes;
    if (a->common.json) {
        json_t *o = json_object(), *t = json_object(), *m = json_object();
        json_object_set_new(o, "documents", bd_cli_u64(r->parts[TRAIN].documents + r->parts[VAL].documents));
        json_object_set_new(o, "tokens", bd_cli_u64(tokens));
        json_object_set_new(o, "text_bytes", bd_cli_u64(bytes));
        for (int i = 0; i < N_PARTS; i++)
            json_object_set_new(o, part_names[i], part_json(&r->parts[i], &r->shards[i]));
        if (a->caseops) json_object_set_new(o, "val_bytes", shards_json(&r->sidecar));
        json_object_set_new(o, "caseops", json_boolean(a->caseops));
        json_object_set_new(o, "replaced", bd_cli_u64(r->replaced));
        json_object_set_new(t, "path", bd_cli_str(path));
        json_object_set_new(t, "sha256", json_string(hex));
        json_object_set_new(t, "pieces", json_integer(r->tok->n));
        json_object_set_new(t, "trained", json_boolean(!a->tokenizer));
        json_object_set_new(o, "tokenizer", t);
        json_object_set_new(m, "seconds", bd_cli_real(r->seconds));
        json_object_set_new(m, "seconds_tokenizer", bd_cli_real(r->seconds_train));
        json_object_set_new(m, "threads", json_integer(bd_pool_threads(r->pool)));
        json_object_set_new(o, "measured", m);
        return bd_cli_print_json(o);
    }
    printf("tokenizer  %s, %" PRIu32 " pieces%s\nsha256     %s\n", path, r->tok->n,
           a->tokenizer ? "" : ", trained here", hex);
    for (int i = 0; i < N_PARTS; i++)
        printf("%-10s %" PRIu64 " documents, %" PRIu64 " bytes, %" PRIu64 " tokens in %" PRIu32 " shards\n",
               i ? "validation" : "training", r->parts[i].documents, r->parts[i].text_bytes, r->parts[i].tokens,
               r->shards[i].n);
    if (a->caseops) printf("sidecar    %" PRIu64 " byte counts of validation tokens\n", shard_total(&r->sidecar));
    printf("average    %.3f bytes per token\n", (double)bytes / (double)tokens);
    printf("time       %.1f s (%.1f for the tokenizer)\n", r->seconds, r->seconds_train);
    return 0;
}

static void warn(const run *r) {
    uint64_t unknown = r->parts[TRAIN].unknown + r->parts[VAL].unknown;
    if (unknown)
        fprintf(stderr,
                "birdie: tokenize: warning: %" PRIu64
                " tokens are <unk>: this tokenizer cannot spell all of the text, "
                "and scores on it will not count all of its bytes\n",
                unknown);
    if (r->replaced)
        fprintf(stderr, "birdie: tokenize: warning: %" PRIu64 " bytes that are not UTF-8 became U+FFFD\n",
                r->replaced);
    if (r->a->n_val_docs != 0 && r->a->val_fraction > 0 && r->parts[VAL].documents == 0)
        fprintf(stderr, "birdie: tokenize: warning: no document fell into validation\n");
}

/* Measured: SentencePiece takes about 100 bytes for each byte it encodes, 13 for each it trains on. */
static uint64_t memory_need(const run *r) {
    uint64_t threads = r->a->common.threads > 0 ? (uint64_t)r->a->common.threads : (uint64_t)bd_cpu_count();
    uint64_t train = r->a->tokenizer ? 0 : 16 * (uint64_t)fmin((double)r->census[TRAIN].text_bytes, TRAIN_SAMPLE);
    /* A batch ends behind the document that fills it. */
    uint64_t encode = 110 * (uint64_t)fmin((double)(threads * r->largest), (double)(r->largest + BATCH_BYTES));
    return (32 << 20) + bd_documents_size(r->docs) + (train > encode ? train : encode);
}

static int print_plan(const run *r) {
    uint64_t bytes = r->census[TRAIN].text_bytes + r->census[VAL].text_bytes;
    double seconds = (double)bytes / 1e6 + (r->a->tokenizer ? 0 : fmin((double)bytes, TRAIN_SAMPLE) / 1e6);
    if (r->a->common.json) {
        json_t *o = json_object();
        json_object_set_new(o, "dry_run", json_true());
        json_object_set_new(o, "documents", bd_cli_u64(r->census[TRAIN].documents + r->census[VAL].documents));
        json_object_set_new(o, "text_bytes", bd_cli_u64(bytes));
        for (int i = 0; i < N_PARTS; i++) json_object_set_new(o, part_names[i], part_json(&r->census[i], NULL));
        json_object_set_new(o, "memory_bytes", bd_cli_u64(memory_need(r)));
        json_object_set_new(o, "seconds", bd_cli_real(seconds));
        return bd_cli_print_json(o);
    }
    for (int i = 0; i < N_PARTS; i++)
        printf("%-10s %" PRIu64 " documents, %" PRIu64 " bytes\n", i ? "validation" : "training",
               r->census[i].documents, r->census[i].text_bytes);
    printf("memory     about %" PRIu64 " bytes\n", memory_need(r));
    printf("disk       at most %" PRIu64 " bytes\nseconds    about %.0f\n", 2 * bytes + r->census[VAL].text_bytes,
           seconds);
    return 0;
}

/* ---- the command ---- */

static bd_status check_args(tokenize_args *a, bd_err *err) {
    if (!a->tokenizer == !a->train_tokenizer)
        return BD_FAIL(err, BD_E_USAGE, "give either --tokenizer TOK.model or --train-tokenizer SIZE");
    if (!a->tokenizer && (a->train_tokenizer < MIN_PIECES || a->train_tokenizer > UINT16_MAX + 1))
        return BD_FAIL(err, BD_E_USAGE, "--train-tokenizer takes %d to 65536 pieces", (int)MIN_PIECES);
    if (!a->out && !a->common.dry_run) return BD_FAIL(err, BD_E_USAGE, "give the directory to write with --out");
    if (a->out && strlen(a->out) > 3000) return BD_FAIL(err, BD_E_USAGE, "--out is too long");
    if (!(a->val_fraction >= 0 && a->val_fraction < 1))
        return BD_FAIL(err, BD_E_USAGE, "--val-fraction is at least 0 and below 1");
    if (strcmp(a->split, "blank") != 0 && strcmp(a->split, "file") != 0)
        return BD_FAIL(err, BD_E_USAGE, "--split is blank or file, not %.40s", a->split);
    if (a->shard_tokens < 1 || a->shard_tokens > INT32_MAX)
        return BD_FAIL(err, BD_E_USAGE, "--shard-tokens is 1 to %d", INT32_MAX);
    a->n_val_docs = -1;
    if (a->val_docs && a->val_fraction != DEFAULT_FRACTION)
        return BD_FAIL(err, BD_E_USAGE, "--val-docs and --val-fraction exclude each other");
    if (a->val_docs) {
        char *end;
        errno = 0;
        a->n_val_docs = strtoll(a->val_docs, &end, 10);
        if (errno || end == a->val_docs || *end || a->n_val_docs < 0)
            return BD_FAIL(err, BD_E_USAGE, "--val-docs takes a number of documents, not %.40s", a->val_docs);
    }
    return BD_OK;
}

static void close_run(run *r) {
    for (int i = 0; i < BATCH_DOCS && r->jobs; i++) {
        bd_buf_free(&r->jobs[i].text);
        bd_buf_free(&r->jobs[i].changed);
        bd_buf_free(&r->jobs[i].ids);
        bd_buf_free(&r->jobs[i].bytes);
    }
    free(r->jobs);
    for (int i = 0; i < N_PARTS; i++) shard_abort(&r->shards[i]);
    shard_abort(&r->sidecar);
    if (r->text_open) bd_out_abort(&r->text);
    if (r->model_open) bd_out_abort(&r->model_out);
    bd_buf_free(&r->model);
    bd_buf_free(&r->line);
    bd_sp_close(r->sp);
    bd_tokenizer_close(r->tok);
    bd_documents_close(r->docs);
    bd_pool_destroy(r->pool);
}

static int tokenize_run(tokenize_args *a, const bd_cli_list *files) {
    bd_err err = {0};
    bd_status st;
    run r = {.a = a};
    bd_cli_progress progress;
    bool live = false;
    int rc = 0;
    bd_buf_init(&r.model);
    bd_buf_init(&r.line);

    BD_TRY_DONE(check_args(a, &err));
    bd_documents_opts o = {.whole_files = !strcmp(a->split, "file"), .replace_invalid = a->replace_invalid};
    BD_TRY_DONE(bd_documents_open(&r.docs, files->items, files->n, &o, &err));
    r.p = bd_cli_progress_start(&progress);
    live = true;
    BD_TRY_DONE(take_census(&r, &err));
    if (a->common.dry_run) {
        bd_cli_progress_end(&progress);
        live = false;
        rc = print_plan(&r);
        goto done;
    }
    if (a->common.max_memory && memory_need(&r) > (uint64_t)a->common.max_memory) {
        st = BD_FAIL(&err, BD_E_LIMIT, "this takes about %" PRIu64 " bytes of memory, more than --max-memory",
                     memory_need(&r));
        goto done;
    }
    BD_TRY_DONE(bd_pool_create(&r.pool, (int)a->common.threads, &err));
    st = tokenize(&r, &err);
done:
    if (live) bd_cli_progress_end(&progress);
    if (st != BD_OK) {
        rc = bd_cli_error(&err, a->common.json);
    } else if (!a->common.dry_run) {
        rc = print_result(&r);
        warn(&r);
    }
    close_run(&r);
    return rc;
}

int bd_cmd_tokenize(int argc, char **argv) {
    tokenize_args a = {.split = "blank", .val_fraction = DEFAULT_FRACTION, .shard_tokens = SHARD_TOKENS};
    const bd_cli_opt opts[] = {
        {"tokenizer", BD_CLI_STRING, &a.tokenizer, "TOK.model", "SentencePiece model to use"},
        {"train-tokenizer", BD_CLI_COUNT, &a.train_tokenizer, "SIZE",
         "train a byte-pair tokenizer of SIZE pieces on the training documents"},
        {"caseops", BD_CLI_FLAG, &a.caseops, NULL,
         "move capital letters into control pieces; also writes the byte counts of validation tokens"},
        {"val-docs", BD_CLI_STRING, &a.val_docs, "N", "the first N documents are validation"},
        {"val-fraction", BD_CLI_DOUBLE, &a.val_fraction, "F", "or: this share of them, drawn by document number"},
        {"split", BD_CLI_STRING, &a.split, "blank|file",
         "a text file is documents between blank lines, or one document"},
        {"replace-invalid", BD_CLI_FLAG, &a.replace_invalid, NULL, "replace bytes that are not UTF-8 by U+FFFD"},
        {"shard-tokens", BD_CLI_COUNT, &a.shard_tokens, "N", "tokens of one shard"},
        {"out", BD_CLI_STRING, &a.out, "DIR", "directory to write; files of an earlier run there are replaced"},
    };
    const bd_cli_spec spec = {
        .name = "tokenize",
        .summary = bd_cmd_tokenize_summary,
        .usage =
            "tokenize (--tokenizer TOK.model | --train-tokenizer SIZE) --out DIR FILE.txt|FILE.jsonl... [options]",
        .text =
            "Writes DIR/data_train_NNNNNN.bin and DIR/data_val_NNNNNN.bin (each document a BOS token and its "
            "pieces), "
            "DIR/tokenizer.model and the validation text DIR/data_val.txt. Lines of a .jsonl file are objects with "
            "a "
            "\"text\"; any other file is plain text. The same files and options give the same bytes.",
        .examples =
            "  birdie tokenize --train-tokenizer 1024 --out data book1.txt book2.txt\n"
            "  birdie tokenize --tokenizer fineweb_1024_bpe.model --val-docs 50000 --out data docs.jsonl\n",
        .opts = opts,
        .n_opts = sizeof opts / sizeof *opts,
        .min_args = 1,
        .max_args = -1,
        .common = &a.common,
    };
    bd_cli_list args;
    int rc;
    if (!bd_cli_begin(&spec, argc, argv, &args, &rc)) return rc;
    rc = tokenize_run(&a, &args);
    bd_cli_free(&spec, &args);
    return rc;
}
