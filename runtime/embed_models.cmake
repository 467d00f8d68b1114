# Writes OUT, a C file that holds the model files of MODELS_DIR: bd_builtin_models, sorted by name.
# Bytes are written as numbers, so no character of a model file needs quoting.
file(GLOB files "${MODELS_DIR}/*.model")
list(SORT files)
set(arrays "")
set(rows "")
set(n 0)
foreach(f IN LISTS files)
  get_filename_component(name "${f}" NAME_WE)
  file(READ "${f}" hex HEX)
  string(LENGTH "${hex}" length)
  math(EXPR size "${length} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REPEAT "0x..," 20 line)
  string(REGEX REPLACE "${line}" "\\0\n" bytes "${bytes}")
  string(APPEND arrays "static const char model_${n}[] = {\n${bytes}0x00};\n\n")
  string(APPEND rows "    {\"${name}\", model_${n}, ${size}},\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE "${OUT}.new" "/* Generated from models/ by runtime/embed_models.cmake. */
#include \"runtime/model_lang.h\"

${arrays}const bd_builtin_model bd_builtin_models[] = {
${rows}};
const int bd_n_builtin_models = ${n};
")
file(RENAME "${OUT}.new" "${OUT}")
