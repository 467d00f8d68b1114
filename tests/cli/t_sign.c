/* Canonical JSON, signatures, and the options of verify that make and check them. */
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/wait.h>

#include "base/file.h"
#include "bd_test.h"
#include "cli/sign.h"
#include "tests/verify/tiny_artifact.h"

static const char *in_tmp(const char *name) {
    static char path[8][256];
    static int slot;
    char *p = path[slot++ & 7];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

static void put(const char *name, const void *data, size_t n) {
    bd_err e = {0};
    CHECK_OK(bd_file_write(in_tmp(name), data, n, &e), &e);
}

static void message_is(const char *json, const char *want) {
    bd_err e = {0};
    bd_buf b;
    json_t *o = json_loads(json, 0, NULL);
    CHECK(o != NULL);
    bd_buf_init(&b);
    CHECK_OK(bd_sign_message(o, &b, &e), &e);
    CHECK(b.size == 18 + strlen(want) && memcmp(b.data, "birdie-verdict-v1", 18) == 0);
    CHECK_MSG(memcmp(b.data + 18, want, strlen(want)) == 0, "%.*s", (int)b.size - 18, (const char *)b.data + 18);
    bd_buf_free(&b);
    json_decref(o);
}

TEST(canonical_messages) {
    message_is("{\"verdict\": \"PASS\"}", "{\"verdict\":\"PASS\"}");
    message_is(
        " {\"b\": 1, \"verdict\": \"FAIL\", \"a\": [1, -2, []], \"B\": {\"y\": null, \"x\": true}, "
        "\"measured\": {\"seconds\": 1.5}}",
        "{\"B\":{\"x\":true,\"y\":null},\"a\":[1,-2,[]],\"b\":1,\"verdict\":\"FAIL\"}");
    message_is("{\"verdict\": \"\", \"r\": 1.5, \"z\": 0.0, \"k\": {\"measured\": 1}, \"q\": -0.1}",
               "{\"k\":{\"measured\":1},\"q\":\"-0x1.999999999999ap-4\",\"r\":\"0x1.8p+0\",\"verdict\":\"\",\"z\":"
               "\"0x0p+0\"}");
    message_is("{\"verdict\": \"a\\\"\\\\\\n\\u0001/\\u00e9\\u007f\"}",
               "{\"verdict\":\"a\\\"\\\\\\u000a\\u0001/\xc3\xa9\x7f\"}");
    bd_err e = {0};
    bd_buf b;
    bd_buf_init(&b);
    json_t *o = json_loads("{\"verdikt\": \"PASS\"}", 0, NULL), *a = json_loads("[1]", 0, NULL);
    CHECK(bd_sign_message(o, &b, &e) == BD_E_FIELD && bd_sign_message(a, &b, &e) == BD_E_FIELD);
    json_decref(o);
    json_decref(a);
    o = json_pack("{ss}", "verdict", "PASS");
    json_t *deep = json_array();
    for (int i = 0; i < 100; i++) {
        json_t *outer = json_array();
        json_array_append_new(outer, deep);
        deep = outer;
    }
    json_object_set_new(o, "deep", deep);
    CHECK(bd_sign_message(o, &b, &e) == BD_E_LIMIT);
    json_decref(o);
    bd_buf_free(&b);
}

/* A pair of keys; seed: the private key is 32 times this byte. */
static void write_keys(uint8_t seed, const char *key_name, const char *pub_name) {
    uint8_t raw[32];
    memset(raw, seed, sizeof raw);
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, raw, sizeof raw);
    FILE *f = fopen(in_tmp(key_name), "w"), *g = fopen(in_tmp(pub_name), "w");
    CHECK(k && f && g);
    CHECK(PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL) == 1 && PEM_write_PUBKEY(g, k) == 1);
    fclose(f);
    fclose(g);
    EVP_PKEY_free(k);
}

static void write_other_keys(void) {
    uint8_t raw[32];
    memset(raw, 7, sizeof raw);
    EVP_PKEY *x = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, raw, sizeof raw);
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, raw, sizeof raw);
    FILE *f = fopen(in_tmp("x25519.pem"), "w"), *g = fopen(in_tmp("locked.pem"), "w");
    CHECK(x && k && f && g);
    CHECK(PEM_write_PrivateKey(f, x, NULL, NULL, 0, NULL, NULL) == 1);
    CHECK(PEM_write_PKCS8PrivateKey(g, k, EVP_aes_128_cbc(), "secret", 6, NULL, NULL) == 1);
    fclose(f);
    fclose(g);
    EVP_PKEY_free(x);
    EVP_PKEY_free(k);
}

