/* Checkpoints: safetensors, torch zip and pickle, compressed files, the int8 dictionary. */
#include <errno.h>
#include <lzma.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zstd.h>

#include "base/file.h"
#include "base/half.h"
#include "base/sha256.h"
#include "bd_test.h"
#include "format/checkpoint.h"
#include "format/inflate_any.h"
#include "make_torch.h"

static const char *tmp_path(const char *name) {
    static char p[4][256];
    static int slot;
    char *s = p[slot++ & 3];
    snprintf(s, sizeof p[0], "%s/%s", test_tmp(), name);
    return s;
}

/* Read every tensor; outputs are poisoned and must all be written for files without NaN. */
static void read_all(const bd_ckpt *c) {
    for (int i = 0; i < c->n; i++) {
        int64_t n = c->tensors[i].count;
        bd_err e = {0};
        uint64_t bytes;
        if (n > 1 << 24) continue;
        float *out = malloc((size_t)n * 4 + 4);
        CHECK_OK(bd_ckpt_read_f32(c, i, out, &e), &e);
        const uint8_t *raw = bd_ckpt_raw(c, i, &bytes);
        if (raw && bytes) {
            volatile uint8_t sum = (uint8_t)(raw[0] ^ raw[bytes - 1]);
            (void)sum;
        }
        CHECK(bd_ckpt_find(c, c->tensors[i].name) == i);
        free(out);
    }
}

/* Open an exact-size copy; on success read everything. */
static bd_status try_bytes(const void *data, size_t n, bd_err *e) {
    uint8_t *copy = malloc(n ? n : 1);
    if (n) memcpy(copy, data, n);
    memset(e, 0, sizeof *e);
    bd_ckpt *c;
    bd_status st = bd_ckpt_open_memory(&c, copy, n, e);
    if (st == BD_OK) {
        read_all(c);
        bd_ckpt_close(c);
    } else {
        CHECK(c == NULL && e->code == st && e->msg[0]);
    }
    free(copy);
    return st;
}

static void all_cuts_and_flips(uint8_t *p, size_t n, size_t step, bool cut_may_pass) {
    bd_err e;
    for (size_t k = 0; k < n; k += step)
        CHECK_MSG(try_bytes(p, k, &e) != BD_OK || cut_may_pass, "cut at %zu of %zu", k, n);
    for (size_t bit = 0; bit < n * 8; bit += step) {
        p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        try_bytes(p, n, &e);
        p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

/* --- safetensors --- */

static size_t make_st(uint8_t *out, const char *header, size_t data) {
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(n >> (8 * i));
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < data; i++) out[8 + n + i] = (uint8_t)(i + 1);
    return 8 + n + data;
}

TEST(safetensors_round_trip_of_every_dtype) {
    static const bd_ckpt_dtype types[] = {BD_CK_F64, BD_CK_F32, BD_CK_F16, BD_CK_BF16, BD_CK_I64, BD_CK_I32,
                                          BD_CK_I16, BD_CK_I8,  BD_CK_U8,  BD_CK_U16,  BD_CK_BOOL};
    static const int size[] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 2, 1};
    uint64_t s = test_seed();
    uint8_t data[11][120];
    bd_err e = {0};
    bd_st_writer *w;
    const char *path = tmp_path("all.safetensors");
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    CHECK_OK(bd_st_meta(w, "zeta", "a \"quoted\"\n\ttext \\ \xc3\xa9", &e), &e);
    CHECK_OK(bd_st_meta(w, "alpha", "", &e), &e);
    const int64_t dim[] = {3, 1, 5}, none[] = {0, 7};
    char name[16];
    for (int i = 10; i >= 0; i--) { /* added in another order than the names' */
        for (int k = 0; k < 120; k++) data[i][k] = (uint8_t)test_rand(&s);
        if (types[i] == BD_CK_BOOL)
            for (int k = 0; k < 120; k++) data[i][k] &= 1;
        snprintf(name, sizeof name, "t%02d", i);
        CHECK_OK(bd_st_tensor(w, name, types[i], 3, dim, data[i], &e), &e);
    }
    CHECK_OK(bd_st_tensor(w, "empty", BD_CK_F32, 2, none, NULL, &e), &e);
    CHECK_OK(bd_st_tensor(w, "scalar \"x\"", BD_CK_F64, 0, NULL, data[0], &e), &e);
    CHECK(bd_st_tensor(w, "bad\n", BD_CK_F64, 0, NULL, data[0], &e) == BD_E_FIELD);
    CHECK_OK(bd_st_finish(w, &e), &e);

    bd_ckpt *c;
    CHECK_OK(bd_ckpt_open(&c, path, &e), &e);
    CHECK_STR(c->format, "safetensors");
    CHECK_EQ_U64(c->n, 13);
    CHECK_EQ_U64(c->n_meta, 2);
    CHECK_STR(c->meta_keys[0], "alpha");
    CHECK_STR(c->meta_values[0], "");
    CHECK_STR(c->meta_values[1], "a \"quoted\"\n\ttext \\ \xc3\xa9");
    for (int i = 1; i < c->n; i++) CHECK(strcmp(c->tensors[i - 1].name, c->tensors[i].name) < 0);
    for (int i = 0; i < 11; i++) {
        snprintf(name, sizeof name, "t%02d", i);
        int at = bd_ckpt_find(c, name);
        uint64_t bytes;
        CHECK(at >= 0 && c->tensors[at].dtype == types[i] && c->tensors[at].ndim == 3 &&
              c->tensors[at].count == 15);
        const void *raw = bd_ckpt_raw(c, at, &bytes);
        CHECK(raw && bytes == (uint64_t)size[i] * 15 && !memcmp(raw, data[i], bytes));
        float out[16];
        memset(out, 0x5a, sizeof out);
        uint32_t poison;
        memcpy(&poison, &out[15], 4);
        CHECK_OK(bd_ckpt_read_f32(c, at, out, &e), &e);
        CHECK_EQ_U64(poison, 0x5a5a5a5a);
        for (int k = 0; k < 15; k++) {
            float want = 0;
            const uint8_t *p = data[i] + k * size[i];
            double d;
            int64_t q;
            int32_t x;
            int16_t h;
            uint16_t u;
            switch (types[i]) {
                case BD_CK_F64:
                    memcpy(&d, p, 8);
                    want = (float)d;
                    break;
                case BD_CK_F32: memcpy(&want, p, 4); break;
                case BD_CK_F16:
                    memcpy(&u, p, 2);
                    want = bd_f16_to_f32(u);
                    break;
                case BD_CK_BF16:
                    memcpy(&u, p, 2);
                    want = bd_bf16_to_f32(u);
                    break;
                case BD_CK_I64:
                    memcpy(&q, p, 8);
                    want = (float)q;
                    break;
                case BD_CK_I32:
                    memcpy(&x, p, 4);
                    want = (float)x;
                    break;
                case BD_CK_I16:
                    memcpy(&h, p, 2);
                    want = h;
                    break;
                case BD_CK_U16:
                    memcpy(&u, p, 2);
                    want = u;
                    break;
                case BD_CK_I8: want = (int8_t)*p; break;
                default: want = *p; break;
            }
            CHECK_MSG(want == out[k] || (want != want && out[k] != out[k]), "%s[%d]: %g != %g", name, k, want,
                      out[k]);
        }
    }
    int at = bd_ckpt_find(c, "scalar \"x\"");
    CHECK(at >= 0 && c->tensors[at].ndim == 0 && c->tensors[at].count == 1);
    CHECK(c->tensors[bd_ckpt_find(c, "empty")].count == 0);
    CHECK(bd_ckpt_find(c, "t") == -1 && bd_ckpt_find(c, "zz") == -1);
    bd_ckpt_close(c);
    bd_map m; /* the header's length is a multiple of 8 */
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    CHECK(m.data[0] % 8 == 0);
    bd_map_close(&m);
}

