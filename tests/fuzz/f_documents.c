/* Text and JSON-lines files as documents: the first byte chooses kind and options. */
#include <stdio.h>

#include "base/status.h"
#include "cli/documents.h"
#include "format/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t read_all(bd_documents *d, bool *ok) {
    bd_document doc;
    bd_err err = {0};
    bool more = true;
    uint64_t sum = 0;
    *ok = false;
    for (uint64_t n = 0; more; n++) {
        bd_status st = bd_documents_next(d, &doc, &more, &err);
        if (st != BD_OK) {
            BD_ASSERT(err.file[0] && err.offset <= bd_documents_size(d) + 3);
            return sum;
        }
        if (!more) break;
        BD_ASSERT(doc.index == n && bd_utf8_valid(doc.text, doc.size));
        sum = sum * 31 + doc.size + doc.line;
    }
    *ok = true;
    BD_ASSERT(bd_documents_position(d) == bd_documents_size(d));
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    bd_documents_opts o = {.whole_files = data[0] & 2, .replace_invalid = data[0] & 4};
    bd_documents *d;
    bd_err err = {0};
    if (bd_documents_parse(&d, data[0] & 1 ? "x.jsonl" : "x.txt", data + 1, size - 1, &o, &err) != BD_OK) return 0;
    bool first, second;
    uint64_t a = read_all(d, &first);
    bd_documents_rewind(d);
    uint64_t b = read_all(d, &second);
    BD_ASSERT(first == second && a == b);
    bd_documents_close(d);
    return 0;
}
