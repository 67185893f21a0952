# The cuda backend: a plug-in of its own, libunils_cuda.so, so that libunils needs no CUDA. It holds the CUDA runtime and
# loads where there is no driver.
#
# UNILS_CUDA_SOURCES and UNILS_CUDA_KERNELS are also what tests compile for the CUDA device that they play on the host.
set(UNILS_CUDA_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/backends/cuda/cuda_backend.cpp
  ${CMAKE_CURRENT_LIST_DIR}/backends/cuda/cuda_model.cpp
  ${CMAKE_CURRENT_LIST_DIR}/backends/cuda/weights.cpp
  ${CMAKE_CURRENT_LIST_DIR}/backends/cuda/workspace.cpp
)
set(UNILS_CUDA_KERNELS
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/attention.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/causal_stack.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/depth_head.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/kv_ring.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/linear.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/log_mel.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/style.cu
  ${CMAKE_CURRENT_LIST_DIR}/kernels/cuda/token.cu
)
# The plug-in links nothing of libunils: what both need it has its own copy of.
set(UNILS_CUDA_SHARED_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/core/arena.cpp
  ${CMAKE_CURRENT_LIST_DIR}/core/status.cpp
  ${CMAKE_CURRENT_LIST_DIR}/engine/state_layout.cpp
  ${CMAKE_CURRENT_LIST_DIR}/features/log_mel.cpp
  ${CMAKE_CURRENT_LIST_DIR}/features/real_fft.cpp
)

# unils_add_cuda(): the target unils_cuda, and unils_cuda_objects, which tests link too. CUDA must be a language of the
# project.
function(unils_add_cuda)
  add_library(unils_cuda_objects OBJECT ${UNILS_CUDA_SOURCES} ${UNILS_CUDA_KERNELS})
  add_library(unils_cuda SHARED ${UNILS_CUDA_SHARED_SOURCES})
  target_link_libraries(unils_cuda PRIVATE unils_cuda_objects CUDA::cudart_static)

  # Machine code for the compute capabilities that are named, and PTX of the last for those to come.
  set(architectures ${UNILS_CUDA_ARCHITECTURES})
  list(GET architectures -1 newest)
  list(TRANSFORM architectures APPEND "-real")
  foreach(target unils_cuda_objects unils_cuda)
    target_compile_features(${target} PRIVATE cxx_std_17)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/csrc/include)
    target_include_directories(${target} SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Werror;-ffp-contract=off>"
      # constexpr functions of the ring and of std::array are called on the device as they are.
      "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>")
    set_target_properties(${target} PROPERTIES
      CUDA_ARCHITECTURES "${architectures};${newest}-virtual" CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
      CUDA_RUNTIME_LIBRARY Static POSITION_INDEPENDENT_CODE ON
      CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  endforeach()
  set_target_properties(unils_cuda PROPERTIES LINKER_LANGUAGE CXX INSTALL_RPATH "$ORIGIN")
  target_link_options(unils_cuda PRIVATE
    LINKER:--version-script=${PROJECT_SOURCE_DIR}/csrc/unils_cuda.map LINKER:--no-undefined)
  set_property(TARGET unils_cuda APPEND PROPERTY LINK_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/unils_cuda.map)
  install(TARGETS unils_cuda LIBRARY DESTINATION lib COMPONENT cuda)
endfunction()
