#include "bd_test.h"
#include "format/protocol.h"

static const char sgd_text[] =
    "kind sgd\nwindow 1024\nstride 64\nchunk 32768\nepochs 3\nbatch 32\nlr 0x1.47ae147ae147bp-8\nmomentum "
    "0x1.ccccccccccccdp-1\n"
    "clip 0x1p+0\nfreeze 0\n";

static int parse(const char *text, bd_protocol *p) {
    bd_err e;
    return (int)bd_protocol_parse(p, text, strlen(text), &e);
}

static void print_as(const bd_protocol *p, const char *want) {
    bd_buf b;
    bd_err e;
    bd_buf_init(&b);
    CHECK_OK(bd_protocol_print(p, &b, &e), &e);
    bd_buf_u8(&b, 0);
    CHECK_STR((const char *)b.data, want);
    bd_buf_free(&b);
}

TEST(window_text) {
    bd_protocol p;
    bd_protocol_default(&p);
    print_as(&p, "kind window\nwindow 1024\nstride 0\n");
    p.stride = 1024; /* the same meaning, the same spelling */
    print_as(&p, "kind window\nwindow 1024\nstride 0\n");
    p.lr = 7; /* not a key of this kind */
    p.stride = 64;
    print_as(&p, "kind window\nwindow 1024\nstride 64\n");
    CHECK_EQ_U64(parse("kind window\nwindow 65536\nstride 65535\n", &p), BD_OK);
    CHECK(p.kind == BD_PROTO_WINDOW && p.window == 65536 && p.stride == 65535 && p.lr == 0);
}

TEST(sgd_text_round_trip) {
    bd_protocol p;
    CHECK_EQ_U64(parse(sgd_text, &p), BD_OK);
    CHECK(p.lr == 0.005 && p.momentum == 0.9 && p.clip == 1 && p.epochs == 3 && p.batch == 32 && p.chunk == 32768);
    print_as(&p, sgd_text);
}

TEST(numbers_round_trip) {
    uint64_t s = test_seed();
    for (int i = 0; i < 20000; i++) {
        bd_protocol p, q;
        bd_buf b;
        bd_err e;
        bd_protocol_default(&p);
        p.kind = BD_PROTO_SGD;
        p.chunk = p.epochs = p.batch = 1;
        uint64_t bits = test_rand(&s) >> 2 & ~(uint64_t)0 << (test_rand(&s) % 54);
        memcpy(&p.lr, &bits, 8);
        bd_status st = bd_protocol_check(&p, &e);
        CHECK(st == (p.lr > 1000 || (p.lr != 0 && p.lr < 0x1p-1022) || p.lr != p.lr ? BD_E_RANGE : BD_OK));
        if (st != BD_OK) continue;
        bd_buf_init(&b);
        CHECK_OK(bd_protocol_print(&p, &b, &e), &e);
        char want[64], *lr;
        snprintf(want, sizeof want, "\nlr %a\n", p.lr);
        bd_buf_u8(&b, 0);
        lr = strstr((char *)b.data, want);
        CHECK_MSG(lr, "%s in %s", want, (char *)b.data);
        CHECK_OK(bd_protocol_parse(&q, (char *)b.data, b.size - 1, &e), &e);
        CHECK(memcmp(&p.lr, &q.lr, 8) == 0);
        bd_buf_free(&b);
    }
}

TEST(what_is_not_canonical) {
    static const struct {
        const char *text;
        int code;
    } bad[] = {
        {"", BD_E_SYNTAX},
        {"kind window\nwindow 1024\nstride 0", BD_E_SYNTAX},
        {"kind window\nwindow 1024\nstride 0\n\n", BD_E_SYNTAX},
        {"kind window\nwindow 01024\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nwindow +1024\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nwindow  1024\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nwindow 1024\r\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nstride 0\nwindow 1024\n", BD_E_SYNTAX},
        {"kind lora\nwindow 1024\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nwindow 4294967296\nstride 0\n", BD_E_SYNTAX},
        {"kind window\nwindow 4294967295\nstride 0\n", BD_E_RANGE},
        {"kind window\nwindow 0\nstride 0\n", BD_E_RANGE},
        {"kind window\nwindow 65537\nstride 0\n", BD_E_RANGE},
        {"kind window\nwindow 512\nstride 513\n", BD_E_RANGE},
        {"kind window\nwindow 512\nstride 512\n", BD_E_NONCANON},
        {"kind window\nwindow 512\nstride 0\nchunk 4\n", BD_E_SYNTAX},
        {"kind sgd\nwindow 512\nstride 0\n", BD_E_SYNTAX},
    };
    bd_protocol p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_MSG(parse(bad[i].text, &p) == bad[i].code, "%s gives %s", bad[i].text,
                  bd_status_name((bd_status)parse(bad[i].text, &p)));
    static const char *const numbers[] = {"0x1.0p+0",
                                          "0x1.8p+00",
                                          "0x1.8p0",
                                          "0x1.8p-0",
                                          "0x1.8P+0",
                                          "1.5",
                                          "0x2p+0",
                                          "0x1.cp+1024",
                                          "0x1.p+0",
                                          "-0x1p+0",
                                          "0x1.Cp+0",
                                          "0x0p-0",
                                          "inf",
                                          "nan",
                                          "0x1p-1023",
                                          "0x0.8p+0",
                                          "0x1.00000000000001p+0"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "kind sgd\nwindow 9\nstride 0\nchunk 9\nepochs 1\nbatch 1\nlr %s\nmomentum 0x0p+0\nclip "
                 "0x0p+0\nfreeze 0\n",
                 numbers[i]);
        CHECK_MSG(parse(text, &p) == BD_E_SYNTAX, "%s is read", numbers[i]);
    }
}

TEST(every_truncation_and_flip_is_an_error_or_canonical) {
    size_t size = sizeof sgd_text - 1;
    bd_err e;
    bd_protocol p;
    for (size_t n = 0; n < size; n++) CHECK_EQ_U64(bd_protocol_parse(&p, sgd_text, n, &e), BD_E_SYNTAX);
    for (size_t i = 0; i < size * 8; i++) {
        char copy[sizeof sgd_text];
        bd_buf b;
        memcpy(copy, sgd_text, sizeof copy);
        copy[i / 8] = (char)(copy[i / 8] ^ 1 << i % 8);
        if (bd_protocol_parse(&p, copy, size, &e) != BD_OK) continue;
        bd_buf_init(&b);
        CHECK_OK(bd_protocol_print(&p, &b, &e), &e);
        CHECK(b.size == size && memcmp(b.data, copy, size) == 0);
        bd_buf_free(&b);
    }
}

TEST(kinds_have_names) {
    CHECK_STR(bd_protocol_kind_name(BD_PROTO_SGD), "sgd");
    CHECK(bd_protocol_kind_find("window") == BD_PROTO_WINDOW && bd_protocol_kind_find("sgd") == BD_PROTO_SGD);
    CHECK(bd_protocol_kind_find("lora") == -1 && bd_protocol_kind_find("") == -1);
}

int main(int argc, char **argv) { return test_main(argc, argv); }