TEST(signatures) {
    bd_err e = {0};
    bool valid;
    write_keys(1, "a.pem", "a.pub");
    write_keys(2, "b.pem", "b.pub");
    write_other_keys();
    json_t *v = json_loads("{\"verdict\":\"PASS\",\"nll_q32\":\"123\",\"x\":0.25,\"measured\":{\"s\":1}}", 0, NULL);
    CHECK_OK(bd_sign_verdict(v, in_tmp("a.pem"), in_tmp("sig"), &e), &e);
    CHECK_OK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("sig"), &e), &e);
    CHECK(valid);
    CHECK_OK(bd_sign_check(&valid, v, in_tmp("b.pub"), in_tmp("sig"), &e), &e);
    CHECK(!valid);
    json_object_set_new(v, "measured", json_integer(5)); /* not signed */
    CHECK_OK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("sig"), &e), &e);
    CHECK(valid);
    json_object_set_new(v, "x", json_real(0.25000000000000006));
    CHECK_OK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("sig"), &e), &e);
    CHECK(!valid);
    json_object_set_new(v, "x", json_real(0.25));
    json_object_set_new(v, "extra", json_null());
    CHECK_OK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("sig"), &e), &e);
    CHECK(!valid);
    json_object_del(v, "extra");
    bd_map m;
    uint8_t sig[64];
    CHECK_OK(bd_map_open(&m, in_tmp("sig"), &e), &e);
    CHECK(m.size == 64);
    memcpy(sig, m.data, 64);
    bd_map_close(&m);
    for (int i = 0; i < 64; i++) {
        sig[i] ^= 4;
        put("sig2", sig, 64);
        CHECK_OK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("sig2"), &e), &e);
        CHECK(!valid);
        sig[i] ^= 4;
    }
    put("short", sig, 63);
    put("junk.pem", "hello", 5);
    CHECK(bd_sign_check(&valid, v, in_tmp("a.pub"), in_tmp("short"), &e) == BD_E_FIELD);
    CHECK(bd_sign_check(&valid, v, in_tmp("junk.pem"), in_tmp("sig"), &e) == BD_E_FIELD);
    CHECK(bd_sign_check(&valid, v, in_tmp("a.pem"), in_tmp("sig"), &e) == BD_E_FIELD);
    CHECK(bd_sign_verdict(v, in_tmp("a.pub"), in_tmp("sig3"), &e) == BD_E_FIELD);
    CHECK(bd_sign_verdict(v, in_tmp("x25519.pem"), in_tmp("sig3"), &e) == BD_E_UNKNOWN);
    CHECK(bd_sign_verdict(v, in_tmp("locked.pem"), in_tmp("sig3"), &e) == BD_E_FIELD);
    CHECK(bd_sign_verdict(v, in_tmp("none.pem"), in_tmp("sig3"), &e) != BD_OK);
    CHECK(access(in_tmp("sig3"), F_OK) != 0);
    json_decref(v);
    put("dup.json", "{\"verdict\":\"FAIL\",\"verdict\":\"PASS\"}", 35);
    CHECK(bd_sign_load(&v, in_tmp("dup.json"), &e) == BD_E_SYNTAX);
}

static int birdie(const char *args) {
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "cd %s && %s verify %s 2>stderr", test_tmp(), BIRDIE_PROGRAM, args);
    int status = system(cmd);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(a_verdict_is_signed_and_checked) {
    bd_err e = {0};
    bd_buf b;
    bd_protocol p;
    uint16_t tokens[600];
    bd_arena *arena = bd_arena_create(1 << 22);
    bd_model *m = tiny_model(&TA_SPEC, 3);
    bd_tokenizer *t = ta_tokenizer(false);
    bd_protocol_default(&p);
    p.window = 64;
    ta_build(ta_artifact(arena, m, t, &p), &b);
    put("m.birdie", b.data, b.size);
    b.size = 0;
    ta_model_file(&b, false);
    put("tok.model", b.data, b.size);
    ta_tokens(tokens, 600, 9);
    CHECK_OK(bd_shard_write(in_tmp("x_val_0.bin"), tokens, 600, &e), &e);
    write_keys(1, "a.pem", "a.pub");
    write_keys(2, "b.pem", "b.pub");
#define VERIFY "m.birdie --data x_val_0.bin --tokenizer tok.model"
    int rc = birdie(VERIFY " --sign a.pem --signature v.sig --json --seed 5 >v.json");
    CHECK(rc == 0 || rc == 1);
    CHECK(birdie("--check-signature v.sig --pubkey a.pub v.json >out") == 0);
    CHECK(birdie("--check-signature v.sig --pubkey b.pub v.json >out") == 1);
    CHECK(birdie("--check-signature v.sig --pubkey a.pub v.json --json >out") == 0);
    CHECK(birdie("--check-signature v.sig v.json >out") == 2);
    CHECK(birdie(VERIFY " --json --seed 5 --threads 1 >again.json") == rc); /* another run of the same */
    CHECK(birdie("--check-signature v.sig --pubkey a.pub again.json >out") == 0);
    char cmd[1024];
    snprintf(cmd, sizeof cmd, "cd %s && sed 's/\"artifact_bytes\": \"/&1/' v.json >forged.json", test_tmp());
    CHECK(system(cmd) == 0);
    CHECK(birdie("--check-signature v.sig --pubkey a.pub forged.json >out") == 1);
    CHECK(birdie(VERIFY " --sign a.pem --signature w.sig >out") == 2);
    CHECK(birdie(VERIFY " --sign a.pem --json >out") == 2);
    CHECK(access(in_tmp("w.sig"), F_OK) != 0);
    bd_buf_free(&b);
    bd_tokenizer_close(t);
    bd_model_close(m);
    bd_arena_destroy(arena);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
