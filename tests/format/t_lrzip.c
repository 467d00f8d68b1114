/* Codec LRZIP and the running of external programs. */
#include <dirent.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "bd_test.h"
#include "format/artifact.h"
#include "format/artifact_layout.h"
#include "format/external.h"
#include "format/weight_group.h"
#include "format/weight_lrzip.h"
#include "tests/format/gen_artifact.h"
#include "tests/format/two_decoders.h"

static bool have_lrzip(void) {
    const char *const argv[] = {"lrzip", "-V", NULL};
    bd_external job = {argv, "in", "in", 10, 20};
    bd_buf out;
    bd_buf_init(&out);
    bd_status st = bd_external_run(&job, "x", 1, &out, NULL);
    bd_buf_free(&out);
    return st == BD_OK;
}

/* Entries of the folder for temporary files, which main makes. */
static int leftovers(void) {
    int n = 0;
    DIR *d = opendir(getenv("TMPDIR"));
    CHECK(d != NULL);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static bd_status run(const char *const *argv, uint64_t most, uint32_t seconds, bd_buf *out, bd_err *e) {
    bd_external job = {argv, "in", "out", most, seconds};
    out->size = 0;
    return bd_external_run(&job, "some bytes\n", 11, out, e);
}

TEST(external_programs) {
    bd_buf out;
    bd_err e;
    bd_buf_init(&out);
    CHECK_OK(run((const char *const[]){"cp", "in", "out", NULL}, 11, 20, &out, &e), &e);
    CHECK(out.size == 11 && memcmp(out.data, "some bytes\n", 11) == 0);
    CHECK_EQ_U64(run((const char *const[]){"no-such-program", NULL}, 11, 20, &out, &e), BD_E_MISSING);
    CHECK(strstr(e.msg, "no-such-program"));
    CHECK_EQ_U64(run((const char *const[]){"false", NULL}, 11, 20, &out, &e), BD_E_CODEC);
    CHECK_EQ_U64(run((const char *const[]){"true", NULL}, 11, 20, &out, &e), BD_E_CODEC); /* no output */
    CHECK_EQ_U64(run((const char *const[]){"cp", "in", "out", NULL}, 10, 20, &out, &e), BD_E_CODEC);
    double t0 = (double)time(NULL);
    CHECK_EQ_U64(run((const char *const[]){"sleep", "30", NULL}, 11, 1, &out, &e), BD_E_CODEC);
    CHECK(strstr(e.msg, "longer") && (double)time(NULL) - t0 < 10);
    CHECK_EQ_U64(leftovers(), 0);
    bd_buf_free(&out);
}

TEST(similarity_order) {
    static const int8_t codes[12] = {0, 0, 9, 9, 1, 0, 8, 9, 0, 1, 0, 0}; /* rows of two */
    uint16_t order[6];
    bd_similarity_order(order, codes, 6, 2);
    static const uint16_t want[6] = {0, 5, 2, 4, 3, 1}; /* 2 before 4: of equal ones the lowest */
    CHECK(memcmp(order, want, sizeof want) == 0);
    uint64_t s = test_seed();
    for (int round = 0; round < 20; round++) {
        uint32_t rows = 1 + (uint32_t)(test_rand(&s) % 60), cols = 1 + (uint32_t)(test_rand(&s) % 700);
        int8_t *c = malloc((size_t)rows * cols);
        bool used[60] = {true};
        uint16_t o[60];
        for (uint64_t i = 0; i < (uint64_t)rows * cols; i++) c[i] = (int8_t)(test_rand(&s) % 255 - 127);
        bd_similarity_order(o, c, rows, cols);
        CHECK(o[0] == 0);
        for (uint32_t k = 1; k < rows; k++) {
            uint32_t best = 0, least = UINT32_MAX;
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t d = 0;
                for (uint32_t j = 0; j < cols; j++) d += (uint32_t)abs(c[r * cols + j] - c[o[k - 1] * cols + j]);
                if (!used[r] && d < least) least = d, best = r;
            }
            used[best] = true;
            CHECK_EQ_U64(o[k], best);
        }
        free(c);
    }
}

static bd_artifact *sample(bd_arena *a, uint64_t seed) {
    gen_options o = {.seed = seed, .codec = BD_CODEC_LRZIP, .groups = 2, .max_dim = 60, .max_tensors = 6};
    bd_artifact *art = gen_artifact(a, &o);
    CHECK(art != NULL);
    return art;
}

