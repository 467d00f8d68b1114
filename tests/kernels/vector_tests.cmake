# Vector math and the row and element kernels; included by CMakeLists.txt.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(vmath_lanes_avx2.c PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
  set_source_files_properties(vmath_lanes_avx512.c PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512vl;-mavx512bw;-mavx512dq;-mfma")
  birdie_test(t_vmath t_vmath.c vmath_lanes_avx2.c vmath_lanes_avx512.c LIBS bd_base)
  birdie_test(t_vector_threads t_vector_threads.c LIBS bd_kernels)
endif()
