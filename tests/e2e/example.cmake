# The example that trains on real data: small runs here, the full one is scripts/demo.
kvs_e2e(NAME e2e_example SCRIPT example_test.py TIMEOUT 120
  ARGUMENTS $<TARGET_FILE:fashion_mnist>)
kvs_e2e(NAME e2e_example_kill SCRIPT example_kill_test.py TIMEOUT 120
  ARGUMENTS $<TARGET_FILE:fashion_mnist>)
kvs_e2e(NAME e2e_example_compression SCRIPT example_compression_test.py TIMEOUT 900 LABELS long
  ARGUMENTS $<TARGET_FILE:fashion_mnist>)
