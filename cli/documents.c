#include "cli/documents.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "format/utf8.h"

typedef struct source {
    const char *name;
    const uint8_t *data;
    uint64_t size, skipped; /* skipped: byte order mark before data */
    bool json;
    bd_map map;
} source;

struct bd_documents {
    source *sources;
    size_t n;
    bd_documents_opts o;
    size_t at;          /* source */
    uint64_t pos, line; /* in it; line of pos */
    uint64_t before;    /* bytes of the sources before it */
    uint64_t index, replaced;
    json_t *object; /* owner of the last document's text */
    bd_buf text;    /* or this, when bytes were replaced */
};

/* ---- opening ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

/* Without sources, and with room for n. */
static bd_status create(bd_documents **out, size_t n, const bd_documents_opts *o, bd_err *err) {
    bd_documents *d = calloc(1, sizeof *d);
    if (d) d->sources = calloc(n ? n : 1, sizeof *d->sources);
    if (!d || !d->sources) {
        free(d);
        return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    }
    if (o) d->o = *o;
    bd_buf_init(&d->text);
    *out = d;
    bd_documents_rewind(d);
    return BD_OK;
}

static void add_source(bd_documents *d, const char *name, const uint8_t *data, uint64_t size) {
    source *s = &d->sources[d->n++];
    s->name = name;
    s->json = ends_with(name, ".jsonl") || ends_with(name, ".ndjson");
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) { /* byte order mark */
        data += 3;
        size -= 3;
        s->skipped = 3;
    }
    s->data = data;
    s->size = size;
}

bd_status bd_documents_open(bd_documents **out, const char *const *paths, size_t n, const bd_documents_opts *o,
                            bd_err *err) {
    *out = NULL;
    bd_documents *d = NULL;
    BD_TRY(create(&d, n, o, err));
    for (size_t i = 0; i < n; i++) {
        bd_map map;
        bd_status st = bd_map_open(&map, paths[i], err);
        if (st != BD_OK) {
            bd_documents_close(d);
            return st;
        }
        add_source(d, paths[i], map.data, map.size);
        d->sources[i].map = map;
    }
    *out = d;
    return BD_OK;
}

bd_status bd_documents_parse(bd_documents **out, const char *name, const void *data, uint64_t size,
                             const bd_documents_opts *o, bd_err *err) {
    *out = NULL;
    BD_TRY(create(out, 1, o, err));
    add_source(*out, name, data, size);
    return BD_OK;
}

void bd_documents_close(bd_documents *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n; i++) bd_map_close(&d->sources[i].map);
    json_decref(d->object);
    bd_buf_free(&d->text);
    free(d->sources);
    free(d);
}

void bd_documents_rewind(bd_documents *d) {
    d->at = 0;
    d->pos = d->before = d->index = d->replaced = 0;
    d->line = 1;
}

uint64_t bd_documents_size(const bd_documents *d) {
    uint64_t n = 0;
    for (size_t i = 0; i < d->n; i++) n += d->sources[i].size;
    return n;
}

uint64_t bd_documents_position(const bd_documents *d) { return d->before + d->pos; }
uint64_t bd_documents_replaced(const bd_documents *d) { return d->replaced; }

/* ---- documents ---- */

static uint64_t file_offset(const source *s, uint64_t pos) { return pos + s->skipped; }

static uint64_t line_end(const source *s, uint64_t pos) {
    const uint8_t *p = pos < s->size ? memchr(s->data + pos, '\n', s->size - pos) : NULL;
    return p ? (uint64_t)(p - s->data) : s->size;
}

static bool blank(const uint8_t *p, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r') return false;
    return true;
}

static bd_status too_long(const source *s, uint64_t line, uint64_t pos, const char *what, bd_err *err) {
    bd_status st =
        BD_FAIL_AT(err, BD_E_LIMIT, file_offset(s, pos), "line %" PRIu64 ": %s of more than %d bytes%s", line, what,
                   (int)BD_DOCUMENT_MAX, s->json ? "" : "; separate documents with blank lines");
    bd_err_file(err, s->name);
    return st;
}

