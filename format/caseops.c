#include "format/caseops.h"

#include <inttypes.h>

#include "format/utf8.h"

enum { MODE_NONE, MODE_TITLE, MODE_ALLCAPS };

static bool is_upper(uint32_t c) { return c >= 'A' && c <= 'Z'; }
static bool is_lower(uint32_t c) { return c >= 'a' && c <= 'z'; }
static bool is_letter(uint32_t c) { return is_upper(c) || is_lower(c); }
static bool is_control(uint32_t c) { return c >= BD_CASEOPS_TITLE && c <= BD_CASEOPS_ESC; }
static uint8_t lower(uint8_t c) { return is_upper(c) ? (uint8_t)(c + 32) : c; }

static void put(bd_buf *out, uint32_t cp) {
    uint8_t b[4];
    bd_buf_put(out, b, (size_t)bd_utf8_put(cp, b));
}

static bd_status not_utf8(uint64_t at, bd_err *err) {
    return BD_FAIL_AT(err, BD_E_FIELD, at, "the text is not valid UTF-8");
}

/* One maximal run of letters. */
static void encode_word(const uint8_t *w, uint64_t n, bd_buf *out) {
    uint64_t capitals = 0;
    for (uint64_t i = 0; i < n; i++) capitals += is_upper(w[i]);
    bool all = capitals == n && n >= 2, title = n >= 2 && capitals == 1 && is_upper(w[0]);
    if (capitals == 0) {
        bd_buf_put(out, w, n);
        return;
    }
    if (all) put(out, BD_CASEOPS_ALLCAPS);
    else if (is_upper(w[0])) put(out, BD_CASEOPS_TITLE);
    for (uint64_t i = 0; i < n; i++) {
        if (i && !all && !title && is_upper(w[i])) put(out, BD_CASEOPS_CAPNEXT);
        bd_buf_u8(out, lower(w[i]));
    }
}

bd_status bd_caseops_encode(const void *text, uint64_t n, bd_buf *out, bd_err *err) {
    const uint8_t *s = text;
    for (uint64_t i = 0; i < n;) {
        if (is_letter(s[i])) {
            uint64_t end = i + 1;
            while (end < n && is_letter(s[end])) end++;
            encode_word(s + i, end - i, out);
            i = end;
            continue;
        }
        uint32_t cp;
        int len = bd_utf8_next(s + i, n - i, &cp);
        if (len == 0) return not_utf8(i, err);
        if (is_control(cp)) put(out, BD_CASEOPS_ESC);
        bd_buf_put(out, s + i, (size_t)len);
        i += (uint64_t)len;
    }
    return bd_buf_check(out, err);
}

/* The next code point of transformed text. 1: it stands for itself, *upper tells whether as a capital; 0: a
 * control; -1: illegal here. */
static int step(bd_caseops_state *s, uint32_t cp, bool *upper) {
    *upper = false;
    if (s->escape) {
        s->escape = false;
        s->in_word = is_letter(cp);
        if (!s->in_word) s->allcaps = false;
        return 1;
    }
    switch (cp) {
        case BD_CASEOPS_ESC:
            /* The encoder escapes controls only: an escape that a capital waits for is nobody's spelling. */
            if (s->mode || s->capnext) return -1;
            s->escape = true;
            return 0;
        case BD_CASEOPS_TITLE:
        case BD_CASEOPS_ALLCAPS:
            if (s->in_word || s->mode || s->capnext) return -1;
            s->mode = cp == BD_CASEOPS_TITLE ? MODE_TITLE : MODE_ALLCAPS;
            return 0;
        case BD_CASEOPS_CAPNEXT:
            if (s->capnext) return -1;
            s->capnext = true;
            return 0;
        default: break;
    }
    if (!is_letter(cp)) {
        if (s->mode || s->capnext) return -1;
        s->in_word = s->allcaps = false;
        return 1;
    }
    if (!s->in_word) {
        *upper = s->mode != MODE_NONE || s->capnext;
        if (s->mode == MODE_ALLCAPS) s->allcaps = true;
    } else {
        *upper = s->allcaps || s->capnext;
    }
    s->mode = MODE_NONE;
    s->capnext = false;
    s->in_word = true;
    return 1;
}

static bd_status run(bd_caseops_state *s, const uint8_t *text, uint64_t n, bd_buf *out, uint64_t *bytes,
                     bd_err *err) {
    for (uint64_t i = 0; i < n;) {
        uint32_t cp;
        bool upper;
        int len = bd_utf8_next(text + i, n - i, &cp);
        if (len == 0) return not_utf8(i, err);
        int kind = step(s, cp, &upper);
        if (kind < 0) return BD_FAIL_AT(err, BD_E_FIELD, i, "CaseOps text: U+%04" PRIX32 " may not stand here", cp);
        if (kind > 0) {
            *bytes += (uint64_t)len;
            if (out && upper && is_lower(cp)) bd_buf_u8(out, (uint8_t)(cp - 32));
            else if (out) bd_buf_put(out, text + i, (size_t)len);
        }
        i += (uint64_t)len;
    }
    return out ? bd_buf_check(out, err) : BD_OK;
}

bd_status bd_caseops_decode(bd_caseops_state *s, const void *text, uint64_t n, bd_buf *out, bd_err *err) {
    uint64_t bytes = 0;
    return run(s, text, n, out, &bytes, err);
}

bd_status bd_caseops_count(bd_caseops_state *s, const void *text, uint64_t n, uint64_t *bytes, bd_err *err) {
    *bytes = 0;
    return run(s, text, n, NULL, bytes, err);
}

bd_status bd_caseops_end(const bd_caseops_state *s, bd_err *err) {
    if (!s->escape && !s->mode && !s->capnext) return BD_OK;
    return BD_FAIL(err, BD_E_TRUNCATED, "CaseOps text ends while a control waits for its letter");
}