TEST(safetensors_writer_refuses_duplicates_and_leaves_the_old_file) {
    bd_err e = {0};
    bd_st_writer *w;
    const float x[4] = {1, 2, 3, 4};
    const int64_t dim = 4;
    const char *path = tmp_path("dup.safetensors");
    CHECK_OK(bd_file_write(path, "old", 3, &e), &e);
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    CHECK_OK(bd_st_tensor(w, "a", BD_CK_F32, 1, &dim, x, &e), &e);
    CHECK_OK(bd_st_tensor(w, "a", BD_CK_F32, 1, &dim, x, &e), &e);
    CHECK(bd_st_finish(w, &e) == BD_E_FIELD);
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    CHECK_OK(bd_st_meta(w, "k", "1", &e), &e);
    CHECK_OK(bd_st_meta(w, "k", "2", &e), &e);
    CHECK(bd_st_finish(w, &e) == BD_E_FIELD);
    CHECK_OK(bd_st_create(&w, path, &e), &e);
    bd_st_abort(w);
    bd_st_abort(NULL);
    bd_map m;
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    CHECK(m.size == 3 && !memcmp(m.data, "old", 3));
    bd_map_close(&m);
    CHECK(bd_st_create(&w, tmp_path("no/such/dir.safetensors"), &e) != BD_OK && w == NULL);
}

TEST(safetensors_writer_reports_a_full_disk) {
    bd_err e = {0};
    const char *path = tmp_path("full.safetensors");
    CHECK_OK(bd_file_write(path, "old", 3, &e), &e);
    pid_t pid = fork(); /* a file size limit in a child stands for the full disk */
    CHECK(pid >= 0);
    if (pid == 0) {
        static float big[65536];
        const int64_t dim = 65536;
        struct rlimit lim = {8192, 8192};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &lim);
        bd_st_writer *w;
        if (bd_st_create(&w, path, &e)) _exit(2);
        if (bd_st_tensor(w, "a", BD_CK_F32, 1, &dim, big, &e)) _exit(3);
        _exit(bd_st_finish(w, &e) == BD_E_IO ? 0 : 4);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    bd_map m;
    CHECK_OK(bd_map_open(&m, path, &e), &e);
    CHECK_EQ_U64(m.size, 3);
    bd_map_close(&m);
}

