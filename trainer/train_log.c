#include "trainer/train_log.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_LINE = 65536, MAX_STEPS = 1 << 26 };

static bd_status read_step(bd_train_log *l, const json_t *o, int64_t line, int64_t *cap, bd_err *err) {
    const json_t *step = json_object_get(o, "step"), *mul = json_object_get(o, "lr_mul"),
                 *loss = json_object_get(o, "loss");
    if (!json_is_integer(step) || !json_is_number(mul) || !json_is_number(loss))
        return BD_FAIL(err, BD_E_FIELD, "line %lld: a step needs step, lr_mul and loss", (long long)line);
    int64_t s = json_integer_value(step);
    if (s != l->n)
        return BD_FAIL(err, BD_E_RANGE, "line %lld: step %lld where step %lld should follow", (long long)line,
                       (long long)s, (long long)l->n);
    double m = json_number_value(mul);
    if (!(m >= 0 && m <= 1))
        return BD_FAIL(err, BD_E_RANGE, "line %lld: lr_mul is %g, must be 0 to 1", (long long)line, m);
    if (s >= MAX_STEPS) return BD_FAIL(err, BD_E_LIMIT, "line %lld: too many steps", (long long)line);
    if (s == *cap) {
        int64_t grown = *cap ? *cap * 2 : 256;
        bd_log_step *p = realloc(l->steps, (size_t)grown * sizeof *p);
        if (!p) return BD_FAIL(err, BD_E_NOMEM, "out of memory reading the log");
        l->steps = p;
        *cap = grown;
    }
    l->steps[s] = (bd_log_step){s, m, json_number_value(loss)};
    l->n = s + 1;
    l->weights_sha256[0] = 0; /* an earlier end is no longer one */
    return BD_OK;
}

static void copy_hash(char to[65], const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    if (s && strlen(s) == 64) memcpy(to, s, 65);
    else to[0] = 0;
}

static bd_status read_start(bd_train_log *l, const json_t *o, int64_t line, bd_err *err) {
    const json_t *step = json_object_get(o, "step");
    int64_t s = json_is_integer(step) ? json_integer_value(step) : -1;
    if (s < 0 || s > l->n)
        return BD_FAIL(err, BD_E_RANGE, "line %lld: a start at step %lld cannot follow %lld logged steps",
                       (long long)line, (long long)s, (long long)l->n);
    if (s < l->n) l->weights_sha256[0] = 0;
    l->n = s;
    copy_hash(l->recipe_sha256, o, "recipe_sha256");
    copy_hash(l->tokens_sha256, o, "train_tokens_sha256");
    return BD_OK;
}

bd_status bd_train_log_parse(bd_train_log *l, const char *text, uint64_t size, bd_err *err) {
    *l = (bd_train_log){0};
    int64_t cap = 0, line = 0;
    uint64_t pos = 0;
    bd_status st = BD_OK;
    while (pos < size) {
        const char *start = text + pos;
        const char *end = memchr(start, '\n', size - pos);
        if (!end) break; /* a torn last line */
        uint64_t n = (uint64_t)(end - start);
        line++;
        if (n > MAX_LINE) {
            st = BD_FAIL_AT(err, BD_E_LIMIT, pos, "line %lld is longer than %d bytes", (long long)line, MAX_LINE);
            break;
        }
        json_error_t je;
        json_t *o = json_loadb(start, n, JSON_REJECT_DUPLICATES, &je);
        if (!o || !json_is_object(o)) {
            json_decref(o);
            st = BD_FAIL_AT(err, BD_E_SYNTAX, pos, "line %lld is not a JSON object", (long long)line);
            break;
        }
        const char *event = json_string_value(json_object_get(o, "event"));
        if (event && !strcmp(event, "step")) {
            st = read_step(l, o, line, &cap, err);
        } else if (event && !strcmp(event, "start")) {
            st = read_start(l, o, line, err);
        } else if (event && !strcmp(event, "end")) {
            copy_hash(l->weights_sha256, o, "weights_sha256");
        }
        json_decref(o);
        if (st) break;
        pos += n + 1;
    }
    if (st) bd_train_log_free(l);
    return st;
}

bd_status bd_train_log_open(bd_train_log *l, const char *path, bd_err *err) {
    *l = (bd_train_log){0};
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = bd_train_log_parse(l, (const char *)m.data, m.size, err);
    bd_map_close(&m);
    if (st) bd_err_file(err, path);
    return st;
}

bd_status bd_train_log_mend(const char *path, bd_err *err) {
    bd_map m;
    bd_status st = bd_map_open(&m, path, err);
    if (st) return st == BD_E_MISSING ? BD_OK : st;
    uint64_t size = m.size, keep = size;
    while (keep > 0 && m.data[keep - 1] != '\n') keep--;
    bd_map_close(&m);
    if (keep == size || truncate(path, (off_t)keep) == 0) return BD_OK;
    st = BD_FAIL(err, BD_E_IO, "cannot cut the unfinished last line: %s", strerror(errno));
    bd_err_file(err, path);
    return st;
}

void bd_train_log_free(bd_train_log *l) {
    free(l->steps);
    *l = (bd_train_log){0};
}
