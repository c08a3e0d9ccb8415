#!/usr/bin/env bash
# clang-tidy over the sources of the release build (or of the build folder named first).
#   tools/tidy.sh [FOLDER] [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build}
shift || true
if [ ! -f "$folder/compile_commands.json" ]; then
    echo "tools/tidy.sh: $folder has no compile_commands.json; run cmake --preset release" >&2
    exit 1
fi
tidy=$(command -v clang-tidy-14 || command -v clang-tidy) || {
    echo "tools/tidy.sh: no clang-tidy (scripts/install long)" >&2
    exit 77
}
if [ $# -eq 0 ]; then
    mapfile -t files < <(find base api engine service client bench -name '*.c' | sort)
    set -- "${files[@]}"
fi
# The commands are gcc's: what clang does not know is taken out of a copy of them.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
sed 's/ -ftrivial-auto-var-init=zero//g; s/ -Werror / /g' "$folder/compile_commands.json" \
    >"$copy/compile_commands.json"
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 4 "$tidy" -p "$copy" --quiet \
    --extra-arg=-Wno-unknown-warning-option