TEST(safetensors_refusals) {
    static const struct {
        const char *header;
        int data, code;
        const char *says;
    } cases[] = {
        {"{}", 0, BD_OK, ""},
        {"{}  \n", 0, BD_OK, ""},
        {"{}", 1, BD_E_FIELD, "follow"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, BD_OK, ""},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,4],\"dtype\":\"U8\"}}   ", 4, BD_OK, ""},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[0,2]}}",
         4, BD_OK, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, BD_OK, ""},
        {"{\"\\u00e9\\ud83d\\ude00\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, BD_OK, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5, BD_E_FIELD, "follow"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 3, BD_E_TRUNCATED, "tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}", 4, BD_E_FIELD, "gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,1]}}", 4, BD_E_FIELD, "tensor a"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[2,4]}}",
         4, BD_E_FIELD, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[2,4]}}",
         4, BD_E_FIELD, "twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":["
         "2],"
         "\"data_offsets\":[2,4]}}",
         4, BD_E_FIELD, "twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, BD_E_SHAPE, "need 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, BD_E_LIMIT, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, BD_E_LIMIT,
         ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]}}", 0, BD_E_LIMIT,
         "2^64"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, BD_E_LIMIT,
         "dimensions"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BD_E_UNKNOWN, "F4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, BD_E_UNKNOWN, "\"x\""},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BD_E_FIELD,
         "twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, BD_E_MISSING, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, BD_E_SYNTAX, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]}}", 1, BD_E_SYNTAX, "zero"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, BD_E_SYNTAX, "integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},}", 1, BD_E_SYNTAX, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}} x", 1, BD_E_SYNTAX, "spaces"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}}", 1, BD_E_SYNTAX, ""},
        {"{\"a\\ud800\":{}}", 0, BD_E_SYNTAX, "surrogate"},
        {"{\"a\\udc00\":{}}", 0, BD_E_SYNTAX, "surrogate"},
        {"{\"a\\q\":{}}", 0, BD_E_SYNTAX, "escape"},
        {"{\"a\xff\":{}}", 0, BD_E_SYNTAX, "UTF-8"},
        {"{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, BD_E_FIELD, "name"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, BD_E_FIELD, "name"},
        {"{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", 0, BD_E_FIELD, "twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, BD_E_FIELD, "twice"},
        {"{\"__metadata__\":{\"k\":1}}", 0, BD_E_SYNTAX, "string"},
        {"{\"__metadata__\":{\"k\":\"v\"}}", 0, BD_OK, ""},
        {"{\"a\":", 0, BD_E_SYNTAX, "ends"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t file[600];
        bd_err e;
        size_t n = make_st(file, cases[i].header, (size_t)cases[i].data);
        bd_status st = try_bytes(file, n, &e);
        CHECK_MSG((int)st == cases[i].code && (st == BD_OK || strstr(e.msg, cases[i].says)), "case %zu (%s): %d %s",
                  i, cases[i].header, (int)st, e.msg);
    }
    uint8_t big[64] = {0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, '{'};
    bd_err e;
    CHECK(try_bytes(big, 64, &e) == BD_E_LIMIT);
    CHECK(try_bytes(big, 3, &e) == BD_E_TRUNCATED);
}

TEST(safetensors_survives_every_cut_and_flip) {
    uint8_t file[512];
    size_t n = make_st(file,
                       "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":"
                       "[0,12]},\"b.c\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[12,20]}} ",
                       20);
    bd_err e;
    CHECK_OK(try_bytes(file, n, &e), &e);
    all_cuts_and_flips(file, n, 1, false);
}

TEST(safetensors_hostile_metadata_is_sorted_quickly) {
    bd_buf b;
    bd_buf_init(&b);
    bd_buf_u64(&b, 0);
    bd_buf_printf(&b, "{\"__metadata__\":{");
    for (int i = 60000; i > 0; i--) bd_buf_printf(&b, "\"k%05d\":\"\"%s", i, i > 1 ? "," : "");
    bd_buf_printf(&b, "}}");
    for (int i = 0; i < 8; i++) b.data[i] = (uint8_t)((b.size - 8) >> (8 * i));
    bd_err e;
    CHECK_OK(try_bytes(b.data, b.size, &e), &e);
    bd_buf_free(&b);
}

/* --- torch --- */

/* A zip around a pickle with storages data/0 (64 bytes 0..63) and data/1 (32 bytes). */
static void make_pt(bd_buf *out, const bd_buf *pkl, int how, bool zip64) {
    zip_maker z;
    uint8_t a[64], b[32];
    for (int i = 0; i < 64; i++) a[i] = (uint8_t)i;
    for (int i = 0; i < 8; i++) {
        float f = (float)i - 2.5f;
        memcpy(b + 4 * i, &f, 4);
    }
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", pkl->data, pkl->size, how);
    zip_add(&z, "m/byteorder", "little", 6, how);
    zip_add(&z, "m/data/0", a, 64, how);
    zip_add(&z, "m/data/1", b, 32, how);
    zip_add(&z, "m/version", "3\n", 2, how);
    zip_end(&z, zip64);
    *out = z.out;
}

static const int32_t d23[] = {2, 3}, s31[] = {3, 1}, s12[] = {1, 2}, d4[] = {4}, s1[] = {1};

static void make_dict(bd_buf *p) {
    bd_buf_init(p);
    pk_begin(p);
    pk_ordered_dict(p);
    bd_buf_put(p, "q\0", 2);
    bd_buf_u8(p, '(');
    pk_str(p, "w");
    pk_tensor(p, "FloatStorage", "1", 8, 1, 2, d23, s31);
    pk_str(p, "t");
    pk_tensor(p, "FloatStorage", "1", 8, 1, 2, d23, s12);
    pk_str(p, "c");
    pk_tensor(p, "CharStorage", "0", 64, 60, 1, d4, s1);
    pk_text(p, "u}");
    pk_str(p, "_metadata");
    pk_text(p, "}sb.");
}

static void check_dict(const bd_buf *file) {
    bd_err e = {0};
    bd_ckpt *c;
    CHECK_OK(bd_ckpt_open_memory(&c, file->data, file->size, &e), &e);
    CHECK_STR(c->format, "torch");
    CHECK_EQ_U64(c->n, 3);
    float out[7];
    uint64_t bytes;
    int w = bd_ckpt_find(c, "w"), t = bd_ckpt_find(c, "t"), q = bd_ckpt_find(c, "c");
    CHECK(w >= 0 && t >= 0 && q >= 0 && c->tensors[t].dim[0] == 2 && c->tensors[q].dtype == BD_CK_I8);
    out[6] = 77;
    CHECK_OK(bd_ckpt_read_f32(c, w, out, &e), &e);
    for (int i = 0; i < 6; i++) CHECK(out[i] == (float)(i + 1) - 2.5f);
    CHECK_OK(bd_ckpt_read_f32(c, t, out, &e), &e); /* a transposed view */
    for (int r = 0; r < 2; r++)
        for (int k = 0; k < 3; k++) CHECK(out[3 * r + k] == (float)(1 + r + 2 * k) - 2.5f);
    CHECK(out[6] == 77);
    CHECK(bd_ckpt_raw(c, t, &bytes) == NULL && bytes == 0);
    CHECK(bd_ckpt_raw(c, w, &bytes) != NULL && bytes == 24);
    CHECK_OK(bd_ckpt_read_f32(c, q, out, &e), &e);
    CHECK(out[0] == 60 && out[3] == 63);
    bd_ckpt_close(c);
}

TEST(torch_zip_in_all_its_forms) {
    bd_buf p, f;
    make_dict(&p);
    for (int how = 0; how < 4; how++)
        for (int zip64 = 0; zip64 < 2; zip64++) {
            make_pt(&f, &p, how, zip64);
            check_dict(&f);
            bd_buf_free(&f);
        }
    bd_buf_free(&p);
}

TEST(torch_survives_every_cut_and_flip) {
    bd_buf p, f;
    make_dict(&p);
    make_pt(&f, &p, ZIP_DESCRIPTOR, true);
    all_cuts_and_flips(f.data, f.size, 1, false);
    bd_buf_free(&f);
    make_pt(&f, &p, ZIP_DEFLATE, false);
    all_cuts_and_flips(f.data, f.size, 1, false);
    bd_buf_free(&f);
    /* the pickle itself, with a correct CRC around it */
    bd_err e;
    for (size_t n = 0; n < p.size; n++) {
        bd_buf cut = p;
        cut.size = n;
        make_pt(&f, &cut, 0, false);
        CHECK(try_bytes(f.data, f.size, &e) != BD_OK);
        bd_buf_free(&f);
    }
    for (size_t bit = 0; bit < p.size * 8; bit++) {
        p.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        make_pt(&f, &p, 0, false);
        try_bytes(f.data, f.size, &e);
        bd_buf_free(&f);
        p.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    bd_buf_free(&p);
}

/* Run one pickle body (after PROTO) and return the status. */
static bd_status run_pickle(const void *body, size_t n, bd_err *e) {
    bd_buf p, f;
    bd_buf_init(&p);
    pk_begin(&p);
    bd_buf_put(&p, body, n);
    make_pt(&f, &p, ZIP_DESCRIPTOR, true);
    bd_status st = try_bytes(f.data, f.size, e);
    bd_buf_free(&f);
    bd_buf_free(&p);
    return st;
}

TEST(pickle_refuses_code) {
    static const struct {
        const char *body, *says;
    } cases[] = {
        {"cos\nsystem\n(K\1tR.", "os.system"},
        {"cbuiltins\neval\n.", "builtins.eval"},
        {"ctorch._utils\n_rebuild_tensor\n.", "_rebuild_tensor\" is not"},
        {"ccollections\nOrderedDict\n(KtR.", ""},
        {"(cos\nsystem\n.", "os.system"},
        {"(S'x'\nios\nsystem\n.", "STRING"},
        {"(ios\nsystem\n.", "INST"},
        {"ctorch\nFloatStorage\n)R.", "no function"},
        {"ctorch\nfloat32\n)R.", "no function"},
        {"N)R.", "REDUCE"},
        {"}(R.", "needs"},
        {"P1\n.", "PERSID"},
        {"K\5Q.", "persistent id"},
        {"\x81.", "NEWOBJ"},
        {"\x93.", "STACK_GLOBAL"},
        {"}K\1b.", "BUILD"},
        {"\x80\2}.", "PROTO"},
        {"0.", "POP"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bd_err e;
        const char *b = cases[i].body;
        bd_status st = run_pickle(b, strlen(b), &e);
        CHECK_MSG((st == BD_E_REFUSED || st == BD_E_FIELD) && strstr(e.msg, cases[i].says) &&
                      strstr(e.msg, "data.pkl byte"),
                  "case %zu: %d %s", i, (int)st, e.msg);
    }
    bd_err e;
    CHECK(run_pickle("}cos\nsystem\n.", 13, &e) == BD_E_REFUSED);
    CHECK_EQ_U64(e.offset, 30 + 10 + 7 + 3); /* local header, name, padding; PROTO and one opcode */
}

TEST(pickle_machine_errors) {
    static const struct {
        const char *body;
        int code;
    } cases[] = {
        {"", BD_E_TRUNCATED},   {".", BD_E_FIELD},
        {"N", BD_E_TRUNCATED},  {"NN.", BD_E_FIELD},
        {"(N.", BD_E_FIELD},    {"N.N", BD_E_FIELD},
        {"h\1.", BD_E_FIELD},   {"t.", BD_E_FIELD},
        {"Ns.", BD_E_FIELD},    {"NNNs.", BD_E_FIELD},
        {"}]Ns.", BD_E_FIELD},  {"}(Nu.", BD_E_FIELD},
        {"(u.", BD_E_FIELD},    {"](NNe.", BD_E_FIELD},
        {"}.", BD_E_MISSING},   {"]Na.", BD_E_FIELD},
        {"q\1}.", BD_E_FIELD},  {"K", BD_E_TRUNCATED},
        {"Xa", BD_E_TRUNCATED}, {"cabc", BD_E_TRUNCATED},
        {"}(}(t.", BD_E_FIELD}, {"\x8a\x03zz", BD_E_TRUNCATED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bd_err e;
        bd_status st = run_pickle(cases[i].body, strlen(cases[i].body), &e);
        CHECK_MSG((int)st == cases[i].code, "case %zu: %d %s", i, (int)st, e.msg);
    }
    bd_err e;
    CHECK(run_pickle("r\xff\xff\xff\x7f", 5, &e) == BD_E_FIELD);   /* nothing to store */
    CHECK(run_pickle("Nr\xff\xff\xff\x7f.", 7, &e) == BD_E_LIMIT); /* memo index */
}

TEST(pickle_limits_and_cycles) {
    bd_err e;
    bd_buf b;
    bd_buf_init(&b);
    for (int i = 0; i < 70000; i++) bd_buf_u8(&b, 'N');
    CHECK(run_pickle(b.data, b.size, &e) == BD_E_LIMIT && strstr(e.msg, "stack"));
    b.size = 0;
    for (int i = 0; i < 2000; i++) bd_buf_u8(&b, '(');
    CHECK(run_pickle(b.data, b.size, &e) == BD_E_LIMIT && strstr(e.msg, "marks"));
    b.size = 0; /* a dictionary that contains itself */
    pk_text(&b, "}q\1");
    pk_str(&b, "a");
    pk_text(&b, "h\1s.");
    CHECK(run_pickle(b.data, b.size, &e) == BD_E_LIMIT && strstr(e.msg, "nested"));
    b.size = 0; /* 7 levels, each 40 times the one below: 40^7 paths */
    pk_text(&b, "}q");
    bd_buf_u8(&b, 0);
    for (int level = 0; level < 6; level++) {
        pk_text(&b, "}(");
        for (int i = 0; i < 40; i++) {
            char key[8];
            snprintf(key, sizeof key, "%d", i);
            pk_str(&b, key);
            bd_buf_u8(&b, 'h');
            bd_buf_u8(&b, (uint8_t)level);
        }
        pk_text(&b, "uq");
        bd_buf_u8(&b, (uint8_t)(level + 1));
    }
    /* all of them in a tuple, which is not walked, and the last one once more */
    bd_buf w;
    bd_buf_init(&w);
    bd_buf_u8(&w, '}');
    pk_str(&w, "x");
    bd_buf_u8(&w, '(');
    bd_buf_put(&w, b.data, b.size);
    pk_text(&w, "ts");
    pk_str(&w, "y");
    pk_text(&w, "h\6s.");
    CHECK_MSG(run_pickle(w.data, w.size, &e) == BD_E_LIMIT, "%s", e.msg);
    bd_buf_free(&w);
    bd_buf_free(&b);
}

static bd_status run_tensor(const char *type, const char *key, int32_t numel, int32_t offset, int n,
                            const int32_t *dim, const int32_t *stride, bd_err *e) {
    bd_buf b;
    bd_buf_init(&b);
    bd_buf_u8(&b, '}');
    pk_str(&b, "x");
    pk_tensor(&b, type, key, numel, offset, n, dim, stride);
    pk_text(&b, "s.");
    bd_status st = run_pickle(b.data, b.size, e);
    bd_buf_free(&b);
    return st;
}

TEST(pickle_tensor_bounds) {
    bd_err e;
    const int32_t d0[] = {0, 5}, s0[] = {5, 1}, neg[] = {-1, 1}, wide[] = {0, 0}, huge[] = {INT32_MAX, INT32_MAX},
                  d24[] = {2, 4}, s41[] = {4, 1}, ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    CHECK_OK(run_tensor("FloatStorage", "1", 8, 0, 2, d24, s41, &e), &e);
    CHECK_OK(run_tensor("FloatStorage", "1", 8, 2, 2, d23, s31, &e), &e);
    CHECK(run_tensor("FloatStorage", "1", 8, 3, 2, d23, s31, &e) == BD_E_RANGE);
    CHECK(run_tensor("FloatStorage", "1", 8, -1, 2, d23, s31, &e) == BD_E_RANGE);
    CHECK(run_tensor("FloatStorage", "1", 8, INT32_MAX, 2, d23, huge, &e) == BD_E_RANGE);
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 2, huge, huge, &e) == BD_E_LIMIT);
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 2, neg, s31, &e) == BD_E_FIELD);
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 2, d23, neg, &e) == BD_E_FIELD);
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 2, d24, wide, &e) ==
          BD_OK); /* repeats, but no more than is stored */
    const int32_t expand[] = {100, 100};
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 2, expand, wide, &e) == BD_E_REFUSED);
    CHECK_OK(run_tensor("FloatStorage", "1", 8, 8, 2, d0, s0, &e), &e);
    CHECK(run_tensor("FloatStorage", "1", 8, 9, 2, d0, s0, &e) == BD_E_RANGE);
    CHECK_OK(run_tensor("FloatStorage", "1", 8, 7, 0, NULL, NULL, &e), &e);
    CHECK(run_tensor("FloatStorage", "1", 8, 8, 0, NULL, NULL, &e) == BD_E_RANGE);
    CHECK(run_tensor("FloatStorage", "1", 8, 0, 9, ones, ones, &e) == BD_E_LIMIT);
    CHECK(run_tensor("FloatStorage", "1", 9, 0, 1, ones, ones, &e) == BD_E_SHAPE);
    CHECK(run_tensor("DoubleStorage", "1", 8, 0, 1, ones, ones, &e) == BD_E_SHAPE);
    CHECK_OK(run_tensor("DoubleStorage", "1", 4, 0, 1, ones, ones, &e), &e);
    CHECK_OK(run_tensor("BoolStorage", "1", 32, 0, 1, ones, ones, &e), &e);
    CHECK(run_tensor("FloatStorage", "2", 8, 0, 1, ones, ones, &e) == BD_E_MISSING);
    CHECK(run_tensor("FloatStorage", "../1", 8, 0, 1, ones, ones, &e) == BD_E_FIELD);
    CHECK(run_tensor("FloatStorage", "", 8, 0, 1, ones, ones, &e) == BD_E_FIELD);
    CHECK(run_tensor("QInt8Storage", "1", 8, 0, 1, ones, ones, &e) == BD_E_REFUSED &&
          strstr(e.msg, "QInt8Storage"));
}

