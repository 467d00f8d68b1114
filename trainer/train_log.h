/* log.jsonl: one JSON object a line. Written while training (flushed every
 * line), read back by --replay. Doubles that decide results (lr_mul, loss) are
 * printed so that reading gives the same double.
 *
 * A resumed run appends: its "start" line names the step it goes on from, and
 * steps logged beyond that one (a crash loses what came after the last
 * checkpoint) are taken back. */
#ifndef BD_TRAINER_TRAIN_LOG_H
#define BD_TRAINER_TRAIN_LOG_H

#include <stdint.h>

#include "base/status.h"

typedef struct bd_log_step {
    int64_t step; /* counts from 0 */
    double lr_mul, loss;
} bd_log_step;

typedef struct bd_train_log {
    bd_log_step *steps; /* in order, from 0, without gaps */
    int64_t n;
    char weights_sha256[65];                   /* of the "end" line after the last step, or "" */
    char recipe_sha256[65], tokens_sha256[65]; /* of the last "start" line, or "" */
} bd_train_log;

/* At most 2^26 steps and lines of at most 64 KiB. Unknown events and keys are skipped; a
 * torn last line is ignored; anything else malformed is an error with its line. */
bd_status bd_train_log_open(bd_train_log *l, const char *path, bd_err *err);
bd_status bd_train_log_parse(bd_train_log *l, const char *text, uint64_t size, bd_err *err);
void bd_train_log_free(bd_train_log *l);
/* Cut a line that a crash left unfinished, so that appending begins a line. A missing file is fine. */
bd_status bd_train_log_mend(const char *path, bd_err *err);

#endif
