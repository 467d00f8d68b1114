/* External programs on files of their own: one directory for the job, removed
 * afterwards, a time limit, and a limit on what is written. Nothing is passed
 * through a shell. */
#ifndef BD_FORMAT_EXTERNAL_H
#define BD_FORMAT_EXTERNAL_H

#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

typedef struct bd_external {
    const char *const *argv; /* program (looked for in PATH) and arguments; terminated by NULL */
    const char *in, *out;    /* names of the input and output file in the job's directory, where it runs */
    uint64_t most;           /* the program may write files of at most this size */
    uint32_t seconds;        /* it is ended after these */
} bd_external;

/* Write the data to the input file, run the program, append the output file. BD_E_MISSING: the program is not
 * there; BD_E_CODEC: it failed, took too long, or wrote nothing; BD_E_IO, BD_E_NOMEM. */
bd_status bd_external_run(const bd_external *job, const void *data, uint64_t size, bd_buf *out, bd_err *err);

#endif
