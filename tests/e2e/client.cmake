# The C client against the real server, and on its own.
function(kvs_client_test name)
  kvs_test(NAME ${name} LABELS e2e TIMEOUT 120
    SOURCES ${name}.c client_server.c client_proxy.c
    LIBRARIES kvs_client
    ARGUMENTS $<TARGET_FILE:kvstored>)
  add_dependencies(${name} kvstored)
  set_property(GLOBAL PROPERTY KVS_E2E_${name} $<TARGET_FILE:${name}> $<TARGET_FILE:kvstored>)
  set_property(GLOBAL PROPERTY KVS_E2E_PROGRAM_${name} ${name})
endfunction()

kvs_client_test(client_compression_test)
kvs_client_test(client_encoded_test)
kvs_client_test(client_seed_test)
kvs_client_test(client_order_test)
kvs_client_test(client_recovery_test)
kvs_client_test(client_shared_test)
kvs_client_test(client_states_test)
kvs_client_test(client_rows_test)
kvs_e2e(NAME client_example_test SCRIPT client_example_test.sh)
