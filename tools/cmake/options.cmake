# What every target shares: the standard, the warnings, the arithmetic, the hardening.
option(KVS_WERROR "Warnings are errors (the presets set it; packagers need not)" OFF)
set(KVS_SANITIZE "" CACHE STRING "address,undefined or thread")
option(KVS_FUZZ "Build the fuzz targets with libFuzzer (clang)" OFF)
option(KVS_TSAN_ONLY "Only what links no gRPC: engine and simulation" OFF)

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

add_library(kvs_warnings INTERFACE)
target_compile_options(kvs_warnings INTERFACE
  -Wall -Wextra -Wformat=2 -Wshadow -Wimplicit-fallthrough
  $<$<COMPILE_LANGUAGE:C>:-Wpedantic -Wconversion -Wstrict-prototypes -Wmissing-prototypes>
  $<$<BOOL:${KVS_WERROR}>:-Werror>)
# What the optimiser suspects differs from compiler to compiler: seen, but it stops no build.
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  foreach(suspicion stringop-overflow stringop-overread array-bounds maybe-uninitialized
          free-nonheap-object dangling-pointer use-after-free)
    target_compile_options(kvs_warnings INTERFACE
      $<$<COMPILE_LANGUAGE:C,CXX>:-Wno-error=${suspicion}>)
  endforeach()
endif()

# The same bits everywhere: no contraction; square roots that vectorise (house rule, design 5).
add_library(kvs_arithmetic INTERFACE)
target_compile_options(kvs_arithmetic INTERFACE
  -ffp-contract=off -fno-math-errno -fno-trapping-math)

include(${CMAKE_CURRENT_LIST_DIR}/hardening.cmake)

add_library(kvs_flags INTERFACE)
target_include_directories(kvs_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_definitions(kvs_flags INTERFACE _GNU_SOURCE)
target_link_libraries(kvs_flags INTERFACE
  kvs_warnings kvs_arithmetic kvs_hardening Threads::Threads)
if(KVS_SANITIZE)
  target_compile_options(kvs_flags INTERFACE -fsanitize=${KVS_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(kvs_flags INTERFACE -fsanitize=${KVS_SANITIZE})
endif()

# kvs_library(base SOURCES ... LIBRARIES ...): one static library a folder.
function(kvs_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(kvs_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(kvs_${name} PUBLIC kvs_flags ${ARG_LIBRARIES})
endfunction()

# tests_unit, tests_sim, ...: the programs of one label, so that a preset builds what it runs:
# those of kvs_test() with the label, and every program in the folders below tests/<label>.
set(KVS_TEST_LABELS unit contract sim e2e cuda fuzz house gpu)
foreach(label ${KVS_TEST_LABELS})
  add_custom_target(tests_${label})
endforeach()

function(kvs_collect_programs label folder)
  get_property(programs DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
  foreach(program ${programs})
    get_target_property(type ${program} TYPE)
    if(type STREQUAL "EXECUTABLE")
      add_dependencies(tests_${label} ${program})
    endif()
  endforeach()
  get_property(folders DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(below ${folders})
    kvs_collect_programs(${label} ${below})
  endforeach()
endfunction()

function(kvs_collect_test_programs)
  get_property(folders DIRECTORY ${CMAKE_SOURCE_DIR}/tests PROPERTY SUBDIRECTORIES)
  foreach(label ${KVS_TEST_LABELS})
    if(${CMAKE_SOURCE_DIR}/tests/${label} IN_LIST folders)
      kvs_collect_programs(${label} ${CMAKE_SOURCE_DIR}/tests/${label})
    endif()
  endforeach()
endfunction()
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL kvs_collect_test_programs)

# kvs_test(NAME name LABELS unit SOURCES ... LIBRARIES ...): one cmocka program, one ctest case.
# Exit code 77 shows as Skipped.
function(kvs_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "LABELS;SOURCES;LIBRARIES;ARGUMENTS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBRARIES} kvs_flags cmocka)
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} ${ARG_ARGUMENTS})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" SKIP_RETURN_CODE 77
    TIMEOUT ${ARG_TIMEOUT})
  foreach(label ${ARG_LABELS})
    if(TARGET tests_${label})
      add_dependencies(tests_${label} ${ARG_NAME})
    endif()
  endforeach()
endfunction()
