#include "verify/verify_text.h"

#include <stdbool.h>
#include <string.h>

static bool is_space(uint8_t c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* The next character with runs of white space as one space and none at either end; -1 at the end. */
static int next_folded(const uint8_t *s, uint64_t n, uint64_t *i, bool *started) {
    bool space = false;
    while (*i < n && is_space(s[*i])) {
        space = true;
        (*i)++;
    }
    if (*i == n) return -1;
    if (space && *started) return ' ';
    *started = true;
    return s[(*i)++];
}

static bool equal_folded(const uint8_t *a, uint64_t na, const uint8_t *b, uint64_t nb) {
    uint64_t i = 0, k = 0;
    bool sa = false, sb = false;
    for (;;) {
        int ca = next_folded(a, na, &i, &sa), cb = next_folded(b, nb, &k, &sb);
        if (ca != cb) return false;
        if (ca < 0) return true;
    }
}

/* End of the document that begins at `at`: where a blank line or the text ends. */
static uint64_t text_end(const char *text, uint64_t size, uint64_t at) {
    for (uint64_t i = at; i + 1 < size; i++)
        if (text[i] == '\n' && text[i + 1] == '\n') return i;
    return size;
}

void bd_text_compare(bd_text_match *m, const bd_tokenizer *t, const uint16_t *tokens, uint64_t n, const char *text,
                     uint64_t size) {
    *m = (bd_text_match){.first_different = UINT64_MAX};
    bd_buf doc;
    bd_buf_init(&doc);
    uint64_t at = 0, i = 0;
    while (i < n && tokens[i] == t->bos) {
        uint64_t end = i + 1;
        while (end < n && tokens[end] != t->bos) end++;
        if (end == n) break; /* perhaps cut */
        uint64_t stop = at < size ? text_end(text, size, at) : size;
        doc.size = 0;
        bool ok = at < size && bd_tokenizer_decode(t, tokens + i, end - i, &doc, NULL) == BD_OK && !doc.failed;
        const uint8_t *original = (const uint8_t *)text + at;
        if (ok && doc.size == stop - at && !memcmp(doc.data, original, doc.size)) {
            m->equal++;
        } else if (ok && equal_folded(doc.data, doc.size, original, stop - at)) {
            m->white++;
        } else {
            m->different++;
            if (m->first_different == UINT64_MAX) m->first_different = m->documents;
        }
        m->documents++;
        i = end;
        at = stop;
        while (at < size && text[at] == '\n') at++;
    }
    bd_buf_free(&doc);
}
