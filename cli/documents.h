/* Text files as a sequence of documents, read twice where needed.
 *
 * FILE.jsonl, FILE.ndjson: one object per line whose "text" is a document.
 * Any other file is text: documents separated by blank lines (lines of spaces
 * and tabs), or the whole file as one document. Files are UTF-8. */
#ifndef BD_CLI_DOCUMENTS_H
#define BD_CLI_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct bd_documents bd_documents;

enum { BD_DOCUMENT_MAX = 16 << 20 }; /* bytes of one document, and of one line of JSON */

typedef struct bd_documents_opts {
    bool whole_files;     /* a text file is one document */
    bool replace_invalid; /* bytes that are not UTF-8 become U+FFFD instead of an error */
} bd_documents_opts;

typedef struct bd_document {
    const uint8_t *text; /* valid until the next call */
    uint64_t size;
    uint64_t index; /* over all files */
    const char *file;
    uint64_t line, offset; /* where it begins in the file; line counts from 1 */
} bd_document;

bd_status bd_documents_open(bd_documents **out, const char *const *paths, size_t n, const bd_documents_opts *o,
                            bd_err *err);
/* One file that is in memory and stays there; `name` decides its kind. */
bd_status bd_documents_parse(bd_documents **out, const char *name, const void *data, uint64_t size,
                             const bd_documents_opts *o, bd_err *err);
void bd_documents_close(bd_documents *d);
/* *more = false at the end. Errors name the file and the byte. */
bd_status bd_documents_next(bd_documents *d, bd_document *doc, bool *more, bd_err *err);
void bd_documents_rewind(bd_documents *d);
uint64_t bd_documents_size(const bd_documents *d);     /* bytes of all files */
uint64_t bd_documents_position(const bd_documents *d); /* of these, read */
uint64_t bd_documents_replaced(const bd_documents *d); /* invalid sequences replaced since the start */

#endif
