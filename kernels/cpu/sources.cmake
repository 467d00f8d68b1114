# The cpu backend's files. Each level is compiled with its own instruction set; cpu_backend.c with the baseline,
# so that it can refuse a machine that lacks them.
set(BD_CPU_SOURCES cpu/cpu_backend.c)
set(BD_CPU_KERNELS gemm second_moment attention attention_grad)
include(${CMAKE_CURRENT_LIST_DIR}/sources_vector.cmake OPTIONAL) # appends to BD_CPU_KERNELS
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(BD_CPU_AVX2)
  set(BD_CPU_AVX512)
  foreach(kernel IN LISTS BD_CPU_KERNELS)
    list(APPEND BD_CPU_AVX2 cpu/${kernel}_avx2.c)
    list(APPEND BD_CPU_AVX512 cpu/${kernel}_avx512.c)
  endforeach()
  if(BIRDIE_FUZZ)
    # No fuzz target runs a kernel, and clang takes minutes over instrumented unrolled tiles.
    set(plain ";-O1;-fno-sanitize=all")
  endif()
  if(BD_CPU_KERNELS)
    set_source_files_properties(${BD_CPU_AVX2} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c${plain}")
    set_source_files_properties(${BD_CPU_AVX512} PROPERTIES COMPILE_OPTIONS
      "-mavx512f;-mavx512vl;-mavx512bw;-mavx512dq;-mfma;-mf16c;-mprefer-vector-width=512${plain}")
  endif()
  list(APPEND BD_CPU_SOURCES ${BD_CPU_AVX2} ${BD_CPU_AVX512})
endif()
