#include "cli/protocol_json.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"

enum { JSON_FILE_LIMIT = 16 << 20 };

bd_status bd_json_load_object(json_t **out, const char *path, bd_err *err) {
    bd_map m;
    json_error_t e;
    *out = NULL;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = BD_OK;
    if (m.size > JSON_FILE_LIMIT) {
        st = BD_FAIL(err, BD_E_LIMIT, "a JSON file of %" PRIu64 " bytes is too large", m.size);
    } else {
        json_t *j = json_loadb((const char *)m.data, (size_t)m.size, JSON_REJECT_DUPLICATES, &e);
        if (!j) {
            st = BD_FAIL_AT(err, BD_E_SYNTAX, (uint64_t)(e.position < 0 ? 0 : e.position), "line %d column %d: %s",
                            e.line, e.column, e.text);
        } else if (!json_is_object(j)) {
            st = BD_FAIL(err, BD_E_SYNTAX, "the file does not hold a JSON object");
            json_decref(j);
        } else {
            *out = j;
        }
    }
    bd_map_close(&m);
    if (st != BD_OK) bd_err_file(err, path);
    return st;
}

bd_status bd_json_check_keys(const json_t *object, const char *const *keys, int n, const char *what, bd_err *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        int i = 0;
        while (i < n && strcmp(keys[i], key) != 0) i++;
        if (i < n) continue;
        const char *near = bd_nearest(key, keys, n);
        return BD_FAIL(err, BD_E_UNKNOWN, "unknown key \"%.80s\" in %s%s%s%s", key, what,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return BD_OK;
}

static bd_status get_u32(const json_t *o, const char *key, uint32_t *out, bd_err *err) {
    const json_t *v = json_object_get(o, key);
    if (!v) return BD_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
        return BD_FAIL(err, BD_E_RANGE, "\"%s\" must be an integer that is not negative", key);
    *out = (uint32_t)json_integer_value(v);
    return BD_OK;
}

static bd_status get_number(const json_t *o, const char *key, double *out, bd_err *err) {
    const json_t *v = json_object_get(o, key);
    if (!v) return BD_OK;
    if (!json_is_number(v)) return BD_FAIL(err, BD_E_RANGE, "\"%s\" must be a number", key);
    *out = json_number_value(v);
    return BD_OK;
}

void bd_protocol_defaults_for(bd_protocol *p, bd_protocol_kind kind) {
    bd_protocol_default(p);
    p->kind = kind;
    if (kind != BD_PROTO_SGD) return;
    p->chunk = 32768;
    p->epochs = 3;
    p->batch = 16;
    p->lr = 0.002;
    p->momentum = 0.9;
    p->clip = 1.0;
    p->freeze = 0;
}

bd_status bd_protocol_from_json(bd_protocol *p, const json_t *object, bd_err *err) {
    static const char *const keys[] = {"kind",  "window", "stride",   "chunk", "epochs", "optimizer",
                                       "batch", "lr",     "momentum", "clip",  "freeze"};
    enum { N_KEYS = sizeof keys / sizeof *keys, N_WINDOW_KEYS = 3 };
    if (!json_is_object(object)) return BD_FAIL(err, BD_E_SYNTAX, "a protocol is a JSON object");
    BD_TRY(bd_json_check_keys(object, keys, N_KEYS, "the protocol", err));
    const json_t *kind = json_object_get(object, "kind");
    int k = BD_PROTO_WINDOW;
    if (kind) {
        k = json_is_string(kind) ? bd_protocol_kind_find(json_string_value(kind)) : -1;
        if (k < 0)
            return BD_FAIL(err, BD_E_UNKNOWN, "protocol kind \"%.40s\" is not one of \"window\", \"sgd\"",
                           json_is_string(kind) ? json_string_value(kind) : "?");
    }
    bd_protocol_defaults_for(p, (bd_protocol_kind)k);
    if (k == BD_PROTO_WINDOW)
        for (int i = N_WINDOW_KEYS; i < N_KEYS; i++)
            if (json_object_get(object, keys[i]))
                return BD_FAIL(err, BD_E_FIELD, "\"%s\" has no meaning in a protocol of kind \"window\"", keys[i]);
    const json_t *optimizer = json_object_get(object, "optimizer");
    if (optimizer && (!json_is_string(optimizer) || strcmp(json_string_value(optimizer), "sgd") != 0))
        return BD_FAIL(err, BD_E_UNKNOWN, "the optimizer of kind \"sgd\" is \"sgd\"");
    BD_TRY(get_u32(object, "window", &p->window, err));
    BD_TRY(get_u32(object, "stride", &p->stride, err));
    BD_TRY(get_u32(object, "chunk", &p->chunk, err));
    BD_TRY(get_u32(object, "epochs", &p->epochs, err));
    BD_TRY(get_u32(object, "batch", &p->batch, err));
    BD_TRY(get_u32(object, "freeze", &p->freeze, err));
    BD_TRY(get_number(object, "lr", &p->lr, err));
    BD_TRY(get_number(object, "momentum", &p->momentum, err));
    BD_TRY(get_number(object, "clip", &p->clip, err));
    if (p->stride == p->window) p->stride = 0;
    return bd_protocol_check(p, err);
}

bd_status bd_protocol_load(bd_protocol *p, const char *path, bd_err *err) {
    json_t *o;
    BD_TRY(bd_json_load_object(&o, path, err));
    bd_status st = bd_protocol_from_json(p, o, err);
    json_decref(o);
    if (st != BD_OK) bd_err_file(err, path);
    return st;
}

json_t *bd_protocol_to_json(const bd_protocol *p) {
    json_t *o = json_pack("{s:s, s:I, s:I}", "kind", bd_protocol_kind_name(p->kind), "window",
                          (json_int_t)p->window, "stride", (json_int_t)(p->stride ? p->stride : p->window));
    if (!o || p->kind != BD_PROTO_SGD) return o;
    json_t *more = json_pack("{s:I, s:I, s:s, s:I, s:f, s:f, s:f, s:I}", "chunk", (json_int_t)p->chunk, "epochs",
                             (json_int_t)p->epochs, "optimizer", "sgd", "batch", (json_int_t)p->batch, "lr", p->lr,
                             "momentum", p->momentum, "clip", p->clip, "freeze", (json_int_t)p->freeze);
    if (!more || json_object_update(o, more)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    return o;
}
