# The command line, as an admin and a script use it; the load generator, that it runs.
kvs_e2e(NAME e2e_kvctl SCRIPT kvctl_test.py TIMEOUT 90 ARGUMENTS $<TARGET_FILE:kvctl>)
kvs_e2e(NAME e2e_kvbench SCRIPT kvctl_kvbench_test.py TIMEOUT 120 ARGUMENTS $<TARGET_FILE:kvbench>)