TEST(pickle_wrappers_and_nesting) {
    bd_buf b, f;
    bd_err e = {0};
    bd_ckpt *c;
    bd_buf_init(&b);
    pk_begin(&b); /* {"step": 5, "lr": 0.1, "model": {"w": t, 3: t, "in": {"x": parameter}}, "opt": {"m": t}} */
    pk_text(&b, "}(");
    pk_str(&b, "step");
    pk_text(&b, "\x8a\x02\xff\x7f");
    pk_str(&b, "lr");
    bd_buf_put(&b, "G\x3f\xb9\x99\x99\x99\x99\x99\x9a", 9);
    pk_str(&b, "model");
    pk_text(&b, "}(");
    pk_str(&b, "w");
    pk_tensor(&b, "FloatStorage", "1", 8, 0, 1, d4, s1);
    pk_int(&b, 3);
    pk_tensor(&b, "ByteStorage", "0", 64, 0, 1, d4, s1);
    pk_str(&b, "in");
    pk_text(&b, "}");
    pk_str(&b, "x");
    pk_text(&b, "ctorch._utils\n_rebuild_parameter\n(");
    pk_tensor(&b, "HalfStorage", "0", 32, 0, 1, d4, s1);
    bd_buf_u8(&b, 0x88);
    pk_ordered_dict(&b);
    pk_text(&b, "tRs");
    pk_str(&b, "dtype");
    pk_text(&b, "ctorch\nbfloat16\nu"); /* end of "model" */
    pk_str(&b, "opt");
    bd_buf_u8(&b, '}');
    pk_str(&b, "m");
    pk_tensor(&b, "FloatStorage", "1", 8, 0, 1, d4, s1);
    pk_text(&b, "su.");
    make_pt(&f, &b, 0, true);
    bd_status st = bd_ckpt_open_memory(&c, f.data, f.size, &e);
    CHECK_OK(st, &e);
    CHECK_EQ_U64(c->n, 3);
    CHECK_STR(c->tensors[0].name, "3");
    CHECK_STR(c->tensors[1].name, "in.x");
    CHECK_STR(c->tensors[2].name, "w");
    read_all(c);
    bd_ckpt_close(c);
    bd_buf_free(&f);
    bd_buf_free(&b);
}

