#!/usr/bin/env bash
# Runs a program that has a planted fault with seed after seed, until one is red and says why.
#   caught.sh SEEDS PROGRAM [ARGUMENT ...]
set -uo pipefail
evidence='^cudasim:|  ERROR  |^seed [0-9]+ failed:|Sanitizer:|runtime error:'
SECONDS_MAX=15 # a kernel that reads what is not there may go on for ever
seeds=$1
shift
for ((seed = 1; seed <= seeds; seed++)); do
    if said=$(CUDASIM_SEED=$seed timeout "$SECONDS_MAX" "$@" 2>&1); then
        continue
    fi
    if printf '%s\n' "$said" | grep -m 3 -E "$evidence"; then
        echo "seed $seed found the planted fault"
        exit 0
    fi
    printf '%s\nfailed, but not by the fault\n' "$said"
    exit 1
done
echo "no seed of $seeds has found the planted fault"
exit 1
