/* Protocol texts: an error, or values that print the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "format/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bd_protocol p;
    bd_err e = {0};
    if (bd_protocol_parse(&p, (const char *)data, size, &e) != BD_OK) {
        if (!e.msg[0]) abort();
        return 0;
    }
    bd_buf b;
    bd_buf_init(&b);
    if (bd_protocol_print(&p, &b, &e) != BD_OK || b.size != size || memcmp(b.data, data, size) != 0) abort();
    bd_buf_free(&b);
    return 0;
}
