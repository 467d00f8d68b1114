/* IEEE binary16 and bfloat16 conversions, round to nearest even, with
 * subnormals, infinities and NaN preserved. */
#ifndef BD_BASE_HALF_H
#define BD_BASE_HALF_H

#include <stdint.h>

uint16_t bd_f32_to_f16(float x);
float bd_f16_to_f32(uint16_t h);
uint16_t bd_f32_to_bf16(float x);
float bd_bf16_to_f32(uint16_t h);

#endif