TEST(zip_refusals) {
    bd_buf p;
    bd_err e;
    make_dict(&p);
    zip_maker z;
#define OPEN(code, says)                                                                                \
    do {                                                                                                \
        bd_status st_ = try_bytes(z.out.data, z.out.size, &e);                                          \
        CHECK_MSG(st_ == (code) && strstr(e.msg, (says)), "line %d: %d %s", __LINE__, (int)st_, e.msg); \
        bd_buf_free(&z.out);                                                                            \
    } while (0)
    zip_begin(&z);
    zip_add(&z, "x.txt", "a", 1, 0);
    zip_end(&z, false);
    OPEN(BD_E_MISSING, "data.pkl");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_end(&z, false);
    OPEN(BD_E_FIELD, "twice");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_add(&z, "n/data.pkl", p.data, p.size, 0);
    zip_end(&z, false);
    OPEN(BD_E_FIELD, "two pickles");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_add(&z, "m/byteorder", "big", 3, 0);
    zip_end(&z, false);
    OPEN(BD_E_FIELD, "byteorder");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_end(&z, false);
    OPEN(BD_E_MISSING, "m/data/1");
    zip_begin(&z); /* a byte between two entries */
    zip_add(&z, "m/a", "1", 1, 0);
    bd_buf_u8(&z.out, 0);
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_end(&z, false);
    OPEN(BD_E_FIELD, "unused bytes");
    zip_begin(&z); /* two names for one local header */
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    size_t n = z.central.size;
    uint8_t record[100];
    CHECK(n <= sizeof record);
    memcpy(record, z.central.data, n);
    bd_buf_put(&z.central, record, n);
    z.central.data[n + 46] = 'k';
    z.n++;
    zip_end(&z, false);
    OPEN(BD_E_FIELD, "overlaps");
    zip_begin(&z); /* trailing bytes */
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    zip_end(&z, false);
    bd_buf_u8(&z.out, 0);
    OPEN(BD_E_TRUNCATED, "end record");
    zip_begin(&z); /* content changed */
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    z.out.data[60] ^= 1;
    zip_end(&z, false);
    OPEN(BD_E_CHECKSUM, "CRC");
    zip_begin(&z); /* encrypted */
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    z.out.data[6] |= 1;
    z.central.data[8] |= 1;
    zip_end(&z, false);
    OPEN(BD_E_REFUSED, "flags");
    zip_begin(&z); /* another method */
    zip_add(&z, "m/data.pkl", p.data, p.size, 0);
    z.out.data[8] = z.central.data[10] = 12;
    zip_end(&z, false);
    OPEN(BD_E_REFUSED, "method");
    zip_begin(&z); /* a deflated entry that claims to be huge */
    zip_add(&z, "m/data.pkl", p.data, p.size, ZIP_DEFLATE);
    memcpy(z.out.data + 22, "\0\0\0\x70", 4);
    memcpy(z.central.data + 24, "\0\0\0\x70", 4);
    zip_end(&z, false);
    OPEN(BD_E_LIMIT, "m/data.pkl");
#undef OPEN
    bd_buf_free(&p);
}

