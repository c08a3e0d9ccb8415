#!/usr/bin/env bash
# Every shell script of the tree under shellcheck; exit 77 where it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v shellcheck >/dev/null; then
    echo "tools/check_shell.sh: no shellcheck (scripts/install long)" >&2
    exit 77
fi
grep -rIlE '^#!.*\b(ba)?sh$' scripts tools tests examples deploy .ci | sort |
    xargs shellcheck --severity=warning
