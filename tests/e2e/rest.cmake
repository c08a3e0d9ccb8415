# The REST plane and the process around it, by curl and by Python's own HTTP client.
kvs_e2e(NAME e2e_rest_values SCRIPT rest_values_test.py)
kvs_e2e(NAME e2e_rest_admin SCRIPT rest_admin_test.py)
kvs_e2e(NAME e2e_rest_uploads SCRIPT rest_uploads_test.py)
kvs_e2e(NAME e2e_rest_safetensors SCRIPT rest_safetensors_test.py)
kvs_e2e(NAME e2e_rest_http SCRIPT rest_http_test.py TIMEOUT 90)
kvs_e2e(NAME e2e_rest_process SCRIPT rest_process_test.py TIMEOUT 90)
kvs_e2e(NAME e2e_rest_curl SCRIPT rest_curl_test.sh)

# Prints the server's table of routes, which is compared with openapi.yaml.
add_executable(openapi_routes openapi_routes.c)
target_link_libraries(openapi_routes PRIVATE kvs_service)
set_target_properties(openapi_routes PROPERTIES
  RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
kvs_e2e(NAME e2e_openapi SCRIPT openapi_test.py TIMEOUT 90
  ARGUMENTS $<TARGET_FILE:openapi_routes>)

# Files of optimizer states, through both planes.
kvs_e2e(NAME e2e_states SCRIPT states_test.py TIMEOUT 90)
