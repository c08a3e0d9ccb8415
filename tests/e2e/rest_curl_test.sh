#!/bin/bash
# A shell script with curl alone: init, a push-like PUT, and pull of a npy.
set -euo pipefail

for tool in curl cmp; do
    command -v "$tool" > /dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done

folder=$(mktemp -d)
"$KVSTORED" --grpc-address 127.0.0.1:0 --http-address 127.0.0.1:0 \
    --address-file "$folder/address" 2> "$folder/log" &
server=$!
finish() {
    kill "$server" 2> /dev/null || true
    wait "$server" 2> /dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
for _ in $(seq 200); do
    [ -s "$folder/address" ] && break
    sleep 0.05
done
url=http://$(sed 's/.*"http": "\([^"]*\)".*/\1/' "$folder/address")

fail() {
    echo "failed: $*"
    cat "$folder/log"
    exit 1
}

# A npy of four ones and one of four twos, made by printf: 1.0f is 00 00 80 3f, 2.0f 00 00 00 40.
npy() {
    local head="{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }"
    printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$head"
    for _ in 1 2 3 4; do
        printf "$1"
    done
}
npy '\x00\x00\x80\x3f' > "$folder/ones.npy"
npy '\x00\x00\x00\x40' > "$folder/twos.npy"

# init
code=$(curl -sS -o "$folder/reply" -w '%{http_code}' -T "$folder/ones.npy" \
    "$url/v1/keys/layer%2Fw/value")
[ "$code" = 201 ] || fail "init gave $code: $(cat "$folder/reply")"
curl -sSf -o "$folder/back.npy" -D "$folder/head" "$url/v1/keys/layer%2Fw/value"
cmp "$folder/ones.npy" "$folder/back.npy" || fail "what was initialised is not what is pulled"
etag=$(tr -d '\r' < "$folder/head" | sed -n 's/^ETag: //p')

# assign, only if nobody else has
code=$(curl -sS -o "$folder/reply" -w '%{http_code}' -T "$folder/twos.npy" \
    -H "If-Match: $etag" "$url/v1/keys/layer%2Fw/value")
[ "$code" = 200 ] || fail "PUT gave $code: $(cat "$folder/reply")"
code=$(curl -sS -o "$folder/reply" -w '%{http_code}' -T "$folder/ones.npy" \
    -H "If-Match: $etag" "$url/v1/keys/layer%2Fw/value")
[ "$code" = 412 ] || fail "a stale PUT gave $code"

# pull, the new value and a range of it
curl -sSf -o "$folder/back.npy" "$url/v1/keys/layer%2Fw/value"
cmp "$folder/twos.npy" "$folder/back.npy" || fail "what was put is not what is pulled"
curl -sSf -r 0-3 "$url/v1/keys/layer%2Fw/value?format=raw" > "$folder/first"
printf '\x00\x00\x00\x40' | cmp - "$folder/first" || fail "the first element is not 2"

# the optimizer
curl -sSf -X PUT -H 'Content-Type: application/json' -o "$folder/reply" \
    -d '{"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}' "$url/v1/optimizer"
curl -sSf "$url/v1/optimizer" | grep -q '"momentum": 0.9' || fail "the optimizer is not there"

# what a refusal tells
curl -sS "$url/v1/keys/none" | grep -q '"reason":"KEY_NOT_FOUND"' || fail "no reason was given"

kill -TERM "$server"
wait "$server" || fail "the server ended with $?"
echo passed
