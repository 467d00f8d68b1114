/* Settings of quantizers by name: what plans, recipes and knobs say. */
#ifndef BD_COMPILER_QSETTING_H
#define BD_COMPILER_QSETTING_H

#include "compiler/quantizer.h"
#include "format/plan_text.h"

/* The quantizer's defaults, with `by` set. BD_E_UNKNOWN lists the names. */
bd_status bd_qsetting_init(bd_qsetting *s, const char *quantizer, bd_err *err);
/* BD_E_UNKNOWN if the quantizer has no such key (names the nearest it has), BD_E_RANGE if the value is no number or
 * no integer where one is needed. Whether the quantizer can do it: s->by->check. */
bd_status bd_qsetting_set(bd_qsetting *s, const char *key, double value, bd_err *err);
bd_status bd_qsetting_set_text(bd_qsetting *s, const char *key, const char *value, bd_err *err);
/* "bits=6 k=12.85": several, by spaces. */
bd_status bd_qsetting_read(bd_qsetting *s, const char *text, bd_err *err);

/* Is there a setting of that name, whoever takes it? 0: none, else its bd_qfield. */
unsigned bd_qsetting_field(const char *key);
bool bd_qsetting_same(const bd_qsetting *a, const bd_qsetting *b);

enum { BD_QSETTING_TEXT = 24 };
typedef struct bd_qsetting_words {
    bd_plan_param params[BD_PLAN_PARAMS_MAX]; /* values point into text */
    int n;
    char text[BD_PLAN_PARAMS_MAX][BD_QSETTING_TEXT];
} bd_qsetting_words;
/* What the quantizer's fields say, as a plan spells it. Must not be moved while params are in use. */
void bd_qsetting_print(bd_qsetting_words *out, const bd_qsetting *s);

#endif