/* Valid text as it is, or a copy with U+FFFD for each bad byte. */
static bd_status check_text(bd_documents *d, const source *s, bd_document *doc, bd_err *err) {
    uint64_t i = 0, line = doc->line;
    uint32_t cp;
    while (i < doc->size) {
        int len = bd_utf8_next(doc->text + i, doc->size - i, &cp);
        if (len == 0) break;
        line += cp == '\n';
        i += (uint64_t)len;
    }
    if (i == doc->size) return BD_OK;
    if (!d->o.replace_invalid) {
        bd_status st =
            BD_FAIL_AT(err, BD_E_FIELD, file_offset(s, doc->offset) + i,
                       "line %" PRIu64 ": the text is not valid UTF-8; convert it, or use --replace-invalid", line);
        bd_err_file(err, s->name);
        return st;
    }
    d->text.size = 0;
    bd_buf_put(&d->text, doc->text, i);
    while (i < doc->size) {
        int len = bd_utf8_next(doc->text + i, doc->size - i, &cp);
        if (len) {
            bd_buf_put(&d->text, doc->text + i, (size_t)len);
        } else {
            bd_buf_put(&d->text, "\xef\xbf\xbd", 3);
            d->replaced++;
            len = 1;
        }
        i += (uint64_t)len;
    }
    BD_TRY(bd_buf_check(&d->text, err));
    doc->text = d->text.data;
    doc->size = d->text.size;
    return BD_OK;
}

static bd_status next_text(bd_documents *d, const source *s, bd_document *doc, bool *more, bd_err *err) {
    uint64_t begin = 0, end = 0, line = 0;
    bool open = false;
    while (d->pos < s->size) {
        uint64_t pos = d->pos, stop = line_end(s, pos);
        bool empty = blank(s->data + pos, stop - pos);
        if (open && empty && !d->o.whole_files) break;
        if (!open && !empty) {
            open = true;
            begin = pos;
            line = d->line;
        }
        if (!empty) end = stop;
        if (open && end - begin > BD_DOCUMENT_MAX) return too_long(s, line, begin, "a document", err);
        d->pos = stop < s->size ? stop + 1 : stop;
        d->line++;
    }
    *more = open;
    if (!open) return BD_OK;
    if (end > begin && s->data[end - 1] == '\r') end--;
    *doc = (bd_document){s->data + begin, end - begin, 0, s->name, line, begin};
    return check_text(d, s, doc, err);
}

static bd_status bad_line(const source *s, uint64_t line, uint64_t pos, bd_err *err, const char *what) {
    bd_status st = BD_FAIL_AT(err, BD_E_SYNTAX, file_offset(s, pos), "line %" PRIu64 ": %s", line, what);
    bd_err_file(err, s->name);
    return st;
}

static bd_status next_json(bd_documents *d, const source *s, bd_document *doc, bool *more, bd_err *err) {
    uint64_t pos, stop, line;
    do {
        if (d->pos >= s->size) {
            *more = false;
            return BD_OK;
        }
        pos = d->pos;
        line = d->line++;
        stop = line_end(s, pos);
        d->pos = stop < s->size ? stop + 1 : stop;
    } while (blank(s->data + pos, stop - pos));
    if (stop - pos > BD_DOCUMENT_MAX) return too_long(s, line, pos, "JSON", err);

    const char *text = (const char *)s->data + pos;
    size_t n = (size_t)(stop - pos);
    uint64_t at = pos;
    json_error_t e;
    if (d->o.replace_invalid && !bd_utf8_valid(text, n)) {
        bd_document raw = {s->data + pos, n, 0, s->name, line, pos};
        BD_TRY(check_text(d, s, &raw, err));
        text = (const char *)raw.text;
        n = raw.size;
    }
    json_decref(d->object);
    d->object = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!d->object) {
        if (text == (const char *)s->data + pos && e.position > 0 && (uint64_t)e.position <= n)
            at = pos + (uint64_t)e.position;
        for (char *c = e.text; *c; c++) /* it may quote the file */
            if (*c < ' ' || *c > '~') *c = '?';
        return bad_line(s, line, at, err, e.text);
    }
    const json_t *value = json_object_get(d->object, "text");
    if (!json_is_object(d->object) || !json_is_string(value))
        return bad_line(s, line, pos, err, "each line must be an object with a string \"text\"");
    *doc =
        (bd_document){(const uint8_t *)json_string_value(value), json_string_length(value), 0, s->name, line, pos};
    *more = true;
    return BD_OK;
}

bd_status bd_documents_next(bd_documents *d, bd_document *doc, bool *more, bd_err *err) {
    memset(doc, 0, sizeof *doc);
    *more = false;
    while (d->at < d->n) {
        const source *s = &d->sources[d->at];
        BD_TRY(s->json ? next_json(d, s, doc, more, err) : next_text(d, s, doc, more, err));
        if (*more) {
            doc->index = d->index++;
            return BD_OK;
        }
        d->before += s->size;
        d->at++;
        d->pos = 0;
        d->line = 1;
    }
    return BD_OK;
}
