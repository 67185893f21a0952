include("${CMAKE_CURRENT_LIST_DIR}/unilsTargets.cmake")
