#!/usr/bin/env bash
# Collects programs and the shared libraries they need into an empty root folder, for an image
# without a distribution: no shell, no package manager.
#   tools/collect_runtime.sh ROOT PROGRAM...
set -euo pipefail
root=${1:?where to}
shift

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/etc"
ln -sfn usr/lib "$root/lib"
ln -sfn usr/lib64 "$root/lib64"
ln -sfn usr/bin "$root/bin"

for program in "$@"; do
    install -m 0755 "$program" "$root/usr/bin/"
    strip --strip-unneeded "$root/usr/bin/$(basename "$program")"
    if ldd "$program" | grep 'not found'; then
        echo "tools/collect_runtime.sh: $program lacks the libraries above" >&2
        exit 1
    fi
    # "name => /path (address)" and "/path/of/the/loader (address)".
    ldd "$program" | grep -oE '/[^ ]+' | sort -u | while read -r library; do
        case "$library" in
        /lib/* | /lib64/*) target=$root/usr$library ;;
        /usr/lib/* | /usr/lib64/*) target=$root$library ;;
        *) target=$root/usr/lib/$(basename "$library") ;; # our own, beside the program
        esac
        mkdir -p "$(dirname "$target")"
        cp -L "$library" "$target"
    done
done

echo 'kvstored:x:65532:65532:kvstored:/data:/nonexistent' >"$root/etc/passwd"
echo 'kvstored:x:65532:' >"$root/etc/group"
# Where names come from: the resolver of the container's network.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
