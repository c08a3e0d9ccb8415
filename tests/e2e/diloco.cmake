# The example that exchanges after many local steps: small here; examples/diloco/README.md has the
# full run.
kvs_e2e(NAME e2e_diloco SCRIPT diloco_test.py TIMEOUT 240 ARGUMENTS $<TARGET_FILE:diloco>)
