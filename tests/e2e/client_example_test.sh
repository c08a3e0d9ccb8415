#!/usr/bin/env bash
# examples/push_pull.c, the program that README shows: in its own process and at a server.
set -euo pipefail
folder=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

expect() {
    if [ "$1" != "$2" ]; then
        echo "client_example_test: expected \"$2\", got \"$1\"" >&2
        exit 1
    fi
}

example=$KVS_BINARY_DIR/bin/push_pull
expect "$("$example")" "local: w is now 0.5 everywhere"

"$KVSTORED" --grpc-address 127.0.0.1:0 --http-address 127.0.0.1:0 \
    --address-file "$folder/address" >&2 &
server=$!
for _ in $(seq 200); do
    [ ! -s "$folder/address" ] || break
    sleep 0.1
done
address=$(sed 's/.*"grpc": "\([^"]*\)".*/\1/' "$folder/address")
expect "$("$example" "$address")" "dist_sync: w is now 0.5 everywhere"
