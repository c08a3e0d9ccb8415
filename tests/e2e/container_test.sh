#!/usr/bin/env bash
# Builds the image on a base made by mmdebstrap, runs it with a read-only root and no capabilities,
# pushes and pulls, and stops it by SIGTERM. No registry is asked for anything.
#
#   tests/e2e/container_test.sh BUILD_FOLDER
#
# Exit 77 (skipped) where containers cannot run: not root, tools missing, no package mirror.
set -euo pipefail
build=${1:?the build folder}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$build/container
image=localhost/kvstored:test
container=

skip()
{
    echo "skipped: $*"
    exit 77
}

[ "$(id -u)" -eq 0 ] || skip "not root"
for tool in mmdebstrap buildah podman runc; do
    command -v $tool >/dev/null || skip "no $tool (scripts/install long)"
done
mkdir -p "$work"

# Storage of its own, so that nothing of the host's images is touched. Small limits and runc: a
# machine that is a container itself may not raise limits, and crun refuses its control groups.
cat >"$work/containers.conf" <<TXT
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
TXT
export CONTAINERS_CONF=$work/containers.conf
storage=(--root "$work/storage" --runroot "$work/run")

finish()
{
    local code=$?
    if [ -n "$container" ]; then
        [ $code -eq 0 ] || podman "${storage[@]}" logs "$container" 2>&1 | tail -n 50
        podman "${storage[@]}" rm -f -t 0 "$container" >/dev/null 2>&1 || true
    fi
    # What is still mounted would keep the build folder from being deleted.
    podman "${storage[@]}" image unmount --all >/dev/null 2>&1 || true
    umount "$work/storage/overlay" 2>/dev/null || true
    exit $code
}
trap finish EXIT

base=$work/base.tar
if [ ! -f "$base" ]; then
    mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates bookworm \
        "$work/new.tar" /etc/apt/sources.list.d/debian.sources >"$work/base.log" 2>&1 ||
        mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates bookworm \
            "$work/new.tar" >"$work/base.log" 2>&1 ||
        skip "mmdebstrap makes no base: $(tail -n 1 "$work/base.log")"
    mv "$work/new.tar" "$base"
fi
podman "${storage[@]}" image exists docker.io/library/debian:bookworm-slim ||
    podman "${storage[@]}" import -q "$base" docker.io/library/debian:bookworm-slim >/dev/null

echo "container: building the image"
revision=$(git -C "$source" rev-parse --short HEAD 2>/dev/null || echo unknown)
buildah "${storage[@]}" bud --quiet --isolation chroot --format docker --layers \
    --build-arg "REVISION=$revision" -t "$image" "$source" >"$work/build.log" 2>&1 || {
    tail -n 50 "$work/build.log"
    exit 1
}

expect()
{
    if [ "$2" != "$3" ]; then
        echo "container: $1: wanted '$2', got '$3'"
        exit 1
    fi
}

inspect()
{
    podman "${storage[@]}" image inspect "$image" --format "$1"
}
expect "the user of the image" "65532:65532" "$(inspect '{{.Config.User}}')"
expect "a label" "Apache-2.0" \
    "$(inspect '{{index .Config.Labels "org.opencontainers.image.licenses"}}')"
mounted=$(podman "${storage[@]}" image mount "$image")
for shell in bin/sh bin/bash usr/bin/dash bin/busybox; do
    [ ! -e "$mounted/$shell" ] || expect "shells in the image" none $shell
done
expect "programs in the image" "kvctl kvstored" "$(cd "$mounted/usr/bin" && echo *)"
du -sm "$mounted" | awk '{print "container: the image holds " $1 " MB"}'
podman "${storage[@]}" image unmount "$image" >/dev/null

echo "container: running it"
rm -rf "$work/data"
install -d -o 65532 -g 65532 -m 0700 "$work/data"
container=$(podman "${storage[@]}" run -d --read-only --cap-drop=ALL \
    --security-opt=no-new-privileges --network=host -v "$work/data:/data" "$image" \
    --grpc-address 127.0.0.1:0 --http-address 127.0.0.1:0 --data-dir /data \
    --address-file /data/addresses.json --drain-delay 0)

addresses=$work/data/addresses.json
for _ in $(seq 100); do
    [ ! -s "$addresses" ] || break
    sleep 0.1
done
http=$(sed -n 's/.*"http": *"\([^"]*\)".*/\1/p' "$addresses")
grpc=$(sed -n 's/.*"grpc": *"\([^"]*\)".*/\1/p' "$addresses")

process=$(podman "${storage[@]}" inspect "$container" --format '{{.State.Pid}}')
expect "the user of the process" 65532 "$(stat -c %u "/proc/$process")"
expect "capabilities" 0000000000000000 "$(awk '/^CapEff/ {print $2}' "/proc/$process/status")"
if podman "${storage[@]}" exec "$container" /bin/sh -c true 2>/dev/null; then
    expect "a shell" none "/bin/sh"
fi
inside()
{
    podman "${storage[@]}" exec "$container" /usr/bin/kvctl --endpoint "$http" \
        --grpc-endpoint "$grpc" "$@"
}
inside health
echo "container: push and pull through both planes, from inside and from outside"
inside selftest
printf '\0\0\200\077\0\0\0\100' >"$work/value.raw" # 1.0, 2.0
curl -fsS -X PUT --data-binary "@$work/value.raw" -H 'Content-Type: application/octet-stream' \
    "http://$http/v1/keys/w/value?dtype=f32&shape=2" >/dev/null
curl -fsS -H 'Accept: application/octet-stream' -o "$work/back.raw" "http://$http/v1/keys/w/value"
cmp "$work/value.raw" "$work/back.raw"
"$build/bin/kvctl" --endpoint "$http" keys | grep -qw w

echo "container: stopping it by SIGTERM"
podman "${storage[@]}" stop -t 30 "$container" >/dev/null
expect "the exit code" 0 \
    "$(podman "${storage[@]}" inspect "$container" --format '{{.State.ExitCode}}')"
echo "container: passed"
