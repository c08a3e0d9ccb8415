# The gRPC plane through stubs that protoc generates, as a client of any language would have them.
kvs_e2e(NAME e2e_grpc_values SCRIPT grpc_values_test.py)
kvs_e2e(NAME e2e_halves SCRIPT halves_test.py)
kvs_e2e(NAME e2e_grpc_bad_input SCRIPT grpc_bad_input_test.py)
kvs_e2e(NAME e2e_grpc_rows SCRIPT grpc_rows_test.py)
kvs_e2e(NAME e2e_grpc_regions SCRIPT grpc_regions_test.py)
kvs_e2e(NAME e2e_grpc_sessions SCRIPT grpc_sessions_test.py)
kvs_e2e(NAME e2e_grpc_services SCRIPT grpc_services_test.py)
kvs_e2e(NAME e2e_grpc_listener SCRIPT grpc_listener_test.py TIMEOUT 90)

# The probe that notices a door which no longer answers.
kvs_test(NAME selfprobe_test LABELS e2e SOURCES selfprobe_test.c LIBRARIES kvs_service)