/* --- int8_clean --- */

typedef struct int8_options {
    const char *format, *dtype, *orig, *scale_type, *scheme;
    int rows_of_scales;
    bool no_scales, extra_scale;
} int8_options;

static bd_status make_int8(const int8_options *o, bd_ckpt **c, bd_buf *f, bd_err *e) {
    const int32_t rows[] = {o->rows_of_scales};
    bd_buf b;
    bd_buf_init(&b);
    pk_begin(&b);
    pk_text(&b, "}(");
    pk_str(&b, "__quant_format__");
    pk_str(&b, o->format);
    pk_str(&b, "quantized");
    bd_buf_u8(&b, '}');
    pk_str(&b, "w");
    pk_tensor(&b, "CharStorage", "0", 64, 10, 2, d23, s31);
    pk_text(&b, "s");
    pk_str(&b, "scales");
    bd_buf_u8(&b, '}');
    if (!o->no_scales) {
        pk_str(&b, "w");
        pk_tensor(&b, o->scale_type, "1", !strcmp(o->scale_type, "HalfStorage") ? 16 : 8, 3,
                  o->rows_of_scales ? 1 : 0, rows, s1);
        pk_text(&b, "s");
    }
    if (o->extra_scale) {
        pk_str(&b, "v");
        pk_tensor(&b, "FloatStorage", "1", 8, 0, 1, d4, s1);
        pk_text(&b, "s");
    }
    pk_str(&b, "dtypes");
    bd_buf_u8(&b, '}');
    pk_str(&b, "w");
    pk_str(&b, o->dtype);
    pk_text(&b, "s");
    pk_str(&b, "passthrough");
    bd_buf_u8(&b, '}');
    pk_str(&b, "p");
    pk_tensor(&b, "HalfStorage", "0", 32, 20, 1, d4, s1);
    pk_text(&b, "s");
    pk_str(&b, "passthrough_orig_dtypes");
    bd_buf_u8(&b, '}');
    pk_str(&b, "p");
    pk_str(&b, o->orig);
    pk_text(&b, "s");
    if (o->scheme) {
        pk_str(&b, "qmeta");
        bd_buf_u8(&b, '}');
        pk_str(&b, "w");
        bd_buf_u8(&b, '}');
        pk_str(&b, "scheme");
        pk_str(&b, o->scheme);
        bd_buf_u8(&b, 's');
        pk_str(&b, "axis");
        pk_text(&b, "K");
        bd_buf_u8(&b, 0);
        pk_text(&b, "ss");
    }
    pk_text(&b, "u.");
    make_pt(f, &b, 0, false);
    bd_buf_free(&b);
    return bd_ckpt_open_memory(c, f->data, f->size, e);
}

