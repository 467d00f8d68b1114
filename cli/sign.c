#include "cli/sign.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"

enum { MAX_DEPTH = 64, MAX_KEY_FILE = 65536, MAX_VERDICT = 1 << 26 };

/* ---- canonical JSON ---- */

static void put_text(bd_buf *out, const char *s, size_t n) {
    bd_buf_u8(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') {
            bd_buf_u8(out, '\\');
            bd_buf_u8(out, c);
        } else if (c < 0x20) {
            bd_buf_printf(out, "\\u%04x", c);
        } else {
            bd_buf_u8(out, c);
        }
    }
    bd_buf_u8(out, '"');
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bd_status put_value(bd_buf *out, const json_t *v, int depth, bd_err *err);

/* skip: a key that is left out, or NULL. */
static bd_status put_object(bd_buf *out, const json_t *o, const char *skip, int depth, bd_err *err) {
    size_t n = 0;
    const char **keys = malloc((json_object_size(o) + 1) * sizeof *keys), *key;
    if (!keys) return BD_FAIL(err, BD_E_NOMEM, "out of memory");
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o, key, value) if (!skip || strcmp(key, skip) != 0) keys[n++] = key;
    qsort(keys, n, sizeof *keys, by_bytes);
    bd_status st = BD_OK;
    bd_buf_u8(out, '{');
    for (size_t i = 0; i < n && st == BD_OK; i++) {
        if (i) bd_buf_u8(out, ',');
        put_text(out, keys[i], strlen(keys[i]));
        bd_buf_u8(out, ':');
        st = put_value(out, json_object_get(o, keys[i]), depth + 1, err);
    }
    bd_buf_u8(out, '}');
    free(keys);
    return st;
}

static bd_status put_value(bd_buf *out, const json_t *v, int depth, bd_err *err) {
    if (depth > MAX_DEPTH) return BD_FAIL(err, BD_E_LIMIT, "the verdict is nested more than %d deep", MAX_DEPTH);
    switch (json_typeof(v)) {
        case JSON_OBJECT: return put_object(out, v, NULL, depth, err);
        case JSON_ARRAY:
            bd_buf_u8(out, '[');
            for (size_t i = 0; i < json_array_size(v); i++) {
                if (i) bd_buf_u8(out, ',');
                BD_TRY(put_value(out, json_array_get(v, i), depth + 1, err));
            }
            bd_buf_u8(out, ']');
            break;
        case JSON_STRING: put_text(out, json_string_value(v), json_string_length(v)); break;
        case JSON_INTEGER: bd_buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v)); break;
        case JSON_REAL: bd_buf_printf(out, "\"%a\"", json_real_value(v)); break;
        case JSON_TRUE: bd_buf_put(out, "true", 4); break;
        case JSON_FALSE: bd_buf_put(out, "false", 5); break;
        case JSON_NULL: bd_buf_put(out, "null", 4); break;
    }
    return BD_OK;
}

bd_status bd_sign_message(const json_t *verdict, bd_buf *out, bd_err *err) {
    static const char prefix[] = "birdie-verdict-v1"; /* its final zero byte is part of it */
    if (!json_is_object(verdict) || !json_is_string(json_object_get(verdict, "verdict")))
        return BD_FAIL(err, BD_E_FIELD, "not a verdict: an object with the key \"verdict\" is needed");
    bd_buf_put(out, prefix, sizeof prefix);
    BD_TRY(put_object(out, verdict, "measured", 0, err));
    return bd_buf_check(out, err);
}

bd_status bd_sign_load(json_t **verdict, const char *path, bd_err *err) {
    bd_map m;
    json_error_t e;
    *verdict = NULL;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = BD_OK;
    if (m.size > MAX_VERDICT) {
        st = BD_FAIL(err, BD_E_LIMIT, "a verdict of %" PRIu64 " bytes, the limit is %d", m.size, MAX_VERDICT);
    } else {
        *verdict = json_loadb((const char *)m.data, m.size, JSON_REJECT_DUPLICATES, &e);
        if (!*verdict) st = BD_FAIL_AT(err, BD_E_SYNTAX, (uint64_t)e.position, "not JSON: %s", e.text);
    }
    if (st != BD_OK) bd_err_file(err, path);
    bd_map_close(&m);
    return st;
}

/* ---- keys ---- */

/* An encrypted key is an error, not a question on the terminal. */
static int no_password(char *buf, int size, int writing, void *user) {
    (void)buf, (void)size, (void)writing, (void)user;
    return -1;
}

