#include "verify/verify_text.h"

#include <string.h>

#include "format/caseops.h"

/* Places at which a document that is not where it should be is looked for. */
enum { MAX_PLACES = 4096 };

static bool is_space(uint8_t c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* A document ends here: at the end of the text, or where white space with two line feeds follows. *next: what comes
 * after that white space. */
static bool is_end(const uint8_t *s, uint64_t n, uint64_t at, uint64_t *next) {
    int lines = 0;
    while (at < n && is_space(s[at])) lines += s[at++] == '\n';
    *next = at;
    return at == n || lines >= 2;
}

static bool match_exact(const bd_buf *doc, const uint8_t *s, uint64_t n, uint64_t at, uint64_t *next) {
    return doc->size <= n - at && !memcmp(doc->data, s + at, doc->size) && is_end(s, n, at + doc->size, next);
}

/* The same with every run of white space as one space, and none at either end. */
static bool match_folded(const bd_buf *doc, const uint8_t *s, uint64_t n, uint64_t at, uint64_t *next) {
    const uint8_t *d = doc->data;
    uint64_t i = 0, k = at, nd = doc->size;
    while (nd && is_space(d[nd - 1])) nd--;
    while (i < nd && is_space(d[i])) i++;
    while (k < n && is_space(s[k])) k++;
    while (i < nd) {
        if (k == n || is_space(d[i]) != is_space(s[k])) return false;
        if (is_space(d[i])) {
            while (is_space(d[i])) i++; /* ends before nd */
            while (k < n && is_space(s[k])) k++;
        } else if (d[i++] != s[k++]) {
            return false;
        }
    }
    return is_end(s, n, k, next);
}

static bool has_caseops(const bd_tokenizer *t) {
    for (uint32_t i = 0; i < t->n; i++)
        if (t->pieces[i].len == 3 && !memcmp(t->pieces[i].text, BD_CASEOPS_SYMBOLS, 3)) return true;
    return false;
}

/* Text of one document; false if the tokens stand for none. */
static bool decode(const bd_tokenizer *t, bool caseops, const uint16_t *tokens, uint64_t n, bd_buf *work,
                   bd_buf *doc) {
    work->size = doc->size = 0;
    if (bd_tokenizer_decode(t, tokens, n, caseops ? work : doc, NULL) != BD_OK) return false;
    if (!caseops) return true;
    bd_caseops_state s = {0};
    return bd_caseops_decode(&s, work->data, work->size, doc, NULL) == BD_OK && bd_caseops_end(&s, NULL) == BD_OK &&
           bd_buf_check(doc, NULL) == BD_OK;
}

typedef struct cursor {
    const uint8_t *s;
    uint64_t n, at;
    bool lost; /* the document before was different: text may lie between */
} cursor;

typedef enum match { EXACT, FOLDED, NONE } match;

static match match_at(const bd_buf *doc, const cursor *c, uint64_t at, uint64_t *next) {
    if (match_exact(doc, c->s, c->n, at, next)) return EXACT;
    return match_folded(doc, c->s, c->n, at, next) ? FOLDED : NONE;
}

/* Find a document in the rest of the text and go behind it. */
static match find(bd_text_match *m, const bd_buf *doc, cursor *c) {
    uint64_t at = c->at, next = 0;
    for (int place = 0; at < c->n && place < MAX_PLACES; place++) {
        match found = match_at(doc, c, at, &next);
        if (found != NONE) {
            if (place > 0 && !c->lost) m->different++;
            c->at = next;
            c->lost = false;
            return found;
        }
        while (at < c->n && !(c->s[at] == '\n' && is_end(c->s, c->n, at, &next))) at++;
        if (at < c->n) at = next;
    }
    c->lost = true;
    return NONE;
}

void bd_text_compare(bd_text_match *m, const bd_tokenizer *t, const uint16_t *tokens, const uint16_t *bytes,
                     uint64_t n, bool whole, const char *text, uint64_t size) {
    *m = (bd_text_match){.first_different = UINT64_MAX};
    bool caseops = has_caseops(t);
    cursor c = {(const uint8_t *)text, size, 0, false};
    bd_buf doc, work;
    bd_buf_init(&doc);
    bd_buf_init(&work);
    for (uint64_t i = 0; i < n && tokens[i] == t->bos; m->documents++) {
        uint64_t end = i + 1, counted = 0;
        while (end < n && tokens[end] != t->bos) end++;
        if (end == n && !whole) break; /* perhaps cut */
        match found = decode(t, caseops, tokens + i, end - i, &work, &doc) ? find(m, &doc, &c) : NONE;
        if (found == EXACT) {
            for (uint64_t k = i + 1; k < end; k++) counted += bytes[k];
            m->equal++;
            m->counted += counted;
            m->original += doc.size;
        } else if (found == FOLDED) {
            m->white++;
        } else {
            m->different++;
            if (m->first_different == UINT64_MAX) m->first_different = m->documents;
        }
        i = end;
    }
    bd_buf_free(&doc);
    bd_buf_free(&work);
}
