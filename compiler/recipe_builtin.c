#include "compiler/recipe_builtin.h"

#define RULES(a) .rules = (a), .n_rules = (int)(sizeof(a) / sizeof *(a))

/* --- trellis: the default --- */

static const bd_builtin_rule trellis[] = {
    {.role = "vector", .quantizer = "f16"},
    {.quantizer = "tcq", .settings = "states=64 lambda=0.01"},
};

/* --- peers: published exports, exact where no knob says otherwise --- */

/* The official baseline: int8 rows, the zlib of everything. */
#define CONTROLS                                                                                       \
    {.pattern = "*attn_scale*", .quantizer = "f32"}, {.pattern = "*mlp_scale*", .quantizer = "f32"},   \
        {.pattern = "*resid_mix*", .quantizer = "f32"}, {.pattern = "*q_gain*", .quantizer = "f32"}, { \
        .pattern = "*skip_weight*", .quantizer = "f32"                                                 \
    }
static const bd_builtin_rule int8_zlib[] = {
    {.min_elements = 65536, .quantizer = "rtn"},
    CONTROLS,
    {.quantizer = "f16"},
};
/* Layers matched by name are int8 codes on multiples of four. */
static const bd_builtin_rule int6_zstd[] = {
    {.pattern = "tok_emb*", .quantizer = "f16"},
    {.pattern = "blocks.*", .min_elements = 65536, .quantizer = "rtn", .settings = "multiple=4"},
    {.min_elements = 65536, .quantizer = "rtn"},
    CONTROLS,
    {.quantizer = "f16"},
};
static const bd_builtin_rule sdclip[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=8 k=20"},
    {.role = "head", .quantizer = "row", .settings = "bits=8 k=20"},
    {.quantizer = "row", .settings = "bits=6 k=12.85"},
};
static const bd_builtin_rule pgrp[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=7 k=14"},
    {.role = "head", .quantizer = "row", .settings = "bits=7 k=14"},
    {.pattern = "*gate_w*", .quantizer = "row", .settings = "bits=8 k=0"},
    {.pattern = "*.mlp.*", .role = "matrix", .quantizer = "row", .settings = "bits=6 k=11.5"},
    {.pattern = "*.attn.*", .role = "matrix", .quantizer = "row", .settings = "bits=6 k=13"},
    {.quantizer = "row", .settings = "bits=6 k=12.85"},
};
static const char *const pgrp_sorted[] = {"tok_emb", "attn.c_q", "mlp.fc", NULL};
/* The published export keeps other matrices as 8-bit floats; here they are int8 rows. */
static const bd_builtin_rule ternary_g128[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "matrix", .min_elements = 65536, .quantizer = "ternary"},
    {.quantizer = "row", .settings = "bits=8 k=0"},
};

/* One width for the layers; the embedding and the head have 8 bits and steps of 0.45 times theirs. The solver's
 * number multiplies every k. */
static const bd_builtin_rule int8[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=8 k=9"},
    {.role = "head", .quantizer = "row", .settings = "bits=8 k=9"},
    {.quantizer = "row", .settings = "bits=8 k=20"},
};
static const bd_builtin_rule int7[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=8 k=13.6"},
    {.role = "head", .quantizer = "row", .settings = "bits=8 k=13.6"},
    {.quantizer = "row", .settings = "bits=7 k=15"},
};
static const bd_builtin_rule int6[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=8 k=23.7"},
    {.role = "head", .quantizer = "row", .settings = "bits=8 k=23.7"},
    {.quantizer = "row", .settings = "bits=6 k=12.85"},
};
static const bd_builtin_rule int5[] = {
    {.role = "vector", .quantizer = "f16"},
    {.role = "embedding", .quantizer = "row", .settings = "bits=8 k=30.5"},
    {.role = "head", .quantizer = "row", .settings = "bits=8 k=30.5"},
    {.quantizer = "row", .settings = "bits=5 k=8"},
};
#define WIDTH(n, text)                                                           \
    {                                                                            \
        .r = {.name = #n,                                                        \
              .summary = text " for the layers (GPTQ, SDClip), our range coder", \
              .fill = true,                                                      \
              .damp = 0.01,                                                      \
              .feedback = true,                                                  \
              .order = BD_ORDER_FALLING,                                         \
              .grouping = BD_GROUP_ONE,                                          \
              .codec = BD_CODEC_RANGE},                                          \
        RULES(n)                                                                 \
    }

/* Numbers come from docs/QUALITY.md. */
const bd_builtin_recipe bd_builtin_recipes[] = {
    {.r = {.name = "trellis",
           .summary = "water-filled steps, trellis-coded, our range coder (the default)",
           .fill = true,
           .damp = 0.01,
           .feedback = true,
           .order = BD_ORDER_RISING,
           .rho = 0.03,
           .row_steps = true,
           .col_steps = true,
           .couple_rows = true,
           .calib_tokens = 131072,
           .small_by_sensitivity = true,
           .holdout = 0.1,
           .grouping = BD_GROUP_ONE,
           .codec = BD_CODEC_RANGE},
     RULES(trellis)},
    {.r = {.name = "int8-zlib",
           .summary = "the official baseline export: int8 rows rounded to nearest, zlib 9",
           .grouping = BD_GROUP_SINGLE,
           .codec = BD_CODEC_ZLIB},
     RULES(int8_zlib)},
    {.r = {.name = "int6-zstd",
           .summary = "int8 codes on multiples of four for the layers, embedding in binary16, zstd 22",
           .grouping = BD_GROUP_SINGLE,
           .codec = BD_CODEC_ZSTD},
     RULES(int6_zstd)},
    {.r = {.name = "gptq-sdclip-brotli",
           .summary = "GPTQ with SDClip, int6 and an int8 embedding, brotli 11",
           .damp = 0.01,
           .feedback = true,
           .order = BD_ORDER_FALLING,
           .plain_h = true,
           .calib_tokens = 65536,
           .grouping = BD_GROUP_SINGLE,
           .codec = BD_CODEC_BROTLI},
     RULES(sdclip)},
    {.r = {.name = "gptq-lqer-pgrp",
           .summary = "GPTQ with SDClip, int6 and an int7 embedding, LQER, lrzip per kind of matrix",
           .damp = 0.01,
           .feedback = true,
           .order = BD_ORDER_FALLING,
           .plain_h = true,
           .calib_tokens = 65536,
           .lqer_top = 3,
           .grouping = BD_GROUP_KIND,
           .codec = BD_CODEC_LRZIP,
           .sort = pgrp_sorted},
     RULES(pgrp),
     .lqer = "group=64 rank=4"},
    {.r = {.name = "ternary-g128",
           .summary = "-1, 0, 1 in groups of 128, bit mask or base 3, xz 9",
           .grouping = BD_GROUP_ONE,
           .codec = BD_CODEC_XZ},
     RULES(ternary_g128)},
    WIDTH(int8, "8 bits"),
    WIDTH(int7, "7 bits"),
    WIDTH(int6, "6 bits"),
    WIDTH(int5, "5 bits"),
};
const int bd_n_builtin_recipes = (int)(sizeof bd_builtin_recipes / sizeof *bd_builtin_recipes);

/* The same names, in the same order. */
const char *const bd_compile_recipe_names[] = {"trellis",        "int8-zlib",    "int6-zstd", "gptq-sdclip-brotli",
                                               "gptq-lqer-pgrp", "ternary-g128", "int8",      "int7",
                                               "int6",           "int5",         NULL};