TEST(int8_clean_values) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        int8_options o = {"int8_clean_per_row_v1",
                          bf16 ? "bfloat16" : "float32",
                          bf16 ? "bfloat16" : "float32",
                          "FloatStorage",
                          "per_row",
                          2,
                          false,
                          false};
        bd_ckpt *c;
        bd_buf f;
        bd_err e = {0};
        CHECK_OK(make_int8(&o, &c, &f, &e), &e);
        CHECK_STR(c->format, "torch int8_clean_per_row_v1");
        CHECK(c->n == 2 && c->tensors[0].dtype == BD_CK_F32 && c->tensors[1].dtype == BD_CK_F32);
        float out[6];
        uint64_t bytes;
        CHECK_OK(bd_ckpt_read_f32(c, bd_ckpt_find(c, "w"), out, &e), &e);
        for (int i = 0; i < 6; i++) {
            float want = (float)(10 + i) * (i < 3 ? 0.5f : 1.5f);
            if (bf16) want = bd_bf16_to_f32(bd_f32_to_bf16(want));
            CHECK(out[i] == want);
        }
        CHECK_OK(bd_ckpt_read_f32(c, bd_ckpt_find(c, "p"), out, &e), &e);
        for (int i = 0; i < 4; i++) {
            float want = bd_f16_to_f32((uint16_t)((40 + 2 * i) | (41 + 2 * i) << 8));
            if (bf16) want = bd_bf16_to_f32(bd_f32_to_bf16(want));
            CHECK(out[i] == want);
        }
        CHECK(bd_ckpt_raw(c, 0, &bytes) == NULL && bd_ckpt_raw(c, 1, &bytes) == NULL);
        bd_ckpt_close(c);
        bd_buf_free(&f);
    }
}

TEST(int8_clean_refusals) {
    static const char good[] = "int8_clean_per_row_v1";
    static const struct {
        int8_options o;
        int code;
    } cases[] = {
        {{good, "float32", "float32", "FloatStorage", NULL, 2, false, false}, BD_OK},
        {{good, "float16", "float64", "HalfStorage", NULL, 0, false, false}, BD_OK}, /* one scale for all */
        {{good, "float32", "float32", "FloatStorage", "per_row", 0, false, false}, BD_E_SHAPE},
        {{good, "float32", "float32", "FloatStorage", "per_row", 3, false, false}, BD_E_SHAPE},
        {{good, "float32", "float32", "FloatStorage", "per_col", 2, false, false}, BD_E_FIELD},
        {{good, "int8", "float32", "FloatStorage", "per_row", 2, false, false}, BD_E_FIELD},
        {{good, "float32", "system", "FloatStorage", "per_row", 2, false, false}, BD_E_FIELD},
        {{good, "float32", "float32", "IntStorage", "per_row", 2, false, false}, BD_E_FIELD},
        {{good, "float32", "float32", "FloatStorage", "per_row", 2, true, false}, BD_E_MISSING},
        {{good, "float32", "float32", "FloatStorage", "per_row", 2, false, true}, BD_E_FIELD},
        {{"int6_v9", "float32", "float32", "FloatStorage", "per_row", 2, false, false}, BD_E_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bd_ckpt *c;
        bd_buf f;
        bd_err e = {0};
        bd_status st = make_int8(&cases[i].o, &c, &f, &e);
        CHECK_MSG((int)st == cases[i].code, "case %zu: %d %s", i, (int)st, e.msg);
        if (st == BD_OK) read_all(c);
        bd_ckpt_close(c);
        bd_buf_free(&f);
    }
}

/* --- compressed files --- */

static void pack_zlib(bd_buf *out, const void *p, size_t n) {
    uLongf size = compressBound((uLong)n);
    bd_buf_init(out);
    if (!bd_buf_reserve(out, size) || compress2(out->data, &size, p, (uLong)n, 9) != Z_OK) abort();
    out->size = size;
}

static void pack_xz(bd_buf *out, const void *p, size_t n) {
    bd_buf_init(out);
    size_t pos = 0, cap = lzma_stream_buffer_bound(n);
    if (!bd_buf_reserve(out, cap) ||
        lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, NULL, p, n, out->data, &pos, cap) != LZMA_OK)
        abort();
    out->size = pos;
}

static void pack_zstd(bd_buf *out, const void *p, size_t n) {
    bd_buf_init(out);
    size_t cap = ZSTD_compressBound(n);
    if (!bd_buf_reserve(out, cap)) abort();
    out->size = ZSTD_compress(out->data, cap, p, n, 19);
    if (ZSTD_isError(out->size)) abort();
}

static void (*const packers[])(bd_buf *, const void *, size_t) = {pack_zlib, pack_xz, pack_zstd};

TEST(compressed_files) {
    bd_buf p, f, z;
    make_dict(&p);
    make_pt(&f, &p, 0, true);
    for (int i = 0; i < 3; i++) {
        packers[i](&z, f.data, f.size);
        check_dict(&z);
        all_cuts_and_flips(z.data, z.size, 1, false);
        bd_err e;
        bd_buf_u8(&z, 0);
        CHECK(try_bytes(z.data, z.size, &e) == BD_E_CODEC);
        bd_buf_free(&z);
    }
    bd_buf_free(&f);
    bd_buf_free(&p);
}

TEST(bombs_cost_little) {
    size_t n = (size_t)96 << 20;
    uint8_t *zeros = calloc(1, n);
    CHECK(zeros);
    for (int i = 0; i < 3; i++) {
        bd_buf z;
        bd_err e = {0};
        packers[i](&z, zeros, n);
        bd_status st = try_bytes(z.data, z.size, &e);
        CHECK_MSG(st == (i == 0 ? BD_E_MAGIC : BD_E_LIMIT), "packer %d: %d %s", i, (int)st, e.msg);
        uint8_t *out;
        uint64_t size;
        CHECK(bd_inflate_any(&out, &size, z.data, z.size, 1000, &e) == BD_E_LIMIT && out == NULL);
        bd_buf_free(&z);
    }
    free(zeros);
}

TEST(decoders_that_want_much_memory) {
    bd_err e;
    bd_buf z;
    static const uint8_t text[100] = "any text";
    pack_xz(&z, text, sizeof text);
    size_t header = 4 * ((size_t)z.data[12] + 1); /* of the first block, after the 12 bytes of the stream's */
    uint8_t *filter = memmem(z.data + 14, header - 6, "\x21\x01", 2); /* LZMA2 with one byte of properties */
    CHECK(filter);
    filter[2] = 40; /* a dictionary of 4 GiB - 1 */
    uint32_t crc = lzma_crc32(z.data + 12, header - 4, 0);
    for (size_t i = 0; i < 4; i++) z.data[12 + header - 4 + i] = (uint8_t)(crc >> (8 * i));
    CHECK_MSG(try_bytes(z.data, z.size, &e) == BD_E_LIMIT, "%s", e.msg);
    bd_buf_free(&z);

    bd_buf_init(&z);
    CHECK(bd_buf_reserve(&z, 1000));
    ZSTD_CCtx *cc = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(cc, ZSTD_c_windowLog, 30);
    ZSTD_inBuffer in = {text, sizeof text, 0};
    ZSTD_outBuffer out = {z.data, 1000, 0};
    CHECK(!ZSTD_isError(ZSTD_compressStream2(cc, &out, &in, ZSTD_e_flush))); /* the header cannot know the size */
    CHECK(ZSTD_compressStream2(cc, &out, &in, ZSTD_e_end) == 0);
    z.size = out.pos;
    CHECK_MSG(try_bytes(z.data, z.size, &e) == BD_E_LIMIT, "%s", e.msg);
    ZSTD_freeCCtx(cc);
    bd_buf_free(&z);
}

