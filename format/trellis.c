#include "format/trellis.h"

#include "format/artifact.h"

void bd_trellis_order(int32_t *order, const int16_t *row_exp, uint32_t n) {
    uint32_t at[2 * BD_TCQ_EXP_MAX + 2] = {0};
    for (uint32_t i = 0; i < n; i++) at[row_exp[i] + BD_TCQ_EXP_MAX + 1]++;
    for (int e = 1; e < 2 * BD_TCQ_EXP_MAX + 2; e++) at[e] += at[e - 1];
    for (uint32_t i = 0; i < n; i++) order[at[row_exp[i] + BD_TCQ_EXP_MAX]++] = (int32_t)i;
}
