#!/usr/bin/env bash
# Formats our C, C++ and CUDA sources in place; --check only names what would change (exit 1).
# Exit 77 where there is no clang-format 14: another version formats otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

formatter=
for name in clang-format-14 clang-format; do
    if command -v $name >/dev/null && $name --version | grep -q 'version 14\.'; then
        formatter=$name
        break
    fi
done
if [ -z "$formatter" ]; then
    echo "tools/format.sh: no clang-format 14 (scripts/install test)" >&2
    exit 77
fi

mapfile -t files < <(find base api engine cuda service client bench examples tests \
    -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' \) | sort)
if [ "${1:-}" != --check ]; then
    exec $formatter -i "${files[@]}"
fi
bad=$(printf '%s\n' "${files[@]}" |
    xargs -P "$(nproc)" -n 25 $formatter --dry-run --Werror --ferror-limit=1 2>&1 |
    sed -n "s|^\([^ :]*\):.*clang-format-violations.*|\1|p" | sort -u || true)
if [ -n "$bad" ]; then
    echo "$bad"
    echo "not formatted; run tools/format.sh"
    exit 1
fi