TEST(other_files_are_named) {
    bd_err e;
    CHECK(try_bytes("", 0, &e) == BD_E_TRUNCATED);
    CHECK(try_bytes("hello, world", 12, &e) == BD_E_MAGIC);
    CHECK(try_bytes("\x80\x02}q\1.......", 12, &e) == BD_E_MAGIC && strstr(e.msg, "pickle"));
    bd_ckpt *c;
    CHECK(bd_ckpt_open(&c, tmp_path("nothing.pt"), &e) != BD_OK && c == NULL && strstr(e.file, "nothing.pt"));
    CHECK(bd_ckpt_open(&c, test_tmp(), &e) != BD_OK);
    bd_ckpt_close(NULL);
}

/* --- the real files --- */

TEST(real_checkpoints_equal_torch) {
    /* SHA-256 over (name, NUL, float32 values) in name order, computed with PyTorch and the official loader's rules
     */
    static const struct {
        const char *file;
        int n;
        int64_t count;
        const char *hash;
    } want[] = {
        {"checkpoints/nolanvild_128d.pt", 32, 476812,
         "cd9d75a5fc33b98d196234d4a57437e8a754db1031109210e621fbdcf4403ce8"},
        {"checkpoints/own_192d.pt", 52, 1491092,
         "e7ee7833c2711452aad0356e4b3684e997aa5c84af6ec513723df18c22165915"},
        {"checkpoints/taleef7_64d.pt", 22, 107080,
         "15951ad0c9f93dba2995163b0d202f788c8c866100050cbb4cbe8587cbea991e"},
        {"checkpoints/nolanvild_128d.int8.ptz", 32, 476812,
         "40f403a693c7db619009184715ede6c957d94ac342d2a84cf314ef50979d79cc"},
        {"checkpoints/samtruss_384d_20260413.int8.ptz", 72, 7630520,
         "02388d9c856e30750871608251e129ca9d744600349d42b3d6c9b4e1612f27d2"},
        {"checkpoints/taleef7_64d.int8.ptz", 22, 107080,
         "b6209cbdecb48b217dcc412c86899a3de0b6a08a4631cd32592eed58f903e36b"},
    };
    int seen = 0;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *path = test_data(want[i].file);
        if (!path) continue;
        seen++;
        bd_err e = {0};
        bd_ckpt *c;
        bd_sha256 h;
        uint8_t hash[32];
        char hex[65];
        int64_t count = 0;
        CHECK_OK(bd_ckpt_open(&c, path, &e), &e);
        CHECK_EQ_U64(c->n, want[i].n);
        bd_sha256_init(&h);
        for (int k = 0; k < c->n; k++) {
            const bd_ckpt_tensor *t = &c->tensors[k];
            float *out = malloc((size_t)t->count * 4);
            memset(out, 0xff, (size_t)t->count * 4);
            CHECK_OK(bd_ckpt_read_f32(c, k, out, &e), &e);
            bd_sha256_add(&h, t->name, strlen(t->name) + 1);
            bd_sha256_add(&h, out, (size_t)t->count * 4);
            count += t->count;
            free(out);
        }
        bd_sha256_end(&h, hash);
        bd_sha256_hex(hash, hex);
        CHECK_EQ_U64(count, want[i].count);
        CHECK_STR(hex, want[i].hash);
        bd_ckpt_close(c);
    }
    if (!seen) SKIP("no checkpoints");
}

TEST(real_safetensors) {
    const char *path = test_data("golden/tiny_weights.safetensors");
    if (!path) SKIP("no golden files");
    bd_err e = {0};
    bd_ckpt *c;
    CHECK_OK(bd_ckpt_open(&c, path, &e), &e);
    CHECK(c->n == 52 && c->n_meta == 11);
    CHECK_STR(c->meta_keys[0], "batch");
    CHECK_STR(c->meta_values[0], "3");
    int at = bd_ckpt_find(c, "tok_emb.weight");
    CHECK(at >= 0 && c->tensors[at].dim[0] == 1024 && c->tensors[at].dim[1] == 64);
    read_all(c);
    bd_ckpt_close(c);
}

TEST(real_files_cut_and_flipped) {
    static const char *const files[] = {"checkpoints/taleef7_64d.pt", "checkpoints/taleef7_64d.int8.ptz"};
    for (int i = 0; i < 2; i++) {
        const char *path = test_data(files[i]);
        if (!path) SKIP("no checkpoints");
        bd_err e = {0};
        bd_map m;
        CHECK_OK(bd_map_open(&m, path, &e), &e);
        uint8_t *p;
        uint64_t n = m.size;
        if (i) {
            CHECK_OK(bd_inflate_any(&p, &n, m.data, m.size, 0, &e), &e);
        } else {
            p = malloc(n);
            memcpy(p, m.data, n);
        }
        bd_map_close(&m);
        uint64_t s = test_seed();
        for (int k = 0; k < 200; k++) CHECK(try_bytes(p, test_rand(&s) % n, &e) != BD_OK);
        for (int k = 0; k < 400; k++) { /* half of them in the pickle and the directory */
            uint64_t at = k % 4 == 0   ? test_rand(&s) % 4096
                          : k % 4 == 1 ? n - 1 - test_rand(&s) % 4096
                                       : test_rand(&s) % n;
            uint8_t bit = (uint8_t)(1u << (test_rand(&s) % 8));
            p[at] ^= bit;
            try_bytes(p, n, &e);
            p[at] ^= bit;
        }
        CHECK_OK(try_bytes(p, n, &e), &e);
        free(p);
    }
}

int main(int argc, char **argv) { return test_main(argc, argv); }