TEST(groups_round_trip) {
    if (!have_lrzip()) SKIP("lrzip is not installed");
    for (uint64_t i = 0; i < 6; i++) {
        bd_arena *a = bd_arena_create(0), *b = bd_arena_create(0);
        bd_artifact *art = sample(a, test_seed() * 10 + i);
        for (uint32_t g = 0; g < art->n_groups; g++) {
            bd_qgroup *q = &art->groups[g], back = {0};
            q->sort_rows = i % 2;
            bd_buf raw, again, section;
            bd_err e = {0};
            bd_group_budget budget = {1000, 1u << 24};
            bd_buf_init(&raw);
            bd_buf_init(&again);
            bd_buf_init(&section);
            bd_group_raw_write(q, BD_RAW_ALL, &raw);
            CHECK_OK(bd_lrzip_pack(q, &section, &e), &e);
            CHECK_OK(bd_lrzip_unpack(&back, b, section.data, section.size, raw.size, &budget, 5, &e), &e);
            bd_group_raw_write(&back, BD_RAW_ALL, &again);
            CHECK(raw.size == again.size && memcmp(raw.data, again.data, raw.size) == 0);
            back = (bd_qgroup){0};
            CHECK_EQ_U64(bd_lrzip_unpack(&back, b, section.data, section.size, raw.size + 1, &budget, 5, &e),
                         BD_E_FIELD);
            CHECK_EQ_U64(e.offset, 5);
            bd_buf_free(&raw);
            bd_buf_free(&again);
            bd_buf_free(&section);
        }
        bd_arena_destroy(a);
        bd_arena_destroy(b);
    }
}

/* Structured codes, so that the section is smaller than the raw layout. */
static bd_artifact *compressible(bd_arena *a) {
    bd_artifact *art = gen_example(a);
    CHECK(art != NULL);
    bd_qtensor *q = art->groups[0].tensors;
    q->rows = 40;
    q->cols = 50;
    q->codes = bd_arena_alloc(a, 2000, 1);
    q->scales = bd_arena_alloc(a, 40, 2);
    CHECK(q->codes && q->scales);
    for (int i = 0; i < 2000; i++) q->codes[i] = (int8_t)((i / 50 % 3) * (i % 50 % 2));
    art->groups[0].codec = BD_CODEC_LRZIP;
    art->groups[0].sort_rows = true;
    return art;
}

TEST(permission_is_needed) {
    if (!have_lrzip()) SKIP("lrzip is not installed");
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = compressible(a), *back;
    bd_buf f;
    bd_err e = {0};
    bd_buf_init(&f);
    CHECK_OK(bd_artifact_build(art, &f, &e), &e);
    CHECK_EQ_U64(art->groups[0].codec, BD_CODEC_LRZIP);
    CHECK_EQ_U64(bd_artifact_parse(&back, f.data, f.size, NULL, &e), BD_E_REFUSED);
    CHECK(strstr(e.msg, "--allow-external"));
    int verdict;
    CHECK(two_decoders(f.data, f.size, &verdict) == NULL && verdict == BD_E_REFUSED);
    bd_artifact_limits lim = bd_artifact_limits_default();
    lim.allow_external = true;
    CHECK_OK(bd_artifact_parse(&back, f.data, f.size, &lim, &e), &e);
    CHECK(memcmp(back->groups[0].tensors[0].codes, art->groups[0].tensors[0].codes, 2000) == 0);
    bd_artifact_close(back);
    bd_claim claim = {.present = true, .numerics = 1, .n_shards = 1, .tokens = 1, .bytes = 1};
    CHECK_OK(bd_artifact_set_claim(f.data, f.size, &claim, &e), &e);
    CHECK_OK(bd_artifact_parse(&back, f.data, f.size, &lim, &e), &e);
    CHECK(back->claim.present);
    bd_artifact_close(back);
    bd_buf_free(&f);
    bd_arena_destroy(a);
}

TEST(damage_is_noticed_and_nothing_stays_behind) {
    if (!have_lrzip()) SKIP("lrzip is not installed");
    bd_arena *a = bd_arena_create(0);
    bd_artifact *art = compressible(a);
    bd_buf section;
    bd_err e = {0};
    bd_buf_init(&section);
    CHECK_OK(bd_lrzip_pack(&art->groups[0], &section, &e), &e);
    uint64_t raw = bd_group_raw_size(&art->groups[0]), s = test_seed();
    for (int round = 0; round < 60; round++) {
        bd_buf copy;
        bd_buf_init(&copy);
        bd_buf_put(&copy, section.data, section.size);
        if (round < 20) copy.size = (size_t)(test_rand(&s) % section.size);
        else copy.data[test_rand(&s) % copy.size] ^= (uint8_t)(1 + test_rand(&s) % 255);
        bd_arena *b = bd_arena_create((uint64_t)64 << 20);
        bd_qgroup back = {0};
        bd_group_budget budget = {1000, 1u << 20};
        bd_status st = bd_lrzip_unpack(&back, b, copy.data, copy.size, raw, &budget, 5, &e);
        CHECK(st == BD_OK || (e.offset == 5 && e.msg[0])); /* lrzip's container has bytes without meaning */
        if (round < 20) CHECK(st != BD_OK);
        bd_arena_destroy(b);
        bd_buf_free(&copy);
    }
    CHECK_EQ_U64(leftovers(), 0);
    bd_buf_free(&section);
    bd_arena_destroy(a);
}

int main(int argc, char **argv) {
    char dir[] = "/tmp/t_lrzip-XXXXXX";
    if (!mkdtemp(dir) || setenv("TMPDIR", dir, 1)) return 1;
    int rc = test_main(argc, argv);
    rmdir(dir);
    return rc;
}
