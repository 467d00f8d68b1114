/* Recipes of strangers: an error, or a recipe whose normalized text reads back to
 * the same recipe. The first line may be an override, as --set gives it. */
#include <stdlib.h>
#include <string.h>

#include "trainer/recipe.h"
#include "trainer/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char set[256] = "";
    const char *sets[1] = {set};
    int n_sets = 0;
    if (size > 4 && !memcmp(data, "set ", 4)) {
        const uint8_t *end = memchr(data, '\n', size < 250 ? size : 250);
        if (end) {
            memcpy(set, data + 4, (size_t)(end - data) - 4);
            n_sets = 1;
            size -= (size_t)(end + 1 - data);
            data = end + 1;
        }
    }
    bd_recipe *r = NULL, *again = NULL;
    bd_err e = {0};
    bd_status st = bd_recipe_parse(&r, (const char *)data, size, sets, n_sets, &e);
    if (st != BD_OK) {
        if (r || e.code != st || !e.msg[0]) abort();
        return 0;
    }
    if (bd_recipe_parse(&again, r->json, strlen(r->json), NULL, 0, &e) != BD_OK) abort();
    if (strcmp(r->json, again->json) != 0 || r->n_groups != again->n_groups || r->steps != again->steps) abort();
    uint8_t a[32], b[32];
    if (bd_recipe_identity(r->json, strlen(r->json), a, &e) != BD_OK) abort();
    if (bd_recipe_identity(again->json, strlen(again->json), b, &e) != BD_OK || memcmp(a, b, 32) != 0) abort();
    for (int i = 0; i <= 4; i++) {
        double m = bd_lr_multiplier(r, i * r->steps / 4, 0.25 * i);
        if (!(m >= 0 && m <= 1)) abort();
        for (int k = 0; k < r->n_groups; k++) {
            double mu = bd_momentum_at(&r->groups[k], i * r->steps / 4);
            if (!(mu >= 0 && mu < 1)) abort();
        }
    }
    if (bd_recipe_group(r, "blocks.0.attn.c_q.weight") >= r->n_groups) abort();
    bd_recipe_close(r);
    bd_recipe_close(again);
    return 0;
}
