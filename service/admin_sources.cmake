# The admin plane, its HTTP door, the configuration; and the program itself.
set(KVS_ADMIN_SOURCES
  accept.c
  address.c
  admin.c
  admin_commands.c
  admin_json.c
  admin_states.c
  admin_stores.c
  admin_training.c
  admin_values.c
  admin_wait.c
  config.c
  epoch.c
  exchange.c
  exchange_run.c
  npy.c
  pages.c
  problem.c
  profiler.c
  quantity.c
  rest.c
  routes.c
  settings.c
  target.c
  value_form.c
  whole_file.c
  ${CMAKE_BINARY_DIR}/generated/service/openapi_text.c)

add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/generated/service/openapi_text.c
  COMMAND ${CMAKE_COMMAND} -DFROM=${PROJECT_SOURCE_DIR}/openapi.yaml
    -DTO=${CMAKE_BINARY_DIR}/generated/service/openapi_text.c
    -P ${CMAKE_CURRENT_SOURCE_DIR}/embed_openapi.cmake
  DEPENDS ${PROJECT_SOURCE_DIR}/openapi.yaml ${CMAKE_CURRENT_SOURCE_DIR}/embed_openapi.cmake
  VERBATIM)

# What GET /version and --version say. Without git (a tarball) the commit is unknown.
execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} rev-parse --short=12 HEAD
  OUTPUT_VARIABLE KVS_GIT_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT KVS_GIT_COMMIT)
  set(KVS_GIT_COMMIT unknown)
endif()
set_property(SOURCE admin.c main.c APPEND PROPERTY COMPILE_DEFINITIONS
  KVS_VERSION="${PROJECT_VERSION}" KVS_GIT_COMMIT="${KVS_GIT_COMMIT}"
  KVS_BUILD_TYPE="${CMAKE_BUILD_TYPE}")

add_executable(kvstored main.c)
target_link_libraries(kvstored PRIVATE kvs_service)
if(TARGET kvs_cuda)
  target_link_libraries(kvstored PRIVATE kvs_cuda) # and with it KVS_HAVE_CUDA
endif()