static bd_status load_key(EVP_PKEY **key, const char *path, bool private_key, bd_err *err) {
    const char *what = private_key ? "private" : "public";
    bd_map m;
    *key = NULL;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = BD_OK;
    if (m.size > MAX_KEY_FILE) {
        st = BD_FAIL(err, BD_E_LIMIT, "a key of %" PRIu64 " bytes", m.size);
    } else {
        BIO *bio = BIO_new_mem_buf(m.data, (int)m.size);
        if (!bio) st = BD_FAIL(err, BD_E_NOMEM, "out of memory");
        else if (private_key) *key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
        else *key = PEM_read_bio_PUBKEY(bio, NULL, no_password, NULL);
        BIO_free(bio);
        if (st == BD_OK && !*key)
            st = BD_FAIL(err, BD_E_FIELD, "not an unencrypted %s key in PEM (openssl genpkey -algorithm ed25519%s)",
                         what, private_key ? "" : "; openssl pkey -pubout");
        else if (st == BD_OK && EVP_PKEY_base_id(*key) != EVP_PKEY_ED25519)
            st = BD_FAIL(err, BD_E_UNKNOWN, "the %s key is not of the kind Ed25519", what);
    }
    if (st != BD_OK) {
        bd_err_file(err, path);
        EVP_PKEY_free(*key);
        *key = NULL;
    }
    bd_map_close(&m);
    return st;
}

/* ---- signing and checking ---- */

bd_status bd_sign_verdict(const json_t *verdict, const char *key_pem, const char *signature_path, bd_err *err) {
    uint8_t signature[BD_SIGNATURE_BYTES];
    size_t n = sizeof signature;
    bd_buf message;
    EVP_PKEY *key = NULL;
    EVP_MD_CTX *ctx = NULL;
    bd_status st;
    bd_buf_init(&message);
    BD_TRY_DONE(bd_sign_message(verdict, &message, err));
    BD_TRY_DONE(load_key(&key, key_pem, true, err));
    ctx = EVP_MD_CTX_new();
    if (!ctx || EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) != 1 ||
        EVP_DigestSign(ctx, signature, &n, message.data, message.size) != 1 || n != sizeof signature)
        BD_TRY_DONE(BD_FAIL(err, BD_E_UNSUPPORTED, "OpenSSL could not sign"));
    st = bd_file_write(signature_path, signature, n, err);
done:
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    bd_buf_free(&message);
    return st;
}

static bd_status load_signature(uint8_t out[BD_SIGNATURE_BYTES], const char *path, bd_err *err) {
    bd_map m;
    BD_TRY(bd_map_open(&m, path, err));
    bd_status st = BD_OK;
    if (m.size == BD_SIGNATURE_BYTES) {
        memcpy(out, m.data, BD_SIGNATURE_BYTES);
    } else {
        st = BD_FAIL(err, BD_E_FIELD, "a signature has %d bytes, this file %" PRIu64, BD_SIGNATURE_BYTES, m.size);
        bd_err_file(err, path);
    }
    bd_map_close(&m);
    return st;
}

bd_status bd_sign_check(bool *valid, const json_t *verdict, const char *pubkey_pem, const char *signature_path,
                        bd_err *err) {
    uint8_t signature[BD_SIGNATURE_BYTES];
    bd_buf message;
    EVP_PKEY *key = NULL;
    EVP_MD_CTX *ctx = NULL;
    bd_status st;
    *valid = false;
    bd_buf_init(&message);
    BD_TRY_DONE(bd_sign_message(verdict, &message, err));
    BD_TRY_DONE(load_signature(signature, signature_path, err));
    BD_TRY_DONE(load_key(&key, pubkey_pem, false, err));
    ctx = EVP_MD_CTX_new();
    if (!ctx || EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) != 1)
        BD_TRY_DONE(BD_FAIL(err, BD_E_UNSUPPORTED, "OpenSSL could not check a signature"));
    *valid = EVP_DigestVerify(ctx, signature, sizeof signature, message.data, message.size) == 1;
done:
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    bd_buf_free(&message);
    return st;
}

int bd_sign_check_command(const char *signature_path, const char *pubkey_pem, const char *verdict_path, bool json) {
    bd_err err = {0};
    json_t *verdict = NULL;
    bool valid = false;
    bd_status st = pubkey_pem ? BD_OK : BD_FAIL(&err, BD_E_USAGE, "--check-signature needs --pubkey KEY.pem");
    if (!st) st = bd_sign_load(&verdict, verdict_path, &err);
    if (!st) st = bd_sign_check(&valid, verdict, pubkey_pem, signature_path, &err);
    int rc = 0;
    if (st) {
        rc = bd_cli_error(&err, json);
    } else {
        const char *said = json_string_value(json_object_get(verdict, "verdict"));
        bool known = !strcmp(said, "PASS") || !strcmp(said, "WARN") || !strcmp(said, "FAIL");
        if (!known) said = "of an unknown kind"; /* nothing of a stranger's file goes to the terminal */
        if (json) {
            json_t *o = json_object();
            json_object_set_new(o, "signature", json_string(valid ? "valid" : "invalid"));
            json_object_set_new(o, "verdict", valid ? bd_cli_str(said) : json_null());
            rc = bd_cli_print_json(o);
        } else {
            if (valid) printf("valid     the verdict is %s, signed by this key\n", said);
            else printf("invalid   this key did not sign this verdict\n");
        }
        if (!rc && !valid) rc = 1;
    }
    json_decref(verdict);
    return rc;
}
